"""The training step: alone, over several processes, beside the plain loop and the machine's peaks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.harness.windows import Arm, whole_periods
from bench.results.work import StepWork
from bench.workloads.attribution import DATA
from bench.workloads.exposure import explained_arm
from bench.workloads.peaks import roofline_arms
from bench.workloads.roofline import StepCost, recorded, step_cost
from bench.workloads.setup import CoreSetup, Products, another_state, plain_arm, steps_inside
from gan.data.order import epoch_batches
from gan.process.place import Alone
from gan.session.inputs import epoch_inputs
from gan.surface import MeasuredRun, whole_batches
from gan.training.progress import Progress

MOST_DATA_STEPS = 16


def step(setup: CoreSetup) -> Iterator[Arm]:
    """The training step with its data, beside the plain loop.

    In one process, also the machine's peaks. In several, also `no_sync`, the step without the all-reduce of
    gradients, `explained`, the step with its messages timed, and `solo`, the step of one process alone at the
    batch that the case names.

    A small row has the step alone: its networks are narrow, and how they compare says nothing of the full ones.
    """
    num_processes = setup.case.num_processes
    steps = setup.steps()
    yield Arm("step", steps, setup.images_per_step(), setup.period)
    if setup.case.is_small:
        return
    if num_processes > 1:
        apart = steps_inside(lambda: _no_sync(setup), steps)
        yield Arm("no_sync", apart, setup.images_per_step(), setup.period)
        yield explained_arm(setup)
        yield _solo(setup)
    yield plain_arm(setup.case)
    cost = count_step(setup, steps)
    if num_processes == 1:
        yield from peaks(setup, cost, cost.products)


def count_step(setup: CoreSetup, steps: Iterator[None]) -> StepCost:
    """Take a period of the case's own steps, and note what one costs over all processes.

    A step gathers the images of many steps or of none, so its data are counted by themselves.
    """
    cost = step_cost(setup.state, setup.inputs(), lambda: next(steps), setup.period)
    cost = replace(cost, work={**cost.work, DATA: _data_work(setup)})
    num_processes = setup.case.num_processes
    setup.facts["flops_per_step"] = cost.flops * num_processes
    setup.facts["least_bytes_per_step"] = cost.least_bytes * num_processes
    setup.facts["sequence"] = sum(cost.work.values(), StepWork()).times(num_processes).to_json()
    return cost


def _data_work(setup: CoreSetup) -> StepWork:
    """Return what the data of a step take: images and latents on average over some steps, and a part of the order.

    The order is drawn once an epoch, however many of its steps are recorded here.
    """
    run = setup.run
    num_steps = min(whole_periods(MOST_DATA_STEPS, setup.period), run.steps_per_epoch)
    state = replace(setup.state, progress=Progress())
    size = (len(run.dataset), run.images_per_step)
    order = _work_of(lambda: epoch_batches(*size, run.recipe.sampling, seed=run.options.seed, epoch=0))
    steps = _work_of(lambda: list(epoch_inputs(run, state, num_steps))) + order.times(-1)
    return steps.times(1 / num_steps) + order.times(1 / run.steps_per_epoch)


def _work_of(step: Callable[[], object]) -> StepWork:
    return sum(recorded(step).work.values(), StepWork())


def peaks(setup: CoreSetup, cost: StepCost, products: Products = ()) -> Iterator[Arm]:
    """Yield the arms of the machine's peaks, and note what a step of each does; also of a step's own products."""
    arms = roofline_arms(products, cost.flops, setup.case.precision, setup.device, cost.lasting_bytes)
    for arm, work in arms:
        setup.facts.setdefault("work", {})[arm.name] = work
        yield arm


def _no_sync(setup: CoreSetup) -> ExitStack:
    stack = ExitStack()
    for player in setup.state.players.values():
        stack.enter_context(player.apart())
    return stack


def _solo(setup: CoreSetup) -> Arm:
    batch_size = setup.case.batch_size * setup.case.accumulate
    alone: Any = Alone(setup.run.accelerator)
    run = whole_batches(replace(setup.run, accelerator=alone, global_batch_size=batch_size))
    state = another_state(replace(setup, run=run), alone)
    images_per_step = setup.images_per_step(batch_size)
    return Arm("solo", MeasuredRun(run, state).steps(), images_per_step, setup.period, alone=True)
