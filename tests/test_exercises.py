"""The exercises of every notebook: folded solutions are right, stubs are not filled in, wrong ones are told so."""

import ast
import re

import nbformat
import pytest
import torch
from helpers import small_splits
from notebook_checks import SMALLEST
from samples import publish, rules

from adavipro.lessons import pages

NOTEBOOKS = {path.stem: publish.read(path) for path in publish.notebooks()}
FOLDED = re.compile(
    r"<details><summary>Solution</summary>\n\n```python\n(?P<code>.*?)```\n\n</details>", re.DOTALL
)
ANSWER = re.compile(r"<details><summary>Answer</summary>\n\n(?!\s)[^<]*\n\n</details>")


def exercises(notebook: nbformat.NotebookNode) -> list[int]:
    """The places of the cells that a reader fills in."""
    return [i for i, cell in enumerate(notebook.cells) if rules.tagged(cell, "exercise")]


WITH = [(name, place) for name, notebook in NOTEBOOKS.items() for place in exercises(notebook)]


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell makes or changes, and what it uses."""
    made, used = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            made |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    return made, used


def before(notebook: nbformat.NotebookNode, place: int) -> list[str]:
    """The cells that an exercise's test needs, without trainings and figures that it does not use."""
    cells = [c for c in notebook.cells[:place] if c.cell_type == "code" and not rules.tagged(c, "colab")]
    needed = names(notebook.cells[place].source)[1] | names(notebook.cells[place + 1].source)[1]
    needed |= names(solution(notebook, place))[1]
    chosen: list[str] = []
    for cell in reversed(cells):
        made, used = names(cell.source)
        whole = made & needed or rules.tagged(cell, "parameters")
        chosen += [cell.source] if whole else []
        needed |= used if whole else set()
    return chosen[::-1]


def solution(notebook: nbformat.NotebookNode, place: int) -> str:
    """The folded solution in the cell before an exercise."""
    return FOLDED.findall(notebook.cells[place - 1].source)[-1]


@pytest.fixture(scope="module")
def small():
    """A few dozen pictures of each data set, and the number of threads as it was: notebooks set it."""
    threads = torch.get_num_threads()
    with small_splits():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "place"), WITH, ids=[f"{name}-{place}" for name, place in WITH])
def test_a_solution_is_right_a_stub_is_not_filled_in_and_a_wrong_one_is_told(
    name, place, tmp_path, capsys, monkeypatch, small
):
    monkeypatch.setattr(pages, "get_ipython", lambda: None)
    notebook, space = NOTEBOOKS[name], {"__name__": "__main__"}
    stub, test = (notebook.cells[i].source for i in (place, place + 1))
    (written,) = (node.name for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef))
    for source in before(notebook, place):
        exec(source, space)
        if "runs = None" in source:
            space |= {**SMALLEST[name], "runs": str(tmp_path / "runs"), "out": str(tmp_path / "out")}

    parts = ast.parse(test).body
    (last,) = (i for i, part in enumerate(parts) if ast.unparse(part).startswith("pages.check("))
    exec(stub, space)
    exec(ast.unparse(parts[:last]), space)  # what follows, as a figure, is not run

    def told() -> str:
        capsys.readouterr()
        exec(ast.unparse(parts[last]), space)
        return capsys.readouterr().out

    assert told() == "not filled in yet\n"
    exec(solution(notebook, place), space)
    right = space[written]
    assert told() == "right\n"

    def off(value):
        if isinstance(value, tuple):
            return tuple(map(off, value))
        return ~value if isinstance(value, torch.Tensor) and value.dtype == torch.bool else value + 1

    for wrong in (lambda *given: off(right(*given)), lambda *given: "nothing like it", lambda: 1):
        space[written] = wrong
        assert re.fullmatch("not yet: .+\n", told())


def test_every_exercise_has_a_folded_solution_and_a_test_and_they_are_numbered():
    assert len(WITH) >= 3
    for name, notebook in NOTEBOOKS.items():
        prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        numbers = list(map(int, re.findall(r"^\*\*Exercise (\d+)[.,]", prose, re.MULTILINE)))
        assert len(numbers) >= 3, name
        assert numbers == list(range(1, len(numbers) + 1)), name
        solutions, answers = len(FOLDED.findall(prose)), len(ANSWER.findall(prose))
        assert solutions == len(exercises(notebook)), name
        assert solutions + answers == len(numbers), name
        assert prose.count("<details") == prose.count("</details>") == len(numbers), name
        for place in exercises(notebook):
            assert solution(notebook, place), name
            assert "pages.check(" in notebook.cells[place + 1].source, name


def test_a_notebook_with_captions_has_one_under_every_figure():
    for name, notebook in NOTEBOOKS.items():
        cells = notebook.cells
        if not any(cell.source.startswith("*Figure: ") for cell in cells):
            continue
        for i, cell in enumerate(cells):
            if cell.cell_type == "code" and "page.show(" in cell.source:
                following = next(c for c in cells[i + 1 :] if c.cell_type == "markdown")
                assert following.source.startswith("*Figure: "), f"{name}: {cell.source[-60:]}"
