"""The step, and which phase of it its time belongs to."""

from collections.abc import Iterator

from bench.harness.windows import Arm
from bench.workloads.attribution import PHASES, Marks, attributed
from bench.workloads.setup import CoreSetup, plain_arm, steps_inside
from bench.workloads.step import count_step, peaks

ATTRIBUTED = "attributed"


def phases(setup: CoreSetup) -> Iterator[Arm]:
    """The untouched step, the same step with its phases marked, the plain loop, and the machine's peaks.

    The phases are parts of the marked step, whose windows take turns with those of the untouched one. So the cost
    of the marks is known.
    """
    steps = setup.steps()
    yield Arm("step", steps, setup.images_per_step(), setup.period)
    cost = count_step(setup, steps)
    setup.facts["phases"] = {phase: cost.work[phase].to_json() for phase in PHASES if phase in cost.work}
    names = [*setup.facts["phases"]]
    marks = Marks(setup.device)
    yield Arm(
        ATTRIBUTED,
        steps_inside(lambda: attributed(setup.state, marks.mark), steps),
        setup.images_per_step(),
        setup.period,
        parts=lambda: marks.seconds_of(names),
    )
    yield plain_arm(setup.case)
    yield from peaks(setup, cost)
