"""YAML 1.2 in, plain data out, with the line and column of every key and value; and back.

Text is read by PyYAML's parser and no further than its events: nothing is composed or constructed, so no tag can
execute anything and no nesting can exhaust the stack. What a scalar means is in dlf/yaml12_scalars.py.

Keys are the text that is written; aliases are copied out; tags, merge keys and second documents are refused. Only the
pure Python parser is used: whether libyaml is installed must not change what a file means, and the limits below keep
it quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dlf.registry import did_you_mean
from dlf.yaml12_scalars import SURROGATE, resolve, write

MAX_BYTES = 256 * 1024  # about 6,000 lines: far more than an experiment has
MAX_VALUES = 10_000  # keys, values and ends of lists and mappings, those that aliases stand for included
MAX_DEPTH = 100  # lists and mappings inside each other; every later step may recurse over this
MAX_KEY = 100  # characters of a key; escaped, it still fits into the 1,024 that YAML allows
MAX_PROBLEMS = 20  # what one error lists

_TOO_LARGE = f"larger than {MAX_BYTES // 1024} KiB; an experiment is a small file: is this the right one?"

KeyPath = tuple[str | int, ...]


class Place(NamedTuple):
    """Line and column of a character, counted from 1 as editors do; a tab is one column."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


Problem = tuple[Place | None, str]


class YamlError(ValueError):
    """Text that is not taken; `problems` are the (place, message) of all that was found, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = list(dict.fromkeys(problems))
        hidden = len(found) - MAX_PROBLEMS
        self.problems = found if hidden <= 0 else [*found[:MAX_PROBLEMS], (None, f"and {hidden} more problems")]
        super().__init__("\n".join(f"{place}: {message}" if place else message for place, message in self.problems))


@dataclass(frozen=True)
class Document:
    """What a text says: dict, list, str, int, float, bool and None, and where each of them stands."""

    data: Any
    places: Mapping[KeyPath, tuple[Place, Place]] = field(repr=False)  # of the key (or entry), and of the value

    def place(self, path: KeyPath, at_key: bool = False) -> Place:
        """Where the value at `path` stands, or its key; where `path` does not exist, its longest part that does."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                key, value = self.places[path[:length]]
                return key if at_key else value
        return self.places[()][1]


def read(path: Path) -> str:
    """The text of a file; YamlError where there is none, it is too large or it is not UTF-8. A byte order mark is kept.

    A pipe is read like a file: `dlf train /dev/stdin` works.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise YamlError([(None, f"no such file.{did_you_mean(path.name, _neighbours(path))}")]) from None
    except IsADirectoryError:
        raise YamlError([(None, "is a folder; expected a YAML file")]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise YamlError([(None, f"cannot be read as a YAML file: {reason}")]) from None
    if len(content) > MAX_BYTES:
        raise YamlError([(None, _TOO_LARGE)])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        start = error.start
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise YamlError([(None, "is UTF-16, not UTF-8 (byte offset 0); save it as UTF-8")]) from None
        message = f"byte 0x{content[start]:02x} at byte offset {start} is not UTF-8; save the file as UTF-8"
        raise YamlError([(_place_of(content[:start].decode()), message)]) from None


def parse(text: str) -> Document:
    """The one document in `text`; YamlError with every problem that could be found."""
    if len(text) > MAX_BYTES:
        raise YamlError([(None, _TOO_LARGE)])
    text = text.removeprefix("\ufeff")
    _refuse_unprintable(text)
    problems: list[Problem] = []
    try:
        document = _build(_expanded(_one_document(_events(text), problems)), problems)
    except YamlError as error:
        raise YamlError([*problems, *error.problems]) from None
    if problems:
        raise YamlError(problems)
    if document is None:
        raise YamlError([(None, "the file holds no value" if text.strip() else "the file is empty")])
    return document


def parse_scalar_or_flow(text: str) -> Any:
    """The value of an override `key.path=value`: `[1, 2]`, `{type: sgd}` or quoted text as in a file, else one scalar.

    What does not begin with a bracket or a quote is taken whole, `a: b` and `#1` too: a shell has no comments to drop.
    Empty text is null.
    """
    text = text.strip()
    if text[:1] not in ("[", "{", '"', "'"):
        _refuse_unprintable(text)
        try:
            return resolve(text)
        except ValueError as error:
            raise YamlError([(Place(1, 1), str(error))]) from None
    data = parse(text).data
    if isinstance(data, dict) != (text[0] == "{"):
        raise YamlError([(Place(1, 1), "expected one value, got a mapping; write it as {key: value}")])
    return data


# Text -> events of PyYAML -> those of one document -> every alias replaced -> data and places.

_Placed = tuple[yaml.Event, Place]


def _events(text: str) -> Iterator[_Placed]:
    """PyYAML's events and where they begin; whatever it raises becomes a YamlError."""
    parser = yaml.SafeLoader(text)
    try:
        while parser.check_event():
            event: yaml.Event = parser.get_event()  # type: ignore[no-untyped-call]
            yield event, _at(event.start_mark)
    except yaml.MarkedYAMLError as error:
        raise YamlError([_in_words(error, text)]) from None
    except (ValueError, OverflowError):  # chr() of "\UFFFFFFFF", int() of an endless version number
        raise YamlError([(_at(parser.get_mark()), "this escape or number is out of range")]) from None


