"""What is proven of the configuration: faults C1 to C12 end in one error that names every problem and its place.

Lines and columns are counted by hand in the texts below. Messages are compared in their important parts only; the one
whole message is that of the design.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import Train

from dlf import experiment, yaml12
from dlf.config import ExperimentConfig, Loaded, check_monitors, load, loads, measured
from dlf.data import known_spec
from dlf.errors import ConfigError, DataError, DlfError, Problem, UsageError
from dlf.experiment import check_memory
from dlf.metrics import METRICS, best, column
from dlf.model import draw
from dlf.optimizers import OPTIMIZERS
from dlf.registry import InvalidError
from dlf.run import RunDirectory
from dlf.schedules import lower_is_better


def problems_of(text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f.yaml", overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def config_of(text: str, *overrides: str) -> ExperimentConfig:
    return loads(text, "f.yaml", overrides).config


class Fault(NamedTuple):
    """A text, where its one problem stands ("" where in the file as a whole), its key, and words of its message."""

    text: str
    place: str
    key: str
    words: tuple[str, ...]


def check_fault(fault: Fault, *overrides: str) -> None:
    (problem,) = problems_of(fault.text, *overrides)
    assert problem.place == (f"f.yaml:{fault.place}" if fault.place else "f.yaml")
    assert problem.key == fault.key
    for words in fault.words:
        assert words in problem.message


# --- one text, one problem ------------------------------------------------------------------------------------------

FAULTS = {
    "C1 empty": Fault("", "", "", ("empty",)),
    "C1 a list": Fault("- data\n", "1:1", "", ("expected a mapping", "got a list of 1")),
    "C1 a word": Fault("mnist\n", "1:1", "", ("expected a mapping", "'mnist'")),
    "C1 several documents": Fault("data: iris\n---\ndata: wine\n", "2:1", "", ("second document",)),
    "C2 syntax": Fault("data: iris\nmodel: {layers: [\n", "3:1", "", ("ends",)),
    "C2 tab": Fault("data:\n\ttype: iris\n", "2:1", "", ("tab cannot indent",)),
    "C3 duplicate key": Fault("data: iris\nseed: 1\nseed: 2\n", "3:1", "", ("'seed'", "line 2", "line 3")),
    "C3 duplicate key inside": Fault(
        "data:\n  type: iris\n  batch_size: 2\n  batch_size: 4\n", "4:3", "", ("'batch_size'", "line 3", "line 4")
    ),
    "C4 unknown key": Fault("data: iris\ntrain:\n  epoch: 3\n", "3:3", "train.epoch", ("unknown key", "'epochs'")),
    "C4 no name is near": Fault("data: iris\ntrain:\n  zzz: 3\n", "3:3", "train.zzz", ("Known: epochs, monitor",)),
    "C4 key at the top": Fault("data: iris\nepochs: 3\n", "2:1", "epochs", ("'epochs' belongs to train",)),
    "C4 key of a component at the top": Fault("data: iris\nlr: 3\n", "2:1", "lr", ("'lr' belongs to optimizer",)),
    "C4 key of a layer": Fault("data: iris\nmodel: {units: 3}\n", "2:9", "model.units", ("belongs to model.layers",)),
    "C4 key of two sections": Fault(
        "data: {type: iris, monitor: val_loss}\n", "1:20", "data.monitor", ("belongs to train or train.early_stopping",)
    ),
    "C4 key of the top": Fault("data: {type: iris, loss: mse}\n", "1:20", "data.loss", ("the top of the file",)),
    "C4 key of another optimizer": Fault(
        "data: iris\noptimizer: {type: adam, momentum: 0.9}\n",
        "2:25",
        "optimizer.momentum",
        ("for adam, which takes", "'momentum' is for sgd, rmsprop"),
    ),
    "C4 key of another data set": Fault(
        "data: {type: iris, target: x}\n", "1:20", "data.target", ("for iris", "'target' is for csv")
    ),
    "C4 component": Fault("data: iriss\n", "1:7", "data.type", ("'iriss' is not a dataset", "'iris'", "Known: ")),
    "C4 component inside": Fault(
        "data: iris\nmodel:\n  layers:\n    - {type: linear, units: 3, activation: rely}\n",
        "4:44",
        "model.layers.0.activation.type",
        ("'rely' is not an activation", "'relu'"),
    ),
    "C4 in a residual block": Fault(
        "data: iris\nmodel:\n  layers:\n  - type: residual\n    layers:\n    - {type: linear, unit: 4, units: 4}\n",
        "6:22",
        "model.layers.0.layers.0.unit",
        ("'units'",),
    ),
    "C4 no type": Fault("data: {}\n", "1:7", "data", ("'type' is missing: which dataset?",)),
    "C4 no data": Fault("seed: 1\n", "1:1", "data", ("required and missing",)),
    "C6 no": Fault(
        "data: {type: mnist, download: no}\n", "1:31", "data.download", ("true or false", "'no'", "write false")
    ),
    "C6 on": Fault("data: {type: mnist, download: on}\n", "1:31", "data.download", ("write true",)),
    "C6 no as a name": Fault("data: iris\ntrain: {monitor: no}\n", "2:18", "train.monitor", ("'no' is not measured",)),
    "C6 012": Fault("data: iris\nseed: 012\n", "2:7", "seed", ("'012'", "octal", "write 12")),
    "C6 1:30": Fault("data: iris\ntrain: {epochs: 1:30}\n", "2:17", "train.epochs", ("'1:30'", "base 60")),
    "C6 nan": Fault("data: iris\noptimizer: {lr: .nan}\n", "2:17", "optimizer.lr", ("finite", "got nan")),
    "C6 inf": Fault("data: iris\noptimizer: {lr: .inf}\n", "2:17", "optimizer.lr", ("finite", "got inf")),
    "C6 NaN is text": Fault(
        "data: iris\noptimizer: {lr: NaN}\n", "2:17", "optimizer.lr", ("expected a number", "'NaN'")
    ),
    "C6 out of range": Fault("data: iris\noptimizer: {lr: 0}\n", "2:17", "optimizer.lr", ("greater than 0", "got 0")),
    "C7 text for a number": Fault("data: iris\nseed: '1'\n", "2:7", "seed", ("expected an integer", "in quotes")),
    "C7 number for text": Fault("data: iris\nname: 1\n", "2:7", "name", ("expected text, got 1",)),
    "C7 nothing": Fault("data: iris\nmodel:\n", "2:7", "model", ("expected a mapping of settings", "null")),
    "C7 device": Fault("data: iris\ntrain: {device: gpu}\n", "2:17", "train.device", ("auto, cpu, cuda or cuda:N",)),
    "C7 seed too large": Fault("data: iris\nseed: 4294967296\n", "2:7", "seed", ("less than 4294967296",)),
    "C7 count or share": Fault(
        "data: {type: iris, validation: 1.5}\n", "1:32", "data.validation", ("a count (5000) or a share",)
    ),
    "C8 deep": Fault("data: " + "[" * 10_000, "1:107", "", ("100 levels",)),
    "C8 100 MB": Fault("#" * 100_000_000, "", "", ("larger than 256 KiB",)),
    "C9 tag": Fault(
        "data: !!python/object/apply:os.system [touch owned]\n", "1:7", "", ("tag", "nothing in this file is executed")
    ),
    "C9 dotted path": Fault(
        "data: iris\noptimizer: torch.optim.Adam\n",
        "2:12",
        "optimizer.type",
        ("'torch.optim.Adam' is not an optimizer",),
    ),
    "C11 parent folder": Fault("data: iris\nname: ../../etc\n", "2:7", "name", ("cannot name a run", "'../../etc'")),
    "C11 backslash": Fault("data: iris\nname: a\\b\n", "2:7", "name", ("cannot name a run",)),
    "C11 NUL": Fault('data: iris\nname: "a\\0b"\n', "2:7", "name", ("cannot name a run", "\\x00")),
    "C11 CON": Fault("data: iris\nname: CON\n", "2:7", "name", ("reserved",)),
    "C11 con with an ending": Fault("data: iris\nname: con.txt\n", "2:7", "name", ("reserved",)),
    "C11 latest": Fault("data: iris\nname: latest\n", "2:7", "name", ("reserved",)),
    "C11 300 characters": Fault(f"data: iris\nname: {'a' * 300}\n", "2:7", "name", ("1 to 100 letters",)),
    "C11 empty": Fault("data: iris\nname: ''\n", "2:7", "name", ("cannot name a run",)),
    "C11 a line break": Fault('data: iris\nname: "a\\n"\n', "2:7", "name", ("cannot name a run",)),
    "C12 batch_norm, batch of one": Fault(
        "data: {type: iris, batch_size: 1}\nmodel: {layers: [batch_norm]}\n", "1:32", "data.batch_size", ("spread",)
    ),
    "C12 batch_norm inside of residual": Fault(
        "data: {type: iris, batch_size: 1}\nmodel: {layers: [{type: residual, layers: [batch_norm]}]}\n",
        "1:32",
        "data.batch_size",
        ("spread", "layer_norm"),
    ),
    "C12 batch_norm, batch of one in the fallback": Fault(
        "data: {type: mnist, fallback: {type: digits, batch_size: 1}}\nmodel: {layers: [batch_norm]}\n",
        "1:58",
        "data.fallback.batch_size",
        ("spread",),
    ),
    "C12 monitor": Fault(
        "data: iris\ntrain: {monitor: val_los}\n", "2:18", "train.monitor", ("not measured", "Did you mean 'val_loss'?")
    ),
    "C12 monitor on the test set": Fault(
        "data: iris\ntrain: {monitor: test_accuracy}\n", "2:18", "train.monitor", ("test set", "chooses nothing")
    ),
    "C12 monitor without validation": Fault(
        "data: {type: iris, validation: 0}\ntrain: {monitor: val_loss}\n",
        "2:18",
        "train.monitor",
        ("data.validation is 0",),
    ),
    "C12 early stopping without validation": Fault(
        "data: {type: iris, validation: 0}\ntrain:\n  early_stopping: {patience: 2}\n",
        "3:19",
        "train.early_stopping.monitor",
        ("'val_loss'", "data.validation is 0"),
    ),
    "C12 no validation in the fallback": Fault(
        "data: {type: mnist, fallback: {type: digits, validation: 0}}\ntrain: {monitor: val_loss}\n",
        "2:18",
        "train.monitor",
        ("data.fallback.validation is 0",),
    ),
    "C12 plateau's monitor": Fault(
        "data: iris\nschedule: {type: plateau, monitor: val_f1}\n", "2:36", "schedule.monitor", ("Add f1 to metrics",)
    ),
    "C12 plateau's default monitor": Fault(
        "data: {type: iris, validation: 0}\nschedule: plateau\n", "2:11", "schedule.monitor", ("data.validation is 0",)
    ),
    "C12 monitor with a number for each class": Fault(
        "data: iris\nmetrics: [{type: f1, average: none}]\ntrain: {monitor: val_f1_none}\n",
        "3:18",
        "train.monitor",
        ("more than one number",),
    ),
    "C12 monitor that is a table": Fault(
        "data: iris\nmetrics: [confusion_matrix]\ntrain: {monitor: val_confusion_matrix}\n",
        "3:18",
        "train.monitor",
        ("more than one number",),
    ),
    "C12 wrong direction": Fault(
        "data: iris\ntrain: {early_stopping: {mode: max}}\n",
        "2:32",
        "train.early_stopping.mode",
        ("less val_loss is better", "expected min"),
    ),
    "C12 plateau's wrong direction": Fault(
        "data: iris\nschedule: {type: plateau, monitor: val_accuracy, mode: min}\n",
        "2:56",
        "schedule.mode",
        ("more val_accuracy is better", "expected max"),
    ),
    "C12 metric twice": Fault("data: iris\nmetrics: [f1, auroc, f1]\n", "2:22", "metrics.2", ("f1 is listed twice",)),
    "C12 nesterov": Fault(
        "data: iris\noptimizer: {type: sgd, nesterov: true}\n", "2:34", "optimizer.nesterov", ("momentum is 0",)
    ),
    "C12 warm-up": Fault(
        "data: iris\nschedule: {type: cosine, warmup_epochs: 3}\ntrain: {epochs: 3}\n",
        "2:41",
        "schedule.warmup_epochs",
        ("less than train.epochs, which is 3", "got 3"),
    ),
    "C12 early stopping that never begins": Fault(
        "data: iris\ntrain: {epochs: 5, early_stopping: {start_from_epoch: 5}}\n",
        "2:55",
        "train.early_stopping.start_from_epoch",
        ("less than train.epochs, which is 5",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    check_fault(FAULTS[name])


def test_every_fault_of_the_table_is_here() -> None:
    elsewhere = {"C5", "C10"}  # below
    assert {name.split()[0] for name in FAULTS} | elsewhere == {f"C{number}" for number in range(1, 13)}


def test_c8_alias_bomb() -> None:
    """Nine to the eighth values, 43 million, in 300 characters."""
    bomb = "".join(f"{y}: &{y} [{','.join(['*' + x] * 9)}]\n" for x, y in pairwise("abcdefgh"))
    (problem,) = problems_of(f"a: &a [1,1,1,1,1,1,1,1,1]\n{bomb}")
    assert "too large" in problem.message


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


# --- C1: what is no file --------------------------------------------------------------------------------------------


def unread(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


def test_c1_missing(tmp_path: Path) -> None:
    (tmp_path / "mnist.yaml").touch()
    problem = unread(tmp_path / "mnits.yaml")
    assert problem.place == str(tmp_path / "mnits.yaml")
    assert "no such file" in problem.message
    assert "'mnist.yaml'" in problem.message


def test_c1_a_folder(tmp_path: Path) -> None:
    assert "folder" in unread(tmp_path).message


def test_c1_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # as root, no mode of a file refuses
    assert "Permission denied" in unread(tmp_path / "f.yaml").message


def test_c1_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"data: iris\nname: caf\xe9\n")
    problem = unread(path)
    assert problem.place == f"{path}:2:10"
    assert "0xe9" in problem.message
    assert "UTF-8" in problem.message


# --- C5 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("1", 1.0), ("+.1e1", 1.0)]
)
def test_c5_numbers_of_yaml_1_2(written: str, value: float) -> None:
    assert config_of(f"data: iris\noptimizer: {{lr: {written}}}\n").optimizer.parameters["lr"] == value
    assert config_of("data: iris\n", f"optimizer.lr={written}").optimizer.parameters["lr"] == value


# --- C7: several at once --------------------------------------------------------------------------------------------


def test_c7_all_problems_in_the_order_of_the_file_then_the_overrides() -> None:
    text = "train: {epochs: 0}\noptimizer: {lr: x, lrr: 1}\nmodel: {layers: [{type: linear}, 3]}\ndata: iris\nsed: 1\n"
    found = problems_of(text, "seed=-1", "model.depth.x=2", "nothing")
    assert [(problem.place, problem.key) for problem in found] == [
        ("f.yaml:1:17", "train.epochs"),
        ("f.yaml:2:17", "optimizer.lr"),
        ("f.yaml:2:20", "optimizer.lrr"),
        ("f.yaml:3:18", "model.layers.0.units"),
        ("f.yaml:3:34", "model.layers.1"),
        ("f.yaml:5:1", "sed"),
        ("override 'seed=-1'", "seed"),
        ("override 'model.depth.x=2'", "model.depth"),
        ("override 'nothing'", ""),
    ]


def test_the_message_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 1 of the design, line 17, column 12, and line 21, column 3; only its "..." is written out."""
    lines = ["data: mnist", *["#"] * 15, "optimizer: sgdd", "#", "#", "train:", "  epoch: 10"]
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/mnist.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load(Path("configs/mnist.yaml"))
    known = ", ".join(sorted(OPTIMIZERS.names()))
    assert known.startswith("adadelta, adagrad, adam, adamw, ")
    assert f"error: {caught.value}" == (
        "error: configs/mnist.yaml has 2 problems\n"
        f"  configs/mnist.yaml:17:12  optimizer.type  'sgdd' is not an optimizer. Did you mean 'sgd'? Known: {known}\n"
        "  configs/mnist.yaml:21:3   train.epoch     unknown key. Did you mean 'epochs'?"
    )


