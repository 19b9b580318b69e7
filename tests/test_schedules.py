"""Every schedule is torch's, at every update and every epoch; it is a pure function; its factor stays in [0, 1].

The reference is torch.optim.lr_scheduler, driven as its documentation says, one step() an update or an epoch. Ours are
closed formulas and torch's are mostly recursions, so results differ by rounding: at most 60 steps of a few operations
with a relative error of 2^-53 each, below 1e-12. All wrong variants below are off by more than 1e-4.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as reference

from dlf.registry import Component, InvalidError
from dlf.schedules import SCHEDULES, Moment, factor, lower_is_better, one_cycle

EPOCHS, STEPS = 12, 5
ROUNDING = 1e-12

LOSSES = [1.0, 0.8, 0.7999999, 0.81, 0.6, 0.6, 0.7, math.nan, 0.65, 0.64, 0.5, 0.9]  # stalls, a NaN, a small gain
HISTORY = [{"epoch": i, "val_loss": None if math.isnan(x) else x, "val_accuracy": 1 - x} for i, x in enumerate(LOSSES)]

Scheduler = Callable[[torch.optim.Optimizer, int, Mapping[str, Any]], Any]

# For each schedule: torch's, for one step() every 1 / `per_epoch` epochs, from the parameters `p` of ours.
REFERENCES: dict[str, Scheduler] = {
    "constant": lambda o, per_epoch, p: reference.ConstantLR(o, factor=1.0),
    "step": lambda o, per_epoch, p: reference.StepLR(o, round(p["every"] * per_epoch), p["gamma"]),
    "multistep": lambda o, per_epoch, p: reference.MultiStepLR(
        o, [round(milestone * per_epoch) for milestone in p["milestones"]], p["gamma"]
    ),
    "exponential": lambda o, per_epoch, p: reference.ExponentialLR(o, p["gamma"] ** (1 / per_epoch)),
    "linear": lambda o, per_epoch, p: reference.LinearLR(o, p["start"], p["final"], EPOCHS * per_epoch),
    "polynomial": lambda o, per_epoch, p: reference.PolynomialLR(o, EPOCHS * per_epoch, p["power"]),
    "cosine": lambda o, per_epoch, p: reference.CosineAnnealingLR(o, EPOCHS * per_epoch, p["final"]),
    "one_cycle": lambda o, per_epoch, p: reference.OneCycleLR(
        o,
        max_lr=1.0,
        total_steps=EPOCHS * per_epoch,
        pct_start=p["peak_at"],
        div_factor=1 / p["start"],
        final_div_factor=p["start"] / p["final"],
        cycle_momentum=False,
    ),
    "plateau": lambda o, per_epoch, p: reference.ReduceLROnPlateau(
        o,
        mode="min" if p["monitor"] == "val_loss" else "max",
        factor=p["gamma"],
        patience=p["patience"],
        threshold=p["threshold"],
        cooldown=p["cooldown"],
        min_lr=p["floor"],
        eps=0,
    ),
}

REQUIRED: dict[str, dict[str, Any]] = {"multistep": {"milestones": [2, 7]}}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, REQUIRED.get(name, {})) for name in SCHEDULES.names()),
    ("step", {"every": 3, "gamma": 0.5}),
    ("multistep", {"milestones": [5], "gamma": 0.3}),
    ("exponential", {"gamma": 0.5}),
    ("linear", {"start": 0.3, "final": 0.9}),
    ("polynomial", {"power": 2.5}),
    ("cosine", {"final": 0.1}),
    ("one_cycle", {"start": 0.1, "final": 0.01, "peak_at": 0.5}),
    ("one_cycle", {"peak_at": 0.01}),  # the peak is over before it begins
    ("plateau", {"patience": 0}),
    ("plateau", {"patience": 1, "gamma": 0.5, "cooldown": 2}),
    ("plateau", {"patience": 1, "gamma": 0.5, "threshold": 0.3}),
    ("plateau", {"patience": 0, "gamma": 0.5, "floor": 0.2}),
    ("plateau", {"patience": 1, "monitor": "val_accuracy"}),
    ("plateau", {"patience": 1, "monitor": "val_accuracy", "mode": "max"}),
]
WITHIN_EPOCHS: list[tuple[str, dict[str, Any]]] = [  # what torch can only do when it counts updates
    ("step", {"every": 0.6, "gamma": 0.9}),  # 0.6 is no binary number: 1.8 / 0.6 is less than 3
    ("multistep", {"milestones": [0.2, 7.4, 7.4]}),
]


def ours(schedule: Component, history: Any = HISTORY) -> list[float]:
    return [factor(schedule, step, STEPS, EPOCHS, history) for step in range(EPOCHS * STEPS)]


def torchs(schedule: Component) -> list[float]:
    """The learning rate of every update under torch's schedule, whose optimizer has the learning rate 1."""
    by_epoch = schedule.per == "epoch" or schedule.type == "plateau"  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = REFERENCES[schedule.type](optimizer, 1 if by_epoch else STEPS, schedule.parameters)
    rates = []
    for step in range(EPOCHS * STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if not by_epoch:
            scheduler.step()
        elif step % STEPS == STEPS - 1:
            epoch = HISTORY[step // STEPS]
            monitored = [epoch[schedule.parameters["monitor"]]] if schedule.type == "plateau" else []
            scheduler.step(*(math.nan if value is None else value for value in monitored))
    return rates


def differ(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_every_schedule_has_a_reference() -> None:
    assert set(SCHEDULES.names()) == set(REFERENCES)


@pytest.mark.parametrize(("name", "parameters"), VARIANTS + WITHIN_EPOCHS)
def test_equals_torch_at_every_update(name: str, parameters: dict[str, Any]) -> None:
    schedule = SCHEDULES.make(name, **parameters)
    assert differ(ours(schedule), torchs(schedule)) < ROUNDING


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_equals_torch_at_every_epoch(name: str, parameters: dict[str, Any]) -> None:
    schedule = SCHEDULES.make(name, **parameters, per="epoch")
    assert differ(ours(schedule), torchs(schedule)) < ROUNDING


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if name != "constant"])
def test_the_comparison_notices_a_schedule_that_is_one_update_late(name: str) -> None:
    parameters = {"plateau": {"patience": 0}, "step": {"every": 3}, **REQUIRED}.get(name, {})
    expected = torchs(SCHEDULES.make(name, **parameters))
    late = ours(SCHEDULES.make(name, **parameters))
    assert differ([late[0], *late[:-1]], expected) > 1e-4


def test_the_comparison_notices_the_other_convention_for_the_end() -> None:
    """cosine that reached its end at the last update, and one_cycle that did only after it, would be seen."""
    last = EPOCHS * STEPS - 1
    cosine = [(1 + math.cos(math.pi * n / last)) / 2 for n in range(last + 1)]
    assert differ(cosine, torchs(SCHEDULES.make("cosine"))) > 1e-4
    cycle = [one_cycle(Moment(n / STEPS, EPOCHS, tick=0.0)) for n in range(last + 1)]
    assert differ(cycle, torchs(SCHEDULES.make("one_cycle"))) > 1e-4


@pytest.mark.parametrize("wrong", [{"patience": 2}, {"cooldown": 3}, {"threshold": 0.0}, {"monitor": "val_accuracy"}])
def test_the_comparison_notices_a_wrong_plateau(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"patience": 1, "gamma": 0.5, "threshold": 0.2}
    assert (
        differ(ours(SCHEDULES.make("plateau", **{**right, **wrong})), torchs(SCHEDULES.make("plateau", **right))) > 1e-4
    )


def test_polynomial_ends_at_final() -> None:
    """torch's has no final value: final + (1 - final) * torch's by definition."""
    expected = [0.2 + 0.8 * rate for rate in torchs(SCHEDULES.make("polynomial", power=2.0))]
    assert differ(ours(SCHEDULES.make("polynomial", power=2.0, final=0.2)), expected) < ROUNDING


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_the_warm_up_ramps_and_then_the_schedule_runs_over_what_remains(name: str) -> None:
    """W updates of warm-up: start + (1 - start) * (n + 1) / W of the schedule's first value, then the schedule."""
    parameters = REQUIRED.get(name, {})
    whole = SCHEDULES.make(name, **parameters, warmup_epochs=2, warmup_start=0.2)
    rest = SCHEDULES.make(name, **parameters)
    later = [factor(rest, step, STEPS, EPOCHS - 2) for step in range((EPOCHS - 2) * STEPS)]
    ramp = [(0.2 + 0.8 * (n + 1) / 10) * later[0] for n in range(10)]
    assert differ(ours(whole, []), ramp + later) < ROUNDING


def test_the_first_update_of_a_warm_up_learns_and_its_last_has_the_full_rate() -> None:
    rates = ours(SCHEDULES.make("constant", warmup_epochs=1))
    assert rates[: STEPS + 1] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], abs=ROUNDING)


