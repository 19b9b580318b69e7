"""What `dlf predict` found: a line for each sample, and what was done to a picture below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.padding import Padding
from rich.text import Text

from dlf.display.streams import page
from dlf.display.tables import warn_of_fallback
from dlf.display.words import number, safe

_MOST_NAME = 25  # columns; of a longer name the end is shown, which tells files apart


def show_predictions(result: Mapping[str, Any]) -> None:
    """Each sample with its answer and the next ones, or its values in their units."""
    with page() as console:
        head = f"{safe(result['run'])}, {result['checkpoint']} checkpoint (epoch {result['epoch']})"
        console.print(Text(f"{head}, trained on {safe(result['data'])}", style="bold"), soft_wrap=True)
        warn_of_fallback(console, result["requested_data"], result["data"])
        predictions = result["predictions"]
        names = [_name(prediction) for prediction in predictions]
        width = max(map(len, names), default=0)
        answers = [_short(prediction["class"]) for prediction in predictions if "class" in prediction]
        widest = max(map(len, answers), default=0)
        for name, prediction in zip(names, predictions, strict=True):
            line = Text(f"{name:<{width}}  ")
            if "class" in prediction:
                line.append(f"{_short(prediction['class']):<{widest}}  ", style="bold")
                line.append(_percent(prediction["probability"]))
                others = [f"{_short(one['class'])} {_percent(one['probability']).strip()}" for one in prediction["top"]]
                while len(line) + len(then := f"  then {', '.join(others[1:])}") > console.width and len(others) > 2:
                    others.pop()
                line.append(then, style="dim")
            else:
                line.append("  ".join(map(number, prediction["values"])), style="bold")
            console.print(line, soft_wrap=True)
            if prediction.get("done"):
                console.print(Padding(Text(safe(prediction["done"]), style="dim"), (0, 0, 0, 2)))


def _name(prediction: Mapping[str, Any]) -> str:
    """The file's name, its end where it is long, and the number of the sample in it."""
    name = safe("stdin" if prediction["file"] == "-" else prediction["file"])
    short = name if len(name) <= _MOST_NAME else f"...{name[3 - _MOST_NAME :]}"
    return short if prediction["sample"] is None else f"{short}:{prediction['sample']}"


def _short(name: str) -> str:
    shown = safe(name)
    return shown if len(shown) <= 14 else f"{shown[:11]}..."


def _percent(probability: float) -> str:
    return f"{100 * probability:5.1f} %"
