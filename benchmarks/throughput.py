"""Time a small grid of the embedded world with one worker and with two: runs a minute, and what a second one brings.

python benchmarks/throughput.py [--runs 4] [--epochs 5] [--workers 1 2]

Runs of VP on `letters`, in a fresh folder; beside them the same runs in one process, without sheets and Dask.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import pandas
import torch

from adavipro import experiment
from adavipro.report.tables import to_markdown
from adavipro.sweeps import cluster, runs


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    wanted = [
        experiment.preset("embedded", "vp", dataset="letters", epochs=args.epochs, seed=seed)
        for seed in range(args.runs)
    ]
    torch.set_num_threads(1)
    rows = []

    def measure(name: str, seconds: float) -> None:
        a_minute = 60 * len(wanted) / seconds
        first = rows[0]["runs a minute"] if rows else f"{a_minute:.1f}"
        beside = f"{a_minute / float(first):.2f}"
        rows.append(
            {
                "how": name,
                "seconds": f"{seconds:.1f}",
                "runs a minute": f"{a_minute:.1f}",
                "beside the first": beside,
            }
        )

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for run in wanted:
            experiment.run(run, Path(folder), progress_bar=False)
        measure("in one process", time.perf_counter() - started)
    for workers in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            _, errors = runs.sweep(wanted, "report", Path(folder), workers=workers)
            measure(f"sweep, {workers} worker{'s' * (workers > 1)}", time.perf_counter() - started)
        if errors:
            raise SystemExit("\n".join(f"{name}: {error}" for name, error in errors.items()))
    print(to_markdown(pandas.DataFrame(rows)), end="")
    threads = cluster.shares(args.workers[0], "cpu")[0]["OMP_NUM_THREADS"]
    print(
        f"\n{os.cpu_count()} cores ({platform.machine()}), {threads} threads a run with {args.workers[0]} worker(s)"
    )


if __name__ == "__main__":
    main()
