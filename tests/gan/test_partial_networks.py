"""Networks that are trained in part, in several processes: unused parameters, and those unfrozen later."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gan.errors import UsageError
from gan.recipe_files import recipe_named
from gan.training.exchange import average_unfrozen
from gan.training.player import Player
from gan.training.rehearsal import rehearse
from tests.conftest import ROOT, run_two_processes
from tests.gan.rank_threads import play_ranks
from tests.gan.reference import OWN_RECIPE

PARTIAL = str(ROOT / "tests" / "partial_recipe.py")


def test_a_rehearsal_for_several_processes_names_networks_with_unused_parameters() -> None:
    partial = recipe_named(PARTIAL)
    assert rehearse(partial, (1, 28, 28), 0, "", num_processes=2) == {"discriminator"}
    assert rehearse(partial, (1, 28, 28), 0, "") == set(), "one process need not know"
    own = recipe_named(OWN_RECIPE)
    assert rehearse(own, (1, 28, 28), 0, "", num_processes=2) == set()
    of_both = replace(own, discriminator=partial.discriminator)
    assert rehearse(of_both, (1, 28, 28), 0, "", num_processes=2) == {"discriminator"}


def test_parameters_that_are_unfrozen_later_are_averaged_and_others_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two ranks, one lacks the bias's gradient. Nobody has one of the last weight."""

    def act(rank: int) -> list[torch.Tensor | None]:
        weight, bias, still_frozen, unused = (nn.Parameter(torch.zeros(2, 3).t()) for _ in range(4))
        still_frozen.requires_grad_(requires_grad=False)
        weight.grad = torch.full((3, 2), 1.0 + 2 * rank)
        if rank:
            bias.grad = torch.full((3, 2), 5.0)
        parameters = [weight, bias, still_frozen, unused]
        sgd = torch.optim.SGD(parameters)
        player = Player(nn.Module(), nn.Module(), sgd, torch.amp.GradScaler(enabled=False), frozen=parameters)
        with player.apart():
            player.average_gradients()
        assert weight.grad.eq(1 + 2 * rank).all()
        player.average_gradients()
        assert weight.grad.stride() == weight.stride()
        return [parameter.grad for parameter in parameters]

    for weight, bias, *others in play_ranks(monkeypatch, 2, act):
        assert weight.eq(2).all()
        assert bias.eq(2.5).all()
        assert others == [None, None]


def test_a_gradient_that_ddp_lacks_is_named_in_the_same_step(group_of_one: None) -> None:
    """DDP itself speaks of it in the next step, and advises what no option of ours does."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrapped = DistributedDataParallel(network)
    sgd = torch.optim.SGD(network.parameters())
    player = Player(network, wrapped, sgd, torch.amp.GradScaler(enabled=False))
    player.backward(wrapped(torch.ones(1, 2)).sum())
    player.average_gradients()
    network[1].requires_grad_(requires_grad=False)
    sgd.zero_grad()
    player.backward(wrapped(torch.ones(1, 2)).sum())
    with pytest.raises(UsageError, match=r"--recipe: 1\.weight of Sequential has no gradient in this step"):
        player.average_gradients()


@pytest.fixture
def group_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_nothing_is_exchanged_while_parameters_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: pytest.fail("exchanged"))
    average_unfrozen([nn.Parameter(torch.zeros(2), requires_grad=False)])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_a_partial_network_alike(tmp_path: Path) -> None:
    """With DDP and in shared memory: both ranks have the same weights, the late layer is trained, one is not."""
    run_two_processes("gan/partial_worker.py", tmp_path, cwd=tmp_path)
    of_ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert of_ranks[0] == of_ranks[1]
    shared, sent = of_ranks[0]
    assert shared == sent
    assert shared["late before"] != shared["late"]
    assert shared["unused before"] == shared["unused"]
