"""First steps, on copies: how far an update moves the weights, and whether one small batch can be learned by heart.

A network that cannot do that will not learn a data set.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from dlf.checks.looking import walk
from dlf.checks.prepared import Prepared, drawn, step, trainable, uninformed
from dlf.checks.propagation import weight_variance
from dlf.engine import set_learning_rate
from dlf.findings import Finding, Verdict
from dlf.modules import Weighted

SAMPLES = 8  # few enough for any network with a hidden layer, and several classes
STEPS, FEWEST = 1000, 200  # as many as its multiply-adds allow: two seconds of a small network, on one core
MULTIPLY_ADDS = 1e10
# What is left of the way from a loss that says nothing to the least there is: a tenth of ln 10 is a probability of 0.8.
LEARNED = 0.1
HALF = 0.5
ROSE = 1.5  # times the first loss: a rate that is right overshoots by less
# The size of an update beside that of the weights. Of some 400 healthy networks the largest of the first 20 was below
# 0.3, with rates a thousand times as high it was 1.4 or more; later 0.001 is usual.
FIRST_STEPS = 20
LARGE_UPDATE, REPLACING_UPDATE = 0.4, 1.0
TINY_UPDATE = 1e-6  # ten thousand such steps, one behind the other, change a hundredth
_LOWER = (0.1, 0.01, 0.001)  # times the learning rate, one after the other, where it seems too high
_HIGHER = (10.0, 100.0)  # where it seems too low


@dataclass(frozen=True)
class Attempt:
    """The losses of one batch before each step; outputs that say nothing have `blank`, the best possible `least`."""

    losses: list[float]
    blank: float
    least: float

    @property
    def aim(self) -> float:
        """The loss at which a batch counts as learned."""
        return self.least + LEARNED * (self.blank - self.least)

    @property
    def learned(self) -> bool:
        """Whether it was; training ends there."""
        return self.losses[-1] <= self.aim

    @property
    def left(self) -> float:
        """The share of the way that is left at the end, 1 where nothing is known: a median, because high rates leap."""
        last = sorted(loss if math.isfinite(loss) else math.inf for loss in self.losses[-11:])
        return (last[len(last) // 2] - self.least) / (self.blank - self.least)

    @property
    def rose(self) -> bool:
        """Whether the loss left its start far behind, upwards, at any time."""
        return not all(loss <= ROSE * max(self.losses[0], self.blank) for loss in self.losses)


def update_size(prepared: Prepared) -> list[Finding]:
    """The largest of the first updates, relative to the weights that it changes, at the optimizer's full rate.

    Weights that are smaller than their initialiser draws them on average count as that large: all of a few weights may
    be small by chance, and soon are not.
    """
    state, experiment = trainable(prepared.state, prepared.experiment)
    layers = {
        index: layer
        for index, layer in walk(state.network.layers)
        if isinstance(layer, Weighted) and layer.weight.requires_grad and bool(layer.weight.any())
    }
    if not layers or not prepared.learns:
        return []
    weights = {index: layer.weight for index, layer in layers.items()}
    usual = {index: math.sqrt(_drawn_squares(layer)) for index, layer in layers.items()}
    size = max(SAMPLES, min(experiment.batch_size, _affordable(prepared, FIRST_STEPS)))  # one breaks batch_norm
    size = min(size, len(experiment.data.train))
    x, y = drawn(experiment.data.train, FIRST_STEPS * size, experiment.seed)
    largest = dict.fromkeys(weights, 0.0)
    for start in range(0, len(x) - size + 1, size):
        before = {index: weight.detach().clone() for index, weight in weights.items()}
        step(state, experiment, x[start : start + size], y[start : start + size])
        for index, weight in weights.items():
            ratio = float((weight.detach() - before[index]).norm()) / max(float(before[index].norm()), usual[index])
            largest[index] = max(largest[index], ratio if math.isfinite(ratio) else math.inf)
    index = max(largest, key=largest.__getitem__)
    return [_judged_update(prepared, index, largest[index], len(x) // size)]


def _drawn_squares(layer: Weighted) -> float:
    """What the squares of a layer's weights add up to, as the initialiser draws them; 0 where that is not known."""
    return (weight_variance(layer.init, layer.weight.shape) or 0.0) * layer.weight.numel()


def _judged_update(prepared: Prepared, index: str, ratio: float, steps: int) -> Finding:
    rate = float(prepared.state.optimizer.param_groups[0]["initial_lr"])
    said = f"the largest of the first {steps} updates moves the weights of layer {index} by {ratio:.2g} of their size"
    if TINY_UPDATE <= ratio <= LARGE_UPDATE:
        return Finding("update_size", "pass", said, ratio, LARGE_UPDATE, layer=index)
    if ratio < TINY_UPDATE:
        said += f"; {TINY_UPDATE:g} is little"
        remedy = f"raise optimizer.lr, {rate:g} now: nothing will move"
        return Finding("update_size", "warn", said, ratio, TINY_UPDATE, remedy, "dlf why learning_rate", index)
    verdict: Verdict = "fail" if ratio > REPLACING_UPDATE else "warn"
    threshold = REPLACING_UPDATE if ratio > REPLACING_UPDATE else LARGE_UPDATE
    said += f"; more than {threshold:g} {'replaces them' if verdict == 'fail' else 'is much'}"
    remedy = f"lower optimizer.lr, {rate:g} now, about {_round(ratio / 0.02)} times"
    return Finding("update_size", verdict, said, ratio, threshold, remedy, "dlf why learning_rate", index)


