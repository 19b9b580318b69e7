"""What the tests of the configuration share: a text with one fault, and how its one problem is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from dlf.config import ExperimentConfig, loads
from dlf.errors import ConfigError, Problem


def problems_of(text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f.yaml", overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def config_of(text: str, *overrides: str) -> ExperimentConfig:
    return loads(text, "f.yaml", overrides).config


def by_row(cases: Iterable[str]) -> list[Any]:
    """Names of cases as parameters of a test, each marked with the row of the table of faults that it begins with."""
    rows = {case: re.findall(r"^[A-Z]\d+", case) for case in cases}
    return [pytest.param(case, marks=[pytest.mark.fault(row) for row in found]) for case, found in rows.items()]


class Fault(NamedTuple):
    """A text, where its one problem stands ("" where in the file as a whole), its key, and words of its message."""

    text: str
    place: str
    key: str
    words: tuple[str, ...]


def check_fault(fault: Fault, *overrides: str) -> None:
    (problem,) = problems_of(fault.text, *overrides)
    assert problem.place == (f"f.yaml:{fault.place}" if fault.place else "f.yaml")
    assert problem.key == fault.key
    for words in fault.words:
        assert words in problem.message
