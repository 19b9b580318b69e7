"""Arrays of your own in a NumPy archive (.npz), read without ever unpickling.

The header of every array is read and checked before anything is allocated: numpy itself would first reserve what a
header promises.
"""

from __future__ import annotations

import hashlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dlf.datasets import DATASETS, Array, Dataset, Samples, Source
from dlf.datasets.local import existing
from dlf.errors import DataError

_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test", "classes")
_CHANNELS = (1, 3, 4)


@DATASETS.register("npz")
def npz(source: Source, *, path: str) -> Dataset:
    """Arrays of your own: a file of numpy.savez with x and y, or x_train, y_train, x_test and y_test.

    x: uint8 (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1, 3 or 4 channels
    are images, channels last where both readings fit; numbers (n, features) are a table and become float32. y: whole
    numbers (n,) are labels, 0 to C-1 with every one of them in the training part; floats (n,) or (n, targets) are
    numbers to predict. x_test and y_test are the official test set. `classes`, optional, holds the C names as text.
    Raises DataError for object arrays, damage, lengths that differ, labels out of range, NaN and infinity.
    """
    found = existing(path)
    arrays, sha256 = _read(found)
    x, y = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    _check_names(arrays, x, y, found)
    train = _samples(arrays, x, y, found)
    classes = _classes(train.y, y, arrays.get("classes"), found)
    test = None
    if "x_test" in arrays:
        test = _samples(arrays, "x_test", "y_test", found)
        _check_test(train, test, found)
    return Dataset(train, test, classes, files={path: sha256})


def _check_names(arrays: Mapping[str, Array], x: str, y: str, found: Path) -> None:
    wanted = {x, y} | ({"x_test", "y_test"} if {"x_test", "y_test"} & arrays.keys() else set())
    if arrays.keys() - {"classes"} != wanted:
        here = ", ".join(arrays) or "none of these"
        raise DataError(
            f"{found} holds {here}; expected x and y, or x_train and y_train, each once, and x_test and y_test or "
            "neither. numpy.savez(path, x=..., y=...) writes them."
        )


# --- reading --------------------------------------------------------------------------------------------------------


def _read(found: Path) -> tuple[dict[str, Array], str]:
    """The arrays whose names are known, and the sha256 of the file."""
    try:
        with found.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            with zipfile.ZipFile(file) as archive:
                members = {name: info for info in archive.infolist() if (name := _array_name(info)) in _NAMES}
                _check_memory(sum(info.file_size for info in members.values()), found)
                return {name: _array(archive, info, f"{name} of {found}") for name, info in members.items()}, sha256
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{found} is not an intact .npz file ({error}); write it with numpy.savez.") from error


def _array_name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _check_memory(promised: int, found: Path) -> None:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        memory = 2**36
    if promised > memory:
        raise DataError(f"{found} unpacks to {promised:,} bytes; this machine has {memory:,} bytes of memory.")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Array:
    """One array, once its header is known to promise exactly the bytes that the archive holds for it."""
    with archive.open(info) as stream:
        shape, dtype = _header(stream, name)
        bytes_left = info.file_size - stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name} is an object array, that is a pickle, which dlf never loads; save plain numbers.")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != bytes_left:
        raise DataError(f"{name} is damaged: its header promises {dtype} {shape}, but {bytes_left:,} bytes follow.")
    with archive.open(info) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array."""
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    # what Python's tokenizer and parser, which numpy uses, raise for text that is not a header
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise DataError(f"{name} is not an array of numpy ({error}); write it with numpy.savez.") from error
    return shape, dtype


# --- meaning --------------------------------------------------------------------------------------------------------


def _samples(arrays: Mapping[str, Array], x: str, y: str, found: Path) -> Samples:
    samples = Samples(_inputs(arrays[x], f"{x} of {found}"), _targets(arrays[y], f"{y} of {found}"))
    if len(samples.x) != len(samples.y):
        raise DataError(f"{found}: {x} has {len(samples.x)} samples, but {y} {len(samples.y)}; they must match.")
    return samples


def _inputs(x: Array, name: str) -> Array:
    """Images uint8 (n, channels, height, width), or a table float32 (n, features)."""
    if 0 not in x.shape:
        if x.ndim == 2 and x.dtype.kind in "biuf":
            return _finite(x, name)
        if x.ndim == 3 and x.dtype == np.uint8:
            return x[:, None]
        if x.ndim == 4 and x.dtype == np.uint8 and x.shape[3] in _CHANNELS:
            return np.ascontiguousarray(np.moveaxis(x, 3, 1))
        if x.ndim == 4 and x.dtype == np.uint8 and x.shape[1] in _CHANNELS:
            return x
    raise DataError(
        f"{name} has shape {x.shape} of {x.dtype}; expected numbers (n, features), or images as uint8 (n, height, "
        "width), (n, height, width, channels) or (n, channels, height, width) with 1, 3 or 4 channels. Images between "
        "0 and 1 become bytes by (x * 255).round().astype('uint8')."
    )


def _targets(y: Array, name: str) -> Array:
    """Labels int64 (n,), at least 0, or numbers float32 (n, targets)."""
    column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.size and y.dtype.kind in "biu" and column.ndim == 1:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= 2**31:
            raise DataError(f"{name} has labels from {low} to {high}; expected 0 to C-1.")
        return column.astype(np.int64)
    if y.size and y.dtype.kind == "f" and y.ndim in (1, 2):
        return _finite(y.reshape(len(y), -1), name)
    raise DataError(
        f"{name} has shape {y.shape} of {y.dtype}; expected labels as whole numbers (n,), or numbers to predict as "
        "floats (n,) or (n, targets). Words become labels by numpy.unique(y, return_inverse=True)."
    )


def _finite(values: Array, name: str) -> Array:
    """float32, every one of them finite."""
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{name} has {len(bad):,} values that are not finite in float32, the first in row {row}, column {column}: "
            f"{values[row, column]}. Remove these rows or fill them in."
        )
    return numbers


def _classes(y: Array, y_name: str, names: Array | None, found: Path) -> tuple[str, ...] | None:
    """The names of the classes, numbers unless they are given; None for regression."""
    if y.dtype != np.int64:
        return None
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise DataError(f"classes of {found} has shape {names.shape} of {names.dtype}; expected text (classes,).")
    labels = np.unique(y)
    count = int(labels[-1]) + 1 if names is None else len(names)
    if len(labels) != count or labels[-1] != count - 1 or count < 2:
        gap = next((k for k, label in enumerate(labels) if k != label), len(labels))
        raise DataError(
            f"{y_name} of {found} has {len(labels)} distinct labels from {labels[0]} to {labels[-1]}; expected at "
            f"least two, each of 0 to {max(count, 2) - 1}, but {gap} is missing. Store numbers to predict as float."
        )
    return tuple(map(str, range(count) if names is None else names))


def _check_test(train: Samples, test: Samples, found: Path) -> None:
    for name, ours, theirs in (("x", train.x, test.x), ("y", train.y, test.y)):
        if (ours.dtype, ours.shape[1:]) != (theirs.dtype, theirs.shape[1:]):
            raise DataError(
                f"{found}: a sample of {name}_test is {theirs.dtype} {theirs.shape[1:]}, "
                f"one of the training part {ours.dtype} {ours.shape[1:]}; they must agree."
            )
    if train.y.dtype == np.int64 and test.y.max() > train.y.max():
        raise DataError(f"{found}: y_test has label {test.y.max()}, the training part only 0 to {train.y.max()}.")
