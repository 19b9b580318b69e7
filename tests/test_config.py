"""What is proven of the loader: faults C1 to C9 and C11 end in one error that names every problem and its place.

Lines and columns are counted by hand in the texts below. Messages are compared in their important parts only; the one
whole message is that of the design.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from config_faults import Fault, by_row, check_fault, config_of, problems_of

from dlf import yaml12
from dlf.config import ExperimentConfig, Loaded, load, loads
from dlf.errors import ConfigError, DlfError, Problem, UsageError
from dlf.optimizers import OPTIMIZERS
from dlf.run import RunDirectory

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
    "C4 a component without end": Fault(
        f"data: {'a' * 9999}\n", "1:7", "data.type", ("aaa... is not a dataset", "Known: ")
    ),
    "C4 an activation for a layer": Fault(
        "data: iris\nmodel: {layers: [relu]}\n",
        "2:18",
        "model.layers.0.type",
        ("'relu' is not a layer. It is an activation: write {type: activation, function: relu}, or",),
    ),
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
    "C6 0²": Fault("data: iris\nseed: 0²\n", "2:7", "seed", ("expected an integer", "'0²'")),
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
}


@pytest.mark.parametrize("name", by_row(FAULTS))
def test_fault(name: str) -> None:
    check_fault(FAULTS[name])


@pytest.mark.fault("C8")
def test_c8_alias_bomb() -> None:
    """Nine to the eighth values, 43 million, in 300 characters."""
    bomb = "".join(f"{y}: &{y} [{','.join(['*' + x] * 9)}]\n" for x, y in pairwise("abcdefgh"))
    (problem,) = problems_of(f"a: &a [1,1,1,1,1,1,1,1,1]\n{bomb}")
    assert "keys and values" in problem.message


# --- C1: what is no file --------------------------------------------------------------------------------------------


def unread(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


@pytest.mark.fault("C1")
def test_c1_missing(tmp_path: Path) -> None:
    (tmp_path / "mnist.yaml").touch()
    problem = unread(tmp_path / "mnits.yaml")
    assert problem.place == str(tmp_path / "mnits.yaml")
    assert "no such file" in problem.message
    assert "'mnist.yaml'" in problem.message


@pytest.mark.fault("C1")
def test_c1_a_folder(tmp_path: Path) -> None:
    assert "folder" in unread(tmp_path).message


@pytest.mark.fault("C1")
def test_c1_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # as root, no mode of a file refuses
    assert "Permission denied" in unread(tmp_path / "f.yaml").message


@pytest.mark.fault("C1")
def test_c1_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"data: iris\nname: caf\xe9\n")
    problem = unread(path)
    assert problem.place == f"{path}:2:10"
    assert "0xe9" in problem.message
    assert "UTF-8" in problem.message


# --- C5 -------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("C5")
@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("1", 1.0), ("+.1e1", 1.0)]
)
def test_c5_numbers_of_yaml_1_2(written: str, value: float) -> None:
    assert config_of(f"data: iris\noptimizer: {{lr: {written}}}\n").optimizer.parameters["lr"] == value
    assert config_of("data: iris\n", f"optimizer.lr={written}").optimizer.parameters["lr"] == value


# --- C7: several at once --------------------------------------------------------------------------------------------


@pytest.mark.fault("C7")
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


@pytest.mark.fault("C4")
@pytest.mark.fault("C7")
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


@pytest.mark.fault("C11")
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
