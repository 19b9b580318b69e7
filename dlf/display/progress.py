"""What is told while training: a header, one line or row an epoch, and in a terminal two lines that move."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dlf.display.epochs import cells_of, epoch_line, measured, row
from dlf.display.notebook import COLUMNS, Output, in_notebook
from dlf.display.streams import Stream, console_of, tell
from dlf.display.words import duration, fitting, number, product, safe, spark

if TYPE_CHECKING:
    from dlf.commands.listeners import Display
    from dlf.config import ExperimentConfig
    from dlf.engine import Experiment, TrainState
    from dlf.model import Network
    from dlf.run import Record, RunDirectory

REFRESHES_PER_SECOND = 4
SPARK_WIDTH = 10


def training(*, quiet: bool) -> Display:
    """The display of a training, on stderr: warnings only, a live one in a terminal, or a line an epoch.

    In a notebook it is a live one among the outputs of the cell.
    """
    if in_notebook() and not quiet:
        page = console_of(Stream(sys.stdout))  # stderr has a red background there
        page.width = COLUMNS
        return _Unbreakable(_Notebook(page), _Quiet(page))
    console = console_of(Stream(sys.stderr))
    kind = _Quiet if quiet else _Live if console.is_interactive else _Plain
    return _Unbreakable(kind(console), _Quiet(console))


class _Unbreakable:
    """Hands everything on to a display; when that fails, says so once and goes on with another."""

    def __init__(self, display: Display, instead: Display) -> None:
        self._display = display
        self._instead = instead

    def message(self, text: str) -> None:
        self._guarded(lambda: self._display.message(text))

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self._guarded(lambda: self._display.start(run, config, experiment, state))

    def step(self, state: TrainState) -> None:
        self._display.step(state)

    def epoch(self, record: Record, best: bool) -> None:
        self._guarded(lambda: self._display.epoch(record, best))

    def end(self) -> None:
        self._guarded(self._display.end)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a display is never worth a training, whatever is wrong with it
            broken, self._display = self._display, self._instead
            with suppress(Exception):
                broken.end()  # gives the cursor and sys.stderr back
            with suppress(Exception):
                self._instead.message(f"warning: the display failed ({error!r}); training goes on without it")


class _Quiet:
    """Warnings, and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str) -> None:
        if text.startswith("warning"):
            tell(self._console, text)

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        pass

    def step(self, state: TrainState) -> None:
        pass

    def epoch(self, record: Record, best: bool) -> None:
        pass

    def end(self) -> None:
        pass


