"""The Python API: what the commands do, as functions.

result = dlf.train("mnist", "train.epochs=3")     # a file, a shipped experiment or a mapping, and overrides
dlf.evaluate(result.run)["accuracy"]              # what `dlf evaluate` prints
trained = dlf.load(result.run)                    # the network and its preprocessing
trained.predict(images)                           # probabilities, (samples, classes)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlf import shipped, yaml12
from dlf.commands.check import CheckResult
from dlf.commands.check import check as check_experiment
from dlf.commands.compare import Comparison
from dlf.commands.compare import compare as compare_runs
from dlf.commands.evaluate import Split, evaluate_run, open_run
from dlf.commands.explain import Explanation, explain_what, start_of_experiment
from dlf.commands.explain import explain as explain_step
from dlf.commands.predict import answer
from dlf.commands.predict import predict as predict_files
from dlf.commands.report import report as report_run
from dlf.commands.reproduce import Reproduction
from dlf.commands.reproduce import reproduce as reproduce_run
from dlf.commands.resume import resume as resume_run
from dlf.commands.runs import Listed, list_runs
from dlf.commands.summarize import summarize_experiment
from dlf.commands.train import Display, TrainResult
from dlf.commands.train import train as train_experiment
from dlf.commands.why import SEEDS, own_experiments
from dlf.commands.why import why as ask
from dlf.config import Loaded, loads
from dlf.config import load as load_file
from dlf.data import Data
from dlf.doctor import diagnose_run
from dlf.engine import Experiment, TrainState
from dlf.findings import Finding
from dlf.model import Network, Summary
from dlf.questions.results import Figure, Training, Why
from dlf.run import Record, RunDirectory
from dlf.streamed import Streamed

Config = str | Path | Mapping[str, Any]


class Silent:
    """A display that shows nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def start(self, run: RunDirectory, config: Any, experiment: Experiment, state: TrainState) -> None:
        """Nothing."""

    def step(self, state: TrainState) -> None:
        """Nothing."""

    def epoch(self, record: Record, best: bool) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Trained:
    """A run's network with its preprocessing: give it samples as the data set holds them (bytes for images).

    `network(x)` is what the loss sees, `predict(x)` what a user wants. `data` holds the parts that it was trained on.
    """

    network: Network
    data: Data
    classes: tuple[str, ...] | None
    experiment: Experiment
    loss: str

    def predict(self, x: Tensor | Streamed) -> Tensor:
        """(n, classes) probabilities, or (n, targets) values in the data's units; x is (n, *shape), not normalized."""
        return answer(self.network, x, task=self.experiment.task, loss=self.loss)


def train(
    config: Config, *overrides: str, runs: str | Path = "runs", name: str | None = None, display: Display | None = None
) -> TrainResult:
    """Train an experiment in a new run directory below `runs`; `overrides` are "key.path=value" as on the command line.

    In a notebook its course is shown; elsewhere nothing is, unless `display` is given (dlf.api.Silent shows nothing).
    Raises DlfError (dlf/errors.py) where the command would end with an exit code.
    """
    given = [*overrides, *([f"name={name}"] if name else [])]
    return train_experiment(_load(config, given), runs=Path(runs), display=display or _usual_display())


def resume(
    run: str,
    *overrides: str,
    start: str | None = None,
    runs: str | Path = "runs",
    display: Display | None = None,
) -> TrainResult:
    """Go on where a run stopped, or from the checkpoint `start` (best, last, step-N); `train.epochs=N` extends it."""
    shown = display or _usual_display()
    return resume_run(RunDirectory.find(str(run), Path(runs)), overrides, start=start, display=shown)


def _usual_display() -> Display:
    if "IPython" in sys.modules:  # what is drawn costs an import that only a notebook needs
        from dlf.display import in_notebook, training

        if in_notebook():
            return training(quiet=False)
    return Silent()


def evaluate(
    run: str,
    *,
    split: Split = "test",
    checkpoint: str | None = None,
    predictions: str | Path | None = None,
    force: bool = False,
    runs: str | Path = "runs",
) -> Record:
    """What `dlf evaluate RUN --json` prints, as a mapping; `predictions` names a .csv or .npz file for each of them."""
    found, to = RunDirectory.find(str(run), Path(runs)), Path(predictions) if predictions is not None else None
    return evaluate_run(found, split=split, which=checkpoint, predictions_to=to, force=force)


