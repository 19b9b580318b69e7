"""Comparing runs: what differs, which samples are compared, and that noise is called noise and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from statsmodels.stats import contingency_tables

from dlf import curves, display
from dlf.cli import main
from dlf.commands import compare as command
from dlf.commands.compare import Comparison, compare, differing
from dlf.commands.evaluate import Measured
from dlf.commands.verdicts import percent
from dlf.errors import DataError, RunError, UsageError
from dlf.metrics import Predictions
from dlf.run import RunDirectory
from dlf.statistics import spread_of, welch

IRIS = {"data": {"type": "iris", "batch_size": 30, "validation": 60}, "train": {"epochs": 2, "threads": 1}}
REGRESSION = {"data": {"type": "diabetes", "batch_size": 64}, "train": {"epochs": 2, "threads": 1}}

Runs = Callable[..., list[RunDirectory]]


@pytest.fixture
def runs(train: Any) -> Runs:
    """`runs(config, *overrides)`: a run for each list of overrides."""

    def made(config: Mapping[str, Any], *overrides: list[str]) -> list[RunDirectory]:
        return [RunDirectory(Path(train(config, *words).path)) for words in overrides]

    return made


def hits(*right: np.ndarray[Any, Any]) -> dict[str, Measured]:
    """Networks A, B, ... that classify these samples rightly, and the others not."""
    found = {}
    for label, correct in zip("ABCDEF", right, strict=False):
        probability = np.where(correct[:, None], [[0.1, 0.9]], [[0.9, 0.1]])
        predictions = Predictions("binary", np.ones(len(correct), int), probability, classes=("no", "yes"))
        found[label] = Measured({"accuracy": float(correct.mean())}, predictions, None)
    return found


def pairs_of(seen: Mapping[str, Measured]) -> list[command.Pair]:
    return command._pairs(seen, "accuracy", {label: one.found["accuracy"] for label, one in seen.items()})


def shown(result: Comparison, capsys: pytest.CaptureFixture[str]) -> str:
    display.show_comparison(result)
    return capsys.readouterr().out


# --- what differs ---------------------------------------------------------------------------------------------------


def test_differing_settings_have_dotted_keys() -> None:
    a = {
        "seed": 0,
        "model": {"layers": [{"units": 8}, {"units": 4}]},
        "loss": None,
        "metrics": [],
        "same": [1, {"x": 2}],
    }
    b = {"seed": 0, "model": {"layers": [{"units": 9}]}, "loss": "mse", "metrics": ["mae"], "same": [1, {"x": 2}]}
    assert differing({"A": a, "B": b}) == {
        "model.layers.0.units": {"A": 8, "B": 9},
        "model.layers.1.units": {"A": 4},
        "loss": {"A": None, "B": "mse"},
        "metrics": {"A": []},
        "metrics.0": {"B": "mae"},
    }
    assert differing({"A": a, "B": a}) == {}
    assert differing({"A": {"x": 1}, "B": {"x": 1}, "C": {"x": 2}}) == {"x": {"A": 1, "B": 1, "C": 2}}
    assert differing({"A": {"x": 1}, "B": {"x": True}}), "true is not 1"


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_the_cells_and_the_test() -> None:
    a = np.array([1] * 100 + [1] * 23 + [0] * 19 + [0] * 2, bool)
    b = np.array([1] * 100 + [0] * 23 + [1] * 19 + [0] * 2, bool)
    (pair,) = pairs_of(hits(b, a))
    assert (pair.first, pair.second) == ("B", "A"), "the better one first"
    assert pair.cells == {"both": 100, "only_first": 23, "only_second": 19, "neither": 2}
    assert pair.p == pair.p_holm == pytest.approx(contingency_tables.mcnemar([[100, 23], [19, 2]]).pvalue, abs=1e-9)
    assert pair.difference == pytest.approx(4 / 144)
    assert pair.low is not None
    assert pair.high is not None
    assert pair.low < 0 < pair.difference < pair.high
    assert not pair.significant
    assert pair.verdict.startswith(
        "B alone is right on 23 samples, A alone on 19. "
        "A difference this large happens in 64 % of cases by chance: noise. The accuracy of B is 2.78 points higher (-"
    )


def test_verdicts() -> None:
    n = np.arange(1000)
    perfect = n >= 0
    (pair,) = pairs_of(hits(perfect, perfect))
    assert pair.verdict == "A and B are right on the same samples: no difference."
    (pair,) = pairs_of(hits(perfect, n >= 5))  # 2 / 2^5 is 6 %: five samples cannot show anything
    assert not pair.significant
    assert pair.verdict.endswith("6.2 % of cases by chance: noise. So few samples could not show a difference.")
    (pair,) = pairs_of(hits(perfect, n >= 6))
    assert pair.significant
    assert "more than noise. The accuracy of A is 0.6 points higher (+0.2" in pair.verdict
    pairs = pairs_of(hits(perfect, n >= 6, n >= 5))  # 3.1 % alone, and 9.4 % as one of three
    assert [pair.significant for pair in pairs] == [False, False]
    assert "3.1 % of cases by chance, but 9.4 % for the 3 pairs together: noise." in pairs[1].verdict


def test_without_a_difference_few_are_found_however_many_runs() -> None:
    """Five equally good networks, 400 times: in at most 5 % of cases is the best said to beat any other one."""
    rng = np.random.default_rng(0)
    wrong = uncorrected = 0
    for _ in range(400):
        easy = rng.random(300) < 0.8
        found = pairs_of(hits(*(easy | (rng.random(300) < 0.5) for _ in range(5))))
        assert len(found) == 4
        wrong += any(pair.significant for pair in found)
        uncorrected += any(pair.p < 0.05 for pair in found)
    # Binomial(400, 0.05): mean 20, standard deviation 4.4; four of them are 17
    assert wrong <= 20 + 17
    assert uncorrected > 20 + 17, "the best of five is often better than another by chance"


def test_a_regression_is_compared_by_its_errors(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = runs(REGRESSION, ["train.epochs=20", "optimizer.lr=0.01"], ["optimizer.lr=1e-6"])
    result = compare([bad, good])
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.test, result.headline) == ("B", "A", "wilcoxon", "mae")
    assert sum(pair.cells.values()) == result.runs[0].samples
    assert pair.significant
    assert pair.effect is not None
    assert pair.effect < 0
    assert pair.difference == pytest.approx(result.runs[1].metrics["mae"] - result.runs[0].metrics["mae"], rel=1e-5)
    text = shown(result, capsys)
    assert f"B is closer on {pair.cells['first_closer']} samples" in text
    assert "The mean absolute error of B is" in text
    same = compare([good, *runs(REGRESSION, ["train.epochs=20", "optimizer.lr=0.01"])])
    assert same.pairs[0].verdict == "A and B err by as much on every sample: no difference."


# --- which samples --------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_runs(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = runs(IRIS, [], ["model.layers=[]"])
    result = compare([one, other])
    for run, row in zip((one, other), result.runs, strict=True):
        record = run.read_metrics()[row.epoch - 1]
        assert row.metrics["accuracy"] == record["val_accuracy"]
        assert row.metrics["loss"] == record["val_loss"]
        assert (row.samples, row.test_looks, row.epochs) == (60, None, 2)
    text = shown(result, capsys)
    assert f"A  {one.id}: completed, 2 epochs" in text
    assert "settings that differ\n" in text
    assert "each trained once: another seed gives others" in text
    assert "test_looks" not in one.read_info(), "validation is looked at as often as one likes"


def test_each_look_at_the_test_part_is_counted(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    found = runs(IRIS, [], ["seed=1"])
    compare(found[:1] * 2 + found[1:], split="test")
    result = compare(found, split="test")
    assert [row.test_looks for row in result.runs] == [2, 2]
    assert [look["command"] for look in found[0].read_info()["test_looks"]] == ["compare", "compare"]
    assert "test looked at 2 times" in shown(result, capsys)


@pytest.mark.parametrize(
    ("config", "overrides", "reason"),
    [
        (IRIS, ["data.split_seed=5"], "split the data in other ways: their val parts hold other samples"),
        (IRIS, ["data.validation=40"], "split the data in other ways"),
        ({**IRIS, "data": {"type": "wine", "validation": 50}}, [], "were trained on other data"),
    ],
)
def test_other_samples_are_not_compared(
    config: Mapping[str, Any], overrides: list[str], reason: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compare([*runs(IRIS, []), *runs(config, overrides)])
    assert result.refused is not None
    assert f"A and B {reason}" in result.refused
    assert (result.pairs, result.groups, result.group_pairs, result.caveat) == ([], [], [], None)
    text = shown(result, capsys)
    assert f"not tested  {result.refused}" in text
    assert "accuracy" in text, "what they score is shown all the same"


def test_predictions_that_are_no_numbers_are_not_compared() -> None:
    target = np.zeros((3, 1))
    rows = [SimpleNamespace(label=label) for label in "AB"]
    outputs: list[Any] = [np.array([[0.0], [1.0], [np.inf]]), np.zeros((3, 1))]
    seen = [Measured({}, Predictions("regression", target, output=output), None) for output in outputs]
    refused: Any = command._why_not_the_same
    assert refused(rows, [], seen, "val") == "what A says of some samples is no finite number"


def test_what_cannot_be_compared(runs: Runs) -> None:
    (run,) = runs(IRIS, [])
    with pytest.raises(UsageError, match="needs two runs"):
        compare([run, RunDirectory(run.path / ".." / run.id)])
    (regression,) = runs(REGRESSION, [])
    with pytest.raises(UsageError, match="no metric in common"):
        compare([run, regression])
    without = runs(IRIS, ["data.validation=0"], ["data.validation=0", "seed=1"])
    with pytest.raises(DataError, match="no val samples"):
        compare(without)
    (run.path / "config.yaml").unlink()
    with pytest.raises((RunError, UsageError), match=r"config\.yaml"):
        compare([run, *without])


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_seeds_of_one_configuration(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    found = runs(IRIS, ["seed=0"], ["seed=1", "name=other"], ["seed=2", "checkpoint.keep=2"], ["seed=2"])
    result = compare(found)
    (group,) = result.groups
    assert group.labels == ["A", "B", "C"], "the same seed again is the same training"
    assert group.seeds == [0, 1, 2]
    assert group.spread == spread_of([row.metrics["accuracy"] for row in result.runs[:3]])
    assert result.group_pairs == []
    text = shown(result, capsys)
    assert "accuracy over seeds" in text
    assert "These runs differ only in the seed" in text


def test_groups_of_seeds(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = [f"seed={seed}" for seed in range(3)]
    good = runs(IRIS, *([word, "optimizer.lr=0.05", "train.epochs=5"] for word in seeds))
    bad = runs(IRIS, *([word, "optimizer.lr=1e-6", "train.epochs=5"] for word in seeds))
    alone = runs(IRIS, ["optimizer.lr=0.01", "train.epochs=5"])
    result = compare([*bad, *good, *alone])
    assert [group.labels for group in result.groups] == [["A", "B", "C"], ["D", "E", "F"], ["G"]]
    (pair,) = result.group_pairs
    assert (pair.first, pair.second) == (["D", "E", "F"], ["A", "B", "C"])
    scores = [row.metrics["accuracy"] for row in result.runs]
    assert pair.welch == welch(scores[3:6], scores[:3])
    assert pair.significant == (pair.welch.p is not None and pair.welch.p < 0.05)
    text = shown(result, capsys)
    assert "D, E, F : A, B, C  The mean accuracy of D, E, F is" in text
    assert "Where settings were trained with one seed only" in text


# --- shown ----------------------------------------------------------------------------------------------------------


def test_probabilities_in_words() -> None:
    found = [percent(p) for p in (0.644, 0.0951, 0.0312, 0.00012, 0.00009, 1.0)]
    assert found == ["64 %", "10 %", "3.1 %", "0.012 %", "less than 0.01 %", "100 %"]


def test_many_runs_in_portions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dlf.display.compared import _parts

    labels = [command._label(place) for place in range(60)]
    assert len(set(labels)) == 60
    assert labels[25:27] == ["Z", "A1"]
    portions = _parts(labels, 80)
    assert [label for part in portions for label in part] == labels
    assert max(map(len, portions)) == 5
    assert len(_parts(labels, 10)) == 60


def test_the_command(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = runs(IRIS, [], ["seed=1"])
    words = ["compare", *(str(run.path) for run in found)]

    def dlf(*more: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main([*words, *more])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    assert dlf("--json", "--plot", str(tmp_path / "curves.png")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["differences"] == {"seed": {"A": 0, "B": 1}}
    assert result["pairs"][0]["cells"].keys() == {"both", "only_first", "only_second", "neither"}
    assert result["pairs"][0]["verdict"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert dlf("--split", "test", "--plot", "curves.jpg") == 2, "before the test set is looked at"
    assert ".png, .svg, .pdf" in capsys.readouterr().err
    assert "test_looks" not in found[0].read_info()


def test_curves_show_every_record() -> None:
    records = [
        {"epoch": e, "train_loss": 2.0**-e, "val_loss": 3.0**-e, "train_accuracy": 0.5, "val_accuracy": 0.6}
        for e in (1, 2, 3)
    ]
    broken = [{"epoch": 1, "train_loss": 1.0, "val_loss": None, "train_accuracy": 0.1}]
    page = curves.curves({"A  one": records, "B  two": broken, "C  none": []}, "accuracy")
    loss, accuracy = page.axes
    assert [list(map(float, np.asarray(line.get_ydata()))) for line in loss.lines] == [
        [0.5, 0.25, 0.125],
        [1 / 3, 1 / 9, 1 / 27],
        [1.0],
    ]
    assert [list(map(int, np.asarray(line.get_xdata()))) for line in accuracy.lines] == [[1, 2, 3], [1, 2, 3], [1]]
    assert loss.get_yscale() == "log"
    assert accuracy.get_yscale() == "linear"
    assert [line.get_linestyle() for line in loss.lines] == [":", "-", ":"]
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["A  one", "B  two", "C  none", "validation", "training"]


def test_the_same_curves_are_the_same_bytes(tmp_path: Path) -> None:
    records = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "train_mae": 0.5, "val_mae": 0.6}]
    for name in ("a.svg", "b.svg"):
        curves.draw_curves({"A": records}, "mae", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
