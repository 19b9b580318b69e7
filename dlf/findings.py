"""Findings: what a look at a network or a run found, in one form for `dlf check`, the doctor and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, against which threshold, and what to do about it.

    `name` is a stable key ("first_loss"), `said` one sentence with the number, `remedy` empty for a pass, `more` where
    to read on ("dlf why initialization", "docs/lesson.md#loss"), `layer` the index as `dlf summarize` counts.
    """

    name: str
    verdict: Verdict
    said: str
    value: float | None = None
    threshold: float | None = None
    remedy: str = ""
    more: str = ""
    layer: str | None = None
