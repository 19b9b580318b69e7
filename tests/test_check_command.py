"""`dlf check` as a user calls it: text, JSON, exit codes, 80 columns, runs, overrides, and nothing left on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Train

import dlf
from dlf.cli import main
from dlf.commands.check import CheckResult
from dlf.display import checked
from dlf.findings import Finding

QUICK = ["data.limit=300", "train.device=cpu"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    code = end.value.code
    return code if isinstance(code, int) else 0


def test_a_healthy_experiment_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "digits", *QUICK) == 0
    shown, errors = capsys.readouterr()
    lines = shown.splitlines()
    assert lines[0].startswith("digits: classification, digits, ")
    assert lines[-1].endswith("passed, 0 warnings, 0 failures")
    assert all(line.startswith("PASS  ") for line in lines[1 : lines.index("")])
    assert "ln 10" in shown
    assert "layer" in shown
    assert errors == ""


def test_a_failure_is_exit_code_1_after_the_whole_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "digits", "model.activation=identity", *QUICK) == 1
    shown = capsys.readouterr().out
    assert "FAIL  nonlinearity" in shown
    assert "-> set model.activation" in shown
    assert "dlf why activations" in shown
    assert shown.index("FAIL") < shown.index("baseline_linear")
    assert shown.rstrip().endswith("1 failure")


def test_json_holds_what_the_function_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "spiral", "train.device=cpu", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    result = dlf.check("spiral", "train.device=cpu")
    assert isinstance(result, CheckResult)
    assert document == json.loads(json.dumps(asdict(result)))
    assert document["passed"] == len(document["findings"])
    assert {"name", "verdict", "said", "value", "threshold", "remedy", "more", "layer"} == set(document["findings"][0])
    assert [row["layer"] for row in document["layers"]] == ["0", "1", "2"]


def test_numbers_that_are_none_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model.init={type: normal, std: 1.0e+300}", "data.normalize=none", *QUICK]
    assert run("check", "digits", *words, "--json") == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["name"] for finding in findings if finding["verdict"] == "fail"} >= {"first_loss", "gradients"}


@pytest.mark.parametrize("columns", [80, 40])
def test_lines_fit_the_terminal(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    result = dlf.check("digits", "model.init=zeros", *QUICK)
    monkeypatch.setattr(checked, "page", lambda: _page(columns))
    checked.show_check(result)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    assert "gradients" in shown


def _page(columns: int) -> Any:
    from contextlib import contextmanager

    from dlf.display.streams import page

    @contextmanager
    def narrow() -> Any:
        with page() as console:
            console.width = columns
            yield console

    return narrow()


def test_what_files_say_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    result = dlf.check("spiral", "train.device=cpu")
    evil = Finding("evil", "warn", "a\x1b[2Jb", 1.0, 2.0, "c\x1bd", "e\x1bf")
    checked.show_check(CheckResult(**{**vars(result), "findings": (evil,)}))
    assert "\x1b" not in capsys.readouterr().out


def test_a_run_is_checked_by_its_experiment(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train({"data": "spiral", "train": {"epochs": 1}})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run("check", "latest", "--runs-dir", str(tmp_path / "runs")) == 0
    assert "spiral" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert trained.status == "completed"


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dlf.check({"data": "spiral", "train": {"device": "cpu"}})
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- hidden files too


def test_what_had_to_step_in_is_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    """MNIST is neither here nor downloadable in tests."""
    assert run("check", "mnist", "data.download=false", "train.device=cpu") == 0
    shown, errors = capsys.readouterr()
    assert "ATTENTION: this is about digits, not mnist" in shown
    assert "mnist" in errors


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing.yaml"], 2, "nothing.yaml"),
        (["spiral", "optimizer.lrr=1"], 2, "lrr"),
        (["digits", "model.layers=[batch_norm]", "data.batch_size=1"], 2, "one sample has none"),
        # of 101 samples 20 are for the test and 8 for validation: 73 are 8 batches of 9, and one
        (["digits", "model.layers=[batch_norm]", "data.limit=101", "data.batch_size=9"], 2, "last batch of one"),
        (
            ["digits", "model.output=none", "model.layers=[{type: linear, units: 10, activation: softmax}]"],
            2,
            "softmax",
        ),
        (["csv"], 2, "csv"),
    ],
)
def test_what_train_refuses_is_refused(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", *words) == code
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert said in errors
    assert "Traceback" not in errors


def test_no_data_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("data: {type: csv, path: gone.csv, target: y}\n")
    assert run("check", str(tmp_path / "mine.yaml")) == 3
    assert "gone.csv" in capsys.readouterr().err
