"""The command that trains a recipe in a setting."""

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gan
from bench.runner.launches import config_file
from bench.suite.case_axes import DEFAULT_SHAPE
from bench.suite.cases import Case
from gan.options import TrainOptions
from gan.process.configs import config_shown
from gan.recipe_files import recipe_named

SCRIPT = Path("gan/train.py")
OWN_SCRIPT = Path(gan.__file__).with_name("train.py")


def launch_command(case: Case, *, batch_was_chosen: bool = False) -> str:
    """Return the command that trains a case's recipe in its setting, for a shell in the working directory.

    Args:
        case: What was measured.
        batch_was_chosen: Whether the user asked for its batch size. By default a convolutional row has a smaller
            one on a CPU than in training, to be measured in time.
    """
    words = ["accelerate", "launch", "--config_file", config_shown(config_file(case).stem)]
    unsaid = Case(device=case.device).launch_flags()
    for flag, value in case.launch_flags().items():
        if value != unsaid[flag]:
            words += [f"--{flag}", str(value)]
    words += [str(SCRIPT)] if SCRIPT.resolve() == OWN_SCRIPT.resolve() else ["-m", "gan.train"]
    return shlex.join([*words, *_training_words(case, batch_was_chosen)])


def _training_words(case: Case, batch_was_chosen: bool) -> list[str]:
    defaults = {item.name: item.default for item in fields(TrainOptions)}
    options = case.train_options()
    words = ["--recipe", options.pop("recipe")]
    row = recipe_named(case.recipe)
    if not batch_was_chosen:
        options["batch_size"] = replace(case, batch_size=row.batch_size).batch_per_process
    if options["batch_size"] == row.batch_size:
        del options["batch_size"]
    if case.image_shape != DEFAULT_SHAPE:
        words += ["--dataset", "synthetic"]
    for name, value in options.items():
        if value != defaults[name]:
            words += _words_of(f"--{name.replace('_', '-')}", value)
    return words


def _words_of(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if flag == "--set":
        return [word for setting in value for word in (flag, setting)]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]
