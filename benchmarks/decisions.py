"""Does the mask generator's gradient point the right way? Writes docs/decisions.png and prints its figures.

For templates of growing strength, the gradient of each region's decision, as one step of training sees it, is compared
with the decision's true effect (the loss with the region on minus off, mean over draws of the other regions), once at
hard decisions (straight-through) and once at the soft ones of a high temperature.

    python benchmarks/decisions.py
"""

from pathlib import Path

import pandas
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from adavipro import datasets, models, training, where
from adavipro.classifier import FrozenClassifier
from adavipro.datasets.embedded import CLASS_NAMES
from adavipro.experiment import preset
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.prompted import build_method
from adavipro.report.studies import SEARCH_SEEDS
from adavipro.report.tables import to_markdown

IMAGES, DRAWS, TEMPERATURE = 48, 3, 5.0


@torch.no_grad()
def region_effects(
    classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor, decisions: Tensor
) -> Tensor:
    """What each region's decision is worth: the loss with it on minus the loss with it off, the others unchanged.

    Args:
        images: normalised, (b, 3, h, w).
        labels: (b,).
        decisions: 0 or 1, (b, 1, r, r), around which single regions are changed.

    Returns:
        (b, r, r), in nats; above 0 the prompt harms there.
    """
    effects = torch.zeros_like(decisions[:, 0])
    for row, column in method.live_regions().nonzero().tolist():
        losses = []
        for decision in (1.0, 0.0):
            changed = decisions.clone()
            changed[:, 0, row, column] = decision
            scores = classifier(method(images, decisions=changed).images)
            losses.append(F.cross_entropy(scores, labels, reduction="none"))
        effects[:, row, column] = losses[0] - losses[1]
    return effects


def region_gradients(
    classifier: FrozenClassifier, method: AdaViPro, images: Tensor, labels: Tensor, decisions: Tensor
) -> Tensor:
    """What training sees of each region's decision: the loss's gradient at `decisions`, 0, 1 or between.

    Arguments and the result as in `region_effects`: to first order, the gradient is the effect.
    """
    decisions = decisions.detach().clone().requires_grad_()
    scores = classifier(method(images, decisions=decisions).images)
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels, reduction="sum"), decisions)
    return gradient[:, 0]


def trained(dataset: str, prompt_lr: float) -> tuple[FrozenClassifier, AdaViPro]:
    """A full-cover template trained for three epochs under random masks; at its start for a rate of 0."""
    settings = {"dataset": dataset, "prompt_px": 28, "random_share": 0.5, "seed": SEARCH_SEEDS[0]}
    run = preset("embedded", "random-masks", **settings, epochs=3, prompt_lr=prompt_lr or 1.0)
    source = datasets.find(dataset)
    classifier = models.load(run.network, source.class_names)
    method = build_method(run.method, run.prompt, run.masks, classifier, run.seed)
    if prompt_lr:
        train, val = (source.load(split, classifier.image_px) for split in ("train", "val"))
        training.train(classifier, method, train, val, run.recipe, run.seed, progress_bar=False)
    return classifier, method


def compare(dataset: str, prompt_lr: float) -> dict[str, torch.Tensor]:
    """True effects (images, regions), and one draw's gradients (draws, images, regions), hard and soft."""
    classifier, method = trained(dataset, prompt_lr)
    split = datasets.load_split(dataset, "train")
    images, labels = classifier.normalise(split.images[:IMAGES]), split.labels[:IMAGES]
    logits = torch.zeros(IMAGES, 2, 7, 7)
    effects, hard, soft = [], [], []
    for draw in range(DRAWS):
        noise = where.gumbel_noise(logits.shape, generator(0, "decisions", draw))
        for hard_masks, found in ((True, hard), (False, soft)):
            decisions = where.decide(logits, TEMPERATURE, noise, hard=hard_masks)
            found.append(region_gradients(classifier, method, images, labels, decisions))
        decisions = where.decide(logits, TEMPERATURE, noise, hard=True)
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
    for dataset in CLASS_NAMES:
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
    print(to_markdown(pandas.DataFrame(lines)), end="")


if __name__ == "__main__":
    main()
