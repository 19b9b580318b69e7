"""Make the pictures of README.md: `pip install -e '.[docs]' && python docs/pictures.py`.

Each command runs in a pseudo-terminal of 80 columns; what its screen shows is written as SVG. The report is a picture
of the page in Chromium, which has to be installed (tests/browser.py).
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
from PIL import Image
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


def picture_report(folder: Path) -> None:
    """The beginning of a report on the run in `folder`, as a browser shows it."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from browser import Browser, find

    from dlf.api import report

    program = find()
    assert program is not None, "install Chromium"
    page = report("latest", output=folder / "report.html", runs=folder / "runs")
    with Browser(program) as browser:
        browser.show(page, width=1200, height=1500)
        pixels = Image.open(io.BytesIO(browser.picture(whole=False))).convert("RGB")
    pixels.quantize(160).save(DOCS / "report.png", optimize=True)  # few colours: a third of the size


def main() -> None:
    """Train MNIST, summarize it and report on it."""
    with tempfile.TemporaryDirectory() as folder:
        dlf = [sys.executable, "-m", "dlf"]
        config = str(DOCS.parent / "configs" / "mnist.yaml")
        save(screen_of([*dlf, "train", config], Path(folder)), "dlf train configs/mnist.yaml", DOCS / "terminal.svg")
        save(
            screen_of([*dlf, "summarize", config], Path(folder)),
            "dlf summarize configs/mnist.yaml",
            DOCS / "summary.svg",
        )
        picture_report(Path(folder))


if __name__ == "__main__":
    main()
