"""A JupyterLab server and a headless Chromium of our own, for the tests of this folder."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

SECONDS = 60  # to wait for a kernel on a slow machine
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --no-proxy-server --disable-sync
    --disable-background-networking --disable-component-update""".split()
# Kernels draw a quarter of each data set but digits: whether a control works does not hang on more.
STARTUP = """from adavipro.datasets import embedded
embedded.SIZES.update(train=500, val=150, test=100)
embedded.drawn_sha256 = dict
"""
# Every cell is drawn, also those out of sight; nothing asks for news.
LAB_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}


def find_chromium() -> str:
    names = "chromium chromium-browser google-chrome".split()
    found = [path for name in names if (path := shutil.which(name))]
    if not found:
        pytest.fail(
            f"there is no Chromium: install one of {', '.join(names)}, as in 'apt-get install chromium'"
        )
    return found[0]


@pytest.fixture(scope="module")
def lab(home, tmp_path_factory):
    """A JupyterLab server of our own: the address of its notebooks, with {} for the path."""
    own = tmp_path_factory.mktemp("jupyter")
    for name, values in LAB_SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    startup = own / "ipython" / "profile_default" / "startup" / "small.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)
    places = {"SETTINGS_DIR": "settings", "WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {f"JUPYTERLAB_{name}": str(own / place) for name, place in places.items()}
    environment |= {f"JUPYTER_{name}_DIR": str(own / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {
        "IPYTHONDIR": str(own / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={home}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.news_url=none"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    log = own / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=home)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(SECONDS):
        assert server.poll() is None, f"JupyterLab did not start: {log.read_text()[-2000:]}"
        try:
            with without_proxy.open(address, timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"JupyterLab did not answer in {SECONDS} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=find_chromium(),
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture
def notebook(browser, lab, tmp_path):
    """Opens a notebook and runs all its cells; at the end a screenshot is taken and the kernel shut down."""
    page = browser.new_page()

    def run_all(path: str) -> Page:
        page.goto(lab.format(path), timeout=1000 * SECONDS)
        prompt = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first
        prompt.wait_for(timeout=1000 * SECONDS)
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=1000 * SECONDS)
        for _ in range(10):  # JupyterLab may drop what is asked of a kernel that has only just come up
            page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
            page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
            page.wait_for_timeout(1000)
            if prompt.inner_text() != "[ ]:":
                break
        return page

    yield run_all
    page.screenshot(path=tmp_path / "screenshot.png")
    page.close()
