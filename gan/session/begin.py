"""How a session begins: it writes a new run's configuration, or takes over what an earlier session saved."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import filter_trackers
from torch import nn

from gan.data.datasets import classes_of
from gan.errors import UsageError
from gan.files.json_files import write_json, write_json_lines
from gan.files.run_folder import RUN_SCHEMA, read_config
from gan.files.tensor_files import DamagedCheckpointError
from gan.files.text import printable
from gan.models.attention import lacks_attention
from gan.models.batch_statistics import depend_on_the_batch
from gan.models.networks import num_parameters
from gan.models.style_generator import NoiseInput
from gan.process.memory import is_out_of_memory
from gan.recipe_files import file_record, full_name
from gan.recipe_rules import drawn_anew, ignored_probability
from gan.session.epochs import read_epochs
from gan.session.identity import identity_of, require_same, require_same_extractor
from gan.session.restart import of_this_start
from gan.session.run import Run
from gan.session.strategy import describe_process, say_what_differs, strategy_in_words, strategy_of
from gan.training.checkpoints import (
    best_of,
    checkpoint_of,
    load_checkpoint,
    newest_first,
    save_generator,
    save_generator_config,
)
from gan.training.state import PER_RANK, TrainState

DRAWN_BY_RANK: dict[type[nn.Module], str] = {
    nn.modules.dropout._DropoutNd: "dropout draws other masks",
    NoiseInput: "G draws other noise",
}
"""Layers that draw numbers themselves, which depend on the rank."""


def begin_or_resume(run: Run, state: TrainState) -> None:
    """Write the run's configuration or take over what an earlier session saved, and say what will happen."""
    identity = identity_of(run.options, run.dataset, run.global_batch_size)
    strategy = strategy_of(run.accelerator, state.execution)
    if run.options.resume:
        _resume(run, state, identity, strategy)
    elif run.place.is_main:
        config = {"options": run.options.to_json(), "identity": identity, "strategy": strategy}
        if file := file_record(run.options.recipe):
            config["recipe_file"] = file
        record = {"schema": RUN_SCHEMA, **config, "environment": describe_process()}
        write_json(run.folder.config, of_this_start(record), parents=False)
        write_json_lines(run.folder.metrics, [])
        save_generator_config(run.folder.generator_config, state, classes_of(run.dataset))
    if run.options.tracker:
        run.accelerator.project_configuration.set_directories(str(run.folder.root))
        run.accelerator.log_with = filter_trackers(run.options.tracker, run.folder.root)
        run.accelerator.init_trackers("gan", {"recipe": run.options.label, "seed": run.options.seed})
    _say_what_begins(run, state)


def _say_what_begins(run: Run, state: TrainState) -> None:
    say = run.display.say
    if run.lock is not None and not run.lock.enforced:
        say(f"note: {run.folder.root} has no locks: nothing keeps a second session out of it")
    say_what_differs(run.accelerator, say)
    exchange = {"comm_hook", "bucket_size"} & state.execution.changes().keys()
    if exchange and run.place.world_size == 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in sorted(exchange))
        say(f"note: {flags}: no effect in one process, which exchanges no gradients")
    asked = run.options.execution.settled(run.recipe, run.accelerator)
    if asked.shared_memory and not state.execution.shared_memory:
        say(
            "note: not all processes get memory for gradients that they would share: they exchange them over the "
            "network, as with --no-shared-memory"
        )
    for told in filter(None, (drawn_anew(run.recipe), ignored_probability(run.recipe))):
        say(f"note: {told}")
    if lacking := _without_attention(run, state):
        say(f"note: {lacking}")
    if run.options.memory_format == "channels_last" != state.execution.memory_format:
        say("note: --memory-format channels_last: no effect on networks without convolutions")
    if state.compiled and (run.recipe.penalty or run.recipe.lazy_generator_penalty):
        say("note: the penalty is not compiled, because compilers do not differentiate twice")
    networks = [player.network for player in state.players.values()]
    if run.options.accumulate > 1 and (layers := depend_on_the_batch(*networks)):
        differences = ", and in ".join(layers)
        say(f"note: --accumulate {run.options.accumulate} differs from one large batch in {differences}")
    if run.dataset.description:
        say(run.dataset.description)
    parts = f" in {run.options.accumulate} micro-batches" if run.options.accumulate > 1 else ""
    say(
        f"{run.options.label} on {run.recipe.dataset}: {len(run.dataset):,} images, "
        f"batch {run.global_batch_size}{parts}"
        f" · G {num_parameters(state.generator.network):,} and D {num_parameters(state.discriminator.network):,}"
        f" parameters · {strategy_in_words(run.accelerator, run.options, state.execution)}"
    )


def _without_attention(run: Run, state: TrainState) -> str:
    """Return in one line which networks are to have attention, and have none; empty if there is no such."""
    specs = {name: getattr(run.recipe, name) for name in state.players}
    lacking = [name for name, spec in specs.items() if lacks_attention(spec, state.players[name].network)]
    if not lacking:
        return ""
    size = "×".join(map(str, state.image_shape[1:]))
    levels = " and ".join(f"{name}.attention_level {specs[name].attention_level}" for name in lacking)
    return f"{levels}: no attention: images of {size} are not halved so often; lower it, or take larger ones"


