"""One pass for several batches, which BatchNorm takes apart, does what a pass for each of them does."""

import copy
from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.methods.losses import NonSaturating
from gan.models.apart import batches_apart, can_take_batches_apart
from gan.models.batch_statistics import synchronize_batchnorm, use_local_batches
from gan.models.cpu_layers import use_cpu_layers
from gan.models.dcgan import DCGAN
from gan.models.minibatch_deviation import MinibatchDeviation
from gan.recipe_files import label_of
from gan.training import objectives
from gan.training.batch import Batch
from gan.training.execution import Execution
from gan.training.objectives import DiscriminatorObjective
from gan.training.state import DEFAULT_EXECUTION, TrainState
from gan.training.terms import Terms
from tests.gan.reference import OF_CLASSES, assert_close, float64_state, inputs, step_gradients

INFOGAN = next(name for name in OF_CLASSES if label_of(name).endswith("infogan"))
NORMS: dict[str, Callable[[], nn.Module]] = {
    "2d": lambda: nn.BatchNorm2d(4),
    "momentum": lambda: nn.BatchNorm2d(4, momentum=0.3),
    "no momentum": lambda: nn.BatchNorm2d(4, momentum=None),
    "not affine": lambda: nn.BatchNorm2d(4, affine=False),
    "not tracked": lambda: nn.BatchNorm2d(4, track_running_stats=False),
}


class Renamed(nn.BatchNorm2d):
    """A class of the user's, which may compute otherwise."""


