"""What a launcher was asked for, read from its command line: the environment of its processes says less."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from gan.errors import UsageError

WITH_SUBCOMMANDS = ("accelerate", "accelerate.commands.accelerate_cli")
ACCELERATE = ("accelerate-launch", "accelerate.commands.launch")
TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
MOST_THREADS = 4096
"""Most threads of a process, and most processes that read images. No machine has as many cores, and with very many
threads OpenMP crashes."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

SUPPORTED_STRATEGIES = (
    *(DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU),
)
GROUPS_WITHOUT_EFFECT = (
    *("TPU", "DeepSpeed", "FSDP", "Megatron-LM", "FP8", "AWS", "ParallelismConfig", "Training Paradigm"),
)
"""Groups of Accelerate's options that this training does not follow, by the beginning of their titles."""
SECTIONS_WITHOUT_EFFECT = (
    *("deepspeed_config", "fsdp_config", "megatron_lm_config", "parallelism_config", "fp8_config"),
)
LEAVE_OUT = "has no effect here, where each process trains whole networks; leave it out"
ACCUMULATE = "leave it out, and give the training --accumulate instead"
OPTION_ADVICE = {
    "gradient_accumulation_steps": ACCUMULATE,
    "gradient_clipping": "gradients are not clipped here; leave it out",
    "tpu": "there is no training on TPUs here; leave it out",
    "dynamo_use_regional_compilation": "objectives are compiled whole here; leave it out",
}
ENVIRONMENT_ADVICE = {
    **{f"ACCELERATE_{name.upper()}": advice for name, advice in OPTION_ADVICE.items() if name != "tpu"},
    **dict.fromkeys(
        (
            "ACCELERATE_USE_DEEPSPEED",
            "ACCELERATE_USE_FSDP",
            "ACCELERATE_USE_MEGATRON_LM",
            "ACCELERATE_USE_PARALLELISM_CONFIG",
            "ACCELERATE_USE_SAGEMAKER",
        ),
        LEAVE_OUT,
    ),
}
"""What to do about variables of Accelerate that this training does not follow."""
ASKS_FOR_NOTHING = ("", "0", "n", "no", "f", "false", "off", "none")
"""Values with which such a variable does no harm; Accelerate takes y, yes, t, true, on and 1 for the opposite."""


@dataclass(frozen=True)
class LaunchRequest:
    """What a user asked the launcher of this process for.

    Attributes:
        environment: The environment of the launcher, before it added to it.
        num_threads: `--num_cpu_threads_per_process`; None if it was not set.
        gpu_request: The option or file that asks for a GPU; None if nothing does.
        without_effect: A line for each request that this training would silently ignore, and what to do about it.
        rendezvous_ignored: What Accelerate itself ignores of the file, and what to do about it; "" for nothing.
    """

    environment: Mapping[str, str]
    num_threads: int | None = None
    gpu_request: str | None = None
    without_effect: tuple[str, ...] = ()
    rendezvous_ignored: str = ""


@cache
def launch_request() -> LaunchRequest | None:
    """Return the request to the nearest launcher above this process; None without one, or without permission."""
    try:
        for process in psutil.Process().parents():
            command = process.cmdline()
            for index, word in enumerate(command[:3]):
                name = Path(word).name.removesuffix(".exe")
                arguments = command[index + 1 :]
                if name in WITH_SUBCOMMANDS and arguments[:1] == ["launch"]:
                    return parse_accelerate_launch(arguments[1:], process.environ())
                if name in ACCELERATE:
                    return parse_accelerate_launch(arguments, process.environ())
                if name in TORCHRUN:
                    return LaunchRequest(process.environ())
    except (psutil.Error, SystemExit):  # another user's process, or not a launcher's arguments
        pass
    return None


