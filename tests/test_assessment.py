"""Classes, confusions, calibration, curves and residuals: against scikit-learn and scipy, and by hand on tiny cases.

Sums of some 500 float64 numbers of size 1 round 500 times 1.1e-16; 1e-12 has a margin of ten. A wrong variant of each
is told apart by the same comparison.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binned_statistic, scoreatpercentile
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from statsmodels.stats.proportion import proportion_confint

from dlf.assessment import accuracy_interval, assess, calibration, confusions, curves, per_class, residuals
from dlf.losses import Task
from dlf.metrics import Predictions
from dlf.run import to_json

Array = NDArray[Any]
TOLERANCE = 1e-12
CLASSES = {"classification": 5, "binary": 2}


def close(one: Any, other: Any) -> bool:
    return np.shape(one) == np.shape(other) and bool(np.abs(np.subtract(one, other)).max(initial=0) < TOLERANCE)


def predictions(task: Task, seed: int, n: int = 500, decimals: int = 2) -> Predictions:
    """Better than chance, too sure of itself, with classes of unequal size; rounded, so that many scores are equal."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        target = 3 + rng.normal(size=(n, 2))
        return Predictions(task, target, output=target + rng.normal(0.1, 0.5, size=(n, 2)))
    k = CLASSES[task]
    label = rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[label]
    probability = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    if task == "binary":
        positive = np.round(probability[:, 1], decimals)
        probability = np.stack([1 - positive, positive], 1)
    return Predictions(task, label, probability, classes=tuple("abcde"[:k]))


SEEDS = range(5)
TASKS: tuple[Task, ...] = ("classification", "binary")


# --- classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_classes_are_those_of_scikit_learn(task: Task, seed: int) -> None:
    p = predictions(task, seed)
    rows = per_class(p)
    theirs = sk.precision_recall_fscore_support(p.target, p.label, labels=range(CLASSES[task]), zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert close([row[key] for row in rows], values), key
    assert tuple(row["class"] for row in rows) == p.classes
    assert not close([row["precision"] for row in rows], theirs[1])  # rows and columns exchanged


@pytest.mark.parametrize("task", TASKS)
def test_the_interval_is_wilsons(task: Task) -> None:
    p = predictions(task, 0)
    hits = int((p.label == p.target).sum())
    found = accuracy_interval(p)
    assert close((found["low"], found["high"]), proportion_confint(hits, 500, method="wilson"))
    assert not close((found["low"], found["high"]), proportion_confint(hits, 500, method="normal"))  # Wald's


@pytest.mark.parametrize("seed", SEEDS)
def test_confusions_are_the_largest_cells_off_the_diagonal(seed: int) -> None:
    p = predictions("classification", seed)
    matrix = sk.confusion_matrix(p.target, p.label, labels=range(5))
    shares = sk.confusion_matrix(p.target, p.label, labels=range(5), normalize="true")
    cells = sorted((-matrix[t, s], t, s) for t in range(5) for s in range(5) if t != s and matrix[t, s])
    found = confusions(p)
    assert [(-row["count"], "abcde".index(row["true"]), "abcde".index(row["said"])) for row in found] == cells[:10]
    assert close([row["share"] for row in found], [shares[t, s] for _, t, s in cells[:10]])


def tiny() -> Predictions:
    """Six samples of three classes; class c occurs once and is never predicted."""
    rows = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.2, 0.8, 0.0], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]]
    return Predictions("classification", np.array([0, 0, 0, 1, 1, 2]), np.array(rows), classes=("a", "b", "c"))


