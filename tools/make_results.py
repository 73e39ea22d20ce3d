"""Make the results that ship in data/results anew: the search of recipes, the main grid and its studies, baselines.

    python tools/make_results.py tune --method vp --out data/results/search_vp.csv
    python tools/make_results.py widths --out data/results/search_vp_widths.csv
    python tools/make_results.py studies --out data/results/embedded.csv
    python tools/make_results.py controls --out data/results/controls.csv
    python tools/make_results.py epochs --out data/results/epochs.csv
    python tools/make_results.py baselines --out data/results/baselines.csv
    python tools/make_results.py tune --world photographs --method vp --out data/results/search_photographs_vp.csv
    python tools/make_results.py photographs --out data/results/photographs.csv

A run whose row stands in the file already, by its key, is not made again, on whatever machine it was made; every row
is written as its run ends, so it can be stopped at any time. Hours in all. `make results` does the whole of it.
"""

import argparse
import itertools
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from adavipro import datasets, experiment
from adavipro.datasets import photographs
from adavipro.datasets.embedded import CLASS_NAMES
from adavipro.datasets.images import cores
from adavipro.experiment import Experiment, preset
from adavipro.report import results, studies, tables
from adavipro.sweeps.grids import RANDOM, TABLES, Cell, Grid, as_random, read
from adavipro.sweeps.runs import Row, report, write_rows

NAMES, WIDTHS = list(CLASS_NAMES), list(studies.FRAMES_PX.values())
# What each method's search tries at the narrow frame: every combination of each of these grids, with the first seed.
SEARCH: dict[str, list[dict[str, list[Any]]]] = {
    "vp": [
        {"epochs": [5, 10], "prompt_lr": [4.0, 8.0]},
        {"epochs": [20], "prompt_lr": [2.0, 4.0, 8.0, 16.0, 32.0]},
    ],
    "adavipro": [
        {"epochs": [5, 10], "prompt_lr": [4.0], "generator_lr": [0.003], "on_bias": [2.0]},
        {"epochs": [20], "prompt_lr": [4.0], "generator_lr": [0.001, 0.03, 0.1], "on_bias": [2.0]},
        {"epochs": [20], "prompt_lr": [4.0, 8.0], "generator_lr": [0.003, 0.01], "on_bias": [0.0, 2.0]},
        {"epochs": [20], "prompt_lr": [8.0], "generator_lr": [0.001], "on_bias": [2.0]},
        {"epochs": [20], "prompt_lr": [16.0], "generator_lr": [0.01], "on_bias": [2.0]},
    ],
}
# What of it ran with the other seed: the best, and beside them the other starts and rates that were close.
FINALISTS: dict[str, list[dict[str, list[Any]]]] = {
    "vp": [{"epochs": [20], "prompt_lr": [4.0, 8.0, 16.0, 32.0]}],
    "adavipro": [
        {"epochs": [20], "prompt_lr": [4.0], "generator_lr": [0.003, 0.01], "on_bias": [0.0]},
        {"epochs": [20], "prompt_lr": [8.0], "generator_lr": [0.01], "on_bias": [0.0, 2.0]},
        {"epochs": [20], "prompt_lr": [16.0], "generator_lr": [0.01], "on_bias": [2.0]},
    ],
}
# At the frame of 30 px; VP's published rate is 40.
PHOTOGRAPHS_SEARCH: dict[str, list[dict[str, list[Any]]]] = {
    "vp": [{"epochs": [3], "prompt_lr": [2.5, 10.0, 40.0]}],
    "adavipro": [
        {"epochs": [3], "prompt_lr": [10.0], "generator_lr": [0.01], "on_bias": [0.0, 2.0]},
        {"epochs": [3], "prompt_lr": [10.0], "generator_lr": [0.1], "on_bias": [0.0]},
        {"epochs": [3], "prompt_lr": [40.0], "generator_lr": [0.01], "on_bias": [0.0]},
    ],
}
FINAL_MARGIN = 0.01  # of accuracy
MEASURED_BY_EPOCH = ("temperature", "logit_gap", "flips", "soft", "share_on")
LEARNING_RATES = (1e-3, 3e-3, 1e-2)  # of fine-tuning, tried on validation