def parse_accelerate_launch(arguments: Sequence[str], environment: Mapping[str, str]) -> LaunchRequest:
    """Read the command line of `accelerate launch` and its configuration file, as the launcher does itself."""
    parser = launch_command_parser()
    options = parser.parse_args(arguments)
    file = options.config_file or ("" if options.cpu else default_config_file)
    config = load_config_from_file(str(file)) if Path(file).is_file() else None
    groups = {action.dest: str(group.title) for group in parser._action_groups for action in group._group_actions}
    flags = [
        f"accelerate launch --{name}{'' if value is True else f' {value}'}: {OPTION_ADVICE.get(name, LEAVE_OUT)}"
        for name, value in vars(options).items()
        if name in options.nondefault
        and (name in OPTION_ADVICE or groups[name].startswith(GROUPS_WITHOUT_EFFECT))
        and (name, value) != ("gradient_accumulation_steps", 1)
    ]
    keys = [] if config is None or options.cpu or options.multi_gpu else _keys_without_effect(config)
    return LaunchRequest(
        environment=environment,
        num_threads=options.num_cpu_threads_per_process,
        gpu_request=_gpu_request(options, file, config),
        without_effect=(*flags, *(f"{file}: {key}: {_advice_on_key(key)}" for key in keys)),
        rendezvous_ignored=_rendezvous_ignored(options, file, config),
    )


def _rendezvous_ignored(options: Any, file: str, config: Any) -> str:
    """Say that the file asks for another rendezvous than the command line, whose default Accelerate prefers."""
    asked = getattr(config, "rdzv_backend", None)
    if (
        asked in (None, options.rdzv_backend)
        or options.rdzv_backend is None
        or "rdzv_backend" in options.nondefault
    ):
        return ""
    return (
        f"{file}: rdzv_backend {asked}: Accelerate takes it from its command line only, and uses "
        f"{options.rdzv_backend}; add --rdzv_backend {asked} to accelerate launch"
    )


def _keys_without_effect(config: Any) -> Iterator[str]:
    if (config.deepspeed_config or {}).get("gradient_accumulation_steps", 1) != 1:
        yield "deepspeed_config: gradient_accumulation_steps"
    if config.distributed_type not in SUPPORTED_STRATEGIES:
        yield f"distributed_type {config.distributed_type.value}"
    yield from (section for section in SECTIONS_WITHOUT_EFFECT if getattr(config, section, None))
    if config.dynamo_config.get("dynamo_use_regional_compilation"):
        yield "dynamo_use_regional_compilation"


def _advice_on_key(key: str) -> str:
    return OPTION_ADVICE.get(key.split(": ")[-1], LEAVE_OUT)


def _gpu_request(options: Any, file: str, config: Any) -> str | None:
    gpu_ids = options.gpu_ids or getattr(config, "gpu_ids", None) or "all"
    if options.cpu or all(number.strip().startswith("-") for number in str(gpu_ids).split(",")):
        return None
    if options.multi_gpu:
        return "--multi_gpu"
    if options.gpu_ids not in (None, "all"):
        return f"--gpu_ids {gpu_ids}"
    return f"--config_file {file}" if config is not None and not config.use_cpu else None


def num_threads_asked() -> tuple[int, str] | None:
    """Return the number of CPU threads per process that the user asked for, and the option or variable; or None.

    Both launchers set OMP_NUM_THREADS. It is the user's only if it is in the launcher's own environment.

    Raises:
        UsageError: The number is not from 1 to MOST_THREADS.
    """
    request = launch_request()
    if request is not None and request.num_threads is not None:
        return _bounded(request.num_threads, "--num_cpu_threads_per_process"), "--num_cpu_threads_per_process"
    environment = os.environ if request is None else request.environment
    for name in THREAD_VARIABLES:
        first = environment.get(name, "").split(",")[0].strip()  # OpenMP takes a number for each level of nesting
        if first.isdecimal() and int(first) > 0:
            return _bounded(int(first), name), name
    return None


def _bounded(num_threads: int, asked_by: str) -> int:
    if not 1 <= num_threads <= MOST_THREADS:
        raise UsageError(f"{asked_by} {num_threads}: must be from 1 to {MOST_THREADS}")
    return num_threads


def refuse_without_effect() -> None:
    """Raise UsageError if a launcher or the environment asks for something that this training would ignore."""
    request = launch_request()
    for line in request.without_effect if request else ():
        raise UsageError(line)
    for name, advice in ENVIRONMENT_ADVICE.items():
        value = os.environ.get(name, "")
        is_one_batch = (name, value) == ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
        if value.lower() not in ASKS_FOR_NOTHING and not is_one_batch:
            raise UsageError(f"{name}={value}: {advice}")
