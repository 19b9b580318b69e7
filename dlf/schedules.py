"""Schedules: the learning rate as a pure function of the position in training and of the metrics so far.

Nothing is stored: whoever asks again, in any order or after a restart, gets the same answer. A schedule gives a factor
on the optimizer's learning rate, at most 1.

Conventions, those of torch.optim.lr_scheduler. Update n = 0, 1, ... of N has a factor of its own. cosine, linear and
polynomial start at n = 0 and would reach their end at n = N, which is the end of the training: the last update still
learns. one_cycle reaches its end at n = N - 1, its last update. With `per: epoch`, n and N count epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from dlf.registry import Component, Flaw, InvalidError, Registry, Share, did_you_mean

History = Sequence[Mapping[str, Any]]
Factor = Annotated[float, Field(ge=0, le=1)]

# Positions are quotients of integers: what is this near to a whole number of periods has reached it.
ROUNDING = 1e-9


class Moment(NamedTuple):
    """A position after the warm-up, as a schedule sees it; times are in epochs."""

    epoch: float
    """Time since the warm-up ended, 0 while it lasts; changes by `tick`."""
    epochs: float
    """Length of the training after the warm-up, at least `tick`."""
    tick: float
    """How long the factor holds: one update, or one epoch."""
    history: History = ()
    """One record, as in metrics.jsonl, for each epoch finished since the training began."""

    @property
    def progress(self) -> float:
        """Share of the training after the warm-up that is over, in [0, 1]."""
        return min(1.0, self.epoch / self.epochs)


class ScheduleSection(Component):
    """The schedule section: how the learning rate changes, and its warm-up, which goes before every schedule."""

    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs, 1.5 say, over which the learning rate rises linearly, at every update; the schedule starts after them."""
    warmup_start: Factor = 0.0
    """Factor from which the warm-up rises; its last update has the full learning rate of the schedule's start."""
    per: Literal["step", "epoch"] = "step"
    """Whether the schedule changes the learning rate at every update or only between epochs."""


SCHEDULES: Registry[Callable[..., float]] = Registry("schedule", base=ScheduleSection, default="constant")


def factor(schedule: Component, step: int, steps_per_epoch: int, epochs: int, history: History = ()) -> float:
    """The factor on the optimizer's learning rate for update number `step`, from 0; in [0, 1].

    `epochs` is the whole length of the training. `history` holds a record of each finished epoch, in order; records
    of later epochs than the step's are not looked at, so that a past factor can be asked for again.
    """
    assert isinstance(schedule, ScheduleSection)
    finished = step // steps_per_epoch
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    now = finished if schedule.per == "epoch" else step / steps_per_epoch
    tick = 1.0 if schedule.per == "epoch" else 1 / steps_per_epoch
    moment = Moment(
        epoch=max(0.0, now - schedule.warmup_epochs),
        epochs=max(tick, epochs - schedule.warmup_epochs),
        tick=tick,
        history=history[:finished],
    )
    value: float = SCHEDULES.build(schedule, moment)
    if step < warmup_steps:
        value *= _between(schedule.warmup_start, 1.0, min(1.0, (step + 1) / warmup_steps))
    return value


def _between(start: float, end: float, share: float) -> float:
    """start + (end - start) * share, written so that share 0 gives exactly `start` and share 1 exactly `end`."""
    return start * (1 - share) + end * share


def _between_cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine, as `share` goes from 0 to 1."""
    return _between(start, end, (1 - math.cos(math.pi * share)) / 2)


@SCHEDULES.register("constant")
def constant(now: Moment) -> float:
    """1: the learning rate stays what it is."""
    return 1.0


@SCHEDULES.register("step")
def step_decay(now: Moment, *, every: PositiveFloat = 10.0, gamma: Factor = 0.1) -> float:
    """gamma^k after k times `every` epochs, counted from the end of the warm-up. torch's StepLR."""
    return gamma ** math.floor(now.epoch / every + ROUNDING)


@SCHEDULES.register("multistep")
def multistep(
    now: Moment, *, milestones: Annotated[list[NonNegativeFloat], Field(min_length=1)], gamma: Factor = 0.1
) -> float:
    """gamma^k once k of the `milestones` are reached, in epochs since the end of the warm-up. torch's MultiStepLR."""
    return gamma ** sum(milestone <= now.epoch + ROUNDING for milestone in milestones)


