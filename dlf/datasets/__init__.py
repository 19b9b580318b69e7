"""Data sets: the registry, what every one of them returns, and the settings that all of them share.

A data set is one decorated function in a file of this package: positional `Source` in, `Dataset` out, its own YAML
keys as keyword-only parameters. It says what the samples are and where they come from; splitting, normalizing and
batching are not its business (dlf/data.py).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from numpy.typing import NDArray
from pydantic import NonNegativeInt, PlainValidator, PositiveInt, WithJsonSchema

from dlf.datasets.files import Rows
from dlf.registry import Component, Registry, one_of, shown

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Inputs x, uint8 (n, channels, height, width) or float32 (n, features), and what is true of them, y.

    y is int64 (n,) with values 0 .. classes-1 for classification, float32 (n, targets) for regression. x is an
    array, or a FileArray where it stays in its file.
    """

    x: Rows
    y: Array

    def __len__(self) -> int:
        return len(self.x)


class Column(NamedTuple):
    """A column of a table's file: the words that are one-hot coded, None where it holds numbers; whether x has it."""

    name: str
    words: tuple[str, ...] | None = None
    used: bool = True


@dataclass(frozen=True)
class Dataset:
    """What a data set function returns.

    `test` is the official test set, None where there is none. `classes` names the classes in the order of the labels,
    None for regression. `features` names the columns of tabular data. `categorical` is True for columns that are
    one-hot coded and must not be standardized. `files` maps each file that was read to its sha256. `columns` are those
    of a table's file, in order, of which `features` were made.
    """

    train: Samples
    test: Samples | None = None
    classes: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    categorical: Array | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()


class DataSpec(NamedTuple):
    """What is known of a data set before it is read: the shape of one sample, and its classes or number of targets."""

    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    targets: int = 1


@dataclass(frozen=True)
class Source:
    """Where a data set may take its files from: the folder, whether it may download, and whom it tells what it does."""

    root: Path
    download: bool = True
    tell: Callable[[str], None] = lambda message: None


def _amount(value: object) -> int | float:
    if not isinstance(value, bool):
        if isinstance(value, int) and value >= 0:
            return value
        if isinstance(value, float) and 0 <= value < 1:
            return value
    raise ValueError(f"expected a count (5000) or a share in [0, 1) (0.1), got {shown(value)}")


Amount = Annotated[
    int | float,
    PlainValidator(_amount),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0, "exclusiveMaximum": 1}]}
    ),
]


class DataSection(Component):
    """The data section: which data set, and how it is split, normalized and cut into batches."""

    validation: Amount = 0.1
    """Samples held out of the training part for validation: a count (5000) or a share (0.1)."""
    test: Amount = 0.2
    """Samples held out for the test where the data set has no official test set: a count or a share."""
    split_seed: NonNegativeInt = 0
    """Seed of the split; apart from `seed`, so that runs with other seeds share validation and test samples."""
    batch_size: PositiveInt = 128
    """Samples in one step; the last batch of an epoch may be smaller."""
    normalize: Literal["standard", "unit", "none"] = "standard"
    """standard: zero mean and unit variance by the training part (images: per channel); unit: bytes / 255; none."""
    limit: PositiveInt | None = None
    """Use only so many training samples, drawn by split_seed before the split: for a quick try."""
    root: str | None = None
    """Folder in which data files are looked for; default: $DLF_DATA, then the user's cache folder."""
    download: bool = True
    """Whether files that are missing may be downloaded."""
    fallback: Annotated[Component, one_of(lambda: DATASETS)] | None = None
    """Data set to train on, loudly, where this one is neither at hand nor downloadable, such as `digits`."""


DATASETS: Registry[Callable[..., Dataset]] = Registry("dataset", base=DataSection)


def load_all() -> None:
    """Import every file of this package, which registers its data sets."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


load_all()
