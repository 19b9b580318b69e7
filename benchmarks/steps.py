"""Training for a while with dlf's engine, in the middle of whatever epoch that ends: when each step was over."""

from __future__ import annotations

import time
from typing import Any


class _Enough(Exception):  # noqa: N818 -- no error: how a training is left in the middle of an epoch
    pass


def ends_of_steps(experiment: Any, state: Any, seconds: float) -> list[float]:
    """The clock at the end of every step of an epoch, or of those of so many seconds, four at least."""
    from dlf.engine import fit

    marks: list[float] = []

    def on_step(_: Any) -> None:
        marks.append(time.perf_counter())
        if marks[-1] - marks[0] > seconds and len(marks) > 3:
            raise _Enough

    try:
        for _ in fit(state, experiment, epochs=1, history=[], on_step=on_step):
            pass
    except _Enough:
        pass
    return marks
