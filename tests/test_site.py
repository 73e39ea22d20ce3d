"""The site is built from what is committed: every notebook in order, nothing executed, nothing from elsewhere."""

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output
from samples import DOT, TOP, publish, sample

NOTEBOOKS = [path.stem for path in publish.notebooks()]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*\bhref=\"(?:https?:)?//"
)


def build(top: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs",
        "-d",
        f"{out}.trees",
        ".",
        out,
    ]
    return subprocess.run(list(map(str, command)), cwd=top, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    done = build(TOP, out)
    assert done.returncode == 0, done.stderr
    return out


def written() -> str:
    """Every page of the site as it is written, one after the other."""
    kinds = ("*.md", "docs/*.md", "[bd]*/**/README.md", "notebooks/*.ipynb")
    return "\n".join(page.read_text() for kind in kinds for page in TOP.glob(kind))


def test_links_go_to_https_and_to_whole_notebooks():
    links = re.findall(r"\]\(([^)\s]+)", written())
    assert any(link.endswith(".ipynb") for link in links)
    assert not [link for link in links if link.startswith("http:") or ".ipynb#" in link]


def test_names_of_the_module_that_the_pages_tell_exist():
    told = set(re.findall(r"`(adavipro(?:\.\w+)+)", written()))
    assert "adavipro.fit" in told
    for name in told:
        pkgutil.resolve_name(name)  # an AttributeError names what is not there


def test_the_contents_list_every_notebook_in_the_order_of_the_series(site: Path):
    page = (site / "index.html").read_text()
    listed = re.findall(
        r'class="toctree-l1[^"]*"><a class="reference internal" href="notebooks/(\w+)\.html"', page
    )
    assert listed == NOTEBOOKS
    assert all((site / "notebooks" / f"{stem}.html").exists() for stem in NOTEBOOKS)


def test_pages_fetch_nothing_from_elsewhere_but_colabs_badge(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text().replace('src="https://colab.research.google.com/assets/colab-badge.svg"', "")
        assert not FETCHED.search(text), page


def test_solutions_and_answers_stay_folded(site: Path):
    folded = re.compile(r"<details><summary>(\w+)</summary>(.*?)</details>", re.DOTALL)
    for path in publish.notebooks():
        page = (site / "notebooks" / f"{path.stem}.html").read_text()
        wanted = re.findall(r"<summary>(\w+)", "".join(cell.source for cell in publish.read(path).cells))
        found = folded.findall(page)
        assert [summary for summary, _ in found] == wanted, path.stem
        assert page.count("<details") == len(wanted) + page.count('<details class="')
        for summary, inside in found:
            assert ('class="highlight-python' in inside) is (summary == "Solution")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one notebook holds an equation and a picture."""
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(TOP / name, tmp_path)
    (tmp_path / "README.md").write_text("# Top\n\n[why](notebooks/01_why.ipynb)\n")
    (tmp_path / "docs").mkdir()
    for name in ("conf.py", "site.css"):
        shutil.copy(TOP / "docs" / name, tmp_path / "docs")
    pages = ("SECURITY.md", "docs/effects.md", "data/small_clip/README.md", "benchmarks/README.md")
    for name in (*pages, "data/small_clip/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# A page\n")
    notebook = sample()
    notebook.cells[0].source += "\n\n$$ \\Phi\\big(F_p(m)\\big), \\dots $$"
    output = new_output("display_data", data={"image/png": DOT}, metadata={"image/png": {"alt": "one dot"}})
    table = new_output("display_data", data={"text/markdown": "| a | b |\n| --- | --- |\n| 1 | 2 |"})
    notebook.cells[-1].outputs = [output, table]
    notebook.cells[3].source = "1 / 0"  # would be seen if anything were executed
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "01_why.ipynb")
    return tmp_path


def test_a_page_shows_equations_pictures_and_not_colabs_cell(project: Path):
    done = build(project, project / "site")
    assert done.returncode == 0, done.stderr
    page = (project / "site" / "notebooks" / "01_why.html").read_text()
    assert re.search(r'<div class="equation"><math [^>]*display="block"', page)
    assert 'alt="one dot"' in page
    assert page.count("<td>") == 2
    assert "google.colab" not in page
    assert "ZeroDivisionError" not in page


def test_what_cannot_be_shown_stops_the_build(project: Path):
    with (project / "README.md").open("a") as page:
        page.write("\n[a](missing.md) [b](docs/effects.md#no-such-heading)\n\n$\\nosuchcommand$\n")
    done = build(project, project / "site")
    assert done.returncode != 0
    assert "missing.md" in done.stderr
    assert "no-such-heading" in done.stderr
    assert "Unknown LaTeX command" in done.stderr
