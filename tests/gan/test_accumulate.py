"""--accumulate: several micro-batches train like one batch of all their images."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from bench.subjects.plain_step import plain_optimizers, plain_step
from gan.errors import UsageError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.methods.augmentations import AUGMENTATIONS
from gan.options import TrainOptions, parse_train_options
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.session.run import run_length
from gan.train import main
from gan.training.batch import StepInputs
from gan.training.metrics import METRICS
from gan.training.state import TrainState
from gan.training.step import train_step
from tests.conftest import quick_or_slow, slow_or_nightly
from tests.gan.reference import (
    AUGMENTED,
    COMBINED,
    LAZY,
    NEAR,
    OPTIONAL,
    SHARED,
    assert_close,
    float64_state,
    gradients,
    inputs,
    leave_out_draws,
)
from tests.gan.small_run import SMALL
from tests.gan.test_resume import assert_same_run
from tests.gan.test_step import _NoHostReads

NUM_IMAGES = 11
NUM_MICRO_BATCHES = 3
"""Of 4, 4 and 3 images."""


class _OfMicroBatches:
    """BatchNorm of a whole batch as its micro-batches would have it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [super(_OfMicroBatches, self).forward(part) for part in x.tensor_split(NUM_MICRO_BATCHES)]
        )


class _OfMicroBatches1d(_OfMicroBatches, nn.BatchNorm1d):
    pass


class _OfMicroBatches2d(_OfMicroBatches, nn.BatchNorm2d):
    pass


def still_state(name: str, accelerator: Accelerator) -> TrainState:
    """A state without what differs from one forward pass to the next."""
    state = float64_state(name, accelerator)
    for player in state.players.values():
        leave_out_draws(player.network)
        for layer in player.network.modules():
            if isinstance(layer, _SpectralNorm):
                layer.eval()
    return state


def step_inputs(state: TrainState, name: str, num_micro_batches: int) -> StepInputs:
    taken = inputs(name, NUM_IMAGES).of(state, 1 / NUM_IMAGES)
    recipe = state.recipe
    if recipe.augmentation:
        shape = (recipe.discriminator_steps + 1, 2, NUM_IMAGES, recipe.warp_dim)
        warps = torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        taken = taken._replace(warps=warps)
    return taken._replace(num_micro_batches=num_micro_batches)


def one_step(state: TrainState, name: str, num_micro_batches: int) -> dict[str, Tensor]:
    """Return METRICS and the gradients of the last update of each network."""
    metrics = train_step(state, step_inputs(state, name, num_micro_batches))
    mean = state.generator_penalty_mean
    return {**gradients(state), "metrics": metrics, **({} if mean is None else {"mean": mean})}


def require_same_gradients(name: str, accelerator: Accelerator) -> None:
    whole = still_state(name, accelerator)
    for player in whole.players.values():
        for layer in player.network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.__class__ = {nn.BatchNorm1d: _OfMicroBatches1d, nn.BatchNorm2d: _OfMicroBatches2d}[
                    type(layer)
                ]
    parts = still_state(name, accelerator)
    ours = one_step(parts, name, NUM_MICRO_BATCHES)
    assert_close(ours, one_step(whole, name, 1), relative=1e-9)
    for player, other in zip(parts.players.values(), whole.players.values(), strict=True):
        assert [values["step"] for values in player.optimizer.state.values()] == [
            values["step"] for values in other.optimizer.state.values()
        ]


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, *SHARED, *LAZY, OPTIONAL, AUGMENTED, NEAR, COMBINED],
        quick=("mlp", "mlp-batchnorm", "wgan-gp", "sngan", *LAZY, OPTIONAL, AUGMENTED, NEAR, COMBINED),
        slow=("mlp-dropout", "cgan", "acgan", "infogan", "biggan", "r3gan", "stylegan2", *SHARED),
    ),
    ids=label_of,
)
def test_micro_batches_have_the_gradients_of_the_whole_batch(name: str, accelerator: Accelerator) -> None:
    """In every update of a step; where there is BatchNorm, its statistics are of a micro-batch in both."""
    require_same_gradients(name, accelerator)


