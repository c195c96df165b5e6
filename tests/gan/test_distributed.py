"""Two gloo processes train like one: gradients, batch statistics, resumption. A launch serves many recipes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from gan.data.datasets import DATASETS
from gan.data.order import epoch_batches, shard
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.training.metrics import METRICS
from tests.conftest import launch_two_processes, run_two_processes, slow_or_nightly
from tests.gan.parity_worker import DDP, cases, one_step
from tests.gan.reference import (
    AUGMENTED,
    LAZY,
    NEAR,
    OPTIONAL,
    OWN_RECIPE,
    SHARED,
    STYLE,
    assert_close,
    draws_in_training,
    with_large_epsilon,
)
from tests.gan.resume_worker import GLOBAL_BATCH, STEPS, few_digits
from tests.gan.test_resume import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


REPRESENTATIVES = ("mlp-batchnorm", "cgan", "wgan-gp", "r3gan", OWN_RECIPE, SHARED[0], *LAZY, OPTIONAL, NEAR)
"""Statistics of a batch, classes, several updates of D with a penalty, G first, a file's recipe, shared fakes,
lazy penalties, further images for D."""
ALL_CASES_OF = (*REPRESENTATIVES, "mlp-dropout")
RESUMED = ("mlp-batchnorm", "cgan", "wgan-gp", "r3gan", LAZY[0], LAZY[2], OPTIONAL)
"""Of the slow tests: recipes of which each process, or the state, keeps something of its own."""
UNEVEN = (11, 1)
"""The batch of all other recipes, and of DDP, in the slow tests."""


def chosen(request: pytest.FixtureRequest, parameter: str) -> list[Any]:
    """Return a parameter of the tests that were chosen and use the fixture, each value once."""
    tests = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and request.fixturename in item.fixturenames
    ]
    return list(dict.fromkeys(test.callspec.params[parameter] for test in tests))


@pytest.fixture(scope="module")
def two_process_steps(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[tuple[str, int, int, str], tuple[dict[str, torch.Tensor], ...]]:
    folder = tmp_path_factory.mktemp("parity")
    (folder / "cases.json").write_text(json.dumps(chosen(request, "case")))
    run_two_processes("gan/parity_worker.py", folder / "cases.json", folder / "steps.pt", cwd=folder)
    return torch.load(folder / "steps.pt", weights_only=True)


def is_slow(case: tuple[str, int, int, str]) -> bool:
    name, *batch, exchange = case
    is_uneven = tuple(batch) == UNEVEN
    return name in ALL_CASES_OF and is_uneven if exchange == DDP else name in ALL_CASES_OF or is_uneven


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "case",
    slow_or_nightly(cases(), slow=list(filter(is_slow, cases()))),
    ids=lambda case: "-".join(map(str, (label_of(case[0]), *case[1:]))),
)
def test_gradients_of_two_processes_equal_those_of_one(case, two_process_steps, accelerator: Accelerator) -> None:
    """Even and uneven shards, one that is empty, and micro-batches; with dropout and synchronised statistics."""
    for of_two, of_one in zip(two_process_steps[case], one_step(*case, accelerator), strict=True):
        assert_close(of_two, of_one, relative=1e-9)


@pytest.fixture(scope="module")
def two_process_runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The runs of the recipes whose tests were chosen, as `train_both` makes them."""
    folder = tmp_path_factory.mktemp("resume")
    run_two_processes("gan/resume_worker.py", folder, *chosen(request, "name"), cwd=folder)
    return folder


@pytest.mark.parametrize(
    "name",
    slow_or_nightly([*RECIPES, OWN_RECIPE, SHARED[0], STYLE, *LAZY, OPTIONAL, AUGMENTED, NEAR], slow=RESUMED),
    ids=label_of,
)
def test_resume_is_exact_with_two_processes(name: str, two_process_runs: Path) -> None:
    label = label_of(name)
    assert_same_run(two_process_runs / f"{label}-whole", two_process_runs / f"{label}-killed")


WITHOUT_DRAWS = [name for name, recipe in RECIPES.items() if not draws_in_training(recipe)]


ROUNDING = {"biggan-cifar": 3e-3}
"""By which metrics may differ in fp32, as a part of the largest, where many updates let rounding grow."""


@pytest.mark.parametrize("name", slow_or_nightly(WITHOUT_DRAWS, slow=REPRESENTATIVES))
def test_the_loop_of_two_processes_trains_like_that_of_one(
    name: str, two_process_runs: Path, run_training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images and latents at the same global batch, the last of an epoch shared unevenly, in fp32."""
    monkeypatch.setitem(RECIPES, name, with_large_epsilon(RECIPES[name]))
    settings = {"recipe": name, "dataset": "digits", "steps": STEPS, "num_threads": 1}
    settings["batch_size"] = GLOBAL_BATCH // RECIPES[name].discriminator_steps // 2 * 2
    monkeypatch.setitem(DATASETS, "digits", few_digits)
    of_one, of_two = (
        read_json_lines(RunFolder(run).metrics)
        for run in (run_training(**settings), two_process_runs / f"{name}-whole")
    )
    assert [line["images_seen"] for line in of_two] == [line["images_seen"] for line in of_one]
    most = ROUNDING.get(name, 1e-3) * max(abs(line[metric]) for line in of_one for metric in METRICS)
    for metric in METRICS:
        assert [line[metric] for line in of_two] == pytest.approx([line[metric] for line in of_one], abs=most)


def test_a_damaged_image_of_one_process_ends_both_with_its_name(tmp_path: Path) -> None:
    """Its header does not show it, nor what is read before training. The other process waits for gradients."""
    for index in range(40):
        path = tmp_path / "pictures" / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), index).save(path)
    settings = {"seed": 0, "epoch": 0}
    first = epoch_batches(40, 4, RECIPES["mlp-compact"].sampling, **settings)[0]
    damaged = tmp_path / "pictures" / f"{shard(first, 1, 2)[0]:02}.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    (tmp_path / "worker.py").write_text(
        "import sys, gan.loop, gan.options, gan.process.script\n"
        "gan.loop.draw_real = lambda run: None\n"
        "sys.exit(gan.process.script.exit_code_of(lambda: gan.loop.train(gan.options.parse_train_options())))\n"
    )
    options = "--recipe mlp-compact --dataset folder --image-shape 1 8 8 --batch-size 2 --epochs 1 --num-threads 1"
    done = launch_two_processes(
        *(tmp_path / "worker.py", *options.split(), "--data-root", damaged.parent, "--output", tmp_path / "run"),
        cwd=tmp_path,
    )
    assert done.returncode != 0
    said = (done.stdout + done.stderr).splitlines()
    lines = [line for line in said if line.startswith("error: ")]
    assert lines
    assert all(f"{damaged}: not a readable image" in line for line in lines)
    assert not [line for line in said if "gan/" in line and line.strip().startswith("File ")]
