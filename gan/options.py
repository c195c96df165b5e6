"""TrainOptions: frozen, validated; the command line of training is generated from them."""

import reprlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from gan.command_line import optional, parse, require_at_least, require_at_most
from gan.data.datasets import (
    DATASETS,
    SHAPED_DATASETS,
    STORED_DATASETS,
    require_columns,
    require_dataset,
    split_name,
)
from gan.errors import UsageError, require_known
from gan.files.run_folder import DEFAULT_OUTPUTS, MEND_CONFIG, RunFolder, newest_default_output, read_config
from gan.images import ImageShape
from gan.methods.augmentations import AUGMENTATIONS
from gan.process.launcher import MOST_THREADS
from gan.process.memory import parse_size
from gan.process.program import command_of
from gan.quality.extractor import EXTRACTORS
from gan.quality.scores import MEANING
from gan.recipe_files import file_of, label_of, recipe_named
from gan.recipe_rules import broken_rule
from gan.recipe_settings import parsed_settings, with_settings
from gan.recipes import OFF, RECIPES, ROWS_BEFORE, Recipe
from gan.training.execution import COMPILE_MODES, CommHook, Execution, MemoryFormat

RECIPE_HELP = f"Which GAN: {', '.join(RECIPES)}; or FILE.py or FILE.py:NAME, a Python file that builds one."
AUGMENT_HELP = f"How the images that D sees are augmented, with commas: {', '.join(AUGMENTATIONS)}; or none."

EXTRACTOR_HELP = f"Whose classifier extracts the features for scores: {', '.join(EXTRACTORS)}."
KEEP_BEST_HELP = (
    f"Also keep the checkpoint and the generator of the epoch with the best {', '.join(MEANING)}; needs "
    "--evaluate-every. none keeps the newest only."
)
MODE_HELP = f"What inductor optimizes: {', '.join(COMPILE_MODES)}. The last two take longer to compile."
SETTING_HELP = (
    "Another value for a field of the recipe, as in optimizer.learning_rate=1e-4, generator.widths=512,512. "
    "Repeat it for more fields. "
)
SETTING = tyro.conf.arg(metavar="KEY=VALUE", help=f"{SETTING_HELP}--dry-run shows the fields.")


