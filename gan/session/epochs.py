"""The record of an epoch: what is measured at its end, and its line of metrics.jsonl."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from gan.errors import UsageError
from gan.files.json_files import append_json_line, read_json_lines
from gan.models.networks import apply, evaluating
from gan.process.watch import doing
from gan.quality.generated import features_of_state
from gan.quality.probabilities import mean_probabilities
from gan.seeds import derive_seed
from gan.session.inputs import draw_latents
from gan.session.pictures import draw_samples
from gan.session.run import Run
from gan.training.checkpoints import save_generator
from gan.training.health import LEAST_REAL_DIVERSITY, Alarm, diversity
from gan.training.metrics import METRICS, metrics_of
from gan.training.progress import Best
from gan.training.state import TrainState

NUMBERS_READ = (*METRICS, "images_seen", "images_per_second", "seconds", "test_p_real", "test_p_fake")
"""Fields of a line that are read again; those of test images may be None."""
LARGEST_NUMBER = torch.finfo(torch.float32).max
"""Largest number that a run records."""
DIVERSITY_IMAGES = 64


def record_epoch(run: Run, state: TrainState, images_per_second: float) -> list[Alarm]:
    """Write an epoch's line, its sample grid and, for a run that keeps them, its generator.

    All ranks measure; the main process writes. Call it before `TrainState.end_epoch`. If a file cannot be
    written, that is the `failure_so_far` of the run's writer.

    Args:
        run: What stays the same.
        state: At the last step of an epoch, or of the run.
        images_per_second: Over all ranks.

    Returns:
        Alarms about the epoch's images; none on other ranks than the main process.
    """
    epoch = state.progress.epoch + 1
    doing("the end of epoch", epoch)
    test_p_real, test_p_fake = _test_probabilities(run, state)
    metrics = _means_by_name(run, state)
    scores = _scores(run, state)
    alarms: list[Alarm] = []
    if run.place.is_main:
        metrics["diversity"] = diversity_ratio(run, state)
        alarms = state.health.watch_diversity(metrics["diversity"], state.progress.step)
    line = {
        "epoch": epoch,
        "images_seen": state.progress.images_seen,
        **metrics,
        "test_p_real": test_p_real,
        "test_p_fake": test_p_fake,
        "images_per_second": images_per_second,
        "seconds": state.progress.seconds,
        **_skipped_in_fp16(state),
        **_adaptation(state),
        **scores,
        "unhealthy": sorted(f"{kind} {network}" for kind, network in state.health.raised),
    }
    with run.writer.keeping_failure():  # for all ranks to end by it
        _write_epoch(run, state, epoch, line)
    run.display.epoch(epoch, run.num_epochs, line)
    if run.options.tracker:  # after what has to stay, whatever goes wrong in it
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        run.accelerator.log(numbers, step=epoch)
    _keep_best(run, state, epoch, scores)
    return alarms


def _write_epoch(run: Run, state: TrainState, epoch: int, line: dict[str, Any]) -> None:
    """Write an epoch's files, on the main process."""
    if run.place.is_main:
        run.require_folder()
        append_json_line(run.folder.metrics, line)
        draw_samples(run, state, epoch)
        if run.recipe.keep_generators:
            generator = run.folder.generator_of(epoch)
            generator.parent.mkdir(exist_ok=True)
            save_generator(generator, state)


def _test_probabilities(run: Run, state: TrainState) -> tuple[float | None, float | None]:
    """Return D's mean probabilities on the test images and on as many generated ones; None without test images."""
    if run.dataset.test is None:
        return None, None
    labels = run.dataset.test_labels if run.recipe.conditional else None
    part = mean_probabilities(state, run.dataset.test, labels, seed=run.options.seed, place=run.place)
    doing("adding up the probabilities")  # by itself: who still computes its part is then behind
    p_real, p_fake = run.accelerator.reduce(part, "sum").tolist()
    return p_real, p_fake


def epoch_means(run: Run, state: TrainState) -> Tensor:
    """Return the means of the metrics over the epoch's images so far, of this rank's parts; shape (columns,)."""
    position = state.progress.position
    sizes = torch.full((position, 1), run.images_per_step, dtype=torch.float64)
    sizes[-1] = run.images_in_epoch(position) - run.images_in_epoch(position - 1)  # the last batch may be smaller
    return (state.history[:position].cpu() * sizes).sum(0) / sizes.sum()


def _means_by_name(run: Run, state: TrainState) -> dict[str, float | None]:
    """Return the epoch's means of all ranks; None for an adversarial loss that an older version did not record."""
    means = _means_over_ranks(run, state).tolist()
    named = zip(metrics_of(run.recipe), means, strict=True)
    return {name: None if math.isnan(value) else value for name, value in named}


def _means_over_ranks(run: Run, state: TrainState) -> Tensor:
    means = epoch_means(run, state)
    if run.place.world_size == 1:
        return means
    return run.accelerator.reduce(means.to(run.place.device), "mean")  # type: ignore[no-any-return]