def predict(
    run: str,
    *files: str | Path,
    as_is: bool = False,
    checkpoint: str | None = None,
    device: str | None = None,
    runs: str | Path = "runs",
) -> Record:
    """What `dlf predict RUN FILE... --json` prints, as a mapping; files that cannot be read are its `failures`."""
    found, names = RunDirectory.find(str(run), Path(runs)), [str(file) for file in files]
    return predict_files(found, names, which=checkpoint, device=device, as_is=as_is).result


def reproduce(
    run: str,
    *,
    device: str | None = None,
    keep: bool = False,
    runs: str | Path = "runs",
    display: Display | None = None,
) -> Reproduction:
    """Train a run again and compare every bit with what it kept; `keep` leaves the repeated run beside it."""
    found = RunDirectory.find(str(run), Path(runs))
    return reproduce_run(found, device=device, keep=keep, display=display or Silent())


def runs(folder: str | Path = "runs", **choice: Any) -> list[Listed]:
    """The runs of a folder, the last one started first; `choice` is what `commands.runs.list_runs` takes: sort, ..."""
    return list_runs(Path(folder), **choice).runs


def compare(*names: str, split: Split = "val", device: str | None = None, runs: str | Path = "runs") -> Comparison:
    """What differs between runs and whether one is better by more than noise; on `test` a look that is counted."""
    return compare_runs([RunDirectory.find(str(name), Path(runs)) for name in names], split=split, device=device)


def records(run: str, *, runs: str | Path = "runs") -> list[Record]:
    """The epochs of a run as metrics.jsonl has them: a mapping an epoch; what was no number is None."""
    return RunDirectory.find(str(run), Path(runs)).read_metrics()


def diagnose(run: str, *, runs: str | Path = "runs") -> list[Finding]:
    """What the doctor says of a run, finished or not: every finding with its number, failures first."""
    return diagnose_run(RunDirectory.find(str(run), Path(runs)))


def report(
    run: str,
    *,
    output: str | Path | None = None,
    split: Split = "val",
    checkpoint: str | None = None,
    runs: str | Path = "runs",
) -> Path:
    """Write what `dlf report RUN` writes, by default report.html in the run's directory; the file."""
    found, to = RunDirectory.find(str(run), Path(runs)), Path(output) if output is not None else None
    return Path(report_run(found, output=to, split=split, which=checkpoint).path)


def load(run: str, *, checkpoint: str | None = None, device: str | None = None, runs: str | Path = "runs") -> Trained:
    """The network of a run (id, unique prefix, path or `latest`) with the weights of its result, in evaluation mode."""
    opened = open_run(RunDirectory.find(str(run), Path(runs)), which=checkpoint, device=device)
    opened.network.eval()
    assert opened.config.loss is not None
    return Trained(opened.network, opened.data, opened.data.classes, opened.experiment, opened.config.loss.type)


def check(config: Config, *overrides: str) -> CheckResult:
    """What `dlf check` finds: `failed` counts the failures, `findings` holds each with its number and remedy."""
    return check_experiment(_load(config, list(overrides)))


def explain(
    what: Config,
    *overrides: str,
    sample: int = 0,
    unit: str | None = None,
    checkpoint: str | None = None,
    runs: str | Path = "runs",
) -> Explanation:
    """What `dlf explain` shows of an experiment or a run: one sample forward, back and through the update."""
    if isinstance(what, Mapping):
        return explain_step(start_of_experiment(_load(what, list(overrides))), sample=sample, unit=unit)
    return explain_what(str(what), overrides, Path(runs), sample=sample, unit=unit, which=checkpoint)


def summarize(config: Config, *overrides: str) -> Summary:
    """The architecture in numbers."""
    return summarize_experiment(_load(config, list(overrides)))


def why(topic: str, config: Config | None = None, *overrides: str, seeds: int = SEEDS) -> Why:
    """What `dlf why TOPIC` measures: of the topic's own experiments, or of `config`. `dlf why` lists the topics."""
    asked_of = own_experiments(topic, overrides) if config is None else [_load(config, list(overrides))]
    return ask(topic, asked_of, seeds=seeds, listener=_Unheard())


class _Unheard:
    """A listener of trainings that shows nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def begin(self, trainings: int) -> None:
        """Nothing."""

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def _load(config: Config, overrides: list[str]) -> Loaded:
    if isinstance(config, Mapping):
        return loads(yaml12.dump(dict(config)), "the mapping", overrides)
    return load_file(shipped.find(str(config)), overrides)
