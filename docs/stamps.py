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
# On Colab this installs what is not there yet or does not fit, and never touches torch. Elsewhere it does nothing.
import sys
from importlib import metadata, util

needed = {{
    "adavipro": "adavipro @ git+{repository}@v{version}",
    "open_clip": "{open_clip}",
    "timm": "{timm}",
    "ftfy": "ftfy",{more}
}}
if "google.colab" in sys.modules:
    from packaging.requirements import Requirement
    from torch import __version__ as torch_version

    there, missing = {{found.name for found in metadata.distributions()}}, ""
    for module, line in needed.items():
        need, spec = Requirement(line), util.find_spec(module)
        sound = spec and spec.origin and need.name in there  # a clone's folder has no origin
        if not sound or metadata.version(need.name) not in need.specifier:
            missing += f" '{{line}}'"
    if missing:
        %pip install -q --no-deps {{missing}}
    if [int(part) for part in torch_version.split(".")[:2]] < {least}:
        print(f"torch is {{torch_version}} here, but adavipro needs {torch} or newer: choose a newer runtime.")"""


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
        least = [int(part) for part in self.torch.split(".")]
        lines = self.photographs if stem in WITH_PHOTOGRAPHS else ()
        more = "".join(f'\n    "{Requirement(line).name.replace("-", "_")}": "{line}",' for line in lines)
        return SETUP.format(**vars(self), least=least, more=more)


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
