"""What D's second head learns: closed forms, and the terms in both networks' losses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gan.errors import UsageError
from gan.methods.auxiliary import ClassPrediction, MutualInformation, codes
from gan.methods.losses import NonSaturating
from gan.models.acgan import ACGAN
from gan.models.architectures import build_discriminator, build_generator
from gan.models.infogan import InfoGAN
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES
from gan.training.batch import Batch
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.rehearsal import rehearse
from gan.training.terms import Terms

REAL = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
FAKE = torch.tensor([[1.0, 1.0, 1.0], [0.0, -2.0, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([2, 0])
NO_LATENTS = torch.zeros(2, 4)


def surprises(outputs: Tensor) -> list[float]:
    """-log of the softmax at the class, by Python's numbers."""
    return [
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(outputs.tolist(), LABELS.tolist(), strict=True)
    ]


def test_the_class_surprises_as_the_softmax_says() -> None:
    loss = ClassPrediction()
    assert loss.generator(FAKE, NO_LATENTS, LABELS).tolist() == pytest.approx(surprises(FAKE))
    both = [real + fake for real, fake in zip(surprises(REAL), surprises(FAKE), strict=True)]
    assert loss.discriminator(REAL, FAKE, NO_LATENTS, LABELS).tolist() == pytest.approx(both)


def test_codes_are_functions_of_the_latents() -> None:
    latents = torch.tensor([[0.1, 0.9, -1.0, 5.0, 4.0, 0.0, 1.0, 7.0], [2.0, 0.9, -1.0, 1.0, 4.0, -1.0, 0.5, 8.0]])
    made = codes(latents, (3, 2), 2)
    assert made.categories.tolist() == [[1, 0], [0, 1]]
    expected = [[0.0, math.erf(1 / math.sqrt(2))], [-math.erf(1 / math.sqrt(2)), math.erf(0.5 / math.sqrt(2))]]
    torch.testing.assert_close(made.continuous, torch.tensor(expected))
    assert torch.equal(made.noise, latents[:, 7:])


def test_codes_of_normal_latents_are_uniform() -> None:
    made = codes(torch.randn(20_000, 74, generator=torch.Generator().manual_seed(0)), (10,), 2)
    shares = made.categories.flatten().bincount(minlength=10) / 20_000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    sorted_codes = made.continuous[:, 0].sort().values
    assert (sorted_codes - torch.linspace(-1, 1, 20_000)).abs().max() < 0.03
    assert made.noise.shape == (20_000, 62)


def test_codes_without_categories_and_without_continuous_ones() -> None:
    latents = torch.randn(3, 4)
    assert codes(latents, (), 1).categories.shape == (3, 0)
    made = codes(latents, (4,), 0)
    assert made.continuous.shape == made.noise.shape == (3, 0)


