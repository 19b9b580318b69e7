"""One batch learned by heart: a network that cannot do that will not learn a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dlf.checks.prepared import Prepared, drawn, step, trainable, uninformed
from dlf.engine import set_learning_rate
from dlf.findings import Finding, Verdict

SAMPLES = 16  # few enough for any network with a hidden layer, and several classes
STEPS = 300
# What is left of the way from a loss that says nothing to the least there is: a tenth of ln 10 is a probability of 0.8.
LEARNED = 0.1
HALF = 0.5
ROSE = 1.5  # times the first loss: a rate that is right overshoots by less
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


def one_batch(prepared: Prepared) -> list[Finding]:
    """The experiment's own optimizer, rate and loss on 16 samples; dropout and penalties off.

    Where it fails, other learning rates are tried, which tells a rate that is too high or too low from a network that
    cannot learn.
    """
    if not any(parameter.requires_grad for parameter in prepared.state.network.parameters()):
        return []  # the check of the gradients says so
    x, y = drawn(prepared.experiment.data.train, SAMPLES, prepared.experiment.seed)
    first = attempt(prepared, x, y)
    steps, end = len(first.losses) - 1, first.losses[-1]
    course = f"learned in {steps} steps: the loss goes from {first.losses[0]:.3g} to {end:.3g}"
    if first.learned:
        return [Finding("one_batch", "pass", f"{len(x)} samples are {course}", end, first.aim)]
    verdict: Verdict = "warn" if first.left <= HALF and not first.rose else "fail"
    said = f"{len(x)} samples are not {course}; {first.aim:.3g} or less is expected"
    remedy, more = _diagnosis(prepared, first, lambda factor: attempt(prepared, x, y, factor))
    return [Finding("one_batch", verdict, said, end, first.aim, remedy, more)]


def attempt(prepared: Prepared, x: Tensor, y: Tensor, factor: float = 1.0) -> Attempt:
    """Train copies on this batch alone, with so many times the learning rate, until it is learned or the steps end."""
    state, experiment = trainable(prepared.state, prepared.experiment)
    targets = state.network.scaled(y)
    blank = float(
        experiment.loss(uninformed(prepared.look.output[: len(y)].to(targets.device), prepared.takes), targets)
    )
    tried = Attempt([], blank, least_loss(prepared, y))
    for _ in range(STEPS + 1):
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


def _diagnosis(prepared: Prepared, first: Attempt, retry: Callable[[float], Attempt]) -> tuple[str, str]:
    """What other rates say: remedy, and where to read on."""
    rate = float(prepared.state.optimizer.param_groups[0]["initial_lr"])
    ways = (_LOWER, _HIGHER[:1]) if first.rose or first.left > 1 else (_HIGHER, _LOWER[:1])
    for factor in (factor for way in ways for factor in way):
        tried = retry(factor)
        if tried.learned:
            wrong = "too high" if factor < 1 else "low"
            steps = len(tried.losses) - 1
            remedy = f"the learning rate is {wrong}: with optimizer.lr {rate * factor:.3g} it takes {steps} steps"
            return remedy, "dlf why learning_rate"
    rates = [rate * factor for way in ways for factor in way]
    tried_rates = f"nor are they with learning rates from {min(rates):.3g} to {max(rates):.3g}"
    remedy = f"{tried_rates}: it is the network or the loss; see the other findings, or give it more units"
    return remedy, "docs/lesson.md#gradient-descent"
