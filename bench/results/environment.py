"""What a session ran on: the machine, the versions and the revision."""

import contextlib
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from gan.files.environment import describe_environment


def session_environment() -> dict[str, Any]:
    """Return the machine and what runs on it, JSON-ready; threads and flags are each measuring process's own."""
    record = describe_environment()
    own = {name: value for name, value in record.items() if name not in ("threads", "flags")}
    own["command"][0] = "pytest"
    driver = None
    if record["gpus"]:
        with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[
                0
            ]
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**own, "gpu_driver": driver, "load_average": load_average}


def machine_line(environment: Mapping[str, Any]) -> str:
    """Return the machine and versions of an environment record in one line."""
    cpu, gpus = environment["cpu"], environment["gpus"]
    git = environment["git"]
    versions = [f"{name} {version}" for name, version in environment["packages"].items()]
    revision = (
        f"revision {git['revision'][:10]}{' with changes' if git['dirty'] else ''}" if git else "no revision"
    )
    instructions = f" ({cpu['instructions']})" if "instructions" in cpu else ""
    hardware = [f"{cpu['model']}{instructions}, {cpu['cores']} cores", *gpus]
    return "; ".join([*hardware, f"Python {environment['python']}, {', '.join(versions)}", revision])
