"""What predictions show beyond single numbers: classes, confusions, calibration, curves, residuals.

Each function takes Predictions and gives plain numbers, lists and mappings, as they stand in evaluation-SPLIT.json. A
ratio without a denominator is 0 in `per_class`, as in dlf/metrics.py; what is undefined elsewhere is NaN or None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlf.metrics import Array, Predictions, confusion_matrix
from dlf.statistics import wilson

CALIBRATION_BINS = 15  # Guo et al., 2017
THRESHOLD = 0.5  # where the predicted class, the most probable one, changes; another one would be chosen by looking
CONFUSIONS, ERRORS = 10, 5  # how many pairs of classes, and how many of the largest errors, are listed
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Table = dict[str, Any]


def assess(predictions: Predictions) -> Table:
    """All that this file finds for the task."""
    if predictions.task == "regression":
        return {"residuals": residuals(predictions)}
    found = {
        "accuracy_interval": accuracy_interval(predictions),
        "per_class": per_class(predictions),
        "confusions": confusions(predictions),
        "calibration": calibration(predictions),
    }
    return found | (curves(predictions) if predictions.task == "binary" else {})


def accuracy_interval(predictions: Predictions) -> Table:
    """Where the accuracy on unseen data of this kind lies, with 95 % confidence, by Wilson's interval."""
    correct = int((predictions.label == predictions.target).sum())
    low, high = wilson(correct, len(predictions.target), confidence=0.95)
    return {"method": "wilson", "confidence": 0.95, "low": low, "high": high}


def per_class(predictions: Predictions) -> list[Table]:
    """For each class: precision TP / (TP + FP), recall TP / (TP + FN), F1 2 TP / (2 TP + FP + FN), support TP + FN."""
    counts = np.array(confusion_matrix(predictions))
    hits, said, support = counts.diagonal(), counts.sum(0), counts.sum(1)
    columns = {"precision": _ratio(hits, said), "recall": _ratio(hits, support), "f1": _ratio(2 * hits, said + support)}
    return [
        {"class": name, **{key: float(values[c]) for key, values in columns.items()}, "support": int(support[c])}
        for c, name in enumerate(_names(predictions))
    ]


def _ratio(above: Array, below: Array) -> Array:
    """Elementwise; 0 for 0 / 0."""
    return np.where(below > 0, above / np.maximum(below, 1), 0.0)


def _names(predictions: Predictions) -> tuple[str, ...]:
    return predictions.classes or tuple(map(str, range(predictions.scores.shape[1])))


def confusions(predictions: Predictions, *, most: int = CONFUSIONS) -> list[Table]:
    """Which class is taken for which: true, said, count, and share, count / support of the true class; most first."""
    counts, names = np.array(confusion_matrix(predictions)), _names(predictions)
    support = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]  # of equal counts, the first classes first
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        {"true": names[t], "said": names[s], "count": int(counts[t, s]), "share": float(counts[t, s] / support[t])}
        for t, s in pairs
        if counts[t, s]
    ]


def calibration(predictions: Predictions, *, bins: int = CALIBRATION_BINS) -> Table:
    """Whether 90 % sure is right nine times out of ten: sum over bins of n_b / n |accuracy_b - mean confidence_b|.

    The confidence is the probability of the predicted class; bin b holds the samples with confidence in
    (b / bins, (b + 1) / bins]. Empty bins have the confidence and accuracy None. Guo et al., 2017; Naeini et al., 2015.
    """
    confidence = predictions.scores.max(1)
    if not np.isfinite(confidence).all():
        return {"expected_calibration_error": float("nan"), "bins": []}
    correct = predictions.label == predictions.target
    edges = np.arange(bins + 1) / bins
    # rounding may leave a probability just above 1
    place = np.minimum(np.searchsorted(edges[1:], confidence, side="left"), bins - 1)
    count = np.bincount(place, minlength=bins)
    sure, right = (np.bincount(place, values, minlength=bins) for values in (confidence, correct))
    rows = [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "samples": int(count[b]),
            "confidence": float(sure[b] / count[b]) if count[b] else None,
            "accuracy": float(right[b] / count[b]) if count[b] else None,
        }
        for b in range(bins)
    ]
    return {"expected_calibration_error": float(np.abs(right - sure).sum() / len(confidence)), "bins": rows}


def curves(predictions: Predictions) -> Table:
    """Of class 1 against class 0: the ROC and the precision-recall curve, and where on them the threshold 0.5 stands.

    A point for each threshold t, from the highest down: what counts as class 1 is P(class 1) >= t. Points that lie
    straight between their neighbours are left out (for precision and recall: those of equal recall), which leaves both
    areas, `auroc` and `average_precision`, as they are. The first point, t = None, takes nothing as class 1; its
    precision, 0 / 0, is 1 by convention. None where a class is missing.
    """
    score, positive = predictions.scores[:, 1], predictions.target == 1
    name = _names(predictions)[1]
    if positive.all() or not positive.any() or not np.isfinite(score).all():
        return {"operating_point": {"threshold": THRESHOLD, "positive": name}, "roc": None, "precision_recall": None}
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last one of each group of equal scores
    hits = np.append(0, np.cumsum(positive[order])[last])  # true positives, a point each
    taken = np.append(0, last + 1)
    alarms = taken - hits  # false positives
    threshold = np.append(np.nan, score[order][last])
    recall, fallout = hits / positive.sum(), alarms / (~positive).sum()
    precision = np.where(taken > 0, hits / np.maximum(taken, 1), 1.0)
    up, right = np.diff(hits), np.diff(alarms)
    corner = np.concatenate([[True], up[:-1] * right[1:] != up[1:] * right[:-1], [True]])
    change = np.concatenate([[True], (up[:-1] > 0) | (up[1:] > 0), [True]])
    said = predictions.label == 1
    return {
        "operating_point": {
            "threshold": THRESHOLD,
            "positive": name,
            "true_positive_rate": float(said[positive].mean()),
            "false_positive_rate": float(said[~positive].mean()),
            "precision": float(positive[said].mean()) if said.any() else 0.0,
        },
        "roc": {
            "threshold": threshold[corner].tolist(),
            "false_positive_rate": fallout[corner].tolist(),
            "true_positive_rate": recall[corner].tolist(),
        },
        "precision_recall": {
            "threshold": threshold[change].tolist(),
            "recall": recall[change].tolist(),
            "precision": precision[change].tolist(),
        },
    }


def residuals(predictions: Predictions) -> list[Table]:
    """Predicted less true, in the units of the data, for each target: a positive mean says too much.

    std divides by n, so mean^2 + std^2 is the squared RMSE of this target; quantiles interpolate between two
    neighbours; largest lists those of greatest size, by the sample's index in the split.
    """
    found = []
    assert predictions.output is not None
    for error, true, said in zip(predictions.error.T, predictions.target.T, predictions.output.T, strict=True):
        with np.errstate(all="ignore"):
            mean, std, quantiles = float(error.mean()), float(error.std()), np.quantile(error, QUANTILES).tolist()
        order = np.argsort(-np.abs(error), kind="stable")[:ERRORS]
        largest = [
            {"index": int(i), "true": float(true[i]), "predicted": float(said[i]), "residual": float(error[i])}
            for i in order
        ]
        shares = dict(zip(map(str, QUANTILES), quantiles, strict=True))
        found.append({"mean": mean, "std": std, "quantiles": shares, "largest": largest})
    return found
