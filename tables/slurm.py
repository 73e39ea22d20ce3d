"""Run a table on a Slurm cluster: jobs that each have a worker, and the sweep that hands them its runs.

    pip install 'adavipro[sweeps]' dask-jobqueue
    python tables/slurm.py tables/table1.yaml --jobs 8 --queue gpu --gpus 1 --walltime 08:00:00

Start it where it may stay for as long as the table takes, in a checkout on a file system that the nodes share; a login
node will do, it only waits. The nodes reach it over the network of `--interface`. A job has one run at a time; when
Slurm ends a job, its run goes on from its checkpoint in another. Ended and called again, it repeats nothing that is
finished. `adavipro sweep FILE --scheduler ADDRESS`, with the address that this prints, does the same from another shell
while it runs.
"""

import argparse
import shlex
import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster

from adavipro.sweeps import cluster, grids


def open_cluster(args: argparse.Namespace) -> SLURMCluster:
    """Say what a job is. Returns the cluster, which asks Slurm for jobs when it is told how many."""
    extra = [f"--gres=gpu:{args.gpus}"] if args.gpus else []
    return SLURMCluster(
        queue=args.queue,
        account=args.account,
        walltime=args.walltime,
        job_cpu=args.cores,
        cores=1,  # a worker has one run at a time, which has all cores of the job
        processes=1,
        memory=args.memory,
        job_extra_directives=extra,
        job_script_prologue=[f"export OMP_NUM_THREADS={args.cores}", f"cd {shlex.quote(str(Path.cwd()))}"],
        worker_extra_args=[
            "--memory-limit",
            "0",
        ],  # Slurm's limit holds; a run is no part of its worker's memory
        log_directory=str(args.root / "slurm"),
        local_directory=args.scratch,
        interface=args.interface,
        python=sys.executable,
        scheduler_options={"dashboard_address": ":0"},
    )


def main() -> None:
    """Read the command line, wait for the first worker and run the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="as tables/table1.yaml")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--queue", help="Slurm's partition")
    parser.add_argument("--account")
    parser.add_argument("--walltime", default="08:00:00", help="of a job; what runs then goes on in another")
    parser.add_argument("--cores", type=int, default=4, help="of a job")
    parser.add_argument("--memory", default="16GB", help="of a job")
    parser.add_argument("--gpus", type=int, default=0, help="of a job")
    parser.add_argument("--interface", help="network that the nodes share, as ib0")
    parser.add_argument("--scratch", default="/tmp", help="folder of a node for Dask's own files")
    parser.add_argument("--limit", type=float, help="minutes of one run")
    args = parser.parse_args()
    grid, out = grids.read(args.table), args.root / "tables" / f"{args.table.stem}.csv"
    cluster.PATIENCE_S = float("inf")  # a job that ends is asked for anew, and may wait for its turn
    with open_cluster(args) as jobs:
        jobs.adapt(minimum_jobs=args.jobs, maximum_jobs=args.jobs)
        print(f"scheduler: {jobs.scheduler_address}", flush=True)
        jobs.wait_for_workers(1)
        how = {"device": "cuda" if args.gpus else "cpu", "limit_s": args.limit and 60 * args.limit}
        _, errors = grids.sweep_table(grid, args.root, out, scheduler=jobs.scheduler_address, **how)
    print(out)
    if errors:
        sys.exit("\n".join(f"failed: {name}: {error}" for name, error in errors.items()))


if __name__ == "__main__":
    main()
