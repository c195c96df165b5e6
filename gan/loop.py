"""train(options): the order in which everything happens."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import torch
from accelerate.utils import broadcast_object_list

from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError
from gan.files.run_folder import RunFolder
from gan.options import TrainOptions
from gan.process.signals import ending_signals, handled
from gan.process.watch import doing, watching
from gan.session.batch_size import with_batch_size
from gan.session.begin import begin_or_resume
from gan.session.epochs import epoch_means, read_epochs, record_epoch
from gan.session.finish import finish
from gan.session.inputs import epoch_inputs
from gan.session.pictures import draw_course, draw_real
from gan.session.restart import ending_for_good, going_on, note_begun
from gan.session.run import Run, holding_folder, prepare
from gan.session.saving import begin_save, raise_not_saved
from gan.session.strategy import complaints, raise_everywhere
from gan.training.batch import StepInputs
from gan.training.checkpoints import newest_first
from gan.training.health import PLAYERS, Alarm
from gan.training.metrics import metrics_of
from gan.training.progress import Progress
from gan.training.run_step import run_step
from gan.training.state import PER_RANK, TrainState

POLL_SECONDS = 5
"""Several ranks look for a signal so often, or after each step if it takes longer.

A launcher that is asked to end its processes passes the signal on, and kills them after 30 s. The number of
steps until the next look follows from the time of the last ones. If the machine becomes busy meanwhile, the
next ones may take several times as long.
"""


def train(options: TrainOptions) -> RunFolder:
    """Train a GAN as `options` say and return where its record is.

    Raises:
        UsageError: Bad input.
        DivergedError: A loss or weight is not finite.
        UnhealthyError: An alarm was raised, and `--on-unhealthy stop`; the run has saved itself.
        Interrupted: SIGINT or SIGTERM came; the run has saved itself.
        OSError: A file could not be written; the last checkpoint is untouched.
        NotSavedError: The main process could not write one, and this is another one.
        PeerError: Another rank has ended or does not go on; the last checkpoint is untouched.
    """
    with watching(options.distributed_timeout) as watch, ending_for_good(watch):
        run, state = prepare(with_batch_size(going_on(options, watch)))
        with (
            handled((signal.SIGINT, *ending_signals()), lambda number, _: run.stop_signals.append(number)),
            holding_folder(run) as run,
            ending_for_good(watch, run.folder),
            run.writer,
            run.display,
        ):
            doing("the beginning of the run")
            note_begun(run.folder, watch)
            begin_or_resume(run, state)
            with complaints() as complaint:
                if run.place.is_main:
                    draw_real(run)
            raise_everywhere(complaint)
            train_until(run, state, run.total_steps)
            if watch is not None:
                watch.stop()  # no rank waits for another one from here on, and rank 0 may take long to finish
            finish(run, state)
    return run.folder


def train_until(run: Run, state: TrainState, last_step: int, *, recorded: bool = True) -> None:
    """Take steps up to number `last_step`, and after each do what is due: the only training loop.

    Args:
        run: What stays the same.
        state: Updated in place.
        last_step: The number of the last step, counted from the beginning of the run.
        recorded: Write epochs and checkpoints. Benchmarks, whose runs have no folder, do not.
    """
    options = run.options
    progress = state.progress
    progress.start_clock()
    speed = _Speed(progress)
    polls = _Polls(progress, options.log_every)
    for inputs, num_images in _inputs_until(run, state, last_step):
        take_step(state, inputs, num_images)
        is_last = progress.step == last_step
        epoch_ends = is_last or progress.position == run.steps_per_epoch
        log_due = progress.step % options.log_every == 0
        save_due = recorded and (is_last or progress.passed(options.checkpoint_every, num_images))
        if run.place.world_size == 1:
            stop_due = bool(run.stop_signals) or run.writer.failure_so_far() is not None
        else:  # they must agree first
            stop_due = polls.are_due()

        # Look for a signal, for a save that failed, and for losses that are not finite
        if epoch_ends:
            state.history[0].tolist()  # waits for the device
            epoch_speed = speed.images_per_second()
        stop_signal = _poll(run, state, polls) if epoch_ends or log_due or stop_due else 0

        # Watch the run's health, and record the epoch
        watch_due = epoch_ends or (log_due and not stop_signal)
        alarms = state.watch() if watch_due else []
        if epoch_ends and recorded:
            progress.read_clock()
            alarms += record_epoch(run, state, epoch_speed)
            save_due = save_due or state.at_best
        if progress.position == run.steps_per_epoch:
            state.end_epoch()
        if watch_due:
            _sound(run, state, alarms)

        # Show the step
        if not epoch_ends and not stop_signal and (log_due or run.display.due()):  # due by this rank's own clock
            _show_step(run, state, speed)

        # Save a checkpoint
        if save_due or stop_signal:
            _save(run, state, last=is_last or bool(stop_signal))

        # Stop
        if stop_signal and progress.step < run.total_steps:
            raise _interrupted(run, state, stop_signal)
        if epoch_ends:
            speed = _Speed(progress)


def _inputs_until(run: Run, state: TrainState, last_step: int) -> Iterator[tuple[StepInputs, int]]:
    """Yield what `epoch_inputs` yields, epoch after epoch, up to step number `last_step` of the run."""
    progress = state.progress
    while progress.step < last_step:
        end = min(run.steps_per_epoch, progress.position + last_step - progress.step)
        doing("reading the images of step", progress.step + 1)
        for inputs in epoch_inputs(run, state, end):
            doing("step", progress.step + 1)
            yield inputs
            doing("reading the images of step", progress.step + 1)


def take_step(state: TrainState, inputs: StepInputs, num_images: int) -> None:
    """Take a step over `num_images` real images of all ranks, and record it."""
    state.record(run_step(state, inputs), num_images)


class _Speed:
    """Measures images per second over all ranks, from when it is made."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._images_before = progress.images_seen
        self._began = time.perf_counter()

    def images_per_second(self) -> float:
        return (self._progress.images_seen - self._images_before) / (time.perf_counter() - self._began)


