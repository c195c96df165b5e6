"""Orthogonal regularisation against numbers by hand and the plain formula; and as a part of G's loss."""

from dataclasses import dataclass, replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from gan.errors import UsageError
from gan.methods.losses import NonSaturating
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.schedules import Linear
from gan.models.mlp import MLP
from gan.options import TrainOptions
from gan.recipe_rules import broken_rule
from gan.recipes import RECIPES, Recipe
from gan.training.batch import Batch, StepInputs
from gan.training.rehearsal import rehearse
from gan.training.state import TrainState, build_state
from gan.training.step import train_step
from tests.gan.reference import IMAGE_SHAPE, inputs

penalty = OrthogonalRegularization()


def with_rows(*layers: list[list[float]]) -> nn.Sequential:
    """Linear layers with these weights, in float64."""
    network = nn.Sequential()
    for rows in layers:
        weight = torch.tensor(rows, dtype=torch.float64)
        layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
        layer.weight = nn.Parameter(weight)
        network.append(layer)
    return network


def plainly(weight: Tensor) -> Tensor:
    """Equation 3 of the paper: ``||Wᵀ W ⊙ (1 - I)||²``, where W has a column for each output."""
    columns = weight.flatten(1).T
    return (columns.T @ columns * (1 - torch.eye(columns.shape[1]))).norm() ** 2


def test_two_layers_by_hand() -> None:
    """The product of (1, 2, 0) and (3, 0, 1) is 3. Those of (1, 2), (0, 1) and (2, 0) are 2, 2 and 0."""
    network = with_rows([[1, 2, 0], [3, 0, 1]], [[1, 2], [0, 1], [2, 0]])
    value = penalty(network)
    assert value.item() == pytest.approx(2 * 9 + 2 * (4 + 4 + 0), rel=1e-14)
    value.backward()
    wide, tall = (layer.weight.grad for layer in network)
    # 4 (W Wᵀ ⊙ (1 - I)) W: each row gets four times its product with every other row, times that row
    assert wide.tolist() == [[4 * 3 * number for number in (3, 0, 1)], [4 * 3 * number for number in (1, 2, 0)]]
    expected = [[4 * 2 * 0 + 4 * 2 * 2, 4 * 2 * 1], [4 * 2 * 1, 4 * 2 * 2], [4 * 2 * 1, 4 * 2 * 2]]
    torch.testing.assert_close(tall, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)
    assert all(layer.bias.grad is None for layer in network)


def test_orthogonal_rows_cost_nothing_however_long_they_are() -> None:
    network = with_rows([[3, 0, 0], [0, 0, -5]])
    value = penalty(network)
    value.backward()
    assert value.item() == 0
    assert network[0].weight.grad.abs().max() == 0


@pytest.mark.parametrize("num_rows", [2, 7, 40])
def test_values_and_gradients_are_those_of_the_equation(num_rows: int) -> None:
    """With fewer, and with more rows than columns."""
    torch.manual_seed(num_rows)
    layer = nn.Conv2d(3, num_rows, (1, 3)).double()
    value = penalty(layer)
    (gradient,) = torch.autograd.grad(value, layer.weight)
    expected = plainly(layer.weight)
    (expected_gradient,) = torch.autograd.grad(expected, layer.weight)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-13)


def test_convolutions_of_either_direction_have_a_row_for_each_output() -> None:
    torch.manual_seed(0)
    forward, backward = nn.Conv2d(3, 5, 3).double(), nn.ConvTranspose2d(5, 3, 3).double()
    value = penalty(nn.Sequential(forward, nn.BatchNorm2d(5), backward))
    expected = plainly(forward.weight) + plainly(backward.weight.transpose(0, 1))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_spectral_norm_leaves_the_parameter_behind_it_and_class_vectors_have_no_part() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(4, 3)).double()
    raw = layer.parametrizations.weight.original
    estimate = layer.parametrizations.weight[0]._u.clone()
    value = penalty(nn.ModuleList([nn.Embedding(6, 4).double(), layer]))
    assert value.item() == pytest.approx(plainly(raw).item(), rel=1e-12)
    assert torch.equal(layer.parametrizations.weight[0]._u, estimate)  # no iteration was made
    value.backward()
    assert raw.grad is not None


def test_weights_behind_a_hook_or_made_of_two_parameters_have_a_part() -> None:
    torch.manual_seed(0)
    normed = nn.utils.spectral_norm(nn.Linear(4, 3)).double()
    composed = weight_norm(nn.Linear(4, 3)).double()
    for layer, weight in ((normed, normed.weight_orig), (composed, composed.weight)):
        value = penalty(layer)
        assert value.item() == pytest.approx(plainly(weight).item(), rel=1e-12)
        value.backward()
        assert all(parameter.grad is not None for name, parameter in layer.named_parameters() if name != "bias")


def test_it_is_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        value = penalty(layer)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plainly(layer.weight).item(), rel=1e-4)


