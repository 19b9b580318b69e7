"""Tables without lines, and what stands above them: shared by all that is shown afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.streams import PIPED_WIDTH
from dlf.display.words import safe


def table_of(*titles: str, left: Sequence[str] = (), padding: tuple[int, int, int, int] = (0, 0, 0, 2)) -> Table:
    """A table without lines: the first column and those of `left` to the left, the others, numbers, to the right."""
    table = Table(box=None, pad_edge=False, padding=padding, show_header=any(titles))
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 or title in left else "right", overflow="fold")
    return table


def fits(table: Table, console: Console) -> bool:
    """Whether a table is drawn without breaking a cell; Rich's own minimum counts broken cells."""
    unlimited = console.options.update(width=PIPED_WIDTH)
    return console.measure(table, options=unlimited).maximum <= console.width


def warn_of_fallback(console: Console, requested: str, used: str) -> None:
    """Loudly, where a result is about other data than the experiment names."""
    if requested != used:
        text = f"ATTENTION: this is about {safe(used)}, not {safe(requested)}, which was not at hand (data.fallback)"
        console.print(Text(text, style="bold red"))
