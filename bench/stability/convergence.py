"""T3, convergence: how training on the bundled digits ends for several seeds, and how soon a generator is good."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.harness.exchange import Phase, Report, no_report
from bench.results.checks import Check
from bench.results.finite import MOST_NUMBER
from bench.stability.equivalence import Verdict, samples_of, verdicts
from bench.stability.references import read_reference, reference_path
from bench.stability.steps import fresh, train_steps
from gan.errors import UsageError
from gan.files.text import significant
from gan.quality.extractor import EXTRACTORS
from gan.quality.generated import features_of_state
from gan.quality.judge import Judge, judge_of
from gan.session.run import Run
from gan.training.health import PLAYERS
from gan.training.metrics import METRICS
from gan.training.state import TrainState

OUTCOMES = (*METRICS, *(f"log_gradient_{name}" for name in PLAYERS), "fid", "coverage", "images_to_quality")
"""The metrics of a seed's outcome."""
CONVERGENCE_IMAGES = 30_000
LAST_STEPS = 50
"""Steps at the end over which losses, probabilities and gradient norms are averaged."""
OUTCOME_FLOORS = 70.0
"""The Fréchet distance of `images_to_quality` as a multiple of its floor. Healthy seeds reach it within
CONVERGENCE_IMAGES."""
OUTCOME_SCORED_EVERY_IMAGES = 2_000
TARGET_FLOORS = 20.0
"""The Fréchet distance at which `reach_quality` ends, as a multiple of its floor."""
TARGET_SCORED_EVERY_IMAGES = 5_000
QUALITY_MOST_IMAGES = 300_000


def protocol() -> dict[str, Any]:
    """Return what outcomes depend on besides the case. Outcomes of different protocols do not compare."""
    return {
        "dataset": "digits",
        "images": CONVERGENCE_IMAGES,
        "last_steps": LAST_STEPS,
        "quality_every_images": OUTCOME_SCORED_EVERY_IMAGES,
        "quality_times_floor": OUTCOME_FLOORS,
        "extractor": EXTRACTORS["digits"].sha256,
    }


def outcome_of_seed(run: Run, seed: int, judge: Judge, report: Report = no_report) -> dict[str, float]:
    """Train a seed on CONVERGENCE_IMAGES and return its OUTCOMES.

    Losses and probabilities are means over the last LAST_STEPS steps. `log_gradient_…` is the logarithm of the
    mean gradient norm over those steps. `images_to_quality` is CONVERGENCE_IMAGES if it was not reached. What is
    too large for a results file counts as not finite.

    Args:
        run: Over the digits.
        seed: Of weights, order and latents.
        judge: Scores the generated digits.
        report: Told how many images were seen, and when they are scored.
    """
    run, state = fresh(run, seed)

    def on_step() -> None:
        report(f"{state.progress.images_seen:,} of {CONVERGENCE_IMAGES:,} images")

    def score() -> dict[str, float]:
        return _scores(run, state, judge, report)

    images_to_quality = _train_until_last_steps(run, state, judge, on_step, score)
    rows = []
    norms = []
    for _ in range(LAST_STEPS):
        rows.append(train_steps(run, state, 1, on_step))
        norms.append([_gradient_norm(state.players[name].network) for name in PLAYERS])
    metrics = torch.cat(rows)[:, : len(METRICS)].double().mean(0).tolist()
    gradients = torch.tensor(norms, dtype=torch.float64).mean(0).log().tolist()
    scores = score()
    values = (*metrics, *gradients, scores["fid"], scores["coverage"], images_to_quality)
    finite = (value if abs(value) <= MOST_NUMBER else math.nan for value in values)
    return dict(zip(OUTCOMES, finite, strict=True))