def _one_document(events: Iterable[_Placed], problems: list[Problem]) -> Iterator[_Placed]:
    """The events of the content; tags, other versions of YAML and half characters are noted as problems."""
    documents = 0
    for event, place in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YamlError([(place, "a second document begins here; one file holds one: remove what follows")])
            if event.version and tuple(event.version) != (1, 2):
                version = ".".join(map(str, event.version))
                problems.append((place, f"%YAML {version}: files are read as YAML 1.2; remove this line"))
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            tag = _short(event.tag.replace("tag:yaml.org,2002:", "!!"))
            message = f"the tag {tag} is refused: nothing in this file is executed, and quotes make text"
            problems.append((place, message))
        if isinstance(event, yaml.ScalarEvent) and SURROGATE.search(event.value):
            problems.append((place, "half of a surrogate pair is no character; write it whole, as \\U0001F600"))
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            yield event, place


def _expanded(events: Iterable[_Placed]) -> Iterator[_Placed]:
    """The events with every alias replaced by what it stands for; exponentially many, so the reader must stop."""
    seen: list[_Placed] = []
    spans: dict[str | None, slice] = {}
    opened: list[tuple[str | None, int]] = []
    for event, place in events:
        replayed = [(event, place)]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in spans:
                inside = any(event.anchor == anchor for anchor, _ in opened)
                why = "stands inside itself" if inside else "is anchored nowhere above"
                raise YamlError([(place, f"*{_short(str(event.anchor))} {why}")])
            replayed = seen[spans[event.anchor]]
            replayed[0] = (replayed[0][0], place)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, len(seen)))
            spans.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            spans[anchor] = slice(start, len(seen) + 1)
        elif isinstance(event, yaml.ScalarEvent):
            spans[event.anchor] = slice(len(seen), len(seen) + 1)
        for item in replayed:
            seen.append(item)
            yield item


@dataclass
class _Open:
    """A list or mapping that is being filled; `key` is the one whose value comes next."""

    container: Any
    path: KeyPath
    key: str | None = None


def _build(events: Iterable[_Placed], problems: list[Problem]) -> Document | None:
    """Data and places, bounded in size and depth; None where there is no content."""
    places: dict[KeyPath, tuple[Place, Place]] = {}
    root: list[Any] = []
    stack = [_Open(root, ())]
    for count, (event, place) in enumerate(events):
        if count >= MAX_VALUES:
            raise YamlError([(place, f"more than {MAX_VALUES:,} keys and values, counting what aliases stand for")])
        if len(stack) > MAX_DEPTH + 1:
            raise YamlError([(place, f"nested more than {MAX_DEPTH} levels deep")])
        parent = stack[-1]
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        elif isinstance(parent.container, dict) and parent.key is None:
            parent.key = _key(event, place, problems)
            path = (*parent.path, parent.key)
            if parent.key in parent.container:
                lines = f"on line {places[path][0].line} and again on line {place.line}"
                problems.append((place, f"duplicate key {_short(parent.key)!r}: {lines}; keep one"))
            places[path] = (place, place)
        else:
            value = _value(event, place, problems)
            path = _attach(parent, value) if len(stack) > 1 else ()
            if not path:
                root.append(value)
            places[path] = (places.get(path, (place,))[0], place)
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(_Open(value, path))
            elif not path and isinstance(event, yaml.ScalarEvent) and event.value == "" and event.implicit[0]:
                root.clear()
    return Document(root[0], places) if root else None


def _attach(parent: _Open, value: Any) -> KeyPath:
    """Put the value into its list or mapping; the path that leads to it."""
    key, parent.key = parent.key, None
    if key is None:
        parent.container.append(value)
        return (*parent.path, len(parent.container) - 1)
    parent.container[key] = value
    return (*parent.path, key)


def _key(event: yaml.Event, place: Place, problems: list[Problem]) -> str:
    """The text of a key; a list or mapping as a key ends the reading."""
    if not isinstance(event, yaml.ScalarEvent):
        raise YamlError([(place, "a key must be text, not a list or a mapping; put {{...}} in quotes")])
    key: str = event.value
    if key == "<<" and event.implicit[0]:
        problems.append((place, "merging with '<<' is not part of YAML 1.2; write the keys out"))
    if len(key) > MAX_KEY:
        problems.append((place, f"a key of {len(key)} characters; at most {MAX_KEY} are read"))
    return key


