"""The page of `dlf explain`: the way of one sample through the network and back, step by step.

Each step is a section with its formulas and numbers. Without JavaScript they stand below each other; with it one is
shown at a time (walk.js). A small network is drawn, and every sum is written out with its numbers put in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlf import durable
from dlf.errors import UsageError
from dlf.html.charts import short

if TYPE_CHECKING:
    from dlf.commands.explain import Change, Explanation, Layer, Numbers
    from dlf.commands.units import Unit

MOST_UNITS, MOST_PARAMETERS = 12, 200  # of a network that is drawn and written out
MOST_TERMS = 8  # of a sum that is written out
TOLD = {
    "input": "One sample as the data set holds it, and as the network sees it.",
    "forward": "From x, which the layer before gives, to the layer's own output.",
    "loss": "One number says how wrong the answer is; its derivative, how that changes with each output.",
    "backward": "The layer behind hands back dL/d(output). From it follow, factor by factor, the gradients of this "
    "layer's parameters, and dL/dx, which is handed on to the layer before.",
    "update": "The optimizer turns the gradient g of each parameter p into a step.",
    "check": "The same gradients by two other ways: torch's autograd, and differences of the loss itself when a "
    "parameter moves a little.",
}


class Table(NamedTuple):
    """Titles of the columns, and rows of texts; the first of a row is its name."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Step:
    """One step of the walk. `column` is the place in the picture where it happens.

    Up to column `seen` the picture shows outputs, from column `blamed` on gradients.
    """

    kind: str
    title: str
    name: str
    formulas: Sequence[tuple[str, str]]
    tables: Sequence[Table] = ()
    worked: Sequence[str] = ()
    unit: Unit | None = None
    column: int = -1
    seen: int = -1
    blamed: int = 10**6


def write_walk(found: Explanation, file: Path) -> None:
    """Write the page to `file`, in the place of one that is there; UsageError where that is a folder."""
    if file.is_dir():
        raise UsageError(f"--html: {file} is a folder; name a file, such as {file / 'explanation.html'}")
    durable.write(file, render_walk(found).encode())


def render_walk(found: Explanation) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dlf", "html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["short"] = short
    layers = list(flat(found.layers))
    return environment.get_template("walk.html").render(
        found=found,
        says=_answer(found),
        told=TOLD,
        steps=list(_steps(found, layers)),
        picture=_picture(found, layers) if is_small(found) else None,
    )


def _answer(found: Explanation) -> str:
    """What the network says: the likeliest class, or the values."""
    if found.classes is None:
        return ", ".join(map(short, found.answers))
    best = max(range(len(found.answers)), key=lambda n: found.answers[n])
    return f"{found.classes[best]} ({100 * found.answers[best]:.1f}\N{NO-BREAK SPACE}%)"


