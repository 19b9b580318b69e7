"""Make the pictures of README.md from real terminals: `pip install -e '.[docs]' && python docs/pictures.py`.

Each command runs in a pseudo-terminal of 80 columns; what its screen shows is written as SVG.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import tempfile
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

DOCS = Path(__file__).parent
COLUMNS, ROWS = 80, 40


def screen_of(command: list[str], folder: Path, stop_after: bytes | None = None) -> pyte.Screen:
    """The screen when the command ended, or right after it has printed `stop_after`."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen, seen = pyte.Screen(COLUMNS, ROWS), b""
    stream = pyte.ByteStream(screen)
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        stream.feed(data)
        seen += data
        if stop_after is not None and stop_after in seen:
            os.kill(child, 9)
            break
    os.waitpid(child, 0)
    os.close(terminal)
    return screen


def line_of(screen: pyte.Screen, row: int) -> Text:
    """One line of the screen with its colours."""
    line = Text()
    for column in range(COLUMNS):
        character = screen.buffer[row][column]
        color = character.fg if character.fg not in ("default", "brown") else None
        color = "yellow" if character.fg == "brown" else color
        if color is not None and len(color) == 6 and all(digit in "0123456789abcdef" for digit in color):
            color = f"#{color}"
        style = Style(color=color, bold=character.bold or None)
        line.append(character.data, style)
    line.rstrip()
    return line


def save(screen: pyte.Screen, prompt: str, path: Path) -> None:
    """The screen as an SVG picture, under the command that was typed."""
    lines = [line_of(screen, row) for row in range(ROWS)]
    while lines and not lines[-1].plain:
        lines.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {prompt}", style="bold"))
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore")
    console.save_svg(str(path), title="dlf")


def main() -> None:
    """Train MNIST and summarize it, each in a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        dlf = [sys.executable, "-m", "dlf"]
        config = str(DOCS.parent / "configs" / "mnist.yaml")
        save(screen_of([*dlf, "train", config], Path(folder)), "dlf train configs/mnist.yaml", DOCS / "terminal.svg")
        save(
            screen_of([*dlf, "summarize", config], Path(folder)),
            "dlf summarize configs/mnist.yaml",
            DOCS / "summary.svg",
        )


if __name__ == "__main__":
    main()
