"""The list of runs and their removal: what is shown of every kind of run, how much is read, what is never removed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dlf import display, durable
from dlf.cli import main
from dlf.commands import runs as command
from dlf.commands.runs import Listing, list_runs, removable, remove
from dlf.errors import MachineError, RunError, UsageError
from dlf.history import outcome
from dlf.run import RunDirectory

NOW = datetime.fromisoformat("2026-11-23T12:00:00+00:00")
Make = Callable[..., Path]


def record(epoch: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "step": epoch, "train_loss": loss, "val_loss": loss, **more, "seconds": 2.0}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def make(runs: Path) -> Make:
    """`make(id, hours, losses, **info)`: a run started so many hours ago; an `info` that is None is left out."""

    def made(name: str, hours: float = 1, losses: tuple[float, ...] = (0.5, 0.25), **info: Any) -> Path:
        folder = runs / name
        folder.mkdir()
        records = [record(epoch, loss) for epoch, loss in enumerate(losses, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
        whole = {
            "id": name,
            "status": "completed",
            "started": (NOW - timedelta(hours=hours)).isoformat(),
            "planned_epochs": len(losses),
            "data": "digits",
            "requested_data": "digits",
            "monitor": "val_loss",
            "epochs": len(losses),
            **outcome(records, "val_loss"),
            **info,
        }
        (folder / "run.json").write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
        return folder

    return made


def ids(listing: Listing) -> list[str]:
    return [run.id for run in listing.runs]


# --- the list -------------------------------------------------------------------------------------------------------


def test_orders_and_filters(make: Make, runs: Path) -> None:
    make("a", 1, (0.5, 0.3, 0.4), seconds=9.0)
    make("b", 3, (0.5, 0.2), data="iris", status="diverged", seconds=10.0)
    make("c", 2, (0.9,), seconds=8.0)
    make("d", 30, (0.4, 0.1), monitor="val_accuracy", best={"val_accuracy": 0.1}, last={"val_accuracy": 0.9})
    make("e", 40, (0.4, 0.1), monitor="val_accuracy", best={"val_accuracy": 0.2}, last={"val_accuracy": 0.8})
    make("f", 50, best=None, last={"epoch": 1}, data=None)
    expected = {
        "started": "acbdef",
        "id": "abcdef",
        "best": "edbacf",  # accuracies, the highest first, then losses, the lowest first; f has none
        "last": "debacf",
        "epochs": "abdefc",  # of equal ones the last one started comes first
        "seconds": "bacdef",
        "data": "acdebf",
        "status": "acdefb",
    }
    assert set(expected) == set(command.ORDERS)
    for key, order in expected.items():
        assert "".join(ids(list_runs(runs, sort=key))) == order, key
    assert ids(list_runs(runs, status="diverged")) == ["b"]
    assert ids(list_runs(runs, data="iris")) == ["b"]
    assert ids(list_runs(runs, since="3h", now=NOW)) == ["a", "c", "b"]
    assert ids(list_runs(runs, since="2d", now=NOW)) == ["a", "c", "b", "d", "e"]
    assert ids(list_runs(runs, since="2026-11-23T09:30:00+00:00")) == ["a", "c"]
    limited = list_runs(runs, since="3h", limit=2, now=NOW)
    assert (ids(limited), limited.matching, limited.total) == (["a", "c"], 3, 6)


@pytest.mark.parametrize("words", [{"sort": "x"}, {"status": "x"}, {"since": "x"}, {"since": "7y"}, {"since": "-7d"}])
def test_words_that_mean_nothing(words: dict[str, str], runs: Path) -> None:
    with pytest.raises(UsageError, match=str(*words.values())):
        list_runs(runs, **words)  # type: ignore[arg-type]


def test_a_trained_run_is_listed_from_its_run_json(train: Any, tmp_path: Path) -> None:
    result = train({"data": {"type": "iris", "batch_size": 50}, "train": {"epochs": 3}})
    (tmp_path / "runs" / result.run / "metrics.jsonl").unlink()  # the list needs it no more
    (run,) = list_runs(tmp_path / "runs").runs
    assert (run.status, run.epochs, run.planned_epochs, run.data) == ("completed", 3, 3, "iris")
    assert run.seconds == pytest.approx(result.seconds)
    assert run.monitored("best") == result.best["val_loss"]
    assert run.last is not None
    assert run.last.items() <= result.last.items()
    assert {"epoch", "val_loss", "val_accuracy", "train_loss"} <= run.last.keys()


def test_a_run_that_is_trained_a_run_whose_process_died_and_an_older_dlf(make: Make, runs: Path) -> None:
    trained = make("trained", 1, (0.5, 0.2, 0.3), status="running", last=None, best=None, epochs=None)
    make("died", 2, (0.5, 0.4), status="running", best={"val_loss": 9.0}, last={"val_loss": 9.0}, epochs=1)
    make("older", 3, (0.7, 0.8), best=None, last=None, seconds=None, started=None, planned_epochs=None)
    with durable.locked(trained / ".lock"):
        found = {run.id: run for run in list_runs(runs).runs}
        assert ids(list_runs(runs, status="running")) == ["trained"]
        assert ids(list_runs(runs, status="stopped")) == ["died"]
    assert [found[name].status for name in ("trained", "died", "older")] == ["running", "stopped", "completed"]
    assert [found[name].epochs for name in ("trained", "died", "older")] == [3, 2, 2]
    assert [found[name].monitored("best") for name in ("trained", "died", "older")] == [0.2, 0.4, 0.7]
    assert [found[name].monitored("last") for name in ("trained", "died", "older")] == [0.3, 0.4, 0.8]
    assert found["died"].seconds == 4.0
    assert ids(list_runs(runs))[-1] == "older", "nobody knows when it was started"


def test_of_a_long_run_only_the_end_is_read(make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("long", 1, tuple(1 / (1 + i) for i in range(3000)), status="running")
    assert (folder / "metrics.jsonl").stat().st_size > 2**17
    (run,) = list_runs(runs).runs
    assert (run.epochs, run.monitored("last"), run.best, run.seconds) == (3000, 1 / 3000, None, None)
    records, whole = RunDirectory(folder).read_last_metrics()
    assert not whole
    assert records[0]["epoch"] == 3001 - len(records), "the first line, cut in two, is left out"


def test_a_last_line_that_is_being_written_is_not_read(make: Make, runs: Path) -> None:
    folder = make("a", status="running")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "val_')
    (run,) = list_runs(runs).runs
    assert run.epochs == 2


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths of all files that are opened and folders that are listed from now on."""
    seen: list[str] = []
    listening = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir"):
            seen.append(str(arguments[0]))

    sys.addaudithook(hook)  # there is no way to take it back
    yield seen
    listening.clear()


