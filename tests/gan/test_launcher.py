"""What Accelerate's launcher is told: each option is followed, refused in a line, or said to have no effect."""

import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import accelerate
import joblib
import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser

import gan.process.launcher
import gan.session.strategy
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.options import TrainOptions
from gan.process.launcher import (
    ENVIRONMENT_ADVICE,
    GROUPS_WITHOUT_EFFECT,
    OPTION_ADVICE,
    SECTIONS_WITHOUT_EFFECT,
    LaunchRequest,
    num_threads_asked,
    parse_accelerate_launch,
)
from gan.session.strategy import build_accelerator, configure_backends, say_what_differs
from tests.conftest import ROOT, run_script

CONFIGS = ROOT / "accelerate_configs"


def launched(*arguments: str, environment: dict[str, str] | None = None) -> LaunchRequest:
    return parse_accelerate_launch([*arguments, "gan/train.py", "--steps", "3"], environment or {})


@pytest.fixture
def started_by(monkeypatch: pytest.MonkeyPatch):
    def use(launcher: LaunchRequest) -> None:
        for module in (gan.process.launcher, gan.session.strategy):
            monkeypatch.setattr(module, "launch_request", lambda: launcher)

    return use


def refused(launcher: LaunchRequest, started_by) -> str:
    started_by(launcher)
    with pytest.raises(UsageError) as caught:
        build_accelerator(TrainOptions())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--gradient_accumulation_steps 4",
            "--gradient_accumulation_steps 4: leave it out, and give the training --accumulate",
        ),
        (
            "--gradient-accumulation-steps=4",
            "--gradient_accumulation_steps 4: leave it out, and give the training --accumulate",
        ),
        ("--gradient_clipping 1.0", "--gradient_clipping 1.0: gradients are not clipped here"),
        ("--use_fsdp", "--use_fsdp: has no effect here"),
        ("--fsdp_sharding_strategy FULL_SHARD", "--fsdp_sharding_strategy FULL_SHARD: has no effect here"),
        ("--use_deepspeed --zero_stage 3", "--use_deepspeed: has no effect here"),
        ("--fp8_backend te", "--fp8_backend te: has no effect here"),
        ("--tpu", "--tpu: there is no training on TPUs here"),
        ("--dynamo_use_regional_compilation", "--dynamo_use_regional_compilation: objectives are compiled whole"),
    ],
)
def test_options_of_the_launcher_without_effect_are_refused(arguments: str, message: str, started_by) -> None:
    assert refused(launched(*arguments.split()), started_by).startswith(f"accelerate launch {message}")


def test_each_option_of_the_launcher_is_followed_or_refused() -> None:
    """An option that a later Accelerate brings has to be put on one of the two sides."""
    followed = (
        "help config_file quiet module no_python debug cpu multi_gpu mixed_precision num_processes num_machines "
        "num_cpu_threads_per_process enable_cpu_affinity dynamo_backend dynamo_mode dynamo_use_fullgraph "
        "dynamo_use_dynamic gpu_ids same_network machine_rank main_process_ip main_process_port tee log_dir role "
        "rdzv_backend rdzv_conf max_restarts monitor_interval mpirun_hostfile training_script "
        "training_script_args"
    )
    groups = launch_command_parser()._action_groups
    refused = {
        action.dest
        for group in groups
        for action in group._group_actions
        if action.dest in OPTION_ADVICE or str(group.title).startswith(GROUPS_WITHOUT_EFFECT)
    }
    assert not refused & set(followed.split())
    assert {action.dest for group in groups for action in group._group_actions} == refused | set(followed.split())


@pytest.mark.parametrize("arguments", ["", "--gradient_accumulation_steps 1", "--mixed_precision bf16", "--cpu"])
def test_what_asks_for_nothing_else_is_taken(arguments: str) -> None:
    assert launched(*arguments.split()).without_effect == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "distributed_type FSDP: has no effect here"),
        (
            "distributed_type: 'NO'\ndeepspeed_config: {gradient_accumulation_steps: 4}",
            "deepspeed_config: gradient_accumulation_steps: leave it out, and give the training --accumulate",
        ),
        ("distributed_type: 'NO'\ndeepspeed_config: {zero_stage: 2}", "deepspeed_config: has no effect here"),
        ("distributed_type: 'NO'\nfp8_config: {backend: TE}", "fp8_config: has no effect here"),
        (
            "distributed_type: 'NO'\ndeepspeed_config: {gradient_accumulation_steps: 1}",
            "deepspeed_config: has no effect here",
        ),
        (
            "distributed_type: 'NO'\ndynamo_config: {dynamo_use_regional_compilation: true}",
            "dynamo_use_regional_compilation: objectives are compiled whole here",
        ),
    ],
)
def test_keys_of_a_configuration_file_without_effect_are_refused(
    text: str, message: str, started_by, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"compute_environment: LOCAL_MACHINE\nnum_processes: 2\n{text}\n")
    assert refused(launched("--config_file", str(file)), started_by).startswith(f"{file}: {message}")


