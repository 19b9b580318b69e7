"""docs/lesson.md holds: its commands print what it shows, its YAML loads, its formulas are what dlf computes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
from lesson import (
    COMPUTED,
    LESSON,
    ROUNDING,
    TEXT,
    TRAINED,
    Example,
    blocks,
    differences,
    examples,
    last_decimal,
    printed,
    sections,
    value,
)

from dlf import yaml12
from dlf.config import loads
from dlf.questions.topics import topics

ROOT = LESSON.parent.parent
EXAMPLES = examples(TEXT)
WHY = [example for example in EXAMPLES if example.command.startswith("dlf why ")]
SECTIONS = sections()
ORDER = [
    "Neuron",
    "Layer",
    "Activation",
    "Forward",
    "Loss",
    "Backpropagation",
    "Gradient descent",
    "Epoch and batch",
    "Overfitting and regularization",
    "Initialization",
    "Optimizers",
]


def prose(text: str) -> str:
    """The text without its fenced blocks and comments."""
    return re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# --- what a reader finds in each section ----------------------------------------------------------------------------


def test_the_sections_are_in_order() -> None:
    assert list(SECTIONS) == ORDER


@pytest.mark.parametrize("section", ORDER)
def test_a_section_says_shows_and_fits_on_a_page(section: str) -> None:
    text = SECTIONS[section]
    assert blocks("", text) or "| f(z) |" in text or "| L of " in text, "no formula"
    assert blocks("yaml", text), "no line of YAML"
    assert re.search(r"\(\.\./dlf/\w+\.py\)", text), "no file"
    assert examples(text), "no command with its output"
    assert len(prose(text).split()) < 450, "more than a page"


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_yaml_loads(block: str) -> None:
    """Laid over an experiment of digits: every key of it is known, and says something."""
    given = yaml12.parse(block).data
    assert given
    assert loads(yaml12.dump({"data": "digits", **given}), "the lesson").config


def test_links_lead_somewhere() -> None:
    anchors = {anchor(heading) for heading in SECTIONS}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, place = target.partition("#")
        if path:
            assert (LESSON.parent / path).exists(), target
        else:
            assert place in anchors, target


def test_what_dlf_refers_to_is_here() -> None:
    """Findings say where to read more: a section of the lesson, or a topic of dlf why."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "dlf").rglob("*.py"))
    places, asked = re.findall(r"lesson\.md#([\w-]+)", source), re.findall(r'"dlf why (\w+)"', source)
    assert places
    assert set(places) <= {anchor(heading) for heading in SECTIONS}
    assert set(asked) <= {topic.name for topic in topics()}


@pytest.mark.parametrize(("name", "file"), re.findall(r"`(\w+)`\s+in\s+\[[^\]]+\]\(\.\./([^)]+)\)", TEXT))
def test_a_file_holds_what_is_said_of_it(name: str, file: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)


def test_every_link_to_a_file_says_what_to_look_for() -> None:
    named = re.findall(r"`\w+`\s+in\s+\[([^\]]+)\]\(\.\./([^)]+)\)", TEXT)
    assert len(named) == len(re.findall(r"\]\(\.\./dlf/", TEXT))
    assert all(shown == file for shown, file in named)


def test_the_topics_of_dlf_why_are_all_shown() -> None:
    shown = [example.command.split()[2] for example in WHY]
    assert sorted(shown) == sorted(topic.name for topic in topics())


