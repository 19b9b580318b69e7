"""Pictures beside what the network saw of them, with its answer: `dlf predict --picture FILE`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlf import durable
from dlf.errors import MachineError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from PIL.Image import Image

MOST = 60  # samples on one sheet
COLUMNS = 3
DOTS_PER_INCH = 150
_TITLE = "dlf predict"


def check_sheet(path: Path) -> None:
    """UsageError where a sheet is not to be written: no .png, or a file that is there and is no earlier sheet."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--picture: expected a file that ends in .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise MachineError(f"cannot write {path}: there is no folder {path.parent}. Make it, or name another place.")
    if path.exists() and not _is_sheet(path):
        raise UsageError(f"--picture: {path} is there already and is no sheet of dlf predict; name another file")


def _is_sheet(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            return bool(image.info.get("Title") == _TITLE)
    except (OSError, ValueError, SyntaxError):
        return False


def draw_sheet(
    path: Path,
    predictions: Sequence[Mapping[str, Any]],
    sources: Sequence[Image | None],
    x: NDArray[Any],
) -> None:
    """Write a PNG with the first 60 samples: the source, if there was one, and x as the network saw it.

    `x` is uint8 (n, channels, height, width); UsageError where it is not. MachineError where the file cannot be
    written.
    """
    check_sheet(path)
    if x.ndim != 4:
        raise UsageError("--picture shows images; this network takes rows of numbers")
    from matplotlib import style
    from matplotlib.figure import Figure

    count = min(len(predictions), MOST)
    columns = max(1, min(COLUMNS, count))
    rows = max(1, -(-count // columns))
    with style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks: an empty box is drawn for them
        figure = Figure((3.4 * columns, 2.1 * rows), layout="constrained")
        axes = figure.subplots(rows, 2 * columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for index in range(count):
            row, column = divmod(index, columns)
            left, right = axes[row, 2 * column], axes[row, 2 * column + 1]
            _draw(left, right, predictions[index], sources[index], x[index])
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Title": _TITLE})
    durable.write(path, file.getvalue())


def _draw(left: Axes, right: Axes, prediction: Mapping[str, Any], source: Image | None, pixels: NDArray[Any]) -> None:
    channels = pixels.shape[0]
    seen = pixels[0] if channels == 1 else np.moveaxis(pixels, 0, 2)
    name = prediction["file"] if prediction["sample"] is None else f"{prediction['file']}:{prediction['sample']}"
    printable = "".join(c if c.isprintable() else "?" for c in name)
    if source is not None:
        left.imshow(np.asarray(source), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        _frame(left)
    right.imshow(seen, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _frame(right)
    left.set_title(printable if len(printable) <= 18 else f"...{printable[-15:]}", fontsize=8, parse_math=False)
    right.set_title(_answer(prediction), fontsize=8, parse_math=False)


def _frame(axis: Axes) -> None:
    """A thin line around an image, so that its edge is seen on a white page."""
    axis.axis("on")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("#b5b5b5")


def _answer(prediction: Mapping[str, Any]) -> str:
    if "class" not in prediction:
        return ", ".join(f"{value:.4g}" for value in prediction["values"])
    name = "".join(c if c.isprintable() else "?" for c in prediction["class"])
    return f"{name if len(name) <= 14 else name[:11] + '...'}: {100 * prediction['probability']:.1f} %"
