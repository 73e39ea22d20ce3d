"""The series runner on small notebooks of its own: what is finished, what failed, what is kept."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from helpers import write_notebook

from adavipro.lessons import series

PARAMETERS = "seed = 0\nruns = None\nout = None"
FINISH = """
import json, pathlib
folder = pathlib.Path(out)
with open(pathlib.Path(runs) / "log", "a") as log:
    log.write("x")
(folder / "result.json").write_text(json.dumps({"key": folder.name, "numbers": {"seed": seed}, "seconds": 0}))
"""


def write(folder: Path, name: str, *cells: str) -> Path:
    return write_notebook(folder / f"{name}.ipynb", PARAMETERS, *cells)


def test_a_finished_notebook_is_kept_and_a_changed_one_runs_again(tmp_path):
    notebook, log = write(tmp_path, "00_fine", FINISH), tmp_path / "runs" / "log"
    folder, error = series.rerun(notebook, tmp_path / "runs", {"seed": 3})
    assert error is None
    assert json.loads((folder / "result.json").read_text())["numbers"] == {"seed": 3}
    executed = nbformat.read(folder / "notebook.ipynb", 4)
    assert "seed = 3" in "".join(c.source for c in executed.cells)
    assert series.rerun(notebook, tmp_path / "runs", {"seed": 3}) == (folder, None)
    assert log.read_text() == "x"
    for damaged in (b"{}", b"[]", b"null", b"", b"\xff", b"\0", b"[" * 100_000):
        (folder / "result.json").write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"result\.json is damaged and counts as not there: "):
            assert not series.finished(folder)
    with pytest.warns(UserWarning, match=r"result\.json is damaged"):
        assert series.rerun(notebook, tmp_path / "runs", {"seed": 3}) == (folder, None)
    assert series.finished(folder)
    assert log.read_text() == "xx"
    changed = write(tmp_path, "00_fine", FINISH, "pass")
    assert series.key(changed, {"seed": 3}) not in folder.name


def test_outputs_do_not_change_a_notebooks_key(tmp_path):
    notebook = write(tmp_path, "00_fine", FINISH)
    before = series.key(notebook, {})
    content = nbformat.read(notebook, 4)
    content.cells[1].outputs = [nbformat.v4.new_output("stream", text="told")]
    nbformat.write(content, notebook)
    assert series.key(notebook, {}) == before


def test_an_end_without_a_result_is_a_failure_and_what_there_is_stays(tmp_path):
    notebook = write(tmp_path, "00_bad", "print('so far')", "import sys; sys.exit(0)", FINISH)
    folder, error = series.rerun(notebook, tmp_path / "runs", {})
    assert "ended without result.json" in str(error)
    assert not series.finished(folder)
    assert "so far" in (folder / "failed.ipynb").read_text()
    assert not (folder / "notebook.ipynb").exists()


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    notebooks = [write(tmp_path, "00_bad", "raise ValueError('no')"), write(tmp_path, "01_fine", FINISH)]
    (bad, error), (fine, none) = series.reproduce(tmp_path / "runs", notebooks).items()
    assert (bad.name[:7], error) == ("00_bad-", "ValueError: no")
    assert (fine.name[:8], none) == ("01_fine-", None)
    assert json.loads((fine / "result.json").read_text())["numbers"] == {"seed": 0}


def test_the_series_is_in_order_and_a_wheel_without_notebooks_says_so(monkeypatch, tmp_path):
    numbers = [path.name[:2] for path in series.series()]
    assert numbers == [f"{i:02d}" for i in range(13)]
    assert [path.name[:2] for path in series.series(["05", "02"])] == ["05", "02"]
    with pytest.raises(ValueError, match="there is no notebook '5': the numbers are 00, 01, 02"):
        series.series(["5"])
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    with pytest.raises(
        ValueError, match=r"there are no notebooks in .*: run this in a checkout of the project"
    ):
        series.series()


def test_a_kernel_that_was_killed_after_the_result_is_a_failure(tmp_path):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    notebook = write(tmp_path, "00_late", FINISH, kill)
    folder, error = series.rerun(notebook, tmp_path / "runs", {})
    assert error == "its kernel died: it was killed, or memory ran out"
    assert (folder / "result.json").exists()
    assert not series.finished(folder)
    assert (tmp_path / "runs" / "log").read_text() == "xx"  # it was tried twice


def test_a_kernel_that_was_killed_once_is_started_again(tmp_path):
    kill = """
