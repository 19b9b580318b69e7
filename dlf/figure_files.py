"""A figure of matplotlib as a file: the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlf.errors import MachineError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
# The salt keeps the bytes the same from run to run, the font types keep text searchable, and without hinting a text is
# as wide as `drawing._width` says.
SETTINGS = {"svg.hashsalt": "dlf", "svg.fonttype": "none", "pdf.fonttype": 42, "text.hinting": "none"}
DOTS_PER_INCH = 200  # a picture shown at half its size, on a common screen, is still sharp
MOST_PIXELS = 60_000  # a side of 65,536 is refused by the PNG renderer


def check_suffix(path: Path) -> None:
    """UsageError unless the suffix of `path` is a format of pictures."""
    if path.suffix.lower() not in FORMATS:
        got = repr(path.suffix.lower()) if path.suffix else "none"
        raise UsageError(f"cannot draw to {path}: its suffix must be one of {', '.join(FORMATS)}, and it has {got}.")


def save(draw: Callable[[], Figure], path: Path, title: str) -> None:
    """Write what `draw` gives; MachineError where the file cannot be written."""
    check_suffix(path)
    picture = rendered(draw, path.suffix.lower()[1:], title)
    try:
        path.write_bytes(picture)
    except OSError as error:
        advice = "Name a file in a folder that exists and may be written."
        raise MachineError(f"cannot write the picture {path}: {error.strerror or error}. {advice}") from error


def rendered(draw: Callable[[], Figure], kind: str, title: str) -> bytes:
    """The bytes of a png, svg or pdf file; `draw` is called within the settings of dlf, whatever the user's are."""
    from matplotlib import style

    dates = {"svg": ["Date"], "pdf": ["CreationDate"]}.get(kind, [])
    with style.context(["default", SETTINGS]):  # a matplotlibrc of the user could ask for LaTeX
        page = draw()
        dpi = min(DOTS_PER_INCH, MOST_PIXELS / max(page.get_size_inches()))
        file = io.BytesIO()
        page.savefig(file, format=kind, dpi=dpi, metadata={"Title": title, **dict.fromkeys(dates)})
    return file.getvalue()
