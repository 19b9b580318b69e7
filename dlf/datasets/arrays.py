"""Arrays of your own, in a NumPy archive (.npz) or a file each (.npy), read without ever unpickling.

What is too large for the memory stays in its file (dlf/datasets/stored.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from dlf.datasets import DATASETS, Array, Dataset, Samples, Source
from dlf.datasets.files import FileArray, OpenFile, Rows, chunks
from dlf.datasets.local import existing
from dlf.datasets.stored import Memory, intact, read, sha256_of, start_of, stored
from dlf.errors import DataError

_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test", "classes")
_CHANNELS = (1, 3, 4)


@DATASETS.register("npz")
def npz(source: Source, *, path: str, memory: Memory = "auto") -> Dataset:
    """Arrays of your own: a file of numpy.savez with x and y, or x_train, y_train, x_test and y_test.

    x: uint8 (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1, 3 or 4 channels
    are images, channels last where both readings fit; numbers (n, features) are a table and become float32. y: whole
    numbers (n,) are labels, 0 to C-1 with every one of them in the training part; floats (n,) or (n, targets) are
    numbers to predict. x_test and y_test are the official test set. `classes`, optional, holds the C names as text.
    memory: `load` reads everything; `map` leaves x in the file, from which each batch is read when its turn comes, to
    the same result; `auto` maps x where it is larger than a quarter of the memory that is available. What
    numpy.savez_compressed wrote can only be loaded.
    Raises DataError for object arrays, damage, lengths that differ, labels out of range, NaN and infinity.
    """
    found = existing(path)
    with intact(found), found.open("rb") as file, zipfile.ZipFile(file) as archive:
        opened = OpenFile(file, str(found))
        members = {name: info for info in archive.infolist() if (name := info.filename.removesuffix(".npy")) in _NAMES}
        x, y = ("x_train", "y_train") if "x_train" in members else ("x", "y")
        _check_names(members, x, y, found)
        entries = {}
        for name, info in members.items():
            again, start = partial(archive.open, info), start_of(info, file)
            entries[name] = stored(opened, f"{name} of {found}", info.file_size, again, start)
        arrays = read(entries, memory, source.tell)
        names = {name: entry.name for name, entry in entries.items()}
        files = {path: sha256_of(file)}
    for of_both in (arrays, names):
        of_both["x"], of_both["y"] = of_both[x], of_both[y]
    return _dataset(arrays, names, files)


@DATASETS.register("npy")
def npy(
    source: Source,
    *,
    x: str,
    y: str,
    x_test: str | None = None,
    y_test: str | None = None,
    classes: list[str] | None = None,
    memory: Memory = "auto",
) -> Dataset:
    """Arrays of your own, each in a file of numpy.save: the paths of x and y, and of x_test and y_test.

    What the arrays hold, what `memory` means and what raises DataError is as for npz. x_test and y_test, of which both
    or none are given, are the official test set; `classes` names the classes.
    """
    if (x_test is None) != (y_test is None):
        raise DataError("data.x_test and data.y_test belong together; give both, or none of them.")
    paths = {name: path for name, path in (("x", x), ("y", y), ("x_test", x_test), ("y_test", y_test)) if path}
    found = {name: existing(path) for name, path in paths.items()}
    entries, hashes = {}, {}
    for name, place in found.items():
        with intact(place), place.open("rb") as file:
            size = place.stat().st_size
            entries[name] = stored(OpenFile(file, str(place)), str(place), size, _reopened(place), 0)
            hashes[paths[name]] = sha256_of(file)
    arrays = read(entries, memory, source.tell)
    if classes is not None:
        arrays["classes"] = np.array(classes, np.str_)
    return _dataset(arrays, {name: str(place) for name, place in found.items()} | {"classes": "data.classes"}, hashes)


def read_inputs(path: str) -> Array:
    """Samples without labels: the array of a .npy file, or x, or the only array, of an .npz file; as x of npz."""
    found = existing(path)
    with intact(found), found.open("rb") as file:
        opened = OpenFile(file, str(found))
        if found.suffix.lower() == ".npy":
            entry = stored(opened, str(found), found.stat().st_size, _reopened(found), 0)
            return np.asarray(_inputs(read({"x": entry}, "load", print)["x"], entry.name))
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            name = "x" if "x" in members or len(members) != 1 else next(iter(members))
            if name not in members:
                raise DataError(f"{found} holds {', '.join(members) or 'nothing'}; expected x, or one array.")
            info = members[name]
            again, start = partial(archive.open, info), start_of(info, file)
            entry = stored(opened, f"{name} of {found}", info.file_size, again, start)
            return np.asarray(_inputs(read({"x": entry}, "load", print)["x"], entry.name))


def _reopened(place: Path) -> Callable[[], IO[bytes]]:
    return lambda: place.open("rb")


# --- meaning --------------------------------------------------------------------------------------------------------


def _check_names(members: Mapping[str, Any], x: str, y: str, found: Path) -> None:
    wanted = {x, y} | ({"x_test", "y_test"} if {"x_test", "y_test"} & members.keys() else set())
    if members.keys() - {"classes"} != wanted:
        here = ", ".join(members) or "none of these"
        raise DataError(
            f"{found} holds {here}; expected x and y, or x_train and y_train, each once, and x_test and y_test or "
            "neither. numpy.savez(path, x=..., y=...) writes them."
        )


def _dataset(arrays: Mapping[str, Rows], names: Mapping[str, str], files: Mapping[str, str]) -> Dataset:
    """What x, y, x_test, y_test and classes mean; `names` is what messages call them."""
    train = _samples(arrays, names, "x", "y")
    classes = _classes(train.y, names["y"], arrays.get("classes"), names.get("classes", ""))
    test = None
    if "x_test" in arrays:
        test = _samples(arrays, names, "x_test", "y_test")
        _check_test(train, test, names)
    return Dataset(train, test, classes, files=files)


def _samples(arrays: Mapping[str, Rows], names: Mapping[str, str], x: str, y: str) -> Samples:
    samples = Samples(_inputs(arrays[x], names[x]), _targets(arrays[y], names[y]))
    if len(samples.x) != len(samples.y):
        raise DataError(
            f"{names[x]} has {len(samples.x)} samples, but {names[y]} has {len(samples.y)}; they must match."
        )
    return samples


def _inputs(x: Rows, name: str) -> Rows:
    """Images uint8 (n, channels, height, width), or a table float32 (n, features)."""
    convert = _conversion(x.shape, x.dtype)
    if convert is None:
        raise DataError(
            f"{name} has shape {x.shape} of {x.dtype}; expected numbers (n, features), or images as uint8 (n, height, "
            "width), (n, height, width, channels) or (n, channels, height, width) with 1, 3 or 4 channels. Images "
            "between 0 and 1 become bytes by (x * 255).round().astype('uint8')."
        )
    if x.ndim == 2:
        _check_finite(x, name)
    return replace(x, convert=convert) if isinstance(x, FileArray) else convert(x)


def _conversion(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[Array], Array] | None:
    """How rows of such an array become samples; None where they are none."""
    if 0 in shape:
        return None
    if len(shape) == 2 and dtype.kind in "biuf":
        return _float32
    if len(shape) == 3 and dtype == np.uint8:
        return lambda rows: rows[:, None]
    if len(shape) == 4 and dtype == np.uint8 and shape[3] in _CHANNELS:
        return lambda rows: np.ascontiguousarray(np.moveaxis(rows, 3, 1))
    if len(shape) == 4 and dtype == np.uint8 and shape[1] in _CHANNELS:
        return lambda rows: rows
    return None


def _float32(rows: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is refused as any other
        return rows.astype(np.float32, copy=False)


def _targets(y: Array, name: str) -> Array:
    """Labels int64 (n,), at least 0, or numbers float32 (n, targets)."""
    column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.size and y.dtype.kind in "biu" and column.ndim == 1:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= 2**31:
            raise DataError(f"{name} has labels from {low} to {high}; expected 0 to C-1.")
        return column.astype(np.int64)
    if y.size and y.dtype.kind == "f" and y.ndim in (1, 2):
        numbers = y.reshape(len(y), -1)
        _check_finite(numbers, name)
        return _float32(numbers)
    raise DataError(
        f"{name} has shape {y.shape} of {y.dtype}; expected labels as whole numbers (n,), or numbers to predict as "
        "floats (n,) or (n, targets). Words become labels by numpy.unique(y, return_inverse=True)."
    )


def _check_finite(values: Rows, name: str) -> None:
    """DataError, with the first place, unless every value is finite as float32."""
    count, first, start = 0, "", 0
    for chunk in chunks(values):
        bad = np.argwhere(~np.isfinite(_float32(chunk)))
        if len(bad) and not count:
            row, column = bad[0]
            first = f"row {start + row}, column {column}: {chunk[row, column]}"
        count += len(bad)
        start += len(chunk)
    if count:
        raise DataError(
            f"{name} has {count:,} values that are not finite in float32, the first in {first}. "
            "Remove these rows or fill them in."
        )


def _classes(y: Array, y_name: str, names: Array | None, title: str) -> tuple[str, ...] | None:
    """The names of the classes, numbers unless they are given; None for regression."""
    if y.dtype != np.int64:
        return None
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise DataError(f"{title} has shape {names.shape} of {names.dtype}; expected text (classes,).")
    labels = np.unique(y)
    if names is not None and labels[-1] >= len(names):
        raise DataError(f"{y_name} has labels up to {labels[-1]}, but {title} names only {len(names)} of them.")
    count = int(labels[-1]) + 1 if names is None else len(names)
    if len(labels) != count or labels[-1] != count - 1 or count < 2:
        gap = next((k for k, label in enumerate(labels) if k != label), len(labels))
        raise DataError(
            f"{y_name} has {len(labels)} distinct labels from {labels[0]} to {labels[-1]}; expected at "
            f"least two, each of 0 to {max(count, 2) - 1}, but {gap} is missing. Store numbers to predict as float."
        )
    return tuple(map(str, range(count) if names is None else names))


def _check_test(train: Samples, test: Samples, names: Mapping[str, str]) -> None:
    for name, ours, theirs in (("x_test", train.x, test.x), ("y_test", train.y, test.y)):
        if (ours.dtype, ours.shape[1:]) != (theirs.dtype, theirs.shape[1:]):
            raise DataError(
                f"{names[name]} holds samples of {theirs.dtype} {theirs.shape[1:]}, "
                f"the training part of {ours.dtype} {ours.shape[1:]}; they must agree."
            )
    if train.y.dtype == np.int64 and test.y.max() > train.y.max():
        raise DataError(f"{names['y_test']} has label {test.y.max()}, the training part only 0 to {train.y.max()}.")
