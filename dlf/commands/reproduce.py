"""`dlf reproduce`: train again what a run recorded, and compare every bit with what it kept."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dlf import checkpoint, environment
from dlf import data as data_module
from dlf.commands import saving
from dlf.commands.differences import (
    Change,
    LossDifference,
    RecordDifference,
    TensorDifference,
    changes,
    conclusion,
    distinct,
    first_entry,
    first_loss,
    first_tensor,
    tensors,
)
from dlf.commands.listeners import Display, Logged
from dlf.commands.stopping import signals
from dlf.commands.train import loop, threads
from dlf.config import ExperimentConfig, load
from dlf.engine import Experiment, TrainState
from dlf.errors import DivergedError, DlfError, RunError
from dlf.experiment import assemble, choose_device
from dlf.run import Info, Record, RunDirectory
from dlf.run import now as time_now

Position = tuple[int, int]  # finished epochs, steps since the start


@dataclass(frozen=True)
class Compared:
    """A checkpoint of the run that was compared, and where it stands."""

    checkpoint: str
    epoch: int
    step: int
    tensors: int


@dataclass(frozen=True)
class Ending:
    """Where a training ended, or was left; where it diverged, the first step whose loss was not finite, if any was."""

    step: int
    diverged: bool
    diverged_at: int | None


@dataclass(frozen=True)
class Reproduction:
    """What training again came to.

    `then` is where the run stands and `now` how far it was trained again. `steps` and `records` count the losses and
    the records of metrics.jsonl that were compared, `checkpoints` lists those that were. `path` is the repeated run,
    where it was kept.
    """

    run: str
    identical: bool
    then: Ending
    now: Ending
    steps: int
    records: int
    checkpoints: list[Compared]
    loss: LossDifference | None
    record: RecordDifference | None
    tensor: TensorDifference | None
    changes: list[Change]
    conclusion: str
    path: str | None


def reproduce(run: RunDirectory, *, device: str | None = None, keep: bool = False, display: Display) -> Reproduction:
    """Train again, on the recorded device and threads, to where the run stands; compare bits on the way.

    It ends as soon as a difference was found and a checkpoint was compared. The repeated run is in a temporary folder,
    or with `keep` beside the run. RunError where there is nothing to compare with, or the data have changed.
    """
    recorded = _read(run)
    with nullcontext(run.path.parent) if keep else tempfile.TemporaryDirectory(prefix="dlf-") as folder:
        again = RunDirectory.create(Path(folder), recorded.config.name)
        found = _train(again, recorded, device, display)
    return _result(recorded, found, str(again.path) if keep else None)


# --- what the run recorded ------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A stretch of the training with its own settings: from where to where, planned for how many epochs, on what."""

    start: Position
    end: Position
    epochs: int
    device: str
    threads: int


@dataclass(frozen=True)
class _Recorded:
    """What a run directory says, read once before anything is trained."""

    run: RunDirectory
    config: ExperimentConfig
    info: Info
    history: Sequence[Record]
    checkpoints: Mapping[str, checkpoint.Contents]
    losses: Tensor
    entries: Sequence[Mapping[str, Any]]  # of run.json: where each part of the training began, and in what environment
    end: Position

    @property
    def diverged(self) -> bool:
        return bool(self.info["status"] == "diverged")


def _read(run: RunDirectory) -> _Recorded:
    """RunError where a file is damaged, or where the run has come to nothing that could be compared."""
    info, config, newest = run.read_info(), load(run.config).config, saving.newest(run)
    diverged = info["status"] == "diverged"
    if newest is None and not diverged:
        raise RunError(f"{run.id} has no checkpoint: there is nothing to compare with")
    if newest:
        run.check_metrics(newest.written)
    # where it was found to have diverged, the loop looks again, as it does before every save
    end = _position(newest) if newest and not diverged else (info["epochs"], info["step"])
    found = {folder.name: checkpoint.read(folder) for folder in _folders(run)}
    return _Recorded(
        run=run,
        config=config,
        info=info,
        history=run.read_metrics()[: end[0]],
        checkpoints={name: contents for name, contents in found.items() if _position(contents) <= end},
        losses=checkpoint.losses(newest) if newest else Tensor(),
        entries=_entries(info, end),
        end=end,
    )


