"""Components: how one is registered, how its YAML is derived from its signature, and what is said when it is wrong.

A component is one decorated function. Its positional parameters are run-time objects (tensors, shapes, generators),
its keyword-only parameters are the keys of the YAML:

    @ACTIVATIONS.register("leaky_relu")
    def leaky_relu(x: Tensor, *, slope: NonNegativeFloat = 0.01) -> Tensor:
        '''max(x, 0) + slope * min(x, 0), elementwise; same shape as x. Maas et al., 2013.'''

From the signature follow the validated parameters, the line in the JSON Schema and the words of the error messages.
In YAML a component is its name (`loss: mse`) or a mapping with `type` and its parameters.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)
from pydantic.types import Strict
from pydantic_core import CoreSchema, core_schema

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# YAML knows lists only; everything else stays strict: no "64" for 64, no true for 1, no 1.5 for an integer.
Pair = Annotated[tuple[T, T], Strict(False)]
Share = Annotated[float, Field(ge=0, lt=1)]  # a share in [0, 1): a dropout rate, a smoothing

Path = tuple[str | int, ...]


def _describe(schema: dict[str, Any], section: type[BaseModel]) -> None:
    """Add to a section's JSON Schema the texts that stand below its settings in the source.

    pydantic can do it (use_attribute_docstrings), and reads the source whenever a section is defined: 40 ms each start.
    """
    for owner in section.__mro__:
        if vars(sys.modules[owner.__module__]).get(owner.__name__) is owner:  # written there, not made from a signature
            for name, text in _texts(owner).items():
                schema["properties"].get(name, {}).setdefault("description", text)


@cache
def _texts(section: type) -> dict[str, str]:
    """The strings behind annotated names in the body of a class."""
    if not issubclass(section, Section):
        return {}
    [definition] = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        setting.target.id: inspect.cleandoc(text.value.value)
        for setting, text in pairwise(definition.body)
        if isinstance(setting, ast.AnnAssign) and isinstance(setting.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


class Section(BaseModel):
    """A mapping of the experiment file: unknown keys are refused, nothing is converted, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        json_schema_extra=_describe,
    )


@cache  # asked in every step, by the schedule
def _own_fields(component: type[Component]) -> tuple[str, ...]:
    """Fields without those of a registry's base, which the assembly reads and the function never sees."""
    base = component.__mro__[1]
    shared = set(base.model_fields) if issubclass(base, Component) else {"type"}
    return tuple(name for name in component.model_fields if name not in shared)


