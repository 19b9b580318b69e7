"""Metrics: how good the predictions of a whole data split are; computed once over all samples, without gradients.

A metric is `f(predictions, *, ...)` and gives one number, a list with a number for each class, or a table. The fact
`tasks` lists what it serves; the fact `best` says which direction is better, None where there is no single number.
A metric that is undefined for the data is NaN, without a warning: AUROC with one class, R^2 with one sample, any number
that is drawn from predictions that are not finite. A ratio without a denominator (the precision of a class that was
never predicted) is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from dlf.losses import Task
from dlf.registry import Component, Registry

Array = NDArray[Any]
Average = Literal["macro", "micro", "weighted", "none"]

METRICS: Registry[Callable[..., Any]] = Registry("metric")

CLASSES: tuple[Task, ...] = ("classification", "binary")
NUMBERS: tuple[Task, ...] = ("regression",)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network said of n >= 1 samples, and the truth.

    target: int64 (n,), or float64 (n, targets) for regression. probability: float64 (n, classes), None for regression.
    output: float64 (n, targets) for regression, in the units of the data, else None. classes: their names, None for
    regression.
    """

    task: Task
    target: Array
    probability: Array | None = None
    output: Array | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.target) > 0, "metrics of no samples"
        given, missing = (
            (self.output, self.probability) if self.task == "regression" else (self.probability, self.output)
        )
        assert given is not None, f"{self.task} without its predictions"
        assert missing is None, f"{self.task} with the predictions of another task"
        assert given.ndim == 2, given.shape
        assert len(given) == len(self.target), (given.shape, self.target.shape)
        assert self.task != "regression" or given.shape == self.target.shape, (given.shape, self.target.shape)

    @property
    def label(self) -> Array:
        """The predicted class, int64 (n,): the most probable one, the first of equal ones."""
        labels: Array = self.scores.argmax(1)
        return labels

    @property
    def scores(self) -> Array:
        """The probabilities (n, classes); only where there are classes."""
        assert self.probability is not None, "a regression has no probabilities"
        return self.probability

    @property
    def error(self) -> Array:
        """Output less target, (n, targets); only of a regression."""
        assert self.output is not None, "only a regression has errors that are numbers"
        return np.subtract(self.output, self.target)


def column(metric: Component) -> str:
    """The name that a metric is written under: its type, and each setting that is not the default.

    >>> column(METRICS.make("f1", average="micro"))
    'f1_micro'
    """
    fields = METRICS.get(metric.type).model.model_fields
    changed = [str(value) for name, value in metric.parameters.items() if value != fields[name].default]
    return "_".join([metric.type, *changed])


def best(metric: Component) -> Literal["max", "min"] | None:
    """Which direction of this metric is better; None where it gives more than one number."""
    if metric.parameters.get("average") == "none":
        return None
    direction: Literal["max", "min"] | None = METRICS.get(metric.type).facts["best"]
    return direction


@METRICS.register("accuracy", tasks=CLASSES, best="max")
def accuracy(predictions: Predictions) -> float:
    """correct / n: the share of samples whose most probable class is the true one."""
    return float((predictions.label == predictions.target).mean())


@METRICS.register("top_k", tasks=CLASSES, best="max")
def top_k(predictions: Predictions, *, k: PositiveInt = 5) -> float:
    """The share of samples whose true class is among the k most probable ones; 1 where there are at most k classes.

    Of equal probabilities the first class comes first, so that k = 1 is accuracy.
    """
    leading = np.argsort(-predictions.scores, axis=1, kind="stable")[:, :k]
    return float((leading == predictions.target[:, None]).any(1).mean())


def _averaged(score: Callable[..., Any], predictions: Predictions, average: Average) -> float | list[float]:
    value = score(
        predictions.target,
        predictions.label,
        labels=np.arange(predictions.scores.shape[1]),  # so that a class that does not occur keeps its place
        average=None if average == "none" else average,
        zero_division=0,
    )
    result: float | list[float] = np.asarray(value).tolist()
    return result


@METRICS.register("precision", tasks=CLASSES, best="max")
def precision(predictions: Predictions, *, average: Average = "macro") -> float | list[float]:
    """TP / (TP + FP) of each class, averaged: how many of those predicted as a class belong to it; 0 for 0 / 0.

    average: macro, every class counts alike; weighted, by its number of samples; micro, the counts are summed first,
    which is accuracy; none, a list with one number for each class. Two classes are treated like any number of them.
    """
    from sklearn.metrics import precision_score

    return _averaged(precision_score, predictions, average)


