"""What simple models make of the data: the numbers to beat, and whether the targets follow from the inputs at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dlf.checks.prepared import Prepared, drawn
from dlf.findings import Finding, Verdict

FITTED = 4000  # training samples of the linear model, fewer where a sample has many numbers
WEIGHTS = 32e6  # numbers of all samples times classes: half a second
HELD_OUT = 2000  # samples of the validation part
HALVES = 1000  # samples in each half, of which one is fitted and the other asked
NEIGHBOURS = 5
# Of the logistic regression: on MNIST it is right more often with this decay than with less, and 40 steps get there.
DECAY, STEPS = 0.01, 40
LINKED = 3.5  # standard deviations: once in 4,000 by chance, were the targets shuffled
WORTHLESS = 0.05  # gain of accuracy, or of explained variance, that would be found if there were one
_FEWEST = 20


@dataclass(frozen=True)
class Linear:
    """A linear model of standardized inputs: x -> ((x - mean) / std) W + b, logits or values."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std) @ self.weight + self.bias


def logistic_regression(x: Tensor, y: Tensor, classes: int, *, steps: int = STEPS) -> Linear:
    """The W, b with the least mean cross-entropy + DECAY / 2 |W|^2, nearly; x (n, features), y int64 (n,).

    That is scikit-learn's LogisticRegression with C = 1 / (DECAY n) on standardized inputs; a constant column counts as
    0. The Hessian is nowhere larger than X'X / (2 n) + DECAY, whose inverse gives steps that need no length: Boehning,
    1992. They are accelerated as Nesterov's, and start anew where they turn: O'Donoghue and Candes, 2015.
    """
    scaled, mean, std = _standardized(x)
    n = len(x)
    columns = torch.cat([scaled, scaled.new_ones(n, 1)], dim=1)
    decay = torch.full((columns.shape[1], 1), DECAY, dtype=x.dtype)
    decay[-1] = 0.0  # the bias is free
    bound = torch.linalg.cholesky(columns.t() @ columns / (2 * n) + torch.diag(decay[:, 0].clamp(min=1e-6)))
    true = F.one_hot(y, classes).to(x.dtype)
    weight = ahead = columns.new_zeros(columns.shape[1], classes)
    count = 0
    for _ in range(steps):
        errors = (columns @ ahead).softmax(1) - true  # (n, classes)
        gradient = (errors.t() @ columns).t() / n + decay * ahead
        moved = ahead - torch.cholesky_solve(gradient, bound)
        count = 0 if (gradient * (moved - weight)).sum() > 0 else count + 1
        weight, ahead = moved, moved + count / (count + 3) * (moved - weight)
    return Linear(mean, std, weight[:-1], weight[-1])


def ridge_regression(x: Tensor, y: Tensor) -> Linear:
    """The W, b with the least |x W + b - y|^2 + |W|^2; x (n, features), y (n, targets). Ridge with alpha = 1."""
    x, mean, std = _standardized(x)
    bias = y.mean(0)
    weight = torch.linalg.solve(x.t() @ x + torch.eye(x.shape[1], dtype=x.dtype), x.t() @ (y - bias))
    return Linear(mean, std, weight, bias)


def _standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-6 * x.abs().amax(0).clamp(min=1e-30), std, 1.0)
    return (x - mean) / std, mean, std


def nearest(x: Tensor, y: Tensor, asked: Tensor, classes: int | None) -> Tensor:
    """What the 5 nearest of the samples x say of each of `asked`: log-probabilities of classes, or the mean of numbers.

    A vote for a class is one of 5 + 1, the last spread over all classes, so that none has the probability 0.
    """
    scaled, mean, std = _standardized(x)
    indices = torch.cdist((asked - mean) / std, scaled).topk(min(NEIGHBOURS, len(x)), largest=False).indices
    if classes is None:
        return y[indices].mean(1)
    votes = F.one_hot(y[indices], classes).to(x.dtype).sum(1)  # (asked, classes)
    return torch.log((votes + 1 / classes) / (votes.sum(1, keepdim=True) + 1))


# --- do the targets follow from the inputs? -------------------------------------------------------------------------


def linked(output: Tensor, y: Tensor) -> float:
    """How much better predictions fit their own targets than shuffled ones, in standard deviations of the shuffling.

    With a[i, j] = how well prediction i fits target j (the log-probability of its class, or less the squared error),
    the mean of sum_i a[i, pi(i)] over all permutations pi is sum_ij a[i, j] / n, and its variance sum_ij d[i, j]^2 /
    (n - 1), d being a less the means of its rows and columns. Exact, whatever is predicted and however often each
    class occurs. Hoeffding, 1951.
    """
    output = output.double()  # of equal predictions nothing but 0 may be left
    fit = -torch.cdist(output, y.double()).square() if y.is_floating_point() else output[:, y]
    own = fit.diagonal().sum() - fit.mean() * len(y)
    centred = fit - fit.mean(0) - fit.mean(1, keepdim=True) + fit.mean()
    spread = (centred.square().sum() / (len(y) - 1)).sqrt()
    return float(own / spread) if spread > 1e-9 * (fit.abs().max() + 1e-30) else 0.0


