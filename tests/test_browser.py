"""The page of `dlf report` in a real browser: quiet, alone, on a phone, in the dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chromium
import numpy as np
import pytest

from dlf import api
from dlf.html import Content, Mistake, render
from dlf.html.pixels import png

PROGRAM = chromium.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"needs a browser: none of {', '.join(chromium.NAMES)} is there"
)

WIDE = "document.documentElement.scrollWidth"
# what sticks out of the window, apart from what lies in a box that scrolls by itself
OUTSIDE = """[...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest(".scroll, pre, option"))
    .map((e) => e.outerHTML.slice(0, 80))"""
# WCAG 2: (L1 + 0.05) / (L2 + 0.05), L the relative luminance; at least 4.5 for text of this size
CONTRAST = """(() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, n) => a * v + (1 - a) * below[n]);
    const below = (e) => e.parentElement ? paper(e.parentElement) : [0, 0, 0];
    const paper = (e) => over(parse(getComputedStyle(e).backgroundColor), below(e));
    const written = [...document.querySelectorAll("h1, h2, h3, p, td, th, dt, dd, li, a, small, caption, summary")];
    return Math.min(...written.filter((e) => e.innerText && e.getClientRects().length).map((e) => {
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(paper(e))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }));
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    assert PROGRAM is not None
    with chromium.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a run on images, of one in the plane, and of one with which something is wrong."""
    runs = tmp_path_factory.mktemp("runs")
    size = {"train": {"epochs": 4, "device": "cpu"}}
    images = {
        "data": {"type": "digits", "validation": 0.2},
        "model": {"layers": [{"type": "linear", "units": 16}]},
        **size,
    }
    plane = {"data": {"type": "spiral", "validation": 0.2}, "model": {"activation": "tanh"}, **size}
    sick = {**images, "optimizer": {"type": "adam", "lr": 30}}
    given = {"images": images, "plane": plane, "sick": sick}
    made = {name: api.train(config, runs=runs, name=name) for name, config in given.items()}
    return {name: api.report(result.run, runs=runs) for name, result in made.items()}


@pytest.mark.parametrize("name", ["images", "plane", "sick"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
def test_a_page_is_quiet_alone_and_fits(
    browser: chromium.Browser, pages: dict[str, Path], name: str, dark: bool, width: int
) -> None:
    browser.show(pages[name], width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.run(WIDE) <= width
    assert browser.run(OUTSIDE) == []
    assert browser.run(CONTRAST) >= 4.5
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_what_the_doctor_found_is_seen(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["sick"], width=375)
    listed = browser.run("[...document.querySelectorAll('#doctor .findings li')].map((item) => item.innerText)")
    assert listed
    assert all(text.startswith(("FAIL ", "WARN ")) for text in listed)
    browser.run("document.querySelector('a[href=\"#doctor\"]').click()")
    assert browser.run("Math.abs(document.getElementById('doctor').getBoundingClientRect().top)") < 60
    browser.show(pages["images"])
    assert browser.run("document.querySelector('#doctor p').innerText").startswith("Nothing found: ")


def test_the_dark_is_dark(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    lightness = "Number(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0])"
    browser.show(pages["plane"])
    assert browser.run(lightness) > 240
    browser.show(pages["plane"], dark=True)
    assert browser.run(lightness) < 40


def test_the_slider_changes_the_picture(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["plane"], width=375)
    picture, shown = (
        "document.querySelector('#plane image').getAttribute('href')",
        "document.getElementById('shown').value",
    )
    last = browser.run(picture)
    assert browser.run(shown) == "4"
    browser.run("document.getElementById('epoch').focus()")
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            browser.ask(
                "Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37
            )
    assert browser.run(shown) == "1"
    first = browser.run(picture)
    assert first != last
    frames = browser.run("JSON.parse(document.getElementById('frames').textContent).frames")
    assert (first, last) == (frames[0], frames[3])
    assert browser.complaints() == []


def test_the_pointer_reads_values(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["images"])
    box = browser.run(
        "(() => { const b = document.querySelector('[data-chart] svg[viewBox]').getBoundingClientRect();"
        " return [b.x + b.width * 0.97, b.y + b.height / 2]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    told = browser.run("document.querySelector('[data-chart] output').value")
    assert re.fullmatch(r"epoch 4: training [\d.]+, validation [\d.]+", told), told


def test_it_prints(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["images"])
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 15


def test_names_without_end_and_in_markup_stay_text_and_inside(browser: chromium.Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=console.log(1)>" + "w" * 300
    record: dict[str, Any] = {
        "epoch": 1,
        "step": 1,
        "lr": 1e-9,
        "train_loss": 1e30,
        "train_accuracy": 0.0,
        "seconds": 1e9,
    }
    page = tmp_path / "evil.html"
    info = dict.fromkeys(("id", "status", "started", "fallback_reason", "data", "requested_data"), evil)
    found = {
        **{"loss": 1.0, "accuracy": 0.0, "accuracy_interval": {"low": 0.0, "high": 0.5}, "samples": 2, "test_looks": 1},
        "confusion_matrix": [[0, 1], [1, 0]],
        "confusions": [{"true": evil, "said": evil, "count": 1, "share": 1.0}],
    }
    layer = {"index": "0", "type": evil, "shape": (2,), "activation": "", "parameters": 10**12}
    content = Content(
        title=evil, info={**info, "classes": [evil, evil]}, records=[record], best=record, headline="accuracy",
        config=evil, source=evil, architecture=b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        summary={"parameters": 10**12, "layers": [layer]}, assessed=found,
        mistakes=[Mistake(0, 1.0, evil, evil, 0.5, png(np.zeros((2, 2))))], checkpoint=evil,
    )  # fmt: skip
    page.write_text(render(content), encoding="utf-8")
    browser.show(page, width=375)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run(WIDE) <= 375
    assert browser.run("document.querySelector('h1').textContent") == evil


def test_a_page_that_complains_is_heard(browser: chromium.Browser, tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text(
        "<div style='width:900px'>x</div><img src='http://127.0.0.1:9/x.png'><script>console.log(1); nope()</script>"
    )
    browser.show(page, width=375)
    kinds = {event["method"] for event in browser.complaints()}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"} <= kinds
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert browser.run(WIDE) > 375 or browser.run(OUTSIDE) != []