def _alone(run: Experiment, work: str, root: Path) -> Row:
    """Do one run with one thread, as all results that ship; for a process of its own."""
    torch.set_num_threads(1)
    if work == "report":
        return report(run, root, "cpu")
    progress = experiment.validate(run, root)
    best, last = progress.history[progress.best_epoch], progress.history[-1]
    row = {name: run.flat()[name] for name in ("dataset", "method", "prompt_px", "seed", *studies.SEARCHED)}
    row |= {"val_accuracy": progress.best_accuracy, "last_val_accuracy": last["val_accuracy"]}
    return row | {"share_on": best["share_on"], "mask_diversity": best["mask_diversity"], "key": run.key()}


class Results:
    """A results file that grows: its rows are those of finished runs, each written as its run ends.

    Args:
        out: the file; runs whose key it has are not made again.
        root: folder of run folders.
        workers: runs at a time; None: one a core.
    """

    def __init__(self, out: Path, root: Path, workers: int | None = None) -> None:
        self.out, self.root, self.workers = out, root, workers or cores()
        former = results.read_table(out, ("key",)) if out.exists() else pd.DataFrame()
        whole = former.astype(object).where(former.notna(), None)
        self.former: list[Row] = whole.to_dict("records")
        self.known = {row["key"]: row for row in self.former}
        self.rows: list[Row] = []
        self.errors: dict[str, str] = {}

    def report(self, cells: Sequence[Cell]) -> None:
        """Report the runs of cells; random masks after the runs of AdaViPro whose share of regions they take."""
        random = [cell for cell in cells if cell.label["method"] == RANDOM]
        self.make("report", [cell for cell in cells if cell.label["method"] != RANDOM])
        beside = [(cell, self.known.get(cell.run.key())) for cell in random]
        self.make("report", [as_random(cell, row["share_on"]) for cell, row in beside if row is not None])

    def make(self, work: str, cells: Sequence[Cell]) -> list[Row]:
        """Do the work ("report" or "validate") for runs that the file lacks. Returns the rows of all, in order."""
        sources = {name: datasets.find(name) for name in {cell.run.dataset for cell in cells}}
        keys = [cell.run.key(sources[cell.run.dataset]) for cell in cells]
        todo = {key: cell.run for key, cell in zip(keys, cells, strict=True) if key not in self.known}

        def found() -> list[Row]:
            told = zip(keys, cells, strict=True)
            return [cell.label | self.known[key] | cell.label for key, cell in told if key in self.known]

        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)  # a fresh process for each run: it measures its memory
        with ProcessPoolExecutor(self.workers, context, max_tasks_per_child=1) as pool:
            started = {pool.submit(_alone, run, work, self.root): (key, run) for key, run in todo.items()}
            for future in tqdm(as_completed(started), total=len(started), unit="run", disable=not todo):
                key, run = started[future]
                if (error := future.exception()) is not None:
                    self.errors[run.folder(self.root, key).name] = str(error)
                    continue
                self.known[key] = future.result()
                self._write(self.rows + found())
        self.rows += found()
        self._write(self.rows)
        return found()

    def _write(self, rows: list[Row]) -> None:
        """Write rows, and after them those that the file had and that have not had their turn."""
        cell = lambda row: tuple(str(row.get(name)) for name in ("study", "value", "key"))  # noqa: E731
        made = {cell(row) for row in rows}
        write_rows(self.out, rows + [row for row in self.former if cell(row) not in made])

    def close(self) -> None:
        """Leave out rows that are nobody's any more; or, where runs failed, say so and end with code 1."""
        if self.errors:
            raise SystemExit("\n".join(f"failed: {name}: {error}" for name, error in self.errors.items()))
        write_rows(self.out, self.rows)