def flat(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers in the order in which a sample passes them: those inside of a block before it."""
    for layer in layers:
        yield from flat(layer.inner)
        yield layer


def is_small(found: Explanation) -> bool:
    """Whether the network is drawn, and its sums written out."""
    if found.parameters > MOST_PARAMETERS or any(layer.inner for layer in found.layers):
        return False
    shapes = [one.shape for layer in found.layers for one in layer.forward]
    return all(len(shape) < 2 and max(shape, default=1) <= MOST_UNITS for shape in shapes)


# --- the steps --------------------------------------------------------------------------------------------------------


def _steps(found: Explanation, layers: Sequence[Layer]) -> Iterator[Step]:
    small, last = is_small(found), len(layers)
    tables = _units if small else _summary
    yield Step(
        "input",
        "Input",
        "input",
        [("x", found.normalized.formula)],
        tables([found.input, found.normalized]),
        column=0,
        seen=0,
    )
    for column, layer in enumerate(layers, 1):
        quantities = [*(change.before for change in layer.parameters), *layer.forward[1:]]
        yield Step(
            "forward", f"Layer {layer.layer}, {layer.type}: forward", f"forward {layer.layer}",
            _formulas(layer.forward[1:]),
            tables(quantities),
            list(_forward_sums(layer)) if small else (), layer.unit, column, column,
        )  # fmt: skip
    yield Step(
        "loss", f"Loss: {found.loss_name}", "loss", _formulas([found.loss, found.loss_gradient]),
        tables([found.output, found.loss, found.loss_gradient]), column=last + 1, seen=last,
    )  # fmt: skip
    for column, layer in reversed(list(enumerate(layers, 1))):
        yield Step(
            "backward", f"Layer {layer.layer}, {layer.type}: backward", f"backward {layer.layer}",
            _formulas(layer.backward),
            tables(layer.backward), list(_backward_sums(layer)) if small else (), layer.unit, column, last, column,
        )  # fmt: skip
    for column, layer in enumerate(layers, 1):
        if layer.parameters:
            yield Step(
                "update", f"Layer {layer.layer}, {layer.type}: update", f"update {layer.layer}",
                [("p", found.update.formula.removeprefix("p -= ").removeprefix("W -= "))],
                [table for change in layer.parameters for table in tables(_of(change))],
                list(_update_sums(layer)) if small else (), layer.unit, column, last, 0,
            )  # fmt: skip
    yield Step("check", "Check", "check", [], [_comparisons(found)], seen=last, blamed=0)


def _formulas(quantities: Sequence[Numbers]) -> list[tuple[str, str]]:
    return [(one.symbol, one.formula) for one in quantities]


def _of(change: Change) -> list[Numbers]:
    """What happens to a parameter, in order."""
    return [
        replace(change.before, symbol=f"{change.symbol} before"),
        *(change.gradient, *change.adjusted, *change.memory, change.step, *change.limited),
        replace(change.after, symbol=f"{change.symbol} after"),
    ]


def _summary(quantities: Sequence[Numbers]) -> list[Table]:
    """A row for each quantity: shape, norm and range."""
    rows = [(one.symbol, _shape(one), *map(short, (one.norm, one.least, one.mean, one.greatest))) for one in quantities]
    return [Table(("", "shape", "norm", "least", "mean", "greatest"), rows)]


def _units(quantities: Sequence[Numbers]) -> list[Table]:
    """A table for each length: a column for each vector, one for each column of a matrix, a row for each unit."""
    tables: dict[int, list[tuple[str, list[str]]]] = {}
    for one in quantities:
        entries: list[Any] = one.entries if one.shape else [one.mean]
        columns = tables.setdefault(len(entries), [])
        if len(one.shape) == 2:
            columns += [(f"{one.symbol}, {n}", [short(row[n]) for row in entries]) for n in range(one.shape[1])]
        else:
            columns.append((one.symbol, [short(value) for value in entries]))
    return [
        Table(
            ("", *(title for title, _ in columns)),
            [(str(n), *(each[n] for _, each in columns)) for n in range(size)],
        )
        for size, columns in tables.items()
    ]


def _shape(one: Numbers) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, one.shape)) or "1"


def _comparisons(found: Explanation) -> Table:
    rows = [
        (
            each.by, f"{each.entries:,} of {each.of:,}", f"{each.deviation:.1e}", f"{each.bound:.0e}",
            "holds" if each.holds else "broken", each.where, "; ".join([*filter(None, [each.limit]), *each.kinks]),
        )
        for each in found.comparisons
    ]  # fmt: skip
    return Table(("beside", "entries", "largest relative deviation", "bound", "", "at", "rounding and kinks"), rows)


# --- sums with their numbers put in -----------------------------------------------------------------------------------


def _named(layer: Layer, *symbols: str) -> list[Any]:
    """The entries of these quantities of the layer, or of its parameters; None for those that it has not."""
    known = {one.symbol: one.entries for one in (*layer.backward, *layer.forward)}
    known |= {change.symbol: change.before.entries for change in layer.parameters}
    return [known.get(symbol) for symbol in symbols]


def _factor(value: float) -> str:
    return f"({short(value)})" if value < 0 else short(value)


def _sum(products: Sequence[tuple[float, float]], *more: float) -> str:
    """Products and summands as a b + c d + e; the middle of a long sum is left out."""
    terms = [f"{_factor(a)} \N{MULTIPLICATION SIGN} {_factor(b)}" for a, b in products]
    if len(terms) > MOST_TERMS:
        terms = [*terms[: MOST_TERMS - 1], "\N{HORIZONTAL ELLIPSIS}", terms[-1]]
    return " + ".join([*terms, *map(_factor, more)])


def _forward_sums(layer: Layer) -> Iterator[str]:
    """z of each unit of a linear layer, and what follows from it."""
    w, b, x, z, a = _named(layer, "W", "b", "x", "z", "a")
    if layer.type != "linear":
        return
    for unit, row in enumerate(w):
        bias = [b[unit]] if b is not None else []
        yield f"z{unit} = {_sum(list(zip(row, x, strict=True)), *bias)} = {short(z[unit])}"
        if a is not None:
            yield f"a{unit} = f({short(z[unit])}) = {short(a[unit])}"


def _backward_sums(layer: Layer) -> Iterator[str]:
    """dL/dz of each unit of a linear layer, a weight's gradient and an input's."""
    w, x, came, slope, d, dw, dx = _named(layer, "W", "x", "dL/da", "f'(z)", "dL/dz", "dL/dW", "dL/dx")
    if layer.type != "linear":
        return
    if slope is not None:
        for unit in range(len(d)):
            yield f"dL/dz{unit} = dL/da{unit} f'(z{unit}) = {_sum([(came[unit], slope[unit])])} = {short(d[unit])}"
    for unit, row in enumerate(dw):
        for n, value in enumerate(row):
            yield f"dL/dW{unit},{n} = dL/dz{unit} x{n} = {_sum([(d[unit], x[n])])} = {short(value)}"
    for n, value in enumerate(dx):
        yield f"dL/dx{n} = {_sum([(row[n], each) for row, each in zip(w, d, strict=True)])} = {short(value)}"


def _update_sums(layer: Layer) -> Iterator[str]:
    """What each weight was and becomes."""
    for change in layer.parameters:
        before, step, after = (_entries(one) for one in (change.before, change.step, change.after))
        for (place, was), (_, by), (_, now) in zip(before, step, after, strict=True):
            limited = " (limited)" if change.limited else ""
            yield f"{change.symbol}{place} = {short(was)} + {_factor(by)} = {short(now)}{limited}"


def _entries(one: Numbers) -> list[tuple[str, float]]:
    """The entries of a vector or a matrix, each with its place."""
    if len(one.shape) == 2:
        return [(f"{i},{j}", value) for i, row in enumerate(one.entries) for j, value in enumerate(row)]
    return [(str(i), value) for i, value in enumerate(one.entries)]


# --- the picture of a small network -----------------------------------------------------------------------------------

_GAP, _ROW, _LEFT, _TOP = 120, 54, 40, 40


class Node(NamedTuple):
    """A number that a layer gives, in column `column` of the picture: its value, and the loss's derivative by it."""

    column: int
    name: str
    x: float
    y: float
    value: str
    gradient: str


class Edge(NamedTuple):
    """A weight, drawn as wide as it is large."""

    column: int
    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    sign: str


class Picture(NamedTuple):
    width: int
    height: int
    titles: Sequence[tuple[float, str]]
    nodes: Sequence[Node]
    edges: Sequence[Edge]


def _picture(found: Explanation, layers: Sequence[Layer]) -> Picture:
    """The normalized input and the output of each layer, column by column, and the weights between them."""
    outputs = [found.normalized, *(layer.forward[-1] for layer in layers)]
    gradients = [layers[0].backward[-1], *(_steepness(layer) for layer in layers)] if layers else [found.loss_gradient]
    most = max(one.shape[0] for one in outputs)
    columns = [
        [
            Node(
                column, f"{'x' if column == 0 else one.symbol}{n}", _LEFT + _GAP * column,
                _TOP + _ROW * (n + (most - one.shape[0]) / 2), short(one.entries[n]), short(by.entries[n]),
            )
            for n in range(one.shape[0])
        ]
        for column, (one, by) in enumerate(zip(outputs, gradients, strict=True))
    ]  # fmt: skip
    edges = [
        edge
        for (left, right), layer in zip(pairwise(columns), layers, strict=True)
        for edge in _edges(left, right, layer)
    ]
    titles = [
        (_LEFT + _GAP * n, "input" if n == 0 else f"{layers[n - 1].layer} {layers[n - 1].type}")
        for n in range(len(columns))
    ]
    nodes = [node for column in columns for node in column]
    return Picture(2 * _LEFT + _GAP * len(layers), _TOP + _ROW * most, titles, nodes, edges)


def _steepness(layer: Layer) -> Numbers:
    """dL/d(output) of the layer."""
    return layer.backward[0]


def _edges(left: Sequence[Node], right: Sequence[Node], layer: Layer) -> Iterator[Edge]:
    """The weights of a linear layer; of another, what belongs to the same unit."""
    (w,) = _named(layer, "W")
    if layer.type != "linear":
        pairs = zip(left, right, strict=False) if len(left) == len(right) else ()
        yield from (Edge(b.column, a.x, a.y, b.x, b.y, 1.0, "plain") for a, b in pairs)
        return
    largest = max(abs(value) for row in w for value in row) or 1.0
    for b, row in zip(right, w, strict=True):
        for a, value in zip(left, row, strict=True):
            yield Edge(b.column, a.x, a.y, b.x, b.y, 0.5 + 4 * abs(value) / largest, "minus" if value < 0 else "plus")
