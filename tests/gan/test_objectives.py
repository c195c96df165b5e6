import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.methods.lazy import every_of
from gan.methods.losses import NonSaturating
from gan.methods.schedules import at
from gan.models.mlp import MLP
from gan.models.networks import apply
from gan.models.style_discriminator import StyleDiscriminator
from gan.recipes import RECIPES
from gan.training.batch import Batch
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.step import train_step
from gan.training.terms import Terms
from tests.gan.reference import assert_close, fix_dropout, float64_state, gradients, inputs, small_state

LOSS = NonSaturating(real_label=0.9)
LATENTS = torch.zeros(0)
"""D's loss without an auxiliary one takes none."""


class SquaredWeights:
    """A term of G's weights alone."""

    weight = 0.25

    def __call__(self, generator, latents, labels, fake) -> Tensor:
        return sum(parameter.square().sum() for parameter in generator.parameters())


class Brightness:
    """A term of each image that G makes."""

    weight = 3.0

    def __call__(self, generator, latents, labels, fake) -> Tensor:
        assert torch.equal(generator(latents), fake)
        return fake.square().mean((1, 2, 3))


def test_a_discriminator_with_batch_statistics_sees_the_halves_apart() -> None:
    """In one pass BatchNorm would mix them: real and fake means so far apart would tell everything."""
    torch.manual_seed(0)
    real, fake = torch.randn(8, 1, 2, 2) + 5, torch.randn(8, 1, 2, 2) - 5
    network = MLP((16,), batchnorm=True).discriminator((1, 2, 2))
    logits = network(real), network(fake)
    out = DiscriminatorObjective(network, Terms(LOSS))(Batch(1 / 8, real, LATENTS), fake)
    torch.testing.assert_close(out.loss, LOSS.discriminator(*logits).mean())
    torch.testing.assert_close(out.p_real, logits[0].sigmoid().mean())


