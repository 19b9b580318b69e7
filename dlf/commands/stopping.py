"""Signals that stop a training: noted when they come, acted on between two steps, where the state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dlf.errors import DlfError
from dlf.run import RunDirectory


class StoppedError(DlfError):
    """A signal asked the training to stop; the state is saved. The exit code is the shell's for that signal."""

    def __init__(self, number: int, run: RunDirectory) -> None:
        # Ctrl-C and SIGTERM as the shell counts them: 130 and 143
        self.exit_code = 128 + number
        super().__init__(
            f"stopped by {signal.Signals(number).name}; everything up to the last step is saved. "
            f"Go on with: dlf train --resume {run.path}"
        )


class Interruption(Exception):  # noqa: N818 -- not an error: it carries a signal from a step out of the loop
    """A signal arrived; raised between two steps, where the state is whole."""


@contextmanager
def signals() -> Iterator[list[int]]:
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
