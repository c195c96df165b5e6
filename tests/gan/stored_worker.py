"""Train on the images of a folder in memory, and streamed from each kind of storage with a stop inside an epoch.

`stored_worker.py OUTPUT PICTURES KIND=ROOT…` runs in two processes, which train run after run.
"""

import sys
from pathlib import Path

import torch

from gan.loop import train
from gan.options import parse_train_options

SETTINGS = ("--recipe", "cgan", "--image-shape", "3", "8", "8", "--batch-size", "4", "--num-threads", "1")
"""Five steps an epoch of two processes."""


def train_with(output: Path, *arguments: str) -> None:
    """Train as the command line says."""
    train(parse_train_options([*SETTINGS, "--output", str(output), *arguments]))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train_with(folder / "in_memory", "--dataset", "folder", "--data-root", sys.argv[2], "--steps", "10")
    for stored in sys.argv[3:]:
        kind, _, root = stored.partition("=")
        data = ("--dataset", kind, "--data-root", root, "--memory-budget", "0", "--num-workers", "1")
        train_with(folder / kind, *data, "--steps", "7")
        train_with(folder / kind, *data, "--steps", "10", "--resume")
    torch.distributed.destroy_process_group()
