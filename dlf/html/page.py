"""The page: what a run holds, put into the templates beside this file."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dlf.findings import Finding
from dlf.html import charts, pixels
from dlf.html.charts import Series, line_chart, short

Record = Mapping[str, Any]
Table = dict[str, Any]
MOST_CLASSES = 25  # a larger confusion matrix is not drawn: its numbers could not be read


class Mistake(NamedTuple):
    """A sample with a large loss: its number in the split, from 0, what it is, what was said; picture or features."""

    number: int
    loss: float
    true: str
    said: str
    confidence: float | None = None
    picture: str | None = None
    features: str = ""


@dataclass(frozen=True)
class Content:
    """What the page shows. `missing` says why a part is not there, by the part's name; empty parts are left out.

    records, layers and boundary are the lines of metrics.jsonl, layers.jsonl and boundary.jsonl. `assessed` is what
    was measured on `split`: dlf/assessment.py, the confusion matrix, loss and headline metric. `findings` are the
    doctor's.
    """

    title: str
    info: Record
    records: Sequence[Record]
    best: Record | None
    headline: str
    config: str
    source: str
    architecture: bytes
    summary: Any
    findings: Sequence[Finding] = ()
    layers: Sequence[Record] = ()
    boundary: Sequence[Record] = ()
    points: Sequence[tuple[float, float, int]] = ()
    axes: Sequence[str] = ("x", "y")
    weights: Sequence[str] = ()
    weights_told: str = ""
    split: str = "val"
    checkpoint: str = ""
    assessed: Record | None = None
    mistakes: Sequence[Mistake] = ()
    pairs: tuple[Sequence[float], Sequence[float]] = ((), ())
    missing: Mapping[str, str] = field(default_factory=dict)


def render(content: Content) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dlf", "html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"short": short, "percent": percent}
    return environment.get_template("page.html").render(
        c=content,
        curves=_curves(content),
        inside=inside(content.layers, _steps_per_epoch(content.records)),
        plane=_plane(content),
        calibration=_calibration(content),
        scatter=_scatter(content),
        confusion=_confusion(content),
        columns=list(content.records[0]) if content.records else [],
        architecture="data:image/svg+xml;base64," + base64.b64encode(content.architecture).decode(),
    )


def percent(share: float | None) -> str:
    """A share as 97.3 %; a dash for none."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %"  # noqa: RUF001 -- a dash


def _curves(content: Content) -> list[str]:
    records, best = content.records, content.best
    if not records:
        return []
    epochs = [record["epoch"] for record in records]
    mark = best["epoch"] if best is not None else None

    def lines(name: str) -> list[Series]:
        pairs = [("training", f"train_{name}"), ("validation", f"val_{name}")]
        return [Series(word, [record.get(key) for record in records]) for word, key in pairs if key in records[0]]

    rate = [Series("learning rate", [record["lr"] for record in records])]
    headline = "mean absolute error" if content.headline == "mae" else content.headline
    return [
        line_chart("Loss", epochs, lines("loss"), y_name="loss", log=True, mark=mark),
        line_chart(headline.capitalize(), epochs, lines(content.headline), y_name=headline, mark=mark),
        line_chart("Learning rate", epochs, rate, y_name="learning rate"),
    ]


INSIDE = (  # key of layers.jsonl, title, what it means, logarithmic
    ("std", "Spread of the outputs", "standard deviation", True),
    ("mean", "Mean of the outputs", "mean", False),
    ("zeros", "Outputs that are zero", "share", False),
    ("dead", "Units that are zero for every sample", "share", False),
    ("saturated", "Outputs at the ends of their range", "share", False),
    ("gradient_norm", "Size of the gradients", "norm", True),
    ("weight_norm", "Size of the weights", "norm", True),
    ("update_ratio", "Last update, as a share of the weights", "ratio of norms", True),
)


def _steps_per_epoch(records: Sequence[Record]) -> int | None:
    """None before the first epoch has ended."""
    return records[0]["step"] // records[0]["epoch"] if records else None


def inside(layers: Sequence[Record], steps_per_epoch: int | None) -> list[str]:
    """A chart for each statistic of layers.jsonl that says something, with a line for each layer that has it.

    Over epochs, with parts of them where it was looked within one; over steps before one has ended.
    """
    if not layers:
        return []
    x_name, found = "epoch" if steps_per_epoch else "step", []
    x = [round(record["step"] / (steps_per_epoch or 1), 3) for record in layers]
    for key, title, y_name, log in INSIDE:
        series = [
            Series(f"{layer['layer']} {layer['module']}", [record["layers"][n][key] for record in layers])
            for n, layer in enumerate(layers[0]["layers"])
            if any(record["layers"][n][key] is not None for record in layers)
        ]
        if any(value for line in series for value in line.y):  # all zero or null says nothing
            found.append(line_chart(title, x, series, y_name=y_name, x_name=x_name, log=log))
    return found


def _plane(content: Content) -> dict[str, Any] | None:
    """The figure with the last epoch's map, and the maps of all epochs for the slider."""
    if not content.boundary:
        return None
    classes = content.info.get("classes") or []
    frames = [_map(record, len(classes)) for record in content.boundary]
    last = content.boundary[-1]
    figure = charts.plane(
        "What is said all over the plane", frames[-1], last["x"], last["y"], content.points, names=classes,
        axes=content.axes,
    )  # fmt: skip
    return {"figure": figure, "frames": frames, "epochs": [record["epoch"] for record in content.boundary]}


def _map(record: Record, classes: int) -> str:
    def grid(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(base64.b64decode(record[name]), np.uint8).reshape(record["size"], record["size"])

    if "value" in record:
        return pixels.heights(grid("value") / 255)
    return pixels.areas(grid("label"), grid("confidence") / 255, classes)


def _calibration(content: Content) -> str:
    rows = (content.assessed or {}).get("calibration", {}).get("bins")
    return charts.reliability(rows) if rows else ""


def _scatter(content: Content) -> str:
    true, said = content.pairs
    return charts.scatter("Predicted and true", true, said, x_name="true", y_name="predicted") if true else ""


def _confusion(content: Content) -> list[Table] | None:
    """The rows of the confusion matrix: the class, and its cells, their shares of the row; None if it is large."""
    counts = (content.assessed or {}).get("confusion_matrix")
    names = content.info.get("classes")
    if not counts or not names or len(names) > MOST_CLASSES:
        return None
    return [
        {"name": name, "cells": [{"count": cell, "share": cell / max(sum(row), 1)} for cell in row]}
        for name, row in zip(names, counts, strict=True)
    ]
