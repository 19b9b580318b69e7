"""The commands of docs/lesson.md: `python -m tests.lesson [WORDS]` runs them and puts what they print behind them.

All of them take some minutes; WORDS chooses those whose text holds them ("why momentum"). With --check nothing is
written: what differs is said. An output that differs only within the tolerance stays as it is, so that another machine,
or the time of day, changes nothing in the document.

An example is a command and what it prints, as 80 columns show it. A comment between the two may give words that make
the command short enough for the tests; then only the form of what it prints can be compared.

    ```sh
    dlf why momentum
    ```
    <!-- short: --seeds 2 -->
    ```text
    ...
    ```
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from dlf.cli import main as dlf

LESSON = Path(__file__).parent.parent / "docs" / "lesson.md"

# By which share numbers may differ elsewhere, where sums are rounded in another order. What is only computed forward
# and back keeps its digits. What five epochs of training come to moves by 3 % where bfloat16 rounds all products,
# 65,536 times as coarsely as float32; another processor, or another torch, comes to less.
COMPUTED, TRAINED = 1e-3, 0.05
ROUNDING = 1e-9  # what is smaller is a difference of two equal numbers

_TRAINING = {"train", "records", "evaluate", "predict", "compare", "why"}
_EXAMPLE = re.compile(
    r"^```sh\n(?P<command>dlf [^\n]*)\n```\n(?:<!-- short: (?P<short>[^\n]*) -->\n)?(?:<details>[^\n]*\n)?\n?"
    r"```text\n(?P<output>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_VARYING = re.compile(
    r"-\d{8}-\d{6}-[0-9a-f]{4}\b"  # the id of a run
    r"|\b(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?m?s\b(?:  +[\d,]+(?!\S))?"  # a time, and samples/s in the column behind it
)
_TOKEN = re.compile(r"(?:(?<![\w)])[-+])?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?|[^\W\d_]+|[^\s\w]")
# lines, bars and dots, as long as the numbers beside them say; and which of equal numbers rounding makes the largest
_DROPPED = re.compile(r"[─-◿⠀-⣿]+|; the largest at \S+")


TEXT = LESSON.read_text(encoding="utf-8")


def sections(text: str = TEXT) -> dict[str, str]:
    """What stands under each heading."""
    parts = (part.partition("\n") for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])
    return {heading: body for heading, _, body in parts}


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of this language; formulas have none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for found, body in fenced if found == language]


class Example(NamedTuple):
    """A command of the lesson, the words that make it short, and what it prints."""

    command: str
    short: str
    output: str

    @property
    def tolerance(self) -> float:
        """By which share the numbers may differ elsewhere."""
        return TRAINED if self.command.split()[1] in _TRAINING else COMPUTED


def examples(text: str) -> list[Example]:
    """The examples of the document, in order."""
    return [Example(match["command"], match["short"] or "", match["output"]) for match in _EXAMPLE.finditer(text)]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(command: str) -> str:
    """What a command of dlf prints on stdout in a terminal of 80 columns without colour; SystemExit where it fails.

    Behind the command may stand `| grep WORD`: what is printed into a pipe, and of that the lines that hold the word.
    """
    command, _, word = command.partition(" | grep ")
    said, told = io.StringIO() if word else _Terminal(), io.StringIO()
    terminal = {"COLUMNS": "80", "LINES": "40", "NO_COLOR": "1", "TERM": "xterm"}
    with mock.patch.dict(os.environ, terminal), redirect_stdout(said), redirect_stderr(told):
        try:
            dlf(shlex.split(command)[1:])
        except SystemExit as end:
            code = end.code
    if code:
        raise SystemExit(f"{command}\nended with {code}: {told.getvalue()[-2000:]}{said.getvalue()[-2000:]}")
    return "".join(line for line in said.getvalue().splitlines(keepends=True) if word in line)


def differences(kept: str, found: str, tolerance: float) -> Iterator[str]:
    """What differs between two outputs, in words: every number by more than the tolerance, and the first other word.

    Times, speeds and the ids of runs are not compared, nor blanks, what is drawn, and where rounding is largest.
    """
    before, after = _tokens(kept), _tokens(found)
    for index, (one, other) in enumerate(zip(before, after, strict=False)):
        if not _agree(one, other, tolerance):
            yield f"{' '.join(before[max(0, index - 8) : index])} [{one}], now [{other}]"
            if not (_is_number(one) and _is_number(other)):
                return
    if len(before) != len(after):
        longer, what = (before, "is gone") if len(before) > len(after) else (after, "is new")
        yield f"[{' '.join(longer[min(len(before), len(after)) :][:8])}] {what}"


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(_DROPPED.sub(" ", _VARYING.sub("~", text)))


def _is_number(token: str) -> bool:
    return token[-1].isdigit()


def _agree(one: str, other: str, tolerance: float) -> bool:
    """Whether two words are equal, or two numbers by the tolerance and a unit of the last decimal that is printed.

    Where nothing is trained, whole numbers are counts, and exact.
    """
    if one == other or not (_is_number(one) and _is_number(other)):
        return one == other
    a, b, units = value(one), value(other), max(map(last_decimal, (one, other)))
    if max(abs(a), abs(b)) < ROUNDING:
        return True
    counts = units == 0 and tolerance == COMPUTED
    return not counts and abs(a - b) <= tolerance * max(abs(a), abs(b)) + units


def value(number: str) -> float:
    return float(number.replace(",", ""))


def last_decimal(number: str) -> float:
    """The unit of the last decimal: 0.001 of 2.305, 1e-5 of 2.3e-4; 0 of a whole number."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals)) if decimals or exponent else 0.0


def renewed(text: str, chosen: str = "") -> tuple[str, list[str]]:
    """The document with what the commands that hold `chosen` print now, and what differs from before."""
    told: list[str] = []

    def renew(match: re.Match[str]) -> str:
        (example,) = examples(match[0])
        if chosen not in example.command:
            return match[0]
        found = printed(example.command)
        new = list(differences(example.output, found, example.tolerance))
        told.extend(f"{example.command}: {difference}" for difference in new)
        return match[0].replace(f"```text\n{example.output}```", f"```text\n{found}```") if new else match[0]

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        return _EXAMPLE.sub(renew, text), told


def main(words: Sequence[str]) -> None:
    """Bring the document up to date; with --check, say what differs and end with 1 where something does."""
    import torch

    torch.set_num_threads(1)  # equal bits whatever the machine has
    text, told = renewed(TEXT, " ".join(word for word in words if word != "--check"))
    print("\n".join(told))
    if "--check" in words:
        sys.exit(1 if told else 0)
    LESSON.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
