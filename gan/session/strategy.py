"""What Accelerate was asked for: devices, processes, precision, compiler; and how processes speak as one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DynamoBackend, gather_object

from gan.errors import UsageError
from gan.files.environment import describe_environment, num_available_cores, numerical_flags
from gan.methods.optimizers import RMSprop
from gan.models.onednn import linear_layers_by
from gan.options import TrainOptions
from gan.process.configs import config_shown
from gan.process.interface import choose_interface
from gan.process.launcher import (
    SUPPORTED_STRATEGIES,
    launch_request,
    num_threads_asked,
    refuse_without_effect,
)
from gan.process.place import launched_here, require_environment
from gan.process.spinning import adapt_spinning, spinning
from gan.process.watch import begin_process_group
from gan.recipes import Recipe
from gan.training.execution import Execution


def build_accelerator(options: TrainOptions) -> Accelerator:
    """Build the Accelerator that the launcher's flags and files ask for; refuse what would not train alike."""
    if options.tracker is not None and options.tracker not in map(str, get_available_trackers()):
        known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
        choice = f"choose one of {', '.join(known)}"
        advice = f"pip install {options.tracker}" if options.tracker in known else choice
        raise UsageError(f"--tracker {options.tracker}: not available; {advice}")
    refuse_without_effect()
    require_environment()
    _require_launched_processes()
    choose_interface()
    begin_process_group()
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several processes on CPUs would not find each other
        )
    except ValueError as error:
        raise UsageError(f"accelerate: {' '.join(str(error).split())}") from error
    _require_supported(accelerator, options)
    return accelerator


def _require_launched_processes() -> None:
    """Raise UsageError unless the launcher has started the processes that it was asked for, each with a device."""
    # Accelerate's launcher starts one process on a CPU, whatever --num_processes says, but leaves this trace.
    trace = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"}
    if trace <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "--num_processes: Accelerate started only one; for several on CPUs add --config_file "
            f"{config_shown('cpu_ddp')}, on GPUs --multi_gpu; for one unset MASTER_ADDR and MASTER_PORT"
        )
    processes_here = launched_here()
    num_gpus = torch.accelerator.device_count()
    if processes_here > max(num_gpus, 1) and torch.accelerator.is_available():
        raise UsageError(
            f"--num_processes: {processes_here} on this machine, which has {num_gpus} GPU(s); give at most that, "
            f"or hide them with --config_file {config_shown('cpu_ddp')}"
        )


def _require_supported(accelerator: Accelerator, options: TrainOptions) -> None:
    """Raise UsageError where the precision, the strategy or the compiler cannot train this recipe."""
    if accelerator.mixed_precision not in ("no", "bf16", "fp16"):
        raise UsageError(f"--mixed_precision {accelerator.mixed_precision}: choose no, bf16 or fp16")
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("--mixed_precision fp16: needs a GPU, and this is a CPU; use bf16 or no")
    if accelerator.distributed_type not in SUPPORTED_STRATEGIES:
        raise UsageError(
            f"accelerate: {accelerator.distributed_type} is not supported; use DDP (MULTI_GPU or MULTI_CPU)"
        )
    if (options.row.penalty or options.row.lazy_generator_penalty) and accelerator.state.dynamo_plugin.fullgraph:
        raise UsageError(
            f"--dynamo_use_fullgraph: the penalty of {options.label} is not compiled, because compilers do not "
            "differentiate twice; leave it out"
        )
    if options.row.latent_consistency and accelerator.state.dynamo_plugin.fullgraph:
        raise UsageError(
            f"--dynamo_use_fullgraph: G's pass for the latent_consistency of {options.label} is not compiled, "
            "because it keeps running statistics; leave it out"
        )
    _require_compile_mode(accelerator, options.compile_mode)
    exchanges = options.comm_hook == "powersgd" and accelerator.num_processes > 1
    if exchanges and (obstacle := obstacle_to_powersgd(accelerator.device.type, accelerator.mixed_precision)):
        raise UsageError(f"--comm-hook powersgd: {obstacle}; use another hook, or no")
    if options.recompute and accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise UsageError(
            "--recompute: takes no compiler, which decides by itself what it keeps; leave one of them out"
        )
    if options.recompute and options.cuda_graph:
        raise UsageError("--recompute with --cuda-graph: give one of them")
    if options.cuda_graph and (obstacle := _obstacle_to_graphs(accelerator, options.row)):
        raise UsageError(f"--cuda-graph: {obstacle}; use --no-cuda-graph")


def obstacle_to_powersgd(device: str, precision: str) -> str | None:
    """Return why several processes cannot exchange gradients by PowerSGD, or None."""
    if device == "cpu":
        return "needs GPUs, because processes on CPUs would sum its parts in different orders"
    if precision == "fp16":
        return "keeps what it has not sent, which overflows in fp16"
    return None


def _obstacle_to_graphs(accelerator: Accelerator, recipe: Recipe) -> str | None:
    """Return why a whole step cannot be a CUDA graph, or None."""
    if accelerator.device.type != "cuda":
        return f"needs an NVIDIA GPU, and this is {accelerator.device.type}"
    if accelerator.num_processes > 1:
        return f"takes one process, and these are {accelerator.num_processes}"
    backend = accelerator.state.dynamo_plugin.backend
    if backend != DynamoBackend.NO:
        return f"takes no compiler, and --dynamo_backend is {backend.value.lower()}"
    return obstacle_to_fp16_graphs(recipe) if accelerator.mixed_precision == "fp16" else None


