"""Results on stdout: what training came to, what a network consists of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.epochs import extras, measured
from dlf.display.streams import page
from dlf.display.tables import fits, table_of, warn_of_fallback
from dlf.display.words import byte_size, duration, number, product, safe

if TYPE_CHECKING:
    from dlf.commands.train import TrainResult
    from dlf.model import LayerSummary, Summary


def show_training(result: TrainResult) -> None:
    """What training came to, and what to do next."""
    with page() as console:
        head = f"{safe(result.run)}: {result.status}, {result.epochs} epochs in {duration(result.seconds)} of training"
        console.print(Text(head, style="bold"))
        warn_of_fallback(console, result.requested_data, result.data)
        table = table_of("", "best", "last", "")
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
        table = table_of(*columns, left=("layer", "output", "activation", "init"))
        for layer in layers:
            table.add_row(*(_LAYER_COLUMNS[name](layer) for name in columns))
        if fits(table, console):
            break
    return table
