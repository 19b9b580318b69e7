"""Tiny files in the full format of every data set, written without dlf's own readers."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]

IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)
EMNIST_PARTS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "test-images-idx3-ubyte",
    "test-labels-idx1-ubyte",
)


def idx_bytes(values: Array) -> bytes:
    """The IDX file of an array, after the description on http://yann.lecun.com/exdb/mnist/."""
    code = IDX_TYPES[values.dtype.str[1:]]
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def images(n: int, seed: int = 0) -> Array:
    """Random grey images, so that a transposed or shifted one is another one."""
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), np.uint8)


def labels(n: int, classes: int = 10, first: int = 0) -> Array:
    return (np.arange(n) % classes + first).astype(np.uint8)


def idx_parts(n: int = 20, classes: int = 10, first: int = 0) -> list[bytes]:
    """Training images and labels, test images and labels."""
    train, test = images(n), images(n // 2, seed=1)
    return [idx_bytes(part) for part in (train, labels(n, classes, first), test, labels(n // 2, classes, first))]


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def mnist_like(root: Path, folder: str) -> dict[str, bytes]:
    files = dict(zip(MNIST_FILES, idx_parts(), strict=True))
    write(root / folder / "raw", files)
    return files


def qmnist_files() -> dict[str, bytes]:
    parts = idx_parts()
    for part, n in ((1, 20), (3, 10)):
        wide = np.arange(8 * n, dtype=np.int32).reshape(n, 8) + 100  # what must not be taken for a label
        wide[:, 0] = labels(n)
        parts[part] = idx_bytes(wide)
    return dict(zip(QMNIST_FILES, parts, strict=True))


def emnist_files(split: str = "balanced", classes: int = 47, first: int = 0) -> dict[str, bytes]:
    parts = idx_parts(2 * classes, classes, first)
    return {f"emnist-{split}-{part}": data for part, data in zip(EMNIST_PARTS, parts, strict=True)}


def cifar_files(records: int = 4) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for k, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        rows = rng.integers(0, 256, (records, 3073), np.uint8)
        rows[:, 0] = (np.arange(records) + 2 * k) % 10
        files[name] = rows.tobytes()
    return files


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files by gzip."""
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_image(path: Path, pixels: Array) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# --- one of each, by its registered name ----------------------------------------------------------------------------


def _mnist(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    files = mnist_like(root, "MNIST")
    patch.setattr("dlf.datasets.mnist._MNIST_SHA256", {name: sha256(data) for name, data in files.items()})
    return {}


def _like(folder: str) -> Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]:
    def plant(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        mnist_like(root, folder)
        return {}

    return plant


def _qmnist(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write(root / "QMNIST" / "raw", qmnist_files())
    return {}


def _emnist(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write(root / "EMNIST" / "raw", emnist_files())
    return {}


def _cifar10(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr("dlf.datasets.cifar._RECORDS", 4)
    write(root / "cifar-10-batches-bin", cifar_files(4))
    return {}


def _csv(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (root / "table.csv").write_text("age,town,kind\n1,Ulm,yes\n2,Bonn,no\n3,Ulm,no\n", "utf-8")
    return {"path": str(root / "table.csv")}


def _npz(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    np.savez(root / "arrays.npz", x=images(4), y=np.array([0, 1, 0, 1]))
    return {"path": str(root / "arrays.npz")}


def _npy(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    np.save(root / "x.npy", images(4))
    np.save(root / "y.npy", np.array([0, 1, 0, 1]))
    return {"x": str(root / "x.npy"), "y": str(root / "y.npy")}


def _image_folder(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("cat", "dog"):
        write_image(root / "pets" / name / "1.png", images(1)[0])
    return {"path": str(root / "pets")}


def _nothing(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {}


PLANT: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "mnist": _mnist,
    "fashion_mnist": _like("FashionMNIST"),
    "kmnist": _like("KMNIST"),
    "qmnist": _qmnist,
    "emnist": _emnist,
    "cifar10": _cifar10,
    "csv": _csv,
    "npz": _npz,
    "npy": _npy,
    "image_folder": _image_folder,
    **dict.fromkeys(("digits", "breast_cancer", "wine", "iris", "diabetes"), _nothing),
    **dict.fromkeys(("xor", "spiral", "circles", "moons", "blobs"), _nothing),
}
"""Writes the files of a data set below a folder; gives the parameters of its YAML that find them."""
