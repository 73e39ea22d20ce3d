"""The site (`make docs`): README, notebooks as committed and docs, built by Sphinx without network or kernel."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: Notebooks

notebooks/[0-9]*
```

```{toctree}
:hidden:
:glob:
:caption: Beside them

docs/*
data/*/README
benchmarks/README
SECURITY
CHANGELOG
```
"""

UNKNOWN_TEX = {  # docutils knows neither; MathML's fences grow by themselves
    re.compile(r"\\[bB]igg?(?![a-zA-Z])"): "",
    re.compile(r"\\dots(?![a-zA-Z])"): r"\\ldots",
}

project = PROJECT["name"]
release = PROJECT["version"]
author = PROJECT["authors"][0]["name"]
copyright = author
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "notebooks/[0-9]*.ipynb",
    "data/*/README.md",
    "benchmarks/*.md",
]
exclude_patterns = [".*", "build", "runs", "**/.ipynb_checkpoints"]

extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 6

html_theme = "sphinx_book_theme"
html_title = f"{project} {release}"
html_math_renderer = "mathml"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "use_repository_button": True,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands in the side bar
}


def _prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Give the README the table of contents; take Colab's cell from notebooks, and give pictures their alt text."""
    if name == root_doc:
        source[0] += CONTENTS
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    notebook["cells"] = [c for c in notebook["cells"] if "colab" not in c["metadata"].get("tags", [])]
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    source[0] = json.dumps(notebook)


def _mathml(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers draw without a script from elsewhere."""
    block = isinstance(node, nodes.math_block)
    text = node.astext()
    for unknown, known in UNKNOWN_TEX.items():
        text = unknown.sub(known, text)
    try:
        found = tex2mathml(text, as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("equation %r: %s", text, error, location=node)
        found = translator.encode(text)
    translator.body.append(f'<div class="equation">{found}</div>' if block else found)
    raise nodes.SkipNode


def _open_at_readme(app: Sphinx, error: Exception | None) -> None:
    """Let the site's address open the README."""
    if error is None:
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the above to Sphinx."""
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.connect("source-read", _prepare)
    app.connect("build-finished", _open_at_readme)
