"""CIFAR-10 in its binary version: the usual one for Python is a pickle, and dlf never unpickles."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from dlf.datasets import DATASETS, Array, Dataset, DataSpec, Samples, Source
from dlf.datasets.download import check_md5_of_file, check_unpacked, fetch, keep_unpacked, missing
from dlf.datasets.local import read_bytes
from dlf.errors import DataError

_SHAPE = (3, 32, 32)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARCHIVE = "cifar-10-binary.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # https://www.cs.toronto.edu/~kriz/cifar.html
_FOLDER = "cifar-10-batches-bin"
_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_RECORD = 1 + 3 * 32 * 32  # the label, then the red, green and blue plane
_RECORDS = 10_000  # in every file


@DATASETS.register("cifar10", spec=DataSpec(_SHAPE, _CLASSES))
def cifar10(source: Source) -> Dataset:
    """Colour photographs of ten kinds: 50,000 training and 10,000 test images of 32 x 32. Krizhevsky, 2009.

    x uint8 (n, 3, 32, 32), y int64 (n,). Files: ROOT/cifar-10-batches-bin/data_batch_1.bin to 5 and test_batch.bin, or
    ROOT/cifar-10-binary.tar.gz (170 MB). Raises DataMissingError, DataError.
    """
    folder = source.root / _FOLDER
    here = all((folder / file).is_file() for file in _FILES)
    size = _RECORDS * _RECORD
    data = {file: read_bytes(folder / file, size) for file in _FILES} if here else _unpack(source, folder)
    records = [_records(data[file], folder / file) for file in _FILES]
    hashes = {file: hashlib.sha256(data[file]).hexdigest() for file in _FILES}
    for file in _FILES:
        check_unpacked(hashes[file], folder / file)
    return Dataset(_samples(records[:5]), _samples(records[5:]), _CLASSES, files=hashes)


def _records(data: bytes, path: Path) -> Array:
    if len(data) != _RECORDS * _RECORD:
        raise DataError(
            f"{path} has {len(data):,} bytes; expected {_RECORDS * _RECORD:,}. Delete it; it will be fetched again."
        )
    records = np.frombuffer(data, np.uint8).reshape(_RECORDS, _RECORD)
    if records[:, 0].max() >= len(_CLASSES):
        raise DataError(
            f"{path} holds label {records[:, 0].max()}; expected 0 to 9. Delete it; it will be fetched again."
        )
    return records


def _samples(records: list[Array]) -> Samples:
    x = np.concatenate([part[:, 1:] for part in records]).reshape(-1, *_SHAPE)
    return Samples(x, np.concatenate([part[:, 0] for part in records]).astype(np.int64))


def _unpack(source: Source, folder: Path) -> dict[str, bytes]:
    """The files of the archive, by name; also written to `folder`, so that the next start is quick."""
    packed = source.root / _ARCHIVE
    if not packed.is_file():
        wanted = [_ARCHIVE]
        if not source.download:
            raise missing("cifar10", packed, wanted, ["data.download is false"])
        fetch("cifar10", [_URL], packed, tell=source.tell, md5=_MD5, wanted=wanted)
    check_md5_of_file(packed, _MD5)
    data = _members(packed)
    source.tell(f"cifar10: unpacked {_ARCHIVE}")
    for file in _FILES:
        keep_unpacked(folder / file, data[file])  # the paths are ours: none comes from the archive
    return data


def _members(packed: Path) -> dict[str, bytes]:
    """The six members that we know by name, read from the archive in one pass; the others are passed over."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(packed, "r|gz") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                if folder != _FOLDER or file not in _FILES:
                    continue
                stream = archive.extractfile(member) if member.isreg() else None  # a link would lead elsewhere
                if stream is None or member.size != _RECORDS * _RECORD:
                    kind = f"{member.size:,} bytes" if member.isreg() else "a link"
                    raise DataError(f"{packed}: {member.name} is {kind}; expected {_RECORDS * _RECORD:,} bytes.")
                found[file] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed} is not an intact archive ({error}). Delete it; it will be fetched again.") from error
    absent = [file for file in _FILES if file not in found]
    if absent:
        raise DataError(f"{packed} lacks {', '.join(absent)}. Delete it; it will be fetched again.")
    return found
