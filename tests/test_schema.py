"""What is proven of the JSON Schema: it is valid, it says everything, and it and the loader agree.

The agreement is shown in both directions: what is drawn from the schema is accepted by the loader (and comes back equal
from YAML), and what the loader refuses is refused by the schema, as far as a schema can see it. Since every registered
component is drawn, with every parameter, this is also the round trip of every component.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from dlf import yaml12
from dlf.config import REGISTRIES, ExperimentConfig, json_schema, loads
from dlf.errors import ConfigError
from dlf.registry import Entry, InvalidError, Registry

SCHEMA = json_schema()
DEFINITIONS: Mapping[str, Any] = SCHEMA["$defs"]
VALIDATOR = Draft202012Validator(SCHEMA)
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
ENTRIES = [pytest.param(r, r.get(name), id=f"{r.kind}-{name}") for r in REGISTRIES for name in r.names()]


# --- values that a schema describes ---------------------------------------------------------------------------------


def drawn(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that `schema` allows; numbers stay below 10^30 and texts and lists short."""
    if "$ref" in schema:
        return referred(schema["$ref"].removeprefix("#/$defs/"))
    if "anyOf" in schema:
        return st.one_of([drawn(part) for part in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    return KINDS[schema["type"]](schema)


@functools.cache
def referred(name: str) -> st.SearchStrategy[Any]:
    if name == "dataset":  # a fallback; each may have one, and theirs are drawn by themselves
        return st.sampled_from(DEFINITIONS[name]["anyOf"][0]["enum"])
    return st.deferred(lambda: drawn(DEFINITIONS[name]))


def integers(schema: Mapping[str, Any]) -> st.SearchStrategy[int]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -(10**30) - 1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 10**30 + 1) - 1)
    return st.integers(low, high)


def numbers(schema: Mapping[str, Any]) -> st.SearchStrategy[float]:
    low, high = schema.get("minimum"), schema.get("maximum")
    return st.floats(
        min_value=schema.get("exclusiveMinimum", low),
        max_value=schema.get("exclusiveMaximum", high),
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_nan=False,
        allow_infinity=False,
    )


