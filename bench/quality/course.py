"""A seed on its way to the target: it trains, and is looked at, by turns. Only the training is timed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.quality.rules import Rules
from bench.quality.submission import Point, Seed
from bench.quality.trainees import Trainee
from gan.errors import DivergedError
from gan.files.text import significant
from gan.quality.generated import generated_features
from gan.quality.judge import Judge, judge_of
from gan.quality.scores import frechet_distance

Say = Callable[[str], None]


def reach_target(trainee: Trainee, judge: Judge, rules: Rules, seed: int, say: Say) -> Seed:
    """Train a seed until an evaluation meets the target, or for the images that the rules allow at most.

    Args:
        trainee: Before its first step.
        judge: Of the rules' dataset.
        rules: What to reach, and when to look.
        seed: What the trainee was seeded with.
        say: Told how each evaluation went.
    """
    seconds = 0.0
    course: list[Point] = []
    while not course or (course[-1].images < rules.most and course[-1].fid > rules.target):
        images = rules.next_evaluation(course[-1].images if course else 0)
        began = time.perf_counter()
        try:
            trainee.train(images)
        except DivergedError:
            return _diverged(seed, course, time.perf_counter() - began)
        stretch_seconds = time.perf_counter() - began
        fid = distance_of(trainee, judge, seed)
        if not math.isfinite(fid):
            return _diverged(seed, course, stretch_seconds)
        seconds += stretch_seconds
        course.append(Point(trainee.images_seen, seconds, fid))
        distance = f"FID {significant(fid, 4)} of {rules.target:g}"
        say(f"seed {seed}: {trainee.images_seen:,} images, {seconds:.1f} s, {distance}")
    return Seed(seed, reached=course[-1].fid <= rules.target, diverged=False, course=tuple(course))


def _diverged(seed: int, course: list[Point], lost_seconds: float) -> Seed:
    return Seed(seed, reached=False, diverged=True, course=tuple(course), lost_seconds=lost_seconds)


def distance_of(trainee: Trainee, judge: Judge, seed: int) -> float:
    """Return the Fréchet distance of as many generated images as the judge has real ones; inf without one."""
    with _drawing_nothing(trainee):
        generated = generated_features(
            judge,
            trainee.generator(),
            trainee.recipe.latent_dim,
            len(judge.real.features),
            trainee.place,
            conditional=trainee.recipe.conditional,
            seed=seed,
        )
    if not generated.features.isfinite().all():
        return math.inf
    return frechet_distance(judge.real.features, generated.features)


def judge_for(trainee: Trainee, rules: Rules) -> Judge:
    """Return the judge of the rules' dataset, which a trainee has loaded."""
    with _drawing_nothing(trainee):
        return judge_of(rules.dataset, trainee.dataset, rules.num_images)


@contextmanager
def _drawing_nothing(trainee: Trainee) -> Iterator[None]:
    """Put PyTorch's default generators back afterwards: the plain loop draws from them.

    A classifier that is built draws from them, too, and generated images seed them.
    """
    device = trainee.place.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
