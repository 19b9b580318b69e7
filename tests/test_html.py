"""The page of `dlf report` and its parts: points stand where the numbers say, and what users wrote stays text."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn_from
from hypothesis import strategies as st
from PIL import Image

from dlf.html import Content, Mistake, charts, pixels, render
from dlf.html.charts import Series, axis, line_chart, log_ticks, round_ticks, short
from dlf.html.page import INSIDE, inside

EVIL = "<script>alert(1)</script>\"'&"


# --- charts ---------------------------------------------------------------------------------------------------------


def lines_of(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a chart, in units of the page."""
    body = svg.split("<figcaption>", maxsplit=1)[0]
    paths = re.findall(r'<g class="s\d d\d"><path d="([^"]*)"', body)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)] for path in paths]


def test_points_stand_where_the_records_say() -> None:
    losses = [0.9, 0.5, 0.45, 0.44]
    (points,) = lines_of(line_chart("Loss", [1, 2, 3, 4], [Series("training", losses)], y_name="loss"))
    xs, ys = zip(*points, strict=True)
    # a straight map from numbers to places, y downwards: equal steps of epochs are equally wide, and 0.9 - 0.5 is
    # eight times as high as 0.5 - 0.45; a place is rounded to a tenth
    assert np.diff(xs) == pytest.approx([np.diff(xs).mean()] * 3, abs=0.1)
    assert (ys[0] - ys[1]) / (0.9 - 0.5) == pytest.approx((ys[0] - ys[3]) / (0.9 - 0.44), rel=0.01)
    assert ys[0] < ys[1] < ys[2] < ys[3]
    chart = line_chart("Loss", [1, 2, 3, 4], [Series("training", losses)], y_name="loss")
    data = json.loads(re.search(r'data-chart="([^"]*)"', chart).group(1).replace("&quot;", '"'))  # type: ignore[union-attr]
    assert data["series"] == [{"name": "training", "y": losses}]
    assert data["left"] == list(xs)


def test_a_logarithmic_axis_makes_equal_factors_equally_high() -> None:
    (points,) = lines_of(line_chart("t", [1, 2, 3], [Series("a", [1e-4, 1e-2, 1.0])], y_name="y", log=True))
    ys = [y for _, y in points]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)
    (points,) = lines_of(line_chart("t", [1, 2, 3], [Series("a", [0.0, 1e-2, 1.0])], y_name="y", log=True))
    assert points[1][1] - points[2][1] > 50 * (points[0][1] - points[1][1])  # a zero has no logarithm: linear then


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_a_hole_breaks_the_line(hole: float | None) -> None:
    chart = line_chart("t", [1, 2, 3, 4], [Series("a", [1.0, 2.0, hole, 3.0])], y_name="y")
    path = re.findall(r'<g class="s0 d0"><path d="([^"]*)"', chart)[0]
    assert re.sub(r"[-\d. ]", "", path) == "MLM"


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1e-30, 1e30], [-5.0, 3.0], [7.0, 7.0, 7.0]])
def test_any_numbers_stay_inside(values: Sequence[float]) -> None:
    for log in (False, True):
        chart = line_chart("t", range(1, len(values) + 1), [Series("a", values)], y_name="y", log=log)
        for x, y in lines_of(chart)[0]:
            assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
            assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("t", [1, 2], [Series("a", [None, None])], y_name="y") == ""
    assert line_chart("t", [], [], y_name="y") == ""


def test_lines_differ_without_colour() -> None:
    assert len({charts._style(n) for n in range(36)}) == 36
    assert len({charts._style(n).split()[1] for n in range(6)}) == 6


@drawn_from(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), 1):
        return
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * width <= tick <= high + 1e-6 * width for tick in ticks)
    steps = np.diff(ticks)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6, abs=1e-9)


