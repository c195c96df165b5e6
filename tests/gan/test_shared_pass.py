"""R1 and R2 from the pass that D's loss makes, beside passes of their own, and where they keep those."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.methods.ada import AugmentationPipeline
from gan.methods.augmentations import num_uniforms
from gan.methods.auxiliary import ClassPrediction
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.losses import NonSaturating, Relativistic
from gan.methods.penalties import ZeroCentred
from gan.models.heads import HeadedDiscriminator
from gan.models.minibatch_deviation import MinibatchDeviation
from gan.recipe_files import label_of
from gan.training.batch import Batch
from gan.training.execution import Execution
from gan.training.objectives import DiscriminatorObjective
from gan.training.terms import Terms
from tests.gan.reference import AUGMENTED, OF_CLASSES, assert_close, float64_state, inputs

WIDE_R3GAN = OF_CLASSES[-1]
NUM_CLASSES = 3
WEIGHT = 3.0
FLOAT64 = torch.float64
AUGMENTATION = ("color", AugmentationPipeline(("blit", "geom", "color")))
COMMON = Terms(Relativistic(), penalty=ZeroCentred(WEIGHT))
CASES = {
    "plain": COMMON,
    "augmented": replace(COMMON, augmentation=AUGMENTATION, probability=torch.tensor(0.7, dtype=FLOAT64)),
    "second head": replace(COMMON, auxiliary=ClassPrediction(0.5), adds_terms=True),
    "near": replace(COMMON, latent_consistency=LatentConsistency(), loss=NonSaturating()),
    "LeCam": replace(COMMON, lecam=LeCam(weight=2.0), anchors=torch.tensor([0.1, -0.2], dtype=FLOAT64)),
}


def discriminator(*layers: nn.Module) -> nn.Module:
    """D of images 3×8×8 with a second head; `layers` come between its convolutions."""
    torch.manual_seed(0)
    features: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), *layers, nn.LazyConv2d(4, 3, stride=2))
    features.append(nn.Tanh()).append(nn.Flatten())
    features(torch.zeros(1, 3, 8, 8))
    head, second_head = nn.Linear(16, 1), nn.Linear(16, NUM_CLASSES)
    return HeadedDiscriminator(features, head, second_head).double()


class OfClasses(nn.Module):
    """D whose logits depend on the class of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = discriminator()
        self.embedding = nn.Embedding(NUM_CLASSES, NUM_CLASSES, dtype=FLOAT64)

    def forward(self, images: Tensor, labels: Tensor, *, with_outputs: bool = False) -> Any:
        logits, outputs = self.features(images, with_outputs=True)
        logits = logits + (outputs * self.embedding(labels)).sum(1)
        return (logits, outputs) if with_outputs else logits


def batch_of(num_images: int, terms: Terms) -> tuple[Batch, Tensor, Tensor]:
    """Real images, classes and uniform numbers; generated images, and those of near latents."""
    torch.manual_seed(1)
    real, fake, near = torch.randn(3, num_images, 3, 8, 8, dtype=FLOAT64)
    warps = torch.rand(2, num_images, num_uniforms(AUGMENTATION), dtype=FLOAT64) if terms.augmentation else None
    labels = torch.arange(num_images) % NUM_CLASSES
    return Batch(1 / max(num_images, 1), real, torch.zeros(num_images, 4), labels, warps=warps), fake, near


