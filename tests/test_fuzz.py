"""The law of tests/fuzz/readers.py for files that hypothesis makes, for those on which a reader once broke it, and for
the ones that people are known to send."""

from __future__ import annotations

import functools
import gzip
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import IDX_TYPES, idx_bytes
from fuzz.__main__ import main
from fuzz.readers import READERS, ROOT, Reader, attempt, found
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dlf import yaml12
from dlf.config import json_schema
from dlf.datasets.idx import read_idx
from dlf.errors import DataError, RunError

ROWS = {
    **dict.fromkeys(("config", "yaml", "override"), "C8"),
    **{"idx": "D4", "idx_gz": "D5", "image": "D5", "picture": "D5"},
    **{"csv": "D6", "rows": "D6", "npz": "D7", "npy": "D7"},
    **dict.fromkeys(("checkpoints", "manifest", "run"), "K2"),
}
"""Which row of the table of faults a reader belongs to."""


def marked(name: str, *more: Any, id: str | None = None) -> Any:  # noqa: A002 -- the name is pytest's
    return pytest.param(name, *more, marks=pytest.mark.fault(ROWS[name]), id=id or name)


EVERY_READER = pytest.mark.parametrize("name", [marked(name) for name in READERS])


@pytest.mark.parametrize(
    ("name", "path"), [marked(name, path, id=path.name) for name in READERS for path in found(name)]
)
def test_what_was_found_once(name: str, path: Path) -> None:
    attempt(name, path.read_bytes())


# --- any bytes ------------------------------------------------------------------------------------------------------

TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff",
        b"\n",
        b"\r",
        b"\t",
        b'"',
        b"'",
        b",",
        b";",
        b":",
        b": ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"#",
    ),
    *(b"*a", b"&a ", b"!!str ", b"? ", b"|\n", b"<<: ", b"---\n", b"0", b"-1", b"1e999", b"nan", b"0x", b"9" * 120),
    *(
        b"\xef\xbb\xbf",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"0\xc2\xb2",
        b"\\ud800",
        b"\x7f" * 8,
        b"\xff\xff\xff\x7f",
        b"null",
    ),
    *(b"PK\x01\x02", b"PK\x03\x04", b"\x1f\x8b", b"NUMPY", b"|O", b"<f8", b"__reduce__", b"\x80" * 4, b"true", b"{}"),
]


@functools.cache
def seeds(name: str) -> list[bytes]:
    return READERS[name].seeds()


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A whole file in which a few pieces were replaced, doubled or cut out."""
    content = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(0, 8) | st.integers(0, len(content)))
        piece = draw(st.sampled_from([*TOKENS, content[start:end] * 2]) | st.binary(max_size=4))
        content = content[:start] + piece + content[end:]
    return content


def within(name: str, content: bytes) -> bool:
    """Under the law, and in memory that the size of the file explains: some ten objects a byte at most."""
    tracemalloc.start()
    try:
        accepted = attempt(name, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 + 1000 * len(content)
    return accepted


@EVERY_READER
def test_whole_files_are_accepted(name: str) -> None:
    assert any(within(name, content) for content in seeds(name))


@EVERY_READER
def test_any_bytes(name: str) -> None:
    @settings(max_examples=40)
    @given(st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS)).map(b"".join))
    def law(content: bytes) -> None:
        within(name, content)

    law()


@EVERY_READER
def test_damaged_files(name: str) -> None:
    @settings(max_examples=60)
    @given(damaged(name))
    def law(content: bytes) -> None:
        within(name, content)

    law()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda content, folder: content[99],  # what a parser that trusts its file would do
        lambda content, folder: bytes(2**24) and None,
        lambda content, folder: int("0²"),
        lambda content, folder: (_ for _ in ()).throw(DataError("")),
        lambda content, folder: (_ for _ in ()).throw(RunError("an error of other files")),
    ],
)
def test_a_reader_that_breaks_the_law_is_found_out(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "wrong", Reader(wrong, DataError, lambda: []))
    with pytest.raises((AssertionError, IndexError, ValueError, RunError)):
        within("wrong", b"")


# --- experiments by their grammar -----------------------------------------------------------------------------------


def _words(node: Any) -> Iterator[str]:
    """Every key and every name that the JSON Schema knows."""
    if isinstance(node, dict):
        yield from node.get("properties", {})
        yield from (word for word in [*node.get("enum", []), node.get("const")] if isinstance(word, str))
        for value in node.values():
            yield from _words(value)
    elif isinstance(node, list):
        for value in node:
            yield from _words(value)


WORDS = st.sampled_from(sorted(set(_words(json_schema()))))
SCALARS = (
    WORDS
    | st.sampled_from([*(0, 1, 3, -1, 0.5, 1e-3, 2**32, 10**80, 1e308, float("nan"), float("inf"), True, None)])
    | st.sampled_from(["", "0²", "012", "1:30", "no", "../x", "a\0b", "\u202e", "-" * 300, "x" * 5000])
    | st.text(max_size=3)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4))
SECTIONS = st.sampled_from(sorted(json_schema()["properties"]))


@settings(max_examples=200)
@given(st.dictionaries(SECTIONS, VALUES, max_size=4))
def test_any_experiment(data: dict[str, Any]) -> None:
    attempt("config", yaml12.dump({"data": "iris", **data}).encode())


@settings(max_examples=150)
@given(st.lists(WORDS | st.sampled_from(["0", "1", "-1", "", "9" * 9]), min_size=1, max_size=4), VALUES)
def test_any_override(path: list[str], value: Any) -> None:
    attempt("override", f"{'.'.join(path)}={json.dumps(value)}".encode(errors="surrogateescape"))


# --- what is written is read ----------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(IDX_TYPES)).flatmap(
        lambda kind: arrays(np.dtype(f">{kind}"), array_shapes(min_dims=1, max_dims=4, max_side=4))
    )
)
def test_idx_round_trip(values: Any) -> None:
    read = read_idx(idx_bytes(values), "f")
    assert read.dtype == values.dtype.newbyteorder("=")
    assert np.array_equal(read, values, equal_nan=values.dtype.kind == "f")


# --- what people are known to send ----------------------------------------------------------------------------------


def _zip_of_overlapping_members() -> bytes:
    """Two names for the same compressed bytes: how a small archive becomes an endless one."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(10_000_000))
        archive.writestr("y.npy", b"")
        archive.filelist[1] = archive.filelist[0]
        archive.filelist[1].filename = "y.npy"
    return packed.getvalue()


