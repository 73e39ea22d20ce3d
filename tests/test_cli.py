"""The command line from its words to what it prints and writes."""

import csv
import json
import os
import re
import subprocess
import sys
import time
import warnings
from dataclasses import fields

import pytest
import torch
from helpers import small_splits, write_notebook

from adavipro import __main__ as cli
from adavipro.__main__ import main
from adavipro.experiment import GROUPS, preset
from adavipro.lessons import series
from adavipro.recipe import SettingError
from adavipro.report import results, tables
from adavipro.report.studies import FRAMES_PX

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


def fails(words, capfd, code=2):
    """Run a command that must fail; returns what it told on stderr."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == code
    return capfd.readouterr().err


def test_run_trains_and_prints_its_figures_and_its_folder(tmp_path, capsys):
    given = "run --dataset letters --method adavipro --prompt-px 15 --seed 3 -s epochs=1 -s batch_size=16"
    given += " -s generator_width=8 -s temperature_end=none -s temperature_gamma=0.9 -s hard=false -s prompt_lr=1e-1"
    main([*given.split(), "--root", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    size = {"epochs": 1, "batch_size": 16, "generator_width": 8}
    rest = {
        "temperature_end": None,
        "temperature_gamma": 0.9,
        "hard": False,
        "prompt_lr": 0.1,
        "prompt_px": 15,
        "seed": 3,
    }
    assert result["key"] == preset("embedded", "adavipro", dataset="letters", **size, **rest).key()
    told = capsys.readouterr().out
    assert told.startswith(f"test accuracy: {100 * result['test_accuracy']:.1f} %\n")
    assert told.endswith(f"folder: {folder}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-s epoch=3", "no setting 'epoch': did you mean 'epochs'"),
        ("-s epochs=many", "epochs is 'many'"),
        ("-s epochs=2.5", "epochs is 2.5"),
        ("-s epochs", "NAME=VALUE"),
        ("-s prompt_lr=nan", "prompt_lr is 'nan'"),
        ("-s hard=yes", "hard is 'yes'"),
        ("-s model=local-dir:nowhere", "does not exist"),
        ("-s model=no-such-model", "no-such-model"),
        ("-s warmup_steps=9999", "warm-up takes 9999 steps"),
        ("--dataset cifar11", "dataset is 'cifar11', .* digits, letters, sketches, textures"),
        ("--method adavpro", "method is 'adavpro'"),
        ("--prompt-px 29", "prompt_px is 29, .* 28"),
        ("--device nowhere", "nowhere"),
        ("--resume", "no checkpoint"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_on_stderr(tmp_path, capfd, words, told):
    err = fails(["run", "--root", tmp_path, *words.split()], capfd)
    assert re.fullmatch(f"adavipro: .*{told}.*\n", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            2,
            "lower batch_size",
        ),
        (MemoryError(), 2, "lower batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 2, "lower batch_size"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            2,
            "lower batch_size",
        ),
        (PermissionError(13, "Permission denied", "runs"), 2, "'runs': give a folder .*--root"),
        (OSError(30, "Read-only file system", "/x"), 2, "'/x': give a folder .*ADAVIPRO_CACHE"),
        (KeyError("bug"), 1, "KeyError: 'bug' .*--traceback"),
        (OSError(28, "could not write /x: it needs 5 bytes"), 2, "it needs 5 bytes"),
    ],
)
def test_every_other_error_is_one_line_too_and_traceback_shows_the_whole(
    monkeypatch, capfd, error, code, told
):
    def broken(_):
        raise error

    monkeypatch.setattr("adavipro.__main__.settings", broken)
    broken.__name__ = "settings"
    before = warnings.showwarning
    assert re.fullmatch(f"adavipro: .*{told}.*\n", fails(["settings"], capfd, code))
    assert warnings.showwarning is before
    for words in (["--traceback", "settings"], ["settings", "--traceback"]):
        with pytest.raises(type(error)):
            main(words)


def test_settings_lists_every_setting_in_its_group_with_its_default(capsys):
    main(["settings"])
    lines = capsys.readouterr().out.splitlines()
    for name, group in GROUPS.items():
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}: "))
        for field, line in zip(fields(group), lines[start + 1 :], strict=False):
            assert line == f"  {field.name} = {field.default!r}: {field.metadata['doc']}"


def test_the_command_knows_every_table():
    assert {*cli.PAPER_TABLES, *cli.OTHER_TABLES} == set(tables.NAMES)


def test_table_2_of_the_shipped_results_as_csv(capsys):
    main("table 2 --world embedded --format csv".split())
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert set(FRAMES_PX.values()) <= {
        int(px) for row in rows for px in re.findall(r"^(\d+) px", " ".join(row))
    } | {int(cell) for row in rows[1:] for cell in row if cell.isdigit()} | {
        int(head.split()[0]) for head in rows[0] if head.endswith("px") and head[0].isdigit()
    }
    assert {row[0] for row in rows[1:]} == {"digits", "letters", "sketches", "textures", "mean"}


def test_help_and_a_table_are_quick_and_load_no_torch():
    code = "import sys; from adavipro.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for words, limit in ((["table", "2", "--world", "embedded"], 4.0), (["settings", "--help"], 2.0)):
        started = (
            time.perf_counter()
        )  # the limits are of a busy machine; benchmarks/README.md has the figures
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert time.perf_counter() - started < limit, words


def test_table_of_a_file_of_ones_own(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text(
        "study,value,dataset,method,prompt_px,seed,test_accuracy,key\nmain,,digits,vp,8,0,0.5,a\nmain,,digits,vp,8,1,0.75,b\n"
    )
    main(["table", "2", "--world", "embedded", "--results", str(path)])
    assert re.search(r"\| digits +\| vp +\| 62.5 ± 158.8 +\|", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["search-vp", "noise", "where"])
def test_table_of_a_file_like_one_that_ships_is_its_own(name, tmp_path, capsys):
    file = {"search-vp": "search_vp.csv", "noise": "epochs.csv", "where": "controls.csv"}[name]
    path, lines = tmp_path / file, (results.FOLDER / file).read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-30]))
    main(["table", name, "--results", str(path)])
    told = capsys.readouterr().out
    assert told == tables.to_markdown(tables.table(name, tables.read(name, path)))
    assert told != tables.to_markdown(tables.table(name))


def test_table_without_runs_says_how_to_make_them(tmp_path, capfd):
    path = tmp_path / "results.csv"
    path.write_text(
        "study,value,dataset,method,prompt_px,seed,test_accuracy,key\nmain,,digits,vp,8,0,0.5,a\n"
    )
    err = fails(["table", "6", "--world", "embedded", "--results", path], capfd)
    assert "no runs for table 6: make them with `adavipro sweep`" in err


def test_figure_2_is_written_as_png_and_svg(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text(
        "study,value,dataset,method,prompt_px,seed,test_accuracy,key\nmain,,digits,vp,8,0,0.5,a\nmain,,digits,vp,28,0,0.75,b\n"
    )
    main(["figure", "2", "--results", str(path), "--out", str(tmp_path / "curve")])
    written = [tmp_path / "curve.png", tmp_path / "curve.svg"]
    assert capsys.readouterr().out.splitlines() == [str(p) for p in written]
    assert all(p.stat().st_size > 1000 for p in written)


@pytest.mark.parametrize(
    "content", [None, "", "study,dataset,method,prompt_px,seed,test_accuracy\n", "a,b\n1,2\n"]
)
def test_table_of_a_file_that_holds_no_results_is_one_line_on_stderr(tmp_path, capfd, content):
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_text(content)
    assert re.fullmatch(
        r"adavipro: .*results\.csv.*\n",
        fails(["table", "2", "--world", "embedded", "--results", path], capfd),
    )


def test_figure_of_results_without_a_column_that_it_needs_is_one_line(tmp_path, capfd):
    path = tmp_path / "results.csv"
    path.write_text(results.EMBEDDED.read_text().replace("object_cover", "cover", 1))
    told = fails(["figure", "masks", "--results", path], capfd)
    assert told == "adavipro: the results hold no ['object_cover'], which figure masks needs\n"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_path_that_the_terminal_cannot_show_does_not_end_a_run_badly(tmp_path, encoding):
    command = [
        sys.executable,
        "-m",
        "adavipro",
        "figure",
        "2",
        "--out",
        os.path.join(os.fsencode(tmp_path), b"caf\xe9"),
    ]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[0].endswith(rb"caf\udce9.png")
    assert os.path.exists(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))


@pytest.mark.parametrize(
    ("form", "begins"), [("csv", "dataset,method,prompt_px"), ("latex", "\\begin{tabular}")]
)
def test_tables_beside_published_figures_have_three_forms(tmp_path, capsys, form, begins):
    main(["table", "4", "--format", form, "--root", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "-12.3" in out.replace("$-$", "-")


def test_a_sweep_that_cannot_be_is_one_line_on_stderr(tmp_path, capfd):
    assert "nothing.yaml cannot be read as a table" in fails(["sweep", tmp_path / "nothing.yaml"], capfd)
    assert "--limit is 0 minutes" in fails(["sweep", "tables/table1.yaml", "--limit", "0"], capfd)


def test_reproduce_runs_the_series_says_where_the_figures_are_and_fails_with_a_failed_one(
    tmp_path, monkeypatch, capsys
):
    finish = """
