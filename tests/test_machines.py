"""Where runs go: the workers of this machine and their shares of it, or a cluster that runs already."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import draw_splits, tiny

from adavipro import machines, sweeps
from adavipro.settings import SettingError


def test_the_cores_are_shared_out():
    cores = os.cpu_count() or 1
    assert machines.shares(None, "cpu") == [{"OMP_NUM_THREADS": "1"}] * cores
    assert machines.shares(1, "cpu") == [{"OMP_NUM_THREADS": str(cores)}]
    assert machines.shares(2 * cores, "cpu") == [{"OMP_NUM_THREADS": "1"}] * 2 * cores
    with pytest.raises(SettingError, match="workers is 0, but it must be at least 1"):
        machines.shares(0, "cpu")


def test_each_gpu_has_a_worker_and_more_workers_share_them(monkeypatch):
    def gpus_of(workers: int | None) -> list[str]:
        return [share["CUDA_VISIBLE_DEVICES"] for share in machines.shares(workers, "cuda")]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert machines.gpus() == []  # they are named, and not there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpus_of(None) == ["1", "3"]
    assert gpus_of(1) == ["1"]
    assert gpus_of(3) == ["1", "3", "1"]
    monkeypatch.setattr(machines, "gpus", list)
    with pytest.raises(SettingError, match="device is 'cuda', but torch finds no GPU here: use cpu"):
        machines.shares(None, "cuda")
    with pytest.raises(SettingError, match="device is 'cuda:1', but workers share all GPUs: use cuda"):
        machines.shares(None, "cuda:1")


def test_a_local_cluster_listens_on_loopback_and_gives_each_worker_its_share(tmp_path, monkeypatch):
    before = dict(os.environ)
    monkeypatch.setattr(
        machines,
        "shares",
        lambda *_: [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": f"{i}"} for i in (5, 6)],
    )
    with machines.cluster() as client:
        client.wait_for_workers(2, timeout=60)
        info = client.scheduler_info(n_workers=-1)
        addresses = [info["address"], *info["workers"], *(w["nanny"] for w in info["workers"].values())]
        assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        assert {w["nthreads"] for w in info["workers"].values()} == {1}
        found = client.run(lambda: (os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"]))
        assert sorted(found.values()) == [("3", "5"), ("3", "6")]
        assert not any(client.run(lambda: "torch" in sys.modules).values())

        monkeypatch.setattr(Path, "touch", lambda self: None)  # so that no worker sees what was written
        with pytest.raises(SettingError, match=r"is not there for the workers tcp://127.0.0.1:.*same path"):
            machines.execute_all(client, tmp_path / "runs", {}, lambda *_: None)
    assert not list((tmp_path / "runs").iterdir())
    assert {name: os.environ.get(name) for name in before} == before


def test_a_run_does_not_start_where_its_folder_is_not_seen(tmp_path):
    told = machines._execute_here({}, tmp_path / "elsewhere" / "wanted", folder=tmp_path / "run")
    assert (
        told
        == f"it was stopped before it started, or {tmp_path}/elsewhere is not the same folder on every machine"
    )
    assert not (tmp_path / "run").exists()


def test_without_dask_or_without_a_scheduler_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(machines, "CONNECT_S", 0.2)
    with (
        pytest.raises(SettingError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        machines.cluster(scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    monkeypatch.setattr(machines.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(SettingError, match=r"not installed: pip install 'adavipro\[sweeps\]'"),
        machines.cluster(),
    ):
        pass


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_a_scheduler_and_workers_started_by_hand_do_the_runs(tmp_path, monkeypatch):
    dask, port = shutil.which("dask", path=Path(sys.executable).parent), free_port()
    assert dask is not None
    address, listen = f"tcp://127.0.0.1:{port}", ["--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler, worker = subprocess.Popen([dask, "scheduler", *listen, "--port", str(port)], **quiet), None
    try:
        run = tiny("zero-shot", dataset=f"folder:{draw_splits(tmp_path / 'pictures')}")
        end = time.monotonic() + 30
        while not listens(port):
            assert time.monotonic() < end
            time.sleep(0.1)
        with monkeypatch.context() as hasty:
            hasty.setattr(machines, "CONNECT_S", 1)
            with pytest.raises(SettingError, match="has no workers: start some with"):
                sweeps.sweep([run], "report", tmp_path / "runs", scheduler=address)
        worker = subprocess.Popen([dask, "worker", address, *listen, "--nthreads", "1"], **quiet)
        rows, errors = sweeps.sweep([run], "report", tmp_path / "runs", scheduler=address)
        assert ([row["key"] for row in rows], errors) == ([run.key()], {})
    finally:
        for process in filter(None, (worker, scheduler)):
            process.terminate()
            process.wait(20)
