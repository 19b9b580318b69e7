"""Jupyter: whether this process draws for a notebook, and an output of it that is replaced instead of erased."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

COLUMNS = 100  # of a usual notebook, which wraps what is longer
REPLACED_PER_SECOND = 4


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, or of what speaks its protocol; IPython is not imported."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def started_by_notebook() -> bool:
    """Whether a kernel started this process, as `!dlf train` does.

    Its pseudo-terminal is none: what is drawn there lands in the notebook, which knows colours, and no cursor.
    """
    return "JPY_PARENT_PID" in os.environ


class Output:
    """An output of a cell that shows what `draw` returns, anew in each quarter of a second in which it is asked."""

    def __init__(self, draw: Callable[[], str]) -> None:
        self._draw = draw
        self._handle: Any = None
        self._due = 0.0

    def start(self, refresh: bool) -> None:
        """Make it, below what the cell has shown so far; empty unless `refresh`."""
        from IPython.display import display

        self._handle = display(self._content() if refresh else {"text/plain": ""}, raw=True, display_id=True)

    def refresh(self) -> None:
        """Show it as it is now, unless that was a moment ago."""
        if self._handle is not None and time.monotonic() >= self._due:
            self._replace()

    def stop(self) -> None:
        """Show it for the last time; the notebook keeps that."""
        if self._handle is not None:
            self._replace()

    def _replace(self) -> None:
        self._due = time.monotonic() + 1 / REPLACED_PER_SECOND
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        return {"text/plain": self._draw()}
