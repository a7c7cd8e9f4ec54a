"""Whether the values of a recipe's JSON are of their fields' types, and how to say what is not."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin


def quote(value: Any) -> str:
    """A value as a recipe spells it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> list[str]:
    """A message for every value that is not of its field's type; `hints` are resolved type hints by field."""
    messages = []
    for name, value in values.items():
        if not _matches(value, hints[name]):
            message = f"{name} is {quote(value)}: it must be {_describe(hints[name])}"
            if isinstance(value, str) and _matches(_unquoted(value), hints[name]):
                message += "; write it without quotes"
            messages.append(message)
    return messages


def _unquoted(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a Union. Beside an Enum, `str` is none: transformers spells its enums `Enum | str`."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    has_enum = any(isinstance(option, type) and issubclass(option, Enum) for option in options)
    return tuple(option for option in options if not (has_enum and option is str))


def _matches(value: Any, hint: Any) -> bool:
    options = _options(hint)
    if len(options) > 1:
        return any(_matches(value, option) for option in options)
    kind = options[0]
    if kind is Any:
        return True
    if kind in (None, types.NoneType):
        return value is None
    origin = get_origin(kind) or kind
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if origin is list:
        return isinstance(value, list) and all(_matches(item, get_args(kind)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if issubclass(origin, Enum):
        return any(value == choice.value for choice in origin)
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    # Exact, because True is an int to isinstance. Objects that JSON cannot spell never match.
    return type(value) is origin


_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "an object"}


def _describe(hint: Any) -> str:
    words = []
    for kind in _options(hint):
        origin = get_origin(kind) or kind
        if origin is Literal:
            words.append("one of " + ", ".join(quote(choice) for choice in get_args(kind)))
        elif origin is list:
            item = get_args(kind)[0]
            words.append("a list of strings" if item is str else f"a list of items that are each {_describe(item)}")
        elif kind in (None, types.NoneType):
            words.append("null")
        elif isinstance(origin, type) and issubclass(origin, Enum):
            words.append("one of " + ", ".join(quote(choice.value) for choice in origin))
        elif origin in _WORDS:
            words.append(_WORDS[origin])
    return " or ".join(words)
