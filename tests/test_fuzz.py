"""Damaged and odd files: nothing ends in a traceback, and nothing wrong is taken for right.

Seeds are fixed. GAN_TEST_FUZZ multiplies how many inputs are tried; GAN_TEST_FUZZ_SEED begins elsewhere.
"""

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from gan import evaluate, sample
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.options import parse_train_options
from gan.training.checkpoints import load_checkpoint, newest_first
from tests.bench.records import results_file, step_record
from tests.bench.regress_records import record_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TIMES = int(os.environ.get("GAN_TEST_FUZZ", "1"))
FIRST_SEED = int(os.environ.get("GAN_TEST_FUZZ_SEED", "0"))
STEPS = 9
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        0.5,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "[/red]",
        "\x1b[31m",
        "$\\frac{$",
    ),
    *([], {}, [None], {"a": []}, [[1.0], [2.0, 3.0]]),
)


@pytest.fixture(autouse=True)
def _no_curves() -> None:
    """Draw the curves of spoilt records, which other tests leave out."""


def seeds(count: int) -> range:
    return range(FIRST_SEED, FIRST_SEED + count * TIMES)


def damage(data: bytes, chance: random.Random) -> bytes:
    """Return other bytes: some changed, missing, added or moved."""
    place = chance.randrange(len(data)) if data else 0
    length = chance.choice((1, 1, 4, 64, 4096))
    return chance.choice(
        (
            data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :] if data else b"x",
            data[:place],
            data[:place] + bytes(length) + data[place + length :],
            data[:place] + chance.randbytes(length) + data[place:],
            data[:place] + data[place + length :],
            data + data,
            b"\xef\xbb\xbf" + data,
            b"",
        )
    )


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each value of a JSON document stands."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def alter(data: Any, chance: random.Random) -> str:
    """Return well-formed JSON that differs from `data` in one place."""
    data = json.loads(json.dumps(data))
    *way, last = chance.choice([path for path in places(data) if path])
    parent = data
    for key in way:
        parent = parent[key]
    match chance.randrange(5):
        case 0 if isinstance(parent, dict):
            del parent[last]
        case 1 if isinstance(parent, list):
            parent *= chance.choice((0, 2))
        case 2:
            parent[last] = "DEEP"
        case _:
            parent[last] = chance.choice(ODD_VALUES)
    return json.dumps(data).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)


def check_errors(code: int, errors: str, tried: str) -> None:
    """One line for what went wrong, foreseen by whoever reads the file."""
    assert code in (0, 1, 2, 3), tried
    assert "traceback" not in errors.lower(), f"{tried}: {errors}"
    lines = [line for line in errors.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) <= 1, f"{tried}: {errors}"
    assert code in (0, 1, 3) or lines[0].startswith("error: "), f"{tried}: {errors}"
    assert all(len(line) < 1000 for line in lines), f"{tried}: {errors[:300]}"
    assert "\x1b" not in errors, tried


def forget_accelerator() -> None:
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of a few epochs, that was stopped before its end."""
    run = tmp_path_factory.mktemp("fuzz") / "run"
    arguments = ("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", "600", "--num-threads", "1")
    train(parse_train_options([*arguments, "--output", str(run), "--steps", "6", "--checkpoint-every", "1800"]))
    forget_accelerator()
    return run


def resume(run: Path) -> Callable[[], object]:
    def main() -> object:
        forget_accelerator()
        return train(parse_train_options(["--resume", "--output", str(run), "--steps", str(STEPS)]))

    return main


def outcome_of(run: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Return the last checkpoint's tensors and the number of epochs recorded."""
    checkpoint = load_checkpoint(newest_first(RunFolder(run).checkpoints)[0])
    return checkpoint.tensors, len(read_json_lines(RunFolder(run).metrics))


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def spoil(run: Path, chance: random.Random) -> Path:
    """Damage or alter a file of a run, and return which."""
    path = chance.choice(sorted(path for path in run.rglob("*") if path.is_file() and path.suffix != ".gif"))
    if path.suffix == ".json" and chance.random() < 0.7:
        path.write_text(alter(json.loads(path.read_text(encoding="utf-8")), chance), encoding="utf-8")
    elif path.suffix == ".jsonl" and chance.random() < 0.5:
        lines = path.read_text(encoding="utf-8").splitlines()
        row = chance.randrange(len(lines))
        lines[row] = alter(json.loads(lines[row]), chance)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_bytes(damage(path.read_bytes(), chance))
    return path


