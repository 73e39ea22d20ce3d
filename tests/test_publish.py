"""What readers get: stamped notebooks, and outputs without traces of the run."""

import base64
import copy
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image
from samples import (
    DOT,
    PROJECT,
    TOP,
    VIEW,
    Change,
    code,
    findings,
    publish,
    replaced,
    rules,
    sample,
    shown,
    stamps,
    stream,
)

from adavipro.lessons import series


def test_stamping_twice_changes_nothing_and_a_new_version_changes_both_stamps():
    once = sample()
    assert stamps.stamped(once, "01_why", PROJECT) == once
    newer = stamps.stamped(
        once, "01_why", stamps.Project(PROJECT.repository, "2.0", "open_clip_torch", "timm", "3.1")
    )
    assert len(newer.cells) == len(once.cells)
    assert "/blob/v2.0/notebooks/01_why.ipynb" in newer.cells[0].source
    assert newer.cells[0].source.count("colab-badge") == 1
    assert "thing@v2.0" in newer.cells[1].source
    assert newer.cells[0].source.startswith("# 1. Why?\n\n[![")
    assert ".ipynb)\n\nThis is asked." in newer.cells[0].source


def test_badges_open_a_release_and_never_a_branch():
    for path in publish.notebooks():
        source = publish.read(path).cells[0].source
        assert f"/blob/v{stamps.read_project(TOP).version}/notebooks/{path.name})" in source
        assert "main" not in source.partition("colab.research.google.com/github")[2].partition(")")[0]


def test_readme_without_a_place_for_badges_is_refused():
    stamped = stamps.stamped_readme("a\n<!-- badges -->\nold\n<!-- end badges -->\nb\n", PROJECT)
    assert stamped == f"a\n<!-- badges -->\n{PROJECT.badge(stamps.FIRST)}\n<!-- end badges -->\nb\n"
    with pytest.raises(ValueError, match=r"^README\.md has no place for badges"):
        stamps.stamped_readme("no markers", PROJECT)


def asked_of_pip(source: str, monkeypatch: pytest.MonkeyPatch, colab: bool = True) -> list[str]:
    """What the cell asks pip for, run as IPython runs it."""
    asked: list[str] = []
    if colab:
        for name in ("google", "google.colab"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    shell = types.SimpleNamespace(run_line_magic=lambda magic, line: asked.append(f"{magic} {line}"))
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    assert all(
        line.startswith("pip install -q --no-deps ") for line in asked
    )  # a dependency could renew torch
    return [word for line in asked for word in shlex.split(line)[4:]]


def test_colab_cell_does_nothing_elsewhere(monkeypatch):
    assert asked_of_pip(PROJECT.setup(), monkeypatch, colab=False) == []


def test_colab_cell_asks_for_what_the_project_needs_and_never_for_torch(monkeypatch):
    assert asked_of_pip(PROJECT.setup(), monkeypatch) == [
        "adavipro @ git+https://github.com/someone/thing@v1.2.3", "open_clip_torch>=3.2,<4", "timm>=1.0.9", "ftfy",
    ]  # fmt: skip


def test_colab_cell_of_the_notebook_with_photographs_brings_them_too(monkeypatch):
    project = stamps.read_project(TOP)
    (brings,) = stamps.WITH_PHOTOGRAPHS
    usual = asked_of_pip(project.setup(), monkeypatch)
    assert asked_of_pip(project.setup(brings), monkeypatch) == [*usual, *project.photographs]
    assert len(project.photographs) == 2


@pytest.mark.parametrize("old", [None, "open_clip_torch 2.24.0", "timm 0.6.13"])
def test_pip_renews_what_is_too_old_and_nothing_else(tmp_path, monkeypatch, old):
    if old:
        name, version = old.split()
        about = tmp_path / "site" / f"{name}-{version}.dist-info" / "METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    needed = [w for w in asked_of_pip(stamps.read_project(TOP).setup(), monkeypatch) if "git+" not in w]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--dry-run", "--no-index", *needed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    # Without an index pip names what it would want to fetch.
    wanted = re.findall(r"No matching distribution found for (\w+)", done.stderr)
    assert wanted == ([old.split()[0]] if old else []), done.stderr
    assert (done.returncode == 0) == (old is None)


def executed(committed: NotebookNode) -> NotebookNode:
    """What papermill leaves of a notebook, with all the traces that are not to be committed."""
    notebook = copy.deepcopy(committed)
    injected = code("# Parameters\ndevice = 'cpu'\nruns = '/tmp/runs'\nseed = 0\n", "injected-parameters")
    notebook.cells.insert(3, injected)
    notebook.metadata.update(
        papermill={"duration": 1.0}, widgets={"state": {}}, language_info={"version": "3.13"}
    )
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 7):
        cell.execution_count = count
        cell.metadata.update(
            papermill={"status": "completed"},
            execution={"iopub.execute_input": "2026"},
            tags=[*cell.metadata.get("tags", [])],
        )
        cell.id = f"other-{count}"
        cell.outputs = [stream("downloading", "stderr")]
    widget, last = notebook.cells[5], notebook.cells[-1]
    widget.outputs += [new_output("display_data", data=VIEW)]
    last.outputs += [stream("1\n"), new_output("display_data", data=VIEW)]
    picture = {"image/png": {"alt": "a dot", "width": 10}, "execution": {"at": "noon"}}
    last.outputs += [
        new_output(
            "execute_result", data={"image/png": DOT}, metadata=picture, execution_count=last.execution_count
        )
    ]
    return notebook


