"""Two and three nodes train like one process, and resume exactly, over a network and the files of launches."""

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from gan.files.run_folder import RunFolder
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.training.checkpoints import load_checkpoint, newest_first
from tests import namespaces
from tests.conftest import ROOT
from tests.gan.nodes_worker import BEGUN_STEPS, STEPS, STEPS_ALONE, losses_and_weights, train_in_float64
from tests.gan.reference import NEAR, assert_close, draws_in_training, with_large_epsilon
from tests.gan.test_resume import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

REPRESENTATIVE = "dcgan"
"""The recipe of the slow tests: its batch statistics are those of all nodes, and it has no dropout."""
FOLLOWED = {
    "stylegan2": ("generator_penalty.mean", "network.average"),
    "stylegan2-ada": ("adaptation.overfitting", "adaptation.probability"),
    "biggan-cifar": ("norm.running_mean", "norm.running_var"),
    NEAR: (),
}
"""Recipes of which two nodes take steps in the slow tests, and how the names of what follows means over all nodes
end: the mean length of paths and the average style, the signs of D's logits, BatchNorm conditioned on classes. The
last recipe has images of near latents."""
NAMES = [
    pytest.param(name, marks=[] if name == REPRESENTATIVE else [pytest.mark.nightly, pytest.mark.timeout(900)])
    for name in RECIPES
]
THREE_NODES = pytest.param(3, marks=pytest.mark.nightly)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Let so many nodes train: the representative alone, or all other recipes in one launch.

    Three nodes also go on with the runs that two have begun.
    """
    launched: dict[bool, list[int]] = {True: [], False: []}
    folders = {alone: tmp_path_factory.mktemp("nodes") for alone in launched}

    def of(name: str, num_nodes: int) -> Path:
        if why := namespaces.obstacle():
            pytest.skip(why)
        alone = name == REPRESENTATIVE
        names = [name] if alone else [other for other in RECIPES if other != REPRESENTATIVE]
        steps_alone = [STEPS_ALONE + other for other in FOLLOWED] if alone else []
        for number in range(2, num_nodes + 1):
            if number not in launched[alone]:
                more = steps_alone if number == 2 else []
                launch(number, ROOT / "tests" / "gan" / "nodes_worker.py", folders[alone], *names, *more)
                launched[alone].append(number)
        return folders[alone]

    return of


def launch(num_nodes: int, *arguments: object) -> list[str]:
    """Run a script in a process on each of so many nodes, which must end well; return what they wrote."""
    options = ("--num_machines", num_nodes, "--num_processes", num_nodes, "--main_process_ip", "192.0.2.10")
    command = (
        "accelerate",
        "launch",
        "--config_file",
        ROOT / "accelerate_configs" / "multi_node_cpu.yaml",
        *options,
    )
    with namespaces.make_nodes(num_nodes) as nodes:
        processes = [
            node.start([*command, "--machine_rank", rank, *arguments], env={"PYTHONPATH": str(ROOT)})
            for rank, node in enumerate(nodes)
        ]
        written = namespaces.end(*processes, seconds=800)
    assert [process.returncode for process in processes] == [0] * num_nodes, "\n".join(written)
    return written


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("num_nodes", [2, THREE_NODES])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_weights_equal_those_of_one_process(
    name: str, num_nodes: int, trained, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_nodes = torch.load(trained(name, num_nodes) / f"steps-{num_nodes}.pt", weights_only=True)[name]
    monkeypatch.setitem(RECIPES, name, with_large_epsilon(RECIPES[name]))
    assert_alike(of_nodes, losses_and_weights(name, accelerator))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", FOLLOWED, ids=label_of)
def test_means_over_two_nodes_are_those_of_one_process(
    name: str, trained, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_nodes = torch.load(trained(REPRESENTATIVE, 2) / "steps-2.pt", weights_only=True)[name]
    if name in RECIPES:
        monkeypatch.setitem(RECIPES, name, with_large_epsilon(RECIPES[name]))
    of_one = losses_and_weights(name, accelerator)
    assert_alike(of_nodes, of_one)
    for ending in FOLLOWED[name]:
        followed = [tensor for key, tensor in of_one.items() if key.endswith(ending)]
        assert any(tensor.norm() > 0 for tensor in followed), f"nothing is compared of {ending}"
    if "adaptation.overfitting" in of_one:
        assert of_one["adaptation.overfitting"].abs() < 1, "all signs are alike"


def assert_alike(of_nodes: dict[str, torch.Tensor], of_one: dict[str, torch.Tensor]) -> None:
    """Metrics lie within 1e-9 of the largest; of what is held, each tensor by itself."""
    assert (of_nodes["metrics"] - of_one["metrics"]).abs().max() <= 1e-9 * of_one["metrics"].abs().max()
    floats = [key for key, tensor in of_one.items() if tensor.is_floating_point()]
    assert_close(*({key: tensors[key] for key in floats} for tensors in (of_nodes, of_one)), relative=1e-9)


@pytest.mark.parametrize("num_nodes", [2, THREE_NODES])
@pytest.mark.parametrize("name", NAMES)
def test_resume_is_exact_on_the_same_nodes(name: str, num_nodes: int, trained) -> None:
    folder = trained(name, num_nodes) / f"exact-{num_nodes}"
    assert_same_run(folder / f"{name}-whole", folder / f"{name}-killed")


@pytest.mark.parametrize("num_nodes", [1, THREE_NODES])
@pytest.mark.parametrize("name", NAMES)
def test_resume_on_another_number_of_nodes_differs_in_rounding_only(
    name: str, num_nodes: int, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Two nodes began the run. Images, latents and their order are those of one process from the beginning."""
    if draws_in_training(RECIPES[name]):
        pytest.skip("dropout draws other masks on another number of processes, and the run says so; so does noise")
    folder = trained(name, max(num_nodes, 2))
    monkeypatch.setitem(RECIPES, name, with_large_epsilon(RECIPES[name]))
    train_in_float64(name, tmp_path / "whole", STEPS, 1)
    resumed = folder / "resumed-3" / name
    if num_nodes == 1:
        resumed = tmp_path / "resumed"
        shutil.copytree(folder / "begun" / name, resumed)
        capsys.readouterr()
        train_in_float64(name, resumed, STEPS, 1, resume=True)
        said = capsys.readouterr().out
        assert f"step {BEGUN_STEPS}" in said
        assert "2 processes" in said
    ours, theirs = (
        {key: tensor for key, tensor in newest(run).items() if tensor.is_floating_point() and key != "history"}
        for run in (resumed, tmp_path / "whole")
    )
    assert_close(ours, theirs, relative=1e-9)


def newest(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(newest_first(RunFolder(run).checkpoints)[0]).tensors)
