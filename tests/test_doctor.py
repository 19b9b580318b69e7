"""The doctor: each verdict appears on its fault and not on healthy records, made up and of real trainings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Train

from dlf import api
from dlf.commands.check import check_what
from dlf.commands.resume import resume
from dlf.commands.train import TrainResult
from dlf.doctor import diagnose, diagnose_run, in_words
from dlf.errors import DivergedError
from dlf.experiment import assemble
from dlf.findings import Finding
from dlf.run import RunDirectory

EPOCHS, PER_EPOCH = 12, 50
INFO: dict[str, Any] = {
    "status": "completed", "task": "classification", "classes": ["a", "b", "c", "d"], "diverged_at": None,
    "samples": {"train": 4000, "val": 1000, "test": 0},
    "baseline": {"loss": math.log(4), "train_accuracy": 0.25, "val_accuracy": 0.25},
}  # fmt: skip


def falling(start: float, end: float, epochs: int = EPOCHS) -> list[float]:
    """Equal steps from start to end."""
    return [start + (end - start) * n / (epochs - 1) for n in range(epochs)]


def records(**columns: Sequence[float | None]) -> list[dict[str, Any]]:
    """metrics.jsonl of a healthy training of four classes, with these columns instead."""
    given: dict[str, Sequence[float | None]] = {
        "train_loss": falling(1.3, 0.2), "val_loss": falling(1.2, 0.25),
        "train_accuracy": falling(0.4, 0.95), "val_accuracy": falling(0.45, 0.93), **columns,
    }  # fmt: skip
    length = min(map(len, given.values()))
    return [
        {"epoch": n + 1, "step": PER_EPOCH * (n + 1), "lr": 0.01, **{name: given[name][n] for name in given}}
        for n in range(length)
    ]


def layer(index: str, **numbers: float | None) -> dict[str, Any]:
    """A row of layers.jsonl of a healthy layer."""
    healthy: dict[str, float | None] = {
        "mean": 0.4, "std": 0.6, "sample_std": 0.5, "zeros": 0.4, "dead": 0.05, "saturated": None,
        "gradient_norm": 0.3, "weight_norm": 5.0, "update_ratio": 2e-3, **numbers,
    }  # fmt: skip
    return {"layer": index, "module": "Linear", "activation": "relu", **healthy}


def seen(*layers: dict[str, Any], **numbers: Any) -> dict[str, Any]:
    """A line of layers.jsonl; three healthy layers where none are given."""
    rows = layers or (layer("0"), layer("1"), {**layer("2"), "activation": "identity"})
    return {"samples": 256, "loss": 0.5, "most_said": 0.3, "layers": list(rows), **numbers}


def observations(look: Callable[[int], dict[str, Any]] = lambda epoch: seen()) -> list[dict[str, Any]]:
    """layers.jsonl, of what `look` gives for each epoch."""
    return [{"epoch": n, "step": PER_EPOCH * n, **look(n)} for n in range(1, EPOCHS + 1)]


def wrong(findings: Sequence[Finding]) -> dict[str, str]:
    return {each.name: each.verdict for each in findings if each.verdict != "pass"}


def named(findings: Sequence[Finding], name: str) -> Finding:
    (found,) = [each for each in findings if each.name == name]
    return found


# --- made-up records ------------------------------------------------------------------------------------------------


def test_a_healthy_training_has_no_finding() -> None:
    found = diagnose(records(), observations(), INFO)
    assert wrong(found) == {}
    assert {each.name for each in found} == {
        "divergence", "training_loss", "constant_output", "dead_units", "lost_signal", "vanishing_gradient",
        "exploding_gradient", "frozen_layer", "slow_updates", "fast_updates", "learning", "holding", "overfitting",
        "gap", "plateau",
    }  # fmt: skip
    assert all(each.remedy == each.more == "" for each in found)
    assert in_words(found) == "doctor: nothing found, 15 things looked at"


def test_nothing_to_look_at_is_no_error() -> None:
    assert diagnose([], [], {}) == []
    assert diagnose([], [{"epoch": 1, "step": 1}, {"epoch": 1, "step": 2, "layers": [None, 3]}], {"baseline": 7}) == []


def second_dies(epoch: int) -> dict[str, Any]:
    return seen(layer("0"), layer("1", dead=0.87 if epoch >= 2 else 0.1), {**layer("2"), "activation": "identity"})


def test_dead_units_since_when_and_what_to_do() -> None:
    found = named(diagnose(records(), observations(second_dies), INFO), "dead_units")
    assert found.said == "layer 1: 87 % of its units are dead since epoch 2"
    assert (found.verdict, found.value, found.threshold, found.layer) == ("warn", 0.87, 0.5, "1")
    assert found.remedy == "Lower optimizer.lr (so far at most 0.01) or use leaky_relu."
    assert found.more == "dlf why activations"


def test_units_that_came_back_to_life_are_no_finding() -> None:
    looked = observations(lambda epoch: seen(layer("0", dead=0.9 if epoch < 5 else 0.2), layer("1"), layer("2")))
    assert wrong(diagnose(records(), looked, INFO)) == {}


def test_what_follows_from_a_dead_layer_is_not_said_as_well() -> None:
    nothing = {"mean": 0.0, "std": 0.0, "sample_std": 0.0, "gradient_norm": 0.0}
    dead = observations(lambda _: seen(layer("0", gradient_norm=0.0), layer("1", dead=1.0, **nothing), layer("2")))
    assert wrong(diagnose(records(), dead, INFO)) == {"dead_units": "fail"}


def test_a_look_within_an_epoch_is_named_by_its_step() -> None:
    looked = observations(second_dies)
    looked.insert(1, {"epoch": 1, "step": 70, **second_dies(2)})
    assert "since step 70" in named(diagnose(records(), looked, INFO), "dead_units").said


def of_layers(**numbers: float | None) -> Callable[[int], dict[str, Any]]:
    """A first layer with these numbers before two healthy ones."""
    return lambda epoch: seen(layer("0", **numbers), layer("1"), {**layer("2"), "activation": "identity"})


@pytest.mark.parametrize(
    ("numbers", "name", "verdict"),
    [
        ({"sample_std": 0.005}, "lost_signal", "warn"),  # 0.005 / sqrt(0.4^2 + 0.6^2) = 0.0069
        ({"sample_std": 0.0005}, "lost_signal", "fail"),
        ({"gradient_norm": 2e-4}, "vanishing_gradient", "warn"),  # by 0.3 of the last layer: 6.7e-4
        ({"gradient_norm": 2e-6}, "vanishing_gradient", "fail"),
        ({"gradient_norm": 4e2}, "exploding_gradient", "warn"),
        ({"gradient_norm": 4e4}, "exploding_gradient", "fail"),
        ({"update_ratio": 0.0}, "frozen_layer", "fail"),
        ({"update_ratio": 0.0, "gradient_norm": None}, "frozen_layer", "fail"),
        ({"update_ratio": 0.0, "gradient_norm": 0.0}, "frozen_layer", "fail"),  # a module behind it detaches
        ({"update_ratio": 1e-7}, "slow_updates", "warn"),
        ({"update_ratio": 0.2}, "fast_updates", "warn"),
        ({"update_ratio": 0.6}, "fast_updates", "fail"),
    ],
)
def test_faults_inside(numbers: dict[str, float | None], name: str, verdict: str) -> None:
    found = diagnose(records(), observations(of_layers(**numbers)), INFO)
    assert wrong(found) == {name: verdict}
    assert named(found, name).layer == "0"
    assert named(found, name).remedy


def test_saturation_counts_for_bounded_activations_and_not_for_the_answers() -> None:
    tanh = {**layer("0", saturated=0.9), "activation": "tanh"}
    sigmoid = {**layer("1", saturated=0.99), "activation": "sigmoid"}
    assert wrong(diagnose(records(), observations(lambda _: seen(tanh, layer("1"))), INFO)) == {
        "saturated_units": "warn"
    }
    # what is sure of its answers is saturated at its end, and relu6 at 0 is a relu
    assert wrong(diagnose(records(), observations(lambda _: seen(layer("0"), sigmoid)), INFO)) == {}
    relu6 = {**layer("0", saturated=0.99), "activation": "relu6"}
    assert wrong(diagnose(records(), observations(lambda _: seen(relu6, layer("1"))), INFO)) == {}


def test_one_answer_for_all() -> None:
    since = observations(lambda epoch: seen(most_said=1.0 if epoch >= 4 else 0.6))
    found = diagnose(records(), since, INFO)
    assert wrong(found) == {"constant_output": "fail"}
    assert named(found, "constant_output").said.startswith("the network says the same of every sample since epoch 4")
    rare = {**INFO, "baseline": {**INFO["baseline"], "train_accuracy": 0.99}}  # there it may be the best answer
    assert "constant_output" not in {each.name for each in diagnose(records(), since, rare)}


def regression(mae: Sequence[float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    given = [{"epoch": n, "step": PER_EPOCH * n, "lr": 0.01, "train_loss": value**2, "val_loss": value**2,
              "train_mae": value, "val_mae": value} for n, value in enumerate(mae, 1)]  # fmt: skip
    return given, {**INFO, "task": "regression", "baseline": {"loss": 1.0, "train_mae": 0.8, "val_mae": 0.8}}


def test_regression_is_judged_by_its_error() -> None:
    assert wrong(diagnose(*regression_with(falling(0.8, 0.1)))) == {}
    found = diagnose(*regression_with(falling(0.81, 0.79)))
    assert wrong(found)["learning"] == "fail"
    flat = [seen(layer("0"), layer("1"), layer("2", sample_std=0.001), most_said=None)] * EPOCHS
    given, info = regression(falling(0.8, 0.1))
    looked = [{"epoch": n, "step": PER_EPOCH * n, **row} for n, row in enumerate(flat, 1)]
    assert wrong(diagnose(given, looked, info)) == {"constant_output": "fail"}


def regression_with(mae: Sequence[float]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    given, info = regression(mae)
    return given, observations(lambda _: seen(most_said=None)), info


def flat(value: float, epochs: int = EPOCHS) -> list[float]:
    return [value] * epochs


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        # from 1.3 to 0.2 and back to 0.7: 0.5 of 1.1 is lost again
        ({"train_loss": [*falling(1.3, 0.2, 8), 0.3, 0.4, 0.5, 0.7]}, {"training_loss": "warn"}),
        ({"train_loss": falling(20.0, 9.0)}, {"training_loss": "fail"}),  # above 2 ln 4 = 2.77 to the end
        (  # labels that mean nothing: at chance, ln 4 = 1.386
            {"train_loss": flat(1.386), "train_accuracy": flat(0.253),
             "val_loss": flat(1.39), "val_accuracy": flat(0.25)},
            {"learning": "fail"},
        ),
        (  # little: (0.3 - 0.25) / 0.75 = 0.067
            {"train_accuracy": flat(0.3), "val_accuracy": flat(0.3)},
            {"learning": "warn"},
        ),
        (  # labels that mean nothing, learned by heart
            {"val_accuracy": flat(0.25), "val_loss": falling(1.4, 4.0)},
            {"holding": "fail", "overfitting": "warn", "gap": "warn"},
        ),
        ({"val_loss": [*falling(1.2, 0.5, 4), *falling(0.6, 1.2, 8)],
          "val_accuracy": [*falling(0.5, 0.9, 4), *flat(0.89, 8)]}, {"overfitting": "warn"}),
        ({"val_accuracy": falling(0.45, 0.7)}, {"gap": "warn"}),
        ({"train_loss": [1.3, 0.9, *flat(0.8, 10)], "train_accuracy": flat(0.7), "val_accuracy": flat(0.7)},
         {"plateau": "warn"}),
    ],
    ids=["rising", "above", "nothing", "little", "by heart", "overfitting", "gap", "plateau"],
)  # fmt: skip
def test_faults_of_the_course(columns: dict[str, Sequence[float]], expected: dict[str, str]) -> None:
    for looked in (observations(), []):  # the metrics speak without observations too
        found = diagnose(records(**columns), looked, INFO)
        assert wrong(found) == expected
        assert all(each.remedy and each.more for each in found if each.verdict != "pass")


def test_a_validation_loss_that_rises_while_answers_get_better_is_no_overfitting() -> None:
    sure = records(val_loss=falling(0.5, 0.9), val_accuracy=falling(0.7, 0.93))
    assert wrong(diagnose(sure, [], INFO)) == {}


def test_a_rise_of_the_validation_loss_that_nobody_would_notice_is_no_overfitting() -> None:
    """From 0.05 to 0.08 is 60 % and no more than 0.02 of ln 4; from 0.3 to 0.48 is 60 % and 0.13 of it."""
    columns = {"val_accuracy": [*falling(0.5, 0.95, 6), *flat(0.94, 6)]}
    small = records(val_loss=[*falling(1.2, 0.05, 6), *flat(0.08, 6)], **columns)
    large = records(val_loss=[*falling(1.2, 0.3, 6), *flat(0.48, 6)], **columns)
    assert (wrong(diagnose(small, [], INFO)), wrong(diagnose(large, [], INFO))) == ({}, {"overfitting": "warn"})


def test_short_trainings_are_not_blamed_for_knowing_nothing() -> None:
    first = records(train_accuracy=flat(0.25), val_accuracy=flat(0.25), train_loss=flat(1.4))[:1]  # 50 steps
    assert wrong(diagnose(first, observations(lambda _: seen(most_said=1.0))[:1], INFO)) == {}


def test_chance_is_not_taken_for_a_gap() -> None:
    few = {**INFO, "samples": {"train": 100, "val": 20, "test": 0}}
    # 0.95 and 0.8 of 20 samples: a standard error of 0.09, two of them and 0.1 make 0.28
    assert wrong(diagnose(records(val_accuracy=falling(0.45, 0.8)), [], few)) == {}


def test_numbers_that_are_none_are_as_if_they_were_not_there() -> None:
    holes = records(train_loss=[None, *falling(1.3, 0.2)[1:]], val_loss=flat(0.3))
    assert wrong(diagnose(holes, observations(of_layers(dead=None, update_ratio=None)), INFO)) == {"divergence": "fail"}


def test_divergence_says_step_losses_and_rate() -> None:
    info = {**INFO, "status": "diverged", "diverged_at": 7, "divergence": {"lr": 0.5, "losses": [2.0, 30.5, 1e9]}}
    (found,) = diagnose([], [], info)
    assert (found.name, found.verdict, found.value) == ("divergence", "fail", 7.0)
    assert found.said == (
        "training diverged: the loss of step 7 was not a finite number; the losses before it were 2, 30.5, 1e+09, "
        "at the learning rate 0.5"
    )


def test_what_is_wrong_comes_first_within_eighty_columns() -> None:
    columns = {"train_loss": falling(20.0, 9.0), "val_accuracy": falling(0.45, 0.7)}
    found = diagnose(records(**columns), observations(second_dies), INFO)
    order = [each.verdict for each in found]
    assert order == sorted(order, key=("fail", "warn", "pass").index)
    words = in_words(found).splitlines()
    assert words[0].startswith("warning: the doctor found 3 of ")
    assert max(map(len, words)) <= 80
    assert [line.split()[0] for line in words if line[2:6] in ("FAIL", "WARN")] == ["FAIL", "WARN", "WARN"]


# --- real trainings -------------------------------------------------------------------------------------------------

HEALTHY: dict[str, Any] = {
    "data": {"type": "digits", "validation": 0.2, "batch_size": 64},
    "model": {"layers": [{"type": "linear", "units": 32}, {"type": "linear", "units": 32}]},
    "optimizer": {"type": "adam", "lr": 0.003},
    "train": {"epochs": 8, "device": "cpu", "threads": 1},
}
DIVERGING: dict[str, Any] = {
    "data": {"type": "diabetes", "validation": 0.2, "batch_size": 32},
    "model": {"layers": [{"type": "linear", "units": 16}]},
    "optimizer": {"type": "sgd", "lr": 100.0},
    "train": {"epochs": 3, "device": "cpu", "threads": 1},
}


def run_of(result: TrainResult) -> RunDirectory:
    return RunDirectory(Path(result.path))


class Told(api.Silent):
    """A display that keeps what it is told, and where."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.run: RunDirectory | None = None

    def start(self, run: RunDirectory, config: Any, experiment: Any, state: Any) -> None:
        self.run = run

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_network_passes(train: Train, seed: int) -> None:
    assert wrong(train(HEALTHY, f"seed={seed}").findings) == {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("overrides", "one_of"),
    [
        (["optimizer.lr=3"], {"dead_units", "fast_updates"}),
        (["optimizer.lr=1e-9"], {"slow_updates"}),
        (["model.init=zeros"], {"learning"}),
        (["model.activation=sigmoid", f"model.layers=[{', '.join(['{type: linear, units: 16}'] * 12)}]"],
         {"lost_signal"}),
    ],
    ids=["far too high a rate", "far too low a rate", "zeros", "deep sigmoid"],
)  # fmt: skip
def test_faults_of_real_networks(train: Train, overrides: list[str], one_of: set[str], seed: int) -> None:
    assert one_of & set(wrong(train(HEALTHY, f"seed={seed}", *overrides).findings))