def search(book: Results, method: str, world: str = "embedded") -> None:
    """Search a method's recipe on validation, in two rounds, at the narrow frame.

    All candidates run with the first search seed, then FINALISTS with the others; on photographs those whose mean over
    data sets is within FINAL_MARGIN of the best.
    """
    small = world == "embedded"
    names = NAMES if small else list(photographs.FIND)

    def listed(grids: list[dict[str, list[Any]]]) -> list[Row]:
        return [dict(zip(g, values, strict=True)) for g in grids for values in itertools.product(*g.values())]

    def validate(seeds: Iterable[int], recipes: Iterable[Row]) -> list[Row]:
        base = preset(world, method)
        places = itertools.product(seeds, recipes, names)
        runs = [base.changed(dataset=name, seed=seed, **own) for seed, own, name in places]
        return book.make("validate", [Cell({}, run) for run in runs])

    first, *others = studies.SEARCH_SEEDS
    recipes = listed((SEARCH if small else PHOTOGRAPHS_SEARCH)[method])
    rows = pd.DataFrame(validate([first], recipes))
    means = rows.groupby([*recipes[0]])["val_accuracy"].mean()
    close = [own for own in recipes if means[tuple(own.values())] >= means.max() - FINAL_MARGIN]
    validate(others, listed(FINALISTS[method]) if small else close)


def picked(rows: pd.DataFrame) -> Row:
    """The recipe that a search picks: of those within a standard error of the best mean, the smallest prompt rate.

    The standard error is that of a mean over data sets and seeds, pooled over the recipes that ran with all seeds. A
    larger rate would weaken a method at wide frames. A recipe of AdaViPro's counts if no run's masks are collapsed,
    under 5 or over 95 % on; of equal rates the one with the better mean is taken.
    """
    settings = [name for name in studies.SEARCHED if name in rows and rows[name].notna().all()]
    if (rows["method"] == "adavipro").all():
        lost = (
            rows.assign(lost=~rows["share_on"].between(0.05, 0.95)).groupby(settings)["lost"].transform("any")
        )
        rows = rows[~lost]
    by_seed = rows.groupby([*settings, "seed"])["val_accuracy"].mean().unstack("seed").dropna()
    error = (by_seed.var(axis=1).mean() / by_seed.shape[1]) ** 0.5
    means = by_seed.mean(axis=1)
    near = means[means >= means.max() - error].rename("mean").reset_index()
    best = near.sort_values(["prompt_lr", "mean"], ascending=[True, False]).iloc[0]
    return {name: best[name] for name in settings}


def search_widths(book: Results) -> None:
    """Search VP's rate and start on validation for each of studies.TUNED_PX, with one seed."""
    base, settings = preset("embedded", "vp", seed=studies.SEARCH_SEEDS[0]), studies.VARIED["tuned"].values()
    places = itertools.product(studies.TUNED_PX, settings, NAMES)
    runs = [base.changed(prompt_px=px, dataset=name, **own) for px, own, name in places]
    book.make("validate", [Cell({}, run) for run in runs])


def runs_of(study: str) -> list[Cell]:
    """List the runs of one of STUDIES."""

    def cells(methods: list[str], px: list[int], seeds: Sequence[int]) -> list[Cell]:
        made = Grid(study, NAMES, methods, px, list(seeds), "embedded").cells()
        return [Cell({**label, "study": study}, run) for label, run in made]

    if study == "main":
        return cells(["zero-shot", "vp", "adavipro"], WIDTHS, studies.REPORT_SEEDS)
    if study == "tuned":
        return tuned_runs()
    methods = ["adavipro"] if study in studies.ABLATIONS else ["vp", "adavipro"]
    widths = [studies.FULL_PX] if study in studies.OURS else studies.ENDS_PX
    own = cells(methods, widths, studies.ABLATION_SEEDS)
    return [
        Cell({**label, "value": text}, run.changed(**change))
        for text, change in studies.VARIED[study].items()
        if text != studies.own_value(study)  # those are the main grid's
        for label, run in own
    ]


def tuned_runs() -> list[Cell]:
    """List the runs of both methods with what was best for VP at each width in the search that ships."""
    names = ["prompt_lr", "prompt_start_std"]
    means = tables.read("search-vp-widths").groupby(["prompt_px", *names])["val_accuracy"].mean()
    cells = []
    for px in means.index.unique(0):
        best = dict(zip(names, means[px].idxmax(), strict=True))
        text, change = next((t, c) for t, c in studies.VARIED["tuned"].items() if best.items() <= c.items())
        for seed, name, method in itertools.product(studies.ABLATION_SEEDS, NAMES, ("vp", "adavipro")):
            run = preset("embedded", method, dataset=name, prompt_px=int(px), seed=seed, **change)
            cells.append(Cell({"study": "tuned", "value": text, "method": method}, run))
    return cells