class _Polls:
    """Decides after which steps several ranks look together for a signal: the same ones on all ranks.

    The first is the first step of a session. From then on the slowest rank's steps since the last time decide.
    """

    def __init__(self, progress: Progress, most_steps: int) -> None:
        self._progress = progress
        self._most_steps = most_steps
        self._step_before = progress.step
        self._began = time.perf_counter()
        self._next_step = progress.step + 1

    def are_due(self) -> bool:
        return self._progress.step >= self._next_step

    def milliseconds_per_step(self) -> int:
        """Of this rank, since the last time."""
        num_steps = max(self._progress.step - self._step_before, 1)
        return int(1000 * (time.perf_counter() - self._began) / num_steps)

    def agree(self, slowest_milliseconds: int) -> None:
        """Set the next step by a number that all ranks have."""
        num_steps = int(1000 * POLL_SECONDS) // max(slowest_milliseconds, 1)
        self._next_step = self._progress.step + min(max(num_steps, 1), self._most_steps)
        self._step_before = self._progress.step
        self._began = time.perf_counter()


def _poll(run: Run, state: TrainState, polls: _Polls | None = None) -> int:
    """Return the signal that asks any rank to stop, or 0; all ranks return the same.

    Args:
        run: What stays the same.
        state: After a step.
        polls: Learns when to look again.

    Raises:
        DivergedError: A loss of this epoch is not finite on one of the ranks; raised on all of them.
        OSError: The main process could not write a file; NotSavedError on the others.
    """
    position = state.progress.position
    never = state.progress.step + 1
    first_nonfinite = [never] * len(PLAYERS)
    if position:
        finite = state.history[:position, : len(PLAYERS)].cpu().isfinite()
        steps = torch.arange(never - position, never).unsqueeze(1)
        first_nonfinite = torch.where(finite, never, steps).amin(0).tolist()
    # One minimum over ranks answers all questions: the first such step on any rank comes out of it and, because
    # the others are negative, a signal or a failure wherever a rank has one, and the longest time of a step.
    signal_here = -run.stop_signals[0] if run.stop_signals else 0
    milliseconds = polls.milliseconds_per_step() if polls else 0
    flags = [*first_nonfinite, signal_here, 0 if run.writer.failure_so_far() is None else -1, -milliseconds]
    if run.place.world_size > 1:
        flags_here = torch.tensor([flags], device=run.place.device)
        flags = run.accelerator.gather(flags_here).amin(0).tolist()
    *first_nonfinite, negated_signal, failed, negated_milliseconds = flags
    if polls:
        polls.agree(-negated_milliseconds)
    if failed:
        raise_not_saved(run)
    for player, step in zip(PLAYERS, first_nonfinite, strict=True):
        if step == min(first_nonfinite) < never:
            raise _diverged(run, step, f"{player}'s loss is")
    return -int(negated_signal)


