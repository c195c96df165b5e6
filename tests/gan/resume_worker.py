"""Train recipes without a stop, and again with a kill inside an epoch and a resumption, in this process."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import gan.loop
from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.options import TrainOptions
from gan.recipe_files import label_of, recipe_named
from gan.recipes import RECIPES
from tests.gan.reference import narrow_convolutions, with_large_epsilon

NUM_IMAGES = 249
GLOBAL_BATCH = 50
STEPS = 11
KILL_AT = 8
"""An epoch has 5 or 4 steps, so the kill is inside the second."""
CHECKPOINT_EVERY = 140
"""Images: the last checkpoint before the kill is of step 6, so that one step is lost."""


def few_digits(request: DatasetRequest, whole=DATASETS["digits"]) -> InMemoryImages:
    """The first of the bundled digits."""
    digits = whole(request)
    return replace(digits, train=digits.train[:NUM_IMAGES], labels=digits.labels[:NUM_IMAGES])


class KilledError(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def train_with_a_kill(options: TrainOptions) -> None:
    """Train until KILL_AT, lose what was not saved, and resume."""
    step = gan.loop.run_step
    calls = 0

    def dying_step(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == KILL_AT:
            raise KilledError
        return step(*arguments)

    gan.loop.run_step = dying_step
    try:
        gan.loop.train(options)
    except KilledError:
        pass
    else:
        raise AssertionError("the kill did not happen")
    finally:
        gan.loop.run_step = step
    gan.loop.train(replace(options, resume=True))


def train_both(name: str, root: Path, world_size: int, **how: Any) -> tuple[Path, Path]:
    """Return the directories of the run without and the run with a kill."""
    whole = root / f"{label_of(name)}-whole"
    killed = root / f"{label_of(name)}-killed"
    options = TrainOptions(
        recipe=name,
        dataset="digits",
        steps=STEPS,
        batch_size=GLOBAL_BATCH // recipe_named(name).discriminator_steps // world_size,
        checkpoint_every=CHECKPOINT_EVERY,
        num_threads=1,
        output=whole,
        **how,
    )
    undrawn = patch("gan.session.finish.draw_course")
    with patch.dict(DATASETS, digits=few_digits), undrawn:
        gan.loop.train(options)
        train_with_a_kill(replace(options, output=killed))
    return whole, killed


if __name__ == "__main__":
    narrow_convolutions()
    folder, *names = sys.argv[1:]
    for name in names:
        if name in RECIPES:
            RECIPES[name] = with_large_epsilon(RECIPES[name])
        train_both(name, Path(folder), world_size=2)
    torch.distributed.destroy_process_group()
