"""The faults: how each gets into a healthy experiment, and which findings name it.

What YAML says is written in YAML, what lies in the data is written to a file, and what dlf refuses or cannot express is
done to the assembled experiment. A finding names a fault when a reader learns from it what is wrong, not only that
something is; the lists were closed before the reported seeds were looked at (docs/faults.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlf import data
from dlf.config import loads
from dlf.datasets import Array, Dataset
from dlf.engine import Experiment, TrainState
from dlf.errors import DataMissingError
from dlf.modules import Weighted
from dlf.yaml12 import dump

from .bases import Base, Config

Change = Callable[[Experiment, TrainState], tuple[Experiment, TrainState]]


@dataclass(frozen=True)
class Case:
    """An experiment as its user has it: the configuration, and what is done to the objects that it becomes.

    Where the loader refuses `config`, check and doctor look at `instead`, changed: what somebody would have who built
    the same network without dlf's loader.
    """

    config: Config
    change: Change | None = None
    instead: Config | None = None


Inject = Callable[[Base, np.random.Generator, Path], Case]


@dataclass(frozen=True)
class Fault:
    """One way to break an experiment; `named_by` are the findings that name it, `refusal` a word of the loader's."""

    name: str
    how: str
    inject: Inject
    named_by: frozenset[str]
    suits: Callable[[Base], bool]
    refusal: str


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, how: str, named_by: str, suits: Callable[[Base], bool] = lambda base: True, refusal: str = ""
) -> Callable[[Inject], Inject]:
    """Register `inject` as this fault; `named_by` holds the names of findings, apart by spaces."""

    def register(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, how, inject, frozenset(named_by.split()), suits, refusal)
        return inject

    return register


# --- by YAML --------------------------------------------------------------------------------------------------------


def _with(base: Base, **sections: Config) -> Config:
    """A copy of the configuration with these keys of its sections replaced."""
    config = copy.deepcopy(base.config)
    for name, keys in sections.items():
        config[name] = {**config[name], **keys}
    return config


def _layers(layers: list[Config]) -> Iterator[Config]:
    """The layers, with those inside of residual blocks; to be changed in place."""
    for layer in layers:
        yield layer
        yield from _layers(layer.get("layers", []))


