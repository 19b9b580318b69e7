"""`dlf predict`: what a run's network says of pictures, rows and arrays of your own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlf.commands.evaluate import Opened, open_run
from dlf.commands.train import threads
from dlf.data import Data
from dlf.datasets import Array, Column
from dlf.datasets.arrays import read_inputs
from dlf.datasets.local import existing, read_bytes
from dlf.datasets.rows import read_rows
from dlf.engine import outputs
from dlf.errors import DataError
from dlf.losses import LOSSES, Task, probabilities
from dlf.model import Network
from dlf.pictures import MOST_BYTES, Framing, Picture, measure_framing, read_picture
from dlf.run import RunDirectory
from dlf.streamed import Streamed

STDIN = "-"
_TOP = 3  # classes that are named
_EXAMPLES = 1000  # training images on which the framing is measured


@dataclass(frozen=True)
class Sample:
    """One sample: its file, its number there from 1 (None for a picture), and the picture where it was one."""

    file: str
    number: int | None
    picture: Picture | None


@dataclass(frozen=True)
class Predicted:
    """`result` is what `--json` prints; `samples` and `x`, (n, *shape), are what its predictions, in order, are of."""

    result: dict[str, Any]
    samples: list[Sample]
    x: Array

    @property
    def failures(self) -> list[str]:
        """What is wrong with each file that could not be read, with its name."""
        return [failure["message"] for failure in self.result["failures"]]


def predict(
    run: RunDirectory,
    files: Sequence[str],
    *,
    which: str | None = None,
    device: str | None = None,
    as_is: bool = False,
) -> Predicted:
    """What the network of `which` checkpoint (best, last; default: the run's result) says of every sample of `files`.

    A file is a picture, or CSV where the network was trained on a table, or arrays (.npz, .npy); "-" is a picture or
    CSV on stdin. Pictures are framed as the training images are, unless `as_is`; arrays never are. A file that cannot
    be read is among the failures, the others are done. Raises what `open_run` raises.
    """
    opened = open_run(run, which=which, device=device)
    framing = None if as_is else _framing(opened.data)
    samples: list[Sample] = []
    parts: list[Array] = []
    failures = []
    for file in files:
        try:
            x, pictures = _read(file, opened, framing)
        except DataError as error:
            failures.append({"file": file, "message": str(error)})
            continue
        parts.append(x)
        if pictures:
            samples += [Sample(file, None, picture) for picture in pictures]
        else:
            samples += [Sample(file, number, None) for number in range(1, len(x) + 1)]
    x = np.concatenate(parts) if parts else np.zeros((0, *opened.data.spec.shape), np.float32)
    answers = _answers(opened, x)
    result = {
        "run": run.id,
        "checkpoint": opened.checkpoint,
        "epoch": opened.epoch,
        "data": opened.data.name,
        "requested_data": run.read_info()["requested_data"],
        "task": opened.experiment.task,
        "framing": framing and framing._asdict(),
        "predictions": [
            {"file": sample.file, "sample": sample.number, **answer, **_done(sample)}
            for sample, answer in zip(samples, answers, strict=True)
        ],
        "failures": failures,
    }
    return Predicted(result, samples, x)


def answer(network: Network, x: Tensor | Streamed, *, task: Task, loss: str) -> Tensor:
    """(n, classes) probabilities, or (n, targets) values in the data's units; x is (n, *shape), as in the data set."""
    output = outputs(network, x)
    if task == "regression":
        return network.in_units(output)
    return probabilities(output, LOSSES.get(loss).facts["takes"], task)


# --- reading --------------------------------------------------------------------------------------------------------


def _framing(data: Data) -> Framing | None:
    """How the training images are framed, by a thousand of them, evenly spread."""
    if not _is_image(data):
        return None
    x = data.train.x
    step = max(1, len(x) // _EXAMPLES)
    return measure_framing(torch.cat([x[i : i + 1] for i in range(0, len(x), step)]).cpu().numpy())


def _is_image(data: Data) -> bool:
    return len(data.spec.shape) == 3


def _read(file: str, opened: Opened, framing: Framing | None) -> tuple[Array, list[Picture]]:
    """The samples of one file, (n, *shape), and the pictures that they were made from, if any."""
    data = opened.data
    if Path(file).suffix.lower() in (".npz", ".npy"):
        return _checked(read_inputs(file), file, data), []
    if _is_image(data):
        picture = read_picture(_bytes(file, MOST_BYTES), file, data.spec.shape, framing)
        return picture.pixels[None], [picture]
    columns = data.columns or tuple(Column(name) for name in data.features or ())
    if not columns:
        width = data.spec.shape[0]
        raise DataError(
            f"{file}: the {width} columns of the training data have no names. Give the rows as an array in a .npy or "
            f".npz file, of shape (n, {width})."
        )
    delimiter = opened.config.data_section.parameters.get("delimiter", ",")
    return read_rows(_bytes(file), file, columns, delimiter), []


def _checked(x: Array, file: str, data: Data) -> Array:
    expected = data.spec.shape
    if x.shape[1:] != expected or (x.dtype == np.uint8) != _is_image(data):
        kind = "uint8 images" if _is_image(data) else "numbers"
        raise DataError(f"{file} holds samples of shape {x.shape[1:]}; the network takes {kind} of shape {expected}.")
    return x


def _bytes(file: str, limit: int | None = None) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read(-1 if limit is None else limit + 1)
    if Path(file).is_dir():
        raise DataError(f"{file} is a folder; name its files, such as {file.rstrip('/')}/*.png")
    return read_bytes(existing(file), limit)


# --- answers --------------------------------------------------------------------------------------------------------


def _answers(opened: Opened, x: Array) -> Iterator[dict[str, Any]]:
    """The answer to each sample: its class, probability and the most probable ones, or the predicted values."""
    if not len(x):
        return
    experiment, classes = opened.experiment, opened.data.classes
    inputs = torch.from_numpy(x).to(opened.data.train.y.device)
    with threads(opened.config.train.threads):
        found = answer(opened.network, inputs, task=experiment.task, loss=experiment.loss.name).cpu()
    if classes is None:
        yield from ({"values": values} for values in found.tolist())
        return
    for row in found:
        order = row.argsort(descending=True, stable=True)[:_TOP].tolist()
        top = [{"class": classes[index], "probability": row[index].item()} for index in order]
        yield {**top[0], "top": top}


def _done(sample: Sample) -> dict[str, str]:
    return {} if sample.picture is None else {"done": sample.picture.done}