class Centred(nn.Module):
    """A layer of the user's that looks at a whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def network_with(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, 2, 1), norm, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 5)]
    return nn.Sequential(*layers, nn.BatchNorm1d(5), nn.Linear(5, 1), nn.Flatten(0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_batches", [2, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_a_pass_that_takes_batches_apart_does_what_a_pass_for_each_does(
    norm: str, num_batches: int, memory_format: torch.memory_format
) -> None:
    """Outputs, gradients, and running statistics, which depend on the order of batches."""
    separate = network_with(NORMS[norm]()).double().to(memory_format=memory_format)
    use_cpu_layers(separate)
    together = copy.deepcopy(separate)
    assert can_take_batches_apart(together)
    batches = [torch.randn(6, 2, 4, 4, dtype=torch.float64) * scale + scale for scale in range(1, num_batches + 1)]
    expected = torch.cat([separate(batch) for batch in batches])
    with batches_apart(together, num_batches):
        output = together(torch.cat(batches))
    for network, value in ((separate, expected), (together, output)):
        value.sin().sum().backward()
        network.eval()
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-13)
    for ours, theirs in zip(together.parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    assert together.state_dict().keys() == separate.state_dict().keys()
    for key, value in separate.state_dict().items():
        torch.testing.assert_close(together.state_dict()[key], value, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(together(batches[0]), separate(batches[0]), rtol=1e-12, atol=1e-13)


def test_a_network_is_as_before_afterwards_also_after_an_error() -> None:
    network = network_with(nn.BatchNorm2d(4))
    before = [dict(vars(layer)) for layer in network.modules()]
    with pytest.raises(RuntimeError, match="expected input"), batches_apart(network, 2):
        network(torch.zeros(4, 7, 4, 4))
    assert [vars(layer).keys() for layer in network.modules()] == [attributes.keys() for attributes in before]


def with_forward(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x - x.mean(0)  # type: ignore[method-assign]
    return layer


def over_processes() -> nn.Module:
    return synchronize_batchnorm(nn.Sequential(nn.BatchNorm2d(4)), torch.device("cpu"))


def over_processes_in_one() -> nn.Module:
    layers = nn.Sequential(nn.SyncBatchNorm(4))
    use_local_batches(layers)
    return layers


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.Dropout(0.5), id="dropout"),
        pytest.param(lambda: nn.Dropout2d(0.5), id="dropout of channels"),
        pytest.param(lambda: nn.RReLU(), id="random slopes"),
        pytest.param(lambda: spectral_norm(nn.Conv2d(4, 4, 1)), id="spectral norm"),
        pytest.param(lambda: MinibatchDeviation(2), id="minibatch deviation"),
        pytest.param(lambda: Renamed(4), id="a BatchNorm of the user's"),
        pytest.param(lambda: Centred(), id="a layer of the user's"),
        pytest.param(lambda: with_forward(nn.BatchNorm2d(4)), id="a forward of the user's"),
        pytest.param(lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)), id="spectral norm by a hook"),
        pytest.param(lambda: nn.InstanceNorm2d(4, track_running_stats=True), id="running statistics of images"),
        pytest.param(lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), id="random pooling"),
        pytest.param(over_processes, id="over processes"),
        pytest.param(over_processes_in_one, id="over processes, in one"),
    ],
)
def test_other_layers_that_mix_images_or_draw_numbers_keep_a_pass_for_each_batch(
    make: Callable[[], nn.Module],
) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), make())
    use_cpu_layers(network)
    assert can_take_batches_apart(network[:3])
    assert not can_take_batches_apart(network)


def taken(name: str, accelerator: Accelerator, *, apart: bool) -> tuple[TrainState, dict[str, Tensor]]:
    """What two steps leave, and their metrics."""
    state = float64_state(name, accelerator)
    assert state.discriminator.objective.can_take_apart
    state.discriminator.objective.can_take_apart = apart
    metrics = [inputs(name, 6, step).train(state, 1 / 6) for step in range(2)]
    return state, {**state.tensors(), "metrics": torch.stack(metrics)}


@pytest.mark.parametrize("name", ["dcgan", "cgan", "lsgan", "wgan", INFOGAN], ids=label_of)
def test_steps_leave_what_they_do_with_a_pass_for_each_batch(name: str, accelerator: Accelerator) -> None:
    """Weights, moments, running statistics and their counts, and metrics."""
    _, ours = taken(name, accelerator, apart=True)
    _, theirs = taken(name, accelerator, apart=False)
    for key, value in theirs.items():
        assert value.is_floating_point() or torch.equal(ours[key], value), key
    assert_close(ours, theirs, relative=1e-8)


def sizes_of_passes(name: str, accelerator: Accelerator, execution: Execution = DEFAULT_EXECUTION) -> list[int]:
    """The images of each pass of D in a step of 6 images."""
    state = float64_state(name, accelerator, execution=execution)
    sizes: list[int] = []
    state.discriminator.network.register_forward_hook(lambda _module, _inputs, output: sizes.append(len(output)))
    inputs(name, 6).train(state, 1 / 6)
    return sizes


def test_d_sees_real_and_generated_images_in_one_pass(accelerator: Accelerator) -> None:
    """The last pass is that of G's update."""
    assert sizes_of_passes("dcgan", accelerator) == [12, 6]
    assert sizes_of_passes("wgan", accelerator) == [*[12] * 5, 6]


def test_d_has_a_pass_for_each_if_activations_are_computed_again(accelerator: Accelerator) -> None:
    """They are computed after the pass, when BatchNorm no longer knows of several batches."""
    assert sizes_of_passes("dcgan", accelerator, Execution(recompute=True))[:2] == [6, 6]


@pytest.mark.parametrize(("num_images", "passes"), [(8, [16]), (9, [9, 9])])
def test_d_has_a_pass_for_each_if_batches_are_large(num_images: int, passes: list[int]) -> None:
    network = DCGAN(2).discriminator((1, 28, 28))
    sizes: list[int] = []
    network.register_forward_hook(lambda _module, _inputs, output: sizes.append(len(output)))
    images = torch.zeros(num_images, 1, 28, 28)
    DiscriminatorObjective(network, Terms(NonSaturating()))(Batch(1 / num_images, images, torch.zeros(0)), images)
    assert sizes == passes


def test_compiled_steps_have_a_pass_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler would read BatchNorm's own code."""
    taken_apart: list[object] = []
    monkeypatch.setattr(objectives, "batches_apart", lambda *arguments: taken_apart.append(arguments))
    step_gradients("dcgan", "eager", cpu=True)
    assert not taken_apart
