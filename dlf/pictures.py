"""A picture of your own as a sample of the images that a network was trained on.

Whatever its size and mode, a picture becomes the shape of the training images. Where these show one thing on an even
background, as MNIST does, a picture is also framed as they are: its background found and made theirs, its ink scaled
to their size and put where they have it. Size and place are measured on the training images, not known by their name:
for MNIST the longer side of a digit comes to 20 pixels and its centre of mass to the centre of the image, as LeCun,
Bottou, Bengio and Haffner, 1998, describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dlf.datasets import Array
from dlf.datasets.images import DEEP_MODES, resized, upright
from dlf.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
MOST_BYTES = 2**26  # of one file

EVEN = 0.1  # of the range: how far an image's background may be from black, or white, to be even
MOST = 0.9  # of the training images have such a background, or they are not framed
INK = 0.2  # of the strongest ink: what is fainter does not count for the size
LEAST_CONTRAST = 13  # of 255: below it a picture is blank
SPECK = 0.05  # of the heaviest spot of ink: what weighs less is dust
CLEAR = (
    0.5  # contrast on the weaker side of the background, of that on the stronger: above it, it is unclear which is ink
)
SHOWN_SIZE = 256  # pixels of a picture's longer side that are kept to show it
WORK_SIZE = 1024  # pixels of the longer side beyond which a picture is first reduced, by whole factors


class Framing(NamedTuple):
    """How the training images hold what they show; rows and columns are counted from 0 at the centre of a pixel.

    `extent` is the longer side, in pixels, of the box around the ink, `centre` the row and column of the ink's centre
    of mass (`by_mass`) or of that box. `light` says that ink is dark on a light background.
    """

    extent: int
    by_mass: bool
    centre: tuple[float, float]
    light: bool


class Picture(NamedTuple):
    """A sample uint8 (channels, height, width), what was done to get it, and the picture that it was, small."""

    pixels: Array
    done: str
    source: Image


def measure_framing(x: Array) -> Framing | None:
    """How images uint8 (n, channels, height, width) are framed; None where they have colours or no even background.

    Even: in nine of ten images the middle value of the outermost pixels is within a tenth of black (or of white). The
    place is that by which the images vary less: the centre of mass, or the centre of the box.
    """
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] != 1 or min(x.shape[2:]) < 8 or not len(x):
        return None
    background = np.median([_frame(image) for image in x[:, 0]], axis=1)
    dark, light = np.mean(background <= EVEN * 255), np.mean(background >= (1 - EVEN) * 255)
    ink = [255 - image if light > dark else image for image in x[:, 0].astype(np.float64)]
    ink = [image for image in ink if image.any()]
    if max(dark, light) < MOST or not ink:
        return None
    boxes = np.array([_box(image) for image in ink])  # (n, 4)
    masses = np.array([_centre_of_mass(image) for image in ink])  # (n, 2)
    middles = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    by_mass = bool(masses.std(0).sum() < middles.std(0).sum())
    row, column = np.round(2 * np.median(masses if by_mass else middles, 0)) / 2  # images were placed by whole pixels
    extent = np.median((boxes[:, 2:] - boxes[:, :2]).max(1))
    return Framing(int(extent), by_mass, (float(row), float(column)), bool(light > dark))


def read_picture(data: bytes, name: str, shape: Sequence[int], framing: Framing | None) -> Picture:
    """The file's picture as a sample of `shape`, framed unless `framing` is None; DataError with `name`."""
    channels, height, width = shape
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"has {len(data):,} bytes, at most {MOST_BYTES:,} are read")
        image, notes = _flattened(upright(data, FORMATS), channels)
        if framing is None:
            pixels = resized(image, height, width)
        else:
            framed, more = _framed(image, (height, width), framing)
            notes, pixels = [*notes, *more], framed[None]
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {error}") from error
    if framing is None and image.size != (width, height):
        notes = [*notes, f"{image.width} x {image.height} resized to {width} x {height}"]
    image.thumbnail((SHOWN_SIZE, SHOWN_SIZE))
    return Picture(pixels, ", ".join(notes), image)


def _flattened(image: Image, channels: int) -> tuple[Image, list[str]]:
    """8 bits a channel, grey or in colours, what is transparent on black or white: the one that its ink is not."""
    from PIL import Image

    notes = []
    if image.mode in DEEP_MODES:
        image = Image.fromarray(np.clip(np.round(np.asarray(image) / 257), 0, 255).astype(np.uint8))
        notes = ["16 bits made 8"]
    if channels < 4 and (image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        grey, alpha = (np.asarray(image.convert(mode), np.float64) for mode in ("L", "RGBA"))
        alpha = alpha[..., 3]
        if alpha.min() < 255:
            white = (grey * alpha).sum() <= 127.5 * alpha.sum()
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white" if white else "black"), image)
            notes = [*notes, f"transparent made {'white' if white else 'black'}"]
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]), notes


# --- framing --------------------------------------------------------------------------------------------------------


