"""Who is told what happens while training: a display, and the run's train.log."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from dlf.config import ExperimentConfig
from dlf.engine import Experiment, TrainState
from dlf.loggers import Loggers, Training
from dlf.run import Record, RunDirectory, Status


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


class Logged:
    """A display whose words are also kept in train.log, its epochs by the loggers; none can stop the training.

    What is said before there is a run waits for it. A display that fails is given up, with a warning.
    """

    def __init__(self, display: Display) -> None:
        self._display: Display | None = display
        self._run: RunDirectory | None = None
        self._waiting: list[str] = []
        self._loggers: Loggers | None = None

    def attach(self, run: RunDirectory) -> None:
        """From now on the log is this run's."""
        self._run = run
        for text in self._waiting:
            run.note(text)
        self._waiting.clear()

    def log_to(self, run: RunDirectory, config: ExperimentConfig, history: Sequence[Record]) -> None:
        """From now on the epochs go to the configured loggers too, behind those that the run has already."""
        started = datetime.fromisoformat(run.read_info()["started"]).timestamp()
        training = Training(run.id, run.path, config.dump(), started)
        self._loggers = Loggers(config.logging, training, history, self.message)

    def _note(self, text: str) -> None:
        if self._run is None:
            self._waiting.append(text)
        else:
            self._run.note(text)

    def _show(self, method: str, *arguments: Any) -> None:
        if self._display is None:
            return
        try:
            getattr(self._display, method)(*arguments)
        except Exception as error:
            self._display = None
            self._note(f"warning: the display failed in {method}, the training goes on without it: {error!r}")
            warnings.warn(f"the display failed, the training goes on without it: {error!r}", stacklevel=2)

    def message(self, text: str) -> None:
        self._note(text)
        self._show("message", text)

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self._note(f"training from epoch {state.epoch}, step {state.step}, to epoch {config.train.epochs}")
        self._show("start", run, config, experiment, state)

    def step(self, state: TrainState) -> None:
        self._show("step", state)

    def epoch(self, record: Record, best: bool) -> None:
        numbers = "  ".join(f"{name} {value:.6g}" for name, value in record.items() if isinstance(value, int | float))
        self._note(numbers + ("  best" if best else ""))
        self._show("epoch", record, best)
        if self._loggers is not None:
            self._loggers.write(record)

    def end(self, status: Status = "completed") -> None:
        self._show("end")
        if self._loggers is not None:
            self._loggers.close(status)
