"""What the notebooks and the README repeat of pyproject.toml: the release's badge, and the cell that Colab needs."""

import copy
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat
import rules
from nbformat import NotebookNode
from packaging.requirements import Requirement

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
FIRST = "00_start_here"  # the notebook that the README's badge opens
WITH_PHOTOGRAPHS = ("10_your_images",)  # the notebooks that need the extra `photographs`
MARKED = re.compile(r"(<!-- badges -->\n).*?(<!-- end badges -->\n)", re.DOTALL)
SETUP = """\
# On Colab pip fetches this release, and what else is missing or does not fit. It leaves torch alone: where that is
# older than {torch}, choose a newer runtime. Elsewhere this cell does nothing.
import sys

if "google.colab" in sys.modules:
    {lines}"""


@dataclass(frozen=True)
class Project:
    """What pyproject.toml says and the stamps repeat."""

    repository: str
    version: str
    open_clip: str
    timm: str
    torch: str
    photographs: tuple[str, ...] = ()

    def badge(self, stem: str) -> str:
        """The badge that opens a notebook of this release in Colab."""
        path = self.repository.removeprefix("https://github.com/")
        url = f"https://colab.research.google.com/github/{path}/blob/v{self.version}/notebooks/{stem}.ipynb"
        return f"{BADGE}({url})"

    def setup(self, stem: str = FIRST) -> str:
        """The source of the cell that a notebook needs on Colab."""
        own = f"adavipro @ git+{self.repository}@v{self.version}"
        more = self.photographs if stem in WITH_PHOTOGRAPHS else ()
        needed = [(own,), (self.open_clip, self.timm, "ftfy"), more]
        lines = (" ".join(("%pip install -q --no-deps", *map(repr, some))) for some in needed if some)
        return SETUP.format(torch=self.torch, lines="\n    ".join(lines))


def read_project(top: Path) -> Project:
    """Read pyproject.toml."""
    told = tomllib.loads((top / "pyproject.toml").read_text())["project"]
    needs = {Requirement(line).name: line for line in told["dependencies"]}
    (least,) = [s.version for s in Requirement(needs["torch"]).specifier if s.operator == ">="]
    return Project(
        told["urls"]["Repository"], told["version"], needs["open_clip_torch"], needs["timm"], least,
        tuple(told["optional-dependencies"]["photographs"]),
    )  # fmt: skip


def stamped(notebook: NotebookNode, stem: str, project: Project) -> NotebookNode:
    """The notebook with the badge under its title and Colab's cell after its first."""
    notebook = copy.deepcopy(notebook)
    first = notebook.cells[0]
    title, *lines = [line for line in first.source.split("\n") if not line.startswith(BADGE)]
    rest = "\n".join(lines).lstrip("\n")
    first.source = f"{title}\n\n{project.badge(stem)}\n\n{rest}"
    setups = [cell for cell in notebook.cells if rules.tagged(cell, "colab")]
    notebook.cells = [cell for cell in notebook.cells if not rules.tagged(cell, "colab")]
    setups = setups or [nbformat.v4.new_code_cell(id=f"{stem[:2]}-colab", metadata={"tags": ["colab"]})]
    setups[0].source = project.setup(stem)
    notebook.cells.insert(1, setups[0])
    return notebook


def stamped_readme(text: str, project: Project) -> str:
    """The README with the badge of the first notebook between its markers.

    Raises:
        ValueError: if the markers are not there.
    """
    if not MARKED.search(text):
        raise ValueError(
            "README.md has no place for badges: put <!-- badges --> and <!-- end badges --> into it"
        )
    return MARKED.sub(lambda m: f"{m[1]}{project.badge(FIRST)}\n{m[2]}", text)
