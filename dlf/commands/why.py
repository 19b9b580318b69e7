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
from dlf.questions.topics import find
from dlf.questions.trials import Listener, prepare, study

SEEDS = 5  # Student's factor is 2.8 for five, 4.3 for three: fewer seeds hide what more of them show
MOST_SEEDS = 1000


def experiments(topic: str, words: Sequence[str], runs: Path) -> list[Loaded]:
    """What the words of a command line ask the topic of: CONFIG where the first is no override, else its own."""
    if words and "=" not in words[0]:
        find(topic)  # a wrong topic is refused first
        return [find_experiment(words[0], runs, words[1:])]
    return own_experiments(topic, words)


def own_experiments(topic: str, overrides: Sequence[str] = ()) -> list[Loaded]:
    """The experiments that a topic is asked of by default, with their settings and then these laid over them."""
    return [load(shipped.find(own.name), [*own.overrides, *overrides]) for own in find(topic).default]


def why(topic: str, asked_of: Sequence[Loaded], *, seeds: int = SEEDS, listener: Listener) -> Why:
    """Ask the topic of these experiments: every setting is trained with `seeds` seeds, from their own on."""
    asked = find(topic)
    if not 2 <= seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds must be from 2, of which there is an interval, to {MOST_SEEDS}; got {seeds}")
    config = asked_of[0].config
    chosen = tuple(range(config.seed, config.seed + seeds))
    with threads(config.train.threads):
        prepared = [(loaded, *prepare(loaded, asked.ask, listener.message)) for loaded in asked_of]
        listener.begin(seeds * sum(len(design.variants) for _, _, design in prepared))
        try:
            studies = tuple(
                study(subject, design, chosen, loaded.config.data.type, listener)
                for loaded, subject, design in prepared
            )
        finally:
            listener.end()
    _, _, first = prepared[0]
    happened, because = first.explain(studies)
    return Why(asked.name, asked.question, chosen, studies, happened, because)
