"""What five topics say of made-up measurements: each number stands beside what it belongs to, each verdict is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dlf import yaml12
from dlf.config import loads
from dlf.questions.design import Design
from dlf.questions.results import Arm, Study, Training, difference, spreads
from dlf.questions.topics import find
from dlf.questions.trials import prepare

Value = float | None | Sequence[float | None]
Numbers = Mapping[str, Value]  # a figure: of every seed, or one for all of them; a series: a course for all of them

IRIS: dict[str, Any] = {
    "name": "flowers",
    "data": {"type": "iris", "batch_size": 16, "validation": 40, "test": 0},
    "model": {"layers": [{"type": "linear", "units": 6}]},
    "optimizer": {"type": "sgd", "lr": 0.1},
    "train": {"epochs": 20, "device": "cpu"},
}
SEEDS = 3


def told(
    topic: str, measured: Mapping[str, Numbers | None], series: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Both paragraphs on these figures of each setting; None: every training of it diverged.

    A figure is one number, the same for every seed but for a thousandth of it, or a number a seed.
    """
    design = prepare(loads(yaml12.dump(IRIS), "the test"), find(topic).ask, lambda text: None)[1]
    return "\n".join(design.explain([studied(design, measured, series or {})]))


def studied(design: Design, measured: Mapping[str, Numbers | None], series: Mapping[str, Mapping[str, Any]]) -> Study:
    arms = {}
    for label, numbers in measured.items():
        trainings = tuple(
            Training(
                seed,
                int(_of(numbers.get("epochs", 20), seed) or 0) if numbers else 0,
                None if numbers is not None else "the loss of step 1 is not a finite number",
                {name: _of(value, seed) for name, value in (numbers or {}).items()},
                series.get(label, {}),
            )
            for seed in range(SEEDS)
        )
        arms[label] = Arm(label, {}, trainings, spreads(trainings))
    assert list(arms) == [variant.label for variant in design.variants]
    named = {figure.name: figure for figure in design.figures}
    differences = tuple(
        difference(arms[c.first], arms[c.second], named[c.figure or design.figures[0].name], c.expected)
        for c in design.claims
    )
    arranged = tuple(arms.values())
    return Study(
        "flowers", "iris", "iris", (110, 40), tuple(design.figures), arranged, differences, tuple(design.charts)
    )


def _of(value: Value, seed: int) -> float | None:
    if isinstance(value, Sequence):
        return value[seed]
    return None if value is None else value * (1 + 0.001 * (seed - 1))


def holds(said: str, *parts: str) -> None:
    for part in parts:
        assert part in said, f"{part!r} is not in:\n{said}"


# --- dropout --------------------------------------------------------------------------------------------------------

HEART = {"val_loss": 0.9, "fitted_loss": 0.1, "gap": 0.8, "val_accuracy": 0.6, "silenced": 3.6}
SPREAD = {"val_loss": 0.5, "fitted_loss": 0.3, "gap": 0.2, "val_accuracy": 0.8, "silenced": 0.6}


def dropout(plain: Numbers, dropped: Numbers) -> str:
    return told("dropout", {"without dropout": plain, "with dropout 0.5": dropped})


def test_dropout_that_helps() -> None:
    said = dropout(HEART, SPREAD)
    holds(
        said,
        "flowers without dropout: the loss is 0.100 on the 110 samples that were trained on and 0.900 on the ",
        "a gap of 0.800. With dropout 0.5 it is 0.300 and 0.500, a gap of 0.200: dropout narrows it (difference -0.600",
        "it pays: the validation loss is lower (difference -0.400",
        "The validation accuracy is better too (difference +20.0 points",
        "is 4 times as large without dropout and 1.2 times with dropout 0.5",
        "leans less on single units",
        "what it gave up there was learned by heart",
    )


def test_dropout_that_harms() -> None:
    holds(
        dropout(SPREAD, {**HEART, "fitted_loss": 0.4}),
        "dropout widens it (difference +0.600",
        "it does harm: the validation loss is higher (difference +0.400",
        "The validation accuracy is worse (difference -20.0 points",
        "leans on single units no less",
        "here it had nothing to prevent",
    )


