"""The architecture as a picture: `dlf summarize --plot FILE`.

A picture is laid out as a list of marks (boxes, lines, labels) in inches, x to the right and y down, and painted only
then. The page is cut to what was laid out, so nothing is lost at its edges. Two layouts: a column of boxes, the data
flowing down, or every unit as a circle where a dense network is small enough for that.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from dlf.figure_files import rendered, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from dlf.layers import Shape
    from dlf.model import LayerSummary, Summary

Point = tuple[float, float]

# Fills are light enough for black text and differ in lightness too; blue, orange and vermilion (Okabe and Ito, 2008)
# stay apart for colour-blind readers. Nothing is said by colour alone.
INK, MUTED, PALE = "#1a1a1a", "#5f5f5f", "#b5b5b5"
WHITE, PAPER, GREY, BLUE, ORANGE, VERMILION = "#ffffff", "#f7f7f7", "#efefef", "#93c1e4", "#f7d9a8", "#b84a00"

MARGIN = 0.2
NAME_LINE = 32  # letters of a title's line, 7 inches at most
NARROWEST = 4.0  # inches of a page: 800 pixels
HEIGHT, GAP = 0.3, 0.21  # of a box, and of the arrow between two
WIDEST = 2.9  # of a box, where its label is not longer
RADIUS = 0.12  # of a circle
FRAME = 0.15  # between what a frame holds and its edge
MOST_UNITS, MOST_UNIT_LAYERS = 16, 6  # beyond them circles are a crowd


class Label(NamedTuple):
    """One line of text; y is its middle, `size` in points."""

    x: float
    y: float
    text: str
    size: float = 10
    bold: bool = False
    align: Literal["left", "center", "right"] = "center"
    colour: str = INK


class Box(NamedTuple):
    """A rectangle with round corners; one whose corner is half of its sides is a circle."""

    left: float
    top: float
    width: float
    height: float
    fill: str
    edge: str = INK
    dashed: bool = False
    corner: float = 0.07


class Line(NamedTuple):
    """A line through points, with an arrowhead at the last; `width` in points."""

    points: tuple[Point, ...]
    arrow: bool = True
    colour: str = INK
    width: float = 1.2


Mark = Label | Box | Line


class Grid(NamedTuple):
    """Around the axis x = 0: box widths by the logarithm of the size, and where the two columns of text stand."""

    narrow: float
    wide: float
    bits: float
    shapes: float
    parameters: float

    def width(self, shape: Shape) -> float:
        return self.narrow + (self.wide - self.narrow) * math.log2(math.prod(shape)) / self.bits


def draw_architecture(summary: Summary, path: Path) -> None:
    """Write the picture of a network; the suffix of `path` is its format: .png, .svg or .pdf.

    The same summary gives the same bytes. UsageError for another suffix, MachineError where the file cannot be written.
    """
    save(lambda: figure(summary), path, summary.name)


def picture(summary: Summary, kind: str) -> bytes:
    """The picture as the bytes of a png, svg or pdf file."""
    return rendered(lambda: figure(summary), kind, summary.name)


def figure(summary: Summary) -> Figure:
    """The picture as a figure of matplotlib, one data unit an inch, apart from any window or global state."""
    marks = _units(summary) if _shows_units(summary) else _boxes(summary)
    return _painted([*_title(summary, marks), *marks])


def _title(summary: Summary, marks: Sequence[Mark]) -> list[Mark]:
    """Name, task and size of the network, centred above the other marks."""
    left, top, right, _ = _bounds(marks)
    middle = (left + right) / 2
    below = f"{summary.task}, {_counted(summary.parameters, 'parameter')}"
    title: list[Mark] = [Label(middle, top - 0.38, below, colour=MUTED)]
    for row, line in enumerate(reversed(textwrap.wrap(summary.name, NAME_LINE))):
        title.append(Label(middle, top - 0.66 - 0.24 * row, line, size=14, bold=True))
    return title


# --- a column of boxes ----------------------------------------------------------------------------------------------


def _boxes(summary: Summary) -> list[Mark]:
    """Input, layers and output from top to bottom, with shapes and parameters in columns beside them."""
    grid = _grid(summary)
    shapes = _shapes(summary)
    layers, end = _chain(summary.layers, HEIGHT, grid)
    below = end + GAP + HEIGHT + 0.16
    marks: list[Mark] = [
        Label(grid.shapes, -0.15, "shape", size=9, colour=MUTED),
        Label(grid.parameters, -0.15, "parameters", size=9, align="right", colour=MUTED),
        *_pill("input", shapes[0], 0, grid),
        Label(grid.shapes, HEIGHT / 2, _times(shapes[0]), size=9.5),
        *layers,
        Line(((0, end), (0, end + GAP))),
        *_pill("output", shapes[-1], end + GAP, grid),
        Label(0, below, f"{summary.task}, {summary.loss}"),
        Label(0, below + 0.28, "width: number of values, log scale", size=8, colour=MUTED),
    ]
    if any(layer.automatic for layer in summary.layers):
        marks.append(Label(0, below + 0.43, "dashed: put in by dlf", size=8, colour=MUTED))
    return marks


def _grid(summary: Summary) -> Grid:
    layers = summary.layers
    narrow = max([_label_width("output", ""), *(_label_width(layer.type, layer.activation) for layer in layers)]) + 0.3
    wide = max([WIDEST, narrow + 0.8, *(2 * _width(f"{layer.parameters:,} in all", 9) for layer in layers)])
    shapes = max([_width("shape", 9), *(_width(_times(shape), 9.5) for shape in _shapes(summary))])
    numbers = max([_width("parameters", 9), *(_width(f"{layer.parameters:,}", 9.5) for layer in layers)])
    column = wide / 2 + FRAME * max([0, *(layer.depth for layer in layers)]) + 0.3 + shapes / 2
    bits = math.log2(max([2, *map(math.prod, _shapes(summary))]))
    return Grid(narrow, wide, bits, column, column + shapes / 2 + 0.3 + numbers)


def _shapes(summary: Summary) -> list[Shape]:
    """What goes into the network and what every layer gives."""
    return [summary.input_shape, *(layer.shape for layer in summary.layers)]


def _chain(layers: Sequence[LayerSummary], y: float, grid: Grid) -> tuple[list[Mark], float]:
    """The layers of one level from y downwards, each behind an arrow, and the y where they end."""
    marks: list[Mark] = []
    for layer, inner in _levels(layers):
        if inner:
            drawn, y = _residual(layer, inner, y, grid)
        else:
            drawn, y = [Line(((0, y), (0, y + GAP))), *_layer(layer, y + GAP, grid)], y + GAP + HEIGHT
        marks += drawn
    return marks, y


def _levels(layers: Sequence[LayerSummary]) -> list[tuple[LayerSummary, Sequence[LayerSummary]]]:
    """Each layer of the first one's depth with the layers that lie inside of it."""
    starts = [place for place, layer in enumerate(layers) if layer.depth == layers[0].depth]
    return [(layers[start], layers[start + 1 : stop]) for start, stop in pairwise([*starts, len(layers)])]


