"""Table files: what they may say, which runs they mean, and what comes out of them."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from helpers import draw_splits, tiny

from adavipro import baselines, datasets, experiment, grids, presets, published, sheets, sweeps, tables
from adavipro.settings import SettingError

TABLES = Path(__file__).parents[1] / "tables"
NINE = [name.lower() for name in published.DATASETS]
FOUR = ["cifar10", "cifar100", "dtd", "ucf101"]
ABLATIONS = {"4": "edges", "5": "temperature_gamma", "6": "region_px", "7": "generator_width"}
SOUND = {
    "table": "x", "world": "embedded", "datasets": ["digits", "letters"], "methods": ["zero-shot", "vp"],
    "prompt_px": [8], "seeds": [0, 1],
}  # fmt: skip


def written(folder: Path, **changes) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (SOUND | changes).items() if v is not None}))
    return path


def of_file(name: str) -> grids.Grid:
    return grids.read(TABLES / f"{name}.yaml")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": ["digits"]}, "there is no setting 'dataset': did you mean 'datasets'?"),
        ({"methods": None}, "methods is missing"),
        ({"table": 1}, "table is 1, but it must be text: write it in quotes"),
        ({"datasets": ["digit"]}, "dataset is 'digit', but the data sets are: digits, letters"),
        ({"datasets": "digits"}, "datasets is 'digits', but it must be a list with at least one value"),
        (
            {"methods": ["vpp"]},
            "methods has 'vpp', but the methods are: zero-shot, vp, adavipro, linear-probe",
        ),
        ({"prompt_px": ["8"]}, "prompt_px has '8' of type str, but needs int"),
        ({"prompt_px": [0]}, "prompt_px is 0, but it must be at least 1"),
        ({"seeds": []}, "seeds is [], but it must be a list with at least one value"),
        ({"seeds": [0, True]}, "seeds has True of type bool, but needs int"),
        ({"seeds": [0, 0]}, "seeds has 0 twice: remove one"),
        ({"world": "small"}, "world is 'small', but it must be one of: embedded, paper"),
        ({"recipe": "mine"}, "recipe is 'mine', but it must be one of: paper, ours"),
        ({"values": {"edge": [True]}}, "there is no setting 'edge': did you mean 'edges'?"),
        ({"values": {"edges": ["no"]}}, "edges is 'no' of type str, but it must be bool"),
        ({"values": {"edges": True}}, "values of edges is True, but it must be a list"),
        (
            {"values": {"edges": [True], "hard": [True]}},
            "values is {'edges': [True], 'hard': [True]}, but it must be one setting with a list of its values",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_one_sentence(changes, told, tmp_path):
    path = written(tmp_path, **changes)
    with pytest.raises(SettingError) as refused:
        grids.read(path)
    assert str(refused.value).startswith(f"{path}: {told}")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_table_is_refused_with_one_sentence(tmp_path):
    path = tmp_path / "table.yaml"
    with pytest.raises(SettingError, match=r"table.yaml cannot be read as a table: .*No such file"):
        grids.read(path)
    path.write_text("a: [")
    with pytest.raises(SettingError, match=r"cannot be read as a table: while parsing"):
        grids.read(path)
    path.write_text("- a")
    with pytest.raises(SettingError, match="it must hold names with their values"):
        grids.read(path)


def test_the_embedded_table_is_what_ships():
    cells = of_file("embedded").cells()
    assert [c.run for c in cells] == sweeps.grid(
        datasets.CLASS_NAMES, experiment.METHODS, presets.FRAMES_PX.values(), presets.REPORT_SEEDS
    )
    shipped = [row["key"] for row in tables.read_results() if row["study"] == "main"]
    assert [c.run.key() for c in cells] == shipped


def test_every_table_that_ships_can_be_read_and_has_its_files_name():
    names = {path.stem for path in TABLES.glob("*.yaml")}
    assert {f"table{n}" for n in "1234567"} | {
        "figure2",
        "controls",
        "embedded",
        "embedded_controls",
    } == names
    assert {of_file(name).table for name in names} == {name.removeprefix("table") for name in names}


@pytest.mark.parametrize("number", ["1", "2", "3", *ABLATIONS])
def test_the_papers_tables_are_its_grids_by_its_recipe(number):
    grid = of_file(f"table{number}")
    methods = {"2": ["vp", "adavipro"]}.get(
        number, ["adavipro"] if number in ABLATIONS else list(tables.TABLE_1)
    )
    assert (grid.table, grid.world, grid.recipe, grid.seeds) == (number, "paper", "paper", [0, 1, 2])
    assert (grid.methods, grid.datasets) == (methods, NINE if number in "13" else FOUR)
    assert grid.prompt_px == ([5, 60, 90, 112] if number == "2" else [30])
    assert list(grid.values) == ([ABLATIONS[number]] if number in ABLATIONS else [])
    for cell in (c for c in grid.cells() if c.method == "adavipro"):
        (setting,) = grid.values or ["seed"]
        changed = {"dataset": cell.run.dataset, "prompt_px": cell.run.prompt_px, "seed": cell.run.seed}
        value = cell.run.seed if setting == "seed" else cell.value
        assert cell.run == presets.preset("paper", "adavipro", **{**changed, setting: value})


def test_methods_run_at_the_widths_and_seeds_that_they_have(tmp_path):
    methods = ["zero-shot", "linear-probe", "fine-tune", "vp", "smm", "random-masks"]
    cells = grids.read(
        written(tmp_path, methods=methods, prompt_px=[8, 28], values={"epochs": [5, 9]})
    ).cells()
    many = 2 * 2 * 2 * 2  # data sets, seeds, widths, values
    count = dict(zip(methods, [2, 2, 4, many, many, many], strict=True))
    assert Counter(c.method for c in cells) == count
    assert len({c.run for c in cells}) == len(cells)
    for cell in cells:
        base, settings = presets.VARIANTS.get(cell.method, (cell.method, {}))
        assert cell.run.method == base
        assert cell.learned == (cell.method == "random-masks")
        if cell.method == "smm":
            assert {name: getattr(cell.run, name) for name in settings} == settings
        assert cell.value == (
            "" if isinstance(cell.run, baselines.Baseline) or base == "zero-shot" else cell.run.epochs
        )


def test_a_table_is_narrowed_to_what_it_has(tmp_path):
    grid = grids.read(written(tmp_path))
    kept = grid.narrowed({"datasets": ["letters"], "methods": ["vp"], "prompt_px": None, "seeds": [1]})
    assert [(c.run.dataset, c.method, c.run.seed) for c in kept.cells()] == [("letters", "vp", 1)]
    with pytest.raises(SettingError, match=r"table x has no 15 in prompt_px, but: 8"):
        grid.narrowed({"prompt_px": [15]})


def test_random_masks_take_the_share_of_adavipros_finished_run(tmp_path):
    run = tiny("adavipro")
    cell = grids.Cell("random-masks", "", run, learned=True)
    with pytest.raises(
        SettingError, match=f"random-masks takes its share of regions from {run.folder(tmp_path).name}"
    ):
        cell.settled(tmp_path)
    run.folder(tmp_path).mkdir()
    (run.folder(tmp_path) / "result.json").write_text(json.dumps({"key": run.key(), "share_on": 0.2345}))
    assert cell.settled(tmp_path).run == dataclasses.replace(run, random_share=0.23)


def test_what_comes_out_has_the_same_columns_and_the_tables_names(tmp_path, monkeypatch):
    asked: list[list[str]] = []

    def finish(runs, work, root, **how):
        asked.append([run.method for run in runs])
        assert (work, how) == ("report", {"workers": 3})
        for run in runs:
            run.folder(root).mkdir(parents=True, exist_ok=True)
            told = {"key": run.key(), "share_on": 0.5, "test_accuracy": 0.25, "versions": {"torch": "2"}}
            (run.folder(root) / "result.json").write_text(json.dumps(told))
        return [sheets.finished_row(run, work, root) for run in runs if run.method != "vp"], {
            "vp": "it failed"
        }

    monkeypatch.setattr(sweeps, "sweep", finish)
    methods = ["linear-probe", "vp", "adavipro", "random-masks"]
    path = written(tmp_path, methods=methods, datasets=["digits"], seeds=[4])
    rows, errors = grids.sweep_table(grids.read(path).narrowed({"prompt_px": [8]}), tmp_path, workers=3)
    assert asked == [["linear-probe", "vp", "adavipro"], ["adavipro"]]
    assert errors == {"vp": "it failed"}
    assert [row["method"] for row in rows] == ["linear-probe", "adavipro", "random-masks"]
    assert {tuple(row) for row in rows} == {("study", "value", *sheets.COLUMNS, "recipe")}
    assert {(row["study"], row["test_accuracy"]) for row in rows} == {("main", 0.25)}


def test_what_came_out_stands_beside_the_published_figures():
    row = {
        "dataset": "dtd",
        "method": "adavipro",
        "prompt_px": "30",
        "seed": "0",
        "key": "a",
        "value": "False",
    }
    lines = grids.beside_published(
        grids.read(grids.TABLES / "table4.yaml"), [{**row, "test_accuracy": "0.5"}]
    )
    (line,) = [line for line in lines if (line["dataset"], line["setting"]) == ("DTD", "edges=False")]
    assert (line["ours"], line["seeds"]) == ("50.00", "1")


# Slurm as far as it is needed here: a job is a process group, and its script is copied when it is handed in.
SBATCH = """#!/bin/sh
cp "$1" "$0-$$.job"
setsid sh "$0-$$.job" > "$0-$$.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job; do kill -TERM -- "-$job" 2> /dev/null; done
exit 0
"""


def test_a_table_runs_in_jobs_of_slurm(tmp_path):
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    pictures = f"folder:{draw_splits(tmp_path / 'pictures')}"
    table = written(tmp_path, datasets=[pictures], methods=["zero-shot"], seeds=[0])
    command = [sys.executable, TABLES / "slurm.py", table, "--root", tmp_path / "runs", "--interface", "lo"]
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--cores", "1", "--queue", "short", "--gpus", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "runs" / "tables" / "table.csv")
    (row,) = tables.read_rows(tmp_path / "runs" / "tables" / "table.csv")
    assert (row["dataset"], row["method"]) == (pictures, "zero-shot")
    (job,) = (tmp_path / "bin").glob("*.job")
    assert {"#SBATCH -p short", "#SBATCH --cpus-per-task=1", "export OMP_NUM_THREADS=1"} <= set(
        job.read_text().splitlines()
    )
