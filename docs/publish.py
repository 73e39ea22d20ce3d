"""Make the notebooks ready for readers: badges, the cell that Colab needs, outputs without traces of the run.

    python docs/publish.py stamp         # after the version or a notebook's first cell changed
    python docs/publish.py collect RUNS  # take over what `adavipro reproduce --root RUNS` executed; --only 01: of one
    python docs/publish.py check         # the tests assert that it finds nothing

What is wrong is told in one sentence each.
"""

import argparse
import ast
import base64
import copy
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import rules
from nbformat import NotebookNode
from PIL import Image
from stamps import read_project, stamped, stamped_readme

from adavipro.lessons import series

TOP = Path(__file__).parents[1]
FREE = {"runs", "out", "device"}  # parameters that change no output
PICTURES = (  # figures of notebooks that the README shows
    ("00_start_here", "architecture.png", "docs/idea.png"),
    ("06_what_it_looks_like", "figure-4.png", "docs/pictures.png"),
)


def notebooks(top: Path = TOP) -> list[Path]:
    """The committed notebooks, in the order of the series."""
    return sorted(top.glob("notebooks/[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook as it stands, without renewing its format."""
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def stamp(top: Path = TOP) -> None:
    """Write badges and Colab's cell into every notebook and the README."""
    project = read_project(top)
    for path in notebooks(top):
        nbformat.write(stamped(read(path), path.stem, project), path)
    readme = top / "README.md"
    readme.write_text(stamped_readme(readme.read_text(), project))


def _values(source: str) -> dict[str, object]:
    """The literals that a cell of parameters assigns."""
    return {
        ast.unparse(line.targets[0]): ast.literal_eval(line.value)
        for line in ast.parse(source).body
        if isinstance(line, ast.Assign)
    }


def _changed(executed: NotebookNode) -> list[str]:
    """The parameters with which papermill ran a notebook other than as it is committed."""
    own, injected = (
        [_values(cell.source) for cell in executed.cells if rules.tagged(cell, tag)]
        for tag in ("parameters", "injected-parameters")
    )
    given = {k: v for cell in injected for k, v in cell.items() if k not in FREE}
    return [f"{k}={v!r}" for k, v in given.items() if not own or own[0].get(k) != v]


def taken_over(name: str, committed: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The committed notebook with the outputs of its run, and nothing else of it.

    Raises:
        ValueError: if the run failed, was of other code or other parameters, or cannot be committed.
    """
    if changed := _changed(executed):
        raise ValueError(
            f"{name} ran with {', '.join(changed)}: run it with the parameters that it is committed with"
        )
    result = copy.deepcopy(committed)
    result.metadata = NotebookNode(copy.deepcopy(rules.METADATA))
    for cell in result.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k == "tags"})
    code = [cell for cell in result.cells if cell.cell_type == "code"]
    ran = [c for c in executed.cells if c.cell_type == "code" and not rules.tagged(c, "injected-parameters")]
    if [cell.source for cell in code] != [cell.source for cell in ran]:
        raise ValueError(f"{name} has other code than its run: run it again")
    for count, (ours, theirs) in enumerate(zip(code, ran, strict=True), 1):
        if theirs.execution_count is None:
            raise ValueError(f"{name} was not run to its end: code cell {count} was not executed")
        ours.execution_count = count
        ours.outputs = [] if rules.tagged(ours, "widget") else _clean(theirs.outputs, count)
    if findings := rules.of_outputs(name, result):
        raise ValueError(findings[0])
    return result


def _clean(outputs: list[NotebookNode], count: int) -> list[NotebookNode]:
    kept = [o for o in outputs if o.get("name") != "stderr" and not rules.is_widget(o)]
    for output in kept:
        if "execution_count" in output:
            output.execution_count = count
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = _smaller(output.data["image/png"])
        if "metadata" in output:
            output.metadata = NotebookNode({k: v for k, v in output.metadata.items() if k in output.data})
    return kept


def _smaller(picture: str) -> str:
    """A PNG with 256 colours: a third of the bytes, and hardly another picture to the eye."""
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(256).save(
        small, "PNG", optimize=True
    )
    return min(picture, base64.b64encode(small.getvalue()).decode(), key=len)


def collect(runs: Path, top: Path = TOP, only: Sequence[str] | None = None) -> None:
    """Take over the outputs of a finished `adavipro reproduce`; all notebooks or none.

    Args:
        only: of the notebooks with these numbers, as "05"; none: of all.

    Raises:
        ValueError: if a notebook as it stands has no finished run, or its run cannot be taken over.
    """
    results, folders = {}, {}
    known = {path.name[:2]: path for path in notebooks(top)}
    if wrong := [number for number in only or [] if number not in known]:
        raise ValueError(f"there is no notebook {wrong[0]!r}: the numbers are {', '.join(known)}")
    for path in (known[number] for number in only or known):
        keys = [series.key(path, {"device": device}) for device in ("auto", "cpu", "cuda")]
        found = [f for key in keys if series.finished(f := runs / "notebooks" / f"{path.stem}-{key}")]
        if not found:
            raise ValueError(
                f"{path.name} as it stands has no finished run in {runs}: run `adavipro reproduce --root {runs}`"
            )
        notebook, cost = read(path), json.loads((found[0] / "result.json").read_text())
        if wrong := rules.of_cost(path.name, notebook, cost["seconds"], cost["memory_mb"]):
            raise ValueError(wrong[0])
        results[path] = taken_over(path.name, notebook, read(found[0] / "notebook.ipynb"))
        folders[path.stem] = found[0]
    for path, notebook in results.items():
        nbformat.write(notebook, path)
    for shown, figure, target in PICTURES:
        if shown in folders:
            picture = base64.b64encode((folders[shown] / figure).read_bytes()).decode()
            (top / target).write_bytes(base64.b64decode(_smaller(picture)))


def check(top: Path = TOP) -> list[str]:
    """What is wrong with the notebooks and the stamps: one sentence each."""
    project, paths = read_project(top), notebooks(top)
    findings = rules.of_series([path.stem for path in paths])
    for path in paths:
        notebook = read(path)
        if stamped(notebook, path.stem, project) != notebook:
            findings.append(
                f"{path.name} is not stamped as pyproject.toml says: run `python docs/publish.py stamp`"
            )
        findings += rules.of_form(path.stem, notebook) + rules.of_outputs(path.name, notebook)
    if paths:
        others = {path.stem: read(path).cells[0].source for path in paths[1:]}
        findings += rules.of_map(read(paths[0]), others)
    readme = (top / "README.md").read_text()
    if stamped_readme(readme, project) != readme:
        findings.append("README.md is not stamped as pyproject.toml says: run `python docs/publish.py stamp`")
    return findings


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and end with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stamp", help="write badges and Colab's cell into the notebooks and the README")
    commands.add_parser("check", help="say what is wrong with notebooks and stamps")
    collecting = commands.add_parser("collect", help="take over executed notebooks")
    collecting.add_argument("runs", type=Path)
    collecting.add_argument("--only", nargs="+", metavar="NUMBER", help="only these notebooks, as 01 02")
    args = parser.parse_args(arguments)
    try:
        if args.command == "stamp":
            stamp()
        elif args.command == "collect":
            collect(args.runs, only=args.only)
        elif findings := check():
            raise ValueError("\n".join(findings))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