def test_each_section_of_a_configuration_file_is_followed_or_refused() -> None:
    """A section that a later Accelerate brings has to be put on one of the two sides."""
    sections = {field.name for field in fields(ClusterConfig) if field.name.endswith("_config")}
    assert sections == {*SECTIONS_WITHOUT_EFFECT, "dynamo_config", "mpirun_config"}


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", "leave it out, and give the training --accumulate instead"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=auto",
            "leave it out, and give the training --accumulate instead",
        ),
        ("ACCELERATE_GRADIENT_CLIPPING=1.0", "gradients are not clipped here"),
        ("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION=yes", "objectives are compiled whole here"),
        ("ACCELERATE_USE_FSDP=true", "has no effect here"),
        ("ACCELERATE_USE_FSDP=yes", "has no effect here"),
        ("ACCELERATE_USE_FSDP=On", "has no effect here"),
        ("ACCELERATE_USE_DEEPSPEED=1", "has no effect here"),
        ("ACCELERATE_USE_MEGATRON_LM=t", "has no effect here"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG=True", "has no effect here"),
        ("ACCELERATE_USE_SAGEMAKER=true", "has no effect here"),
    ],
)
def test_what_the_environment_asks_for_without_effect_is_refused(
    variable: str, message: str, monkeypatch: pytest.MonkeyPatch, started_by
) -> None:
    monkeypatch.setenv(*variable.split("="))
    assert refused(LaunchRequest({}), started_by).startswith(f"{variable}: {message}")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("LOCAL_WORLD_SIZE=abc", "must be a whole number of at least 1; or unset it"),
        ("LOCAL_WORLD_SIZE=0", "must be a whole number of at least 1; or unset it"),
        ("WORLD_SIZE=two", "must be a whole number of at least 0; or unset it"),
        ("LOCAL_RANK=", "must be a whole number of at least 0; or unset it"),
        ("LOCAL_RANK=" + "9" * 5000, "must be a whole number of at least 0; or unset it"),
        ("MASTER_PORT=abc LOCAL_RANK=0", "must be a whole number of at least 0; or unset it"),
        ("ACCELERATE_TORCH_DEVICE=foo", "must be one of cpu"),
        ("ACCELERATE_TORCH_DEVICE=", "must be one of cpu"),
        ("ACCELERATE_TORCH_DEVICE=meta", "must be one of cpu"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_its_variable(
    variables: str, message: str, monkeypatch: pytest.MonkeyPatch, started_by
) -> None:
    for variable in variables.split(" "):
        monkeypatch.setenv(*variable.split("="))
    assert refused(LaunchRequest({}), started_by).startswith(f"{variables.split(' ')[0]}: {message}")


@pytest.mark.parametrize(
    "variable",
    [
        "RANK=gold",
        "LOCAL_RANK=-1",
        "ACCELERATE_TORCH_DEVICE=cpu",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=1",
        "ACCELERATE_GRADIENT_CLIPPING=none",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION=False",
        "ACCELERATE_USE_FSDP=no",
        "ACCELERATE_USE_DEEPSPEED=",
    ],
)
def test_a_variable_that_asks_for_nothing_is_taken(
    variable: str, monkeypatch: pytest.MonkeyPatch, started_by
) -> None:
    monkeypatch.setenv(*variable.split("="))
    started_by(LaunchRequest({}))
    build_accelerator(TrainOptions())


def test_each_switch_in_the_environment_is_followed_or_refused() -> None:
    """A switch that a later Accelerate brings has to be put on one of the two sides."""
    sources = Path(accelerate.__file__).parent.rglob("*.py")
    switches = {name for file in sources for name in re.findall(r"ACCELERATE_USE_[A-Z_]+", file.read_text())}
    assert switches - {"ACCELERATE_USE_CPU"} <= ENVIRONMENT_ADVICE.keys()


@pytest.mark.parametrize(
    ("arguments", "request_for_gpu"),
    [
        (["--config_file", str(CONFIGS / "gpu.yaml")], f"--config_file {CONFIGS / 'gpu.yaml'}"),
        (
            ["--config_file", str(CONFIGS / "gpu_ddp.yaml"), "--num_processes", "2"],
            f"--config_file {CONFIGS / 'gpu_ddp.yaml'}",
        ),
        (["--multi_gpu", "--num_processes", "2"], "--multi_gpu"),
        (["--gpu_ids", "0"], "--gpu_ids 0"),
        (["--config_file", str(CONFIGS / "cpu.yaml")], None),
        (["--config_file", str(CONFIGS / "cpu_ddp.yaml")], None),
        (["--config_file", str(CONFIGS / "gpu.yaml"), "--cpu"], None),
        (["--multi_gpu", "--gpu_ids=-1,-1"], None),
        ([], None),
    ],
)
def test_a_gpu_that_was_asked_for_and_is_not_there_is_said(
    arguments, request_for_gpu, started_by, monkeypatch
) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(gan.process.launcher, "default_config_file", "none")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    started_by(launched(*arguments))
    warnings: list[str] = []
    say_what_differs(build_accelerator(TrainOptions()), warnings.append)
    expected = f"warning: {request_for_gpu} asks for a GPU, but PyTorch sees none: this runs on the CPU, in bf16"
    assert warnings == ([expected] if request_for_gpu else [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["rdzv_backend c10d: Accelerate takes it from its command line only, and uses static; add "]),
        (["--rdzv_backend", "c10d"], []),
        (["--rdzv_backend", "static"], []),
    ],
)
def test_a_rendezvous_that_accelerate_ignores_is_said(arguments, expected, started_by, tmp_path: Path) -> None:
    file = tmp_path / "elastic.yaml"
    text = (CONFIGS / "multi_node_cpu.yaml").read_text()
    file.write_text(text.replace("rdzv_backend: static", "rdzv_backend: c10d"))
    started_by(launched("--config_file", str(file), *arguments))
    warnings: list[str] = []
    say_what_differs(build_accelerator(TrainOptions()), warnings.append)
    assert [line.partition(f"{file}: ")[2][: len(expected[0])] for line in warnings] == expected


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UsageError, match=r"--num_processes: 4 on this machine, which has 2 GPU\(s\)"):
        build_accelerator(TrainOptions())


