"""zCR against closed forms: the noise, both networks' parts, and their place in a step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.errors import UsageError
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.losses import NonSaturating
from gan.methods.orthogonal import OrthogonalRegularization
from gan.models.mlp import MLP
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES
from gan.training.batch import Batch
from gan.training.latent_difference import LatentDifference
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.rehearsal import rehearse
from gan.training.terms import Terms
from tests.gan.reference import NEAR, assert_steps_of_the_tutorial, float64_state, inputs

ZCR = LatentConsistency()
LOSS = NonSaturating()


def latents_of(num_images: int, width: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(num_images, width, generator=torch.Generator().manual_seed(seed))


def test_noise_is_normal_of_its_deviation_and_knows_nothing_of_the_latents() -> None:
    latents = latents_of(20_000)
    noise = (ZCR.near(latents) - latents) / 0.03
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.003)
    correlations = torch.corrcoef(torch.cat([latents, noise], 1).T) - torch.eye(24)
    assert float(correlations.abs().max()) < 0.04
    others = latents + 1e-6
    of_others = (ZCR.near(others) - others) / 0.03
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), of_others.flatten()]))[0, 1])) < 0.01


def test_noise_is_of_each_image_alone_and_the_same_in_any_precision() -> None:
    """So it does not depend on processes, micro-batches or the type of the networks."""
    latents = latents_of(7)
    near = ZCR.near(latents)
    assert torch.equal(torch.cat([ZCR.near(part) for part in latents.tensor_split(3)]), near)
    assert torch.equal(ZCR.near(latents.flip(0)), near.flip(0))
    torch.testing.assert_close(ZCR.near(latents.double()).float(), near, atol=1e-6, rtol=0)
    assert ZCR.near(latents[:, :1]).shape == (7, 1)


def test_a_process_may_have_no_images() -> None:
    assert ZCR.near(latents_of(0)).shape == (0, 12)
    assert ZCR.of_generator(torch.empty(0, 1, 4, 4), torch.empty(0, 1, 4, 4)).shape == (0,)


class LinearGenerator(nn.Module):
    """Images that are a linear map of latents, and of their class if there is one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(latents_of(width, 18, seed=1).double())
        self.labels: list[Tensor] = []

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images = latents @ self.matrix
        if labels is not None:
            self.labels.append(labels)
            images = images * (1 + labels.unsqueeze(1))
        return images.view(-1, 2, 3, 3)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_part_of_a_linear_generator_is_its_closed_form(*, conditional: bool) -> None:
    """``-||δ A||² / n``, with the gradient ``-2 δᵀ δ A / n``; with classes both are of δ times a factor."""
    generator = LinearGenerator(12)
    latents = latents_of(5).double()
    labels = torch.tensor([2, 0, 1, 0, 3]) if conditional else None
    arguments = (latents,) if labels is None else (latents, labels)
    term = LatentDifference(ZCR)(generator, latents, labels, generator(*arguments))
    noise = ZCR.near(latents) - latents
    if labels is not None:
        noise = noise * (1 + labels.unsqueeze(1))
    expected = -(noise @ generator.matrix).square().sum(1) / 18
    torch.testing.assert_close(term, expected)
    assert bool((term < 0).all()), "G maximises the difference"
    term.sum().backward()
    gradient = -2 * noise.T @ noise @ generator.matrix.detach() / 18
    torch.testing.assert_close(generator.matrix.grad, gradient)


def test_the_part_of_a_discriminator_is_its_closed_form() -> None:
    """Both logits have gradients: ``2 λ (a - b)`` and minus that."""
    logits = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    near = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    term = LatentConsistency(discriminator_weight=3.0).of_discriminator(logits, near)
    assert term.tolist() == [3.0, 27.0, 0.0]
    term.sum().backward()
    assert logits.grad is not None
    assert near.grad is not None
    assert logits.grad.tolist() == [6.0, -18.0, 0.0]
    assert near.grad.tolist() == [-6.0, 18.0, 0.0]


def batch_of(num_images: int) -> tuple[Batch, Tensor, Tensor]:
    """Return what a pass takes, with generated images and those of near latents."""
    real, fake, near = torch.randn(3, num_images, 1, 2, 2, dtype=torch.float64)
    return Batch(1 / num_images, real, latents_of(num_images, 4).double()), fake, near


@pytest.mark.parametrize("one_pass", [True, False])
def test_the_objectives_add_both_parts_with_their_weights(*, one_pass: bool) -> None:
    torch.manual_seed(0)
    generator = MLP((8,)).generator(4, (1, 2, 2)).double()
    network = MLP((8,), negative_slope=0.2).discriminator((1, 2, 2)).double()
    batch, fake, near = batch_of(5)
    plain = Terms(LOSS)
    terms = Terms(LOSS, latent_consistency=ZCR, generator_terms=(LatentDifference(ZCR),))
    of_discriminator = DiscriminatorObjective(network, terms)
    of_discriminator.one_pass = one_pass
    alone = DiscriminatorObjective(network, plain)(batch, fake)
    with_near = of_discriminator(batch, fake, near)
    difference = network(fake) - network(near)
    torch.testing.assert_close(with_near.loss, alone.loss + 5.0 * difference.square().mean())
    torch.testing.assert_close(with_near.p_fake, alone.p_fake)
    torch.testing.assert_close(with_near.p_real, alone.p_real)

    of_generator = GeneratorObjective(generator, network, terms)(batch)
    changes = generator(batch.latents) - generator(ZCR.near(batch.latents))
    expected = GeneratorObjective(generator, network, plain)(batch).loss - 0.5 * changes.square().mean()
    torch.testing.assert_close(of_generator.loss, expected)


