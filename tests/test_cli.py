import csv
import json
import re
from dataclasses import fields

import pytest
from helpers import small_splits, write_notebook

from adavipro import presets, series, sweeps
from adavipro.cli import main
from adavipro.experiment import Experiment

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


def test_run_trains_and_prints_its_row_and_its_folder(tmp_path, capsys):
    given = "run --dataset letters --method adavipro --prompt-px 15 --seed 3 -s epochs=1 -s batch_size=16"
    given += " -s generator_width=8 -s temperature_end=none -s hard=false -s prompt_lr=1e-1"
    main([*given.split(), "--root", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    size = {"epochs": 1, "batch_size": 16, "generator_width": 8}
    rest = {"temperature_end": None, "hard": False, "prompt_lr": 0.1, "prompt_px": 15, "seed": 3}
    assert result["key"] == presets.preset("embedded", "adavipro", dataset="letters", **size, **rest).key()
    told = capsys.readouterr().out
    assert f"| letters | adavipro | 15 | 1 | {100 * result['test_accuracy']:.2f} |  |" in told
    assert told.endswith(f"folder: {folder}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-s epoch=3", "no setting 'epoch': did you mean 'epochs'"),
        ("-s epochs=many", "epochs is 'many'"),
        ("-s epochs=2.5", "epochs is '2.5'"),
        ("-s epochs", "NAME=VALUE"),
        ("-s prompt_lr=nan", "prompt_lr is nan"),
        ("-s hard=yes", "hard is 'yes'"),
        ("-s model=local-dir:nowhere", "does not exist"),
        ("-s model=no-such-model", "no-such-model"),
        ("-s warmup_steps=9999 -s warmup_share=none", "warm-up takes 9999 steps"),
        ("--dataset cifar11", "dataset is 'cifar11', .* digits, letters, sketches, textures"),
        ("--prompt-px 29", "prompt_px is 29, .* 28"),
        ("--device nowhere", "nowhere"),
        ("--resume", "no checkpoint"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_on_stderr(tmp_path, capfd, words, told):
    with pytest.raises(SystemExit) as caught:
        main(["run", "--root", str(tmp_path), *words.split()])
    shown = capfd.readouterr()
    assert caught.value.code == 2
    assert re.fullmatch(f"adavipro: .*{told}.*\n", shown.err)
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_settings_lists_every_setting_with_its_default(capsys):
    main(["settings"])
    lines = capsys.readouterr().out.splitlines()
    for field, line in zip(fields(Experiment), lines, strict=True):
        assert line.startswith(f"{field.name} = {field.default!r}: ")
        assert line.endswith(field.metadata["doc"])


def test_table_2_of_the_shipped_results_as_csv(capsys):
    main("table 2 --world embedded --format csv".split())
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["dataset", "method", "prompt_px", "seeds", "mean", "ci95"]
    assert len(rows) == 1 + (4 + 1) * (
        1 + 3 * 5
    )  # data sets and their mean; VP, VP tuned, AdaViPro at five widths
    for _, method, prompt_px, seeds, mean, interval in rows[1:]:
        assert 0 < float(mean) < 100
        if method == "zero-shot":
            assert (prompt_px, seeds, interval) == ("", "1", "")
        else:
            assert int(prompt_px) in presets.FRAMES_PX.values()
            assert int(seeds) >= 3
            assert 0 <= float(interval) < 50


def test_table_of_a_file_of_ones_own_as_markdown(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text("dataset,method,prompt_px,test_accuracy\ndigits,vp,8,0.5\ndigits,vp,8,0.75\n")
    main(["table", "2", "--world", "embedded", "--results", str(path)])
    assert capsys.readouterr().out.splitlines()[2] == "| digits | vp | 62.5 ± 158.8 |"
    main(["table", "2", "--world", "embedded", "--results", str(path), "--format", "csv"])
    assert capsys.readouterr().out.splitlines()[1] == "digits,vp,8,2,62.50,158.82"


def test_table_without_runs_says_how_to_make_them(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text("dataset,method,prompt_px,test_accuracy\ndigits,vp,8,0.5\n")
    with pytest.raises(SystemExit) as caught:
        main(["table", "6", "--world", "embedded", "--results", str(path)])
    assert caught.value.code == 2
    assert "no runs for table 6: make them with `adavipro sweep`" in capsys.readouterr().err


def test_figure_2_is_written_as_png_and_svg(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text("dataset,method,prompt_px,test_accuracy\ndigits,vp,8,0.5\ndigits,vp,28,0.75\n")
    main(["figure", "2", "--results", str(path), "--out", str(tmp_path / "curve")])
    written = [tmp_path / "curve.png", tmp_path / "curve.svg"]
    assert capsys.readouterr().out.splitlines() == [str(p) for p in written]
    assert all(p.stat().st_size > 1000 for p in written)


@pytest.mark.parametrize("content", [None, "", "dataset,method,prompt_px,test_accuracy\n", "a,b\n1,2\n"])
def test_table_of_a_file_that_holds_no_results_is_one_line_on_stderr(tmp_path, capsys, content):
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        main(["table", "2", "--world", "embedded", "--results", str(path)])
    assert caught.value.code == 2
    assert re.fullmatch(r"adavipro: .*results\.csv.*\n", capsys.readouterr().err)


def test_sweep_runs_the_studies_that_are_asked_for_and_tells_what_failed(tmp_path, monkeypatch, capsys):
    asked = []

    def sweep(runs, work, root, workers, **how):
        assert (work, root, workers) == ("report", tmp_path, 2)
        assert how == {"scheduler": None, "limit_s": None, "device": "cpu"}
        asked.append(
            [(r.dataset, r.method, r.prompt_px, r.seed, r.edges) for r in runs if r.method != "zero-shot"]
        )
        rows = [
            {"key": r.key(), "dataset": r.dataset, "test_accuracy": 0.5, "object_cover": None}
            for r in runs[-1:]
        ]
        return rows, {"a-run": "OSError: full"} if len(asked) == 2 else {}

    monkeypatch.setattr(sweeps, "sweep", sweep)
    out = tmp_path / "new" / "results.csv"
    given = "sweep --studies edges --datasets letters --prompt-px 28 --seeds 1 --workers 2".split()
    with pytest.raises(SystemExit) as caught:
        main([*given, "--root", str(tmp_path), "--out", str(out)])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "failed: a-run: OSError: full\n"
    letters = ("letters", "vp", 28, 1, True), ("letters", "adavipro", 28, 1, True)
    assert asked == [[*letters], [letters[1], ("letters", "adavipro", 28, 1, False)]]
    with out.open(newline="") as file:
        found = [(r["study"], r["value"], r["test_accuracy"]) for r in csv.DictReader(file)]
    assert found == [("main", "", "0.5"), ("edges", "False", "0.5")]


def test_tune_ranks_recipes_by_their_mean_on_validation(tmp_path, monkeypatch, capsys):
    def sweep(runs, work, root, **how):
        assert work == "validate"
        if {r.seed for r in runs} != set(presets.SEARCH_SEEDS[:1]):
            return [], {}
        cells = [(4.0, 1.0, 0.5), (4.0, 1.0, 0.6), (1.0, 0.25, 0.7), (1.0, 0.25, 0.5)]
        names = ("prompt_px", "prompt_lr", "prompt_start_std", "val_accuracy")
        return [dict(zip(names, (8, *cell), strict=True)) for cell in cells], {}

    monkeypatch.setattr(presets, "SEARCH", {"vp": {"prompt_lr": [1.0, 4.0], "prompt_start_std": [0.25, 1.0]}})
    monkeypatch.setattr(sweeps, "sweep", sweep)
    main(["tune", "--method", "vp", "--out", str(tmp_path / "tune.csv")])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 8 | 1.0 | 0.25 | 2 | 60.00 |",
        "| 8 | 4.0 | 1.0 | 2 | 55.00 |",
    ]
    assert len((tmp_path / "tune.csv").read_text().splitlines()) == 5


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
    assert "failed: 01_bad: ValueError: the sentence" in told.err
    assert re.search(r"00_fine: 3 s: .*runs/notebooks/00_fine-[0-9a-f]{12}\n", told.out)
    assert re.search(r"\n  .*00_fine-[0-9a-f]{12}/figure-2.png\n", told.out)
    main([*given, "--only", "00"])
    assert "00_fine: 3 s (kept): " in capsys.readouterr().out
