"""Which tests try which row of the table of faults: `python -m tests.faults` brings tests/README.md up to date.

A test says so itself: `@pytest.mark.fault("K1", cases=500)`. A collected test is one case. One that tries many in a
loop says how many at least, and calls the fixture `tried` for each; conftest.py fails it when there were fewer.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).with_name("README.md")
TESTS = "## The tests of each row"
_ROW = re.compile(r"^\| ([A-Z]\d+) (\| .* \| .*) \|[^|]*\|$", re.MULTILINE)


class Trial(NamedTuple):
    """A test, how many cases of a fault it tries, and whether that needs a GPU."""

    row: str
    test: str
    cases: int
    gpu: bool


def trials(items: Iterable[pytest.Item]) -> list[Trial]:
    """The trials of the collected tests, those of all parameters of a test together."""
    found: dict[tuple[str, str], Trial] = {}
    for item in items:
        for marker in item.iter_markers("fault"):
            row, test = marker.args[0], f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
            before = found.get((row, test), Trial(row, test, 0, False))
            cases, gpu = before.cases + marker.kwargs.get("cases", 1), item.get_closest_marker("gpu") is not None
            found[row, test] = Trial(row, test, cases, gpu)
    return sorted(found.values())


def collect() -> list[Trial]:
    """The trials of the whole suite."""

    class Collector:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.found = trials(session.items)

    collector, said = Collector(), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", str(README.parent)], [collector])
    if code:
        raise SystemExit(f"the tests cannot be collected: {said.getvalue()[-2000:]}")
    return collector.found


def rows(text: str) -> list[str]:
    """The rows of the table, by their ids."""
    return [match[1] for match in _ROW.finditer(text)]


def completed(text: str, found: Sequence[Trial]) -> str:
    """The text of README.md with the cases of every row, and the list of its tests."""

    def counted(row: str) -> str:
        cases = sum(trial.cases for trial in found if trial.row == row)
        gpu = sum(trial.cases for trial in found if trial.row == row and trial.gpu)
        share = f", {gpu:,} of them" if gpu < cases else ""
        return f"{cases:,}" + (f"{share} on a GPU" if gpu else "")

    table = _ROW.sub(lambda match: f"| {match[1]} {match[2]} | {counted(match[1])} |", text.partition(TESTS)[0])
    lines = [TESTS, ""]
    for row in rows(table):
        lines += [f"- {row}"]
        for trial in found:
            if trial.row == row:
                lines += [f"  - `{trial.test}`: {trial.cases:,}{' (needs a GPU)' if trial.gpu else ''}"]
    return table + "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> None:
    """Write README.md anew; with --check, say whether it is up to date."""
    now = README.read_text(encoding="utf-8")
    text = completed(now, collect())
    if "--check" in words:
        raise SystemExit(None if text == now else "tests/README.md is not up to date: python -m tests.faults")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
