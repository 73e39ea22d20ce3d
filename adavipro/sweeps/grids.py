"""Table files: what a table of the paper, or one of ours, consists of, as a grid of runs."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adavipro import baselines, comparison, experiment, presets, published, sheets, studies, sweeps
from adavipro.classifiers import shipped
from adavipro.experiment import Experiment
from adavipro.settings import SettingError, from_mapping

TABLES = shipped("tables")
METHODS = (*experiment.METHODS, *baselines.METHODS, *presets.VARIANTS)
WITHOUT_SEED = ("zero-shot", "linear-probe")  # nothing is drawn
LEARNED = "learned"
KINDS: dict[str, type] = {"datasets": str, "methods": str, "prompt_px": int, "seeds": int}


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    method: what the table calls it. value: of the setting that the table varies; blank for none. learned: the run is
    AdaViPro's, and the cell's is the same with random masks that have as many regions on.
    """

    method: str
    value: Any
    run: sheets.Run
    learned: bool = False

    def settled(self, root: Path) -> "Cell":
        """The cell with the share of regions that AdaViPro's finished run has learned.

        Raises:
            SettingError: if that run is not finished.
        """
        assert isinstance(self.run, Experiment)  # a variant of AdaViPro
        result = experiment.read_result(self.run, root)
        if result is None:
            needed = self.run.folder(root).name
            raise SettingError(
                f"{self.method} takes its share of regions from {needed}, which is not finished: run adavipro first"
            )
        run = dataclasses.replace(self.run, random_share=studies.learned_share(result["share_on"]))
        return Cell(self.method, self.value, run)


@dataclass(frozen=True)
class Grid:
    """What a table file says; wrong names, types and values are refused with one sentence.

    table: the paper's number, or a name. methods: of METHODS; those without a prompt run at no width, those in which
    nothing is drawn without a seed. values: at most one setting and its values, for methods with a prompt.
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
        for name, kind in KINDS.items():
            _check_list(name, getattr(self, name), kind)
        for wrong in (m for m in self.methods if m not in METHODS):
            raise SettingError(f"methods has {wrong!r}, but the methods are: {', '.join(METHODS)}")
        if not isinstance(self.values, Mapping) or len(self.values) > 1:
            raise SettingError(
                f"values is {self.values!r}, but it must be one setting with a list of its values"
            )
        for name, values in self.values.items():
            _check_list(f"values of {name}", values, object)
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
            for wrong in (v for v in values or () if v not in own):
                raise SettingError(
                    f"table {self.table} has no {wrong!r} in {name}, but: {', '.join(map(str, own))}"
                )
            kept[name] = [v for v in own if values is None or v in values]
        return dataclasses.replace(self, **kept)

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that an unfinished table is a finished one with fewer seeds."""
        once = itertools.product([0], self.datasets, [m for m in self.methods if m in WITHOUT_SEED])
        cells = [self._plain(*place) for place in once]
        for seed, dataset in itertools.product(self.seeds, self.datasets):
            cells += [self._plain(seed, dataset, m) for m in self.methods if m == "fine-tune"]
            for px, (setting, value) in itertools.product(self.prompt_px, self._values()):
                changed = {
                    "dataset": dataset,
                    "prompt_px": px,
                    "seed": seed,
                    **({setting: value} if setting else {}),
                }
                cells += [
                    self._prompted(m, value, changed)
                    for m in self.methods
                    if m not in WITHOUT_SEED and m != "fine-tune"
                ]
        return cells

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, v) for name, values in self.values.items() for v in values] or [("", "")]

    def _plain(self, seed: int, dataset: str, method: str) -> Cell:
        if method in baselines.METHODS:
            return Cell(method, "", baselines.preset(self.world, method, dataset=dataset, seed=seed))
        return Cell(method, "", presets.preset(self.world, method, self.recipe, dataset=dataset, seed=seed))

    def _prompted(self, method: str, value: Any, changed: dict[str, Any]) -> Cell:
        base, settings = presets.VARIANTS.get(method, (method, {}))
        learned = LEARNED in settings.values()
        run = presets.preset(self.world, base if learned else method, self.recipe, **changed)
        return Cell(method, value, run, learned)


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
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from None
    try:
        if not isinstance(content, dict):
            raise SettingError("it must hold names with their values")
        needed = [f.name for f in dataclasses.fields(Grid) if f.default is f.default_factory is MISSING]
        for name in (n for n in needed if n not in content):
            raise SettingError(f"{name} is missing")
        return from_mapping(Grid, content)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from None


