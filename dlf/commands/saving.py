"""When checkpoints are written, which are kept, and from which one a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from dlf import checkpoint, durable
from dlf.checkpoint import Contents
from dlf.config import CheckpointSection
from dlf.errors import RunError
from dlf.run import RunDirectory


class Timetable:
    """Whether checkpoints/last is due. It knows steps and the clock alone, so asking costs nothing and changes nothing.

    Steps count from the start of the run: a run that was stopped saves where one that never was saves.
    """

    def __init__(
        self, rules: CheckpointSection, steps_per_epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._steps_per_epoch = steps_per_epoch
        self._clock = clock
        self._saved_at = clock()

    def saved(self) -> None:
        """The minutes count from now."""
        self._saved_at = self._clock()

    def after_step(self, step: int) -> bool:
        """Whether to save after this step. The last one of an epoch is left to the epoch's end, a moment later."""
        return step % self._steps_per_epoch != 0 and self._is_time(step)

    def after_epoch(self, epoch: int, step: int) -> bool:
        """Whether to save at the end of this epoch."""
        return epoch % self._rules.every_epochs == 0 or self._is_time(step)

    def _is_time(self, step: int) -> bool:
        steps, minutes = self._rules.every_steps, self._rules.every_minutes
        if steps is not None and step % steps == 0:
            return True
        return minutes is not None and self._clock() - self._saved_at >= 60 * minutes


def commit(run: RunDirectory, files: Mapping[str, bytes], step: int, keep: int) -> None:
    """Make the packed checkpoint of this step `last`, and keep `keep - 1` of those before it as `step-N`.

    The one before is copied before it is replaced and the oldest is removed after that: wherever this ends, no fewer
    are there than before, and doing it again has the same result.
    """
    if keep > 1 and checkpoint.exists(run.last):
        with suppress(RunError):  # what is damaged is not worth keeping
            before = checkpoint.read(run.last)
            checkpoint.write(run.older_folder(before.position.step), before.files)
    checkpoint.write(run.last, files)
    prune(run, step, keep)


def prune(run: RunDirectory, step: int, keep: int) -> None:
    """Remove the older checkpoints that are too many, and those that `last`, being of this step, fell back behind."""
    before = [older for older in run.older_steps() if older < step]
    kept = before[len(before) - min(len(before), keep - 1) :]
    for older in run.older_steps():
        if older not in kept:
            durable.remove_folder(run.older_folder(older))


def mend(run: RunDirectory) -> None:
    """Clear away what a save that was cut off has left beside a checkpoint: the next one may never come."""
    for folder in _folders(run):
        durable.mend_folder(folder)


def _folders(run: RunDirectory) -> list[Path]:
    return [run.last, run.best, *map(run.older_folder, run.older_steps())]


def chosen(run: RunDirectory, name: str) -> Contents:
    """The checkpoint of this name: best, last or step-N. RunError, with those that are whole, where it is damaged."""
    return _read(run, run.checkpoint(name))


def newest(run: RunDirectory) -> Contents | None:
    """The checkpoint that a run goes on from; None before the first. RunError, with those that are whole, if damaged.

    It is `last`; where the process was killed between an epoch that was best and the next save of `last`, it is `best`,
    as long as metrics.jsonl has the records that belong to it.
    """
    last = _read(run, run.last) if checkpoint.exists(run.last) else None
    if not checkpoint.exists(run.best):
        return last
    try:
        best = checkpoint.read(run.best)
        run.check_metrics(best.written)
    except RunError:
        return last
    return best if last is None or _place(best) > _place(last) else last


def described(contents: Contents) -> str:
    """Where a checkpoint lies and how far it is: FOLDER (epoch 3, step 1290)."""
    return f"{contents.folder} (epoch {contents.position.epoch}, step {contents.position.step})"


def offers(run: RunDirectory, damaged: Path) -> str:
    """What to do when this checkpoint cannot be used: those that can, furthest first, and the command."""
    whole: dict[str, Contents] = {}
    for folder in _folders(run):
        with suppress(RunError):
            if folder != damaged:
                whole[folder.name] = checkpoint.read(folder)
    names = sorted(whole, key=lambda name: _place(whole[name]), reverse=True)
    if not names:
        return f"No other checkpoint is whole. To start anew: dlf train {run.config}"
    listed = ", ".join(f"{name} (epoch {_place(whole[name])[0]}, step {_place(whole[name])[1]})" for name in names)
    return f"Whole: {listed}. Go on with: dlf train --resume {run.path} --from {names[0]}"


def _read(run: RunDirectory, folder: Path) -> Contents:
    try:
        return checkpoint.read(folder)
    except RunError as error:
        raise RunError(f"{str(error).removesuffix(checkpoint.ELSEWHERE)}{offers(run, folder)}") from None


def _place(contents: Contents) -> tuple[int, int]:
    return contents.position.epoch, contents.position.step
