"""Subjects of GAN libraries that nobody here wrote: short, and in one line where the library is missing."""

import ast
import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

import gan.recipes
from bench.subjects.load import build_subject, load_subject
from bench.subjects.plain_step import plain_optimizers, plain_step
from bench.subjects.subject import Setup, SetupRefusedError, Subject, SubjectError
from gan.models.networks import num_parameters
from tests.conftest import ROOT

FOLDER = Path("docs") / "examples" / "subjects"
SUBJECTS = sorted(path.stem for path in (ROOT / FOLDER).glob("*_subject.py"))
MOST_LINES = 40
REFUSED = ({"recipe": "r3gan"}, {"recipe": ""}, {"precision": "bf16"}, {"compile": "inductor"}, {"world_size": 2})
RECIPES = {
    "torchgan": ("mlp-dropout", "mlp-batchnorm", "mlp-compact", "dcgan"),
    "vegans": ("mlp",),
}


def library_of(name: str) -> str:
    return name.removesuffix("_subject")


def spec_of(name: str) -> str:
    return f"{FOLDER}/{name}.py:make"


def build(name: str, setup: Setup) -> Subject:
    """Build a subject; skip where its library is not installed."""
    if find_spec(library_of(name)) is None:
        pytest.skip(f"{library_of(name)} is not installed")
    return build_subject(spec_of(name), setup, ROOT)


def lines_of_code(path: Path) -> int:
    """Return how many lines have code: no blank lines, comments, docstrings or ends of brackets."""
    text = path.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate((line.strip(" )]},") for line in text.splitlines()), start=1)
    return sum(bool(line) and not line.startswith("#") and number not in docstrings for number, line in lines)


def test_each_library_is_named() -> None:
    assert [library_of(name) for name in SUBJECTS] == [*RECIPES]


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_takes_few_lines(name: str) -> None:
    assert lines_of_code(ROOT / FOLDER / f"{name}.py") <= MOST_LINES


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_missing_library_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library_of(name), None)
    load_subject(spec_of(name), ROOT)
    with pytest.raises(SubjectError) as refused:
        build_subject(spec_of(name), Setup(recipe="mlp"), ROOT)
    assert "\n" not in str(refused.value)
    assert library_of(name) in str(refused.value).removeprefix(spec_of(name))


@pytest.mark.parametrize(
    ("name", "recipe"), [(name, recipe) for name in SUBJECTS for recipe in RECIPES[library_of(name)]]
)
@pytest.mark.slow
def test_a_step_trains_the_networks_of_the_recipe(name: str, recipe: str) -> None:
    subject = build(name, Setup(recipe=recipe, batch_size=4, image_shape=(1, 32, 32)))
    row = gan.recipes.RECIPES[recipe]
    networks = list(subject.networks().values())
    before = [parameters_to_vector(network.parameters()).clone() for network in networks]
    losses = []
    for _ in range(10):
        subject.step()
        losses.append(tuple(float(loss) for loss in subject.losses().values()))
    assert all(math.isfinite(loss) for pair in losses for loss in pair)
    assert len(set(losses)) == 10
    for network, weights in zip(networks, before, strict=True):
        assert not torch.equal(parameters_to_vector(network.parameters()), weights)
    sizes = {num_parameters(network) for network in networks}
    generator = row.generator.generator(row.latent_dim, (1, 32, 32))
    assert sizes == {num_parameters(generator), num_parameters(row.discriminator.discriminator((1, 32, 32)))}


@pytest.mark.parametrize("recipe", ["mlp-compact", "dcgan"])
@pytest.mark.slow
def test_a_step_of_torchgan_is_the_plain_step(recipe: str) -> None:
    """The same algorithm: D first, and new latents for each update."""
    plain, losses, subject = both_steps("torchgan_subject", recipe, lambda row: row.latents_per_step)
    assert subject.losses() == pytest.approx(losses, rel=1e-5)
    for name, network in subject.networks().items():
        assert distance(network, plain[name]) < 2 * gan.recipes.RECIPES[recipe].optimizer.after(0)["lr"]


@pytest.mark.slow
def test_a_step_of_vegans_differs_from_the_plain_step_in_what_d_sees() -> None:
    plain, losses, subject = both_steps("vegans_subject", "mlp", lambda _: 1)
    assert float(subject.losses()["loss_g"]) == pytest.approx(losses["loss_g"], rel=1e-5)
    assert distance(subject.networks()["Generator"], plain["generator"]) < 1e-6
    assert float(subject.losses()["loss_d"]) != pytest.approx(losses["loss_d"], rel=1e-3)


def both_steps(
    name: str, recipe: str, num_latents: Callable[[gan.recipes.Recipe], int]
) -> tuple[dict[str, torch.nn.Module], dict[str, float], Subject]:
    """Take a step, and the plain step of the same weights, images and latents.

    Returns:
        The networks of the plain step, its losses, and the subject.
    """
    subject: Any = build(name, Setup(recipe=recipe, batch_size=8, image_shape=(1, 32, 32)))
    row = replace(gan.recipes.RECIPES[recipe], shared_fakes=False)  # these libraries draw latents for each update
    networks = {key: copy.deepcopy(network.network) for key, network in subject.networks().items()}
    generator, discriminator = sorted(networks.values(), key=lambda network: "Tanh" not in str(network))
    if name == "vegans_subject":
        discriminator = discriminator[0]  # a sigmoid follows
    images = next(subject.batches)
    subject.batches = iter([images])
    torch.manual_seed(1)
    subject.step()
    torch.manual_seed(1)
    latents = torch.stack([torch.randn(8, row.latent_dim) for _ in range(num_latents(row))])
    optimizers = plain_optimizers(row, generator, discriminator)
    loss_d, loss_g, *_ = plain_step(row, generator, discriminator, *optimizers, [images], latents)
    return {"generator": generator, "discriminator": discriminator}, {"loss_g": loss_g, "loss_d": loss_d}, subject


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    difference = parameters_to_vector(one.parameters()) - parameters_to_vector(other.parameters())
    return float(difference.detach().abs().max())


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in SUBJECTS for setting in REFUSED])
@pytest.mark.slow
def test_what_a_library_cannot_do_is_refused(name: str, setting: dict[str, object]) -> None:
    with pytest.raises(SetupRefusedError):
        build(name, Setup(**{"recipe": RECIPES[library_of(name)][0], **setting}))
