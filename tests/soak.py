"""Real trainings that are killed again and again, and go on: python tests/soak.py [--kills 200] [--seed N].

Each training is a process that dies of SIGKILL at a random moment of its life, or at a random one of its file
operations, and is resumed until it is done. Then its checkpoints and metrics must be, byte for byte, those of one
that nobody disturbed. In between, copies of the run are damaged, and each must be refused. Most processes are forked
from one that has imported everything, which takes two seconds each time; the others are started as a user starts them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

CONFIG = """
name: soak
data: {type: digits, batch_size: 64}
model: {layers: [{type: linear, units: 24}, batch_norm, {type: dropout, rate: 0.2}]}
schedule: cosine
train: {epochs: 4, device: cpu, threads: 1}
checkpoint: {every_steps: 7, keep: 2}
"""
OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")
TIMES = {"seconds", "samples_per_second"}
DAMAGED = 4  # the exit code of dlf for a run that is
FIGURES = (
    "kills",
    "kills of processes that were not forked",
    "kills before there was a run",
    "kills in the middle of a save",
    "processes",
    "trainings",
    "equal to the undisturbed one",
    "damaged copies",
    "damaged copies refused",
    "lost",
    "failed",
)


class Process:
    """`dlf WORDS`: started as a user would, or forked from this process."""

    def __init__(self, words: Sequence[str], log: Path, *, full: bool = False, dies_at: int = sys.maxsize) -> None:
        """dies_at: the file operation at which a forked one kills itself."""
        self._popen = None
        with log.open("ab") as said:
            if full:
                self._popen = subprocess.Popen([sys.executable, "-m", "dlf", *words], stdout=said, stderr=said)
                self.pid = self._popen.pid
            elif pid := os.fork():
                self.pid = pid
            else:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                _live(words, dies_at, log.with_name("operations"))

    def kill(self) -> None:
        """SIGKILL; nothing where it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        return self._popen.wait() if self._popen else os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _live(words: Sequence[str], dies_at: int, count: Path) -> None:
    """The life of a forked process; how many file operations it had is written to `count`."""
    from dlf.cli import main

    done = [0]
    for name in OPERATIONS:
        setattr(os, name, _counted(getattr(os, name), done, dies_at))
    code = 1
    try:
        main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        count.write_text(str(done[0]))
        sys.stderr.flush()
        os._exit(code)


def _counted(real: Any, done: list[int], dies_at: int) -> Any:
    def operation(*arguments: Any, **options: Any) -> Any:
        done[0] += 1
        if done[0] == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return operation


def outcome(run: Path) -> dict[str, Any]:
    """All that a run came to, times aside; RunError where a checkpoint is damaged."""
    from dlf import checkpoint
    from dlf.run import RunDirectory

    found: dict[str, Any] = {"config.yaml": (run / "config.yaml").read_bytes()}
    for folder in sorted((run / "checkpoints").glob("[!.]*")):
        checkpoint.read(folder)  # compares every byte with its manifest, which holds hashes of times
        found |= {f"{folder.name}/{file.name}": file.read_bytes() for file in folder.glob("*.safetensors")}
        state = json.loads((folder / "state.json").read_bytes())
        found[folder.name] = {key: value for key, value in state.items() if key not in TIMES}
    records = RunDirectory(run).read_metrics()
    return {**found, "metrics": [{key: value for key, value in r.items() if key not in TIMES} for r in records]}


def run_below(runs: Path) -> Path | None:
    """The run that a killed process left; None where it did not come so far."""
    return next((path.parent for path in runs.glob("*/run.json")), None)


