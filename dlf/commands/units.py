"""One neuron of a layer, through forward, backward and the step: what it hears, what it says, how it changes.

A unit is one number that a layer with weights gives: unit 3 of a linear or maxout layer, or the pixel 5,0,7 (channel,
row, column) of a convolution, whose weights all pixels of the channel share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf.chain_rule import LayerPass
from dlf.derivatives import Quantity
from dlf.errors import UsageError
from dlf.modules import Conv2d, Maxout, Weighted

SHOWN = 8  # incoming connections

Place = tuple[int, ...]


@dataclass(frozen=True)
class Incoming:
    """One connection: w x is a part of z, gradient = dL/dz x of dL/dw; `step` is what the optimizer adds to w."""

    input: str
    weight: float
    x: float
    product: float
    gradient: float
    step: float


@dataclass(frozen=True)
class Unit:
    """A neuron: z = the sum of all products + bias, a = f(z), dL/dz = dL/da f'(z).

    `incoming` are the connections with the largest |w x|, of `inputs`. `slope` is None where f'(z) is no number of one
    unit alone (softmax). `piece` is the one that won in a maxout layer.
    """

    layer: str
    unit: str
    chosen: str
    inputs: int
    incoming: tuple[Incoming, ...]
    sum: float
    bias: float | None
    z: float
    a: float
    dL_da: float  # noqa: N815 -- as it is written
    slope: float | None
    dL_dz: float  # noqa: N815
    bias_step: float | None
    piece: int | None = None


@dataclass(frozen=True)
class Weights:
    """Every parameter before the step, and what the step adds, by name in the network."""

    before: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]


def chosen_units(
    network: nn.Module,
    passes: Sequence[LayerPass],
    weights: Weights,
    wanted: str | None,
    features: Sequence[str] | None,
) -> dict[str, Unit]:
    """By layer: the unit with the largest |dL/dz| of each layer with weights, or the wanted one alone.

    UsageError where `wanted`, "layer:index", names no unit, with those there are.
    """
    found = {each.layer: each for each in flat(passes) if isinstance(_module(network, each.layer), Weighted)}
    if wanted is None:
        places = {layer: (_steepest(each), "the unit with the largest |dL/dz|") for layer, each in found.items()}
    else:
        layer, place = _parsed(wanted, {layer: _outputs(each) for layer, each in found.items()})
        places = {layer: (place, "")}
    named = features if features and len(features) == passes[0].forward[0].value.numel() else None
    return {
        layer: _unit(network, found[layer], place, why, weights, named if layer == passes[0].layer else None)
        for layer, (place, why) in places.items()
    }


def flat(passes: Sequence[LayerPass]) -> Iterator[LayerPass]:
    """The layers one by one, those inside of a block behind it."""
    for each in passes:
        yield each
        yield from flat(each.inner)


def name_of(layer: str) -> str:
    """The name in the network of the layer that `dlf summarize` calls 2.1: layers.2.body.1."""
    first, *inner = layer.split(".")
    return ".".join(["layers", first, *(part if part == "skip" else f"body.{part}" for part in inner)])


def _module(network: nn.Module, layer: str) -> nn.Module:
    return network.get_submodule(name_of(layer))


def _outputs(each: LayerPass) -> Place:
    return tuple(each.forward[-1].value.shape[1:])


def _quantity(quantities: Sequence[Quantity], symbol: str) -> Tensor | None:
    """The value of that symbol for the one sample; None where the layer has none."""
    return next((quantity.value[0] for quantity in quantities if quantity.symbol == symbol), None)


def _steepest(each: LayerPass) -> Place:
    """The place in the layer's output at which |dL/dz| is largest."""
    d = _quantity(each.backward, "dL/dz")
    assert d is not None, "a layer with weights has a dL/dz"
    shape = _outputs(each)
    sizes = d.abs().view(-1, *shape).amax(0)  # the pieces of maxout lie one behind the other
    return tuple(int(index) for index in torch.unravel_index(sizes.argmax(), shape))


def _parsed(wanted: str, shapes: Mapping[str, Place]) -> tuple[str, Place]:
    layer, _, index = wanted.partition(":")
    if layer not in shapes:
        there = ", ".join(f"{layer}:{_range(shape)}" for layer, shape in shapes.items())
        raise UsageError(
            f"--unit {wanted}: expected layer:index, with a layer that has weights. There are: {there or 'none'}"
        )
    shape = shapes[layer]
    places = index.split(",")
    if all(part.isdecimal() and len(part) < 10 for part in places) and len(places) == len(shape):
        place = tuple(map(int, places))
        if all(part < side for part, side in zip(place, shape, strict=True)):
            return layer, place
    kind = "channel,row,column" if len(shape) == 3 else "a number"
    raise UsageError(f"--unit {wanted}: layer {layer} has the units {layer}:{_range(shape)} ({kind})")


def _range(shape: Place) -> str:
    return ",".join(f"0-{side - 1}" for side in shape)


def _unit(
    network: nn.Module,
    each: LayerPass,
    place: Place,
    why: str,
    weights: Weights,
    features: Sequence[str] | None,
) -> Unit:
    module, name = _module(network, each.layer), name_of(each.layer)
    assert isinstance(module, Weighted)
    z, d = _quantity(each.forward, "z"), _quantity(each.backward, "dL/dz")
    slope = _quantity(each.backward, "f'(z)")
    assert z is not None
    assert d is not None
    row, at, piece = place[0], place, None
    if isinstance(module, Maxout):
        units = _outputs(each)[0]
        piece = int(z.view(module.pieces, units)[:, place[0]].argmax())
        row = piece * units + place[0]
        at = (row,)
    x, names = _heard(module, each.forward[0].value, place, features)
    w, step = weights.before[f"{name}.weight"][row].flatten(), weights.steps[f"{name}.weight"][row].flatten()
    bias, bias_step = (kept.get(f"{name}.bias") for kept in (weights.before, weights.steps))
    products, gradient = w * x, d[at] * x
    largest = products.abs().topk(min(SHOWN, len(x))).indices.tolist()
    return Unit(
        layer=each.layer,
        unit=",".join(map(str, place)),
        chosen=why,
        inputs=len(x),
        incoming=tuple(
            Incoming(names(n), *(float(each[n]) for each in (w, x, products, gradient, step))) for n in largest
        ),
        sum=float(products.sum()),
        bias=None if bias is None else float(bias[row]),
        z=float(z[at]),
        a=float(each.forward[-1].value[0][place]),
        dL_da=float(each.backward[0].value[0][place]),
        slope=None if slope is None else float(slope[at]),
        dL_dz=float(d[at]),
        bias_step=None if bias_step is None else float(bias_step[row]),
        piece=piece,
    )


def _heard(
    module: Weighted, x: Tensor, place: Place, features: Sequence[str] | None
) -> tuple[Tensor, Callable[[int], str]]:
    """What the unit at `place` multiplies with its weights, in their order, and how each of it is called."""
    if not isinstance(module, Conv2d):
        return x[0], lambda n: f"{n} {features[n]}" if features else str(n)
    size, stride, border = module.weight.shape[-1], module.stride, module.padding
    top, left = (stride * at for at in place[1:])
    padded = F.pad(x[0], (border,) * 4)
    window = padded[:, top : top + size, left : left + size]  # (channels, size, size)

    def called(n: int) -> str:
        channel, rest = divmod(n, size * size)
        row, column = top + rest // size - border, left + rest % size - border
        inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
        return f"{channel},{row},{column}" if inside else "padding"

    return window.flatten(), called
