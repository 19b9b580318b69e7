"""What training again came to: identical, or where the two part and what may explain it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dlf.display.streams import page
from dlf.display.words import product, safe

if TYPE_CHECKING:
    from dlf.commands.differences import LossDifference, RecordDifference, TensorDifference
    from dlf.commands.reproduce import Ending, Reproduction


def show_reproduction(result: Reproduction) -> None:
    """The verdict, what was compared, the first differences, and what is not as it was."""
    with page() as console:
        verdict = "identical" if result.identical else "different"
        console.print(Text(f"{safe(result.run)}: {verdict}", style="bold green" if result.identical else "bold red"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for title, text in _lines(result):
            table.add_row(title, Text(text))
        console.print(table)
        if result.changes:
            console.print(Text("\nnot as it was", style="bold"))
            for change in result.changes:
                since = f" (from step {change.since_step} on)" if change.since_step else ""
                console.print(Text(f"  {change.what}{since}: {_value(change.then)} then, {_value(change.now)} now"))
                console.print(Text(f"    {change.why}"))
        console.print(Text(f"\n{result.conclusion}"))


def _lines(result: Reproduction) -> Iterator[tuple[str, str]]:
    tensors = sum(compared.tensors for compared in result.checkpoints)
    places = ", ".join(f"{safe(c.checkpoint)} (epoch {c.epoch}, step {c.step:,})" for c in result.checkpoints)
    yield (
        "compared",
        (
            f"the losses of {_counted(result.steps, 'step')}, {_counted(result.records, 'record')} of metrics.jsonl, "
            f"{_counted(tensors, 'tensor')}"
        ),
    )
    yield "", f"of {_counted(len(result.checkpoints), 'checkpoint')}{': ' if places else ''}{places}"
    if result.then != result.now or result.then.diverged:
        yield "trained", f"{_ending(result.then)} then; {_ending(result.now)} now{_why_shorter(result)}"
    if result.loss:
        yield "loss", _loss(result.loss)
    if result.record:
        yield "record", _record(result.record)
    if result.tensor:
        yield "tensor", _tensor(result.tensor)
    if result.path:
        yield "kept", safe(result.path)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _ending(ending: Ending) -> str:
    return f"diverged at step {ending.diverged_at or ending.step:,}" if ending.diverged else f"to step {ending.step:,}"


def _why_shorter(result: Reproduction) -> str:
    found = result.loss or result.record or result.tensor
    early = found and not result.now.diverged and result.now.step < result.then.step
    return ", where the difference was known" if early else ""


def _loss(loss: LossDifference) -> str:
    text = f"first differs at step {loss.step:,} (epoch {loss.epoch}): {loss.then:.9g} then, {loss.now:.9g} now"
    apart = [] if loss.ulps is None else [_counted(loss.ulps, "unit") + " in the last place"]
    apart += [] if loss.relative is None else [f"{loss.relative:.1e} of it"]
    return f"{text}; {', '.join(apart)}" if apart else text


def _record(record: RecordDifference) -> str:
    more = f"; also {', '.join(map(safe, record.others))}" if record.others else ""
    values = f"{_value(record.then)} then, {_value(record.now)} now"
    return f"first differs in epoch {record.epoch}: {safe(record.name)} {values}{more}"


def _tensor(tensor: TensorDifference) -> str:
    place = f"{safe(tensor.tensor)} of {safe(tensor.checkpoint)} (epoch {tensor.epoch}, step {tensor.step:,})"
    if tensor.then is None or tensor.now is None:
        return f"{place}: only one of the two has it in this shape"
    shape = f" of {product(tensor.shape)}" if tensor.shape else ""
    count = f"{tensor.differing:,} of {_counted(tensor.elements, 'element')}{shape} differ"
    most = f", most at {tensor.index}" if tensor.differing > 1 else f", at {tensor.index}" if tensor.index else ""
    return f"{place}: {count}{most}: {tensor.then:.9g} then, {tensor.now:.9g} now"


def _value(value: Any) -> str:
    """A number with all its digits, so that two that differ are not shown as equal."""
    return "null" if value is None else safe(value)
