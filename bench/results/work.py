"""What a step does in sequence, and the least time that this takes at a machine's peaks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Peaks:
    """What a machine can do at the most.

    Attributes:
        flops: FLOP/s of matrix products at the precision of the step.
        traffic_bytes: Bytes/s that are read and written, added up.
    """

    flops: float
    traffic_bytes: float


@dataclass(frozen=True)
class StepWork:
    """What a step, or a phase of it, does.

    Attributes:
        flops: Multiplications and additions of its matrix products and convolutions.
        optimizer_traffic_bytes: What the updates of the optimizers have to read and write.
        elementwise_traffic_bytes: What all other operations read and write, none of them fused.
    """

    flops: int = 0
    optimizer_traffic_bytes: int = 0
    elementwise_traffic_bytes: int = 0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "StepWork":
        """Return the work that `to_json` wrote."""
        return cls(**{item.name: int(data[item.name]) for item in fields(cls)})

    def __add__(self, other: "StepWork") -> "StepWork":
        return StepWork(
            **{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        )

    def times(self, factor: float) -> "StepWork":
        """Return the work of so many such steps."""
        return StepWork(**{name: round(factor * value) for name, value in asdict(self).items()})

    @property
    def traffic_bytes(self) -> int:
        """What is read and written besides the products."""
        return self.optimizer_traffic_bytes + self.elementwise_traffic_bytes

    def product_seconds(self, peaks: Peaks) -> float:
        """Return the least time of the products."""
        return self.flops / peaks.flops

    def traffic_seconds(self, peaks: Peaks) -> float:
        """Return the least time of what all but the products read and write."""
        return self.traffic_bytes / peaks.traffic_bytes

    def floor_seconds(self, peaks: Peaks) -> float:
        """Return the floor in sequence: products, then traffic."""
        return self.product_seconds(peaks) + self.traffic_seconds(peaks)

    def to_json(self) -> dict[str, int]:
        """Return the work as JSON."""
        return asdict(self)
