"""The IDX format of the MNIST family: a few bytes of header, then the numbers, row by row.

http://yann.lecun.com/exdb/mnist/: two zero bytes, one byte for the type, one for the number of dimensions, each
dimension as a big-endian uint32, then the values, big-endian.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from dlf.datasets import Array
from dlf.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(data: bytes | memoryview, name: str | Path) -> Array:
    """The array that IDX bytes hold, in the byte order of this machine; single bytes stay where they are.

    `name` is the file that an error names. Raises DataError for a bad magic number, dimensions that do not fit the
    number of bytes, a file that is short or long. Everything is checked before anything is allocated.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES or data[3] == 0:
        start = data[:4].hex(" ") or "nothing"
        raise DataError(
            f"{name} is not an IDX file: it starts with {start}, expected 00 00, a type (08 to 0e) and the number of "
            "dimensions. Is it still packed, or a web page? Delete it and get it again."
        )
    dtype, dimensions = np.dtype(_TYPES[data[2]]), data[3]
    offset = 4 + 4 * dimensions
    if dimensions > 4:
        raise DataError(f"{name} claims {dimensions} dimensions; expected 1 to 4. It is damaged: get it again.")
    if len(data) < offset:
        raise DataError(
            f"{name} ends after {len(data)} bytes, inside its header of {offset}. It is cut off: get it again."
        )
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, offset, 4))
    expected = offset + math.prod(shape) * dtype.itemsize
    if len(data) != expected or 0 in shape:
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{name} has {len(data):,} bytes; its header promises {sizes} values, {expected:,} bytes. "
            "It is damaged or cut off: delete it and get it again."
        )
    values = np.frombuffer(data, dtype, offset=offset).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def gunzip(data: bytes, name: str | Path, limit: int) -> bytes:
    """What gzip bytes hold, at most `limit` bytes; DataError for damage, and for more than that (a bomb)."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            unpacked = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not an intact gzip file ({error}). Delete it and get it again.") from error
    if len(unpacked) > limit:
        raise DataError(
            f"{name} unpacks to more than the {limit:,} bytes expected; it is not the file it claims to be."
        )
    return unpacked