def test_a_tiny_case_by_hand() -> None:
    # a: said 4 times, rightly twice, of 3; b: said twice, rightly once, of 2; c: never said, of 1
    assert per_class(tiny()) == [
        {"class": "a", "precision": 0.5, "recall": 2 / 3, "f1": 4 / 7, "support": 3},
        {"class": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"class": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    ]
    assert confusions(tiny()) == [
        {"true": "a", "said": "b", "count": 1, "share": 1 / 3},
        {"true": "b", "said": "a", "count": 1, "share": 1 / 2},
        {"true": "c", "said": "a", "count": 1, "share": 1.0},
    ]
    assert len(confusions(tiny(), most=2)) == 2
    # confidences 0.9 right | 0.6 right | 0.7 wrong | 0.8 right | 0.75 wrong | 1.0 wrong; of 3 bins up to 1/3, 2/3, 1:
    # the second holds 0.6, one right of one; the third the others, two right of five, on average 0.83 sure
    found = calibration(tiny(), bins=3)
    assert [row["samples"] for row in found["bins"]] == [0, 1, 5]
    assert [row["accuracy"] for row in found["bins"]] == [None, 1.0, 0.4]
    assert found["bins"][2]["confidence"] == pytest.approx(4.15 / 5, abs=1e-15)
    assert found["expected_calibration_error"] == pytest.approx((0.4 + 5 * 0.43) / 6, abs=1e-15)


# --- calibration ----------------------------------------------------------------------------------------------------


def ece(p: Predictions, edges: Array) -> float:
    """By scipy's bins, which are closed below, so confidence is turned round: (a, b] becomes [-b, -a)."""
    confidence, correct = p.scores.max(1), (p.label == p.target).astype(float)
    turned = -edges[::-1]
    gaps = binned_statistic(-confidence, correct - confidence, "sum", bins=turned).statistic
    return float(np.abs(gaps).sum() / len(confidence))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_calibration_error_is_that_of_guo(task: Task, seed: int) -> None:
    p = predictions(task, seed)
    found = calibration(p)["expected_calibration_error"]
    assert close(found, ece(p, np.linspace(0, 1, 16)))
    assert found >= abs((p.label == p.target).mean() - p.scores.max(1).mean()) - TOLERANCE


def test_other_bins_are_told_apart() -> None:
    p = predictions("classification", 0)
    found, confidence = calibration(p), p.scores.max(1)
    gaps = [row["accuracy"] - row["confidence"] for row in found["bins"] if row["samples"]]
    assert min(gaps) < 0 < max(gaps)  # where all have one sign, every choice of bins gives the mean gap
    equal_mass = np.append(0, np.quantile(confidence, np.linspace(0, 1, 16)[1:]))
    for edges in (equal_mass, np.linspace(0, 1, 11), np.array([0.0, 1.0])):
        assert not close(found["expected_calibration_error"], ece(p, edges))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_reliability_table_is_that_of_scikit_learn(task: Task, seed: int) -> None:
    p = predictions(task, seed)
    accuracy, confidence = calibration_curve(p.label == p.target, p.scores.max(1), n_bins=15, strategy="uniform")
    rows = calibration(p)["bins"]
    assert len(rows) == 15
    assert sum(row["samples"] for row in rows) == 500
    filled = [row for row in rows if row["samples"]]
    assert close([row["accuracy"] for row in filled], accuracy)
    assert close([row["confidence"] for row in filled], confidence)
    assert all(row["low"] < row["confidence"] <= row["high"] for row in filled)
    assert all(row["accuracy"] is row["confidence"] is None for row in rows if not row["samples"])


def test_an_edge_belongs_to_the_bin_below_it_and_one_to_the_last() -> None:
    # 0.6 = 9 / 15 is the end of bin 8; rounding has left a probability above 1
    rows = np.array([[0.6, 0.4], [math.nextafter(0.6, 1), 0.4], [1.0, 0.0], [math.nextafter(1, 2), 0.0]])
    found = calibration(Predictions("binary", np.zeros(4, int), rows, classes=("a", "b")))
    assert [row["samples"] for row in found["bins"]] == [0] * 8 + [1, 1] + [0] * 4 + [2]


# --- curves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [1, 2, 17])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_roc_curve_and_its_area_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    p = predictions("binary", seed, decimals=decimals)
    score = p.scores[:, 1]
    roc = curves(p)["roc"]
    fallout, recall, _ = sk.roc_curve(p.target, score, drop_intermediate=False)
    for t, x, y in zip(*roc.values(), strict=True):  # each point is one of theirs
        assert np.isnan(t) == (x == y == 0)
        if not np.isnan(t):
            taken = score >= t
            assert close((x, y), (taken[p.target == 0].mean(), taken[p.target == 1].mean()))
    # and between them the curve is theirs: no corner was left out
    assert close(np.interp(fallout + recall, np.add(*list(roc.values())[1:]), roc["true_positive_rate"]), recall)
    assert len(roc["threshold"]) <= len(recall)
    area = sk.auc(roc["false_positive_rate"], roc["true_positive_rate"])
    assert close(area, sk.roc_auc_score(p.target, score))
    assert not close(area, sk.average_precision_score(p.target, score))


@pytest.mark.parametrize("decimals", [1, 2, 17])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_precision_recall_curve_and_its_area_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    p = predictions("binary", seed, decimals=decimals)
    score = p.scores[:, 1]
    curve = curves(p)["precision_recall"]
    precision, recall, threshold = sk.precision_recall_curve(p.target, score)
    theirs = {float(t): (x, y) for t, x, y in zip(threshold, recall, precision, strict=False)}
    assert (curve["recall"][0], curve["precision"][0]) == (0, 1)
    for t, x, y in list(zip(curve["threshold"], curve["recall"], curve["precision"], strict=True))[1:]:
        assert close((x, y), theirs[t])
    area = float(np.dot(np.diff(curve["recall"]), curve["precision"][1:]))
    assert close(area, sk.average_precision_score(p.target, score))
    assert not close(area, sk.auc(recall, precision))  # the trapezoids promise more


def test_the_operating_point_is_that_of_the_predicted_classes() -> None:
    p = predictions("binary", 1)
    point = curves(p)["operating_point"]
    assert (point["threshold"], point["positive"]) == (0.5, "b")
    assert close(point["true_positive_rate"], sk.recall_score(p.target, p.label))
    assert close(point["precision"], sk.precision_score(p.target, p.label))
    assert close(point["false_positive_rate"], 1 - sk.recall_score(p.target, p.label, pos_label=0))


def test_curves_of_a_tiny_case_by_hand() -> None:
    # from the highest score down: positive, negative, then a positive and a negative with the same score
    scores = np.array([0.9, 0.8, 0.3, 0.3])
    p = Predictions("binary", np.array([1, 0, 1, 0]), np.stack([1 - scores, scores], 1), classes=("no", "yes"))
    found = curves(p)
    assert found["roc"]["true_positive_rate"] == [0, 0.5, 0.5, 1]
    assert found["roc"]["false_positive_rate"] == [0, 0, 0.5, 1]
    assert found["roc"]["threshold"][1:] == [0.9, 0.8, 0.3]
    assert found["precision_recall"]["precision"] == [1, 1, 0.5, 0.5]
    assert found["precision_recall"]["recall"] == [0, 0.5, 0.5, 1]


def test_points_on_a_line_are_left_out() -> None:
    scores = np.linspace(0.99, 0.01, 99)
    p = Predictions("binary", (scores > 0.4).astype(int), np.stack([1 - scores, scores], 1), classes=("no", "yes"))
    found = curves(p)
    assert len(found["roc"]["threshold"]) == 3  # up, then right
    assert len(found["precision_recall"]["threshold"]) == 1 + 59 + 1  # the start, each step of recall, the end


@pytest.mark.parametrize("target", [0, 1])
def test_one_class_alone_has_no_curves(target: int) -> None:
    p = Predictions("binary", np.full(3, target), np.full((3, 2), 0.5), classes=("no", "yes"))
    found = curves(p)
    assert found["roc"] is found["precision_recall"] is None


# --- residuals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_residuals(seed: int) -> None:
    p = predictions("regression", seed)
    assert p.output is not None
    for j, found in enumerate(residuals(p)):
        error = [float(o) - float(t) for o, t in zip(p.output[:, j], p.target[:, j], strict=True)]
        rmse = math.sqrt(sk.mean_squared_error(p.target[:, j], p.output[:, j]))
        assert close(found["mean"], math.fsum(error) / 500)
        assert found["mean"] > 0.03  # it says too much, by 0.1 +- 0.5 / sqrt(500)
        assert close(math.hypot(found["mean"], found["std"]), rmse)
        for share, value in found["quantiles"].items():
            assert close(value, scoreatpercentile(error, 100 * float(share)))
        assert list(found["quantiles"]) == ["0.0", "0.05", "0.25", "0.5", "0.75", "0.95", "1.0"]
        largest = sorted(range(500), key=lambda i, error=error: -abs(error[i]))[:5]  # type: ignore[misc]
        assert [row["index"] for row in found["largest"]] == largest
        assert [row["residual"] for row in found["largest"]] == [error[i] for i in largest]
        assert all(row["true"] == p.target[row["index"], j] for row in found["largest"])
        assert all(row["predicted"] == p.output[row["index"], j] for row in found["largest"])


# --- all tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*TASKS, "regression"])
@pytest.mark.parametrize("bad", [None, math.nan, math.inf, 1e300])
@pytest.mark.parametrize("n", [1, 20])
def test_whatever_was_predicted_it_can_be_written_as_json(task: Task, bad: float | None, n: int) -> None:
    p = predictions(task, 0, n)
    values = p.output if task == "regression" else p.scores
    assert values is not None
    if bad is not None:
        values[0] = bad
    assert json.loads(to_json(assess(p)))
