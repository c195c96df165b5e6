"""What a GPU has and a CPU has not, simulated: tensors elsewhere, and backward passes in a thread of the device.

The device `meta` stands for it: its tensors have no values, and operators refuse others beside them.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore, _create_fake_pg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan.models.batch_statistics import GlobalStatistics
from gan.process.named_sums import total
from gan.process.place import Place
from gan.quality.generated import GeneratedImages
from gan.quality.probabilities import mean_probabilities
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.training.execution import Execution
from gan.training.state import TrainState
from gan.training.step import train_step
from tests.conftest import quick_or_slow
from tests.gan.graph_simulator import simulate_graphs
from tests.gan.reference import (
    AUGMENTED,
    IMAGE_SHAPE,
    LAZY,
    NEAR,
    NUM_CLASSES,
    OF_CLASSES,
    OPTIONAL,
    OWN_RECIPE,
    SCHEDULED,
    float64_state,
    inputs,
    small_state,
)

META = torch.device("meta")
MIXED = [OWN_RECIPE, OPTIONAL, AUGMENTED, NEAR, *LAZY, SCHEDULED]
OTHERS = [*MIXED, *OF_CLASSES]


class HostTensors(TorchDispatchMode):
    """Notes operators that take or return a tensor of the host. GPUs take scalars from there, also silently."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if any(isinstance(leaf, Tensor) and leaf.device != META for leaf in leaves):
            self.operators.add(str(func))
        return result


@pytest.fixture
def on_meta(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """An Accelerator whose device is `meta`, which takes CUDA graphs and their optimizers."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **settings: nullcontext() if kind == "meta" else autocast(kind, **settings)
    )
    simulate_graphs(monkeypatch)
    for name in ("adam", "rmsprop"):
        optimizer = sys.modules[f"torch.optim.{name}"]
        monkeypatch.setattr(optimizer, "_get_capturable_supported_devices", lambda **_: ["meta"])
    accelerator.state.device = META  # reset with the state, after the test
    return accelerator


def state_on_meta(name: str, accelerator: Accelerator) -> TrainState:
    execution = Execution(cuda_graph=True)
    return small_state(name, accelerator, seed=0, steps_per_epoch=10, execution=execution)


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, *OTHERS],
        quick=["wgan", "stylegan2", *MIXED],
        slow=["mlp-batchnorm", "wgan-gp", "sngan", "biggan", "r3gan", "stylegan2-ada"],
    ),
    ids=label_of,
)
def test_a_state_and_its_steps_are_on_one_device(name: str, on_meta: Accelerator) -> None:
    """A CUDA graph would repeat the first value of a scalar on the host, and a copy to the device would wait."""
    state = state_on_meta(name, on_meta)
    held = [*state.tensors().items()]
    for part in (*(player.objective for player in state.players.values()), state.generate, state.generator_loss):
        assert isinstance(part, nn.Module)
        held += [*part.named_buffers(), *part.named_parameters()]
    assert [name for name, tensor in held if tensor.device != META] == []
    taken = inputs(name, 8).to(META, torch.float32).of(state, 1 / 8)
    with HostTensors() as seen:
        for num_micro_batches in (1, 2):  # every lazy penalty is due in the first step
            state.record(train_step(state, taken._replace(num_micro_batches=num_micro_batches)), 8)
    assert not seen.operators


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of two that exchanges tensors of the device alone, as NCCL does, and returns at once."""
    backends = distributed.Backend.default_device_backend_map
    monkeypatch.setattr(distributed.Backend, "default_device_backend_map", dict(backends))
    distributed.Backend.register_backend("device_only", _create_fake_pg, extended_api=True, devices=["meta"])
    distributed.init_process_group("meta:device_only", rank=0, world_size=2, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["stylegan2-ada", LAZY[2], SCHEDULED], ids=label_of)
def test_several_processes_exchange_tensors_of_their_device(
    name: str, on_meta: Accelerator, two_processes: None
) -> None:
    """Average styles, the mean of path lengths, LeCam's anchors, signs for adaptation; DDP is left out."""
    with pytest.raises(RuntimeError, match="device type cpu"):
        total(torch.zeros(1), "a tensor of the host")
    state = state_on_meta(name, on_meta)
    state.world_size = 2
    if state.adaptation is not None:
        state.adaptation = replace(state.adaptation, world_size=2)
    for player in state.players.values():
        for layer in player.network.modules():
            if isinstance(layer, GlobalStatistics):
                layer.across_processes = True
    taken = inputs(name, 8).to(META, torch.float32)
    with HostTensors() as seen:
        for _ in range(4):  # after which augmentation is adapted
            state.record(taken.train(state, 2 / 16), 16)
    assert not seen.operators


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", ["wgan", "stylegan2-ada", LAZY[0], SCHEDULED], ids=label_of)
def test_a_state_that_goes_on_from_a_checkpoint_is_on_one_device(name: str, on_meta: Accelerator) -> None:
    """Also numbers that schedules write into the optimizers, and RMSprop's steps, which are saved on the host."""
    taken = inputs(name, 8).to(torch.float32)
    on_meta.state.device = torch.device("cpu")
    saved = small_state(name, on_meta, seed=0, steps_per_epoch=10)
    saved.record(taken.train(saved, 1 / 8), 8)
    on_meta.state.device = META
    state = state_on_meta(name, on_meta)
    state.load(saved.tensors(), saved.counters(), 0)
    assert [name for name, tensor in state.tensors().items() if tensor.device != META] == []
    taken = taken.to(META)
    with HostTensors() as seen:
        state.record(taken.train(state, 1 / 8), 8)
    assert not seen.operators


@pytest.mark.parametrize("name", ["cgan", "mlp-batchnorm", "biggan-cifar", "stylegan2"])
def test_networks_are_scored_on_their_device(
    name: str, on_meta: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only random numbers and classes of generated images come from the host."""
    monkeypatch.setattr(torch, "Generator", lambda *_, make=torch.Generator: make())  # `meta` has none
    monkeypatch.setattr("gan.quality.generated.seed_default_generator", lambda *_: None)
    state = state_on_meta(name, on_meta)
    images = torch.zeros(20, *IMAGE_SHAPE, dtype=torch.uint8, device=META)
    labels = torch.zeros(20, dtype=torch.int64, device=META) if state.num_classes else None
    with HostTensors() as seen:
        probabilities = mean_probabilities(state, images, labels, seed=0, place=Place(0, 1, META))
    assert not seen.operators
    assert probabilities.device == META
    frequencies = torch.ones(NUM_CLASSES) / NUM_CLASSES if state.num_classes else None
    made = GeneratedImages(state.sampler, state.recipe.latent_dim, 20, 10, META, frequencies, seed=0)
    assert made.batch(1).device == META


def in_another_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a thread call a function while the caller waits, as autograd has one for each GPU."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, *args, **kwargs).result()

    return call


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["mlp-dropout", "sngan", SCHEDULED], ids=label_of)
def test_backward_passes_of_another_thread_compute_the_same(
    name: str, recompute: bool, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread of Python knows by itself, as whether activations are kept, that of a GPU does not know."""
    trained = []
    for threaded in (False, True):
        state = float64_state(name, accelerator, execution=Execution(recompute=recompute))
        torch.manual_seed(0)
        with monkeypatch.context() as patch:
            for function in ("backward", "grad") if threaded else ():
                patch.setattr(torch.autograd, function, in_another_thread(getattr(torch.autograd, function)))
            state.record(inputs(name, 6).train(state, 1 / 6), 6)
        trained.append(state.tensors())
    assert [key for key, value in trained[0].items() if not torch.equal(trained[1][key], value)] == []