def _round(factor: float) -> str:
    """A factor as the power of ten below it, because more is not known."""
    return f"{10 ** math.floor(math.log10(factor)):,}" if math.isfinite(factor) else "1,000"


def _affordable(prepared: Prepared, times: int) -> int:
    """How many samples can take so many steps, or be so many in a step: once forward, twice as much backward."""
    return int(MULTIPLY_ADDS // (3 * times * max(1, prepared.multiply_adds)))


def one_batch(prepared: Prepared) -> list[Finding]:
    """The experiment's own optimizer, rate and loss on 8 samples; dropout and penalties off.

    Where it fails, other learning rates are tried, which tells a rate that is too high or too low from a network that
    cannot learn. It is a failure where the rate is more than ten times too high (ten times too high for 8 samples may
    be right for a whole batch), or where no rate takes the loss half of the way.
    """
    if not prepared.learns:
        return []  # the check of the gradients says so
    x, y = drawn(prepared.experiment.data.train, SAMPLES, prepared.experiment.seed)
    first = attempt(prepared, x, y)
    steps, end = len(first.losses) - 1, first.losses[-1]
    course = f"learned in {steps} steps: the loss goes from {first.losses[0]:.3g} to {end:.3g}"
    if first.learned:
        return [Finding("one_batch", "pass", f"{len(x)} samples are {course}", end, first.aim)]
    said = f"{len(x)} samples are not {course}; {first.aim:.3g} or less is expected"
    rate = float(prepared.state.optimizer.param_groups[0]["initial_lr"])
    factors = (*_LOWER, *_HIGHER) if first.rose or first.left > 1 else (*_HIGHER, *_LOWER)
    most_left = first.left
    for factor in factors:
        tried = attempt(prepared, x, y, factor)
        if tried.learned:
            much = factor < _LOWER[0] and (first.rose or first.left > HALF)
            verdict: Verdict = "fail" if much else "warn"
            wrong = "the learning rate is too high" if factor < 1 else "the learning rate is low, or the network slow"
            remedy = f"{wrong}: with optimizer.lr {rate * factor:.3g} it takes {len(tried.losses) - 1} steps"
            return [Finding("one_batch", verdict, said, end, first.aim, remedy, "dlf why learning_rate")]
        most_left = min(most_left, tried.left)
    verdict = "fail" if most_left > HALF else "warn"
    rates = f"learning rates from {rate * min(factors):.3g} to {rate * max(factors):.3g}"
    remedy = f"nor are they with {rates}: it is the network or the loss; see the other findings, or give it more units"
    return [Finding("one_batch", verdict, said, end, first.aim, remedy, "docs/lesson.md#gradient-descent")]


def attempt(prepared: Prepared, x: Tensor, y: Tensor, factor: float = 1.0) -> Attempt:
    """Train copies on this batch alone, with so many times the learning rate, until it is learned or the steps end."""
    state, experiment = trainable(prepared.state, prepared.experiment)
    targets = state.network.scaled(y)
    blank = float(
        experiment.loss(uninformed(prepared.look.output[: len(y)].to(targets.device), prepared.takes), targets)
    )
    tried = Attempt([], blank, least_loss(prepared, y))
    for _ in range(min(STEPS, max(FEWEST, _affordable(prepared, len(x)))) + 1):
        set_learning_rate(state.optimizer, factor)
        tried.losses.append(step(state, experiment, x, y))
        if tried.learned or not math.isfinite(tried.losses[-1]):
            break
    return tried


def least_loss(prepared: Prepared, y: Tensor) -> float:
    """The least that the loss of these samples can be, whatever the outputs are: not 0 with smoothed labels.

    Of numbers it is 0. Of classes it is found for each by raising its own output, or in a binary task the only one,
    until the loss no longer falls.
    """
    loss, units = prepared.experiment.loss, prepared.look.output.shape[1]
    if prepared.takes == "values":
        return 0.0
    total = 0.0
    for label, count in Counter(y.tolist()).items():
        raised = torch.zeros(1, units, dtype=torch.float64, device=y.device)
        raised[0, 0 if units == 1 else label] = 1.0 if units > 1 or label else -1.0
        target = torch.tensor([label], device=y.device)
        outputs = (raised * size for size in torch.arange(0.0, 30.0, 0.25).tolist())
        total += count * min(float(loss(_as_taken(output, prepared.takes), target)) for output in outputs)
    return total / len(y)


def _as_taken(output: Tensor, takes: str) -> Tensor:
    return output.log_softmax(1) if takes == "log_probabilities" else output