def test_ticks_known_by_hand() -> None:
    assert round_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert round_ticks(1, 100, whole=True) == [20, 40, 60, 80, 100]
    assert round_ticks(1, 2, whole=True) == [1, 2]
    assert log_ticks(0.02, 0.9) == [0.02, 0.05, 0.1, 0.2, 0.5, 1]
    assert log_ticks(1e-6, 1) == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]
    assert axis(0.013, 0.98, 100, 0).low == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00012345, "1.234e-4"),
        (1200.0, "1200"),
        (0.0015, "0.0015"),
        (5e-4, "5e-4"),
        (2.5e7, "2.5e7"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (0.0, "0"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert short(value) == text


def test_every_chart_has_a_name_and_a_description_and_escapes_both() -> None:
    chart = line_chart(EVIL, [1], [Series(EVIL, [1.0])], y_name=EVIL, mark=1)
    assert "<script>" not in chart
    assert '<desc id="' in chart
    label = re.search(r'aria-labelledby="([^"]*)"', chart)
    assert label is not None
    assert all(f'id="{name}"' in chart for name in label.group(1).split())


def test_a_reliability_diagram_has_a_bar_of_the_right_height_for_each_bin() -> None:
    bins: list[dict[str, float | None]] = [
        {"low": 0.0, "high": 0.5, "accuracy": None},
        {"low": 0.5, "high": 0.75, "accuracy": 0.25},
        {"low": 0.75, "high": 1.0, "accuracy": 1.0},
    ]
    heights = [float(h) for h in re.findall(r'class="bar"[^>]*height="([\d.]+)"', charts.reliability(bins))]
    assert heights == pytest.approx([60, 240])  # a quarter of the side, and all of it


# --- pictures -------------------------------------------------------------------------------------------------------


def opened(uri: str) -> np.ndarray[Any, Any]:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (28, 28), (4, 6, 3)])
def test_a_png_is_read_back_by_another_program(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(opened(pixels.png(values)), values)


def test_images_are_stretched_between_black_and_white() -> None:
    image = np.array([[[0.0, 2.0], [4.0, 8.0]]])
    assert opened(pixels.picture(image, 0, 8)).tolist() == [[0, 64], [128, 255]]
    colours = np.zeros((3, 2, 2), np.uint8)
    colours[1] = 255
    assert opened(pixels.picture(colours, 0, 255))[0, 0].tolist() == [0, 255, 0]


def test_signs_have_their_colours() -> None:
    drawn = opened(pixels.signed(np.array([[-2.0, 0.0, 1.0, 2.0]])))
    assert drawn[0, 0].tolist() == list(pixels.BLUE)
    assert drawn[0, 1].tolist() == [255, 255, 255]
    assert drawn[0, 3].tolist() == list(pixels.VERMILION)
    assert (drawn[0, 2] > drawn[0, 3]).any()  # half as strong
    assert opened(pixels.signed(np.zeros((2, 2)))).min() == 255


def test_the_lowest_row_of_a_map_is_below_and_doubt_is_pale() -> None:
    label = np.array([[0, 0], [1, 1]])
    drawn = opened(pixels.areas(label, np.array([[1.0, 0.5], [1.0, 0.5]]), 2)).astype(int)
    blue, orange = (np.array(colour) for colour in pixels.CLASSES[:2])
    assert np.abs(drawn[1, 0] - blue).sum() < np.abs(drawn[1, 0] - orange).sum()
    assert np.abs(drawn[0, 0] - orange).sum() < np.abs(drawn[0, 0] - blue).sum()
    assert drawn[:, 1].sum() > drawn[:, 0].sum()


# --- the page -------------------------------------------------------------------------------------------------------


def content(**changes: Any) -> Content:
    layer = {"index": "0", "type": "linear", "shape": (2,), "activation": "relu", "parameters": 6}
    record = {"epoch": 1, "step": 4, "lr": 0.1, "train_loss": 0.7, "train_accuracy": 0.5, "val_loss": None,
              "val_accuracy": 0.25, "seconds": 0.5}  # fmt: skip
    given: dict[str, Any] = {
        "title": "tiny", "records": [record], "best": record, "headline": "accuracy", "config": "data: xor\n",
        "info": {"id": "tiny-1", "status": "completed", "started": "2026-01-01T00:00:00", "fallback_reason": None,
                 "data": "xor", "requested_data": "xor", "classes": ["a", "b"], "task": "binary"},
        "source": "data: xor\n", "architecture": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "summary": {"parameters": 6, "layers": [layer]}, **changes,
    }  # fmt: skip
    return Content(**given)


def assessed(counts: list[list[int]]) -> dict[str, Any]:
    return {"loss": 0.5, "accuracy": 0.5, "accuracy_interval": {"low": 0.1, "high": 0.9}, "samples": 4,
            "test_looks": None, "confusion_matrix": counts, "confusions": [], "per_class": []}  # fmt: skip


class Tags(HTMLParser):
    """What is nested in what: every tag that is opened is closed, in the right order."""

    VOID = {"meta", "link", "img", "input", "br", "path", "line", "circle", "rect", "image"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag, (tag, self.getpos())


def checked(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_a_page_of_little_is_whole() -> None:
    absent = {"answers": "There is no checkpoint yet."}
    for given in (content(), content(records=[], best=None), content(missing=absent)):
        checked(render(given))
    assert absent["answers"] in render(content(missing=absent))


def test_the_confusion_matrix_is_that_of_the_numbers() -> None:
    page = render(content(assessed=assessed([[7, 1], [2, 5]])))
    table = page.split('class="confusion"')[1].split("</table>")[0]
    rows = [re.findall(r"<td class=\"(\w+)[^>]*>(\d*)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [[("hit", "7"), ("miss", "1")], [("miss", "2"), ("hit", "5")]]  # a row for each true class
    assert "--share:0.935" in table  # sqrt(7 / 8)


def test_many_classes_have_no_matrix() -> None:
    names = [str(n) for n in range(26)]
    given = content(assessed=assessed(np.eye(26, dtype=int).tolist()))
    given.info["classes"] = names  # type: ignore[index]
    assert 'class="confusion"' not in render(given)


def test_what_users_wrote_stays_text() -> None:
    mistake = Mistake(3, 2.0, EVIL, EVIL, 0.9, None, EVIL)
    given = content(
        title=EVIL, source=EVIL, config=EVIL, split="test", checkpoint=EVIL, mistakes=[mistake],
        missing={"curves": EVIL},
        assessed={**assessed([[1, 1], [1, 1]]), "confusions": [{"true": EVIL, "said": EVIL, "count": 1, "share": 0.5}]},
    )  # fmt: skip
    given.info.update({"classes": [EVIL, "b"], "data": EVIL, "fallback_reason": EVIL, "more": {EVIL: [EVIL]}})  # type: ignore[attr-defined]
    page = render(given)
    tags = checked(page)
    assert tags.seen.count("script") == 1  # our own
    assert "alert(1)</script>" not in page


def test_the_page_names_no_other_host() -> None:
    page = render(content())
    assert re.findall(r"(?:https?:)?//[\w.]+", page.replace("// ", "")) == []
    assert "default-src 'none'" in page


def test_frames_of_the_plane_cannot_end_their_script() -> None:
    grid = base64.b64encode(bytes(4)).decode()
    place = {"size": 2, "x": [0.0, 1.0], "y": [0.0, 1.0]}
    boundary = [{"epoch": n, **place, "label": grid, "confidence": grid} for n in (1, 2, 3)]
    page = render(content(boundary=boundary, points=[(0.5, 0.5, 1)], axes=(EVIL, "y")))
    checked(page)
    frames = json.loads(page.split('id="frames">')[1].split("</script>")[0])
    assert frames["epochs"] == [1, 2, 3]
    assert all(opened(frame).shape == (2, 2, 3) for frame in frames["frames"])


def layers_of(**numbers: Sequence[float | None]) -> list[dict[str, Any]]:
    """layers.jsonl of one layer with these numbers, epoch by epoch."""
    epochs = len(next(iter(numbers.values())))
    return [
        {"epoch": n + 1, "step": 4 * n + 4, "layers": [{"layer": "0", "module": "Linear",
                                     **{key: numbers.get(key, [None] * epochs)[n] for key, *_ in INSIDE}}]}
        for n in range(epochs)
    ]  # fmt: skip


def test_statistics_that_say_nothing_are_left_out() -> None:
    found = inside(layers_of(std=[1.0, 2.0], zeros=[0.0, 0.0], saturated=[None, None]), 4)
    assert len(found) == 1
    assert "Spread of the outputs" in found[0]
    assert inside([], 4) == []
