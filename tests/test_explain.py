"""`dlf explain`: the step that it shows is the engine's own, its numbers add up, words that do not fit are refused."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Assembled, Train

import dlf
from dlf.backpropagation import Autograd
from dlf.cli import main
from dlf.commands.explain import Explanation, Layer, _in_float64, formula_of
from dlf.commands.units import flat, name_of
from dlf.engine import set_learning_rate, train_step
from dlf.errors import DlfError, RunError, UsageError
from dlf.optimizers import OPTIMIZERS
from dlf.regularizers import REGULARIZERS

ADJUSTED: list[Any] = [
    {"type": "l2", "weight": 0.01}, {"type": "clip_norm", "max_norm": 0.1}, {"type": "max_norm", "limit": 0.5}
]  # fmt: skip
# rules that need another setting to move
OPTIMIZED: list[Any] = [*OPTIMIZERS.names(), {"type": "sgd", "momentum": 0.9, "nesterov": True}]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *words])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def by_layer(found: Explanation) -> dict[str, Layer]:
    return {layer.layer: layer for layer in found.layers}


def array(entries: Any) -> np.ndarray[Any, Any]:
    return np.array(entries)


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_the_whole_step_by_hand() -> None:
    """A linear layer and a logit by numpy: sigmoid and its cross-entropy as a textbook has them, p -= lr g."""
    found = dlf.explain(
        "xor", "optimizer=sgd", "optimizer.lr=0.5", "schedule=constant", "model.activation=tanh", sample=7
    )
    hidden, last = found.layers
    w, b, v, c = (array(change.before.entries) for change in (*hidden.parameters, *last.parameters))
    x, y = array(found.normalized.entries), found.target
    a = np.tanh(w @ x + b)
    o = v @ a + c
    p = 1 / (1 + np.exp(-o))
    assert found.loss.mean == pytest.approx(float(-np.log(p[0] if y else 1 - p[0])), rel=1e-12)
    assert found.answers == pytest.approx([1 - p[0], p[0]], rel=1e-12)
    d = (p - y) * v[0] * (1 - a**2)
    gradients = [np.outer(d, x), d, np.outer(p - y, a), p - y]
    for change, gradient in zip((*hidden.parameters, *last.parameters), gradients, strict=True):
        np.testing.assert_allclose(change.gradient.entries, gradient, rtol=1e-12)
        np.testing.assert_allclose(change.step.entries, -0.5 * gradient, rtol=1e-10)
        np.testing.assert_allclose(change.after.entries, array(change.before.entries) - 0.5 * gradient, rtol=1e-12)
    assert [one.symbol for one in hidden.forward] == ["x", "z", "a"]
    assert [one.symbol for one in hidden.backward] == ["dL/da", "f'(z)", "dL/dz", "dL/dW", "dL/db", "dL/dx"]
    assert found.loss_after < found.loss.mean


@pytest.mark.parametrize("optimizer", OPTIMIZED, ids=str)
@pytest.mark.parametrize("regularizers", [[], ADJUSTED], ids=["plain", "adjusted"])
def test_the_step_is_the_engines(assembled: Assembled, optimizer: Any, regularizers: list[Any]) -> None:
    """What train_step does to a float64 copy with autograd: penalties, clips, update and limits in its order."""
    section = optimizer if isinstance(optimizer, dict) else {"type": optimizer}
    config = {
        "data": {"type": "spiral"}, "model": {"activation": "tanh", "layers": [{"type": "linear", "units": 5}]},
        "optimizer": section, "regularizers": regularizers, "schedule": {"type": "constant", "warmup_epochs": 1},
    }  # fmt: skip
    found = dlf.explain(config, sample=4)
    experiment, state = assembled(config)
    _in_float64(state)
    state.backpropagate = Autograd(state.network)
    train = experiment.data.train
    rate = set_learning_rate(state.optimizer, experiment.learning_rate_factor(0, []))
    assert isinstance(train.x, torch.Tensor)
    train_step(state, experiment, train.x[4:5], train.y[4:5])
    assert found.update.learning_rate == rate
    changes = {change.name: change for layer in found.layers for change in layer.parameters}
    for name, parameter in state.network.named_parameters():
        np.testing.assert_allclose(changes[name].after.entries, parameter.detach().numpy(), rtol=1e-9, atol=1e-12)
    names = {one.symbol for change in changes.values() for one in (*change.adjusted, *change.limited)}
    assert names == ({"+ l2", "after clip_norm", "after max_norm"} if regularizers else set())


def test_a_run_goes_on_from_its_checkpoint(train: Train, assembled: Assembled) -> None:
    """The weights, the optimizer's memory and the learning rate of the step that training would make next."""
    config = {
        "data": {"type": "spiral"}, "model": {"activation": "tanh", "layers": [{"type": "linear", "units": 4}]},
        "optimizer": {"type": "adam", "lr": 0.01}, "schedule": "cosine", "train": {"epochs": 4},
    }  # fmt: skip
    result = train(config)
    found = dlf.explain(result.path, checkpoint="last", sample=2)
    trained = dlf.load(result.path, checkpoint="last")
    weight = dict(trained.network.named_parameters())["layers.0.weight"].detach().double()
    np.testing.assert_array_equal(found.layers[0].parameters[0].before.entries, weight.numpy())
    steps = 4 * trained.experiment.steps_per_epoch
    assert found.step == steps + 1
    assert found.update.learning_rate == 0.0  # the end of the cosine: nothing moves any more
    memory = {one.symbol: array(one.entries) for one in found.layers[0].parameters[0].memory}
    assert set(memory) == {"m", "v"}
    g = array(found.layers[0].parameters[0].gradient.entries)
    assert not np.allclose(memory["m"], 0.1 * g)  # it remembers more than this gradient
    assert found.weights == "checkpoint last (epoch 4)"
    assert found.run == Path(result.path).name


