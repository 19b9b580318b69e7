"""The courses and figures of all settings in one picture: `dlf why TOPIC --plot FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
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
_BESIDE = 5  # entries of the legend in one line


def draw_why(result: Why, path: Path) -> None:
    """Write the picture to a .png, .svg or .pdf file."""
    save(lambda: picture(result), path, f"{result.topic}: {result.question}")


def picture(result: Why) -> Page:
    """A row for each configuration: every seed's figure with the mean and its interval, then the topic's charts."""
    from matplotlib.figure import Figure as Page

    columns = 1 + max(len(study.charts) for study in result.studies)
    size = (_PANEL[0] * columns, _PANEL[1] * len(result.studies) + 0.8)
    page = Page(figsize=size, facecolor=WHITE, layout="constrained")
    page.suptitle(result.question, fontsize=12, color=INK)
    panels = page.subplots(len(result.studies), columns, squeeze=False)
    for study, row in zip(result.studies, panels, strict=True):
        _seeds(row[0], study)
        for axes, chart in zip(row[1:], study.charts, strict=False):
            _course(axes, study, chart) if isinstance(chart, Course) else _sweep(axes, study, chart)
        for axes in row[1 + len(study.charts) :]:
            axes.set_axis_off()
    _name_lines(page, result.studies)
    return page


def _name_lines(page: Page, studies: Sequence[Study]) -> None:
    """Below the picture what the lines are, by their place among the settings; names that differ are all given."""
    from matplotlib.lines import Line2D

    most = max(len(study.arms) for study in studies)
    names = [dict.fromkeys(s.arms[place].label for s in studies if place < len(s.arms)) for place in range(most)]
    handles = [Line2D([], [], label=" / ".join(own), **look(place)) for place, own in enumerate(names)]
    page.legend(handles=handles, loc="outside lower center", ncols=min(most, _BESIDE), frameon=False, fontsize=8)


def _seeds(axes: Axes, study: Study) -> None:
    """A line for each setting: a dot a seed, a bar over the mean's interval, and how many diverged."""
    figure, count = study.figures[0], len(study.arms)
    for place, arm in enumerate(study.arms):
        colour, y = look(place)["color"], count - 1 - place
        values = [value for t in arm.trainings if (value := t.figures.get(figure.name)) is not None]
        axes.plot(_scaled(values, figure), [y + 0.18] * len(values), "o", color=colour, markersize=3, alpha=0.6)
        if (spread := arm.spreads.get(figure.name)) is not None:
            axes.plot(_interval(spread, figure), [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(_scaled([spread.mean], figure), [y], "|", color=INK, markersize=9, markeredgewidth=1.5)
        if arm.diverged:
            told, place_of = f"{arm.diverged} of {len(arm.trainings)} diverged", (0.99, y)
            axes.annotate(
                told, place_of, xycoords=("axes fraction", "data"), fontsize=7, color=MUTED, ha="right", va="center"
            )
    axes.set_yticks(range(count), [arm.label for arm in reversed(study.arms)])
    axes.set_ylim(-0.6, count - 0.4)
    frame(axes, f"{study.config}: {_titled(figure.title, figure)}")


def _course(axes: Axes, study: Study, chart: Course) -> None:
    """The mean of every setting as a line, the range of its seeds as a band."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(study, chart.series)
    for place, arm in enumerate(study.arms):
        x, low, middle, high = _band(arm, chart)
        own = look(place)
        marks = {"marker": own["marker"], "markersize": 4, "markevery": max(1, len(x) // 8)}
        axes.plot(x, _scaled(middle, figure), color=own["color"], linewidth=1.3, **marks)
        axes.fill_between(x, _scaled(low, figure), _scaled(high, figure), color=own["color"], alpha=0.15, linewidth=0)
    if chart.log:
        _logarithmic(axes)
    axes.set_xlabel(chart.x, fontsize=9, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    frame(axes, _titled(chart.title, figure))


def _band(arm: Arm, chart: Course) -> tuple[list[int], list[float], list[float], list[float]]:
    """Index, least, mean and greatest value, of trainings that did not diverge; of all if all did.

    As far as the shortest of them goes: the mean of those that are left would jump. On a logarithmic axis none that is
    not > 0.
    """
    ended = [training for training in arm.trainings if training.diverged is None] or arm.trainings
    x: list[int] = []
    low: list[float] = []
    middle: list[float] = []
    high: list[float] = []
    for index, values in enumerate(zip(*(training.series.get(chart.series, ()) for training in ended), strict=False)):
        shown = [value for value in values if value is not None and (value > 0 or not chart.log)]
        if shown:
            x.append(index + chart.first)
            low.append(min(shown))
            middle.append(fmean(shown))
            high.append(max(shown))
    return x, low, middle, high


def _logarithmic(axes: Axes) -> None:
    """A logarithmic y axis; within two decades with 1, 2 and 5 of each as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    if top / bottom < 100:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def _sweep(axes: Axes, study: Study, chart: Sweep) -> None:
    """The figure of every setting against what was set, with intervals; a cross at the edge where all diverged."""
    figure = _figure(study, chart.figure)
    lines: dict[str, list[tuple[float, float]]] = {}
    for place, arm in enumerate(study.arms):
        if arm.label not in chart.at:
            continue
        x, spread, colour = chart.at[arm.label], arm.spreads.get(chart.figure), look(place)["color"]
        if spread is None:
            axes.annotate("x", (x, 0.03), xycoords=("data", "axes fraction"), ha="center", color=colour, fontsize=10)
            continue
        lines.setdefault(chart.lines.get(arm.label, ""), []).append((x, spread.mean))
        axes.plot([x, x], _interval(spread, figure), color=colour, linewidth=2)
        axes.plot([x], _scaled([spread.mean], figure), "o", color=colour, markersize=5)
    for (name, points), style in zip(lines.items(), cycle(("-", "--", ":")), strict=False):
        means = _scaled([mean for _, mean in points], figure)
        axes.plot([x for x, _ in points], means, style, color=MUTED, linewidth=1, label=name, zorder=1)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log:
        _logarithmic(axes)
    axes.set_xlabel(chart.x, fontsize=9, color=MUTED)
    frame(axes, _titled(chart.title, figure))


def _figure(study: Study, name: str) -> Figure | None:
    """What is known of a figure or a series of that name."""
    return next((figure for figure in study.figures if figure.name == name), None)


def _interval(spread: Spread, figure: Figure | None) -> list[float]:
    """The ends of the mean's interval; twice the mean where there is none, and of a share without what none can be."""
    ends = [spread.mean if end is None else end for end in (spread.low, spread.high)]
    return _scaled(figure.within(ends) if figure is not None else ends, figure)


def _scaled(values: Sequence[float], figure: Figure | None) -> list[float]:
    """Shares in percent."""
    return [100 * value for value in values] if figure is not None and figure.share else list(values)


def _titled(title: str, figure: Figure | None) -> str:
    return f"{title}, %" if figure is not None and figure.share else title
