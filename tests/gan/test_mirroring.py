"""x-flip of the data: which images are mirrored, and that training sees them so."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gan.data.in_memory import InMemoryImages
from gan.data.mirroring import mirrored
from gan.data.order import Sampling
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.images import to_unit_range
from gan.process.place import Place
from gan.recipes import RECIPES
from gan.session.inputs import epoch_inputs

NUM_IMAGES = 50
torch.manual_seed(0)
TRAIN = torch.randint(256, (NUM_IMAGES, 1, 2, 3), dtype=torch.uint8)


def test_an_image_is_mirrored_by_its_own_number() -> None:
    images = torch.rand(4, 3, 2, 5)
    changed = mirrored(images, torch.tensor([0.0, 0.49, 0.5, 0.99]))
    assert torch.equal(changed[:2], images[:2].flip(3))
    assert torch.equal(changed[2:], images[2:])


def epoch(*, mirror: bool, rank: int = 0, world_size: int = 1, updates: int = 1, parts: int = 1, epoch: int = 0):
    """The real images of an epoch of one update or more per step, 10 images each."""
    recipe = replace(
        RECIPES["mlp-compact"], discriminator_steps=updates, sampling=Sampling.SHUFFLE_DROP_LAST, mirror=mirror
    )
    run = SimpleNamespace(
        recipe=recipe,
        place=Place(rank, world_size, torch.device("cpu")),
        options=SimpleNamespace(seed=3),
        dataset=InMemoryImages(TRAIN),
        images_per_step=10 * updates,
        num_micro_batches=lambda _: parts,
    )
    state = SimpleNamespace(progress=SimpleNamespace(epoch=epoch, position=0, step=0))
    return [inputs.real for inputs, _ in epoch_inputs(run, state, NUM_IMAGES // (10 * updates))]


def is_mirrored(images: Tensor, others: Tensor) -> Tensor:
    same = (images == others).all(3).all(2).all(1)
    assert torch.equal(images[~same], others[~same].flip(3))
    return ~same


def test_about_half_of_an_epoch_is_mirrored_others_in_the_next() -> None:
    epochs = [
        is_mirrored(torch.cat(epoch(mirror=True, epoch=number)), torch.cat(epoch(mirror=False, epoch=number)))
        for number in range(2)
    ]
    assert all(10 < flags.sum() < 40 for flags in epochs)
    assert not torch.equal(*epochs)
    assert torch.equal(torch.cat(epoch(mirror=False)).sort(0).values, to_unit_range(TRAIN).sort(0).values)


@pytest.mark.parametrize("updates", [1, 5])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_together_have_the_images_of_one(updates: int, parts: int) -> None:
    settings = {"mirror": True, "updates": updates, "parts": parts}
    whole = epoch(**settings)
    ranks = [epoch(rank=rank, world_size=3, **settings) for rank in range(3)]
    for images, *shards in zip(whole, *ranks, strict=True):
        together = torch.cat(shards).flatten(1)
        assert sorted(together.tolist()) == sorted(images.flatten(1).tolist())


def test_a_run_trains_on_mirrored_images(run_training) -> None:
    lines = []
    for name, settings in (("plain", ()), ("off", ("mirror=false",)), ("mirrored", ("mirror=true",))):
        run = run_training(
            name=name, recipe="mlp-compact", dataset="digits", steps=5, batch_size=100, set=settings
        )
        (line,) = read_json_lines(RunFolder(run).metrics)
        lines.append([line["loss_d"], line["loss_g"]])
    assert lines[0] == lines[1]
    assert abs(lines[2][0] - lines[0][0]) > 1e-5
