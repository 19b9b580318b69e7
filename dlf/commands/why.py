"""`dlf why`: a paired experiment that answers a question about deep learning with measured numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlf import shipped
from dlf.commands.summarize import find_experiment
from dlf.commands.train import threads
from dlf.config import Loaded, load
from dlf.errors import UsageError
from dlf.questions.results import Why
from dlf.questions.topics import Topic, find
from dlf.questions.trials import Listener, prepare, study

SEEDS = 5  # Student's factor is 2.8 for five, 4.3 for three: fewer seeds hide what more of them show
MOST_SEEDS = 1000


def why(topic: str, words: Sequence[str] = (), *, runs: Path, seeds: int = SEEDS, listener: Listener) -> Why:
    """Ask the topic of CONFIG, the first of `words` where it is no override, or of the topic's own experiments.

    Every setting is trained with `seeds` seeds, from the configuration's own on.
    """
    asked = find(topic)
    if not 2 <= seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds must be from 2, which have an interval, to {MOST_SEEDS}; got {seeds}")
    designed = [(loaded, *prepare(loaded, asked.ask, listener.message)) for loaded in _experiments(asked, words, runs)]
    first = designed[0][0].config.seed
    chosen = tuple(range(first, first + seeds))
    listener.begin(seeds * sum(len(design.variants) for _, _, design in designed))
    try:
        with threads(designed[0][0].config.train.threads):
            studies = tuple(
                study(subject, design, chosen, loaded.config.data.type, listener)
                for loaded, subject, design in designed
            )
    finally:
        listener.end()
    happened, because = designed[0][2].explain(studies)
    return Why(asked.name, asked.question, chosen, studies, happened, because)


def _experiments(topic: Topic, words: Sequence[str], runs: Path) -> list[Loaded]:
    """The user's experiment with its overrides, or the topic's own with theirs and then the user's."""
    config, overrides = (words[0], words[1:]) if words and "=" not in words[0] else (None, words)
    if config is not None:
        return [find_experiment(config, runs, overrides)]
    return [load(shipped.find(own.name), [*own.overrides, *overrides]) for own in topic.default]
