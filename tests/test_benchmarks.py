"""The benchmark says what was measured: its statistics against numbers worked out by hand, the floor's work against
what torch counts for a real network, its processes by what they cost, and one whole run by the shape of its report.

No time is compared with a time: what is measured is the machine's business, what is made of it is ours.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command_line
from benchmarks import data, figures, growth, mapped, observing, parts, processes, report, rounds, saving, show
from benchmarks.figures import Run, Spread, Target, Verdict
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.floor import products, update
from benchmarks.peers.torch_resident import network
from benchmarks.task import NETWORKS, Network, Task, Watch
from dlf.datasets.idx import read_idx

# --- figures --------------------------------------------------------------------------------------------------------


def test_the_first_epoch_is_left_out_unless_it_is_the_only_one() -> None:
    seconds = [9.0, 1.0, 2.0, 6.0]
    assert figures.steady(seconds) == 2.0  # the middle of 1, 2, 6
    assert figures.steady(seconds) not in (median(seconds), mean(seconds[1:]))  # 4 with the first, 3 for a mean
    assert figures.steady([9.0]) == 9.0


def test_a_ratio_is_of_medians_and_its_spread_is_that_within_rounds() -> None:
    over, under = {0: 1.0, 1: 6.0, 2: 8.0}, {0: 2.0, 1: 3.0, 2: 10.0}
    found = figures.ratio(over, under)
    assert found == Spread(2.0, 0.5, 2.0)  # 6 / 3; the rounds give 0.5, 2, 0.8
    wrong = [median([0.5, 2.0, 0.8]), mean(over.values()) / mean(under.values())]  # the middle ratio; means
    assert all(found.median != other for other in wrong)
    assert found.high != max(over.values()) / min(under.values())  # a quotient of two different rounds


def test_a_round_that_one_of_two_missed_gives_no_ratio() -> None:
    assert figures.ratio({0: 4.0, 1: 1.0, 2: 4.0}, {1: 2.0, 2: 2.0}) == Spread(2.0, 0.5, 2.0)


def test_the_best_peer_has_the_least_median() -> None:
    # a has the least of all numbers and c the least mean (3); b the least median (2)
    series = {"a": {0: 1.0, 1: 4.0, 2: 5.0}, "b": {0: 2.0, 1: 2.0, 2: 9.0}, "c": {0: 3.0, 1: 3.0, 2: 3.0}}
    assert figures.least(series, ["a", "b", "c", "absent"]) == "b"
    assert figures.least(series, ["absent"]) is None


TARGET = Target("ours / theirs", "n/ours/epoch", ("n/a/epoch", "n/b/epoch"), limit=0.5, aim=0.4)


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.01, False)])
def test_a_target_is_met_up_to_its_limit(ours: float, met: bool) -> None:
    series = {"n/ours/epoch": {0: ours}, "n/a/epoch": {0: 5.0}, "n/b/epoch": {0: 2.0}}
    verdict = figures.judge(TARGET, series)
    assert verdict.ratio == Spread(ours / 2, ours / 2, ours / 2)
    assert (verdict.under, verdict.met) == ("n/b/epoch", met)


def test_a_bound_puts_the_floor_in_the_place_of_dlf() -> None:
    target = figures.Target("a", "n/ours/epoch", ("n/a/epoch",), 1.0, None, ("n/start", "n/floor"))
    series = {"n/ours/epoch": {0: 3.0}, "n/a/epoch": {0: 4.0}, "n/start": {0: 0.5, 1: 0.7}, "n/floor": {0: 1.0}}
    assert figures.judge(target, series).bound == pytest.approx((0.6 + 1.0) / 4.0)
    del series["n/floor"]
    assert figures.judge(target, series).bound is None


@pytest.mark.parametrize("series", [{}, {"n/ours/epoch": {0: 1.0}}, {"n/a/epoch": {0: 1.0}}])
def test_what_was_not_measured_is_neither_met_nor_missed(series: figures.Series) -> None:
    verdict = figures.judge(TARGET, series)
    assert (verdict.ratio, verdict.met) == (None, None)


def test_what_a_process_printed_becomes_figures() -> None:
    printed = {
        "epochs": [3.0, 1.0, 2.0],
        "whole_epochs": [4.0, 2.0, 2.0],
        "trained_samples": 50,
        "samples": 100,
        "accuracies": [0.9, 0.95],
        "to_97": None,
        "first_step": 2.5,
    }
    found = figures.figures_of(printed)
    expected = {"first_epoch": 3.0, "epoch": 1.5, "sample": 0.015, "whole_sample": 0.04, "accuracy": 0.95}
    assert {name: found[name] for name in expected} == expected
    series = figures.collect([Run("small", "x", 1, printed)])
    assert series["small/x/first_step"] == {1: 2.5}
    assert "small/x/to_97" not in series  # never reached: no number stands for it


def test_the_floor_is_the_faster_products_and_the_update() -> None:
    parts = {"float32": [5.0, 4.0, 9.0], "bfloat16": [2.0, 3.0, 7.0], "update": [1.0, 1.0, 2.0]}
    found = figures.figures_of({"parts": parts})
    assert found["floor"] == 4.0  # 3 + 1; 6 with the other precision, 3 without the update
    assert found["float32"] == 5.0


def test_every_target_is_about_what_is_measured() -> None:
    names = {peer.name for peer in PEERS} | {"floor", "dlf-everything"}
    for target in figures.targets():
        for key in (target.over, *target.under):
            place, name, _ = key.split("/")
            assert name in (names if place in NETWORKS else rounds._COMMANDS), key
        assert target.aim is None or target.aim < target.limit


# --- the report -----------------------------------------------------------------------------------------------------


def test_a_table_is_markdown_that_the_eye_can_read() -> None:
    assert report.table(("who", "s"), [("dlf", "1.5"), ("another", "10")]) == (
        "| who     |   s |\n|---------|----:|\n| dlf     | 1.5 |\n| another |  10 |"
    )


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (12.345, "12.35"), (0.9871, "0.987"), (1.0, "1.00")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert report.number(value) == text


def test_verdicts_are_in_words() -> None:
    found = [
        Verdict(TARGET, Spread(0.5, 0.4, 0.6), "n/b/epoch", 0.25),
        Verdict(TARGET, Spread(0.6, 0.4, 0.7), "n/b/epoch"),
        Verdict(TARGET, None, ""),
    ]
    lines = report.targets_table(found).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["ours / theirs (b)", "0.500 (0.400-0.600)", "at most 0.5, aim 0.4", "met", "0.250"],
        ["ours / theirs (b)", "0.600 (0.400-0.700)", "at most 0.5, aim 0.4", "not met", "-"],
        ["ours / theirs", "-", "at most 0.5, aim 0.4", "not measured", "-"],
    ]


def test_the_table_of_a_network_starts_with_the_quickest() -> None:
    series = {"small/dlf/epoch": {0: 2.0}, "small/jax/epoch": {0: 3.0}, "small/floor/floor": {0: 1.0}}
    lines = [line.split("|")[1:4] for line in report.network_table(series, "small").splitlines()[2:]]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["floor: products and update alone", "1.00 (1.00-1.00)", "0.500"],
        ["dlf", "2.00 (2.00-2.00)", "1.00"],
        ["JAX, one `lax.scan` an epoch", "3.00 (3.00-3.00)", "1.50"],
    ]


# --- the work -------------------------------------------------------------------------------------------------------


def test_the_watch_stops_when_it_is_enough() -> None:
    watch = Watch(started=0.0, accuracies=[0.9, 0.97, 0.96], reached=[1.0, 2.0, 3.0])
    assert watch.enough == 2.0
    assert Watch(started=0.0, accuracies=[0.9699], reached=[1.0]).enough is None


def test_a_task_travels_as_json() -> None:
    task = Task("wide", "data", "scratch", epochs=2, samples=10, seed=3, variant="float32", started=1.5)
    assert Task(**json.loads(task.dump())) == task
    assert task.shape.layers == [(784, 2048), (2048, 2048), (2048, 10)]


def test_synthetic_data_is_the_same_in_both_formats_and_read_as_dlf_reads_it(tmp_path: Path) -> None:
    data.make_synthetic(tmp_path, samples=40, test=20)
    found = data.read(str(tmp_path), 30)
    raw = tmp_path / "MNIST" / "raw"
    x, y, x_test, y_test = (read_idx((raw / name).read_bytes(), name) for name in data.FILES)
    assert np.array_equal(found.x, x.reshape(40, 784)[:30])
    assert np.array_equal(found.y, y[:30])
    assert np.array_equal(found.x_test, x_test.reshape(20, 784))
    assert np.array_equal(found.y_test, y_test)
    archive = data.synthetic(tmp_path)
    assert archive is not None
    with np.load(archive) as arrays:
        assert all(
            np.array_equal(arrays[name], part)
            for name, part in {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}.items()
        )
    assert data.synthetic(tmp_path / "MNIST") is None


def test_normalized_is_what_the_transforms_of_torchvision_do() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((data.MEAN,), (data.STD,))])
    expected = steps(images[0][..., None]).numpy()
    # both round three times, of numbers below 3: a few units in the last place, 2.4e-7 each
    assert np.abs(data.normalized(images) - expected).max() < 1e-6


SHAPE = Network((12, 7, 5, 3), 4)


def flops(step: Any) -> int:
    """The operations in matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def a_real_step() -> None:
    """Forward and backward of the network itself."""
    F.cross_entropy(network(SHAPE.widths)(torch.zeros(4, 12)), torch.tensor([0, 1, 2, 0])).backward()  # type: ignore[no-untyped-call]


