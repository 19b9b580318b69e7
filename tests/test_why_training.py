"""What the topics batch_norm, batch_size, dropout, early_stopping and momentum measure, beside what it must be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from dlf import yaml12
from dlf.config import Loaded, loads
from dlf.engine import Experiment, TrainState, evaluate
from dlf.errors import UsageError
from dlf.experiment import assemble
from dlf.history import best_index, should_stop
from dlf.questions.design import Design, Subject, varied
from dlf.questions.results import Figure, Study, Sweep, Training
from dlf.questions.topics import batch_size as batches
from dlf.questions.topics import find
from dlf.questions.topics.batch_norm import _one_step
from dlf.questions.topics.momentum import _steps, valley_steps
from dlf.questions.trials import prepare, study, train

CPU = torch.device("cpu")
IRIS: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 16, "validation": 40, "test": 0},
    "model": {"layers": [{"type": "linear", "units": 6}]},
    "optimizer": {"type": "sgd", "lr": 0.1},
    "train": {"epochs": 3, "device": "cpu"},
}


class Deaf:
    """A listener that hears nothing."""

    def message(self, text: str) -> None: ...
    def begin(self, trainings: int) -> None: ...
    def trained(self, what: str, training: Training, figure: Figure) -> None: ...
    def end(self) -> None: ...


def loaded(config: Mapping[str, Any], *overrides: str) -> Loaded:
    return loads(yaml12.dump(dict(config)), "the test", overrides)


def designed(topic: str, *overrides: str, config: Mapping[str, Any] = IRIS) -> tuple[Subject, Design]:
    return prepare(loaded(config, *overrides), find(topic).ask, lambda text: None)


def studied(topic: str, *overrides: str, seeds: Sequence[int] = (0, 1)) -> Study:
    return study(*designed(topic, *overrides), seeds, "iris", Deaf())


def assembled(subject: Subject, *overrides: str) -> tuple[Experiment, TrainState]:
    experiment, state, _ = assemble(loaded(IRIS, *overrides).config, subject.data, CPU)
    return experiment, state


# --- batch_size -----------------------------------------------------------------------------------------------------


def gradients(experiment: Experiment, state: TrainState) -> Tensor:
    """The gradient of every training sample by itself, in evaluation mode, (samples, parameters), in float64."""
    part, rows = experiment.data.train, []
    state.network.eval()
    for index in range(len(part)):
        loss = experiment.loss(state.network(part.x[index : index + 1]), part.y[index : index + 1])
        found = torch.autograd.grad(loss, list(state.network.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]).double())
    return torch.stack(rows)


@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_the_noise_is_the_variance_of_the_batchs_gradient(size: int) -> None:
    subject, design = designed("batch_size")
    layers = "model.layers=[{type: linear, units: 6}, {type: dropout, rate: 0.5}]"  # which is no noise of the batch
    experiment, state = assembled(subject, f"data.batch_size={size}", "seed=3", layers)
    found = design.before(experiment, state)["noise"]
    assert state.network.training
    own = gradients(experiment, state)
    full = own.mean(0)
    generator = torch.Generator().manual_seed(3)
    drawn = [own[torch.randint(len(own), (size,), generator=generator)].mean(0) for _ in range(64)]
    distances = torch.stack([(one - full).square().sum() / full.square().sum() for one in drawn])
    # float32 gradients of some 50 numbers: each is right to about 1e-7, and they are squared
    assert found == pytest.approx(distances.mean().item(), rel=1e-4)
    # drawn with repetition the variance is exactly that of one sample's gradient through size; four standard errors
    exact = ((own - full).square().sum(1).mean() / size / full.square().sum()).item()
    assert abs(found - exact) < 4 * distances.std().item() / 8
    assert abs(found - 4 * exact) > 4 * distances.std().item() / 8  # as 1 / sqrt(size) would have it for 16


def test_the_noise_is_measured_in_parts_that_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, design = designed("batch_size")
    whole = design.before(*assembled(subject))["noise"]
    monkeypatch.setattr(batches, "_CHUNK", 7)
    assert design.before(*assembled(subject))["noise"] == pytest.approx(whole, rel=1e-5)


def test_sizes_are_a_quarter_to_sixteen_times_and_no_more_than_there_are() -> None:
    labels = [variant.label for variant in designed("batch_size", "data.batch_size=8")[1].variants]
    assert labels == ["batch 2", "batch 8", "batch 32", "batch 110", "batch 110, 12 epochs"]  # 110: all of them
    labels = [variant.label for variant in designed("batch_size", "data.batch_size=1")[1].variants]
    assert labels == ["batch 1", "batch 4", "batch 16", "batch 16, 12 epochs"]
    with pytest.raises(UsageError, match="too few for batches of two sizes"):
        designed("batch_size", "data.batch_size=1000", "data.validation=149")


def test_the_longer_training_has_the_steps_of_the_next_smaller_batch() -> None:
    found = studied("batch_size", "data.batch_size=4", "train.epochs=4")
    steps = {arm.label: {training.figures["steps"] for training in arm.trainings} for arm in found.arms}
    # 110 samples: 28 steps an epoch with 4, 7 with 16, 2 with 64; 14 epochs of 2 are as many as 4 of 7
    assert steps == {"batch 1": {440}, "batch 4": {112}, "batch 16": {28}, "batch 64": {8}, "batch 64, 14 epochs": {28}}


# --- dropout --------------------------------------------------------------------------------------------------------


def test_the_gap_is_between_two_losses_measured_alike() -> None:
    found = studied("dropout", "train.epochs=5")
    for arm in found.arms:
        for training in arm.trainings:
            figures = cast("Mapping[str, float]", training.figures)
            assert figures["gap"] == pytest.approx(figures["val_loss"] - figures["fitted_loss"], abs=1e-9)
    dropped = found.arm("with dropout 0.5").trainings[0]
    assert dropped.figures["fitted_loss"] != dropped.series["train_loss"][-1]  # which is with units silenced


def test_silenced_units_are_those_of_dropout() -> None:
    """With a rate of 0 nothing is silenced; with another, the loss is that of the network in training mode."""
    layers = "model.layers=[{type: linear, units: 6}, {type: dropout, rate: %s}, {type: linear, units: 6}]"
    subject, design = designed("dropout", layers % "0.0")
    plain, state = assembled(subject, "model.layers=[{type: linear, units: 6}, {type: linear, units: 6}]")
    for parameter in state.network.parameters():
        parameter.data.mul_(1.5)  # no longer those of the seed
    part = plain.data.validation
    loss = evaluate(state.network, plain, part)["loss"]
    assert design.after(plain, state)["silenced"] == pytest.approx(loss, rel=1e-6)

    subject, design = designed("dropout", layers % "0.6")
    experiment, dropped = assembled(subject, layers % "0.6")
    for own, theirs in zip(dropped.network.parameters(), state.network.parameters(), strict=True):
        own.data.copy_(theirs.data)
    random = torch.get_rng_state()
    found = design.after(plain, state)["silenced"]
    assert torch.equal(torch.get_rng_state(), random)  # the caller's generator stays as it was
    torch.manual_seed(experiment.seed)
    expected = experiment.loss(dropped.network.train()(part.x), part.y).item()
    assert found == pytest.approx(expected, rel=1e-6)
    assert abs(found - loss) > 0.01


def test_dropout_that_is_configured_is_what_is_asked_about() -> None:
    layers = [{"type": "linear", "units": 6}, {"type": "dropout", "rate": 0.1}]
    _, design = designed("dropout", config={**IRIS, "model": {"layers": layers}})
    without_, with_ = (variant.settings["model.layers"] for variant in design.variants)
    assert [variant.label for variant in design.variants] == ["without dropout", "with dropout"]
    assert [layer["type"] for layer in without_] == ["linear"]
    assert with_[1] == {"type": "dropout", "rate": 0.1}
    assert with_[0] == without_[0]


# --- early_stopping -------------------------------------------------------------------------------------------------

LONG = ("train.epochs=40", "optimizer={type: adam, lr: 0.2}")
PATIENT = "train.early_stopping={monitor: val_loss, patience: 3}"


def test_what_is_measured_chose_nothing() -> None:
    """Half of the validation part chooses; the figures are of the other half, for the network of the chosen epoch."""
    found = studied("early_stopping", *LONG, PATIENT)
    subject, design = designed("early_stopping", *LONG, PATIENT)
    part = subject.data.validation
    chosen = design.data(subject.data).validation
    assert torch.equal(torch.as_tensor(chosen.x), torch.as_tensor(part.x[::2]))
    assert found.samples == (110, 20)
    full, stopped = found.arms
    for whole, short in zip(full.trainings, stopped.trainings, strict=True):
        course = [{"val_loss": loss} for loss in whole.series["val_loss"]]
        end = next(n for n in range(1, 41) if should_stop(course[:n], monitor="val_loss", patience=3))
        assert (whole.epochs, short.epochs) == (40, end)
        best = best_index(course[:end], "val_loss")
        assert best is not None
        # trained just so long, the same network: its loss on the samples that did not choose
        ends = loaded(IRIS, *LONG, f"train.epochs={best + 1}", f"seed={whole.seed}").config
        assert train(ends, design.data(subject.data), design).figures["held_out_loss"] == short.figures["held_out_loss"]
    assert min(training.epochs for training in stopped.trainings) < 40


def test_the_other_half_is_every_sample_that_did_not_choose() -> None:
    subject, design = designed("early_stopping")
    experiment, state = assembled(subject)
    part = subject.data.validation
    scores = design.after(experiment, state)
    right = (state.network(part.x[1::2]).argmax(1) == part.y[1::2]).double().mean().item()
    assert scores["held_out_accuracy"] == pytest.approx(right, abs=1e-12)
    with pytest.raises(UsageError, match="validates on 1 sample"):
        designed("early_stopping", "data.validation=1")


def test_stopping_that_is_configured_is_what_is_asked_about() -> None:
    own = "train.early_stopping={monitor: val_accuracy, patience: 2, restore_best: false}"
    _, design = designed("early_stopping", own)
    full, stopped = design.variants
    assert (full.label, full.settings) == ("all 3 epochs", {"train.early_stopping": None})
    assert stopped.label == "stopped, patience 2"
    assert stopped.settings["train.early_stopping"]["monitor"] == "val_accuracy"
    assert stopped.settings["train.early_stopping"]["restore_best"] is False


# --- momentum -------------------------------------------------------------------------------------------------------


def test_the_valley_without_momentum_shrinks_by_a_known_factor() -> None:
    # at lr = 2 / (1 + 100) both coordinates shrink by 99 / 101 a step, one of them with changing sign
    assert valley_steps(0.0) == math.ceil(math.log(1e-3) / math.log(99 / 101)) == 346


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_valley_with_momentum_is_a_power_of_a_matrix(share: float) -> None:
    lr, ends = 2 / 101, []
    for slope in (1.0, 100.0):
        # (place, move) -> (place - lr move', move') with move' = share move + slope place
        matrix = np.array([[1 - lr * slope, -lr * share], [slope, share]])
        places, state = [], np.array([1.0, 0.0])
        for _ in range(5000):
            state = matrix @ state
            places.append(abs(state[0]))
        ends.append(1 + max(np.flatnonzero(np.array(places) >= 1e-3)) + 1)
    assert valley_steps(share) == max(ends)


def test_the_steps_to_a_tenth_are_of_a_running_mean() -> None:
    losses = torch.cat([torch.linspace(2.0, 0.0, 101), torch.zeros(100)])
    means = np.convolve(losses.double().numpy(), np.ones(50) / 50, "valid")
    expected = int(np.flatnonzero(means <= 0.2)[0]) + 50
    assert means[expected - 51] > 0.2
    state = cast("TrainState", SimpleNamespace(losses=torch.cat([losses, torch.full((9,), 7.0)]), step=201))
    found = _steps(cast("Experiment", None), state)
    assert found == {"steps_to_loss": expected, "first_loss": 2.0}
    state.step = 60  # before it gets there
    assert _steps(cast("Experiment", None), state)["steps_to_loss"] is None
    state.step = 30  # before there is a mean of 50
    assert _steps(cast("Experiment", None), state)["steps_to_loss"] is None


def test_rates_are_those_that_are_one_in_the_long_run() -> None:
    subject, design = designed("momentum", "optimizer={type: sgd, lr: 0.02, momentum: 0.75, nesterov: true}")
    settings = {variant.label: variant.settings["optimizer"] for variant in design.variants}
    rates = {label: (own["lr"], own["momentum"], own["nesterov"]) for label, own in settings.items()}
    assert rates == {
        "lr 0.02": (0.02, 0.0, False),
        "lr 0.08": (0.08, 0.0, False),
        "lr 0.32": (0.32, 0.0, False),
        "lr 0.02 + momentum 0.75": (0.02, 0.75, True),
        "lr 0.08 + momentum 0.75": (0.08, 0.75, True),
    }
    sweep = design.charts[0]
    assert isinstance(sweep, Sweep)
    assert [sweep.at[claim.first] for claim in design.claims] == pytest.approx([0.08, 0.08, 0.32])
    assert [varied(subject, variant).optimizer.type for variant in design.variants] == ["sgd"] * 5


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "muon"])
def test_momentum_is_asked_of_gradient_descent_alone(optimizer: str) -> None:
    with pytest.raises(UsageError, match=f"{optimizer} is no plain gradient descent"):
        designed("momentum", f"optimizer={optimizer}")


# --- batch_norm -----------------------------------------------------------------------------------------------------


def test_one_step_is_a_step_and_changes_nothing() -> None:
    subject, _ = designed("batch_norm")
    layers = "model.layers=[{type: linear, units: 6}, batch_norm, {type: dropout, rate: 0.0}]"
    experiment, state = assembled(subject, layers)
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    found = _one_step(experiment, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.network.state_dict().items())
    assert all(parameter.grad is None for parameter in state.network.parameters())
    x, y, parameters = experiment.data.train.x, experiment.data.train.y, list(state.network.parameters())
    state.network.train()
    first = experiment.loss(state.network(x), y)
    slopes = torch.autograd.grad(first, parameters)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.sub_(0.1 * slope)
        stepped = experiment.loss(state.network(x), y)
    assert found["first_loss"] == pytest.approx(first.item(), rel=1e-6)
    assert found["stepped_loss"] == pytest.approx(stepped.item(), rel=1e-5)


def test_batch_norm_that_is_configured_is_what_is_taken_out() -> None:
    layers = [{"type": "linear", "units": 6, "bias": False}, {"type": "batch_norm"}]
    _, design = designed("batch_norm", config={**IRIS, "model": {"layers": layers}})
    plain, normed = design.variants[0], design.variants[4]
    assert (plain.label, normed.label) == ("lr 0.01", "lr 0.01 + batch_norm")
    assert [layer["type"] for layer in plain.settings["model.layers"]] == ["linear"]
    assert plain.settings["model.layers"][0]["bias"] is True
    assert [layer["type"] for layer in normed.settings["model.layers"]] == ["linear", "batch_norm"]
    assert normed.settings["model.layers"][0]["bias"] is False


def test_a_last_batch_of_one_is_refused_before_anything_is_trained() -> None:
    # 110 samples in batches of 109 leave one
    with pytest.raises(UsageError, match=r"cannot be trained with lr 0\.01 \+ batch_norm(.|\n)*last batch of one"):
        studied("batch_norm", "data.batch_size=109")
