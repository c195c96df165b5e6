"""The environment record: what results depend on besides the options of a run."""

import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import joblib
import torch

from gan.errors import UsageError
from gan.files.repository import git, revision_of

LIBRARIES = re.compile(r"(MKL|ONEDNN|DNNL|TORCH_MKLDNN|OPENBLAS|KMP|CUBLAS|CUDNN|NVIDIA_TF32|TORCH_ALLOW)_\w+")
"""Variables that set the libraries that compute. Threads, and how they wait, are recorded elsewhere."""
PACKAGES = ("torch", "torchvision", "accelerate", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return the machine, versions, threads, flags and revision that this process runs with, JSON-ready."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **describe_machine(),
        "threads": torch.get_num_threads(),
        "flags": numerical_flags(),
        "git": _git_state(),
    }


def describe_machine() -> dict[str, Any]:
    """Return this machine and the versions on it, JSON-ready."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": num_available_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def numerical_flags() -> dict[str, Any]:
    """Return those settings of PyTorch and of its libraries that change results or speed."""
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "variables": {name: value for name, value in sorted(os.environ.items()) if LIBRARIES.fullmatch(name)},
    }


def num_available_cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its control group."""
    cores: int = joblib.cpu_count()
    return cores


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_vendor() -> str:
    """Return who made the CPU, as it says: "GenuineIntel", "AuthenticAMD", …; empty if that is unknown."""
    if vendor := _cpu_field("vendor_id"):
        return vendor
    _, _, vendor = platform.processor().rpartition(", ")  # Windows: "Intel64 Family 6 Model 165, GenuineIntel"
    return vendor


def _cpu_model() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str:
    """Return what Linux says of the first core; empty on other systems and for fields that the CPU lacks."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _git_state() -> dict[str, Any] | None:
    """Return the revision of this code and whether files differ from it; None outside a git checkout of it."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        # An installed package may lie in the repository of another project: there it is not tracked.
        git(root, "ls-files", "--error-unmatch", "gan/__init__.py", timeout=10)
        revision = revision_of(root, timeout=10)
    except UsageError:
        return None
    return {"revision": revision.removesuffix("+"), "dirty": revision.endswith("+")}
