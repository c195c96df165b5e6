"""How a check is measured: what its options come down to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.regress.record import CheckOptions
from bench.regress.subject_case import CheckedCase, SubjectCase

MOST_QUADS = 80
"""Of each case and pair; fewer if they would take too long."""


@dataclass(frozen=True)
class CheckSettings:
    """How a check is measured.

    Attributes:
        options: What the record says of it.
        cases: By name, all of one device.
        dropped: Recipes that HEAD may lack.
        semantics: Whether tier T1 is asked of HEAD's steps.
        most_quads: Of each case and pair.
        products: Extra products of small matrices a step; None to measure how many the injected work is.
        seed: Of the orders; None to draw one.
    """

    options: CheckOptions
    cases: Mapping[str, CheckedCase]
    dropped: Sequence[str] = ()
    semantics: bool = True
    most_quads: int = MOST_QUADS
    products: int | None = None
    seed: int | None = None

    @property
    def subject(self) -> str | None:
        """The subject of all cases, or None if they are recipes."""
        case = next(iter(self.cases.values()))
        return case.case.subject if isinstance(case, SubjectCase) else None

    @property
    def device(self) -> str:
        """The one device of all cases."""
        return next(iter(self.cases.values())).device
