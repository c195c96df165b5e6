"""When a launch is given up."""

from dataclasses import dataclass

from bench.harness.exchange import Phase
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS

START_SECONDS = 600.0
SLOW_PHASES = (Phase.PREPARING, Phase.FIRST_STEP, Phase.BETWEEN_STEPS, Phase.DONE)
"""These may take long on any machine."""
MOST_SECONDS = 6 * 3600.0
SILENCE_TIMES = 3.0
"""A process may always be silent for this multiple of its longest silence so far."""


@dataclass(frozen=True)
class Limits:
    """When to give a launch up.

    Attributes:
        case_seconds: The most that a launch may take in all. None stands for START_SECONDS, or for MOST_SECONDS if
            the case trains on digits.
        stall_seconds: The most that a process may be silent after its first steps.
    """

    case_seconds: float | None = None
    stall_seconds: float = 60.0

    def seconds_of(self, case: Case) -> float:
        """Return the most seconds that a launch of a case may take in all."""
        default = MOST_SECONDS if WORKLOADS[case.workload].on_digits else START_SECONDS
        return default if self.case_seconds is None else self.case_seconds

    def silence_of(self, case: Case, phase: Phase, longest: float) -> float:
        """Return the most seconds that a process may be silent. Whatever is no step may take long.

        Args:
            case: The case that it measures.
            phase: What it does.
            longest: The most seconds between two reports of it so far: a slow machine, or a large step.
        """
        least = START_SECONDS if phase in SLOW_PHASES else 0.0
        return min(self.seconds_of(case), max(self.stall_seconds, SILENCE_TIMES * longest, least))
