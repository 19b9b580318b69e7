"""What is proven of dlf/registry.py: a signature becomes a validated component, and what is wrong is said in our words.

The generic tests run over every parameter of every registered component, whatever it is; the rest uses a toy registry
whose bounds are written here, so that every expected message follows from them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from dlf import registry as registry_module
from dlf.config import REGISTRIES
from dlf.registry import (
    Component,
    Entry,
    Flaw,
    InvalidError,
    Pair,
    Registry,
    Share,
    did_you_mean,
    one_of,
    shown,
)


class Base(Component):
    """A base with a setting that the function never sees."""

    shared: bool = False
    """For the assembly."""


ONE = [1.0]
TOYS: Registry[Callable[..., Any]] = Registry("toy", base=Base)


@TOYS.register("full", fact=3)
def full(
    x: object,
    *,
    count: PositiveInt,
    rate: Share = 0.5,
    size: Annotated[int, Field(le=9)] = 1,
    step: PositiveFloat = 1.0,
    flag: bool = True,
    word: Literal["left", "right"] = "left",
    text: str = "",
    pair: Pair[Share] = (0.1, 0.2),
    numbers: Annotated[list[float], Field(min_length=1, max_length=2)] = ONE,
    toy: Annotated[Component, one_of(lambda: TOYS)] | None = None,
) -> dict[str, Any]:
    """First line, with its rate.

    The step is explained here. Nothing about others.
    """
    return {"x": x, "count": count, "rate": rate, "pair": pair}


@TOYS.register("plain")
def plain(x: object, *, depth: int = 0) -> object:
    """Nothing but x."""
    return x


def flaws_of(value: object, registry: Registry[Any] = TOYS) -> list[Flaw]:
    with pytest.raises(InvalidError) as caught:
        registry.validate(value)
    return list(caught.value.flaws)


def message_of(value: object) -> str:
    (flaw,) = flaws_of(value)
    return flaw.message


# --- from a signature to a component --------------------------------------------------------------------------------


def test_a_name_is_a_mapping_with_type() -> None:
    assert TOYS.validate("plain") == TOYS.validate({"type": "plain"}) == TOYS.make("plain", depth=0)
    assert TOYS.validate("plain") != TOYS.make("plain", depth=1)


def test_parameters_are_the_keyword_only_ones() -> None:
    assert TOYS.make("plain", depth=2, shared=True).parameters == {"depth": 2}


def test_build_calls_with_runtime_objects_and_parameters() -> None:
    made = TOYS.build(TOYS.make("full", count=3, pair=[0, 0.5]), "x")
    assert made == {"x": "x", "count": 3, "rate": 0.5, "pair": (0, 0.5)}


def test_a_component_stays_itself() -> None:
    component = TOYS.make("plain")
    assert TOYS.validate(component) is component


def test_the_default_type_may_be_left_out() -> None:
    registry: Registry[Callable[..., Any]] = Registry("toy", default="plain")
    registry.register("plain")(plain)
    assert registry.validate({"depth": 3}).type == "plain"
    assert [flaw.path for flaw in flaws_of({"depth": 3})] == [()]  # without a default: 'type' is missing


def test_components_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TOYS.make("plain").depth = 3  # type: ignore[attr-defined]


def test_get_lists_the_known_names() -> None:
    assert TOYS.get("full").facts["fact"] == 3
    with pytest.raises(KeyError, match=re.escape("'fulll' is not a toy. Did you mean 'full'? Known: full, plain")):
        TOYS.get("fulll")


def test_summary_and_mentions() -> None:
    entry = TOYS.get("full")
    assert entry.summary == "First line, with its rate."
    assert entry.mentions("rate") == "First line, with its rate."
    assert entry.mentions("step") == "The step is explained here."
    assert entry.mentions("flag") == entry.summary  # nowhere named: the first line


def _undocumented(x: object) -> None: ...


def _untyped(x: object, *, a=1) -> None:  # type: ignore[no-untyped-def]
    """Has a parameter without a type."""


def _taken(x: object, *, shared: bool = True) -> None:
    """Has a parameter that the base has too."""


def _twice(x: object) -> None:
    """Fine, but for its name."""


@pytest.mark.parametrize(
    ("function", "name", "why"),
    [
        (_undocumented, "new", "no docstring"),
        (_untyped, "new", "a has no type"),
        (_taken, "new", "shared is taken"),
        (_twice, "plain", "registered twice"),
    ],
)
def test_a_malformed_component_is_refused_when_it_is_registered(
    function: Callable[..., Any], name: str, why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        TOYS.register(name)(function)
    assert TOYS.names() == ["full", "plain"]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_no_source_is_searched_for_models_that_have_none(
    registry: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a schema reads any, that of sections which were written: Python would look through every loaded module."""
    read: list[type] = []
    real = inspect.getsource

    def noted(section: type) -> str:
        read.append(section)
        return real(section)

    monkeypatch.setattr(inspect, "getsource", noted)
    registry_module._texts.cache_clear()
    models = {registry.get(name).model for name in registry.names()}
    assert not read
    registry.json_schema()
    assert registry.base in read
    assert not models & set(read)


