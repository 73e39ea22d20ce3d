"""The explorers in a real JupyterLab in headless Chromium: run the notebook, move a control, see the picture change.

`make test-browser` runs these; `make test` does not. They need Chromium, and leave a screenshot of each notebook in
pytest's temporary folder.
"""

import base64
import re
import time
from pathlib import Path

import nbformat
import pytest
from helpers import small_splits, tiny
from playwright.sync_api import Locator, Page, expect

from adavipro import experiment

SECONDS = 60  # to wait for a kernel on a slow machine
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
START = """
import time
from pathlib import Path
import pandas
from adavipro import datasets, experiment
from adavipro.lessons import widgets
"""
RESTORE = """
(folder,) = Path("runs").iterdir()
prompted = experiment.restore(folder)
classifier, method = prompted.classifier, prompted.method
split = datasets.load_split("letters", "test")
images, labels = split.images[:6], split.labels[:6]
"""
EXPLORERS = {
    "busy": [
        "widgets.temperature_explorer()",
        f"again = 'again' in globals()\nif again:\n    time.sleep({SECONDS})",
    ],
    "mask": [RESTORE, "widgets.mask_explorer(classifier, method, images, labels)"],
    "live": [
        RESTORE + "live = widgets.LiveView(classifier, images[:3], Path('masks'))\nlive.widget",
        """history = pandas.read_csv(folder / "metrics.csv").to_dict("records")
for epoch in range(3):
    time.sleep(4)
    live(method, history[: epoch + 1])""",
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a notebook for each explorer, a finished run, and the real notebooks."""
    root = tmp_path_factory.mktemp("lab")
    with small_splits():
        experiment.run(tiny("adavipro", prompt_px=15), root / "runs", progress_bar=False)
    for name, cells in EXPLORERS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (START, *cells)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, root / f"{name}.ipynb")
    (root / "series" / "notebooks").mkdir(parents=True)
    for path in NOTEBOOKS.glob("*.ipynb"):
        short = path.read_text().replace('"epochs = 5', '"epochs = 1')
        (root / "series" / "notebooks" / path.name).write_text(short)
    return root


def read_picture(picture: Locator) -> bytes:
    """The bytes of the PNG that the browser shows."""
    script = "image => fetch(image.src).then(r => r.blob()).then(b => new Promise(done => { const f = new FileReader();"
    script += " f.onload = () => done(f.result); f.readAsDataURL(b); }))"
    picture.wait_for(timeout=1000 * SECONDS)
    content = base64.b64decode(picture.evaluate(script).partition(",")[2])
    assert content.startswith(b"\x89PNG")
    return content


def wait_for_change(picture: Locator, before: bytes, seconds: float = 20) -> bytes:
    """Wait until the picture has other bytes."""
    end = time.monotonic() + seconds
    while (now := read_picture(picture)) == before:
        assert time.monotonic() < end, f"the picture did not change in {seconds} s"
        time.sleep(0.1)
    return now


def shown_picture(page: Page, which: int = 0) -> Locator:
    return page.locator("img.widget-image").nth(which)


def step(page: Page, which: int = 0) -> None:
    """Move a slider by one step with the keyboard."""
    handle = page.locator(".noUi-handle").nth(which)
    handle.focus()
    handle.press("ArrowRight")


def test_slider_redraws_while_a_cell_runs(notebook):
    page = notebook("busy.ipynb")
    picture, prompt = shown_picture(page), page.locator(".jp-CodeCell .jp-InputPrompt").last
    before = read_picture(picture)
    expect(prompt).to_have_text("[3]:")
    step(page)  # JupyterLab gives an explorer its own thread when it is first used
    before = wait_for_change(picture, before)
    prompt.click()
    page.keyboard.press("Control+Enter")  # the last cell, which now takes its time
    expect(prompt).to_have_text("[*]:")
    step(page)
    wait_for_change(picture, before)
    expect(prompt).to_have_text("[*]:")


def test_region_switched_by_click_changes_picture_and_line(notebook):
    page = notebook("mask.ipynb")
    picture, line = shown_picture(page), page.locator(".widget-html-content", has_text="regions on")
    before, told = read_picture(picture), line.inner_text()
    regions = page.locator(".jp-OutputArea button.widget-toggle-button")
    assert regions.count() == 49
    assert (
        page.locator(".jp-OutputArea button.widget-toggle-button[disabled]").count() == 9
    )  # 15 px leave 3 x 3
    regions.first.click()
    wait_for_change(picture, before)
    expect(line).not_to_have_text(told)
    page.get_by_role("button", name="as learned").click()
    expect(line).to_have_text(told)
    assert read_picture(picture) == before


def test_live_view_redraws_after_each_epoch_while_its_cell_runs(notebook):
    page = notebook("live.ipynb")
    curves, masks = shown_picture(page, 0), shown_picture(page, 1)
    seen = {(read_picture(curves), read_picture(masks))}
    running = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
    expect(running).to_contain_text("*")
    while "*" in running.inner_text():
        seen.add((read_picture(curves), read_picture(masks)))
        time.sleep(0.2)
    seen.add((read_picture(curves), read_picture(masks)))
    assert len({curve for curve, _ in seen}) == 4  # empty, and three epochs
    assert len({picture for _, picture in seen}) == 4


@pytest.mark.parametrize(
    ("name", "which", "change"),
    [("01_visual_prompts", 0, "slider"), ("04_training", 2, "region")],
)
def test_explorers_of_the_series_work_in_place(notebook, name, which, change):
    page = notebook(f"series/notebooks/{name}.ipynb")
    finished = page.locator(".jp-CodeCell .jp-InputPrompt").last
    expect(finished).to_have_text(re.compile(r"\[\d+\]:"), timeout=3000 * SECONDS)
    picture = shown_picture(page, which)
    before = read_picture(picture)
    if change == "slider":
        step(page)
    else:
        page.locator("button.widget-toggle-button:not([disabled])").first.click()
    wait_for_change(picture, before)
