"""`dlf evaluate` from end to end: its figures follow from the file of its predictions, and that file is never lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Train
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

import dlf
from dlf import cli
from dlf.commands.predictions import write_predictions
from dlf.errors import MachineError, UsageError
from dlf.metrics import Predictions
from dlf.run import RunDirectory

DATA = {"classification": "digits", "binary": "breast_cancer", "regression": "diabetes"}


def trained(train: Train, task: str) -> str:
    layers = {"layers": [{"type": "linear", "units": 4}]}
    return train({"data": DATA[task], "model": layers, "train": {"epochs": 2}}).path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the figures, by scikit-learn from what was written ---------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("task", ["classification", "binary"])
def test_figures_of_classes_follow_from_the_predictions(task: str, split: Any, train: Train, tmp_path: Path) -> None:
    run = trained(train, task)
    found = dlf.evaluate(run, split=split, predictions=tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        true, said, p, classes = (file[name] for name in ("true", "predicted", "probabilities", "classes"))
        assert file["index"].tolist() == list(range(found["samples"]))
    n = len(true)
    assert tuple(classes) == found["classes"]
    assert np.array_equal(said, p.argmax(1))
    assert found["loss"] == pytest.approx(sk.log_loss(true, p, labels=range(len(classes))), abs=1e-6)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, said), abs=1e-6)
    report = sk.classification_report(true, said, output_dict=True, zero_division=0, labels=range(len(classes)))
    for index, row in enumerate(found["per_class"]):
        for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert row[ours] == pytest.approx(report[str(index)][theirs], abs=1e-6)
    for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
        assert found[ours] == pytest.approx(report["macro avg"][theirs], abs=1e-6)
    interval = found["accuracy_interval"]
    wilson = proportion_confint(round(found["accuracy"] * n), n, method="wilson")
    assert (interval["low"], interval["high"]) == pytest.approx(wilson, abs=1e-6)
    if task == "binary":
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(true, p[:, 1]), abs=1e-6)
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(true, p[:, 1]), abs=1e-6)
        roc, curve = found["roc"], found["precision_recall"]
        assert sk.auc(roc["false_positive_rate"], roc["true_positive_rate"]) == pytest.approx(found["auroc"], abs=1e-6)
        area = np.dot(np.diff(curve["recall"]), curve["precision"][1:])
        assert area == pytest.approx(found["average_precision"], abs=1e-6)


def test_figures_of_a_regression_follow_from_the_predictions(train: Train, tmp_path: Path) -> None:
    found = dlf.evaluate(trained(train, "regression"), predictions=tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        true, said = file["true"], file["predicted"]
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, said), rel=1e-6)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(true, said), rel=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(true, said), abs=1e-6)
    (residuals,) = found["residuals"]
    assert residuals["mean"] == pytest.approx((said - true).mean(), rel=1e-6)
    worst = residuals["largest"][0]
    assert abs(worst["residual"]) == sk.max_error(true, said) == abs((said - true)[worst["index"], 0])


@pytest.mark.parametrize("task", DATA)
def test_the_file_of_the_run_holds_what_was_found(task: str, train: Train) -> None:
    run = trained(train, task)
    found = dlf.evaluate(run)
    kept = json.loads((Path(run) / "evaluation-test.json").read_text(encoding="utf-8"))
    assert kept.keys() == found.keys()
    assert kept["loss"] == found["loss"]


# --- the predictions as a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", DATA)
def test_csv_and_npz_hold_the_same_bits(task: str, train: Train, tmp_path: Path) -> None:
    run = trained(train, task)
    for name in ("p.csv", "p.NPZ"):
        dlf.evaluate(run, split="val", predictions=tmp_path / name)
    rows = read_csv(tmp_path / "p.csv")
    with np.load(tmp_path / "p.NPZ", allow_pickle=False) as file:
        arrays = dict(file)
    assert [int(row["index"]) for row in rows] == arrays["index"].tolist()
    if task == "regression":
        for key in ("true", "predicted"):
            assert [float(row[key]) for row in rows] == arrays[key][:, 0].tolist()
        return
    names = arrays["classes"]
    for key in ("true", "predicted"):
        assert [row[key] for row in rows] == names[arrays[key]].tolist()
    for c, name in enumerate(names):
        assert [float(row[f"probability_{name}"]) for row in rows] == arrays["probabilities"][:, c].tolist()


def test_several_targets_have_columns_of_their_own(tmp_path: Path) -> None:
    p = Predictions("regression", np.array([[1.0, 2.0]]), output=np.array([[0.1, 0.2]]))
    write_predictions(tmp_path / "p.csv", p)
    assert (tmp_path / "p.csv").read_bytes() == b"index,true_0,true_1,predicted_0,predicted_1\n0,1.0,2.0,0.1,0.2\n"


def test_names_of_classes_survive_as_they_are(tmp_path: Path) -> None:
    names = ("a,b", 'say "ü"\n')
    p = Predictions("binary", np.array([1]), np.array([[0.25, 0.75]]), classes=names)
    write_predictions(tmp_path / "p.csv", p)
    (row,) = read_csv(tmp_path / "p.csv")
    assert row == {
        "index": "0",
        "true": names[1],
        "predicted": names[1],
        f"probability_{names[0]}": "0.25",
        f"probability_{names[1]}": "0.75",
    }
    write_predictions(tmp_path / "p.npz", p)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert tuple(file["classes"]) == names


@pytest.mark.parametrize("name", ["p.txt", "p", "p.csv.gz", "-", "", "folder.csv", "mine.csv", "link.csv"])
def test_a_file_that_cannot_be_meant_is_refused_before_anything_is_looked_at(
    name: str, train: Train, tmp_path: Path
) -> None:
    run = trained(train, "regression")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--predictions: "):
        dlf.evaluate(run, predictions=tmp_path / name)
    assert RunDirectory(Path(run)).test_looks() == []
    assert not (Path(run) / "evaluation-test.json").exists()
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_force_replaces_a_file_and_nothing_else(train: Train, tmp_path: Path) -> None:
    run = trained(train, "regression")
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    dlf.evaluate(run, split="val", predictions=tmp_path / "mine.csv", force=True)
    assert (tmp_path / "mine.csv").read_text().startswith("index,true,predicted\n")
    with pytest.raises(UsageError, match="is a folder"):
        dlf.evaluate(run, split="val", predictions=tmp_path / "folder.csv", force=True)
    with pytest.raises(MachineError, match="there is no folder"):
        dlf.evaluate(run, split="val", predictions=tmp_path / "nowhere" / "p.csv", force=True)


def test_a_file_that_appears_meanwhile_stays(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, target = trained(train, "regression"), tmp_path / "p.csv"

    def appear(_: Predictions) -> dict[str, Any]:
        target.write_text("mine")
        return {}

    monkeypatch.setattr("dlf.commands.evaluate.assess", appear)
    with pytest.raises(UsageError, match="there already"):
        dlf.evaluate(run, split="val", predictions=target)
    assert target.read_text() == "mine"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(train, "binary")
    monkeypatch.chdir(tmp_path)

    def evaluate(*words: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", run, *words])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    code, out, _ = evaluate("--predictions", "p.csv")
    assert (code, out.splitlines()[1]) == (0, "test looked at once")
    code, out, err = evaluate("--predictions", "p.csv")
    assert (code, out) == (2, "")
    assert "--force replaces it" in err
    code, out, _ = evaluate("--predictions", "p.csv", "--force", "--checkpoint", "last", "--json")
    found = json.loads(out)
    assert (code, found["checkpoint"], found["test_looks"]) == (0, "last", 2)
    assert {"accuracy_interval", "per_class", "confusions", "calibration", "roc", "precision_recall"} <= found.keys()
    assert (evaluate("--force")[0], evaluate("--predictions", "no/p.csv")[0]) == (2, 5)
    assert "test looked at 3 times" in evaluate()[1]
    assert "looked at" not in evaluate("--split", "val")[1]


def test_any_kept_checkpoint_is_measured(tmp_path: Path) -> None:
    """Each save's own record of metrics.jsonl is what its weights give on the validation part."""
    config = {
        "data": {"type": "spiral", "validation": 0.3},
        "train": {"epochs": 3, "device": "cpu"},
        "checkpoint": {"keep": 3},
    }
    run = dlf.train(config, runs=tmp_path).run
    records = dlf.records(run, runs=tmp_path)
    assert len({record["val_loss"] for record in records}) == 3
    for name, record in zip([f"step-{r['step']}" for r in records[:2]] + ["last"], records, strict=True):
        found = dlf.evaluate(run, split="val", checkpoint=name, runs=tmp_path)
        assert (found["loss"], found["epoch"]) == (record["val_loss"], record["epoch"])
    with pytest.raises(UsageError, match=r"no checkpoint 'step-1'; it has best, last, step-"):
        dlf.evaluate(run, split="val", checkpoint="step-1", runs=tmp_path)
