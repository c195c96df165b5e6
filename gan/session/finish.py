"""How a run ends: its curves, its animation and its summary."""

import shlex
import statistics

from gan.errors import UsageError
from gan.files.json_files import write_json
from gan.models.architectures import is_built_in
from gan.process.program import command_of
from gan.recipe_files import full_name
from gan.session.epochs import read_epochs
from gan.session.pictures import draw_course
from gan.session.run import Run
from gan.session.strategy import describe_process, strategy_of
from gan.training.checkpoints import best_of
from gan.training.state import TrainState


def finish(run: Run, state: TrainState) -> None:
    """Draw the curves and the animation, write the summary, and say where the pictures are."""
    if run.options.tracker:
        run.accelerator.end_training()
    if not run.place.is_main:
        return
    folder = run.folder
    run.require_folder()
    epochs = read_epochs(folder.metrics)
    if not epochs:
        raise UsageError(f"{folder.metrics}: emptied during training; what was saved before is whole")
    draw_course(run, epochs)
    speeds = [line["images_per_second"] for line in epochs[1:] or epochs]  # the first epoch warms up
    summary = {
        "schema": "gan-summary/1",
        "recipe": full_name(run.options.recipe),
        "dataset": run.recipe.dataset,
        "steps": state.progress.step,
        "images_seen": state.progress.images_seen,
        "seconds": state.progress.seconds,
        "median_images_per_second": statistics.median(speeds),
        "last_epoch": epochs[-1],
        **({} if state.best is None else {"best": state.best.to_json()}),
        "saves": {
            "number": run.writer.num_writes,
            "held_up_seconds": run.writer.held_up_seconds,
            "writing_seconds": run.writer.writing_seconds,
        },
        "strategy": strategy_of(run.accelerator, state.execution),
        "global_batch_size": run.global_batch_size,
        "environment": describe_process(),
    }
    write_json(folder.summary, summary, parents=False)
    say = run.display.say
    say(f"done: {state.progress.images_seen:,} images in {state.progress.seconds:.1f} s")
    writer = run.writer
    if writer.num_writes:
        held_up = f"held up training for {writer.held_up_seconds:.2f} s"
        say(f"  saves                {writer.num_writes}, {held_up}; writing took {writer.writing_seconds:.2f} s")
    say(f"  real images          {folder.real}")
    say(f"  samples, last epoch  {folder.sample(epochs[-1]['epoch'])}")
    say(f"  how they formed      {folder.animation}")
    say(f"  losses               {folder.curves}")
    if state.best is not None and best_of(folder.best_generator) == state.best:
        say(f"  the best generator   {folder.best_generator} ({state.best})")
    own = "" if is_built_in(run.recipe.generator) else f" --recipe {shlex.quote(run.options.recipe)}"
    say(f"more pictures: {command_of('gan.sample')} {shlex.quote(str(folder.root))}{own}")
