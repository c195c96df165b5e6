"""A whole run under a compiler: as many graphs as there are shapes, whichever way it was asked for."""

import copy
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.utils.parametrizations import spectral_norm

from gan.data.datasets import DATASETS
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.options import TrainOptions
from gan.session.run import prepare
from gan.training.execution import Execution
from gan.training.wrapping import wrap
from tests.conftest import ROOT
from tests.gan.reference import assert_close, small_state

BATCHES = {"dataset": "digits", "batch_size": 8, "epochs": 2}
"""Of 8, 8 and 4 images."""


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch: pytest.MonkeyPatch):
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    monkeypatch.setitem(DATASETS, "digits", lambda _: InMemoryImages(images))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Size]]:
    """Whatever backend is asked for, run eagerly, and tell the shapes of each graph's inputs."""
    shapes = []
    compile_function = torch.compile

    def recorder(graph, example_inputs):
        shapes.append([value.shape for value in example_inputs if isinstance(value, torch.Tensor)])
        assert all(type(size) is int for shape in shapes[-1] for size in shape), "a dynamic shape"
        assert not any(isinstance(value, torch.SymInt) for value in example_inputs), "a dynamic shape"
        return graph.forward

    def compile_with_recorder(model, **settings):
        return compile_function(model, **{**settings, "backend": recorder})

    monkeypatch.setattr(torch, "compile", compile_with_recorder)
    return shapes


@pytest.mark.parametrize(
    ("recipe", "precision", "dynamic", "graphs"),
    [
        ("mlp", "bf16", None, 2 * 2),
        pytest.param("mlp-compact", "bf16", "False", 3 * 2, marks=pytest.mark.nightly),
        ("mlp-compact", "bf16", "True", 3 * 2),
        pytest.param("mlp-compact", "no", None, 3 * 2, marks=pytest.mark.nightly),
        pytest.param("dcgan", "bf16", None, 3 * 1, marks=pytest.mark.nightly),  # whole batches only
    ],
)
@pytest.mark.slow
def test_each_objective_is_compiled_once_a_shape(
    recipe: str, precision: str, dynamic: str | None, graphs: int, run_training, monkeypatch, shapes, capsys
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    if dynamic is not None:
        monkeypatch.setenv("ACCELERATE_DYNAMO_USE_DYNAMIC", dynamic)
    run_training(recipe=recipe, **BATCHES)
    assert counters["stats"]["unique_graphs"] == len(shapes) == graphs
    assert ("--dynamo_use_dynamic has no effect" in capsys.readouterr().out) is (dynamic == "True")


def test_a_compiler_that_is_not_there_is_refused() -> None:
    accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend="tensorrt"))
    with pytest.raises(UsageError, match="--dynamo_backend tensorrt: Invalid backend"):
        small_state("mlp", accelerator, seed=0, steps_per_epoch=1)
    assert accelerator.state.dynamo_plugin.backend.value == "TENSORRT"


@pytest.mark.parametrize(
    ("recipe", "settings", "refused"),
    [
        ("wgan-gp", (), "penalty of wgan-gp"),
        ("mlp-compact", ("latent_consistency=LatentConsistency",), "G's pass for the latent_cons"),
        ("mlp", (), None),
    ],
)
def test_what_is_not_compiled_cannot_be_in_a_full_graph(
    recipe: str, settings: tuple[str, ...], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "True")
    options = TrainOptions(recipe=recipe, set=settings, dataset="digits", batch_size=4)
    with pytest.raises(UsageError, match=refused) if refused else nullcontext():
        prepare(options)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