import os, pathlib, signal
begun = pathlib.Path(out, "begun")
if not begun.exists():
    begun.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    folder, error = series.rerun(write(tmp_path, "00_fine", kill, FINISH), tmp_path / "runs", {})
    assert error is None
    assert series.finished(folder)
    assert not (folder / "failed.ipynb").exists()


def test_a_folder_that_is_not_named_in_utf8_is_one_sentence(tmp_path):
    runs = tmp_path / os.fsdecode(b"caf\xe9")
    folder, error = series.rerun(write(tmp_path, "00_fine", FINISH), runs, {})
    assert error == f"the folder {os.fsencode(folder)!r} is not named in UTF-8: give another one, by --root"
    assert not list(folder.glob("*.ipynb"))


# What another process does: it reproduces a notebook at the same time.
DRIVE = """
import sys
from pathlib import Path
from adavipro.lessons import series
print(series.rerun(Path(sys.argv[1]), Path(sys.argv[2]), {}))
"""


def test_of_two_processes_one_waits_and_takes_what_the_other_has_finished(tmp_path):
    notebook, runs = write(tmp_path, "00_slow", "import time; time.sleep(2)", FINISH), tmp_path / "runs"
    command = [sys.executable, "-c", DRIVE, notebook, runs]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0] for process in both]
    folder = runs / "notebooks" / f"00_slow-{series.key(notebook, {})}"
    assert told == 2 * [f"{(folder, None)}\n"]
    assert (runs / "log").read_text() == "x"
    assert series.finished(folder)


def test_data_that_ship_are_part_of_the_key(tmp_path, monkeypatch):
    notebook = write(tmp_path, "00_fine", FINISH)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(series, "data_folder", lambda: data)
    (data / "results.csv").write_text("1")
    before = series.key(notebook, {})
    (data / "results.csv").write_text("2")
    assert series.key(notebook, {}) != before


WAIT = """
import json, pathlib, time
here = pathlib.Path(out)
(pathlib.Path(runs) / here.name[:2]).touch()
started = time.monotonic()
while len([p for p in pathlib.Path(runs).iterdir() if p.name in ("00", "01")]) < 2:
    assert time.monotonic() - started < 120, "nobody else is at work"
    time.sleep(0.1)
(here / "result.json").write_text(json.dumps({"key": here.name}))
"""


def test_two_workers_run_two_notebooks_at_a_time_and_one_that_fails_stops_no_other(tmp_path):
    """The first two end only where both are under way."""
    cells = {"00_one": WAIT, "01_two": WAIT, "02_bad": "raise ValueError('no')", "03_last": FINISH}
    notebooks = [write(tmp_path, name, cell) for name, cell in cells.items()]
    found = series.reproduce(tmp_path / "runs", notebooks, 2)
    by_name = {folder.name.rpartition("-")[0]: error for folder, error in found.items()}
    assert by_name == {"00_one": None, "01_two": None, "02_bad": "ValueError: no", "03_last": None}


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="workers is 0, but it must be at least 1"):
        series.reproduce(tmp_path / "runs", [write(tmp_path, "00_one", FINISH)], 0)


# --- The page of all of it ----------------------------------------------------------------------------------------

DRAW = """
import json, pathlib
from PIL import Image
folder = pathlib.Path(out)
Image.new("RGB", (24, 12)).save(folder / "a line.png")
(folder / "a line.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
with open(pathlib.Path(runs) / "log", "a") as log:
    log.write(folder.name[:2])
numbers = {"vp_object_cover": 0.5164, "accuracy <of>": 0.409, "rows": 1516, "of": "a & b"}
figures = {"a line.png": "falls \\"steeply\\" & <ends>"}
told = {"seconds": 61.6, "memory_mb": 1670, "versions": {"torch": "2.10"}, "parameters": {"seed": 0}}
(folder / "result.json").write_text(json.dumps({"key": folder.name, "numbers": numbers, "figures": figures, **told}))
"""
VOID = {"meta", "img", "br"}


