"""Layers put into a configuration's network, or taken out, so that all others start from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dlf.errors import UsageError
from dlf.layers import fill_defaults
from dlf.questions.design import Subject

Layer = Mapping[str, Any]

_WEIGHTED = ("linear", "conv2d", "maxout")
_FOLLOWING = ("batch_norm", "layer_norm", "rms_norm", "activation", "prelu")  # what belongs to the sum before it
_IDENTITY = {"type": "identity"}


def filled(subject: Subject) -> list[Layer]:
    """The hidden layers as plain data, activations and initialisers written out.

    So that a layer starts from the same weights whatever is put behind it; UsageError where there is none.
    """
    model = subject.config.model
    written = fill_defaults(model.layers, model.activation, model.init)
    layers = subject.config.model_copy(update={"model": model.model_copy(update={"layers": written})}).dump()
    found: list[Layer] = layers["model"]["layers"]
    if not found or (model.output == "none" and len(found) == 1):
        raise UsageError(
            f"{subject.config.name} has no hidden layer: add one to model.layers, {{type: linear, units: 32}}"
        )
    return found


def has(layers: Sequence[Layer], *kinds: str) -> bool:
    """Whether a layer of one of these kinds is among them, inside of blocks too."""
    return any(layer["type"] in kinds or has(layer.get("layers", ()), *kinds) for layer in layers)


def without(layers: Sequence[Layer], *kinds: str) -> list[Layer]:
    """The layers but those of these kinds, inside of blocks too; a block that had no others goes with them."""
    kept: list[Layer] = []
    for layer in layers:
        inner = {"layers": without(layer["layers"], *kinds)} if "layers" in layer else {}
        if layer["type"] not in kinds and inner.get("layers", True):
            kept.append({**layer, **inner})
    return kept


def hidden(subject: Subject, change: Callable[[Sequence[Layer]], list[Layer]]) -> list[Layer]:
    """The hidden layers with a change made to them; an output layer that is written among them stays as it is."""
    layers = filled(subject)
    written = 1 if subject.config.model.output == "none" else 0
    return [*change(layers[: len(layers) - written]), *layers[len(layers) - written :]]


def with_dropout(layers: Sequence[Layer], rate: float) -> list[Layer]:
    """The layers with dropout behind every weighted one, its norm and its activation; behind a block as a whole."""
    return list(_behind(layers, {"type": "dropout", "rate": rate}))


def _behind(layers: Sequence[Layer], addition: Layer) -> Iterator[Layer]:
    due = False
    for layer in layers:
        if due and layer["type"] not in _FOLLOWING:
            yield addition
            due = False
        yield layer
        due = due or layer["type"] in _WEIGHTED or "layers" in layer
    if due:
        yield addition


def with_batch_norm(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with batch_norm between every weighted sum and its activation, inside of blocks too.

    Its shift stands for the bias of the sum.
    """
    found: list[Layer] = []
    for layer in layers:
        if "layers" in layer:
            found.append({**layer, "layers": with_batch_norm(layer["layers"])})
        elif layer["type"] not in _WEIGHTED:
            found.append(layer)
        elif "activation" not in layer:  # maxout: its pieces need biases of their own
            found += [layer, {"type": "batch_norm"}]
        else:
            found += [{**layer, "activation": _IDENTITY, "bias": False}, {"type": "batch_norm"}]
            if layer["activation"]["type"] != "identity":
                found.append({"type": "activation", "function": layer["activation"]})
    return found


def without_batch_norm(layers: Sequence[Layer]) -> list[Layer]:
    """The layers without batch_norm; a sum that had none for its sake has a bias instead."""
    with_bias = [
        {**layer, "bias": True} if "bias" in layer and follower["type"] == "batch_norm" else layer
        for layer, follower in zip(layers, [*layers[1:], {"type": ""}], strict=True)
    ]
    nested = [
        {**layer, "layers": without_batch_norm(layer["layers"])} if "layers" in layer else layer for layer in with_bias
    ]
    return without(nested, "batch_norm")