def test_a_unit_adds_up() -> None:
    found = dlf.explain("digits")
    assert found.parameters > 2000
    assert found.layers[1].forward[0].entries is None
    for layer in found.layers:
        unit = layer.unit
        if unit is None:
            continue
        assert unit.z == pytest.approx(unit.sum + (unit.bias or 0))
        assert all(one.product == pytest.approx(one.weight * one.x) for one in unit.incoming)
        assert all(one.gradient == pytest.approx(unit.dL_dz * one.x) for one in unit.incoming)
        sizes = [abs(one.product) for one in unit.incoming]
        assert sizes == sorted(sizes, reverse=True)
        assert abs(unit.dL_dz) == pytest.approx(max(map(abs, bounds(layer, "dL/dz"))))
        if unit.slope is not None:
            assert unit.dL_dz == pytest.approx(unit.dL_da * unit.slope)


def bounds(layer: Layer, symbol: str) -> tuple[float, float]:
    (one,) = [each for each in layer.backward if each.symbol == symbol]
    return one.least, one.greatest


CONVOLUTION: dict[str, Any] = {
    "data": {"type": "digits", "limit": 200},
    "model": {"layers": [
        {"type": "conv2d", "channels": 3, "stride": 2}, "batch_norm",
        {"type": "residual", "layers": [{"type": "conv2d", "channels": 3}, "dropout"]},
        {"type": "max_pool2d"}, {"type": "maxout", "units": 4}, {"type": "linear", "units": 4, "activation": "tanh"},
    ]},
}  # fmt: skip


def test_every_kind_of_unit() -> None:
    found = dlf.explain(CONVOLUTION, unit="0:1,0,3")
    unit = by_layer(found)["0"].unit
    assert unit is not None
    assert unit.inputs == 9
    assert unit.z == pytest.approx(unit.sum + (unit.bias or 0))
    assert {one.input for one in unit.incoming} >= {"padding"}
    inside = dlf.explain(CONVOLUTION, unit="2.0:2,1,1")
    (block,) = [layer for layer in inside.layers if layer.type == "residual"]
    assert block.inner[0].unit is not None
    everything = dlf.explain(CONVOLUTION)
    kinds = {layer.type: layer.unit for layer in everything.layers}
    assert kinds["maxout"] is not None
    assert kinds["maxout"].piece in (0, 1)
    assert kinds["maxout"].z == pytest.approx(kinds["maxout"].a)
    assert any("batch_norm takes its running" in note for note in everything.notes)
    assert any("dropout is off" in note for note in everything.notes)
    assert all(comparison.holds for comparison in everything.comparisons)
    assert name_of("2.skip") == "layers.2.skip"
    assert name_of("2.1.0") == "layers.2.body.1.body.0"


def test_shares_of_one_pixel_add_up_to_a_shared_weights_gradient() -> None:
    """dL/dw of a convolution is the sum of dL/dz x over all pixels of its channel."""
    config = {**CONVOLUTION, "model": {"layers": [{"type": "conv2d", "channels": 2, "kernel": 1, "stride": 4}]}}
    total = 0.0
    for row in range(2):
        for column in range(2):
            unit = by_layer(dlf.explain(config, unit=f"0:1,{row},{column}"))["0"].unit
            assert unit is not None
            total += unit.incoming[0].gradient
    gradient = by_layer(dlf.explain(config))["0"].parameters[0].gradient
    assert total == pytest.approx(gradient.entries[1][0][0][0])


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"type": "diabetes"}},
        {"data": {"type": "iris"}, "model": {"layers": []}},
        {"data": {"type": "iris"}, "loss": "kl_div"},
        {"data": {"type": "breast_cancer"}, "loss": "hinge"},
        {"data": {"type": "diabetes"}, "loss": "mae", "regularizers": ["l1", "clip_value"]},
    ],
    ids=["regression", "no hidden layer", "log probabilities", "hinge", "mae"],
)
def test_every_kind_of_experiment(config: dict[str, Any]) -> None:
    found = dlf.explain(config)
    assert all(comparison.holds for comparison in found.comparisons)
    json.dumps(asdict(found))


