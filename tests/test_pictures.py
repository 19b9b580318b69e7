"""Pictures of one's own become samples: framed as the training images are, whatever their size, mode and background."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import Array
from PIL import Image
from scipy import ndimage
from test_datasets_images import BAD

import dlf
from dlf.api import Trained
from dlf.datasets import DATASETS, Source
from dlf.datasets.idx import read_idx
from dlf.errors import DataError
from dlf.pictures import Framing, Picture, measure_framing, read_picture

Rng = np.random.Generator
MNIST = Framing(extent=20, by_mass=True, centre=(14.0, 14.0), light=False)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- a digit in disguise --------------------------------------------------------------------------------------------


def canvas(digit: Array, rng: Rng) -> Array:
    """The digit 3 to 10 times as large, somewhere on a larger dark canvas."""
    times = int(rng.integers(3, 11))
    height, width = (side * times for side in digit.shape)
    large = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    field = Image.new("L", (int(width * rng.uniform(1.1, 2)), int(height * rng.uniform(1.1, 2))))
    field.paste(large, (int(rng.integers(field.width - width)), int(rng.integers(field.height - height))))
    return np.asarray(field)


def turned(digit: Array, rng: Rng) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera's note: turn by a quarter to the right
    return file_of(Image.fromarray(np.rot90(canvas(digit, rng))), exif=exif)


def coloured(digit: Array, rng: Rng) -> bytes:
    ink = canvas(digit, rng)[..., None] / 255
    return file_of(Image.fromarray((ink * [20, 40, 160] + (1 - ink) * [250, 240, 200]).astype(np.uint8)))


def transparent(value: int) -> Callable[[Array, Rng], bytes]:
    def made(digit: Array, rng: Rng) -> bytes:
        ink = canvas(digit, rng)
        return file_of(Image.fromarray(np.dstack([np.full((*ink.shape, 3), value, np.uint8), ink])))

    return made


def photographed(digit: Array, rng: Rng) -> bytes:
    """Dark ink on paper that is a third brighter on one side, the noise of a camera, dust, JPEG."""
    paper = 60 + 0.55 * (255.0 - canvas(digit, rng))
    height, width = paper.shape
    paper = paper * np.linspace(0.8, 1.1, width) + rng.normal(0, 4, paper.shape)
    for _ in range(5):
        paper[rng.integers(height), rng.integers(width)] -= 90
    return file_of(Image.fromarray(np.clip(paper, 0, 255).astype(np.uint8)), "JPEG", quality=75)


DISGUISES: dict[str, Callable[[Array, Rng], bytes]] = {
    "larger, somewhere": lambda digit, rng: file_of(Image.fromarray(canvas(digit, rng))),
    "inverted": lambda digit, rng: file_of(Image.fromarray(255 - canvas(digit, rng))),
    "turned by EXIF": turned,
    "coloured": coloured,
    "black on nothing": transparent(0),
    "white on nothing": transparent(255),
    "JPEG": lambda digit, rng: file_of(Image.fromarray(255 - canvas(digit, rng)), "JPEG", quality=30),
    "16 bits": lambda digit, rng: file_of(Image.fromarray(canvas(digit, rng).astype(np.uint16) * 200)),
    "palette": lambda digit, rng: file_of(Image.fromarray(canvas(digit, rng)).quantize(16)),
    "photographed": photographed,
}


def shares_recognized(trained: Trained, disguise: str, framing: Framing | None) -> tuple[float, float]:
    """Of 100 test digits: which share is answered as the digit itself is, framed and only resized."""
    assert framing is not None
    x = trained.data.test.x[:100].numpy()
    rng = np.random.default_rng(7)
    files = [DISGUISES[disguise](image[0], rng) for image in x]
    truth = trained.predict(torch.from_numpy(x)).argmax(1)

    def share(how: Framing | None) -> float:
        seen = np.stack([read_picture(file, disguise, x.shape[1:], how).pixels for file in files])
        if how is not None and how.by_mass:
            assert all(is_centred(image[0]) for image in seen)
        return (trained.predict(torch.from_numpy(seen)).argmax(1) == truth).double().mean().item()

    return share(framing), share(None)


def is_centred(image: Array) -> bool:
    """Whether the centre of mass is at most half a pixel, and what rounding to bytes moves, from row and column 14."""
    row, column = ndimage.center_of_mass(image.astype(float))
    return bool(max(abs(row - 14), abs(column - 14)) < 0.52)


@pytest.fixture(scope="module")
def mnist_network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from conftest import mnist_folder

    folder, data = tmp_path_factory.mktemp("mnist"), {"type": "mnist", "root": str(mnist_folder()), "limit": 12_000}
    config = {"data": data, "train": {"epochs": 3, "device": "cpu"}}
    return dlf.load(dlf.train(config, runs=folder).path)


@pytest.fixture(scope="module")
def digits_network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("digits")
    return dlf.load(dlf.train("digits", "train.device=cpu", runs=folder).path)


@pytest.mark.mnist
@pytest.mark.parametrize("disguise", DISGUISES)
def test_mnist_digits_are_recognized_in_disguise(disguise: str, mnist_network: Trained) -> None:
    """Measured on 1,000 digits: 98.9 to 99.3 % framed, 8 to 20 % only resized."""
    framing = measure_framing(mnist_network.data.train.x[:500].numpy())
    assert framing == MNIST
    framed, resized = shares_recognized(mnist_network, disguise, framing)
    assert framed >= 0.96  # 4 of 100 differ by chance once in 50 where 1.1 % do
    assert resized < 0.5


@pytest.mark.parametrize("disguise", DISGUISES)
def test_small_digits_are_recognized_in_disguise(disguise: str, digits_network: Trained) -> None:
    """Images of 8 x 8, whose box fills the height; measured on all test digits: 92 to 95 % framed, 6 to 15 % not."""
    framing = measure_framing(digits_network.data.train.x[:].numpy())
    assert framing == Framing(extent=8, by_mass=False, centre=(3.5, 3.5), light=False)
    framed, resized = shares_recognized(digits_network, disguise, framing)
    assert framed >= 0.87  # two standard deviations below 92 %, of 100 digits
    assert resized < 0.5


# --- what framing is ------------------------------------------------------------------------------------------------


@pytest.mark.mnist
def test_mnist_images_stay_what_they_are(mnist: Path) -> None:
    """Wherever the image lies on a larger canvas, and where every pixel became a square of 4."""
    path = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    for image in read_idx(path.read_bytes(), path)[:200]:
        for picture in (image, np.pad(image, ((3, 40), (21, 0))), image.repeat(4, 0).repeat(4, 1)):
            seen = framed(picture, MNIST).pixels[0]
            assert np.abs(seen.astype(int) - image).max() <= 1  # the strongest pixel of an image is 254 or 255


def framed(grey: Array, framing: Framing | None, size: int = 28) -> Picture:
    return read_picture(file_of(Image.fromarray(grey)), "a.png", (1, size, size), framing)


def bar(height: int, width: int, canvas: tuple[int, int], at: tuple[int, int], ink: int = 255, paper: int = 0) -> Array:
    field = np.full(canvas, paper, np.uint8)
    field[at[0] : at[0] + height, at[1] : at[1] + width] = ink
    return field


def sides(ink: Array) -> tuple[int, int]:
    """Height and width of the box around what is not 0."""
    rows, columns = np.nonzero(ink)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_the_longer_side_comes_to_the_extent_and_the_proportions_stay() -> None:
    picture = framed(bar(200, 100, (480, 640), (30, 500)), MNIST)
    assert sides(picture.pixels[0]) == (20, 10)
    assert picture.done == "100 x 200 of 640 x 480 scaled to 10 x 20, centred by mass"
    assert set(np.unique(picture.pixels)) == {0, 255}  # every pixel covers 10 x 10: no edge is grey
    wide = framed(bar(50, 100, (300, 300), (0, 100)), MNIST)
    assert sides(wide.pixels[0]) == (10, 20)


def test_the_place_is_that_of_the_mass_or_of_the_box() -> None:
    heavy = bar(20, 20, (60, 60), (10, 10), ink=60)
    heavy[10:30, 10:15] = 255  # a quarter of the box has most of the ink
    by_mass, by_box = framed(heavy, MNIST).pixels[0], framed(heavy, MNIST._replace(by_mass=False, centre=(13.5, 13.5)))
    assert is_centred(by_mass)
    assert not is_centred(by_box.pixels[0])
    assert np.flatnonzero(by_box.pixels[0].any(0))[[0, -1]].tolist() == [4, 23]
    assert by_box.done.endswith("centred by its box")


@pytest.mark.parametrize("inverted", [False, True])
def test_the_background_becomes_that_of_training(inverted: bool) -> None:
    dark, light = bar(40, 20, (90, 90), (5, 9), 220, 30), bar(40, 20, (90, 90), (5, 9), 30, 220)
    framing = MNIST._replace(light=inverted)
    same, other = framed(light if inverted else dark, framing), framed(dark if inverted else light, framing)
    assert np.array_equal(same.pixels, other.pixels)
    assert same.pixels[0, 0, 0] == (255 if inverted else 0)
    assert same.pixels.min() == 0  # contrast is stretched to all of the range
    assert same.pixels.max() == 255
    assert "inverted" not in same.done
    assert other.done.startswith("dark background inverted" if inverted else "light background inverted")


def test_light_from_one_side_is_no_ink() -> None:
    paper = np.tile(np.linspace(120, 240, 200), (160, 1))
    paper[60:120, 90:110] -= 90
    seen = framed(paper.astype(np.uint8), MNIST).pixels[0]
    assert sides(seen > 50) == (20, 7)  # 60 x 20 scaled to 20 x 6.7


def test_noise_of_the_paper_is_no_ink() -> None:
    paper = np.random.default_rng(0).normal(200, 5, (200, 200))
    paper[50:150, 80:120] -= 120
    seen = framed(np.clip(paper, 0, 255).astype(np.uint8), MNIST).pixels[0]
    assert seen[:3].mean() + seen[-3:].mean() < 1  # beyond three standard deviations lie 0.13 % on one side
    assert sides(seen > 50) == (20, 8)


def test_ink_that_covers_an_edge_is_no_light_from_one_side() -> None:
    seen = framed(bar(80, 40, (100, 200), (10, 0)), MNIST).pixels
    assert set(np.unique(seen)) == {0, 255}


def test_images_as_those_of_training_stay_what_they_are() -> None:
    for image in training(50, by_mass=True)[:, 0]:
        assert np.abs(framed(np.pad(image, 9), MNIST).pixels[0] - 255.0 * image / image.max()).max() <= 1


def test_dust_is_left_out_and_a_part_of_the_digit_is_not() -> None:
    five = bar(100, 60, (300, 300), (100, 100))
    five[:, 140:144] = 0  # a stroke that is apart
    dusty = five.copy()
    dusty[5, 290] = dusty[290, 5] = 255
    assert np.array_equal(framed(dusty, MNIST).pixels, framed(five, MNIST).pixels)
    soft, spot = ndimage.gaussian_filter(five, 2), (290, 5)
    dusty_soft = soft.copy()
    dusty_soft[spot] = 255
    assert (
        np.abs(framed(dusty_soft, MNIST).pixels - framed(soft, MNIST).pixels.astype(float)).max() <= 8
    )  # its far edge
    assert "2 specks left out" in framed(dusty, MNIST).done
    assert "specks" not in framed(five, MNIST).done


def test_two_sides_of_equal_contrast_are_said_to_be_unclear() -> None:
    both = bar(30, 30, (100, 100), (10, 10), ink=255, paper=128)
    both[60:90, 60:90] = 0
    assert "unclear what is background" in framed(both, MNIST).done
    assert "unclear" not in framed(bar(30, 30, (100, 100), (10, 10), 255, 128), MNIST).done


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_is_refused_unless_it_is_taken_as_it_is(value: int) -> None:
    blank = np.full((50, 40), value, np.uint8)
    with pytest.raises(DataError, match=r"^a\.png: is blank.*--as-is"):
        framed(blank, MNIST)
    blank[3, 3] = abs(value - 12)  # less than 5 % of the range
    with pytest.raises(DataError, match="is blank"):
        framed(blank, MNIST)
    assert (framed(blank, None).pixels == value).mean() > 0.9


# --- what is measured on the training images ------------------------------------------------------------------------


def training(n: int, by_mass: bool, seed: int = 0) -> Array:
    """Dark images of 28 x 28 with a shaded box of 20 x 8 .. 20, placed by whole pixels."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 1, 28, 28), np.uint8)
    for image in x[:, 0]:
        width = int(rng.integers(8, 21))
        (top, bottom), (left, right) = rng.uniform(0.3, 1, (2, 2))
        box = np.floor(np.outer(np.linspace(top, bottom, 20), np.linspace(left, right, width)) * 255)
        row, column = ndimage.center_of_mass(box) if by_mass else (9.5, (width - 1) / 2)
        first, start = (round((14 if by_mass else 13.5) - middle) for middle in (row, column))
        image[first : first + 20, start : start + width] = box
    return x


