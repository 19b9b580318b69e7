"""What is noted of a network after each epoch: its numbers beside those written out, and that nothing changes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Assembled, Train

from dlf import api
from dlf.commands.resume import resume
from dlf.commands.train import TrainResult
from dlf.engine import Experiment, TrainState, fit, seed_dropout
from dlf.losses import LOSSES
from dlf.observe import GRID, Observer, is_kept, is_noted
from dlf.run import RunDirectory

SPIRAL: dict[str, Any] = {
    "data": {"type": "spiral", "samples": 300, "validation": 0.2, "batch_size": 32},
    "model": {
        "layers": [
            {"type": "linear", "units": 8, "activation": "tanh"},
            {"type": "dropout"},
            {"type": "linear", "units": 4},
        ]
    },
    "train": {"epochs": 3},
}
DIGITS: dict[str, Any] = {
    "data": {"type": "digits", "validation": 0.2, "limit": 300},
    "model": {
        "layers": [
            {"type": "conv2d", "channels": 4, "kernel": 3},
            "batch_norm",
            {"type": "residual", "layers": [{"type": "conv2d", "channels": 4, "kernel": 3, "padding": "same"}]},
            "flatten",
            {"type": "dropout", "rate": 0.3},
            {"type": "linear", "units": 16},
        ]
    },
    "train": {"epochs": 2},
}


def run_of(result: TrainResult) -> RunDirectory:
    return RunDirectory(Path(result.path))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(sum(tensor.square().sum().item() for tensor in tensors) ** 0.5)


def trained_with(assembled: Assembled, config: dict[str, Any]) -> tuple[Experiment, TrainState]:
    experiment, state = assembled(config)
    for _ in fit(state, experiment, epochs=1, history=[]):
        pass
    return experiment, state


def test_numbers_of_a_network_by_hand(assembled: Assembled) -> None:
    experiment, state = assembled(
        {
            "data": {"type": "spiral", "samples": 200, "validation": 0},
            "model": {"layers": [{"type": "linear", "units": 8}], "activation": "relu"},
        }
    )
    observer = Observer(state, experiment)
    layers: Any = state.network.layers
    hidden, output, samples = layers[0], layers[1], experiment.data.train.x
    assert isinstance(samples, torch.Tensor)
    x = (samples - experiment.data.inputs.mean) / experiment.data.inputs.std
    a = torch.relu(x @ hidden.weight.T + hidden.bias)
    z = a @ output.weight.T + output.bias
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], experiment.data.train.y.float())
    gradients = torch.autograd.grad(loss, list(state.network.parameters()))
    seen = observer.layers()
    first, last = seen["layers"]
    assert seen["samples"] == len(x)
    assert seen["loss"] == pytest.approx(loss.item(), rel=1e-5)  # float32: 2^-24 in each of some dozen operations
    assert (first["layer"], first["module"], first["activation"]) == ("0", "Linear", "relu")
    assert first["mean"] == pytest.approx(a.mean().item(), rel=1e-5)
    assert first["std"] == pytest.approx(a.std(correction=0).item(), rel=1e-5)
    assert first["zeros"] == pytest.approx((a == 0).double().mean().item())
    assert first["dead"] == pytest.approx((a.amax(0) == 0).double().mean().item())
    assert first["saturated"] is None
    assert first["gradient_norm"] == pytest.approx(_norm(gradients[:2]), rel=1e-4)
    assert last["gradient_norm"] == pytest.approx(_norm(gradients[2:]), rel=1e-4)
    squares = hidden.weight.square().sum() + hidden.bias.square().sum()
    assert first["weight_norm"] == pytest.approx(squares.item() ** 0.5, rel=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "hard_sigmoid", "hard_tanh", "softsign", "relu6"])
def test_saturated_outputs_are_those_at_the_ends(assembled: Assembled, activation: str) -> None:
    experiment, state = assembled(
        {
            "data": {"type": "spiral", "samples": 200, "validation": 0},
            "model": {"layers": [{"type": "linear", "units": 4, "activation": activation}]},
        }
    )
    layer: Any = state.network.layers[0]
    observer = Observer(state, experiment)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1e4, -1e4, 0.3, 0.5]))  # two of four are at an end, whatever the sample
    assert observer.layers()["layers"][0]["saturated"] == pytest.approx(0.5)


def test_a_dead_channel_is_found(assembled: Assembled) -> None:
    experiment, state = assembled(DIGITS)
    with torch.no_grad():
        layer: Any = state.network.layers[0]
        layer.weight[1] = 0
        layer.bias[1] = -1.0
    first = Observer(state, experiment).layers()["layers"][0]
    assert first["dead"] >= 0.25  # one of four
    assert first["dead"] <= first["zeros"]


def test_layers_are_counted_as_summarize_does(assembled: Assembled) -> None:
    experiment, state = assembled(DIGITS)
    seen = Observer(state, experiment).layers()["layers"]
    rows = {row.index: row for row in api.summarize(DIGITS).layers}
    assert [row["layer"] for row in seen] == [i for i, r in rows.items() if r.type not in ("flatten", "dropout")]
    assert all((row["weight_norm"] is None) == (rows[row["layer"]].parameters == 0) for row in seen)


def test_the_update_is_that_of_the_last_step(assembled: Assembled, tmp_path: Path) -> None:
    experiment, state = assembled(SPIRAL)
    observer, weights = Observer(state, experiment), []

    def on_step(state: TrainState) -> None:
        observer.step(RunDirectory(tmp_path), stopping=False)
        weights.append(torch.cat([p.detach().flatten() for p in state.network.layers[0].parameters()]))

    for _ in fit(state, experiment, epochs=1, history=[], on_step=on_step):
        found = observer.layers()["layers"][0]["update_ratio"]
    expected = ((weights[-1] - weights[-2]).norm() / weights[-2].norm()).item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(((weights[-1] - weights[0]).norm() / weights[0].norm()).item(), rel=1e-2)


@pytest.mark.parametrize("loss", LOSSES.names())
def test_every_loss_can_be_observed(assembled: Assembled, loss: str) -> None:
    regression = LOSSES.get(loss).facts["tasks"] == ("regression",)
    data = {"type": "diabetes"} if regression else {"type": "breast_cancer"}
    experiment, state = assembled({"data": {**data, "batch_size": 64}, "loss": loss})
    seen = Observer(state, experiment).layers()
    assert np.isfinite([seen["loss"], *(row["gradient_norm"] for row in seen["layers"])]).all()


@pytest.mark.fault("R3")
@pytest.mark.parametrize("config", [SPIRAL, DIGITS], ids=["spiral", "digits"])
def test_nothing_of_the_training_changes(train: Train, config: dict[str, Any]) -> None:
    with_it, without = train(config), train(config, "train.observe=false")
    for which in ("best", "last"):
        for name in ("model", "optimizer", "progress"):
            files = [Path(r.path) / "checkpoints" / which / f"{name}.safetensors" for r in (with_it, without)]
            assert files[0].read_bytes() == files[1].read_bytes()
    assert len(run_of(with_it).read_observations(run_of(with_it).layers)) == config["train"]["epochs"]
    assert not run_of(without).layers.exists()


def test_looking_leaves_gradients_modes_and_generators_alone(assembled: Assembled) -> None:
    experiment, state = trained_with(assembled, DIGITS)
    seed_dropout(5, torch.device("cpu"))
    before = [p.grad for p in state.network.parameters()], torch.get_rng_state(), state.network.state_dict()
    copies = [g.clone() for g in before[0] if g is not None], {k: v.clone() for k, v in before[2].items()}
    state.network.train()
    Observer(state, experiment).layers()
    assert state.network.training
    assert [p.grad for p in state.network.parameters()] == before[0]  # the same tensors, with the same numbers
    assert all(map(torch.equal, (g for g in before[0] if g is not None), copies[0]))
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(v, copies[1][k]) for k, v in state.network.state_dict().items())


def test_a_resumed_run_has_the_records_of_one_that_never_stopped(train: Train) -> None:
    whole = run_of(train(SPIRAL, "train.epochs=4"))
    run = run_of(train(SPIRAL, "train.epochs=2"))
    with run.layers.open("ab") as file:  # an epoch that no checkpoint followed, and one that was cut off
        file.write(b'{"epoch": 3, "step": 24, "of": "a training that was lost"}\n{"epoch": 4, "st')
    resume(run, ["train.epochs=4"], display=api.Silent())
    for name in ("layers", "boundary"):
        assert getattr(run, name).read_bytes() == getattr(whole, name).read_bytes()


@pytest.mark.parametrize("every", ["null", "1", "2"])
def test_an_epoch_of_one_step_has_its_update(train: Train, every: str) -> None:
    """What is noted at the end of an epoch is the step before it, whatever is looked at next."""
    run = run_of(train(SPIRAL, "data.batch_size=1000", f"train.observe_every_steps={every}"))
    looked = run.read_observations(run.layers)
    assert [record["step"] for record in looked] == [1, 2, 3]
    assert all(layer["update_ratio"] > 0 for record in looked for layer in record["layers"] if layer["weight_norm"])


def test_lines_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    first, second = b'{"epoch": 1, "step": 5}\n', b'{"epoch": 1, "step": 8}\n'
    damaged = b'[]\n\0\0\n{"epoch": 2}\n{"epoch": 2, "step": "10"}\n'
    run.layers.write_bytes(first + damaged + second + b'{"epoch": 2, "step": 10}')
    assert run.read_observations(run.layers) == [{"epoch": 1, "step": 5}, {"epoch": 1, "step": 8}]
    assert run.read_observations(run.boundary) == []
    run.keep_observations(1, 7)
    assert run.layers.read_bytes() == first


def test_the_boundary_is_what_the_network_says(train: Train) -> None:
    result = train(SPIRAL)
    run = run_of(result)
    (*_, last) = run.read_observations(run.boundary)
    label, confidence = (
        np.frombuffer(base64.b64decode(last[name]), np.uint8).reshape(GRID, GRID) for name in ("label", "confidence")
    )
    trained = api.load(result.run, checkpoint="last", runs=run.path.parent)
    xs, ys = (np.linspace(last[name][0], last[name][1], GRID) for name in ("x", "y"))
    points = torch.tensor([[x, y] for y in ys for x in xs], dtype=torch.float32)
    said = trained.predict(points).numpy().reshape(GRID, GRID, 2)
    assert (label == said.argmax(2)).mean() > 0.999  # a point on the boundary may round to either side
    assert np.abs(confidence - 255 * said.max(2)).max() < 0.51  # rounding to a byte, and the grid's to float32
    x = trained.data.train.x[:]
    assert last["x"][0] < x[:, 0].min() < x[:, 0].max() < last["x"][1]


def test_the_boundary_of_a_regression_spans_its_values(train: Train, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    np.savez(tmp_path / "plane.npz", x=x, y=x.sum(1, keepdims=True) * 100)
    result = train({"data": {"type": "npz", "path": str(tmp_path / "plane.npz")}, "train": {"epochs": 1}})
    (record,) = run_of(result).read_observations(run_of(result).boundary)
    value = np.frombuffer(base64.b64decode(record["value"]), np.uint8)
    assert (value.min(), value.max()) == (0, 255)
    assert record["low"] < record["high"]


@pytest.mark.parametrize(
    ("steps_per_epoch", "looked_at"),
    [
        (430, list(range(1, 13))),  # each epoch is longer than 200 steps
        (80, [1, 2, 3, 4, 5, 8, 10]),  # 400, 640 and 800 steps: 600 was passed within epoch 8, 800 reached by epoch 10
        (9, [1, 2, 3, 4, 5, 12]),  # the last
    ],
)
def test_small_trainings_are_looked_at_seldom(train: Train, steps_per_epoch: int, looked_at: list[int]) -> None:
    noted = [epoch for epoch in range(1, 13) if is_noted(epoch * steps_per_epoch, steps_per_epoch)]
    assert noted == [epoch for epoch in looked_at if steps_per_epoch != 9 or epoch != 12]
    if steps_per_epoch == 9:  # 288 samples in batches of 32
        data = {**SPIRAL["data"], "samples": 360, "validation": 0.2}
        run = run_of(train({**SPIRAL, "data": data}, "train.epochs=12"))
        seen = run.read_observations(run.layers)
        assert [record["epoch"] for record in seen] == looked_at
        assert all(record["layers"][0]["update_ratio"] for record in seen)


def test_epochs_of_long_trainings_are_kept_sparsely() -> None:
    kept = [epoch for epoch in range(1, 10_001) if is_kept(epoch)]
    assert kept[:100] == [*range(1, 100), 100]
    assert kept[100:103] == [110, 120, 130]
    assert kept[-2:] == [9900, 10_000]
    assert len(kept) == 99 + 90 + 90 + 1
