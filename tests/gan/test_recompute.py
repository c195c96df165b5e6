"""--recompute: the same step, with fewer activations kept for its backward passes."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.errors import UsageError
from gan.methods.penalties import GradientPenalty
from gan.options import TrainOptions
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.session.run import prepare
from gan.surface import NOWHERE
from gan.training.execution import Execution
from gan.training.recompute import recompute_in_backward
from gan.training.state import TrainState
from tests.conftest import quick_or_slow
from tests.gan.reference import COMBINED, LAZY, OWN_RECIPE, SHARED, float64_state, inputs


def trained(name: str, accelerator: Accelerator, *, recompute: bool) -> TrainState:
    state = float64_state(name, accelerator, execution=Execution(recompute=recompute))
    for step in range(2):
        torch.manual_seed(step)
        state.record(inputs(name, 6, step).train(state, 1 / 6), 6)
    return state


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, OWN_RECIPE, *SHARED, *LAZY, COMBINED], quick=("mlp-dropout", LAZY[0], COMBINED), slow=("sngan",)
    ),
    ids=label_of,
)
def test_a_step_computes_the_same_bits(
    name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, BatchNorm's running statistics, vectors of spectral norm, masks of dropout, averages."""
    # one pass of D for real and generated images adds gradients up in another order
    monkeypatch.setattr("gan.training.objectives.is_faster_apart", lambda _: False)
    expected = trained(name, accelerator, recompute=False).tensors()
    ours = trained(name, accelerator, recompute=True).tensors()
    assert ours.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(ours[key], value)] == []


def test_spectral_norm_divides_by_what_it_divided_by(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty's pass, which iterates, comes between the two passes of the loss."""
    monkeypatch.setitem(RECIPES, "sngan", replace(RECIPES["sngan"], penalty=GradientPenalty(10.0)))
    expected = trained("sngan", accelerator, recompute=False).tensors()
    ours = trained("sngan", accelerator, recompute=True).tensors()
    assert [key for key, value in expected.items() if not torch.equal(ours[key], value)] == []


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    assert output.requires_grad
    return sum(kept.values())


def test_only_inputs_of_segments_are_kept() -> None:
    layers = [layer for _ in range(8) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())]
    network = nn.Sequential(*layers)
    images = torch.randn(2, 4, 32, 32)
    whole = kept_bytes(network, images)
    passes: list[int] = []
    layers[0].register_forward_hook(lambda *_: passes.append(1))
    recompute_in_backward(network)
    assert kept_bytes(network, images) < whole / 2
    passes.clear()
    network(images).sum().backward()
    assert len(passes) == 2
    with torch.no_grad():
        network(images)
    assert len(passes) == 3


def test_a_copy_runs_its_own_layers() -> None:
    """As the moving average of G is one."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    recompute_in_backward(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert other(torch.ones(1, 2)).abs().sum() == 0
    assert network(torch.ones(1, 2)).abs().sum() > 0


def test_blocks_of_a_list_are_segments() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    network = Listed()
    recompute_in_backward(network)
    passes: list[int] = []
    for block in network.blocks:
        block[0].register_forward_hook(lambda *_: passes.append(1))
    output = network(torch.ones(1, 2))
    assert len(passes) == 3
    output.sum().backward()
    assert len(passes) == 6


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class OfWidth(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())


class Scaled(nn.Module):
    """Calls the blocks of a list with a name."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return scale * self.linear(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=0.5)
        return x


@pytest.mark.parametrize(
    "make",
    [lambda: Residual(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), lambda: OfWidth(2), Scaled],
    ids=["a sequence with a forward", "a sequence of a class", "blocks with names"],
)
def test_what_users_make_of_sequences_and_lists_stays(make: Callable[[], nn.Module]) -> None:
    network = make()
    other = copy.deepcopy(network)
    recompute_in_backward(other)
    outputs = [one(torch.ones(1, 2)) for one in (network, other)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.sum().backward()
    for ours, theirs in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


class Centred(nn.Module):
    """Replaces its buffer in each pass, and does not change it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean()
        return x - self.mean


def what_is_left(network: nn.Module) -> dict[str, Tensor]:
    """Weights, buffers and gradients after two steps, in which a pass comes between those of the loss."""
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        loss = network(images).square().sum()
        with torch.no_grad():
            network(images)
        loss.backward()
    gradients = {f"gradient of {name}": weight.grad for name, weight in network.named_parameters()}
    return {**network.state_dict(), **gradients}


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.spectral_norm(nn.Conv2d(2, 2, 3)),
        lambda: nn.InstanceNorm2d(2, track_running_stats=True),
        lambda: Centred(),
    ],
    ids=["spectral norm by a hook", "running statistics of images", "a buffer that is replaced"],
)
def test_layers_of_users_change_once_in_a_pass(make: Callable[[], nn.Module]) -> None:
    network = nn.Sequential(make(), nn.Conv2d(2, 2, 1), nn.Tanh(), nn.Conv2d(2, 2, 1))
    other = copy.deepcopy(network)
    recompute_in_backward(other)
    expected = what_is_left(network)
    ours = what_is_left(other)
    assert [key for key, value in expected.items() if not torch.equal(ours[key], value)] == []


def test_it_takes_no_graph(accelerator: Accelerator) -> None:
    with pytest.raises(UsageError, match=r"^--recompute with --cuda-graph: give one of them$"):
        prepare(TrainOptions(recipe="mlp", dataset="digits", output=NOWHERE, recompute=True, cuda_graph=True))
