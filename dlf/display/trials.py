"""What is told while `dlf why` trains: a bar in a terminal, else a line a training. All of it on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlf.display.streams import Stream, console_of, tell
from dlf.display.words import safe

if TYPE_CHECKING:
    from dlf.questions.results import Figure, Training
    from dlf.questions.trials import Listener


def trials(*, quiet: bool) -> Listener:
    """The listener of paired trainings: warnings only, a bar in a terminal, or a line each."""
    console = console_of(Stream(sys.stderr))
    return _Quiet(console) if quiet else _Bar(console) if console.is_interactive else _Lines(console)


class _Quiet:
    """Warnings, and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        if text.startswith("warning"):
            tell(self._console, text)

    def begin(self, trainings: int) -> None:
        pass

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        pass

    def end(self) -> None:
        pass


class _Lines(_Quiet):
    """A line a training, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._done = self._all = 0

    def message(self, text: str) -> None:
        tell(self._console, text)

    def begin(self, trainings: int) -> None:
        self._all = trainings

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        self._done += 1
        came = "diverged" if training.diverged else f"{figure.title} {figure.shown(training.figures.get(figure.name))}"
        tell(self._console, f"{self._done:>{len(str(self._all))}}/{self._all}  {what}: {came}")


class _Bar(_Quiet):
    """How many of the trainings are done, which was the last, and how long the others may take."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,  # what is printed there is data
        )

    def message(self, text: str) -> None:
        tell(self._console, text)

    def begin(self, trainings: int) -> None:
        self._task = self._progress.add_task("", total=trainings)
        self._progress.start()

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        self._progress.update(self._task, advance=1, description=safe(what))

    def end(self) -> None:
        self._progress.stop()
