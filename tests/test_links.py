"""Every link of the docs and notebooks leads somewhere, and the checker is seen to find those that do not."""

from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from samples import TOP, links


def test_every_link_and_name_of_the_project_is_good():
    assert links.check(TOP) == []


def test_the_pages_are_those_that_readers_see():
    pages = {path.relative_to(TOP).as_posix() for path in links.pages(TOP)}
    notebooks = {path.relative_to(TOP).as_posix() for path in TOP.glob("notebooks/[0-9]*.ipynb")}
    assert {"README.md", "docs/effects.md", "docs/choices.md", "data/small_clip/README.md"} <= pages
    assert notebooks <= pages


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A README, a page with headings, and a notebook."""
    for folder in ("docs", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        '# A page\n\n## What the *gap* hangs on, `x_y` & more?\n\n## Twice\n\n## Twice\n\n<a id="own"></a>\n\n'
        "```sh\n# no heading\n```\n"
    )
    cells = [
        new_markdown_cell("# 0. Start here\n\n[docs](../docs/page.md#a-page)"),
        new_code_cell("[a](missing.md)"),
    ]
    write(new_notebook(cells=cells), tmp_path / "notebooks" / "00_a.ipynb")
    (tmp_path / "README.md").write_text("# Top\n")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/page.md)",
        '[a](docs/page.md "title")',
        "[a](docs)",
        "![a](docs/page.md)",
        "[a](#top)",
        "[a](docs/page.md#what-the-gap-hangs-on-x_y--more)",
        "[a](docs/page.md#twice) [a](docs/page.md#twice-1) [a](docs/page.md#own)",
        "[a](notebooks/00_a.ipynb)",
        "[![a](https://example.org/a.svg)](https://example.org/a_(b).html)",
        "`[a](missing.md)` and ``[a](missing.md)``",
        "```\n[a](missing.md)\n```",
        "<https://example.org/a>",
        "`adavipro.where.decide` `adavipro.datasets.embedded.scenes` `adavipro.experiment.Experiment.seed`",
        "`adavipro run --dataset digits`",
    ],
)
def test_good_links(project: Path, text: str):
    (project / "README.md").write_text(f"# Top\n\n{text}\n")
    assert links.check(project) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a](missing.md)", "links to 'missing.md', but there is no such file in the project"),
        ("![a](docs/missing.png)", "no such file"),
        ("[a]: missing.md", "no such file"),
        ('<img alt="a" src="missing.png">', "no such file"),
        ("[a](/docs/page.md)", "no such file"),
        ("[a](../outside.md)", "no such file"),
        ("[a](docs/page.md#missing)", "but page.md has no such heading"),
        ("[a](docs/page.md#twice-2)", "no such heading"),
        ("[a](docs/page.md#Twice)", "no such heading"),
        ("[a](docs/page.md#no-heading)", "no such heading"),
        ("[a](#missing)", "but README.md has no such heading"),
        ("[a]()", "which is empty"),
        ("[a](notebooks/00_a.ipynb#0-start-here)", "link to the notebook itself"),
        ("[a](http://example.org)", "not an address that starts with https://"),
        ("[a](https://example)", "not an address"),
        ("<ftp://example.org/a>", "not an address"),
        ("[![a](http://example.org/a.svg)](https://example.org)", "http://example.org/a.svg"),
        ("`adavipro.where.missing`", "names `adavipro.where.missing`, which is not in the module"),
        ("`adavipro.missing.decide(a)`", "not in the module"),
        ("`adavipro.experiment.Experiment.missing`", "not in the module"),
    ],
)
def test_every_wrong_link_is_found(project: Path, text: str, told: str):
    (project / "README.md").write_text(f"# Top\n\n{text}\n")
    (found,) = links.check(project)
    assert found.startswith("README.md ")
    assert told in found


def test_links_of_notebooks_are_checked_from_where_they_stand(project: Path):
    (project / "docs" / "page.md").unlink()
    assert links.check(project) == [
        "notebooks/00_a.ipynb links to '../docs/page.md#a-page', but there is no such file in the project"
    ]