class Component(Section):
    """The validated parameters of one component; `type` is the name that it was registered under."""

    type: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword-only arguments of the registered function, by name."""
        return {name: getattr(self, name) for name in _own_fields(type(self))}


class Flaw(NamedTuple):
    """One thing wrong at `path`: `at_key` when the key itself is, `wants_text` when its value should have been text."""

    path: Path
    message: str
    at_key: bool = False
    wants_text: bool = False


class InvalidError(ValueError):
    """A value that does not validate, with every flaw in it."""

    def __init__(self, flaws: Iterable[Flaw]) -> None:
        self.flaws = tuple(flaws)
        super().__init__("; ".join(f"{'.'.join(map(str, flaw.path))}: {flaw.message}" for flaw in self.flaws))

    def below(self, *path: str | int) -> InvalidError:
        """The same flaws, seen from where `path` leads to this value."""
        return InvalidError(flaw._replace(path=(*path, *flaw.path)) for flaw in self.flaws)


def _settings(function: Callable[..., Any], *, eval_str: bool = False) -> list[inspect.Parameter]:
    """The keyword-only parameters."""
    parameters = inspect.signature(function, eval_str=eval_str).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


@dataclass(frozen=True)
class Entry(Generic[F]):
    """One registered component: kind, name, function, facts that the assembly reads, settings that the kind shares."""

    kind: str
    name: str
    function: F
    facts: Mapping[str, Any]
    base: type[Component]

    @cached_property
    def model(self) -> type[Component]:
        """The model of its YAML, made when it is asked for: those of all components take 60 ms at every start."""
        fields: dict[str, Any] = {"type": (Literal[self.name], self.name)}
        for parameter in _settings(self.function, eval_str=True):
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (parameter.annotation, default)
        summary = (inspect.getdoc(self.function) or "").split("\n\n", 1)[0]
        return create_model(f"{self.kind}_{self.name}", __base__=self.base, __doc__=summary, **fields)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def mentions(self, parameter: str) -> str:
        """The sentences of the docstring in which a parameter occurs; the first line where there are none."""
        words = " ".join((inspect.getdoc(self.function) or "").split())
        sentences = [text for text in re.split(r"(?<=\.) ", words) if re.search(rf"\b{parameter}\b", text)]
        return " ".join(sentences) or self.summary


class Registry(Generic[F]):
    """The components of one kind, by name, in the order in which they were registered."""

    def __init__(
        self,
        kind: str,
        base: type[Component] = Component,
        default: str | None = None,
        meant: Callable[[object], str] = lambda name: "",
    ) -> None:
        """`base` has the settings that all entries share; `meant` knows unknown names that belong elsewhere."""
        self.kind = kind
        self.base = base
        self.default = default
        self.meant = meant
        self._entries: dict[str, Entry[F]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[F], F]:
        """Add the decorated function under `name`; a malformed component is refused here, not when it is used."""

        def add(function: F) -> F:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            assert inspect.getdoc(function), f"{self.kind} {name!r} has no docstring: formula, shapes, source"
            for parameter in _settings(function):
                where = f"{self.kind} {name!r}: {parameter.name}"
                assert parameter.annotation is not parameter.empty, f"{where} has no type"
                assert parameter.name not in self.base.model_fields, f"{where} is taken"
            self._entries[name] = Entry(self.kind, name, function, facts, self.base)
            return function

        return add

    def names(self) -> list[str]:
        """The registered names, in order of registration."""
        return list(self._entries)

    def get(self, name: str) -> Entry[F]:
        """The entry of that name; KeyError, listing the known names, where there is none."""
        if name not in self._entries:
            raise KeyError(self.unknown(name))
        return self._entries[name]

    def build(self, component: Component, *runtime: Any) -> Any:
        """Call the function that `component` names with the run-time objects and its validated parameters."""
        return self.get(component.type).function(*runtime, **component.parameters)

    def make(self, name: str, **parameters: Any) -> Component:
        """The validated component `name` with these parameters: what YAML would have given."""
        return self.validate({"type": name, **parameters})

    def unknown(self, name: object) -> str:
        """What is said of a name that is not registered."""
        article = "an" if self.kind[0] in "aeio" else "a"
        known = ", ".join(sorted(self._entries))
        hint = self.meant(name) or did_you_mean(name, self._entries)
        return f"{shown(name)} is not {article} {self.kind}.{hint} Known: {known}"

    def validate(self, value: object) -> Component:
        """The component that a name or a mapping with `type` stands for; InvalidError with every flaw otherwise."""
        if isinstance(value, Component):
            assert isinstance(value, self.get(value.type).model), f"{value.type} is no {self.kind}"
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            expected = f"expected the name of one {self.kind} or a mapping with 'type', got {shown(value)}"
            raise InvalidError([Flaw((), expected)])
        name = value.get("type", self.default)
        if name is None:
            known = ", ".join(sorted(self._entries))
            raise InvalidError([Flaw((), f"'type' is missing: which {self.kind}? Known: {known}")])
        if not isinstance(name, str) or name not in self._entries:
            raise InvalidError([Flaw(("type",), self.unknown(name))])
        model = self.get(name).model
        try:
            return model.model_validate({**value, "type": name})
        except ValidationError as error:
            raise InvalidError(self._with_owners(name, flaw) for flaw in flaws(error, model)) from None

    def _with_owners(self, name: str, flaw: Flaw) -> Flaw:
        """A key that other entries of this kind know: say which, for it may be spelt right and `type` be wrong."""
        if not flaw.at_key or len(flaw.path) > 1:
            return flaw
        owners = [entry.name for entry in self._entries.values() if flaw.path[0] in entry.model.model_fields]
        own = ", ".join(_fields_at(self.get(name).model, ())[1:]) or "nothing but type"
        message = f"unknown key for {name}, which takes {own}; {flaw.path[0]!r} is for {', '.join(owners)}"
        return flaw._replace(message=message) if owners else flaw

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one component of this kind: a name, or a mapping with `type`."""
        mappings, names, definitions = [], [], {}
        for entry in self._entries.values():
            schema = schema_of(entry.model)
            definitions.update(schema.pop("$defs", {}))
            schema["properties"]["type"] = {"const": entry.name, "description": entry.summary}
            for name, parameter in schema["properties"].items():
                parameter.setdefault("description", entry.mentions(name))
            if entry.name != self.default:
                schema["required"] = ["type", *(key for key in schema.get("required", []) if key != "type")]
            definitions[entry.model.__name__] = schema
            mappings.append({"$ref": f"#/$defs/{entry.model.__name__}"})
            if all(key == "type" for key in schema.get("required", [])):  # usable by its bare name
                names.append(entry.name)
        return {"anyOf": [{"type": "string", "enum": names}, *mappings], "$defs": definitions}


def _dump(component: Component) -> dict[str, Any]:
    return component.model_dump(mode="json")