def test_pictures_get_small_and_stay_the_same_to_the_eye():
    noise = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    picture = io.BytesIO()
    Image.fromarray(noise).resize((512, 512), Image.Resampling.BICUBIC).save(picture, "PNG")
    before = base64.b64encode(picture.getvalue()).decode()
    after = publish._smaller(before)
    assert len(after) < len(before) / 2
    old, new = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(p))).convert("RGB"), float) for p in (before, after)
    )
    assert np.abs(old - new).mean() < 12  # of 255, for noise in all colours
    assert publish._smaller(DOT) == DOT


def test_taking_over_keeps_the_outputs_and_nothing_else():
    committed = sample()
    taken = publish.taken_over("01_why.ipynb", committed, executed(committed))
    nbformat.validate(taken)
    assert [(c.id, c.source) for c in taken.cells] == [(c.id, c.source) for c in committed.cells]
    assert [c.execution_count for c in taken.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert taken.metadata == rules.METADATA
    assert [c.outputs for c in taken.cells[:-1] if c.cell_type == "code"] == [[]] * 4
    printed, drawn = taken.cells[-1].outputs
    assert printed == stream("1\n")
    assert drawn.metadata == {"image/png": {"alt": "a dot", "width": 10}}
    assert drawn.execution_count == 5
    assert findings(taken) == []
    assert publish.taken_over("01_why.ipynb", taken, executed(taken)) == taken


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced(-1, "print(a)", "print(2)"), "has other code than its run: run it again"),
        (lambda n: n.cells.pop(), "has other code than its run: run it again"),
        (replaced(3, "seed = 0", "seed = 5"), "ran with seed=5: run it with the parameters"),
        (lambda n: setattr(n.cells[-1], "execution_count", None), "code cell 5 was not executed"),
        (
            shown(new_output("error", ename="ValueError", evalue="no", traceback=[])),
            "ended with ValueError: no",
        ),
        (shown(stream("/home/me/x\n")), "shows a path of the machine"),
        (shown(new_output("display_data", data={"image/svg+xml": "A" * 500_000})), "500,000 is the most"),
    ],
)
def test_a_run_that_cannot_be_committed_is_refused(change: Change, told: str):
    committed = sample()
    run = executed(committed)
    change(run)
    with pytest.raises(ValueError, match=r"^01_why\.ipynb") as refused:
        publish.taken_over("01_why.ipynb", committed, run)
    assert told in str(refused.value)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project of one notebook."""
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    (tmp_path / "README.md").write_text("# x\n\n<!-- badges -->\n<!-- end badges -->\n")
    (tmp_path / "notebooks").mkdir()
    nbformat.write(sample(), tmp_path / "notebooks" / "00_why.ipynb")
    return tmp_path


def test_stamps_out_of_date_are_found_and_renewed(checkout: Path):
    found = publish.check(checkout)
    assert "00_why.ipynb is not stamped as pyproject.toml says: run `python docs/publish.py stamp`" in found
    assert "README.md is not stamped as pyproject.toml says: run `python docs/publish.py stamp`" in found
    publish.stamp(checkout)
    assert not [finding for finding in publish.check(checkout) if "stamped" in finding]
    before = (checkout / "notebooks" / "00_why.ipynb").read_bytes()
    publish.stamp(checkout)
    assert (checkout / "notebooks" / "00_why.ipynb").read_bytes() == before


def test_collect_takes_over_only_a_finished_run_of_the_notebook_as_it_stands(checkout: Path, tmp_path: Path):
    path, runs = checkout / "notebooks" / "00_why.ipynb", tmp_path / "runs"
    key = series.key(path, {"device": "auto"})
    folder = runs / "notebooks" / f"00_why-{key}"
    folder.mkdir(parents=True)
    nbformat.write(executed(publish.read(path)), folder / "notebook.ipynb")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^00_why\.ipynb as it stands has no finished run in"):
        publish.collect(runs, checkout)
    assert path.read_bytes() == before

    (folder / "result.json").write_text(json.dumps({"key": folder.name, "seconds": 1.2, "memory_mb": 95}))
    publish.collect(runs, checkout)
    assert publish.read(path).cells[-1].outputs[0].text == "1\n"
    assert not rules.of_outputs(path.name, publish.read(path))

    notebook = publish.read(path)
    notebook.cells[-1].source = "print(3)"
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match="no finished run"):
        publish.collect(runs, checkout)
    nbformat.write(executed(notebook), checkout / "notebooks" / "01_how.ipynb")
    with pytest.raises(ValueError, match=r"^01_how\.ipynb as it stands has no finished run"):
        publish.collect(runs, checkout, only=["01"])
    with pytest.raises(ValueError, match=r"^there is no notebook '02': the numbers are 00, 01$"):
        publish.collect(runs, checkout, only=["02"])


def test_the_command_ends_with_the_sentences(monkeypatch, capsys):
    monkeypatch.setattr(publish, "check", lambda: ["one is wrong", "two is wrong"])
    with pytest.raises(SystemExit, match=r"^one is wrong\ntwo is wrong$"):
        publish.main(["check"])
    monkeypatch.setattr(publish, "check", list)
    publish.main(["check"])