def _folders(run: RunDirectory) -> list[Path]:
    """Every checkpoint of the run."""
    older = map(run.older_folder, run.older_steps())
    return [folder for folder in (*older, run.best, run.last) if checkpoint.exists(folder)]


def _position(contents: checkpoint.Contents) -> Position:
    return contents.position.epoch, contents.position.step


def _entries(info: Info, end: Position) -> list[Mapping[str, Any]]:
    """Where training began or went on, in order; what was trained and then thrown away is left out."""
    first = Info({**info, "epoch": 0, "step": 0, "epochs": info["planned_epochs"]})
    entries: list[Mapping[str, Any]] = []
    for entry in (first, *(Info(resumed) for resumed in info.get("resumed", []))):
        while entries and _start(entries[-1]) >= _start(entry):
            entries.pop()
        entries.append(entry)
    return [entry for entry in entries if _start(entry) < end] or entries[:1]


def _start(entry: Mapping[str, Any]) -> Position:
    return entry["epoch"], entry["step"]


def _parts(recorded: _Recorded, device: str | None) -> list[_Part]:
    """The parts in order; two that follow each other with the same settings are one, as resuming changes nothing."""
    parts: list[_Part] = []
    for entry in recorded.entries:
        where = device or entry["device"]
        start, settings = _start(entry), (entry["epochs"], where, entry["threads"])
        if parts and parts[-1][2:] == settings:
            continue
        if parts:
            parts[-1] = parts[-1]._replace(end=start)
        parts.append(_Part(start, recorded.end, *settings))
    return parts


# --- training again -------------------------------------------------------------------------------------------------

_REACHED = 0  # among the signals that stop the loop: no signal has this number


@dataclass
class _Found:
    """What showed while training again."""

    epoch: int = 0
    step: int = 0
    diverged: bool = False
    diverged_at: int | None = None
    steps: int = 0
    records: int = 0
    checkpoints: list[Compared] = field(default_factory=list)
    loss: LossDifference | None = None
    record: RecordDifference | None = None
    tensor: TensorDifference | None = None
    device: str = "cpu"
    changes: list[Change] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether some bits that were compared are not equal."""
        return any((self.loss, self.record, self.tensor))


class AbandonedError(DlfError):
    """A signal asked to stop. The exit code is the shell's for that signal."""

    def __init__(self, number: int, run: RunDirectory) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}; nothing was decided, and {run.id} is as it was")


def _train(again: RunDirectory, recorded: _Recorded, device: str | None, display: Display) -> _Found:
    """Every part in turn, each from where the one before ended."""
    told, found = Logged(display), _Found()
    told.attach(again)
    told.message(f"training {recorded.run.id} again")
    _begin(again, recorded)
    try:
        for part in _parts(recorded, device):
            with threads(part.threads):
                _train_part(part, again, recorded, found, told)
            if found.diverged or found.differs:
                break
    finally:
        told.end()
        came_to = {"epochs": found.epoch, "step": found.step, "diverged_at": found.diverged_at}
        again.write_info(status=_status(found, recorded), finished=time_now(), **came_to)
    return found


def _begin(again: RunDirectory, recorded: _Recorded) -> None:
    """Make the folder a run like the one that is repeated."""
    text = recorded.run.config.read_text(encoding="utf-8")
    again.begin(text, (), text)
    own = {"id": again.id, "reproduces": recorded.run.id, "started": time_now(), "status": "running"}
    again.write_info(**{**recorded.info, **own, "test_looks": []})


def _status(found: _Found, recorded: _Recorded) -> str:
    if found.diverged:
        return "diverged"
    over = recorded.info["status"] == "completed" and (found.epoch, found.step) == recorded.end
    return "completed" if over else "interrupted"


