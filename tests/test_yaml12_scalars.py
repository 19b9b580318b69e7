"""What is proven of the scalars of YAML: they mean what YAML 1.2 says, and are written so that all readers agree.

References: the tables of YAML 1.2.2, section 10.3.2, written out below; Decimal for the value of a number; PyYAML's
own loader for what a reader of YAML 1.1 finds. C5 and C6 are rows of the list of faults. Values are compared by their
repr, which tells 1 from 1.0 and True, 0.0 from -0.0, and finds NaN equal to NaN.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dlf.yaml12 import YamlError, parse, parse_scalar_or_flow
from dlf.yaml12_scalars import resolve, write

# The regular expressions of section 10.3.2, in its order; the first that fits decides.
CORE_SCHEMA: list[tuple[type, str]] = [
    (type(None), r"null|Null|NULL|~|"),
    (bool, r"true|True|TRUE|false|False|FALSE"),
    (int, r"[-+]?[0-9]+"),
    (int, r"0o[0-7]+"),
    (int, r"0x[0-9a-fA-F]+"),
    (float, r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    (float, r"[-+]?(\.inf|\.Inf|\.INF)"),
    (float, r"\.nan|\.NaN|\.NAN"),
]
LEADING_ZERO = r"[-+]?0[0-9]+"  # our one deviation: octal to readers of YAML 1.1, so text to us

EXAMPLE_10_9 = """\
A null: null
Booleans: [ true, True, false, FALSE ]
Integers: [ 0, 0o7, 0x3A, -19 ]
Floats: [
  0., -0.0, .5, +12e03, -2E+05 ]
Also floats: [
  .inf, -.Inf, +.INF, .NAN ]
"""
MEANINGS = {
    "1e-3": 0.001,  # C5
    "1E3": 1000.0,  # C5
    ".5": 0.5,  # C5
    "5.": 5.0,
    "+12e03": 12000.0,
    "-0": 0,
    "+7": 7,
    "0o17": 15,
    "0x1F": 31,
    "no": "no",  # C6, and all below: never a boolean, an octal number or base 60
    "on": "on",
    "Yes": "Yes",
    "y": "y",
    "012": "012",
    "-08": "-08",
    "00": "00",
    "1:30": "1:30",
    "1_000": "1_000",
    "0b101": "0b101",
    "2026-11-23": "2026-11-23",
    "tRUE": "tRUE",
    "-0x1F": "-0x1F",
    ".": ".",
    "e3": "e3",
    "1e": "1e",
    ".e3": ".e3",
    "nan": "nan",
    "inf": "inf",
    "+.nan": "+.nan",
    "١٢": "١٢",
}


def type_by_the_tables(text: str) -> type:
    if re.fullmatch(LEADING_ZERO, text):
        return str
    return next((kind for kind, pattern in CORE_SCHEMA if re.fullmatch(pattern, text)), str)


def means_what_the_tables_say(text: str, value: object) -> bool:
    kind = type_by_the_tables(text)
    if type(value) is not kind:
        return False
    if kind is str:
        return value == text
    if kind is int:
        bases = {"0o": 8, "0x": 16}
        return value == (int(text[2:], bases[text[:2]]) if text[:2] in bases else int(Decimal(text)))
    if kind is float and not re.search("[inINF]", text):
        return repr(value) == repr(float(Decimal(text)))
    return True


def test_example_10_9_of_the_specification() -> None:
    # The value that the specification prints beside the example.
    expected = {
        "A null": None,
        "Booleans": [True, True, False, False],
        "Integers": [0, 7, 58, -19],
        "Floats": [0.0, -0.0, 0.5, 12000.0, -200000.0],
        "Also floats": [math.inf, -math.inf, math.inf, math.nan],
    }
    assert repr(parse(EXAMPLE_10_9).data) == repr(expected)
    assert repr(yaml.safe_load(EXAMPLE_10_9)) != repr(expected)  # YAML 1.1, the wrong variant


@pytest.mark.fault("C5")
@pytest.mark.fault("C6")
@pytest.mark.parametrize(("text", "meaning"), MEANINGS.items())
def test_c5_c6_plain_scalars(text: str, meaning: object) -> None:
    assert repr(parse(f"key: {text}").data) == repr({"key": meaning})
    assert repr(parse(f"[{text}]").data) == repr([meaning])
    assert repr(parse_scalar_or_flow(text)) == repr(meaning)
    assert means_what_the_tables_say(text, meaning)


@pytest.mark.parametrize("text", ["1e-3", "no", "012", "1:30", "1_000", "2026-11-23", "0o17"])
def test_yaml_1_1_is_not_what_the_tables_say(text: str) -> None:
    assert not means_what_the_tables_say(text, yaml.safe_load(text))


@pytest.mark.fault("C5")
@pytest.mark.fault("C6")
@given(st.text(alphabet="0123456789+-._:~eExXobafinFINuleTRUE", max_size=8))
def test_c5_c6_every_short_word_means_what_the_tables_say(text: str) -> None:
    assert means_what_the_tables_say(text, resolve(text))


@pytest.mark.fault("C6")
@pytest.mark.parametrize("word", ["null", "~", "true", "1", "1e-3", "0x1F", ".inf", ".nan", ""])
def test_quotes_and_blocks_make_text(word: str) -> None:
    assert parse(f"'{word}'").data == word
    assert parse(f'"{word}"').data == word
    assert parse(f"|-\n  {word}\n").data == word


def test_nothing_after_a_colon_is_null() -> None:
    assert parse("a:\nb: ~\nc: {d: }").data == {"a": None, "b": None, "c": {"d": None}}


@pytest.mark.fault("C6")
@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 100, "0x" + "f" * 98, "0o" + "7" * 9000, "." + "1" * 5000])
def test_a_number_without_end_is_refused(number: str) -> None:
    for read_it in (parse, parse_scalar_or_flow):
        with pytest.raises(YamlError, match=r"number|integer"):
            read_it(number)
    assert parse(f"'{number}'").data == number


@pytest.mark.parametrize("word", ["null", "true", "false", "yes", "no", "on", "off", "y", "n"])
def test_words_of_yaml_1_1_are_written_in_quotes(word: str) -> None:
    # https://yaml.org/type/bool.html and null.html; PyYAML leaves y and n out, others do not.
    for text in (word, word.capitalize(), word.upper()):
        assert write(text) == f'"{text}"'
    assert write(word + "x") == word + "x"


@given(st.floats())
def test_a_float_written_as_python_does_is_not_one_in_yaml_1_1(number: float) -> None:
    assert repr(yaml.safe_load(write(number))) == repr(number)
    if "e" in repr(number) and "." not in repr(number):
        assert isinstance(yaml.safe_load(repr(number)), str)
