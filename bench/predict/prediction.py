"""Predictions: the step's schedule on a number of processes, with what its messages take."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.predict.fit import HeldOut, Sample, crowding, fitted, held_out, shared
from bench.predict.model import Algorithm, Cluster, Link, all_reduce_seconds, gather_seconds
from bench.predict.options import PredictSettings
from bench.predict.rehearsal import Rehearsal
from bench.predict.schedule import (
    Cost,
    Event,
    Kind,
    Schedule,
    StepTime,
    as_on_gpus,
    compute_seconds,
    scaled,
    step_time,
    with_bytes_of,
)
from bench.suite.cases import Case

FITTED_TO = (1, 2)
"""Numbers of processes: one sends nothing, and the sums of two are fitted to."""
HELD_OUT = (3, 4)
PREDICTION = "prediction"


@dataclass(frozen=True)
class FittedLink:
    """The link between processes of this machine.

    Attributes:
        link: Fitted to two processes.
        num_cores: That all processes share.
        samples: All that was measured.
        held_out: How it predicts more processes.
    """

    link: Link
    num_cores: int
    samples: tuple[Sample, ...]
    held_out: tuple[HeldOut, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample], num_cores: int) -> "FittedLink":
        """Fit a link to the samples of two processes, and hold the others out."""
        link = fitted([sample for sample in samples if sample.num_processes in FITTED_TO], num_cores)
        others = [sample for sample in samples if sample.num_processes not in FITTED_TO]
        return cls(link, num_cores, tuple(samples), tuple(held_out(link, others, num_cores)))


@dataclass(frozen=True)
class Prediction:
    """What a step takes on a number of processes, as predicted.

    Attributes:
        num_processes: The processes.
        num_nodes: Of a cluster; 1 for this machine.
        step: When it computes, sends and waits.
        images_per_step: Real images over all processes.
        efficiency: images/s over those of one process, divided by the number of processes.
    """

    num_processes: int
    num_nodes: int
    step: StepTime
    images_per_step: int
    efficiency: float

    @property
    def images_per_second(self) -> float:
        """Over all processes."""
        return self.images_per_step / self.step.seconds

    @property
    def sent_bytes(self) -> int:
        """The bytes that a step sums or gathers, on one process."""
        return round(self.step.sent_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "kind": PREDICTION,
            "num_processes": self.num_processes,
            "num_nodes": self.num_nodes,
            "step_seconds": self.step.seconds,
            "compute_seconds": self.step.compute_seconds,
            "exposed_seconds": self.step.exposed_seconds,
            "communication_seconds": self.step.communication_seconds,
            "perfect_overlap_seconds": self.step.least_seconds,
            "no_overlap_seconds": self.step.most_seconds,
            "images_per_second": self.images_per_second,
            "efficiency": self.efficiency,
            "summed_bytes": self.sent_bytes,
            "transfers": [asdict(transfer) for transfer in self.step.transfers],
        }


def rehearsed_case(settings: PredictSettings) -> Case:
    """Return the case whose step is taken here: eager; without a GPU for a stored one, on the CPU in fp32."""
    case = replace(settings.case, compile="no", compile_mode="default")
    if case.device == "cuda" and not torch.cuda.is_available():
        return replace(case, device="cpu", precision="fp32")
    return case


def sizes_rehearsed(settings: PredictSettings) -> list[int]:
    """Return the numbers of processes whose rank 0 takes its step here."""
    from_file = settings.stored or settings.measured
    return sorted({1, *settings.sizes, *((2,) if from_file else ())})


def predictions(
    settings: PredictSettings, rehearsals: Mapping[int, Rehearsal], link: FittedLink | None
) -> list[Prediction]:
    """Predict the step on each number of processes.

    Args:
        settings: What to predict.
        rehearsals: Of `sizes_rehearsed`.
        link: Between processes of this machine; None if the settings have a cluster.
    """
    alone = rehearsals[1]
    outcomes = []
    for size in settings.sizes:
        rehearsal = rehearsals[size]
        alone_seconds = settings.alone_seconds(size) or compute_seconds(alone.schedule)
        step = step_time(_schedule(settings, rehearsals, size, link), _cost(settings, size, link))
        speed = rehearsal.images_per_step / step.seconds
        efficiency = speed / size / (alone.images_per_step / alone_seconds)
        num_nodes = settings.cluster.num_nodes(size) if settings.cluster else 1
        outcomes.append(Prediction(size, num_nodes, step, rehearsal.images_per_step, efficiency))
    return outcomes


def _schedule(
    settings: PredictSettings, rehearsals: Mapping[int, Rehearsal], size: int, link: FittedLink | None
) -> Schedule:
    """Return the schedule of a step, with the time that it computes."""
    schedule = rehearsals[size].schedule
    crowd = crowding(size, link.num_cores) if link else 1.0
    alone_seconds = settings.alone_seconds(size)
    if alone_seconds is None:
        return scaled(schedule, compute_seconds(schedule) * crowd)
    if settings.measured and rehearsed_case(settings).device == settings.case.device:
        return scaled(schedule, alone_seconds * times_alone(rehearsals, size) * crowd)
    if size > 1:  # the shares of two: with more, what a CPU takes to draw latents would count
        schedule = with_bytes_of(rehearsals[2].schedule, schedule)
    if settings.case.device == "cuda" and not torch.cuda.is_available():
        schedule = as_on_gpus(schedule, size)
    return scaled(schedule, alone_seconds / (size if settings.case.scaling == "strong" else 1))


def times_alone(rehearsals: Mapping[int, Rehearsal], size: int) -> float:
    """Return how many times as long as one process alone rank 0 of several computes, by their rehearsals."""
    return compute_seconds(rehearsals[size].schedule) / compute_seconds(rehearsals[1].schedule)


def _cost(settings: PredictSettings, size: int, link: FittedLink | None) -> Cost:
    if link is not None:
        cluster = Cluster(shared(link.link, size, link.num_cores))
    else:
        assert settings.cluster is not None
        cluster = settings.cluster
    return lambda event: _event_seconds(event, size, cluster, settings.algorithm)


def _event_seconds(event: Event, size: int, cluster: Cluster, algorithm: Algorithm) -> float:
    if event.kind is Kind.GATHER:
        return gather_seconds(event.num_bytes, size, cluster)
    return all_reduce_seconds(event.num_bytes, size, cluster, algorithm)
