"""`dlf why` as a command: its topics, its refusals before anything is trained, its JSON, its picture, what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlf.cli import main
from dlf.questions import trials
from dlf.questions.topics import topics

SHORT = ("train.epochs=2", "train.device=cpu", "--seeds", "2")
IRIS = "data: {type: iris, validation: 0.3}\nmodel: {layers: [{type: linear, units: 4}]}\n"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["why", *map(str, words)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("iris.yaml").write_text(IRIS)


def test_without_a_topic_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [topic.name for topic in topics()]
    assert all(line.endswith("?") and len(line) <= 80 for line in lines)
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out) == {topic.name: topic.question for topic in topics()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["activation"], "Did you mean 'activations'?"),
        (["activation", "iris.yaml"], "Did you mean 'activations'?"),
        (["depth", "nowhere"], "'nowhere' is no file and no shipped experiment"),
        (["depth", "iris.yaml", "optimizer.lr=fast"], "expected a number, got 'fast'"),
        (["depth", "--seeds", "1"], "--seeds must be from 2"),
        (["depth", "--plot", "x.gif"], "must be one of .png, .svg, .pdf"),
        (["activations", "iris.yaml", "model.layers=[]"], "no hidden layer with an activation"),
        (["depth", "iris.yaml", "data.validation=0"], "has no validation part"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(trials, "train")
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_one_json_document_and_a_line_for_each_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("learning_rate", "iris.yaml", *SHORT, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["topic"], found["seeds"]) == ("learning_rate", [0, 1])
    (study,) = found["studies"]
    assert [arm["settings"]["optimizer.lr"] for arm in study["arms"]] == [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0]
    assert all(len(training["series"]["val_loss"]) == 2 for arm in study["arms"] for training in arm["trainings"])
    assert {"values", "low", "high", "verdict", "said"} <= set(study["differences"][0])
    lines = err.splitlines()
    assert lines[0].startswith(" 1/14  iris: lr 1e-06, seed 0: validation accuracy ")
    assert len(lines) == 14


def test_quiet_is_quiet_and_the_picture_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("initialization", "iris.yaml", *SHORT, "-q", "--plot", "why.svg") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("initialization: ")
    assert max(map(len, out.splitlines())) <= 80
    picture = Path("why.svg").read_text(encoding="utf-8")
    assert all(f">{label}<" in picture for label in ("he_normal", "zeros", "std 1", "signal before training"))
    first = Path("why.svg").read_bytes()
    assert run("initialization", "iris.yaml", *SHORT, "-q", "--plot", "why.svg") == 0
    assert capsys.readouterr().out == out  # the same experiment says the same
    assert Path("why.svg").read_bytes() == first


def test_overrides_alone_are_laid_over_the_experiments_of_the_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("normalization", *SHORT, "seed=5", "--json", "-q") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [5, 6]
    assert [study["config"] for study in found["studies"]] == ["sgd", "adamw"]
    assert all(training["epochs"] == 2 for study in found["studies"] for training in study["arms"][0]["trainings"])
