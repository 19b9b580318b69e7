"""The picture of an architecture says what the summary says, and can be read.

Shown here: every fact of the summary is in the picture, the numbers beside the boxes add up, no text lies on another
one or leaves the page or its box, skips go around their block, and the same summary gives the same bytes. What is
measured is the painted page, not the layout that dlf planned.
"""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dlf import drawing, figure_files
from dlf.activations import ACTIVATIONS
from dlf.config import ExperimentConfig
from dlf.datasets import DataSpec
from dlf.drawing import draw_architecture, figure
from dlf.errors import MachineError, UsageError
from dlf.layers import LAYERS
from dlf.losses import LOSSES
from dlf.model import LayerSummary, Summary, summarize

TEN = tuple("0123456789")
POINTS = DataSpec((2,), ("inner", "outer"))
DIGITS = DataSpec((1, 28, 28), TEN)
PHOTOS = DataSpec((3, 32, 32), TEN)


def linear(units: int, **keys: Any) -> dict[str, Any]:
    return {"type": "linear", "units": units, **keys}


def conv(channels: int, **keys: Any) -> dict[str, Any]:
    return {"type": "conv2d", "channels": channels, **keys}


def residual(*layers: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"type": "residual", "layers": list(layers), **keys}


def summary(name: str, spec: DataSpec, *layers: dict[str, Any]) -> Summary:
    config = {"name": name, "data": "digits", "model": {"layers": list(layers)}}
    return summarize(ExperimentConfig.model_validate(config), spec)


