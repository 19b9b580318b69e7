"""The topics of `dlf why`: one file each. Adding one is adding a file with one decorated function.

The function takes a Subject (a configuration, its data, its network) and gives the Design of a paired experiment:
settings, figures, claims, charts, and what makes two paragraphs of the results. The decorator names the question, and
the experiments that are asked where the user names none: shipped ones, with the settings that make them small.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from dlf.errors import UsageError
from dlf.questions.design import Design, Subject
from dlf.registry import did_you_mean

Ask = Callable[[Subject], Design]


class Shipped(NamedTuple):
    """A shipped experiment and the settings that are laid over it."""

    name: str
    overrides: tuple[str, ...] = ()


class Topic(NamedTuple):
    """A topic: its question in one line, the experiments that it is asked of by default, and its function."""

    name: str
    question: str
    default: tuple[Shipped, ...]
    ask: Ask


_TOPICS: dict[str, Topic] = {}


def topic(question: str, *default: Shipped) -> Callable[[Ask], Ask]:
    """Register a function under its own name."""
    assert default, "a topic needs an experiment that it is asked of by default"

    def register(ask: Ask) -> Ask:
        _TOPICS[ask.__name__] = Topic(ask.__name__, question, default, ask)
        return ask

    return register


def topics() -> list[Topic]:
    """All topics by name."""
    return [_TOPICS[name] for name in sorted(_TOPICS)]


def find(name: str) -> Topic:
    """The topic of that name; UsageError with the nearest one."""
    if name not in _TOPICS:
        raise UsageError(f"{name!r} is no topic.{did_you_mean(name, _TOPICS)} Topics: {', '.join(sorted(_TOPICS))}")
    return _TOPICS[name]


def _load_all() -> None:
    """Import every file of this package, which registers its topic."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


_load_all()
