"""What is examined: the numbers of a run, and the words that the verdicts on it share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dlf.findings import Finding, Verdict

Record = Mapping[str, Any]
Limits = tuple[float, float]  # from where on it is a warning, and from where on a failure

SHORT = 100  # steps: before so many, a healthy network may know nothing yet


@dataclass(frozen=True)
class Seen:
    """A layer in one observation: where that was, what the layer is, and the number that was asked for."""

    at: Record
    row: Record
    value: float


@dataclass(frozen=True)
class Case:
    """The lines of metrics.jsonl and layers.jsonl, and run.json; what is no finite number counts as missing."""

    records: Sequence[Record]
    observations: Sequence[Record]
    info: Record

    # --- metrics ----------------------------------------------------------------------------------------------------

    def column(self, name: str) -> list[float]:
        """The numbers of an entry, epoch by epoch."""
        return [value for record in self.records if (value := number(record.get(name))) is not None]

    def late(self, name: str) -> float | None:
        """The mean of a column over the last third of the epochs."""
        values = self.column(name)
        return fmean(values[-max(1, len(values) // 3) :]) if values else None

    @property
    def headline(self) -> str:
        """The metric that is measured everywhere: mae for a regression, else accuracy."""
        return "mae" if self.info.get("task") == "regression" else "accuracy"

    @property
    def steps(self) -> float:
        """Updates so far."""
        return max([0.0, *self.column("step")])

    @property
    def rate(self) -> str:
        """The greatest learning rate so far, as a remedy names it."""
        rates = self.column("lr")
        return f"optimizer.lr (so far at most {max(rates):.3g})" if rates else "optimizer.lr"

    # --- beside an answer that is always the same --------------------------------------------------------------------

    def baseline(self, name: str) -> float | None:
        """What such an answer gets: dlf.observe.constant_answer, kept in run.json."""
        return number(_entry(self.info, "baseline", name))

    def skill(self, part: str) -> float | None:
        """How far the network came from that answer, 0, to no error, 1, in the last third of the epochs."""
        late, base = self.late(f"{part}_{self.headline}"), self.baseline(f"{part}_{self.headline}")
        if late is None or base is None:
            return None
        if self.headline == "mae":
            return 1 - late / base if base > 0 else None
        return (late - base) / (1 - base) if base < 1 else None

    def noise(self, part: str) -> float:
        """The standard error of that answer's accuracy, measured on this part, as a skill; 0 for a regression."""
        base, n = self.baseline(f"{part}_accuracy"), self.samples(part)
        return math.sqrt(base / (1 - base) / n) if base is not None and base < 1 and n else 0.0

    def samples(self, part: str) -> float:
        """How many there are."""
        return number(_entry(self.info, "samples", part)) or 0.0

    # --- inside of the network ---------------------------------------------------------------------------------------

    def rows(self, *names: str) -> list[list[tuple[Record, Record]]]:
        """For each observation it and the layers that have all these numbers, from the input on."""
        found: list[list[tuple[Record, Record]]] = []
        for at in self.observations:
            layers = at.get("layers")
            rows = [row for row in layers if isinstance(row, dict)] if isinstance(layers, list) else []
            found.append([(at, row) for row in rows if all(number(row.get(name)) is not None for name in names)])
        return found

    def when(self, at: Record) -> str:
        """An observation as "epoch 3", where it was made at the end of one, else "step 250"."""
        ends = {record.get("step") for record in self.records}
        return f"epoch {at['epoch']}" if at.get("step") in ends else f"step {at.get('step')}"


def number(value: object) -> float | None:
    """The value as a finite float, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _entry(info: Record, group: str, name: str) -> object:
    entries = info.get(group)
    return entries.get(name) if isinstance(entries, dict) else None


def above(value: float, limits: Limits) -> Verdict:
    """The verdict on a number that should be small."""
    warning, failure = limits
    return "fail" if value >= failure else "warn" if value >= warning else "pass"


def below(value: float, limits: Limits) -> Verdict:
    """The verdict on a number that should be large."""
    warning, failure = limits
    return "fail" if value <= failure else "warn" if value <= warning else "pass"


def finding(
    name: str,
    verdict: Verdict,
    said: str,
    value: float | None,
    threshold: float | None,
    *,
    remedy: str,
    more: str,
    layer: str | None = None,
) -> Finding:
    """A finding; what passes needs no remedy."""
    passed = verdict == "pass"
    return Finding(name, verdict, said, value, threshold, "" if passed else remedy, "" if passed else more, layer)


def percent(share: float) -> str:
    """A share as 97.3 %, from 10 % on as 97 %."""
    return f"{100 * share:.{0 if share >= 0.1 or share == 0 else 1}f} %"
