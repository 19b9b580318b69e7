"""What `dlf evaluate` found: how good a run is, where it is wrong, and how much its confidence is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.epochs import is_number
from dlf.display.streams import page
from dlf.display.tables import fits, table_of, warn_of_fallback
from dlf.display.words import number, safe

LARGEST_MATRIX = 12  # classes; more do not fit beside each other in 80 columns
LISTED = 10  # classes, where there are more than a matrix shows
PAIRS = 5
TARGETS = 6

_ABOUT = {"run", "checkpoint", "epoch", "split", "data", "requested_data", "samples", "task", "classes", "test_looks"}
_MACRO = {"precision", "recall", "f1"}  # their default average
_AREAS = {
    "auroc": "area under the ROC curve; chance gives 0.5",
    "average_precision": "area under the precision-recall curve",
}

Result = Mapping[str, Any]


def show_evaluation(result: Result) -> None:
    """The numbers, then what they hide: classes, confusions and calibration, or residuals."""
    with page() as console:
        where = f"{result['split']} part of {safe(result['data'])}, {result['samples']:,} samples"
        head = f"{safe(result['run'])}, {result['checkpoint']} checkpoint (epoch {result['epoch']}): {where}"
        console.print(Text(head, style="bold"))
        warn_of_fallback(console, result["requested_data"], result["data"])
        if "test_looks" in result:
            console.print(Text(f"test looked at {_times(result['test_looks'])}"))
        console.print(_numbers(result))
        if point := result.get("operating_point"):
            _print_operating_point(console, point)
        if rows := result.get("per_class"):
            _print_classes(console, rows)
        if counts := result.get("confusion_matrix"):
            names = result["classes"] or range(len(counts))
            _print_confusion(console, counts, [_short(safe(name)) for name in names])
        if bins := result.get("calibration", {}).get("bins"):
            _print_calibration(console, bins)
        if residuals := result.get("residuals"):
            _print_residuals(console, residuals)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:17]}..."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _numbers(result: Result) -> Table:
    """Every single number with, where there is one, its interval or its meaning."""
    notes = dict(_AREAS) if result["task"] == "binary" else {}
    if interval := result.get("accuracy_interval"):
        low, high = number(interval["low"]), number(interval["high"])
        notes["accuracy"] = f"{100 * interval['confidence']:g} % interval {low} to {high} (Wilson)"
    table = table_of("", "", "note", left=("note",))
    table.show_header = False
    for name, value in result.items():
        if name not in _ABOUT and is_number(value):
            table.add_row(f"{name} (macro)" if name in _MACRO else safe(name), number(value), notes.get(name, ""))
    if found := result.get("calibration"):
        error, bins = found["expected_calibration_error"], len(found["bins"])
        table.add_row("calibration error", number(error), f"expected, over {bins} bins of confidence" if bins else "")
    return table


def _print_operating_point(console: Console, point: Result) -> None:
    if "precision" not in point:
        console.print(Text("no ROC and precision-recall curves: they need samples of both classes"))
        return
    console.print(
        Text(
            f"{_short(safe(point['positive']))} is said above probability {point['threshold']:g}: "
            f"true positive rate {number(point['true_positive_rate'])}, "
            f"false positive rate {number(point['false_positive_rate'])}; --json has both curves"
        )
    )


def _print_classes(console: Console, rows: Sequence[Result]) -> None:
    """A row for each class; of many, those of lowest F1."""
    title = "class by class"
    if len(rows) > LARGEST_MATRIX:
        title = f"the {LISTED} of {len(rows)} classes with the lowest F1; --json has all"
        rows = sorted(rows, key=lambda row: row["f1"])[:LISTED]
    _heading(console, title)
    table = table_of("", "precision", "recall", "f1", "support")
    for row in rows:
        scores = [number(row[key]) for key in ("precision", "recall", "f1")]
        table.add_row(_short(safe(row["class"])), *scores, f"{row['support']:,}")
    console.print(table)


def _print_confusion(console: Console, counts: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """The matrix where it fits, counts[true][predicted]; then the pairs of classes that are confused most often."""
    table = _confusion_table(counts, names)
    if len(names) <= LARGEST_MATRIX and fits(table, console):
        _heading(console, "confusion matrix: rows are the true classes, columns the predicted ones")
        console.print(table)
    pairs = [(count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count]
    if not pairs:
        return
    _heading(console, "most confused")
    for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]:
        total = sum(counts[i])
        often = f"{count:,} of {total:,} times ({_percent(count / total)})"
        console.print(Text(f"{names[i]} is taken for {names[j]}: {often}"))


def _confusion_table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Table:
    """Columns are named by their class where the names are short, else by its index."""
    named = max(map(len, names)) <= 5
    table = table_of("", *(name if named else str(index) for index, name in enumerate(names)), padding=(0, 0, 0, 1))
    for index, row in enumerate(counts):
        cells = [Text(str(count) if count else ".", "bold" if index == j else "") for j, count in enumerate(row)]
        table.add_row(names[index] if named else f"{index} {names[index]}", *cells)
    return table


def _print_calibration(console: Console, bins: Sequence[Result]) -> None:
    """The bins that hold samples; `gap` below zero is too sure."""
    _heading(console, "calibration: how sure it was, and how often it was right")
    table = table_of("confidence", "samples", "mean", "accuracy", "gap")
    for row in bins:
        if row["samples"]:
            gap = row["accuracy"] - row["confidence"]
            values = number(row["confidence"]), number(row["accuracy"]), f"{gap:+.4f}"
            table.add_row(f"{row['low']:.2f} to {row['high']:.2f}", f"{row['samples']:,}", *values)
    console.print(table)


def _print_residuals(console: Console, residuals: Sequence[Result]) -> None:
    """A column for each target; then the largest errors of all of them."""
    shown = residuals[:TARGETS]
    more = f"; {TARGETS} of {len(residuals)} targets, --json has all" if len(residuals) > TARGETS else ""
    _heading(console, f"residuals: predicted less true{more}")
    titles = [f"target {index}" for index in range(len(shown))] if len(shown) > 1 else [""]
    table = table_of("", *titles)
    for key in ("mean", "std"):
        table.add_row(key, *(number(one[key]) for one in shown))
    named = {0.0: "least", 0.5: "median", 1.0: "greatest"}
    for share in shown[0]["quantiles"]:
        name = named.get(float(share), f"{100 * float(share):g} % are below")
        table.add_row(name, *(number(one["quantiles"][share]) for one in shown))
    console.print(table)
    _heading(console, "largest errors, by the sample's index in this part")
    rows = [(index, row) for index, one in enumerate(residuals) for row in one["largest"]]
    rows.sort(key=lambda pair: -abs(pair[1]["residual"] or 0.0))  # None, no finite number, last
    several = ["target"] if len(residuals) > 1 else []
    table = table_of("index", *several, "true", "predicted", "residual")
    for target, row in rows[:PAIRS]:
        values = [number(row[key]) for key in ("true", "predicted", "residual")]
        table.add_row(str(row["index"]), *([str(target)] if several else []), *values)
    console.print(table)
