"""Every topic of `dlf why` in a shortened form: what it measures is what is said, whatever the verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache

import pytest

from dlf import display
from dlf.api import why
from dlf.commands.why import own_experiments
from dlf.errors import UsageError
from dlf.questions.design import Design
from dlf.questions.results import Study, Verdict, Why
from dlf.questions.topics import find, topics
from dlf.questions.trials import prepare
from dlf.run import to_json

NAMES = [topic.name for topic in topics()]
# three epochs: the shipped spiral warms up for two; of mnist, which no test downloads, its fallback
SHORT = ("train.epochs=3", "data.limit=240", "data.validation=0.3", "train.device=cpu", "data.download=false")


@cache
def short(topic: str) -> Why:
    """A topic asked of its own experiments, with two seeds."""
    words = [word for word in SHORT if word != "data.download=false" or topic == "activations"]
    return why(topic, None, *words, seeds=2)


def designs(topic: str) -> list[Design]:
    """What the topic designs for its own experiments."""
    words = [word for word in SHORT if word != "data.download=false" or topic == "activations"]
    return [prepare(loaded, find(topic).ask, lambda text: None)[1] for loaded in own_experiments(topic, words)]


def with_verdict(studies: Sequence[Study], verdict: Verdict) -> list[Study]:
    """The same measurements, judged otherwise."""
    return [
        replace(study, differences=tuple(replace(one, verdict=verdict) for one in study.differences))
        for study in studies
    ]


@pytest.mark.parametrize("topic", NAMES)
class TestEveryTopic:
    def test_every_setting_is_trained_with_every_seed(self, topic: str) -> None:
        result = short(topic)
        assert result.topic == topic
        assert result.question.endswith("?")
        assert result.seeds == (0, 1)
        assert len(result.studies) == len(find(topic).default)
        for study in result.studies:
            assert len(study.arms) == len({arm.label for arm in study.arms}) >= 2
            for arm in study.arms:
                assert [training.seed for training in arm.trainings] == [0, 1]
            assert study.differences
            assert study.charts

    def test_the_paragraphs_hold_the_measured_numbers(self, topic: str) -> None:
        """Of every claim about the headline the figures of both sides, or the difference with its interval."""
        result = short(topic)
        said = f"{result.happened} {result.because}"
        for study in result.studies:
            for one in study.differences:
                numbers = [study.shown(label, one.figure) for label in (one.first, one.second)]
                assert one.measured in said or all(number in said for number in numbers), one.said
        assert not re.search(r"\b(None|nan|inf)\b", said)

    def test_what_is_said_follows_the_verdict(self, topic: str) -> None:
        design, studies = designs(topic)[0], short(topic).studies
        told = {v: design.explain(with_verdict(studies, v)) for v in ("appears", "absent", "opposite")}
        assert len({happened for happened, _ in told.values()}) == 3

    def test_it_is_plain_data_and_fits_80_columns(self, topic: str, capsys: pytest.CaptureFixture[str]) -> None:
        result = short(topic)
        assert json.loads(to_json(asdict(result)))["studies"][0]["arms"]
        display.show_why(result)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{topic}: {result.question}"
        assert max(len(line) for line in lines if not line.startswith("ATTENTION")) <= 80


def test_the_topics_are_those_of_the_lesson() -> None:
    assert NAMES == [
        "activations",
        "batch_norm",
        "batch_size",
        "depth",
        "dropout",
        "early_stopping",
        "initialization",
        "learning_rate",
        "momentum",
        "normalization",
    ]


@pytest.mark.parametrize(("name", "nearest"), [("activation", "activations"), ("learnig_rate", "learning_rate")])
def test_a_wrong_topic_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean '{nearest}'.*batch_norm, batch_size"):
        find(name)
