"""What a tier of stability measures, beside its limit."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """Something measured that has a limit.

    Attributes:
        tier: T0 to T4.
        name: What was measured.
        value: Of it; at most `limit` where all is well.
        limit: Derived in docs/stability.md.
        cause: What it is if it is not well, most likely.
        reference: What fp32 in one eager process gets, where that is the measure.
        undecided: Neither well nor ill by what is known.
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
        """Whether the value is within its limit; nan is not."""
        return self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return all of it; a value that is not finite is None."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "passed": self.passed}


def worst_checks(ranks: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return of what the tiers of stability found on several ranks the worst of each."""
    return [
        max(found, key=lambda check: math.inf if check["value"] is None else check["value"])
        for found in zip(*ranks, strict=True)
    ]
