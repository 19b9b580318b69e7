"""Layers: what a network is stacked from.

A layer is `f(shape: Shape, *, ...) -> (module, shape)`: the module for inputs of that shape, and the shape of its
output. Shapes are without the batch: (features,) or (channels, height, width). They come from arithmetic alone: no
tensor is run, and nothing here reads a weight, so that a network can be built on the meta device, counted, refused,
given memory and only then filled by `initialise`. A shape that a layer does not take is an InvalidError.

In a layer function None stands for the identity (`activation`) and for auto (`init`); `fill_defaults` puts the
experiment's own defaults in their place before.

Facts of an entry: `takes_features`, the layer wants (features,), and `stack` puts a flatten before it where needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS, chosen
from dlf.modules import IDENTITY, Activate, Conv2d, Dropout, Linear, Maxout, Weighted, misfit
from dlf.registry import Component, InvalidError, Registry, Share, one_of

Shape = tuple[int, ...]


def _as_layer(name: object) -> str:
    if name not in ACTIVATIONS.names():
        return ""
    return f" It is an activation: write {{type: activation, function: {name}}}, or set `activation` of a layer."


LAYERS: Registry[Callable[..., tuple[nn.Module, Shape]]] = Registry("layer", meant=_as_layer)

ActivationName = Annotated[Component, one_of(lambda: ACTIVATIONS)]
InitName = Annotated[Component, one_of(lambda: INITS)]
LayerName = Annotated[Component, one_of(lambda: LAYERS)]
Pixels = Annotated[int, Field(ge=1, le=65536)]  # a window or a step; torch takes no 10^30


class Row(NamedTuple):
    """One layer of a stack: what was asked for, the module, its shapes; `automatic` if `stack` put it in."""

    component: Component
    module: nn.Module
    input: Shape
    output: Shape
    automatic: bool


def stack(shape: Shape, layers: Sequence[Component]) -> list[Row]:
    """The modules of `layers`, one behind the other, for inputs of `shape`; flattens images before linear layers.

    InvalidError, with the path (index,) of the layer, where one does not take what the one before gives.
    """
    rows: list[Row] = []
    for index, component in enumerate(layers):
        if LAYERS.get(component.type).facts.get("takes_features") and len(shape) > 1:
            module, output = flatten(shape)
            rows.append(Row(LAYERS.make("flatten"), module, shape, output, automatic=True))
            shape = output
        try:
            module, output = LAYERS.build(component, shape)
        except InvalidError as error:
            raise error.below(index) from None
        rows.append(Row(component, module, shape, output, automatic=False))
        shape = output
    return rows


def fill_defaults(layers: Sequence[Component], activation: Component, init: Component) -> list[Component]:
    """The layers with these defaults where they name no activation or init, inside of blocks too, and auto resolved."""
    return [_filled(layer, activation, init) for layer in layers]


def _filled(layer: Component, activation: Component, init: Component) -> Component:
    update = layer.parameters
    if "activation" in update:
        update["activation"] = update["activation"] or activation
    if "init" in update:
        update["init"] = chosen(update["init"] or init, update.get("activation", IDENTITY))
    if "layers" in update:
        update["layers"] = fill_defaults(update["layers"], activation, init)
    return layer.model_copy(update=update)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Set every parameter and buffer: weights from the generator, biases to zero, norms and prelu to their start.

    The generator must be on the network's device. The same seed gives the same bytes.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Weighted):
                module.initialise(generator)
            elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
                assert reset is not None, f"{type(module).__name__} cannot be initialised: it has no reset_parameters"
                reset()


def multiply_adds(module: nn.Module, output: Shape) -> int:
    """Products with weights for one sample, given the shape of the output; norms and activations count 0."""
    if isinstance(module, Residual):
        body = sum(multiply_adds(row.module, row.output) for row in module.rows)
        return body + multiply_adds(module.skip, output)
    if isinstance(module, Weighted):
        return module.weight.numel() * math.prod(output[1:])  # every pixel of the output uses every weight once
    return 0


def _words(shape: Shape) -> str:
    return f"{shape[0]} features" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def _after_window(layer: str, shape: Shape, *, size: int, stride: int, padding: int = 0) -> Shape:
    """(height', width') of (channels, height, width) under a sliding window: floor((side - size) / stride) + 1 each."""
    if len(shape) != 3:
        advice = "put it before any flatten, linear or maxout layer, or use data of images"
        raise misfit(f"{layer} takes images (channels, height, width) and got {_words(shape)}: {advice}")
    height, width = (side + 2 * padding for side in shape[1:])
    if size > min(height, width):
        padded = f", {height} x {width} with its padding" if padding else ""
        raise misfit(
            f"{layer}: a window of {size} x {size} does not fit into an image of {shape[1]} x {shape[2]}{padded}:"
            " take a smaller window, or fewer layers before it that shrink the image"
        )
    return ((height - size) // stride + 1, (width - size) // stride + 1)


def _features(layer: str, shape: Shape) -> int:
    if len(shape) != 1:
        raise misfit(f"{layer} takes features and got {_words(shape)}: put a flatten before it")
    return shape[0]


class Residual(nn.Module):
    """skip(x) + body(x); `rows` are those of the body."""

    def __init__(self, rows: list[Row], skip: nn.Module) -> None:
        super().__init__()
        self.rows = rows
        self.body = nn.Sequential(*(row.module for row in rows))
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.skip(x) + self.body(x)
        return total


@LAYERS.register("linear", takes_features=True)
def linear(
    shape: Shape,
    *,
    units: PositiveInt,
    activation: ActivationName | None = None,
    init: InitName | None = None,
    bias: bool = True,
) -> tuple[nn.Module, Shape]:
    """Every unit sums all features: activation(x W^T + b), W (units, features). (features,) -> (units,)."""
    return Linear((units, _features("linear", shape)), bias, init, activation), (units,)


@LAYERS.register("conv2d")
def conv2d(
    shape: Shape,
    *,
    channels: PositiveInt,
    kernel: Pixels = 3,
    stride: Pixels = 1,
    padding: Literal["same", "valid"] = "same",
    activation: ActivationName | None = None,
    init: InitName | None = None,
    bias: bool = True,
) -> tuple[nn.Module, Shape]:
    """Slides kernel x kernel filters over the image. (c, height, width) -> (channels, height', width').

    `same` pads with (kernel - 1) // 2 zeros on each side: for an odd kernel height' = ceil(height / stride); an even
    one loses a pixel with stride 1. `valid` does not pad: height' = floor((height - kernel) / stride) + 1.
    A cross-correlation: the filters are not mirrored. LeCun et al., 1989.
    """
    border = (kernel - 1) // 2 if padding == "same" else 0
    image = _after_window("conv2d", shape, size=kernel, stride=stride, padding=border)
    weight = (channels, shape[0], kernel, kernel)
    return Conv2d(weight, bias, init, activation, stride=stride, padding=border), (channels, *image)


@LAYERS.register("maxout", takes_features=True)
def maxout(
    shape: Shape,
    *,
    units: PositiveInt,
    pieces: PositiveInt = 2,
    init: InitName | None = None,
    bias: bool = True,
) -> tuple[nn.Module, Shape]:
    """The largest of `pieces` linear maps for every unit. (features,) -> (units,). Goodfellow et al., 2013."""
    return Maxout((pieces * units, _features("maxout", shape)), bias, init, pieces=pieces), (units,)


@LAYERS.register("activation")
def activation(shape: Shape, *, function: ActivationName) -> tuple[nn.Module, Shape]:
    """An activation as a layer of its own, say behind a batch_norm. Any shape, which stays."""
    return Activate(function), shape


@LAYERS.register("prelu")
def prelu(shape: Shape, *, init_slope: float = 0.25, shared: bool = True) -> tuple[nn.Module, Shape]:
    """max(x, 0) + slope * min(x, 0) with a learnt slope. Any shape, which stays. He et al., 2015.

    One slope for the layer, or with `shared: false` one for every feature or channel.
    """
    return nn.PReLU(1 if shared else shape[0], init_slope), shape


@LAYERS.register("dropout")
def dropout(shape: Shape, *, rate: Share = 0.5) -> tuple[nn.Module, Shape]:
    """In training sets a share of `rate` to 0 and divides the others by 1 - rate. Any shape, which stays.

    In evaluation it does nothing. Srivastava et al., 2014.
    """
    return Dropout(rate), shape


@LAYERS.register("alpha_dropout")
def alpha_dropout(shape: Shape, *, rate: Share = 0.5) -> tuple[nn.Module, Shape]:
    """Dropout for selu: in training sets a share of `rate` to -1.7581. Any shape, which stays. Klambauer et al., 2017.

    A scale and a shift of all values then keep mean 0 and variance 1. In evaluation it does nothing.
    """
    return nn.AlphaDropout(rate), shape


@LAYERS.register("batch_norm")
def batch_norm(
    shape: Shape, *, momentum: Annotated[float, Field(gt=0, le=1)] = 0.1, eps: PositiveFloat = 1e-5
) -> tuple[nn.Module, Shape]:
    """(x - mean) / sqrt(variance + eps) * gain + shift over the batch, per feature or channel. Any shape, which stays.

    Images are averaged over height and width too. Evaluation uses running values: running = (1 - momentum) * running +
    momentum * batch. Ioffe and Szegedy, 2015.
    """
    if len(shape) not in (1, 3):
        raise misfit(f"batch_norm takes features or images (channels, height, width) and got {_words(shape)}")
    kind = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    return kind(shape[0], eps, momentum), shape


@LAYERS.register("layer_norm")
def layer_norm(shape: Shape, *, eps: PositiveFloat = 1e-5) -> tuple[nn.Module, Shape]:
    """(x - mean) / sqrt(variance + eps) * gain + shift over a whole sample. Any shape, which stays. Ba et al., 2016."""
    return nn.LayerNorm(shape, eps), shape


@LAYERS.register("rms_norm")
def rms_norm(shape: Shape, *, eps: PositiveFloat = 1e-5) -> tuple[nn.Module, Shape]:
    """x / sqrt(mean(x^2) + eps) * gain over a whole sample. Any shape, which stays. Zhang and Sennrich, 2019."""
    return nn.RMSNorm(shape, eps), shape


@LAYERS.register("flatten")
def flatten(shape: Shape) -> tuple[nn.Module, Shape]:
    """One row of features: (channels, height, width) -> (channels * height * width,), channel by channel."""
    return nn.Flatten(), (math.prod(shape),)


@LAYERS.register("max_pool2d")
def max_pool2d(shape: Shape, *, size: Pixels = 2, stride: Pixels | None = None) -> tuple[nn.Module, Shape]:
    """The largest pixel of each size x size window. (c, height, width) -> (c, height', width').

    The windows step by `stride` (default: size): height' = floor((height - size) / stride) + 1.
    """
    image = _after_window("max_pool2d", shape, size=size, stride=stride or size)
    return nn.MaxPool2d(size, stride or size), (shape[0], *image)


@LAYERS.register("avg_pool2d")
def avg_pool2d(shape: Shape, *, size: Pixels = 2, stride: Pixels | None = None) -> tuple[nn.Module, Shape]:
    """The mean of each size x size window, sliding as in max_pool2d. (c, height, width) -> (c, height', width')."""
    image = _after_window("avg_pool2d", shape, size=size, stride=stride or size)
    return nn.AvgPool2d(size, stride or size), (shape[0], *image)


@LAYERS.register("residual")
def residual(
    shape: Shape,
    *,
    layers: Annotated[list[LayerName], Field(min_length=1)],
    projection: bool = False,
    init: InitName | None = None,
) -> tuple[nn.Module, Shape]:
    """x + layers(x), the shape as the layers give it, which must be that of x without a projection. He et al., 2015.

    With `projection: true` a block that changes the shape adds W x for x: W a linear map of features, or a 1 x 1
    convolution of images, with a stride where the block divides height and width; `init` fills it, and it has no bias.
    """
    try:
        rows = stack(shape, layers)
    except InvalidError as error:
        raise error.below("layers") from None
    output = rows[-1].output
    return Residual(rows, _skip(shape, output, projection, init)), output


def _skip(shape: Shape, output: Shape, projection: bool, init: Component | None) -> nn.Module:
    if shape == output:
        return nn.Identity()
    changed = f"residual: its layers turn {_words(shape)} into {_words(output)}"
    if not projection:
        raise misfit(f"{changed}, and the two cannot be added: make them equal, or set projection: true")
    if len(shape) == len(output) == 1:
        return Linear((*output, *shape), False, init)
    if len(shape) == len(output) == 3:
        stride = math.ceil(shape[1] / output[1])
        if output[1:] == tuple(math.ceil(side / stride) for side in shape[1:]):
            return Conv2d((output[0], shape[0], 1, 1), False, init, stride=stride, padding=0)
    raise misfit(f"{changed}, which no projection does: keep the height and width, or divide both by one stride")
