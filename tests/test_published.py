import csv

import pytest

from adavipro import published
from adavipro.settings import SettingError

ROWS = published.read()


def test_every_row_that_ships_has_a_source_and_no_cell_stands_twice():
    assert len(ROWS) > 20
    assert all(r["source"].startswith(("arXiv 2403.13282, Table ", "arXiv 2203.17274")) for r in ROWS)
    cells = [tuple(r[k] for k in ("table", "dataset", "method", "prompt_px", "quantity")) for r in ROWS]
    assert len(set(cells)) == len(cells)


def test_source_names_the_table_of_its_row():
    for r in ROWS:
        told = "arXiv 2203.17274 (VP)" if r["table"] == "VP" else f"arXiv 2403.13282, Table {r['table']}"
        assert r["source"] == told


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"table": "1", "dataset": "CIFAR10", "method": "adavipro", "prompt_px": 30}, 95.4),
        ({"table": "1", "dataset": "EuroSAT", "method": "adavipro", "prompt_px": "30"}, 96.8),
        ({"table": "2", "dataset": "UCF101", "method": "vp", "prompt_px": 112}, 54.5),
        ({"table": "3", "method": "vp", "quantity": "parameters"}, 0.07),
        ({"table": "4", "dataset": "DTD", "method": "adavipro", "quantity": "change without edges"}, -12.3),
        ({"table": "VP", "dataset": "Food101", "method": "vp", "quantity": "gain over zero-shot"}, -0.9),
    ],
)
def test_a_figure_is_found(wanted, value):
    assert published.find(**wanted) == value


@pytest.mark.parametrize(
    "wanted",
    [
        {"table": "1", "dataset": "CIFAR10", "method": "linear-probe"},  # no row
        {"table": "1", "dataset": "DTD", "method": "vp", "prompt_px": 30},
        {
            "table": "1",
            "dataset": "all nine",
            "method": "adavipro",
            "prompt_px": 30,
            "quantity": "gain over vp",
        },
    ],
)
def test_what_was_not_read_is_none(wanted):
    assert published.find(**wanted) is None


@pytest.mark.parametrize(
    ("column", "value"),
    [("table", "8"), ("dataset", "MNIST"), ("method", "lora"), ("prompt_px", 31), ("quantity", "speed")],
)
def test_a_value_that_no_column_knows_is_refused(column, value):
    wanted = {"table": "1", "dataset": "CIFAR10", "method": "vp"} | {column: value}
    with pytest.raises(SettingError, match=f"{column} is '{value}', but it must be one of: "):
        published.find(**wanted)


def test_a_table_is_its_rows_in_order():
    assert [r["value"] for r in published.of_table("6")] == ["32", "56", "70.9"]
    with pytest.raises(SettingError, match="table is '9'"):
        published.of_table("9")


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": ""}, "line 3: the source is blank"),
        ({"value": "about 90"}, "line 3: value is 'about 90', but it must be a number or blank"),
        ({"value": "nan"}, "line 3: value is 'nan', but it must be a number or blank"),
        ({"unit": "furlongs"}, "line 3: unit is 'furlongs', but it must be one of: %, points"),
        ({"method": "VP"}, "line 3: method is 'VP'"),
        (ROWS[0], "line 3: the same cell stands in line 2"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path, change, told):
    path = write(tmp_path / "wrong.csv", [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(SettingError, match=told):
        published.read(path)


def test_a_missing_column_is_refused(tmp_path):
    path = write(tmp_path / "short.csv", [{k: v for k, v in ROWS[0].items() if k != "note"}])
    with pytest.raises(SettingError, match="line 2: its columns must be table, dataset"):
        published.read(path)
