"""What a tier of stability measures, beside its limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.results.finite import if_finite, number_or_none
from gan.files.text import significant


@dataclass(frozen=True)
class Check:
    """A measured value that has a limit.

    Attributes:
        tier: T0 to T4.
        name: What was measured.
        value: The measured value; NaN if it was not finite.
        limit: The largest value that passes. docs/stability.md says how it was derived.
        cause: The most likely cause of a value over the limit.
        reference: The value of fp32 in one eager process, if the limit is a multiple of it.
        undecided: Whether too little is known to pass or to fail.
    """

    tier: str
    name: str
    value: float
    limit: float
    cause: str
    reference: float | None = None
    undecided: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; NaN is not."""
        return self.value <= self.limit

    @property
    def failed(self) -> bool:
        """Whether the value is over its limit, and enough is known to say so."""
        return not self.passed and not self.undecided

    def complaint(self) -> str:
        """Return one line about a check that has not passed."""
        if self.undecided:
            return f"{self.tier} {self.name}: {self.cause}"
        value = if_finite(self.value, partial(significant, digits=2))
        return f"{self.tier} {self.name}: {value}, the limit is {significant(self.limit, 2)}: {self.cause}"

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON; a value or a reference that is not finite, or too large, becomes None."""
        measured = {"value": number_or_none(self.value), "reference": number_or_none(self.reference)}
        return {**asdict(self), **measured, "passed": self.passed}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Check":
        """Return the check that `to_json` wrote, a value that was not finite as NaN."""
        value, limit = (math.nan if data[name] is None else data[name] for name in ("value", "limit"))
        return cls(
            data["tier"],
            data["name"],
            value,
            limit,
            data["cause"],
            data.get("reference"),
            data.get("undecided", False),
        )


def worst_checks(ranks: Sequence[Sequence[Check]]) -> list[Check]:
    """Return the worst of each check over several ranks, which all made the same checks."""
    return [max(of_ranks, key=_badness) for of_ranks in zip(*ranks, strict=True)]


def _badness(check: Check) -> float:
    return math.inf if math.isnan(check.value) else check.value