def _npy(header: str, version: bytes = b"\1\0") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a gzip bomb": ("idx_gz", lambda: gzip.compress(bytes(50_000_000))),
    "gzip in gzip": ("idx_gz", lambda: gzip.compress(gzip.compress(bytes(10_000_000)))),
    "IDX of 2^128 values": ("idx", lambda: b"\0\0\x0e\4" + b"\xff" * 16),
    "IDX of 255 dimensions": ("idx", lambda: b"\0\0\x08\xff" + b"\0\0\0\1" * 255),
    "members over each other": ("npz", _zip_of_overlapping_members),
    "a header of 4 GiB": ("npy", lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff{"),
    "a header nested 10,000 deep": ("npy", lambda: _npy("(" * 10_000)),
    "a shape of 10,000 numbers": (
        "npy",
        lambda: _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(1,) * 10_000}}}"),
    ),
    "a shape beyond every word": (
        "npy",
        lambda: _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**300},)}}"),
    ),
    "a type of 2 GiB": ("npy", lambda: _npy("{'descr': '|V2147483647', 'fortran_order': False, 'shape': (0,)}")),
    "a CSV of one line": ("csv", lambda: b"a," * 50_000 + b"b"),
    "a CSV of quotes": ("csv", lambda: b'"' * 100_001),
    "a CSV of separators": ("csv", lambda: b"a,b\n" + b"," * 100_000),
    "10,000 aliases": ("config", lambda: b"a: &a [1]\nb: [" + b"*a," * 10_000 + b"]"),
    "an override of 5,000 steps": ("override", lambda: b"a." * 5000 + b"a=1"),
    "an override nested 5,000 deep": ("override", lambda: b"data=" + b"[" * 5000),
    "an override of 100,000 digits": ("override", lambda: b"seed=" + b"9" * 100_000),
    "a digit that int() does not take": ("config", "data: iris\nseed: 0²\n".encode),
    "a name of 100,000 characters": ("config", lambda: b"data: iris\noptimizer: " + b"a" * 100_000),
    "metrics nested 100,000 deep": ("run", lambda: b'{"a":' * 100_000 + b"\n"),
    "a metric of 10,000 digits": ("run", lambda: b'{"a": ' + b"9" * 10_000 + b"}\n"),
}


@pytest.mark.parametrize(("name", "make"), [marked(name, make, id=case) for case, (name, make) in HOSTILE.items()])
def test_hostile(name: str, make: Callable[[], bytes]) -> None:
    assert not within(name, make())


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
def test_nothing_small_takes_much_memory(tmp_path: Path) -> None:
    """The same again where the system itself counts: what is allocated outside of Python, too, and at most 256 MiB."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from fuzz.readers import READERS, attempt\n"
        "for name in READERS: attempt(name, READERS[name].seeds()[0])\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**28,) * 2)\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()): attempt(path.name.split('-')[1], path.read_bytes())\n"
    )
    for index, (name, make) in enumerate(HOSTILE.values()):
        (tmp_path / f"{index}-{name}").write_bytes(make())
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_reads_a_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("good", b"a,b\n1,x\n2,y\n"), ("bad", b"a")):
        (tmp_path / name).write_bytes(content)
    main(["csv", str(tmp_path / "good"), str(tmp_path / "bad")])
    assert capsys.readouterr().out == f"{tmp_path / 'good'}: accepted\n{tmp_path / 'bad'}: refused\n"
    with pytest.raises(SystemExit):
        main(["cvs", str(tmp_path / "good")])
    assert "'cvs' is no reader; known: config, yaml" in capsys.readouterr().err


def test_the_command_without_its_fuzzer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[fuzz\]'"):
        main(["csv"])
