"""What `dlf explain` found: a small network number by number; a large one by norms, ranges and single neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from dlf.display.streams import page
from dlf.display.tables import table_of
from dlf.display.words import product, safe

if TYPE_CHECKING:
    from dlf.commands.explain import Change, Explanation, Layer, Numbers
    from dlf.commands.units import Unit
    from dlf.gradient_check import Comparison

MOST_UNITS, MOST_COLUMNS = 8, 8  # of a layer that is shown whole: 80 columns, and about a screen
ANSWERS, NAMED = 3, 3  # classes, and entries at a kink
_WIDTH = 80


def show_explanation(found: Explanation) -> None:
    """Forward, loss, backward, update, and the comparison with autograd and with differences."""
    whole = is_small(found)
    with page() as console:
        _print_head(console, found)
        layers = list(flat(found.layers))
        _heading(console, "FORWARD")
        for layer in layers:
            _print_pass(console, layer, layer.forward[1:], whole, [c.before for c in layer.parameters])
        _print_loss(console, found)
        _heading(console, "BACKWARD")
        for layer in reversed(layers):
            backward = layer.backward if layer is not layers[0] or not whole else layer.backward[:-1]
            _print_pass(console, layer, backward, whole, [])
        _print_update(console, found, layers, whole)
        asked = [layer.unit for layer in layers if layer.unit and (not whole or not layer.unit.chosen)]
        for unit in asked:
            _print_unit(console, unit)
        _heading(console, "CHECK")
        for comparison in found.comparisons:
            console.print(Text("\n".join(sentences(comparison))), soft_wrap=True)


def flat(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers one by one, those inside of a block before it."""
    for layer in layers:
        yield from flat(layer.inner)
        yield layer


def is_small(found: Explanation) -> bool:
    """Whether every number of the network is shown: all layers fit beside and below each other."""
    return all(_fits(layer) for layer in flat(found.layers)) and len(found.layers) <= 6


def _fits(layer: Layer) -> bool:
    """A row for each unit: dL/da, f'(z), dL/dz, the row of dL/dW and dL/db, or W, b, z, a."""
    columns = _columns([change.before for change in layer.parameters])
    shapes = [numbers.shape for numbers in chain(layer.forward, layer.backward)]
    small = all(len(shape) < 3 and (not shape or shape[0] <= MOST_UNITS) for shape in shapes)
    return small and columns + 3 <= MOST_COLUMNS and layer.forward[-1].entries is not None


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"), soft_wrap=True)


# --- the sample and the loss ------------------------------------------------------------------------------------------