# --- the commands and what they print -------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.command)
def test_a_command_prints_what_is_shown(
    example: Example, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder and in order: `latest` is the run of an example before."""
    folder = tmp_path_factory.getbasetemp() / "lesson"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    found = printed(f"{example.command} {example.short}".rstrip())
    assert max(map(len, found.splitlines())) <= (130 if " | grep " in example.command else 80)
    if example.short:
        assert rows(found) == rows(example.output)
    else:
        assert not list(differences(example.output, found, example.tolerance))


def rows(output: str) -> list[str]:
    """The form of what `dlf why` prints: its question, and what the rows of its tables are about."""
    question, _, rest = output.partition("\n")
    tables, _, text = rest.partition("\nWhat happened\n")
    assert "\nWhy\n" in text
    return [question, *re.findall(r"^(\S.*?)  ", re.sub(r"\d+ epochs", "epochs", tables), re.MULTILINE)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.command)
def test_a_wrong_number_is_found(example: Example) -> None:
    """In the document's place: each number with a decimal made a third larger, each word another one."""
    text = re.sub(r"; the largest at .*", "", example.output)  # that is not compared
    numbers = [match for match in re.finditer(r"(?<![\w.,/-])\d+\.\d+(?![\w.,])", text) if float(match[0]) > ROUNDING]
    assert numbers
    for match in numbers:
        wrong = f"{text[: match.start()]}{1.35 * float(match[0]) + 0.2:.5f}{text[match.end() :]}"
        assert list(differences(wrong, text, example.tolerance)), match[0]
    for match in re.finditer(r"\b[a-z]{4,}\b", text):
        wrong = f"{text[: match.start()]}otherwise{text[match.end() :]}"
        assert list(differences(wrong, text, example.tolerance)), match[0]


@pytest.mark.parametrize("example", WHY, ids=lambda example: example.command)
def test_the_figures_of_an_output_agree(example: Example) -> None:
    """They take too long to compute again here; `python -m tests.lesson --check` does."""
    assert not disagreements(example.output)


@pytest.mark.parametrize("example", WHY, ids=lambda example: example.command)
def test_figures_that_do_not_agree_are_found(example: Example) -> None:
    difference = re.search(r"(?<= )[-+]\d[\d.]*(?=  +[-+][\d.]+ to )", example.output)
    assert difference is not None
    start, end = difference.span()
    wrong = f"{2 * float(difference[0]) + 1:+.3f}"
    assert disagreements(example.output[:start] + wrong + example.output[end:])
    text = example.output.index("What happened")
    stated = re.search(r"\d+\.\d+", example.output[text:])
    assert stated is not None
    assert disagreements(example.output[: text + stated.end()] + "7" + example.output[text + stated.end() :])


_NUMBER = r"[-+]?[\d.,]+(?:e[-+]?\d+)?"
_MEAN = re.compile(rf"^(\S.*?)  +({_NUMBER})(?: %)?  ", re.MULTILINE)
_DIFFERENCE = re.compile(
    rf"^(\S.*?) - (\S.*?)  +({_NUMBER})  +({_NUMBER}) to ({_NUMBER})  +(appears|absent|opposite)$", re.MULTILINE
)


def disagreements(output: str) -> list[str]:
    """What in an output of `dlf why` contradicts itself; what happened is told in numbers of the tables."""
    tables, _, text = output.partition("\nWhat happened\n")
    wrong = [told for study in tables.split(" samples to learn from")[1:] for told in _of_study(study)]
    shown = {value(number) for number in re.findall(_DECIMAL, tables)}
    happened = re.findall(_DECIMAL, text.partition("\nWhy\n")[0])
    return [*wrong, *(f"{number} is in no table" for number in happened if value(number) not in shown)]


def _of_study(text: str) -> Iterator[str]:
    """A difference is that of two means, in the middle of its interval; an effect is absent where that holds 0.

    The first table of differences is about the first column of means.
    """
    head, *tables = text.split("\n\n")
    mean = dict(_MEAN.findall(head))
    for table in tables:
        for first, second, difference, low, high, effect in _DIFFERENCE.findall(table):
            one, other, d, lo, hi = map(value, (mean[first], mean[second], difference, low, high))
            if table is tables[0] and abs(one - other - d) > _units(mean[first], mean[second], difference):
                yield f"{first} - {second}: {mean[first]} - {mean[second]} is not {difference}"
            if abs((lo + hi) / 2 - d) > _units(difference, low, high):
                yield f"{difference} is not in the middle of {low} to {high}"
            if (effect == "absent") != (lo <= 0 <= hi):
                yield f"{low} to {high}: {effect}"


_DECIMAL = r"\d[\d,]*\.\d+(?:e[-+]?\d+)?"


def _units(*numbers: str) -> float:
    """By how much sums of these numbers may be off, each being rounded."""
    return sum(last_decimal(number) or 1.0 for number in numbers)


def test_outputs_are_compared_as_is_said() -> None:
    def same(kept: str, found: str, tolerance: float = COMPUTED) -> bool:
        return not list(differences(kept, found, tolerance))

    assert same("loss 2.3026", "loss  2.3027")  # one unit of the last decimal
    assert not same("loss 2.3026", "loss 2.3126")
    assert not same("loss 2.3026", "penalty 2.3026")
    assert not same("x1 0.5", "x2 0.5")
    assert not same("2,080 parameters", "2,081 parameters")  # a count
    assert same("in 595 steps", "in 601 steps", TRAINED)
    assert not same("0.5", "-0.5")
    assert not same("0.5", "nan")
    assert not same("0.5 0.6", "0.5")
    assert not same("0.5", "0.5 0.6")
    assert not same("6.9e-4", "6.9e-3")
    assert same("1.1e-16", "-3.4e-17")  # rounding, which every machine does in its own way
    assert not same("1.1e-16", "1.1e-6")
    assert same("0 apart: all 3", "1.2e-16 apart: all 3; the largest at layers.0.bias[1]")
    assert same("98.2 %", "97.1 %", TRAINED)
    assert not same("98.2 %", "57.1 %", TRAINED)
    assert same("xor-20261124-101500-3f2a took 3.21s", "xor-20270102-010203-ffff took 58.1s")
    assert not same("xor-20261124-101500-3f2a", "digits-20261124-101500-3f2a and more")
    assert same("0.5 ━━━━━", "0.5 ━━")


# --- the numbers in the prose ---------------------------------------------------------------------------------------


SUM = re.compile(r"((?:exp|log|[-+*/()\d. ])* (?:exp|log|[-+*/()\d.])+) = (-?\d+(?:\.\d+)?)(?!\.?\d| [-+*/])")


def test_sums_in_the_prose_are_right() -> None:
    """Their numbers are rounded to four digits, so three factors are right to 1.5e-3."""
    sums = SUM.findall(" ".join(prose(TEXT).split()))
    assert len(sums) > 8
    for left, right in sums:
        computed = eval(left, {"exp": math.exp, "log": math.log})
        assert computed == pytest.approx(float(right), rel=1.5e-3), (left, right)


KNOWN = {
    "Activation": {0.01},  # the slope of leaky_relu
    "Loss": {round(math.log(10), 3), round(math.log(2), 3)},
}


@pytest.mark.parametrize("section", ORDER)
def test_a_number_in_the_prose_is_one_of_the_outputs(section: str) -> None:
    """Or of the YAML, or what a sum in the prose comes to."""
    text = " ".join(prose(SECTIONS[section]).split())
    sources = [*(example.output for example in examples(SECTIONS[section])), *blocks("yaml", SECTIONS[section])]
    sources += [right for _, right in SUM.findall(text)]
    known = {float(number) for number in re.findall(r"\d+\.\d+", " ".join(sources))} | KNOWN.get(section, set())
    for number in re.findall(r"(?<![\w/.])\d+\.\d+(?![\w.])", text):
        assert float(number) in known, number