def obstacle_to_fp16_graphs(recipe: Recipe) -> str | None:
    """Return why a whole step in fp16 cannot be a CUDA graph, or None."""
    if any(settings.scheduled or isinstance(settings, RMSprop) for settings in recipe.optimizers.values()):
        return "fp16 needs a fused optimizer without a schedule, or the host decides about every step"
    return None


def _require_compile_mode(accelerator: Accelerator, mode: str | None) -> None:
    """Raise UsageError where no compiler takes the mode, or the launcher asks for another one."""
    compiler = accelerator.state.dynamo_plugin
    backend = compiler.backend
    launchers = None if compiler.mode == "default" else compiler.mode
    mode = None if mode == "default" else mode
    if mode is not None and backend == DynamoBackend.NO:
        raise UsageError(
            f"--compile-mode {mode}: nothing is compiled; add --dynamo_backend inductor to accelerate launch, or "
            "give --compile-mode default"
        )
    if mode is not None and launchers not in (None, mode):
        raise UsageError(
            f"--compile-mode {mode}: --dynamo_mode says {launchers}; give one of them, or --compile-mode default"
        )
    if backend not in (DynamoBackend.NO, DynamoBackend.INDUCTOR) and (mode or launchers):
        flag = f"--compile-mode {mode}" if mode else f"--dynamo_mode {launchers}"
        raise UsageError(f"{flag}: is a mode of inductor, not of {backend.value.lower()}; leave it out")


def configure_backends(options: TrainOptions) -> None:
    """Set what would otherwise differ silently between machines: threads and numerical flags.

    To be called with an Accelerator at hand, which sets some of them too.
    """
    torch.set_num_threads(num_threads_of(options)[0])
    if torch.get_num_threads() > 1 and not torch.accelerator.is_available():
        adapt_spinning()
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = False


def describe_process() -> dict[str, Any]:
    """Return `describe_environment`, what computes linear layers, and how threads wait for one another."""
    return {**describe_environment(), "flags": process_flags(), "spinning": spinning()}


def process_flags() -> dict[str, Any]:
    """Return `numerical_flags`, and what computes the linear layers of the core."""
    return {**numerical_flags(), "linear_layers": linear_layers_by()}


def num_threads_of(options: TrainOptions) -> tuple[int, str]:
    """Return the number of CPU threads of this process, and what asks for it if it is not one of our options."""
    if options.num_threads:
        return options.num_threads, ""
    return num_threads_asked() or (max(1, num_available_cores() // launched_here()), "")


def say_what_differs(accelerator: Accelerator, say: Callable[[str], object]) -> None:
    """Say what of a launcher's request is not as it was asked for."""
    started_by = launch_request()
    if started_by is not None and started_by.gpu_request and accelerator.device.type == "cpu":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "PyTorch sees none" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden} leaves none"
        precision = precision_of(accelerator)
        say(f"warning: {started_by.gpu_request} asks for a GPU, but {why}: this runs on the CPU, in {precision}")
    if started_by is not None and started_by.rendezvous_ignored:
        say(f"warning: {started_by.rendezvous_ignored}")
    if accelerator.state.dynamo_plugin.dynamic:
        say("note: --dynamo_use_dynamic has no effect: each shape is compiled by itself, and there are few")


def say_what_scores_ignore(accelerator: Accelerator, say: Callable[[str], object]) -> None:
    """Say what of a launcher's request has no effect on an evaluation."""
    strategy = strategy_of(accelerator, Execution())
    ignored = [strategy[name] for name in ("precision", "compile") if strategy[name] not in ("fp32", "eager")]
    if ignored:
        say(f"note: {' and '.join(ignored)}: no effect on scores; images are made and scored in fp32 and eager")


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision that Accelerate was asked for."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def strategy_of(accelerator: Accelerator, execution: Execution) -> dict[str, Any]:
    """Return what Accelerate was asked for, and how a step runs where that is not the default, JSON-ready."""
    backend = accelerator.state.dynamo_plugin.backend.value.lower()
    return {
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": precision_of(accelerator),
        "compile": "eager" if backend == "no" else backend,
        **execution.changes(),
    }


def strategy_in_words(accelerator: Accelerator, options: TrainOptions, execution: Execution) -> str:
    """Return `strategy_of` and the number of threads for a reader."""
    strategy = strategy_of(accelerator, execution)
    num_threads, asked_by = num_threads_of(options)
    threads = f"{num_threads} thread(s) each{f' ({asked_by})' if asked_by else ''}"
    if waits := spinning():
        threads += f", spinning {waits}"
    changes = [
        name.replace("_", " ") + ("" if value is True else f" {value}")
        for name, value in execution.changes().items()
    ]
    words = [
        strategy["device"],
        f"{strategy['processes']} process(es)",
        strategy["precision"],
        strategy["compile"],
    ]
    return ", ".join([*words, *changes, threads])


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Catch a UsageError and yield a list that holds its message, for `raise_everywhere`; empty without one."""
    complaint: list[str] = []
    try:
        yield complaint
    except UsageError as error:
        complaint.append(str(error))


def raise_everywhere(complaint: list[str]) -> None:
    """Raise UsageError on all ranks if any of them has a complaint; the others would wait for it for ever."""
    of_all_ranks: list[str] = gather_object(complaint)
    if of_all_ranks:
        error = UsageError(of_all_ranks[0])
        error.everywhere = True
        raise error