def test_one_pass_gives_what_two_would() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    network = MLP((16, 8), negative_slope=0.2).discriminator((1, 2, 2)).double()
    objective = DiscriminatorObjective(network, Terms(LOSS))
    results = []
    for objective.one_pass in (True, False):
        network.zero_grad()
        out = objective(Batch(1 / 5, real, LATENTS), fake)
        out.loss.backward()
        results.append([*out, *(parameter.grad.clone() for parameter in network.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_share_reduces_over_the_global_batch() -> None:
    """Two processes with 2 and 3 of 5 images: the mean of their losses is the loss on all 5."""
    torch.manual_seed(0)
    real, fake, latents = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2), torch.randn(5, 4)
    generator = MLP((8,)).generator(4, (1, 2, 2))
    network = MLP((8,)).discriminator((1, 2, 2))
    for objective, fakes in (
        (DiscriminatorObjective(network, Terms(LOSS)), (fake,)),
        (
            GeneratorObjective(generator, network, Terms(LOSS, generator_terms=(SquaredWeights(), Brightness()))),
            (),
        ),
    ):
        whole = objective(Batch(1 / 5, real, latents), *fakes).loss
        parts = [
            objective(Batch(2 / 5, real[rows], latents[rows]), *(images[rows] for images in fakes)).loss
            for rows in (slice(0, 2), slice(2, 5))
        ]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_generator_objective_trains_the_generator_alone_and_sees_d_as_it_is_now() -> None:
    torch.manual_seed(0)
    generator = MLP((8,)).generator(4, (1, 2, 2))
    network = MLP((8,)).discriminator((1, 2, 2))
    objective = GeneratorObjective(generator, network, Terms(LOSS))
    assert {id(p) for p in objective.parameters()} == {id(p) for p in generator.parameters()}
    latents = torch.randn(5, 4)
    batch = Batch(1 / 5, torch.zeros(5, 1, 2, 2), latents)
    first = objective(batch)
    first.loss.backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.no_grad():
        network[-2].bias += 1.0
    logits = network(first.fake)
    torch.testing.assert_close(objective(batch).loss, LOSS.generator(logits).mean())


def test_terms_of_the_generator_are_added_with_their_weights() -> None:
    """That of weights is a scalar, which counts once, and that of images is a mean over the global batch."""
    torch.manual_seed(0)
    generator = MLP((8,)).generator(4, (1, 2, 2)).double()
    network = MLP((8,)).discriminator((1, 2, 2)).double()
    batch = Batch(1 / 5, torch.zeros(5, 1, 2, 2), torch.randn(5, 4, dtype=torch.float64))
    plain = GeneratorObjective(generator, network, Terms(LOSS))(batch)
    out = GeneratorObjective(generator, network, Terms(LOSS, generator_terms=(SquaredWeights(), Brightness())))(
        batch
    )
    squares = sum(parameter.square().sum() for parameter in generator.parameters())
    torch.testing.assert_close(out.loss, plain.loss + 0.25 * squares + 3.0 * plain.fake.square().mean())
    generator.zero_grad()
    (out.loss - plain.loss - 3.0 * plain.fake.square().mean()).backward()
    for parameter in generator.parameters():
        torch.testing.assert_close(parameter.grad, 0.5 * parameter.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "mlp-compact", "dcgan", "wgan-gp"])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
def test_every_order_of_updates_has_the_terms_of_the_generator(
    name: str, num_micro_batches: int, accelerator: Accelerator
) -> None:
    """G first, D first, with shared images, with several updates of D: by the gradient that they add to G's."""
    results = []
    for added in ((), (SquaredWeights(),)):
        state = float64_state(name, accelerator)
        for player in state.players.values():
            fix_dropout(player.network, torch.arange(6 // num_micro_batches))
        state.generator.objective.added_terms = added
        before = {key: value.detach().clone() for key, value in state.generator.network.named_parameters()}
        train_step(state, inputs(name, 6).of(state, 1 / 6)._replace(num_micro_batches=num_micro_batches))
        results.append({key: value for key, value in gradients(state).items() if key.startswith("generator")})
    without, with_terms = results
    expected = {key: value + 0.5 * before[key.removeprefix("generator.")] for key, value in without.items()}
    assert_close(with_terms, expected, relative=1e-9)


@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if not row.auxiliary])
def test_bf16_runs_the_networks_in_bf16_and_the_losses_in_fp32(name: str) -> None:
    state = small_state(name, Accelerator(cpu=True, mixed_precision="bf16"), seed=0, steps_per_epoch=1)
    labels = torch.arange(50) % state.num_classes if state.num_classes else None
    seen: list[Tensor] = []
    discriminator = state.discriminator.network
    penalty = state.recipe.penalty
    for layer in discriminator.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    discriminator.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    in_half: list[bool] = []
    # the product with the vector of a class is one of fp32 there
    last = discriminator.output if isinstance(discriminator, StyleDiscriminator) else discriminator
    last.register_forward_hook(lambda module, args, output: in_half.append(output.dtype == torch.bfloat16))
    real = torch.rand(50, 1, 28, 28) * 2 - 1
    mix = torch.rand(50)
    warps = torch.rand(2, 50, state.recipe.warp_dim) if state.recipe.augmentation else None
    batch = Batch(1 / 50, real, torch.randn(50, state.recipe.latent_dim), labels, mix, warps)
    loss = state.discriminator.objective(batch, real.flip(0)).loss
    of_networks = [logits for logits, is_half in zip(seen, in_half, strict=True) if is_half]
    assert sum(map(len, of_networks)) == 100
    expected = state.recipe.loss.discriminator(*torch.cat(of_networks).double().chunk(2)).mean().item()
    if penalty and every_of(penalty) == 1:
        penalties = penalty(lambda images: apply(discriminator, images, labels), real, real.flip(0), mix)
        expected += at(penalty.weight, 0) * penalties.mean().item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert state.generator.objective(batch).loss.dtype == torch.float32
