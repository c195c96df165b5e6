"""This machine as measuring processes see it: the environment that they are given, and what else runs."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

# Whatever an outer launcher or a user's shell has set would change what is measured.
NOT_INHERITED = re.compile(
    r"(ACCELERATE|FSDP|TORCHELASTIC|TORCHINDUCTOR|TORCHDYNAMO|TORCH_COMPILE|GROUP|ROLE)_.*"
    r"|(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|OMP_NUM_THREADS|MKL_NUM_THREADS"
)
# Without it cuBLAS may sum in another order from call to call; it is read when CUDA is set up.
DETERMINISTIC_PRODUCTS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def child_environment(device: str, *paths: Path, defaults: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that measures: this one's, without what changes the measurement.

    Args:
        device: "cpu" hides GPUs.
        paths: Where the process imports from, before the user's PYTHONPATH.
        defaults: Variables where the user has not set them.
    """
    kept = {name: value for name, value in os.environ.items() if not NOT_INHERITED.fullmatch(name)}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**(defaults or {}), **kept, "PYTHONPATH": python_path(*paths), **hidden}


def python_path(*paths: Path) -> str:
    """Return a PYTHONPATH of some paths and then the user's, which may be relative, for any working directory."""
    named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join([*map(str, paths), *(str(Path(entry).absolute()) for entry in named)])


def boot_id() -> str:
    """Return what tells this machine from others, until its next start; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def machine_identity() -> dict[str, str]:
    """Return digests that are equal in processes of the same machine, and of the same network on it.

    Containers of a machine have networks of their own. Empty where the system does not say.
    """
    boot = boot_id()
    network = Path("/proc/self/ns/net")
    if not boot or not network.is_symlink():
        return {}
    parts = {"machine": boot, "network": f"{boot} {network.readlink()}"}
    return {name: hashlib.sha256(part.encode()).hexdigest()[:16] for name, part in parts.items()}


class Load:
    """How busy this machine was over the time between `resume` and `pause`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was, and go on from now."""
        self._sums = dict.fromkeys(("seconds", "busy_cores", "own_cores", "stolen_cores"), 0.0)
        self.resume()

    def resume(self) -> None:
        """Go on from now."""
        self._last = self._now()

    def pause(self) -> None:
        """Add what was since `resume`."""
        now = self._now()
        for name, value in now.items():
            self._sums[name] += value - self._last[name]
        self._last = now

    @staticmethod
    def _now() -> dict[str, float]:
        machine = psutil.cpu_times()
        process = psutil.Process().cpu_times()
        busy = ("user", "nice", "system", "irq", "softirq")
        return {
            "seconds": time.monotonic(),
            "busy_cores": sum(getattr(machine, name, 0.0) for name in busy),
            "own_cores": float(process.user + process.system),
            "stolen_cores": getattr(machine, "steal", 0.0),
        }

    def total(self) -> dict[str, float | None]:
        """Return the cores kept busy by all processes and by this one, and the cores that the host took away."""
        self.pause()
        seconds = self._sums["seconds"]
        cores = {name: value / seconds for name, value in self._sums.items() if name != "seconds"}
        return {**cores, "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