class one_of:  # noqa: N801 -- reads as an annotation: Annotated[Component, one_of(lambda: OPTIMIZERS)]
    """Annotation of a setting that holds one component of a registry, looked up when a value is validated.

    The late look-up is what lets a layer contain layers.
    """

    def __init__(self, registry: Callable[[], Registry[Any]]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: self.registry().validate(value),
            serialization=core_schema.plain_serializer_function_ser_schema(_dump),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {_PLACEHOLDER: self.registry().kind}


# pydantic follows every $ref that it meets, and those to registries lead to what it has not made
_PLACEHOLDER = "x-registry"


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of one section, without titles; components are references to #/$defs/KIND."""
    schema: dict[str, Any] = _finished(model.model_json_schema(ref_template="#/$defs/{model}"))
    return schema


def _finished(node: Any) -> Any:
    if isinstance(node, list):
        return [_finished(item) for item in node]
    if not isinstance(node, dict):
        return node
    reference = {"$ref": f"#/$defs/{node[_PLACEHOLDER]}"} if _PLACEHOLDER in node else {}
    kept = {key: value for key, value in node.items() if key != _PLACEHOLDER}
    if isinstance(kept.get("title"), str):  # pydantic's repetition of the key; a setting called title is a mapping
        del kept["title"]
    return {**reference, **{key: _finished(value) for key, value in kept.items()}}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ask whether the nearest known name was meant, with a leading space; "" where none is near."""
    near = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """A received value as an error message shows it: short, with its kind where the text alone would mislead."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(repr, list(value)[:3]))}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def flaws(error: ValidationError, model: type[BaseModel]) -> list[Flaw]:
    """What pydantic found, in our words and with the path of each flaw; nested `InvalidError`s are unfolded."""
    found: list[Flaw] = []
    for item in error.errors():
        path: Path = tuple(item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InvalidError):
            found += cause.below(*path).flaws
        elif item["type"] == "extra_forbidden":
            known = _fields_at(model, path[:-1])
            hint = did_you_mean(path[-1], known) or f" Known: {', '.join(known)}"
            found.append(Flaw(path, f"unknown key.{hint}", at_key=True))
        else:
            found.append(Flaw(path, _in_words(item), wants_text=item["type"] == "string_type"))
    return found


def _fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the section at `path` below `model` knows."""
    for step in path:
        annotation = model.model_fields[str(step)].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(part for part in candidates if isinstance(part, type) and issubclass(part, BaseModel))
    return [name for name in model.model_fields if name != "type" or issubclass(model, Component)]


_WORDS = {
    "missing": "is required and missing",
    "int_type": "expected an integer, got {got}",
    "int_parsing": "expected an integer, got {got}",
    "int_from_float": "expected an integer, got {got}",
    "float_type": "expected a number, got {got}",
    "bool_type": "expected true or false, got {got}",
    "string_type": "expected text, got {got}",
    "list_type": "expected a list, got {got}",
    "tuple_type": "expected a list, got {got}",
    "dict_type": "expected a mapping, got {got}",
    "model_type": "expected a mapping of settings, got {got}",
    "finite_number": "expected a finite number, got {got}",
    "none_required": "expected nothing (null), got {got}",
    "greater_than": "must be greater than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "string_pattern_mismatch": "does not match {pattern}, got {got}",
    "too_short": "needs at least {min_length} entries, got {actual_length}",
    "too_long": "takes at most {max_length} entries, got {actual_length}",
}

_YAML_1_1_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _in_words(item: Mapping[str, Any]) -> str:
    kind, received, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "literal_error":
        allowed = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        hint = did_you_mean(received, allowed)
        return f"expected one of {', '.join(allowed)}, got {shown(received)}{'.' + hint if hint else ''}"
    if kind == "value_error":
        return str(context["error"])
    words = _WORDS.get(kind, f"{item['msg']}, got {{got}}")
    text = words.format(got=shown(received), **context)
    if kind == "bool_type" and str(received).lower() in _YAML_1_1_BOOLEANS:
        text += f": in YAML 1.2 that is a word; write {_YAML_1_1_BOOLEANS[str(received).lower()]}"
    if kind == "string_type" and isinstance(received, int | float):
        text += ": in quotes it would be text"
    if kind in ("int_type", "float_type") and isinstance(received, str):
        text += _number_hint(received)
    return text


def _number_hint(text: str) -> str:
    """Why something that looks like a number is none."""
    digits = text.lstrip("+-")
    if re.fullmatch("0[0-9]{1,20}", digits):
        return f": a leading zero is octal to some readers; write {int(digits)}"
    if ":" in text and digits.replace(":", "").isdigit():
        return ": base 60 is not a number in YAML 1.2"
    try:
        float(text)
    except ValueError:
        return ""
    return ": in quotes it is text; write it without"
