"""Metrics: every entry against a small implementation from its definition, by loops over samples and pairs.

sklearn is what the metrics call, so it is no reference here. Counts are exact and their ratios round a few times; sums
of some 50 float64 numbers of size 1 round 50 times 1.1e-16: 1e-13 has a margin of ten. Every entry names a wrong
variant, which the same comparison must reject.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from dlf.losses import Task
from dlf.metrics import METRICS, Predictions, best, column

Array = NDArray[Any]
TOLERANCE = 1e-13
CLASSES = {"classification": 4, "binary": 2}


def counts(p: Predictions) -> list[tuple[int, int, int]]:
    """True positives, false positives, false negatives of each class."""
    pairs = [(int(t), most_probable(row)) for t, row in zip(p.target, p.scores, strict=True)]
    return [
        (
            sum(t == c and o == c for t, o in pairs),
            sum(t != c and o == c for t, o in pairs),
            sum(t == c and o != c for t, o in pairs),
        )
        for c in range(p.scores.shape[1])
    ]


def most_probable(row: Array) -> int:
    return max(range(len(row)), key=lambda c: (row[c], -c))


def ratio(above: float, below: float) -> float:
    return above / below if below else 0.0


def averaged(score: Callable[[int, int, int], float], p: Predictions, average: str) -> Any:
    each = counts(p)
    if average == "micro":
        return score(*(sum(count[i] for count in each) for i in range(3)))
    scores = [score(*count) for count in each]
    support = [tp + fn for tp, _, fn in each]
    if average == "weighted":
        return sum(s * n for s, n in zip(scores, support, strict=True)) / sum(support)
    return scores if average == "none" else sum(scores) / len(scores)


def precision(p: Predictions, average: str = "macro") -> Any:
    return averaged(lambda tp, fp, fn: ratio(tp, tp + fp), p, average)


def recall(p: Predictions, average: str = "macro") -> Any:
    return averaged(lambda tp, fp, fn: ratio(tp, tp + fn), p, average)


def f1(p: Predictions, average: str = "macro") -> Any:
    return averaged(lambda tp, fp, fn: ratio(2 * tp, 2 * tp + fp + fn), p, average)


def accuracy(p: Predictions) -> float:
    return sum(most_probable(row) == int(t) for t, row in zip(p.target, p.scores, strict=True)) / len(p.target)


def top_k(p: Predictions, k: int = 5) -> float:
    """The true class has fewer than k classes before it: greater ones, and equal ones of lower number."""
    hits = 0
    for t, row in zip(p.target, p.scores, strict=True):
        before = sum(bool(row[c] > row[t] or (row[c] == row[t] and c < t)) for c in range(len(row)))
        hits += before < k
    return hits / len(p.target)


def pairs_won(target: Array, score: Array, tie: float = 0.5) -> float:
    """Mann and Whitney's count over all pairs of a positive and a negative."""
    positives, negatives = score[target == 1], score[target == 0]
    won = sum(1.0 if a > b else tie if a == b else 0.0 for a in positives for b in negatives)
    return won / (len(positives) * len(negatives))


def auroc(p: Predictions, tie: float = 0.5) -> float:
    judged = [1] if p.task == "binary" else [c for c in range(p.scores.shape[1]) if c in p.target]
    return sum(pairs_won((p.target == c).astype(int), p.scores[:, c], tie) for c in judged) / len(judged)


def average_precision(p: Predictions, ties: bool = True) -> float:
    """The mean over the positives of the precision among those that score no less than they do."""
    judged = [1] if p.task == "binary" else [c for c in range(p.scores.shape[1]) if c in p.target]
    areas = []
    for c in judged:
        scores = p.scores[:, c]
        taken = [scores >= s if ties else scores > s for s in scores[p.target == c]]
        areas.append(sum(ratio(sum(p.target[t] == c), sum(t)) for t in taken) / len(taken))
    return float(sum(areas) / len(areas))


def errors(p: Predictions) -> list[float]:
    assert p.output is not None
    return [float(o) - float(t) for o, t in zip(p.output.flat, p.target.flat, strict=True)]


