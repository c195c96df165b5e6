"""The two sides of a comparison, BASE and HEAD, and values that both have."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

SIDES = ("base", "head")

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Both(Generic[T]):
    """A value of BASE and one of HEAD."""

    base: T
    head: T

    @classmethod
    def of(cls, value: Callable[[str], T]) -> "Both[T]":
        """Return the values of a function of the side's name."""
        return cls(value("base"), value("head"))

    def map(self, function: Callable[[T], S]) -> "Both[S]":
        """Return a function's value of each side."""
        return Both(function(self.base), function(self.head))

    @classmethod
    def parse(cls, data: Mapping[str, Any], parse: Callable[[Any], T]) -> "Both[T]":
        """Return the parsed values of a JSON object with a member for each side."""
        return cls(parse(data["base"]), parse(data["head"]))

    def __getitem__(self, side: str) -> T:
        value: T = getattr(self, side)
        return value


def log_ratio(values: Both[float]) -> float:
    """Return ln(HEAD / BASE)."""
    return math.log(values.head / values.base)