def texts(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    return st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else st.text(max_size=30)


def arrays(schema: Mapping[str, Any]) -> st.SearchStrategy[list[Any]]:
    if "prefixItems" in schema:
        return st.tuples(*map(drawn, schema["prefixItems"])).map(list)
    least = schema.get("minItems", 0)
    return st.lists(drawn(schema["items"]), min_size=least, max_size=schema.get("maxItems", least + 2))


def objects(schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    values = {key: drawn(value) for key, value in schema["properties"].items()}
    required = {key: values.pop(key) for key in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=values)


KINDS: dict[str, Callable[[Mapping[str, Any]], st.SearchStrategy[Any]]] = {
    "integer": integers,
    "number": numbers,
    "string": texts,
    "array": arrays,
    "object": objects,
    "boolean": lambda schema: st.booleans(),
    "null": lambda schema: st.none(),
}


def one(schema: Mapping[str, Any], condition: Callable[[Any], bool] = lambda value: True) -> Any:
    """The first value that is drawn and meets the condition; NoSuchExample where none does."""
    return find(drawn(schema), condition, settings=settings(phases=[Phase.generate]))


def own(registry: Registry[Any], entry: Entry[Any]) -> dict[str, Any]:
    """The definition of one component."""
    return dict(DEFINITIONS[f"{registry.kind}_{entry.name}"])


def nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in the schema."""
    if isinstance(schema, Mapping):
        yield schema
    parts = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for part in parts:
        yield from nodes(part)


# --- it is valid and complete ---------------------------------------------------------------------------------------


def test_it_is_valid_draft_2020_12() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMA)


def test_every_reference_leads_somewhere_and_every_definition_is_used() -> None:
    """jsonschema finds a dead reference only when a file happens to come by."""
    references = {node["$ref"].removeprefix("#/$defs/") for node in nodes(SCHEMA) if "$ref" in node}
    assert references == set(DEFINITIONS)


def test_no_titles_but_its_own() -> None:
    assert [node["title"] for node in nodes(SCHEMA) if isinstance(node.get("title"), str)] == ["dlf experiment"]


@pytest.mark.parametrize(("registry", "entry"), ENTRIES)
def test_a_component_has_its_name_its_description_and_every_parameter(
    registry: Registry[Any], entry: Entry[Any]
) -> None:
    kind, schema = DEFINITIONS[registry.kind], own(registry, entry)
    assert {"$ref": f"#/$defs/{registry.kind}_{entry.name}"} in kind["anyOf"]
    assert schema["description"].startswith(entry.summary)
    assert schema["properties"].keys() == entry.model.model_fields.keys()
    assert schema["additionalProperties"] is False
    for key, field in entry.model.model_fields.items():
        described = schema["properties"][key]
        assert described["description"], key
        if key == "type":
            assert described["const"] == entry.name
        elif field.is_required():
            assert key in schema["required"]
            assert entry.name not in kind["anyOf"][0]["enum"], "its bare name is not enough"
        else:
            assert "default" in described, key


def test_names_stand_alone_where_nothing_is_required() -> None:
    assert "relu" in DEFINITIONS["activation"]["anyOf"][0]["enum"]
    assert "linear" not in DEFINITIONS["layer"]["anyOf"][0]["enum"]  # units are required


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelSection", "TrainSection", ""])
def test_every_setting_of_a_section_is_described(name: str) -> None:
    section = DEFINITIONS[name] if name else SCHEMA
    assert section["additionalProperties"] is False
    for key, setting in section["properties"].items():
        assert setting["description"], key
        assert "default" in setting or key in section["required"], key


# --- it agrees with the loader --------------------------------------------------------------------------------------


def refused_by_schema(config: Any) -> bool:
    return not VALIDATOR.is_valid(config)


def accepted(registry: Registry[Any], value: Any) -> bool:
    try:
        registry.validate(value)
    except InvalidError:
        return False
    return True


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_files_are_valid(path: Path) -> None:
    VALIDATOR.validate(yaml12.parse(path.read_text(encoding="utf-8")).data)
    VALIDATOR.validate(loads(path.read_text(encoding="utf-8"), str(path)).config.dump())  # and resolved


# Faults in one place of a file that is otherwise right: in the text, with what stands there replaced.
RIGHT = "data: {type: iris, batch_size: 8}\nmodel: {layers: [{type: linear, units: 4}]}\ntrain: {epochs: 3}\n"
FAULTY = {
    "unknown key": ("epochs: 3", "epoch: 3"),
    "key in the wrong section": ("batch_size: 8", "epochs: 8"),
    "key of another component": ("batch_size: 8", "target: x"),
    "no data": ("data: {type: iris, batch_size: 8}\n", ""),
    "misspelt component": ("iris", "iriss"),
    "misspelt layer": ("linear", "linea"),
    "dotted path": ("linear", "torch.nn.Linear"),
    "text for a number": ("units: 4", "units: '4'"),
    "boolean for a number": ("units: 4", "units: true"),
    "YAML 1.1's octal": ("units: 4", "units: 04"),
    "nothing for a number": ("units: 4", "units: null"),
    "out of range": ("epochs: 3", "epochs: 0"),
    "share beyond 1": ("batch_size: 8", "validation: 1.5"),
    "a required parameter is missing": (", units: 4", ""),
    "no type": ("type: linear, ", ""),
    "one layer, not a list": ("[{type: linear, units: 4}]", "{type: linear, units: 4}"),
    "no such device": ("epochs: 3", "device: gpu"),
    "a list for a section": ("{epochs: 3}", "[epochs]"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_files_are_refused_by_both(name: str) -> None:
    right, wrong = FAULTY[name]
    assert RIGHT.count(right) == 1
    assert not refused_by_schema(yaml12.parse(RIGHT).data)
    text = RIGHT.replace(right, wrong)
    assert refused_by_schema(yaml12.parse(text).data)
    with pytest.raises(ConfigError):
        loads(text, "f.yaml")


@pytest.mark.parametrize(("registry", "entry"), ENTRIES)
def test_a_component_with_its_defaults_comes_back_equal(registry: Registry[Any], entry: Entry[Any]) -> None:
    required = {key: own(registry, entry)["properties"][key] for key in entry.model.model_fields if key != "type"}
    needed = {k: one(v) for k, v in required.items() if entry.model.model_fields[k].is_required()}
    assert_comes_back(registry, {"type": entry.name, **needed})


@pytest.mark.parametrize(("registry", "entry"), ENTRIES)
def test_whatever_the_schema_allows_is_accepted_and_comes_back_equal(
    registry: Registry[Any], entry: Entry[Any]
) -> None:
    @settings(max_examples=8)
    @given(drawn(own(registry, entry)))
    def check(value: dict[str, Any]) -> None:
        assert_comes_back(registry, {"type": entry.name, **value})

    check()


@pytest.mark.parametrize("name", ["ModelSection", "TrainSection"])
def test_sections_that_the_schema_allows_come_back_equal(name: str) -> None:
    key = {"ModelSection": "model", "TrainSection": "train"}[name]

    @settings(max_examples=20)
    @given(drawn(DEFINITIONS[name]))
    def check(value: dict[str, Any]) -> None:
        config = ExperimentConfig.model_validate({"data": "iris", key: value})
        again = ExperimentConfig.model_validate(yaml12.parse(config.to_yaml()).data)
        assert again == config

    check()


def assert_comes_back(registry: Registry[Any], value: Mapping[str, Any]) -> None:
    """The component of `value`, resolved, written and read, is the same and is written the same."""
    component = registry.validate(value)
    text = yaml12.dump(component.model_dump(mode="json"))
    again = registry.validate(yaml12.parse(text).data)
    assert again == component
    assert yaml12.dump(again.model_dump(mode="json")) == text


# --- the checks above can fail --------------------------------------------------------------------------------------


def sgd() -> tuple[Registry[Any], dict[str, Any]]:
    registry = next(registry for registry in REGISTRIES if registry.kind == "optimizer")
    return registry, copy.deepcopy(own(registry, registry.get("sgd")))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("lr", {"exclusiveMinimum": -1}),
        ("momentum", {"exclusiveMaximum": 2}),
        ("nesterov", {"type": "integer"}),
        ("decay", {"enum": ["weights", "biases"]}),
    ],
)
def test_a_schema_that_allows_too_much_is_found(key: str, change: Mapping[str, Any]) -> None:
    registry, schema = sgd()
    assert one(schema, lambda value: accepted(registry, value))
    schema["properties"][key].update(change)
    assert one(schema, lambda value: not accepted(registry, value))


def test_a_setting_that_is_lost_on_the_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _ = sgd()
    written = yaml12.dump
    monkeypatch.setattr(yaml12, "dump", lambda data: written({key: data[key] for key in data if key != "lr"}))
    assert_comes_back(registry, {"type": "sgd"})  # the default comes back by itself
    with pytest.raises(AssertionError):
        assert_comes_back(registry, {"type": "sgd", "lr": 0.5})