def test_inductor_trains_in_bf16_without_the_launcher(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    run_training(recipe="mlp", **BATCHES)
    assert counters["stats"]["unique_graphs"] == 4


class Scaled(nn.Module):
    """Scales images by a number that it then overwrites, as a moving average does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.tensor([0.5, 2.0, 3.0]))

    def forward(self, images: Tensor) -> Tensor:
        before = self.scale.clone()
        self.scale.copy_(images.detach().square().mean((0, 2, 3)))
        return images * (before * self.weight).view(1, -1, 1, 1)


class ScaleGradient(torch.autograd.Function):
    """Images as they are, whose gradient is scaled; a number may grow in the backward pass."""

    @staticmethod
    def forward(ctx, images: Tensor, scale: Tensor, growing: Tensor | None) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.growing = growing
        return images.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        if ctx.growing is not None:
            ctx.growing.add_(1)
        return gradient * scale.view(1, -1, 1, 1), None, None


class ScaledGradient(Scaled):
    """Scales gradients alone; the backward pass may overwrite the number once more."""

    def __init__(self, *, grows: bool) -> None:
        super().__init__()
        self.grows = grows

    def forward(self, images: Tensor) -> Tensor:
        weighted = images * self.weight.view(1, -1, 1, 1)
        scaled = ScaleGradient.apply(weighted, self.scale.exp(), self.scale if self.grows else None)
        self.scale.copy_(images.detach().square().mean((0, 2, 3)))
        return scaled


class PartlyScaled(Scaled):
    """Overwrites some of its numbers."""

    def forward(self, images: Tensor) -> Tensor:
        before = self.scale.clone()
        self.scale[1:] = images.detach().square().mean((0, 2, 3))[1:]
        return images * (before * self.weight * self.scale.clone().sqrt()).view(1, -1, 1, 1)


OVERWRITING = {
    "spectral norm": spectral_norm(nn.Conv2d(3, 8, 1)),
    "scale": Scaled(),
    "scale of gradients": ScaledGradient(grows=False),
    "scale that grows in the backward pass": ScaledGradient(grows=True),
    "parts of a scale": PartlyScaled(),
}


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("module", OVERWRITING.values(), ids=OVERWRITING)
def test_gradients_are_of_buffers_before_they_were_overwritten(module: nn.Module) -> None:
    """Inductor would compute small values again in the backward pass, from what the buffers hold then."""
    torch.manual_seed(0)
    module = module.double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    state = []
    for backend in ("no", "inductor"):
        accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend=backend))
        accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=backend)
        copied = copy.deepcopy(module)
        run = wrap(copied, accelerator, Execution())
        for _ in range(3):
            run(images).square().sum().backward()
        gradients = {f"gradient of {name}": parameter.grad for name, parameter in copied.named_parameters()}
        state.append(gradients | dict(copied.named_buffers()))
    assert_close(state[1], state[0], relative=1e-12)


COMPILED = {"mixed_precision": "bf16", "dynamo_config": {"dynamo_backend": "INDUCTOR", "dynamo_use_dynamic": True}}
FLAGS = ("--mixed_precision", "bf16", "--dynamo_backend", "inductor", "--dynamo_use_dynamic")
VARIABLES = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "true",
}


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["variables", "flags", "file"])
@pytest.mark.slow
@pytest.mark.multiprocess
def test_inductor_trains_in_bf16_whichever_way_it_is_asked_for(way: str, tmp_path: Path) -> None:
    """With dynamic shapes asked for, which would take the second objective for the first one at another size."""
    config = tmp_path / "config.yaml"
    asked = COMPILED if way == "file" else {}
    alone = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "use_cpu": True, "num_processes": 1}
    config.write_text(json.dumps({**alone, **asked}))  # JSON is YAML
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    begin = [sys.executable] if way == "variables" else [*launcher, *(FLAGS if way == "flags" else ())]
    run = [
        "--recipe",
        "mlp",
        "--dataset",
        "digits",
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--output",
        tmp_path / "run",
    ]
    variables = VARIABLES if way == "variables" else {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    done = subprocess.run(
        [*begin, "gan/train.py", *run], cwd=ROOT, env={**kept, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    strategy = json.loads((tmp_path / "run" / "config.json").read_text())["strategy"]
    assert (strategy["precision"], strategy["compile"]) == ("bf16", "inductor")