@SCHEDULES.register("exponential")
def exponential(now: Moment, *, gamma: Factor = 0.95) -> float:
    """gamma^epochs since the end of the warm-up, in fractions of an epoch too. torch's ExponentialLR."""
    return math.pow(gamma, now.epoch)


@SCHEDULES.register("linear")
def linear(now: Moment, *, start: Factor = 1.0, final: Factor = 0.0) -> float:
    """From `start` to `final` in a straight line over the whole training. torch's LinearLR."""
    return _between(start, final, now.progress)


@SCHEDULES.register("polynomial")
def polynomial(now: Moment, *, power: PositiveFloat = 1.0, final: Factor = 0.0) -> float:
    """final + (1 - final) * (1 - progress)^power, from 1 to `final` over the whole training. torch's PolynomialLR."""
    return _between(final, 1.0, (1 - now.progress) ** power)


@SCHEDULES.register("cosine")
def cosine(now: Moment, *, final: Factor = 0.0) -> float:
    """final + (1 - final) * (1 + cos(pi * progress)) / 2, from 1 to `final` over the whole training.

    torch's CosineAnnealingLR; Loshchilov and Hutter, 2017, without restarts.
    """
    return _between_cosine(1.0, final, now.progress)


@SCHEDULES.register("one_cycle")
def one_cycle(now: Moment, *, start: Factor = 0.04, final: Factor = 4e-6, peak_at: Share = 0.3) -> float:
    """From `start` up to 1 and down to `final`, each along half a cosine; the optimizer's learning rate is the peak.

    `peak_at` is the share of the training at which the peak stands. torch's OneCycleLR with three_phase and
    cycle_momentum off, which reaches peak and end one update early; Smith and Topin, 2018.
    """
    peak, end = peak_at * now.epochs - now.tick, now.epochs - now.tick
    if now.epoch < peak - ROUNDING:
        return _between_cosine(start, 1.0, now.epoch / peak)
    return _between_cosine(1.0, final, min(1.0, max(0.0, (now.epoch - peak) / (end - peak))))


@SCHEDULES.register("plateau")
def plateau(
    now: Moment,
    *,
    monitor: str = "val_loss",
    mode: Literal["auto", "min", "max"] = "auto",
    gamma: Share = 0.1,
    patience: NonNegativeInt = 10,
    threshold: NonNegativeFloat = 1e-4,
    cooldown: NonNegativeInt = 0,
    floor: Factor = 0.0,
) -> float:
    """gamma times smaller whenever `monitor` has not improved for more than `patience` epochs, but never below `floor`.

    An epoch improves when it is better than the best so far by more than the share `threshold`; one without a value
    does not. After a reduction, `cooldown` epochs are not counted. mode auto: min where the monitor is a loss or an
    error, else max. Warm-up epochs count as well. torch's ReduceLROnPlateau, its `eps` 0.
    InvalidError where `monitor` is not among the metrics.
    """
    lower = mode == "min" or (mode == "auto" and lower_is_better(monitor))
    value, best, bad_epochs, resting = 1.0, math.inf if lower else -math.inf, 0, 0
    for record in now.history:
        current = _monitored(record, monitor)
        better = current < best * (1 - threshold) if lower else current > best * (1 + threshold)
        best, bad_epochs = (current, 0) if better else (best, bad_epochs + 1)
        if resting:
            resting, bad_epochs = resting - 1, 0
        if bad_epochs > patience:
            value, resting, bad_epochs = max(value * gamma, floor), cooldown, 0
    return value


def lower_is_better(monitor: str) -> bool:
    """Whether the metric of that name, with or without train_, val_ or test_ before it, is a loss or an error."""
    return not {"loss", "mae", "mse", "rmse", "error"}.isdisjoint(monitor.lower().split("_"))


def _monitored(record: Mapping[str, Any], monitor: str) -> float:
    """The value of the metric; NaN, which never improves, where it had none."""
    if monitor not in record:
        message = f"{monitor!r} is not measured.{did_you_mean(monitor, record)} Measured: {', '.join(record)}"
        raise InvalidError([Flaw(("monitor",), message)])
    return math.nan if record[monitor] is None else float(record[monitor])