def _value(event: yaml.Event, place: Place, problems: list[Problem]) -> Any:
    """A scalar, resolved where it is plain, or a new list or dict."""
    if not isinstance(event, yaml.ScalarEvent):
        return {} if isinstance(event, yaml.MappingStartEvent) else []
    if not event.implicit[0]:
        return event.value
    try:
        return resolve(event.value)
    except ValueError as error:
        problems.append((place, str(error)))
        return None


# What is said of a text that is not YAML.

_SAID_WHERE_IT_BREAKS = {  # what PyYAML says: what we say
    r"cannot start any token": "text cannot begin with {char!r}; put it in quotes",
    r"mapping values are not": "no ':' can stand here; check indentation, the space after the ':' above, and quotes",
    r"an (alias|anchor) expected alpha": "'*' begins an alias and '&' an anchor; put text in quotes",
    r"sequence entries are not": "a '- ' cannot stand here; a list begins on the line below its key",
    r"unknown escape|expected escape": "this is no escape; write \\\\ for a backslash, or use single quotes",
    r"expected ',' or '(.)'": "expected ',' or {group!r} before this; it opens at {opens}",
    r"expected the node content, .*end>": "the text ends where a value should follow",
    r"expected the node content": "a value should stand here",
    r"expected <block end>": "this does not fit the block that begins at {opens}; check indentation and quotes",
    r"expected '<document start>'": "this does not belong to what is above it; check indentation and quotes",
    r"incompatible YAML": "files are read as YAML 1.2; remove the %YAML line",
}
_SAID_WHERE_IT_OPENS = {
    r"find expected ':'": "this is neither 'key: value' nor '- entry'; is a ':' missing, or the space after it?",
    r"found unexpected": "the quote that opens here is never closed",
    r"expected ',' or '.', but got '<stream end>'": "what opens here is never closed",
}


def _in_words(error: yaml.MarkedYAMLError, text: str) -> Problem:
    """PyYAML's error in plain words, and its place."""
    mark, problem = error.problem_mark or error.context_mark, f"{error.context or ''} {error.problem}".strip()
    assert mark is not None
    char = text[mark.index : mark.index + 1]
    if char == "\t":
        before = text[: mark.index].rsplit("\n", 1)[-1]
        return _at(mark), "a tab cannot stand here; use spaces" if before.strip() else "a tab cannot indent; use spaces"
    opens = _at(error.context_mark or mark)
    for pattern, words in _SAID_WHERE_IT_OPENS.items():
        if re.search(pattern, problem):
            return opens, words
    for pattern, words in _SAID_WHERE_IT_BREAKS.items():
        if found := re.search(pattern, problem):
            return _at(mark), words.format(char=char, group=found.groups() and found[1], opens=opens)
    return _at(mark), f"not YAML: {problem}"


# What YAML 1.2 does not take, three characters that only YAML 1.1 takes as ends of lines, and the mark of byte order.
# Written as all but those that are taken, it would take ten times as long to compile, at every start.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def _refuse_unprintable(text: str) -> None:
    if found := _UNPRINTABLE.search(text):
        code = ord(found.group())
        escape = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
        hint = "" if 0xD800 <= code < 0xE000 else f"; remove it, or write {escape} in double quotes"
        raise YamlError([(_place_of(text[: found.start()]), f"U+{code:04X} cannot stand here{hint}")])


def _at(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _place_of(before: str) -> Place:
    """The place of what follows `before`."""
    lines = re.split(r"\r\n?|\n", before.removeprefix("\ufeff"))
    return Place(len(lines), len(lines[-1]) + 1)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _neighbours(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []


def dump(data: Any) -> str:
    """YAML such that parse(dump(data)).data == data, types included; a reader of YAML 1.1 finds the same meaning.

    Block style, keys in their order, short lists of numbers as [1, 2]. Tuples are written as lists. TypeError for a
    type that YAML has no word for, ValueError for text or numbers that `parse` would refuse.
    """
    return "\n".join(_lines(data)) + "\n"


def _lines(data: Any) -> list[str]:
    if (inline := _inline(data)) is not None:
        return [inline]
    lines = []
    if isinstance(data, Mapping):
        for key, value in data.items():
            first, rest = _text_of_key(key) + ":", _lines(value)
            lines += [f"{first} {rest[0]}"] if _inline(value) is not None else [first, *("  " + line for line in rest)]
    else:
        for value in data:
            first, *rest = _lines(value)
            lines += [f"- {first}", *("  " + line for line in rest)]
    return lines


def _inline(data: Any) -> str | None:
    """The form on one line, None where data needs several."""
    if isinstance(data, Mapping):
        return None if data else "{}"
    if not isinstance(data, list | tuple):
        return write(data)
    if not all(isinstance(value, int | float) for value in data):
        return None
    flow = f"[{', '.join(map(write, data))}]"
    return flow if len(flow) <= 80 else None


def _text_of_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be text to be written as YAML, got {key!r}")
    if len(key) > MAX_KEY:
        raise ValueError(f"a key of {len(key)} characters cannot be written as YAML; at most {MAX_KEY}")
    return write(key)