def results(network: nn.Module, terms: Terms, num_images: int, *, shares: bool) -> tuple[dict[str, Tensor], int]:
    """What D's objective returns, and the gradients of its loss; and the number of passes of D."""
    objective = DiscriminatorObjective(network, terms)
    objective.may_share_pass = objective.may_share_pass and shares
    passes: list[Tensor] = []
    batch, fake, near = batch_of(num_images, terms)
    network.zero_grad()
    hook = network.register_forward_hook(lambda _module, _inputs, output: passes.append(output))
    out = objective(batch, fake, *([near] if terms.latent_consistency else []))
    hook.remove()
    out.loss.backward()
    found = {name: value.detach() for name, value in out._asdict().items() if value is not None}
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return found | {name: gradient.clone() for name, gradient in gradients.items()}, len(passes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kind", "num_passes"),
    [(discriminator, 1), (OfClasses, 1), (lambda: discriminator(MinibatchDeviation(2)), 2)],
    ids=["without classes", "of classes", "groups of images"],
)
def test_the_pass_of_the_loss_has_the_gradients_of_passes_for_the_penalty(
    kind: Callable[[], nn.Module], num_passes: int, case: str
) -> None:
    """Where D looks at groups of images, each kind of images has a pass, which both share."""
    terms = CASES[case]
    num_passes += num_passes > 1 and terms.latent_consistency is not None
    network = kind()
    ours, of_ours = results(network, terms, 5, shares=True)
    expected, of_expected = results(network, terms, 5, shares=False)
    assert (of_ours, of_expected) == (num_passes, num_passes + 2)
    assert_close(ours, expected, relative=1e-12)
    without, _ = results(network, replace(terms, penalty=None), 5, shares=True)
    assert (expected["loss"] - without["loss"]).abs() > 1e-3


def test_a_process_may_have_no_images() -> None:
    """Its loss is 0, and so are its gradients, for which the other processes wait."""
    found, _ = results(discriminator(), COMMON, 0, shares=True)
    assert {float(value.abs().sum()) for value in found.values()} == {0.0}


@dataclass(frozen=True)
class Doubled(ZeroCentred):
    """A penalty of somebody's own."""

    def __call__(self, *arguments: Any) -> Tensor:
        return 2 * super().__call__(*arguments)


def test_a_penalty_that_inherits_from_it_computes_its_own() -> None:
    network = discriminator()
    without, _ = results(network, replace(COMMON, penalty=None), 5, shares=True)
    once, _ = results(network, COMMON, 5, shares=True)
    twice, num_passes = results(network, replace(COMMON, penalty=Doubled(WEIGHT)), 5, shares=True)
    assert num_passes == 3
    torch.testing.assert_close(twice["loss"] - without["loss"], 2 * (once["loss"] - without["loss"]))


@pytest.mark.parametrize(
    "layer",
    [spectral_norm(nn.Conv2d(4, 4, 1)), nn.Dropout(0.5), nn.Dropout2d(0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_passes_that_differ_are_not_shared(layer: nn.Module) -> None:
    """Spectral norm iterates in each, and dropout draws other numbers: both would train otherwise than before."""
    assert results(discriminator(layer), COMMON, 5, shares=True)[1] == 3


def test_in_half_precision_the_penalty_has_passes_of_its_own() -> None:
    network = discriminator().float()
    batch, fake, _ = batch_of(5, COMMON)
    batch = replace(batch, real=batch.real.float())
    seen: list[torch.dtype] = []
    network.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        DiscriminatorObjective(network, COMMON)(batch, fake.float())
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("r3gan", [12, 6, 6]),
        ("r3gan-cifar", [12, 6, 6]),
        (WIDE_R3GAN, [12, 6, 6]),
        (AUGMENTED, [6, 12]),
    ],
    ids=lambda value: label_of(value) if isinstance(value, str) else None,
)
@pytest.mark.parametrize("recompute", [False, True])
def test_steps_leave_what_they_would_with_passes_for_the_penalty(
    name: str, passes: list[int], recompute: bool, accelerator: Accelerator
) -> None:
    """Weights, moments, averages and metrics. G's update has a pass of generated and one of real images."""
    left: list[dict[str, Tensor]] = []
    for shares in (True, False):
        state = float64_state(name, accelerator, execution=Execution(recompute=recompute))
        sizes: list[int] = []
        state.discriminator.network.register_forward_hook(
            lambda _module, _inputs, output, sizes=sizes: sizes.append(len(output))
        )
        state.discriminator.objective.may_share_pass = shares and state.discriminator.objective.may_share_pass
        metrics = [inputs(name, 6, step).train(state, 1 / 6) for step in range(2)]
        assert sorted(sizes) == sorted((passes if shares else [*passes, 6, 6]) * 2)
        left.append({**state.tensors(), "metrics": torch.stack(metrics)})
    assert_close(*left, relative=1e-8)
