import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.methods.lazy import every_of
from gan.methods.losses import NonSaturating
from gan.methods.schedules import at
from gan.models.mlp import MLP
from gan.recipes import RECIPES
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from tests.gan.reference import small_state

LOSS = NonSaturating(real_label=0.9)


def test_a_discriminator_with_batch_statistics_sees_the_halves_apart() -> None:
    """In one pass BatchNorm would mix them: real and fake means so far apart would tell everything."""
    torch.manual_seed(0)
    real, fake = torch.randn(8, 1, 2, 2) + 5, torch.randn(8, 1, 2, 2) - 5
    network = MLP((16,), batchnorm=True).discriminator((1, 2, 2))
    logits = network(real), network(fake)
    out = DiscriminatorObjective(network, LOSS)(real, fake, 1 / 8)
    torch.testing.assert_close(out.loss, LOSS.discriminator(*logits).mean())
    torch.testing.assert_close(out.p_real, logits[0].sigmoid().mean())


def test_one_pass_gives_what_two_would() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    network = MLP((16, 8), negative_slope=0.2).discriminator((1, 2, 2)).double()
    objective = DiscriminatorObjective(network, LOSS)
    results = []
    for objective.one_pass in (True, False):
        network.zero_grad()
        out = objective(real, fake, 1 / 5)
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
    for objective, tensors in (
        (DiscriminatorObjective(network, LOSS), (real, fake)),
        (GeneratorObjective(generator, network, LOSS), (latents,)),
    ):
        whole = objective(*tensors, 1 / 5).loss
        parts = [objective(*(t[rows] for t in tensors), 2 / 5).loss for rows in (slice(0, 2), slice(2, 5))]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_generator_objective_trains_the_generator_alone_and_sees_d_as_it_is_now() -> None:
    torch.manual_seed(0)
    generator = MLP((8,)).generator(4, (1, 2, 2))
    network = MLP((8,)).discriminator((1, 2, 2))
    objective = GeneratorObjective(generator, network, LOSS)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in generator.parameters()}
    latents = torch.randn(5, 4)
    first = objective(latents, 1 / 5)
    first.loss.backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.no_grad():
        network[-2].bias += 1.0
    logits = network(first.fake)
    torch.testing.assert_close(objective(latents, 1 / 5).loss, LOSS.generator(logits).mean())


@pytest.mark.parametrize("name", RECIPES)
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
    real = torch.rand(50, 1, 28, 28) * 2 - 1
    mix = torch.rand(50)
    warps = torch.rand(2, 50, state.recipe.warp_dim) if state.recipe.augmentation else None
    loss = state.discriminator.objective(real, real.flip(0), 1 / 50, mix, labels, warps).loss
    of_networks = torch.cat([logits for logits in seen if logits.dtype == torch.bfloat16])
    assert len(of_networks) == 100
    expected = state.recipe.loss.discriminator(*of_networks.double().chunk(2)).mean().item()
    if penalty and every_of(penalty) == 1:
        expected += at(penalty.weight, 0) * penalty(discriminator, real, real.flip(0), mix).mean().item()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    latents = torch.randn(50, state.recipe.latent_dim)
    assert state.generator.objective(latents, 1 / 50, labels, real, warps).loss.dtype == torch.float32
