"""A folder of images of your own, one subfolder a class."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveInt

from dlf.datasets import DATASETS, Array, Dataset, Samples, Source
from dlf.datasets.local import existing, listed
from dlf.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_FORMATS = ("PNG", "JPEG", "BMP")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL would clip these to 0 .. 255


@DATASETS.register("image_folder")
def image_folder(source: Source, *, path: str, size: PositiveInt = 28, color: bool = False) -> Dataset:
    """Images of your own: PATH/CLASS/*.png, .jpg or .bmp, or the same below PATH/train and PATH/test.

    x uint8 (n, 1, size, size), or (n, 3, size, size) with color; y int64 (n,). An image of another size is resized to
    size x size by Lanczos' filter, its proportions not kept; cameras' notes on rotation are followed. Classes are the
    folders' names in sorted order; hidden folders and other files are passed over. `files` has one hash for all of
    them. Raises DataError with the name of every image that cannot be read.
    """
    folder = existing(path, folder=True)
    has_parts = (folder / "train").is_dir()
    classes = _classes(folder / "train" if has_parts else folder)
    digest = hashlib.sha256()
    train = _samples(_images(folder / "train" if has_parts else folder, classes), size, color, digest)
    test = None
    if has_parts:
        _check_parts(folder)
        if (folder / "test").is_dir():
            test = _samples(_images(folder / "test", classes, complete=False), size, color, digest)
    return Dataset(train, test, tuple(classes), files={path: digest.hexdigest()})


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> list[str]:
    classes = _folders(folder)
    if len(classes) < 2:
        there = f"the one folder {classes[0]!r}" if classes else "no folder"
        raise DataError(f"{folder} has {there}; expected one folder of images for each of at least two classes.")
    return classes


def _check_parts(folder: Path) -> None:
    others = [name for name in _folders(folder) if name not in ("train", "test")]
    if others:
        raise DataError(
            f"{folder} has the folder train and beside it {', '.join(others)}; expected train and test only. Move "
            "these away: validation images are drawn from train."
        )


def _images(folder: Path, classes: Sequence[str], *, complete: bool = True) -> list[tuple[Path, int]]:
    """The images below `folder` and their labels, sorted; `complete` asks for at least one of every class."""
    unknown = [name for name in _folders(folder) if name not in classes]
    if unknown:
        raise DataError(f"{folder} has {', '.join(unknown)}, which train has not; classes there: {', '.join(classes)}.")
    images: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        entries = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        own = [entry for entry in entries if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")]
        if complete and not own:
            raise DataError(f"{folder / name} has no image; expected files that end in {', '.join(_SUFFIXES)}.")
        images += [(entry, label) for entry in own]
    if not images:
        raise DataError(f"{folder} has no image of any class; expected files that end in {', '.join(_SUFFIXES)}.")
    return images


def _samples(images: Sequence[tuple[Path, int]], size: int, color: bool, digest: hashlib._Hash) -> Samples:
    """All pixels and labels; the names and bytes of the files go into `digest`."""
    x = np.zeros((len(images), 3 if color else 1, size, size), np.uint8)
    problems = []
    for pixels, (path, _) in zip(x, images, strict=True):
        try:
            data = path.read_bytes()
            pixels[:] = _pixels(data, size, color)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
            continue
        digest.update(f"{path.parent.name}/{path.name} {hashlib.sha256(data).hexdigest()}\n".encode())
    if problems:
        raise DataError(listed("Images that cannot be read:", problems, "Replace or remove them."))
    return Samples(x, np.array([label for _, label in images], np.int64))


def _pixels(data: bytes, size: int, color: bool) -> Array:
    """The pixels (channels, size, size) of an image file; ValueError where it is damaged, enormous or too deep."""
    image = upright(data, _FORMATS)
    if image.mode in DEEP_MODES:
        raise ValueError(f"has more than 8 bits a channel ({image.mode}); save it with 8")
    return resized(image.convert("RGB" if color else "L"), size, size)


def upright(data: bytes, formats: tuple[str, ...]) -> Image:
    """The image of a file in one of these formats, turned as the camera noted; ValueError where there is none.

    What has so many pixels that it must be a decompression bomb is refused before one of them is decoded.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # comes with torchvision

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notes in the file that are damaged, where the pixels are not
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                return ImageOps.exif_transpose(image)  # a copy: the pixels are read
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(str(error)) from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        expected = f"{', '.join(formats[:-1])} or {formats[-1]}"
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ValueError(f"not an intact {expected} image{reason}") from error


def resized(image: Image, height: int, width: int) -> Array:
    """uint8 (channels, height, width) by Lanczos' filter, where the image has another size."""
    from PIL import Image

    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)  # (height, width) or (height, width, channels)
    return np.moveaxis(np.atleast_3d(pixels), 2, 0)
