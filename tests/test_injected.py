"""Faults in healthy experiments, and who finds them: the short form of `python -m tests.injected` (docs/faults.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
from injected.__main__ import DOCUMENT, document, is_wrong
from injected.bases import PROBLEMS, base
from injected.faults import FAULTS
from injected.looks import HEALTHY, Look, look_at_base, look_at_fault, look_at_shipped
from injected.table import alarms_list, faults_table, finders, healthy_table, total

from dlf.checks import CHECKS
from dlf.findings import Finding

SMALL = ("wine", "moons", "breast_cancer", "diabetes", "blobs")  # trained in a second


def small_seed(name: str | None = None) -> int:
    """The first seed whose experiment is small, and suits the fault."""
    suits = FAULTS[name].suits if name else lambda base: True
    return next(seed for seed in range(100) if base(seed, suits).problem in SMALL)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found(name: str) -> None:
    seen = look_at_fault(name, small_seed(name))
    assert finders(seen, FAULTS[name]), seen


def test_a_healthy_experiment_is_left_alone() -> None:
    seen = look_at_base(small_seed())
    assert not is_wrong(seen), seen
    assert seen.reached is not None
    assert seen.reached > PROBLEMS[seen.base].reached  # healthy is what learns


@pytest.mark.parametrize("name", ["lesson", "xor"])
def test_a_shipped_experiment_is_left_alone(name: str) -> None:
    seen = look_at_shipped(name, 3)
    assert not is_wrong(seen), seen


def test_the_experiments_differ() -> None:
    drawn = [base(seed) for seed in range(40)]
    assert {each.problem for each in drawn} == set(PROBLEMS)
    assert len({str(each.config["model"]) for each in drawn}) > 30
    assert [base(seed).config for seed in range(5)] == [each.config for each in drawn[:5]]


def made_up(fault: str, *names: str, verdict: str = "warn") -> Look:
    findings = tuple(Finding(name, verdict, "", None, None) for name in names)  # type: ignore[arg-type]
    return Look(fault, "wine", 7, None, findings, (), None, 0.9)


def test_what_counts_as_found() -> None:
    """A finding that names the fault; not that something is wrong, and not another fault's name."""
    assert not is_wrong(made_up("no activation", "nonlinearity"))
    assert is_wrong(made_up("no activation", "learning", verdict="fail"))
    assert is_wrong(made_up("no activation", "input_scale"))
    assert is_wrong(made_up(HEALTHY, "nonlinearity"))
    assert is_wrong(made_up(HEALTHY, "learning", verdict="fail"))
    assert not is_wrong(made_up(HEALTHY, "overfitting"))


def test_the_tables_count_right() -> None:
    looks = [
        made_up("no activation", "nonlinearity"),
        made_up("no activation", "learning"),
        made_up(HEALTHY, "nonlinearity"),
        made_up(HEALTHY, "overfitting"),
    ]
    row = faults_table(looks).splitlines()[2]
    assert row == "| no activation | 2 |  | 1 |  | 50 % | 7 | 50 % |"  # one of two found; one of two alarms is right
    assert healthy_table(looks).splitlines()[2] == "| wine | 2 | 0.90 | 1 | overfitting (1) |"
    assert total(looks).endswith("1 were found; of 2 healthy experiments 1 had a false alarm, 0 of them a FAIL.")
    assert alarms_list(looks).splitlines()[2:] == ["- wine, seed 7, check: WARN `nonlinearity`: "]


def test_the_findings_that_name_faults_exist() -> None:
    """Every name is written in dlf/checks or dlf/doctor: a renamed finding must not become a missed fault."""
    sources = [path.read_text(encoding="utf-8") for path in (DOCUMENT.parents[1] / "dlf").glob("*/*.py")]
    assert CHECKS
    for fault in FAULTS.values():
        for name in fault.named_by:
            ways = f'"{name}"', f'f"{name.partition("_")[0]}_{{'  # f"shared_{part}"
            assert any(way in source for way in ways for source in sources), name


def test_the_document_is_up_to_date() -> None:
    """Its lists are those of the code, and its tables have every fault and every shipped experiment."""
    text = Path(DOCUMENT).read_text(encoding="utf-8")
    assert document(text) == text
    measured = text.partition("<!-- measured -->")[2]
    assert all(f"| {name} | " in measured for name in FAULTS)