def association(prepared: Prepared) -> list[Finding]:
    """Whether the nearest neighbours, or else a linear model, predict targets of samples that they did not see."""
    data = prepared.experiment.data
    x, y = _inputs(prepared, *drawn(data.train, 2 * _affordable(prepared, HALVES), prepared.experiment.seed))
    if len(x) < _FEWEST or len(torch.unique(y)) < 2:
        return []
    classes = len(data.classes) if data.classes is not None else None
    said = f"{'labels' if classes else 'targets'} of unseen samples are predicted better than shuffled ones by"
    by_neighbours, gain = asked_across(x, y, lambda x, y, asked: nearest(x, y, asked, classes))
    of = f"standard deviations, from {len(x):,} training samples"
    if by_neighbours >= LINKED:
        return [Finding("association", "pass", f"{said} {by_neighbours:.0f} {of}", by_neighbours, LINKED)]
    by_line, other_gain = asked_across(x, y, lambda x, y, asked: _linear(x, y, classes)(asked))
    said += f" {by_neighbours:.1f} (nearest neighbours) and {by_line:.1f} (linear model) {of}"
    value = max(by_neighbours, by_line)
    if value >= LINKED:
        return [Finding("association", "pass", said, value, LINKED)]
    error = 1 / math.sqrt(len(x))  # two standard errors of an accuracy at most
    verdict: Verdict = "fail" if max(gain, other_gain) + error < WORTHLESS else "warn"
    remedy = "are they in the order of the samples? Shuffled labels look like this, and so do inputs without the answer"
    more = "docs/lesson.md#overfitting-and-regularization"
    return [Finding("association", verdict, f"{said}; {LINKED:g} are expected", value, LINKED, remedy, more)]


def asked_across(x: Tensor, y: Tensor, model: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Fitted on either half and asked of the other: how far it is from chance, and what it gains; the means of both.

    Chance makes both high together, for what the halves have in common by chance helps either way: the mean of the two
    has a standard deviation of 1 at most where the labels are shuffled.
    """
    first, second = (slice(0, len(x) // 2), slice(len(x) // 2, None))
    scores, gains = [], []
    for fitted, asked in ((first, second), (second, first)):
        output = model(x[fitted], y[fitted], x[asked])
        scores.append(linked(output if y.is_floating_point() else output.log_softmax(1), y[asked]))
        gains.append(_gain(output, y[asked]))
    return sum(scores) / 2, sum(gains) / 2


def _gain(output: Tensor, y: Tensor) -> float:
    """Accuracy above that of the most frequent class; for numbers the squared correlation."""
    if not y.is_floating_point():
        return float((output.argmax(1) == y).double().mean() - torch.bincount(y).max() / len(y))
    centred, true = output - output.mean(0), y - y.mean(0)
    norm = (centred.square().sum() * true.square().sum()).sqrt()
    return float((centred * true).sum() / norm) ** 2 if norm > 0 else 0.0


# --- the numbers to beat --------------------------------------------------------------------------------------------


def baselines(prepared: Prepared) -> list[Finding]:
    """What the most frequent class, or the mean, and a linear model reach on the validation part."""
    data = prepared.experiment.data
    count = _affordable(prepared, FITTED)
    x, y = _inputs(prepared, *drawn(data.train, count, prepared.experiment.seed))
    where = "validation"
    if len(data.validation):
        asked, true = _inputs(prepared, *drawn(data.validation, HELD_OUT, prepared.experiment.seed))
    else:
        where, cut = "training", len(x) - max(1, len(x) // 5)
        x, asked, y, true = x[:cut], x[cut:], y[:cut], y[cut:]
    if not len(x):
        return []
    fitted, of = f"fitted on {len(x):,} samples", f"of {len(asked):,} {where} samples"
    if data.classes is not None:
        return _of_classes(x, y, asked, true, data.classes, fitted, of)
    return _of_numbers(prepared, x, y, asked, true, fitted, of)


def _of_classes(
    x: Tensor, y: Tensor, asked: Tensor, true: Tensor, classes: tuple[str, ...], fitted: str, of: str
) -> list[Finding]:
    frequent = int(torch.bincount(y).argmax())
    majority = float((true == frequent).double().mean())
    output = _linear(x, y, len(classes))(asked)
    accuracy, loss = float((output.argmax(1) == true).double().mean()), float(F.cross_entropy(output, true))
    said = f"always saying {classes[frequent]!r} is right for {majority:.1%} {of}: the least to beat"
    linear = (
        f"a logistic regression, {fitted}, is right for {accuracy:.1%} {of} (loss {loss:.3g}): the accuracy to beat"
    )
    return [
        Finding("baseline_majority", "pass", said, majority, None),
        Finding("baseline_linear", "pass", linear, accuracy, majority),
    ]


def _of_numbers(
    prepared: Prepared, x: Tensor, y: Tensor, asked: Tensor, true: Tensor, fitted: str, of: str
) -> list[Finding]:
    std = prepared.network.targets_std.double().cpu()
    mean_error = float(((y.mean(0) - true) * std).abs().mean())
    output = _linear(x, y, None)(asked)
    error = float(((output - true) * std).abs().mean())
    explained = 1 - float((output - true).square().sum() / (true - true.mean(0)).square().sum().clamp(min=1e-30))
    said = f"always saying the mean errs by {mean_error:.4g} {of}: the least to beat"
    linear = f"a ridge regression, {fitted}, errs by {error:.4g} {of} (R2 {explained:.2f}): the error to beat"
    return [
        Finding("baseline_mean", "pass", said, mean_error, None),
        Finding("baseline_linear", "pass", linear, error, mean_error),
    ]


def _linear(x: Tensor, y: Tensor, classes: int | None) -> Linear:
    return ridge_regression(x, y) if classes is None else logistic_regression(x, y, classes)


def _inputs(prepared: Prepared, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Samples as rows of float32 on the CPU, normalized as the network sees them; targets as the loss sees them."""
    network = prepared.state.network
    return network.normalize(x).flatten(1).cpu(), network.scaled(y).cpu()


def _affordable(prepared: Prepared, count: int) -> int:
    data = prepared.experiment.data
    numbers = math.prod(data.train.x.shape[1:]) * (len(data.classes) if data.classes is not None else 1)
    return min(count, max(_FEWEST, int(WEIGHTS // numbers)))
