import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gan.errors import UsageError
from gan.files.run_folder import RunFolder, default_output, newest_default_output
from gan.options import TrainOptions, parse_train_options
from gan.recipes_small import SMALL
from gan.run_options import SampleOptions, parse_evaluate_options, parse_sample_options

# The command line as users have it in their scripts. A change here is a change for CHANGELOG.md.
TRAIN_OPTIONS = {
    "recipe": "quickstart",
    "dataset": None,
    "data_root": Path("data"),
    "image_shape": None,
    "image_column": None,
    "label_column": None,
    "memory_budget": None,
    "epochs": None,
    "steps": None,
    "batch_size": None,
    "accumulate": 1,
    "find_batch_size": False,
    "ema_half_life": None,
    "augment": None,
    "set": (),
    "seed": 0,
    "output": None,
    "resume": False,
    "dry_run": False,
    "evaluate_every": None,
    "extractor": None,
    "keep_best": None,
    "on_unhealthy": "warn",
    "checkpoint_every": 60_000,
    "keep_checkpoints": 2,
    "keep_generators": "recipe",
    "log_every": 50,
    "tracker": None,
    "num_workers": None,
    "num_threads": None,
    "tf32": False,
    "memory_format": "auto",
    "cuda_graph": False,
    "compile_mode": None,
    "comm_hook": "no",
    "bucket_size": 25,
    "shared_memory": True,
    "recompute": False,
    "distributed_timeout": 300,
}
SAMPLE_OPTIONS = {
    "kind": "all",
    "output": None,
    "num_images": 64,
    "by_class": False,
    "rows": 8,
    "steps": 8,
    "columns": 20,
    "best": False,
    "truncation": None,
    "standing_statistics": 0,
    "seed": 0,
    "scale": 1,
    "recipe": None,
}

GIVEN = {
    "--recipe": ("mlp", "mlp"),
    "--dataset": ("synthetic", "synthetic"),
    "--data-root": ("elsewhere", Path("elsewhere")),
    "--epochs": ("3", 3),
    "--steps": ("3", 3),
    "--batch-size": ("7", 7),
    "--accumulate": ("7", 7),
    "--ema-half-life": ("500", 500),
    "--augment": ("color,cutout", "color,cutout"),
    "--seed": ("7", 7),
    "--output": ("out", Path("out")),
    "--checkpoint-every": ("7", 7),
    "--keep-checkpoints": ("7", 7),
    "--keep-generators": ("no", "no"),
    "--log-every": ("7", 7),
    "--evaluate-every": ("5000", 5000),
    "--on-unhealthy": ("stop", "stop"),
    "--tracker": ("tensorboard", "tensorboard"),
    "--num-workers": ("0", 0),
    "--num-threads": ("1", 1),
    "--memory-format": ("channels_last", "channels_last"),
    "--compile-mode": ("reduce-overhead", "reduce-overhead"),
    "--comm-hook": ("bf16", "bf16"),
    "--bucket-size": ("7", 7),
    "--distributed-timeout": ("7", 7),
}


def test_the_training_command_line_is_frozen() -> None:
    changed = "if the change is meant, make it in TRAIN_OPTIONS above and in CHANGELOG.md, too"
    assert dataclasses.asdict(parse_train_options([])) == TRAIN_OPTIONS, changed


def test_the_sampling_command_line_is_frozen() -> None:
    assert dataclasses.asdict(parse_sample_options(["run"])) == {"run": Path("run"), **SAMPLE_OPTIONS}


@pytest.mark.parametrize("flag", GIVEN)
def test_each_flag_sets_its_own_option_only(flag: str) -> None:
    text, value = GIVEN[flag]
    name = flag.removeprefix("--").replace("-", "_")
    others = dataclasses.asdict(TrainOptions())  # not TRAIN_OPTIONS: a new option fails the test above alone
    assert dataclasses.asdict(parse_train_options([flag, text])) == {**others, name: value}