def mse(p: Predictions) -> float:
    return sum(e * e for e in errors(p)) / len(errors(p))


def mae(p: Predictions) -> float:
    return sum(abs(e) for e in errors(p)) / len(errors(p))


def r2(p: Predictions, about: float | None = None) -> float:
    assert p.output is not None
    each: list[float] = []
    for t, o in zip(p.target.T, p.output.T, strict=True):
        centre = sum(t) / len(t) if about is None else about
        each.append(1 - sum((a - b) ** 2 for a, b in zip(t, o, strict=True)) / sum((a - centre) ** 2 for a in t))
    return sum(each) / len(each)


def confusion_matrix(p: Predictions) -> list[list[int]]:
    table = [[0] * p.scores.shape[1] for _ in range(p.scores.shape[1])]
    for t, row in zip(p.target, p.scores, strict=True):
        table[t][most_probable(row)] += 1
    return table


class Reference(NamedTuple):
    right: Callable[..., Any]
    wrong: Callable[..., Any]
    settings: tuple[dict[str, Any], ...] = ({},)


AVERAGES: tuple[dict[str, Any], ...] = tuple({"average": name} for name in ("macro", "micro", "weighted", "none"))
REFERENCES = {
    "accuracy": Reference(accuracy, lambda p: 1 - accuracy(p)),
    "top_k": Reference(top_k, lambda p, k=5: top_k(p, k + 1), ({"k": 1}, {"k": 2}, {"k": 5})),
    "precision": Reference(precision, recall, AVERAGES),
    "recall": Reference(recall, precision, AVERAGES),
    "f1": Reference(
        f1, lambda p, average="macro": ratio(2 * precision(p) * recall(p), precision(p) + recall(p)), AVERAGES
    ),
    "auroc": Reference(auroc, lambda p: auroc(p, tie=0.0)),
    "average_precision": Reference(average_precision, lambda p: average_precision(p, ties=False)),
    "mse": Reference(mse, lambda p: mse(p) / 2),
    "rmse": Reference(lambda p: math.sqrt(mse(p)), mse),
    "mae": Reference(mae, lambda p: math.sqrt(mse(p))),
    "r2": Reference(r2, lambda p: r2(p, about=0.0)),
    "confusion_matrix": Reference(confusion_matrix, lambda p: np.transpose(confusion_matrix(p)).tolist()),
}

# Every metric with every task; a metric without a reference fails with a KeyError.
CASES = [
    (name, task, settings)
    for name in METRICS.names()
    for task in METRICS.get(name).facts["tasks"]
    for settings in REFERENCES[name].settings
]


