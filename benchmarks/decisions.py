"""Does the mask generator's gradient point the right way? Writes docs/decisions.png and prints its figures.

For templates of growing strength, the gradient of each region's decision, as one step of training sees it, is compared
with the decision's true effect (the loss with the region on minus off, mean over draws of the other regions), once at
hard decisions (straight-through) and once at the soft ones of a high temperature.

    python benchmarks/decisions.py
"""

import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from adavipro import datasets, experiment, masks, presets
from adavipro.classifiers import FrozenClip
from adavipro.evaluation import region_effects, region_gradients
from adavipro.method import AdaViPro
from adavipro.seeds import generator
from adavipro.tables import to_markdown

IMAGES, DRAWS, TEMPERATURE = 48, 3, 5.0


def trained(dataset: str, prompt_lr: float) -> tuple[FrozenClip, AdaViPro]:
    """A full-cover template trained for three epochs under random masks; at its start for a rate of 0."""
    settings = {"dataset": dataset, "prompt_px": 28, "random_share": 0.5, "seed": presets.SEARCH_SEEDS[0]}
    run = presets.preset("embedded", "adavipro", **settings, epochs=3, prompt_lr=prompt_lr or 1.0)
    if not prompt_lr:
        classifier = experiment.load_classifier(run)
        method = experiment.build_method(run, classifier)
    else:
        with tempfile.TemporaryDirectory() as root:
            classifier, method, _ = experiment.train_or_resume(run, Path(root), progress_bar=False)
    assert method is not None
    return classifier, method


def compare(dataset: str, prompt_lr: float) -> dict[str, torch.Tensor]:
    """True effects (images, regions), and one draw's gradients (draws, images, regions), hard and soft."""
    classifier, method = trained(dataset, prompt_lr)
    split = datasets.load_split(dataset, "train")
    images, labels = classifier.normalise(split.images[:IMAGES]), split.labels[:IMAGES]
    logits = torch.zeros(IMAGES, 2, 7, 7)
    effects, hard, soft = [], [], []
    for draw in range(DRAWS):
        noise = masks.gumbel_noise(logits.shape, generator(0, "decisions", draw))
        for hard_masks, found in ((True, hard), (False, soft)):
            decisions = masks.decide(logits, TEMPERATURE, noise, hard=hard_masks)
            found.append(region_gradients(classifier, method, images, labels, decisions))
        decisions = masks.decide(logits, TEMPERATURE, noise)
        effects.append(region_effects(classifier, method, images, labels, decisions))
    return {"effect": torch.stack(effects).mean(0), "hard": torch.stack(hard), "soft": torch.stack(soft)}


def correlation(found: dict[str, torch.Tensor], kind: str) -> float:
    """Mean over draws of the correlation between one draw's gradient and the true effect."""
    effect = found["effect"].flatten()
    return sum(float(torch.corrcoef(torch.stack([g.flatten(), effect]))[0, 1]) for g in found[kind]) / DRAWS


def main() -> None:
    """Draw and print."""
    lines = []
    templates = {"at its start": 0.0, "rate 1": 1.0, "rate 4": 4.0}
    figure = Figure(figsize=(8.4, 5.4), layout="constrained")
    for axes_row, kind in zip(figure.subplots(2, 3, sharex=True, sharey=True), ("hard", "soft"), strict=True):
        axes_row[0].set_ylabel(f"gradient at {kind} decisions")
        for axes in axes_row:
            axes.axhline(0, color="0.8", lw=0.8)
            axes.axvline(0, color="0.8", lw=0.8)
    for dataset in datasets.CLASS_NAMES:
        for column, (name, rate) in enumerate(templates.items()):
            found = compare(dataset, rate)
            told = {kind: correlation(found, kind) for kind in ("hard", "soft")}
            lines.append({"dataset": dataset, "template": name, **{k: f"{v:.2f}" for k, v in told.items()}})
            if dataset == "digits":
                for row, kind in enumerate(("hard", "soft")):
                    axes = figure.axes[3 * row + column]
                    axes.scatter(
                        found["effect"], found[kind][0], s=3, color="#103a70", alpha=0.4, linewidths=0
                    )
                    axes.set_title(f"template {name}: r = {told[kind]:.2f}", fontsize=10)
                    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    for axes in figure.axes[3:]:
        axes.set_xlabel("true effect: loss on - loss off")
    figure.savefig(Path(__file__).parent.parent / "docs" / "decisions.png", dpi=110)
    print(to_markdown(lines), end="")


if __name__ == "__main__":
    main()
