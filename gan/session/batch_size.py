"""--find-batch-size: the largest batch of a process that fits, and images/s over batch size.

The batch is doubled for as long as its steps fit, and halved if not even the first one does. Accelerate's
`find_executable_batch_size` only goes down, from a batch that would be far too large for a CPU to try.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.memory import release_memory, should_reduce_batch_size
from torch import Tensor

from gan.data.preview import preview
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.images import ImageShape
from gan.methods.lazy import Due
from gan.options import TrainOptions
from gan.process.memory import free_on_device, gibibytes, peak_bytes, reset_peak
from gan.process.place import Alone, Place, launched_here, place_of
from gan.process.watch import doing
from gan.recipes import Recipe
from gan.session.alike import require_same_settings
from gan.session.inputs import draw_directions, draw_latents, draw_mix, draw_warps
from gan.session.run import dataset_request, num_classes_of, run_length
from gan.session.strategy import build_accelerator, configure_backends
from gan.training.batch import StepInputs
from gan.training.footprint import require_memory_of_networks
from gan.training.graphs import WARM_UP_STEPS
from gan.training.rehearsal import rehearse
from gan.training.run_step import run_step
from gan.training.state import TrainState, build_state

SHARE_OF_FREE_MEMORY = 0.9
"""What a batch may take; the rest is for what training needs besides its steps."""
LEAST_SECONDS = 0.5
"""Of timed steps; one step is timed at least."""
MOST_SECONDS = 10.0
"""Of a step that is tried. On a CPU, memory lasts for batches whose steps take minutes."""
MOST_STEPS = 10_000
"""Of a period that are looked at."""
FAST = 0.95
"""A batch is fast if it has this share of the most images/s."""
MIB = 2**20
Say = Callable[[str], object]


@dataclass(frozen=True)
class Trial:
    """Steps at a batch size, on the slowest rank.

    Attributes:
        batch_size: Images of a process per update, or per micro-batch.
        step_seconds: Time of a step, the mean over a period of lazy penalties, without any exchange of gradients.
        peak_bytes: Most memory: what was allocated on a GPU, or what was resident of the process.
    """

    batch_size: int
    step_seconds: float
    peak_bytes: int


def with_batch_size(options: TrainOptions) -> TrainOptions:
    """Return the options with the largest batch size that fits, if they ask for it; all ranks agree.

    The main process prints a table. Nothing is written, and no images are loaded.

    Raises:
        UsageError: What training would refuse, or not even the smallest batch fits.
    """
    if not options.find_batch_size:
        return options
    torch.set_flush_denormal(True)  # as in training: worker threads inherit it
    accelerator = build_accelerator(options)
    place = place_of(accelerator)
    configure_backends(options)
    require_same_settings(options, accelerator)
    if options.output:
        RunFolder(options.output).require_new()
    doing("looking at the data")
    data = preview(options.row.dataset, dataset_request(options, place))
    shape = data.images.image_shape
    num_classes = num_classes_of(options.row, data.num_classes, data.images.description)
    require_memory_of_networks(options.row, shape, num_classes, place.device)
    run_length(options, len(data.images), place.world_size, shape, num_classes)
    if options.is_custom:
        rehearse(options.row, shape, num_classes, options.recipe_flags)
    search = _Search(options, accelerator, len(data.images), data.num_bytes)
    say: Say = partial(print, flush=True) if place.is_main else lambda _: None
    trials = search.run(shape, num_classes, say)
    found = max(trials, key=lambda trial: trial.batch_size)
    fastest = max(map(search.images_per_second, trials))
    fast = min(trial.batch_size for trial in trials if search.images_per_second(trial) >= FAST * fastest)
    rank = " without their exchange of gradients" if place.world_size > 1 else ""
    say(f"--batch-size {found.batch_size} is taken, the largest of these")
    if options.row.period > 1:
        say(f"images/s: mean over {options.row.period} steps; peak memory: of the steps that take most")
    say(f"--batch-size {fast} is the smallest with at least {FAST:.0%} of the most images/s{rank}")
    return replace(options, batch_size=found.batch_size, find_batch_size=False)


class _Search:
    """Trials of one batch size after the other."""

    def __init__(
        self, options: TrainOptions, accelerator: Accelerator, num_images: int, dataset_bytes: int
    ) -> None:
        self.options = options
        self.accelerator = accelerator
        self.place = place_of(accelerator)
        self.num_images = num_images
        reset_peak(self.place.device)
        base_bytes = peak_bytes(self.place.device)
        free_bytes = free_on_device(self.place.device)
        if self.place.device.type == "cpu":
            free_bytes //= launched_here()
        most_bytes = base_bytes + SHARE_OF_FREE_MEMORY * (free_bytes - dataset_bytes)
        self.base_bytes, self.most_bytes = map(int, self._of_all_ranks([base_bytes, most_bytes]).amin(0).tolist())

    @property
    def images_per_row(self) -> int:
        """Images that all ranks take in a step for each image of a micro-batch."""
        return self.options.accumulate * self.place.world_size * self.options.row.discriminator_steps

    def images_per_second(self, trial: Trial) -> float:
        """Return the real images per second of all ranks."""
        return trial.batch_size * self.images_per_row / trial.step_seconds

    def run(self, shape: ImageShape, num_classes: int, say: Say) -> list[Trial]:
        """Try batch sizes and return the trials that fit, the smallest first; at least one.

        Raises:
            UsageError: Not even the smallest batch fits.
        """
        size = self.options.row.batch_size
        trials: list[Trial] = []
        say(f"{'batch size':>12}{'images/s':>12}{'peak memory':>16}")
        while True:
            doing("trying a batch of", size)
            obstacle = self._obstacle(size, trials) or self._refusal(size, shape, num_classes)
            trial = None if obstacle else self._agreed(size, _try(self, size, shape, num_classes))
            if trial is None:
                say(f"{size:>12,}  no: {obstacle or 'out of memory'}")
                if trials:
                    return trials
                size //= 2
                if not size:
                    raise UsageError("--find-batch-size: not even the smallest batch fits into memory; free some")
                continue
            rate = self.images_per_second(trial)
            say(f"{size:>12,}{rate:>12,.0f}{trial.peak_bytes / MIB:>12,.0f} MiB")
            trials.append(trial)
            if size < self.options.row.batch_size:
                return trials
            size *= 2

    def _obstacle(self, size: int, trials: list[Trial]) -> str:
        """Return why a batch size is not to be tried; empty if it is."""
        if size * self.images_per_row > self.num_images:
            return f"a step would take more than the {self.num_images:,} images"
        if trials and 2 * trials[-1].step_seconds > MOST_SECONDS:
            return f"a step would take about {2 * trials[-1].step_seconds:,.0f} s"
        if self.place.device.type != "cpu" or not trials:
            return ""  # a GPU refuses what it has not, and the first batch is the user's
        growth = trials[-1].peak_bytes - self.base_bytes
        if len(trials) > 1:
            growth = max(growth, 2 * (trials[-1].peak_bytes - trials[-2].peak_bytes))
        needed = trials[-1].peak_bytes + growth
        if needed > self.most_bytes:
            return f"it would take about {gibibytes(needed)} GiB of {gibibytes(self.most_bytes)}"
        return ""

    def _refusal(self, size: int, shape: ImageShape, num_classes: int) -> str:
        """Return what training would say of a batch size that it refuses; empty if it takes it."""
        options = replace(self.options, batch_size=size)
        try:
            run_length(options, self.num_images, self.place.world_size, shape, num_classes)
        except UsageError as error:
            return str(error)
        return ""

    def _agreed(self, size: int, trial: Trial | None) -> Trial | None:
        """Return what the slowest rank has measured; None if the batch does not fit on one of them."""
        numbers = [-1.0, 0.0] if trial is None else [trial.step_seconds, float(trial.peak_bytes)]
        table = self._of_all_ranks(numbers)
        if table.amin(0)[0] < 0 or table.amax(0)[1] > self.most_bytes:
            return None
        seconds, num_bytes = table.amax(0).tolist()
        return Trial(size, seconds, int(num_bytes))

    def _of_all_ranks(self, numbers: list[float]) -> Tensor:
        """Return what all ranks pass, a row of each: the same on all of them, so that they go on alike."""
        table = torch.tensor([numbers], dtype=torch.float64)
        if self.place.world_size > 1:
            table = self.accelerator.gather(table.to(self.place.device))
        return table


def _try(search: _Search, size: int, shape: ImageShape, num_classes: int) -> Trial | None:
    """Take some steps at a batch size in this process alone, and return None if they do not fit.

    Ranks do not wait for each other here: one that is out of memory would keep the others waiting.
    """
    device = search.place.device
    reset_peak(device)
    try:
        seconds = _step_seconds(search, size, shape, num_classes)
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)
        if not is_memory:
            raise
        seconds = None
    peak = peak_bytes(device)
    search.accelerator.free_memory()  # which lets go of what it has wrapped
    release_memory()
    return None if seconds is None else Trial(size, seconds, peak)


def _step_seconds(search: _Search, size: int, shape: ImageShape, num_classes: int) -> float:
    """Return the time of a step at a batch size, the mean over a period of lazy penalties.

    A step of each kind is timed, after one in which the optimizers allocate, and counts as often as it occurs.
    """
    options = search.options
    alone: Any = Alone(search.accelerator)
    state = build_state(
        options.row,
        shape,
        alone,
        seed=0,
        steps_per_epoch=1,
        num_classes=num_classes,
        execution=options.execution,
    )
    if state.compiled:
        torch.compiler.reset()  # or it would take each size for another shape of the one before
    inputs = _random_inputs(options, state, size, search.place.device)
    kinds = _steps_by_kind(options.row)
    seconds = 0.0
    for due, steps in kinds.items():
        state.progress.step = steps[0]
        of_kind = inputs if due.generator else inputs._replace(directions=None)
        seconds += len(steps) * _seconds_of_kind(state, of_kind, LEAST_SECONDS / len(kinds))
    return seconds / sum(map(len, kinds.values()))


def _steps_by_kind(recipe: Recipe) -> dict[Due, list[int]]:
    """Return the numbers of the steps of a period by the penalties that are due in them.

    The first kind has all of them: it takes the most memory, and is tried before the others. Of a longer period,
    MOST_STEPS stand for all.
    """
    kinds: dict[Due, list[int]] = {}
    for step in range(min(recipe.period, MOST_STEPS)):
        kinds.setdefault(recipe.due(step), []).append(step)
    return kinds


def _seconds_of_kind(state: TrainState, inputs: StepInputs, least_seconds: float) -> float:
    """Return the time of a step at which the state stands, after one that warms up."""
    for _ in range(WARM_UP_STEPS + 1 if state.graphs else 1):
        run_step(state, inputs).tolist()  # waits for the device
    num_steps = 0
    began = time.perf_counter()
    while not num_steps or time.perf_counter() - began < least_seconds:
        run_step(state, inputs).tolist()
        num_steps += 1
    return (time.perf_counter() - began) / num_steps


def _random_inputs(options: TrainOptions, state: TrainState, size: int, device: torch.device) -> StepInputs:
    """Return random inputs of a step at a batch size."""
    recipe = options.row
    here = Place(0, 1, device)
    num_images = size * options.accumulate
    num_real = num_images * recipe.discriminator_steps
    labels = torch.arange(num_real, device=device) % state.num_classes if state.num_classes else None
    return StepInputs(
        real=torch.rand(num_real, *state.image_shape, device=device) * 2 - 1,
        latents=draw_latents(recipe, num_images, 0, here),
        share=1 / num_images,
        mix=draw_mix(recipe, num_images, 0, here),
        labels=labels,
        warps=draw_warps(recipe, num_images, 0, here),
        num_micro_batches=options.accumulate,
        directions=draw_directions(num_images, state.image_shape, 0, here)
        if recipe.lazy_generator_penalty
        else None,
    )