def _resume(run: Run, state: TrainState, identity: dict[str, Any], strategy: dict[str, Any]) -> None:
    """Take over the newest good checkpoint and cut the record back to it."""
    config = read_config(run.folder.config)
    require_same(run.folder, config["identity"], identity, run.options)
    require_same_extractor(run.folder, config["options"], run.options)
    _say_what_differs_in_strategy(run, state, config["strategy"], strategy)
    if state.execution.comm_hook == "powersgd" and run.place.world_size > 1:
        run.display.say("note: powersgd begins anew: what it has not sent yet is not saved")
    _say_what_changed(run, config.get("recipe_file"))
    damaged = _load_newest_good(run, state)
    _require_right_step(run, state.progress.step)
    num_epochs = run.num_epochs if state.progress.step == run.total_steps else state.progress.epoch
    lines = read_epochs(run.folder.metrics)
    if len(lines) < num_epochs:
        raise UsageError(
            f"--resume: {run.folder.metrics} has {len(lines)} whole lines, and the checkpoint is of epoch "
            f"{num_epochs}; restore the file, or begin a new run in another --output"
        )
    run.accelerator.wait_for_everyone()  # for all ranks to have read before one writes
    if run.place.is_main:
        for path in damaged:
            path.rename(path.with_suffix(".damaged"))
        run.folder.remove_unfinished()
        write_json_lines(run.folder.metrics, lines[:num_epochs])
        config = of_this_start({**config, "options": run.options.to_json()})
        write_json(run.folder.config, config, parents=False)
        save_generator_config(run.folder.generator_config, state, classes_of(run.dataset))
        if state.progress.step:
            save_generator(run.folder.generator, state)
        _mend_best(run, state)


def _mend_best(run: Run, state: TrainState) -> None:
    """Let the best generator be that of the best epoch of `state`.

    A kill may have come between the two files of that epoch, or the checkpoint of a later, better one is gone.
    """
    path = run.folder.best_generator
    best = state.best
    if state.at_best:
        save_generator(path, state, best)
        return
    kept = best_of(path)
    if best == kept:
        return
    if best is not None:
        with suppress(DamagedCheckpointError):
            recipe = full_name(run.options.recipe)
            saved = load_checkpoint(checkpoint_of(run.folder.checkpoints, best.images_seen), recipe)
            save_generator(path, state, best, state.sampler_of(saved.tensors))
            return
    if path.exists():
        epoch = kept or "an unknown epoch"
        run.display.say(f"note: {path} is of {epoch}, and not the best so far; the next best one replaces it")
    else:
        run.display.say(f"note: {path} is missing, and so is the checkpoint of {best}; the next best writes it")


def _say_what_differs_in_strategy(run: Run, state: TrainState, begun: Any, now: dict[str, Any]) -> None:
    """Say what a run goes on with that it was not begun with, and what that does to its results."""
    before = begun.get("processes") if isinstance(begun, dict) else None
    if before is not None and before != now["processes"]:
        layers = [layer for player in state.players.values() for layer in player.network.modules()]
        drawn = [told for kind, told in DRAWN_BY_RANK.items() if any(isinstance(layer, kind) for layer in layers)]
        run.display.say(
            f"note: begun with {before} processes, now {now['processes']}: images, latents and their order stay "
            f"the same; results will differ in rounding{''.join(f', and {told}' for told in drawn)}"
        )
        begun = {**begun, "processes": now["processes"]}
    # Two numbers have one sum, however they are exchanged. Other processes change the sums anyway, as just said.
    if isinstance(begun, dict) and (now["processes"] <= 2 or before != now["processes"]):
        begun = {name: value for name, value in begun.items() if name != "shared_memory"}
        now = {name: value for name, value in now.items() if name != "shared_memory"}
    if begun != now:
        run.display.say(f"note: begun with {begun}; results will differ in rounding from a run without a stop")


def _say_what_changed(run: Run, begun: Any) -> None:
    """Say that the recipe's file has changed since the beginning. A change of its values is refused before."""
    file = file_record(run.options.recipe)
    if file and isinstance(begun, dict) and begun.get("sha256") != file["sha256"]:
        run.display.say(
            f"note: {run.options.recipe} has changed since the run began; the recipe's values have not"
        )


def _load_newest_good(run: Run, state: TrainState) -> list[Path]:
    """Load the newest checkpoint that can be read into `state`, and return the damaged ones that are newer.

    Raises:
        UsageError: None of the checkpoints can be read, or they are gone.
    """
    paths = newest_first(run.folder.checkpoints)
    for number, path in enumerate(paths):
        try:
            checkpoint = load_checkpoint(path, full_name(run.options.recipe))
            of_ranks = [checkpoint.tensors[key] for key in PER_RANK if key in checkpoint.tensors]
            same_world_size = max(map(len, of_ranks)) == run.place.world_size
            state.load(checkpoint.tensors, checkpoint.counters, run.place.rank if same_world_size else None)
        except DamagedCheckpointError as error:
            complaint = str(error)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):  # the file may be whole
                raise
            complaint = f"{path}: not of this recipe and version ({printable(error)[:200]})"
        else:
            run.display.say(f"resuming from {path}, step {state.progress.step}")
            return paths[:number]
        run.display.say(f"warning: {complaint}; falling back to the checkpoint before it")
    if paths:
        raise UsageError(f"--resume: no checkpoint in {run.folder.checkpoints} can be read; begin a new run")
    if run.folder.generator.exists():
        raise UsageError(
            f"--resume: the checkpoints of {run.folder.root} are gone, and it had some; restore "
            f"{run.folder.checkpoints}, or begin a new run in another --output"
        )
    run.display.say(f"no checkpoint in {run.folder.root} yet: starting from the beginning")
    return []


def _require_right_step(run: Run, step: int) -> None:
    """Raise UsageError if a run has trained for longer than it is to, or if ranks stand at different steps."""
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