def test_image_shape_takes_three_numbers() -> None:
    options = parse_train_options(["--dataset", "synthetic", "--image-shape", "3", "32", "16"])
    assert options.image_shape == (3, 32, 16)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--recipe mpl", "--recipe mpl: unknown; did you mean mlp?"),
        ("--augment colour,cutout", "--augment colour: unknown; did you mean color?"),
        ("--recipe resnet", "choose one of quickstart, mlp,"),
        ("--recipe mlp-small", "--recipe mlp-small: unknown"),
        ("--dataset mnst", "did you mean mnist?"),
        ("--batch-size 0", "--batch-size 0: must be at least 1"),
        ("--batch-size -4", "--batch-size -4: must be at least 1"),
        ("--epochs 0", "--epochs 0: must be at least 1"),
        ("--seed -1", "--seed -1: must be at least 0"),
        ("--checkpoint-every 0", "--checkpoint-every 0: must be at least 1"),
        ("--epochs 2 --steps 3", "--epochs 2 with --steps 3: give one of them"),
        ("--epochs two", "--epochs: invalid literal"),
        ("--epochs", "--epochs"),
        ("--epoch 5", "--epoch: no such option; did you mean --epochs?"),
        ("mlp", "mlp: no such option"),
        ("--image-shape 3 32 32", "--image-shape 3 32 32: --dataset digits has a shape of its own"),
        ("--dataset synthetic --image-shape 2 8 8", "--image-shape 2 8 8: takes 1 or 3 channels"),
        ("--dataset synthetic --image-shape 3 8", "--image-shape"),
        ("--keep-generators maybe", "--keep-generators"),
        ("--resume --output nowhere", "--resume: no run in --output nowhere"),
        ("--resume --recipe mpl", "did you mean mlp?"),
    ],
)
def test_bad_input_is_one_line(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_train_options(line.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", SMALL)
def test_the_name_of_a_small_row_is_refused_with_what_to_type(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_train_options(["--recipe", f"{name}-small"])
    said = str(caught.value)
    assert said.startswith(
        f"--recipe {name}-small: no recipe, but what benchmarks call {name} with small networks"
    )
    assert "\n" not in said
    typed = said.partition("; take ")[2].replace(", and for small networks", "")
    settings = typed.removeprefix(f"--recipe {name} --set ").split(" --set ")
    assert tuple(settings) == SMALL[name]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_does_not_parse_is_one_short_line_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the letters of which boxes are drawn, there is none around the error."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(UsageError) as caught:
        parse_sample_options(["run", "--truncation", "x"])
    said = str(caught.value)
    assert said.startswith("Error parsing --truncation: could not convert string to float: 'x' (see ")
    with pytest.raises(UsageError, match=r"^invalid choice 'grids' for argument 'kind'\. .* 'gif'\)\. \(see "):
        parse_sample_options(["run", "grids"])


@pytest.mark.parametrize("parse", [parse_sample_options, parse_evaluate_options])
def test_a_command_without_settings_advises_none(parse: Callable[[list[str]], object]) -> None:
    with pytest.raises(UsageError, match=r"with small networks; take --recipe dcgan$"):
        parse(["run", "--recipe", "dcgan-small"])


@pytest.mark.parametrize("line", ["run --steps 1", "run --num-images 0", "run collage", "run --columns 1"])
def test_bad_sampling_input(line: str) -> None:
    with pytest.raises(UsageError):
        parse_sample_options(line.split())


def test_help_names_every_option_and_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train_options(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name in TRAIN_OPTIONS:
        assert f"--{name.replace('_', '-')}" in shown
    assert "mlp-batchnorm" in shown
    assert "None" not in shown


def test_options_survive_json() -> None:
    options = TrainOptions(output=Path("x/y"), image_shape=(3, 8, 8), dataset="synthetic", steps=3)
    assert TrainOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert TrainOptions.from_json({**options.to_json(), "option_of_a_later_version": 1}) == options


def test_default_outputs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert newest_default_output("mlp") is None
    for expected in ("runs/mlp", "runs/mlp-2", "runs/mlp-3"):
        assert default_output("mlp") == Path(expected)
        RunFolder(Path(expected)).root.mkdir(parents=True)
        RunFolder(Path(expected)).config.write_text("{}")
        assert newest_default_output("mlp") == Path(expected)
    assert newest_default_output("mlp-dropout") is None


@pytest.mark.parametrize("content", ["", "[]", '{"options": 3}', "not JSON"])
def test_a_damaged_config_is_named(content: str, tmp_path: Path) -> None:
    RunFolder(tmp_path).config.write_text(content)
    with pytest.raises(UsageError, match=r"config\.json: damaged"):
        parse_train_options(["--resume", "--output", str(tmp_path)])


def test_sample_options_are_frozen_dataclasses() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SampleOptions(Path("run")).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "arguments", [["--output", ""], ["--output="], ["--data-root", "", "--dataset", "folder"]]
)
def test_an_empty_value_is_not_the_current_directory(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="an option's value is empty"):
        parse_train_options(arguments)
