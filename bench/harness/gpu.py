"""What NVIDIA's management library says of a GPU: clocks, power, temperature, memory, and who shares it.

`nvidia-ml-py` is an extra, and is imported when a GPU is measured. Without it, or where the library does not say
something, the fact is absent. A reading takes milliseconds of the host, so none is taken inside a timed window.
"""

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

GPU_EXTRA = "nvidia-ml-py is not installed: pip install 'gan-bench[gpu]'"
REASONS = {
    0x1: "idle",
    0x2: "clocks set by a user",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "too warm (software)",
    0x40: "too warm (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Why clocks are lower than they could be, by NVML's bits."""
SM_CLOCK = 1
MEMORY_CLOCK = 2
CORRECTED = 0
UNCORRECTED = 1
SINCE_BOOT = 0
CORE_TEMPERATURE = 0
MIG_ENABLED = 1
CUDA_DEVICE = Path("/dev/nvidia-uvm")
COUNTER = "energy counter"
POWER_TIMES_TIME = "power × time"


class GpuAbsentError(Exception):
    """Nothing can be read, and why, in one line."""


@dataclass(frozen=True)
class GpuLimits:
    """What does not change while a case is measured; None where the GPU does not say.

    Attributes:
        most_sm_mhz: The highest clock of the multiprocessors.
        most_memory_mhz: The highest clock of the memory.
        power_limit_watts: The power that the driver allows.
        ecc: Whether the memory corrects errors.
    """

    most_sm_mhz: int | None
    most_memory_mhz: int | None
    power_limit_watts: float | None
    ecc: bool | None


@dataclass(frozen=True)
class GpuReading:
    """What a GPU said at a time; None where it does not say.

    Attributes:
        sm_mhz: Clock of the multiprocessors.
        memory_mhz: Clock of the memory.
        power_watts: Averaged by the driver over its last period, up to a second.
        temperature_celsius: Of the chip.
        throttling: Why clocks are lower than they could be.
        used_bytes: Of its memory, by all processes together.
        other_processes: Processes on the GPU that are not of this measurement. Also None where the library shows
            none at all, as in some containers.
        corrected_errors: Of the memory, since the driver was loaded.
        uncorrected_errors: Of the memory, since the driver was loaded.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None
    throttling: tuple[str, ...] | None
    used_bytes: int | None
    other_processes: int | None
    corrected_errors: int | None
    uncorrected_errors: int | None


class Gpu:
    """One GPU, as the management library knows it.

    Args:
        uuid: As PyTorch has it, without a prefix. An index would be another one under CUDA_VISIBLE_DEVICES.

    Raises:
        GpuAbsentError: It cannot be read, or is a part of a GPU.
    """

    def __init__(self, uuid: str) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            raise GpuAbsentError(GPU_EXTRA) from None
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except (self._nvml.NVMLError, AttributeError, OSError) as error:
            raise GpuAbsentError(f"the NVIDIA management library does not answer: {error}") from error
        mode = self._ask("nvmlDeviceGetMigMode")
        if mode and mode[0] == MIG_ENABLED:
            raise GpuAbsentError("the GPU is split by MIG, and its clocks and power are not those of a part")

    def _ask(self, name: str, *arguments: int, handle: bool = True) -> Any:
        """Return what a function of the library says; None where it, or the GPU, does not know."""
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return function(*((self._handle,) if handle else ()), *arguments)
        except self._nvml.NVMLError:
            return None

    def limits(self) -> GpuLimits:
        """Return what does not change."""
        ecc = self._ask("nvmlDeviceGetEccMode")
        return GpuLimits(
            most_sm_mhz=self._ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK),
            most_memory_mhz=self._ask("nvmlDeviceGetMaxClockInfo", MEMORY_CLOCK),
            power_limit_watts=_thousandth(self._ask("nvmlDeviceGetEnforcedPowerLimit")),
            ecc=None if ecc is None else bool(ecc[0]),
        )

    def read(self, own: Sequence[int] | None) -> GpuReading:
        """Return what it says now.

        Args:
            own: Ids of the processes of this measurement; None not to look for others, which takes longer.
        """
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return GpuReading(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", SM_CLOCK),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", MEMORY_CLOCK),
            power_watts=_thousandth(self._ask("nvmlDeviceGetPowerUsage")),
            temperature_celsius=self._ask("nvmlDeviceGetTemperature", CORE_TEMPERATURE),
            throttling=self._throttling(),
            used_bytes=None if memory is None else int(memory.used),
            other_processes=None if own is None else self.other_processes(own),
            corrected_errors=self._ask("nvmlDeviceGetTotalEccErrors", CORRECTED, SINCE_BOOT),
            uncorrected_errors=self._ask("nvmlDeviceGetTotalEccErrors", UNCORRECTED, SINCE_BOOT),
        )

    def energy_joules(self) -> float | None:
        """Return the energy since the driver was loaded; GPUs from before Volta do not count it."""
        return _thousandth(self._ask("nvmlDeviceGetTotalEnergyConsumption"))

    def _throttling(self) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # an older library, or an older driver
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else tuple(reason for bit, reason in REASONS.items() if bits & bit)

    def other_processes(self, own: Sequence[int]) -> int | None:
        """Return how many processes on the GPU are none of these; None where the library shows none at all."""
        computing = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if computing is None:
            return None
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses") or []
        known = {process.pid for process in (*computing, *drawing)}
        if os.getpid() in known:
            return len(known - set(own))
        # a container has ids of its own, so that processes can only be counted
        return max(0, len(known) - sum(map(_uses_cuda, own))) if known else None


def _uses_cuda(pid: int) -> bool:
    """Say whether a process holds the device of CUDA's memory open."""
    try:
        return any(entry.readlink() == CUDA_DEVICE for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


@dataclass
class GpuWatch:
    """Reads a GPU before, during and after a case.

    Attributes:
        gpu: The GPU; None if it cannot be read.
        owner: The process that has started all processes of this measurement.
        facts: What was read, JSON-ready.
    """

    gpu: Gpu | None
    owner: int
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, uuid: str, owner: int) -> "GpuWatch":
        """Return the watch of a GPU; one that cannot be read has `absent`, the reason, as its only fact."""
        try:
            gpu = Gpu(uuid)
        except GpuAbsentError as error:
            return cls(None, owner, {"absent": str(error)})
        return cls(gpu, owner, {"limits": asdict(gpu.limits()), "during": []})

    def before(self) -> None:
        """Read it before the first window."""
        if self.gpu:
            self.facts["before"] = self._read()

    def during(self) -> None:
        """Read it right after a window: it has not had the time to rest."""
        if self.gpu:
            self.facts["during"].append(self._read())

    def after(self) -> None:
        """Read it after the last window."""
        if self.gpu:
            self.facts["after"] = self._read()

    def count_energy(self, steps: Callable[[Callable[[], None]], int], images_per_step: int) -> None:
        """Count the energy of many steps without a pause.

        Args:
            steps: Takes them, waits until the device is idle, and returns how many there were. Half-way it calls
                what it is given: the device is busy then.
            images_per_step: Of all processes together.
        """
        if self.gpu is None:
            return
        joules = self.gpu.energy_joules()
        began = time.monotonic()
        num_steps = steps(self._while_busy)
        seconds = time.monotonic() - began
        end_joules = self.gpu.energy_joules()
        self.facts["busy"]["other_processes"] = self.gpu.other_processes(_with_children(self.owner))
        watts = self.facts["busy"]["power_watts"]
        if joules is not None and end_joules is not None and end_joules > joules:
            spent, source = end_joules - joules, COUNTER
        elif watts is not None:
            spent, source = watts * seconds, POWER_TIMES_TIME
        else:
            return
        self.facts["energy"] = {
            "joules": round(spent, 3),
            "seconds": round(seconds, 6),
            "images": num_steps * images_per_step,
            "source": source,
        }

    def _while_busy(self) -> None:
        """Read what is quick to read: meanwhile no step is started, and energy is counted."""
        assert self.gpu
        self.facts["busy"] = asdict(self.gpu.read(None))

    def _read(self) -> dict[str, Any]:
        assert self.gpu
        return asdict(self.gpu.read(_with_children(self.owner)))


def _with_children(owner: int) -> list[int]:
    """Return the ids of a process and of all that it has started."""
    try:
        children = psutil.Process(owner).children(recursive=True)
    except psutil.Error:
        children = []
    return [os.getpid(), owner, *(child.pid for child in children)]