def test_of_each_run_one_file_is_opened_once(make: Make, runs: Path, opened: list[str]) -> None:
    for index in range(20):
        make(f"run-{index:02}")
    opened.clear()
    assert list_runs(runs).total == 20
    here = [path for path in opened if path.startswith(str(runs))]
    assert sorted(here) == sorted([str(runs), *(str(runs / f"run-{index:02}" / "run.json") for index in range(20))])


def test_junk_is_passed_over_and_counted(make: Make, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("good")
    (runs / "file.txt").write_text("x")
    (runs / "empty").mkdir()
    for name, text in {"list": b"[]", "cut": b'{"a": ', "bytes": b"\xff\xfe", "deep": b"[" * 100_000}.items():
        (runs / name).mkdir()
        (runs / name / "run.json").write_bytes(text)
    (runs / "broken").symlink_to(runs / "nowhere")
    (runs / ".hidden").mkdir()
    listing = list_runs(runs)
    assert (ids(listing), listing.total, listing.skipped) == (["good"], 1, 7)
    display.show_runs(listing, NOW)
    assert capsys.readouterr().out.endswith("7 other entries are no runs: no run.json that can be read\n")


@pytest.mark.parametrize("value", [None, [], {}, True, "1e999", "\x1b[2J", -5, 1e300, {"epoch": {}}, {"val_loss": []}])
def test_whatever_a_run_json_holds_is_listed(
    value: Any, make: Make, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("status", "started", "data", "monitor", "best", "last", "epochs", "planned_epochs", "seconds")
    for key in keys:
        make(f"odd-{key}", **{key: value})
    (runs / "none").mkdir()
    (runs / "none" / "run.json").write_text("{}")
    for sort in command.ORDERS:
        listing = list_runs(runs, sort=sort)
        assert listing.total == len(keys) + 1
        display.show_runs(listing, NOW)
    assert "\x1b" not in capsys.readouterr().out


def test_true_is_no_number(make: Make, runs: Path) -> None:
    make("odd", epochs=True, seconds=True, best={"val_loss": True})
    (run,) = list_runs(runs).runs
    assert (run.epochs, run.seconds, run.monitored("best")) == (None, None, None)


def test_a_folder_that_is_missing_or_none(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = list_runs(runs / "missing")
    assert (missing.total, missing.skipped) == (0, 0)
    display.show_runs(missing)
    assert "`dlf train digits` makes one" in capsys.readouterr().out
    (runs / "file").touch()
    with pytest.raises(RunError, match=r"file cannot be read: Not a directory\. Name a folder with --runs-dir"):
        list_runs(runs / "file")


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "36s"), (0.5, "30m"), (23.9, "23h"), (24, "1d"), (27.9 * 24, "27d"), (28 * 24, "4w"), (-1, "0s")],
)
def test_age(hours: float, text: str) -> None:
    from dlf.display.listed import age

    assert age((NOW - timedelta(hours=hours)).isoformat(), NOW) == text