def test_a_warm_up_goes_on_at_every_update_also_per_epoch_and_may_end_within_an_epoch() -> None:
    rates = ours(SCHEDULES.make("exponential", gamma=0.5, per="epoch", warmup_epochs=0.5))
    assert rates[:3] == pytest.approx([1 / 2.5, 2 / 2.5, 1.0], abs=ROUNDING)
    assert rates[STEPS : 2 * STEPS] == [0.5**0.5] * STEPS


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize("warmup_epochs", [EPOCHS - 0.1, EPOCHS, 2.5 * EPOCHS])
@pytest.mark.parametrize("per", ["step", "epoch"])
def test_a_warm_up_as_long_as_the_training_or_longer(name: str, warmup_epochs: float, per: str) -> None:
    schedule = SCHEDULES.make(name, **REQUIRED.get(name, {}), warmup_epochs=warmup_epochs, per=per)
    rates = ours(schedule, [])
    rises = [min(step + 1, warmup_epochs * STEPS) for step in range(EPOCHS * STEPS)]
    assert rates == pytest.approx([rates[0] * rise for rise in rises], rel=ROUNDING)
    assert rates[0] > 0


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_per_epoch_holds_through_an_epoch(name: str) -> None:
    rates = ours(SCHEDULES.make(name, **REQUIRED.get(name, {}), per="epoch"))
    epochs = [rates[start : start + STEPS] for start in range(0, len(rates), STEPS)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)


