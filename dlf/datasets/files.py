"""Arrays that stay in their files: what is indexed is read, so that a data set may be larger than the memory.

The rows are read and not mapped into memory: a page of a map counts as memory of the process once it was touched, and
a file that is cut off meanwhile kills a process that maps it, where a read fails with words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dlf.errors import DataError

CAN_STAY = hasattr(os, "pread")  # not on Windows
CHUNK = 2**22  # values that are looked at together where all samples are: 32 MB in float64
_LONGEST = 2**30  # bytes asked for at once; Linux gives less than 2^31 of more
_DENSE = 2  # rows are read in one piece as long as the piece holds no more than so many times what is wanted

Array = NDArray[Any]
Rows = Any  # an Array or a FileArray: of both, len, shape, dtype, slices and arrays of indices mean the same


class OpenFile:
    """A file that is read from anywhere in it; DataError once it is no longer what it was when it was opened."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self._descriptor = os.dup(file.fileno())  # of the very file that was checked, whatever has its name later
        self._stamp = self._now()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def read(self, offsets: list[int], size: int) -> bytearray:
        """`size` bytes from each offset, one after the other."""
        if size > _LONGEST:
            pieces = [(offset + at, min(_LONGEST, size - at)) for offset in offsets for at in range(0, size, _LONGEST)]
            return bytearray().join(self.read([at], length) for at, length in pieces)
        descriptor, pread = self._descriptor, os.pread
        try:
            found = bytearray().join([pread(descriptor, size, offset) for offset in offsets])
            if len(found) == size * len(offsets) and self._now() == self._stamp:
                return found
        except OSError as error:
            raise DataError(f"{self.name} can no longer be read: {error.strerror or error}.") from error
        raise DataError(
            f"{self.name} was changed while it was in use; batches are read from it until the end. Leave it alone "
            "during a training, or load it (data.memory: load)."
        )

    def announce(self, offsets: list[int], size: int) -> None:
        """Let the kernel fetch what is to be read soon: from a disk, many pieces at once take the time of one."""
        if hasattr(os, "posix_fadvise"):
            for offset in offsets:
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def _as_stored(rows: Array) -> Array:
    return rows


@dataclass(frozen=True)
class FileArray:
    """Rows (n, ...) in a file, row after row from byte `start`, each `stored_shape` of `stored_dtype`.

    A slice or an array of indices reads these rows as an ndarray, after `convert`. `rows` are the indices of those
    that belong to this array, None for all of the `count`.
    """

    file: OpenFile
    start: int
    count: int
    stored_shape: tuple[int, ...]
    stored_dtype: np.dtype[Any]
    convert: Callable[[Array], Array] = _as_stored
    rows: Array | None = None

    def __len__(self) -> int:
        return self.count if self.rows is None else len(self.rows)

    @cached_property
    def _none(self) -> Array:
        return self.convert(np.empty((0, *self.stored_shape), self.stored_dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...), converted."""
        return (len(self), *self._none.shape[1:])

    @property
    def ndim(self) -> int:
        """How many numbers `shape` has."""
        return self._none.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the converted values."""
        return self._none.dtype

    @property
    def nbytes(self) -> int:
        """What all rows would take in memory, converted."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def take(self, indices: Array) -> FileArray:
        """These rows as an array of their own; nothing is read."""
        return replace(self, rows=indices if self.rows is None else self.rows[indices])

    def __getitem__(self, wanted: slice | Array) -> Array:
        return self.convert(self._read(self._places(wanted)))

    def announce(self, wanted: slice | Array) -> None:
        """Say that these rows are to be read soon."""
        self.file.announce(self._offsets(self._places(wanted)), self._row_bytes)

    def _places(self, wanted: slice | Array) -> Array:
        """Where rows of this array stand in the file, counted in rows."""
        if self.rows is not None:
            return self.rows[wanted]
        return np.arange(*wanted.indices(self.count)) if isinstance(wanted, slice) else wanted

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.stored_shape)) * self.stored_dtype.itemsize

    def _offsets(self, places: Array) -> list[int]:
        offsets: list[int] = (self.start + places * self._row_bytes).tolist()
        return offsets

    def _read(self, places: Array) -> Array:
        if not len(places):
            return np.empty((0, *self.stored_shape), self.stored_dtype)
        first, last = int(places.min()), int(places.max())
        span = last - first + 1
        if span > _DENSE * len(places):
            return self._rows(self.file.read(self._offsets(places), self._row_bytes))
        block = self._rows(self.file.read(self._offsets(np.array([first])), span * self._row_bytes))
        in_order = span == len(places) and bool((places == np.arange(first, last + 1)).all())
        return block if in_order else block[places - first]

    def _rows(self, found: bytearray) -> Array:
        return np.frombuffer(found, self.stored_dtype).reshape(-1, *self.stored_shape)


def chunks(rows: Rows) -> Iterator[Array]:
    """All rows in order, some at a time: as many as CHUNK values are, by their shape alone."""
    size = max(1, CHUNK // max(1, int(np.prod(rows.shape[1:]))))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
