"""What is proven of `dlf records`: the CSV that others parse is metrics.jsonl, every column and every bit of it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Train
from hypothesis import given
from hypothesis import strategies as st

from dlf import api
from dlf.cli import main
from dlf.commands.records import best_of, to_csv
from dlf.run import Record, RunDirectory, to_json

IRIS: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 16},
    "model": {"layers": [{"type": "linear", "units": 4}]},
    "metrics": [{"type": "f1", "average": "none"}, "confusion_matrix"],
    "train": {"epochs": 3},
}


def parsed(text: str) -> list[dict[str, Any]]:
    """The CSV as another program reads it; an empty field is null, every other one JSON."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return [{name: json.loads(field) if field else None for name, field in row.items()} for row in rows]


VALUES = st.none() | st.integers() | st.floats() | st.lists(st.floats(), min_size=1, max_size=3)


@given(st.lists(st.fixed_dictionaries({"epoch": st.integers(), 'odd, "name"\n': VALUES, "val": VALUES}), max_size=4))
def test_what_is_written_is_read_back(records: Sequence[Mapping[str, Any]]) -> None:
    kept = [json.loads(to_json(record)) for record in records]  # as metrics.jsonl gives them back: a NaN is null
    assert parsed(to_csv(kept)) == kept


def test_it_is_rfc_4180() -> None:
    """Written by hand from the RFC: CRLF, a header, quotes where there is a comma or a quote; nothing for a null."""
    records: list[Record] = [
        {"epoch": 1, "lr": 0.1, "f1": [0.5, None]},
        {"epoch": 2, "lr": 1e-7, "f1": None, "val_loss": 2.5},
    ]
    assert to_csv(records) == 'epoch,lr,f1,val_loss\r\n1,0.1,"[0.5, null]",\r\n2,1e-07,,2.5\r\n'
    assert to_csv([]) == ""


def test_best_is_left_out_where_it_is_not_known() -> None:
    records: list[Record] = [{"val_loss": 2.0}, {"val_loss": 1.0}, {"val_loss": None}]
    assert best_of(records, "val_loss") == 1
    assert best_of(records, "val_f1") is None
    assert best_of([], "val_loss") is None


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def test_every_form_of_a_real_run(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = train(IRIS).path
    kept = RunDirectory(Path(path)).read_metrics()
    code, out, _ = run(capsys, "records", path, "--csv", "-")
    assert (code, parsed(out)) == (0, kept)
    assert parsed(out)[0].keys() == kept[0].keys()
    assert json.loads(run(capsys, "records", path, "--json")[1]) == kept == api.records(path)
    lines = run(capsys, "records", path)[1].splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1/3", "2/3", "3/3"]
    assert sum(line.endswith("best") for line in lines) == 1
    assert "confusion_matrix" not in lines[1]  # a table has no place in a row
    monkeypatch.setenv("COLUMNS", "40")
    assert [line.split()[0] for line in run(capsys, "records", path)[1].splitlines()[2:]] == ["1/3", "2/3", "3/3"]
    file = tmp_path / "epochs.csv"
    assert run(capsys, "records", path, "--csv", file)[0] == 0
    assert parsed(file.read_bytes().decode()) == kept


def test_pandas_reads_the_same(train: Train) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    kept = RunDirectory(Path(train(IRIS).path)).read_metrics()
    table = pandas.read_csv(io.StringIO(to_csv([{**kept[0], "val_loss": None}, *kept[1:]])))
    assert math.isnan(table["val_loss"][0])
    for name in ("epoch", "step", "lr", "train_loss", "seconds", "samples_per_second"):
        exact = [record[name] for record in kept]
        assert table[name].tolist() == pytest.approx(exact, rel=2**-51)  # its quick parser may miss the last bit


def test_what_does_not_fit_is_said(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train(IRIS).path
    there = tmp_path / "mine.csv"
    there.write_text("mine")
    code, _, said = run(capsys, "records", path, "--csv", there)
    assert (code, there.read_text()) == (2, "mine")
    assert "--force" in said
    assert run(capsys, "records", path, "--csv", there, "--force")[0] == 0
    assert there.read_text() != "mine"
    assert run(capsys, "records", path, "--csv", tmp_path / "no" / "such.csv")[0] == 5
    assert run(capsys, "records", path, "--csv", "-", "--json")[0] == 2
    assert run(capsys, "records", path, "--force")[0] == 2
    assert run(capsys, "records", "nothing", "--runs-dir", tmp_path)[0] == 4


def test_a_run_without_epochs_says_so(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(train(IRIS).path)
    (path / "metrics.jsonl").unlink()
    assert run(capsys, "records", path) == (0, "no epoch is finished yet\n", "")
    assert run(capsys, "records", path, "--csv", "-") == (0, "", "")
    (path / "metrics.jsonl").write_text("{]\n{}\n")
    code, _, said = run(capsys, "records", path)
    assert code == 4
    assert "damaged" in said
