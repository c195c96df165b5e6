"""The training step: alone, over several processes, beside the plain loop and the machine's peaks."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.harness.windows import Arm
from bench.workloads.roofline import StepCost, roofline_arms, step_cost
from bench.workloads.setup import CoreSetup, plain_arm, steps_inside
from gan.process.place import Alone
from gan.surface import MeasuredRun, whole_batches
from gan.training.state import build_state


def step(setup: CoreSetup) -> Iterator[Arm]:
    """The training step with its data, beside the plain loop.

    In one process, also the machine's peaks. In several, also `no_sync`, the step without the all-reduce of
    gradients, and `solo`, the step of one process alone at the batch that the case names.
    """
    num_processes = setup.case.num_processes
    steps = setup.steps()
    yield Arm("step", steps, setup.images_per_step())
    if num_processes > 1:
        yield Arm("no_sync", steps_inside(lambda: _no_sync(setup), steps), setup.images_per_step())
        yield _solo(setup)
    yield plain_arm(setup.case)
    cost = _count(setup)
    if num_processes == 1:
        for arm, work in roofline_arms(cost.products, cost.flops, setup.case.precision, setup.device):
            setup.facts.setdefault("work", {})[arm.name] = work
            yield arm


def _count(setup: CoreSetup) -> StepCost:
    cost = step_cost(setup.state, setup.inputs())
    setup.facts["flops_per_step"] = cost.flops * setup.case.num_processes
    setup.facts["least_bytes_per_step"] = cost.least_bytes * setup.case.num_processes
    return cost


def _no_sync(setup: CoreSetup) -> ExitStack:
    stack = ExitStack()
    for player in setup.state.players.values():
        stack.enter_context(setup.run.accelerator.no_sync(player.objective))
    return stack


def _solo(setup: CoreSetup) -> Arm:
    batch_size = setup.case.batch_size * setup.case.accumulate
    alone: Any = Alone(setup.run.accelerator)
    run = whole_batches(replace(setup.run, accelerator=alone, global_batch_size=batch_size))
    state = build_state(
        run.recipe,
        run.dataset.image_shape,
        alone,
        seed=run.options.seed,
        steps_per_epoch=run.steps_per_epoch,
        num_classes=setup.state.num_classes,
        execution=run.options.execution,
    )
    return Arm("solo", MeasuredRun(run, state).steps(), setup.images_per_step(batch_size), alone=True)
