"""Layers one behind the other: shapes on the way, what is refused and where, defaults, and the order of the draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS
from dlf.layers import LAYERS, Shape, fill_defaults, initialise, stack
from dlf.registry import Component, InvalidError

FEATURES, IMAGE = (5,), (2, 5, 4)


def components(*layers: Any) -> list[Component]:
    return [LAYERS.validate(layer) for layer in layers]


def initialised(shape: Shape, layers: list[Component], seed: int) -> nn.Sequential:
    with torch.device("meta"):
        rows = stack(shape, layers)
    network = nn.Sequential(*(row.module for row in rows)).to_empty(device="cpu")
    initialise(network, torch.Generator().manual_seed(seed))
    return network


def test_stack_flattens_before_layers_of_features_only() -> None:
    layers = components("dropout", {"type": "linear", "units": 5}, "batch_norm", {"type": "maxout", "units": 3})
    rows = stack(IMAGE, layers)
    assert [(row.component.type, row.input, row.output, row.automatic) for row in rows] == [
        ("dropout", (2, 5, 4), (2, 5, 4), False),
        ("flatten", (2, 5, 4), (40,), True),
        ("linear", (40,), (5,), False),
        ("batch_norm", (5,), (5,), False),
        ("maxout", (5,), (3,), False),
    ]
    assert nn.Sequential(*(row.module for row in rows))(torch.zeros(2, *IMAGE)).shape == (2, 3)


def test_stack_needs_no_memory() -> None:
    """4 * 10^12 bytes of weights, which this machine could not give."""
    with torch.device("meta"):
        rows = stack((1_000_000,), components({"type": "linear", "units": 1_000_000}))
    assert rows[0].module.get_parameter("weight").is_meta


POOL_9 = {"type": "max_pool2d", "size": 9}
MISFITS: list[tuple[Shape, list[Any], tuple[str | int, ...], str]] = [
    ((784,), [{"type": "conv2d", "channels": 1}], (0,), "got 784 features"),
    (IMAGE, ["flatten", {"type": "avg_pool2d"}], (1,), r"takes images .* got 40 features"),
    (IMAGE, ["dropout", POOL_9], (1,), "9 x 9 does not fit into an image of 5 x 4"),
    (IMAGE, [{"type": "conv2d", "channels": 1, "kernel": 9, "padding": "valid"}], (0,), "9 x 9 does not fit"),
    ((5, 5), ["batch_norm"], (0,), r"got \(5, 5\)"),
    (FEATURES, [{"type": "linear", "units": 2**60}], (0,), "fits into no machine"),
    (IMAGE, ["dropout", {"type": "residual", "layers": ["dropout", POOL_9]}], (1, "layers", 1), "9 x 9"),
    (FEATURES, [{"type": "residual", "layers": [{"type": "linear", "units": 2}]}], (0,), "5 features into 2 features"),
    (
        IMAGE,
        [{"type": "residual", "layers": [{"type": "linear", "units": 2}], "projection": True}],
        (0,),
        r"\(2, 5, 4\) into 2 features, which no projection does",
    ),
    (
        IMAGE,
        [{"type": "residual", "layers": [{"type": "max_pool2d", "stride": 1}], "projection": True}],
        (0,),
        "keep the height and width",
    ),
]


@pytest.mark.parametrize(("shape", "layers", "path", "words"), MISFITS)
def test_a_shape_that_does_not_fit_is_refused(
    shape: Shape, layers: list[Any], path: tuple[str | int, ...], words: str
) -> None:
    with pytest.raises(InvalidError, match=words) as caught, torch.device("meta"):
        stack(shape, components(*layers))
    assert [flaw.path for flaw in caught.value.flaws] == [path]


def test_a_layer_of_features_refuses_an_image() -> None:
    for name in ("linear", "maxout"):
        with pytest.raises(InvalidError, match="put a flatten before it"):
            LAYERS.build(LAYERS.make(name, units=2), IMAGE)


def test_defaults_fill_what_is_not_named() -> None:
    inner = {"type": "conv2d", "channels": 3, "activation": "selu"}
    layers = components(
        {"type": "linear", "units": 2},
        {"type": "linear", "units": 2, "activation": "tanh", "init": "ones"},
        {"type": "maxout", "units": 2},
        {"type": "residual", "layers": [inner, "dropout"]},
    )
    filled = fill_defaults(layers, ACTIVATIONS.make("relu"), INITS.make("auto"))
    relu, he, ones = ACTIVATIONS.make("relu"), INITS.make("he_normal"), INITS.make("ones")
    xavier, lecun = INITS.make("xavier_uniform"), INITS.make("lecun_normal")
    assert filled == [
        LAYERS.make("linear", units=2, activation=relu, init=he),
        LAYERS.make("linear", units=2, activation="tanh", init=ones),
        LAYERS.make("maxout", units=2, init=xavier),
        LAYERS.make("residual", layers=[{**inner, "init": lecun}, "dropout"], init=xavier),
    ]
    assert fill_defaults(filled, ACTIVATIONS.make("elu"), INITS.make("zeros")) == filled


def test_weights_are_drawn_in_order_by_their_own_initialisers_and_biases_are_zero() -> None:
    layers = components(
        {"type": "conv2d", "channels": 2, "activation": "relu"},
        {"type": "maxout", "units": 4, "pieces": 3, "init": "xavier_normal"},
        {"type": "residual", "layers": [{"type": "linear", "units": 3, "activation": "selu"}], "projection": True},
    )
    network = initialised(IMAGE, layers, seed=9)

    generator = torch.Generator().manual_seed(9)
    expected = []
    drawn_as = [("he_normal", (2, 2, 3, 3)), *[("xavier_normal", (4, 40))] * 3, ("lecun_normal", (3, 4))]
    for name, shape in [*drawn_as, ("xavier_uniform", (3, 4))]:  # the last is the projection
        expected.append(torch.empty(shape))
        INITS.build(INITS.make(name), expected[-1], generator)
    pieces = torch.cat(expected[1:4])  # a piece of a maxout is a layer of its own: fan_out 4, not 12
    weights = [value for key, value in network.state_dict().items() if key.endswith("weight")]
    for found, wanted in zip(weights, [expected[0], pieces, *expected[4:]], strict=True):
        assert torch.equal(found, wanted)
    assert not any(value.any() for key, value in network.state_dict().items() if key.endswith("bias"))


def test_norms_and_prelu_start_where_they_should() -> None:
    layers = components("batch_norm", "layer_norm", "rms_norm", {"type": "prelu", "init_slope": 0.1})
    network = initialised((4,), layers, seed=0)
    starts = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0, "bias": 0, "weight": 1}
    for key, value in network.state_dict().items():
        wanted = 0.1 if key == "3.weight" else starts[key.split(".")[1]]
        assert (value == torch.tensor(wanted, dtype=value.dtype)).all()
