"""Gradients in shared memory: threads stand for processes, which do the same with the same sockets and mapping."""

import copy
import errno
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan.process import shared_memory
from gan.process.shared_memory import Neighbours
from gan.process.shared_sums import SharedSums
from gan.training.exchange import SharedGradients, shared_gradients

WHOLE = 2**20
SHARES = (1 / 2, 1 / 3, 1 / 4)


def star(world_size: int) -> list[Neighbours]:
    """Processes, rank 0 with a connection to each of the others."""
    pairs = [socket.socketpair() for _ in range(world_size - 1)]
    others = [Neighbours(rank, world_size, [pair[1]]) for rank, pair in enumerate(pairs, 1)]
    return [Neighbours(0, world_size, [pair[0] for pair in pairs]), *others]


def on_all(processes: list[Any], work: Callable[[Any], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(work, processes, timeout=120))


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Gradients of odd sizes, with channels last and of a weight with gaps; and a weight that is not trained."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Linear(7, 11), nn.Linear(1, 1), nn.Linear(2, 2), nn.BatchNorm1d(3)
    )
    layers[3].requires_grad_(requires_grad=False)
    layers.to(dtype).to(memory_format=torch.channels_last)
    layers[2].weight = nn.Parameter(torch.randn(4, 5, dtype=dtype)[:, :3])  # with gaps
    return layers


def with_gradients(rank: int, dtype: torch.dtype) -> nn.Module:
    one = network(dtype)
    generator = torch.Generator().manual_seed(rank)
    for parameter in one.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return one


def gradients_of(one: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in one.parameters() if parameter.requires_grad]


def exchange_of(one: nn.Module, here: Neighbours, bucket_bytes: int) -> SharedGradients:
    exchanges = shared_gradients([one], here, bucket_bytes)
    assert exchanges
    return exchanges[0]


def averaged(networks: list[nn.Module], bucket_bytes: int, times: int = 1) -> list[list[list[Tensor]]]:
    """Means of each process, each time: of its gradients, twice them, three times them, and so on."""

    def average(here: Neighbours) -> list[list[Tensor]]:
        one = networks[here.rank]
        shared = exchange_of(one, here, bucket_bytes)
        first = [parameter.grad for parameter in one.parameters()]
        means = []
        for factor in range(1, times + 1):
            for parameter, gradient in zip(one.parameters(), first, strict=True):
                parameter.grad = None if gradient is None else factor * gradient
            shared.average()
            means.append(gradients_of(one))
        return means

    return on_all(star(len(networks)), average)


@pytest.mark.parametrize("bucket_bytes", [64, 192, WHOLE])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_process_gets_the_same_means(world_size: int, bucket_bytes: int) -> None:
    networks = [with_gradients(rank, torch.float64) for rank in range(world_size)]
    of_each = [gradients_of(one) for one in networks]
    after = averaged(networks, bucket_bytes, times=3)
    for factor, of_time in enumerate(zip(*after, strict=True), 1):
        for index, of_parameter in enumerate(zip(*of_each, strict=True)):
            mean = factor * torch.stack(of_parameter).mean(0)
            torch.testing.assert_close(of_time[0][index], mean, rtol=1e-15, atol=1e-15)
            assert all(torch.equal(of_time[0][index], other[index]) for other in of_time)
    for one in networks:
        for parameter in one.parameters():
            assert parameter.grad.stride() == torch.empty_like(parameter).stride() or not parameter.requires_grad


def test_two_processes_get_the_bits_that_they_get_from_ddp() -> None:
    """It halves both numbers and adds them."""
    networks = [with_gradients(rank, torch.float32) for rank in range(2)]
    halves = [[gradient / 2 for gradient in gradients_of(one)] for one in networks]
    for (ours,) in averaged(networks, 192):
        for mean, first, second in zip(ours, *halves, strict=True):
            assert torch.equal(mean, first + second)


def test_gradients_that_are_missing_or_lie_otherwise_in_memory_count_as_they_are() -> None:
    networks = [with_gradients(rank, torch.float64) for rank in range(2)]
    convolution, *_ = networks[0]
    convolution.weight.grad = torch.full((1,), 3.0, dtype=torch.float64).expand_as(convolution.weight)
    convolution.bias.grad = None
    expected = [(3 + networks[1][0].weight.grad) / 2, networks[1][0].bias.grad / 2]
    for ((weight, bias, *_),) in averaged(networks, WHOLE):
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
    assert not before[0][0][2].eq(1).any()


def test_a_parameter_without_a_gradient_anywhere_keeps_none_as_in_one_process() -> None:
    """Whichever has one this time. One process takes no step of an optimizer with it, not even by momentum."""
    networks = [network() for _ in range(3)]
    present = [((0,), (0, 1)), ((), (0,)), ((2,), (0,)), ((), (0, 2)), ((0, 1, 2), ())]
    """The ranks that have the gradient of the one and of the other weight, each time."""

    def average(here: Neighbours) -> list[list[Tensor | None]]:
        one = networks[here.rank]
        shared = exchange_of(one, here, WHOLE)
        seen = []
        for ranks_of_each in present:
            for parameter in one.parameters():
                parameter.grad = None
            for layer, ranks in zip((one[0], one[1]), ranks_of_each, strict=True):
                if here.rank in ranks:
                    layer.weight.grad = torch.ones_like(layer.weight)
            shared.average()
            seen.append([None if layer.weight.grad is None else layer.weight.grad.mean() for layer in one[:2]])
        return seen

    expected = [[len(ranks) / 3 if ranks else None for ranks in ranks_of_each] for ranks_of_each in present]
    for seen in on_all(star(3), average):
        assert [[None if mean is None else pytest.approx(mean.item()) for mean in one] for one in seen] == expected


