"""`dlf train`: one experiment file in, a run directory out. The whole training loop is read here, top to bottom."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dlf import checkpoint, environment
from dlf import data as data_module
from dlf.config import EarlyStopping, ExperimentConfig, Loaded, load
from dlf.data import Data
from dlf.datasets import DataSection
from dlf.engine import Experiment, TrainState, fit
from dlf.errors import DivergedError, DlfError, RunError, UsageError
from dlf.experiment import assemble, check_memory, choose_device
from dlf.history import best_index, is_best, should_stop
from dlf.model import draw
from dlf.run import Record, RunDirectory, Status, now


class Display(Protocol):
    """Who is told what happens while training; dlf/display.py draws it, a test or a notebook may listen."""

    def message(self, text: str) -> None:
        """Something the user should know: a download, a fallback, a warning."""

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        """Training begins, or goes on, from `state`."""

    def step(self, state: TrainState) -> None:
        """One update is done; called from the hot loop, so it must return at once and never read a tensor."""

    def epoch(self, record: Record, best: bool) -> None:
        """One epoch is done and saved."""

    def end(self) -> None:
        """Training is over, whatever the reason."""


@dataclass(frozen=True)
class TrainResult:
    """What training came to. `best` and `last` are records of metrics.jsonl; `data` names what was trained on."""

    run: str
    path: str
    status: Status
    data: str
    requested_data: str
    epochs: int
    monitor: str
    best: Record
    last: Record
    seconds: float


class StoppedError(DlfError):
    """A signal asked the training to stop; the state is saved. The exit code is the shell's for that signal."""

    def __init__(self, number: int, run: RunDirectory) -> None:
        # Ctrl-C and SIGTERM as the shell counts them: 130 and 143
        self.exit_code = 128 + number
        super().__init__(
            f"stopped by {signal.Signals(number).name}; everything up to the last step is saved. "
            f"Go on with: dlf train --resume {run.path}"
        )


def train(loaded: Loaded, *, runs: Path, display: Display) -> TrainResult:
    """Train the experiment in a new run directory below `runs`."""
    config = loaded.config
    device = _set_up_machine(config)
    with loaded.places():  # what can be refused without the data is refused before they are read
        spec = data_module.known_spec(config.data_section)
        if spec is not None:
            check_memory(draw(config, spec), config.optimizer, device)
    messages: list[str] = []
    data, section = data_module.load(config.data_section, device, display.message, messages.append)
    _warn(config.data_section, section, messages, data, display)
    with loaded.places():
        experiment, state, resolved = assemble(config.model_copy(update={"data": section}), data, device)
    run = RunDirectory.create(runs, config.name)
    run.begin(loaded.text, loaded.overrides.values(), resolved.to_yaml())
    run.write_info(
        id=run.id,
        status="running",
        started=now(),
        seed=config.seed,
        data=data.name,
        requested_data=config.data.type,
        fallback_reason=messages[0] if messages else None,
        data_sha256=data.sha256,
        split_sha256=data.split_sha256,
        files=dict(data.files),
        samples={"train": len(data.train), "val": len(data.validation), "test": len(data.test)},
        classes=data.classes,
        features=data.features,
        task=experiment.task,
        monitor=resolved.monitor,
        result=_result_checkpoint(resolved),
        precision=resolved.train.precision,
        **environment.describe(device),
    )
    return _train(run, resolved, experiment, state, display)


