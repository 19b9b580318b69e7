"""Tables arrive as csv.writer wrote them; what is wrong in one is said with its line and its column."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import sha256
from hypothesis import given
from hypothesis import strategies as st

from dlf.datasets import DATASETS, Dataset, Source
from dlf.errors import DataError
from dlf.registry import InvalidError


def load(path: Path, **parameters: Any) -> Dataset:
    dataset: Dataset = DATASETS.build(DATASETS.make("csv", path=str(path), **parameters), Source(path.parent))
    return dataset


def table(folder: Path, text: str | bytes, **parameters: Any) -> Dataset:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, **parameters)


def rows(dataset: Dataset) -> list[list[float]]:
    found: list[list[float]] = dataset.train.x.tolist()
    return found


# --- what is right --------------------------------------------------------------------------------------------------

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
words = st.text("abc,\"'\n;éß ", min_size=1, max_size=4).map(lambda text: f"w{text}w")  # no number, no outer space
lines = st.lists(st.tuples(finite, words, finite), min_size=2, max_size=8)


@given(lines=lines, delimiter=st.sampled_from([",", ";", "\t", "|"]), bom=st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[float, str, float]], delimiter: str, bom: bool
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([("number", "word", "goal"), *lines])
    dataset = load(path, delimiter=delimiter, task="regression")
    known = sorted({word for _, word, _ in lines})
    expected = [[number, *(float(word == other) for other in known)] for number, word, _ in lines]
    assert np.array_equal(dataset.train.x, np.array(expected, np.float32))
    assert np.array_equal(dataset.train.y, np.array([[goal] for *_, goal in lines], np.float32))
    assert dataset.features == ("number", *(f"word={word}" for word in known))
    assert dataset.categorical is not None
    assert dataset.categorical.tolist() == [False] + [True] * len(known)


def test_columns_and_classes(tmp_path: Path) -> None:
    text = "kind,size,colour,id\nb,1,red,7\na, 2.5 ,blue,8\nb,-3e2,red,9\n\n"
    dataset = table(tmp_path, text, target="kind", drop=["id"])
    assert dataset.classes == ("a", "b")
    assert dataset.train.y.tolist() == [1, 0, 1]
    assert dataset.features == ("size", "colour=blue", "colour=red")
    assert rows(dataset) == [[1, 0, 1], [2.5, 1, 0], [-300, 0, 1]]
    assert dataset.files == {str(tmp_path / "t.csv"): sha256(text.encode())}
    assert dataset.test is None


def test_numbers_that_are_names(tmp_path: Path) -> None:
    dataset = table(tmp_path, "zip,n,y\n10,1,0\n9,2,1\n10,3,1\n", categorical=["zip"])
    assert dataset.features == ("zip=10", "zip=9", "n")
    assert rows(dataset) == [[1, 0, 1], [0, 1, 2], [1, 0, 3]]


TASKS: dict[str, tuple[list[object], str, tuple[str, ...] | None]] = {
    "words": (["b", "a", "b"], "auto", ("a", "b")),
    "whole numbers": ([10, 9, "9.0"], "auto", ("9", "10")),
    "twenty of them": (list(range(20)), "auto", tuple(map(str, range(20)))),
    "twenty-one of them": (list(range(21)), "auto", None),
    "fractions": ([0, 0.5, 1], "auto", None),
    "fractions as classes": ([0, 0.5, 1], "classification", ("0", "0.5", "1")),
    "both kinds as classes": ([1, "a", 2], "classification", ("1", "2", "a")),
    "whole numbers as numbers": ([0, 1, 1], "regression", None),
    "ids beyond 2^53": ([2**53, 2**53 + 1, 1], "classification", ("1", str(2**53), str(2**53 + 1))),
}


@pytest.mark.parametrize("case", TASKS)
def test_the_task(case: str, tmp_path: Path) -> None:
    values, task, classes = TASKS[case]
    dataset = table(tmp_path, "x,y\n" + "".join(f"1,{value}\n" for value in values), task=task)
    assert dataset.classes == classes
    if classes is None:
        assert dataset.train.y.tolist() == [[value] for value in values]
    else:
        got = [classes[label] for label in dataset.train.y]
        assert got == [str(value).removesuffix(".0") for value in values]


def test_an_official_test_set_shares_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("c,n,y\ngreen,5,a\n")
    dataset = table(tmp_path, "c,n,y\nred,1,a\nblue,2,b\n", test_path=str(tmp_path / "test.csv"))
    assert dataset.features == ("c=blue", "c=green", "c=red", "n")
    assert rows(dataset) == [[0, 0, 1, 1], [1, 0, 0, 2]]
    assert dataset.test is not None
    assert dataset.test.x.tolist() == [[0, 1, 0, 5]]
    assert dataset.test.y.tolist() == [0]
    assert len(dataset.files) == 2


def test_the_task_is_judged_by_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("x,y\n1,0.5\n")
    with pytest.raises(DataError, match=r"test\.csv:2  column 'y'  '0\.5'\nEvery label must be one of .*: '0', '1'"):
        table(tmp_path, "x,y\n1,0\n2,1\n", test_path=str(tmp_path / "test.csv"))


# --- what is wrong --------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "empty file": ("", {}, "is empty"),
    "blank lines": ("\n\n\n", {}, "is empty"),
    "header only": ("a,b\n", {}, "has a header and no row"),
    "no header": ("1,2\n3,4\n", {}, "starts with numbers"),
    "one column": ("a;b\n1;2\n", {}, "one column 'a;b'. Is ',' the right data.delimiter?"),
    "unnamed column": ("a,,b\n1,2,3\n", {}, "no name for column 2"),
    "long name": ("a,b" + "x" * 100 + "\n1,2\n", {}, "a column whose name has 101 characters, 'bxx"),
    "many names": (
        ",".join(f"c{k}" for k in range(30)) + "\n" + "1," * 29 + "1\n",
        {"drop": ["x"]},
        "'c19' and 10 more",
    ),
    "a long word": ("a,b\n1,1\n2,2\n" + "x" * 1000 + ",1\n", {}, "xxx... is not a number"),
    "header twice": ("a,b,a\n1,2,3\n", {}, "more than one column named 'a'"),
    "ragged": ("a,b\n1,2\n\n1\n1,2,3\n", {}, "t.csv:4  has 1 cells, the header has 2\n  "),
    "ragged, second": ("a,b\n1,2\n\n1\n1,2,3\n", {}, "t.csv:5  has 3 cells"),
    "open quote": ('a,b\n1,"2\n3,4\n', {}, "Is a quote left open?"),
    "quote of a megabyte": ('a,b\n1,"' + "x\n" * 500_000, {}, "field larger than field limit"),
    "not UTF-8": ("a,b\n1,ä\n".encode("latin-1"), {}, "t.csv:2  is not UTF-8 (byte 0xe4)"),
    "empty cell": ("a,b\n1,2\n ,1\n", {}, "t.csv:3  column 'a'  is empty"),
    "empty word": ("a,b\nx,2\n,1\n", {}, "t.csv:3  column 'a'  is empty"),
    "label missing": ("a,b\n1,x\n2,\n", {}, "t.csv:3  column 'b'  is empty"),
    "NaN": ("a,b\n1,2\nnan,1\n", {}, "t.csv:3  column 'a'  'nan' is not finite"),
    "infinity": ("a,b\n1,2\n-inf,1\n", {}, "t.csv:3  column 'a'  '-inf' is not finite"),
    "beyond float32": ("a,b\n1,2\n1e39,1\n", {}, "t.csv:3  column 'a'  '1e39' is not finite in float32"),
    "text among numbers": ("a,b\n1,2\n2,1\nx,1\n", {}, "t.csv:4  column 'a'  'x' is not a number"),
    "number among text": ("a,b\nx,2\ny,1\n3,1\n", {}, "t.csv:4  column 'a'  '3' is a number among words"),
    "underscore": ("a,b\n1,2\n1_0,1\n", {}, "t.csv:3  column 'a'  '1_0' is not a number"),
    "text in the target": ("a,b\n1,2\n2,1\n1,x\n", {}, "data.task: classification"),
    "words to predict": ("a,b\n1,x\n2,y\n", {"task": "regression"}, "holds words such as 'x'"),
    "one class": ("a,b\n1,x\n2,x\n", {}, "every row has 'x' in the target 'b'; two classes"),
    "no such target": (
        "age,b\n1,2\n",
        {"target": "agee"},
        "data.target: there is no column 'agee'. Did you mean 'age'?",
    ),
    "no such drop": ("age,b\n1,2\n", {"drop": ["c"]}, "data.drop: there is no column 'c'."),
    "no such category": ("age,b\n1,2\n", {"categorical": ["c"]}, "data.categorical: there is no column 'c'."),
    "target dropped": ("a,b\n1,2\n", {"target": "b", "drop": ["b"]}, "data.drop takes the target away"),
    "all dropped": ("a,b\n1,2\n", {"drop": ["a", "b"]}, "data.drop takes the target away"),
    "nothing left": ("a,b\n1,2\n", {"drop": ["a"]}, "no column left to predict 'b' from"),
    "target categorical": ("a,b\n1,2\n", {"categorical": ["b"]}, "set data.task: classification"),
    "an id": ("a,b\n" + "".join(f"w{k},{k % 2}\n" for k in range(1001)), {}, "'a' has 1,001 distinct words"),
    "too many classes": ("a,b\n" + "".join(f"1,w{k}\n" for k in range(1001)), {}, "1,001 distinct values, too many"),
}


@pytest.mark.fault("D6")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    text, parameters, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        table(tmp_path, text, **parameters)
    assert message in str(caught.value)
    assert str(tmp_path / "t.csv") in str(caught.value)


@pytest.mark.fault("D6")
def test_the_first_five_of_many_and_how_many_more(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, "a,b\n" + "1,2\n" * 20 + "x,3\n" * 12)
    lines = str(caught.value).split("\n")
    assert [line.split("  ")[1] for line in lines[1:6]] == [f"{tmp_path / 't.csv'}:{k}" for k in range(22, 27)]
    assert lines[6] == "  ... and 7 more"


@pytest.mark.fault("D6")
def test_problems_of_the_test_file_name_it(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    for text, message in {
        "n,y\n1,c\n": f"{test}:2  column 'y'  'c'",
        "n,y\nx,a\n": f"{test}:2  column 'n'  'x' is not a number",
        "n,z\n1,a\n": f"{test} has the columns 'n', 'z'; expected those of",
        "n,y\n1\n": f"{test}:2  has 1 cells",
    }.items():
        test.write_text(text)
        with pytest.raises(DataError) as caught:
            table(tmp_path, "n,y\n1,a\n2,b\n", test_path=str(test))
        assert message in str(caught.value)


@pytest.mark.fault("D6")
def test_a_quoted_line_break_keeps_the_count_of_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv:4  column 'b'  is empty"):
        table(tmp_path, 'a,b\n"two\nlines",1\nx,\n')


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\r", "\0"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    with pytest.raises(InvalidError, match="delimiter: expected the one character between cells, such as ',', ';' or"):
        DATASETS.make("csv", path="t.csv", delimiter=delimiter)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " ", "é", "\u2028", "'"])
def test_any_other_character_is_a_delimiter(delimiter: str, tmp_path: Path) -> None:
    assert DATASETS.make("csv", path="t.csv", delimiter=delimiter)
    assert table(tmp_path, "a,b\n1,x\n2,y\n".replace(",", delimiter), delimiter=delimiter).classes == ("x", "y")


def test_twenty_thousand_columns_are_no_work(tmp_path: Path) -> None:
    """To count each name among all of them would compare 400 million pairs: most of a minute."""
    wide = ",".join(f"c{k}" for k in range(20_000))
    dataset = table(tmp_path, f"{wide}\n{'1,' * 19_999}1\n{'1,' * 19_999}2\n")
    assert dataset.train.x.shape == (2, 19_999)


@pytest.mark.fault("D6")
def test_one_hot_columns_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a,b\n" + "".join(f"w{k},{k % 2}\n" for k in range(100))  # 100 rows x 100 words x 4 bytes
    monkeypatch.setattr("dlf.datasets.tables.available_bytes", lambda: 40_000)
    assert table(tmp_path, text).train.x.shape == (100, 100)
    monkeypatch.setattr("dlf.datasets.tables.available_bytes", lambda: 39_999)
    with pytest.raises(DataError, match=r"100 rows of 100 features need .*data\.drop"):
        table(tmp_path, text)