def make_studies(book: Results) -> None:
    """Make the results that ship, study by study."""
    for study in studies.STUDIES:
        cells = runs_of(study)
        print(f"{study}: {len(cells)} runs", flush=True)
        book.report(cells)


def gather_epochs(out: Path, root: Path) -> list[Row]:
    """How far the noise reached in each epoch of AdaViPro's runs of the main grid at both ends.

    From the runs' folders; what `out` has of a run that was made elsewhere is kept.
    """
    former = (
        results.read_table(out, ("key",))
        if out.exists()
        else pd.DataFrame(columns=["key", "epoch", *MEASURED_BY_EPOCH])
    )
    rows: list[Row] = []
    for _, run in runs_of("main"):
        if run.method != "adavipro" or run.prompt.prompt_px not in studies.ENDS_PX:
            continue
        told = {"dataset": run.dataset, "prompt_px": run.prompt.prompt_px, "seed": run.seed, "key": run.key()}
        history = former[former["key"] == told["key"]]
        if (metrics := run.folder(root, told["key"]) / "metrics.csv").exists():
            history = pd.read_csv(metrics)
        rows += [told | line for line in history[["epoch", *MEASURED_BY_EPOCH]].round(5).to_dict("records")]
    return rows


def make_baselines(book: Results) -> None:
    """Make the shipped results of baselines: rows of the studies "main", and "search", of fine-tuning's rate."""
    grid = Grid("1", NAMES, ["linear-probe", "fine-tune"], WIDTHS, list(studies.REPORT_SEEDS), "embedded")
    cells = [Cell({"study": "main"}, run) for _, run in grid.cells()]
    for seed, rate, name in itertools.product(studies.SEARCH_SEEDS[:1], LEARNING_RATES, NAMES):
        run = preset("embedded", "fine-tune", dataset=name, seed=seed, learning_rate=rate)
        cells.append(Cell({"study": "search", "test_accuracy": None}, run))  # a search sees no test figure
    book.make("report", cells)


def make_photographs(book: Results) -> None:
    """Make the shipped results on photographs: every method at every width, and with few images a class."""
    for name in ("photographs", "photographs_shots"):
        book.report(read(TABLES / f"{name}.yaml").cells())


def make_controls(book: Results) -> None:
    """Make the shipped results of other answers to "where"."""
    book.report(read(TABLES / "embedded_controls.yaml").cells())


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and do what it asks for; what fails ends it with the sentences and code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = ("tune", "widths", "studies", "controls", "epochs", "baselines", "photographs")
    parser.add_argument("what", choices=choices)
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument("--workers", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--world", choices=("embedded", "photographs"), default="embedded", help="of tune")
    parser.add_argument("--method", choices=tuple(SEARCH), help="of tune")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{args.out}.lock", timeout=0):
            _fill(args)
    except Timeout:
        told = "wait until it ends, or give another --out"
        raise SystemExit(f"another process is filling {args.out}: {told}") from None


def _fill(args: argparse.Namespace) -> None:
    """Make what the command line asks for, while no other process writes to its file."""
    if args.what == "epochs":
        write_rows(args.out, gather_epochs(args.out, args.root))
        return
    book = Results(args.out, args.root / ("tune" if args.what in ("tune", "widths") else ""), args.workers)
    if args.what == "tune":
        search(book, args.method, args.world)
    else:
        make = {
            "widths": search_widths, "studies": make_studies, "controls": make_controls, "baselines": make_baselines,
            "photographs": make_photographs,
        }  # fmt: skip
        make[args.what](book)
    book.close()
    if args.what == "tune":
        rows = tables.read("search-vp", args.out)  # all searches have its columns
        print(tables.to_markdown(tables.search(rows)), f"picked: {picked(rows)}", sep="\n")


if __name__ == "__main__":
    main()
