"""What a session ran on: the machine, the versions and the revision."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.files.environment import describe_environment
from gan.process.program import CONSOLE_SCRIPTS

MODULE = Path(__file__).resolve().parents[1] / "__main__.py"
"""What `python -m bench` runs."""
OF_A_RUN = ("time", "command", "load_average", "git")
"""What changes from run to run; the rest identifies a machine and its versions."""


@dataclass(frozen=True)
class SessionEnvironment:
    """What a session ran on.

    Attributes:
        time: When it began, ISO 8601 in UTC.
        command: The words of the command line, without `python -m bench`.
        python: The version.
        platform: The operating system.
        packages: Version by name; None if not installed.
        cpu: Model, number of cores, and the widest instructions that PyTorch uses.
        gpus: Their names.
        gpu_driver: The version of the driver; None without a GPU.
        revision: Of this repository; None outside a git checkout.
        dirty: Whether files differed from the revision.
    """

    time: str
    command: tuple[str, ...]
    python: str
    platform: str
    packages: Mapping[str, str | None]
    cpu: Mapping[str, str | int]
    gpus: tuple[str, ...]
    gpu_driver: str | None
    revision: str | None
    dirty: bool

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "SessionEnvironment":
        """Return the environment that `session_environment` recorded."""
        git = data["git"] or {"revision": None, "dirty": False}
        return cls(
            time=data["time"],
            command=tuple(data["command"]),
            python=data["python"],
            platform=data["platform"],
            packages=data["packages"],
            cpu=data["cpu"],
            gpus=tuple(data["gpus"]),
            gpu_driver=data["gpu_driver"],
            revision=git["revision"],
            dirty=git["dirty"],
        )

    @property
    def identity(self) -> dict[str, object]:
        """What must agree between two sessions whose times are compared."""
        return {
            "cpu": self.cpu,
            "gpus": list(self.gpus),
            "gpu_driver": self.gpu_driver,
            "platform": self.platform,
            "python": self.python,
            "packages": self.packages,
        }

    @property
    def line(self) -> str:
        """Machine, versions and revision in one line."""
        machine = machine_line(self.cpu, self.gpus, self.python, self.packages)
        if self.revision is None:
            return f"{machine}; no revision"
        return f"{machine}; revision {self.revision[:10]}{' with changes' if self.dirty else ''}"


def hardware_of(cpu: Mapping[str, str | int], gpus: Sequence[str]) -> tuple[str, ...]:
    """Return the processor in words, and the GPUs."""
    instructions = f" ({cpu['instructions']})" if "instructions" in cpu else ""
    return (f"{cpu['model']}{instructions}, {cpu['cores']} cores", *gpus)


def machine_line(
    cpu: Mapping[str, str | int], gpus: Sequence[str], python: str, packages: Mapping[str, str | None]
) -> str:
    """Return machine and versions in one line."""
    hardware = hardware_of(cpu, gpus)
    versions = [f"{name} {version}" for name, version in packages.items()]
    return "; ".join([*hardware, f"Python {python}, {', '.join(versions)}"])


def recorded_machine(environment: Mapping[str, Any]) -> str:
    """Return the machine and versions of what `session_environment` returned, in one line."""
    return machine_line(*(environment[name] for name in ("cpu", "gpus", "python", "packages")))


def session_environment() -> dict[str, Any]:
    """Return the machine and what runs on it, JSON-ready.

    Threads and flags are left out: each measuring process has its own.
    """
    record = {name: value for name, value in describe_environment().items() if name not in ("threads", "flags")}
    record["command"] = sys.argv[1:] if _is_command_of_bench() else ["pytest", *sys.argv[1:]]
    record["gpu_driver"] = _gpu_driver() if record["gpus"] else None
    record["load_average"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return record


def typed(command: Sequence[str]) -> str:
    """Return a recorded command as a shell takes it, with `python -m bench` if it is one of those."""
    words = tuple(map(str, command))
    return shlex.join(words if words[:1] in ((), ("pytest",)) else ("python", "-m", "bench", *words))


def _is_command_of_bench() -> bool:
    """Say whether this process is a command of `python -m bench`, and not pytest."""
    started = Path(sys.argv[0])
    return started.stem == CONSOLE_SCRIPTS["bench"] or started.resolve() == MODULE


def _gpu_driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    return None
