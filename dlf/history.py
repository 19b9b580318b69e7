"""What the metrics of the past epochs decide: which epoch is best, and whether to stop.

Pure functions of the records that metrics.jsonl holds, so a resumed run decides as one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dlf.schedules import lower_is_better

Record = Mapping[str, Any]
Mode = Literal["auto", "min", "max"]


def best_index(history: Sequence[Record], monitor: str, mode: Mode = "auto", min_delta: float = 0.0) -> int | None:
    """Index of the last record that was better than all before it by more than `min_delta`; None where none counts.

    A value that is no finite number, or null, as a NaN is in JSON, is never best.
    """
    sign = -1.0 if mode == "min" or (mode == "auto" and lower_is_better(monitor)) else 1.0
    best: int | None = None
    for index, record in enumerate(history):
        value = record[monitor]
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if best is None or sign * (value - history[best][monitor]) > min_delta:
            best = index
    return best


def is_best(history: Sequence[Record], monitor: str, mode: Mode = "auto") -> bool:
    """Whether the last epoch is the best so far."""
    return best_index(history, monitor, mode) == len(history) - 1


def outcome(history: Sequence[Record], monitor: str) -> dict[str, Any]:
    """What run.json keeps of the records, so that no list of runs reads them: `best`, `last`, `seconds` of training.

    Of a record its epoch and the single numbers that were measured; None where there is no such record.
    """
    best = best_index(history, monitor)
    return {
        "best": None if best is None else _measured(history[best]),
        "last": _measured(history[-1]) if history else None,
        "seconds": round(sum(record["seconds"] for record in history), 3),
    }


def _measured(record: Record) -> Record:
    kept = {name: value for name, value in record.items() if name.startswith(("train_", "val_"))}
    return {"epoch": record["epoch"], **{k: v for k, v in kept.items() if v is None or isinstance(v, int | float)}}


def should_stop(
    history: Sequence[Record],
    *,
    monitor: str,
    mode: Mode = "auto",
    patience: int = 5,
    min_delta: float = 0.0,
    start_from_epoch: int = 0,
) -> bool:
    """Whether `patience` epochs have passed without an improvement of more than `min_delta`.

    The first `start_from_epoch` epochs are not judged: neither as best nor as waiting.
    """
    judged = history[start_from_epoch:]
    best = best_index(judged, monitor, mode, min_delta)
    waited = len(judged) if best is None else len(judged) - 1 - best
    return waited >= patience
