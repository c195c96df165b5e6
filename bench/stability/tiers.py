"""Does a configuration train the same GAN? Checks with limits, from bitwise repetition to the health of a run.

T0, determinism: the same steps twice, bit for bit. T1, semantics: one step in float64 against the plain tutorial
loop in one process, and against a resumed run. T2, precision: losses, gradients, penalties and optimizers against
float64, from the same states. T3 is in bench/stability/convergence.py. T4, health: some hundred steps without
an alarm. All on the bundled digits. docs/stability.md says how the limits came about.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.harness.exchange import Phase, Report, no_report
from bench.results.checks import Check
from bench.stability.determinism import repetition
from bench.stability.health import health
from bench.stability.precision import precision_errors
from bench.stability.semantics import semantics
from bench.stability.steps import fresh
from gan.run import Run
from gan.training.state import METRICS


def tiers(run: Run, precision: str, folder: Path, report: Report = no_report) -> dict[str, Any]:
    """Return the `checks` of all tiers, and the course of the `losses`, None where they are not finite.

    Args:
        run: Over labelled images in memory, whole batches only.
        precision: Of the configuration.
        folder: For a checkpoint.
        report: Told what is done; what may have to compile is a `Phase.FIRST_STEP`.
    """
    report("first step of T1", Phase.FIRST_STEP)
    checks = semantics(run)
    run, state = fresh(run, run.options.seed)

    def on_step() -> None:
        report(f"step {state.progress.step}")

    def errors() -> list[Check]:
        report("first step of T2", Phase.FIRST_STEP)
        return precision_errors(run, state, precision)

    if run.accelerator.num_processes == 1:
        checks += errors()
    report("first step of T0", Phase.FIRST_STEP)
    checks += repetition(run, state, folder, on_step)
    if run.accelerator.num_processes == 1:
        checks += [replace(check, name=f"{check.name}, trained") for check in errors()]
    alarms, course = health(run, state, on_step)
    checks.append(Check("T4", "alarms", len(alarms), 0, "; ".join(map(str, alarms)) or "a sick run"))
    losses = [[value if math.isfinite(value) else None for value in values] for values in course.T.tolist()]
    return {"checks": checks, "losses": dict(zip(METRICS, losses, strict=True))}