def row_with(**settings: object) -> Recipe:
    row = replace(RECIPES["mlp"], generator=MLP((16,)), discriminator=MLP((16,)), generator_first=False)
    return replace(row, generator_penalty=OrthogonalRegularization(0.5), **settings)  # type: ignore[arg-type]


def state_of(row: Recipe) -> TrainState:
    return build_state(row, IMAGE_SHAPE, Accelerator(cpu=True), seed=3, steps_per_epoch=9, dtype=torch.float64)


def test_the_loss_of_g_has_it_once_however_the_batch_is_divided() -> None:
    """Two ranks have four and two images, of which a share is 2 / 6. The mean of both is the term."""
    state = state_of(row_with())
    batch = inputs("mlp", 6).first_batch(state, 1)
    value = 0.5 * penalty(state.generator.network)
    without = state_of(replace(row_with(), generator_penalty=None))

    def added(rows: slice, share: float) -> Tensor:
        part = Batch(share, batch.real[rows], batch.latents[rows])
        return state.generator.objective(part).loss - without.generator.objective(part).loss

    torch.testing.assert_close(added(slice(6), 1 / 6), value, rtol=1e-9, atol=0)
    torch.testing.assert_close((added(slice(4), 2 / 6) + added(slice(4, 6), 2 / 6)) / 2, value, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shared_fakes", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_an_update_of_g_follows_both_gradients(*, shared_fakes: bool, micro_batches: int) -> None:
    """Also where G's loss is taken later, on images that D has learned on."""
    row = row_with(shared_fakes=shared_fakes)
    gradients = []
    weights = []
    for used in (row, replace(row, generator_penalty=None)):
        state = state_of(used)
        weights = [layer.weight.detach().clone() for layer in state.generator.network if hasattr(layer, "weight")]
        taken = inputs("mlp", 6)
        latents = taken.latents[: used.latents_per_step].expand(used.latents_per_step, -1, -1)
        train_step(state, StepInputs(taken.real.flatten(0, 1), latents, 1 / 6, num_micro_batches=micro_batches))
        layers = [layer for layer in state.generator.network if hasattr(layer, "weight")]
        gradients.append([layer.weight.grad for layer in layers])
    for weight, with_term, without in zip(weights, *gradients, strict=True):
        products = weight @ weight.T
        products.fill_diagonal_(0)
        torch.testing.assert_close(with_term - without, 0.5 * 4 * products @ weight, rtol=1e-8, atol=1e-12)


def test_it_takes_no_updates_of_its_own_and_keeps_nothing() -> None:
    row = row_with()
    assert row.lazy == {}
    assert row.numbers("generator", 0) == row.optimizer.after(0)
    assert row.num_updates("generator", 7) == 7
    assert not any(row.due(step).generator for step in range(5))
    assert "generator_penalty.mean" not in state_of(row).tensors()
    assert row.to_json()["generator_penalty"] == {"kind": "OrthogonalRegularization", "weight": 0.5}


def test_settings_choose_it() -> None:
    options = TrainOptions(recipe="mlp", set=("generator_penalty=OrthogonalRegularization",))
    options.validate()
    assert options.row.generator_penalty == OrthogonalRegularization(1e-4)
    chosen = ("generator_penalty=OrthogonalRegularization", "generator_penalty.weight=0.01")
    assert TrainOptions(recipe="dcgan", set=chosen).row.generator_penalty == OrthogonalRegularization(0.01)
    with pytest.raises(UsageError, match=r"generator_penalty.*OrthogonalRegularization.* has no every"):
        TrainOptions(recipe="mlp", set=(*chosen, "generator_penalty.every=4")).validate()


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(IMAGE_SHAPE))

    def forward(self, latents: Tensor) -> Tensor:
        return self.image.expand(len(latents), *IMAGE_SHAPE)


@dataclass(frozen=True)
class ConstantGenerator(MLP):
    def generator(self, latent_dim: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return Constant()


@dataclass(frozen=True)
class PairsOfImages:
    """A term of another shape than it must have."""

    weight: float = 1.0

    def __call__(self, _generator: nn.Module, _latents: Tensor, _labels: Tensor | None, fake: Tensor) -> Tensor:
        return fake.flatten(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": ConstantGenerator((4,))}, "needs a G with linear or convolutional layers"),
        ({"generator_penalty": PairsOfImages()}, "the penalty of the generator returns values of shape"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(changes: dict[str, object], message: str) -> None:
    row = replace(row_with(), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        rehearse(row, IMAGE_SHAPE, 0, "--recipe mine.py")
    rehearse(row_with(loss=NonSaturating()), IMAGE_SHAPE, 0, "", num_processes=2)


def test_the_weight_of_a_term_is_a_number() -> None:
    scheduled = OrthogonalRegularization(Linear(1e-4, 0.0, images=1000))  # type: ignore[arg-type]
    complaint = broken_rule(replace(row_with(), generator_penalty=scheduled))
    assert complaint is not None
    assert complaint.startswith("generator_penalty.weight Linear")
    assert "must be a number" in complaint
    assert broken_rule(row_with()) is None
