"""The table in tests/README.md is what the tests say of themselves, and none can say more than it does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import COLLECTED, Tried
from faults import README, Trial, completed, rows, trials

EXAMPLE = """| id | fault | must | cases |
| --- | --- | --- | --- |
| K1 | a \\| b | found | |
| K7 | cuda | works | 5 |

## The tests of each row
old
"""


def test_the_table_is_up_to_date(request: pytest.FixtureRequest) -> None:
    """Compared with the tests of this very run, where it is of the whole suite; -k and the like choose later."""
    if request.config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        text = README.read_text(encoding="utf-8")
        collected = request.config.stash[COLLECTED]
        assert completed(text, trials(collected)) == text, "python -m tests.faults"
    else:
        command = [sys.executable, "-m", "tests.faults", "--check"]
        done = subprocess.run(command, cwd=README.parent.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_row_is_tried_and_every_test_has_a_row() -> None:
    text = README.read_text(encoding="utf-8")
    listed = rows(text)
    assert len(listed) == len(set(listed)) == 48
    assert " | 0" not in text
    tried = {line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ") and len(line) < 6}
    assert tried == set(listed)


def test_the_table_is_filled_in() -> None:
    found = [Trial("K1", "test_a.py::test_b", 1200, False), Trial("K7", "test_c.py::test_d", 3, True)]
    text = completed(EXAMPLE, found)
    assert "| K1 | a \\| b | found | 1,200 |\n| K7 | cuda | works | 3 on a GPU |\n" in text
    assert text.endswith("- K1\n  - `test_a.py::test_b`: 1,200\n- K7\n  - `test_c.py::test_d`: 3 (needs a GPU)\n")
    assert completed(text, found) == text
    assert completed(text, found[:1]) != text


@pytest.mark.parametrize("cases", [2, pytest.param(4, marks=pytest.mark.xfail(strict=True, raises=AssertionError))])
def test_a_test_tries_as_many_cases_as_it_says(cases: int, tried: Tried, request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.fault("K1", cases=cases))
    for _ in range(3):
        tried()


@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_a_test_that_says_so_and_does_not_count(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.fault("K1", cases=1))
