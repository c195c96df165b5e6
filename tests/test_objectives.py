import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.losses import NonSaturating
from gan.networks import MLP
from gan.objectives import DiscriminatorObjective, GeneratorObjective
from gan.recipes import RECIPES
from gan.state import build_state

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
    generator, network = MLP((8,)).generator(4, (1, 2, 2)), MLP((8,)).discriminator((1, 2, 2))
    for objective, tensors in (
        (DiscriminatorObjective(network, LOSS), (real, fake)),
        (GeneratorObjective(generator, network, LOSS), (latents,)),
    ):
        whole = objective(*tensors, 1 / 5).loss
        parts = [objective(*(t[rows] for t in tensors), 2 / 5).loss for rows in (slice(0, 2), slice(2, 5))]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_generator_objective_trains_the_generator_alone_and_sees_d_as_it_is_now() -> None:
    torch.manual_seed(0)
    generator, network = MLP((8,)).generator(4, (1, 2, 2)), MLP((8,)).discriminator((1, 2, 2))
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
    state = build_state(
        RECIPES[name], (1, 28, 28), Accelerator(cpu=True, mixed_precision="bf16"), seed=0, steps_per_epoch=1
    )
    seen: list[Tensor] = []
    discriminator = state.discriminator.network
    for layer in discriminator:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    discriminator.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    real = torch.rand(50, 1, 28, 28) * 2 - 1
    loss = state.discriminator.objective(real, real.flip(0), 1 / 50).loss
    (logits,) = seen
    assert logits.dtype == torch.bfloat16
    expected = state.recipe.loss.discriminator(*logits.double().chunk(2)).mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert state.generator.objective(torch.randn(50, state.recipe.latent_dim), 1 / 50).loss.dtype == torch.float32
