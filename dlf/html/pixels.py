"""Arrays as pictures: PNG in a data URI, and the colours of weights and of classes."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating] | NDArray[np.integer]

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)
# apart for colour-blind readers; Okabe and Ito, 2008
CLASSES = (BLUE, (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), VERMILION, (240, 228, 66), (90, 90, 90))
WHITE = np.array([255.0, 255.0, 255.0])


def png(pixels: Array) -> str:
    """A data URI of pixels 0 .. 255, (height, width) grey or (height, width, 3) red, green and blue."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    plain = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # 0: no filter, before each row
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(plain, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(image: Array, low: float, high: float) -> str:
    """A data URI of an image (channels, height, width), 1 or 3 channels; `low` is black and `high` white."""
    pixels = 255 * (np.asarray(image, np.float64) - low) / ((high - low) or 1.0)
    return png(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def signed(values: Array) -> str:
    """A data URI of numbers (height, width): blue below zero, white at zero, vermilion above; as strong as |value|."""
    most = float(np.abs(values).max()) or 1.0
    share = (np.asarray(values, np.float64) / most)[..., None]
    ends = np.where(share < 0, np.array(BLUE, float), np.array(VERMILION, float))
    return png(WHITE + np.abs(share) * (ends - WHITE))


def areas(label: Array, confidence: Array, classes: int) -> str:
    """A data URI of a map of classes (height, width): the colour of the label, paler where it is hardly above chance.

    `confidence` is a probability. The first row is the lowest one.
    """
    chance = 1 / classes
    strength = np.clip((confidence - chance) / (1 - chance), 0, 1)[..., None]
    colours = np.array([CLASSES[c % len(CLASSES)] for c in range(classes)], float)[label]
    return png((WHITE + (0.15 + 0.6 * strength) * (colours - WHITE))[::-1])


def heights(values: Array) -> str:
    """A data URI of a map of numbers 0 .. 1 (height, width), from white to blue. The first row is the lowest one."""
    share = np.asarray(values, np.float64)[..., None]
    return png((WHITE + 0.9 * share * (np.array(BLUE, float) - WHITE))[::-1])
