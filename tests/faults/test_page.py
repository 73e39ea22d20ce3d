"""The table of faults (docs/faults.md) has a row for every fault, and none that did not survive."""

import re
from pathlib import Path

from known_faults import ELSEWHERE, FAULTS

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| (.+?) \| (.+?) \| ([\d,]+) \| ([\d,]+) \|$", re.MULTILINE)


def test_the_page_has_a_row_for_every_fault_and_all_trials_survived():
    rows = ROW.findall((TESTS.parent / "docs" / "faults.md").read_text())
    assert {fault: must for fault, must, *_ in rows} == FAULTS, "run `make test-faults`"
    assert [row for row in rows if row[2] != row[3] or row[2] == "0"] == []


def test_the_tests_that_stand_for_a_fault_are_there():
    assert set(ELSEWHERE.values()) <= FAULTS.keys()
    for test in ELSEWHERE:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS / file).read_text(), test