def _print_head(console: Console, found: Explanation) -> None:
    whose = f"{safe(found.run)}, {found.weights}" if found.run else f"{safe(found.name)}, {found.weights} weights"
    console.print(Text(f"{whose}: step {found.step:,} of training, with one sample", style="bold"), soft_wrap=True)
    facts = f"sample {found.sample:,} of {found.samples:,} of the training part of {safe(found.data)}"
    console.print(Text(f"{facts}; float64"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(note), soft_wrap=True)
    console.print()
    console.print(Text(f"input       {values(found.input)}   true: {truth(found)}"), soft_wrap=True)
    console.print(Text(f"normalized  {values(found.normalized)}   {found.normalized.formula}"), soft_wrap=True)


def truth(found: Explanation) -> str:
    """The true class, with its number where the loss sees one, or the true values."""
    if found.classes is not None:
        return f"{safe(found.truth)} (y = {found.target})"
    return f"{numbers_of(found.truth)} (y = {numbers_of(found.target)})"


def answer(found: Explanation) -> str:
    """What the network says: the likeliest classes, or values."""
    if found.classes is None:
        return numbers_of(found.answers)
    order = sorted(range(len(found.answers)), key=lambda n: -found.answers[n])[:ANSWERS]
    return ", ".join(f"{safe(found.classes[n])} {100 * found.answers[n]:.1f} %" for n in order)


def _print_loss(console: Console, found: Explanation) -> None:
    _heading(console, f"LOSS  {found.loss_name}")
    console.print(Text(f"the network says: {answer(found)}"), soft_wrap=True)
    for name, one in (("L", found.loss), ("dL/do", found.loss_gradient)):
        console.print(Text(f"{name:<5} = {values(one)}   {one.formula}"), soft_wrap=True)


# --- a layer ----------------------------------------------------------------------------------------------------------


def _print_pass(
    console: Console, layer: Layer, quantities: Sequence[Numbers], whole: bool, weights: Sequence[Numbers]
) -> None:
    """A layer on one way: whole with a row for each unit, else a row for each quantity."""
    console.print(Text(f"layer {layer.layer}  {safe(layer.type)}", style="bold"), soft_wrap=True)
    if not whole:
        _print_summaries(console, quantities)
        return
    for line in _formulas(quantities):
        console.print(Text(line), soft_wrap=True)
    _print_units(console, [*weights, *quantities])


def _formulas(quantities: Sequence[Numbers]) -> Iterator[str]:
    """The formulas, several in a line where they fit."""
    line = ""
    for one in quantities:
        text = f"{one.symbol} = {one.formula}"
        if line and len(line) + 3 + len(text) > _WIDTH:
            yield line
            line = text
        else:
            line = f"{line}   {text}" if line else text
    if line:
        yield line


def _print_units(console: Console, quantities: Sequence[Numbers]) -> None:
    """A row for each unit; what has another length than most stands below, in a line."""
    lengths = [one.shape[0] for one in quantities if one.shape]
    units = max(set(lengths), key=lengths.count) if lengths else 0
    columns: list[tuple[str, list[float]]] = []
    rest = []
    for one in quantities:
        if one.shape[:1] != (units,) or one.symbol == "dL/dx":
            rest.append(one)
        elif len(one.shape) == 1:
            columns.append((one.symbol, one.entries))
        else:
            columns += [(f"{one.symbol} {n}", [row[n] for row in one.entries]) for n in range(one.shape[1])]
    table = table_of("unit", *(title for title, _ in columns))
    for unit in range(units):
        table.add_row(str(unit), *(short(column[unit]) for _, column in columns))
    if columns:
        console.print(table)
    for one in rest:
        console.print(Text(f"{one.symbol} = {values(one)}"), soft_wrap=True)


def _print_summaries(console: Console, quantities: Sequence[Numbers]) -> None:
    table = table_of("", "shape", "norm", "least", "mean", "greatest", "formula", left=("formula",))
    for one in quantities:
        bounds = [short(value) for value in (one.norm, one.least, one.mean, one.greatest)]
        table.add_row(one.symbol, product(one.shape) or "1", *bounds, one.formula)
    console.print(table)


# --- the step ---------------------------------------------------------------------------------------------------------


def _print_update(console: Console, found: Explanation, layers: Sequence[Layer], whole: bool) -> None:
    update = found.update
    _heading(console, f"UPDATE  {update.type}: {update.formula}")
    settings = ", ".join(f"{name} = {_setting(value)}" for name, value in update.settings.items() if name != "lr")
    rate = f"lr = {update.learning_rate:.4g}"
    by = f" (by the schedule {update.schedule})" if update.schedule != "constant" else ""
    console.print(Text(f"{rate}{by}, t = {found.step}"), soft_wrap=True)
    if settings:
        console.print(Text(settings), soft_wrap=True)
    for layer in layers:
        if not layer.parameters:
            continue
        console.print(Text(f"layer {layer.layer}  {safe(layer.type)}", style="bold"), soft_wrap=True)
        if whole:
            for row in _rows(layer.parameters):
                _print_units(console, row)
        else:
            _print_summaries(console, [one for change in layer.parameters for one in changes_of(change)])
    told = f"loss of this sample: {short(found.loss.mean)} before the step, {short(found.loss_after)} after it"
    console.print(Text(told), soft_wrap=True)


def changes_of(change: Change) -> list[Numbers]:
    """What becomes of one parameter: its gradient, what penalties and clips make of it, the step, before and after."""
    named = [(f"dL/d{change.symbol}", change.gradient), *((one.symbol, one) for one in change.adjusted)]
    named += [(f"{one.symbol} of {change.symbol}", one) for one in change.memory]
    named += [(f"step of {change.symbol}", change.step), *((one.symbol, one) for one in change.limited)]
    named += [(f"{change.symbol} before", change.before), (f"{change.symbol} after", change.after)]
    return [replace(one, symbol=name) for name, one in named]


def _rows(parameters: Sequence[Change]) -> Iterator[list[Numbers]]:
    """Of a network that is shown whole: what is added to the parameters and what they are then, in tables that fit."""
    left = [replace(one, symbol=f"{one.symbol}: {c.symbol}") for c in parameters for one in (*c.adjusted, *c.limited)]
    steps = [replace(change.step, symbol=f"step {change.symbol}") for change in parameters]
    after = [replace(change.after, symbol=f"new {change.symbol}") for change in parameters]
    for one in left:
        yield [one]
    if _columns(steps) + _columns(after) <= MOST_COLUMNS:
        yield [*steps, *after]
    else:
        yield steps
        yield after


def _columns(quantities: Sequence[Numbers]) -> int:
    return sum(one.shape[1] if len(one.shape) == 2 else 1 for one in quantities)


def _setting(value: Any) -> str:
    return f"({', '.join(map(_setting, value))})" if isinstance(value, list | tuple) else f"{value}"


# --- one neuron, and the comparison -----------------------------------------------------------------------------------


def _print_unit(console: Console, unit: Unit) -> None:
    which = f", {unit.chosen}" if unit.chosen else ""
    piece = f", its piece {unit.piece}" if unit.piece is not None else ""
    console.print(Text(f"\nunit {unit.unit} of layer {unit.layer}{which}{piece}", style="bold"), soft_wrap=True)
    table = table_of("from", "w", "x", "w x", "dL/dw", "step of w")
    for one in unit.incoming:
        table.add_row(safe(one.input), *map(short, (one.weight, one.x, one.product, one.gradient, one.step)))
    console.print(table)
    rest = unit.inputs - len(unit.incoming)
    if rest:
        console.print(Text(f"and {rest:,} more, with smaller products w x"), soft_wrap=True)
    bias = "" if unit.bias is None else f" + {short(unit.bias)}"
    console.print(Text(f"z     = {short(unit.sum)}{bias} = {short(unit.z)}   the sum of all w x, and the bias"))
    console.print(Text(f"a     = f(z) = {short(unit.a)}"))
    slope = f"dL/da f'(z) = {short(unit.dL_da)} * {short(unit.slope)} = " if unit.slope is not None else ""
    console.print(Text(f"dL/dz = {slope}{short(unit.dL_dz)}"))
    if unit.bias_step is not None:
        console.print(Text(f"step of b = {short(unit.bias_step)}"))


def sentences(comparison: Comparison) -> Iterator[str]:
    """How far the gradients are from those of another way, and what is to be said about it."""
    apart = f"{comparison.deviation:.1e}" if comparison.deviation else "0"
    verdict = "holds" if comparison.holds else "DOES NOT HOLD"
    yield f"beside {comparison.by}: at most {apart} apart, relative; bound {comparison.bound:.0e} {verdict}"
    entries = "all" if comparison.entries == comparison.of else f"{comparison.entries:,} of"
    along = f", and along {comparison.directions} random directions" if comparison.directions else ""
    largest = f"; the largest at {comparison.where}" if comparison.deviation else ""
    yield f"  {entries} {comparison.of:,} entries{along}{largest}"
    if comparison.kinks:
        named, more = ", ".join(comparison.kinks[:NAMED]), len(comparison.kinks) - NAMED
        others = f" and {more:,} more" if more > 0 else ""
        yield f"  at a kink, where no derivative exists, and not compared: {named}{others}"
    if comparison.limit:
        yield f"  {comparison.limit}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def short(value: float) -> str:
    """A number in four digits, at most nine characters: 0.1235, -12.35, 1.2e-7."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}" if value == 0 or abs(value) >= 1 else f"{value:.4f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def numbers_of(values: Any) -> str:
    """One number, or several in brackets."""
    return f"({', '.join(map(numbers_of, values))})" if isinstance(values, list | tuple) else short(values)


def values(one: Numbers) -> str:
    """All entries where they are few, else shape and range."""
    if one.shape == ():
        return short(one.mean)
    if one.shape == (1,):
        return f"({short(one.mean)})"
    if one.entries is not None and len(one.shape) == 1 and one.shape[0] <= MOST_UNITS:
        return numbers_of(one.entries)
    return f"{product(one.shape)} numbers from {short(one.least)} to {short(one.greatest)}, mean {short(one.mean)}"
