"""What is proven of settings that are right by themselves: C10, too large a network, and C12, contradictions.

Each is refused with exit code 2, before memory is taken and before a run directory is made; its neighbour that does
not contradict is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from config_faults import Fault, check_fault, config_of
from conftest import Train

from dlf import experiment
from dlf.config import check_monitors, loads, measured
from dlf.data import known_spec
from dlf.errors import ConfigError, DataError, Problem
from dlf.experiment import check_memory
from dlf.metrics import METRICS, best, column
from dlf.model import draw
from dlf.optimizers import OPTIMIZERS
from dlf.registry import InvalidError
from dlf.schedules import lower_is_better

# --- C12, as far as the file shows it -------------------------------------------------------------------------------

FAULTS = {
    "batch_norm, batch of one": Fault(
        "data: {type: iris, batch_size: 1}\nmodel: {layers: [batch_norm]}\n", "1:32", "data.batch_size", ("spread",)
    ),
    "batch_norm inside of residual": Fault(
        "data: {type: iris, batch_size: 1}\nmodel: {layers: [{type: residual, layers: [batch_norm]}]}\n",
        "1:32",
        "data.batch_size",
        ("spread", "layer_norm"),
    ),
    "batch_norm, batch of one in the fallback": Fault(
        "data: {type: mnist, fallback: {type: digits, batch_size: 1}}\nmodel: {layers: [batch_norm]}\n",
        "1:58",
        "data.fallback.batch_size",
        ("spread",),
    ),
    "monitor": Fault(
        "data: iris\ntrain: {monitor: val_los}\n", "2:18", "train.monitor", ("not measured", "Did you mean 'val_loss'?")
    ),
    "monitor on the test set": Fault(
        "data: iris\ntrain: {monitor: test_accuracy}\n", "2:18", "train.monitor", ("test set", "chooses nothing")
    ),
    "early stopping on the test set": Fault(
        "data: iris\ntrain: {early_stopping: {monitor: test_loss}}\n",
        "2:35",
        "train.early_stopping.monitor",
        ("'test_loss' is of the test set", "chooses nothing", "Choose by val_loss, val_accuracy"),
    ),
    "a learning rate by the test set": Fault(
        "data: {type: iris, validation: 0}\nschedule: {type: plateau, monitor: test_f1}\n",
        "2:36",
        "schedule.monitor",
        ("chooses nothing", "Choose by train_loss"),
    ),
    "monitor without validation": Fault(
        "data: {type: iris, validation: 0}\ntrain: {monitor: val_loss}\n",
        "2:18",
        "train.monitor",
        ("data.validation is 0",),
    ),
    "early stopping without validation": Fault(
        "data: {type: iris, validation: 0}\ntrain:\n  early_stopping: {patience: 2}\n",
        "3:19",
        "train.early_stopping.monitor",
        ("'val_loss'", "data.validation is 0"),
    ),
    "no validation in the fallback": Fault(
        "data: {type: mnist, fallback: {type: digits, validation: 0}}\ntrain: {monitor: val_loss}\n",
        "2:18",
        "train.monitor",
        ("data.fallback.validation is 0",),
    ),
    "plateau's monitor": Fault(
        "data: iris\nschedule: {type: plateau, monitor: val_f1}\n", "2:36", "schedule.monitor", ("Add f1 to metrics",)
    ),
    "plateau's default monitor": Fault(
        "data: {type: iris, validation: 0}\nschedule: plateau\n", "2:11", "schedule.monitor", ("data.validation is 0",)
    ),
    "monitor with a number for each class": Fault(
        "data: iris\nmetrics: [{type: f1, average: none}]\ntrain: {monitor: val_f1_none}\n",
        "3:18",
        "train.monitor",
        ("more than one number",),
    ),
    "monitor that is a table": Fault(
        "data: iris\nmetrics: [confusion_matrix]\ntrain: {monitor: val_confusion_matrix}\n",
        "3:18",
        "train.monitor",
        ("more than one number",),
    ),
    "wrong direction": Fault(
        "data: iris\ntrain: {early_stopping: {mode: max}}\n",
        "2:32",
        "train.early_stopping.mode",
        ("less val_loss is better", "expected min"),
    ),
    "plateau's wrong direction": Fault(
        "data: iris\nschedule: {type: plateau, monitor: val_accuracy, mode: min}\n",
        "2:56",
        "schedule.mode",
        ("more val_accuracy is better", "expected max"),
    ),
    "metric twice": Fault("data: iris\nmetrics: [f1, auroc, f1]\n", "2:22", "metrics.2", ("f1 is listed twice",)),
    "nesterov": Fault(
        "data: iris\noptimizer: {type: sgd, nesterov: true}\n", "2:34", "optimizer.nesterov", ("momentum is 0",)
    ),
    "warm-up": Fault(
        "data: iris\nschedule: {type: cosine, warmup_epochs: 3}\ntrain: {epochs: 3}\n",
        "2:41",
        "schedule.warmup_epochs",
        ("less than train.epochs, which is 3", "got 3"),
    ),
    "early stopping that never begins": Fault(
        "data: iris\ntrain: {epochs: 5, early_stopping: {start_from_epoch: 5}}\n",
        "2:55",
        "train.early_stopping.start_from_epoch",
        ("less than train.epochs, which is 5",),
    ),
}


@pytest.mark.fault("C12")
@pytest.mark.parametrize("name", FAULTS)
def test_c12(name: str) -> None:
    check_fault(FAULTS[name])


@pytest.mark.fault("C12")
@pytest.mark.parametrize(
    "text",
    [
        "data: {type: iris, batch_size: 2}\nmodel: {layers: [batch_norm]}\n",
        "data: {type: iris, batch_size: 1}\nmodel: {layers: [layer_norm]}\n",
        "data: {type: iris, validation: 0}\ntrain: {monitor: train_loss}\n",
        "data: {type: iris, validation: 1}\ntrain: {early_stopping: {monitor: val_accuracy, mode: max}}\n",
        "data: iris\nmetrics: [f1, {type: f1, average: none}, {type: top_k, k: 2}]\ntrain: {monitor: val_f1}\n",
        "data: iris\noptimizer: {type: sgd, nesterov: true, momentum: 0.9}\n",
        "data: iris\noptimizer: muon\n",
        "data: iris\nschedule: {type: cosine, warmup_epochs: 2.9}\ntrain: {epochs: 3}\n",
        "data: iris\ntrain: {device: 'cuda:1'}\n",
        "data: iris\nname: con-1\n",
    ],
)
def test_what_does_not_contradict_is_taken(text: str) -> None:
    """The neighbours of the faults above: a check that refuses too much fails here."""
    config_of(text)


# --- C10 and C12, as far as they need the data ----------------------------------------------------------------------


def refused_by_train(train: Train, config: Mapping[str, Any], *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        train(config, *overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


@pytest.fixture
def no_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("memory was taken for a network that must be refused")

    monkeypatch.setattr(experiment, "realize", refuse)


LINEAR = {"type": "linear", "units": 8}


@pytest.mark.fault("C10")
@pytest.mark.usefixtures("no_memory_is_taken")
@pytest.mark.parametrize(
    "layers",
    [
        [{"type": "linear", "units": 10**12}],
        [{"type": "linear", "units": 10**30}],
        [{"type": "linear", "units": 10**6}, {"type": "linear", "units": 10**7}],
        [{"type": "maxout", "units": 10**20, "pieces": 10**20}],
        [{"type": "residual", "layers": [{"type": "linear", "units": 10**30}], "projection": True}],
    ],
)
@pytest.mark.parametrize("data", ["mnist", "iris"])
def test_c10_absurd_sizes(layers: list[Mapping[str, Any]], data: str, train: Train, tmp_path: Path) -> None:
    (problem,) = refused_by_train(train, {"data": data, "model": {"layers": layers}})
    assert problem.key.startswith("model.layers")
    assert re.search(r"[0-9]{7}|[0-9],[0-9]{3}", problem.message), "it says how large"
    assert not (tmp_path / "runs").exists()


@pytest.mark.fault("C10")
def test_c10_one_byte_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """784 * 1000 + 1000 + 1000 * 10 + 10 = 795,010 parameters; weight, gradient and adam's two means, 4 bytes each."""
    loaded = loads("data: mnist\nmodel: {layers: [{type: linear, units: 1000}]}\n", "f.yaml")
    blueprint = draw(loaded.config, known_spec(loaded.config.data_section))  # type: ignore[arg-type]
    needed = 795_010 * 16
    monkeypatch.setattr(experiment, "_available_memory", lambda device: needed)
    check_memory(blueprint, loaded.config.optimizer, torch.device("cpu"))
    monkeypatch.setattr(experiment, "_available_memory", lambda device: needed - 1)
    with pytest.raises(InvalidError, match="795,010 parameters"):
        check_memory(blueprint, loaded.config.optimizer, torch.device("cpu"))
    check_memory(blueprint, OPTIMIZERS.make("sgd"), torch.device("cpu"))  # keeps nothing: 8 bytes each


