"""Saving a run: its state is copied at once, and written by the main process while training goes on."""

from collections.abc import Mapping

from accelerate.utils import broadcast_object_list
from torch import Tensor

from gan.errors import NotSavedError
from gan.files.text import printable
from gan.recipe_files import full_name
from gan.session.run import Run
from gan.training.checkpoints import checkpoint_of, keep_newest, save_checkpoint, save_generator
from gan.training.host_copy import HostCopy
from gan.training.state import TrainState


def begin_save(run: Run, state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Copy the state, and let a thread of this process, the main one, write a checkpoint and the generator.

    The files have the state of this step, whatever training does to it meanwhile. They come to be one after
    another, each whole, as they always did: a kill leaves those that are there.

    Args:
        run: What stays the same.
        state: At the step to save.
        tensors: Those of the state, with those of PER_RANK of all ranks.
    """
    counters = state.counters()  # before the copy: in fp16 it waits for the device
    copy = HostCopy(tensors)
    images_seen = state.progress.images_seen
    best = state.best
    at_best = state.at_best

    def write() -> None:
        copies = copy.tensors()
        generator = state.sampler_of(copies)
        recipe = full_name(run.options.recipe)
        run.require_folder()  # before each file: nothing is put into a folder that has taken its place meanwhile
        save_checkpoint(run.folder.checkpoints, copies, counters, recipe=recipe, images_seen=images_seen)
        run.require_folder()
        save_generator(run.folder.generator, state, copies=generator)
        if at_best:
            run.require_folder()
            save_generator(run.folder.best_generator, state, best, copies=generator)
        path_of_best = checkpoint_of(run.folder.checkpoints, best.images_seen) if best else None
        run.require_folder()
        keep_newest(run.folder.checkpoints, run.options.keep_checkpoints, path_of_best)

    run.writer.begin(write)


def raise_not_saved(run: Run) -> None:
    """Raise what went wrong when the main process wrote something; NotSavedError with its reason elsewhere.

    All ranks call it, as soon as they know of it.
    """
    failure = run.writer.failure_so_far()
    reason = ["" if failure is None else _reason(failure)]
    broadcast_object_list(reason)
    if failure is not None:
        raise failure
    raise NotSavedError(f"rank 0 could not save the run: {reason[0]}; what was saved before is whole")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return printable(f"{type(error).__name__}: {error}")[:200]