@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_is_a_pure_function_of_the_position(name: str, parameters: dict[str, Any]) -> None:
    """Any order, and a history that already holds later epochs, give the same: a resumed run goes on unchanged."""
    schedule = SCHEDULES.make(name, **parameters, warmup_epochs=1)
    steps = list(range(EPOCHS * STEPS))
    random.Random(0).shuffle(steps)
    shuffled = {step: factor(schedule, step, STEPS, EPOCHS, HISTORY[: step // STEPS]) for step in steps}
    assert [shuffled[step] for step in sorted(steps)] == ours(schedule)


def test_the_purity_check_notices_a_schedule_that_looks_ahead() -> None:
    schedule = SCHEDULES.make("plateau", patience=0)
    assert SCHEDULES.build(schedule, Moment(1, EPOCHS, 1, HISTORY)) != factor(schedule, STEPS, STEPS, EPOCHS, HISTORY)


@pytest.mark.parametrize("name", SCHEDULES.names())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_factor_stays_between_0_and_1(name: str, data: st.DataObject) -> None:
    steps, epochs = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 30))
    step = data.draw(st.integers(0, steps * epochs - 1))
    warmup = data.draw(st.floats(0, 2.0 * epochs))
    per = data.draw(st.sampled_from(["step", "epoch"]))
    losses = data.draw(st.lists(st.none() | st.floats(0, 10), min_size=epochs, max_size=epochs))
    schedule = SCHEDULES.make(name, **REQUIRED.get(name, {}), warmup_epochs=warmup, per=per)
    value = factor(schedule, step, steps, epochs, [{"val_loss": loss} for loss in losses])
    assert 0 <= value <= 1


def test_plateau_says_which_metrics_there_are() -> None:
    with pytest.raises(InvalidError, match=r"'val_los' is not measured\. Did you mean 'val_loss'\?") as caught:
        factor(SCHEDULES.make("plateau", monitor="val_los"), STEPS, STEPS, EPOCHS, HISTORY)
    assert caught.value.flaws[0].path == ("monitor",)


@pytest.mark.parametrize(
    ("monitor", "lower"),
    [("val_loss", True), ("mae", True), ("val_rmse", True), ("val_accuracy", False), ("val_r2", False)],
)
def test_which_metrics_are_better_when_lower(monitor: str, lower: bool) -> None:
    assert lower_is_better(monitor) is lower


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cosine", {"final": 1.5}),
        ("step", {"every": 0}),
        ("one_cycle", {"peak_at": 1.0}),
        ("plateau", {"gamma": 1.0}),
        ("multistep", {"milestones": []}),
        ("multistep", {}),
        ("linear", {"warmup_epochs": -1}),
    ],
)
def test_values_out_of_range_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        SCHEDULES.make(name, **wrong)
