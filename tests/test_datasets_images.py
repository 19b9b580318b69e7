"""Folders of images: pixels, order and classes as on disk; every file that cannot be read is named."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import Array, images, write_image
from PIL import Image

from dlf.datasets import DATASETS, Dataset, Source
from dlf.errors import DataError

GREY = images(6)
COLOUR = np.random.default_rng(3).integers(0, 256, (28, 28, 3), np.uint8)


def load(path: Path, **parameters: Any) -> Dataset:
    dataset: Dataset = DATASETS.build(DATASETS.make("image_folder", path=str(path), **parameters), Source(path))
    return dataset


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two dogs and one cat, grey, without loss."""
    for name, pixels in (("dog/2.png", GREY[2]), ("dog/1.bmp", GREY[1]), ("cat/9.PNG", GREY[0])):
        write_image(tmp_path / name, pixels)
    return tmp_path


def test_pixels_order_and_classes(pets: Path) -> None:
    (pets / "cat" / "notes.txt").write_text("passed over")
    (pets / "cat" / ".hidden.png").write_text("passed over")
    (pets / ".git").mkdir()
    (pets / "README.md").write_text("passed over")
    dataset = load(pets)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.y.tolist() == [0, 1, 1]
    assert np.array_equal(dataset.train.x[:, 0], GREY[:3])
    assert not np.array_equal(dataset.train.x[:, 0], GREY[[0, 2, 1]])
    assert dataset.test is None


def test_colour(pets: Path) -> None:
    write_image(pets / "cat" / "1.png", COLOUR)
    x = load(pets, color=True).train.x
    assert np.array_equal(x[0], np.moveaxis(COLOUR, 2, 0))
    assert np.array_equal(x[1], np.stack([GREY[0]] * 3))
    # ITU-R 601-2, as PIL's page on convert("L") states it; half a step of rounding, half of its fixed point
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    grey = load(pets).train.x[0, 0]
    assert np.abs(grey - luma).max() <= 1
    assert np.abs(grey - COLOUR.mean(2)).max() > 1


def test_size(pets: Path) -> None:
    write_image(pets / "cat" / "1.png", np.full((60, 40), 77, np.uint8))
    x = load(pets, size=10).train.x
    assert x.shape == (4, 1, 10, 10)
    assert (x[0] == 77).all()  # a filter keeps what is constant
    halves = np.zeros((40, 40), np.uint8)
    halves[:, 20:] = 200  # dark left, bright right
    write_image(pets / "cat" / "1.png", halves)
    small = load(pets, size=10).train.x[0, 0]
    assert small[:, 0].max() < 10
    assert small[:, 9].min() > 190


def test_a_note_of_the_camera_on_rotation_is_followed(pets: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the first row on disk is the right column
    Image.fromarray(GREY[3]).save(pets / "cat" / "1.png", exif=exif)
    assert np.array_equal(load(pets).train.x[0, 0], np.rot90(GREY[3], -1))


def test_train_and_test(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("both")
    pets.rename(root / "train")
    assert load(root).test is None
    write_image(root / "test" / "dog" / "1.png", GREY[4])
    dataset = load(root)
    assert dataset.test is not None
    assert dataset.test.y.tolist() == [1]
    assert np.array_equal(dataset.test.x[0, 0], GREY[4])
    write_image(root / "test" / "cow" / "1.png", GREY[4])
    with pytest.raises(DataError, match="has cow, which train has not; classes there: cat, dog"):
        load(root)
    (root / "val").mkdir()
    with pytest.raises(DataError, match="the folder train and beside it val"):
        load(root)


def test_an_empty_test_folder_is_refused(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("both")
    pets.rename(root / "train")
    (root / "test" / "dog").mkdir(parents=True)
    with pytest.raises(DataError, match="no image of any class"):
        load(root)


def test_the_hash_sees_names_and_bytes(pets: Path) -> None:
    first = load(pets).files[str(pets)]
    assert load(pets).files[str(pets)] == first
    (pets / "dog" / "2.png").rename(pets / "dog" / "3.png")
    renamed = load(pets).files[str(pets)]
    write_image(pets / "dog" / "3.png", GREY[5])
    assert len({first, renamed, load(pets).files[str(pets)]}) == 3


def png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bmp_header(width: int, height: int) -> bytes:
    """A BMP file that claims this size, with no pixel in it."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


GOOD = png(GREY[0])
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
BAD = {
    "empty": (b"", "not an intact PNG, JPEG or BMP image"),
    "text": (b"hello", "not an intact"),
    "cut off": (GOOD[: len(GOOD) // 2], "not an intact"),
    "header only": (GOOD[:20], "not an intact"),
    "flipped": (GOOD[:100] + bytes([GOOD[100] ^ 255]) + GOOD[101:], "not an intact"),
    "another format": (GIF, "not an intact"),
    "16 bits": (png(GREY[0].astype(np.uint16) * 257), "more than 8 bits a channel"),
    "many pixels": (bmp_header(10_000, 10_000), "decompression bomb"),
    "very many pixels": (bmp_header(50_000, 50_000), "decompression bomb"),
}


@pytest.mark.fault("D5")
@pytest.mark.parametrize("case", BAD)
def test_an_image_that_cannot_be_read_is_named(case: str, pets: Path) -> None:
    data, message = BAD[case]
    (pets / "cat" / "bad.png").write_bytes(data)
    with pytest.raises(DataError) as caught:
        load(pets)
    assert f"{pets / 'cat' / 'bad.png'}: " in str(caught.value)
    assert message in str(caught.value)


def test_every_bad_image_is_counted(pets: Path) -> None:
    for k in range(8):
        (pets / "dog" / f"bad{k}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad4\.jpg.*\n.*and 3 more"):
        load(pets)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder"):
        load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="has the one folder 'cat'"):
        load(tmp_path)
    write_image(tmp_path / "dog" / "1.png", GREY[0])
    with pytest.raises(DataError, match=r"cat has no image; expected files that end in \.png"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"there is no folder .*/dogs; .* Did you mean 'dog'\?"):
        load(tmp_path / "dogs")
    with pytest.raises(DataError, match=r"1\.png is not a folder"):
        load(tmp_path / "dog" / "1.png")