@pytest.mark.nightly
def test_a_spoilt_run_resumes_to_the_same_end_or_is_refused(finished_run: Path, tmp_path: Path, script) -> None:
    whole = shutil.copytree(finished_run, tmp_path / "whole")
    assert script(resume(whole))[0] == 0
    tensors, epochs = outcome_of(whole)
    counts = {0: 0, 1: 0, 2: 0}
    for seed in seeds(15):
        run = shutil.copytree(finished_run, tmp_path / "run")
        spoilt = spoil(run, random.Random(seed))
        before = RunFolder(run).metrics.read_bytes()
        tried = f"seed {seed}: {spoilt.relative_to(run)}"
        code, _, errors = script(resume(run))
        check_errors(code, errors, tried)
        counts[code] += 1
        if code == 0 and spoilt.name != "config.json":
            ours, lines = outcome_of(run)
            assert same(ours, tensors), f"{tried}: ends otherwise, with exit code 0"
            assert lines == epochs, f"{tried}: {lines} of {epochs} epochs are left, with exit code 0"
        elif code == 2:
            assert RunFolder(run).metrics.read_bytes() == before, f"{tried}: refused, and its record is changed"
        shutil.rmtree(run)
    print(f"resumed: exit codes {counts}")


@pytest.mark.parametrize("kind", ["grid", "interpolation", "timeline", "gif", "evaluate"])
def test_a_spoilt_run_gives_the_same_pictures_and_scores_or_is_refused(
    finished_run: Path, tmp_path: Path, script, kind: str
) -> None:
    def result(run: Path) -> tuple[int, str, Any]:
        forget_accelerator()
        if kind == "evaluate":
            code, _, errors = script(evaluate.main, run, "--num-images", 200)
            path = RunFolder(run).evaluation
            return code, errors, json.loads(path.read_text(encoding="utf-8"))["scores"] if code == 0 else None
        code, _, errors = script(sample.main, run, kind)
        pictures = sorted((run / "pictures").glob("*")) if code == 0 else ()
        return code, errors, {path.name: path.read_bytes() for path in pictures}

    _, _, expected = result(shutil.copytree(finished_run, tmp_path / "whole"))
    counts = {0: 0, 1: 0, 2: 0}
    for seed in seeds(2 if kind == "evaluate" else 8):
        run = shutil.copytree(finished_run, tmp_path / "run")
        spoilt = spoil(run, random.Random(seed))
        tried = f"seed {seed}: {spoilt.relative_to(run)}"
        code, errors, shown = result(run)
        check_errors(code, errors, tried)
        counts[code] += 1
        if code == 0 and spoilt.suffix != ".png" and spoilt.name != "config.json":
            assert shown == expected, f"{tried}: another result, with exit code 0"
        shutil.rmtree(run)
    print(f"{kind}: exit codes {counts}")


