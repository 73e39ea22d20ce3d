"""Write the tables and figures of the docs anew from data/results.

    python docs/fill.py

A table stands between `<!-- adavipro table NAME -->` and `<!-- end -->` and is what that command prints.
"""

import contextlib
import io
import re
from pathlib import Path

from adavipro import __main__ as cli
from adavipro.lessons import figures
from adavipro.report import results

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *(DOCS / f"{name}.md" for name in ("effects", "choices", "photographs"))]
FIGURES = {
    "accuracy": figures.accuracy_figure, "masks": figures.masks_figure, "ablations": figures.ablations_figure,
}  # fmt: skip
ON_PHOTOGRAPHS = ("table photographs", "table shots")
NOT_YET = "*These runs have not been made yet: `make results` makes them, and this table.*\n"
PHOTOGRAPHS = "\n![Accuracy against the width of the frame on photographs](photographs.png)\n"
TABLE = re.compile(r"(<!-- adavipro (table [^>]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def printed(command: str) -> str:
    """What a command prints; of the photographs with its figure, or that there are no results yet."""
    if command in ON_PHOTOGRAPHS and not results.PHOTOGRAPHS.exists():
        return NOT_YET
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(command.split())
    return out.getvalue() + (PHOTOGRAPHS if command == ON_PHOTOGRAPHS[0] else "")


def filled(text: str) -> str:
    """A page with every table as its command prints it now."""
    return TABLE.sub(lambda found: f"{found[1]}\n{printed(found[2])}\n", text)


def main() -> None:
    """Fill every page and draw every figure."""
    if results.PHOTOGRAPHS.exists():
        drawn = figures.accuracy_figure(results.read(results.PHOTOGRAPHS))
        drawn.savefig(DOCS / "photographs.png", dpi=110, bbox_inches="tight")
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    rows = results.read()
    for name, draw in FIGURES.items():
        draw(rows).savefig(DOCS / f"{name}.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