def resume(
    run: RunDirectory, overrides: Sequence[str] = (), *, device: str | None = None, display: Display
) -> TrainResult:
    """Go on exactly where the run stopped; a finished run is left as it is unless `train.epochs` was raised."""
    if wrong := [text for text in overrides if not text.startswith("train.epochs=")]:
        raise UsageError(f"a resumed run keeps its settings; only train.epochs=N can be given, got {', '.join(wrong)}")
    loaded = load(run.config, [*overrides, *([f"train.device={device}"] if device else [])])
    config, info = loaded.config, run.read_info()
    target = _set_up_machine(config)
    data, _ = data_module.load(config.data_section, target, display.message)
    if (data.sha256, data.split_sha256) != (info["data_sha256"], info["split_sha256"]):
        raise RunError(
            f"the data changed since {run.id} was started: sha256 {info['data_sha256']} then, {data.sha256} now "
            f"(split {info['split_sha256'][:12]}, {data.split_sha256[:12]}). Bring the old data back, or train anew."
        )
    with loaded.places():
        experiment, state, config = assemble(config, data, target)
    if run.last.exists():
        checkpoint.load(run.last, state)
    run.keep_metrics(state.epoch)
    return _train(run, config, experiment, state, display)


def _train(
    run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState, display: Display
) -> TrainResult:
    """From `state` to the end, or to what stops it; the status in run.json says which."""
    history = list(run.read_metrics())
    status: Status = "failed"
    try:
        with _signals() as received:
            display.start(run, config, experiment, state)
            _loop(run, config, experiment, state, history, display, received)
        status = "interrupted" if received else "completed"
    except DivergedError:
        status = "diverged"
        raise
    finally:
        display.end()
        run.write_info(status=status, finished=now(), epochs=state.epoch, step=state.step)
    if received:
        raise StoppedError(received[0], run)
    best = best_index(history, config.monitor)
    return TrainResult(
        run=run.id,
        path=str(run.path),
        status=status,
        data=experiment.data.name,
        requested_data=run.read_info()["requested_data"],
        epochs=state.epoch,
        monitor=config.monitor,
        best=history[best if best is not None else -1],
        last=history[-1],
        seconds=round(sum(record["seconds"] for record in history), 3),
    )


def _loop(
    run: RunDirectory,
    config: ExperimentConfig,
    experiment: Experiment,
    state: TrainState,
    history: list[Record],
    display: Display,
    received: Sequence[int],
) -> None:
    """Train, measure, save, decide: the order of an epoch."""
    if _stops(history, config.train.early_stopping):
        return

    def on_step(state: TrainState) -> None:
        display.step(state)
        if received:
            raise _Interruption

    try:
        for record in fit(state, experiment, epochs=config.train.epochs, history=history, on_step=on_step):
            history.append(run.append_metrics(record))
            best = is_best(history, config.monitor)
            if best:
                checkpoint.save(run.best, state)
            checkpoint.save(run.last, state)  # the commit point of an epoch
            display.epoch(history[-1], best)
            if received or _stops(history, config.train.early_stopping):
                break
    except _Interruption:
        checkpoint.save(run.last, state)


class _Interruption(Exception):  # noqa: N818 -- not an error: it carries a signal from a step out of the loop
    """A signal arrived; raised between two steps, where the state is whole."""


def _stops(history: Sequence[Record], stopping: EarlyStopping | None) -> bool:
    if stopping is None or not history:
        return False
    settings = stopping.model_dump(exclude={"restore_best"})
    return should_stop(history, **settings)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of dying of them; a second one of a kind acts as it always does."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield received
        return
    numbers = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in numbers:
            signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up_machine(config: ExperimentConfig) -> torch.device:
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    return choose_device(config.train.device)


def _result_checkpoint(config: ExperimentConfig) -> str:
    """Which checkpoint is the run's result: what `dlf evaluate` and `dlf.load` take unless told otherwise."""
    stopping = config.train.early_stopping
    return "last" if stopping is not None and not stopping.restore_best else "best"


def _warn(requested: DataSection, used: DataSection, reasons: Sequence[str], data: Data, display: Display) -> None:
    if used is not requested:
        display.message(reasons[0])
        display.message(
            f"warning: training on {used.type} instead of {requested.type}, because data.fallback asks for it; "
            "every result of this run is about that data"
        )
    if data.constant:
        names = ", ".join(data.constant[:5])
        display.message(
            f"warning: {len(data.constant)} input columns never vary in the training part and tell nothing: {names}"
        )
