"""The courses and figures of all settings in one picture: `dlf why TOPIC --plot FILE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlf.curves import frame, look
from dlf.drawing import INK, MUTED, WHITE
from dlf.figure_files import save
from dlf.questions.results import Arm, Course, Figure, Study, Sweep, Why
from dlf.statistics import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Page

_PANEL = (4.2, 3.0)  # inches


def draw_why(result: Why, path: Path) -> None:
    """Write the picture to a .png, .svg or .pdf file."""
    save(lambda: picture(result), path, f"{result.topic}: {result.question}")


def picture(result: Why) -> Page:
    """A row for each configuration: every seed's figure with the mean and its interval, then the topic's charts."""
    from matplotlib.figure import Figure as Page

    columns = 1 + max(len(study.charts) for study in result.studies)
    size = (_PANEL[0] * columns, _PANEL[1] * len(result.studies) + 0.4)
    page = Page(figsize=size, facecolor=WHITE, layout="constrained")
    page.suptitle(result.question, fontsize=12, color=INK)
    panels = page.subplots(len(result.studies), columns, squeeze=False)
    for study, row in zip(result.studies, panels, strict=True):
        _seeds(row[0], study)
        for axes, chart in zip(row[1:], study.charts, strict=False):
            _course(axes, study, chart) if isinstance(chart, Course) else _sweep(axes, study, chart)
        for axes in row[1 + len(study.charts) :]:
            axes.set_axis_off()
    return page


def _seeds(axes: Axes, study: Study) -> None:
    """A line for each setting: a dot a seed, a bar over the mean's interval; a cross where it diverged."""
    figure, count = study.figures[0], len(study.arms)
    for place, arm in enumerate(study.arms):
        colour = look(place)["color"]
        y = count - 1 - place
        values = [v for t in arm.trainings if (v := t.figures.get(figure.name)) is not None]
        axes.plot(_scaled(values, figure), [y + 0.18] * len(values), "o", color=colour, markersize=3, alpha=0.6)
        spread = arm.spreads.get(figure.name)
        if spread is not None:
            ends = _scaled([v for v in (spread.low, spread.high) if v is not None], figure)
            axes.plot(ends, [y] * len(ends), color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(_scaled([spread.mean], figure), [y], "|", color=INK, markersize=9, markeredgewidth=1.5)
        if arm.diverged:
            told = f"{arm.diverged} of {len(arm.trainings)} diverged"
            axes.annotate(
                told, (0.02, y - 0.3), xycoords=("axes fraction", "data"), fontsize=7, color=MUTED, va="center"
            )
    axes.set_yticks(range(count), [arm.label for arm in reversed(study.arms)])
    axes.set_ylim(-0.6, count - 0.4)
    frame(axes, f"{study.config}: {_title(figure)}")


def _course(axes: Axes, study: Study, chart: Course) -> None:
    """The mean of every setting as a line, the range of its seeds as a band."""
    figure = _figure(study, chart.series)
    for place, arm in enumerate(study.arms):
        x, low, middle, high = _band(arm, chart)
        if not x:
            continue
        own = look(place)
        mark = {"marker": own["marker"], "markersize": 4, "markevery": max(1, len(x) // 8)}
        axes.plot(x, _scaled(middle, figure), color=own["color"], linewidth=1.3, label=arm.label, **mark)
        axes.fill_between(x, _scaled(low, figure), _scaled(high, figure), color=own["color"], alpha=0.15, linewidth=0)
    if chart.log:
        axes.set_yscale("log")
    axes.set_xlabel(chart.x, fontsize=9, color=MUTED)
    frame(axes, _titled(chart.title, figure))
    if len(study.arms) <= 8:
        axes.legend(fontsize=7, frameon=False)


def _band(arm: Arm, chart: Course) -> tuple[list[int], list[float], list[float], list[float]]:
    """Index, least, mean and greatest value wherever a training has one; for a logarithmic axis the positive ones."""
    x, low, middle, high = [], [], [], []
    for index, spread in enumerate(arm.course(chart.series)):
        values = [t.series[chart.series][index] for t in arm.trainings if index < len(t.series.get(chart.series, ()))]
        known = [value for value in values if value is not None]
        if spread is None or (chart.log and min(known) <= 0):
            continue
        x.append(index + chart.first)
        low.append(min(known))
        middle.append(spread.mean)
        high.append(max(known))
    return x, low, middle, high


def _sweep(axes: Axes, study: Study, chart: Sweep) -> None:
    """The figure of every setting against what was set, with intervals; diverged ones as crosses at the edge."""
    figure = _figure(study, chart.figure)
    points = [(chart.at[arm.label], place, arm) for place, arm in enumerate(study.arms) if arm.label in chart.at]
    names = list(dict.fromkeys(chart.lines.get(arm.label, "") for _, _, arm in points))
    for row, name in enumerate(names):
        own = [point for point in points if chart.lines.get(point[2].label, "") == name]
        colours = [look(row if len(names) > 1 else place)["color"] for _, place, _ in own]
        known = [(x, arm.spreads[chart.figure].mean) for x, _, arm in own if chart.figure in arm.spreads]
        line = {"color": colours[0], "label": name} if len(names) > 1 else {"color": MUTED}
        axes.plot([x for x, _ in known], _scaled([mean for _, mean in known], figure), linewidth=1, **line)
        for (x, _, arm), colour in zip(own, colours, strict=True):
            _point(axes, x, arm.spreads.get(chart.figure), figure, colour, 0.03 + 0.06 * row)
    if len(names) > 1:
        axes.legend(fontsize=7, frameon=False)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log:
        axes.set_yscale("log")
    axes.set_xlim(*_widened([x for x, _, _ in points], log=chart.log_x))
    axes.set_xlabel(chart.x, fontsize=9, color=MUTED)
    frame(axes, _titled(chart.title, figure))


def _point(axes: Axes, x: float, spread: Spread | None, figure: Figure | None, colour: str, edge: float) -> None:
    """A mean with its interval, or a cross so far up the edge where no training has the figure."""
    if spread is None:
        axes.annotate("x", (x, edge), xycoords=("data", "axes fraction"), ha="center", color=colour, fontsize=10)
        return
    ends = [spread.mean if end is None else end for end in (spread.low, spread.high)]
    axes.plot([x, x], _scaled(ends, figure), color=colour, linewidth=2)
    axes.plot([x], _scaled([spread.mean], figure), "o", color=colour, markersize=5)


def _widened(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    """The range of the values and a twentieth on each side."""
    low, high = min(values), max(values)
    if log:
        margin = (high / low) ** 0.05 if high > low else 2.0
        return low / margin, high * margin
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _figure(study: Study, name: str) -> Figure | None:
    """What is known of a figure or a series of that name."""
    return next((figure for figure in study.figures if figure.name == name), None)


def _scaled(values: Sequence[float], figure: Figure | None) -> list[float]:
    """Shares in percent."""
    return [100 * v for v in values] if figure is not None and figure.share else [v for v in values if math.isfinite(v)]


def _title(figure: Figure) -> str:
    return _titled(figure.title, figure)


def _titled(title: str, figure: Figure | None) -> str:
    return f"{title}, %" if figure is not None and figure.share else title