NONE = {"output": "none"}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "softmax before cross_entropy": (
        {"data": "iris", "model": {**NONE, "layers": [{"type": "linear", "units": 3, "activation": "softmax"}]}},
        "model.layers.0",
        "cross_entropy applies softmax itself",
    ),
    "softmax in the last hidden layer": (
        {"data": "iris", "model": {"layers": [{"type": "linear", "units": 3, "activation": "softmax"}]}},
        "model.layers.0",
        "the output layer (3 units) is added behind it",
    ),
    "sigmoid before binary_cross_entropy": (
        {"data": "breast_cancer", "model": {**NONE, "layers": [{**LINEAR, "units": 1, "activation": "sigmoid"}]}},
        "model.layers.0",
        "binary_cross_entropy applies sigmoid itself",
    ),
    "units that do not fit the classes": (
        {"data": "iris", "model": {**NONE, "layers": [{**LINEAR, "units": 4, "activation": "identity"}]}},
        "model.layers.0",
        "(4,) and the data need (3,)",
    ),
    "a last batch of one": (
        {
            "data": {"type": "iris", "test": 30, "validation": 19, "batch_size": 100},
            "model": {"layers": ["batch_norm"]},
        },
        "data.batch_size",
        "101 training samples leave a last batch of one",
    ),
    "accuracy of numbers": (
        {"data": "diabetes", "train": {"monitor": "val_accuracy"}},
        "train.monitor",
        "'val_accuracy'",
    ),
    "absolute error of classes": (
        {"data": "iris", "train": {"early_stopping": {"monitor": "val_mae"}}},
        "train.early_stopping.monitor",
        "'val_mae'",
    ),
    "absolute error of classes, for plateau": (
        {"data": "iris", "schedule": {"type": "plateau", "monitor": "train_mae"}},
        "schedule.monitor",
        "'train_mae'",
    ),
    "a metric of numbers for classes": ({"data": "iris", "metrics": ["r2"]}, "metrics.0", "r2 measures regression"),
    "a loss of numbers for classes": ({"data": "iris", "loss": "mse"}, "loss", "names without distance"),
    "a loss of classes for numbers": ({"data": "diabetes", "loss": "hinge"}, "loss", "Losses that fit: mse"),
    "weights for other classes": (
        {"data": "iris", "loss": {"type": "cross_entropy", "class_weights": [1.0, 2.0]}},
        "loss.class_weights",
        "2 weights, and this data has 3 classes",
    ),
}


