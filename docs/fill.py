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
PAGES = [
    DOCS.parent / "README.md",
    *(DOCS / f"{name}.md" for name in ("effects", "why", "choices", "photographs")),
]
FIGURES = {
    "accuracy": figures.accuracy_figure, "masks": figures.masks_figure, "ablations": figures.ablations_figure,
    "photographs": figures.accuracy_figure,
}  # fmt: skip
TABLE = re.compile(r"(<!-- adavipro (table [^>]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def printed(command: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(command.split())
    return out.getvalue()


def filled(text: str) -> str:
    """A page with every table as its command prints it now."""
    return TABLE.sub(lambda found: f"{found[1]}\n{printed(found[2])}\n", text)


def main() -> None:
    """Fill every page and draw every figure."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    for name, draw in FIGURES.items():
        drawn = draw(results.read(results.shipped_for(name)))
        drawn.savefig(DOCS / f"{name}.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