def test_the_floor_multiplies_what_the_network_does() -> None:
    expected = flops(a_real_step)
    assert flops(products(SHAPE, torch.float32)) == expected
    assert flops(products(Network(SHAPE.widths, 5), torch.float32)) != expected
    layers = [inputs * outputs for inputs, outputs in SHAPE.layers]
    # what growth.py counts: three products a layer, but for the gradient of the images
    assert 2 * 4 * (3 * sum(layers) - layers[0]) == expected
    assert 2 * 4 * 3 * sum(layers) != expected


def test_the_floor_updates_as_many_numbers_as_the_network_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    adam = torch.optim.Adam

    def noted(parameters: list[nn.Parameter], **options: Any) -> torch.optim.Adam:
        seen.append(sum(parameter.numel() for parameter in parameters))
        return adam(parameters, **options)

    monkeypatch.setattr(torch.optim, "Adam", noted)
    update(SHAPE)()
    assert seen == [sum(parameter.numel() for parameter in network(SHAPE.widths).parameters())]


# --- processes ------------------------------------------------------------------------------------------------------


def ran(code: str, **options: Any) -> processes.Finished:
    return processes.run([sys.executable, "-c", code], os.environ, **({"limit_seconds": 60} | options))


def test_a_process_is_read_off() -> None:
    ended = ran("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (ended.code, ended.stdout, ended.stderr) == (3, "out\n", "err\n")


def test_the_peak_is_that_of_the_process_itself() -> None:
    # the starting process counts towards it, and that is pytest with torch: so measured from a small one
    code = """
import os, sys
from benchmarks.processes import run
for megabytes in (1, 200):
    words = [sys.executable, "-c", f"b'x' * ({megabytes} << 20)"]
    print(run(words, os.environ, limit_seconds=60).peak_bytes)
"""
    small, large = map(int, ran(code).stdout.split())
    assert large - small > 150 << 20  # 199 MiB more were written to; the interpreter's own differ by far less than 49


def test_the_starting_process_is_small() -> None:
    # or the memory of everyone would be at least its own
    code = "import sys, benchmarks.__main__; print({'torch', 'numpy'} & sys.modules.keys())"
    assert ran(code).stdout == "set()\n"
    assert ran(code.replace("print", "import numpy; print")).stdout == "{'numpy'}\n"


def test_a_process_is_killed_at_its_limit() -> None:
    assert ran("import time; time.sleep(60)", limit_seconds=0.2).code == -9


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_one(terminal: bool) -> None:
    ended = ran("import sys; print(sys.stderr.isatty()); sys.stderr.write('drawn')", terminal=terminal)
    assert (ended.stdout, ended.stderr) == (f"{terminal}\n", "drawn")


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (Peer("ghost", "", "peer", "floor", ("torch", "no_such_package")), "no_such_package is not installed"),
        (Peer("ghost", "", "peer", "no_such_file", ("json",)), "failed, and is left out: exit code 1"),
    ],
)
def test_who_cannot_take_part_is_left_out_with_a_line(
    peer: Peer, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PEERS", (peer,))
    lines: list[str] = []
    options = rounds.Options(tmp_path, repeats=1, only=("ghost",), networks=("small",), tell=lines.append)
    assert rounds.measure(options) == []
    [line] = lines
    assert said in line
    assert "ghost" in line


# --- whole runs -----------------------------------------------------------------------------------------------------


def benchmark(*words: str) -> None:
    """The command, small and on one core."""
    command = [sys.executable, "-m", "benchmarks", "--threads", "1", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=processes.ROOT)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A comparison of dlf and the bare loop, an epoch of 300 samples each."""
    folder = tmp_path_factory.mktemp("benchmark")
    words = ["--synthetic", "--samples", "300", "--repeats", "1", "--epochs", "1", "--networks", "small"]
    files = ["--json", str(folder / "found.json"), "--markdown", str(folder / "found.md")]
    benchmark(*words, "--only", "dlf-float32,bare,dlf-everything", *files)
    document: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return document | {"markdown": (folder / "found.md").read_text(encoding="utf-8")}


def test_a_run_measures_everyone(found: Mapping[str, Any]) -> None:
    results = {run["name"]: run["result"] for run in found["runs"]}
    assert list(results) == ["dlf-float32", "bare", "dlf-everything"]
    for result in results.values():
        assert len(result["epochs"]) == len(result["accuracies"]) == 1
        assert 0 < result["epochs"][0] < result["seconds"]
        assert 0 < result["first_step"] < result["seconds"]
        assert result["peak_bytes"] > 50 << 20  # torch alone is larger
        assert "torch" in result["versions"]
    assert results["dlf-float32"]["trained_samples"] == 300
    assert results["dlf-everything"]["trained_samples"] == 270
    assert results["dlf-everything"]["whole_epochs"][0] > results["dlf-everything"]["epochs"][0]
    assert results["dlf-everything"]["precision"] == "float32"


def test_a_run_judges_what_it_measured(found: Mapping[str, Any]) -> None:
    judged = {target["what"]: target["met"] for target in found["targets"]}
    assert len(judged) == len(figures.targets())
    assert [what for what, met in judged.items() if met is not None] == [
        "small: float32, dlf with everything around / bare loop"
    ]


def test_a_run_is_reported(found: Mapping[str, Any]) -> None:
    assert "300 synthetic samples" in found["markdown"]
    assert "### small: 784-512-256-10, batch 128" in found["markdown"]
    assert "| dlf, strict float32 " in found["markdown"]
    assert str(Path.home()) not in json.dumps(found)  # a report is published: no folder of this machine


def test_a_report_is_made_anew_from_its_numbers(
    found: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one file it is the report that was printed; the same file twice is twice as many rounds with equal medians."""
    path, both = tmp_path / "found.json", tmp_path / "both.json"
    path.write_text(json.dumps(dict(found)), encoding="utf-8")
    command_line.main(["show", str(path)])
    assert capsys.readouterr().out == found["markdown"]
    command_line.main(["--json", str(both), "show", str(path), str(path)])
    again = json.loads(both.read_text())
    assert len(again["runs"]) == 2 * len(found["runs"])
    assert again["targets"] == found["targets"]
    other = {**found, "machine": {**found["machine"], "cores": -1}}
    with pytest.raises(SystemExit, match="different machines"):
        show.together([found, other])


def test_the_table_for_readme_is_in_multiples_of_dlf() -> None:
    results = {"dlf": [9.0, 2.0], "jax": [9.0, 3.0], "lightning": [9.0, 2.5]}
    runs = [Run("small", name, 0, {"epochs": epochs, "samples": 10}) for name, epochs in results.items()]
    lines = report.for_readme({"runs": [run._asdict() for run in runs]}).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in lines]
    assert cells == [["dlf", "1.00"], ["Lightning", "1.25"], ["JAX, one `lax.scan` an epoch", "1.50"]]


