"""The page of `dlf explain`: whole without JavaScript, walked through with it, on a phone, in the dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser as chromium
import pytest
from test_browser import CONTRAST, OUTSIDE, PROGRAM, WIDE
from test_html import EVIL, checked

import dlf
from dlf.commands.explain import Explanation
from dlf.html.walk import is_small, render_walk, write_walk

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="needs a browser")
BLOCK: dict[str, Any] = {
    "data": {"type": "digits", "limit": 200},
    "model": {"layers": [{"type": "conv2d", "channels": 2}, {"type": "residual", "layers": [{"type": "prelu"}]}]},
}


@pytest.fixture(scope="module")
def small() -> Explanation:
    return dlf.explain("xor")


@pytest.fixture(scope="module")
def large() -> Explanation:
    return dlf.explain("digits")


def titles(page: str) -> list[str]:
    return re.findall(r'<section class="step[^>]*>\s*<h2>([^<]*)</h2>', page)


def test_every_step_stands_in_the_page(small: Explanation) -> None:
    page = render_walk(small)
    checked(page)
    forward, back = ["Layer 0, linear: forward", "Layer 1, linear: forward"], ["Layer 1, linear: backward"]
    assert titles(page) == [
        "Input", *forward, "Loss: binary_cross_entropy", *back, "Layer 0, linear: backward",
        "Layer 0, linear: update", "Layer 1, linear: update", "Check",
    ]  # fmt: skip
    assert "<svg" in page
    assert page.count('class="node"') == 2 + 4 + 1
    assert page.count('class="edge') == 2 * 4 + 4


def test_sums_are_written_out_with_their_numbers(small: Explanation) -> None:
    """The line of a sum, computed anew from its own rounded numbers, gives what stands behind it."""
    lines = re.findall(r"<li>((?:z|dL/dx|dL/dz|W)[\d,]+ = [^<]*)</li>", render_walk(small).replace("&#39;", "'"))
    assert len(lines) == 4 + 1 + 4 + 2 + 4 + 12  # z, z, dL/dx, dL/dx, dL/dz of elu, W
    for line in lines:
        *_, sum_, result = line.split(" = ")
        written = sum_.replace("\N{MULTIPLICATION SIGN}", "*")
        assert re.fullmatch(r"[-+*(). 0-9e]+", written)
        assert eval(written) == pytest.approx(float(result), abs=2e-3)  # four digits each


def test_a_large_network_is_a_strip_with_single_neurons(large: Explanation) -> None:
    page = render_walk(large)
    checked(page)
    assert not is_small(large)
    assert "<svg" not in page
    assert page.count("the unit with the largest |dL/dz|") == 3 * 3  # forward, backward, update of three layers


def test_every_network_has_a_page() -> None:
    for config in (BLOCK, {"data": {"type": "diabetes"}}, {"data": {"type": "iris"}, "model": {"layers": []}}):
        page = render_walk(dlf.explain(config))
        checked(page)
        assert re.findall(r">\s*(?:nan|None|inf)\s*<", page) == []


def test_names_stay_text_and_no_host_is_named(small: Explanation) -> None:
    page = render_walk(replace(small, name=EVIL, data=EVIL, run=EVIL, truth=EVIL, classes=(EVIL, EVIL), notes=(EVIL,)))
    assert checked(page).seen.count("script") == 1
    assert "default-src 'none'" in page
    assert re.findall(r"(?:https?:)?//[\w.]+", page.replace("// ", "")) == []


def test_a_file_is_replaced(small: Explanation, tmp_path: Path) -> None:
    file = tmp_path / "walk.html"
    file.write_text("old")
    write_walk(small, file)
    assert file.read_text(encoding="utf-8") == render_walk(small)


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    assert PROGRAM is not None
    with chromium.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def pages(small: Explanation, large: Explanation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("walks")
    for name, found in (("small", small), ("large", large)):
        write_walk(found, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in ("small", "large")}


@needs_browser
@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
def test_a_page_is_quiet_alone_and_fits(
    browser: chromium.Browser, pages: dict[str, Path], name: str, dark: bool, width: int
) -> None:
    browser.show(pages[name], width=width, dark=dark)
    assert browser.requests() == [pages[name].as_uri()]
    for _ in range(2):  # one step, and all of them
        assert browser.run(WIDE) <= width
        assert browser.run(OUTSIDE) == []
        assert browser.run(CONTRAST) >= 4.5
        browser.run("document.getElementById('all').click()")
    assert browser.complaints() == []


SHOWN = "[...document.querySelectorAll('.step')].filter((s) => s.getClientRects().length).map((s) => s.id)"
VALUES = """[...document.querySelectorAll(".node .value")]
    .map((v) => getComputedStyle(v).visibility === "visible" ? v.textContent : "")"""


def press(browser: chromium.Browser, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@needs_browser
def test_steps_are_walked_forward_and_back(
    browser: chromium.Browser, pages: dict[str, Path], small: Explanation
) -> None:
    browser.show(pages["small"])
    assert browser.run(SHOWN) == ["step-1"]
    assert browser.run(VALUES)[2:] == [""] * 5  # nothing but the input is known yet
    press(browser, "ArrowRight", 39)
    browser.run("document.getElementById('on').click()")
    assert browser.run(SHOWN) == ["step-3"]
    assert browser.run("document.getElementById('where').value") == "3 of 9"
    outputs = browser.run(VALUES)
    assert float(outputs[-1]) == pytest.approx(small.output.mean, rel=1e-3)
    press(browser, "End", 35)
    assert browser.run(SHOWN) == ["step-9"]
    assert browser.run("document.getElementById('on').disabled")
    gradients = browser.run(VALUES)
    assert float(gradients[-1]) == pytest.approx(small.loss_gradient.mean, rel=1e-3)
    press(browser, "ArrowRight", 39)  # the end stays the end
    press(browser, "ArrowLeft", 37)
    assert browser.run(SHOWN) == ["step-8"]
    press(browser, "Home", 36)
    assert browser.run(VALUES)[2:] == [""] * 5
    browser.run("document.querySelectorAll('.steps a')[4].click()")
    assert browser.run(SHOWN) == ["step-5"]
    browser.run("document.getElementById('all').click()")
    assert len(browser.run(SHOWN)) == 9
    assert browser.complaints() == []


@needs_browser
def test_without_javascript_all_steps_are_there(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.show(pages["small"])
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert len(browser.run(SHOWN)) == 9
    assert browser.run("document.body.className") == ""


@needs_browser
def test_all_steps_are_printed(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["small"])
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert len(browser.run(SHOWN)) == 9
    browser.ask("Emulation.setEmulatedMedia", media="")
    assert browser.pdf().startswith(b"%PDF-")