@pytest.mark.fault("C12")
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_c12_contradictions_with_the_data(name: str, train: Train, tmp_path: Path) -> None:
    config, key, words = CONTRADICTIONS[name]
    found = refused_by_train(train, config)
    assert key in [problem.key for problem in found if words in problem.message], found
    assert not (tmp_path / "runs").exists(), "a run directory was created"


@pytest.mark.fault("C12")
def test_c12_a_last_batch_of_two_is_fine(train: Train) -> None:
    """150 - 30 - 18 = 102 = 100 + 2 training samples."""
    data = {"type": "iris", "test": 30, "validation": 18, "batch_size": 100}
    assert train({"data": data, "model": {"layers": ["batch_norm"]}, "train": {"epochs": 1}}).status == "completed"


@pytest.mark.fault("C10")
def test_sizes_beyond_every_machine_word_do_not_crash(train: Train) -> None:
    """10^30 overflows 64 bits: wherever a setting may be so large it must be taken or refused, as any other."""
    huge = 10**30
    configs: tuple[dict[str, Any], ...] = (
        {"data": {"type": "iris", "limit": huge}},
        {"data": {"type": "iris", "split_seed": huge}},
        {"data": "iris", "metrics": [{"type": "top_k", "k": huge}]},
        {"data": "iris", "train": {"epochs": 1, "early_stopping": {"patience": huge}}},
        {"data": {"type": "iris", "validation": huge}},
        {"data": "iris", "train": {"threads": huge}},
    )
    for config in configs:
        with suppress(ConfigError, DataError):
            train(config, "train.epochs=1")


# --- monitors and metrics -------------------------------------------------------------------------------------------


def test_measured_by_task() -> None:
    config = config_of("data: iris\nmetrics: [f1, confusion_matrix, {type: recall, average: none}, accuracy]\n")
    assert measured(config, "accuracy") == ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1"]
    assert [flaw.path for flaw in check_monitors(config_of("data: iris\ntrain: {monitor: val_mae}\n"), "mae")] == []
    flaws = list(check_monitors(config_of("data: iris\ntrain: {monitor: val_mae}\n"), "accuracy"))
    assert [flaw.path for flaw in flaws] == [("train", "monitor")]


@pytest.mark.parametrize("name", METRICS.names())
def test_the_direction_by_the_name_of_a_column_is_that_of_the_metric(name: str) -> None:
    """What chooses checkpoints sees only names: they must say what the registry says."""
    metric = METRICS.make(name)
    if best(metric) is not None:
        assert lower_is_better(f"val_{column(metric)}") == (best(metric) == "min")
