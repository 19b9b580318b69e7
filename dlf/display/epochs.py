"""One epoch as a line of a log, or as a row of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from dlf.display.words import duration, number

if TYPE_CHECKING:
    from dlf.run import Record

_OF_THE_EPOCH = {"epoch", "step", "lr", "penalty", "seconds", "samples_per_second"}


def headlines(record: Record) -> list[str]:
    """What is measured on the training part, and so in every epoch: loss, and accuracy or mae."""
    return [key.removeprefix("train_") for key in record if key.startswith("train_")]


def measured(record: Record) -> dict[str, float | None]:
    """What every epoch has, by its name in the record: train_loss, train_accuracy, val_loss, val_accuracy."""
    names = [f"{part}_{name}" for part in ("train", "val") for name in headlines(record)]
    return {name: record[name] for name in names if name in record}


def extras(record: Record) -> dict[str, float | None]:
    """The further numbers of a record: configured metrics, and the penalty where there is one; no lists."""
    known = _OF_THE_EPOCH | measured(record).keys()
    found = {key: value for key, value in record.items() if key not in known and is_number(value)}
    return {"penalty": record["penalty"], **found} if record.get("penalty") else found


def is_number(value: object) -> bool:
    """Whether a value is one number; a NaN is null in a record."""
    return value is None or isinstance(value, int | float)


def epoch_line(record: Record, *, best: bool, epochs: int) -> str:
    """One epoch for a log: names and values in one aligned line that grep and awk can read."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        *(f"{name} {number(value):>6}" for name, value in measured(record).items()),
        f"lr {record['lr']:<8.3g}",
        f"{duration(record['seconds']):>6}",
        f"{record['samples_per_second']:>9,}/s",
        *(f"{name} {number(value):>6}" for name, value in extras(record).items()),
        *(["best"] if best else []),
    ]
    return "  ".join(parts)


class Cell(NamedTuple):
    """One value of an epoch's row in a terminal, below a heading of two lines."""

    group: str
    title: str
    text: str
    width: int


def cells_of(record: Record, epochs: int, width: int) -> list[Cell]:
    """The values of an epoch, the most wanted first, as many as fit."""
    names, digits = headlines(record), len(str(epochs))
    cells = [Cell("", "epoch", f"{record['epoch']:>{digits}}/{epochs}", max(5, 2 * digits + 1))]
    for name in names:
        parts = [part for part in ("train", "val") if f"{part}_{name}" in record]
        cells += [
            Cell(name if part == parts[0] else "", part, number(record[f"{part}_{name}"]), max(7, len(name)))
            for part in parts
        ]
    cells += [
        Cell("", "lr", f"{record['lr']:.3g}", 8),
        Cell("", "time", duration(record["seconds"]), 6),
        Cell("", "samples/s", f"{record['samples_per_second']:,}", 9),
        *(Cell("", name, number(value), max(7, len(name))) for name, value in extras(record).items()),
    ]
    ends = accumulate(cell.width + 2 for cell in cells)
    return [cell for cell, end in zip(cells, ends, strict=True) if end + len("best") <= width] or cells[:1]


def row(texts: Sequence[str], cells: Sequence[Cell]) -> str:
    """One text for each cell, below each other from row to row."""
    return "  ".join(f"{text:>{cell.width}}" for text, cell in zip(texts, cells, strict=True))