def test_framing_is_measured() -> None:
    found = measure_framing(training(200, by_mass=True))
    assert found == MNIST
    by_box = measure_framing(training(200, by_mass=False))
    assert by_box is not None
    assert (by_box.extent, by_box.by_mass, by_box.light) == (20, False, False)
    assert by_box.centre == (13.5, 13.5)
    assert measure_framing(255 - training(200, by_mass=True)) == MNIST._replace(light=True)


UNFRAMED: dict[str, Array] = {
    "rows": np.zeros((5, 7), np.float32),
    "colours": np.zeros((5, 3, 28, 28), np.uint8),
    "photographs": np.random.default_rng(0).integers(0, 256, (50, 1, 28, 28), np.uint8),
    "no images": np.zeros((0, 1, 28, 28), np.uint8),
    "nothing on them": np.zeros((5, 1, 28, 28), np.uint8),
    "tiny": np.zeros((5, 1, 4, 4), np.uint8),
}


@pytest.mark.parametrize("kind", UNFRAMED)
def test_what_has_no_framing(kind: str) -> None:
    assert measure_framing(UNFRAMED[kind]) is None


# --- only converted -------------------------------------------------------------------------------------------------


def test_without_framing_a_picture_becomes_what_image_folder_makes_of_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    for color in (False, True):
        section = DATASETS.make("image_folder", path=str(tmp_path), size=20, color=color)
        expected = DATASETS.build(section, Source(tmp_path)).train.x[0]
        found = read_picture((tmp_path / "cat" / "a.png").read_bytes(), "a.png", expected.shape, None)
        assert np.array_equal(found.pixels, expected)
        assert found.done == "70 x 50 resized to 20 x 20"
        assert found.source.size == (70, 50)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    found = framed(pixels, None)
    assert np.array_equal(found.pixels[0], pixels)
    assert found.done == ""


def test_what_is_transparent_stays_so_for_a_network_of_four_channels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    found = read_picture(file_of(Image.fromarray(pixels)), "a.png", (4, 8, 8), None)
    assert np.array_equal(found.pixels, np.moveaxis(pixels, 2, 0))


def test_a_large_picture_is_kept_small_to_be_shown() -> None:
    assert max(framed(bar(900, 500, (3000, 2000), (100, 100)), MNIST).source.size) == 256


@pytest.mark.fault("D5")
@pytest.mark.parametrize("case", [case for case in BAD if case not in ("another format", "16 bits")])
@pytest.mark.parametrize("framing", [None, MNIST])
def test_a_file_that_is_no_picture_is_refused_with_its_name(case: str, framing: Framing | None) -> None:
    data, message = BAD[case]
    expected = "not an intact" if "intact" in message else message
    with pytest.raises(DataError, match=rf"^my\.png: .*{expected}"):
        read_picture(data, "my.png", (1, 28, 28), framing)


def test_an_enormous_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.pictures.MOST_BYTES", 10)
    with pytest.raises(DataError, match=r"my\.png: has 11 bytes, at most 10 are read"):
        read_picture(b"x" * 11, "my.png", (1, 28, 28), None)
