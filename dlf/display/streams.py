"""Where everything goes that is shown: streams that never raise, and consoles that take text literally."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from dlf.display.notebook import started_by_notebook
from dlf.display.words import safe
from dlf.errors import MachineError

PIPED_WIDTH = 1000  # columns where there is no terminal: nothing that we print is wider, so nothing is wrapped


class Stream:
    """A text stream that never raises: what it cannot encode is escaped, and after a failure it is silent.

    `failure` is what went wrong. A stream that the process was started without is None and takes everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.failure: Exception | None = None

    def isatty(self) -> bool:
        return self._attempt(lambda stream: stream.isatty()) or False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._attempt(lambda stream: stream.write(known))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[TextIO], Any]) -> Any:
        if self._stream is None or self.failure is not None:
            return None
        try:
            return action(self._stream)
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self.failure = error
            self._drain(self._stream)
            return None

    @staticmethod
    def _drain(stream: TextIO) -> None:
        """Point the descriptor to nowhere: at exit Python flushes what is left, and would end with 120 over it."""
        with suppress(OSError, ValueError):
            descriptor = stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def console_of(stream: Stream) -> Console:
    """A console that takes text literally, draws on terminals only, and colours as NO_COLOR and FORCE_COLOR ask."""
    terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and not started_by_notebook()
    colour = (terminal or bool(os.environ.get("FORCE_COLOR"))) and not os.environ.get("NO_COLOR")
    return Console(
        file=cast("IO[str]", stream),
        force_terminal=terminal or colour,
        force_interactive=terminal,
        force_jupyter=False,
        color_system="standard" if colour else None,
        width=None if stream.isatty() else PIPED_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show_text(text: str) -> None:
    """Print text on stdout as it is, such as a JSON document, in one piece.

    A reader that left (`| head`) is no failure. MachineError where stdout cannot be written: nobody else would notice.
    """
    stream = Stream(sys.stdout)
    stream.write(text)
    stream.flush()
    if isinstance(stream.failure, OSError) and not isinstance(stream.failure, BrokenPipeError):
        reason = stream.failure.strerror or stream.failure
        raise MachineError(f"the result cannot be written to stdout: {reason}. Write to another place, or make room.")


@contextmanager
def page() -> Iterator[Console]:
    """A console whose output is shown at the end, without blanks at the ends of lines."""
    console = console_of(Stream(sys.stdout))
    console.file = written = io.StringIO()
    yield console
    show_text(re.sub(r" +$", "", written.getvalue(), flags=re.MULTILINE))


def tell(console: Console, text: str) -> None:
    """Lines of text as they are, however narrow the terminal; warnings in yellow."""
    lines = "\n".join(map(safe, text.split("\n")))
    console.print(Text(lines, style="yellow" if lines.startswith("warning") else ""), soft_wrap=True)