@pytest.mark.parametrize("name", quick_or_slow(["mlp", "cgan", "r3gan"], quick=("r3gan",)))
def test_augmentation_of_micro_batches(name: str, accelerator: Accelerator, monkeypatch) -> None:
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], augmentation=tuple(AUGMENTATIONS)))
    require_same_gradients(name, accelerator)


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, *SHARED, *LAZY, OPTIONAL],
        quick=("mlp", "cgan", "wgan", SHARED[0], *LAZY, OPTIONAL),
        slow=("mlp-batchnorm", "sngan", "acgan", "infogan", "r3gan", "stylegan2", *SHARED),
    ),
    ids=label_of,
)
def test_a_step_of_micro_batches_equals_the_tutorials(name: str, accelerator: Accelerator) -> None:
    """The plain loop, which divides the losses of micro-batches by their number; BatchNorm included."""
    state = float64_state(name, accelerator)
    state.discriminator.objective.one_pass = False  # a pass is also an iteration of spectral norm
    plain = [copy.deepcopy(player.network) for player in (state.generator, state.discriminator)]
    for network in (*plain, state.generator.network, state.discriminator.network):
        leave_out_draws(network)
    taken = inputs(name, 12)
    labels = taken.labels if state.recipe.conditional else (None,)
    optimizers = plain_optimizers(state.recipe, *plain)
    warps = taken.update_warps if state.recipe.augmentation else None
    expected = plain_step(state.recipe, *plain, *optimizers, *taken[:3], labels, 3, warps, taken.directions)
    metrics = train_step(state, taken.of(state, 1 / 12)._replace(num_micro_batches=3))
    assert metrics[: len(METRICS)].tolist() == pytest.approx(expected, rel=1e-10)
    for player, network in zip((state.generator, state.discriminator), plain, strict=True):
        assert_close(player.network.state_dict(), network.state_dict(), relative=1e-6)


def test_batchnorm_is_the_exception(accelerator: Accelerator) -> None:
    parts, whole = (one_step(still_state("mlp-batchnorm", accelerator), "mlp-batchnorm", n) for n in (3, 1))
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(parts, whole, relative=1e-3)


@pytest.mark.parametrize("name", ["mlp", "wgan-gp"])
def test_a_pass_has_the_images_of_a_micro_batch_at_most(name: str, accelerator: Accelerator) -> None:
    """Memory grows with the images of a pass."""
    state = still_state(name, accelerator)
    sizes = []
    for player in state.players.values():
        player.network.register_forward_hook(lambda _module, _inputs, output: sizes.append(len(output)))
    one_step(state, name, NUM_MICRO_BATCHES)
    assert max(sizes) == 8  # D takes real and generated images together


@pytest.mark.parametrize("name", ["mlp", "wgan-gp"])
def test_a_step_of_micro_batches_never_waits_for_the_device(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    taken = step_inputs(state, name, NUM_MICRO_BATCHES)
    with _NoHostReads():
        train_step(state, taken)


def scaled_state(accelerator: Accelerator) -> TrainState:
    state = still_state("mlp-compact", accelerator)
    for player in state.players.values():
        player.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    return state


def test_the_gradients_of_micro_batches_are_scaled_alike(accelerator: Accelerator) -> None:
    scaled = scaled_state(accelerator)
    one_step(scaled, "mlp-compact", NUM_MICRO_BATCHES)
    whole = still_state("mlp-compact", accelerator)
    one_step(whole, "mlp-compact", 1)
    for name, player in scaled.players.items():
        assert_close(player.network.state_dict(), whole.players[name].network.state_dict(), relative=1e-6)


def test_an_overflow_in_one_micro_batch_skips_the_update_once(accelerator: Accelerator) -> None:
    state = scaled_state(accelerator)
    before = copy.deepcopy(state.generator.network.state_dict())
    calls = iter(range(100))
    parameter = next(state.generator.network.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf if next(calls) == 1 else gradient)
    one_step(state, "mlp-compact", NUM_MICRO_BATCHES)
    assert next(calls) == NUM_MICRO_BATCHES
    assert_close(state.generator.network.state_dict(), before, relative=0)
    assert (state.generator.scaler.get_scale(), state.discriminator.scaler.get_scale()) == (512.0, 1024.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_or_nightly(["mlp", "wgan-gp", "cgan"], slow=["wgan-gp"]))
def test_compiled_micro_batches_have_the_same_gradients(name: str) -> None:
    from accelerate.utils import TorchDynamoPlugin

    results = []
    for backend in ("no", "aot_eager"):
        torch._dynamo.reset()
        accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend=backend))
        accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=backend)
        results.append(one_step(still_state(name, accelerator), name, NUM_MICRO_BATCHES))
    assert_close(results[1], results[0], relative=1e-9)


