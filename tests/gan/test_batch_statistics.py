"""BatchNorm over several processes is that of one process with the whole batch, however the layer is built."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.models.batch_statistics import synchronize_batchnorm, use_local_batches
from tests.gan.rank_threads import play_ranks

CPU = torch.device("cpu")
CHANNELS = 3
BATCH = 6


class Renamed(nn.BatchNorm2d):
    """A class of the user's, which computes as its base does."""


class Padded(nn.BatchNorm3d):
    """A class of the user's with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(2)).squeeze(2)


def without_bias() -> nn.Module:
    layer = nn.BatchNorm2d(CHANNELS)
    layer.bias = None
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "1d": lambda: nn.BatchNorm1d(CHANNELS),
    "2d": lambda: nn.BatchNorm2d(CHANNELS),
    "3d": lambda: nn.BatchNorm3d(CHANNELS),
    "subclass": lambda: Renamed(CHANNELS),
    "not affine": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
    "no bias": without_bias,
    "no momentum": lambda: nn.BatchNorm2d(CHANNELS, momentum=None),
    "of torch, over processes": lambda: nn.SyncBatchNorm(CHANNELS),
    "not tracked": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
}


def batches(name: str) -> list[Tensor]:
    shape = {"1d": (BATCH, CHANNELS), "3d": (BATCH, CHANNELS, 2, 2, 2)}.get(name, (BATCH, CHANNELS, 2, 2))
    generator = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def seen(layer: nn.Module, parts: list[Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return outputs in training, the state after it, and an output in evaluation."""
    outputs = torch.stack([layer(part) for part in parts])
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    return outputs, state, copy.deepcopy(layer).eval()(parts[0])


@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_normalise_like_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(name)
    outputs, state, evaluated = seen(LAYERS[name]().double(), whole)
    layers = [LAYERS[name]().double() for _ in range(2)]

    def act(rank: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        network = synchronize_batchnorm(nn.Sequential(layers[rank]), CPU)
        part = slice(0, 4) if rank == 0 else slice(4, BATCH)
        return seen(network[0], [batch[part] for batch in whole])

    of_ranks = play_ranks(monkeypatch, 2, act)
    torch.testing.assert_close(torch.cat([of_rank[0] for of_rank in of_ranks], 1), outputs)
    for _, of_rank, _ in of_ranks:
        assert of_rank.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(of_rank[key], value)
    if name != "not tracked":  # it has none but those of the batch, also in evaluation
        torch.testing.assert_close(torch.cat([of_rank[2] for of_rank in of_ranks]), evaluated)


def test_a_rehearsal_takes_torchs_layers_over_processes_on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They refuse tensors on CPUs as soon as there are several processes."""
    (batch, *_) = batches("2d")
    layer = nn.SyncBatchNorm(CHANNELS).double()
    expected = nn.BatchNorm2d(CHANNELS).double()(batch)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="GPU"):
        layer(batch)
    use_local_batches(layer)
    torch.testing.assert_close(layer(batch), expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_forward_of_the_users_is_not_lost(device: str) -> None:
    """On a GPU, torch would replace the layer and its forward in silence."""
    network = nn.Sequential(Padded(CHANNELS))
    with pytest.raises(UsageError, match="--recipe: Padded is a BatchNorm with a forward of its own"):
        synchronize_batchnorm(network, torch.device(device))
    assert type(network[0]) is Padded
