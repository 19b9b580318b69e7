"""`dlf report`: what is in the page is what the run holds, whatever the run is."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train

from dlf import api
from dlf.cli import main
from dlf.commands.report import _content, report
from dlf.commands.train import TrainResult
from dlf.errors import UsageError
from dlf.html import Content
from dlf.run import RunDirectory

DIGITS: dict[str, Any] = {
    "data": {"type": "digits", "limit": 400, "validation": 0.3},
    "model": {"layers": [{"type": "linear", "units": 12}]},
    "train": {"epochs": 2},
}


def run_of(result: TrainResult) -> RunDirectory:
    return RunDirectory(Path(result.path))


def page_of(run: RunDirectory, **options: Any) -> str:
    return Path(report(run, **options).path).read_text(encoding="utf-8")


def held(run: RunDirectory, split: Any = "val") -> Content:
    return _content(run, split, None, None)


def test_the_file_lies_in_the_run_or_where_it_was_asked_for(train: Train, tmp_path: Path) -> None:
    run = run_of(train(DIGITS))
    assert report(run).path == str(run.path / "report.html")
    there = tmp_path / "elsewhere.html"
    found = report(run, output=there)
    assert found.bytes == there.stat().st_size
    assert there.read_bytes() == (run.path / "report.html").read_bytes()  # the same run, the same bytes
    with pytest.raises(UsageError, match="is a folder"):
        report(run, output=tmp_path)


def test_the_worst_mistakes_are_those_with_the_largest_loss(train: Train) -> None:
    result = train(DIGITS)
    run = run_of(result)
    trained = api.load(result.run, runs=run.path.parent)
    part = trained.data.validation
    probability = trained.predict(part.x)
    losses = -probability[torch.arange(len(part)), part.y].log()
    wrong = probability.argmax(1) != part.y
    expected = [int(n) for n in losses.argsort(descending=True) if wrong[n]][:24]
    mistakes = held(run).mistakes
    assert len(expected) > 3
    assert [m.number for m in mistakes] == expected
    assert [m.loss for m in mistakes] == pytest.approx([losses[n].item() for n in expected], rel=1e-4)
    assert [m.true for m in mistakes] == [str(int(part.y[n])) for n in expected]
    assert [m.said for m in mistakes] == [str(int(probability[n].argmax())) for n in expected]
    assert all(m.picture is not None for m in mistakes)


def test_answers_are_those_of_evaluate(train: Train) -> None:
    run = run_of(train(DIGITS))
    found = api.evaluate(str(run.path), split="val")
    answers = held(run).assessed
    assert answers is not None
    for key in ("loss", "accuracy", "confusion_matrix", "calibration"):
        assert answers[key] == found[key]


def test_looks_at_the_test_set_are_counted_and_those_at_the_validation_part_are_not(train: Train) -> None:
    run = run_of(train(DIGITS))
    report(run)
    assert run.test_looks() == []
    assert "looked at 1 time." in page_of(run, split="test")
    assert "looked at 2 times." in page_of(run, split="test")
    assert len(run.test_looks()) == 2


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"type": "spiral", "validation": 0.2}},
        {"data": {"type": "breast_cancer", "validation": 0.2}},
        {"data": {"type": "diabetes", "validation": 0.2}},
        {"data": {"type": "digits", "limit": 200, "validation": 0.2},
         "model": {"layers": [{"type": "conv2d", "channels": 3, "kernel": 3}, "batch_norm"]}},
        {"data": {"type": "iris", "validation": 0.2}, "model": {"layers": []}},
        {"data": {"type": "digits", "limit": 200, "validation": 0}},
        {"data": {"type": "digits", "limit": 200}, "train": {"observe": False}},
    ],
    ids=["plane", "binary", "regression", "conv", "no hidden layer", "no validation", "not observed"],
)  # fmt: skip
def test_every_kind_of_run_has_a_report(train: Train, config: dict[str, Any]) -> None:
    run = run_of(train({"train": {"epochs": 2}, **config}, "train.epochs=2"))
    page = page_of(run)
    assert page.startswith("<!doctype html>")
    assert re.findall(r">\s*(?:nan|None|inf)\s*<", page) == []
    content = held(run)
    assert ("answers" in content.missing) == (content.assessed is None) == (config["data"].get("validation") == 0)
    assert ("inside" in content.missing) == (config.get("train") == {"observe": False})
    assert bool(content.boundary) == (config["data"]["type"] == "spiral")
    assert bool(content.pairs[0]) == (config["data"]["type"] == "diabetes")
    assert content.weights


def test_a_regression_lists_its_largest_errors(train: Train) -> None:
    result = train({"data": {"type": "diabetes", "validation": 0.3}, "train": {"epochs": 2}})
    run = run_of(result)
    trained = api.load(result.run, runs=run.path.parent)
    errors = (trained.predict(trained.data.validation.x) - trained.data.validation.y).abs()[:, 0]
    assert {m.number for m in held(run).mistakes} == set(errors.argsort(descending=True)[:24].tolist())
    assert "bmi: " in held(run).mistakes[0].features


def test_weights_are_those_of_the_units_with_the_largest(train: Train) -> None:
    content = held(run_of(train(DIGITS)))
    assert len(content.weights) == 12
    assert content.weights_told == "The 12 units with the largest weights, of 12."


def test_a_run_without_a_checkpoint_says_so(train: Train) -> None:
    run = run_of(train(DIGITS))
    for which in ("best", "last"):
        (run.path / "checkpoints" / which).rename(run.path / f"{which}-away")
    found = report(run)
    assert set(found.missing) == {"answers", "weights"}
    assert "There is no checkpoint yet." in Path(found.path).read_text(encoding="utf-8")
    run.metrics.unlink()
    run.layers.unlink()
    assert set(report(run).missing) == {"answers", "weights", "curves", "doctor", "inside"}


def test_a_diverged_epoch_leaves_a_hole(train: Train) -> None:
    run = run_of(train(DIGITS))
    records = run.read_metrics()
    lines = [json.dumps({**record, "val_loss": None if record["epoch"] == 2 else 0.5}) + "\n" for record in records]
    run.metrics.write_text("".join(lines))
    assert "validation ends at \N{EN DASH}" in page_of(run)


def test_names_of_classes_are_text(train: Train, tmp_path: Path) -> None:
    rows = "\n".join(f"{n % 7},{n % 5},{'<script>alert(1)</script>' if n % 2 else '<b>'}" for n in range(80))
    (tmp_path / "evil.csv").write_text(f"<i>a,b,label\n{rows}\n")
    run = run_of(train({"data": {"type": "csv", "path": str(tmp_path / "evil.csv"), "target": "label",
                                 "validation": 0.3}, "train": {"epochs": 1}}))  # fmt: skip
    page = page_of(run)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "<i>" not in page


def test_the_command_prints_the_file(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(train(DIGITS))
    addresses: list[str] = []

    def opened(address: str) -> bool:
        addresses.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", opened)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run.path), "--open"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"
    assert addresses == [(run.path / "report.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run.path), "--open", "--json"])
    assert ended.value.code == 5
    told = capsys.readouterr()
    assert json.loads(told.out)["bytes"] == (run.path / "report.html").stat().st_size
    assert "no browser could be started" in told.err


def test_the_same_in_python(train: Train, tmp_path: Path) -> None:
    run = run_of(train({"data": {"type": "spiral"}, "train": {"epochs": 30}}))
    path = api.report(run.id, output=tmp_path / "page.html", runs=run.path.parent)
    assert path == tmp_path / "page.html"
    assert path.stat().st_size < 500_000  # thirty maps of the plane among it


def test_the_doctor_has_a_section(train: Train) -> None:
    healthy, sick = (page_of(run_of(train(DIGITS, "train.epochs=4", f"optimizer.lr={rate}"))) for rate in (0.001, 30))
    sections = [page.split('id="doctor"')[1].split("</section>")[0] for page in (healthy, sick)]
    assert "Nothing found: " in sections[0]
    assert re.findall(r"<b>(FAIL|WARN)</b>", sections[0]) == []
    assert re.findall(r"<b>(FAIL|WARN)</b>", sections[1])
    assert "Lower optimizer.lr" in sections[1]


def test_looks_within_an_epoch_stand_between_epochs(train: Train) -> None:
    run = run_of(train(DIGITS, "train.observe_every_steps=2"))
    steps = [record["step"] for record in run.read_observations(run.layers)]
    first = re.search(r'<section id="inside">.*?data-chart="([^"]*)"', page_of(run), re.DOTALL)
    assert first is not None
    drawn = json.loads(html.unescape(first.group(1)))
    assert drawn["x"] == pytest.approx([step / run.read_metrics()[0]["step"] for step in steps], abs=1e-3)
    assert drawn["name"] == "epoch"
    run.metrics.unlink()  # as where it diverged within the first
    found = re.search(r'<section id="inside">.*?data-chart="([^"]*)"', page_of(run), re.DOTALL)
    assert found is not None
    assert json.loads(html.unescape(found.group(1)))["x"] == steps
