"""Arrays in .npz files arrive as they were saved; pickles, promises and labels that do not hold are refused."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import Array, sha256
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlf.datasets import DATASETS, Dataset, Source
from dlf.errors import DataError

Y = np.array([0, 1, 2, 1])
X = np.arange(8, dtype=np.float64).reshape(4, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)


def load(path: Path, memory: str = "auto", tell: Callable[[str], None] = print) -> Dataset:
    dataset: Dataset = DATASETS.build(
        DATASETS.make("npz", path=str(path), memory=memory), Source(path.parent, tell=tell)
    )
    return dataset


def saved_as(folder: Path, save: Callable[..., None], **arrays: Any) -> Path:
    save(folder / "a.npz", **arrays)
    return folder / "a.npz"


def saved(folder: Path, **arrays: Any) -> Dataset:
    return load(saved_as(folder, np.savez, **arrays))


@given(
    x=hnp.arrays(
        st.sampled_from([np.dtype(code) for code in ("f2", "f4", "f8", ">f4", "i4", "u1", "?")]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 1},
    ),
    compressed=st.booleans(),
    fortran=st.booleans(),
)
def test_tables_round_trip(tmp_path_factory: pytest.TempPathFactory, x: Array, compressed: bool, fortran: bool) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    y = np.arange(len(x)) % 2
    (np.savez_compressed if compressed else np.savez)(path, x=np.asfortranarray(x) if fortran else x, y=y)
    dataset = load(path)
    assert np.array_equal(dataset.train.x, x.astype(np.float32))
    assert not np.array_equal(dataset.train.x, x.astype(np.float32) + 1)
    assert np.array_equal(dataset.train.y, y)
    assert list(dataset.files.values()) == [sha256(path.read_bytes())]


def test_images(tmp_path: Path) -> None:
    upright = np.stack([IMAGES[..., c] for c in range(3)], 1)  # (4, 3, 5, 6)
    assert np.array_equal(saved(tmp_path, x=IMAGES, y=Y).train.x, upright)
    assert np.array_equal(saved(tmp_path, x=upright, y=Y).train.x, upright)
    assert np.array_equal(saved(tmp_path, x=IMAGES[..., 0], y=Y).train.x, IMAGES[..., 0][:, None])
    both = IMAGES[:, :3, :, :]  # (4, 3, 6, 3): either reading; the last axis wins
    assert np.array_equal(saved(tmp_path, x=both, y=Y).train.x[0, 2], both[0, :, :, 2])


def test_targets(tmp_path: Path) -> None:
    assert saved(tmp_path, x=X, y=Y[:, None].astype(np.uint8)).train.y.tolist() == Y.tolist()
    assert saved(tmp_path, x=X, y=Y > 0).classes == ("0", "1")
    assert saved(tmp_path, x=X, y=Y, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    regression = saved(tmp_path, x=X, y=Y.astype(float))
    assert regression.classes is None
    assert regression.train.y.tolist() == [[0.0], [1.0], [2.0], [1.0]]
    assert saved(tmp_path, x=X, y=X * 2).train.y.shape == (4, 2)


def test_an_official_test_set(tmp_path: Path) -> None:
    dataset = saved(tmp_path, x_train=X, y_train=Y, x_test=X[:2] + 9, y_test=Y[:2])
    assert dataset.test is not None
    assert dataset.test.x.tolist() == (X[:2] + 9).tolist()
    assert saved(tmp_path, x=X, y=Y, x_test=X[:2], y_test=Y[:2]).test is not None
    assert saved(tmp_path, x_train=X, y_train=Y, more=Y).test is None  # other arrays are left alone


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lengths differ": ({"x": X, "y": Y[:3]}, "x of .* has 4 samples, but y of .* has 3"),
    "no y": ({"x": X}, "holds x; expected x and y"),
    "nothing known": ({"a": X}, "holds none of these"),
    "x twice": ({"x": X, "x_train": X, "y_train": Y}, "each once"),
    "half a test": ({"x": X, "y": Y, "x_test": X}, "x_test and y_test or neither"),
    "negative label": ({"x": X, "y": Y - 1}, "labels from -1 to 1"),
    "gap": ({"x": X, "y": np.array([0, 1, 3, 1])}, "0 to 3, but 2 is missing"),
    "starts at 1": ({"x": X, "y": Y + 1}, "but 0 is missing"),
    "huge label": ({"x": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "labels from 9223372036854775808"),
    "one class": ({"x": X, "y": Y * 0}, "at least two"),
    "names too few": ({"x": X, "y": Y, "classes": ["a", "b"]}, "has labels up to 2, but classes of .* names only 2"),
    "names too many": ({"x": X, "y": Y, "classes": list("abcd")}, "3 is missing"),
    "names are numbers": ({"x": X, "y": Y, "classes": [1, 2, 3]}, "expected text"),
    "NaN": ({"x": np.where(X == 5, np.nan, X), "y": Y}, "1 values .* row 2, column 1: nan"),
    "infinity": ({"x": np.where(X == 5, -np.inf, X), "y": Y}, "row 2, column 1: -inf"),
    "beyond float32": ({"x": X * 1e39, "y": Y}, r"row 0, column 1: 1e\+39"),
    "NaN target": ({"x": X, "y": X[:, 0] * np.nan}, "y of .* not finite"),
    "flat x": ({"x": X[:, 0], "y": Y}, r"shape \(4,\)"),
    "float images": ({"x": IMAGES / 255, "y": Y}, "images as uint8"),
    "strange channels": ({"x": np.zeros((4, 5, 6, 2), np.uint8), "y": Y}, "1, 3 or 4 channels"),
    "complex": ({"x": X * 1j, "y": Y}, "complex128"),
    "words": ({"x": X, "y": np.array(list("abca"))}, "return_inverse"),
    "no sample": ({"x": X[:0], "y": Y[:0]}, r"shape \(0, 2\)"),
    "wide labels": ({"x": X, "y": np.stack([Y, Y], 1)}, "expected labels as whole numbers"),
    "test label": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test of .* has label 3"),
    "test shape": ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, r"x_test of .* holds samples of float32 \(1,\)"),
    "test kind": ({"x": X, "y": Y, "x_test": X, "y_test": Y * 1.0}, "y_test of .* holds samples of float32"),
}


@pytest.mark.fault("D7")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    arrays, words = REFUSED[case]
    with pytest.raises(DataError, match=words) as caught:
        saved(tmp_path, **arrays)
    assert str(tmp_path / "a.npz") in str(caught.value)


class Trap:
    """Leaves a trace when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


