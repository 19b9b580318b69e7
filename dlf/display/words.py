"""Values as words: numbers, durations, bytes, spark lines, and names of others made harmless."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate


def safe(text: object) -> str:
    r"""Text of others as it may be shown: what could drive the terminal is escaped, ESC as \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def number(value: float | None) -> str:
    """A measured value in about six characters: 0.0812, 123.46, 5.1e-4; a null of the records is nan."""
    if value is None or math.isnan(value):
        return "nan"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e4:
        decimals = 4 if size < 10 else 3 if size < 100 else 2 if size < 1000 else 1
        return f"{value:.{decimals}f}"
    if math.isinf(value):
        return str(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Seconds as 2.10s, 21.3s, 3m05s or 2h05m; whole ones as 2s."""
    if seconds < 59.95:
        return f"{seconds}s" if isinstance(seconds, int) else f"{seconds:.{2 if seconds < 9.995 else 1}f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def byte_size(count: float) -> str:
    """Bytes in three digits and a binary unit: 512 B, 2.04 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def spark(values: Sequence[float | None], levels: str) -> str:
    """One character a value, from the first of `levels` for the smallest to the last for the largest.

    The scale is logarithmic where all values are positive, as falling losses want it; a null is a blank.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    scale: Callable[[float], float] = math.log if known and min(known) > 0 else float
    low, high = (scale(min(known)), scale(max(known))) if known else (0.0, 0.0)
    span = (high - low) or 1.0

    def level(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        return levels[round((scale(value) - low) / span * (len(levels) - 1))]

    return "".join(map(level, values))


def fitting(parts: Sequence[str], width: int) -> list[str]:
    """The first of `parts` that fit into `width` with two blanks between them, at least one."""
    ends = accumulate(len(part) + 2 for part in parts)
    return [part for index, (part, end) in enumerate(zip(parts, ends, strict=True)) if index == 0 or end - 2 <= width]


def product(shape: Sequence[int]) -> str:
    """A shape as 1x28x28."""
    return "x".join(map(str, shape))