COMMANDS = {
    "report": (results_file(step_record()), ("report", "FILE")),
    "markdown": (results_file(step_record()), ("report", "FILE", "--format", "markdown")),
    "html": (results_file(step_record()), ("report", "FILE", "--format", "html")),
    "compare": (results_file(step_record()), ("compare", "FILE", "WHOLE")),
    "replay": (record_json([0.06, 0.05, 0.07] * 4), ("regress", "--replay", "FILE")),
    "history": (record_json([0.06, 0.05, 0.07] * 4), ("history", "FILE", "--plot", "PLOT")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_spoilt_files_of_bench_are_refused_or_shown(tmp_path: Path, command, name: str) -> None:
    data, arguments = COMMANDS[name]
    spoilt, whole = tmp_path / "spoilt.json", tmp_path / "whole.json"
    whole.write_text(json.dumps(data), encoding="utf-8")
    paths = {"FILE": spoilt, "WHOLE": whole, "PLOT": tmp_path / "plot.png"}
    counts = {0: 0, 1: 0, 2: 0, 3: 0}
    for seed in seeds(4 if name == "history" else 30):
        chance = random.Random(seed)
        if chance.random() < 0.8:
            spoilt.write_text(alter(data, chance), encoding="utf-8")
        else:
            spoilt.write_bytes(damage(whole.read_bytes(), chance))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a NaN on its way into a figure
            code, output, errors = command(*(paths.get(part, part) for part in arguments))
        check_errors(code, errors, f"seed {seed}")
        counts[code] += 1
        words = output.replace("<", " ").replace("|", " ").split()
        assert not {"nan", "inf", "-inf", "nan%", "inf%"} & set(words), f"seed {seed}: {output}"
        assert "\x1b" not in output, f"seed {seed}"
    print(f"{name}: exit codes {counts}")


FORMATS = {"PNG": ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"), "JPEG": ("RGB", "L", "CMYK"), "GIF": ("P",)} | {
    "TIFF": ("RGB", "L", "F", "I;16", "CMYK", "1"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P"),
}


def picture(chance: random.Random, path: Path) -> None:
    form = chance.choice(sorted(FORMATS))
    mode = chance.choice(FORMATS[form])
    size = chance.choice(((1, 1), (9, 5), (40, 40), (300, 2)))
    numbers = np.random.default_rng(chance.randrange(2**32))
    if mode == "F":
        image = Image.fromarray(numbers.random(size[::-1], dtype=np.float32))
    elif mode == "I;16":
        image = Image.fromarray(numbers.integers(0, 2**16, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(numbers.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = chance.randrange(1, 9)
    settings = {"exif": exif} if form in ("JPEG", "PNG", "TIFF", "WEBP") else {}
    image.save(path, format=form, **settings)


def test_folders_of_odd_images_train_or_are_refused(tmp_path: Path, script) -> None:
    counts = {0: 0, 1: 0, 2: 0}
    for seed in seeds(6):
        chance = random.Random(seed)
        root = tmp_path / "images"
        for number in range(12):
            path = (
                root
                / chance.choice(("a", "b"))
                / f"{number}.{chance.choice(('png', 'JPG', 'tif', 'gif', 'webp'))}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(chance, path)
        spoilt = chance.random() < 0.7
        if spoilt:
            path = chance.choice(sorted(path for path in root.rglob("*") if path.is_file()))
            path.write_bytes(damage(path.read_bytes(), chance))
        channels, size = chance.choice((1, 3)), chance.choice((8, 28))
        dataset = chance.choice(("folder", "zip"))
        data_root = shutil.make_archive(str(tmp_path / "images"), "zip", root) if dataset == "zip" else root
        arguments = [
            "--recipe",
            "mlp-compact",
            "--dataset",
            dataset,
            "--data-root",
            str(data_root),
            "--steps",
            "3",
        ]
        arguments += [
            "--image-shape",
            str(channels),
            str(size),
            str(size),
            "--batch-size",
            "4",
            "--num-workers",
            "0",
        ]
        arguments += ["--num-threads", "1", "--output", str(tmp_path / "run")]
        forget_accelerator()
        code, _, errors = script(lambda arguments=arguments: train(parse_train_options(arguments)))
        check_errors(code, errors, f"seed {seed}")
        assert spoilt or code == 0, f"seed {seed}: {errors}"
        counts[code] += 1
        for path in (root, tmp_path / "run"):
            shutil.rmtree(path, ignore_errors=True)
    print(f"folders: exit codes {counts}")
