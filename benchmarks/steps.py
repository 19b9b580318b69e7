"""Training for a while with dlf's engine, in the middle of whatever epoch that ends: when each step was over."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.data import read
from benchmarks.task import Network


class _Enough(Exception):  # noqa: N818 -- no error: how a training is left in the middle of an epoch
    pass


def assembled(network: Network, samples: int, precision: str = "auto", folder: str = "") -> tuple[Any, Any]:
    """dlf's running objects for the images of this folder, else for made-up ones that are only in memory."""
    import numpy as np
    import torch

    from dlf import yaml12
    from dlf.config import loads
    from dlf.data import prepare
    from dlf.datasets import Dataset, Samples
    from dlf.experiment import assemble

    _, *hidden, _ = network.widths
    config = loads(
        yaml12.dump(
            {
                "data": {"type": "mnist", "validation": 0, "batch_size": network.batch},
                "model": {"layers": [{"type": "linear", "units": units} for units in hidden]},
                "optimizer": {"type": "adam", "lr": 0.0001},
                "train": {"precision": precision},
            }
        ),
        "the benchmark",
        [],
    ).config
    generator = np.random.default_rng(0)
    if folder:
        x, y, *_ = read(folder, samples)
    else:
        x, y = generator.integers(0, 256, (samples, 784), dtype=np.uint8), generator.integers(0, 10, samples)
    images = x.reshape(-1, 1, 28, 28)
    dataset = Dataset(Samples(images, y), Samples(images[:10], np.arange(10)), tuple("0123456789"))
    device = torch.device("cpu")
    experiment, state, _ = assemble(config, prepare(dataset, config.data_section, device), device)
    return experiment, state


def ends_of_steps(experiment: Any, state: Any, seconds: float) -> list[float]:
    """The clock at the end of every step of an epoch, or of those of so many seconds, four at least."""
    from dlf.engine import fit

    marks: list[float] = []

    def on_step(_: Any) -> None:
        marks.append(time.perf_counter())
        if marks[-1] - marks[0] > seconds and len(marks) > 3:
            raise _Enough

    try:
        for _ in fit(state, experiment, epochs=1, history=[], on_step=on_step):
            pass
    except _Enough:
        pass
    return marks
