"""Layers put in and taken out: where they belong, nothing else changed, and the same weights at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dlf import yaml12
from dlf.config import loads
from dlf.data import load
from dlf.errors import UsageError
from dlf.experiment import assemble
from dlf.model import draw
from dlf.modules import Weighted
from dlf.questions import surgery
from dlf.questions.design import Subject, Variant, varied

CPU = torch.device("cpu")
LINEAR: dict[str, Any] = {"type": "linear", "units": 6}
BLOCK: dict[str, Any] = {"type": "residual", "layers": [LINEAR, LINEAR]}


def subject(layers: Sequence[Any], **model: Any) -> Subject:
    """A configuration with these layers, on iris, or on digits where one of them takes images."""
    images = any(layer["type"] == "conv2d" for layer in layers)
    data = {"type": "digits", "limit": 60} if images else {"type": "iris"}
    found = {"data": {**data, "validation": 20}, "model": {"layers": list(layers), **model}, "train": {"device": "cpu"}}
    config = loads(yaml12.dump(found), "the test").config
    read, _ = load(config.data_section, CPU, lambda text: None)
    return Subject(config, read, draw(config, read.spec))


def kinds(layers: Sequence[surgery.Layer]) -> list[Any]:
    """The types in order; of a block a list."""
    return [kinds(layer["layers"]) if "layers" in layer else layer["type"] for layer in layers]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([LINEAR, LINEAR], ["linear", "dropout", "linear", "dropout"]),
        (
            [LINEAR, {"type": "batch_norm"}, {"type": "activation", "function": "relu"}, LINEAR],
            ["linear", "batch_norm", "activation", "dropout", "linear", "dropout"],
        ),
        ([{"type": "maxout", "units": 4}, {"type": "prelu"}], ["maxout", "prelu", "dropout"]),
        ([LINEAR, BLOCK, LINEAR], ["linear", "dropout", ["linear", "linear"], "dropout", "linear", "dropout"]),
        (
            [{"type": "conv2d", "channels": 2}, {"type": "max_pool2d"}, {"type": "flatten"}, LINEAR],
            ["conv2d", "dropout", "max_pool2d", "flatten", "linear", "dropout"],
        ),
        ([{"type": "layer_norm"}], ["layer_norm"]),
    ],
)
def test_dropout_stands_behind_what_belongs_to_a_sum(layers: Sequence[Any], expected: Sequence[Any]) -> None:
    found = surgery.with_dropout(surgery.filled(subject(layers)), 0.3)
    assert kinds(found) == expected
    assert {layer["rate"] for layer in found if layer["type"] == "dropout"} <= {0.3}


def test_batch_norm_stands_between_a_sum_and_its_activation() -> None:
    layers = [LINEAR, {**LINEAR, "activation": "identity"}, {"type": "maxout", "units": 6}, BLOCK]
    found = surgery.with_batch_norm(surgery.filled(subject(layers, activation="tanh")))
    normed = ["linear", "batch_norm", "activation"]
    assert kinds(found) == [*normed, "linear", "batch_norm", "maxout", "batch_norm", [*normed, *normed]]
    assert found[0]["activation"]["type"] == "identity"
    assert found[0]["bias"] is False
    assert found[2]["function"]["type"] == "tanh"
    assert found[5]["bias"] is True  # the pieces of a maxout differ by theirs


def test_batch_norm_that_is_taken_out_leaves_a_bias() -> None:
    plain = {**LINEAR, "bias": False}
    layers = [plain, {"type": "batch_norm"}, {"type": "residual", "layers": [plain, {"type": "batch_norm"}]}, plain]
    found = surgery.without_batch_norm(surgery.filled(subject(layers)))
    assert kinds(found) == ["linear", ["linear"], "linear"]
    assert (found[0]["bias"], found[1]["layers"][0]["bias"]) == (True, True)
    assert found[2]["bias"] is False  # had none for another reason


def test_what_is_put_in_can_be_taken_out() -> None:
    layers = surgery.filled(subject([LINEAR, BLOCK, LINEAR]))
    assert surgery.without(surgery.with_dropout(layers, 0.5), "dropout") == layers
    normed = surgery.with_batch_norm(layers)
    assert surgery.has(normed, "batch_norm")
    assert not surgery.has(surgery.without_batch_norm(normed), "batch_norm")


def test_a_block_of_nothing_else_goes_with_it() -> None:
    block = {"type": "residual", "layers": [{"type": "dropout", "rate": 0.1}]}
    layers = surgery.filled(subject([LINEAR, block, {"type": "residual", "layers": [LINEAR, *block["layers"]]}]))
    assert surgery.has(layers[1:2], "dropout")
    assert kinds(surgery.without(layers, "dropout", "alpha_dropout")) == ["linear", ["linear"]]


def test_an_output_layer_that_is_written_stays_as_it_is() -> None:
    output = {"type": "linear", "units": 3, "activation": "identity"}
    found = surgery.hidden(subject([LINEAR, output], output="none"), lambda own: surgery.with_dropout(own, 0.5))
    assert kinds(found) == ["linear", "dropout", "linear"]
    assert surgery.hidden(subject([LINEAR]), list) == surgery.filled(subject([LINEAR]))


@pytest.mark.parametrize(
    ("layers", "output"), [([], "auto"), ([{**LINEAR, "units": 3, "activation": "identity"}], "none")]
)
def test_without_hidden_layers_there_is_nothing_to_change(layers: Sequence[Any], output: str) -> None:
    with pytest.raises(UsageError, match=r"has no hidden layer: add one to model\.layers"):
        surgery.filled(subject(layers, output=output))


@pytest.mark.parametrize("activation", ["relu", "tanh", "selu"])  # of which auto takes three different initialisers
def test_every_weight_starts_as_it_does_without_the_change(activation: str) -> None:
    asked = subject([LINEAR, BLOCK, LINEAR], activation=activation)
    layers = surgery.filled(asked)
    changed = {
        "as written": asked.config,
        "filled": varied(asked, Variant("", {"model.layers": layers})),
        "dropout": varied(asked, Variant("", {"model.layers": surgery.with_dropout(layers, 0.5)})),
        "batch_norm": varied(asked, Variant("", {"model.layers": surgery.with_batch_norm(layers)})),
    }
    weights = {}
    for name, config in changed.items():
        _, state, _ = assemble(config, asked.data, CPU)
        weights[name] = [module.weight for module in state.network.modules() if isinstance(module, Weighted)]
    for name, own in weights.items():
        pairs = zip(own, weights["as written"], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), name
