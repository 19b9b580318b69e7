"""What only real processes show of the command line: signals, closed pipes, full disks, a traceback, what is loaded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dlf import __version__, api

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a process ended, and what it wrote."""

    code: int
    out: str
    err: str


def process(*words: str, code: str = "from dlf.cli import main; main()", **options: Any) -> subprocess.Popen[str]:
    """A command in a process of its own; both streams are pipes unless told otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **options.pop("env", {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", code, *words], text=True, env=environment, **streams)


def ended(running: subprocess.Popen[str]) -> Ended:
    out, err = running.communicate(timeout=60)
    return Ended(running.returncode, out or "", err or "")


def test_a_bug_ends_with_1_and_a_traceback() -> None:
    code = (
        "from dlf.commands import init; init.init = lambda *_: 1 / 0; from dlf.cli import main; main(['init', 'mnist'])"
    )
    failed = ended(process(code=code))
    assert failed.code == 1
    assert failed.err.startswith("Traceback")
    assert failed.err.endswith("ZeroDivisionError: division by zero\n")


def test_python_dash_m() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "dlf", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"dlf {__version__}\n"


LOADED = """
import sys
from dlf.cli import main
try:
    main()
finally:
    print(sorted({"torch", "numpy", "sklearn", "matplotlib"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--help"], {}),
        (["train", "--help"], {}),
        (["--version"], {}),
        ([], {"_DLF_COMPLETE": "complete_bash", "COMP_WORDS": "dlf tr", "COMP_CWORD": "1"}),
        ([], {"_DLF_COMPLETE": "complete_bash", "COMP_WORDS": "dlf train --device cpu --na", "COMP_CWORD": "4"}),
    ],
)
def test_help_and_completion_load_nothing_heavy(words: list[str], environment: dict[str, str]) -> None:
    found = ended(process(*words, code=LOADED, env=environment))
    assert found.code == 0
    assert found.err.splitlines()[-1] == "[]"
    if environment:
        assert found.out.strip() in ("train", "--name")


def test_a_command_that_loads_torch_is_seen_by_the_check_above() -> None:
    assert "'torch'" in ended(process("schema", code=LOADED)).err


@pytest.mark.fault("P6")
def test_a_reader_that_leaves_is_no_failure() -> None:
    running = process("schema")
    assert running.stdout is not None
    running.stdout.close()
    assert running.wait(timeout=60) == 0
    assert running.stderr is not None
    assert running.stderr.read() == ""
    running.stderr.close()


@pytest.mark.fault("P6")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_result_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        failed = ended(process("init", "mnits", stderr=full))
        assert (failed.code, failed.out) == (2, "")  # nobody can read the message; the code is right
        failed = ended(process("schema", stdout=full))
    assert failed.code == 5
    assert "No space left on device" in failed.err


LONG = """
data: {type: digits, batch_size: 32}
model: {layers: [{type: linear, units: 16}, dropout]}
train: {epochs: 2000, threads: 1}
"""


@pytest.mark.fault("P1")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_p1_stopped_by_a_signal_then_resumed_is_as_if_never_stopped(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 epochs few are done; stopped in epoch n and resumed up to n + 1 a run has the bytes of n + 1 epochs."""
    monkeypatch.chdir(tmp_path)
    Path("long.yaml").write_text(LONG)
    running = process("train", "long.yaml", "--json", cwd=Path.cwd())
    assert running.stderr is not None
    assert any(re.match(r"epoch +2/", line) for line in running.stderr)  # read until then
    running.send_signal(number)
    stopped = ended(running)
    (run,) = Path("runs").iterdir()
    assert (stopped.code, stopped.out) == (code, "")
    assert f"dlf train --resume {run}" in stopped.err
    assert "Traceback" not in stopped.err
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "interrupted"
    epochs = f"train.epochs={info['epochs'] + 1}"
    resumed = api.resume(str(run), epochs)
    straight = api.train("long.yaml", epochs, runs="straight")
    assert weights_and_metrics(Path(resumed.path)) == weights_and_metrics(Path(straight.path))


SHORT = "{data: {type: iris, batch_size: 32}, model: {layers: [{type: linear, units: 8}, dropout]}}"
NARROW = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "20", "FORCE_COLOR": "1"}


@pytest.mark.fault("P6")
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux'")
def test_p6_what_is_shown_where_changes_nothing_of_what_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.yaml").write_text(SHORT)
    settings = ("train.epochs=3", "train.threads=1", "train.device=cpu")
    plain = weights_and_metrics(Path(api.train("short.yaml", *settings, runs="plain").path))
    words = ("train", "short.yaml", *settings, "--runs-dir")
    closed = process(*words, "closed", preexec_fn=lambda: os.closerange(1, 3))
    with Path("/dev/full").open("w") as full:
        narrow = process(*words, "full", stdout=full, env=NARROW)
    # where the result cannot be written, the exit code says so; the run is complete all the same
    assert (ended(closed).code, ended(narrow).code) == (0, 5)
    for runs in ("closed", "full"):
        (run,) = Path(runs).iterdir()
        assert json.loads((run / "run.json").read_text())["status"] == "completed"
        assert weights_and_metrics(run) == plain


def weights_and_metrics(run: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """All that two runs of the same experiment share: everything but times."""
    folders = ("checkpoints/last", "checkpoints/best")
    tensors = [
        (run / folder / f"{name}.safetensors").read_bytes() for folder in folders for name in ("model", "optimizer")
    ]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = {"seconds", "samples_per_second"}
    return tensors, [{key: value for key, value in record.items() if key not in times} for record in records]


def test_runs_that_differ_are_seen_by_the_check_above(tmp_path: Path) -> None:
    config = {"data": "iris", "train": {"epochs": 1}}
    runs = [Path(api.train(config, f"seed={seed}", runs=tmp_path).path) for seed in (0, 1)]
    assert weights_and_metrics(runs[0]) != weights_and_metrics(runs[1])