def test_the_documents_hold_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables of README.md and benchmarks/README.md are those of the committed JSON."""
    folder = Path(command_line.__file__).parent
    command_line.main(["show", str(folder / "measured.json")])
    whole = capsys.readouterr().out.replace("\n### ", "\n#### ")  # one level below the document's own headings
    assert whole in (folder / "README.md").read_text(encoding="utf-8")
    command_line.main(["show", "--readme", str(folder / "measured.json")])
    assert capsys.readouterr().out in (folder.parent / "README.md").read_text(encoding="utf-8")


def test_growth_measures_its_cells(tmp_path: Path) -> None:
    cell = growth.Cell("width", width=16, samples=300, batch=32, seconds=0.05)
    result = growth.train(cell)
    assert result["parameters"] == 784 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert result["steps_per_epoch"] == 10
    assert 1 <= result["steps"] < 10
    text = growth.markdown([(cell, result)], 0.05)
    assert text.splitlines()[4].startswith("| width 16 ")


def test_the_parts_of_a_step_add_up() -> None:
    """Every operation is in one part, and the operations of a chain's step are found: its products and its update."""
    result = parts.train("small", "float32", 0.05)
    products, update, others = parts.parts(result["operations"])
    assert products > 0 < update
    assert math.isclose(products + update + sum(others.values()), sum(result["operations"].values()), rel_tol=1e-9)
    assert not [name for name in others if "mm" in name or "linear" in name or "adam" in name]
    (line,) = parts.markdown([result]).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "small, float32"
    whole, *each = map(float, cells[1:6])
    assert abs(whole - sum(each)) < 0.025  # five numbers, each rounded to 0.01


