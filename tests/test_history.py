"""Best epochs and early stopping, compared with a stateful re-implementation of what Keras documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlf.history import Mode, best_index, is_best, should_stop

# Multiples of 1/8 are exact in binary: no comparison hangs on the order in which differences are rounded.
values = st.lists(st.one_of(st.none(), st.just(math.nan), st.integers(-40, 40).map(lambda n: n / 8)), max_size=12)
settings = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "patience": st.integers(1, 4),
        "min_delta": st.sampled_from([0.0, 0.125, 1.0]),
        "start_from_epoch": st.integers(0, 4),
    }
)


def records(series: Sequence[float | None], monitor: str = "val_loss") -> list[dict[str, float | None]]:
    return [{monitor: value} for value in series]


def keras_stops(
    series: Sequence[float | None],
    *,
    mode: str,
    patience: int,
    min_delta: float,
    start_from_epoch: int,
    counts_ties: bool = False,
) -> bool:
    """keras.callbacks.EarlyStopping as its documentation reads, epoch by epoch.

    min_delta: "minimum change in the monitored quantity to qualify as an improvement"; patience: "number of epochs
    with no improvement after which training will be stopped"; start_from_epoch: "number of epochs to wait before
    starting to monitor improvement". What cannot be compared is no improvement. `counts_ties` is a deliberate mistake.
    """
    best, wait, stop = None, 0, False
    for epoch, value in enumerate(series):
        if epoch < start_from_epoch:
            continue
        wait += 1
        number = value is not None and not math.isnan(value)
        if number and best is not None:
            assert value is not None
            gain = best - value if mode == "min" else value - best
            improved = gain >= min_delta if counts_ties else gain > min_delta
        else:
            improved = number
        if improved:
            best, wait = value, 0
        stop = wait >= patience
    return stop


@given(values, settings)
def test_should_stop_as_keras_does(series: list[float | None], chosen: dict[str, Any]) -> None:
    assert should_stop(records(series), monitor="val_loss", **chosen) == keras_stops(series, **chosen)


def test_a_tie_is_no_improvement() -> None:
    """The comparison above would see it: the variant that counts ties differs on a constant series."""
    series = [1.0, 1.0, 1.0]
    chosen: dict[str, Any] = {"mode": "min", "patience": 2, "min_delta": 0.0, "start_from_epoch": 0}
    assert keras_stops(series, **chosen)
    assert not keras_stops(series, **chosen, counts_ties=True)
    assert should_stop(records(series), monitor="val_loss", **chosen)


@given(values, st.sampled_from(["min", "max"]))
def test_best_is_the_first_of_the_best(series: list[float | None], mode: Mode) -> None:
    numbers = [value for value in series if value is not None and not math.isnan(value)]
    pick: Callable[[list[float]], float] = min if mode == "min" else max
    expected = series.index(pick(numbers)) if numbers else None
    assert best_index(records(series), "val_loss", mode) == expected
    assert is_best(records(series), "val_loss", mode) == (expected is not None and expected == len(series) - 1)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_best(nothing: float | None) -> None:
    for monitor in ("val_loss", "val_accuracy"):
        assert best_index(records([nothing], monitor), monitor) is None
        assert not is_best(records([nothing], monitor), monitor)
        assert best_index(records([nothing, 2.0, nothing], monitor), monitor) == 1
    assert not is_best([], "val_loss")


@pytest.mark.parametrize(
    ("monitor", "best"), [("val_loss", 1), ("train_mae", 1), ("val_accuracy", 2), ("val_top_k_3", 2), ("val_r2", 2)]
)
def test_auto_knows_the_direction(monitor: str, best: int) -> None:
    history = records([0.5, 0.25, 0.75], monitor)
    assert best_index(history, monitor) == best
    assert best_index(history, monitor, "min") == 1
    assert best_index(history, monitor, "max") == 2


def test_min_delta_is_measured_from_the_best_so_far() -> None:
    """Steps of 0.1 never exceed 0.15 one by one, but together they do: 1.0 -> 0.8 is an improvement."""
    history = records([1.0, 0.9, 0.8])
    assert best_index(history, "val_loss", min_delta=0.15) == 2
    assert best_index(history, "val_loss", min_delta=0.25) == 0
