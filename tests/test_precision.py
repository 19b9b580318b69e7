"""Precision: bfloat16 rounds the factors and the sum of a product and nothing else; auto chooses and says why."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from dlf import precision
from dlf.layers import LAYERS, initialise, stack
from dlf.modules import Weighted
from dlf.registry import InvalidError

CPU = torch.device("cpu")
SHAPES = {"linear": (40,), "maxout": (40,), "conv2d": (3, 6, 6)}
SETTINGS = {"linear": {"units": 16}, "maxout": {"units": 16}, "conv2d": {"channels": 4}}


def layer(kind: str) -> nn.Module:
    module: nn.Module = LAYERS.build(LAYERS.make(kind, **SETTINGS[kind]), SHAPES[kind])[0]
    initialise(module, torch.Generator().manual_seed(0))
    return module


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad()
    output = module(x)
    output.square().sum().backward()
    return output.detach(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", SHAPES)
def test_products_are_those_of_rounded_factors(kind: str) -> None:
    x = torch.randn(8, *SHAPES[kind], generator=torch.Generator().manual_seed(1))
    exact, reduced = layer(kind), layer(kind)
    precision.apply(reduced, "bfloat16")
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(rounded(parameter))
    output, grads = gradients(reduced, x)
    reference, reference_grads = gradients(exact, rounded(x))
    assert output.dtype == torch.float32
    # forward the sum alone is rounded to 8 bits, by 2^-8 relative at most, and once more with the bias
    assert torch.allclose(output, reference, rtol=2**-7, atol=2**-7 * reference.abs().max().item())
    # backward: the incoming gradient, the output in it, and the sum are rounded: 2^-8 each, and twice for safety
    for name, gradient in reference_grads.items():
        assert grads[name].dtype == torch.float32
        assert torch.allclose(grads[name], gradient, rtol=2**-5, atol=2**-5 * gradient.abs().max().item()), name
    unrounded, _ = gradients(layer(kind), x)
    assert (output - unrounded).abs().max() > 0  # the setting does something


@pytest.mark.parametrize("kind", SHAPES)
def test_float32_changes_nothing(kind: str) -> None:
    x = torch.randn(8, *SHAPES[kind], generator=torch.Generator().manual_seed(1))
    plain, set_ = layer(kind), layer(kind)
    precision.apply(set_, "bfloat16")
    precision.apply(set_, "float32")
    assert torch.equal(plain(x), set_(x))


def test_a_setting_is_kept() -> None:
    assert precision.choose("float32", CPU, 10**12)[0] == "float32"
    assert precision.choose("bfloat16", CPU, 1)[0] == "bfloat16"


@pytest.mark.parametrize(
    ("fast", "products", "chosen", "reason"),
    [
        (True, precision.PAYS_FROM, "bfloat16", "is fast at it"),
        (True, precision.PAYS_FROM - 1, "float32", "too few for bfloat16 to pay"),
        (False, 10**12, "float32", "not fast at bfloat16"),
    ],
)
def test_auto_says_what_it_chose_and_why(
    fast: bool, products: int, chosen: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_fast_bfloat16", lambda device: fast)
    found, why = precision.choose("auto", CPU, products)
    assert found == chosen
    assert reason in why


def test_what_is_handed_on_is_what_would_be_rounded_next() -> None:
    """relu and dropout of a rounded number are rounded numbers: handing bfloat16 on changes no bit of the output."""
    layers = [
        LAYERS.make("linear", units=32, activation="relu"),
        LAYERS.make("dropout", rate=0.5),  # scales by 2, which is exact
        LAYERS.make("linear", units=16, activation="relu"),
        LAYERS.make("layer_norm"),
        LAYERS.make("linear", units=4),
    ]
    network = nn.Sequential(*(row.module for row in stack((40,), layers)))
    initialise(network, torch.Generator().manual_seed(0))
    precision.apply(network, "bfloat16")
    weighted = [module for module in network if isinstance(module, Weighted)]
    assert [module.hand_on for module in weighted] == [True, False, False], "norms and losses get float32"
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    handed = network(x)
    assert handed.dtype == torch.float32
    weighted[0].hand_on = False
    torch.manual_seed(0)
    assert torch.equal(network(x), handed)


def test_tf32_is_refused_where_nothing_computes_it() -> None:
    with pytest.raises(InvalidError, match="not by this cpu: take float32, bfloat16 or auto"):
        precision.choose("tf32", CPU, 10**9)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", SHAPES)
def test_on_a_gpu_float32_is_float32_and_tf32_rounds_to_11_bits(kind: str) -> None:
    """The reference is the CPU's float64. A factor rounded to 11 bits errs by 2^-12; two factors, four for safety."""
    x = torch.randn(8, *SHAPES[kind], generator=torch.Generator().manual_seed(1))
    module = layer(kind)
    expected = deepcopy(module).double()(x.double()).detach()
    for name, bound in (("float32", 2**-18), ("tf32", 2**-9)):
        precision.apply(module.cuda(), name)  # type: ignore[arg-type]
        error = (module(x.cuda()).double().cpu() - expected).abs().max() / expected.abs().max()
        assert error < bound
        assert (error > 2**-16) == (name == "tf32")