@pytest.mark.parametrize(
    ("launcher", "own", "expected"),
    [
        (None, {"OMP_NUM_THREADS": "3"}, (3, "OMP_NUM_THREADS")),
        (None, {"OMP_NUM_THREADS": "3,2"}, (3, "OMP_NUM_THREADS")),
        (None, {"MKL_NUM_THREADS": "3"}, (3, "MKL_NUM_THREADS")),
        (None, {"OMP_NUM_THREADS": "many"}, None),
        (None, {}, None),
        (LaunchRequest({}), {"OMP_NUM_THREADS": "1"}, None),  # by the launcher, whom nobody has asked
        (LaunchRequest({"OMP_NUM_THREADS": "3"}), {"OMP_NUM_THREADS": "3"}, (3, "OMP_NUM_THREADS")),
        (LaunchRequest({}, num_threads=3), {"OMP_NUM_THREADS": "3"}, (3, "--num_cpu_threads_per_process")),
    ],
)
def test_threads_are_those_that_the_user_asks_for(launcher, own, expected, monkeypatch, started_by) -> None:
    for name in gan.process.launcher.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    started_by(launcher)
    assert num_threads_asked() == expected
    configure_backends(TrainOptions())
    assert torch.get_num_threads() == (expected[0] if expected else num_available_cores())
    configure_backends(TrainOptions(num_threads=2))
    assert torch.get_num_threads() == 2


def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its quota is less than what its affinity shows."""
    monkeypatch.setattr(joblib.externals.loky.backend.context, "_cpu_count_cgroup", lambda _: 1)
    assert num_available_cores() == 1


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_launcher_itself_is_read(tmp_path: Path) -> None:
    """Through Accelerate's real one: options of its that leave no trace, and the user's threads."""
    launch = ("-m", "accelerate.commands.launch", "-q", "--num_machines", "1")
    train = (ROOT / "gan" / "train.py", "--steps", "1", "--dataset", "synthetic", "--output", tmp_path / "run")
    environment = {"OMP_NUM_THREADS": "1"}
    refused = run_script(*launch, "--gradient_accumulation_steps", "4", *train, cwd=tmp_path, env=environment)
    assert refused.returncode != 0
    assert "error: accelerate launch --gradient_accumulation_steps 4: leave it out, and give" in refused.stderr
    assert "Traceback" not in refused.stderr
    trained = run_script(*launch, *train, cwd=tmp_path, env=environment)
    assert "1 thread(s) each (OMP_NUM_THREADS)" in trained.stdout, trained.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "accelerate.sh", "--gpus", "2"],
        ["make", "accelerate"],
        ["tmux", "new", "-s", "accelerate"],
        ["accelerate-launch"],
    ],
)
def test_a_parent_that_only_has_its_name_is_no_launcher(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = SimpleNamespace(cmdline=lambda: command, environ=dict)
    monkeypatch.setattr("psutil.Process.parents", lambda _: [parent])
    assert gan.process.launcher.launch_request.__wrapped__() is None


@pytest.mark.parametrize("number", ["0", "99999999", "9" * 30])
def test_a_number_of_threads_that_none_has_is_refused(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.process.launcher.launch_request", lambda: LaunchRequest({"OMP_NUM_THREADS": number}))
    if number == "0":
        assert num_threads_asked() is None  # OpenMP does not take it either
    else:
        with pytest.raises(UsageError, match=r"OMP_NUM_THREADS 9+: must be from 1 to 4096"):
            num_threads_asked()
