"""`dlf runs`: the runs of a folder as a table, and `dlf runs rm`. No torch: of each run one small file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from dlf import durable
from dlf.errors import RunError, UsageError
from dlf.run import Info, Record, RunDirectory, Status, read_all

ORDERS = ("started", "id", "status", "data", "best", "last", "epochs", "seconds")
STATUSES = (*get_args(Status), "stopped")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Listed:
    """One run; what its run.json does not hold is None.

    `status` is that of run.json, or "stopped": it says running, and no process holds the run. `best` and `last` hold
    the epoch and what was measured in it. `seconds` are those of training.
    """

    id: str
    path: str
    status: str | None
    started: str | None
    data: str | None
    requested_data: str | None
    monitor: str | None
    best: Record | None
    last: Record | None
    epochs: int | None
    planned_epochs: int | None
    seconds: float | None

    def monitored(self, which: str) -> float | None:
        """The monitored metric of the best or the last epoch."""
        record = self.best if which == "best" else self.last
        value: float | None = _typed(record or {}, self.monitor, float)
        return value


@dataclass(frozen=True)
class Listing:
    """The runs that were asked for, in order; `matching` of `total` runs, and how many entries are no run."""

    folder: str
    runs: list[Listed]
    matching: int
    total: int
    skipped: int


def list_runs(
    folder: Path,
    *,
    sort: str = "started",
    status: str | None = None,
    data: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    now: datetime | None = None,
) -> Listing:
    """The runs of a folder, the last one started first, or by another key: what is best, most or longest first.

    `status` and `data` select by equal words; `since` takes what was started after a date, or within so long before
    `now` as "90m", "12h", "7d", "2w" say. Runs that lack what is sorted by come last. UsageError for other words.
    """
    if sort not in ORDERS:
        raise UsageError(f"no such order: {sort!r}. Sort by one of: {', '.join(ORDERS)}")
    if status is not None and status not in STATUSES:
        raise UsageError(f"no such status: {status!r}. It is one of: {', '.join(STATUSES)}")
    earliest = None if since is None else _moment(since, now or datetime.now().astimezone())
    found = [
        None if info is None else _listed(path, info) for path, info in read_all(folder)
    ]  # one run.json at a time in memory
    runs = [run for run in found if run is not None]
    matching = [
        run
        for run in runs
        if (status is None or run.status == status)
        and (data is None or run.data == data)
        and (earliest is None or _time(run.started) >= earliest)
    ]
    ordered = _sorted(matching, sort)
    shown = ordered if limit is None else ordered[:limit]
    return Listing(str(folder), shown, len(matching), len(runs), len(found) - len(runs))


def _moment(since: str, now: datetime) -> datetime:
    """When `since` means; UsageError where it means nothing."""
    if ago := re.fullmatch(r"([0-9]{1,6})([smhdw])", since):
        return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        return datetime.fromisoformat(since).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {since!r} is no time: write 90m, 12h, 7d, 2w, or a date such as 2026-11-23"
        ) from None


def _time(started: str | None) -> datetime:
    """When a run was started; long ago where that is not known."""
    try:
        return datetime.fromisoformat(started or "").astimezone()
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0).astimezone()


def _listed(folder: Path, info: Info) -> Listed:
    """A run by its run.json; where that was not finished, or is of an older dlf, by the end of metrics.jsonl too."""
    status, monitor = _typed(info, "status", str), _typed(info, "monitor", str)
    summary: Mapping[str, Any] = info
    if status == "running" or "last" not in info:
        summary = _so_far(RunDirectory(folder), monitor)
    if status == "running" and not RunDirectory(folder).is_trained_now():
        status = "stopped"
    return Listed(
        id=folder.name,
        path=str(folder),
        status=status,
        started=_typed(info, "started", str),
        data=_typed(info, "data", str),
        requested_data=_typed(info, "requested_data", str),
        monitor=monitor,
        best=_typed(summary, "best", dict),
        last=_typed(summary, "last", dict),
        epochs=_typed(summary, "epochs", int),
        planned_epochs=_typed(info, "planned_epochs", int),
        seconds=_typed(summary, "seconds", float),
    )


def _so_far(run: RunDirectory, monitor: str | None) -> Mapping[str, Any]:
    """What run.json will say of the epochs; without best and seconds where the file is too long for a quick look."""
    from dlf.history import outcome  # brings pydantic's models of all schedules: a tenth of a second

    records, all_of_them = run.read_last_metrics()
    try:
        found = {**outcome(records, monitor or ""), "epochs": records[-1]["epoch"] if records else 0}
    except (KeyError, TypeError):  # not the records that dlf writes
        return {}
    return found if all_of_them else {"last": found["last"], "epochs": found["epochs"]}


def _typed(entries: Mapping[str, Any], key: str | None, kind: type) -> Any:
    """The entry, where it is of this kind: files of other versions, or edited ones, are listed with what they have."""
    value = entries.get(key) if key is not None else None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _sorted(runs: Sequence[Listed], key: str) -> list[Listed]:
    newest = sorted(runs, key=lambda run: (_time(run.started), run.id), reverse=True)
    if key == "started":
        return newest
    if key in {"best", "last"}:  # losses and accuracies are not compared with each other
        return _by_metric(newest, key)
    if key in ("epochs", "seconds"):
        return sorted(newest, key=lambda run: -(getattr(run, key) or 0))
    return sorted(newest, key=lambda run: (getattr(run, key) is None, getattr(run, key) or ""))


def _by_metric(runs: Sequence[Listed], which: str) -> list[Listed]:
    from dlf.schedules import lower_is_better

    def rank(run: Listed) -> tuple[bool, str, float]:
        value, monitor = run.monitored(which), run.monitor or ""
        return value is None, monitor, 0.0 if value is None else value if lower_is_better(monitor) else -value

    return sorted(runs, key=rank)


# --- removing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removed:
    """A run that was, or is to be, removed, and the bytes that it takes."""

    id: str
    path: str
    bytes: int


def removable(words: Sequence[str], folder: Path) -> list[RunDirectory]:
    """The runs that the words mean, each once.

    Refused together, before anything is removed: what is no run, lies elsewhere than in `folder`, is a link, or is
    being trained.
    """
    found = {run.path.resolve(): run for run in (RunDirectory.find(word, folder) for word in words)}
    for run in found.values():
        if run.path.is_symlink():
            raise RunError(f"{run.path} is a symbolic link to a run, which is not followed. Remove the link itself.")
        if run.path.parent.resolve() != folder.resolve():
            raise UsageError(
                f"{run.path} lies outside of {folder.absolute()}: nothing is removed there. Name its folder with "
                "--runs-dir."
            )
        if run.is_trained_now():
            raise RunError(f"{run.id} is being trained: nothing was removed. Stop it first, or leave it out.")
    return list(found.values())


def sizes(runs: Sequence[RunDirectory]) -> list[Removed]:
    """What removing these runs would free."""
    return [Removed(run.id, str(run.path), run.size()) for run in runs]


def remove(runs: Sequence[RunDirectory], folder: Path) -> list[Removed]:
    """Remove the runs, one after the other, and what was left in `folder` of removals that were cut off."""
    removed = [Removed(run.id, str(run.path), run.remove()) for run in runs]
    for left in durable.hidden(folder):
        durable.remove_hidden(left)
    return removed
