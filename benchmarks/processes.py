"""Starting a process and reading off what it cost: seconds, its own peak of memory, what it printed."""

from __future__ import annotations

import os
import pty
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks.task import peak_bytes

ROOT = Path(__file__).parent.parent


class Finished(NamedTuple):
    """A process that has ended; `seconds` from its start to its end, `code` negative for a signal."""

    code: int
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str], environment: Mapping[str, str], *, limit_seconds: float, terminal: bool = False
) -> Finished:
    """Run to the end, or kill at the limit. With `terminal`, stderr is one, so that a live display draws."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        with _terminal(stderr) if terminal else _plain(stderr) as errors:
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=stdout, stderr=errors, env=environment, cwd=ROOT)
            killer = threading.Timer(limit_seconds, process.kill)
            killer.start()
            # not process.wait: this one also tells what the process used, and what this process alone used
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
            killer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        return Finished(process.returncode, seconds, peak_bytes(usage), stdout.read(), stderr.read())


@contextmanager
def _plain(file: IO[str]) -> Iterator[int]:
    yield file.fileno()


@contextmanager
def _terminal(file: IO[str]) -> Iterator[int]:
    """A terminal whose screen is a file."""
    ours, theirs = pty.openpty()

    def drain() -> None:
        with suppress(OSError):  # how Linux says that nobody holds the other end any more
            while text := os.read(ours, 65536):
                file.buffer.write(text)  # type: ignore[attr-defined]

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
