"""What is proven of overrides: where they land, how they are typed, and that only the wrong one is named."""

from __future__ import annotations

from typing import Any

import pytest
from config_faults import Fault, check_fault, config_of, problems_of

from dlf.config import loads
from dlf.data import known_spec
from dlf.errors import ConfigError
from dlf.model import draw


@pytest.mark.parametrize(
    ("text", "overrides", "path", "value"),
    [
        ("", ["seed=3"], "seed", 3),
        ("", ["seed=3", "seed=4"], "seed", 4),
        ("optimizer: sgd", ["optimizer.lr=0.5"], "optimizer.lr", 0.5),
        ("optimizer: sgd", ["optimizer.lr=0.5"], "optimizer.type", "sgd"),
        ("", ["optimizer=sgd", "optimizer.lr=0.5"], "optimizer.type", "sgd"),
        ("", ["optimizer=sgd", "optimizer.lr=0.5"], "optimizer.lr", 0.5),
        ("optimizer: {type: sgd, lr: 0.5}", ["optimizer=adam"], "optimizer.lr", 0.001),  # adam's own default
        ("", ["optimizer.lr=0.5"], "optimizer.type", "adam"),  # absent, and its default has a type
        ("", ["optimizer={type: sgd, lr: 0.5}"], "optimizer.lr", 0.5),
        ("", ["optimizer.betas=[0.8, 0.9]"], "optimizer.betas", (0.8, 0.9)),
        ("", ["model.layers.0.units=7"], "model.layers.0.units", 7),
        ("", ["model.layers.0.type=maxout"], "model.layers.0.type", "maxout"),  # no other key of linear is left behind
        ("model: {layers: [dropout, batch_norm]}", ["model.layers.1.eps=0.1"], "model.layers.1.eps", 0.1),
        ("", ["model.activation=tanh"], "model.activation.type", "tanh"),
        ("", ["model.layers=[]"], "model.layers", []),
        ("", ["loss.type=cross_entropy", "loss.label_smoothing=0.1"], "loss.label_smoothing", 0.1),
        ("loss: hinge", ["loss=null"], "loss", None),
        ("loss: hinge", ["loss="], "loss", None),
        ("", ["train.early_stopping.patience=2"], "train.early_stopping.patience", 2),
        ("", ["data.root=/a=b"], "data.root", "/a=b"),  # split at the first '='
        ("", ["data.root=1"], "data.root", "1"),  # text where text belongs
        ("", ["name=012"], "name", "012"),
        ("", ["name=1"], "name", "1"),
        ("", ["name=true"], "name", "true"),
        ("", ["name='x'"], "name", "x"),
        ("", ["train.monitor=val_loss "], "train.monitor", "val_loss"),
        ("", [" seed =3"], "seed", 3),
    ],
)
def test_override(text: str, overrides: list[str], path: str, value: object) -> None:
    node: Any = config_of(f"data: iris\n{text}\n", *overrides)
    for step in path.split("."):
        node = node[int(step)] if step.isdigit() else getattr(node, step)
    assert node == value


@pytest.mark.fault("C4")
@pytest.mark.fault("C7")
@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("seed", "", "expected key.path=value"),
        ("=3", "", "expected key.path=value"),
        ("a..b=3", "", "expected key.path=value"),
        ("seed.x=3", "", "seed is 1, not a section"),
        ("model.layers.2.units=3", "", "model.layers has 1 entries, numbered from 0; there is no 2"),
        ("model.layers.-1.units=3", "", "there is no -1"),
        ("model.layers.first=3", "", "there is no first"),
        ("metrics.0=f1", "", "metrics has no entries: give the whole list"),
        ("optimizer.lr=[1", "", "never closed"),
        ("optimizer.lr=fast", "optimizer.lr", "expected a number, got 'fast'"),
        ("optimizer.lr=__import__('os')", "optimizer.lr", "expected a number"),
        (
            "optimizer.betas.0=0.8",
            "optimizer.betas",
            "expected a list, got a mapping with '0'",
        ),  # a default stays whole
        ("optimizer.lrr=1", "optimizer.lrr", "Did you mean 'lr'?"),
        ("optimiser.lr=1", "optimiser", "Did you mean 'optimizer'?"),
        ("optimizer=adm", "optimizer.type", "Did you mean 'adam'?"),
        ("optimizer.type=adm", "optimizer.type", "Did you mean 'adam'?"),
        ("loss.label_smoothing=0.1", "loss", "'type' is missing: which loss?"),
        ("model.layers.0.activation.slope=1", "model.layers.0.activation", "'type' is missing: which activation?"),
        ("data=csv", "data.path", "required and missing"),
        ("train.epochs=1.0", "train.epochs", "expected an integer, got 1.0"),
        ("train.device=1", "train.device", "expected auto, cpu, cuda or cuda:N, got '1'"),
        ("name=../x", "name", "cannot name a run"),
        ("name=[1]", "name", "'[1]' cannot name a run"),
        (f"model.layers.{'9' * 5000}.units=3", "", "there is no 999"),
        (f"{'a.' * 5000}b=3", "", "a key of 5,001 steps; a setting is at most 100 deep"),
        ("train.monitor=test_loss", "train.monitor", "test set"),
    ],
)
def test_wrong_override_is_the_one_that_is_named(override: str, key: str, words: str) -> None:
    found = problems_of(
        "data: {type: iris, target: label}\nseed: 1\n" if "csv" in override else "data: iris\nseed: 1\n", override
    )
    named = override if len(override) <= 200 else f"{override[:197]}..."
    assert {problem.place for problem in found} == {f"override {named!r}"}
    assert (found[0].key, words in found[0].message) == (key, True), found
    with pytest.raises(ConfigError, match=r"^the command line has"):
        loads("data: iris\nseed: 1\n", "f.yaml", [override])


def test_the_last_override_of_a_setting_is_at_fault() -> None:
    (problem,) = problems_of("data: iris\n", "optimizer.lr=0.1", "optimizer={lr: x}", "seed=3")
    assert problem.place == "override 'optimizer={lr: x}'"


def test_an_override_that_mends_the_file_is_no_problem() -> None:
    assert config_of("data: iris\noptimizer: {lr: x}\n", "optimizer.lr=0.5").optimizer.parameters["lr"] == 0.5


def test_an_override_that_breaks_another_setting_leaves_the_place_in_the_file() -> None:
    check_fault(
        Fault("data: iris\ntrain: {monitor: val_loss}\n", "2:18", "train.monitor", ("data.validation is 0",)),
        "data.validation=0",
    )


def test_flaws_found_while_assembling_have_places_too() -> None:
    loaded = loads("data: iris\nloss: mse\n", "f.yaml", ["model.layers=[]"])
    with pytest.raises(ConfigError) as caught, loaded.places():
        draw(loaded.config, known_spec(loaded.config.data_section))  # type: ignore[arg-type]
    assert [problem.place for problem in caught.value.problems] == ["f.yaml:2:7"]