@pytest.mark.parametrize("way", ["requires_grad", "optimizer"])
def test_a_frozen_layer_is_found_and_stops_nothing(train: Train, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    def frozen(*arguments: Any) -> Any:
        experiment, state, config = assemble(*arguments)
        parameters = list(state.network.layers[1].parameters())
        for parameter in parameters:
            if way == "requires_grad":
                parameter.requires_grad_(False)
            else:
                (group,) = state.optimizer.param_groups
                group["params"] = [kept for kept in group["params"] if kept is not parameter]
        return experiment, replace(state), config  # which looks anew at what there is to train

    monkeypatch.setattr("dlf.commands.train.assemble", frozen)
    found = train({**HEALTHY, "train": {**HEALTHY["train"], "epochs": 3}}).findings
    assert wrong(found)["frozen_layer"] == "fail"
    assert named(found, "frozen_layer").layer == "1"


def test_what_training_tells_is_what_the_run_holds(train: Train) -> None:
    told = Told()
    result = train(HEALTHY, "optimizer.lr=3", "train.epochs=3", display=told)
    run = run_of(result)
    assert wrong(result.findings)
    assert diagnose_run(run) == result.findings == api.diagnose(result.path)
    assert told.messages[-1] == in_words(result.findings)
    assert in_words(result.findings) in run.log.read_text(encoding="utf-8")


def test_without_observations_the_metrics_speak(train: Train) -> None:
    found = train(HEALTHY, "optimizer.lr=3", "train.observe=false").findings
    assert wrong(found)["learning"] == "fail"
    assert not {each.name for each in found} & {"dead_units", "frozen_layer", "vanishing_gradient", "constant_output"}


def test_a_divergence_in_the_first_epoch_has_a_verdict(train: Train) -> None:
    told = Told()
    with pytest.raises(DivergedError):
        train(DIVERGING, "train.observe_every_steps=2", display=told)
    assert told.run is not None
    info, looked = told.run.read_info(), told.run.read_observations(told.run.layers)
    found = diagnose_run(told.run)
    assert found[0].name == "divergence"
    assert found[0].value == info["diverged_at"]
    assert f"the loss of step {info['diverged_at']}" in found[0].said
    assert "at the learning rate 100" in found[0].said
    assert [at["step"] for at in looked] == [2, 4, 6, 8]  # of 9 steps: 283 training samples in batches of 32
    assert in_words(found) in told.messages
    for which in ("lr", "losses"):
        assert info["divergence"][which]


def test_a_resumed_run_has_the_verdicts_of_one_that_never_stopped(train: Train) -> None:
    within = "train.observe_every_steps=7"
    whole = train(HEALTHY, within, "train.epochs=4", "optimizer.lr=1")
    begun = train(HEALTHY, within, "train.epochs=2", "optimizer.lr=1")
    result = resume(run_of(begun), ["train.epochs=4"], display=api.Silent())
    assert [asdict(each) for each in result.findings] == [asdict(each) for each in whole.findings]
    assert run_of(begun).layers.read_bytes() == run_of(whole).layers.read_bytes()


def test_check_of_a_run_shows_its_doctor_too(train: Train) -> None:
    sick = train(HEALTHY, "optimizer.lr=3", "train.epochs=3")
    found = check_what(sick.path, [], Path("runs"))
    assert list(found.doctor) == sick.findings
    both = Counter(each.verdict for each in (*found.findings, *found.doctor))
    assert (found.passed, found.warned, found.failed) == (both["pass"], both["warn"], both["fail"])
