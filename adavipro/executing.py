"""One notebook in a papermill process of its own: within a limit of wall clock, and never longer than it is wanted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRACE_S = 20.0  # for a run that is asked to stop: training ends its step and saves
POLL_S = 0.2
DONE, FAILED = "notebook.ipynb", "failed.ipynb"


def papermill(notebook: Path, target: Path, parameters: dict[str, Any], *options: str) -> list[str]:
    """The command line that executes a notebook into `target` with parameters; texts are passed as they stand."""
    command = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar", *options]
    for name, value in parameters.items():
        command += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    return [*command, str(notebook), str(target)]


def execute(
    notebook: Path,
    folder: Path,
    parameters: dict[str, Any],
    proof: str,
    limit_s: float | None = None,
    wanted: Path | None = None,
    cwd: Path | None = None,
) -> str | None:
    """Execute a notebook into <folder>/notebook.ipynb. Returns None where it is done, or one line of what went wrong.

    Done is exit code 0 and the file `proof`: papermill alone takes a killed kernel for a success. What a run that
    failed or was stopped left stays as failed.ipynb. A run ends when this process does, however that ends.

    Args:
        proof: name of the file that the notebook writes into the folder, last.
        limit_s: seconds of wall clock; none: no limit.
        wanted: the run is stopped when this file is no longer there.
        cwd: where the notebook runs; none: here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = folder / f"running-{uuid.uuid4().hex[:8]}.ipynb"
    limit = "none" if limit_s is None else str(limit_s)
    supervisor = [sys.executable, "-m", "adavipro.executing", limit, proof, str(running)]
    # A Dask worker gives memory back at once, which would make torch on a CPU twice as slow.
    environment = {k: v for k, v in os.environ.items() if k != "MALLOC_TRIM_THRESHOLD_"}
    with tempfile.TemporaryFile("w+", errors="replace") as told:
        process = subprocess.Popen(
            [*supervisor, *papermill(notebook.resolve(), running, parameters)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=told,
            start_new_session=True,
            cwd=cwd,
            env=environment,
        )
        assert process.stdin is not None  # it is a pipe
        try:
            while process.poll() is None and (wanted is None or wanted.exists()):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            process.stdin.close()  # stops what still runs
            code = process.wait()
        told.seek(0)
        lines = told.read().strip().splitlines() or [f"it ended with code {code}"]
    if running.exists():  # the supervisor itself was killed
        running.replace(folder / FAILED)
    return None if code == 0 else lines[-1]


# --- The supervisor: between who wants a run and papermill, so that neither's end leaves the other alone --------------


def supervise(limit_s: float | None, proof: str, running: Path, command: list[str]) -> str | None:
    """Run papermill until it ends, the limit is over, or stdin closes because the run is no longer wanted.

    Returns None where the notebook is done and in its place, or one line of what went wrong.
    """
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with tempfile.TemporaryFile("w+", errors="replace") as told:
        work = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=told)

        def watch(wait: Callable[[], object]) -> None:
            wait()
            over.set()

        for end in (work.wait, _wait_for_end_of_stdin):
            threading.Thread(target=watch, args=(end,), daemon=True).start()
        in_time = over.wait(limit_s)
        stopped = work.poll() is None
        if stopped:
            _stop(work)
        told.seek(0)
        lines = told.read().strip().splitlines()
    if stopped:
        wrong = "stopped before its end" if in_time else f"stopped after {limit_s:.0f} s"
    elif work.returncode:
        wrong = _error_in(running) or (lines[-1] if lines else f"papermill ended with code {work.returncode}")
    elif not running.with_name(proof).exists():
        wrong = "ended without a result: its kernel died, or a cell left it"
    else:
        running.replace(running.with_name(DONE))
        return None
    if running.exists():
        running.replace(running.with_name(FAILED))
    return wrong


def _wait_for_end_of_stdin() -> None:
    while os.read(0, 1):
        pass


def _stop(work: "subprocess.Popen[bytes]") -> None:
    """Interrupt the kernel, as a reader would, so that training saves after its step; then kill what is left."""
    import psutil  # brought by the kernel

    below = psutil.Process(work.pid).children(recursive=True)  # a kernel has a session of its own
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        work.wait(GRACE_S)
    work.kill()
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()
    work.wait()


def _error_in(notebook: Path) -> str | None:
    """The error that a cell of an executed notebook ended with, as one line."""
    try:
        cells = json.loads(notebook.read_text())["cells"]
    except (OSError, ValueError):
        return None
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    errors = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
    return " ".join(errors[-1].split()) if errors else None


def main(arguments: list[str]) -> int:
    """Read what `execute` asks for, and tell by the exit code and the last line how it went."""
    limit, proof, running, *command = arguments
    wrong = supervise(None if limit == "none" else float(limit), proof, Path(running), command)
    if wrong is not None:
        sys.stderr.write(f"{wrong}\n")
    return int(wrong is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