def _layer(layer: LayerSummary, y: float, grid: Grid) -> list[Mark]:
    """One box, blue with weights, orange with other parameters, grey without; dashed and pale if dlf put it in."""
    width, middle = grid.width(layer.shape), y + HEIGHT / 2
    box = Box(-width / 2, y, width, HEIGHT, BLUE if layer.init else ORANGE if layer.parameters else GREY)
    colour = INK
    if layer.automatic:
        box, colour = box._replace(fill=WHITE, edge=PALE, dashed=True), MUTED
    shape = Label(grid.shapes, middle, _times(layer.shape), size=9.5, colour=colour)
    name = _named(layer.type, layer.activation, middle, colour)
    return [box, *name, shape, _number(layer.parameters, middle, grid)]


def _number(parameters: int, y: float, grid: Grid) -> Label:
    return Label(grid.parameters, y, f"{parameters:,}", size=9.5, align="right", colour=INK if parameters else MUTED)


def _residual(layer: LayerSummary, inner: Sequence[LayerSummary], y: float, grid: Grid) -> tuple[list[Mark], float]:
    """A frame around the inner layers, and the skip from before them to the sum behind them, on the left.

    The parameters beside the sum are those of the projection, so that the column adds up to the network's.
    """
    top, fork = y + GAP / 2, y + GAP / 2 + 0.34
    body, end = _chain(inner, fork, grid)
    plus, arm = end + GAP + RADIUS, 0.55 * RADIUS
    bottom = plus + RADIUS + 0.1
    frames_inside = max(inside.depth for inside in inner) - layer.depth - 1
    lane = -grid.wide / 2 - 0.25 - 0.4 * frames_inside
    right = grid.wide / 2 + FRAME * (frames_inside + 1)
    marks: list[Mark] = [
        Box(lane - FRAME, top, right - lane + FRAME, bottom - top, PAPER, edge=PALE),
        Label(lane - 0.05, top + 0.16, layer.type, bold=True, align="left"),
        Label(right - 0.1, top + 0.16, f"{layer.parameters:,} in all", size=9, align="right", colour=MUTED),
        Label(grid.shapes, plus, _times(layer.shape), size=9.5),
        Line(((0, y), (0, fork)), arrow=False),
        *body,
        Line(((0, end), (0, plus - RADIUS))),
        Line(((0, plus + RADIUS), (0, bottom)), arrow=False),
        Line(((0, fork), (lane, fork), (lane, plus), (-RADIUS, plus)), colour=VERMILION, width=1.6),
        _circle(0, plus, WHITE),
        Line(((-arm, plus), (arm, plus)), arrow=False),
        Line(((0, plus - arm), (0, plus + arm)), arrow=False),
    ]
    projection = layer.parameters - sum(inside.parameters for inside, _ in _levels(inner))
    return marks + (_projection(projection, lane, plus, grid) if projection else []), bottom


