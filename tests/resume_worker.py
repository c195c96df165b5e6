"""Train every recipe without a stop, and again with a kill inside an epoch and a resumption, in this process."""

import sys
from pathlib import Path

import torch

import gan.loop
from gan.options import TrainOptions
from gan.recipes import RECIPES

STEPS, KILL_AT = 22, 13
"""With 1,797 digits and a global batch of 200 an epoch has 9 or 8 steps, so the kill is inside the second."""


class KilledError(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def train_with_a_kill(options: TrainOptions) -> None:
    """Train until KILL_AT, lose what was not saved, and resume."""
    step, calls = gan.loop.train_step, 0

    def dying_step(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == KILL_AT:
            raise KilledError
        return step(*arguments)

    gan.loop.train_step = dying_step
    try:
        gan.loop.train(options)
    except KilledError:
        pass
    else:
        raise AssertionError("the kill did not happen")
    finally:
        gan.loop.train_step = step
    gan.loop.train(gan.options.replace(options, resume=True))


def train_both(name: str, root: Path, num_processes: int) -> tuple[Path, Path]:
    """Return the directories of the run without and the run with a kill."""
    whole, killed = root / f"{name}-whole", root / f"{name}-killed"
    options = TrainOptions(
        recipe=name,
        dataset="digits",
        steps=STEPS,
        batch_size=200 // num_processes,
        checkpoint_every=1000,
        num_threads=1,
        output=whole,
    )
    gan.loop.train(options)
    train_with_a_kill(gan.options.replace(options, output=killed))
    return whole, killed


if __name__ == "__main__":
    for name in RECIPES:
        train_both(name, Path(sys.argv[1]), num_processes=2)
    torch.distributed.destroy_process_group()
