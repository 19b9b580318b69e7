"""Paired trainings: each is what `dlf train` makes, what is not to differ does not, and a divergence is a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from dlf import data as data_module
from dlf import yaml12
from dlf.api import Silent
from dlf.commands.train import train as train_experiment
from dlf.config import Loaded, loads
from dlf.datasets import DataSection, Dataset
from dlf.engine import Experiment, TrainState, evaluate
from dlf.errors import ConfigError, UsageError
from dlf.questions.design import Claim, Design, Subject, Variant, varied
from dlf.questions.results import Figure, Study, Training
from dlf.questions.trials import prepare, study
from dlf.run import RunDirectory

IRIS = {
    "data": {"type": "iris", "batch_size": 16, "validation": 30},
    "model": {"layers": [{"type": "linear", "units": 6}]},
    "train": {"epochs": 3, "device": "cpu"},
}
DIABETES = {"data": {"type": "diabetes", "batch_size": 64}, "train": {"epochs": 3, "device": "cpu"}}


def loaded(config: Mapping[str, Any], *overrides: str) -> Loaded:
    return loads(yaml12.dump(dict(config)), "the test", overrides)


def asks(*variants: Variant, **others: Any) -> Callable[[Subject], Design]:
    """A topic of these variants."""

    def ask(subject: Subject) -> Design:
        claims = [Claim(variants[-1].label, "better", variants[0].label)]
        figures = [subject.headline, Figure("val_loss", "validation loss")]
        return Design(variants, claims, figures, [subject.course], lambda studies: ("", ""), **others)

    return ask


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.trained_: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def begin(self, trainings: int) -> None:
        pass

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        self.trained_.append(what)

    def end(self) -> None:
        pass


def studied(
    config: Mapping[str, Any],
    *variants: Variant,
    seeds: Sequence[int] = (0, 1),
    heard: Heard | None = None,
    **others: Any,
) -> Study:
    found = loaded(config)
    listener = heard or Heard()
    subject, design = prepare(found, asks(*variants, **others), listener.message)
    return study(subject, design, seeds, found.config.data.type, listener)


def test_each_training_is_the_one_that_dlf_train_makes(tmp_path: Any) -> None:
    found = studied(IRIS, Variant("as it is"), Variant("slower", {"optimizer.lr": 1e-4}), seeds=(3, 4))
    for arm, words in zip(found.arms, ([], ["optimizer.lr=0.0001"]), strict=True):
        for training in arm.trainings:
            given = loaded(IRIS, f"seed={training.seed}", *words)
            run = train_experiment(given, runs=tmp_path, display=Silent())
            records = RunDirectory(tmp_path / run.run).read_metrics()
            for name in ("train_loss", "val_loss", "val_accuracy"):
                assert training.series[name] == tuple(record[name] for record in records)
                assert training.figures[name] == records[-1][name]
            assert training.figures["epochs"] == training.epochs == 3


def test_a_study_is_the_same_each_time() -> None:
    variants = Variant("as it is"), Variant("with dropout", {"model.layers": [{"type": "dropout"}]})
    assert studied(IRIS, *variants) == studied(IRIS, *variants)


def test_settings_are_laid_over_the_configuration_and_nothing_else_changes() -> None:
    subject, _ = prepare(loaded(IRIS), asks(Variant("")), lambda text: None)
    settings = {"model.layers.0.units": 9, "optimizer": {"type": "sgd", "lr": 0.5}, "train.early_stopping.patience": 2}
    before, after = subject.config.dump(), varied(subject, Variant("", settings)).dump()
    assert after["model"]["layers"][0]["units"] == 9
    assert (after["optimizer"]["type"], after["optimizer"]["lr"]) == ("sgd", 0.5)
    assert after["train"]["early_stopping"]["patience"] == 2
    assert {key for key in before if before[key] != after[key]} == {"model", "optimizer", "train"}
    assert varied(subject, Variant("")) == subject.config


def test_layers_are_changed_within_blocks_too() -> None:
    inner = {"type": "linear", "units": 6, "activation": "tanh"}
    layers = [inner, {"type": "residual", "layers": [inner]}, {"type": "dropout"}]
    subject, _ = prepare(loaded({**IRIS, "model": {"layers": layers}}), asks(Variant("")), lambda text: None)
    first, block, dropout = subject.layers(activation=None, init="zeros", rate=0.1)
    assert first["activation"] is None
    assert block["layers"][0]["activation"] is None
    assert (first["init"], block["layers"][0]["init"], dropout["rate"]) == ("zeros", "zeros", 0.1)
    assert "init" not in dropout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer.lr": -1.0}, "optimizer.lr  must be greater than 0"),
        ({"optimizer.speed": 1}, "optimizer.speed  unknown key"),
        ({"model.layers": [{"type": "conv2d", "channels": 3}]}, "conv2d takes images"),
        ({"train.early_stopping": {"monitor": "val_loss", "start_from_epoch": 9}}, "must be less than train.epochs"),
        ({"train.monitor": "val_f1"}, "val_f1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(settings: dict[str, Any], said: str) -> None:
    heard = Heard()
    with pytest.raises(UsageError) as caught:
        studied(IRIS, Variant("as it is"), Variant("changed", settings), heard=heard)
    assert "experiment cannot be trained with changed" in str(caught.value)
    assert said in str(caught.value)
    assert heard.trained_ == []


def test_without_a_validation_part_there_is_nothing_to_measure_on() -> None:
    with pytest.raises(UsageError, match="has no validation part"):
        prepare(loaded(IRIS, "data.validation=0"), asks(Variant("")), lambda text: None)


def test_what_is_wrong_with_the_file_is_said_with_its_place() -> None:
    wrong = loaded(IRIS, "model.layers=[{type: max_pool2d}]")
    with pytest.raises(ConfigError, match=r"override .*model\.layers"):
        prepare(wrong, asks(Variant("")), lambda text: None)


def test_the_data_are_read_once_unless_a_variant_changes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    read = data_module.read

    def watched(section: DataSection, tell: Callable[[str], None]) -> Dataset:
        kinds.append(section.normalize)
        return read(section, tell)

    monkeypatch.setattr(data_module, "read", watched)
    found = studied(
        IRIS,
        Variant("as it is"),
        Variant("small batches", {"data.batch_size": 4}),
        Variant("raw", {"data.normalize": "none"}),
        after=lambda experiment, state: {"mean": state.network.inputs_mean.abs().sum().item()},
    )
    assert kinds == ["standard", "none"]
    assert (found.mean("raw", "mean"), found.mean("small batches", "mean")) == (0.0, found.mean("as it is", "mean"))


def test_a_fallback_is_told_loudly(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("DLF_DATA", str(tmp_path))
    data = {"type": "mnist", "fallback": "digits", "download": False, "root": str(tmp_path)}
    heard = Heard()
    found = studied({**IRIS, "data": data, "train": {"epochs": 1}}, Variant("as it is"), heard=heard)
    assert (found.data, found.requested_data) == ("digits", "mnist")
    assert any(text.startswith("warning: this is about digits, not mnist") for text in heard.messages)


def test_a_divergence_is_a_result() -> None:
    sgd = {"optimizer": {"type": "sgd", "lr": 1e6}}
    before = {"first": 1.0, "spread": [1.0, float("nan")]}
    found = studied(DIABETES, Variant("as it is"), Variant("too fast", sgd), before=lambda experiment, state: before)
    for training in found.arm("too fast").trainings:
        assert training.diverged is not None
        assert "not finite" in training.diverged
        assert training.figures == {"first": 1.0}  # nothing but what was measured before
        assert training.series["spread"] == (1.0, None)
    assert found.arm("too fast").diverged == 2
    (difference,) = found.differences
    assert (difference.verdict, difference.values) == ("opposite", ())
    assert found.arm("as it is").diverged == 0


def test_early_stopping_stops_and_restores_the_best_epoch() -> None:
    """The figures are those of the network that is there afterwards."""
    stopping = {"train.early_stopping": {"monitor": "val_loss", "patience": 1}, "train.epochs": 60}
    fast = {"optimizer": {"type": "adam", "lr": 0.3}}

    def measured(experiment: Experiment, state: TrainState) -> dict[str, Any]:
        return {"again": evaluate(state.network, experiment, experiment.data.validation)["loss"]}

    found = studied(
        IRIS,
        Variant("to the end", fast | {"train.epochs": 60}),
        Variant("stopped", stopping | fast),
        Variant("not restored", stopping | fast | {"train.early_stopping.restore_best": False}),
        after=measured,
    )
    stopped, last = found.arm("stopped").trainings, found.arm("not restored").trainings
    for one, other in zip(stopped, last, strict=True):
        losses = one.series["val_loss"]
        assert losses == other.series["val_loss"]
        assert len(losses) == one.epochs < 60
        assert one.figures["val_loss"] == one.figures["again"] == min(loss for loss in losses if loss is not None)
        assert other.figures["val_loss"] == other.figures["again"] == losses[-1]
        assert one.figures["val_loss"] != other.figures["val_loss"]
    assert {training.epochs for training in found.arm("to the end").trainings} == {60}


def test_what_is_measured_before_is_of_the_first_weights() -> None:
    def weights(experiment: Experiment, state: TrainState) -> dict[str, Any]:
        return {"weights": torch.cat([p.flatten() for p in state.network.parameters()]).tolist()}

    found = studied(IRIS, Variant("as it is"), Variant("slower", {"optimizer.lr": 1e-4}), before=weights)
    first, second = ([t.series["weights"] for t in arm.trainings] for arm in found.arms)
    assert first == second  # the pairs start from the same weights
    assert first[0] != first[1]  # and the seeds from others
