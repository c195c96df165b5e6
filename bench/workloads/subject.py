"""The step of a subject: beside the plain loop and the machine's peaks, as far as the subject shows its parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch

from bench.harness.exchange import Report, no_report
from bench.harness.windows import Arm, Collectives
from bench.results.finite import number_or_none
from bench.results.work import StepWork
from bench.stability.subjects import judged_subject
from bench.subjects.blame import one_line
from bench.subjects.load import PLAIN
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import Setup, SubjectError
from bench.suite.cases import Case
from bench.workloads.peaks import roofline_arms
from bench.workloads.roofline import (
    Recorder,
    mean_flops,
    mean_work,
    optimizer_bytes,
    products_of,
    recorded,
    weights_bytes,
)
from bench.workloads.setup import plain_arm
from gan.models.networks import num_parameters


@dataclass(frozen=True)
class SubjectSetup:
    """What a case of a subject is measured on.

    Attributes:
        case: The case.
        measured: The subject, ready to take its first step.
        build: Builds it anew, from a setup that may differ; raises SubjectError.
        collectives: How the processes of the case agree.
        facts: Takes what is counted besides times. Its `left_out` takes what is not measured, and why.
        report: Told what is done. A process that does not call it is taken to hang.
    """

    case: Case
    measured: MeasuredSubject
    build: Callable[[Setup], MeasuredSubject]
    collectives: Collectives
    facts: dict[str, Any]
    report: Report = no_report

    @property
    def left_out(self) -> dict[str, str]:
        """What is not measured, by its name in tables, and why."""
        reasons: dict[str, str] = self.facts.setdefault("left_out", {})
        return reasons


def subject_step(setup: SubjectSetup) -> Iterator[Arm]:
    """The subject's step, beside the plain loop of the case's recipe and, in one process, the machine's peaks."""
    measured = setup.measured
    yield Arm("step", measured.steps(), measured.images_per_step, measured.period)
    _count_memory(setup)
    if setup.case.num_processes > 1:
        reason = "a subject cannot be built for one process beside several; measure it with --num-processes 1"
        setup.left_out["efficiency"] = reason
        setup.left_out["communication"] = "a subject's all-reduce cannot be left out"
        _compare_weights(setup)
    if plain := _plain(setup):
        yield plain
    recorders = _count_flops(setup)
    if recorders and setup.case.num_processes == 1:
        yield from _peaks(setup, recorders)


def subject_startup(setup: SubjectSetup) -> Iterator[Arm]:
    """The first step. The times of the start are taken with it, and there is no window."""
    yield Arm("step", setup.measured.steps(), setup.measured.images_per_step)


def subject_stability(setup: SubjectSetup) -> dict[str, Any]:
    """Return the checks of tiers T0, T1, T2 and T4 that the subject can be asked, and the course of its losses."""
    checks, losses = judged_subject(setup.measured, setup.build, setup.collectives, setup.left_out, setup.report)
    return {"checks": [check.to_json() for check in checks], "losses": losses}


def note_last_losses(setup: SubjectSetup) -> None:
    """Note what the losses are after the last step; one that is not finite becomes None."""
    losses = setup.measured.losses()
    if losses is not None:
        setup.facts["last_losses"] = finite_or_none(losses)


def finite_or_none(losses: Mapping[str, SupportsFloat]) -> dict[str, float | None]:
    """Return losses JSON-ready, with None for one that is not finite, or too large for a results file."""
    return {name: number_or_none(float(loss)) for name, loss in losses.items()}


def _count_memory(setup: SubjectSetup) -> None:
    """Count what outlives a step, as far as the subject shows it."""
    networks = setup.measured.networks()
    if networks is None:
        setup.left_out["memory of weights"] = "it has no networks()"
    else:
        setup.facts["num_parameters"] = {name: num_parameters(network) for name, network in networks.items()}
        setup.facts["weights_bytes"] = {name: weights_bytes(network) for name, network in networks.items()}
    optimizers = setup.measured.optimizers()
    if optimizers is None:
        setup.left_out["memory of optimizers"] = "it has no optimizers()"
    else:
        setup.facts["optimizer_bytes"] = {name: optimizer_bytes(value) for name, value in optimizers.items()}


def _compare_weights(setup: SubjectSetup) -> None:
    """Note whether the processes have the same weights, as those that train one GAN together have."""
    networks = setup.measured.networks()
    if networks is None:
        setup.left_out["check of weights"] = "without networks() nobody knows whether its processes train one GAN"
        return
    total = sum(
        float(parameter.detach().double().sum())
        for network in networks.values()
        for parameter in network.parameters()
    )
    maximum = setup.collectives.maximum
    setup.facts["same_weights"] = maximum(total) == -maximum(-total)


def _plain(setup: SubjectSetup) -> Arm | None:
    """Return the plain loop of the case's recipe, in one process at the batch that the case names."""
    case = setup.case
    if case.subject == PLAIN:
        setup.left_out["× plain"] = "it is the plain loop"
        return None
    if not case.recipe:
        setup.left_out["× plain"] = "no --recipe says which GAN the plain loop should train"
        return None
    return plain_arm(case)


def _count_flops(setup: SubjectSetup) -> list[Recorder]:
    """Take the steps of a period and count their FLOPs; nothing if there is nothing to count."""
    try:
        recorders = [recorded(setup.measured.step) for _ in range(setup.measured.period)]
    except SubjectError as error:
        setup.left_out["reached"] = f"its FLOPs cannot be counted: {error}"
        return []
    flops = mean_flops(recorders)
    if not flops:
        setup.left_out["reached"] = "its step has no matrix product or convolution that PyTorch counts"
        return []
    setup.facts["flops_per_step"] = flops * setup.case.num_processes
    shown = [setup.facts.get(name) for name in ("weights_bytes", "optimizer_bytes")]
    if None in shown:
        setup.left_out["reached"] = "its least bytes are not known without networks() and optimizers()"
    else:
        lasting = sum(sum(sizes.values()) for sizes in shown if sizes)
        # its inputs are not known, so this is a little less than the least
        setup.facts["least_bytes_per_step"] = 2 * lasting * setup.case.num_processes
        work = sum(mean_work(recorders).values(), StepWork())
        setup.facts["sequence"] = work.times(setup.case.num_processes).to_json()
    return recorders


def _peaks(setup: SubjectSetup, recorders: Sequence[Recorder]) -> Iterator[Arm]:
    """Yield the arms of the machine's peaks that the step can be compared with."""
    try:
        products = products_of(recorders)
        with torch.no_grad():
            for product in {product: None for calls in products for product in calls}:
                product()
    except RuntimeError as error:
        products = ()
        setup.left_out["matrix products"] = f"they cannot be taken alone: {one_line(error)}"
    precision = setup.case.precision
    least_bytes = setup.facts.get("least_bytes_per_step", 0)
    device = setup.measured.device
    for arm, work in roofline_arms(products, mean_flops(recorders), precision, device, least_bytes // 2):
        if arm.name == "peak_copy" and not least_bytes:
            continue
        setup.facts.setdefault("work", {})[arm.name] = work
        yield arm