def test_near_images_are_augmented_as_the_others() -> None:
    """With the same random numbers, so that D sees no difference but that of the latents."""
    network = MLP((8,)).discriminator((1, 4, 4)).double()
    images = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    warps = torch.rand(2, 5, 7, dtype=torch.float64)
    batch = Batch(1 / 5, torch.zeros_like(images), latents_of(5, 4).double(), warps=warps)
    objectives = [
        DiscriminatorObjective(network, Terms(LOSS, augmentation=("translation",), latent_consistency=zcr))
        for zcr in (None, ZCR)
    ]
    torch.testing.assert_close(objectives[1](batch, images, images).loss, objectives[0](batch, images).loss)


def of_instances() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2)), nn.InstanceNorm2d(2, track_running_stats=True)
    )


@pytest.mark.parametrize(
    "make", [lambda: MLP((8,), batchnorm=True).generator(4, (1, 2, 2)), of_instances], ids=["batch", "instances"]
)
def test_running_statistics_are_those_of_the_images_that_are_learned_on(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    generators = [make() for _ in range(2)]
    generators[1].load_state_dict(generators[0].state_dict())
    latents = latents_of(6, 4)
    fake = generators[0](latents)
    LatentDifference(ZCR)(generators[0], latents, None, fake)
    generators[1](latents)
    for ours, theirs in zip(generators[0].buffers(), generators[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [NEAR, "mlp-compact", "wgan-gp"])
def test_steps_equal_the_tutorials(name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the images of G's update shared, with one update of D, and with several of them and a penalty."""
    if name in RECIPES:
        zcr = LatentConsistency(2.0, 3.0, deviation=0.5)
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], latent_consistency=zcr))
    assert_steps_of_the_tutorial(name, float64_state(name, accelerator), num_images=12, num_steps=2)


def test_a_step_has_it_beside_another_term_of_the_generator(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mlp-compact"
    zcr = LatentConsistency(2.0, 3.0, deviation=0.5)
    row = replace(RECIPES[name], latent_consistency=zcr, generator_penalty=OrthogonalRegularization(0.1))
    monkeypatch.setitem(RECIPES, name, row)
    assert_steps_of_the_tutorial(name, float64_state(name, accelerator), num_images=12, num_steps=2)


def test_both_parts_change_a_step(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for zcr in (None, LatentConsistency(deviation=0.5), LatentConsistency(0.0, 0.0, 0.5)):
        monkeypatch.setitem(RECIPES, "mlp-compact", replace(RECIPES["mlp-compact"], latent_consistency=zcr))
        state = float64_state("mlp-compact", accelerator)
        losses.append(inputs("mlp-compact", 12).train(state, share=1 / 12)[:2])
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-12, atol=0)
    assert losses[1][0] > losses[0][0], "D's penalty is positive"
    assert losses[1][1] != losses[0][1]


def test_it_is_a_setting_of_rows_and_recorded_only_if_it_is_on() -> None:
    row = with_settings(RECIPES["mlp-compact"], ["latent_consistency=LatentConsistency"])
    assert row.latent_consistency == LatentConsistency(5.0, 0.5, 0.03)
    recorded = {"discriminator_weight": 5.0, "generator_weight": 0.5, "deviation": 0.03}
    assert row.to_json()["latent_consistency"] == recorded
    assert "latent_consistency" not in RECIPES["mlp-compact"].to_json()
    other = with_settings(row, ["latent_consistency.deviation=0.05"])
    assert other.latent_consistency == LatentConsistency(deviation=0.05)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        (
            "mlp-compact",
            "latent_consistency.deviation=-1",
            "latent_consistency.deviation -1.0: must be a number of",
        ),
        ("mlp", None, "latent_consistency: with generator_first D learns on images of a G that has changed since"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(name: str, setting: str | None, message: str) -> None:
    settings = ["latent_consistency=LatentConsistency", *([] if setting is None else [setting])]
    with pytest.raises(UsageError, match=message):
        with_settings(RECIPES[name], settings)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("latent_consistency=LatentConsistency", "latent_consistency"),
        ("penalty=Consistency", "penalty Consistency"),
        ("penalty=DRAGAN", "penalty DRAGAN"),
    ],
)
def test_a_discriminator_with_batchnorm_is_refused_in_one_line(setting: str, part: str) -> None:
    row = with_settings(RECIPES["dcgan"], [setting])
    with pytest.raises(UsageError, match=f"--set: {part}: needs a D without BatchNorm, whose logit"):
        rehearse(row, (1, 28, 28), 0, "--set")