def predictions(task: Task, seed: int, n: int = 25) -> Predictions:
    """Random predictions that are better than chance; probabilities of one decimal, so that many are equal."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        target = 3 + rng.normal(size=(n, 2))
        return Predictions(task, target, output=target + 0.5 * rng.normal(size=(n, 2)))
    classes = CLASSES[task]
    label = rng.integers(0, classes, n)
    probability = np.round(0.3 * np.eye(classes)[label] + 0.7 * rng.dirichlet(np.ones(classes), n), 1)
    return Predictions(task, label, probability, classes=tuple("abcd"[:classes]))


def measured(name: str, settings: dict[str, Any], p: Predictions) -> Any:
    return METRICS.build(METRICS.make(name, **settings), p)


def agrees(one: Any, other: Any) -> bool:
    return np.shape(one) == np.shape(other) and bool(np.abs(np.subtract(one, other)).max() < TOLERANCE)


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_value_is_that_of_the_definition(name: str, task: Task, settings: dict[str, Any]) -> None:
    for seed in range(10):
        p = predictions(task, seed)
        assert agrees(measured(name, settings, p), REFERENCES[name].right(p, **settings))


@pytest.mark.parametrize("name", METRICS.names())
def test_the_comparison_rejects_a_wrong_variant(name: str) -> None:
    task, settings = METRICS.get(name).facts["tasks"][0], REFERENCES[name].settings[0]
    p = predictions(task, seed=1)
    assert not agrees(measured(name, settings, p), REFERENCES[name].wrong(p, **settings))


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_numbers_are_plain_python_numbers(name: str, task: Task, settings: dict[str, Any]) -> None:
    def plain(value: object) -> bool:
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (int, float)

    value = measured(name, settings, predictions(task, seed=0))
    assert plain(value)
    assert (best(METRICS.make(name, **settings)) is None) == isinstance(value, list)


@pytest.mark.parametrize("name", METRICS.names())
def test_best_is_the_direction_of_perfect_predictions(name: str) -> None:
    task = METRICS.get(name).facts["tasks"][0]
    p = predictions(task, seed=2)
    perfect = (
        Predictions(task, p.target, output=p.target)
        if task == "regression"
        else Predictions(task, p.target, np.eye(CLASSES[task])[p.target], classes=p.classes)
    )
    settings = {"k": 1} if name == "top_k" else {}
    if (direction := best(METRICS.make(name, **settings))) is not None:
        usual, ideal = measured(name, settings, p), measured(name, settings, perfect)
        assert ideal == (1 if direction == "max" else 0)
        assert ideal > usual if direction == "max" else ideal < usual


def absent() -> Predictions:
    """Three classes; class 2 neither occurs nor is predicted, class 1 is never predicted."""
    probability = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    return Predictions("classification", np.array([0, 0, 1]), probability, classes=("a", "b", "c"))


def test_classes_that_do_not_occur_keep_their_place() -> None:
    # by hand: class 0 has TP 2, FP 1, FN 0; class 1 has TP 0, FP 0, FN 1; class 2 has nothing
    assert measured("precision", {"average": "none"}, absent()) == [2 / 3, 0, 0]
    assert measured("recall", {"average": "none"}, absent()) == [1, 0, 0]
    assert measured("f1", {"average": "none"}, absent()) == [0.8, 0, 0]
    assert measured("confusion_matrix", {}, absent()) == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert measured("auroc", {}, absent()) == 1  # both classes that occur are told apart by their own scores


def alone(task: Task) -> Predictions:
    """A single sample."""
    if task == "regression":
        return Predictions(task, np.array([[1.0]]), output=np.array([[2.0]]))
    return Predictions(task, np.array([0]), np.eye(CLASSES[task])[:1], classes=tuple("abcd"[: CLASSES[task]]))


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_one_sample_gives_a_number_or_nan_without_a_warning(name: str, task: Task, settings: dict[str, Any]) -> None:
    value = measured(name, settings, alone(task))
    assert np.isnan(value).all() == (name in ("auroc", "average_precision", "r2"))


def test_r2_of_a_constant_target_is_nan() -> None:
    target = np.full((10, 1), 0.1)  # whose mean is not exactly 0.1
    assert math.isnan(measured("r2", {}, Predictions("regression", target, output=target + 1)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_predictions_of_a_diverged_network_raise_nothing(
    name: str, task: Task, settings: dict[str, Any], bad: float
) -> None:
    p = predictions(task, seed=3)
    values = p.output if task == "regression" else p.scores
    assert values is not None
    values[0] = bad
    value = measured(name, settings, p)
    if not math.isfinite(bad) and (task == "regression" or name in ("auroc", "average_precision")):
        assert not math.isfinite(value)


def test_column_names_the_settings_that_differ() -> None:
    names = [
        column(METRICS.make("f1")),
        column(METRICS.make("f1", average="macro")),
        column(METRICS.make("f1", average="micro")),
        column(METRICS.make("top_k", k=3)),
    ]
    assert names == ["f1", "f1", "f1_micro", "top_k_3"]


def test_columns_of_all_settings_differ() -> None:
    names = {column(METRICS.make(name, **s)) for name in METRICS.names() for s in REFERENCES[name].settings}
    assert len(names) == sum(len(REFERENCES[name].settings) for name in METRICS.names())


def test_predictions_that_do_not_belong_together_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Predictions("regression", np.zeros(3), output=np.zeros((3, 1)))
    with pytest.raises(AssertionError):
        Predictions("binary", np.zeros(0, int), np.zeros((0, 2)))
    with pytest.raises(AssertionError):
        Predictions("classification", np.zeros(3, int), output=np.zeros((3, 1)))