class Parsed(HTMLParser):
    """A page whose every element is closed where it must be: its text, and attributes by element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.elements, self.text = list[str](), list[tuple[str, dict[str, str | None]]](), ""
        self.folder = path.parent
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def all(self, attribute: str) -> list[str]:
        return [str(a[attribute]) for _, a in self.elements if attribute in a]

    def check_links(self) -> list[str]:
        """The relative links, of which every one leads to a file or a place on this page."""
        ids, links = self.all("id"), [*self.all("href"), *self.all("src")]
        assert len(set(ids)) == len(ids)
        for link in links:
            file = self.folder / re.sub("%20", " ", link)
            assert link[1:] in ids if link.startswith("#") else file.is_file(), link
        return links


def titled(path: Path, *lines: str) -> Path:
    """Put a first cell of text before a notebook's others."""
    notebook = nbformat.read(path, 4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("\n\n".join(lines)))
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def own_series(tmp_path, monkeypatch):
    """A series of three notebooks, of which the second fails."""
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path)
    badge = (
        "[![Open in Colab](https://colab.research.google.com/badge.svg)](https://colab.research.google.com/x)"
    )
    about = "The **mask** is $m_p < 1$, as in [the next](01_bad.ipynb) and [the docs](../docs/choices.md)."
    fine = titled(write(tmp_path, "00_fine", DRAW), "# 0. Is <this> fine?", badge, about)
    bad = titled(write(tmp_path, "01_bad", "raise ValueError('<i>no</i> & never')"), "# 1. Is it bad?")
    return [fine, bad, titled(write(tmp_path, "02_last", DRAW), "# 2. Is it last?")]


def test_the_page_shows_figures_numbers_and_failures_and_can_be_moved(own_series, tmp_path):
    series.reproduce(tmp_path / "runs", own_series)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    page = Parsed(tmp_path / "moved" / "index.html")
    links = page.check_links()
    assert not [link for link in links if re.match(r"\w+:|/", link)]
    for ending in ("/notebook.ipynb", "/result.json", "/a%20line.svg", "/failed.ipynb"):
        assert [link for link in links if link.endswith(ending)], ending
    assert not {"script", "link", "i", "this", "of", "ends"} & {tag for tag, _ in page.elements}
    (first, *_) = [attributes for tag, attributes in page.elements if tag == "img"]
    assert re.fullmatch(r"notebooks/00_fine-[0-9a-f]{12}/a%20line\.png", first["src"])
    assert first["alt"] == 'Falls "steeply" & <ends>'
    assert page.text.count('Falls "steeply" & <ends>') == 2  # the captions of both
    text = " ".join(page.text.split())
    assert "2 of 3 notebooks finished, 2 min 3 s in all; page made 20" in text
    assert "torch 2.10" in text
    assert "0. Is <this> fine? The executed notebook result.json" in text
    assert (
        "Vp object cover0.516 Accuracy <of>0.409 Rows1516 Ofa & b 1 min 2 s, 1.7 GB of memorywith seed=0"
        in text
    )
    assert "1. Is it bad? Failed: ValueError: <i>no</i> & never The notebook as far as it ran" in text


def test_a_stopped_series_leaves_a_page_of_what_there_is_and_goes_on(own_series, tmp_path, monkeypatch):
    execute = series.cluster.execute

    def stopped(notebook, *others):
        if notebook.stem == "02_last":
            raise KeyboardInterrupt
        return execute(notebook, *others)

    monkeypatch.setattr(series.cluster, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        series.reproduce(tmp_path / "runs", own_series)
    page = Parsed(tmp_path / "runs" / "index.html")
    page.check_links()
    assert "1 of 3 notebooks finished" in page.text
    assert "Failed: ValueError: " in page.text
    assert "2. Is it last?not run" in page.text
    monkeypatch.setattr(series.cluster, "execute", execute)
    series.reproduce(tmp_path / "runs", own_series)
    assert "2 of 3 notebooks finished" in Parsed(tmp_path / "runs" / "index.html").text
    assert (tmp_path / "runs" / "log").read_text() == "0002"


def test_the_page_keeps_what_was_not_asked_for_and_drops_what_has_changed(own_series, tmp_path):
    first, *_ = series.reproduce(tmp_path / "runs", own_series[:2])
    series.reproduce(tmp_path / "runs", own_series[2:])
    page = Parsed(tmp_path / "runs" / "index.html")
    page.check_links()
    assert "2 of 3 notebooks finished" in page.text
    assert "Failed: in an earlier call" in page.text
    titled(write(tmp_path, "00_fine", DRAW, "pass"), "# 0. Fine?")  # another key
    series.reproduce(tmp_path / "runs", own_series[2:])
    page = Parsed(tmp_path / "runs" / "index.html")
    page.check_links()
    assert "1 of 3 notebooks finished" in page.text
    assert "0. Fine?not run" in page.text
    assert first.name not in "".join(page.all("href"))