def sweep_table(grid: Grid, root: Path, **how: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run a table, or read what is finished. Returns a row a run, all with the same columns, and errors by run folder.

    `how` are `workers`, `scheduler`, `limit_s` and `device` of `sweeps.sweep`.
    """
    cells = grid.cells()
    rows, errors = _sweep(grid, [c for c in cells if not c.learned], root, how)
    settled = []
    for cell in (c for c in cells if c.learned):
        try:
            settled.append(cell.settled(root))
        except SettingError as error:
            errors[f"{cell.method} beside {cell.run.folder(root).name}"] = str(error)
    more, more_errors = _sweep(grid, settled, root, how)
    return rows + more, errors | more_errors


def finished_rows(grid: Grid, root: Path) -> list[dict[str, Any]]:
    """The rows of a table's finished runs, as `sweep_table` gives them; nothing runs."""
    rows = []
    for cell in grid.cells():
        with contextlib.suppress(SettingError):  # random masks whose share is not known yet
            run = (cell.settled(root) if cell.learned else cell).run
            if (row := sheets.finished_row(run, sheets.kind_of(run, "report"), root)) is not None:
                rows.append(_labelled(grid, cell, row))
    return rows


def _sweep(
    grid: Grid, cells: list[Cell], root: Path, how: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows, errors = sweeps.sweep([c.run for c in cells], "report", root, **how)
    found = {row["key"]: row for row in rows}
    keys = [(cell, cell.run.key()) for cell in cells]
    return [_labelled(grid, cell, found[key]) for cell, key in keys if key in found], errors


def _labelled(grid: Grid, cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    common = {name: row.get(name) for name in sheets.COLUMNS}
    named = {"method": cell.method, "recipe": grid.recipe if grid.world == "paper" else ""}
    return {"study": next(iter(grid.values), "main"), "value": cell.value, **common, **named}


def joined(
    grid: Grid, rows: Iterable[dict[str, Any]], former: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A grid's rows with those that a file had of other cells of its table."""
    own = {
        "dataset": grid.datasets, "method": grid.methods, "prompt_px": ["", *map(str, grid.prompt_px)],
        "value": ["", *(str(value) for _, value in grid._values())],
    }  # fmt: skip

    def other(row: dict[str, Any]) -> bool:
        elsewhere = any(row[name] not in known for name, known in own.items())
        return elsewhere or (row["method"] not in WITHOUT_SEED and row["seed"] not in map(str, grid.seeds))

    return [*filter(other, former), *rows]


def beside_published(
    grid: Grid, rows: Iterable[Mapping[str, Any]], part: Grid | None = None
) -> list[comparison.Line]:
    """Set what came out of one of the paper's tables beside its published figures; see `comparison.lines`.

    Args:
        part: only the lines of these cells; facts over several cells are about the whole table.
    """
    whole = comparison.lines(
        grid.table, rows, grid.datasets, grid.methods, grid.prompt_px, grid.values, grid.seeds
    )
    if part is None or part == grid:
        return whole
    titles = [published.TITLES.get(name, name) for name in part.datasets]
    own = {"dataset": titles, "method": part.methods, "prompt_px": ["", *map(str, part.prompt_px)]}
    return [ln for ln in whole if ln["seeds"] and all(ln[name] in known for name, known in own.items())]