def _train_part(part: _Part, again: RunDirectory, recorded: _Recorded, found: _Found, display: Logged) -> None:
    """From `part.start` to `part.end`, by the loop of `dlf train`."""
    loaded, target = load(recorded.run.config, [f"train.epochs={part.epochs}"]), choose_device(part.device)
    sha256, split = recorded.info["data_sha256"], recorded.info["split_sha256"]
    data = data_module.reload(loaded.config.data_section, target, display.message, sha256=sha256, split=split)
    with loaded.places():
        experiment, state, config = assemble(loaded.config, data, target)
        spare = assemble(loaded.config, data, target)[1]
    for contents in recorded.checkpoints.values():
        checkpoint.fill(contents, spare)  # what does not fit is refused before anything is trained
    if part.start > (0, 0):
        checkpoint.load(again.last, state)
    here = {**environment.describe(target), "precision": experiment.precision, "seed": config.seed}
    again.write_info(**here)
    entries = [entry for entry in recorded.entries if part.start <= _start(entry) < part.end]
    found.changes += [change for entry in entries for change in changes(entry, here)]
    found.device = target.type
    with signals() as received:
        watch = _Watch(found, recorded, experiment.steps_per_epoch, spare, part.end, display, received)
        watch.start(again, config, experiment, state)
        try:
            loop(again, config, experiment, state, again.read_metrics(), watch, received)
        except DivergedError as error:
            found.diverged, found.diverged_at = True, error.step
            watch.look()
            display.message(str(error))
        finally:
            found.epoch, found.step = state.epoch, state.step
    if stopped := [number for number in received if number != _REACHED]:
        raise AbandonedError(stopped[0], recorded.run)


class _Watch:
    """Compares what is trained with what was, hands everything on to a display, and ends the loop where it may end."""

    def __init__(
        self,
        found: _Found,
        recorded: _Recorded,
        steps_per_epoch: int,
        spare: TrainState,
        end: Position,
        display: Display,
        received: list[int],
    ) -> None:
        self._found, self._recorded, self._steps_per_epoch = found, recorded, steps_per_epoch
        self._spare, self._end, self._display, self._received = spare, end, display, received
        self._places = {_position(contents) for contents in recorded.checkpoints.values()}

    def message(self, text: str) -> None:
        self._display.message(text)

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self._state = state
        self._display.start(run, config, experiment, state)

    def step(self, state: TrainState) -> None:
        self._display.step(state)
        position = state.epoch, state.step
        if position in self._places or position >= self._end:
            self.look()

    def epoch(self, record: Record, best: bool) -> None:
        self._display.epoch(record, best)
        index, found = record["epoch"] - 1, self._found
        if index < len(self._recorded.history):
            found.record = found.record or first_entry(self._recorded.history[index], record)
            found.records += 1
        self.look()

    def end(self) -> None:
        self._display.end()

    def look(self) -> None:
        """Compare the losses so far and the checkpoints of this place; end the loop where nothing is left to find."""
        state, found, losses = self._state, self._found, self._recorded.losses
        found.loss = found.loss or first_loss(losses, state.losses[: state.step], self._steps_per_epoch)
        found.steps = min(state.step, len(losses))
        for name, contents in self._recorded.checkpoints.items():
            if _position(contents) == (state.epoch, state.step):
                checkpoint.fill(contents, self._spare)
                found.loss = found.loss or first_loss(self._spare.losses, state.losses, self._steps_per_epoch)
                found.tensor = found.tensor or first_tensor(name, self._spare, state)
                found.checkpoints.append(Compared(name, state.epoch, state.step, len(tensors(state))))
        known = found.differs and (found.checkpoints or not self._places)
        if known or (state.epoch, state.step) >= self._end:
            self._received.append(_REACHED)


# --- the result -----------------------------------------------------------------------------------------------------


def _result(recorded: _Recorded, found: _Found, path: str | None) -> Reproduction:
    # an older dlf did not record where
    then = Ending(recorded.end[1], recorded.diverged, recorded.info.get("diverged_at", found.diverged_at))
    now = Ending(found.step, found.diverged, found.diverged_at)
    complete = len(found.checkpoints) == len(recorded.checkpoints)
    identical = complete and not found.differs and now == then
    changed = distinct(found.changes)
    return Reproduction(
        run=recorded.run.id,
        identical=identical,
        then=then,
        now=now,
        steps=found.steps,
        records=found.records,
        checkpoints=found.checkpoints,
        loss=found.loss,
        record=found.record,
        tensor=found.tensor,
        changes=changed,
        conclusion=conclusion(not identical, changed, found.device),
        path=path,
    )