def _circle(x: float, y: float, fill: str) -> Box:
    return Box(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS, fill, corner=RADIUS)


def _projection(parameters: int, lane: float, y: float, grid: Grid) -> list[Mark]:
    """A box on the way of the skip to the sum."""
    width = _width("projection", 9) + 0.16
    box = Box(lane + 0.12, y - 0.12, width, 0.24, BLUE)
    return [box, Label(box.left + width / 2, y, "projection", size=9), _number(parameters, y, grid)]


def _pill(name: str, shape: Shape, y: float, grid: Grid) -> list[Mark]:
    width = grid.width(shape)
    return [Box(-width / 2, y, width, HEIGHT, WHITE, corner=HEIGHT / 2), Label(0, y + HEIGHT / 2, name, bold=True)]


def _named(name: str, words: str, y: float, colour: str) -> list[Mark]:
    """A name in bold and words behind it, centred together."""
    left = -_label_width(name, words) / 2
    behind = [Label(-left, y, words, align="right", colour=colour)] if words else []
    return [Label(left, y, name, bold=True, align="left", colour=colour), *behind]


def _label_width(name: str, words: str) -> float:
    return _width(name, 10, bold=True) + (0.1 + _width(words, 10) if words else 0)


# --- units as circles -----------------------------------------------------------------------------------------------


def _shows_units(summary: Summary) -> bool:
    """Whether the network is dense and so small that a picture of all units and connections can be read."""
    dense = all(layer.type == "linear" for layer in summary.layers)
    small = all(len(shape) == 1 and shape[0] <= MOST_UNITS for shape in _shapes(summary))
    return dense and small and len(summary.layers) <= MOST_UNIT_LAYERS


def _units(summary: Summary) -> list[Mark]:
    """Every unit a circle and every weight a line, from left to right; what the layers are stands below them."""
    widths = [shape[0] for shape in _shapes(summary)]
    words = [["input", _counted(widths[0], "feature")]]
    for layer in summary.layers:
        counts = _counted(layer.shape[0], "unit"), _counted(layer.parameters, "parameter")
        words.append([layer.type, layer.activation, *counts])
    text = max(_width(line, 10, bold=True) for lines in words for line in lines)
    step = max(text + 0.25, 1.2 + 0.04 * max(widths))
    columns = [[(step * place, 0.36 * (row - (n - 1) / 2)) for row in range(n)] for place, n in enumerate(widths)]
    base = 0.18 * max(widths) + 0.25
    below = [mark for place, lines in enumerate(words) for mark in _lines(lines, step * place, base, "center")]
    right = _lines(["output", summary.task, summary.loss], columns[-1][0][0] + 0.55, -0.2, "left")
    return [*_net(columns), *below, *right]


