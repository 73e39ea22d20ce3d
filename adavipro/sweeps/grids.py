"""Table files: what a table of the paper, or one of ours, consists of, as a grid of runs."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from filelock import FileLock

from adavipro import experiment
from adavipro.experiment import Experiment, preset
from adavipro.io import expanded, shipped
from adavipro.recipe import SettingError, check_names
from adavipro.report import results
from adavipro.report.results import WITHOUT_PROMPT
from adavipro.sweeps.runs import Found, Row, sweep, write_rows

TABLES = shipped("tables")
METHODS = (*experiment.METHODS, *experiment.VARIANTS)
WITHOUT_SEED = ("zero-shot", "linear-probe")  # nothing is drawn
RANDOM = "random-masks"  # these have the share of regions that AdaViPro's run beside them learned
KINDS: dict[str, type] = {"datasets": str, "methods": str, "prompt_px": int, "seeds": int}


class Cell(NamedTuple):
    """One run of a table, and what its row says besides: study (the setting that the table varies), value, method.

    run: of random masks, AdaViPro's beside it, until its share of regions is known.
    """

    label: Row
    run: Experiment


@dataclass(frozen=True)
class Grid:
    """What a table file says; wrong names, types and values are refused with one sentence.

    table: the paper's number, or a name. methods: of METHODS; those without a prompt run at no width, those in which
    nothing is drawn once. values: at most one setting and its values, for methods with a prompt; shots are for all, and
    drawn for each seed.
    """

    table: str
    datasets: Sequence[str]
    methods: Sequence[str]
    prompt_px: Sequence[int]
    seeds: Sequence[int]
    world: str = "paper"
    recipe: str = "paper"
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.table, str):
            raise SettingError(f"table is {self.table!r}, but it must be text: write it in quotes")
        if not isinstance(self.values, Mapping) or len(self.values) > 1:
            raise SettingError(
                f"values is {self.values!r}, but it must be one setting with a list of its values"
            )
        for name, kind in KINDS.items():
            _check_list(name, getattr(self, name), kind)
        for name, values in self.values.items():
            _check_list(f"values of {name}", values, object)
        for wrong in (m for m in self.methods if m not in METHODS):
            raise SettingError(f"methods has {wrong!r}, but the methods are: {', '.join(METHODS)}")
        self.cells()  # refuses what its runs refuse

    def narrowed(self, keep: Mapping[str, Sequence[Any] | None]) -> "Grid":
        """The grid with some of its data sets, methods, widths or seeds only.

        Args:
            keep: what to keep, by the names of KINDS; None: all.

        Raises:
            SettingError: if the grid does not have what is to be kept.
        """
        kept: dict[str, Any] = {}
        for name, values in keep.items():
            own = getattr(self, name)
            for wrong in (value for value in values or () if value not in own):
                told = f"table {self.table} has no {wrong!r} in {name}"
                raise SettingError(f"{told}, but: {', '.join(map(str, own))}")
            kept[name] = [value for value in own if values is None or value in values]
        return dataclasses.replace(self, **kept)

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that an unfinished table is a finished one with fewer seeds."""
        study = next(iter(self.values), "main")
        varied = [{study: value} for value in self.values.get(study, [])] or [{}]
        once = WITHOUT_SEED if study != "shots" else ()
        runs = [(m, {"dataset": name}) for name in self.datasets for m in self.methods if m in once]
        for seed, name in itertools.product(self.seeds, self.datasets):
            place: Row = {"dataset": name, "seed": seed}
            others = [m for m in self.methods if m in WITHOUT_PROMPT and m not in once]
            runs += [(m, place | change) for change in (varied if study == "shots" else [{}]) for m in others]
            for px, change, m in itertools.product(self.prompt_px, varied, self.methods):
                runs += [(m, {**place, "prompt_px": px, **change})] if m not in WITHOUT_PROMPT else []
        labels = [{"study": study, "value": place.get(study, ""), "method": m} for m, place in runs]
        made = [
            preset(self.world, "adavipro" if m == RANDOM else m, self.recipe, **place) for m, place in runs
        ]
        return list(map(Cell, labels, made))


