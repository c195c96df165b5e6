"""Augmentations against closed forms; gradients through them; the same however many processes share a batch."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.autograd import gradcheck

from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.methods.augmentations import AUGMENTATIONS, UNIFORMS, augment, is_probable, num_uniforms
from gan.methods.penalties import ZeroCentred
from gan.methods.schedules import at
from gan.models.networks import apply
from gan.process.place import Place
from gan.recipes import RECIPES
from gan.session.inputs import draw_warps
from gan.training.batch import Batch
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state

torch.manual_seed(0)
IMAGES = torch.rand(4, 3, 8, 8, dtype=torch.float64) * 2 - 1
MIDDLE = torch.full((4, UNIFORMS), 0.5, dtype=torch.float64)


def with_numbers(**places: float) -> Tensor:
    order = ("brightness", "saturation", "contrast", "down", "right", "cut_down", "cut_right")
    uniform = MIDDLE.clone()
    for name, value in places.items():
        uniform[:, order.index(name)] = value
    return uniform


@pytest.mark.parametrize("name", ["color", "translation"])
def test_numbers_in_the_middle_change_nothing(name: str) -> None:
    torch.testing.assert_close(augment(IMAGES, [name], MIDDLE), IMAGES)


def test_colours_have_their_closed_forms() -> None:
    brighter = augment(IMAGES, ["color"], with_numbers(brightness=0.75))
    torch.testing.assert_close(brighter, IMAGES + 0.25)
    grey = augment(IMAGES, ["color"], with_numbers(saturation=0.0))
    torch.testing.assert_close(grey, IMAGES.mean(1, keepdim=True).expand_as(IMAGES))
    harder = augment(IMAGES, ["color"], with_numbers(contrast=0.9))
    mean = IMAGES.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(harder, mean + 1.4 * (IMAGES - mean))


@pytest.mark.parametrize(("uniform", "shift"), [(0.0, -1), (0.5, 0), (0.999999, 1)])
def test_translation_moves_by_up_to_an_eighth_and_zeros_come_in(uniform: float, shift: int) -> None:
    moved = augment(IMAGES, ["translation"], with_numbers(down=uniform, right=0.5))
    expected = torch.zeros_like(IMAGES)
    if shift >= 0:
        expected[:, :, : 8 - shift] = IMAGES[:, :, shift:]
    else:
        expected[:, :, -shift:] = IMAGES[:, :, :shift]
    torch.testing.assert_close(moved, expected)
    sideways = augment(IMAGES.transpose(2, 3), ["translation"], with_numbers(right=uniform))
    torch.testing.assert_close(sideways, expected.transpose(2, 3))


@pytest.mark.parametrize(("uniform", "rows"), [(0.0, range(2)), (0.5, range(2, 6)), (0.999999, range(6, 8))])
def test_cutout_blackens_half_a_side_or_what_of_it_is_inside(uniform: float, rows: range) -> None:
    cut = augment(IMAGES, ["cutout"], with_numbers(cut_down=uniform))
    gone = (cut == 0).all(1)
    assert torch.equal(cut[~gone.unsqueeze(1).expand_as(cut)], IMAGES[~gone.unsqueeze(1).expand_as(cut)])
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[rows.start : rows.stop, 2:6] = True
    assert torch.equal(gone, expected.expand(4, 8, 8))


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if not is_probable(name)])
def test_gradients_reach_the_images_and_each_image_has_its_own_numbers(name: str) -> None:
    torch.manual_seed(1)
    uniform = torch.rand(4, UNIFORMS, dtype=torch.float64)
    assert gradcheck(lambda images: augment(images, [name], uniform), IMAGES.clone().requires_grad_())
    one_by_one = [augment(IMAGES[row : row + 1], [name], uniform[row : row + 1]) for row in range(4)]
    together = augment(IMAGES, [name], uniform)
    torch.testing.assert_close(together, torch.cat(one_by_one))
    assert not torch.allclose(together, IMAGES)


def augmented(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], augmentation=tuple(AUGMENTATIONS)))
    return name


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [name for name, row in RECIPES.items() if row.penalty or not row.batchnorm],
        quick=("mlp", "wgan-gp", "r3gan", "r3gan-cifar"),
        slow=("sngan", "stylegan2"),
    ),
)
def test_both_objectives_see_augmented_images_alone(
    name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their losses are those of plain objectives on images that were augmented before, but for R1 and R2."""
    without = replace(RECIPES[name], augmentation=(), augmentation_probability=1.0, adaptive=None)
    monkeypatch.setitem(RECIPES, name, without)
    plain = small_state(name, accelerator, seed=0, steps_per_epoch=1, dtype=torch.float64)
    state = small_state(augmented(name, monkeypatch), accelerator, seed=0, steps_per_epoch=1, dtype=torch.float64)
    real, latents, mix, classes, _ = inputs(name, 6)
    labels = classes[0] if state.num_classes else None
    for gan in (plain, state):
        gan.discriminator.network.eval()  # without dropout, and without iterations of spectral norms
        gan.generator.network.eval()
    torch.manual_seed(2)
    names = list(AUGMENTATIONS)
    warps = torch.rand(2, 6, num_uniforms(names), dtype=torch.float64)
    fake = plain.generate(latents[0], labels).detach()
    before = [augment(real[0], names, warps[0]), augment(fake, names, warps[1])]
    batch = Batch(1 / 6, real[0], latents[0], labels, mix[0], warps)
    ours = state.discriminator.objective(batch, fake)

    def scores(images: Tensor) -> Tensor:
        return apply(plain.discriminator.network, images, labels)

    if isinstance(plain.recipe.penalty, ZeroCentred):
        plain.penalty_weight.zero_()
    expected = plain.discriminator.objective(Batch(1 / 6, before[0], latents[0], labels, mix[0]), before[1])
    if isinstance(plain.recipe.penalty, ZeroCentred):
        squares = sum(
            squared_gradients(lambda x, warp=warp: scores(augment(x, names, warp)), images)
            for images, warp in zip((real[0], fake), warps, strict=True)
        )
        weight = at(plain.recipe.penalty.weight, 0)
        expected = expected._replace(loss=expected.loss + weight / 2 * squares.mean())
    torch.testing.assert_close(ours, expected)

    ours = state.generator.objective(batch)
    logits = [scores(images) for images in before]
    torch.testing.assert_close(ours.loss, plain.recipe.loss.generator(logits[1], logits[0]).mean())
    torch.testing.assert_close(ours.fake, fake)


def squared_gradients(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    leaves = images.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(function(leaves).sum(), leaves)
    return gradients.square().sum((1, 2, 3))


def test_numbers_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[augmented("wgan-gp", monkeypatch)]
    whole = draw_warps(recipe, 7, 1, Place(0, 1, torch.device("cpu")))
    parts = [draw_warps(recipe, 7, 1, Place(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert whole is not None
    assert whole.shape == (recipe.discriminator_steps + 1, 2, 7, num_uniforms(list(AUGMENTATIONS)))
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_a_run_with_augmentation_trains_d_on_other_images(run_training) -> None:
    lines = []
    for number, names in enumerate((None, "none", "color,translation,cutout", "ada")):
        run = run_training(
            name=str(number), recipe="mlp-compact", dataset="digits", steps=5, batch_size=100, augment=names
        )
        (line,) = read_json_lines(RunFolder(run).metrics)
        lines.append([line["loss_d"], line["loss_g"]])
    assert lines[0] == lines[1]
    assert abs(lines[2][0] - lines[0][0]) > 1e-3
    assert abs(lines[3][0] - lines[0][0]) > 1e-3