class _Plain:
    """A line an epoch, for logs and pipes: no carriage returns, no cursor, nothing that is taken back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._epochs = 0

    def message(self, text: str) -> None:
        tell(self._console, text)

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self._epochs = config.train.epochs
        tell(self._console, _header(run, config, experiment, state))

    def step(self, state: TrainState) -> None:
        pass

    def epoch(self, record: Record, best: bool) -> None:
        tell(self._console, epoch_line(record, best=best, epochs=self._epochs))

    def end(self) -> None:
        pass


class _Live:
    """A row an epoch that stays, and below the rows two lines that move; drawn by a thread of their own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._records: list[Record] = []
        self._titles: list[str] = []
        self._epochs = self._steps = self._samples = 1
        self._step = 0
        self._started = self._epoch_started = (0, time.monotonic())  # (step, seconds)
        # redirect_stdout stays off: stdout may be a file, and what is printed there is data
        self._live: Live | Output = Live(
            console=console,
            get_renderable=self._moving,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def message(self, text: str) -> None:
        tell(self._console, text)

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self._epochs, self._steps = config.train.epochs, experiment.steps_per_epoch
        self._samples = len(experiment.data.train)
        self._records = list(run.read_metrics()) if state.epoch else []
        self._step = state.step
        self._started = self._epoch_started = (state.step, time.monotonic())
        tell(self._console, _header(run, config, experiment, state))
        self._live.start(refresh=True)

    def step(self, state: TrainState) -> None:
        self._step = state.step  # 430 times a second: the refreshing thread does the rest

    def epoch(self, record: Record, best: bool) -> None:
        self._records.append(record)
        self._epoch_started = (self._step, time.monotonic())
        cells = cells_of(record, self._epochs, self._console.width)
        titles = [cell.title for cell in cells]
        if titles != self._titles:  # the first row, or the terminal has another width
            self._titles = titles
            heading = [row([cell.group for cell in cells], cells), row(titles, cells)]
            self._print(Text("\n".join(heading), style="bold"))
        line = Text(row([cell.text for cell in cells], cells))
        self._print(line.append("  best", "green") if best else line)

    def end(self) -> None:
        self._live.stop()

    def _print(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="crop", crop=True)

    def _moving(self) -> Group:
        """The epoch under way, and the course of the losses; plain numbers only, never a tensor."""
        width, step, now = self._console.width - 1, self._step, time.monotonic()
        ascii_only = self._console.options.ascii_only
        finished = min(self._records[-1]["epoch"] if self._records else 0, self._epochs - 1)
        share = min(max(step / self._steps - finished, 0.0), 1.0)
        rate = _per_second(self._epoch_started, step, now) * self._samples / self._steps
        pace = _per_second(self._started, step, now)
        left = duration(round((self._epochs * self._steps - step) / pace)) if pace else "?"
        where = f"epoch {finished + 1:>{len(str(self._epochs))}}/{self._epochs}"
        words = [where, f"{share:4.0%}", f"{rate:>9,.0f} samples/s", f"{left:>6} left"]
        return Group(
            _progress_line(words, share, width, "#." if ascii_only else "━─"),
            _losses_line(self._records, width, ".:-=+*#" if ascii_only else "▁▂▃▄▅▆▇█"),
        )


class _Notebook(_Live):
    """The same among the outputs of a cell: rows that stay, and above them an output that is replaced; no controls."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Output = Output(lambda: "\n".join(map(str, self._moving().renderables)))

    def step(self, state: TrainState) -> None:
        self._step = state.step
        self._live.refresh()  # no thread: a cell shows what its own thread says


def _per_second(since: tuple[int, float], step: int, now: float) -> float:
    """Steps a second since (step, seconds)."""
    return max(step - since[0], 0) / max(now - since[1], 1e-9)


def _progress_line(words: Sequence[str], share: float, width: int, strokes: str) -> Text:
    """The words that fit, and a bar behind the first one where 8 columns are left for it."""
    first, *others = fitting(words, width)
    room = min(40, width - sum(len(word) + 2 for word in (first, *others)))
    line = Text(first, no_wrap=True, overflow="crop")
    if room >= 8:
        done = round(share * room)
        line.append("  ").append(strokes[0] * done, "cyan").append(strokes[1] * (room - done), "dim")
    return line.append("".join(f"  {word}" for word in others))


def _losses_line(records: Sequence[Record], width: int, levels: str) -> Text:
    """Each loss as a spark line with its last value, then the other headlines; blank before the first epoch."""
    last = records[-1] if records else {}
    losses, others = [], []
    for name, value in measured(last).items():
        if name.endswith("_loss"):
            course = spark([record.get(name) for record in records[-SPARK_WIDTH:]], levels)
            losses.append(f"{name} {course:<{SPARK_WIDTH}} {number(value):>6}")
        else:
            others.append(f"{name} {number(value):>6}")
    parts = [*losses, *reversed(others)]  # of the others, validation is wanted most
    return Text("  ".join(fitting(parts, width)) if parts else " ", no_wrap=True, overflow="crop")


def _header(run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> str:
    """What is about to be trained, on what, with what."""
    data, epochs = experiment.data, config.train.epochs
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    samples = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if len(part))
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    lines = [
        f"run      {safe(run.path)}",
        f"data     {safe(data.name)}: {samples} samples",
        f"network  {_architecture(state.network, data.spec.shape)}: {parameters:,} parameters on {data.train.x.device}",
        f"train    {epochs} epochs of {experiment.steps_per_epoch:,} steps, {config.optimizer.type}, "
        f"batch {experiment.batch_size:,}",
    ]
    if state.step:
        lines.append(f"resumed  after {state.epoch} epochs and {state.step:,} steps")
    return "\n".join(lines)


def _architecture(network: Network, shape: Sequence[int]) -> str:
    """The widths of the layers with weights, 784-512-10; a convolution as channels and kernel, 1x28x28-6c5-10."""
    weighted = [(module, module.weight) for name, module in network.named_modules() if _has_matrix(name, module)]
    takes_features = bool(weighted) and weighted[0][1].ndim == 2
    sizes = [str(weighted[0][1].shape[1]) if takes_features else product(shape)]
    for module, weight in weighted:
        kernel = f"c{weight.shape[-1]}" if weight.ndim > 2 else ""
        sizes.append(f"{weight.shape[0] // getattr(module, 'pieces', 1)}{kernel}")
    return "-".join(sizes if len(sizes) <= 12 else [*sizes[:6], "...", *sizes[-3:]])


def _has_matrix(name: str, module: Any) -> bool:
    """Whether a module maps its input by a weight of its own, apart from the shortcuts of residual blocks."""
    return getattr(getattr(module, "weight", None), "ndim", 0) >= 2 and "skip" not in name.split(".")
