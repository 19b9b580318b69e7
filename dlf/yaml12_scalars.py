"""Scalars of YAML: what plain text means, and how a value is written so that it means the same to every reader.

Plain text is resolved by the core schema of YAML 1.2.2, section 10.3.2 (https://yaml.org/spec/1.2.2/), with one
deviation: 012 stays text, because readers of YAML 1.1 take it as octal.
"""

from __future__ import annotations

import math
import re

MAX_DIGITS = 100  # characters of a number; int() and str() refuse more than 4,300 digits
_TOO_LARGE = 10 ** (MAX_DIGITS - 1)  # the smallest integer that, with its sign, is longer

Scalar = str | int | float | bool | None

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: nothing can write it to a file

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((sign + word for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")


def resolve(text: str) -> Scalar:
    """What a plain scalar means; ValueError where it is a number too long to be meant."""
    if text in _WORDS:
        return _WORDS[text]
    for pattern, number in ((_INTEGER, int), (_OCTAL_OR_HEX, lambda digits: int(digits, 0)), (_FLOAT, float)):
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(f"a number of {len(text)} characters; at most {MAX_DIGITS} are read")
            value: int | float = number(text)
            if isinstance(value, int) and abs(value) >= _TOO_LARGE:
                raise ValueError(f"an integer of more than {MAX_DIGITS - 1} digits; that is too large")
            return value
    return text


_ALWAYS_TEXT = re.compile(r"(?:[^\W\d]|/)[\w./+()-]*(?: [\w./+()-]+)*")
_YAML_1_1_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def write(value: object) -> str:
    """The scalar as YAML, 1.0e-05 or "no"; ValueError where it could not be read back, TypeError for no scalar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        if abs(value) >= _TOO_LARGE:
            raise ValueError(f"an integer of more than {MAX_DIGITS - 1} digits cannot be written as YAML")
        return str(value)
    if isinstance(value, str):
        return _text(value)
    raise TypeError(f"{type(value).__name__} cannot be written as YAML: {value!r}")


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    digits, e, exponent = repr(float(value)).partition("e")
    return f"{digits}.0{e}{exponent}" if e and "." not in digits else digits + e + exponent  # 1e-05 is text in YAML 1.1


def _text(value: str) -> str:
    """Plain where every reader takes it as text, else in double quotes on one line."""
    if _ALWAYS_TEXT.fullmatch(value) and value.lower() not in _YAML_1_1_WORDS:
        return value
    if SURROGATE.search(value):
        raise ValueError(f"half of a surrogate pair cannot be written as YAML: {value!r}")
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(char)
    wide = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return names.get(char, wide)
