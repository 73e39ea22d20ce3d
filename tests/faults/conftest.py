"""Faults in plain words, how often each is tried, and the table of how that ended: docs/faults.md.

A test that stands for a fault says so: `@pytest.mark.fault("one flipped bit in a checkpoint")`. Each of its cases is a
trial. A test that takes `chance`, a source of random numbers, is tried `quick` times in `make test`, and `long` times
in `make test-faults`, each time by other numbers, but the same ones every time that the suite runs.
"""

import os
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from known_faults import ELSEWHERE, FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "the long run: this share of all trials (1: every one), of the tests of faults alone, and the table of them"
    parser.addoption("--trials", type=float, metavar="SHARE", help=told)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name, quick=1, long=...): a fault that this test tries")


def share_of(config: pytest.Config) -> float | None:
    """How much of the long run is asked for; None: the quick one."""
    return config.getoption("--trials", None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chance" in metafunc.fixturenames:
        (mark,) = metafunc.definition.iter_markers("fault")
        share, quick = share_of(metafunc.config), mark.kwargs.get("quick", 1)
        count = quick if share is None else max(1, round(share * mark.kwargs["long"]))
        sources = [random.Random(f"{metafunc.function.__name__} {i}") for i in range(count)]
        metafunc.parametrize("chance", sources, ids=map(str, range(count)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = []
    for item in items:
        mark = item.get_closest_marker("fault")
        fault = mark.args[0] if mark else ELSEWHERE.get(item.nodeid.removeprefix("tests/").partition("[")[0])
        if fault is not None:
            assert fault in FAULTS, f"{item.nodeid} names a fault that is not in FAULTS: {fault}"
            item.user_properties.append(("fault", fault))
        chosen = getattr(item, "callspec", None)
        tried = chosen is None or isinstance(chosen.params.get("chance", random.Random()), random.Random)
        if tried and (share_of(config) is None or fault is not None):
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the table of a long run that tried every fault."""
    if (share := share_of(config)) is None:
        return
    ended: dict[str, tuple[str, bool]] = {}  # by test: its fault, and whether it survived
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, fault in report.user_properties:
                if name == "fault":
                    ended[report.nodeid] = (fault, outcome == "passed")
    tried = Counter(fault for fault, _ in ended.values())
    survived = Counter(fault for fault, well in ended.values() if well)
    lines = [f"| {f} | {must} | {tried[f]:,} | {survived[f]:,} |" for f, must in FAULTS.items()]
    if untried := [fault for fault in FAULTS if not tried[fault]]:
        terminalreporter.write_line(f"no table, for these were not tried: {'; '.join(untried)}")
        return
    PAGE.write_text(page(lines, share, sum(survived.values()), sum(tried.values())))
    terminalreporter.write_line(f"{sum(survived.values()):,} of {sum(tried.values()):,} survived: {PAGE}")


def page(lines: list[str], share: float, survived: int, tried: int) -> str:
    part = "all" if share == 1 else f"{share:.0%} of the"
    minutes, cores = (time.monotonic() - BEGUN) / 60, len(os.sched_getaffinity(0))
    rows = "\n".join(lines)
    return f"""# Faults

What must never break a run, how often we tried to break one with it, and how often it survived. `make test-faults` does
all of it and writes this page; `make test` tries the same faults, less often, at every change. The faults are real:
processes are killed with SIGKILL, disks are full, bits are flipped in files that a run has written. Where chance has a
part, every trial has numbers of its own. A trial survives when all of what stands beside its fault holds.

Measured: {survived:,} of {tried:,} trials survived; {part} trials of the long run, in {minutes:.0f} minutes on {cores}
cores, with Python {platform.python_version()} and torch {torch.__version__.partition("+")[0]} on {platform.system()}.

| fault | what must happen | trials | survived |
| --- | --- | --- | --- |
{rows}
"""
