"""`--set KEY=VALUE`: a recipe with other values, typed by the fields of its dataclasses."""

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gan.errors import UsageError, nearest
from gan.methods.auxiliary import AUXILIARY_LOSSES, AuxiliaryLoss
from gan.methods.generator_penalties import GENERATOR_PENALTIES, GeneratorPenalty
from gan.methods.losses import LOSSES, AdversarialLoss
from gan.methods.penalties import PENALTIES, Penalty
from gan.models.architectures import ARCHITECTURES, Architecture
from gan.recipe_rules import broken_rule
from gan.recipes import Recipe

CHOICES: dict[Any, Mapping[str, Any]] = {
    Architecture: ARCHITECTURES,
    AdversarialLoss: LOSSES,
    Penalty: PENALTIES,
    AuxiliaryLoss: AUXILIARY_LOSSES,
    GeneratorPenalty: GENERATOR_PENALTIES,
}
"""The classes that a field of a protocol's type may be set to; besides these, the class that it has."""
BOOLS = {"true": True, "yes": True, "false": False, "no": False}
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class _Refused(ValueError):  # noqa: N818 - becomes a UsageError with the flag before it
    """A text is no value of a type; the message says what is allowed."""


@dataclass
class _Part:
    """A dataclass, or a tuple of so many items, taken apart.

    Attributes:
        kind: Its class.
        hints: The types of its fields, or of a tuple's items by their position.
        values: Of its fields; one that is a dataclass is a part itself. A class without a default lacks some.
    """

    kind: Any
    hints: Mapping[str, Any]
    values: dict[str, Any]


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with the values of some of its fields replaced.

    >>> from gan.recipes import RECIPES
    >>> row = with_settings(RECIPES["mlp"], ["optimizer.learning_rate=1e-4", "generator.widths=512,512"])
    >>> row.optimizer.learning_rate, row.generator.widths
    (0.0001, (512, 512))

    Args:
        recipe: A row.
        settings: Texts `key=value`; a key has the names of nested fields, with dots. The value is a number, `true`
            or `false`, a name, the name of a class, `none`, or several of these with commas for a tuple. A class
            takes its defaults, and for fields without one the values that were there before.

    Raises:
        UsageError: There is no such field, it does not take this value, or the recipe as a whole does not.
    """
    if not settings:
        return recipe
    root = _taken_apart(recipe, Recipe)
    for key, text in parsed_settings(settings).items():
        try:
            _assign(root, key.split("."), text)
        except _Refused as error:
            raise UsageError(f"--set {key}={text}: {error}") from None
    row: Recipe = _built(root, "", settings)
    if complaint := broken_rule(row):
        place, _, _ = complaint.partition(" ")  # of one value, or a part with a colon after it
        flags = _flags_of(place, settings) or _flags_of("", settings)
        raise UsageError(f"{flags}: {complaint}")
    return row


def parsed_settings(settings: Sequence[str]) -> dict[str, str]:
    """Return the text of each key; raise UsageError if one is no `key=value`, or is there twice."""
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise UsageError(f"--set {setting}: must be KEY=VALUE, as in optimizer.learning_rate=1e-4")
        if key in texts:
            raise UsageError(f"--set {setting}: {key} is set twice; give one value")
        texts[key] = text
    return texts


def takes_commas(recipe: Recipe, key: str) -> bool:
    """Say whether the values of a field are tuples, whose items are written with commas; raise UsageError."""
    part: Any = _taken_apart(recipe, Recipe)
    names = key.split(".")
    for number, name in enumerate(names):
        try:
            part = _part_with(part, names[: number + 1])
        except _Refused as error:
            raise UsageError(f"--set {key}: {error}") from None
        hint = part.hints[name]
        part = part.values.get(name)
    return any(get_origin(member) is tuple for member in _members(hint))


def _taken_apart(value: Any, hint: Any) -> Any:
    """Return a dataclass as a `_Part`, with its fields taken apart likewise; another value as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        names = [field.name for field in fields(value) if field.init]
        values = {name: _taken_apart(getattr(value, name), hints[name]) for name in names}
        return _Part(type(value), {name: hints[name] for name in names}, values)
    kinds = [member for member in _members(hint) if get_origin(member) is tuple]
    if isinstance(value, tuple) and len(kinds) == 1 and Ellipsis not in get_args(kinds[0]):
        (kind,) = kinds
        hints = {str(index): item for index, item in enumerate(_item_hints(kind, len(value)))}
        return _Part(tuple, hints, {name: _taken_apart(value[int(name)], hints[name]) for name in hints})
    return value


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _item_hints(kind: Any, count: int) -> Sequence[Any]:
    items = get_args(kind)
    return [items[0]] * count if items[1:] == (Ellipsis,) else items


def _part_with(part: Any, names: Sequence[str]) -> _Part:
    """Return a part, which must have a field of the last of `names`; the names before it lead to the part."""
    path = ".".join(names[:-1])
    if not isinstance(part, _Part):
        raise _Refused(f"{path} is {part!r}, which has no {names[-1]}")
    if names[-1] not in part.hints:
        hint = nearest(names[-1], part.hints) or f"; it has {', '.join(part.hints)}"
        owner = f"{path} ({part.kind.__name__})" if path else "a recipe"
        raise _Refused(f"{owner} has no {names[-1]}{hint}")
    return part


