"""What else keeps the machine busy while contenders take turns."""

import time
from dataclasses import dataclass

import psutil

BUSY = ("user", "nice", "system", "irq", "softirq")


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds since the machine started, and the time at which they were read.

    Attributes:
        seconds: Of the monotonic clock.
        busy_seconds: Of all processes.
        own_seconds: Of this process and all that it has started.
        stolen_seconds: Of the host, which took them away.
    """

    seconds: float
    busy_seconds: float
    own_seconds: float
    stolen_seconds: float

    @classmethod
    def now(cls) -> "CpuTimes":
        """Read them."""
        machine = psutil.cpu_times()
        busy_seconds = sum(getattr(machine, name, 0.0) for name in BUSY)
        own_seconds = 0.0
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            own_seconds += times.user + times.system
        return cls(time.monotonic(), busy_seconds, own_seconds, getattr(machine, "steal", 0.0))

    def cores_since(self, before: "CpuTimes") -> tuple[float, float]:
        """Return the cores that other processes kept busy since then, and those that the host took away."""
        seconds = max(self.seconds - before.seconds, 1e-9)
        busy_seconds = self.busy_seconds - before.busy_seconds
        others_seconds = busy_seconds - (self.own_seconds - before.own_seconds)
        stolen_seconds = self.stolen_seconds - before.stolen_seconds
        return round(max(0.0, others_seconds / seconds), 3), round(max(0.0, stolen_seconds / seconds), 3)