@pytest.mark.fault("D7")
def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[Trap()], [Trap()]], dtype=object), y=Y[:2])
    with pytest.raises(DataError, match=r"x of .* is an object array, that is a pickle"):
        load(tmp_path / "a.npz")
    assert not Trap.sprung
    np.load(tmp_path / "a.npz", allow_pickle=True)["x"]
    assert Trap.sprung  # what would have happened


def npy(values: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


@pytest.mark.fault("D7")
def test_a_header_that_promises_more_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    header = npy(X).replace(b"(4, 2), }" + b" " * 8, b"(400000000, 2), }")
    assert header != npy(X)
    path = zipped(tmp_path / "a.npz", x=header, y=npy(Y))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"promises float64 \(400000000, 2\), but 64 bytes follow"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.fault("D7")
def test_what_is_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.datasets.stored.available_bytes", lambda: 100)
    # 64 bytes of x, 32 of y and 128 of each header
    with pytest.raises(DataError, match=r"take 352 bytes of memory, and 100 are available\. With data.memory: map"):
        load(saved_as(tmp_path, np.savez, x=X, y=Y), memory="load")
    with pytest.raises(DataError, match=r"x of .* is compressed, and can only be loaded: write it with numpy.savez"):
        load(saved_as(tmp_path, np.savez_compressed, x=X, y=Y))


X_NPY = npy(X)
DAMAGED = {
    "not a zip": b"hello",
    "empty": b"",
    "a bare array": X_NPY,
    "a pickle": pickle.dumps({"x": [1.0], "y": [0]}),
}


@pytest.mark.fault("D7")
@pytest.mark.parametrize("case", DAMAGED)
def test_files_of_another_kind(case: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(DAMAGED[case])
    with pytest.raises(DataError, match=r"a\.npz is not an intact \.npz file"):
        load(tmp_path / "a.npz")


MEMBERS = {
    "empty": b"",
    "short": X_NPY[:-1],
    "long": X_NPY + b"!",
    "no header": X_NPY[:20],
    "a pickle": pickle.dumps(X),
    "version 9": X_NPY[:6] + b"\x09\x00" + X_NPY[8:],
    "negative shape": X_NPY.replace(b"(4, 2)", b"(-4,-2)"[:6]),
    "not a shape": X_NPY.replace(b"(4, 2)", b"'four'"),
    "code": X_NPY.replace(b"(4, 2), }", b"exit(1)}  "[:9]),
    "strange type": X_NPY.replace(b"<f8", b"<q9"),
}


@pytest.mark.fault("D7")
@pytest.mark.parametrize("case", MEMBERS)
def test_damaged_arrays(case: str, tmp_path: Path) -> None:
    assert MEMBERS[case] != X_NPY
    path = zipped(tmp_path / "a.npz", x=MEMBERS[case], y=npy(Y))
    with pytest.raises(DataError, match=r"a\.npz"):
        load(path)


@pytest.mark.fault("D7")
def test_every_truncation_and_flip_of_a_file_is_refused_or_harmless(tmp_path: Path) -> None:
    """A zip holds a checksum of every member: what is read is what was written, or nothing is."""
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    whole = (tmp_path / "a.npz").read_bytes()
    flips = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in range(len(whole))]
    refused = 0
    for data in [*(whole[:length] for length in range(0, len(whole), 7)), *flips]:
        (tmp_path / "a.npz").write_bytes(data)
        try:
            dataset = load(tmp_path / "a.npz")
        except DataError:
            refused += 1
        else:
            assert np.array_equal(dataset.train.x, X)
            assert np.array_equal(dataset.train.y, Y)
    assert refused > len(whole) / 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", x=X, y=Y)
    with pytest.raises(DataError, match=r"there is no file .*/digit\.npz; .* Did you mean 'digits\.npz'\?"):
        load(tmp_path / "digit.npz")
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"there is no file .*/no/where/a\.npz; .* exists"):
        load(tmp_path / "no" / "where" / "a.npz")
    with pytest.raises(DataError, match=r"cannot be looked up|there is no file"):
        load(tmp_path / ("a" * 300))
