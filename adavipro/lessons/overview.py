"""The series on one page, runs/index.html: each notebook's figures and numbers, and links to what was executed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from adavipro.io import write_atomically
from adavipro.report.kept import read_json
from adavipro.sweeps import cluster


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a notebook wrote that ran to its end: result.json with this folder's key, beside the executed notebook."""
    result: dict[str, Any] | None = read_json(folder / "result.json", {}, folder.name)
    return result if (folder / cluster.DONE).exists() else None


def _entry(notebook: Path, folder: Path, wrong: str | None) -> dict[str, Any]:
    """What the page says of a notebook: its title, and what there is in its folder."""
    result = result_of(folder)
    executed = folder / (cluster.FAILED if result is None else cluster.DONE)
    if result is None and executed.exists():
        wrong = wrong or "in an earlier call"
    first = json.loads(notebook.read_text())["cells"][0]
    numbers = (result or {}).get("numbers", {}).items()
    return {
        "id": notebook.stem,
        "title": "".join(first["source"]).split("\n")[0].lstrip("# ") or notebook.stem,
        "folder": f"notebooks/{folder.name}",
        "result": result,
        "numbers": {k.replace("_", " "): f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in numbers},
        "wrong": wrong,
        "executed": executed.name if executed.exists() else None,
    }


def write(runs: Path, folders: Mapping[Path, Path], errors: Mapping[Path, str | None]) -> None:
    """Write <runs>/index.html, atomically. Its links are relative, so that the folder can be moved.

    Args:
        folders: by notebook, in the order of the series: where its rerun is, or would be.
        errors: by folder: None, or one line of what went wrong just now.
    """
    entries = [_entry(notebook, folder, errors.get(folder)) for notebook, folder in folders.items()]
    results = [e["result"] for e in entries if e["result"]]
    versions = sorted({f"{k} {v}" for r in results for k, v in r.get("versions", {}).items()})
    template = jinja2.Template(Path(__file__).with_name("overview.html").read_text(), autoescape=True)
    told = {"seconds": sum(r.get("seconds", 0) for r in results), "made": time.strftime("%Y-%m-%d %H:%M %Z")}
    page = template.render(entries=entries, done=len(results), versions=versions, **told)
    write_atomically(runs / "index.html", page.encode(errors="backslashreplace"))