def test_dropout_that_does_nothing() -> None:
    said = dropout(HEART, {**HEART, "fitted_loss": 0.05, "gap": [0.7, 0.8, 0.9], "val_loss": [0.8, 0.9, 1.0]})
    holds(said, "as far as these seeds show dropout leaves it as it is", "neither better nor worse for it")
    holds(said, "The validation accuracy shows no difference", "It fits the training part no worse for that.")


# --- momentum -------------------------------------------------------------------------------------------------------

LABELS = ("lr 0.1", "lr 1", "lr 10", "lr 0.1 + momentum 0.9", "lr 1 + momentum 0.9")


def momentum(*losses: Value, steps: Sequence[Value] = (500.0, 80.0, None, 100.0, 90.0)) -> str:
    measured = {
        label: None if loss is None else {"train_loss": loss, "steps_to_loss": count, "val_accuracy": 0.9}
        for label, loss, count in zip(LABELS, losses, steps, strict=True)
    }
    return told("momentum", measured)


def test_momentum_that_is_worth_the_longer_step_and_bears_more() -> None:
    holds(
        momentum(0.4, 0.02, None, 0.02, 0.03),
        "The training loss of flowers: lr 0.1 + momentum 0.9 ends at 0.0200 and lr 0.1, the same rate without, ends at "
        "0.400",
        "difference -0.380",
        "momentum is better. lr 0.1 comes to a tenth of the first loss in 500 steps, lr 0.1 + momentum 0.9 comes to a "
        "tenth of the first loss in 100 steps.",
        "1 / (1 - 0.9) = 10 times its size, so the fair opponent without momentum is lr 1. It ends at 0.0200",
        "these seeds show no difference. At rates as much larger again, lr 1 + momentum 0.9 ends at 0.0300 and lr 10 "
        "diverges (lr 10 diverged in 3 of 3 trainings): momentum is better.",
        "these seeds do not tell momentum from the longer step",
        "lr 1 + momentum 0.9 does better than lr 10",
        "(1 + m) / (1 - m) = 19 times",
        "346 steps to come a thousand times nearer, and 137 with m = 0.9",
    )


def test_momentum_that_is_a_loss() -> None:
    holds(
        momentum(0.02, 0.02, 0.01, 0.4, 0.4, steps=(80.0, 80.0, 70.0, [90.0, None, 110.0], None)),
        "momentum is worse. lr 0.1 comes",
        "in 80 steps, lr 0.1 + momentum 0.9 comes to a tenth of the first loss in 100 steps (2 of 3 trainings)",
        "Here the longer step alone gave more than momentum.",
        "lr 1 + momentum 0.9 did worse than lr 10",
    )


def test_momentum_where_nothing_shows() -> None:
    said = momentum(*([[0.1, 0.2, 0.3]] * 3), [0.3, 0.1, 0.2], [0.3, 0.2, 0.1], steps=[None] * 5)
    assert said.count("these seeds show no difference") == 4
    holds(said, "lr 0.1 does not come to a tenth of the first loss", "so neither limit shows there")


# --- batch_size -----------------------------------------------------------------------------------------------------


def batch_size(
    *accuracies: Value,
    noise: Sequence[float] = (4.0, 1.0, 0.25, 0.145),
    seconds: Sequence[Value] = ([0.3, 0.2, 0.25], 1.0, 1.0, [0.05, 0.02, 0.04], 1.0),
) -> str:
    labels = ("batch 4", "batch 16", "batch 64", "batch 110", "batch 110, 40 epochs")
    steps = (560.0, 140.0, 40.0, 20.0, 40.0)
    names = ("val_accuracy", "noise", "steps", "epoch_seconds")
    rows = zip(accuracies, (*noise, noise[-1]), ([count] * SEEDS for count in steps), seconds, strict=True)
    return told(
        "batch_size", {label: dict(zip(names, row, strict=True)) for label, row in zip(labels, rows, strict=True)}
    )


