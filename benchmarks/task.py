"""The work that everyone does, and the watch that every peer carries: a Task comes in, one line of JSON goes out."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import pairwise
from typing import Any, NamedTuple

ENOUGH = 0.97  # the accuracy on the test set at which "whole process" stops the clock


class Network(NamedTuple):
    """A fully connected network by the widths of its layers, and the batch that it is trained with."""

    widths: tuple[int, ...]
    batch: int

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer."""
        return list(pairwise(self.widths))


NETWORKS = {"small": Network((784, 512, 256, 10), 128), "wide": Network((784, 2048, 2048, 10), 512)}


@dataclass(frozen=True)
class Task:
    """What a peer is asked to do; it travels as JSON in the one argument of its process.

    `data` is a folder with MNIST/raw, `samples` the number of training samples, `scratch` a folder for what a tool must
    write. `started` is the clock of the starting process just before the start: time.monotonic() is one clock for the
    whole machine. `variant` is what a peer has several of: a precision, or a way of being measured.
    """

    network: str
    data: str
    scratch: str
    epochs: int = 3
    samples: int = 60_000
    seed: int = 0
    variant: str = ""
    device: str = "cpu"
    started: float = 0.0

    @property
    def shape(self) -> Network:
        """Widths and batch."""
        return NETWORKS[self.network]

    def dump(self) -> str:
        """The argument of the process."""
        return json.dumps(asdict(self))


@dataclass
class Watch:
    """What a peer notes while it trains. Seconds of epochs hold the training alone, all else counts from `started`."""

    started: float
    epochs: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    first_step: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Times one epoch; whatever is still under way at its end must have been waited for."""
        began = time.perf_counter()
        yield
        self.epochs.append(time.perf_counter() - began)

    def stepped(self) -> None:
        """One update is done, or is the next thing to happen where a tool shows no single steps; the first counts."""
        if self.first_step is None:
            self.first_step = time.monotonic() - self.started

    def tested(self, accuracy: float) -> None:
        """The share of the test set that is right after an epoch."""
        self.accuracies.append(float(accuracy))
        self.reached.append(time.monotonic() - self.started)

    @property
    def enough(self) -> float | None:
        """Seconds from the start of the process until the test set was first 97 % right; None if it never was."""
        return next((at for at, right in zip(self.reached, self.accuracies, strict=True) if right >= ENOUGH), None)

    def result(self, packages: Sequence[str]) -> dict[str, Any]:
        """The line that the process prints."""
        return {
            "epochs": self.epochs,
            "accuracies": self.accuracies,
            "first_step": self.first_step,
            "to_97": self.enough,
            "peak_bytes": peak_bytes(resource.getrusage(resource.RUSAGE_SELF)),
            "versions": {"python": sys.version.split()[0], **{name: metadata.version(name) for name in packages}},
            **self.more,
        }


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The largest resident memory; Linux counts it in KiB, macOS in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def perform(train: Callable[[Task, Watch], None], *packages: str) -> None:
    """The main function of a peer: take the task from the command line, train, print the result."""
    task = Task(**json.loads(sys.argv[1]))
    watch = Watch(task.started)
    train(task, watch)
    print(json.dumps(watch.result(packages)), flush=True)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