def _check_list(name: str, values: Any, kind: type) -> None:
    """Refuse what is no list, an empty one, a value of another type, and one that stands there twice."""
    if not isinstance(values, list) or not values:
        raise SettingError(f"{name} is {values!r}, but it must be a list with at least one value")
    for i, value in enumerate(values):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise SettingError(
                f"{name} has {value!r} of type {type(value).__name__}, but needs {kind.__name__}"
            )
        if value in values[:i]:
            raise SettingError(f"{name} has {value!r} twice: remove one")


def read(path: Path) -> Grid:
    """Read a table file.

    Raises:
        SettingError: naming the file, if it is not there or not YAML, or says what is not known.
    """
    try:
        content = yaml.safe_load(expanded(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise SettingError("it must hold names with their values")
        check_names(map(str, content), [f.name for f in dataclasses.fields(Grid)])
        for name in (name for name in ("table", *KINDS) if name not in content):
            raise SettingError(f"{name} is missing")
        return Grid(**content)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise SettingError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from None


def as_random(cell: Cell, share_on: float) -> Cell:
    """A cell of AdaViPro as random masks, with the share of regions that its run learned."""
    share = min(max(round(share_on, 2), 0.01), 0.99)  # neither zero-shot nor VP
    return Cell(cell.label, cell.run.changed(where="random", random_share=share))


def sweep_cells(cells: Sequence[Cell], root: Path, **how: Any) -> Found:
    """Report the runs of a grid; random masks when the runs of AdaViPro that they stand beside are finished.

    Args:
        how: as `runs.sweep` takes it.
    """
    ready = [cell for cell in cells if cell.label["method"] != RANDOM]
    rows, errors = sweep([c.run for c in ready], root, labels=[c.label for c in ready], **how)
    settled = []
    for label, run in (cell for cell in cells if cell.label["method"] == RANDOM):
        if (beside := experiment.read_result(run, root)) is None:
            told = "it takes its share of regions from this run, which is not finished: run adavipro first"
            errors[f"{RANDOM} beside {run.folder(root).name}"] = told
        else:
            settled.append(as_random(Cell(label, run), beside["share_on"]))
    more, failed = sweep([c.run for c in settled], root, labels=[c.label for c in settled], **how)
    return rows + more, errors | failed


def sweep_table(grid: Grid, root: Path, out: Path | None = None, **how: Any) -> Found:
    """Run a table, or read what is finished. Returns a row a run, all with the same columns, and errors by run folder.

    Args:
        out: results file to write; its rows of other cells are kept. It is read, and refused, before any run.
        how: as `runs.sweep` takes it.
    """
    if out and out.exists():
        results.read(out)
    rows, errors = sweep_cells(grid.cells(), root, **how)
    rows = [{**row, "recipe": grid.recipe if grid.world == "paper" else ""} for row in rows]
    if out and rows:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{out}.lock"):  # another sweep may have written to it meanwhile
            write_rows(out, joined(grid, rows, results.read(out)) if out.exists() else rows)
    return rows, errors


def joined(grid: Grid, rows: Sequence[Row], former: pd.DataFrame) -> pd.DataFrame:
    """A grid's rows with those that a file had of other cells of its table."""
    values = [str(value) for own in grid.values.values() for value in own]
    own = former["dataset"].isin(grid.datasets) & former["method"].isin(grid.methods)
    own &= former["value"].isin(["", *values])
    own &= former["prompt_px"].isin(grid.prompt_px) | former["method"].isin(WITHOUT_PROMPT)
    study = next(iter(grid.values), "main")
    own &= former["study"] == study
    own &= former["seed"].isin(grid.seeds) | (former["method"].isin(WITHOUT_SEED) & (study != "shots"))
    return pd.concat([former[~own].astype(object), pd.DataFrame(rows, dtype=object)])
