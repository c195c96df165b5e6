"""What a rank measures: the core's run, or another subject."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from bench.harness.rank import Rank
from bench.harness.windows import Arm, Collectives
from bench.harness.world import World
from bench.runner.assignment import Assignment
from bench.subjects.load import measured_subject, source_of
from bench.subjects.measured import MeasuredSubject
from bench.subjects.process import accelerate_variables, forget_accelerator, settle
from bench.subjects.subject import Setup
from bench.suite.cases import AXES, Case
from bench.suite.workloads import WORKLOADS
from bench.workloads.setup import CoreSetup
from bench.workloads.subject import SubjectSetup, finite_or_none, note_last_losses
from bench.workloads.table import ARMS, FACTS, SUBJECT_ARMS, SUBJECT_FACTS
from gan.command_line import MOST_COUNT
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.models.networks import num_parameters
from gan.options import TrainOptions
from gan.process.spinning import adapt_spinning
from gan.session.run import Run, prepare
from gan.session.strategy import strategy_of
from gan.surface import NOWHERE, MeasuredRun, whole_batches
from gan.training.state import TrainState


@dataclass(frozen=True)
class Target:
    """What a rank measures.

    Attributes:
        device: Where it runs.
        facts: What is counted besides times.
        collectives: How the processes of the case agree.
        strategy: Device, processes, precision and compiler, JSON-ready.
        arms: Returns its arms, the case's own first.
        further_facts: Returns those of a workload that is no measurement of times.
        end: Called after the last window.
    """

    device: torch.device
    facts: dict[str, Any]
    collectives: Collectives
    strategy: dict[str, Any]
    arms: Callable[[], Iterator[Arm]]
    further_facts: Callable[[], dict[str, Any]]
    end: Callable[[], None] = lambda: None


def target_of(assignment: Assignment, rank: Rank) -> Target:
    """Build what is to be measured; raise UsageError or SubjectError."""
    return _core(assignment, rank) if assignment.case.is_core else _subject(assignment, rank)


def _core(assignment: Assignment, rank: Rank) -> Target:
    case = assignment.case
    run, state = _prepare(assignment)
    sizes = {name: num_parameters(player.network) for name, player in state.players.items()}
    facts: dict[str, Any] = {"num_parameters": sizes}
    folder = rank.exchange.scratch(rank.world.rank)
    setup = CoreSetup(case, run, state, folder, facts, assignment.effort, rank.report)

    def end() -> None:
        workload = WORKLOADS[case.workload]
        if workload.in_windows and workload.own_arm == "step":
            facts["last_losses"] = finite_or_none(MeasuredRun(run, state).losses())

    return Target(
        device=setup.device,
        facts=facts,
        collectives=_collectives_of_core(rank.world, run.accelerator),
        strategy=strategy_of(run.accelerator, state.execution),
        arms=lambda: ARMS[case.workload](setup),
        further_facts=lambda: FACTS[case.workload](setup),
        end=end,
    )


def _prepare(assignment: Assignment) -> tuple[Run, TrainState]:
    """Return the core's run over random images, whole batches only; raise UsageError."""
    case = assignment.case
    options = TrainOptions(
        **case.train_options(),
        dataset="synthetic",
        output=NOWHERE,
        checkpoint_every=MOST_COUNT,
        num_threads=assignment.num_threads,
    )
    options.validate()
    run, state = prepare(options)
    device = run.accelerator.device
    if device.type != case.device:
        raise UsageError(f"--device {case.device}: the core took {device.type}")
    return whole_batches(run), state


def _collectives_of_core(world: World, accelerator: Accelerator) -> Collectives:
    if world.size == 1:
        return Collectives()

    return Collectives(world, accelerator.wait_for_everyone, partial(_maximum, device=accelerator.device))


def _subject(assignment: Assignment, rank: Rank) -> Target:
    case = assignment.case
    place = Path(assignment.place)
    asked = case.setup(rank.world.rank)
    num_threads = assignment.num_threads or max(1, num_available_cores() // rank.world.num_here)
    settle(case.subject, asked, place, num_threads=num_threads, local_rank=rank.world.local_rank)
    if case.device == "cpu":
        adapt_spinning()
    build = partial(build_again, case, place)
    measured = measured_subject(case.subject, asked, place)
    facts: dict[str, Any] = {"subject": source_of(case.subject, place)}
    collectives = _collectives_of_subject(rank.world)
    setup = SubjectSetup(case, measured, build, collectives, facts, rank.report)
    return Target(
        device=measured.device,
        facts=facts,
        collectives=collectives,
        strategy=_strategy(case),
        arms=lambda: SUBJECT_ARMS[case.workload](setup),
        further_facts=lambda: SUBJECT_FACTS[case.workload](setup),
        end=lambda: note_last_losses(setup),
    )


def build_again(case: Case, place: Path, setup: Setup) -> MeasuredSubject:
    """Return another subject of a case in the same process.

    Args:
        case: The case.
        place: The directory with its files.
        setup: What it is asked to be. One process may be asked for several precisions and compilers, one after the
            other; then Accelerate is told, too.
    """
    if setup.world_size == 1:
        flags = replace(case, precision=setup.precision, compile=setup.compile).launch_flags()
        os.environ.update(accelerate_variables(flags["mixed_precision"], flags["dynamo_backend"]))
        forget_accelerator()
    return measured_subject(case.subject, setup, place)


def _strategy(case: Case) -> dict[str, Any]:
    """Return what a subject was asked for, as `strategy_of` returns what the core does."""
    return {
        "device": case.device,
        "processes": case.num_processes,
        "precision": case.precision,
        "compile": AXES["compile"].label(case.compile),
    }


def _collectives_of_subject(world: World) -> Collectives:
    """Let processes agree in a group of their own, beside whatever group the subject has made."""
    if world.size == 1:
        return Collectives()
    distributed = torch.distributed
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)
    group: Any = distributed.new_group(backend="gloo")

    def barrier() -> None:
        distributed.barrier(group)

    return Collectives(world, barrier, partial(_maximum, group=group))


def _maximum(value: float, *, device: torch.device | None = None, group: Any = None) -> float:
    """Return the largest of all processes' values; they exchange it on a device, in a group."""
    largest = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=group)
    return float(largest.item())
