"""Messages between processes: dataclasses as lines of JSON, tagged with their type."""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
TAG = "message"


class MessageError(ValueError):
    """A line is no message of the types expected."""


def encode(message: Any) -> bytes:
    """Return a dataclass as one line of JSON, which `decode` reads."""
    return json.dumps({TAG: type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes | str, *kinds: type[T]) -> T:
    """Return the message that a line holds.

    Args:
        line: What `encode` returned.
        kinds: The types that it may have.

    Raises:
        MessageError: It has none of them, or is damaged.
    """
    try:
        data = json.loads(line)
        tag = data.pop(TAG)
        kind = next(kind for kind in kinds if kind.__name__ == tag)
        return build(kind, data)
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise MessageError(f"not a message of {names}: {line[:80]!r}") from error


def build(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return the dataclass of which `dataclasses.asdict` made `data`; its fields may be dataclasses themselves.

    Raises:
        TypeError: A field is missing, or unknown.
    """
    hints = get_type_hints(kind)
    unknown = data.keys() - hints.keys()
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _value(hints[name], value) for name, value in data.items()})


def _value(hint: Any, value: Any) -> Any:
    """Return a field's value as its type hint has it. Numbers, text and what has no hint stay as JSON has them."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        (hint, *others) = [part for part in arguments if part is not type(None)]
        return value if value is None or others else _value(hint, value)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        items = [_value(arguments[0], item) for item in value]
        return tuple(items) if origin is tuple else items
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {name: _value(arguments[1], item) for name, item in value.items()}
    return value
