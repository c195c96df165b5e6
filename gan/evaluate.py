"""The script: `accelerate launch gan/evaluate.py RUN --num-images 10000`, scores of a run's generator."""

import signal
import sys
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gan.data.datasets import ImageSource, load_dataset
from gan.display.evaluation import show
from gan.display.figures import save_image
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.json_files import write_json
from gan.files.text import printable
from gan.models.cpu_layers import use_cpu_layers
from gan.options import TrainOptions
from gan.process.place import Place, place_of
from gan.process.script import exit_code_of
from gan.process.watch import Watch, doing, reporting_failures, watching
from gan.quality.batches import features_of_batches
from gan.quality.judge import Judge, require_extractor
from gan.quality.paper import PaperJudge
from gan.quality.scored import ScoredImages
from gan.quality.scores import Features
from gan.run_options import EvaluateOptions, parse_evaluate_options
from gan.session.evaluation import (
    measured_path_length,
    output_of,
    path_measure_of,
    picture_of_neighbours,
    picture_path_of,
    read_images_of,
    require_output,
    scored_images,
)
from gan.session.judges import inception_of, judge_for
from gan.session.sampling import prepare_sampling, stamp_of_sampling
from gan.session.strategy import (
    build_accelerator,
    configure_backends,
    describe_process,
    say_what_differs,
    say_what_scores_ignore,
)
from gan.session.subject import Subject, request_of, require_classes, subject_of
from gan.training.execution import Execution


def evaluate(options: EvaluateOptions) -> dict[str, Any] | None:
    """Score images, write the scores to a file and return its contents; None off the main process.

    By default, the images are those of a run's generator, and the file is RUN/evaluation.json.

    Raises:
        UsageError: What is needed is missing, or there is no extractor for the dataset.
        PeerError: Another rank has ended or does not go on.
    """
    with watching(options.distributed_timeout) as watch:
        return _evaluate(options, watch)


def _evaluate(options: EvaluateOptions, watch: Watch | None) -> dict[str, Any] | None:
    if options.run is not None and not options.run.is_dir():
        raise UsageError(f"{options.run}: no such run; name a directory that training wrote")
    require_output(options)
    accelerator = build_accelerator(TrainOptions())
    place = place_of(accelerator)
    configure_backends(TrainOptions())
    doing("reading the run")
    say, note = (_say, _note) if place.is_main else (_say_nothing, _say_nothing)
    if place.is_main:
        say_what_differs(accelerator, note)
        say_what_scores_ignore(accelerator, note)
    subject = subject_of(options)
    require_other_files({"--output": options.output}, [subject.begun.data_root])
    for message in subject.notes:
        note(f"note: {message}")
    inception = inception_of(options, place.device) if options.backbone == "inception" else None
    measure = path_measure_of(subject, options, place.device) if options.ppl else None
    _place_generator(options, subject, place)
    say(f"scoring {subject.label} against {subject.dataset}, up to {options.num_images:,} images")
    doing("loading the data")
    with accelerator.local_main_process_first():
        dataset = load_dataset(subject.dataset, request_of(subject, options, place))
        read = None if options.images is None else read_images_of(options, dataset, place)
    require_classes(subject, dataset)
    if subject.config and dataset.files_sha256 != subject.config["identity"].get("files"):
        note("note: the images or labels are others than those that the run was trained on")
    num_images = options.num_images if read is None else min(options.num_images, len(read))
    judge = judge_for(inception, options, subject, dataset, num_images, place, say)
    images = scored_images(options, subject, read, judge, place)
    activity = "the features of generated batch"
    generated = features_of_batches(judge.extract, images.batch, images.num_batches, place, activity, say)
    path_length = None if measure is None else measured_path_length(measure, subject, options, dataset, place)
    if watch is not None:
        watch.stop()  # no rank waits for another one from here on, and rank 0 may take long for the scores
    if not place.is_main:
        return None
    record = _record(options, subject, judge, generated, path_length)
    _write(options, record, dataset, judge, images, generated)
    return record


def _place_generator(options: EvaluateOptions, subject: Subject, place: Place) -> None:
    """Place the generator as in training, so that --evaluate-every gives the same scores, and as the options ask.

    Raises:
        UsageError: There is no classifier for its images, or it cannot be sampled so.
    """
    generator = subject.generator
    if generator is None:
        return
    if options.backbone == "classifier":
        require_extractor(subject.dataset, options.extractor or subject.begun.extractor, generator.image_shape)
    strategy = {} if subject.config is None else subject.config.get("strategy", {})
    memory_format = strategy.get("memory_format", "contiguous")
    Execution(memory_format=memory_format).place(generator.network, place.device, torch.float32)
    if place.device.type == "cpu":
        use_cpu_layers(generator.network)
    doing("preparing the generator")
    prepare_sampling(generator, options, subject.label, place.device)


def _record(
    options: EvaluateOptions,
    subject: Subject,
    judge: Judge | PaperJudge,
    generated: Features,
    path_length: dict[str, Any] | None,
) -> dict[str, Any]:
    generator = subject.generator
    best = None if generator is None else generator.best
    return {
        "schema": "gan-evaluation/1",
        **({"run": str(subject.label)} if options.images is None else {"images": str(subject.label)}),
        "dataset": subject.dataset,
        "seed": options.seed,
        **({} if best is None else {"best": best.to_json()}),
        **judge.stamp(generated),
        **({} if generator is None else stamp_of_sampling(generator, options)),
        "scores": judge.scores(generated),
        "floor": judge.floor(),
        **({} if path_length is None else {"perceptual_path_length": path_length}),
        **({"class_frequencies": generated.class_frequencies().tolist()} if isinstance(judge, Judge) else {}),
        "environment": describe_process(),
    }


def _write(
    options: EvaluateOptions,
    record: dict[str, Any],
    dataset: ImageSource,
    judge: Judge | PaperJudge,
    images: ScoredImages,
    generated: Features,
) -> None:
    """Write the record, and then the picture, if there is one: whatever goes wrong with it, the scores stay."""
    write_json(output_of(options), record, parents=False)
    if options.neighbours:
        picture = picture_of_neighbours(options.neighbours, dataset, judge, images, generated)
        save_image(picture_path_of(options), picture, parents=False)


def _say(message: str) -> None:
    print(printable(message), flush=True)


def _say_nothing(_message: str) -> None:
    pass


def _note(message: str) -> None:
    print(printable(message), file=sys.stderr)


def main() -> None:
    """Score a run and say how it did."""
    with reporting_failures():
        options = parse_evaluate_options()
    record = evaluate(options)
    if record is not None:
        show(record)
        pictures = [picture_path_of(options)] if options.neighbours else []
        for path in (output_of(options), *pictures):
            print(printable(path))


def run() -> int:
    """Run `main` and return the exit code."""
    return exit_code_of(
        main,
        advice="mend this and evaluate again",
        interrupted="interrupted; scores that were complete are kept",
        lower="--num-images, --standing-statistics or, with --backbone inception, --batch-size",
    )


if __name__ == "__main__":
    sys.exit(run())
