"""The MNIST family: small grey images in IDX files, in the folders where torchvision keeps them.

ROOT/MNIST/raw/train-images-idx3-ubyte, or the same with .gz; likewise FashionMNIST, KMNIST, QMNIST and EMNIST. What is
missing is downloaded, packed files are unpacked beside, so that the next start reads them as they are.
"""

from __future__ import annotations

import hashlib
import string
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlf.datasets import DATASETS, Array, Dataset, DataSpec, Samples, Source
from dlf.datasets.download import (
    check_md5,
    check_md5_of_file,
    check_unpacked,
    damaged,
    fetch,
    keep_unpacked,
    missing,
)
from dlf.datasets.idx import gunzip, read_idx
from dlf.datasets.local import read_buffer, read_bytes
from dlf.errors import DataError

_SHAPE = (1, 28, 28)
_DIGITS = tuple(string.digits)
_GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# Upper and lower case that cannot be told apart when written by hand are one class of EMNIST's merged splits.
_MERGED = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")
_EMNIST = {
    "balanced": _MERGED,
    "byclass": tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "bymerge": _MERGED,
    "letters": tuple(string.ascii_lowercase),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_EMNIST_PARTS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "test-images-idx3-ubyte",
    "test-labels-idx1-ubyte",
)
_QMNIST_FILES = (
    *("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
    *("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
)
# sha256 of the unpacked files whose md5 is 6bbc9ace898e44ae57da46a324031adb, a25bea736e30d166cdddb491f175f624,
# 2646ac647ad5339dbf082846283269ea and 27ae3e4e09519cfbb04c329615203637: one hash to verify and to record.
_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MAX_BYTES = 16 + 700_000 * 28 * 28  # the largest file of the family: EMNIST byclass, 697,932 images


@DATASETS.register("mnist", spec=DataSpec(_SHAPE, _DIGITS))
def mnist(source: Source) -> Dataset:
    """Handwritten digits: 60,000 training and 10,000 test images of 28 x 28. LeCun et al., 1998.

    x uint8 (n, 1, 28, 28), y int64 (n,). Files: ROOT/MNIST/raw. Raises DataMissingError, DataError.
    """
    return _load(source, "mnist", "MNIST", _FILES, _DIGITS, pins=_MNIST_SHA256)


@DATASETS.register("fashion_mnist", spec=DataSpec(_SHAPE, _GARMENTS))
def fashion_mnist(source: Source) -> Dataset:
    """Photographs of clothes, ten kinds: 60,000 training and 10,000 test images of 28 x 28. Xiao et al., 2017.

    x uint8 (n, 1, 28, 28), y int64 (n,). Files: ROOT/FashionMNIST/raw. Raises DataMissingError, DataError.
    """
    return _load(source, "fashion_mnist", "FashionMNIST", _FILES, _GARMENTS)


@DATASETS.register("kmnist", spec=DataSpec(_SHAPE, _KANA))
def kmnist(source: Source) -> Dataset:
    """Cursive Japanese, ten hiragana: 60,000 training and 10,000 test images of 28 x 28. Clanuwat et al., 2018.

    x uint8 (n, 1, 28, 28), y int64 (n,). Files: ROOT/KMNIST/raw. Raises DataMissingError, DataError.
    """
    return _load(source, "kmnist", "KMNIST", _FILES, _KANA)


@DATASETS.register("qmnist", spec=DataSpec(_SHAPE, _DIGITS))
def qmnist(source: Source) -> Dataset:
    """MNIST rebuilt from its source, with 60,000 test images in place of 10,000. Yadav and Bottou, 2019.

    x uint8 (n, 1, 28, 28), y int64 (n,): the first of the eight label columns. Files: ROOT/QMNIST/raw. Raises
    DataMissingError, DataError.
    """
    return _load(source, "qmnist", "QMNIST", _QMNIST_FILES, _DIGITS)


@DATASETS.register("emnist", spec=lambda *, split: DataSpec(_SHAPE, _EMNIST[split]))
def emnist(
    source: Source, *, split: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = "balanced"
) -> Dataset:
    """Handwritten digits and letters, up to 62 classes, images of 28 x 28. Cohen et al., 2017.

    x uint8 (n, 1, 28, 28), turned upright: the files hold every image transposed. y int64 (n,); `letters` counts from
    1 in the files and from 0 here. Files: ROOT/EMNIST/raw, unpacked or all in gzip.zip (562 MB). Raises
    DataMissingError, DataError.
    """
    files = tuple(f"emnist-{split}-{part}" for part in _EMNIST_PARTS)
    return _load(
        source, "emnist", "EMNIST", files, _EMNIST[split], transposed=True, first_label=1 if split == "letters" else 0
    )


def _load(
    source: Source,
    name: str,
    folder: str,
    files: Sequence[str],
    classes: tuple[str, ...],
    *,
    pins: Mapping[str, str] | None = None,
    transposed: bool = False,
    first_label: int = 0,
) -> Dataset:
    """Read four IDX files, training images and labels before test images and labels."""
    raw = source.root / folder / "raw"
    arrays, hashes = [], {}
    for file in files:
        data = _bytes(source, name, raw / file, files)
        hashes[file] = hashlib.sha256(data).hexdigest()
        if pins is None:
            check_unpacked(hashes[file], raw / file)
        elif hashes[file] != pins[file]:
            raise damaged(raw / file, f"sha256 {hashes[file]}", f"sha256 {pins[file]}")
        arrays.append(read_idx(data, raw / file))
    x, y, test_x, test_y = arrays
    check = partial(_samples, classes=len(classes), transposed=transposed, first_label=first_label)
    train = check(x, y, x_path=raw / files[0], y_path=raw / files[1])
    test = check(test_x, test_y, x_path=raw / files[2], y_path=raw / files[3])
    return Dataset(train, test, classes, files=hashes)


def _samples(
    x: Array, y: Array, *, x_path: Path, y_path: Path, classes: int, transposed: bool, first_label: int
) -> Samples:
    """Images (n, 28, 28) and labels (n,) or, in QMNIST, (n, 8), checked against each other."""
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28):
        raise DataError(f"{x_path} holds {x.dtype} values of shape {x.shape}; expected uint8 (n, 28, 28).")
    if y.dtype.kind not in "ui" or y.ndim > 2:
        raise DataError(f"{y_path} holds {y.dtype} values of shape {y.shape}; expected one whole number an image.")
    if len(x) != len(y):
        raise DataError(f"{x_path} holds {len(x)} images, but {y_path} {len(y)} labels; they do not belong together.")
    labels = (y if y.ndim == 1 else y[:, 0]).astype(np.int64) - first_label
    if labels.min() < 0 or labels.max() >= classes:
        low, high = labels.min() + first_label, labels.max() + first_label
        expected = f"{first_label} to {first_label + classes - 1}"
        raise DataError(f"{y_path} holds labels from {low} to {high}; expected {expected}.")
    images = np.ascontiguousarray(x.swapaxes(1, 2)) if transposed else x
    return Samples(images[:, None], labels)


def _bytes(source: Source, name: str, path: Path, wanted: Sequence[str]) -> bytes | memoryview:
    """The unpacked bytes of one file: as it lies there, else from its packed form, else from the network."""
    if path.is_file():
        return read_buffer(path, _MAX_BYTES)
    unpack: Callable[..., bytes] = _from_zip if name == "emnist" else _from_gzip
    data = unpack(source, name, path, wanted)
    source.tell(f"{name}: unpacked {path.name}")
    keep_unpacked(path, data)
    return data


def _from_gzip(source: Source, name: str, path: Path, wanted: Sequence[str]) -> bytes:
    packed = path.with_name(f"{path.name}.gz")
    if not packed.is_file() and not source.download:
        raise missing(name, path, wanted, ["data.download is false"])
    urls, md5 = _published(path.parents[1].name, packed.name)
    if not packed.is_file():
        fetch(name, urls, packed, tell=source.tell, md5=md5, wanted=wanted)
    data = read_bytes(packed, _MAX_BYTES)
    check_md5(data, packed, md5)
    return gunzip(data, packed, _MAX_BYTES)


def _published(folder: str, file: str) -> tuple[list[str], str]:
    """Addresses and md5 of a packed file, as torchvision, which knows the mirrors that work, has them."""
    from torchvision import datasets  # a second, needed only when something is unpacked or downloaded

    vision: Any = getattr(datasets, folder)
    if folder == "QMNIST":  # whole addresses, by part
        listed = [entry for part in ("train", "test") for entry in vision.resources[part]]
        return next(([url], md5) for url, md5 in listed if url.endswith(f"/{file}"))
    return [mirror + file for mirror in vision.mirrors], dict(vision.resources)[file]


def _from_zip(source: Source, name: str, path: Path, wanted: Sequence[str]) -> bytes:
    """One member of EMNIST's archive, whose members are packed once more."""
    packed = path.with_name("gzip.zip")
    if not packed.is_file() and not source.download:
        raise missing(name, path, [*wanted, "or gzip.zip"], ["data.download is false"])
    url, md5 = _published_archive()
    if not packed.is_file():
        fetch(name, [url], packed, tell=source.tell, md5=md5, wanted=[*wanted, "or gzip.zip"])
    check_md5_of_file(packed, md5)
    member = f"gzip/{path.name}.gz"
    try:
        with zipfile.ZipFile(packed) as archive, archive.open(member) as stream:  # by name: nothing is extracted
            data = stream.read(_MAX_BYTES + 1)
    except (KeyError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{packed} does not give {member}: {error}. Delete it; it will be fetched again.") from error
    return gunzip(data, f"{packed}:{member}", _MAX_BYTES)


def _published_archive() -> tuple[str, str]:
    from torchvision.datasets import EMNIST

    return EMNIST.url, EMNIST.md5