def _sound(run: Run, state: TrainState, alarms: list[Alarm]) -> None:
    """Print this rank's alarms and, if the run is to stop for the main process's, save and stop on all ranks."""
    for alarm in alarms:
        run.display.say(f"warning: {alarm}")
    if run.options.on_unhealthy == "warn":
        return
    reason = [", ".join(map(str, alarms))]
    broadcast_object_list(reason)
    if reason[0]:
        _save(run, state, last=True)
        raise UnhealthyError(f"{reason[0]}; stopped and saved; go on regardless with {run.folder.resume_flags}")


def _show_step(run: Run, state: TrainState, speed: _Speed) -> None:
    progress = state.progress
    values = epoch_means(run, state).tolist()
    images_per_second = speed.images_per_second()  # only now has a GPU taken the steps that were launched
    means = dict(zip(metrics_of(run.recipe), values, strict=True))
    run.display.step(
        progress.step,
        f"epoch {progress.epoch + 1}/{run.num_epochs}",
        {"images_per_second": images_per_second, **means},
        seconds_left=(run.total_steps - progress.step) * run.images_per_step / images_per_second,
    )


def _save(run: Run, state: TrainState, *, last: bool) -> None:
    """Save a checkpoint and the generator; refuse weights that are not finite.

    Training is held up until the state is copied. The main process writes the copy while training goes on; one
    save at a time, so that this one waits for the one before. The `last` of a session is waited for.
    """
    doing("the wait for the save before step", state.progress.step)  # of all ranks, however slow the disk is
    with run.writer.holding_up():
        run.writer.wait()
    _poll(run, state)
    doing("saving after step", state.progress.step)
    with run.writer.holding_up():
        state.progress.read_clock()
        for name, player in state.players.items():
            finite = torch.stack([parameter.isfinite().all() for parameter in player.network.parameters()])
            if not finite.all():  # waits for the device once
                raise _diverged(run, state.progress.step, f"{name}'s weights are")
        tensors = state.tensors()
        if run.place.world_size > 1:
            gathered = {name: tensors[name] for name in PER_RANK if name in tensors and tensors[name].numel()}
            tensors |= {name: run.accelerator.gather(tensor) for name, tensor in gathered.items()}
        if run.place.is_main:
            begin_save(run, state, tensors)
        if last:
            run.writer.wait()
    if last:
        _poll(run, state)


def _diverged(run: Run, step: int, what: str) -> DivergedError:
    run.writer.wait()  # it may be writing the last good one
    checkpoints = newest_first(run.folder.checkpoints)
    return DivergedError(
        f"step {step}: the {what} not finite; the last good checkpoint: "
        f"{checkpoints[0] if checkpoints else 'none yet'}; "
        "lower the learning rate, or train in bf16 or fp32 if this was fp16"
    )


def _interrupted(run: Run, state: TrainState, stop_signal: int) -> Interrupted:
    if run.place.is_main:
        run.require_folder()
        with suppress(UsageError):  # a damaged line is named when the run is resumed
            if epochs := read_epochs(run.folder.metrics):
                draw_course(run, epochs)
    advice = f"continue with {run.folder.resume_flags}"
    return Interrupted(f"interrupted after step {state.progress.step} and saved; {advice}", 128 + stop_signal)