def test_large_batches_that_lack_steps() -> None:
    holds(
        batch_size(0.95, 0.94, 0.9, 0.75, 0.9),
        "flowers was trained for 20 epochs with batches of 4 sizes",
        "95.0 % with batch 4, 94.0 % with batch 16, 90.0 % with batch 64, 75.0 % with batch 110: the largest batch is "
        "worse than the smallest",
        "(difference -20.0 points",
        "But 20 epochs are 560 steps with batch 4 and 20.0 with batch 110. Given 40.0 steps, as many as batch 64 had, "
        "batch 110 comes to 90.0 %: more steps made it better (difference +15.0 points",
        "4.00 with 4, 1.00 with 16, 0.250 with 64, 0.145 with 110. That falls as size to the power -1.00",
        "27.5 times as large",
        "5.2 times as exact",
        "An epoch and its validation took 200ms with batch 4 and 20ms with batch 110: the products are the same, and",
        "more of them brought back 75 % of what it had lost",
        "no difference between batch 110, 40 epochs and batch 64",
    )


def test_large_batches_that_lack_noise() -> None:
    said = batch_size(0.95, 0.94, 0.9, 0.75, 0.6)
    holds(
        said,
        "more steps made it worse (difference -15.0",
        "Here more steps did not bring back",
        "less noise was no gain",
    )


def test_large_batches_that_are_better() -> None:
    said = batch_size(0.7, 0.8, 0.9, 0.95, 0.97)
    holds(said, "the largest batch is better than the smallest", "Here the few exact steps went further")
    holds(said, "batch 110, 40 epochs is better than batch 64: its steps are the more exact")


def test_batches_that_do_not_differ() -> None:
    wide = [0.8, 0.9, 1.0]
    said = batch_size(wide, wide, wide, [1.0, 0.9, 0.8], [0.8, 1.0, 0.9])
    holds(said, "between the largest and the smallest these seeds show no difference", "more steps made no difference")
    holds(said, "Here the smallest and the largest batch differ by no more than their seeds do.")


def test_noise_that_does_not_fall_is_said_to_be_so() -> None:
    said = batch_size(0.9, 0.9, 0.9, 0.9, 0.9, noise=(1.0, 1.0, 1.0, 1.0), seconds=[0.2] * 5)
    holds(said, "as size to the power 0.00", "here a step costs no more than its products")


# --- early_stopping -------------------------------------------------------------------------------------------------

FELL = [0.6, 0.4, 0.3, 0.3, 0.25, 0.24, 0.23, 0.22, 0.21, 0.2]
ROSE = [0.6, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 1.0]


def early_stopping(full: Numbers, stopped: Numbers, course: Sequence[float], epochs: Value = 7.0) -> str:
    labels = ("all 20 epochs", "stopped, patience 5")
    numbers = {labels[0]: {**full, "epochs": [10.0] * SEEDS}, labels[1]: {**stopped, "epochs": epochs}}
    series = {"val_loss": course, "train_loss": [1 / (1 + n) for n in range(len(course))]}
    return told("early_stopping", numbers, dict.fromkeys(labels, series))


def test_early_stopping_that_helps() -> None:
    said = early_stopping(
        {"held_out_loss": 0.9, "held_out_accuracy": 0.8}, {"held_out_loss": 0.5, "held_out_accuracy": 0.8}, ROSE
    )
    holds(
        said,
        "half of the validation part, 40 samples, said when to stop",
        "There the loss is 0.900 after all 20 epochs and 0.500 with early stopping: the network that was kept is ",
        "(difference -0.400",
        "The accuracy shows no difference",
        "Of 10 epochs 6 to 7 were trained, 6.67 in the mean.",
        "the validation loss is least at epoch 2 of 10 in the mean, with 0.400, and 1.00 at the end, while the "
        "training loss went on to 0.100.",
        "By the half that chose, stopping there gains 0.600, by the other half 0.400: a choice flatters itself.",
        "makes no more errors, it is surer of them",
        "on flowers that was right",
    )


def test_early_stopping_that_is_too_early() -> None:
    said = early_stopping(
        {"held_out_loss": 0.5, "held_out_accuracy": 0.9}, {"held_out_loss": 0.9, "held_out_accuracy": 0.8}, ROSE
    )
    holds(
        said, "the network that was kept is worse (difference +0.400", "The accuracy is worse (difference -10.0 points"
    )
    holds(said, "by the other half -0.400", "on flowers it chose the wrong one")
    assert "surer of them" not in said


