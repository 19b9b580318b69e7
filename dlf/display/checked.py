"""What `dlf check` found: a line for each finding, the signals of the layers, and the count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.streams import page
from dlf.display.tables import table_of, warn_of_fallback
from dlf.display.words import safe
from dlf.findings import Finding, Verdict

if TYPE_CHECKING:
    from dlf.checks.propagation import LayerSignal
    from dlf.commands.check import CheckResult

STYLES: dict[Verdict, str] = {"pass": "green", "warn": "bold yellow", "fail": "bold red"}


def show_check(result: CheckResult) -> None:
    """Every finding with its number and, where it is no pass, its remedy; the layers; a run's doctor; the count."""
    with page() as console:
        head = f"{safe(result.name)}: {result.task}, {safe(result.data)}, {result.samples:,} of "
        head += f"{result.training_samples:,} training samples looked at inside of the network"
        console.print(Text(head, style="bold"))
        warn_of_fallback(console, result.requested_data, result.data)
        console.print(findings_table(result.findings))
        console.print()
        _print_layers(console, result.layers)
        if result.doctor:
            console.print(Text("\nThe training of this run, by the doctor", style="bold"))
            console.print(findings_table(result.doctor))
        counted = f"{result.passed} passed, {_counted(result.warned, 'warning')}, {_counted(result.failed, 'failure')}"
        worst: Verdict = "fail" if result.failed else "warn" if result.warned else "pass"
        console.print(Text(f"\n{counted}", style=STYLES[worst]))


def findings_table(findings: Sequence[Finding]) -> Table:
    """A row for each finding: its verdict, its name, and what is said, with the remedy below."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.upper(), style=STYLES[finding.verdict])
        table.add_row(verdict, Text(safe(finding.name)), Text("\n".join(_lines(finding))))
    return table


def _lines(finding: Finding) -> Iterator[str]:
    yield safe(finding.said)
    if finding.remedy:
        yield f"-> {safe(finding.remedy)}"
    if finding.more:
        yield f"   {safe(finding.more)}"


def _print_layers(console: Console, layers: Sequence[LayerSignal]) -> None:
    """Expected and measured sizes and spreads of the outputs, and the gradients."""
    if not layers:
        return
    table = table_of("layer", "size", "expected", "spread", "expected", "gradient")
    for row in layers:
        numbers = (row.size, row.expected_size, row.spread, row.expected_spread, row.gradient)
        table.add_row(safe(f"{row.layer} {row.module}"), *map(_number, numbers))
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
