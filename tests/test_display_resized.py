"""A terminal that is narrowed and widened while the live display draws: each epoch keeps its row, nothing else stays.

The terminal is pyte's (`pip install 'dlf[docs]'`), with the lines that scrolled away counted, on a pseudo-terminal. It
does not break lines anew when it is resized, as some terminals do. What was drawn for the old width and is on its way
when the terminal gets narrower is torn, and stays: one frame, at a hundred a second here.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_display import PROGRAM

HEIGHT, EPOCHS = 8, 12  # fewer lines than epochs: most of the rows scroll away


class Resized:
    """A process that draws on a terminal which changes its width after so many rows that are best."""

    def __init__(self, widths: dict[int, int]) -> None:
        pyte = pytest.importorskip("pyte", reason="pyte is not installed: pip install 'dlf[docs]'")
        self._widths = widths
        self._screen: Any = pyte.HistoryScreen(widths[0], HEIGHT, history=1000, ratio=1)
        self._stream: Any = pyte.ByteStream(self._screen)
        self.resized = 0

    def run(self) -> list[str]:
        """Every line that the terminal has in the end, those that have scrolled away first."""
        fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))  # not on Windows
        ours, theirs = pty.openpty()

        def resize(width: int) -> None:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, width, 0, 0))

        resize(self._widths[0])
        command = [*PROGRAM, str(EPOCHS), "0.01"]
        nowhere = subprocess.DEVNULL
        # env: readline, where it is loaded, has put a COLUMNS that os.environ does not know into what is inherited
        with subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=theirs, env=dict(os.environ)) as process:
            seen, due = b"", sorted(self._widths.items())[1:]
            while process.poll() is None or _waiting(ours):
                if not _waiting(ours):
                    continue
                chunk = os.read(ours, 1024)
                self._stream.feed(chunk)
                seen += chunk
                if due and seen.count(b"best") >= due[0][0]:
                    _, width = due.pop(0)
                    self._screen.resize(HEIGHT, width)
                    resize(width)
                    self.resized += 1
        os.close(theirs)
        os.close(ours)
        assert process.returncode == 0
        scrolled = ["".join(line[column].data for column in range(200)) for line in self._screen.history.top]
        return [line.rstrip() for line in (*scrolled, *self._screen.display) if line.strip()]


def _waiting(descriptor: int) -> bool:
    import select

    return bool(select.select([descriptor], [], [], 0.02)[0])


@pytest.mark.parametrize(
    "widths",
    [{0: 100}, {0: 100, 3: 40}, {0: 40, 3: 100}, {0: 100, 2: 30, 5: 120, 8: 24}],
    ids=["as it is", "narrowed", "widened", "back and forth"],
)
def test_every_epoch_has_its_row_once(widths: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    terminal = Resized(widths)
    lines = terminal.run()
    assert terminal.resized == len(widths) - 1
    found = [match[1] for line in lines if (match := re.match(r" {0,2}(\d+/12)\b", line))]
    assert found == [f"{epoch}/{EPOCHS}" for epoch in range(1, EPOCHS + 1)], lines
    narrowings = sum(after < before for before, after in pairwise(widths.values()))
    frames = [line for line in lines if re.match(r"epoch +\d", line)]
    assert len(frames) <= narrowings, lines
    if not narrowings:
        assert not any(re.match(r"train_loss|.*━|.* left$", line) for line in lines), lines