def _framed(image: Image, size: tuple[int, int], framing: Framing) -> tuple[Array, list[str]]:
    """uint8 (height, width) and what was done; ValueError where the picture is blank."""
    reduced = image.reduce(max(1, -(-max(image.size) // WORK_SIZE)))
    ink, notes = _ink(np.asarray(reduced, np.float64), framing.light)
    ink, specks = _without_specks(ink)
    top, left, bottom, right = _box(ink)
    scale = framing.extent / max(bottom - top, right - left)
    small = _scaled(ink, scale)
    row, column = _centre_of_mass(small) if framing.by_mass else _middle(small)
    placed = _placed(small, size, round(framing.centre[0] - row), round(framing.centre[1] - column))
    pixels = np.round(placed * (255 / placed.max())).astype(np.uint8)
    back = image.width / reduced.width
    notes += [f"{specks} specks left out"] if specks else []
    notes.append(
        f"{(right - left) * back:.0f} x {(bottom - top) * back:.0f} of {image.width} x {image.height} scaled to "
        f"{(right - left) * scale:.0f} x {(bottom - top) * scale:.0f}"
    )
    notes.append("centred by mass" if framing.by_mass else "centred by its box")
    return 255 - pixels if framing.light else pixels, notes


def _frame(grey: Array) -> Array:
    """The outermost sixteenth of an image, at least one pixel wide."""
    width = max(1, min(grey.shape) // 16)
    inside = np.zeros(grey.shape, np.bool_)
    inside[width:-width, width:-width] = True
    return grey[~inside]


def _ink(grey: Array, light: bool) -> tuple[Array, list[str]]:
    """How much each pixel differs from the background, on the side on which most does; 0 where it does not.

    The background may be brighter on one side, as under a lamp. What differs by less than three standard deviations of
    the frame's own noise is background. `light` says whether a light background is as in training.
    """
    difference = grey - _background(grey)
    below, above = np.square(np.minimum(difference, 0)).sum(), np.square(np.maximum(difference, 0)).sum()
    ink = np.maximum(-difference if below > above else difference, 0)
    noise = 1.4826 * np.median(np.abs(_frame(difference)))  # the standard deviation, where it is normal
    ink = np.maximum(ink - 3 * noise, 0)
    if ink.max() < LEAST_CONTRAST:
        raise ValueError("is blank: nothing stands out from its background. --as-is gives it to the network as it is")
    inverted = (below > above) != light
    notes = [f"{'light' if below > above else 'dark'} background inverted"] if inverted else []
    if min(below, above) > CLEAR * max(below, above):
        notes.append("unclear what is background")
    return ink, notes


def _background(grey: Array) -> Array:
    """The middle value of the frame, or a plane through those of its edges where that fits the frame twice as well."""
    height, width = grey.shape
    band = max(1, min(grey.shape) // 16)
    top, bottom, left, right = map(np.median, (grey[:band], grey[-band:], grey[:, :band], grey[:, -band:]))
    rows, columns = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)
    level = np.full(grey.shape, np.median(_frame(grey)))
    plane = (top + bottom + left + right) / 4 + (bottom - top) * rows + (right - left) * columns
    from_level, from_plane = (np.median(np.abs(_frame(grey - fit))) for fit in (level, plane))
    return plane if 2 * from_plane < from_level else level


def _without_specks(ink: Array) -> tuple[Array, int]:
    """The ink without spots that weigh less than a twentieth of the heaviest, and how many they were."""
    from scipy import ndimage

    spots, count = ndimage.label(ink > INK * ink.max(), np.ones((3, 3)))
    weights = ndimage.sum_labels(ink, spots, np.arange(1, count + 1))
    large = weights >= SPECK * weights.max()
    if large.all():
        return ink, 0
    kept = np.isin(spots, 1 + np.flatnonzero(large))
    rim = max(1, round(max(ink.shape) / 100))  # the faint edge of the strokes belongs to them
    return ink * ndimage.binary_dilation(kept, np.ones((3, 3)), rim), int((~large).sum())


def _box(ink: Array) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what is strong enough to count; bottom and right are the first beyond it."""
    strong = ink > INK * ink.max()
    rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _centre_of_mass(ink: Array) -> tuple[float, float]:
    """Row and column, 0 at the centre of the first pixel."""
    total = ink.sum()
    return float(ink.sum(1) @ np.arange(len(ink)) / total), float(ink.sum(0) @ np.arange(ink.shape[1]) / total)


def _middle(ink: Array) -> tuple[float, float]:
    top, left, bottom, right = _box(ink)
    return (top + bottom - 1) / 2, (left + right - 1) / 2


_RIM = 2  # pixels around the box after scaling, for what is too faint to count


def _scaled(ink: Array, scale: float) -> Array:
    """The box of the ink and a rim around it, times `scale`; pixels of the box fall on whole ones.

    By the mean of what a pixel covers where the ink shrinks, which leaves no jagged edge and brings back pixels that
    were multiplied; by a cubic filter where it grows.
    """
    from PIL import Image

    top, left, bottom, right = _box(ink)
    height, width = (max(1, round(side * scale)) + 2 * _RIM for side in (bottom - top, right - left))
    margin = int(np.ceil((2 * _RIM + 1) / scale))
    padded = Image.fromarray(np.pad(ink, margin).astype(np.float32))
    y, x = margin + (top + bottom) / 2, margin + (left + right) / 2
    covered = (x - width / scale / 2, y - height / scale / 2, x + width / scale / 2, y + height / scale / 2)
    kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.maximum(np.asarray(padded.resize((width, height), kind, covered), np.float64), 0)


def _placed(ink: Array, size: tuple[int, int], down: int, right: int) -> Array:
    """An empty image of this size with the ink moved so far into it; what lies outside is cut off."""
    image = np.zeros(size)
    rows, columns = np.arange(ink.shape[0]) + down, np.arange(ink.shape[1]) + right
    inside_rows, inside_columns = (rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1])
    image[np.ix_(rows[inside_rows], columns[inside_columns])] = ink[np.ix_(inside_rows, inside_columns)]
    return image