def _train_until_last_steps(
    run: Run,
    state: TrainState,
    judge: Judge,
    on_step: Callable[[], None],
    score: Callable[[], Mapping[str, float]],
) -> int:
    """Train until LAST_STEPS are left; return the images after which the quality was reached, if it was."""
    target_fid = OUTCOME_FLOORS * judge.floor()["fid"]
    images_to_quality = CONVERGENCE_IMAGES
    last = max(0, CONVERGENCE_IMAGES // run.images_per_step - LAST_STEPS)
    while state.progress.step < last:
        num_steps = -(-OUTCOME_SCORED_EVERY_IMAGES // run.images_per_step)
        train_steps(run, state, min(num_steps, last - state.progress.step), on_step)
        if images_to_quality == CONVERGENCE_IMAGES and score()["fid"] <= target_fid:
            images_to_quality = state.progress.images_seen
    return images_to_quality


def _gradient_norm(network: nn.Module) -> float:
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return float(nn.utils.get_total_norm(gradients))


def _scores(run: Run, state: TrainState, judge: Judge, report: Report) -> dict[str, float]:
    report(f"scoring after {state.progress.images_seen:,} images", Phase.BETWEEN_STEPS)
    return judge.scores(features_of_state(judge, state, run.place, run.options.seed))


def reach_quality(run: Run, report: Report = no_report) -> dict[str, Any]:
    """Train from scratch until the Fréchet distance is TARGET_FLOORS its floor, or for QUALITY_MOST_IMAGES.

    It is computed every TARGET_SCORED_EVERY_IMAGES. The seconds leave the time of scoring out.

    Args:
        run: Over the digits.
        report: Told how many images were seen, and when they are scored.

    Returns:
        `target_fid`; `images`, `seconds` and `fid` at the end; and their `course`.
    """
    run, state = fresh(run, run.options.seed)
    judge = judge_of("digits", run.dataset)
    target_fid = TARGET_FLOORS * judge.floor()["fid"]
    num_steps = -(-TARGET_SCORED_EVERY_IMAGES // run.images_per_step)
    seconds = 0.0
    course: list[dict[str, Any]] = []

    def on_step() -> None:
        distance = f", distance {significant(course[-1]['fid'], 4)}" if course else ""
        report(f"{state.progress.images_seen:,} images{distance}; the target is {significant(target_fid, 4)}")

    while state.progress.images_seen < QUALITY_MOST_IMAGES:
        began = time.perf_counter()
        float(train_steps(run, state, num_steps, on_step)[-1, 0])  # waits for the device
        seconds += time.perf_counter() - began
        fid = _scores(run, state, judge, report)["fid"]
        course.append({"images": state.progress.images_seen, "seconds": seconds, "fid": fid})
        if fid <= target_fid:
            break
    return {"target_fid": target_fid, **course[-1], "course": course}


def quality_checks(quality: Mapping[str, Any]) -> list[Check]:
    """Return whether `reach_quality` reached its target."""
    cause = f"quality is not reached within {QUALITY_MOST_IMAGES:,} images"
    return [Check("T3", "Fréchet distance", quality["fid"], quality["target_fid"], cause)]


def convergence_checks(run: Run, seeds: Sequence[Mapping[str, float]]) -> list[Check]:
    """Compare outcomes with the recipe's reference.

    A check is undecided if there is no reference, or if too little is known of its metric.
    """
    if run.options.set:
        cause = f"no reference is kept of a recipe with --set {' --set '.join(run.options.set)}"
        return [Check("T3", "reference", 1.0, 0.0, cause, undecided=True)]
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
            _cause(verdict),
            undecided=verdict.word == "undecided",
        )
        for verdict in verdicts(samples_of(seeds), reference.metrics)
    ]


def _cause(verdict: Verdict) -> str:
    if not math.isfinite(verdict.difference):
        return "that of a seed is not finite"
    sign = "+" if verdict.difference > 0 else ""
    return (
        f"{sign}{significant(verdict.difference, 2)} standard deviations between seeds from the reference; seeds "
        f"scatter {significant(verdict.sd_ratio, 2)} times as much as its seeds"
    )
