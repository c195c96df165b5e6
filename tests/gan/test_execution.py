"""How a step runs: the same results whatever it is, and runs of earlier versions go on as they began."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin
from torch import nn

from bench.suite.cases import Case
from bench.suite.machine import Machine, impossible
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.options import TrainOptions, parse_train_options
from gan.recipes import RECIPES
from gan.session.strategy import build_accelerator
from gan.training.checkpoints import load_checkpoint, newest_first
from gan.training.execution import Execution
from tests.conftest import quick_or_slow, run_two_processes
from tests.gan.reference import assert_close, assert_steps_of_the_tutorial, float64_state, inputs
from tests.gan.test_resume import assert_same_run

CHANNELS_LAST = Execution(memory_format="channels_last")
CONVOLUTIONAL = [name for name, row in RECIPES.items() if not hasattr(row.discriminator, "widths")]


def test_every_field_is_an_option_of_the_same_name() -> None:
    names = {field.name for field in fields(Execution)}
    assert names <= {field.name for field in fields(TrainOptions)}
    assert TrainOptions(memory_format="channels_last", shared_memory=False).execution == CHANNELS_LAST


def test_weights_and_moments_lie_in_memory_as_asked_and_start_alike(accelerator: Accelerator) -> None:
    state = float64_state("dcgan", accelerator, execution=CHANNELS_LAST)
    before = float64_state("dcgan", accelerator, execution=Execution())
    inputs("dcgan", 6).train(state, 1 / 6)
    for player in state.players.values():
        for layer in player.network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                weight = layer.weight
                moments = player.optimizer.state[weight]["exp_avg"]
                for value in (weight, weight.grad, moments):
                    assert value is not None
                    assert value.is_contiguous(memory_format=torch.channels_last)
    fresh = float64_state("dcgan", accelerator, execution=CHANNELS_LAST)
    for name, value in before.tensors().items():
        assert torch.equal(fresh.tensors()[name], value)


def test_other_convolutions_lie_as_they_did() -> None:
    network = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Conv1d(2, 3, 3)])
    CHANNELS_LAST.place(network, torch.device("cpu"), torch.float32)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(layer.weight.is_contiguous() for layer in network[1:])


@pytest.mark.parametrize(
    "name",
    quick_or_slow(CONVOLUTIONAL, quick=("dcgan", "wgan-gp", "sngan", "r3gan", "biggan", "stylegan2"), slow=()),
)
def test_steps_in_channels_last_equal_the_tutorials(name: str, accelerator: Accelerator) -> None:
    """In float64: penalties, spectral norm, moving averages, classes, and what a style-based G does."""
    state = float64_state(name, accelerator, execution=CHANNELS_LAST)
    assert_steps_of_the_tutorial(name, state, num_images=6, num_steps=2)


def test_a_state_goes_on_from_another_memory_format(accelerator: Accelerator) -> None:
    """Moments are loaded in the order of the weights: a fused optimizer goes through both in memory."""
    formats = (Execution(), CHANNELS_LAST)
    states = [float64_state("dcgan", accelerator, execution=each) for each in formats]
    first, second = (inputs("dcgan", 6, step) for step in range(2))
    first.train(states[0], 1 / 6)
    saved = {name: value.detach().clone().contiguous() for name, value in states[0].tensors().items()}
    states[1].load(saved, states[0].counters(), 0)
    for state in states:
        second.train(state, 1 / 6)
    assert_close(states[1].tensors(), states[0].tensors(), relative=1e-9)


@pytest.mark.parametrize(
    ("name", "device", "precision", "expected"),
    [
        ("dcgan", "cpu", "no", "channels_last"),
        ("dcgan", "cuda", "bf16", "contiguous"),
        ("dcgan", "cuda", "no", "contiguous"),
        ("mlp", "cpu", "bf16", "contiguous"),
    ],
)
def test_auto_takes_what_is_faster(name: str, device: str, precision: str, expected: str) -> None:
    accelerator = SimpleNamespace(
        device=torch.device(device),
        num_processes=1,
        mixed_precision=precision,
        state=SimpleNamespace(dynamo_plugin=TorchDynamoPlugin(backend="no")),
    )
    settled = TrainOptions(recipe=name).execution.settled(RECIPES[name], accelerator)
    assert settled.changes() == ({"memory_format": expected} if expected != "contiguous" else {})


@pytest.mark.parametrize(
    ("variables", "mode", "message"),
    [
        ({}, "max-autotune", "--compile-mode max-autotune: nothing is compiled; add --dynamo_backend inductor"),
        (
            {"BACKEND": "INDUCTOR", "MODE": "max-autotune"},
            "reduce-overhead",
            "--compile-mode reduce-overhead: --dynamo_mode says max-autotune; give one of them",
        ),
        ({"BACKEND": "INDUCTOR", "MODE": "max-autotune"}, "default", None),
        ({}, "default", None),
        (
            {"BACKEND": "AOT_EAGER"},
            "max-autotune",
            "--compile-mode max-autotune: is a mode of inductor, not of aot",
        ),
        (
            {"BACKEND": "AOT_EAGER", "MODE": "max-autotune"},
            None,
            "--dynamo_mode max-autotune: is a mode of inductor",
        ),
        ({"BACKEND": "INDUCTOR", "MODE": "max-autotune"}, None, None),
        ({"BACKEND": "INDUCTOR", "MODE": "max-autotune"}, "max-autotune", None),
        ({"BACKEND": "INDUCTOR", "MODE": "default"}, "max-autotune", None),
        ({"BACKEND": "AOT_EAGER"}, "default", None),
    ],
)
def test_one_place_decides_the_mode_of_the_compiler(
    variables: dict[str, str], mode: str | None, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", value)
    options = TrainOptions(compile_mode=mode)
    if message is not None:
        with pytest.raises(UsageError, match=message):
            build_accelerator(options)
        return
    settled = options.execution.settled(options.row, build_accelerator(options))
    expected = None if "max-autotune" not in (mode, variables.get("MODE")) else "max-autotune"
    assert settled.compile_mode == expected


def test_the_compiler_is_told_its_mode(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **given: told.append(given["mode"]) or function)
    accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="inductor")
    float64_state("mlp", accelerator, execution=Execution())
    assert set(told) == {None}
    told.clear()
    float64_state("mlp", accelerator, execution=Execution(compile_mode="reduce-overhead"))
    assert set(told) == {"reduce-overhead"}


def test_powersgd_is_refused_where_its_sums_have_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    build_accelerator(TrainOptions(comm_hook="powersgd"))
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(UsageError, match="--comm-hook powersgd: needs GPUs"):
        build_accelerator(TrainOptions(comm_hook="powersgd"))
    reason = impossible(Case(num_processes=2, comm_hook="powersgd"), Machine(num_cores=2, num_gpus=0))
    assert reason
    assert reason.startswith("powersgd needs GPUs, because processes on CPUs would sum")


def test_options_of_the_exchange_have_no_effect_in_one_process(run_training, capsys) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "steps": 1, "num_threads": 1}
    run = run_training(comm_hook="powersgd", bucket_size=3, **settings)
    assert "note: --bucket-size and --comm-hook: no effect in one process" in capsys.readouterr().out
    config = json.loads(RunFolder(run).config.read_text())
    assert config["options"]["comm_hook"] == "powersgd"
    assert (config["strategy"]["comm_hook"], config["strategy"]["bucket_size"]) == ("powersgd", 3)
    run_training(resume=True, comm_hook="no", bucket_size=3, **settings)
    assert "note: begun with {" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exchanges")
    run_two_processes("gan/exchange_worker.py", folder, cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["mlp-batchnorm", "dcgan"])
def test_t1_and_t2_pass_a_rounded_exchange(name: str, exchanges: Path) -> None:
    values = json.loads((exchanges / "checks.json").read_text())
    failed = [
        (hook, key)
        for hook in ("no", "bf16", "fp16", "shared")
        for key, (value, limit) in values[f"{name} {hook}"].items()
        if not value <= limit
    ]
    assert not failed
    assert not [key for hook in ("no", "shared") for key in values[f"{name} {hook}"] if "exchange" in key]
    errors = {hook: values[f"{name} {hook}"]["discriminator's exchange"][0] for hook in ("bf16", "fp16")}
    assert 1e-5 < errors["fp16"] < errors["bf16"] / 4, "the hook was not there"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_t2_fails_an_approximated_exchange(exchanges: Path) -> None:
    values = json.loads((exchanges / "checks.json").read_text())["mlp-compact powersgd"]
    failed = [key for key, (value, limit) in values.items() if not value <= limit]
    assert sorted(failed) == ["discriminator's exchange", "generator's exchange"]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("hook", ["bf16", "fp16"])
def test_resume_is_exact_with_a_rounded_exchange(hook: str, exchanges: Path) -> None:
    assert_same_run(exchanges / hook / "mlp-compact-whole", exchanges / hook / "mlp-compact-killed")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_to_the_same_bits_in_shared_memory(exchanges: Path) -> None:
    """In six buckets. Resumption is exact, and what DDP exchanges is the same."""
    whole = exchanges / "shared" / "mlp-batchnorm-whole"
    assert_same_run(whole, exchanges / "shared" / "mlp-batchnorm-killed")
    assert_same_run(whole, exchanges / "ddp" / "mlp-batchnorm-whole")
    strategies = [
        json.loads((exchanges / name / "mlp-batchnorm-whole" / "config.json").read_text())["strategy"]
        for name in ("shared", "ddp")
    ]
    assert [strategy.get("shared_memory") for strategy in strategies] == [True, None]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_processes_that_do_not_reach_one_another_on_this_host_leave_it_to_ddp(exchanges: Path) -> None:
    assert json.loads((exchanges / "checks.json").read_text())["falls back"]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_processes_that_get_no_memory_to_share_leave_it_to_ddp_and_say_so(exchanges: Path) -> None:
    """Whether it is for gradients, or for the statistics of BatchNorm."""
    for said in json.loads((exchanges / "checks.json").read_text())["said without memory"]:
        assert "note: not all processes get memory for gradients" in said
        assert "shared memory" not in said


@pytest.mark.slow
@pytest.mark.multiprocess
def test_all_processes_begin_with_the_weights_of_rank_0_and_the_same_networks(exchanges: Path) -> None:
    values = json.loads((exchanges / "checks.json").read_text())
    assert values["alike"] == [True, True], "in shared memory, and with DDP"
    line = (
        "--recipe: the discriminator has weight of shape (4, 2), strides (2, 1), torch.float32, trained on rank 1"
    )
    assert values["refuses"].startswith(f"{line}, but weight of shape (3, 2)")


def test_a_run_of_an_earlier_version_goes_on_as_it_began(run_training, tmp_path: Path) -> None:
    """Its config.json has none of the options, whose defaults may be others by now."""
    settings = {"recipe": "dcgan", "dataset": "digits", "batch_size": 4, "set": ("discriminator.channels=4",)}
    settings["set"] += ("generator.channels=4",)
    contiguous = run_training("contiguous", steps=3, memory_format="contiguous", **settings)
    begun = run_training("begun", steps=2, memory_format="contiguous", **settings)
    config = json.loads(RunFolder(begun).config.read_text())
    for field in fields(Execution):
        del config["options"][field.name]
    RunFolder(begun).config.write_text(json.dumps(config))
    options = parse_train_options(["--resume", "--output", str(begun), "--steps", "3"])
    assert options.execution == Execution()
    run_training("begun", **{**settings, "steps": 3, "resume": True, "memory_format": options.memory_format})
    saved = [load_checkpoint(newest_first(run / "checkpoints")[0]).tensors for run in (contiguous, begun)]
    assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())