DROPOUT, NORM = {"type": "dropout", "rate": 0.2}, {"type": "batch_norm"}
PLAIN = summary("mnist", DIGITS, linear(512), DROPOUT, linear(256, activation="tanh"))
RESIDUAL = summary(
    "photos", PHOTOS, conv(16), residual(conv(16), NORM), residual(conv(32, stride=2), NORM, projection=True)
)
NESTED = summary(
    "nested", DataSpec((64,)), linear(32), residual(linear(32), residual(linear(32), residual(linear(32))))
)
SMALL = summary("xor", POINTS, linear(2, activation="tanh"))
CROWDED = summary("crowded", DataSpec((16,), TEN), *[linear(16, activation="leaky_relu")] * 5)
LONG = summary("W" * 100, DIGITS, *(linear(2 ** (11 - place // 2)) for place in range(20)))


def catalogue() -> Summary:
    """Every layer that is registered, with the longest words and the largest numbers that can stand beside it."""
    activation, loss = max(ACTIVATIONS.names(), key=len), max(LOSSES.names(), key=len)
    shape, most = (65536, 1024, 1024), 2**40
    rows = [LayerSummary("0", name, 0, False, shape, activation, "", most, 0, 0) for name in LAYERS.names()]
    block = LayerSummary("1", "residual", 0, False, shape, "", "", most, 0, 0)
    inner = LayerSummary("1.0", "linear", 1, False, shape, activation, "he_normal", 5, 0, 0)
    return replace(RESIDUAL, task="classification", loss=loss, parameters=most, layers=(*rows, block, inner))


CASES = {
    "plain": PLAIN,
    "residual": RESIDUAL,
    "nested": NESTED,
    "small": SMALL,
    "crowded": CROWDED,
    "long": LONG,
    "catalogue": catalogue(),
    "without layers": replace(PLAIN, layers=()),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
page_of = cache(figure)  # for tests that leave the page as it is


@pytest.fixture(autouse=True)
def as_written_to_files() -> Iterator[None]:
    with mpl.rc_context(figure_files.SETTINGS):  # type: ignore[arg-type]
        yield


# --- what the picture says ------------------------------------------------------------------------------------------


def words_of(case: Summary, path: Path) -> Counter[str]:
    """The words in an SVG's text elements, as a reader of the file finds them."""
    draw_architecture(case, path)
    texts = ET.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return Counter(word for text in texts for word in "".join(text.itertext()).replace(",", "").split())


def facts_of(case: Summary) -> Counter[str]:
    facts = Counter([case.task, case.loss, "input", "output", str(case.parameters)])
    for layer in case.layers:
        facts.update([layer.type, *layer.activation.split(), *map(str, layer.shape), str(layer.parameters)])
    facts.update(map(str, case.input_shape))
    return facts


@every_case
def test_every_fact_is_in_the_svg(case: Summary, tmp_path: Path) -> None:
    words = words_of(case, tmp_path / "net.svg")
    assert facts_of(case) - words == Counter()
    name = "".join(word for word in words.elements() if word in case.name)
    assert case.name in name or name == case.name


def test_a_missing_fact_is_seen(tmp_path: Path) -> None:
    without_one = replace(PLAIN, layers=PLAIN.layers[:-1])
    assert facts_of(PLAIN) - words_of(without_one, tmp_path / "net.svg") != Counter()


@pytest.mark.parametrize("case", [PLAIN, RESIDUAL, NESTED, LONG], ids=lambda case: case.name[:9])
def test_the_column_of_parameters_adds_up_to_the_total(case: Summary) -> None:
    assert sum(column(figure(case), "parameters")) == case.parameters
    assert sum(column(figure(replace(case, layers=case.layers[:-1])), "parameters")) != case.parameters


def column(page: Figure, heading: str) -> list[int]:
    """The numbers that stand right-aligned below a heading."""
    edge = next(text for text in texts_of(page) if text.get_text() == heading).get_position()[0]
    below = [text.get_text() for text in texts_of(page) if text.get_position()[0] == edge]
    return [int(word.replace(",", "")) for word in below if word != heading]


# --- that it can be read --------------------------------------------------------------------------------------------


def texts_of(page: Figure) -> list[Text]:
    return list(page.axes[0].texts)


def patches_of(page: Figure, kind: type[Any]) -> list[Any]:
    return [patch for patch in page.axes[0].patches if type(patch) is kind]


def extents(page: Figure, artists: Sequence[Any]) -> list[Bbox]:
    canvas: Any = FigureCanvasAgg(page)
    return [artist.get_window_extent(canvas.get_renderer()) for artist in artists]


def collisions(page: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other."""
    texts = texts_of(page)
    pairs = combinations(zip(texts, extents(page, texts), strict=True), 2)
    return [(a.get_text(), b.get_text()) for (a, one), (b, other) in pairs if one.overlaps(other)]


def escaped(page: Figure) -> list[str]:
    """Texts that leave the page, or stick out of a box that they stand in."""
    texts, boxes = texts_of(page), extents(page, patches_of(page, FancyBboxPatch))
    found = []
    for text, extent in zip(texts, extents(page, texts), strict=True):
        around = [box for box in boxes if box.overlaps(extent)]
        if not all(inside(extent, box) for box in [page.bbox, *around]):
            found.append(text.get_text())
    return found


def inside(inner: Any, outer: Any) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)


def crossed(page: Figure) -> list[str]:
    """Texts through which a line goes; only that of a skip may go behind the box of its projection."""
    to_pixels = page.axes[0].transData
    lines = [to_pixels.transform_path(Outline(line)) for line in lines_of(page)]
    texts = [text for text in texts_of(page) if text.get_text() != "projection"]
    return [
        text.get_text()
        for text, extent in zip(texts, extents(page, texts), strict=True)
        if any(line.intersects_bbox(extent, filled=False) for line in lines)
    ]


@every_case
def test_no_text_is_covered_or_cut(case: Summary) -> None:
    page = page_of(case)
    assert collisions(page) == []
    assert escaped(page) == []
    assert crossed(page) == []


def test_covered_and_cut_text_is_seen() -> None:
    page = figure(PLAIN)
    first, second, *_ = texts_of(page)
    first.set_position(second.get_position())
    assert collisions(page) == [(first.get_text(), second.get_text())]
    page = figure(PLAIN)
    longest = next(text for text in texts_of(page) if text.get_text() == "dropout")
    longest.set_text("dropout" * 9)
    assert escaped(page) == ["dropout" * 9]
    longest.set_text("x")
    longest.set_position((99, 0))
    assert escaped(page) == ["x"]
    page = figure(RESIDUAL)
    name = next(text for text in texts_of(page) if text.get_text() == "residual")
    name.set_position((-0.1, name.get_position()[1]))
    assert crossed(page) == ["residual"]


def border(page: Figure) -> set[int]:
    """The values of all bytes in the outermost pixels."""
    canvas: Any = FigureCanvasAgg(page)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return {int(value) for edge in edges for value in np.unique(edge)}


@every_case
def test_a_white_border_is_around_all_that_is_painted(case: Summary) -> None:
    assert border(page_of(case)) == {255}


def test_a_cut_picture_has_no_white_border() -> None:
    page = figure(PLAIN)
    page.axes[0].set_xlim(0, 3)  # the boxes are centred on 0
    assert border(page) != {255}


def test_fills_stay_apart_in_black_and_white_and_under_black_text() -> None:
    # relative luminance and contrast as in WCAG 2.1; 4.5 is its limit for text
    luminances = sorted(map(luminance, (drawing.BLUE, drawing.ORANGE, drawing.GREY)))
    steps = [(b + 0.05) / (a + 0.05) for a, b in pairwise(luminances)]
    assert min(steps) > 1.15
    assert (luminances[0] + 0.05) / (luminance(drawing.INK) + 0.05) > 4.5
    assert (luminance(drawing.WHITE) + 0.05) / (luminance(drawing.MUTED) + 0.05) > 4.5
    assert abs(luminance("#ff0000") - luminance("#0000ff")) > 0.1  # by the definition: 0.2126 and 0.0722


def luminance(colour: str) -> float:
    linear_parts = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04045 else part / 12.92 for part in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear_parts, strict=True))


# --- the shape of the network ---------------------------------------------------------------------------------------


def lines_of(page: Figure) -> list[list[tuple[float, float]]]:
    """The corners of every line; the tip of an arrow where it has one."""
    found = []
    for patch in patches_of(page, FancyArrowPatch):
        path = patch.get_path()
        starts = [*np.flatnonzero(path.codes == path.MOVETO), len(path.codes)]
        line = [tuple(point) for point in path.vertices[: starts[1]]]
        if len(starts) > 2:  # the head is a path of its own, with the tip in its middle
            line[-1] = tuple(path.vertices[starts[1] + 1])
        found.append(line)
    return found


def skips_of(page: Figure) -> list[list[tuple[float, float]]]:
    """Arrows of three pieces: aside, down and back."""
    return [line for line in lines_of(page) if len(line) == 4]


def goes_around(skip: Sequence[tuple[float, float]], page: Figure) -> bool:
    """Whether it leaves the axis x = 0, passes all boxes from there to its end, and ends at the circle of a sum."""
    (x, top), (lane, _), _, (tip, bottom) = skip
    boxes = [box for box in patches_of(page, FancyBboxPatch) if box.get_height() == drawing.HEIGHT]
    passed = [box for box in boxes if top < box.get_y() < bottom]  # y points down
    sums = [circle for circle in patches_of(page, Circle) if abs(circle.center[1] - bottom) < 1e-9]
    # the tip is set back by up to half of a line's width, 1.6 points, times the mitre of its head
    touches = any(abs(circle.center[0] - circle.radius - tip) < 0.04 for circle in sums)
    return abs(x) < 1e-9 and len(passed) > 0 and all(lane < box.get_x() for box in passed) and touches


@every_case
def test_a_skip_goes_around_every_block(case: Summary) -> None:
    page = page_of(case)
    blocks = {layer.index.rpartition(".")[0] for layer in case.layers if layer.depth}
    skips = skips_of(page)
    assert len(skips) == len(blocks)
    assert all(goes_around(skip, page) for skip in skips)


def test_a_skip_through_the_boxes_or_past_the_sum_is_seen() -> None:
    page = figure(RESIDUAL)
    start, aside, below, end = skips_of(page)[0]
    assert not goes_around([start, (-0.5, aside[1]), (-0.5, below[1]), end], page)
    assert not goes_around([start, aside, (below[0], below[1] + 0.3), (end[0], end[1] + 0.3)], page)


def test_layers_of_a_block_lie_in_its_frame_and_others_do_not() -> None:
    page = figure(RESIDUAL)
    boxes = patches_of(page, FancyBboxPatch)
    frames = [box for box in boxes if box.get_height() > 2 * drawing.HEIGHT]
    layers = [box for box in boxes if box.get_height() == drawing.HEIGHT]
    held = [sum(holds(frame, box) for box in layers) for frame in frames]
    assert held == [2, 2]  # conv2d and batch_norm each


def holds(frame: FancyBboxPatch, box: FancyBboxPatch) -> bool:
    return inside(box.get_bbox(), frame.get_bbox())


def test_only_what_dlf_put_in_is_dashed() -> None:
    for case in (PLAIN, NESTED):
        boxes = patches_of(figure(case), FancyBboxPatch)
        dashed = [box for box in boxes if box.get_linestyle() not in ("-", "solid")]
        assert len(dashed) == sum(layer.automatic for layer in case.layers)


def test_boxes_widen_with_the_logarithm_of_the_number_of_values() -> None:
    widths = [box.get_width() for box in patches_of(figure(LONG), FancyBboxPatch)]
    layers = dict(zip((layer.shape for layer in LONG.layers), widths[1:-1], strict=False))
    steps = [layers[(2 * n,)] - layers[(n,)] for n in (4, 8, 16, 32, 64, 128, 256, 512, 1024)]
    assert min(steps) > 0
    # equal steps for equal factors; the differences of numbers of about 3 keep 15 digits
    assert max(steps) - min(steps) < 1e-14 * 100


@pytest.mark.parametrize("case", [SMALL, CROWDED], ids=lambda case: case.name)
def test_a_small_dense_network_shows_units_and_weights(case: Summary) -> None:
    widths = [case.input_shape[0], *(layer.shape[0] for layer in case.layers)]
    page = page_of(case)
    ends = widths[0] + widths[-1]  # arrows in and out
    assert len(patches_of(page, Circle)) == sum(widths)
    biases = sum(widths[1:])
    assert len(lines_of(page)) - ends == case.parameters - biases


@pytest.mark.parametrize(
    "case",
    [
        summary("wide", POINTS, linear(17)),
        summary("deep", POINTS, *[linear(2)] * 6),
        summary("dropout", POINTS, linear(2), DROPOUT),
    ],
    ids=lambda case: case.name,
)
def test_what_circles_cannot_show_is_drawn_as_boxes(case: Summary) -> None:
    assert patches_of(figure(case), Circle) == []


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "signature"),
    [(".png", b"\x89PNG\r\n\x1a\n"), (".svg", b"<?xml"), (".pdf", b"%PDF-"), (".PNG", b"\x89PNG\r\n\x1a\n")],
)
def test_the_suffix_names_the_format_and_bytes_depend_on_the_summary_alone(
    suffix: str, signature: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, other = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "other"))
    draw_architecture(RESIDUAL, first)
    # what a user may have set in a matplotlibrc
    settings: dict[str, Any] = {"font.family": ["serif"], "savefig.bbox": "tight", "font.size": 3}
    for key, value in settings.items():
        monkeypatch.setitem(mpl.rcParams, key, value)  # type: ignore[misc]
    draw_architecture(RESIDUAL, second)
    draw_architecture(SMALL, other)
    assert first.read_bytes().startswith(signature)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert mpl.rcParams["font.size"] == 3


def test_without_salt_and_metadata_an_svg_would_differ_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)  # matplotlib would take its time
    files = [io.BytesIO(), io.BytesIO()]
    with mpl.rc_context({"svg.hashsalt": None}):
        for file in files:
            figure(SMALL).savefig(file, format="svg")
    assert files[0].getvalue() != files[1].getvalue()


def test_a_picture_is_wide_enough_to_read_and_never_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw_architecture(SMALL, tmp_path / "small.png")
    assert pixels_of(tmp_path / "small.png")[0] >= 800
    monkeypatch.setattr(figure_files, "MOST_PIXELS", 700)
    draw_architecture(SMALL, tmp_path / "small.png")
    assert max(pixels_of(tmp_path / "small.png")) in (699, 700)  # rounded to whole pixels


def pixels_of(png: Path) -> tuple[int, int]:
    """Width and height, from the header: bytes 16-24 (PNG specification, 11.2.2)."""
    header = png.read_bytes()
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


@pytest.mark.parametrize("name", ["net.jpg", "net", "png", ".svg", "net.svg.gz"])
def test_another_suffix_is_a_usage_error_that_names_the_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf") as caught:
        draw_architecture(PLAIN, tmp_path / name)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    for path in (tmp_path / "none" / "net.svg", tmp_path / "file" / "net.svg", tmp_path / "folder.svg"):
        with pytest.raises(MachineError, match="cannot write the picture") as caught:
            draw_architecture(SMALL, path)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 5


def test_matplotlib_waits_until_something_is_drawn_and_pyplot_for_ever() -> None:
    code = "import dlf.drawing, sys; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert "pyplot" not in Path(drawing.__file__).read_text(encoding="utf-8")
