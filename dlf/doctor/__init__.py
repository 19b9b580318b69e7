"""The doctor: what is wrong with a training, by what its run directory holds, finished or not. No torch here.

Each examination looks at one thing: in the metrics of the epochs (metrics.jsonl), in what was seen inside of the
network (layers.jsonl, dlf/observe.py), or in run.json. Without observations the metrics still speak.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from dlf.doctor import course, inside
from dlf.doctor.case import Case, Record
from dlf.findings import Finding
from dlf.run import RunDirectory

WIDTH = 80  # columns of what is told at the end of a training

EXAMINATIONS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    course.divergence,
    course.training_loss,
    inside.constant_output,
    inside.dead_units,
    inside.saturated_units,
    inside.lost_signal,
    inside.gradients,
    inside.updates,
    course.learning,
    course.holding,
    course.overfitting,
    course.gap,
    course.plateau,
)


def diagnose(records: Sequence[Record], observations: Sequence[Record], info: Record) -> list[Finding]:
    """What the lines of metrics.jsonl and of layers.jsonl, and run.json, tell: a finding for each thing looked at.

    Failures first, then warnings. Nothing is raised where an entry is missing: what needs it is left out.
    """
    case = Case(records, observations, info)
    found = [finding for examine in EXAMINATIONS for finding in examine(case)]
    return sorted(found, key=lambda finding: ("fail", "warn", "pass").index(finding.verdict))


def diagnose_run(run: RunDirectory) -> list[Finding]:
    """The verdicts on a run, finished or not; RunError where its files are not what dlf wrote."""
    return diagnose(run.read_metrics(), run.read_observations(run.layers), run.read_info())


def in_words(findings: Sequence[Finding]) -> str:
    """What is wrong, with the remedy, in lines of 80 columns; one line where nothing is."""
    wrong = [finding for finding in findings if finding.verdict != "pass"]
    if not wrong:
        return f"doctor: nothing found, {len(findings)} things looked at"
    lines = [f"warning: the doctor found {len(wrong)} of {len(findings)} things wrong with this training"]
    for finding in wrong:
        more = f" More: {finding.more}" if finding.more else ""
        lines += textwrap.wrap(f"  {finding.verdict.upper()}  {finding.said}", WIDTH, subsequent_indent=" " * 8)
        lines += textwrap.wrap(f"{finding.remedy}{more}", WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
