"""Gradients in shared memory: threads stand for processes, which do the same with the same sockets and mapping."""

import copy
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.process import shared_memory
from gan.process.shared_memory import Neighbours
from gan.training.exchange import SharedGradients

WHOLE = 2**20
SHARES = (1 / 2, 1 / 3, 1 / 4)


def star(world_size: int) -> list[Neighbours]:
    """Processes, rank 0 with a connection to each of the others."""
    pairs = [socket.socketpair() for _ in range(world_size - 1)]
    others = [Neighbours(rank, world_size, [pair[1]]) for rank, pair in enumerate(pairs, 1)]
    return [Neighbours(0, world_size, [pair[0] for pair in pairs]), *others]


def on_all(processes: list[Any], work: Callable[[Any], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(work, processes, timeout=20))


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Gradients of odd sizes, one of them with its channels last, and a weight that is not trained."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Linear(7, 11), nn.Linear(1, 1), nn.Linear(2, 2), nn.BatchNorm1d(3)
    )
    layers[3].requires_grad_(requires_grad=False)
    return layers.to(dtype).to(memory_format=torch.channels_last)


def with_gradients(rank: int, dtype: torch.dtype) -> nn.Module:
    one = network(dtype)
    generator = torch.Generator().manual_seed(rank)
    for parameter in one.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return one


def gradients_of(one: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in one.parameters() if parameter.requires_grad]


def averaged(networks: list[nn.Module], bucket_bytes: int, times: int = 1) -> list[list[Tensor]]:
    """What each process has after it has averaged its gradients `times` times."""

    def average(here: Neighbours) -> list[Tensor]:
        one = networks[here.rank]
        given = [parameter.grad for parameter in one.parameters()]
        shared = SharedGradients(one, here, bucket_bytes)
        for _ in range(times):
            for parameter, gradient in zip(one.parameters(), given, strict=True):
                parameter.grad = gradient
            shared.average()
        return gradients_of(one)

    return on_all(star(len(networks)), average)


@pytest.mark.parametrize("bucket_bytes", [64, 192, WHOLE])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_process_gets_the_same_means(world_size: int, bucket_bytes: int) -> None:
    networks = [with_gradients(rank, torch.float64) for rank in range(world_size)]
    of_each = [gradients_of(one) for one in networks]
    after = averaged(networks, bucket_bytes, times=3)
    for index, of_parameter in enumerate(zip(*of_each, strict=True)):
        mean = torch.stack(of_parameter).mean(0)
        torch.testing.assert_close(after[0][index], mean, rtol=1e-15, atol=1e-15)
        assert all(torch.equal(after[0][index], other[index]) for other in after)
    for one in networks:
        for parameter in one.parameters():
            assert parameter.grad.stride() == parameter.stride() or not parameter.requires_grad


def test_two_processes_get_the_bits_that_they_get_from_ddp() -> None:
    """It halves both numbers and adds them."""
    networks = [with_gradients(rank, torch.float32) for rank in range(2)]
    halves = [[gradient / 2 for gradient in gradients_of(one)] for one in networks]
    for ours in averaged(networks, 192):
        for mean, first, second in zip(ours, *halves, strict=True):
            assert torch.equal(mean, first + second)


def test_gradients_that_are_missing_or_lie_otherwise_in_memory_count_as_they_are() -> None:
    networks = [with_gradients(rank, torch.float64) for rank in range(2)]
    convolution, *_ = networks[0]
    convolution.weight.grad = torch.full((1,), 3.0, dtype=torch.float64).expand_as(convolution.weight)
    convolution.bias.grad = None
    expected = [(3 + networks[1][0].weight.grad) / 2, networks[1][0].bias.grad / 2]
    for weight, bias, *_ in averaged(networks, WHOLE):
        torch.testing.assert_close(weight, expected[0], rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(bias, expected[1], rtol=1e-15, atol=1e-15)


def test_the_next_gradients_are_the_processs_own_until_they_are_averaged() -> None:
    networks = [with_gradients(rank, torch.float64) for rank in range(2)]
    before = averaged(networks, WHOLE)
    first, second = networks
    for one, factor in ((first, 1.0), (second, 3.0)):
        for parameter in one.parameters():
            parameter.grad = None
        (factor * one[1].weight.sum()).backward()
    assert first[1].weight.grad.eq(1).all()
    assert second[1].weight.grad.eq(3).all()
    assert not before[0][2].eq(1).any()


def test_all_processes_hear_that_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_anonymous_file", lambda num_bytes: None)

    def complaint(here: Neighbours) -> str:
        with pytest.raises(UsageError) as error:
            SharedGradients(network(), here, WHOLE)
        return str(error.value)

    complaints = on_all(star(3), complaint)
    assert len({*complaints}) == 1
    assert "bytes for gradients; give --no-shared-memory" in complaints[0]


def test_memory_that_there_is_not_is_not_an_error() -> None:
    assert shared_memory._anonymous_file(2**62) is None


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_ends_is_noticed_by_those_that_wait_for_it(dead: int) -> None:
    first, second = processes = star(2)
    on_all(processes, lambda here: here.meet())
    for connection in processes[dead]._connections:
        connection.close()
    with pytest.raises(torch.distributed.DistNetworkError):
        (second if dead == 0 else first).meet()


def test_a_process_that_does_not_come_is_not_waited_for_without_end() -> None:
    first, _ = star(2)
    for connection in first._connections:
        connection.settimeout(0.1)
    with pytest.raises(torch.distributed.DistNetworkError, match="timed out"):
        first.meet()


def test_processes_of_other_users_are_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    user = shared_memory.os.getuid()
    with socket.socket(socket.AF_UNIX) as listener:
        address = shared_memory._listen(listener, 2)
        friend = shared_memory._connect(address)
        assert friend is not None
        monkeypatch.setattr(shared_memory.os, "getuid", lambda: user + 1)
        assert shared_memory._connect(address) is None
        listener.settimeout(0.1)
        with pytest.raises(torch.distributed.DistNetworkError, match="timed out"):
            shared_memory._accept(listener, 1)
        friend.close()


def test_an_address_where_nobody_listens_is_elsewhere() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        address = shared_memory._listen(listener, 2)
    assert shared_memory._connect(address) is None
    assert copy.copy(address).startswith(b"\0"), "it has no name in a file system"