def test_every_rule_is_introduced_by_its_formula() -> None:
    for registry in (OPTIMIZERS, REGULARIZERS):
        for name in registry.names():
            formula = formula_of(registry.get(name))
            assert len(formula) < 100
            assert not formula.endswith(".")
    assert all(re.match(r"[pW] -= ", formula_of(OPTIMIZERS.get(name))) for name in OPTIMIZERS.names())


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_small_network_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "xor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 62
    assert max(map(len, lines)) <= 80
    for part in ("FORWARD", "LOSS", "BACKWARD", "UPDATE", "CHECK", "z = W x + b", "dL/dz = dL/da f'(z)"):
        assert part in out


def test_what_is_shown_is_what_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "xor", "--json")
    found = json.loads(out)
    assert set(found) == {
        "name", "weights", "run", "step", "data", "task", "sample", "samples", "parameters", "features", "classes",
        "truth", "answers", "notes", "input", "normalized", "target", "layers", "output", "loss_name", "loss",
        "loss_gradient", "loss_after", "update", "comparisons",
    }  # fmt: skip
    _, text, _ = run(capsys, "xor")
    z = found["layers"][0]["forward"][1]
    assert z["symbol"] == "z"
    assert all(
        re.search(rf"(?m)\s{re.escape(f'{value:.4f}' if abs(value) < 1 else f'{value:.4g}')}\s", text)
        for value in z["entries"]
    )
    assert [one["by"] for one in found["comparisons"]] == ["autograd", "central differences"]


def test_a_large_network_is_shown_by_norms_and_units(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "digits")
    assert "norm" in out
    assert out.count("the unit with the largest |dL/dz|") == 3
    _, out, _ = run(capsys, "digits", "--unit", "1:17")
    assert "unit 17 of layer 1" in out
    assert "the unit with the largest" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sample", "640"], "--sample 640: the training part has 640 samples, 0 to 639"),
        (["--sample", "-1"], "--sample -1: the training part has 640 samples"),
        (["--unit", "0:4"], "--unit 0:4: layer 0 has the units 0:0-3"),
        (["--unit", "0:1,2"], "layer 0 has the units 0:0-3 (a number)"),
        (["--unit", "0:x"], "layer 0 has the units 0:0-3"),
        (["--unit", "7:0"], "There are: 0:0-3, 1:0-0"),
        (["--unit", "0"], "layer 0 has the units 0:0-3"),
        (["--checkpoint", "best"], "only a run has checkpoints"),
        (["--html", "."], "is a folder"),
    ],
)
def test_words_that_do_not_fit(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, out, err = run(capsys, "xor", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_run_keeps_its_settings(train: Train) -> None:
    result = train({"data": {"type": "spiral"}, "train": {"epochs": 1}})
    with pytest.raises(UsageError, match=r"is a run and keeps its settings"):
        dlf.explain(result.path, "optimizer.lr=1")
    with pytest.raises(DlfError, match="step-9"):
        dlf.explain(result.path, checkpoint="step-9")
    for which in ("best", "last"):
        (Path(result.path) / "checkpoints" / which / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError):
        dlf.explain(result.path)


def test_a_gradient_that_is_wrong_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlf.activations import ACTIVATIONS

    entry = ACTIVATIONS.get("elu")
    monkeypatch.setitem(entry.facts, "slope", lambda z, alpha: torch.ones_like(z))
    code, out, _ = run(capsys, "xor")
    assert code == 1
    assert out.count("DOES NOT HOLD") == 2


def test_an_activation_without_a_derivative_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlf.activations import ACTIVATIONS

    monkeypatch.delitem(ACTIVATIONS.get("elu").facts, "slope")
    code, _, err = run(capsys, "xor")
    assert code == 2
    assert "elu" in err
    assert "slope" in err


def test_flat_goes_into_blocks() -> None:
    from dlf.chain_rule import LayerPass

    inner = LayerPass("0.0", "linear", (), ())
    assert [each.layer for each in flat([LayerPass("0", "residual", (), (), (inner,))])] == ["0", "0.0"]
