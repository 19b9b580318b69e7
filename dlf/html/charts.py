"""Figures as SVG, from plain numbers. Colours and dashes are classes, which page.css fills for light, dark and paper.

Every figure has a title and a description; the page shows its numbers in a table besides. A figure is 360 units wide,
as a phone is, so that its letters stay readable there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 36
STYLES = 6  # page.css knows so many colours, and so many dashes
MARKED = 25  # points, at most, that are shown one by one


class Series(NamedTuple):
    """A line of a chart: y over x, None where there is no number."""

    name: str
    y: Sequence[float | None]


class Axis(NamedTuple):
    """From numbers to places on the page; `ticks` are the numbers that are written at it."""

    low: float
    high: float
    ticks: Sequence[float]
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where the number stands, in units of the page."""
        low, high, value = (map(math.log10, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(
    title: str,
    x: Sequence[float],
    series: Sequence[Series],
    *,
    y_name: str,
    x_name: str = "epoch",
    log: bool = False,
    mark: float | None = None,
) -> str:
    """Lines over x, epochs or steps. `log` asks for a logarithmic y where all are positive; `mark` is an x."""
    known = [value for line in series for value in line.y if value is not None and math.isfinite(value)]
    if not known or not x:
        return ""
    log = log and min(known) > 0 and max(known) > 3 * min(known)
    across = axis(min(x), max(x), LEFT, WIDTH - RIGHT, whole=True)
    up = axis(min(known), max(known), HEIGHT - BOTTOM, TOP, log=log)
    lines = "".join(_line(n, line, x, across, up) for n, line in enumerate(series))
    marked = _mark(across.place(mark), x.index(mark), series, up) if mark is not None else ""
    body = (
        f'{_frame(across, up, x_name, y_name)}{marked}{lines}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    )
    last = "; ".join(f"{line.name} ends at {short(line.y[-1])}" for line in series)
    scale = ", logarithmic" if log else ""
    description = f"{y_name}{scale}, {x_name} {x[0]:g} to {x[-1]:g}: {last}."
    if mark is not None:
        description += f" Best {x_name}: {mark:g}."
    data = {
        "name": x_name,
        "x": list(x),
        "left": [round(across.place(value), 1) for value in x],
        "series": [line._asdict() for line in series],
    }
    legend = _legend([line.name for line in series], lines=True)
    return _figure(title, description, body, legend + "<output></output>", data=data)


def _line(n: int, line: Series, x: Sequence[float], across: Axis, up: Axis) -> str:
    points = [
        (across.place(a), up.place(b)) if b is not None and math.isfinite(b) else None
        for a, b in zip(x, line.y, strict=True)
    ]
    path, pen = [], "M"
    for point in points:
        if point is not None:
            path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "M" if point is None else "L"
    dots = [f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="2"/>' for p in points if p] if len(points) <= MARKED else []
    return f'<g class="{_style(n)}"><path d="{"".join(path)}"/>{"".join(dots)}</g>'


def _mark(x: float, n: int, series: Sequence[Series], up: Axis) -> str:
    """A line at x, which is number n of every series; its name is put where their lines are not."""
    side = ("end", -4) if x > WIDTH / 2 else ("start", 4)
    places = [up.place(y) for line in series if (y := line.y[n]) is not None and math.isfinite(y)]
    height = TOP + 9 if min(places, default=HEIGHT) > HEIGHT / 2 else HEIGHT - BOTTOM - 5
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="note" x="{x + side[1]:.1f}" y="{height}" text-anchor="{side[0]}">best</text>'
    )


def reliability(bins: Sequence[dict[str, float | None]]) -> str:
    """Accuracy over confidence, a bar for each bin with samples; on the diagonal both agree."""
    square = 240
    across = Axis(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), LEFT, LEFT + square, False)
    up = Axis(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), TOP + square, TOP, False)
    bars = []
    for row in bins:
        low, high, accuracy = row["low"], row["high"], row["accuracy"]
        if accuracy is not None and low is not None and high is not None:
            x, y = across.place(low), up.place(accuracy)
            size = f'width="{across.place(high) - x - 1:.1f}" height="{up.start - y:.1f}"'
            bars.append(f'<rect class="bar" x="{x + 0.5:.1f}" y="{y:.1f}" {size}/>')
    diagonal = f'<path class="ideal" d="M{across.start} {up.start}L{across.end} {up.end}"/>'
    body = _frame(across, up, "confidence", "accuracy") + "".join(bars) + diagonal
    told = "Accuracy of the samples in each range of confidence; the dashed diagonal is perfect calibration."
    return _figure("Calibration", told, body, "", size=(LEFT + square + RIGHT, TOP + square + BOTTOM))


def scatter(title: str, x: Sequence[float], y: Sequence[float], *, x_name: str, y_name: str) -> str:
    """Points, and the diagonal on which both numbers are the same."""
    square, both = 260, [*x, *y]
    across = axis(min(both), max(both), LEFT, LEFT + square)
    up = across._replace(start=TOP + square, end=TOP)
    dots = "".join(
        f'<circle cx="{across.place(a):.1f}" cy="{up.place(b):.1f}" r="2"/>' for a, b in zip(x, y, strict=True)
    )
    diagonal = f'<path class="ideal" d="M{across.start} {up.start}L{across.end} {up.end}"/>'
    body = _frame(across, up, x_name, y_name) + f'<g class="s0 dots">{dots}</g>' + diagonal
    told = f"{len(x)} samples; on the dashed diagonal {y_name} and {x_name} are equal."
    return _figure(title, told, body, "", size=(LEFT + square + RIGHT, TOP + square + BOTTOM))


def plane(
    title: str,
    picture: str,
    x_range: Sequence[float],
    y_range: Sequence[float],
    points: Sequence[tuple[float, float, int]],
    *,
    names: Sequence[str],
    axes: Sequence[str],
) -> str:
    """A picture of the plane under the training samples (x, y, class); page.js puts other pictures in its place."""
    square = WIDTH - LEFT - RIGHT
    across = axis(x_range[0], x_range[1], LEFT, LEFT + square, tight=True)
    up = axis(y_range[0], y_range[1], TOP + square, TOP, tight=True)
    image = (
        f'<image class="pixels" href="{escape(picture)}" x="{LEFT}" y="{TOP}" width="{square}" height="{square}" '
        'preserveAspectRatio="none"/>'
    )
    marks = "".join(_shape(n, across.place(a), up.place(b)) for a, b, n in points)
    told = f"What the network says all over the plane, and {len(points)} of the training samples."
    body = f"{_frame(across, up, axes[0], axes[1])}{image}{marks}"
    size = (LEFT + square + RIGHT, TOP + square + BOTTOM)
    return _figure(title, told, body, _legend(names, lines=False) if len(names) > 1 else "", size=size)


def _shape(n: int, x: float, y: float) -> str:
    """A class's mark, told apart by its form too: circle, square, triangle, diamond."""
    r = 3
    form = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0",
        f"M{x - r + 0.3:.1f} {y - r + 0.3:.1f}h5.4v5.4h-5.4z",
        f"M{x:.1f} {y - r:.1f}l{r} 5.6h{-2 * r}z",
        f"M{x:.1f} {y - r - 0.6:.1f}l3.6 3.6l-3.6 3.6l-3.6 -3.6z",
    )[n % 4]
    return f'<path class="c{n % 8} point" d="{form}"/>'


