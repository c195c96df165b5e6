"""Figures of a case beyond its times: against the machine's peaks, over processes, of memory and of the start."""

import numpy as np

from bench.results.case_result import AUXILIARY, EMPTY, CaseResult
from bench.results.statistics import midmean
from bench.results.work import Peaks


def relative_iqr(result: CaseResult) -> float:
    """Return the interquartile range of the step time, as a fraction of its median."""
    seconds = np.concatenate(result.seconds_per_step[result.own_arm])
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


def percentile(result: CaseResult, percentage: int) -> float | None:
    """Return the seconds of a step that so many per cent of the windows stay below.

    None if fewer than one window is expected above it: the longest window would stand for a rare one.
    """
    seconds = np.concatenate(result.seconds_per_step[result.own_arm])
    if len(seconds) * (100 - percentage) < 100:
        return None
    return float(np.quantile(seconds, percentage / 100))


def peak(result: CaseResult, arm: str) -> float | None:
    """Return the highest rate of a roofline arm in FLOP/s or bytes/s; None if it was not measured.

    On a processor that lacks a precision, small products can be the faster ones. So the peak of products takes the
    step's own products into account.
    """
    if arm not in result.seconds_per_step:
        return None
    arms = [arm, "products"] if arm == "peak_product" and "products" in result.seconds_per_step else [arm]
    return max(_rate(result, name) for name in arms)


def _rate(result: CaseResult, arm: str) -> float:
    return float(result.facts.work[arm] / min(seconds.min() for seconds in result.seconds_per_step[arm]))


def flops_per_second(result: CaseResult) -> float | None:
    """Return the rate at which the step does its counted FLOPs; None if they were not counted."""
    flops = result.facts.flops_per_step
    return flops / result.median() if flops else None


def floor_seconds(result: CaseResult) -> float | None:
    """Return the roofline's least time of a step at this machine's peaks, which the same processes measured.

    One bound, as if the step were one kernel: the longer of computing and moving data.
    """
    product_flops = peak(result, "peak_product")
    copied_bytes = peak(result, "peak_copy")
    if product_flops is None or copied_bytes is None:
        return None
    facts = result.facts
    return float(max(facts.flops_per_step / product_flops, facts.least_bytes_per_step / copied_bytes))


def roofline_fraction(result: CaseResult) -> float | None:
    """Return the floor over the median step time."""
    floor = floor_seconds(result)
    return None if floor is None else floor / result.median()


def peaks(result: CaseResult) -> Peaks | None:
    """Return what the machine can do at the most; None if it was not measured in the same processes."""
    product_flops = peak(result, "peak_product")
    copied_bytes = peak(result, "peak_copy")
    if product_flops is None or copied_bytes is None:
        return None
    return Peaks(product_flops, max(copied_bytes, peak(result, "peak_update") or 0.0))


def sequence_seconds(result: CaseResult) -> float | None:
    """Return the floor of a step in sequence: products, then optimizers and elementwise operations."""
    limits = peaks(result)
    work = result.facts.sequence
    return None if limits is None or work is None else work.floor_seconds(limits)


def reached(result: CaseResult) -> float | None:
    """Return the floor in sequence over the median step time.

    Above 1 where traffic is saved: activations may stay in caches, and a compiler fuses elementwise operations.
    """
    floor = sequence_seconds(result)
    return None if floor is None else floor / result.median()


def share(result: CaseResult, arm: str) -> float | None:
    """Return an arm's time as a fraction of the case's own; None if it was not measured."""
    return result.median(arm) / result.median() if arm in result.seconds_per_step else None


def speedup(result: CaseResult) -> float | None:
    """Return images/s over those of one process alone at the batch that the case names."""
    if result.case.num_processes == 1:
        return 1.0
    ratios = result.log_ratios("solo")
    return None if ratios is None else float(np.exp(midmean(np.concatenate(ratios))))


def communication_share(result: CaseResult) -> float | None:
    """Return the part of the step that disappears if gradients are not reduced, waiting for others included."""
    ratios = result.log_ratios("no_sync")
    return None if ratios is None else max(0.0, 1 - float(np.exp(midmean(np.concatenate(ratios)))))


def rank_seconds(result: CaseResult) -> list[float] | None:
    """Return the median seconds of each rank's step by itself, without the others; None for one process."""
    if "no_sync" not in result.seconds_per_step:
        return None
    by_rank = zip(*result.launches, strict=True)
    windows = [[rank.arms["no_sync"].seconds_per_step for rank in launches] for launches in by_rank]
    return [float(np.median(np.concatenate(seconds))) for seconds in windows]


def peak_bytes(result: CaseResult) -> int:
    """Return the most memory that a process held: allocated on the GPU if there is one, resident otherwise."""
    return max(rank.peak_bytes for launch in result.launches for rank in launch)


def reserved_bytes(result: CaseResult) -> int | None:
    """Return the most memory that a process took from a GPU's driver; None without a GPU."""
    values = [rank.reserved_bytes for launch in result.launches for rank in launch if rank.reserved_bytes]
    return max(values, default=None)


def device_bytes(result: CaseResult) -> int | None:
    """Return what all processes held of a GPU's memory, cases that waited included; None without a GPU."""
    values = [rank.device_bytes for launch in result.launches for rank in launch if rank.device_bytes]
    return max(values, default=None)


def joules_per_image(result: CaseResult) -> float | None:
    """Return the energy of all GPUs per real image, the mean over launches; None if it is not known."""
    launches = []
    for launch in result.launches:
        energies = [rank.gpu.energy if rank.gpu else None for rank in launch]
        if None in energies:
            return None
        launches.append(sum(energy.joules / energy.images for energy in energies if energy))
    return float(np.mean(launches))


def startup_medians(result: CaseResult) -> dict[str, float]:
    """Return the median seconds of each part of the start."""
    parts = [launch[0].startup_seconds for launch in result.launches]
    return {name: float(np.median([part[name] for part in parts])) for name in parts[0]}


def compile_seconds(result: CaseResult) -> float:
    """Return the mean seconds in torch.compile over the launches."""
    return float(np.mean([launch[0].compile_seconds for launch in result.launches]))


def overhead(result: CaseResult) -> float:
    """Return the time of an empty window over that of the shortest real one: what the harness itself costs."""
    launches = [launch[0].arms for launch in result.launches]
    measured = [
        arms[name].windows for arms in launches for name in arms.keys() - AUXILIARY if not arms[name].part_of
    ]
    shortest = min(windows.min() for windows in measured if len(windows))
    return float(np.median(np.concatenate([arms[EMPTY].windows for arms in launches])) / shortest)
