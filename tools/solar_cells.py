"""Draw docs/solar-cells.png: test photographs under AdaViPro's prompts of seed 0. `python tools/solar_cells.py`.

Runs that are not finished are made first, some minutes each.
"""

from pathlib import Path

import torch

from adavipro import datasets, experiment
from adavipro.lessons import drawings

SHOWN = 4  # of each class
WIDTHS_PX = (30, 112)


def main() -> None:
    """Draw."""
    split = datasets.load_split("solar-cells", "test", 224)
    chosen = torch.cat([(split.labels == label).nonzero()[:SHOWN, 0] for label in (0, 1)])
    methods = {}
    for px in WIDTHS_PX:
        run = experiment.preset("photographs", "adavipro", prompt_px=px)
        experiment.run(run)
        model = experiment.restore(run.folder("runs"))
        methods[f"AdaViPro, {px} px"] = model.method
    with torch.no_grad():
        figure = drawings.picture_figure(
            model.classifier, split.images[chosen], methods, split.labels[chosen]
        )
    figure.savefig(Path(__file__).parents[1] / "docs" / "solar-cells.png", dpi=80)


if __name__ == "__main__":
    main()
