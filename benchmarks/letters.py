"""Why does no prompt help on `letters`? Prints accuracy by style of letter, and what the shift to each is made of.

The data set shows 24 letters in six styles that pretraining never showed, with less contrast, blur and noise. Here each
style is drawn by itself, beside a font that pretraining did show, worn alike and as it was drawn; VP's template comes
from the recipe's run on the data set. Nothing of the data set's test split is touched.

    python benchmarks/letters.py
"""

import pandas
import torch
from torch import Tensor

from adavipro import datasets, models, training
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split
from adavipro.datasets.embedded import drawing, scenes
from adavipro.datasets.embedded.vocabulary import DIGITS, LETTERS
from adavipro.evaluation import evaluate
from adavipro.experiment import preset
from adavipro.io import generator
from adavipro.method import AdaViPro
from adavipro.prompted import build_method
from adavipro.report.studies import SEARCH_SEEDS
from adavipro.report.tables import to_markdown

PICTURES = 960  # of each style, 40 a letter
STYLES = ("bold script", "bold fraktur", "sans-serif bold italic", "circled", "italic", "typewriter")


def drawn(glyphs: Tensor, contrast: float, noise: float, name: str) -> Tensor:
    """Set glyphs (b, h, w) into scenes as the data set does; uint8 images (b, 3, h, w)."""
    return scenes.scene(glyphs, generator(0, f"letters-{name}"), (0.5, 0.9), contrast, noise)[0]


def right(classifier: FrozenClassifier, method: AdaViPro | None, images: Tensor, labels: Tensor) -> float:
    """Percent of images that are right."""
    return 100 * evaluate(classifier, method, Split(images, None, labels)).accuracy


def main() -> None:
    """Print the tables."""
    run = preset("embedded", "vp", dataset="letters", seed=SEARCH_SEEDS[0])
    source = datasets.find("letters")
    classifier = models.load(run.network, source.class_names)
    method = build_method("vp", run.prompt, run.masks, classifier, run.seed)
    train, val = (source.load(split, classifier.image_px) for split in ("train", "val"))
    before = right(classifier, None, train.images, train.labels)
    training.train(classifier, method, train, val, run.recipe, run.seed, progress_bar=False)

    labels = torch.arange(len(LETTERS)).repeat(PICTURES // len(LETTERS))
    seen = drawing.glyph_bank()[len(DIGITS) : len(DIGITS) + len(LETTERS)]
    banks = {"seen in pretraining": seen}
    banks |= {
        style: [bank[i : i + 1] for bank in drawing.unseen_letter_bank()] for i, style in enumerate(STYLES)
    }
    lines = []
    for style, bank in banks.items():
        glyphs = scenes.pick(bank, labels, generator(0, "letters-variant"))
        worn, plain = drawn(glyphs, 0.5, 0.03, style), drawn(glyphs, 1.0, 0.0, style)
        cells = {
            "zero-shot, not worn": right(classifier, None, plain, labels),
            "zero-shot": right(classifier, None, worn, labels),
            "VP": right(classifier, method, worn, labels),
        }
        lines.append({"style": style, **{name: f"{percent:.1f}" for name, percent in cells.items()}})
    print(to_markdown(pandas.DataFrame(lines)))
    splits = {
        "train": (before, right(classifier, method, train.images, train.labels)),
        "val": (
            right(classifier, None, val.images, val.labels),
            right(classifier, method, val.images, val.labels),
        ),
    }
    told = [{"split": n, "zero-shot": f"{a:.1f}", "VP": f"{b:.1f}"} for n, (a, b) in splits.items()]
    print(to_markdown(pandas.DataFrame(told)), end="")


if __name__ == "__main__":
    main()