def _scores(run: Run, state: TrainState) -> dict[str, float]:
    """Return the scores of generated images, on the main process and in an epoch in which they are due."""
    if run.judge is None or not _evaluation_due(run, state):
        return {}
    generated = features_of_state(run.judge, state, run.place, run.options.seed)
    doing("the scores of epoch", state.progress.epoch + 1)
    return run.judge.scores(generated) if run.place.is_main else {}


def _evaluation_due(run: Run, state: TrainState) -> bool:
    """Say whether the epoch passed a multiple of `--evaluate-every` images, or was the last."""
    assert run.options.evaluate_every is not None
    images_in_epoch = run.images_in_epoch(state.progress.position)
    is_last = state.progress.step == run.total_steps
    return is_last or state.progress.passed(run.options.evaluate_every, images_in_epoch)


def _adaptation(state: TrainState) -> dict[str, float]:
    """Return the probability of augmentation and D's overfitting r_t by which it is adapted, where it is."""
    if state.adaptation is None:
        return {}
    return {
        "augmentation_probability": state.adaptation.probability.item(),
        "overfitting": state.adaptation.overfitting.item(),
    }


def _keep_best(run: Run, state: TrainState, epoch: int, scores: Mapping[str, float]) -> None:
    """Note in the state that this epoch is the best so far, if it is; the same on all ranks.

    The checkpoint of the epoch and its generator are written where checkpoints are.
    """
    score = run.options.keep_best
    if score in (None, "none") or not _evaluation_due(run, state):
        return
    best = [state.best]
    if run.place.is_main:
        before = state.best if state.best and state.best.score == score else None
        evaluated = Best(score, float(scores[score]), epoch, state.progress.images_seen)
        best = [evaluated if evaluated.beats(before) else state.best]
        if best[0] is evaluated:
            run.display.say(f"  the best {score} so far")
    broadcast_object_list(best)
    state.best = best[0]


def _skipped_in_fp16(state: TrainState) -> dict[str, int]:
    skipped = zip(state.players.items(), skipped_updates(state), strict=True)
    return {f"skipped_steps_{name}": count for (name, player), count in skipped if player.scaler.is_enabled()}


def skipped_updates(state: TrainState) -> list[int]:
    """Return how many updates of each network its loss scaler has skipped so far, in the order of PLAYERS.

    The optimizer counts the updates that it took; the others were skipped. It counts fewer of a parameter that was
    unfrozen later, and nothing before the first update that it takes.
    """
    taken = {
        name: max((int(values["step"]) for values in player.optimizer.state.values()), default=0)
        for name, player in state.players.items()
    }
    return [state.recipe.num_updates(name, state.progress.step) - count for name, count in taken.items()]


@torch.no_grad()
def diversity_ratio(run: Run, state: TrainState) -> float | None:
    """Return the variance of generated images over that of real ones, or None if the real ones are all alike.

    G is used in evaluation mode, on fresh latents of each epoch. The real images are the same in each.
    """
    num_images = min(DIVERSITY_IMAGES, len(run.dataset))
    seed = derive_seed(run.options.seed, "diversity", state.progress.epoch)
    latents = draw_latents(run.recipe, num_images * run.place.world_size, seed, run.place)[0]
    labels: Tensor | None = None
    if state.num_classes:
        assert run.dataset.labels is not None
        classes = run.dataset.labels.unique()  # the data need not have all numbers
        labels = classes[torch.arange(len(latents), device=latents.device) % len(classes)]
    with evaluating(state.generator.network):
        generated_diversity = diversity(apply(state.generator.network, latents, labels))
    if state.health.real_diversity is None:
        (real,) = run.dataset.stream([torch.linspace(0, len(run.dataset) - 1, num_images).long()])
        state.health.real_diversity = diversity(real)
        if state.health.real_diversity < LEAST_REAL_DIVERSITY:
            run.display.say(f"note: {num_images} real images are all alike, so diversity has no scale")
    if state.health.real_diversity < LEAST_REAL_DIVERSITY:
        return None
    return generated_diversity / state.health.real_diversity


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl: epochs 1, 2, 3, ...; a last line cut short by a kill is left out.

    Raises:
        UsageError: A line is damaged or missing; nothing is left out silently.
    """
    mend = "mend that line as those beside it are, or restore the file"
    try:
        lines = read_json_lines(path)
    except UsageError as error:
        raise UsageError(f"{error}; {mend}") from error
    for number, line in enumerate(lines, 1):
        if type(line.get("epoch")) is not int or line["epoch"] != number:
            complaint = f"epoch is {reprlib.repr(line.get('epoch'))} instead of {number}"
            raise UsageError(f"{path}: line {number}: {complaint}; {mend}")
        for name in NUMBERS_READ:
            optional = name.startswith("test_")
            value: Any = line.get(name)
            is_number = type(value) in (int, float) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
            if not is_number and not (optional and value is None):
                complaint = f"{name} is {reprlib.repr(value)}, no number that a run writes"
                raise UsageError(f"{path}: line {number}: {complaint}; {mend}")
    return lines