import json, pathlib
folder = pathlib.Path(out)
(folder / "figure-2.png").write_bytes(b"")
(folder / "result.json").write_text(json.dumps({"key": folder.name, "seconds": 3.2}))
"""
    for name, code in (("00_fine", finish), ("01_bad", "raise ValueError('the sentence')")):
        write_notebook(tmp_path / f"{name}.ipynb", "device = runs = out = None", code)
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    given = ["reproduce", "--root", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 1
    told = capsys.readouterr()
    assert re.search(r"failed: 01_bad-[0-9a-f]{12}: ValueError: the sentence", told.err)
    assert re.search(r"00_fine-[0-9a-f]{12}: done: .*runs/notebooks/00_fine-[0-9a-f]{12}\n", told.out)
    assert re.search(r"\n  .*00_fine-[0-9a-f]{12}/figure-2.png\n", told.out)
    page = tmp_path / "runs" / "index.html"
    assert told.out.splitlines()[-1] == f"All of it on one page: {page}"
    assert "1 of 2 notebooks finished" in page.read_text()


def test_fetch_lists_the_nine_and_tells_each_that_cannot_be_had(tmp_path, capfd):
    main(["fetch", "--data", str(tmp_path)])
    told = capfd.readouterr().out
    assert all(name in told for name in ("cifar10", "sun397", "ucf101", "not there"))
    err = fails(["fetch", "sun397", "ucf101", "--data", tmp_path], capfd, code=1)
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["sun397", "ucf101"]
    with pytest.raises(SettingError, match="'sun397' cannot be fetched"):
        main(["--traceback", "fetch", "sun397", "--data", str(tmp_path)])