def density(value: float, mean: float) -> float:
    return math.exp(-((value - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


def test_the_bound_on_the_information_is_that_of_both_distributions() -> None:
    """-log of a softmax at the category, minus the logarithms of two normal densities of variance 1."""
    loss = MutualInformation(sizes=(3,), num_continuous=2)
    latents = torch.tensor([[0.0, 0.0, 1.0, 0.0, 1.0, 9.0], [1.0, 0.0, 0.0, -0.5, 0.0, 9.0]], dtype=torch.float64)
    means = torch.tensor([[0.3, -0.2], [0.0, 2.0]], dtype=torch.float64)
    outputs = torch.cat([FAKE, means], 1)
    truth = [[0.0, math.erf(1 / math.sqrt(2))], [math.erf(-0.5 / math.sqrt(2)), 0.0]]
    expected = [
        surprise - sum(math.log(density(code, middle)) for code, middle in zip(row, mean, strict=True))
        for surprise, row, mean in zip(surprises(FAKE), truth, means.tolist(), strict=True)
    ]
    assert loss.generator(outputs, latents, None).tolist() == pytest.approx(expected)
    assert loss.discriminator(outputs * 7, outputs, latents, None).tolist() == pytest.approx(expected)


def networks(kind: str) -> tuple[torch.nn.Module, torch.nn.Module, Tensor | None]:
    torch.manual_seed(0)
    spec = ACGAN(4, 4, dropout=0.0) if kind == "acgan" else InfoGAN(4, 8, 4)
    num_classes = 3 if kind == "acgan" else 0
    labels = torch.tensor([0, 2, 1, 2]) if num_classes else None
    generator = build_generator(spec, 20, (1, 28, 28), num_classes).double()
    discriminator = build_discriminator(spec, (1, 28, 28), num_classes).double()
    return generator, discriminator, labels


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["acgan", "infogan"])
def test_both_losses_get_the_term_times_its_weight(kind: str, weight: float) -> None:
    """What the objectives add, on the global batch's scale, is what the closed forms say of D's outputs."""
    generator, discriminator, labels = networks(kind)
    auxiliary = replace(ClassPrediction() if kind == "acgan" else MutualInformation(), weight=weight)
    condition = () if labels is None else (labels,)
    real = torch.rand(4, 1, 28, 28, dtype=torch.float64) * 2 - 1
    latents = torch.randn(4, 20, dtype=torch.float64)
    with torch.no_grad():
        fake = generator(latents, *condition)
        _, of_real = discriminator(real, *condition, with_outputs=True)
        _, of_fake = discriminator(fake, *condition, with_outputs=True)
    batch = Batch(1 / 4, real, latents, labels)
    for name in ("discriminator", "generator"):
        losses = []
        for given in (None, auxiliary):
            if name == "generator":
                objective = GeneratorObjective(generator, discriminator, Terms(NonSaturating(), auxiliary=given))
                losses.append(objective(batch).loss)
            else:
                objective = DiscriminatorObjective(discriminator, Terms(NonSaturating(), auxiliary=given))
                losses.append(objective(batch, fake).loss)
        terms = [cross_entropies(of_fake, labels) if kind == "acgan" else surprise_of_codes(of_fake, latents)]
        if kind == "acgan" and name == "discriminator":
            terms.append(cross_entropies(of_real, labels))
        assert (losses[1] - losses[0]).item() == pytest.approx(weight * sum(terms).mean().item(), rel=1e-9)


def cross_entropies(outputs: Tensor, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return -outputs.log_softmax(1)[torch.arange(len(outputs)), labels]


def surprise_of_codes(outputs: Tensor, latents: Tensor) -> Tensor:
    category = cross_entropies(outputs[:, :10], latents[:, :10].argmax(1))
    truth = torch.erf(latents[:, 10:12] / math.sqrt(2))
    densities = torch.distributions.Normal(outputs[:, 10:], 1.0).log_prob(truth)
    return category - densities.sum(1)


def test_the_head_teaches_the_generator_and_ds_features() -> None:
    """G's gradient of the term alone is not 0, and D gets none in G's turn."""
    generator, discriminator, labels = networks("infogan")
    terms = Terms(NonSaturating(), auxiliary=MutualInformation(weight=1e6))
    objective = GeneratorObjective(generator, discriminator, terms)
    real = torch.zeros(4, 1, 28, 28, dtype=torch.float64)
    objective(Batch(1 / 4, real, torch.randn(4, 20, dtype=torch.float64), labels)).loss.backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert next(generator.parameters()).grad.abs().max() > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["auxiliary=ClassPrediction"], "auxiliary ClassPrediction: needs a D with a second head"),
        (["discriminator=ACGAN"], "auxiliary none: D (ACGAN) has a second head, and nothing trains it"),
        (
            ["discriminator=ACGAN", "auxiliary=MutualInformation"],
            "the auxiliary loss: ",  # four classes are not ten categories and two means
        ),
    ],
)
def test_heads_and_losses_that_do_not_fit_are_one_line(settings: list[str], message: str) -> None:
    recipe = with_settings(RECIPES["cgan"], settings)
    with pytest.raises(UsageError) as caught:
        rehearse(recipe, (1, 28, 28), 4, "--set X")
    assert str(caught.value).startswith("--set X: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_records_its_auxiliary_loss_and_rows_without_one_are_as_before() -> None:
    row = with_settings(
        RECIPES["cgan"], ["discriminator=ACGAN", "auxiliary=ClassPrediction", "auxiliary.weight=2"]
    )
    assert row.to_json()["auxiliary"] == {"kind": "ClassPrediction", "weight": 2.0}
    assert "auxiliary" not in RECIPES["cgan"].to_json()
    rehearse(row, (1, 28, 28), 4, "")
