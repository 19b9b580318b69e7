"""What is shown is right, and showing it can do no harm: not to the training, not to the terminal, not to a pipe.

The live display is judged by what a terminal shows in the end: a process draws on a pseudo-terminal, and `Screen`
below, which knows the few control sequences that are used and refuses all others, keeps what stays visible.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_training import STEPS, StepOnly, record, started, train

from dlf.display import progress
from dlf.display.epochs import cells_of
from dlf.display.streams import Stream, console_of

PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_training.py"))]
EPOCHS = 3


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# --- a terminal -----------------------------------------------------------------------------------------------------


class Screen:
    """What a terminal of `width` columns holds after it was sent `text`; `lines` include what has scrolled away."""

    TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")

    def __init__(self, text: str, width: int) -> None:
        self.lines, self.width, self.row, self.column, self.cursor = [""], width, 0, 0, True
        at = 0
        for token in self.TOKEN.finditer(text):
            assert token.start() == at, f"unknown sequence {text[at : at + 10]!r}"
            at = token.end()
            self._take(*token.groups())
        assert at == len(text), f"unknown sequence {text[at : at + 10]!r}"

    def _take(self, arguments: str, control: str, move: str, letters: str) -> None:
        if letters:
            for letter in letters:
                self._put(letter)
        elif move == "\r":
            self.column = 0
        elif move == "\n":
            self._down()
        elif control == "A":
            self.row = max(self.row - int(arguments or 1), 0)
        elif control == "K":
            self.lines[self.row] = ""
        elif control in ("h", "l"):
            assert arguments == "?25"
            self.cursor = control == "h"
        else:
            assert control == "m", f"unknown control {control!r}"

    def _put(self, letter: str) -> None:
        if self.column == self.width:
            self._down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


def on_terminal(width: int, *arguments: str, **environment: str) -> tuple[str, str, int]:
    """What the program sends to a terminal as stderr, what to stdout, and its exit code."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))  # not on Windows
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | environment,
        text=True,
    ) as process:
        os.close(theirs)
        sent = b"".join(_chunks(ours))
        os.close(ours)
        found, _ = process.communicate()
    return sent.decode(), found, process.returncode


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the other side is closed
            return
        if not chunk:
            return
        yield chunk


def rows(lines: list[str]) -> list[str]:
    """The rows of epochs among the lines of a screen."""
    return [line for line in lines if re.match(r" +\d+/\d+ ", line)]


def check_final_screen(sent: str, width: int) -> None:
    """Every epoch has its row, in order, nothing that moved is left, and the cursor is back."""
    screen = Screen(sent, width)
    assert [row.split()[0] for row in rows(screen.shown)] == [f"{epoch}/{EPOCHS}" for epoch in range(1, EPOCHS + 1)]
    assert [row.endswith("best") for row in rows(screen.shown)] == [True, False, True]  # as fake_training says
    assert not any("epoch 1/" in line or "left" in line or "━" in line for line in screen.shown)
    assert screen.cursor


@pytest.mark.fault("P6")
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_live_display_leaves_a_row_for_every_epoch(width: int) -> None:
    sent, found, code = on_terminal(width, str(EPOCHS), "0.02")
    check_final_screen(sent, width)
    assert (found, code) == ("finished 3\n", 0)


def test_check_of_the_screen_rejects_a_display_that_does_not_clean_up() -> None:
    sent, _, _ = on_terminal(80, str(EPOCHS), "0.02")
    for spoilt in (
        sent.replace("\x1b[1A", ""),  # never goes up again
        sent.replace("\x1b[2K", ""),  # never wipes
        sent.replace("\x1b[?25h", ""),  # keeps the cursor
        sent.replace("  2/3 ", "      "),  # loses an epoch
    ):
        assert spoilt != sent
        with pytest.raises(AssertionError):
            check_final_screen(spoilt, 80)


def test_80_columns_show_everything_aligned() -> None:
    sent, _, _ = on_terminal(80, str(EPOCHS), "0.02")
    shown = Screen(sent, 80).shown
    first = next(index for index, line in enumerate(shown) if line.lstrip().startswith("loss"))
    assert shown[first : first + 3] == [
        "          loss           accuracy",
        "epoch    train      val     train       val        lr    time  samples/s",
        "  1/3   0.3250   0.2924    0.9754    0.9789   0.00085   2.10s     26,400  best",
    ]
    assert shown[:5] == [
        "mnist: unpacked train-images-idx3-ubyte.gz",
        "run      runs/mnist-1",
        "data     mnist: 55,000 train, 5,000 validation, 10,000 test samples",
        "network  784-512-256-10: 535,040 parameters on cpu",
        "train    3 epochs of 430 steps, adam, batch 128",
    ]


def test_live_display_moves() -> None:
    sent, _, _ = on_terminal(80, str(EPOCHS), "0.03")
    assert "epoch 2/3" in sent
    assert " 60%" in sent
    assert "val_loss █▁ " in sent
    assert " samples/s" in sent
    assert " left" in sent


@pytest.mark.fault("P6")
def test_ascii_locale_gets_ascii() -> None:
    sent, _, code = on_terminal(80, str(EPOCHS), "0.02", PYTHONIOENCODING="ascii")
    assert code == 0
    assert sent.isascii()
    assert "###" in sent
    assert "val_loss #. " in sent
    check_final_screen(sent, 80)


