"""An evaluation in the terminal: its scores beside those of real images, and its conditions."""

from typing import Any

from gan.display.progress import format_score
from gan.display.tables import Printer, Table
from gan.files.text import significant
from gan.quality.paper import PAPER_MEANING, PAPER_NUM_IMAGES
from gan.quality.scores import MEANING


def show(record: dict[str, Any]) -> None:
    """Print a record's scores, beside what real images get."""
    is_paper = "backbone" in record
    meaning = PAPER_MEANING if is_paper else MEANING
    rows = []
    for name, value in record["scores"].items():
        label, text = format_score(name, value)
        rows.append([label, meaning[name], text, format_score(name, record["floor"][name])[1]])
    scored = record.get("run") or record["images"]
    title = f"{record['num_images']:,} images of {scored} against {record['dataset']}"
    printer = Printer()
    printer.table(Table(title, ("score", "meaning", "generated", "real against real"), 2, rows))
    for note in _notes_on_paper(record) if is_paper else _notes_on_classifier(record):
        printer.note(note)
    for note in _notes_on_sampling(record):
        printer.note(note)
    if "perceptual_path_length" in record:
        for note in _notes_on_paths(record["perceptual_path_length"]):
            printer.note(note)


def _notes_on_paths(measured: dict[str, Any]) -> list[str]:
    truncation = measured["truncation"]
    is_truncated = truncation is not None and truncation["value"] != 1
    styles = f"styles truncated at {truncation['value']:g}" if is_truncated else "styles without truncation"
    mean = significant(measured["mean"], 4)
    notes = [f"perceptual path length {mean} over {measured['num_paths']:,} paths of {styles}"]
    if is_truncated:
        notes.append("StyleGAN2's authors do not truncate styles: compare this path length with no paper's")
    return notes


def _notes_on_sampling(record: dict[str, Any]) -> list[str]:
    notes = []
    if truncation := record.get("truncation"):
        value = truncation["value"]
        notes.append(
            f"styles at {value:g} of their distance from the average style"
            if truncation["of"] == "styles"
            else f"latents truncated at {value:g}"
        )
    if statistics := record.get("standing_statistics"):
        number, size = statistics["num_batches"], statistics["batch_size"]
        notes.append(f"standing statistics of BatchNorm, of {number:,} batches of {size:,} images")
    return notes


def _notes_on_classifier(record: dict[str, Any]) -> list[str]:
    extractor = record["extractor"]
    return [
        f"{record['num_real']:,} real images of the training split; features of the {extractor['dataset']} "
        f"classifier {extractor['sha256'][:8]} (accuracy {extractor['accuracy']:.1%})"
    ]


def _notes_on_paper(record: dict[str, Any]) -> list[str]:
    backbone = record["backbone"]
    notes = [
        f"{record['num_real']:,} real images of the training split; features of Inception-v3 "
        f"{backbone['sha256'][:8]}, {record['resize']} resize; real against real: "
        f"{record['num_floor_images']:,} of them against the others"
    ]
    if not backbone["published"]:
        notes.append("these are not the published weights: compare the scores with no paper's")
    if record["num_images"] < PAPER_NUM_IMAGES:
        notes.append(f"papers score {PAPER_NUM_IMAGES:,} images; FID of fewer is larger (--num-images)")
    return notes
