"""What a process gives a subject: what its own script would have, and what the core has."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

from bench.subjects.imports import import_from
from bench.subjects.subject import Setup

ACCELERATE_STATES = ("AcceleratorState", "GradientState", "PartialState")


def settle(
    spec: str,
    setup: Setup,
    tree: Path,
    working_tree: Path | None = None,
    num_threads: int | None = None,
    *,
    local_rank: int,
) -> None:
    """Make this process one in which a subject can be built.

    Args:
        spec: Of the subject.
        setup: What it is asked to be.
        tree: The directory with its files. It becomes the working directory.
        working_tree: As for `import_from`.
        num_threads: CPU threads; None for PyTorch's number.
        local_rank: The number of its GPU, if it is on one: that of the process among those on this host.
    """
    import_from(tree, working_tree)
    os.chdir(tree)
    sys.argv = [spec]  # a script that reads its command line reads nothing of ours
    torch.set_flush_denormal(True)  # before the first parallel region, as the core does
    if num_threads:
        torch.set_num_threads(num_threads)
    if setup.device == "cuda":
        torch.cuda.set_device(local_rank)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch, which a subject may draw from without saying so."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator, which others use
    torch.manual_seed(seed)


def accelerate_variables(mixed_precision: str, compiler: str) -> dict[str, str]:
    """Return what `accelerate launch` says to a process of precision and compiler, in its environment.

    Args:
        mixed_precision: Its flag: "no", "fp16" or "bf16".
        compiler: Its flag: a backend of torch.compile, or "no".
    """
    return {
        "ACCELERATE_MIXED_PRECISION": mixed_precision,
        "ACCELERATE_DYNAMO_BACKEND": compiler.upper(),
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    }


def forget_accelerator() -> None:
    """Let the next Accelerator read the environment anew: all of a process share their state."""
    if module := sys.modules.get("accelerate.state"):
        for name in ACCELERATE_STATES:
            getattr(module, name)._shared_state.clear()
