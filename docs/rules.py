"""The rules that every notebook of the series keeps; each finding is one sentence."""

import ast
import json
import re

import nbformat
from nbformat import NotebookNode

MOST_BYTES = 500_000
MOST_LINES = 25
MOST_OF_A_MODULE = 60  # lines of a scratch cell that builds a whole nn.Module
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
TITLE = re.compile(r"# (\d+)\. (.+\?|Start here)")
NEEDS = re.compile(
    r"^\*\*(?:Needs|You need)\*\* (?:[^*]*?\s)?"  # what a reader needs may come first
    r"about (?P<seconds>\d+) s on (?:one CPU core|2 CPU cores), (?P<memory>\d\.\d) GB of memory, \d+ MB of disk\.$",
    re.MULTILINE,
)
SLACK = 1.6  # how far what a run took may be from what its notebook says
WIDGET = "application/vnd.jupyter.widget"
ABSOLUTE = re.compile(r"(?<![\w./:<~\\-])(?:/[\w.-]+){2,}|\b[A-Za-z]:[\\/]\w[^\s\"']*|\bfile:/+[^\s\"']+")


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def is_widget(output: NotebookNode) -> bool:
    """Whether an output is a widget, which shows nothing without its kernel."""
    return any(mime.startswith(WIDGET) for mime in output.get("data", {}))


def of_series(stems: list[str]) -> list[str]:
    """The notebooks are numbered from 00 without a gap."""
    numbers = [stem[:2] for stem in stems]
    expected = [f"{n:02d}" for n in range(len(stems))]
    if stems and numbers == expected:
        return []
    return [
        f"notebooks are numbered from 00 without a gap, but those found are: {', '.join(stems) or 'none'}"
    ]


def of_form(stem: str, notebook: NotebookNode) -> list[str]:
    """The notebook opens as all do, and its cells are short."""
    name = f"{stem}.ipynb"
    findings = []
    first = notebook.cells[0].source
    title = TITLE.fullmatch(first.partition("\n")[0])
    if notebook.cells[0].cell_type != "markdown" or not title or int(title[1]) != int(stem[:2]):
        findings.append(
            f"{name} opens with {first.partition(chr(10))[0]!r}, not with '# {int(stem[:2])}. Question?'"
        )
    if not NEEDS.search(first):
        findings.append(
            f"{name} does not say in its first cell what it **Needs**, in the words of the others"
        )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for place, tag in enumerate(("colab", "parameters")):
        if [i for i, cell in enumerate(code) if tagged(cell, tag)] != [place]:
            findings.append(f"{name} needs one cell tagged {tag}, as code cell {place + 1}")
    for place, cell in enumerate(code, 1):
        most = MOST_OF_A_MODULE if tagged(cell, "scratch") and _builds_a_module(cell.source) else MOST_LINES
        if (lines := cell.source.count("\n") + 1) > most and not tagged(cell, "colab"):
            findings.append(f"{name}: code cell {place} has {lines} lines, but {most} is the most")
        if tagged(cell, "scratch") and not _asserts(cell.source):
            findings.append(f"{name}: scratch cell {place} does not assert that it agrees with the module")
    return findings


def of_map(start: NotebookNode, needs: dict[str, str]) -> list[str]:
    """The map in the first notebook has a row for each of the others, with the time and memory that it says it needs.

    Args:
        needs: the first cell of each other notebook, by file name without ending.
    """
    rows = [line for c in start.cells if c.cell_type == "markdown" for line in c.source.split("\n")]
    findings = []
    for stem, first in needs.items():
        told = NEEDS.search(first)
        end = f"| {told['seconds']} s | {told['memory']} GB |" if told else "|"
        if not any(f"]({stem}.ipynb)" in row and row.endswith(end) for row in rows):
            findings.append(
                f"the map in the first notebook has no row with {stem}.ipynb that ends in {end!r}"
            )
    return findings


def of_cost(name: str, notebook: NotebookNode, seconds: float, memory_mb: float) -> list[str]:
    """What the notebook says it needs is what its run took, or nearly."""
    told = NEEDS.search(notebook.cells[0].source)
    pairs = (
        ((float(told["seconds"]), seconds, "s"), (1000 * float(told["memory"]), memory_mb, "MB"))
        if told
        else ()
    )
    return [
        f"{name} says that it needs {said:.0f} {unit}, but its run took {took:.0f} {unit}: correct its first cell"
        for said, took, unit in pairs
        if not said / SLACK <= took <= said * SLACK
    ]


def of_outputs(name: str, notebook: NotebookNode) -> list[str]:
    """The file is small and says nothing of the machine and the moment that it ran on."""
    findings = []
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        findings.append(f"{name} has {size:,} bytes, but {MOST_BYTES:,} is the most")
    if notebook.metadata != METADATA:
        findings.append(
            f"{name} has other metadata than the kernel python3: {json.dumps(notebook.metadata)[:200]}"
        )
    for place, cell in enumerate(notebook.cells, 1):
        if left := sorted(cell.metadata.keys() - {"tags"}):
            findings.append(f"{name}: cell {place} has metadata of a run: {', '.join(left)}")
        if tagged(cell, "injected-parameters"):
            findings.append(f"{name}: cell {place} was added by papermill")
        for output in cell.get("outputs", []):
            findings += [f"{name}: cell {place} {told}" for told in _of_output(output)]
        if tagged(cell, "widget") and cell.get("outputs"):
            findings.append(f"{name}: cell {place} is tagged widget but has an output")
    return findings


def _of_output(output: NotebookNode) -> list[str]:
    findings = []
    if output.output_type == "error":
        findings.append(f"ended with {output.ename}: {output.evalue}")
    if output.get("name") == "stderr":
        findings.append("wrote to stderr")
    if is_widget(output):
        findings.append("shows a widget, which needs a kernel")
    texts = [v for k, v in output.get("data", {}).items() if k.startswith("text/") or "svg" in k]
    for text in [output.get("text", ""), *texts]:
        findings += [f"shows a path of the machine that it ran on: {path}" for path in ABSOLUTE.findall(text)]
    return findings


def _builds_a_module(source: str) -> bool:
    bases = [b for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) for b in node.bases]
    return any(ast.unparse(base).rpartition(".")[2] == "Module" for base in bases)


def _asserts(source: str) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2].startswith("assert_"))
        for node in ast.walk(ast.parse(source))
    )
