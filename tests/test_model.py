"""The network carries its preprocessing, its initial weights follow from the seed, its parameters are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlf.config import ExperimentConfig, loads
from dlf.data import load
from dlf.experiment import _available_memory, assemble
from dlf.model import Network, draw, summarize

CPU = torch.device("cpu")
IRIS = "data: iris\nmodel: {layers: [{type: linear, units: 8}, {type: dropout, rate: 0.5}]}\n"
DIABETES = "data: {type: diabetes}\nmodel: {layers: [{type: linear, units: 4}]}\n"


def config_of(text: str, *overrides: str) -> ExperimentConfig:
    return loads(text, "the test", overrides).config


def network_of(text: str, *overrides: str) -> Network:
    config = config_of(text, *overrides)
    data, _ = load(config.data_section, CPU, print)
    return assemble(config, data, CPU)[1].network


def test_statistics_travel_with_the_weights() -> None:
    data, _ = load(config_of(DIABETES).data_section, CPU, print)
    state = network_of(DIABETES).state_dict()
    assert torch.equal(state["inputs_mean"], data.inputs.mean)
    assert torch.equal(state["inputs_std"], data.inputs.std)
    assert torch.equal(state["targets_mean"], data.targets.mean)
    assert torch.equal(state["targets_std"], data.targets.std)
    # the training part alone: with another split they are other numbers
    assert not torch.equal(state["inputs_mean"], network_of(DIABETES, "data.split_seed=1").inputs_mean)


def test_forward_is_normalization_then_layers() -> None:
    """relu(((x - m) / s) W1' + b1) W2' + b2 in float64.

    Inputs of a few deviations and sums of at most 10 terms: float32 errs by less than 100 roundings of 2^-24.
    """
    network = network_of(DIABETES).eval()
    x = load(config_of(DIABETES).data_section, CPU, print)[0].train.x[:7]
    w1, b1, w2, b2 = (parameter.double() for parameter in network.parameters())
    expected = ((x.double() - network.inputs_mean) / network.inputs_std @ w1.T + b1).relu() @ w2.T + b2
    torch.testing.assert_close(network(x).double(), expected, rtol=100 * 2**-24, atol=100 * 2**-24)
    wrong = (x.double() @ w1.T + b1).relu() @ w2.T + b2  # without normalization
    assert (wrong - expected).abs().max() > 1


def test_scaled_targets_and_outputs_in_units_undo_each_other() -> None:
    network = network_of(DIABETES)
    y = torch.tensor([[25.0], [346.0]])
    torch.testing.assert_close(network.in_units(network.scaled(y)), y)
    assert network.scaled(y).abs().max() < 5, "in deviations"
    labels = torch.tensor([1, 2])
    assert torch.equal(network_of(IRIS).scaled(labels), labels)


def test_normalizing_leaves_the_data_alone() -> None:
    x = torch.ones(3, 10)
    network_of(DIABETES).normalize(x)
    assert torch.equal(x, torch.ones(3, 10))


def test_initial_weights_follow_from_the_seed() -> None:
    torch.manual_seed(1)
    first = network_of(IRIS).state_dict()
    torch.manual_seed(2)
    again = network_of(IRIS).state_dict()
    other = network_of(IRIS, "seed=1").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_drawing_allocates_nothing_and_counts_by_hand() -> None:
    config = config_of(IRIS)
    data, _ = load(config.data_section, CPU, print)
    assert all(parameter.is_meta for parameter in draw(config, data.spec).layers.parameters())
    # 4 * 8 + 8 and 8 * 3 + 3; float32; adam keeps two numbers for each
    summary = summarize(config, data.spec)
    assert summary.parameters == 40 + 27
    assert summary.weight_bytes == 4 * 67
    assert summary.optimizer_bytes == 8 * 67
    # one multiplication for each weight, none for the 8 + 3 biases
    assert summary.multiply_adds == 32 + 24
    assert sum(p.numel() for p in network_of(IRIS).parameters()) == 67


def test_memory_that_caches_hold_counts_as_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux free pages alone would refuse networks that fit, as soon as files have been read."""
    told = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   20000000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: told)
    assert _available_memory(CPU) == 20_000_000 * 1024  # what meminfo calls kB is 1,024 bytes
