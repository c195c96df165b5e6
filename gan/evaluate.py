"""The script: `accelerate launch gan/evaluate.py RUN --num-images 10000`, scores of a run's generator."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gan.data.datasets import DatasetRequest, load_dataset, require_dataset
from gan.display.progress import format_score
from gan.display.tables import Printer, Table
from gan.errors import UsageError
from gan.files.json_files import write_json
from gan.files.run_folder import RunFolder, read_config
from gan.files.text import printable
from gan.models.cpu_layers import use_cpu_layers
from gan.options import TrainOptions
from gan.process.place import place_of
from gan.process.script import exit_code_of
from gan.process.watch import Watch, doing, reporting_failures, watching
from gan.quality.judge import generated_features, judge_of, require_extractor
from gan.quality.scores import MEANING
from gan.run_options import EvaluateOptions, parse_evaluate_options
from gan.session.generator import generator_of_run, which_generator
from gan.session.strategy import build_accelerator, configure_backends, describe_process, say_what_differs
from gan.training.execution import Execution


def evaluate(options: EvaluateOptions) -> dict[str, Any] | None:
    """Score a run's generator, write RUN/evaluation.json and return its contents; None off the main process.

    Raises:
        UsageError: The run lacks what is needed, or its dataset has no extractor.
        PeerError: Another rank has ended or does not go on.
    """
    with watching(options.distributed_timeout) as watch:
        return _evaluate(options, watch)


def _evaluate(options: EvaluateOptions, watch: Watch | None) -> dict[str, Any] | None:
    folder = RunFolder(options.run)
    if not folder.root.is_dir():
        raise UsageError(f"{folder.root}: no such run; name a directory that training wrote")
    accelerator = build_accelerator(TrainOptions())
    place = place_of(accelerator)
    configure_backends(TrainOptions())
    doing("reading the run")
    if place.is_main:
        say_what_differs(accelerator, lambda message: print(printable(message), file=sys.stderr))
    config = read_config(folder.config)
    name, begun = _data_of(folder, config)
    generator = generator_of_run(folder, options.recipe, best=options.best)
    for note in filter(None, (generator.note, which_generator(folder, generator))):
        if place.is_main:
            print(printable(f"note: {note}"), file=sys.stderr)
    chosen = options.extractor or begun.extractor
    require_extractor(name, chosen, generator.image_shape)
    # as in training, so that --evaluate-every gives the same scores
    memory_format = config.get("strategy", {}).get("memory_format", "contiguous")
    Execution(memory_format=memory_format).place(generator.network, place.device, torch.float32)
    if place.device.type == "cpu":
        use_cpu_layers(generator.network)
    if place.is_main:
        print(f"scoring {printable(folder.root)} against {name}, up to {options.num_images:,} images", flush=True)
    data_root = options.data_root or begun.data_root
    request = DatasetRequest(data_root, generator.image_shape, 0, place.device)
    request = replace(request, image_column=begun.image_column, label_column=begun.label_column)
    doing("loading the data")
    with accelerator.local_main_process_first():
        dataset = load_dataset(name, request)
    if place.is_main and dataset.files_sha256 != config["identity"].get("files"):
        print("note: the images or labels are others than those that the run was trained on", file=sys.stderr)
    judge = judge_of(name, dataset, options.num_images, chosen)
    generated = generated_features(
        judge,
        generator.network,
        generator.latent_dim,
        len(judge.real.features),
        place,
        conditional=generator.num_classes > 0,
        seed=options.seed,
    )
    if watch is not None:
        watch.stop()  # no rank waits for another one from here on, and rank 0 may take long for the scores
    if not place.is_main:
        return None
    record = {
        "schema": "gan-evaluation/1",
        "run": str(folder.root),
        "dataset": name,
        "seed": options.seed,
        **({} if generator.best is None else {"best": generator.best.to_json()}),
        **judge.stamp(generated),
        "scores": judge.scores(generated),
        "floor": judge.floor(),
        "class_frequencies": generated.class_frequencies().tolist(),
        "environment": describe_process(),
    }
    write_json(_output(folder, best=options.best), record, parents=False)
    return record


def _output(folder: RunFolder, *, best: bool) -> Path:
    return folder.best_evaluation if best else folder.evaluation


def _data_of(folder: RunFolder, config: dict[str, Any]) -> tuple[str, TrainOptions]:
    """Return the dataset that a run was trained on, and the options that say where and how it was read."""
    dataset = config["identity"].get("dataset")
    try:
        if not isinstance(dataset, str) or "data_root" not in config["options"]:
            raise UsageError("it has no dataset or data root")
        require_dataset(dataset)
        return dataset, TrainOptions.from_json(config["options"])
    except UsageError as error:
        raise UsageError(f"{folder.config}: damaged; it must be as training wrote it") from error


def show(record: dict[str, Any]) -> None:
    """Print a record's scores, beside what real images get."""
    rows = []
    for name, value in record["scores"].items():
        label, text = format_score(name, value)
        rows.append([label, MEANING[name], text, format_score(name, record["floor"][name])[1]])
    title = f"{record['num_images']:,} images of {record['run']} against {record['dataset']}"
    printer = Printer()
    extractor = record["extractor"]
    printer.table(Table(title, ("score", "meaning", "generated", "real against real"), 2, rows))
    printer.note(
        f"{record['num_real']:,} real images of the training split; features of the {extractor['dataset']} "
        f"classifier {extractor['sha256'][:8]} (accuracy {extractor['accuracy']:.1%})"
    )


def main() -> None:
    """Score a run and say how it did."""
    with reporting_failures():
        options = parse_evaluate_options()
    record = evaluate(options)
    if record is not None:
        show(record)
        print(printable(_output(RunFolder(options.run), best=options.best)))


def run() -> int:
    """Run `main` and return the exit code."""
    return exit_code_of(
        main,
        advice="mend this and evaluate again",
        interrupted="interrupted; nothing was written",
        lower="--num-images",
    )


if __name__ == "__main__":
    sys.exit(run())
