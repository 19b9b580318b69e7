"""Results on stdout: what training came to, what an evaluation found, what a network consists of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.epochs import extras, is_number, measured
from dlf.display.streams import PIPED_WIDTH, page
from dlf.display.words import byte_size, duration, number, product, safe

if TYPE_CHECKING:
    from dlf.commands.train import TrainResult
    from dlf.model import LayerSummary, Summary

LARGEST_MATRIX = 12  # classes; more do not fit beside each other in 80 columns


def show_training(result: TrainResult) -> None:
    """What training came to, and what to do next."""
    with page() as console:
        head = f"{safe(result.run)}: {result.status}, {result.epochs} epochs in {duration(result.seconds)} of training"
        console.print(Text(head, style="bold"))
        _warn_of_fallback(console, result.requested_data, result.data)
        table = _table("", "best", "last", "")
        table.add_row("epoch", str(result.best["epoch"]), str(result.last["epoch"]))
        for name in [*measured(result.last), *extras(result.last)]:
            monitored = name == result.monitor
            values = [number(record.get(name)) for record in (result.best, result.last)]
            table.add_row(safe(name), *values, "monitored" if monitored else "", style="bold" if monitored else None)
        console.print(table)
        console.print(Text(f"data   {safe(result.data)}\nsaved  {safe(result.path)}"), soft_wrap=True)
        console.print(Text(f"next   dlf evaluate {_argument(result.run, result.path)}"), soft_wrap=True)


def _argument(run: str, path: str) -> str:
    """How a command line names this run: by its id where that is enough, else by its path."""
    return safe(shlex.quote(run if Path(path).parent == Path("runs") else path))


def _warn_of_fallback(console: Console, requested: str, used: str) -> None:
    if requested != used:
        text = f"ATTENTION: this is about {safe(used)}, not {safe(requested)}, which was not at hand (data.fallback)"
        console.print(Text(text, style="bold red"))


_ABOUT = {"run", "checkpoint", "epoch", "split", "data", "requested_data", "samples", "task", "classes", "test_looks"}
_MACRO = {"precision", "recall", "f1"}  # their default average


def show_evaluation(result: Mapping[str, Any]) -> None:
    """What `dlf evaluate` found: the numbers, then which classes are taken for which."""
    with page() as console:
        where = f"{result['split']} part of {safe(result['data'])}, {result['samples']:,} samples"
        head = f"{safe(result['run'])}, {result['checkpoint']} checkpoint (epoch {result['epoch']}): {where}"
        console.print(Text(head, style="bold"))
        _warn_of_fallback(console, result["requested_data"], result["data"])
        if "test_looks" in result:
            console.print(Text(f"test looked at {_times(result['test_looks'])}"))
        table = _table("", "")
        for name, value in result.items():
            if name not in _ABOUT and is_number(value):
                table.add_row(f"{name} (macro)" if name in _MACRO else safe(name), number(value))
        console.print(table)
        if counts := result.get("confusion_matrix"):
            names = result["classes"] or range(len(counts))
            _print_confusion(console, counts, [_short(safe(name)) for name in names])


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:17]}..."


def _print_confusion(console: Console, counts: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """The matrix where it fits, counts[true][predicted]; else the pairs of classes that are confused most often."""
    table = _confusion_table(counts, names)
    if len(names) <= LARGEST_MATRIX and _fits(table, console):
        console.print(Text("\nconfusion matrix: rows are the true classes, columns the predicted ones", style="bold"))
        console.print(table)
        return
    pairs = [(count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count]
    console.print(Text("\nmost confused classes; --json prints the whole matrix", style="bold"))
    for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:5]:
        console.print(Text(f"{count:>6,}  {names[i]} taken for {names[j]}"))


def _confusion_table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    """Columns are named by their class where the names are short, else by its index."""
    named = max(map(len, names)) <= 5
    table = _table("", *(name if named else str(index) for index, name in enumerate(names)), padding=(0, 0, 0, 1))
    for index, row in enumerate(counts):
        cells = [Text(str(count) if count else ".", "bold" if index == j else "") for j, count in enumerate(row)]
        table.add_row(names[index] if named else f"{index} {names[index]}", *cells)
    return table


def show_summary(summary: Summary) -> None:
    """The architecture table and its totals."""
    with page() as console:
        head = f"{safe(summary.name)}: {summary.task}, {summary.loss}, input {product(summary.input_shape)}"
        console.print(Text(head, style="bold"))
        console.print(_layer_table(summary.layers, console))
        console.print()
        totals = {
            "parameters": f"{summary.parameters:,} trained, {summary.buffers:,} not (buffers)",
            "multiply-adds": f"{summary.multiply_adds:,} a sample",
            "weights": byte_size(summary.weight_bytes),
            "optimizer state": f"{byte_size(summary.optimizer_bytes)} ({summary.optimizer})",
            "activations": f"{byte_size(summary.activation_bytes)} for a batch of {summary.batch_size:,}",
        }
        for name, value in totals.items():
            console.print(Text(f"{name:<15}  {value}"))


_LAYER_COLUMNS: dict[str, Callable[[LayerSummary], str]] = {
    "layer": lambda layer: (
        f"{'  ' * layer.depth}{layer.index} {safe(layer.type)}{' (added)' if layer.automatic else ''}"
    ),
    "output": lambda layer: product(layer.shape),
    "activation": lambda layer: safe(layer.activation),
    "init": lambda layer: safe(layer.init),
    "parameters": lambda layer: f"{layer.parameters:,}",
    "mult-adds": lambda layer: f"{layer.multiply_adds:,}",
}
_DISPENSABLE = ["init", "activation", "mult-adds", "output"]  # in this order, where the terminal is narrow


def _layer_table(layers: Sequence[LayerSummary], console: Console) -> Table:
    """A row for each layer, with as many columns as fit."""
    for dropped in range(len(_DISPENSABLE) + 1):
        columns = [name for name in _LAYER_COLUMNS if name not in _DISPENSABLE[:dropped]]
        table = _table(*columns, left=("layer", "output", "activation", "init"))
        for layer in layers:
            table.add_row(*(_LAYER_COLUMNS[name](layer) for name in columns))
        if _fits(table, console):
            break
    return table


def _table(*titles: str, left: Sequence[str] = (), padding: tuple[int, int, int, int] = (0, 0, 0, 2)) -> Table:
    """A table without lines: the first column and those of `left` to the left, the others, numbers, to the right."""
    table = Table(box=None, pad_edge=False, padding=padding, show_header=any(titles))
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 or title in left else "right", overflow="fold")
    return table


def _fits(table: Table, console: Console) -> bool:
    """Whether a table is drawn without breaking a cell; Rich's own minimum counts broken cells."""
    unlimited = console.options.update(width=PIPED_WIDTH)
    return console.measure(table, options=unlimited).maximum <= console.width