def _assign(root: _Part, names: Sequence[str], text: str) -> None:
    """Set the field that the names lead to."""
    part: Any = root
    for number, name in enumerate(names[:-1], 1):
        above = _part_with(part, names[:number])
        part = above.values.get(name)
        if part is None and name == "discriminator_optimizer":
            part = above.values[name] = copy.deepcopy(above.values["optimizer"])  # which D has until then
        classes = _classes(_members(above.hints[name]), part)
        if classes and not isinstance(part, _Part):
            path = ".".join(names[:number])
            raise _Refused(f"{path} is {part!r}; choose its class before: --set {path}={' or '.join(classes)}")
    part = _part_with(part, names)
    part.values[names[-1]] = _value(text, part.hints[names[-1]], part.values.get(names[-1]))


def _value(text: str, hint: Any, current: Any) -> Any:
    """Return the value of a text as a field's type has it; raise _Refused with what is allowed."""
    members = _members(hint)
    if NoneType in members and text.lower() == "none":
        return None
    classes = _classes(members, current)
    if text in classes:
        return _of_class(classes[text], current)
    allowed: list[str] = []
    for member in members:
        try:
            return _simple(text, member)
        except _Refused as error:
            allowed += [str(error)] if str(error) else []
    allowed += [*classes, *(["none"] if NoneType in members else [])]
    hint_of_name = nearest(text, [word for words in allowed for word in words.split(", ")])
    raise _Refused(f"must be {' or '.join(allowed) or 'set in a recipe file'}{hint_of_name}")


def _classes(members: Iterable[Any], current: Any) -> dict[str, Any]:
    classes: dict[str, Any] = {}
    for member in members:
        if isinstance(member, type) and is_dataclass(member):
            classes[member.__name__] = member
        classes |= CHOICES.get(member, {})
    if isinstance(current, _Part) and current.kind is not tuple:
        classes.setdefault(current.kind.__name__, current.kind)
    return classes


def _of_class(kind: Any, current: Any) -> _Part:
    """Return a class with its defaults; fields without one keep the value that was there."""
    hints = get_type_hints(kind)
    kept = current.values if isinstance(current, _Part) else {}
    values = {}
    settable = [field for field in fields(kind) if field.init]
    for field in settable:
        if field.default is not MISSING:
            values[field.name] = _taken_apart(field.default, hints[field.name])
        elif field.default_factory is not MISSING:
            values[field.name] = _taken_apart(field.default_factory(), hints[field.name])
        elif field.name in kept:
            values[field.name] = kept[field.name]
    return _Part(kind, {field.name: hints[field.name] for field in settable}, values)


def _simple(text: str, kind: Any) -> Any:
    """Return the value of a text as a type that is no dataclass; raise _Refused, empty if it never is a text."""
    origin = get_origin(kind)
    if kind is bool:
        if text.lower() not in BOOLS:
            raise _Refused("true or false")
        return BOOLS[text.lower()]
    if kind is int:
        if not re.fullmatch(r"[+-]?\d{1,15}", text):
            raise _Refused("a whole number")
        return int(text)
    if kind is float:
        if not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
            raise _Refused("a number")
        return float(text)
    if origin is tuple:
        return _tuple(text, kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        known = {str(value): value for value in (get_args(kind) if origin is Literal else kind)}
        if text not in known:
            raise _Refused(", ".join(known))
        return known[text]
    if kind is str:
        return text
    raise _Refused


def _tuple(text: str, kind: Any) -> tuple[Any, ...]:
    """Return the items of a text with commas; `none` and an empty text have no items."""
    texts = [] if text.lower() in ("", "none") else [item.strip() for item in text.removesuffix(",").split(",")]
    hints = _item_hints(kind, len(texts))
    if len(hints) != len(texts):
        raise _Refused(f"{len(hints)} values with commas")
    try:
        return tuple(_value(item, hint, None) for item, hint in zip(texts, hints, strict=True))
    except _Refused as error:
        raise _Refused(f"values with commas, each of which {error}") from None


def _flags_of(path: str, settings: Sequence[str]) -> str:
    """Return the options that set a part, or something in it; all of them for the recipe as a whole."""
    inside = [text for text in settings if not path or f"{text.partition('=')[0].strip()}.".startswith(f"{path}.")]
    return " ".join(f"--set {setting}" for setting in inside)


def _built(part: Any, path: str, settings: Sequence[str]) -> Any:
    """Put a part together again, and the parts in it before.

    Raises:
        UsageError: A class lacks a value, or refuses one.
    """
    if not isinstance(part, _Part):
        return part
    flags = _flags_of(path, settings)
    if lacks := [name for name in part.hints if name not in part.values and part.kind is not tuple]:
        prefix = f"{path}." if path else ""
        needed = " and ".join(f"--set {prefix}{name}=VALUE" for name in lacks)
        raise UsageError(f"{flags}: {part.kind.__name__} needs {', '.join(lacks)}; add {needed}")
    values = {
        name: _built(value, f"{path}.{name}" if path else name, settings) for name, value in part.values.items()
    }
    try:
        return tuple(values.values()) if part.kind is tuple else part.kind(**values)
    except (AssertionError, ArithmeticError, TypeError, ValueError) as error:
        message = " ".join(str(error).split()) or f"{part.kind.__name__} does not take these values"
        raise UsageError(f"{flags}: {message}") from None
