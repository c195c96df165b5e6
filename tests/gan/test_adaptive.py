"""ADA's controller on a scripted r_t; what the objectives see of its probability; the state that a run saves."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.methods.adaptive import Adaptive
from gan.methods.augmentations import UNIFORMS, augment, num_uniforms
from gan.methods.schedules import Linear
from gan.recipe_files import recipe_named
from gan.recipe_rules import ignored_probability
from gan.recipes import RECIPES
from gan.training.adaptation import Adaptation
from gan.training.batch import Batch
from gan.training.state import build_state
from tests.gan.reference import IMAGE_SHAPE, LAZY, OPTIONAL, float64_state, inputs
from tests.lazy_recipes import Fade

ADAPTIVE = LAZY[2]


def controller(settings: Adaptive, probability: float = 0.0) -> Adaptation:
    return Adaptation.of(settings, torch.tensor(probability, dtype=torch.float64), 1)


def follow(adaptation: Adaptation, signs: list[float], num_images: int) -> list[float]:
    """The probability after each step of scripted mean signs."""
    probabilities = []
    for step, sign in enumerate(signs, 1):
        adaptation.observe(torch.tensor(sign, dtype=torch.float64))
        adaptation.follow(step, num_images)
        probabilities.append(adaptation.probability.item())
    return probabilities


def test_the_probability_follows_a_scripted_overfitting() -> None:
    """Every four steps of 50 images, by 200 / 10,000; the sign alone of r_t - 0.5 counts; not below 0."""
    settings = Adaptive(target=0.5, images=10_000)
    signs = [1.0] * 8 + [0.0] * 4 + [1.0, 1.0, 0.25, 0.25] + [0.5] * 4 + [-1.0] * 12
    expected = [0, 0, 0, 0.02, 0.02, 0.02, 0.02, 0.04, 0.04, 0.04, 0.04, 0.02, 0.02, 0.02, 0.02, 0.04]
    expected += [0.04] * 4 + [0.04, 0.04, 0.04, 0.02, 0.02, 0.02, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0]
    adaptation = controller(settings)
    assert follow(adaptation, signs, 50) == pytest.approx(expected, abs=1e-12)
    assert adaptation.overfitting.item() == -1.0


def test_it_rises_from_0_to_1_within_its_images() -> None:
    adaptation = controller(Adaptive())
    follow(adaptation, [1.0] * (500_000 // 250), 250)
    assert adaptation.probability.item() == pytest.approx(1.0, rel=1e-9)


def test_a_controller_goes_on_in_the_middle_of_an_interval() -> None:
    signs = [1.0, 0.2, 0.9, 0.7, 0.1, 0.0, 0.3]
    whole = controller(Adaptive(interval=4, images=1000), 0.5)
    expected = follow(whole, signs, 10)[-1]
    begun = controller(Adaptive(interval=4, images=1000), 0.5)
    follow(begun, signs[:2], 10)
    assert begun.signs.item() == pytest.approx(1.2)
    other = controller(Adaptive(interval=4, images=1000))
    other.load({name: value.clone() for name, value in begun.tensors().items()}, 0)
    for step, sign in enumerate(signs[2:], 3):
        other.observe(torch.tensor(sign, dtype=torch.float64))
        other.follow(step, 10)
    assert other.probability.item() == expected
    of_two_ranks = {**begun.tensors(), "signs": torch.tensor([1.0, 3.0])}
    other.load(of_two_ranks, 1)
    assert other.signs.item() == 3.0
    other.load(of_two_ranks, None)
    assert other.signs.item() == 2.0


def test_the_sign_is_that_of_d_on_augmented_real_images(accelerator: Accelerator) -> None:
    state = float64_state(ADAPTIVE, accelerator)
    taken = inputs(ADAPTIVE, 6)
    warps = taken.update_warps
    real = augment(taken.real[0], state.recipe.augmentation, warps[0][0], torch.tensor(0.5, dtype=torch.float64))
    network = state.discriminator.network
    with torch.no_grad():
        network[-2].bias -= network(real).sort().values[1:3].mean()  # two of the six logits are below 0
    expected = network(real).sign().mean()
    assert expected.item() == pytest.approx(1 / 3)
    taken.train(state, 1 / 6)
    assert state.adaptation is not None
    torch.testing.assert_close(state.adaptation.signs[0], expected, rtol=1e-12, atol=1e-12)


def test_the_objectives_take_the_probability_of_now(accelerator: Accelerator) -> None:
    """Without augmentation at 0, and another loss of both networks at 1."""
    row = replace(recipe_named(ADAPTIVE), augmentation=(Fade(),), penalty=None)
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=4, dtype=torch.float64)
    taken = inputs(ADAPTIVE, 6)
    warps = torch.rand(2, 6, 2, dtype=torch.float64)
    batch = Batch(1 / 6, taken.real[0], taken.latents[0], warps=warps)
    losses = []
    for probability in (0.0, 1.0):
        assert state.probability is not None
        state.probability.fill_(probability)
        of_d = state.discriminator.objective(batch, batch.real.flip(0)).loss
        of_g = state.generator.objective(batch).loss
        fake = state.generate(taken.latents[0], None)
        of_fakes = state.generator_loss(batch, fake).loss
        torch.testing.assert_close(of_fakes, of_g)
        losses.append((of_d.item(), of_g.item()))
    network = state.discriminator.network
    plain = row.loss.discriminator(network(taken.real[0]), network(taken.real[0].flip(0))).mean().item()
    assert losses[0][0] == pytest.approx(plain, rel=1e-12)
    assert all(now != before for now, before in zip(*losses, strict=True))


def test_objectives_read_what_the_state_writes_in_several_processes_too(accelerator: Accelerator) -> None:
    """Accelerate moves modules to cpu:0 there, which copies their buffers."""
    accelerator.state.device = torch.device("cpu", 0)
    row = replace(recipe_named(OPTIONAL), generator_top_k=Linear(1.0, 0.5, images=1000))
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=1)
    shared = {"probability": state.probability, "anchors": state.anchors, "top_k": state.top_k}
    objectives = (state.generator.objective, state.discriminator.objective, state.generator_loss)
    named = [(name.rpartition(".")[2], buffer) for one in objectives for name, buffer in one.named_buffers()]
    kept = [(name, buffer is shared[name]) for name, buffer in named if name in shared]
    assert sorted(kept) == sorted([("anchors", True), *3 * [("probability", True)], *2 * [("top_k", True)]])


def test_a_probability_without_a_controller_follows_its_schedule(accelerator: Accelerator) -> None:
    row = replace(
        RECIPES["mlp-compact"], augmentation=(Fade(),), augmentation_probability=Linear(0.0, 0.5, images=100)
    )
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=4)
    assert row.scheduled
    assert state.probability.item() == 0.0
    state.record(torch.zeros(4), 50)
    assert state.probability.item() == 0.25


def test_a_probability_that_changes_nothing_is_said(run_training, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 200, "steps": 1, "augment": "color"}
    run_training(**settings, set=("augmentation_probability=0.3",))
    said = "augmentation_probability 0.3: no effect, this augmentation changes all images"
    assert f"note: {said}\n" in capsys.readouterr().out
    fading = replace(RECIPES["mlp-compact"], augmentation=("color", Fade()), augmentation_probability=0.3)
    assert ignored_probability(fading) is None
    assert ignored_probability(replace(fading, adaptive=Adaptive())) == (
        "augmentation_probability 0.3: no effect with adaptive, which begins at adaptive.begin"
    )
    assert all(ignored_probability(row) is None for row in RECIPES.values())


@dataclass(frozen=True)
class Noted:
    """Adds its numbers up."""

    num_uniforms: ClassVar[int] = 3

    def __call__(self, images: Tensor, uniform: Tensor, probability: Tensor) -> Tensor:
        assert uniform.shape[1] == 3
        return images + probability * uniform.sum(1).view(-1, 1, 1, 1)


def test_augmentations_with_numbers_of_their_own_share_none() -> None:
    chosen = ("cutout", Noted(), "color", Fade(), Noted())
    assert num_uniforms(chosen) == UNIFORMS + 3 + 2 + 3
    assert (num_uniforms((Noted(), Fade())), num_uniforms(("color", "cutout"))) == (5, UNIFORMS)
    uniform = torch.zeros(1, 8)
    uniform[0, :3] = 1.0
    images = augment(torch.zeros(1, 1, 2, 2), (Noted(), Fade(), Noted()), uniform, torch.tensor(0.5))
    # 1.5 by the first three numbers; then faded to 0, because 0 is below the probability; then nothing is added
    assert images.unique().tolist() == [0.0]
    images = augment(torch.zeros(1, 1, 2, 2), (Fade(), Noted(), Noted()), uniform, None)
    assert images.unique().tolist() == [1.0]


def test_a_run_records_the_probability(run_training) -> None:
    run = run_training(recipe=ADAPTIVE, dataset="digits", batch_size=200, steps=12)
    lines = read_json_lines(RunFolder(run).metrics)
    assert all(line["augmentation_probability"] >= 0 for line in lines)
    assert all(-1 <= line["overfitting"] <= 1 for line in lines)
    assert lines[-1]["augmentation_probability"] != 0.5


def test_the_halves_of_the_average_come_sooner_while_it_ramps_up() -> None:
    """min(half-life, ramp × images seen), as the code of arXiv:2006.06676 has it."""
    row = replace(RECIPES["mlp-batchnorm"], ema_half_life=20_000, ema_ramp=0.05)
    assert [row.half_life(seen) for seen in (1_000, 100_000, 400_000, 4_000_000)] == [50, 5_000, 20_000, 20_000]
    assert replace(row, ema_ramp=0.0).half_life(1_000) == 20_000


def test_the_average_ramps_up(accelerator: Accelerator) -> None:
    row = replace(RECIPES["mlp-compact"], ema_half_life=1000, ema_ramp=0.5)
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=4, dtype=torch.float64)
    assert state.average is not None
    with torch.no_grad():
        for value in state.generator.network.parameters():
            value += 1.0
    before = [value.clone() for value in state.average.parameters()]
    state.record(torch.zeros(4), 100)  # a half-life of 50 images: a quarter of the weight stays
    for value, old in zip(state.average.parameters(), before, strict=True):
        torch.testing.assert_close(value, old + 0.75)
