"""A deep network without activations is one affine map: W_n ... W_2 W_1 is one matrix, whatever the depth.

That is why activations are needed. `collapse` multiplies the matrices out, and the network and its one matrix differ by
rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dlf.errors import UsageError
from dlf.layers import Residual
from dlf.model import Network
from dlf.modules import Activate, Dropout, Linear


@torch.no_grad()
def collapse(network: Network) -> tuple[Tensor, Tensor]:
    """(W, b), float64, of the affine map that the layers are: network.normalize(x).flatten(1) @ W.T + b.

    W is (units, features), b (units,). As the network computes in evaluation: dropout does nothing and batch_norm takes
    its running values. Linear layers, batch_norm, flatten, both dropouts, and blocks of these. UsageError names the
    layer that is no affine map, or none of these.
    """
    layers = [(str(index), layer) for index, layer in enumerate(network.layers)]
    first = next((layer for layer in network.modules() if isinstance(layer, Linear)), None)
    if first is None:
        raise UsageError("a network without a linear layer has no matrix to collapse into")
    features = first.weight.shape[1]
    return _composed(layers, torch.eye(features, dtype=torch.float64), torch.zeros(features, dtype=torch.float64))


def _composed(layers: Iterable[tuple[str, nn.Module]], matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The layers, one behind the other, behind x -> matrix x + shift."""
    for index, layer in layers:
        matrix, shift = _behind(index, layer, matrix, shift)
    return matrix, shift


def _behind(index: str, layer: nn.Module, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """One layer behind x -> matrix x + shift: W (matrix x + shift) + b."""
    function = layer.activation.type if isinstance(layer, Linear | Activate) else "identity"
    if function != "identity":
        raise UsageError(f"layer {index} ends in {function}, and only layers without an activation are one matrix")
    if isinstance(layer, Linear):
        weight = layer.weight.to("cpu", torch.float64)
        bias = 0.0 if layer.bias is None else layer.bias.to("cpu", torch.float64)
        return weight @ matrix, weight @ shift + bias
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return _normalized(layer, matrix, shift)
    if isinstance(layer, Residual):
        body = [(f"{index}.{i}", inner) for i, inner in enumerate(layer.body)]
        bent, around = _composed(body, matrix, shift), _behind(f"{index}.skip", layer.skip, matrix, shift)
        return bent[0] + around[0], bent[1] + around[1]
    if isinstance(layer, nn.Flatten | nn.Identity | Dropout | nn.AlphaDropout | Activate):
        return matrix, shift
    known = "linear, batch_norm, flatten, dropout, alpha_dropout and residual"
    raise UsageError(f"layer {index} is a {type(layer).__name__}; what can be collapsed is made of {known}")


def _normalized(layer: nn.BatchNorm1d | nn.BatchNorm2d, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """gain (x - mean) / deviation + offset; of images one gain for all pixels of a channel."""
    running = [layer.get_buffer("running_mean"), layer.get_buffer("running_var")]
    pixels = len(shift) // layer.num_features
    mean, variance, gain, offset = (
        values.to("cpu", torch.float64).repeat_interleave(pixels) for values in (*running, layer.weight, layer.bias)
    )
    scale = gain / (variance + layer.eps).sqrt()
    return scale[:, None] * matrix, scale * (shift - mean) + offset
