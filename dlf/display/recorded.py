"""The epochs of a run as a table: the rows that were seen while it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from dlf.display.epochs import cells_of, row
from dlf.display.streams import page

if TYPE_CHECKING:
    from dlf.run import Record


def show_records(records: Sequence[Record], best: int | None) -> None:
    """A row an epoch, with as many columns as fit; the one at index `best` is marked."""
    with page() as console:
        if not records:
            console.print(Text("no epoch is finished yet"))
            return
        for index, record in enumerate(records):
            cells = cells_of(record, records[-1]["epoch"], console.width)
            if index == 0:
                heading = [row([cell.group for cell in cells], cells), row([cell.title for cell in cells], cells)]
                console.print(Text("\n".join(heading), style="bold"), soft_wrap=True)
            line = Text(row([cell.text for cell in cells], cells))
            console.print(line.append("  best", "green") if index == best else line, soft_wrap=True)
