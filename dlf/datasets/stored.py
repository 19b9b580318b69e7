"""Arrays of numpy in files, each read whole or left in its file, and never unpickled.

The header of an array is read and checked before anything is allocated: numpy itself would first reserve what a header
promises.
"""

from __future__ import annotations

import hashlib
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy

from dlf.datasets.files import CAN_STAY, Array, FileArray, OpenFile, Rows
from dlf.errors import DataError
from dlf.memory import available_bytes

Memory = Literal["auto", "load", "map"]
_LONGEST_HEADER = 10_000  # bytes; numpy parses no longer one either
LARGE = 0.25  # `auto` maps x beyond this share of the memory available: while x is split, x and its parts are there


@contextmanager
def intact(found: Path) -> Iterator[None]:
    """What the reading of a damaged file raises, in words."""
    try:
        yield
    # ValueError and struct.error: zipfile's of a directory whose names or offsets are none
    except (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{found} is not an intact {found.suffix} file ({error}); write it with numpy.savez or numpy.save."
        ) from error


def sha256_of(file: IO[bytes]) -> str:
    """Of all its bytes."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Stored:
    """An array that has not been read, once its header is known to promise exactly the bytes that are there for it.

    `start` is the byte of `file` where its values begin, None where they are compressed.
    """

    name: str
    file: OpenFile
    open: Callable[[], IO[bytes]]
    size: int
    start: int | None
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def hindrance(self) -> str:
        """Why it cannot stay in its file, and what to do; empty where it can."""
        if not CAN_STAY:
            return "On this system arrays can only be loaded."
        if self.start is None:
            return f"{self.name} is compressed, and can only be loaded: write it with numpy.savez or numpy.save."
        if self.fortran and len(self.shape) > 1:
            return f"{self.name} is stored column by column, and can only be loaded: save numpy.ascontiguousarray(x)."
        return ""


def stored(file: OpenFile, name: str, size: int, opened: Callable[[], IO[bytes]], start: int | None) -> Stored:
    """`size` and `start` are those of the array with its header."""
    with opened() as stream:
        shape, fortran, dtype = _header(stream, name)
        header = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name} is an object array, that is a pickle, which dlf never loads; save plain numbers.")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - header:
        raise DataError(f"{name} is damaged: its header promises {dtype} {shape}, but {size - header:,} bytes follow.")
    return Stored(name, file, opened, size, None if start is None else start + header, shape, fortran, dtype)


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether column by column, and type of an array."""
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
        if length > _LONGEST_HEADER:  # numpy would first ask the system for as much
            raise ValueError(f"a header of {length:,} bytes")
        stream.seek(8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that is odd; what it says is checked
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read_header(stream)
        if dtype.subdtype is not None:  # numpy would write none: it makes them part of the shape
            raise ValueError(f"values of type {dtype}")
        return shape, fortran, dtype
    # what Python's tokenizer and parser, which numpy uses, raise for text that is not a header
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise DataError(f"{name} is not an array of numpy ({error}); numpy.savez and numpy.save write them.") from error


def start_of(info: zipfile.ZipInfo, file: IO[bytes]) -> int | None:
    """The byte of an archive with which a member begins, which only its local header tells; None where compressed."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return None
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name + extra)


def read(entries: Mapping[str, Stored], memory: Memory, tell: Callable[[str], None]) -> dict[str, Rows]:
    """The arrays by their names; those of x may stay in their files."""
    stays = _stays(entries, memory, tell)
    return {
        name: _left(entry) if stays and name.startswith("x") and entry.shape else _loaded(entry)
        for name, entry in entries.items()
    }


def _stays(entries: Mapping[str, Stored], memory: Memory, tell: Callable[[str], None]) -> bool:
    """Whether x is left in its files; DataError where it is to be and cannot, or where it must be and is not to be."""
    inputs = [entry for name, entry in entries.items() if name.startswith("x")]
    hindrance = next((entry.hindrance for entry in inputs if entry.hindrance), "")
    size, available = sum(entry.size for entry in inputs), available_bytes()
    if memory == "map":
        if hindrance:
            raise DataError(hindrance)
        return True
    if memory == "auto" and size > LARGE * available and not hindrance:
        tell(
            f"{inputs[0].name} stays in its file, from which batches are read (memory: map): {size / 2**30:,.1f} GiB, "
            f"where {available / 2**30:,.1f} GiB of memory are available"
        )
        return True
    everything = sum(entry.size for entry in entries.values())
    if everything > available:
        advice = hindrance or "With data.memory: map it stays in its file."
        raise DataError(
            f"{inputs[0].name} and what belongs to it take {everything:,} bytes of memory, and {available:,} are "
            f"available. {advice}"
        )
    return False


def _loaded(entry: Stored) -> Array:
    with entry.open() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _left(entry: Stored) -> FileArray:
    with entry.open() as stream:
        while isinstance(stream, zipfile.ZipExtFile) and stream.read(2**20):  # compares its checksum at the end
            pass
    assert entry.start is not None
    return FileArray(entry.file, entry.start, entry.shape[0], entry.shape[1:], entry.dtype)
