"""The commands of the paper's world, from their words to what they print and write."""

import csv

import nine_samples
import pytest

from adavipro import sheets, storage, sweeps
from adavipro.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")
TABLE = ["sweep", "tables/table1.yaml", "--methods", "adavipro", "--datasets"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """EuroSAT and DTD, small, where the commands look for them."""
    folder = tmp_path / "data"
    for name in ("eurosat", "dtd"):
        nine_samples.write(name, folder)
    monkeypatch.setenv("ADAVIPRO_DATA", str(folder))
    return folder


def told_rows(runs, work, root, **how):
    """In place of a GPU: what runs of these settings could have said."""
    assert (work, how["device"], how["limit_s"]) == ("report", "cuda", 60 * 90)
    rows = [
        dict.fromkeys(sheets.COLUMNS) | {
            "dataset": r.dataset, "method": r.method, "prompt_px": r.prompt_px, "seed": r.seed, "key": r.key(),
            "test_accuracy": 0.96 + 0.002 * r.seed, "parameters": 202_706, "split": "ours, version 1",
        }
        for r in runs
    ]  # fmt: skip
    return rows, {}


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_of_table_1_is_one_command_and_stands_beside_the_published_figure(
    tmp_path, data, monkeypatch, capsys
):
    monkeypatch.setattr(sweeps, "sweep", told_rows)
    how = ["--device", "cuda", "--limit", "90", "--root", str(tmp_path)]
    main([*TABLE, "eurosat", *how])
    (line,) = [ln for ln in capsys.readouterr().out.splitlines() if ln.startswith("| EuroSAT | adavipro")]
    for told in ("| 96.8 |", "| 96.2 ± 0.5 |", "| -0.6 |", "| no |"):
        assert told in line
    main([*TABLE, "dtd", "--seeds", "0", *how])  # adds to the table, and takes nothing out of it
    rows = read(tmp_path / "tables" / "table1.csv")
    assert [(r["dataset"], r["seed"]) for r in rows] == [*(("eurosat", s) for s in "012"), ("dtd", "0")]
    main([*TABLE, "eurosat", "--seeds", "1", *how])  # again: the row is replaced
    assert len(read(tmp_path / "tables" / "table1.csv")) == 4

    capsys.readouterr()
    main(["table", "1", "--root", str(tmp_path)])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("Published figures (")
    assert "ours, version 1" in lines[0]
    assert len([ln for ln in lines if ln.startswith("| CIFAR10 |")]) >= 5
    (cifar,) = [ln for ln in lines if ln.startswith("| CIFAR10 | adavipro")]
    assert "| 95.4 |  |  |  |  |" in cifar  # not run: blank
    for ending in ("md", "csv", "tex"):
        written = tmp_path / "tables" / f"table1-published.{ending}"
        assert str(written) in shown.err
        assert "adavipro" in written.read_text()
    commands = {ln["command"] for ln in read(tmp_path / "tables" / "table1-published.csv")}
    assert "adavipro sweep tables/table1.yaml --datasets eurosat --methods adavipro" in commands


@pytest.mark.parametrize(("form", "begins"), [("csv", "table,dataset,method"), ("latex", "\\begin{tabular}")])
def test_tables_beside_published_figures_have_three_forms(tmp_path, capsys, form, begins):
    main(["table", "4", "--format", form, "--root", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "-12.3" in out.replace("$-$", "-")
    assert ("tabular" in out) == (form == "latex")


def test_fetch_lists_what_is_there_and_where_from(data, capsys):
    main(["fetch", "--list"])
    out = capsys.readouterr().out
    state = {line.split(" | ")[0][2:]: line.split(" | ")[1] for line in out.splitlines()[2:-1]}
    assert state["dtd"] == state["eurosat"] == "there"
    assert state["sun397"] == state["cifar10"] == "not there"
    assert out.endswith(f"folder: {storage.datasets_folder()}\n")


def test_fetch_tells_every_data_set_that_cannot_be_had_and_brings_the_others(data, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fetch", "sun397", "eurosat"])
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert "eurosat: " in told.out
    assert told.err.startswith("adavipro: ")
    assert "SUN397" in told.err


def test_midframes_says_where_videos_are_missing(data, capsys):
    with pytest.raises(SystemExit):
        main(["midframes", str(data)])
    assert f"adavipro: {data} holds no videos" in capsys.readouterr().err