# --- what is said of a wrong value ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 0, "must be greater than 0, got 0"),
        ("count", "3", "expected an integer, got '3': in quotes it is text; write it without"),
        ("count", "012", "expected an integer, got '012': a leading zero is octal to some readers; write 12"),
        ("count", "1:30", "expected an integer, got '1:30': base 60 is not a number in YAML 1.2"),
        ("count", "many", "expected an integer, got 'many'"),
        ("count", 1.5, "expected an integer, got 1.5"),
        ("count", 1.0, "expected an integer, got 1.0"),
        ("count", True, "expected an integer, got true"),
        ("count", None, "expected an integer, got nothing (null)"),
        ("count", [1, 2], "expected an integer, got a list of 2"),
        ("rate", 1, "must be less than 1.0, got 1"),
        ("rate", -0.1, "must be at least 0.0, got -0.1"),
        ("rate", float("nan"), "expected a finite number, got nan"),
        ("rate", float("inf"), "expected a finite number, got inf"),
        ("rate", False, "expected a number, got false"),
        ("size", 10, "must be at most 9, got 10"),
        ("flag", "no", "expected true or false, got 'no': in YAML 1.2 that is a word; write false"),
        ("flag", "Yes", "expected true or false, got 'Yes': in YAML 1.2 that is a word; write true"),
        ("flag", 1, "expected true or false, got 1"),
        ("word", "rigth", "expected one of left, right, got 'rigth'. Did you mean 'right'?"),
        ("word", 3, "expected one of left, right, got 3"),
        ("text", 3, "expected text, got 3: in quotes it would be text"),
        ("text", {"a": 1}, "expected text, got a mapping with 'a'"),
        ("pair", 0.5, "expected a list, got 0.5"),
        ("pair", [0.5], "is required and missing"),
        ("pair", [0.5, 1.5], "must be less than 1.0, got 1.5"),
        ("pair", [0.1, 0.2, 0.3], "takes at most 2 entries, got 3"),
        ("numbers", [], "needs at least 1 entries, got 0"),
        ("numbers", [1, 2, 3], "takes at most 2 entries, got 3"),
        ("numbers", "12", "expected a list, got '12'"),
        ("toy", 3, "expected the name of one toy or a mapping with 'type', got 3"),
        ("toy", {}, "'type' is missing: which toy? Known: full, plain"),
        ("toy", "plan", "'plan' is not a toy. Did you mean 'plain'? Known: full, plain"),
    ],
)
def test_message(key: str, value: object, message: str) -> None:
    assert message_of({"type": "full", "count": 1, key: value}) == message


def test_every_flaw_is_found_at_once_with_its_path() -> None:
    inner = {"type": "full", "count": 0, "colour": 1}
    found = flaws_of({"type": "full", "rate": 2, "pair": [0, "x"], "toy": inner})
    assert {flaw.path for flaw in found} == {("count",), ("rate",), ("pair", 1), ("toy", "count"), ("toy", "colour")}
    assert [flaw.path for flaw in found if flaw.at_key] == [("toy", "colour")]


def test_unknown_key_names_the_nearest_or_all() -> None:
    assert message_of({"type": "plain", "dept": 1}) == "unknown key. Did you mean 'depth'?"
    assert message_of({"type": "plain", "colour": 1}) == "unknown key. Known: type, shared, depth"


def test_unknown_key_that_others_of_its_kind_have() -> None:
    expected = "unknown key for plain, which takes shared, depth; 'count' is for full"
    assert message_of({"type": "plain", "count": 1}) == expected


def test_flaws_seen_from_above() -> None:
    error = InvalidError([Flaw(("a",), "wrong", at_key=True)]).below("b", 0)
    assert error.flaws == (Flaw(("b", 0, "a"), "wrong", at_key=True),)
    assert str(error) == "b.0.a: wrong"


def test_did_you_mean_stays_silent_without_a_near_name() -> None:
    assert did_you_mean("Ad4m", ["sgd", "adam"]) == " Did you mean 'adam'?"
    assert did_you_mean("zebra", ["sgd", "adam"]) == ""


def test_long_values_are_shortened() -> None:
    assert len(shown("x" * 1000)) == 60
    assert shown({}) == "an empty mapping"


# --- every parameter of every component -----------------------------------------------------------------------------

ENTRIES = [pytest.param(r, r.get(name), id=f"{r.kind}-{name}") for r in REGISTRIES for name in r.names()]
NONSENSE: tuple[object, ...] = ({"a": {}}, [[]], object)
PYDANTIC = re.compile(r"Input should|valid |validation|pydantic|unpack|_type|\{.*\}")


def reported(registry: Registry[Any], entry: Entry[Any], key: str, value: object) -> list[Flaw]:
    """The flaws at `key`; required ones that are missing elsewhere are not looked at."""
    return [flaw for flaw in flaws_of({"type": entry.name, key: value}, registry) if flaw.path[:1] == (key,)]


@pytest.mark.parametrize(("registry", "entry"), ENTRIES)
def test_nonsense_is_refused_at_its_place_in_our_words(registry: Registry[Any], entry: Entry[Any]) -> None:
    for key in set(entry.model.model_fields) - {"type"}:
        for nonsense in NONSENSE:
            found = reported(registry, entry, key, nonsense)
            assert found, f"{key}: {nonsense!r} is taken"
            for flaw in found:
                assert not PYDANTIC.search(flaw.message), flaw


@pytest.mark.parametrize(("registry", "entry"), ENTRIES)
def test_numbers_are_neither_text_nor_boolean_nor_infinite(registry: Registry[Any], entry: Entry[Any]) -> None:
    """C6: never a silent conversion. Text and switches are for the parameters that hold them."""
    for key, field in entry.model.model_fields.items():
        for value in ("1", True, float("nan"), float("inf"), -float("inf")):
            takes_it = type(value).__name__ in str(field.annotation) or "Literal" in str(field.annotation)
            if key != "type" and not (takes_it and not isinstance(value, float)):
                assert reported(registry, entry, key, value), f"{key}: {value!r} is taken"


def test_the_check_of_words_notices_words_of_pydantic() -> None:
    with pytest.raises(ValidationError) as caught:
        TOYS.get("full").model.model_validate({"count": "x"})
    assert all(PYDANTIC.search(item["msg"]) for item in caught.value.errors())
