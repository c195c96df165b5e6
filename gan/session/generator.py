"""Which generator of a run is sampled and scored: that of the last checkpoint, or the best one."""

from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.training.checkpoints import TrainedGenerator, load_generator


def generator_of_run(folder: RunFolder, recipe: str | None, *, best: bool) -> TrainedGenerator:
    """Load a run's generator.

    Args:
        folder: Of the run.
        recipe: As in `load_generator`.
        best: Take that of the best epoch.

    Raises:
        UsageError: It is not there, or as in `load_generator`.
    """
    if not best:
        return load_generator(folder.generator, folder.generator_config, recipe)
    if not folder.best_generator.exists():
        raise UsageError(
            f"--best: {folder.best_generator} does not exist; train with --evaluate-every IMAGES --keep-best SCORE"
        )
    return load_generator(folder.best_generator, folder.generator_config, recipe)


def which_generator(folder: RunFolder, generator: TrainedGenerator) -> str:
    """Return which of a run's two generators this is; empty for a run that has only one."""
    if generator.best is not None:
        return f"the best generator: {generator.best}"
    if folder.best_generator.exists():
        return "the generator of the last checkpoint; --best takes the best one"
    return ""