# --- axes -----------------------------------------------------------------------------------------------------------


def axis(
    low: float, high: float, start: float, end: float, *, log: bool = False, whole: bool = False, tight: bool = False
) -> Axis:
    """An axis that holds low .. high, with ticks at round numbers; a `whole` one (epochs) or a tight one ends there."""
    if log:
        ticks = log_ticks(low, high)
        return Axis(min(low, *ticks), max(high, *ticks), ticks, start, end, True)
    if low == high:
        spare = (abs(low) * 0.1 or 0.1) if not whole else 0.5
        low, high = low - spare, high + spare
    ticks = round_ticks(low, high, whole=whole)
    if whole or tight:
        return Axis(low, high, ticks, start, end)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = (step * f(value / step) for f, value in ((math.floor, low), (math.ceil, high)))
    return Axis(low, high, round_ticks(low, high), start, end)


def round_ticks(low: float, high: float, *, whole: bool = False, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between low and high, at most `most`; whole numbers if asked for."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    if whole:
        power = max(power, 1)
    for step in (power * factor for factor in (1, 2, 5, 10, 20, 50)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(n * step, 12) for n in range(first, last + 1)]
    raise AssertionError((low, high))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten around low .. high, at most about `most`; within two decades also 2 and 5 times these."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 2:
        steps = [factor * 10.0**n for n in range(first, last + 1) for factor in (1, 2, 5)]
        below = max(step for step in steps if step <= low)
        above = min((step for step in steps if step >= high), default=steps[-1])
        return [step for step in steps if below <= step <= above]
    spacing = math.ceil((last - first) / most)
    return [10.0**n for n in range(first, last + spacing, spacing)]


def short(value: float | None) -> str:
    """A number in few characters: 0.012, 1.5e-5, 1200; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"  # noqa: RUF001 -- a dash
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


# --- parts ----------------------------------------------------------------------------------------------------------


def _frame(across: Axis, up: Axis, x_name: str, y_name: str) -> str:
    """Grid lines, ticks and the names of both axes."""
    parts = []
    for tick in up.ticks:
        y = up.place(tick)
        parts.append(f'<line class="grid" x1="{across.start}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{across.start - 5}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{up.start}" y2="{up.start + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{up.start + 15}" text-anchor="middle">{short(tick)}</text>')
    middle, height = (across.start + across.end) / 2, (up.start + up.end) / 2
    parts.append(f'<line class="axis" x1="{across.start}" x2="{across.end}" y1="{up.start}" y2="{up.start}"/>')
    parts.append(f'<text class="name" x="{middle}" y="{up.start + 31}" text-anchor="middle">{escape(x_name)}</text>')
    turned = f'transform="translate(11 {height}) rotate(-90)"'
    parts.append(f'<text class="name" {turned} text-anchor="middle">{escape(y_name)}</text>')
    return "".join(parts)


def _legend(names: Sequence[str], *, lines: bool) -> str:
    """The names beside what stands for them."""
    swatch: Callable[[int], str] = _stroke if lines else lambda n: _shape(n, 9, 5)
    items = (
        f'<li><svg width="{24 if lines else 18}" height="10" aria-hidden="true">{swatch(n)}</svg>{escape(name)}</li>'
        for n, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _stroke(n: int) -> str:
    return f'<g class="{_style(n)}"><path d="M0 5H24"/></g>'


def _style(n: int) -> str:
    """The classes of line number n: colour and dash differ from line to line, and together up to the 36th."""
    return f"s{n % STYLES} d{(n + n // STYLES) % STYLES}"


def _figure(
    title: str, description: str, body: str, below: str, *, data: object = None, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> str:
    name = re.sub(r"\W+", "-", title.lower())  # titles differ within a page
    kept = f' data-chart="{escape(json.dumps(data))}"' if data is not None else ""
    return (
        f'<figure class="chart"{kept}><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-labelledby="{name}-title {name}-told">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-told">{escape(description)}</desc>'
        f"{body}</svg><figcaption>{below}</figcaption></figure>"
    )
