"""Every failure that dlf expects, one exit code each.

DlfError                      1   the root; never raised itself
├── UsageError                2   a command was called with words that do not fit
│   └── ConfigError           2   an experiment file: all its problems, each with its place
├── DataError                 3   a data set is missing, damaged or not what it claims to be
├── RunError                  4   a run directory or a checkpoint is missing, damaged, busy or does not fit
├── MachineError              5   device, memory, disk or network
└── DivergedError             6   the loss, a gradient or a parameter is no longer a number

An expected failure is one message without a traceback. The message says where, what was received, what was expected
and what to do. Anything that is not a DlfError is a bug: exit code 1, with the traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class DlfError(Exception):
    """Root of the failures that dlf expects; `exit_code` is what the process ends with."""

    exit_code = 1


class UsageError(DlfError):
    """The words of a command do not fit: an unknown RUN, a missing CONFIG, options that exclude each other."""

    exit_code = 2


class Problem(NamedTuple):
    """One thing that is wrong with an experiment file.

    `place` is "file:line:column" or "override 'key=value'", `key` the dotted path of the setting ("" for the file as
    a whole), `message` what was received, what was expected and what to do.
    """

    place: str
    key: str
    message: str


class ConfigError(UsageError):
    """An experiment file that cannot be used; carries every problem of the file, not only the first."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        places = max(len(problem.place) for problem in self.problems)
        keys = max(len(problem.key) for problem in self.problems)
        lines = [f"{self.source} has {count}"]
        for place, key, message in self.problems:
            named = f"{key:<{keys}}  " if keys else ""
            lines.append(f"  {place:<{places}}  {named}{message}")
        return "\n".join(lines)


class DataError(DlfError):
    """A data set is missing, damaged, or not what it claims to be."""

    exit_code = 3


class DataMissingError(DataError):
    """A data set is neither on this machine nor reachable; the only failure that `data.fallback` answers."""


class RunError(DlfError):
    """A run directory or a checkpoint is missing, damaged, in use, or belongs to another experiment."""

    exit_code = 4


class MachineError(DlfError):
    """The machine said no: no such device, memory or disk exhausted, nothing writable, no network."""

    exit_code = 5


class DivergedError(DlfError):
    """Training produced a loss, a gradient or a parameter that is not a finite number.

    `step` is the first step whose loss is not; None where all of them are.
    """

    exit_code = 6

    def __init__(self, message: str, step: int | None = None) -> None:
        self.step = step
        super().__init__(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Also what torch says of it, for which nothing is to be imported here: its own class, and a text on CPUs."""
    own = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or own or "DefaultCPUAllocator" in str(error)
