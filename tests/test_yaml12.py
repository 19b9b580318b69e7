"""What is proven of dlf/yaml12.py: the structure is what PyYAML finds, places are true, dump and parse are inverse.

References: data and places written out by hand; the text itself, in which every place is found again; PyYAML's own
loader for what a reader of YAML 1.1 finds. Data are compared by their repr, which tells 1 from 1.0 and True, 0.0 from
-0.0, keeps the order of keys, and finds NaN equal to NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dlf.yaml12 import Place, YamlError, dump, parse, parse_scalar_or_flow
from dlf.yaml12_scalars import write

# --- structure --------------------------------------------------------------------------------------------------------

EXPERIMENT = """\
# a comment
name: größe   # another
seed: 0
data: {type: mnist, validation: 5000, "batch size": 128}
model:
  activation: relu
  layers:
    - {type: linear, units: 512}
    - type: dropout
      rate: 0.2
    - - nested
      - [1, 2.5, null]
optimizer: &sgd
  type: sgd
  lr: 1e-3
other: *sgd
notes: |
  two
  lines
folded: >-
  one
  line
empty:
"""
EXPERIMENT_DATA = {
    "name": "größe",
    "seed": 0,
    "data": {"type": "mnist", "validation": 5000, "batch size": 128},
    "model": {
        "activation": "relu",
        "layers": [
            {"type": "linear", "units": 512},
            {"type": "dropout", "rate": 0.2},
            ["nested", [1, 2.5, None]],
        ],
    },
    "optimizer": {"type": "sgd", "lr": 0.001},
    "other": {"type": "sgd", "lr": 0.001},
    "notes": "two\nlines\n",
    "folded": "one line",
    "empty": None,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_experiment(newline: str, mark: str) -> None:
    assert repr(parse(mark + EXPERIMENT.replace("\n", newline)).data) == repr(EXPERIMENT_DATA)


def test_keys_are_their_text() -> None:
    assert list(parse("1: a\nnull: b\ntrue: c\n1e-3: d\n'x y': e\n~: f\n? g\n: h").data) == [
        "1",
        "null",
        "true",
        "1e-3",
        "x y",
        "~",
        "g",
    ]


def test_an_alias_is_a_copy() -> None:
    data = parse("a: &x {b: [1]}\nc: *x\nd: [*x, *x]").data
    data["a"]["b"].append(2)
    assert data["c"] == {"b": [1]}
    assert data["d"][0] is not data["d"][1]


def test_the_latest_anchor_counts() -> None:
    assert parse("[&a 1, *a, &a [2, &b 3], *a, *b]").data == [1, 1, [2, 3], [2, 3], 3]


@pytest.mark.parametrize("text", ["a", "[1]", "- 1\n- 2", "null", "''", "%YAML 1.2\n---\n5", "--- a\n..."])
def test_any_value_may_be_the_top(text: str) -> None:
    assert repr(parse(text).data) == repr(yaml.safe_load(text))


# --- places -----------------------------------------------------------------------------------------------------------


def text_at(text: str, place: Place) -> str:
    return re.split("\r\n|\n|\r", text)[place.line - 1][place.column - 1 :]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_places_of_an_experiment(newline: str) -> None:
    text = EXPERIMENT.replace("\n", newline)
    document = parse(text)
    begins: dict[tuple[str | int, ...], tuple[str, str]] = {
        ("name",): ("name:", "größe"),
        ("seed",): ("seed:", "0"),
        ("data",): ("data:", "{type: mnist"),
        ("data", "batch size"): ('"batch size":', "128}"),
        ("model", "layers"): ("layers:", "- {type: linear"),
        ("model", "layers", 0, "units"): ("units:", "512}"),
        ("model", "layers", 1, "rate"): ("rate:", "0.2"),
        ("model", "layers", 2): ("- nested", "- nested"),
        ("model", "layers", 2, 1, 2): ("null]", "null]"),
        ("optimizer", "lr"): ("lr:", "1e-3"),
        ("other",): ("other:", "*sgd"),
        ("other", "lr"): ("lr:", "1e-3"),
        ("notes",): ("notes:", "|"),
    }
    for path, (key, value) in begins.items():
        assert text_at(text, document.place(path, at_key=True)).startswith(key)
        assert text_at(text, document.place(path)).startswith(value)
    assert document.place(("model", "layers", 1, "rate")) == (10, 13)  # counted by hand


def test_place_of_a_path_that_does_not_exist() -> None:
    document = parse("a:\n  b: 1\n")
    assert document.place(()) == (1, 1)
    assert document.place(("x",)) == (1, 1)
    assert document.place(("a", "x", 3)) == document.place(("a",)) == (2, 3)
    assert document.place(("a", "b", "x")) == (2, 6)


def test_columns_count_characters_and_a_byte_order_mark_is_none() -> None:
    assert parse("{größe😀: 1, b: 2}").place(("b",), at_key=True) == (1, 13)
    assert parse("\ufeffa: 1").place(("a",), at_key=True) == (1, 1)


WORDS = st.text(min_size=1, max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
# Text that some reader takes for something else, one between two bars.
LOOKALIKES = r"""null|~|| |true|<<|=|---|...|- a|a: b|a #b|#|&a|*a|!a|{|[1]|'|"|\|@|%a|>-|?|1.5e+3|1:30.5|.nan|-.inf|
a  b| a|a |1e3|no|On|y|012|1:30|1_000|0b1|0o17|0x1F|2026-11-23|5.|.5|+7|C:\x|Off|NULL|/data/x"""
TRICKY = st.sampled_from([*re.split(r"[|\n]", LOOKALIKES), "\t", "\0", "\x85", "\u2028", "\ufeff", "😀", "a\nb", "|"])
DATA = st.recursive(
    SCALARS | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | TRICKY, inner, max_size=4),
    max_leaves=12,
)


def leaves(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    if not data or not isinstance(data, dict | list):
        return [(path, data)]
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return [leaf for key, value in items for leaf in leaves(value, (*path, key))]


def misplaced(text: str, data: Any, place: Callable[..., Place]) -> list[tuple[str | int, ...]]:
    """The leaves which are not found where `place` says that they are."""
    wrong = []
    for path, value in leaves(data):
        written = write(value) if not isinstance(value, dict | list) else "{}" if isinstance(value, dict) else "[]"
        found = text_at(text, place(path)).startswith(written)
        if path and isinstance(path[-1], str):
            found &= text_at(text, place(path, at_key=True)).startswith(write(path[-1]) + ":")
        wrong += [] if found else [path]
    return wrong


@given(DATA)
def test_every_leaf_is_where_its_place_says(data: Any) -> None:
    text = dump(data)
    assert not misplaced(text, data, parse(text).place)


def test_places_counted_from_0_are_found_out() -> None:
    def from_0(path: tuple[str | int, ...], at_key: bool = False) -> Place:
        line, column = parse("a: 1\nb: 2\n").place(path, at_key)
        return Place(line, column - 1)

    assert misplaced("a: 1\nb: 2\n", {"a": 1, "b": 2}, from_0)


# --- dump -------------------------------------------------------------------------------------------------------------


def returns(data: Any, writer: Callable[[Any], str], reader: Callable[[str], Any]) -> bool:
    return repr(reader(writer(data))) == repr(data)


@given(DATA)
def test_parse_undoes_dump(data: Any) -> None:
    assert returns(data, dump, lambda text: parse(text).data)


@given(DATA)
def test_a_reader_of_yaml_1_1_finds_the_same(data: Any) -> None:
    assert returns(data, dump, yaml.safe_load)


@pytest.mark.parametrize("data", ["1e3", "0o17"])
def test_a_writer_of_yaml_1_1_does_not_pass(data: str) -> None:
    assert not returns(data, yaml.safe_dump, lambda text: parse(text).data)


def test_dump_is_pleasant_to_read() -> None:
    data = {
        "name": "my run",
        "lr": 1e-5,
        "flag": "no",
        "betas": (0.9, 0.999),
        "layers": [{"type": "linear", "units": 512}, {"type": "relu"}],
        "deep": [[1, 2], [], {}, [["a"]]],
        "long": list(range(100, 128)),
        "none": None,
        "path": "/data/é.csv",
    }
    lines = [
        "name: my run",
        "lr: 1.0e-05",
        'flag: "no"',
        "betas: [0.9, 0.999]",
        "layers:",
        "  - type: linear",
        "    units: 512",
        "  - type: relu",
        "deep:",
        "  - [1, 2]",
        "  - []",
        "  - {}",
        "  - - - a",
        "long:",
        *(f"  - {number}" for number in range(100, 128)),
        "none: null",
        "path: /data/é.csv",
    ]
    assert dump(data) == "\n".join(lines) + "\n"


@pytest.mark.parametrize("data", [{1: 2}, {None: 1}, object(), {"a": {1, 2}}, [b"x"], Path("x")])
def test_dump_refuses_what_yaml_has_no_word_for(data: Any) -> None:
    with pytest.raises(TypeError, match="written as YAML"):
        dump(data)


@pytest.mark.parametrize("data", [10**99, -(10**99), "\ud800", {"k" * 101: 1}, {"\udfff": 1}])
def test_dump_refuses_what_parse_would(data: Any) -> None:
    with pytest.raises(ValueError, match="written as YAML"):
        dump(data)


@pytest.mark.parametrize("data", [10**99 - 1, -(10**99) + 1, {"\U0001f600\x00" * 50: "x" * 5000}, 5e-324, 1.7e308])
def test_dump_at_its_limits(data: Any) -> None:
    assert returns(data, dump, lambda text: parse(text).data)


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("  ", None),
        (" 0.1 ", 0.1),
        ("[1, 2]", [1, 2]),
        ("{type: sgd, lr: 1e-3}", {"type": "sgd", "lr": 0.001}),
        ("'1'", "1"),
        ('"a b"', "a b"),
        ("a: b", "a: b"),
        ("#1", "#1"),
        ("a # b", "a # b"),
        ("- a", "- a"),
        ("*a", "*a"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("C:\\data", "C:\\data"),
        ("[]", []),
    ],
)
def test_the_value_of_an_override(text: str, value: object) -> None:
    assert repr(parse_scalar_or_flow(text)) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "{a: 1",
        "'a",
        '"a": 1',
        "'a': {b: 1}",
        "{a: 1}: 2",
        "[a]: 1",
        "{a: 1, a: 2}",
        "[1] 2",
        "[1]\n---\n2",
        "['a': !!python/name:os.system ]",
        "[*a]",
        "{" * 200,
        "a\0",
        "\udcff",
    ],
)
def test_overrides_that_are_no_value(text: str) -> None:
    with pytest.raises(YamlError):
        parse_scalar_or_flow(text)
