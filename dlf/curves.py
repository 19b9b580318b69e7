"""The curves of several runs in one picture: `dlf compare --plot FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlf.drawing import INK, MUTED, PALE, WHITE
from dlf.figure_files import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]

# Okabe and Ito, 2008, without the yellow, which white paper swallows; beyond seven runs the marks tell them apart
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a")
_MARKS = ("o", "s", "^", "D", "v")


def draw_curves(runs: Mapping[str, Records], headline: str, path: Path) -> None:
    """Write the picture of these runs, by the names that its legend gives them, to a .png, .svg or .pdf file."""
    save(lambda: curves(runs, headline), path, ", ".join(runs))


def curves(runs: Mapping[str, Records], headline: str) -> Figure:
    """Loss and headline metric by epoch: of each run the validation part as a line, the training part dotted."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    page = Figure(figsize=(9, 4.2), facecolor=WHITE, layout="constrained")
    panels = page.subplots(1, 2)
    for axes, name in zip(panels, ("loss", headline), strict=True):
        _panel(axes, runs, name)
    handles = [Line2D([], [], label=label, **look(place)) for place, label in enumerate(runs)]
    handles += [
        Line2D([], [], color=MUTED, label="validation"),
        Line2D([], [], color=MUTED, linestyle=":", label="training"),
    ]
    page.legend(handles=handles, loc="outside lower center", ncols=2 if len(runs) < 9 else 3, frameon=False, fontsize=8)
    return page


def look(place: int) -> dict[str, Any]:
    """Colour and mark of the line number `place`."""
    mark = _MARKS[(place + place // len(_COLOURS)) % len(_MARKS)]
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": mark, "markersize": 4}


def _panel(axes: Axes, runs: Mapping[str, Records], name: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    dotted = {"linestyle": ":", "marker": "", "alpha": 0.8}
    shown: list[float] = []
    for place, records in enumerate(runs.values()):
        style: dict[str, Any] = {**look(place), "linewidth": 1.3}
        for part, more in (("train", dotted), ("val", {})):
            points = [(record["epoch"], record.get(f"{part}_{name}")) for record in records]
            known = [(epoch, value) for epoch, value in points if value is not None]
            if known:
                epochs, values = zip(*known, strict=True)
                sparse = max(1, len(known) // 12)  # a dozen marks a line can be told apart
                axes.plot(epochs, values, **{**style, "markevery": (place % sparse, sparse), **more})
                shown += values
    if name in ("loss", "mae") and shown and 0 < 3 * min(shown) < max(shown):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    frame(axes, name)


def frame(axes: Axes, title: str) -> None:
    """The title of a panel, and what is around it: two pale sides and a grid."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=MUTED, which="both")
    axes.grid(color=PALE, linewidth=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