def test_early_stopping_where_there_is_nothing_to_stop() -> None:
    same: Numbers = {"held_out_loss": [0.4, 0.5, 0.6], "held_out_accuracy": 0.9}
    said = early_stopping(same, same, FELL, epochs=[10.0] * SEEDS)
    holds(said, "these seeds show no difference", "No training stopped before its last epoch.")
    holds(
        said,
        "it fell until the end, and there was nothing to stop",
        "on flowers these seeds do not show that it matters",
    )


# --- batch_norm -----------------------------------------------------------------------------------------------------

RATES = ("0.01", "0.1", "1", "10")
CALM = [(2.0, 1.9), (2.0, 1.0), (2.0, 1.5), (2.0, 8.0)]
WILD = [(2.0, 1.8), (2.0, 2.5), (2.0, 99.0), (2.0, 1e9)]


def batch_norm(plain: Sequence[Value], normed: Sequence[Value], steps: Sequence[Any] = (WILD, CALM)) -> str:
    measured: dict[str, Numbers | None] = {}
    for how, values, ends in zip(("", " + batch_norm"), (plain, normed), steps, strict=True):
        for rate, value, (first, stepped) in zip(RATES, values, ends, strict=True):
            before = {"first_loss": first, "stepped_loss": stepped}
            measured[f"lr {rate}{how}"] = (
                None if value is None else {**before, "val_accuracy": value, "train_loss": 0.1}
            )
    course = {"lr 1 + batch_norm": {"val_accuracy": (0.5, 0.85, 0.97)}}
    return told("batch_norm", measured, course)


def test_batch_norm_that_bears_longer_steps() -> None:
    said = batch_norm((0.8, 0.9, None, None), (0.7, 0.9, 0.97, None))
    holds(
        said,
        "at 4 learning rates. At lr 0.01, 80.0 % without and 70.0 % with it: batch_norm is worse (difference -10.0 ",
        "At lr 0.1, 90.0 % without and 90.0 % with it: these seeds show no difference",
        "At lr 1, divergence without and 97.0 % with it: batch_norm keeps it from diverging",
        "At lr 10, divergence without and divergence with it: there is nothing to compare",
        "The best means are 90.0 % with lr 0.1 and 97.0 % with lr 1 + batch_norm, which comes to 90.0 % after epoch 3.",
        "without batch_norm from 2.00 to 1.80 (lr 0.01), 2.50 (lr 0.1), no number (lr 1), no number (lr 10); with it "
        "from 2.00 to 1.90 (lr 0.01), 1.00 (lr 0.1), 1.50 (lr 1), no number (lr 10)",
        "The longest step that still lowers it is lr 0.01 without and lr 1 with it.",
        "At lr 0.01, where steps are short anyway, it is a loss.",
    )


def test_batch_norm_that_is_worse_everywhere() -> None:
    said = batch_norm((0.8, 0.9, 0.98, 0.7), (0.7, 0.8, 0.97, None), steps=(CALM, CALM))
    assert said.count("batch_norm is worse") == 3
    holds(said, "70.0 % without and divergence with it: batch_norm makes it diverge")
    holds(said, "97.0 % with lr 1 + batch_norm, which never gets there", "lowers it is lr 1 in either case")


def test_batch_norm_that_is_better_at_every_rate() -> None:
    said = batch_norm((0.5,) * 4, (0.9,) * 4)
    assert said.count("batch_norm is better (difference +40.0 points") == 4
    holds(said, "Even at lr 0.01, the shortest step tried, the network is better with it.")


@pytest.mark.parametrize("topic", ["batch_norm", "batch_size", "dropout", "early_stopping", "momentum"])
def test_trainings_that_all_diverged_are_said_to_have(topic: str) -> None:
    """No number is made up where there is none."""
    design = prepare(loads(yaml12.dump(IRIS), "the test"), find(topic).ask, lambda text: None)[1]
    made = studied(design, dict.fromkeys([variant.label for variant in design.variants]), {})
    said = " ".join(design.explain([made, replace(made, config="others")]))
    assert "diverge" in said
    assert not re.search(r"\b(None|nan|inf)\b|\d\.\d+ %", said)
