"""Looks at the test set are counted in run.json, each once, whoever else writes there at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Train

from dlf.commands.evaluate import evaluate_run
from dlf.errors import RunError
from dlf.run import RunDirectory

IRIS = {"data": "iris", "model": {"layers": [{"type": "linear", "units": 4}]}, "train": {"epochs": 1}}

# waits for a line, so that all begin together
LOOK = """
import sys
from pathlib import Path
from dlf.run import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for step in range(20):
    if sys.argv[2] == "train":
        run.write_info(status="running", step=step)
        run.write_evaluation("test", {"step": step})
    else:
        run.count_test_look(checkpoint=sys.argv[2], epoch=step, command="evaluate")
"""


def test_a_look_has_its_time_its_checkpoint_and_its_command(train: Train) -> None:
    run = RunDirectory(Path(train(IRIS).path))
    before = run.read_info()
    counts = [evaluate_run(run)["test_looks"], evaluate_run(run, which="last")["test_looks"]]
    assert counts == [1, 2]
    looks = run.test_looks()
    assert [(look["checkpoint"], look["epoch"], look["command"]) for look in looks] == [
        ("best", 1, "evaluate"),
        ("last", 1, "evaluate"),
    ]
    assert all(look["time"] >= before["started"] for look in looks)
    after = run.read_info()
    assert after.pop("test_looks") == looks
    assert after == before  # nothing else in run.json has changed


def test_the_validation_part_may_be_looked_at_as_often_as_one_likes(train: Train) -> None:
    run = RunDirectory(Path(train(IRIS).path))
    assert "test_looks" not in evaluate_run(run, split="val")
    assert run.test_looks() == []


def test_an_evaluation_that_fails_is_no_look(train: Train) -> None:
    run = RunDirectory(Path(train(IRIS).path))
    (run.best / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError):
        evaluate_run(run)
    assert run.test_looks() == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")
def test_no_look_is_lost_between_processes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_info(status="running", seed=3)
    names = ["best", "last", "train"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", LOOK, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        for name in names
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    for worker in workers:
        _, said = worker.communicate(timeout=60)
        assert worker.returncode == 0, said.decode()
    info = run.read_info()
    assert (info["seed"], info["step"]) == (3, 19)
    for name in ("best", "last"):
        assert [look["epoch"] for look in run.test_looks() if look["checkpoint"] == name] == list(range(20))
    assert json.loads((tmp_path / "evaluation-test.json").read_text()) == {"step": 19}


@pytest.mark.parametrize("looks", ["3", "[3]", '{"a": 1}', "null"])
def test_looks_that_were_edited_are_refused(looks: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(f'{{"test_looks": {looks}}}')
    with pytest.raises(RunError, match="test_looks is not a list of looks"):
        RunDirectory(tmp_path).count_test_look(checkpoint="best", epoch=1, command="evaluate")
    assert json.loads((tmp_path / "run.json").read_text()) == {"test_looks": json.loads(looks)}  # as it was