def test_networks_that_take_turns_share_what_processes_send_in() -> None:
    """Two of very different sizes; each process has as much to send in as the larger one takes."""
    networks = [(nn.Linear(100, 100), nn.Linear(2, 1)) for _ in range(2)]
    asked = []

    def average(here: Neighbours) -> list[Tensor]:
        share = here.share
        here.share = lambda num_bytes: asked.append(num_bytes) or share(num_bytes)
        exchanges = shared_gradients(networks[here.rank], here, WHOLE)
        for _ in range(3):
            for one, shared in zip(networks[here.rank], exchanges, strict=True):
                for parameter in one.parameters():
                    parameter.grad = torch.full_like(parameter, here.rank + 1)
                shared.average()
        return [parameter.grad.clone() for one in networks[here.rank] for parameter in one.parameters()]

    for means in on_all(star(2), average):
        assert all(mean.eq(1.5).all() for mean in means)
    num_weights = 100 * 100 + 100
    assert 3 * 4 * num_weights < asked[0] < 3.1 * 4 * num_weights


def test_all_processes_hear_that_one_of_them_gets_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 has none to share, no process may have another descriptor, or one of them cannot map it."""
    with monkeypatch.context() as patch:
        patch.setattr(shared_memory, "_anonymous_file", lambda num_bytes: [])
        assert on_all(star(3), lambda here: shared_gradients([network()], here, WHOLE)) == [None] * 3
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", lambda name: raise_error(errno.EMFILE))
        assert on_all(star(3), lambda here: here.share(64)) == [None] * 3
    calls = iter(range(3))
    mapped = shared_memory.mmap.mmap
    with monkeypatch.context() as patch:
        patch.setattr(
            shared_memory.mmap,
            "mmap",
            lambda *arguments: raise_error(errno.ENOMEM) if next(calls) == 1 else mapped(*arguments),
        )
        assert on_all(star(3), lambda here: here.share(64)) == [None] * 3


def raise_error(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_memory_that_there_is_not_is_not_an_error() -> None:
    assert shared_memory._anonymous_file(2**62) == []


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_ends_is_noticed_by_those_that_wait_for_it(dead: int) -> None:
    first, second = processes = star(2)
    on_all(processes, lambda here: here.meet())
    for connection in processes[dead]._connections:
        connection.close()
    alive = second if dead == 0 else first
    for wait in (alive.meet, lambda: alive.share(64)):
        with pytest.raises(torch.distributed.DistNetworkError):
            wait()


def test_a_process_that_ends_while_others_wait_for_it_is_noticed() -> None:
    first, second = star(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.meet)
        (connection,) = first._connections
        connection.recv(64)
        connection.close()
        with pytest.raises(torch.distributed.DistNetworkError, match="has closed its connection"):
            waiting.result(timeout=120)


def test_processes_that_exchange_different_things_hear_of_it() -> None:
    def exchange(here: Neighbours) -> None:
        memory = here.share(2 * 2 * 64)
        assert memory is not None
        with pytest.raises(RuntimeError, match="different gradients or statistics"):
            SharedSums(here, memory).add_up(torch.ones(1 + here.rank))

    on_all(star(2), exchange)


def test_a_process_that_does_not_come_is_not_waited_for_without_end() -> None:
    first, _ = star(2)
    for connection in first._connections:
        connection.settimeout(0.1)
    with pytest.raises(torch.distributed.DistNetworkError, match="timed out"):
        first.meet()


def test_strangers_at_the_same_address_are_not_let_in() -> None:
    """Another run's rank 0 may have this address on another host, and any process of this host may connect."""
    token = b"0123456789abcdef"
    with shared_memory._listen() as listener, socket.socket(socket.AF_UNIX) as silent:
        address = listener.getsockname()
        assert address.startswith(b"\0"), "it has no name in a file system"
        silent.connect(address)
        stranger = shared_memory._connect(address, bytes(16))
        friend = shared_memory._connect(address, token)
        (accepted,) = shared_memory._accept(listener, token)
        friend.send(b"y")
        assert accepted.recv(1) == b"y"
        for one in (stranger, silent):
            assert one.recv(1) == b"", "its connection is closed"
        for one in (stranger, friend, accepted):
            one.close()


def test_an_address_where_nobody_listens_is_elsewhere() -> None:
    with shared_memory._listen() as listener:
        address = listener.getsockname()
    assert shared_memory._connect(address, bytes(16)) is None


def test_a_system_without_anonymous_files_has_no_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.delattr(socket, "AF_UNIX")
    assert shared_memory._listen() is None
    assert shared_memory._connect(b"\0address", bytes(16)) is None


@pytest.mark.parametrize("world_size", [2, 3])
def test_tables_add_up_to_the_same_sum_in_every_process(world_size: int) -> None:
    """More sums than there are places for, of other sizes and types, while some processes are late."""
    kinds = [torch.float64, torch.float32] * 4
    tables = [
        [torch.randn(2, 3 + number, dtype=kind) for number, kind in enumerate(kinds)] for _ in range(world_size)
    ]

    def add_up(here: Neighbours) -> list[Tensor]:
        memory = here.share(2 * world_size * 192)
        assert memory is not None
        sums = SharedSums(here, memory)
        assert copy.deepcopy(sums) is sums, "the average of a generator has a copy"
        totals = []
        for number, table in enumerate(tables[here.rank]):
            time.sleep(0.002 * ((here.rank + number) % 3))
            totals.append(sums.add_up(table.T))
        return totals

    expected = [sum(of_all).T for of_all in zip(*tables, strict=True)]
    for totals in on_all(star(world_size), add_up):
        assert all(map(torch.equal, totals, expected))