def test_mapped_measures_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "BLOCK", 128)  # three blocks, the last of 44
    folder = mapped.made(tmp_path / "small", 300)
    rows = [mapped.Row(folder, "load", seconds=0.01), mapped.Row(folder, "map", cold=True, seconds=0.01)]
    results = [mapped.train(row) for row in rows]
    assert [result["bytes"] for result in results] == [128 + 300 * 784] * 2
    assert all(result["samples"] % 128 == 0 < result["seconds"] for result in results)
    lines = mapped.markdown(list(zip(rows, results, strict=True))).splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["in memory", "read from the disk"]


@pytest.mark.parametrize(
    "words", [["--only", "keras"], ["--networks", "huge"], ["--repeats", "0"], ["growth", "--axes", "height"]]
)
def test_words_that_do_not_fit_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_line.main(words)
    assert end.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_saving_is_measured() -> None:
    settings = ["train.epochs=2", "train.threads=1", "train.device=cpu"]
    found = saving.measured("breast_cancer", settings)
    assert 2 <= found["saves"] <= 4, "last after each epoch, best where it was one"
    assert found["bytes"] > 0
    assert min(found[f"{what}_seconds"] for what in ("other", "pack", "write")) > 0
    assert "saving adds" in saving.markdown("breast_cancer", [found])


def test_what_the_doctor_costs_is_measured() -> None:
    settings = ["train.epochs=2", "train.threads=1", "train.device=cpu", "train.observe_every_steps=5"]
    found = observing.measured("breast_cancer", settings)
    steps = -(-387 // 32)  # 569 samples, of which a fifth are tested and 15 % of the others held out
    assert found["looks"] == 2 + sum(step % 5 == 0 and step % steps != 0 for step in range(1, 2 * steps + 1))
    assert 0 < found["verdict_seconds"] < found["whole_seconds"]
    assert 0 < found["looking_seconds"] < found["whole_seconds"]
    assert "the doctor adds" in observing.markdown("breast_cancer", [found])
