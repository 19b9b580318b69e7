"""IDX files round-trip through an independent writer; everything that is not one, byte by byte, is a DataError."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from dataset_files import IDX_TYPES, Array, idx_bytes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlf.datasets.idx import gunzip, read_idx
from dlf.errors import DataError

SMALL = idx_bytes(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
arrays = st.sampled_from(sorted(IDX_TYPES)).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
)


@given(arrays)
def test_round_trip(values: Array) -> None:
    read = read_idx(idx_bytes(values), "f")
    assert read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()  # NaN included
    assert read.shape == values.shape


def test_the_round_trip_rejects_the_wrong_byte_order() -> None:
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert read_idx(idx_bytes(values), "f").tobytes() != values.byteswap().tobytes()


@pytest.mark.fault("D4")
@pytest.mark.parametrize("length", range(len(SMALL)))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(DataError, match="file-name"):
        read_idx(SMALL[:length], "file-name")


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (SMALL + b"\0", "header promises 2 x 3 x 4"),
        (b"", "starts with nothing"),
        (b"<html>not here</html>", "not an IDX file"),
        (gzip.compress(SMALL, mtime=0), "not an IDX file"),
        (b"\1" + SMALL[1:], "not an IDX file"),
        (b"\0\1" + SMALL[2:], "not an IDX file"),
        (b"\0\0\x0a" + SMALL[3:], "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x08\xff" + bytes(4 * 255) + b"1", "255 dimensions"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 0), "promises 0"),
        (struct.pack(">BBBBII", 0, 0, 8, 2, 0, 2**32 - 1), "promises 0 x 4294967295"),
        (struct.pack(">BBBB4I", 0, 0, 14, 4, *[2**32 - 1] * 4), "promises 4294967295"),  # before any allocation
        (struct.pack(">BBBBII", 0, 0, 8, 2, 2**16, 2**16), "4,294,967,308 bytes"),  # 2^32 must not wrap to 0
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_idx(data, "f")


@pytest.mark.fault("D4")
def test_refused_without_assertions_too() -> None:
    code = "from dlf.datasets.idx import read_idx\nread_idx(bytes([0, 0, 8, 1, 0, 0, 0, 9]), 'short')"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DataError: short has 8 bytes" in done.stderr


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
    except DataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


BOMB = gzip.compress(bytes(20_000_000), 6)


def test_gunzip() -> None:
    assert gunzip(gzip.compress(b"abc"), "f", 3) == b"abc"
    assert gunzip(gzip.compress(b"abc") + gzip.compress(b"def"), "f", 6) == b"abcdef"


@pytest.mark.fault("D5")
def test_a_bomb_is_refused_in_bounded_memory() -> None:
    with pytest.raises(DataError, match="more than the 1,000 bytes"):
        gunzip(BOMB, "f", 1000)
    assert peak_bytes(lambda: gunzip(BOMB, "f", 1000)) < 2_000_000
    assert peak_bytes(lambda: gzip.decompress(BOMB)) > 20_000_000  # what the bound is there for


@pytest.mark.fault("D5")
@pytest.mark.parametrize("length", range(1, len(gzip.compress(b"abcdefgh"))))
def test_damaged_gzip_is_refused(length: int) -> None:
    with pytest.raises(DataError, match="f is not an intact gzip file"):
        gunzip(gzip.compress(b"abcdefgh")[:length], "f", 100)


@pytest.mark.fault("D5")
@pytest.mark.parametrize("at", [0, 12, -5, -1])
def test_flipped_gzip_is_refused(at: int) -> None:
    data = bytearray(gzip.compress(b"abcdefgh"))
    data[at] ^= 0xFF
    with pytest.raises(DataError, match="f is not an intact gzip file"):
        gunzip(bytes(data), "f", 100)
