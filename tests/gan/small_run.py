"""A run of a few seconds, and what tests do to its files."""

from pathlib import Path

import torch
from PIL import Image

from gan.loop import train
from gan.options import parse_train_options
from tests.conftest import ROOT

TRAIN = ROOT / "gan" / "train.py"
SMALL = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 600, "num_threads": 1}
"""Three steps an epoch."""
FLAGS = ("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 600, "--num-threads", 1)


def train_main() -> None:
    train(parse_train_options())


def write_images(folder: Path, count: int, levels: int = 256) -> Path:
    """Make a folder of small pictures of noise, with so many levels of each colour; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = torch.randint(levels, (8, 8, 3), generator=torch.Generator().manual_seed(index)).byte()
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return folder


def contents(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def flip(path: Path, position: int, bit: int = 0x80) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)
