"""What a profiler saw of a step: its operators, what each of them did, and what limits it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.results.work import Peaks

HIT = 0.5
"""An operator hits a bound from this part of the rate on that the bound allows."""
MISSED = 0.05
"""An operator that reaches less than this of both peaks is limited by neither."""
NEITHER = "neither"
SHORT_SECONDS = {"cpu": 20e-6, "cuda": 5e-6}
"""A shorter call takes no longer than calling does: that of an operator on a CPU, of a kernel on a GPU."""
CALLING = {"cpu": "host", "cuda": "launch"}
"""What limits such calls: the host that calls operators, or launching kernels."""


@dataclass(frozen=True)
class OperatorTime:
    """What an operator took of a step.

    Attributes:
        name: As PyTorch calls it, or that of a kernel which no operator launched.
        part: Of the step: forward, backward or optimizer.
        calls: How often it is called.
        seconds: That its calls took; on a GPU, that its kernels took.
        kernels: How many kernels it launched; 0 on a CPU.
        flops: Multiplications and additions of products; None if they are not known.
        traffic_bytes: What it read and wrote; None if that is not known.
    """

    name: str
    part: str
    calls: float
    seconds: float
    kernels: float = 0.0
    flops: float | None = None
    traffic_bytes: float | None = None

    def bound(self, device: str, peaks: Peaks | None) -> tuple[str, float | None]:
        """Return what limits the operator, and which part of that limit's rate it reaches.

        compute and memory are the roofline's. An operator that reaches less than HIT of both, and whose calls are
        short, is limited by what it takes to call it: launch or host. A longer one that reaches next to nothing is
        limited by neither: its kernel is slow.
        """
        limit, fraction = self._nearest(peaks)
        runs = self.kernels if device == "cuda" else self.calls
        is_short = bool(runs) and self.seconds / runs < SHORT_SECONDS[device]
        if is_short and (fraction or 0.0) < HIT:
            return CALLING[device], None
        if fraction is not None and fraction < MISSED:
            return NEITHER, None
        return limit, fraction

    def _nearest(self, peaks: Peaks | None) -> tuple[str, float | None]:
        if peaks is None or self.flops is None or self.traffic_bytes is None or not self.seconds:
            return "", None
        least = {"compute": self.flops / peaks.flops, "memory": self.traffic_bytes / peaks.traffic_bytes}
        limit = max(least, key=lambda name: least[name])
        return limit, least[limit] / self.seconds


@dataclass(frozen=True)
class StepProfile:
    """A step under a profiler, on average over some steps that are not timed otherwise.

    Attributes:
        trace: Name of the file with the trace, in the folder of the results file's traces.
        num_steps: That were taken.
        seconds: Of a step, which the profiler makes longer.
        operators: The longest first.
        num_kernels: Of a step; 0 on a CPU.
    """

    trace: str
    num_steps: int
    seconds: float
    operators: Sequence[OperatorTime]
    num_kernels: float = 0.0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "StepProfile":
        """Return the profile that `to_json` wrote."""
        operators = [OperatorTime(**operator) for operator in data["operators"]]
        return cls(**{**data, "operators": operators})

    @property
    def busy_seconds(self) -> float:
        """The sum of the operators; on a GPU, that of the kernels."""
        return sum(operator.seconds for operator in self.operators)

    @property
    def gap_seconds(self) -> float:
        """What lies between: the host, which no operator and no kernel hides."""
        return max(0.0, self.seconds - self.busy_seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON."""
        return asdict(self)