# --- overrides ------------------------------------------------------------------------------------------------------


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
        ("train.monitor=test_loss", "train.monitor", "test set"),
    ],
)
def test_wrong_override_is_the_one_that_is_named(override: str, key: str, words: str) -> None:
    found = problems_of(
        "data: {type: iris, target: label}\nseed: 1\n" if "csv" in override else "data: iris\nseed: 1\n", override
    )
    assert {problem.place for problem in found} == {f"override {override!r}"}
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


# --- names and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [("mnist", "mnist"), ("my net!", "my-net"), ("..", "experiment"), ("con", "experiment"), ("ü" * 9, "experiment")],
)
def test_a_file_gives_its_name_to_the_run(stem: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text("data: iris\n")
    assert load(path).config.name == name


def test_files_of_the_data_are_found_beside_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "t.csv").touch()
    (tmp_path / "a" / "f.yaml").write_text("data: {type: csv, path: t.csv, target: y}\n")
    monkeypatch.chdir(tmp_path)
    assert load(Path("a/f.yaml")).config.data.parameters["path"] == str(tmp_path / "a" / "t.csv")
    assert load(Path("a/f.yaml"), ["data.path=u.csv"]).config.data.parameters["path"] == "u.csv"  # not there


@pytest.mark.parametrize("run", ["../x", "..", "a\\b", "a\0b", "CON", "a" * 300, "/", "~", "", "a/../../b", "*"])
def test_c11_a_run_that_is_none_is_refused_and_nothing_touched(run: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "iris-1").mkdir(parents=True)
    (runs / "iris-1" / "run.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DlfError) as caught:
        RunDirectory.find(run, runs)
    assert caught.value.exit_code in (2, 4)
    assert sorted(tmp_path.rglob("*")) == before


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


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_c12_contradictions_with_the_data(name: str, train: Train, tmp_path: Path) -> None:
    config, key, words = CONTRADICTIONS[name]
    found = refused_by_train(train, config)
    assert key in [problem.key for problem in found if words in problem.message], found
    assert not (tmp_path / "runs").exists(), "a run directory was created"


def test_c12_a_last_batch_of_two_is_fine(train: Train) -> None:
    """150 - 30 - 18 = 102 = 100 + 2 training samples."""
    data = {"type": "iris", "test": 30, "validation": 18, "batch_size": 100}
    assert train({"data": data, "model": {"layers": ["batch_norm"]}, "train": {"epochs": 1}}).status == "completed"


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


# --- there and back -------------------------------------------------------------------------------------------------


SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_resolved_file_loads_to_an_equal_configuration(path: Path) -> None:
    config = load(path).config
    resolved = loads(config.to_yaml(), "config.yaml").config
    assert resolved == config
    assert resolved.to_yaml() == config.to_yaml()
    assert config.dump() == yaml12.parse(config.to_yaml()).data
    assert config != load(path, ["seed=17"]).config  # one setting makes a difference


def test_a_resolved_file_says_every_setting() -> None:
    config = config_of("data: iris\n")
    assert config.dump().keys() == ExperimentConfig.model_fields.keys()
    assert config.dump()["model"]["layers"][0] == {
        "type": "linear", "units": 128, "activation": None, "init": None, "bias": True,
    }  # fmt: skip


def test_loaded_knows_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("data: iris  # small\n")
    loaded = load(path, ["seed=3", "train.epochs=2"])
    assert isinstance(loaded, Loaded)
    assert loaded.text == "data: iris  # small\n"
    assert list(loaded.overrides.values()) == ["seed=3", "train.epochs=2"]
    assert replace(loaded, text="").config is loaded.config


def test_config_errors_are_usage_errors() -> None:
    assert issubclass(ConfigError, UsageError)
