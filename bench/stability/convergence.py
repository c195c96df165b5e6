"""T3, convergence: what seeds come to on the bundled digits, and how soon a generator is good."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.harness.exchange import Report, no_report
from bench.results.checks import Check
from bench.stability.equivalence import samples_of, verdicts
from bench.stability.references import read_reference, reference_path
from bench.stability.steps import fresh, train_steps
from gan.errors import UsageError
from gan.quality.extractor import EXTRACTORS
from gan.quality.judge import Judge, features_of_state, judge_of
from gan.run import Run
from gan.training.health import PLAYERS
from gan.training.state import METRICS, TrainState

CONVERGENCE_IMAGES = 30_000
LAST_STEPS = 50
OUTCOMES = (*METRICS, *(f"log_gradient_{name}" for name in PLAYERS), "fid", "coverage", "images_to_quality")
"""What a seed comes to."""
QUALITY_TIMES = 20.0
SOON_TIMES = 70.0
"""The Fréchet distance of `images_to_quality`, in floors: what healthy seeds come to within CONVERGENCE_IMAGES."""
QUALITY_EVERY = 5_000
SOON_EVERY = 2_000
QUALITY_MOST_IMAGES = 300_000


def protocol() -> dict[str, Any]:
    """Return what outcomes of seeds depend on besides the case: where it differs, they do not compare."""
    return {
        "dataset": "digits",
        "images": CONVERGENCE_IMAGES,
        "last_steps": LAST_STEPS,
        "quality_every_images": SOON_EVERY,
        "quality_times_floor": SOON_TIMES,
        "extractor": EXTRACTORS["digits"].sha256,
    }


def outcome_of_seed(run: Run, seed: int, judge: Judge, report: Report = no_report) -> dict[str, float]:
    """Train a seed on CONVERGENCE_IMAGES and return what it came to; tell `report` how far it is.

    Losses and probabilities are means over the last LAST_STEPS steps; so are the gradients' norms, of which the
    logarithm is returned. `images_to_quality` is CONVERGENCE_IMAGES where quality was not reached.
    """
    run, state = fresh(run, seed)
    target, soon = SOON_TIMES * judge.floor()["fid"], CONVERGENCE_IMAGES
    last = max(0, CONVERGENCE_IMAGES // run.images_per_step - LAST_STEPS)

    def on_step() -> None:
        report(f"{state.progress.images_seen:,} of {CONVERGENCE_IMAGES:,} images")

    while state.progress.step < last:
        train_steps(run, state, min(-(-SOON_EVERY // run.images_per_step), last - state.progress.step), on_step)
        if soon == CONVERGENCE_IMAGES and _scores(run, state, judge)["fid"] <= target:
            soon = state.progress.images_seen
    rows, norms = [], []
    for _ in range(LAST_STEPS):
        rows.append(train_steps(run, state, 1, on_step))
        norms.append([_norm(state.players[name].network) for name in PLAYERS])
    means = torch.cat(rows).double().mean(0).tolist()
    of_gradients = torch.tensor(norms, dtype=torch.float64).mean(0).log().tolist()
    quality = _scores(run, state, judge)
    return dict(zip(OUTCOMES, (*means, *of_gradients, quality["fid"], quality["coverage"], soon), strict=True))


def _norm(network: nn.Module) -> float:
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return float(nn.utils.get_total_norm(gradients))


def _scores(run: Run, state: TrainState, judge: Judge) -> dict[str, float]:
    return judge.scores(features_of_state(judge, state, run.place, run.options.seed))


def reach_quality(run: Run, report: Report = no_report) -> dict[str, Any]:
    """Train from scratch until the Fréchet distance is QUALITY_TIMES its floor; return seconds and images.

    It is looked at every QUALITY_EVERY images up to QUALITY_MOST_IMAGES, and the time of that left out.
    """
    run, state = fresh(run, run.options.seed)
    judge = judge_of("digits", run.dataset)
    target, seconds = QUALITY_TIMES * judge.floor()["fid"], 0.0
    course: list[dict[str, Any]] = []

    def on_step() -> None:
        reached = f", distance {course[-1]['fid']:.4g}" if course else ""
        report(f"{state.progress.images_seen:,} images{reached}; the target is {target:.4g}")

    while state.progress.images_seen < QUALITY_MOST_IMAGES:
        began = time.perf_counter()
        float(
            train_steps(run, state, -(-QUALITY_EVERY // run.images_per_step), on_step)[-1, 0]
        )  # waits for the device
        seconds += time.perf_counter() - began
        fid = _scores(run, state, judge)["fid"]
        course.append({"images": state.progress.images_seen, "seconds": seconds, "fid": fid})
        if fid <= target:
            break
    return {"target_fid": target, **course[-1], "course": course}


def quality_checks(quality: Mapping[str, Any]) -> list[Check]:
    """Return whether `reach_quality` did."""
    cause = f"quality is not reached within {QUALITY_MOST_IMAGES:,} images"
    return [Check("T3", "Fréchet distance", quality["fid"], quality["target_fid"], cause)]


def convergence_checks(run: Run, seeds: Sequence[Mapping[str, float]]) -> list[Check]:
    """Compare with the recipe's reference; undecided without one, or where too little is known of a metric."""
    path = reference_path(run.options.recipe, run.global_batch_size)
    try:
        reference = read_reference(path)
        reference.require(protocol(), OUTCOMES, path)
    except UsageError as error:
        return [Check("T3", "reference", 1.0, 0.0, str(error), undecided=True)]
    return [
        Check(
            "T3",
            f"{verdict.metric}, {verdict.word}",
            float(verdict.word != "equivalent"),
            0.0,
            f"{verdict.difference:+.2g} standard deviations between seeds from the reference; seeds scatter "
            f"{verdict.sd_ratio:.2g} times as much as its own",
            undecided=verdict.word == "undecided",
        )
        for verdict in verdicts(samples_of(seeds), reference.metrics)
    ]