def _net(columns: Sequence[Sequence[Point]]) -> list[Mark]:
    """Circles at these points, lines from column to column, arrows into the first and out of the last."""
    ends = [end for before, after in pairwise(columns) for end in product(before, after)]
    lines = [Line(end, arrow=False, colour=MUTED, width=0.45) for end in ends]
    first, *later = columns
    circles = [*(_circle(x, y, WHITE) for x, y in first), *(_circle(x, y, BLUE) for x, y in chain(*later))]
    into = [Line(((x - 0.45, y), (x - RADIUS, y))) for x, y in first]
    out = [Line(((x + RADIUS, y), (x + 0.45, y))) for x, y in columns[-1]]
    return [*lines, *circles, *into, *out]


def _lines(lines: Sequence[str], x: float, y: float, align: Literal["left", "center"]) -> list[Mark]:
    """Lines of text from y downwards, the first in bold."""
    return [
        Label(x, y + 0.2 * row, line, bold=row == 0, align=align, colour=MUTED if row else INK)
        for row, line in enumerate(lines)
    ]


# --- measuring and painting -----------------------------------------------------------------------------------------


def _times(shape: Shape) -> str:
    return " × ".join(map(str, shape))  # noqa: RUF001 -- the sign of multiplication, not a letter


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


@cache
def _width(text: str, size: float, bold: bool = False) -> float:
    """Inches that the text takes in matplotlib's own font, which every installation has."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72


def _bounds(marks: Sequence[Mark]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the marks together."""
    lefts, tops, rights, bottoms = zip(*map(_extent, marks), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _extent(mark: Mark) -> tuple[float, float, float, float]:
    if isinstance(mark, Box):
        return mark.left, mark.top, mark.left + mark.width, mark.top + mark.height
    if isinstance(mark, Line):
        xs, ys = zip(*mark.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    width, half = _width(mark.text, mark.size, mark.bold), mark.size / 72 / 2
    left = mark.x - {"left": 0, "center": width / 2, "right": width}[mark.align]
    return left, mark.y - half, left + width, mark.y + half


def _painted(marks: Sequence[Mark]) -> Figure:
    """The marks in their order on a white page that is as large as they need."""
    from matplotlib.figure import Figure

    left, top, right, bottom = _bounds(marks)
    spare = max(MARGIN, (NARROWEST - (right - left)) / 2)
    width, height = right - left + 2 * spare, bottom - top + 2 * MARGIN
    page = Figure(figsize=(width, height), facecolor=WHITE)
    axes = page.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(left - spare, left - spare + width), ylim=(bottom + MARGIN, top - MARGIN))
    for order, mark in enumerate(marks):
        if isinstance(mark, Label):
            axes.text(
                mark.x, mark.y, mark.text, fontsize=mark.size, fontweight="bold" if mark.bold else "normal",
                color=mark.colour, ha=mark.align, va="center_baseline", zorder=order, parse_math=False,
            )  # fmt: skip
        else:
            axes.add_patch(_patch(mark)).set(zorder=order, clip_on=False)
    return page


def _patch(mark: Box | Line) -> Patch:
    from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Outline

    if isinstance(mark, Line):
        style = "-|>,head_length=5,head_width=2.2" if mark.arrow else "-"
        arrow = FancyArrowPatch(path=Outline(mark.points), arrowstyle=style, mutation_scale=1)
        arrow.set(color=mark.colour, linewidth=mark.width, joinstyle="miter", capstyle="butt")
        return arrow
    if mark.width == mark.height == 2 * mark.corner:  # the round corners of a FancyBboxPatch are parabolas
        shape: Patch = Circle((mark.left + mark.corner, mark.top + mark.corner), mark.corner)
    else:
        style = f"round,pad=0,rounding_size={mark.corner}"
        shape = FancyBboxPatch((mark.left, mark.top), mark.width, mark.height, boxstyle=style)
    shape.set(facecolor=mark.fill, edgecolor=mark.edge, linestyle=(0, (4, 3)) if mark.dashed else "-")
    return shape
