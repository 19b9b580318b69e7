"""MNIST as everyone reads it, and samples of the same kind that are made up where MNIST is not at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.processes import ROOT

if TYPE_CHECKING:  # the process that starts the others stays small
    import numpy as np
    from numpy.typing import NDArray

MEAN, STD = 0.1307, 0.3081  # of MNIST's training part, with bytes as numbers from 0 to 1
BYTES = 70_000 * (784 + 1)  # MNIST's images and labels as bytes
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SYNTHETIC = "synthetic.npz"

# dlf looks for the files, verifies or downloads them
_FIND_MNIST = """
import sys
from dlf.datasets import DATASETS, Source
from dlf.datasets.download import data_root
root = data_root(sys.argv[1] or None)
DATASETS.build(DATASETS.make("mnist"), Source(root, tell=lambda text: print(text, file=sys.stderr)))
print(root)
"""
_MAKE = (
    "import sys, pathlib, benchmarks.data; benchmarks.data.make_synthetic(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
)


def find(folder: str) -> Path | None:
    """The folder with MNIST/raw: this one, $DLF_DATA or dlf's cache; None where MNIST cannot be had."""
    command = [sys.executable, "-c", _FIND_MNIST, folder]
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return None if found.returncode else Path(found.stdout.strip())


def made_up(folder: Path, samples: int) -> Path:
    """The folder, with synthetic data in it."""
    subprocess.run([sys.executable, "-c", _MAKE, str(folder), str(samples)], cwd=ROOT, check=True)
    return folder


def synthetic(folder: str | Path) -> Path | None:
    """The archive that holds the folder's made-up data for dlf; None where the data is MNIST."""
    archive = Path(folder) / _SYNTHETIC
    return archive if archive.exists() else None


class Samples(NamedTuple):
    """Bytes (n, 784) and labels int64 (n,) of the training part and of the test set."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]


def read(folder: str, samples: int) -> Samples:
    """The first `samples` of the training part and the whole test set."""
    import numpy as np

    raw = Path(folder) / "MNIST" / "raw"
    # IDX: 16 bytes of header before images, 8 before labels
    parts = [np.fromfile(raw / name, np.uint8, offset=16 if "images" in name else 8) for name in FILES]
    x, x_test = parts[0].reshape(-1, 784)[:samples], parts[2].reshape(-1, 784)
    y, y_test = parts[1].astype(np.int64)[:samples], parts[3].astype(np.int64)
    return Samples(x, y, x_test, y_test)


def normalized(x: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes as float32 of zero mean and unit variance, as everyone here feeds them to the network."""
    import numpy as np

    return ((x / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


def make_synthetic(folder: Path, samples: int, test: int = 500) -> None:
    """Ten blurred patterns with noise, in MNIST's own files and as .npz: work of the same kind, without a download."""
    import numpy as np

    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (10, 784))
    y = generator.integers(0, 10, samples + test)
    y[:10] = range(10)  # every class is in the training part
    x = np.clip(patterns[y] + generator.normal(0, 60, (samples + test, 784)), 0, 255).astype(np.uint8)
    images = x.reshape(-1, 28, 28)
    parts: list[NDArray[Any]] = [images[:samples], y[:samples], images[samples:], y[samples:]]
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in zip(FILES, parts, strict=True):
        sizes = b"".join(size.to_bytes(4, "big") for size in part.shape)
        (raw / name).write_bytes(bytes([0, 0, 8, part.ndim]) + sizes + part.astype(np.uint8).tobytes())
    np.savez(folder / _SYNTHETIC, x_train=parts[0], y_train=parts[1], x_test=parts[2], y_test=parts[3])
