"""Parameters that take their steps during the backward pass train the same bits, and their gradients are freed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend

from gan.errors import UsageError
from gan.options import TrainOptions
from gan.recipes import RECIPES
from gan.session.strategy import _require_supported
from gan.training.execution import Execution
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state


@pytest.mark.parametrize("name", quick_or_slow(RECIPES, quick=["mlp", "dcgan", "wgan-gp", "wgan"]))
def test_steps_in_the_backward_pass_are_the_same_bits(name: str) -> None:
    results = []
    for early in (False, True):
        execution = Execution(optimizer_in_backward=early)
        state = small_state(name, Accelerator(cpu=True), seed=3, steps_per_epoch=10, execution=execution)
        for step in range(4):
            torch.manual_seed(step)
            state.record(inputs(name, 6, step).to(torch.float32).train(state, 1 / 6), 6)
        gradients = [p.grad for player in state.players.values() for p in player.network.parameters()]
        assert all(gradient is None for gradient in gradients) is early
        results.append(state.tensors())
    late, early_tensors = results
    assert not [key for key in late if not torch.equal(late[key], early_tensors[key])]


def test_gradients_of_a_network_are_never_there_at_once() -> None:
    state = small_state(
        "mlp",
        Accelerator(cpu=True),
        seed=3,
        steps_per_epoch=10,
        execution=Execution(optimizer_in_backward=True),
    )
    most = 0

    def count(*_: object) -> None:
        nonlocal most
        parameters = [p for player in state.players.values() for p in player.network.parameters()]
        most = max(most, sum(p.grad is not None for p in parameters))

    for player in state.players.values():
        player.optimizer.register_step_pre_hook(count)
    inputs("mlp", 6).to(torch.float32).train(state, 1 / 6)
    assert most == 1


@pytest.mark.parametrize(
    ("changes", "options", "obstacle"),
    [
        ({"num_processes": 2}, {}, "several processes exchange gradients"),
        ({"mixed_precision": "fp16"}, {}, "fp16 looks at all gradients"),
        ({"backend": DynamoBackend.INDUCTOR}, {}, "a compiler makes all gradients"),
        ({}, {"accumulate": 2}, "--accumulate 2 adds gradients up"),
        ({}, {"cuda_graph": True}, "a graph has its steps already"),
    ],
)
def test_what_needs_all_gradients_is_refused(
    changes: dict[str, Any], options: dict[str, Any], obstacle: str
) -> None:
    plugin = SimpleNamespace(backend=changes.pop("backend", DynamoBackend.NO), fullgraph=False)
    accelerator: Any = SimpleNamespace(
        **{"num_processes": 1, "mixed_precision": "no", **changes},
        device=torch.device("cuda"),
        distributed_type="NO",
        state=SimpleNamespace(dynamo_plugin=plugin),
    )
    with pytest.raises(UsageError, match=f"^--optimizer-in-backward: {obstacle}.*; use --no-optimizer-in-"):
        _require_supported(accelerator, TrainOptions(optimizer_in_backward=True, **options))
