"""A training without torch, for the tests of the display: the calls of dlf/commands/train.py, with made-up numbers.

Run as a program it trains and prints on stdout how many epochs it finished: `fake_training.py EPOCHS PAUSE [quiet]`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STEPS, SAMPLES = 430, 55_000


def record(epoch: int, **more: Any) -> dict[str, Any]:
    """An epoch as metrics.jsonl has it; the losses fall to half from epoch to epoch."""
    return {
        "epoch": epoch,
        "step": STEPS * epoch,
        "lr": 0.00085,
        "train_loss": 0.65 * 0.5**epoch,
        "train_accuracy": 0.9754,
        "penalty": 0.0,
        "val_loss": 0.5848 * 0.5**epoch,
        "val_accuracy": 0.9789,
        **more,
        "seconds": 2.1,
        "samples_per_second": 26_400,
    }


class Weight(SimpleNamespace):
    """The size of a tensor without the tensor."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return int(self.shape[0] * self.shape[1])


class FakePart:
    """So many samples on the CPU."""

    x = SimpleNamespace(device="cpu")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class FakeNetwork:
    """784-512-256-10 as torch would list it."""

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        for index, shape in enumerate([(512, 784), (256, 512), (10, 256)]):
            yield f"layers.{index}", SimpleNamespace(weight=Weight(shape=shape))

    def parameters(self) -> Iterator[Weight]:
        return (module.weight for _, module in self.named_modules())


class StepOnly:
    """A training state of which the hot loop may read the step and nothing else."""

    def __init__(self, step: int) -> None:
        self.step = step


def started(epochs: int, name: str = "mnist", history: tuple[Mapping[str, Any], ...] = ()) -> tuple[Any, Any, Any, Any]:
    """What Display.start is given: run, config, experiment, state."""
    run = SimpleNamespace(path=Path("runs") / "mnist-1", id="mnist-1", read_metrics=lambda: list(history))
    config = SimpleNamespace(train=SimpleNamespace(epochs=epochs), optimizer=SimpleNamespace(type="adam"))
    data = SimpleNamespace(
        name=name,
        train=FakePart(SAMPLES),
        validation=FakePart(5000),
        test=FakePart(10_000),
        spec=SimpleNamespace(shape=(1, 28, 28)),
    )
    experiment = SimpleNamespace(data=data, steps_per_epoch=STEPS, batch_size=128)
    state = SimpleNamespace(epoch=len(history), step=STEPS * len(history), network=FakeNetwork())
    return run, config, experiment, state


def train(display: Any, epochs: int, pause: float = 0.0) -> int:
    """Call the display as training does."""
    display.message("mnist: unpacked train-images-idx3-ubyte.gz")
    try:
        display.start(*started(epochs))
        for epoch in range(1, epochs + 1):
            for step in range(STEPS * (epoch - 1), STEPS * epoch):
                display.step(StepOnly(step + 1))
                if step % 86 == 85:
                    time.sleep(pause)
            display.epoch(record(epoch), epoch != 2)
    finally:
        display.end()
    return epochs


if __name__ == "__main__":
    from dlf.display import progress

    progress.REFRESHES_PER_SECOND = 100
    count, seconds, quiet = int(sys.argv[1]), float(sys.argv[2]), "quiet" in sys.argv
    finished = train(progress.training(quiet=quiet), count, seconds)
    if sys.stdout is not None:
        print(f"finished {finished}")