def test_the_table(make: Make, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make("mnist-20261123-101500-3f2a", 2, (0.5, 0.25, 0.375))
    make("iris-20261120-101500-3f2b", 74, (0.5,), status="interrupted", planned_epochs=100, seconds=None, data="iris")
    display.show_runs(list_runs(runs, limit=2), NOW)
    assert capsys.readouterr().out == (
        "run                         age  status       data      best    last  epochs   time\n"
        "mnist-20261123-101500-3f2a   2h  completed    digits  0.2500  0.3750     3/3  6.00s\n"
        "iris-20261120-101500-3f2b    3d  interrupted  iris    0.5000  0.5000   1/100\n"
        "\n"
        "2 runs below " + str(runs) + "; best and last are val_loss\n"
    )
    make("other-20261120-101500-3f2b", 80, monitor="train_loss")
    display.show_runs(list_runs(runs, limit=2), NOW)
    table = capsys.readouterr().out
    assert table.endswith(
        f"3 runs below {runs}; best and last are val_loss\n2 of them are shown; --limit 0 shows all\n"
    )
    display.show_runs(list_runs(runs), NOW)
    table = capsys.readouterr().out
    assert "data    monitor       best" in table, "not all monitor the same"
    assert table.endswith(f"3 runs below {runs}\n")


@pytest.mark.parametrize("width", [80, 60, 30])
def test_the_table_fits(width: int, make: Make, runs: Path) -> None:
    from dlf.display.listed import _columns, _fitting

    make("mnist-20261123-101500-3f2a", status="interrupted")
    listing = list_runs(runs)
    texts = {name: [name, *map(text, listing.runs)] for name, text in _columns(NOW).items()}
    names = _fitting(texts, width)
    assert "run" in names
    assert {"status", "best"} <= set(names)
    taken = sum(max(map(len, texts[name])) + 2 for name in names) - 2
    assert taken <= width or len(names) == 3


# --- removal --------------------------------------------------------------------------------------------------------


def dlf(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_rm_with_yes_says_what_was_removed(make: Make, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a-1", "a-2", "b"):
        (make(name) / "checkpoints").mkdir()
        (runs / name / "checkpoints" / "large").write_bytes(b"\0" * 2**20)
    size = RunDirectory(runs / "b").size()
    assert 2**20 < size < 2**20 + 2000
    assert dlf("runs", "rm", "b", "--yes", "--runs-dir", runs) == 0
    assert capsys.readouterr().out == "removed b, 1 MiB\n"
    assert dlf("runs", "rm", runs / "a-1", "a-1", "a-2", "--yes", "--json", "--runs-dir", runs) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert [run["id"] for run in removed] == ["a-1", "a-2"]
    assert list(runs.iterdir()) == []


def test_rm_asks(make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    assert dlf("runs", "rm", "a", "--runs-dir", runs) == 2, "nobody to ask"
    assert "no terminal to ask at. Give --yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    for answer, left in ((False, True), (True, False)):
        monkeypatch.setattr("typer.confirm", lambda text, err, a=answer: a)
        assert dlf("runs", "rm", "a", "--runs-dir", runs) == 0
        assert (runs / "a").exists() is left
        out, err = capsys.readouterr()
        assert "a  " in err, "what is to be removed, and its size"
        assert ("nothing was removed" in err) is left
        assert ("removed a" in out) is not left


def test_nothing_is_removed_where_one_is_refused(make: Make, runs: Path, tmp_path: Path) -> None:
    make("good")
    busy, outside = make("busy"), tmp_path / "elsewhere" / "run"
    shutil.copytree(busy, outside)
    (runs / "link").symlink_to(outside)
    with pytest.raises(RunError, match="symbolic link to a run, which is not followed"):
        removable(["good", "link"], runs)
    with pytest.raises(UsageError, match="outside of"):
        removable(["good", str(outside)], runs)
    with pytest.raises(UsageError, match="outside of"):
        removable([str(runs / "good" / ".." / ".." / "elsewhere" / "run")], runs)
    with pytest.raises(RunError, match="no run 'other'"):
        removable(["good", "other"], runs)
    with durable.locked(busy / ".lock"):
        assert dlf("runs", "rm", "good", "busy", "--yes", "--runs-dir", runs) == 4
        with pytest.raises(RunError, match="in use by process"):  # one that began after the question was asked
            RunDirectory(busy).remove()
    assert {path.name for path in runs.iterdir()} == {"good", "busy", "link"}
    assert outside.is_dir()


def test_what_links_lead_to_stays(make: Make, runs: Path, tmp_path: Path) -> None:
    folder = make("a")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x" * 10_000)
    (folder / "to-folder").symlink_to(tmp_path / "precious")
    (folder / "to-file").symlink_to(tmp_path / "precious" / "file")
    assert RunDirectory(folder).size() < 5000
    remove(removable(["a"], runs), runs)
    assert list(runs.iterdir()) == []
    assert (tmp_path / "precious" / "file").exists()


def test_a_removal_that_is_cut_off_leaves_no_run(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a")
    make("b")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(MachineError, match=r"\.a\.removed: Permission denied\. It is no run any more"):
            remove(removable(["a"], runs), runs)
    left = runs / ".a.removed"
    assert (left / "run.json").exists(), "whole, but hidden"
    assert ids(list_runs(runs)) == ["b"]
    assert list_runs(runs).skipped == 0
    assert RunDirectory.find("latest", runs).id == "b"
    for name in ("a", ".a", ".a.removed"):
        with pytest.raises(RunError, match="no run"):
            RunDirectory.find(name, runs)
    make("a")  # a run of the same name, and what was left of the first goes with the second
    remove(removable(["a"], runs), runs)
    assert [path.name for path in runs.iterdir()] == ["b"]
    shutil.copytree(runs / "b", left)
    link = runs / ".link.removed"
    link.symlink_to(runs.parent)
    remove(removable(["b"], runs), runs)
    assert list(runs.iterdir()) == [link], "also what others left, but no link"


def test_looking_at_the_lock_disturbs_no_training(make: Make, runs: Path) -> None:
    """A list holds the lock for an instant: who wants to train tries again."""
    folder = make("a")
    (folder / ".lock").touch()
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.02, os.close, [descriptor])
    timer.start()
    with RunDirectory(folder).locked():
        assert RunDirectory(folder).is_trained_now()
    timer.join()
    assert not RunDirectory(folder).is_trained_now()


def test_list_options_before_rm_are_refused(make: Make, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    assert dlf("runs", "--runs-dir", runs, "rm", "a", "--yes") == 2
    assert "write them behind it" in capsys.readouterr().err
    assert (runs / "a").exists()


def test_the_commands(make: Make, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    for index in range(25):
        make(f"b-{index}")
    assert dlf("runs", "--runs-dir", runs, "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert len(listing["runs"]) == 26
    assert listing["runs"][0]["best"]["val_loss"] == 0.25
    assert dlf("runs", "--runs-dir", runs) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 20 + 1 + 2
    assert dlf("runs", "--runs-dir", runs, "--limit", "0") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 26 + 1 + 1
    assert dlf("runs", "--sort", "x") == 2
