"""Sweeps on workers of this machine: real runs on thirty pictures, a kernel each."""

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
import yaml
from helpers import draw_splits, small_splits, tiny, write_notebook

from adavipro import experiment
from adavipro.__main__ import main
from adavipro.recipe import SettingError
from adavipro.report import results
from adavipro.sweeps import cluster, grids, runs

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
TABLES = Path(__file__).parents[1] / "tables"


# --- Workers --------------------------------------------------------------------------------------------------------


def test_the_cores_that_we_may_use_are_shared_out():
    cores = len(os.sched_getaffinity(0))
    assert cluster.shares(None, "cpu") == [{"OMP_NUM_THREADS": "1"}] * cores
    assert cluster.shares(1, "cpu") == [{"OMP_NUM_THREADS": str(cores)}]
    assert cluster.shares(2 * cores, "cpu") == [{"OMP_NUM_THREADS": "1"}] * 2 * cores
    asked = "from adavipro.sweeps.cluster import shares\nprint(shares(None, 'cpu'))"
    one_core = f"import os\nos.sched_setaffinity(0, {{0}})\n{asked}"
    told = subprocess.run([sys.executable, "-c", one_core], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[{'OMP_NUM_THREADS': '1'}]"
    with pytest.raises(SettingError, match="workers is 0, but it must be at least 1"):
        cluster.shares(0, "cpu")


def test_each_gpu_has_a_worker_and_more_workers_share_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    with pytest.raises(
        SettingError, match="device is 'cuda', but sweeps take cpu or, where torch finds a GPU, cuda"
    ):
        cluster.shares(None, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for workers, gpus in ((None, ["1", "3"]), (1, ["1"]), (3, ["1", "3", "1"])):
        assert [share["CUDA_VISIBLE_DEVICES"] for share in cluster.shares(workers, "cuda")] == gpus
    with pytest.raises(SettingError, match="device is 'cuda:1', but sweeps take cpu or"):
        cluster.shares(None, "cuda:1")


def test_without_a_scheduler_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    jobs = {Path("run"): {}}
    with pytest.raises(
        SettingError, match=r"no Dask scheduler with workers is at 'tcp://127.0.0.1:1'.*start `dask"
    ):
        list(cluster.execute_all(runs.NOTEBOOK, jobs, "proof", scheduler="tcp://127.0.0.1:1"))
    with pytest.raises(SettingError, match=r"workers is 2, but the cluster at tcp://127.0.0.1:1 has its own"):
        list(cluster.execute_all(runs.NOTEBOOK, jobs, "proof", workers=2, scheduler="tcp://127.0.0.1:1"))


# What another process does: one run on a cluster that is there already.
DRIVE = """
import sys
from pathlib import Path
from adavipro.recipe import SettingError
from adavipro.sweeps import cluster

notebook, folder, address = sys.argv[1:]
try:
    list(cluster.execute_all(Path(notebook), {Path(folder): {"out": folder}}, "proof", scheduler=address))
except SettingError as error:
    print(error)
"""


def test_a_scheduler_that_is_killed_is_one_sentence_and_no_line_of_dasks(tmp_path):
    begin = "import pathlib, time\npathlib.Path(out, 'begun').touch()\ntime.sleep(600)"
    notebook, folder = write_notebook(tmp_path / "long.ipynb", "out = None", begin), tmp_path / "run"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    dask = Path(sys.executable).with_name("dask")
    own = ["--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([dask, "scheduler", *own, "--port", address.rpartition(":")[2]], **quiet)
    worker = subprocess.Popen([dask, "worker", address, *own, "--nthreads", "1"], **quiet)
    command = [sys.executable, "-c", DRIVE, notebook, folder, address]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not (folder / "begun").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        scheduler.kill()
        told, beside = sweep.communicate(timeout=60)
    finally:
        for process in (sweep, worker, scheduler):
            process.kill()
            process.wait(20)
    kept = "0 of 1 runs have ended and are kept, start it again for the others"
    assert told == f"the Dask scheduler does not answer any more: {kept}\n"
    assert re.fullmatch(r"watch the runs at \S+\n", beside)


# --- Runs -----------------------------------------------------------------------------------------------------------


def listening(process: psutil.Process) -> set[str]:
    """Addresses at which a process and all below it listen."""
    found = set()
    for p in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found |= {c.laddr.ip for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_table_runs_and_what_fails_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    """One sweep for many checks: rows, errors, files, and that calling it again repeats nothing."""
    pictures = f"folder:{draw_splits(tmp_path / 'pictures', ('star', 'moon'))}"
    root, out, before = tmp_path / "runs", tmp_path / "tables" / "own.csv", dict(os.environ)
    heard, execute_all = set(), cluster.execute_all

    def execute_and_listen(*args, **how):
        for ended in execute_all(*args, **how):
            heard.update(listening(psutil.Process()))
            yield ended

    monkeypatch.setattr(cluster, "execute_all", execute_and_listen)
    values = {"prompt_lr": [1e30]}  # at this rate the loss is not finite
    grid = grids.Grid("own", [pictures], ["linear-probe", "vp"], [8], [3], "embedded", values=values)
    rows, errors = grids.sweep_table(grid, root, out, workers=2, limit_s=300)
    assert heard == {"127.0.0.1"}
    assert {name: os.environ.get(name) for name in before} == before

    ((name, error),) = errors.items()
    assert error.startswith("TrainingDiverged: the loss is not finite at step ")
    failed = json.loads((root / name / "failed.json").read_text())
    assert failed["error"] == error
    assert f"papermill -k python3 {runs.NOTEBOOK}" in failed["command"]
    assert "prompt_lr" in failed["command"]
    assert (root / name / "failed.ipynb").exists()

    (row,) = rows
    assert set(row) == {"study", "value", "recipe", *runs.COLUMNS}
    assert (row["study"], row["value"], row["method"]) == ("prompt_lr", "", "linear-probe")
    assert row["setting"].startswith("penalty=")
    (folder,) = root.glob(f"*-{row['key']}")
    assert row["test_accuracy"] == json.loads((folder / "result.json").read_text())["test_accuracy"]
    cells = nbformat.read(folder / "notebook.ipynb", 4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert not list(folder.glob("failed*")) + list(folder.glob("running*"))
    assert results.read(out)["key"].tolist() == [row["key"]]

    def times():
        return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}

    made = times()
    monkeypatch.setattr(cluster, "cluster", None)  # a finished grid starts none
    assert grids.sweep_table(grid.narrowed({"methods": ["linear-probe"]}), root) == (rows, {})
    assert times() == made

    table = tmp_path / "own.yaml"
    table.write_text(
        f"table: own\nworld: embedded\ndatasets: ['{pictures}']\nmethods: [linear-probe, vp]\nprompt_px: [8]\n"
        "seeds: [3]\n"
    )
    main(["sweep", str(table), "--methods", "linear-probe", "--root", str(root)])
    written = root / "tables" / "own.csv"
    assert capsys.readouterr().out == f"{written}\n"
    assert results.read(written)["key"].tolist() == [row["key"]]


def test_random_masks_have_the_share_of_regions_that_adavipro_learned_beside_them(tmp_path, monkeypatch):
    def execute_here(notebook, jobs, proof, device):
        for folder, given in jobs.items():
            run = experiment.Experiment().changed(**json.loads(given["settings"]))
            runs.report(run, Path(given["root"]), device)
            yield folder, None

    monkeypatch.setattr(cluster, "execute_all", execute_here)
    pictures = f"folder:{draw_splits(tmp_path / 'pictures', ('star', 'moon'))}"
    whole = grids.Grid(
        "own", [pictures], ["random-masks", "adavipro"], [8], [0], "embedded", values={"epochs": [1]}
    )
    alone = whole.narrowed({"methods": ["random-masks"]})
    rows, errors = grids.sweep_table(alone, tmp_path, tmp_path / "own.csv")
    assert not (tmp_path / "own.csv").exists()  # no rows, no file
    ((name, error),) = errors.items()
    assert (rows, error.partition(",")[0]) == ([], "it takes its share of regions from this run")
    (learned, random), errors = grids.sweep_table(whole, tmp_path)
    assert (learned["method"], random["method"], errors) == ("adavipro", "random-masks", {})
    assert name == f"random-masks beside folder-pictures-adavipro-8px-seed0-{learned['key']}"
    (folder,) = tmp_path.glob(f"*-{random['key']}")
    settings = json.loads((folder / "result.json").read_text())["settings"]
    share = min(max(round(learned["share_on"], 2), 0.01), 0.99)
    assert (settings["where"], settings["random_share"], settings["epochs"]) == ("random", share, 1)
    assert grids.sweep_table(alone, tmp_path) == ([random], {})


DAMAGE = [b"", b"[]", b'"x"', b"null", b"\0\0", b"[" * 100_000, b"\xff", b'{"seconds": "5"}', None]


def damage(file: Path, content: bytes | None) -> None:
    file.unlink(missing_ok=True)
    file.mkdir() if content is None else file.write_bytes(content)


@pytest.fixture(scope="module")
def zero_shot(tmp_path_factory):
    """A finished run, and the folder of its folder."""
    run, root = tiny("zero-shot"), tmp_path_factory.mktemp("finished")
    with small_splits():
        experiment.run(run, root)
    return run, root


@pytest.mark.parametrize("content", DAMAGE, ids=lambda content: str(content)[:12])
def test_damaged_side_files_lose_no_row_and_make_none(zero_shot, tmp_path, content):
    run, root = zero_shot
    folder = shutil.copytree(run.folder(root), run.folder(tmp_path))
    row = runs.finished_row(run, folder)
    damage(folder / "timing.json", content)
    with pytest.warns(UserWarning, match=r"timing\.json is damaged and counts as not there"):
        damaged = runs.finished_row(run, folder)
    assert damaged == row | {"seconds": None, "memory_mb": None, "device": None}
    damage(folder / "result.json", content)
    with pytest.warns(UserWarning, match=r"result\.json is damaged and counts as not there"):
        assert runs.finished_row(run, folder) is None


# --- Slurm ----------------------------------------------------------------------------------------------------------

# As far as it is needed here: a job is a process group, and its script is copied when it is handed in.
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
    pictures = f"folder:{draw_splits(tmp_path / 'pictures', ('star', 'moon'))}"
    table = tmp_path / "table.yaml"
    said = {"table": "x", "world": "embedded", "datasets": [pictures], "methods": ["zero-shot"]}
    said |= {"prompt_px": [8], "seeds": [0]}
    table.write_text(yaml.safe_dump(said))
    command = [sys.executable, TABLES / "slurm.py", table, "--root", tmp_path / "runs", "--interface", "lo"]
    done = subprocess.run(
        [*command, "--cores", "1", "--queue", "short", "--gpus", "0"],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "runs" / "tables" / "table.csv")
    (row,) = results.read(tmp_path / "runs" / "tables" / "table.csv").to_dict("records")
    assert (row["dataset"], row["method"]) == (pictures, "zero-shot")
    (job,) = (tmp_path / "bin").glob("*.job")
    assert {"#SBATCH -p short", "#SBATCH --cpus-per-task=1", "export OMP_NUM_THREADS=1"} <= set(
        job.read_text().splitlines()
    )