@fault(
    "zero initialisation",
    "`model.init: zeros`, or `init: zeros` in every hidden layer of two or more",
    "equal_units",
)
def _zeros(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    if base.hidden == 1 or chance.random() < 0.5:
        return Case(_with(base, model={"init": "zeros"}))
    config = _with(base)
    for layer in _layers(config["model"]["layers"]):
        if layer["type"] in ("linear", "conv2d", "residual"):
            layer["init"] = "zeros"
    return Case(config)


@fault(
    "sigmoid in twelve layers",
    "twelve linear layers of 32, 64 or 128 units, `activation: sigmoid`",
    "signal_spread gradient_spread lost_signal vanishing_gradient saturated_units",
)
def _sigmoids(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    layers = [{"type": "linear", "units": int(chance.choice([32, 64, 128]))}] * 12
    return Case(_with(base, model={"activation": "sigmoid", "layers": layers}))


@fault(
    "learning rate a thousand times too high",
    "`optimizer.lr` times 1,000",
    "update_size fast_updates divergence training_loss",
)
def _rate(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    return Case(_with(base, optimizer={"lr": 1000 * base.config["optimizer"]["lr"]}))


@fault(
    "no activation",
    "`activation: identity` for every hidden layer",
    "nonlinearity",
    # these two bend: what stands between them is no one matrix, and no fault
    suits=lambda base: not {"max_pool2d", "layer_norm"} & {layer["type"] for layer in base.config["model"]["layers"]},
)
def _linear(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    config = _with(base, model={"activation": "identity"})
    layers = config["model"]["layers"]
    config["model"]["layers"] = [layer for layer in layers if layer["type"] != "activation"]
    return Case(config)


# --- in the data ----------------------------------------------------------------------------------------------------


def _read(base: Base) -> Dataset:
    section = loads(dump(base.config), base.problem).config.data_section
    try:
        return data.read(section, lambda message: None)
    except DataMissingError:
        assert section.fallback is not None
        return data.read(section.fallback, lambda message: None)  # type: ignore[arg-type]


def _arrays(base: Base) -> tuple[Array, Array]:
    """x and y of the samples that the experiment would split; at most as many as it would look at."""
    read = _read(base)
    x, y = np.asarray(read.train.x), np.asarray(read.train.y)
    limit = base.config["data"].get("limit", len(x))
    chosen = np.random.default_rng(base.config["seed"]).permutation(len(x))[:limit]
    return x[chosen], y[chosen]


def _parts(base: Base, chance: np.random.Generator) -> dict[str, Array]:
    """x_train, y_train, x_test and y_test: a fifth is the test."""
    x, y = _arrays(base)
    test = np.zeros(len(x), bool)
    test[chance.permutation(len(x))[: len(x) // 5]] = True
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def _of_file(base: Base, folder: Path, arrays: dict[str, Array], **keys: Any) -> Case:
    """The experiment on arrays of its user's own."""
    path = folder / f"{base.problem}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    kept = {key: base.config["data"][key] for key in ("batch_size", "split_seed")}
    config = _with(base)
    config["data"] = {"type": "npz", "path": str(path), "validation": 0.2, **kept, **keys}
    return Case(config)


@fault(
    "unscaled inputs",
    "`data.normalize: none` for pixels from 0 to 255 and measures in their own units; points of the plane times 1,000",
    "input_scale",
)
def _unscaled(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    if base.problem not in ("spiral", "moons", "blobs"):
        return Case(_with(base, data={"normalize": "none"}))
    x, y = _arrays(base)
    return _of_file(base, folder, {"x": x * np.float32(1000), "y": y}, normalize="none")


@fault(
    "shuffled labels",
    "labels or numbers to predict in another order than the samples: all of them, or those of the training part",
    "association holding",
)
def _shuffled(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    if chance.random() < 0.5:
        x, y = _arrays(base)
        return _of_file(base, folder, {"x": x, "y": chance.permutation(y)})
    arrays = _parts(base, chance)
    return _of_file(base, folder, {**arrays, "y_train": chance.permutation(arrays["y_train"])})


@fault(
    "leak of test into train",
    "5 % to 100 % of the test samples are in the training part too; or every sample is there twice before the split",
    "shared_test",
)
def _leak(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    if chance.random() < 0.3:
        x, y = _arrays(base)
        return _of_file(base, folder, {"x": np.concatenate([x, x]), "y": np.concatenate([y, y])})
    arrays = _parts(base, chance)
    count = max(1, int(len(arrays["x_test"]) * chance.choice([0.05, 0.2, 0.5, 1.0])))
    for name in ("x", "y"):
        arrays[f"{name}_train"] = np.concatenate([arrays[f"{name}_train"], arrays[f"{name}_test"][:count]])
    order = chance.permutation(len(arrays["x_train"]))
    return _of_file(base, folder, {**arrays, "x_train": arrays["x_train"][order], "y_train": arrays["y_train"][order]})


# --- in the assembled experiment ------------------------------------------------------------------------------------


class Detached(nn.Module):
    """What somebody's own component does who leaves torch for a moment: its output has no graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def _weighted(network: nn.Module) -> list[Weighted]:
    return [module for module in network.modules() if isinstance(module, Weighted)]


@fault(
    "a frozen layer",
    "one hidden layer has `requires_grad=False`, or is none of the optimizer's parameters, or an own module behind it "
    "detaches its output",
    "gradients frozen_layer",
)
def _frozen(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    way, share = str(chance.choice(["requires_grad", "optimizer", "detach"])), chance.random()

    def change(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        hidden = _weighted(state.network)[:-1]
        layer = hidden[int(share * len(hidden))]
        if way == "detach":
            _insert_behind(state.network.layers, layer, Detached())
        for parameter in layer.parameters():
            if way == "requires_grad":
                parameter.requires_grad_(False)
            elif way == "optimizer":
                for group in state.optimizer.param_groups:
                    group["params"] = [kept for kept in group["params"] if kept is not parameter]
        return experiment, replace(state)

    return Case(base.config, change)


def _insert_behind(layers: nn.Sequential, layer: nn.Module, added: nn.Module) -> None:
    """Put `added` behind the layer, or behind the block that holds it."""
    for index, module in enumerate(layers):
        if any(inner is layer for inner in module.modules()):
            layers.insert(index + 1, added)
            return


@fault(
    "softmax before cross-entropy",
    "the output layer ends in softmax, for two classes in sigmoid; refused, and then a module of one's own does it",
    "output_range",
    suits=lambda base: base.classes > 0,
    refusal="softmax|sigmoid",
)
def _softmax(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    name, module = ("sigmoid", nn.Sigmoid()) if base.classes == 2 else ("softmax", nn.Softmax(1))
    config = _with(base, model={"output": "none"})
    units = 1 if base.classes == 2 else base.classes
    config["model"]["layers"].append({"type": "linear", "units": units, "activation": name})

    def change(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        state.network.layers.append(copy.deepcopy(module))
        return experiment, replace(state)

    return Case(config, change, instead=base.config)


@fault(
    "batch of one with batch_norm",
    "`data.batch_size: 1`; that is refused, and then the size is changed in the assembled experiment",
    "batch_norm_batch",
    refusal="batch_norm",
)
def _batch_of_one(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    layers = [layer for layer in base.config["model"]["layers"] if layer["type"] != "layer_norm"]
    normed = _with(base, model={"layers": [*layers, {"type": "batch_norm"}]})

    def change(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        return replace(experiment, batch_size=1), state

    return Case({**normed, "data": {**normed["data"], "batch_size": 1}}, change, instead=normed)


@fault(
    "constant output",
    "a last hidden layer of relu units that all are dead, or of tanh units that all are at their end",
    "outputs_vary constant_output dead_units saturated_units",
)
def _constant(base: Base, chance: np.random.Generator, folder: Path) -> Case:
    activation, far = ("relu", -1000.0) if chance.random() < 0.5 else ("tanh", 1000.0)
    config = _with(base)
    config["model"]["layers"].append({"type": "linear", "units": 32, "activation": activation})

    def change(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        bias = _weighted(state.network)[-2].bias
        assert bias is not None
        with torch.no_grad():
            bias.fill_(far)  # as a step that was far too large leaves it
        return experiment, state

    return Case(config, change)