class Soak:
    """Trainings in a folder, random moments, and the counts of what happened."""

    def __init__(self, folder: Path, share: float, chance: random.Random) -> None:
        self.folder, self.share, self.chance, self.counts = folder, share, chance, Counter[str]()
        (folder / "soak.yaml").write_text(CONFIG)
        self.seconds: dict[bool, float] = {}
        outcomes = []
        for full in sorted({share > 0, False}, reverse=True):
            began = time.monotonic()
            runs = folder / f"undisturbed-{full}"
            assert self.start(runs, full=full).wait() == 0, self.said()
            self.seconds[full] = time.monotonic() - began
            outcomes.append(outcome(self.run_of(runs)))
        self.operations = int((folder / "operations").read_text())
        self.expected = outcomes[0]
        assert outcomes[-1] == self.expected, "two trainings that nobody disturbed differ"

    def start(self, runs: Path, **how: Any) -> Process:
        """The command that begins a training, or goes on with it."""
        run = run_below(runs)
        words = ["--resume", str(run)] if run else [str(self.folder / "soak.yaml")]
        return Process(["train", *words, "--runs-dir", str(runs), "--quiet"], self.folder / "log", **how)

    def run_of(self, runs: Path) -> Path:
        run = run_below(runs)
        assert run is not None
        return run

    def train(self, runs: Path, kills: int) -> None:
        """One training, resumed until it is done; killed as long as there were fewer kills than that."""
        step = 0
        while (code := self.process(runs, kills)) == -signal.SIGKILL:
            self.counts["kills"] += 1
            if run := run_below(runs):
                step = self.look(run, step)
            else:
                self.counts["kills before there was a run"] += 1
        if code:
            self.counts["failed"] += 1
            print(f"exit code {code}: {self.said()}", file=sys.stderr)
            return
        self.counts["trainings"] += 1
        self.counts["equal to the undisturbed one"] += outcome(self.run_of(runs)) == self.expected

    def process(self, runs: Path, kills: int) -> int:
        """One process of a training, killed at some moment unless it ends before that; its exit code."""
        self.counts["processes"] += 1
        if self.counts["kills"] >= kills:
            return self.start(runs).wait()
        full = self.chance.random() < self.share
        if not full and self.chance.random() < 0.5:
            return self.start(runs, dies_at=self.chance.randint(1, self.operations)).wait()
        process = self.start(runs, full=full)
        time.sleep(self.chance.uniform(0, self.seconds[full]))
        process.kill()
        code = process.wait()
        self.counts["kills of processes that were not forked"] += full and code < 0
        return code

    def look(self, run: Path, step: int) -> int:
        """What a killed process left: whole, and not behind `step`; sometimes a copy is damaged. The step it is at."""
        from dlf import checkpoint
        from dlf.errors import RunError

        last = run / "checkpoints" / "last"
        self.counts["kills in the middle of a save"] += any(last.parent.glob(".*"))
        if not checkpoint.exists(last):
            self.counts["lost"] += step > 0
            return 0
        try:
            now = checkpoint.read(last).position.step
        except RunError as error:
            self.counts["lost"] += 1
            print(error, file=sys.stderr)
            return step
        self.counts["lost"] += now < step
        # a run that was killed after it was completed needs no checkpoint to answer that there is nothing to do
        running = json.loads((run / "run.json").read_bytes())["status"] == "running"
        if running and last.exists() and self.chance.random() < 0.2:
            self.damage(run)
        return now

    def damage(self, run: Path) -> None:
        """Change one bit of the newest checkpoint of a copy, or cut a file off, and resume the copy."""
        copy = self.folder / "damaged" / run.name
        shutil.copytree(run, copy)
        file = self.chance.choice(sorted((copy / "checkpoints" / "last").iterdir()))
        data = bytearray(file.read_bytes())
        place = self.chance.randrange(len(data))
        if self.chance.random() < 0.5:
            del data[place:]
        else:
            data[place] ^= 1 << self.chance.randrange(8)
        file.write_bytes(data)
        self.counts["damaged copies"] += 1
        code = self.start(copy.parent).wait()
        if code == DAMAGED:
            self.counts["damaged copies refused"] += 1
        else:
            print(f"{file} from byte {place} on: {code} {self.said()}", file=sys.stderr)
        shutil.rmtree(copy.parent)

    def said(self) -> str:
        """The last lines of all processes."""
        return (self.folder / "log").read_text()[-2000:]

    def verdict(self) -> bool:
        """Whether nothing was lost, all trainings ended alike, and no damage was accepted."""
        count = self.counts
        alike = count["trainings"] == count["equal to the undisturbed one"]
        return (
            alike and not count["lost"] + count["failed"] and count["damaged copies"] == count["damaged copies refused"]
        )


def main() -> int:
    """Kill, resume, compare, print the figures."""
    parser = argparse.ArgumentParser(prog="python tests/soak.py", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="processes to kill (200)")
    parser.add_argument("--full", type=float, default=0.2, help="share of processes that are not forked (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    given = parser.parse_args()
    import sklearn.datasets  # noqa: F401 -- imported for the processes that are forked
    import torch

    import dlf.commands.train
    import dlf.display  # noqa: F401

    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), given.full, random.Random(given.seed))
        for number in itertools.count():
            if soak.counts["kills"] >= given.kills:
                break
            soak.train(Path(folder) / f"{number}", given.kills)
    for what in FIGURES:
        print(f"{soak.counts[what]:>6}  {what}")
    print(f"{time.monotonic() - began:>6.0f}  seconds")
    return 0 if soak.verdict() else 1


if __name__ == "__main__":
    sys.exit(main())
