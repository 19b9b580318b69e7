"""`dlf report`: all that a run shows, as one HTML file that opens from the disk and asks nobody for anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlf import checkpoint, drawing, durable
from dlf.assessment import assess
from dlf.commands.evaluate import Measured, Opened, Split, measure, open_run
from dlf.commands.summarize import summarize_experiment
from dlf.config import load
from dlf.data import Part
from dlf.doctor import diagnose
from dlf.engine import outputs
from dlf.errors import UsageError
from dlf.history import best_index
from dlf.html import Content, Mistake, render
from dlf.html.pixels import picture, png, signed
from dlf.modules import Weighted
from dlf.run import RunDirectory

MISTAKES, WEIGHTS, POINTS = 24, 48, 300  # how many are shown
MOST_JUDGED = 2000  # mistakes whose loss is computed: those to which the truth was least probable
MOST_SIDE = 256  # of a picture of weights that are no images
MOST_FEATURES = 6  # that are written beside a mistake


@dataclass(frozen=True)
class Reported:
    """What was written: the file, its size, the part that was looked at, and why parts of the page are missing."""

    run: str
    path: str
    bytes: int
    split: Split
    missing: dict[str, str]


def report(
    run: RunDirectory,
    *,
    output: Path | None = None,
    split: Split = "val",
    which: str | None = None,
    device: str | None = None,
) -> Reported:
    """Write the report of a run, finished or not, to `output`, by default report.html in its directory.

    Answers are judged on `split`; looking at the test part is counted. Without a checkpoint, or without samples in that
    part, the page says so. RunError where the run or its data are not what they were.
    """
    path = output or run.path / "report.html"
    if path.is_dir():
        raise UsageError(f"--output: {path} is a folder; name a file, such as {path / 'report.html'}")
    content = _content(run, split, which, device)
    page = render(content).encode()
    durable.write(path, page)
    return Reported(run.id, str(path), len(page), split, dict(content.missing))


def _content(run: RunDirectory, split: Split, which: str | None, device: str | None) -> Content:
    loaded, info, records = load(run.config), run.read_info(), run.read_metrics()
    layers, summary = run.read_observations(run.layers), summarize_experiment(loaded)
    best = best_index(records, loaded.config.monitor)
    missing: dict[str, str] = {}
    if not records:
        missing["curves"] = "No epoch has ended yet."
    findings = diagnose(records, layers, info)
    if not findings:
        missing["doctor"] = "There is nothing to look at yet."
    if not layers:
        missing["inside"] = "Nothing was noted of this run: train.observe was off, or no epoch has ended."
    answers: dict[str, Any] = {}
    if checkpoint.exists(run.best) or checkpoint.exists(run.last):
        answers = _answers(open_run(run, which=which, device=device), split, missing)
    else:
        missing["answers"] = missing["weights"] = "There is no checkpoint yet."
    return Content(
        title=loaded.config.name,
        info=info,
        records=records,
        best=records[best] if best is not None else None,
        headline="mae" if info["task"] == "regression" else "accuracy",
        config=run.config.read_text(encoding="utf-8"),
        source=run.source.read_text(encoding="utf-8"),
        architecture=drawing.picture(summary, "svg"),
        summary=asdict(summary),
        findings=findings,
        layers=layers,
        boundary=run.read_observations(run.boundary),
        split=split,
        missing=missing,
        **answers,
    )


def _answers(opened: Opened, split: Split, missing: dict[str, str]) -> dict[str, Any]:
    """What needs the network and the data."""
    weights, told = _weights(opened)
    found: dict[str, Any] = {"checkpoint": f"{opened.checkpoint} (epoch {opened.epoch})"}
    found |= {"weights": weights, "weights_told": told}
    if not weights:
        missing["weights"] = "The network has no weights."
    train = opened.data.train
    if tuple(train.x.shape[1:]) == (2,):
        found |= {"points": list(_points(train)), "axes": opened.data.features or ("first feature", "second feature")}
    part = opened.data.part(split)
    if not len(part):
        key = "data.validation" if split == "val" else "data.test"
        missing["answers"] = f"This part has no samples ({key} is 0). --split test looks at the test set."
        return found
    seen = measure(opened, split, command="report")
    assessed = {**seen.found, **assess(seen.predictions), "samples": len(part), "test_looks": seen.test_looks}
    found |= {"assessed": assessed, "mistakes": _mistakes(opened, part, seen)}
    if seen.predictions.output is not None:
        some = _spread(len(part), 2 * POINTS)
        true, said = (values[some, 0].tolist() for values in (seen.predictions.target, seen.predictions.output))
        found["pairs"] = true, said
    return found


def _spread(n: int, most: int) -> Any:
    """Indices of at most so many of n samples, evenly spread."""
    return np.arange(min(n, most)) * n // min(n, most)


def _points(part: Part) -> Iterator[tuple[float, float, int]]:
    for index in _spread(len(part), POINTS).tolist():
        (x, y), target = part.x[index : index + 1][0].tolist(), part.y[index]
        yield x, y, 0 if part.y.is_floating_point() else int(target)


# --- the worst mistakes ---------------------------------------------------------------------------------------------


def _mistakes(opened: Opened, part: Part, seen: Measured) -> list[Mistake]:
    """The samples with the largest losses; of classes, only those that were taken for another one."""
    judged = _candidates(seen)
    x, y = _chosen(part, judged)
    losses = _losses(opened, x, y)
    order = sorted(range(len(judged)), key=lambda n: -losses[n] if math.isfinite(losses[n]) else -math.inf)[:MISTAKES]
    if not order:
        return []
    chosen = x[torch.tensor(order, device=x.device)].cpu().numpy()
    pictures = _pictures(chosen) if chosen.ndim == 4 and chosen.shape[1] in (1, 3) else [None] * len(order)
    return [
        _mistake(opened, seen, int(judged[n]), losses[n], drawn, sample)
        for n, drawn, sample in zip(order, pictures, chosen, strict=True)
    ]


def _chosen(part: Part, indices: Tensor) -> tuple[Tensor, Tensor]:
    """These samples, on the device; streamed ones are asked for by indices on the CPU."""
    there = indices.to(part.y.device)
    return part.x.index_select(0, there if isinstance(part.x, Tensor) else indices), part.y.index_select(0, there)


def _candidates(seen: Measured) -> Tensor:
    """Indices of the samples whose loss is worth computing, in order."""
    predictions = seen.predictions
    if predictions.output is not None:
        worst = np.argsort(-np.abs(predictions.error).sum(1), kind="stable")[:MISTAKES]
    else:
        wrong = np.flatnonzero(predictions.label != predictions.target)
        worst = wrong[np.argsort(predictions.scores[wrong, predictions.target[wrong]], kind="stable")[:MOST_JUDGED]]
    return torch.from_numpy(np.sort(worst))


@torch.no_grad()
def _losses(opened: Opened, x: Tensor, y: Tensor) -> list[float]:
    """The loss of each sample: that of a batch of one."""
    output, target = outputs(opened.network, x), opened.network.scaled(y)
    loss = opened.experiment.loss
    return [loss(output[n : n + 1], target[n : n + 1]).item() for n in range(len(x))]


def _mistake(opened: Opened, seen: Measured, index: int, loss: float, drawn: str | None, sample: Any) -> Mistake:
    predictions = seen.predictions
    features = "" if drawn is not None else _features(opened.data.features, sample)
    if predictions.output is not None:
        true, said = (", ".join(f"{v:.4g}" for v in row[index]) for row in (predictions.target, predictions.output))
        return Mistake(index, loss, true, said, None, drawn, features)
    label = int(predictions.label[index])
    names = opened.data.classes or ()
    confidence = float(predictions.scores[index, label])
    return Mistake(index, loss, names[int(predictions.target[index])], names[label], confidence, drawn, features)


def _pictures(images: Any) -> list[str | None]:
    """Images (n, channels, height, width): bytes as they are, other numbers between their least and greatest."""
    low, high = (0, 255) if images.dtype == np.uint8 else (float(images.min()), float(images.max()))
    return [picture(image, low, high) for image in images]


def _features(names: Sequence[str] | None, sample: Any) -> str:
    values = sample.ravel()[:MOST_FEATURES]
    more = ", ..." if sample.size > MOST_FEATURES else ""
    return ", ".join(f"{names[n] if names else n}: {value:.4g}" for n, value in enumerate(values)) + more


# --- the weights ----------------------------------------------------------------------------------------------------


def _weights(opened: Opened) -> tuple[list[str], str]:
    """The first layer's weights as pictures, and what they are: an image for each unit, or one of them all."""
    layer = next((module for module in opened.network.layers.modules() if isinstance(module, Weighted)), None)
    if layer is None:
        return [], ""
    weight, shape = layer.weight.detach().cpu().numpy(), opened.data.spec.shape
    if weight.ndim == 2 and len(shape) == 3 and weight.shape[1] == math.prod(shape):
        weight = weight.reshape(-1, *shape)
    if weight.ndim == 2:
        shown = weight[:MOST_SIDE, :MOST_SIDE]
        units, inputs = shown.shape
        told = f"A column for each of {units} of {len(weight)} units, a row for each of {inputs} inputs."
        return [signed(shown.T)], told
    largest = np.argsort(-np.square(weight).sum((1, 2, 3)), kind="stable")[:WEIGHTS]
    told = f"The {len(largest)} units with the largest weights, of {len(weight)}."
    return [_filter(weight[n]) for n in largest], told


def _filter(weight: Any) -> str:
    """A unit's weights (channels, height, width): colours for three channels, else the channels side by side."""
    if len(weight) == 3:
        return png(127.5 * (1 + weight.transpose(1, 2, 0) / (np.abs(weight).max() or 1.0)))
    return signed(np.concatenate(list(weight), axis=1))
