"""What is proven of dlf/yaml12.py: whatever the text or the file, the answer is data or a YamlError.

The faults C1, C2, C3, C8 and C9 are named where they are tested. References: lines and columns counted by hand;
PyYAML's BaseLoader for the structure of what is taken.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_faults import by_row
from hypothesis import given
from hypothesis import strategies as st

from dlf import yaml12
from dlf.yaml12 import Place, YamlError, dump, parse, parse_scalar_or_flow, read


def refusal(text: str) -> list[tuple[Place | None, str]]:
    with pytest.raises(YamlError) as caught:
        parse(text)
    return caught.value.problems


# Lines and columns are counted by hand.
REFUSED = {
    "C1 empty": ("", None, "is empty"),
    "C1 blank": ("\n \n", None, "is empty"),
    "C1 comments": ("# a\n", None, "no value"),
    "C1 a bare document": ("---\n", None, "no value"),
    "C1 several documents": ("a: 1\n---\nb: 1", (2, 1), "second document"),
    "C1 several empty documents": ("---\n---\na: 1", (2, 1), "second document"),
    "C2 tab": ("a:\n\tb: 1", (2, 1), "a tab cannot indent; use spaces"),
    "C2 spaces, then a tab": ("a:\n  \tb: 1", (2, 3), "a tab cannot indent"),
    "C2 tab after a colon": ("a:\tb", (1, 3), "tab cannot stand here"),
    "C2 tab at the end": ("a: b\t\nc: 1", (1, 5), "tab cannot stand here"),
    "C2 list": ("a: [1, 2\nb: 3", (2, 2), "expected ',' or ']' before this; it opens at 1:4"),
    "C2 mapping": ("a: {b: 1\nc: 3", (2, 2), "expected ',' or '}' before this; it opens at 1:4"),
    "C2 list without end": ("a: [1, 2", (1, 4), "never closed"),
    "C2 bracket at the end": ("a: [", (1, 5), "ends where a value should follow"),
    "C2 quote without end": ("x: 1\na: 'b\nc: 1", (2, 4), "quote that opens here is never closed"),
    "C2 two colons": ("a: b: c", (1, 5), "no ':' can stand here"),
    "C2 no space after a colon": ("a:\n  b:1\n  c: 2", (3, 4), "no ':' can stand here"),
    "C2 no colon": ("a: 1\nb\nc: 1", (2, 1), "neither 'key: value' nor '- entry'"),
    "C2 indentation": ("a:\n    b: 1\n  c: 2", (3, 3), "does not fit the block that begins at 1:1"),
    "C2 after quotes": ("a: 'it's'", (1, 8), "does not fit"),
    "C2 list in a mapping": ("a: 1\n- b", (2, 1), "does not fit the block that begins at 1:1"),
    "C2 list behind a key": ("a: - b", (1, 4), "a '- ' cannot stand here"),
    "C2 at sign": ("a: @b", (1, 4), "cannot begin with '@'"),
    "C2 percent": ("a: %b", (1, 4), "cannot begin with '%'"),
    "C2 asterisk": ("a: *.csv", (1, 5), "put text in quotes"),
    "C2 escape": ('a: "C:\\dir"', (1, 8), "no escape"),
    "C2 escape beyond Unicode": ('a: "\\UFFFFFFFF"', (1, 7), "out of range"),
    "C2 half a character": ('a: "\\ud83d"', (1, 4), "surrogate"),
    "C2 two commas": ("a: [1,, 2]", (1, 7), "a value should stand here"),
    "C2 a second value": ("{} x", (1, 4), "does not belong to what is above"),
    "C2 an unknown handle": ("a: !b!c d", (1, 4), "not YAML: while parsing a node found undefined tag handle"),
    "C2 NUL": ("a: 1\nb: \0", (2, 4), "U+0000"),
    "C2 end of line of YAML 1.1": ("a: b\u2028c", (1, 5), "U+2028"),
    "C2 surrogate": ("a: \ud800", (1, 4), "U+D800"),
    "C2 byte order mark": ("\ufeffa: \ufeff", (1, 4), "U+FEFF"),
    "C3 duplicate": ("x: 0\na: 1\nb: 2\n'a': 3", (4, 1), "duplicate key 'a': on line 2 and again on line 4"),
    "C3 duplicate by an alias": ("&k a: 1\n*k : 2", (2, 1), "duplicate key 'a'"),
    "C8 10,000 lists": ("[" * 10_000, (1, 102), "100 levels"),
    "C8 10,000 mappings": ("{a: " * 10_000, (1, 402), "100 levels"),
    "C8 10,000 indented": ("- " * 10_000, (1, 203), "100 levels"),
    "C8 deep by aliases": (f"- &a {'[' * 60}{']' * 60}\n- {'[' * 60}*a{']' * 60}", None, "100 levels"),
    "C8 many": ("- 1\n" * 10_000, (10_000, 3), "10,000 keys and values"),
    "C8 100 MB": ("a" * 10**8, None, "larger than 256 KiB"),
    "C8 an alias inside itself": ("a: &a [1, *a]", (1, 11), "*a stands inside itself"),
    "C8 an alias inside itself again": ("[&a 1, &a [*a]]", (1, 12), "*a stands inside itself"),
    "C8 an alias of nothing": ("a: *b", (1, 4), "*b is anchored nowhere above"),
    "C9 python": ("a: !!python/name:os.system", (1, 4), "!!python/name:os.system is refused"),
    "C9 text": ("!!str 1", (1, 1), "!!str is refused"),
    "C9 own tag": ("- !a [1]", (1, 3), "!a is refused"),
    "C9 bare tag": ("- ! 1", (1, 3), "! is refused"),
    "C9 renamed": ("%TAG !p! tag:yaml.org,2002:python/\n---\n!p!name:os.system", (3, 1), "!!python/name:os.system"),
    "merge": ("a: &a {b: 1}\nc:\n  <<: *a", (3, 3), "not part of YAML 1.2"),
    "list as a key": ("[a]: 1", (1, 1), "a key must be text"),
    "template": ("a: {{ x }}", (1, 5), "put {{...}} in quotes"),
    "long key": (f"? {'k' * 101}\n: 1", (1, 3), "101 characters"),
    "YAML 1.1": ("%YAML 1.1\n---\na: 1", (1, 1), "read as YAML 1.2"),
    "YAML 2": ("%YAML 2.0\n---\na: 1", (1, 1), "read as YAML 1.2"),
    "YAML 1.11111": (f"%YAML 1.{'1' * 5000}\n---\na: 1", (1, 9), "out of range"),
}


@pytest.mark.parametrize("case", by_row(REFUSED))
def test_what_is_refused_is_said_with_its_place(case: str) -> None:
    text, place, words = REFUSED[case]
    [(found, message)] = refusal(text)
    assert words in message
    assert "\n" not in message
    assert place is None or found == place


@pytest.mark.fault("C2")
@pytest.mark.fault("C3")
@pytest.mark.fault("C9")
def test_c2_c3_c9_all_problems_are_reported_at_once() -> None:
    text = "a: 1\na: 2\nb: !x {c: 1, c: 2}\n<<: 3\nd: [1"
    assert [place for place, _ in refusal(text)] == [(2, 1), (3, 4), (3, 14), (4, 1), (5, 4)]
    assert str(YamlError(refusal(text))).startswith("2:1: duplicate key 'a'")


def test_twenty_problems_are_enough() -> None:
    problems = refusal("a: 1\n" * 100)
    assert len(problems) == 21
    assert problems[-1] == (None, "and 79 more problems")


@pytest.mark.fault("C3")
def test_c3_keys_below_a_duplicate_are_not_duplicates() -> None:
    assert len(refusal("a: {x: 1}\na: {x: 1}")) == 1


@pytest.mark.fault("C8")
def test_c8_an_alias_bomb_is_refused() -> None:
    # 10 ** 50 values if it were not stopped: that the test ends is the proof.
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 50)]
    [(_, message)] = refusal("\n".join(levels))
    assert "10,000 keys and values" in message


@pytest.mark.fault("C8")
def test_c8_reading_does_not_recurse() -> None:
    text = "[" * 100 + "]" * 100
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        depth, data = 0, parse(text).data
        with pytest.raises(RecursionError):
            yaml.compose(text, Loader=yaml.SafeLoader)  # the wrong variant
    finally:
        sys.setrecursionlimit(limit)
    while data:
        depth, data = depth + 1, data[0]
    assert depth == 99


@pytest.mark.fault("C9")
def test_c9_nothing_is_executed(tmp_path: Path) -> None:
    for name, loader in (("safe", refusal), ("unsafe", yaml.unsafe_load)):
        loader(f"a: !!python/object/apply:os.mkdir ['{(tmp_path / name).as_posix()}']")
    assert [path.name for path in tmp_path.iterdir()] == ["unsafe"]  # the wrong variant does execute


# --- files ------------------------------------------------------------------------------------------------------------


def unread(path: Path) -> tuple[Place | None, str]:
    with pytest.raises(YamlError) as caught:
        read(path)
    [problem] = caught.value.problems
    return problem


@pytest.mark.fault("C1")
def test_c1_read_keeps_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: größe\r\n".encode())
    assert read(path) == "\ufeffa: größe\r\n"
    assert parse(read(path)).data == {"a": "größe"}


@pytest.mark.fault("C1")
def test_c1_missing_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "mnist.yaml").write_text("a: 1")
    assert unread(tmp_path / "minst.yaml") == (None, "no such file. Did you mean 'mnist.yaml'?")
    assert unread(tmp_path / "none" / "a.yaml") == (None, "no such file.")
    assert unread(tmp_path) == (None, "is a folder; expected a YAML file")
    for name in ("mnist.yaml/a", "a\0b", "x" * 5000):
        assert "cannot be read" in unread(tmp_path / name)[1]


@pytest.mark.fault("C1")
def test_c1_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in unread(tmp_path / "a.yaml")[1]


@pytest.mark.fault("C1")
def test_c1_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("é: 1\nb: ü".encode() + b"\xff")
    # é and ü have two bytes each: "é: 1\n" 6, "b: ü" 5; the second line has four characters before the bad byte.
    assert unread(path) == ((2, 5), "byte 0xff at byte offset 11 is not UTF-8; save the file as UTF-8")
    path.write_bytes("\ufeffa: ".encode() + b"\xff")  # a byte order mark has three bytes and no column
    assert unread(path)[0] == (1, 4)
    path.write_bytes("a: 1".encode("utf-16"))
    assert "UTF-16" in unread(path)[1]


@pytest.mark.fault("C8")
def test_c8_of_100_megabytes_only_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with path.open("wb") as file:
        file.truncate(10**8)
    tracemalloc.start()
    try:
        assert "larger than 256 KiB" in unread(path)[1]
        assert tracemalloc.get_traced_memory()[1] < 4 * yaml12.MAX_BYTES
    finally:
        tracemalloc.stop()


# --- whatever the text ------------------------------------------------------------------------------------------------

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


def answer(text: str) -> None:
    """Data that can be written and read again and has the structure that PyYAML finds, or a YamlError with a place."""
    try:
        document = parse(text)
    except YamlError as error:
        problems = error.problems
    else:
        problems = []
    lines = re.split("\r\n|\n|\r", text)
    for place, message in problems:
        assert message
        assert place is None or 1 <= place.line <= len(lines)
        assert place is None or 1 <= place.column <= len(lines[place.line - 1]) + 1
    if problems:
        return
    assert repr(parse(dump(document.data)).data) == repr(document.data)
    # PyYAML's BaseLoader resolves nothing: all scalars are text.
    assert shape(document.data) == shape(yaml.load(text, Loader=yaml.BaseLoader))


def shape(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: shape(value) for key, value in data.items()}
    return [shape(value) for value in data] if isinstance(data, list) else "scalar"


SYNTAX = st.text(alphabet="ab01 \t\n\r:-?,[]{}#&*!|>'\"%@`<.~=\\eux\ufeff\u2028\x85\0é😀")
SNIPPETS = st.sampled_from(
    [*"[]{},a1", "- ", ": ", "\n", "\n  ", "? ", "&a ", "*a", "!!str ", ", ", "---\n", "|\n", '"\\ud800"', "\ud800"]
)


@pytest.mark.fault("C2")
@given(st.text() | SYNTAX | st.lists(SNIPPETS).map("".join))
def test_c2_any_text_has_an_answer(text: str) -> None:
    answer(text)
    with contextlib.suppress(YamlError):
        parse_scalar_or_flow(text)


@pytest.mark.fault("C2")
@given(st.integers(0, len(EXPERIMENT)), st.integers(0, 8), SYNTAX | SNIPPETS)
def test_c2_an_experiment_with_a_mistake_has_an_answer(start: int, length: int, replacement: str) -> None:
    answer(EXPERIMENT[:start] + replacement + EXPERIMENT[start + length :])


@pytest.mark.fault("C2")
@pytest.mark.parametrize("length", range(0, len(EXPERIMENT), 7))
def test_c2_an_experiment_cut_short_has_an_answer(length: int) -> None:
    answer(EXPERIMENT[:length])