@pytest.fixture
def lines(run_training, tmp_path: Path) -> Any:
    def lines_of(**settings: Any) -> list[dict[str, Any]]:
        output = tmp_path / str(settings["batch_size"])
        return read_json_lines(RunFolder(run_training(**{**SMALL, **settings}, output=output)).metrics)

    return lines_of


@pytest.mark.parametrize("name", quick_or_slow(["mlp", "mlp-compact"], quick=["mlp-compact"]))
def test_a_run_is_that_of_the_whole_batch(name: str, lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, latents and steps, also in the smaller last batch of an epoch; images seen count all."""
    row = RECIPES[name]
    monkeypatch.setitem(RECIPES, name, replace(row, optimizer=replace(row.optimizer, eps=1e-3)))
    whole = lines(recipe=name, batch_size=500, epochs=1)
    parts = lines(recipe=name, batch_size=100, accumulate=5, epochs=1)
    assert [line["images_seen"] for line in parts] == [line["images_seen"] for line in whole] == [1797]
    for metric in METRICS:
        assert [line[metric] for line in parts] == pytest.approx([line[metric] for line in whole], rel=1e-4)


def test_records_and_output_say_how_an_update_is_divided(run_training, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_training(**{**SMALL, "recipe": "quickstart", "batch_size": 16, "accumulate": 4}, steps=2)
    said = capsys.readouterr().out
    assert (
        "note: --accumulate 4 differs from one large batch in BatchNorm, "
        "which takes the statistics of a micro-batch\n"
    ) in said
    assert "batch 64 in 4 micro-batches" in said
    config = json.loads(RunFolder(run).config.read_text())
    assert (config["options"]["batch_size"], config["options"]["accumulate"]) == (16, 4)
    assert (config["identity"]["global_batch_size"], config["identity"]["accumulate"]) == (64, 4)
    assert json.loads(RunFolder(run).summary.read_text())["global_batch_size"] == 64
    (line,) = read_json_lines(RunFolder(run).metrics)
    assert line["images_seen"] == 128


def test_a_run_without_micro_batches_is_recorded_as_before(run_training) -> None:
    run = run_training(**SMALL, steps=1)
    assert "accumulate" not in json.loads(RunFolder(run).config.read_text())["identity"]


def test_a_dry_run_shows_the_micro_batches(script) -> None:
    code, output, _ = script(main, "--recipe", "wgan", "--batch-size", 16, "--accumulate", 4, "--dry-run")
    assert code == 0
    assert "global batch  64 = 16 × 4 micro-batches × 1 process(es)" in output
    assert "a step        320 real images = 64 × 5 updates of D" in output


def resume(run: Path, *arguments: object) -> TrainOptions:
    return parse_train_options([*map(str, ("--resume", "--output", run, *arguments))])


def test_a_resumed_run_keeps_its_micro_batches_exactly(run_training, tmp_path: Path) -> None:
    settings = {**SMALL, "recipe": "mlp-dropout", "batch_size": 100, "accumulate": 3}
    whole = run_training(**settings, steps=8, output=tmp_path / "whole")
    halves = run_training(**settings, steps=4, output=tmp_path / "halves")
    options = resume(halves, "--steps", 8)
    assert options.accumulate == 3
    train(options)
    assert_same_run(whole, halves)


@pytest.mark.parametrize(
    ("begun", "arguments", "message"),
    [
        (
            {"batch_size": 300},
            "--batch-size 100 --accumulate 3",
            "accumulate is 3 now, but the run in {} was begun",
        ),
        (
            {"batch_size": 100, "accumulate": 3},
            "--batch-size 300 --accumulate 1",
            "accumulate is 1 now, but the run in {} was begun with 3",
        ),
        (
            {"batch_size": 100, "accumulate": 3},
            "--accumulate 2",
            "global batch size is 200 now, but the run in {}",
        ),
    ],
)
def test_another_number_of_micro_batches_is_another_run(begun, arguments: str, message: str, run_training) -> None:
    run = run_training(**{**SMALL, **begun}, steps=1)
    with pytest.raises(UsageError) as caught:
        train(resume(run, "--steps", 2, *arguments.split()))
    assert str(caught.value).startswith(f"--resume: {message.format(run)}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--accumulate 0", "--accumulate 0: must be at least 1"),
        ("--accumulate -2", "--accumulate -2: must be at least 1"),
        ("--accumulate two", "--accumulate: invalid literal"),
    ],
)
def test_a_bad_number_of_micro_batches_is_one_line(arguments: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_train_options(arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 64, "accumulate": 100},
            "--batch-size 64 × --accumulate 100 × 1 processes: more than the 1797 images of digits; at most 17",
        ),
        (
            {"batch_size": 1, "accumulate": 2000},
            "--batch-size 1 × --accumulate 2000 × 1 processes: more than the 1797 images of digits; "
            "lower --accumulate",
        ),
        (
            {"batch_size": 1, "accumulate": 64},
            "--batch-size 1: quickstart has BatchNorm, and a micro-batch must have at least 2 images in all",
        ),
        (
            {"recipe": "mlp", "set": ("generator.batchnorm=true",), "batch_size": 449},
            "--batch-size 449: mlp has BatchNorm, and the last batch of an epoch of 1,797 images would have 1; "
            "give another size, or --set sampling=shuffle-drop-last",
        ),
        (
            {"recipe": "mlp", "set": ("generator.batchnorm=true",), "batch_size": 2, "accumulate": 3},
            "--batch-size 2: mlp has BatchNorm, and the last micro-batch of an epoch of 1,797 images would have "
            "1; give another size, or --set sampling=shuffle-drop-last",
        ),
    ],
)
def test_micro_batches_that_cannot_train_are_one_line(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_length(TrainOptions(**settings), 1797, 1, (1, 28, 28), 0)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "settings",
    [
        {"set": ()},
        {"set": ("generator.batchnorm=true", "sampling=shuffle-drop-last")},
        {"set": ("generator.batchnorm=true",), "steps": 4},
        {"set": ("generator.batchnorm=true",), "batch_size": 450},
        {"set": ("generator.batchnorm=true",), "resume": True, "output": Path("run")},
        {"recipe": "dcgan", "set": ("sampling=shuffle", "dataset=digits", "generator.channels=4")},
        {"recipe": "dcgan", "set": ("dataset=digits", "generator.channels=4"), "batch_size": 1},
    ],
    ids=["without BatchNorm", "dropped", "not reached", "larger", "resumed", "of pixels", "of pixels alone"],
)
def test_a_single_image_is_refused_only_where_batchnorm_gets_it(settings: dict[str, Any]) -> None:
    length = run_length(TrainOptions(**{"recipe": "mlp", "batch_size": 449, **settings}), 1797, 1, (1, 28, 28), 0)
    assert length.total_steps >= 4


def test_one_image_alone_trains_convolutions_with_batchnorm(run_training) -> None:
    settings = ("sampling=shuffle", "generator.channels=2", "discriminator.channels=2")
    run = run_training(recipe="dcgan", dataset="digits", set=settings, batch_size=898, steps=3)
    assert json.loads(RunFolder(run).summary.read_text())["images_seen"] == 1797