@METRICS.register("recall", tasks=CLASSES, best="max")
def recall(predictions: Predictions, *, average: Average = "macro") -> float | list[float]:
    """TP / (TP + FN) of each class, averaged: how many of those that belong to a class were found; 0 for 0 / 0.

    average: as for precision. The macro average is also called balanced accuracy.
    """
    from sklearn.metrics import recall_score

    return _averaged(recall_score, predictions, average)


@METRICS.register("f1", tasks=CLASSES, best="max")
def f1(predictions: Predictions, *, average: Average = "macro") -> float | list[float]:
    """2 TP / (2 TP + FP + FN) of each class, averaged: the harmonic mean of precision and recall; 0 for 0 / 0.

    average: as for precision. macro is the mean of the F1 of the classes, not the F1 of mean precision and recall.
    """
    from sklearn.metrics import f1_score

    return _averaged(f1_score, predictions, average)


@METRICS.register("auroc", tasks=CLASSES, best="max")
def auroc(predictions: Predictions) -> float:
    """P(score of a positive > score of a negative) + P(equal) / 2: the area under the ROC curve; chance gives 0.5.

    With two classes, class 1 is positive. With more, each class against the rest, and the mean over the classes that
    have both positives and negatives here; NaN where there is none. Hanley and McNeil, 1982.
    """
    from sklearn.metrics import roc_auc_score

    return _against_the_rest(roc_auc_score, predictions)


@METRICS.register("average_precision", tasks=CLASSES, best="max")
def average_precision(predictions: Predictions) -> float:
    """sum_t (R_t - R_t-1) P_t over the thresholds t from the highest down: the area under the precision-recall curve.

    Without interpolation, which would promise too much (Davis and Goadrich, 2006). Chance gives the share of positives.
    Positives, classes and NaN as for auroc.
    """
    from sklearn.metrics import average_precision_score

    return _against_the_rest(average_precision_score, predictions)


def _against_the_rest(area: Callable[..., Any], predictions: Predictions) -> float:
    scores, target = predictions.scores, predictions.target
    judged = [1] if predictions.task == "binary" else range(scores.shape[1])
    defined = [c for c in judged if 0 < (target == c).sum() < len(target)]
    if not defined or not np.isfinite(scores).all():
        return float("nan")
    return float(np.mean([area(target == c, scores[:, c]) for c in defined]))


@METRICS.register("mse", tasks=NUMBERS, best="min")
def mse(predictions: Predictions) -> float:
    """mean (output - target)^2 over samples and targets; in the squared units of the data."""
    with np.errstate(all="ignore"):
        return float((predictions.error**2).mean())


@METRICS.register("rmse", tasks=NUMBERS, best="min")
def rmse(predictions: Predictions) -> float:
    """sqrt(mean (output - target)^2) over samples and targets; in the units of the data."""
    return float(np.sqrt(mse(predictions)))


@METRICS.register("mae", tasks=NUMBERS, best="min")
def mae(predictions: Predictions) -> float:
    """mean |output - target| over samples and targets; in the units of the data."""
    with np.errstate(all="ignore"):
        return float(np.abs(predictions.error).mean())


@METRICS.register("r2", tasks=NUMBERS, best="max")
def r2(predictions: Predictions) -> float:
    """1 - sum (output - target)^2 / sum (target - mean)^2, mean over targets: 1 is perfect, 0 no better than the mean.

    NaN where a target is the same for every sample (with one sample always): there is no variance to explain.
    """
    target = predictions.target
    if (target.min(0) == target.max(0)).any():
        return float("nan")
    with np.errstate(all="ignore"):
        unexplained = (predictions.error**2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)  # (targets,)
        return float((1 - unexplained).mean())


@METRICS.register("confusion_matrix", tasks=CLASSES, best=None)
def confusion_matrix(predictions: Predictions) -> list[list[int]]:
    """counts[true][predicted]: a row for each true class, a column for each predicted one; the diagonal is correct."""
    classes = predictions.scores.shape[1]
    cells = np.bincount(predictions.target * classes + predictions.label, minlength=classes**2)
    table: list[list[int]] = cells.reshape(classes, classes).tolist()
    return table
