"""What a process uses: its device, the compiler, and memory. PyTorch is imported when it is needed."""

import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def device_waiter(device: "torch.device") -> Callable[[], None]:
    """Return a function that returns as soon as a device is idle."""
    if device.type != "cuda":
        return lambda: None
    import torch

    return partial(torch.cuda.synchronize, device)


class DeviceClock:
    """Tells when a device gets to a point of its work, without waiting for it.

    A moment is a time on the CPU, and an event in the current stream on a GPU.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: "torch.device") -> None:
        self._on_gpu = device.type == "cuda"
        self._spare_events: list[Any] = []
        self._anchor: Any = 0.0
        self._anchor_seconds = 0.0

    def now(self) -> Any:
        """Return this moment."""
        if not self._on_gpu:
            return time.perf_counter()
        import torch

        event = self._spare_events.pop() if self._spare_events else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Return the seconds between two moments. The device has to be idle."""
        return float(begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin)

    def anchor(self) -> Any:
        """Return this moment, from which `host_seconds` counts. The device has to be idle."""
        self._anchor = self.now()
        self._anchor_seconds = time.perf_counter() if self._on_gpu else self._anchor
        return self._anchor

    def host_seconds(self, moment: Any) -> float:
        """Return a moment since the last anchor as `time.perf_counter` has it. The device has to be idle."""
        return self._anchor_seconds + self.between(self._anchor, moment)

    def release(self, moments: Iterable[Any]) -> None:
        """Take back moments that nobody needs any more, so that their events are used again."""
        if self._on_gpu:
            self._spare_events += moments


def num_compilations() -> int:
    """Return how many graphs a compiler has made in this process; 0 if none has been imported."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def compile_seconds() -> float:
    """Return the seconds that a compiler has taken in this process; 0 if none has been imported."""
    if "torch._dynamo" not in sys.modules:
        return 0.0
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))


def reset_peaks(device: "torch.device | None" = None) -> None:
    """Count from now on; on a GPU, of the current one if no other is named.

    A system without /proc/self/clear_refs counts from the start of the process.
    """
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device if device and device.type == "cuda" else None)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_resident_bytes() -> int:
    """Return the most bytes of this machine's memory that were resident at once, without pages of files.

    Those are mostly the code of libraries. A fork has mapped none of them until it uses them, and is compared with
    processes that have done the imports themselves. A system without /proc counts them.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines)
        peak_kib, files_kib = (int(fields[name].split()[0]) for name in ("VmHWM", "RssFile"))
        return 1024 * (peak_kib - files_kib)
    except (OSError, KeyError, ValueError):
        import resource  # not on Windows

        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit_bytes


def peak_device_bytes(device: "torch.device") -> int | None:
    """Return the most bytes allocated on a GPU at once; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def device_memory(device: "torch.device") -> dict[str, int] | None:
    """Return what a GPU's memory holds beside what is allocated in it; None for a CPU.

    `peak_reserved_bytes` is the most that this process's allocator took from the driver at once. `used_bytes` is
    what all processes hold now, their contexts and libraries included, of `total_bytes`.
    """
    if device.type != "cuda":
        return None
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return {
        "peak_reserved_bytes": int(torch.cuda.max_memory_reserved(device)),
        "used_bytes": total_bytes - free_bytes,
        "total_bytes": total_bytes,
    }


def gpu_uuid(device: "torch.device") -> str:
    """Return the id of a GPU, without a prefix, that CUDA and the driver's tools share."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)