@dataclass(frozen=True)
class TrainOptions:
    """Train a GAN. Accelerate's own flags and files decide the strategy: devices, processes, precision, compiler.

    An option that is left out takes the recipe's value or, with --resume, the value of the run.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME", help=RECIPE_HELP)] = "quickstart"
    dataset: Annotated[
        str | None,
        optional(str, "NAME", "the recipe's", help=f"{', '.join(DATASETS)}, or hf:NAME; digits is bundled."),
    ] = None
    data_root: Path = Path("data")
    """Where datasets are kept; for --dataset folder or hf, the directory with the images, for zip, the file."""
    image_shape: Annotated[
        ImageShape | None, tyro.conf.arg(metavar="C H W", help_behavior_hint="(default: 1 28 28)")
    ] = None
    """Channels (1 or 3), height and width for --dataset synthetic, folder, zip or hf."""
    image_column: Annotated[str | None, optional(str, "NAME", "the only one with images")] = None
    """The column with the images, for --dataset hf."""
    label_column: Annotated[str | None, optional(str, "NAME", "the only one with classes, if any")] = None
    """The column with the classes, for --dataset hf; none for no classes."""
    memory_budget: Annotated[str | None, optional(str, "SIZE", "a quarter of the free memory")] = None
    """Keep the images of --dataset folder, zip or hf in memory if each process needs at most this, as in 4GiB;
    stream them otherwise."""
    epochs: Annotated[int | None, optional(int, "INT", "the recipe's")] = None
    """Passes over the data, in all. Not with --steps."""
    steps: Annotated[int | None, optional(int, "INT", "none")] = None
    """Updates of G, in all; some recipes update D several times for each. Not with --epochs."""
    batch_size: Annotated[int | None, optional(int, "INT", "the recipe's")] = None
    """Images per process and update, or per micro-batch with --accumulate; memory grows with it."""
    accumulate: int = 1
    """Micro-batches per update, whose gradients are averaged. The global batch is --batch-size times this, times
    the number of processes."""
    find_batch_size: bool = False
    """First look for the largest batch size that fits into memory, by doubling it; then train with that."""
    ema_half_life: Annotated[int | None, optional(int, "IMAGES", "the recipe's")] = None
    """Save and sample a moving average of G. After so many images, earlier weights count half; 0 for none."""
    augment: Annotated[str | None, optional(str, "NAMES", "the recipe's", help=AUGMENT_HELP)] = None
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, SETTING] = ()
    seed: int = 0
    """Decides everything random: initial weights, order of images, latents, dropout."""
    output: Annotated[Path | None, optional(Path, "PATH", "runs/RECIPE, numbered")] = None
    """Directory of the run."""
    resume: bool = False
    """Continue the run in --output (or the newest runs/RECIPE) from its last good checkpoint."""
    dry_run: bool = False
    """Only print what would be trained, how much memory it takes at least, and what would be written where."""
    evaluate_every: Annotated[int | None, optional(int, "IMAGES", "never")] = None
    """Score G's images at the end of each epoch that passes a multiple of so many images, as gan-evaluate does."""
    extractor: Annotated[str | None, optional(str, "NAME", "that of the dataset", help=EXTRACTOR_HELP)] = None
    keep_best: Annotated[str | None, optional(str, "SCORE", "none", help=KEEP_BEST_HELP)] = None
    on_unhealthy: Literal["warn", "stop"] = "warn"
    """If D saturates or is unsteady, a loss spikes or G's images are alike: warn, or save and fail."""
    checkpoint_every: int = 60_000
    """Images between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """How many checkpoints stay."""
    keep_generators: Literal["recipe", "yes", "no"] = "recipe"
    """Keep the generator of each epoch under generators/, or do as the recipe says."""
    log_every: int = 50
    """Steps between log points, which update the progress bar and check the losses."""
    tracker: Annotated[str | None, optional(str, "NAME", "none")] = None
    """Also send the metrics to one of Accelerate's trackers: tensorboard, wandb, ..."""
    num_workers: Annotated[int | None, optional(int, "INT", "2; 1 on a single core")] = None
    """Processes that read images, for --dataset folder, zip or hf."""
    num_threads: Annotated[int | None, optional(int, "INT", "cores / processes on this host")] = None
    """CPU threads per process."""
    tf32: bool = False
    """Allow TF32 in fp32 matrix products and convolutions on GPUs that have it."""
    memory_format: MemoryFormat = "auto"
    """How weights of convolutions lie in memory; auto takes channels_last on a CPU, and contiguous on a GPU.
    Results are rounded differently."""
    cuda_graph: bool = False
    """Take each step as one CUDA graph, where a GPU would wait for the host. One process, without a compiler."""
    compile_mode: Annotated[str | None, optional(str, "MODE", "the launcher's", help=MODE_HELP)] = None
    comm_hook: CommHook = "no"
    """In which form processes exchange gradients: rounded to bf16 or fp16, or approximated by powersgd."""
    bucket_size: int = Execution.bucket_size
    """Most MiB of gradients that processes exchange at once."""
    shared_memory: bool = True
    """Let processes on the CPUs of one host exchange gradients and statistics of BatchNorm in memory that they
    share. It has no effect with --comm-hook."""
    recompute: bool = False
    """Keep few activations for backward passes, and compute the others again: less memory, more time."""
    distributed_timeout: int = 300
    """Seconds that a process waits for another one that is silent or behind it; then all end and name that one."""

    @property
    def row(self) -> Recipe:
        """The recipe, with what the options override."""
        recipe = with_settings(recipe_named(self.recipe), self.set)
        return replace(recipe, **self.overrides)

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields of the recipe that have an option of their own, and its value, where it was given."""
        names = None if self.augment is None else tuple(self.augment.split(","))
        overrides: dict[str, Any] = {
            "dataset": self.dataset,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "ema_half_life": self.ema_half_life,
            "augmentation": () if names == ("none",) else names,
            "keep_generators": None if self.keep_generators == "recipe" else self.keep_generators == "yes",
        }
        return {name: value for name, value in overrides.items() if value is not None}

    @property
    def execution(self) -> Execution:
        """How a step runs."""
        return Execution(**{field.name: getattr(self, field.name) for field in fields(Execution)})

    @property
    def label(self) -> str:
        """What the recipe is called in few letters, also in the names of folders."""
        return label_of(self.recipe).replace(":", "-")

    @property
    def is_custom(self) -> bool:
        """Whether the recipe has parts or values of the user's, so that it may not train."""
        return file_of(self.recipe) is not None or bool(self.set)

    @property
    def recipe_flags(self) -> str:
        """The options that make the recipe what it is, as on the command line."""
        return " ".join([f"--recipe {self.recipe}", *(f"--set {setting}" for setting in self.set)])

    @property
    def images_per_update(self) -> int:
        """Real images of a process per update of D, in all micro-batches."""
        return self.row.batch_size * self.accumulate

    def validate(self) -> None:
        """Check what needs no data and no device.

        Raises:
            UsageError: With the flag, the value, what is allowed and how to fix it.
        """
        with_settings(recipe_named(self.recipe), self.set)
        for key in parsed_settings(self.set).keys() & self.overrides.keys():
            flag = "--augment" if key == "augmentation" else f"--{key.replace('_', '-')}"
            raise UsageError(f"--set {key}={parsed_settings(self.set)[key]} with {flag}: give one of them")
        if self.dataset is not None:
            require_dataset(self.dataset)
        for name in self.augment.split(",") if self.augment not in (None, "none") else ():
            require_known("--augment", name, AUGMENTATIONS)
        if self.augment is not None and (complaint := broken_rule(self.row)):
            raise UsageError(f"--augment {self.augment}: {complaint}")
        if self.compile_mode is not None:
            require_known("--compile-mode", self.compile_mode, COMPILE_MODES)
        if self.extractor is not None:
            require_known("--extractor", self.extractor, EXTRACTORS)
        if self.keep_best is not None:
            require_known("--keep-best", self.keep_best, [*MEANING, "none"])
        if self.keep_best not in (None, "none") and self.evaluate_every is None:
            raise UsageError(f"--keep-best {self.keep_best}: there are no scores without --evaluate-every IMAGES")
        if self.epochs is not None and self.steps is not None:
            raise UsageError(f"--epochs {self.epochs} with --steps {self.steps}: give one of them")
        for name in (
            *("epochs", "steps", "batch_size", "accumulate", "evaluate_every", "checkpoint_every"),
            *("keep_checkpoints", "log_every", "num_threads", "bucket_size", "distributed_timeout"),
        ):
            require_at_least(name, getattr(self, name), 1)
            require_at_most(name, getattr(self, name))
        if self.find_batch_size and (self.resume or "batch_size" in parsed_settings(self.set)):
            other = "--resume" if self.resume else "--set batch_size"
            raise UsageError(f"--find-batch-size with {other}: give one of them")
        for name in ("seed", "num_workers", "ema_half_life"):
            require_at_least(name, getattr(self, name), 0)
        require_at_most("ema_half_life", self.ema_half_life)
        for name in ("num_threads", "num_workers"):
            require_at_most(name, getattr(self, name), MOST_THREADS)
        self._require_data_options()

    def _require_data_options(self) -> None:
        """Raise UsageError for an option that the dataset does not take, or a bad value of it."""
        dataset = self.row.dataset
        key, _ = split_name(dataset)
        if self.image_shape is not None:
            flag = f"--image-shape {' '.join(map(str, self.image_shape))}"
            if key not in SHAPED_DATASETS:
                raise UsageError(
                    f"{flag}: --dataset {dataset} has a shape of its own; "
                    f"leave it out, or use --dataset {' or '.join(SHAPED_DATASETS)}"
                )
            if self.image_shape[0] not in (1, 3) or min(self.image_shape) < 1:
                raise UsageError(
                    f"{flag}: takes 1 or 3 channels and a height and width of at least 1, as in 3 32 32"
                )
        require_columns(dataset, self.image_column, self.label_column)
        if self.memory_budget is not None:
            parse_size("--memory-budget", self.memory_budget)
            if key not in STORED_DATASETS:
                raise UsageError(
                    f"--memory-budget {self.memory_budget}: --dataset {dataset} is always in memory; "
                    f"leave it out, or use --dataset {' or '.join(STORED_DATASETS)}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the options as they were given, JSON-ready; all but those that no run has."""
        of_no_run = ("dry_run", "find_batch_size")
        options = {name: value for name, value in asdict(self).items() if name not in of_no_run}
        return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainOptions":
        """Return the options that `to_json` wrote; unknown names, of a later version, are left out.

        A run that an earlier version began is continued as it ran then: see `Execution`.

        Raises:
            UsageError: An option is of another type.
        """
        data = {**asdict(Execution()), **data}
        kinds = get_type_hints(cls)
        return cls(**{name: _from_json(name, data[name], kinds[name]) for name in kinds if name in data})


def _from_json(name: str, value: Any, kind: Any) -> Any:
    """Return an option of a type such as ``Path | None`` from JSON."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, str) and Path in kinds and "\0" not in value:
        return Path(value)
    if isinstance(value, list | tuple) and ImageShape in kinds and [*map(type, value)] == [int, int, int]:
        return tuple(value)
    if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
        return value
    if type(value) in kinds:
        return value
    if (
        kind == tuple[str, ...]
        and isinstance(value, list | tuple)
        and all(isinstance(item, str) for item in value)
    ):
        return tuple(value)
    raise UsageError(f"{name} is {reprlib.repr(value)}")


def parse_train_options(arguments: Sequence[str] | None = None) -> TrainOptions:
    """Parse and validate the training command line; with --resume, options left out are those of the run.

    Raises:
        UsageError: The command line is not valid, or there is no run to resume.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(TrainOptions, command_of("gan.train"), arguments)
    if options.resume:
        recipe_named(options.recipe)
        begun = _options_of_run(options.output or newest_default_output(options.label), options)
        if options.epochs is not None or options.steps is not None:
            begun = replace(begun, epochs=None, steps=None)
        parsed = parse(TrainOptions, command_of("gan.train"), arguments, default=replace(begun, set=()))
        options = replace(parsed, set=begun.set)
    options.validate()
    return options


def _options_of_run(output: Path | None, asked: TrainOptions) -> TrainOptions:
    """Return the options that a run was last trained with, for it to be resumed.

    Args:
        output: The directory of the run.
        asked: What the command line says. Its --recipe is taken for that of a run whose recipe is a file, and its
            --set comes on top of the run's, which lose what it sets by another option.
    """
    if output is None or not RunFolder(output).config.exists():
        where = f"--output {output}, which has no config.json" if output else f"{DEFAULT_OUTPUTS}/{asked.label}"
        raise UsageError(f"--resume: no run in {where}; name the run's --output, or start it without --resume")
    config = RunFolder(output).config
    record = read_config(config)
    stored = record["options"]
    begun_as = stored.get("recipe")
    if of_file := isinstance(begun_as, str) and file_of(begun_as) is not None:
        if file_of(asked.recipe) is None:
            raise UsageError(
                f"--resume: the run in {output} is of a recipe file, which is not run unless you name it; give "
                f"--recipe {begun_as} again"
            )
        stored = {**stored, "recipe": asked.recipe}
    try:
        begun = TrainOptions.from_json(stored)
        begun.validate()
    except UsageError as error:
        if of_file:
            raise
        raise UsageError(f"{config}: damaged ({error}); {MEND_CONFIG}") from error
    before = {} if of_file else _before_the_row_changed(begun, record["identity"])
    settings = {**before, **parsed_settings(begun.set), **parsed_settings(asked.set)}
    kept = tuple(f"{key}={text}" for key, text in settings.items() if key not in asked.overrides)
    return replace(begun, set=kept, output=output, resume=True, dry_run=False)


def _before_the_row_changed(begun: TrainOptions, identity: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a run that was begun before its row had others, as `--set` would have them."""
    return {
        name: value
        for name, value in ROWS_BEFORE.items()
        if name not in identity and getattr(recipe_named(begun.recipe), name) != OFF[name]
    }
