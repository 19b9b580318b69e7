"""`dlf train` itself, its command line and its run directory included; only its display is listened to.

The variant is `float32` for that precision, "" for the default, or `everything` for float32 with 5,000 samples held out
and measured each epoch: what a user's run does besides stepping. `epochs` are the seconds that metrics.jsonl tells, the
loop alone as for everyone else; `whole_epochs` also hold validation, checkpoints, metrics and display.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.data import synthetic
from benchmarks.task import Task, Watch, perform

HELD_OUT = 5000


class Listener:
    """Everything that dlf's own display is told goes on to it; what the watch needs is noted."""

    def __init__(self, display: Any, watch: Watch) -> None:
        self.display = display
        self.watch = watch
        self.whole: list[float] = []
        self.runs: list[Path] = []
        self.began = 0.0
        watch.more["whole_epochs"] = self.whole

    def message(self, text: str) -> None:
        """Goes on."""
        self.display.message(text)

    def start(self, run: Any, config: Any, experiment: Any, state: Any) -> None:
        """The first epoch begins."""
        self.runs.append(run.path)
        self.experiment, self.state = experiment, state
        self.display.start(run, config, experiment, state)
        self.began = time.perf_counter()

    def step(self, state: Any) -> None:
        """Only the first is of interest."""
        self.watch.stepped()
        self.display.step(state)

    def epoch(self, record: Mapping[str, Any], best: bool) -> None:
        """One epoch is done, saved and shown; the test set is measured before the next one begins."""
        from dlf.engine import evaluate

        self.display.epoch(record, best)
        self.whole.append(time.perf_counter() - self.began)
        self.watch.epochs.append(record["seconds"])
        self.watch.tested(evaluate(self.state.network, self.experiment, self.experiment.data.test)["accuracy"])
        self.began = time.perf_counter()

    def end(self) -> None:
        """Goes on."""
        self.display.end()


def held_out(task: Task) -> int:
    """Samples of the training part that are measured each epoch and not trained on."""
    return min(HELD_OUT, task.samples // 10) if task.variant == "everything" else 0


def settings(task: Task) -> dict[str, Any]:
    """The experiment file."""
    _, *hidden, _ = task.shape.widths
    archive = synthetic(task.data)
    where = {"type": "npz", "path": str(archive)} if archive else {"type": "mnist", "root": task.data}
    train = {"epochs": task.epochs, "device": task.device} | ({"precision": "float32"} if task.variant else {})
    return {
        "name": f"benchmark-{task.network}",
        "seed": task.seed,
        "data": where | {"limit": task.samples, "validation": held_out(task), "batch_size": task.shape.batch},
        # JAX and Keras start from the same distribution
        "model": {
            "activation": "relu",
            "init": "xavier_uniform",
            "layers": [{"type": "linear", "units": units} for units in hidden],
        },
        "optimizer": {"type": "adam", "lr": 0.001},
        "train": train,
    }


def train(task: Task, watch: Watch) -> None:
    """Run the command with a display that listens."""
    import dlf.__main__ as command  # what the script `dlf` imports
    from dlf import display

    config = Path(task.scratch) / "experiment.yaml"  # JSON is YAML
    config.write_text(json.dumps(settings(task)), encoding="utf-8")
    made, listeners = display.training, []

    def training(**options: Any) -> Listener:
        listeners.append(Listener(made(**options), watch))
        return listeners[0]

    display.training = training
    try:
        command.main(["train", str(config), "--runs-dir", str(Path(task.scratch) / "runs"), "--json"])
    except SystemExit as end:
        if end.code:
            raise
    if len(watch.accuracies) != task.epochs:  # dlf goes on without a display that fails
        sys.exit("dlf gave up the display that listens: its protocol has changed")
    info = json.loads((listeners[0].runs[0] / "run.json").read_text(encoding="utf-8"))
    watch.more |= {key: info.get(key) for key in ("precision", "threads", "device_name", "cpu_capability")}
    watch.more["trained_samples"] = task.samples - held_out(task)


if __name__ == "__main__":
    perform(train, "dlf", "torch")
