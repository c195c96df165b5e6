"""How a session begins: it writes a new run's configuration, or takes over what an earlier session saved."""

from typing import Any

import torch
from accelerate.tracking import filter_trackers

from gan.epochs import read_epochs
from gan.errors import UsageError
from gan.files.environment import describe_environment
from gan.files.json_files import write_json, write_json_lines
from gan.files.run_folder import RUN_SCHEMA, read_config
from gan.files.text import printable
from gan.models.networks import num_parameters
from gan.recipes import LATER
from gan.run import Run
from gan.strategy import num_threads_of, say_what_differs, strategy_of
from gan.training.checkpoints import (
    DamagedCheckpointError,
    load_checkpoint,
    newest_first,
    save_generator,
    save_generator_config,
)
from gan.training.state import TrainState

MOST_NAMES = 5


def begin_or_resume(run: Run, state: TrainState) -> None:
    """Write the run's configuration or take over what an earlier session saved, and say what will happen."""
    identity = {
        "recipe": run.options.recipe,
        **run.recipe.to_json(),
        "num_images": len(run.dataset),
        "image_shape": list(run.dataset.image_shape),
        "classes": run.dataset.class_names and list(run.dataset.class_names),
        "files": run.dataset.files_sha256,
        "seed": run.options.seed,
        "global_batch_size": run.global_batch_size,
    }
    strategy = strategy_of(run.accelerator)
    if run.options.resume:
        _resume(run, state, identity, strategy)
    elif run.place.is_main:
        config = {"options": run.options.to_json(), "identity": identity, "strategy": strategy}
        record = {"schema": RUN_SCHEMA, **config, "environment": describe_environment()}
        write_json(run.folder.config, record, parents=False)
        write_json_lines(run.folder.metrics, [])
        save_generator_config(run.folder.generator_config, state)
    if run.lock is not None and not run.lock.enforced:
        run.display.say(f"note: {run.folder.root} has no locks: nothing keeps a second session out of it")
    if run.options.tracker:
        run.accelerator.project_configuration.set_directories(str(run.folder.root))
        run.accelerator.log_with = filter_trackers(run.options.tracker, run.folder.root)
        run.accelerator.init_trackers("gan", {"recipe": run.options.recipe, "seed": run.options.seed})
    say_what_differs(run.accelerator, run.display.say)
    _say_what_stays_eager(run, state)
    if run.dataset.description:
        run.display.say(run.dataset.description)
    _, asked_by = num_threads_of(run.options)
    threads = f"{torch.get_num_threads()} thread(s) each{f' ({asked_by})' if asked_by else ''}"
    run.display.say(
        f"{run.options.recipe} on {run.recipe.dataset}: {len(run.dataset):,} images, batch {run.global_batch_size}"
        f" · G {num_parameters(state.generator.network):,} and D {num_parameters(state.discriminator.network):,}"
        f" parameters · {strategy['device']}, {strategy['processes']} process(es),"
        f" {strategy['precision']}, {strategy['compile']}, {threads}"
    )


def _say_what_stays_eager(run: Run, state: TrainState) -> None:
    if state.compiled and run.recipe.penalty:
        run.display.say("note: the penalty is not compiled, because compilers do not differentiate twice")


def _resume(run: Run, state: TrainState, identity: dict[str, Any], strategy: dict[str, Any]) -> None:
    """Take over the newest good checkpoint and cut the record back to it."""
    config = read_config(run.folder.config)
    _require_same(run, config["identity"], identity)
    if config["strategy"] != strategy:
        run.display.say(
            f"note: begun with {config['strategy']}; results will differ in rounding from a run without a stop"
        )
    paths = newest_first(run.folder.checkpoints)
    for path in paths:
        try:
            checkpoint = load_checkpoint(path, run.options.recipe)
            same_processes = len(checkpoint.tensors["history"]) == run.place.world_size
            rank = run.place.rank if same_processes else None
            state.load(checkpoint.tensors, checkpoint.counters, rank)
        except DamagedCheckpointError as error:
            run.display.say(f"warning: {error}; falling back to the checkpoint before it")
            continue
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            complaint = f"{path}: not of this recipe and version ({printable(error)[:200]})"
            run.display.say(f"warning: {complaint}; falling back to the checkpoint before it")
            continue
        run.display.say(f"resuming from {path}, step {state.progress.step}")
        break
    else:
        if paths:
            raise UsageError(f"--resume: no checkpoint in {run.folder.checkpoints} can be read; begin a new run")
        if run.folder.generator.exists():
            raise UsageError(
                f"--resume: the checkpoints of {run.folder.root} are gone, and it had some; restore "
                f"{run.folder.checkpoints}, or begin a new run in another --output"
            )
        run.display.say(f"no checkpoint in {run.folder.root} yet: starting from the beginning")
    step = state.progress.step
    if step > run.total_steps:
        raise UsageError(
            f"--resume: the run has taken {step} steps, more than the {run.total_steps} asked for; "
            "raise --epochs or --steps"
        )
    steps = run.accelerator.gather(torch.tensor([step], device=run.place.device)).tolist()
    if len(set(steps)) > 1:
        raise UsageError(
            f"--resume: processes read checkpoints of different steps {steps}; is {run.folder.root} shared?"
        )
    epochs = run.num_epochs if step == run.total_steps else state.progress.epoch
    lines = read_epochs(run.folder.metrics)
    if len(lines) < epochs:
        raise UsageError(
            f"--resume: {run.folder.metrics} has {len(lines)} whole lines, and {path} is of epoch {epochs}; "
            "restore the file, or begin a new run in another --output"
        )
    run.accelerator.wait_for_everyone()  # for all to have read before one writes
    if run.place.is_main:
        for damaged in paths[: paths.index(path)] if paths else []:
            damaged.rename(damaged.with_suffix(".damaged"))
        run.folder.remove_unfinished()
        write_json_lines(run.folder.metrics, lines[:epochs])
        write_json(run.folder.config, {**config, "options": run.options.to_json()}, parents=False)
        save_generator_config(run.folder.generator_config, state)
        if step:
            save_generator(run.folder.generator, state)


def _require_same(run: Run, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError where what identifies a run is not what it was at its beginning."""
    where = f"the run in {run.folder.root} was begun with"
    if begun.get("classes", now["classes"]) != now["classes"]:
        before, after = set(_names(begun["classes"])), set(_names(now["classes"]))
        changes = [f"new: {_some(after - before)}"] if after - before else []
        changes += [f"missing: {_some(before - after)}"] if before - after else []
        raise UsageError(
            f"--resume: {where} other classes than are in --data-root {run.options.data_root} now "
            f"({'; '.join(changes)}); give the same, or begin a new run"
        )
    for name in [name for name in {**begun, **now} if name not in ("classes", "files")]:
        value_before, value = ({**LATER, **identity}.get(name) for identity in (begun, now))
        if value_before != value:
            raise UsageError(
                f"--resume: {name.replace('_', ' ')} is {printable(value)[:200]} now, but {where} "
                f"{printable(value_before)[:200]}; give the same, or begin a new run"
            )
    if begun.get("files", now["files"]) != now["files"]:
        raise UsageError(
            f"--resume: image files below --data-root {run.options.data_root} have other names than at the "
            "beginning of the run; give the same, or begin a new run"
        )


def _names(classes: Any) -> list[str]:
    return [str(name) for name in classes] if isinstance(classes, list) else []


def _some(names: set[str]) -> str:
    shown = [*map(repr, sorted(names)[:MOST_NAMES])]
    return ", ".join([*shown, "..."] if len(names) > MOST_NAMES else shown)