def test_no_color_moves_without_colour() -> None:
    sent, _, _ = on_terminal(80, str(EPOCHS), "0.02", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*m", sent)
    check_final_screen(sent, 80)
    coloured, _, _ = on_terminal(80, str(EPOCHS), "0.02")
    assert re.search(r"\x1b\[[0-9;]*m", coloured)


@pytest.mark.fault("P6")
def test_dumb_terminal_gets_plain_lines() -> None:
    sent, _, _ = on_terminal(80, str(EPOCHS), "0", TERM="dumb")
    assert "\x1b" not in sent
    assert sent.count("\nepoch ") == EPOCHS


# --- pipes and broken streams ---------------------------------------------------------------------------------------


def through_shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = " ".join([*PROGRAM, *arguments, redirection])
    return subprocess.run(
        ["sh", "-c", command], check=False, capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


@pytest.mark.fault("P6")
@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_one_plain_line_an_epoch(environment: dict[str, str]) -> None:
    done = through_shell("", str(EPOCHS), "0", **environment)
    assert not re.search(r"[\x1b\r]", done.stderr)
    assert [line.split()[:2] for line in done.stderr.splitlines()[-EPOCHS:]] == [
        ["epoch", f"{epoch}/{EPOCHS}"] for epoch in range(1, EPOCHS + 1)
    ]
    assert done.stdout == "finished 3\n"


@pytest.mark.fault("P6")
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux'")
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-", "2>&1 >/dev/null | true", "2>/dev/null"])
@pytest.mark.parametrize("mode", ["", "quiet"])
def test_broken_stderr_stops_nothing(redirection: str, mode: str) -> None:
    finished = "/proc/self/fd/9"  # a third stream says whether the training came to its end
    command = f"exec 9>&1; ({' '.join(PROGRAM)} 200 0 {mode} {redirection}; echo code $? >{finished})"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert "code 0" in done.stdout
    assert done.stderr == ""
    if "|" not in redirection and ">&- 2" not in redirection:
        assert "finished 200\n" in done.stdout


def test_quiet_tells_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = progress.training(quiet=True)
    train(quiet, 2)
    quiet.message("warning: 3 columns never vary")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: 3 columns never vary\n")


@pytest.mark.fault("P5")
def test_failing_display_is_replaced_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.training(quiet=False)
    shown.start(*started(2))
    shown.epoch({"epoch": 1}, best=True)  # no lr in it
    shown.step(StepOnly(1))  # type: ignore[arg-type]
    shown.epoch(record(2), best=True)
    shown.message("warning: still heard")
    shown.end()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        "warning: the display failed (KeyError('lr')); training goes on without it",
        "warning: still heard",
    ]


@pytest.mark.fault("P5")
def test_failing_live_display_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = progress.training(quiet=False)
    shown.start(*started(2))
    assert sys.stderr is not terminal  # Rich's: what others print stays above the moving lines
    shown.epoch({"epoch": 1}, best=True)
    assert sys.stderr is terminal
    assert Screen(terminal.getvalue(), 80).cursor
    assert "the display failed" in terminal.getvalue()


def test_step_reads_the_step_only() -> None:
    """A tensor that is read would synchronise the device; StepOnly has nothing else to read."""
    state = StepOnly(7)
    for display_class in (progress._Plain, progress._Live, progress._Quiet):
        display_class(console_of(Stream(Terminal()))).step(state)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        state.sums  # type: ignore[attr-defined]  # noqa: B018 -- a display that read the sums would fail here


def test_resumed_run_keeps_its_course(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    shown = progress.training(quiet=False)
    shown.start(*started(5, history=(record(1), record(2))))
    shown.end()
    assert "resumed  after 2 epochs and 860 steps" in terminal.getvalue()
    assert "epoch 3/5" in terminal.getvalue()
    assert "train_loss █▁" in terminal.getvalue()


def test_nothing_of_it_imports_torch() -> None:
    code = "import sys, dlf.display; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("width", range(1, 120, 7))
def test_rows_and_moving_lines_fit_every_width(width: int) -> None:
    """The first column alone is always there; where more is shown, it fits with its `best`."""
    cells = cells_of(record(3, val_f1=0.5), 100, width)
    assert len(cells) == 1 or sum(cell.width + 2 for cell in cells) + len("best") <= width
    words = ["epoch   3/100", "  61%", "   26,400 samples/s", "   12s left"]
    line = progress._progress_line(words, 0.61, width, "#.")
    assert line.cell_len <= max(width, len(words[0]))
    losses = progress._losses_line([record(1), record(2)], width, "01")
    assert losses.cell_len <= max(width, len("train_loss ########## 0.3250"))


def test_live_display_counts_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share and the time left follow from the step: half of epoch 2 of 2 after 1.5 epochs in 3 s is 1 s to go."""
    clock = iter([0.0, 0.0, 0.0, 2.0, 3.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock, 3.0)))
    monkeypatch.setattr("rich.live.Live.start", lambda *_, **__: None)
    monkeypatch.setenv("COLUMNS", "80")
    live = progress._Live(console_of(Stream(Terminal())))
    live.start(*started(2))
    live.step(StepOnly(STEPS))  # type: ignore[arg-type]
    live.epoch(record(1), best=True)
    live.step(StepOnly(STEPS + STEPS // 2))  # type: ignore[arg-type]
    line = str(live._moving().renderables[0])
    assert line.startswith("epoch 2/2")
    assert re.search(r" 50%  +27,500 samples/s  +1s left", line), line  # 55,000 samples * 0.5 in 1 s
