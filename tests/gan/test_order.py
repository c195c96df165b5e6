"""The order of an epoch's batches, and every process's shard of one."""

import pytest
import torch

from gan.data.order import Sampling, batches_per_epoch, epoch_batches, shard


def test_shuffled_epochs_see_every_image_once_and_keep_the_partial_batch() -> None:
    batches = epoch_batches(103, 10, Sampling.SHUFFLE, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert torch.cat(batches).sort().values.tolist() == list(range(103))
    assert torch.cat(batches).tolist() != list(range(103))


def test_dropping_the_partial_batch() -> None:
    batches = epoch_batches(103, 10, Sampling.SHUFFLE_DROP_LAST, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [10] * 10
    assert len(set(torch.cat(batches).tolist())) == 100


def test_drawing_with_replacement_repeats_as_often_as_chance_says() -> None:
    batches = epoch_batches(10_000, 100, Sampling.WITH_REPLACEMENT, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [100] * 100
    distinct = torch.cat(batches).unique().numel() / 10_000
    assert distinct == pytest.approx(1 - 1 / 2.718281828, abs=0.02)


@pytest.mark.parametrize("sampling", Sampling)
def test_order_depends_on_seed_and_epoch_alone(sampling: Sampling) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_batches(50, 7, sampling, seed=seed, epoch=epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert len(epoch_batches(50, 7, sampling, seed=1, epoch=2)) == batches_per_epoch(50, 7, sampling)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_shards_make_up_the_batch_in_order(world_size: int, size: int) -> None:
    batch = torch.arange(size)
    shards = [shard(batch, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shards), batch)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
