"""Adversarial losses, recorded apart from the terms that a recipe adds to them; and health, which goes by them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gan.errors import UsageError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.methods.auxiliary import ClassPrediction, MutualInformation
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.losses import NonSaturating
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1, ZeroCentred
from gan.models.mlp import MLP
from gan.recipe_files import recipe_named
from gan.recipes import RECIPES, Recipe
from gan.training.checkpoints import load_checkpoint, newest_first, save_checkpoint
from gan.training.health import BASELINE_FIRST_STEP, BASELINE_STEPS, RECENT_STEPS, SPIKE_STEPS, Health
from gan.training.metrics import ADVERSARIAL, METRICS
from gan.training.state import TrainState
from gan.training.step import train_step
from tests.gan.reference import CLASS_RECIPES, NEAR, float64_state, inputs, leave_out_draws
from tests.gan.small_run import SMALL

FIRST = BASELINE_FIRST_STEP + BASELINE_STEPS
MLPS = {"generator": MLP((16,)), "discriminator": MLP((16,), negative_slope=0.2)}
G_FIRST = replace(RECIPES["mlp"], **MLPS)
D_FIRST = replace(RECIPES["mlp-compact"], **MLPS)
WITH_TERMS: dict[str, Callable[[float], Recipe]] = {
    "classes": lambda weight: replace(recipe_named(f"{CLASS_RECIPES}:acgan"), auxiliary=ClassPrediction(weight)),
    "codes": lambda weight: replace(recipe_named(f"{CLASS_RECIPES}:infogan"), auxiliary=MutualInformation(weight)),
    "lecam": lambda weight: replace(G_FIRST, lecam=LeCam(weight)),
    "penalty": lambda weight: replace(D_FIRST, penalty=ZeroCentred(weight)),
    "zcr": lambda weight: replace(recipe_named(NEAR), latent_consistency=LatentConsistency(weight, weight, 0.3)),
    "orthogonal": lambda weight: replace(G_FIRST, generator_penalty=OrthogonalRegularization(weight)),
}
"""Rows with a term of a weight: shared, reused and fresh images, and either network first."""
NO_TERMS = {
    "auxiliary": None,
    "lecam": None,
    "penalty": None,
    "latent_consistency": None,
    "generator_penalty": None,
}
CHANGED = {"classes": "dg", "codes": "dg", "lecam": "d", "penalty": "d", "zcr": "dg", "orthogonal": "g"}
"""The losses that have the term."""
SAME_AT_FIRST = {"classes": "d", "codes": "d", "lecam": "dg", "penalty": "d", "zcr": "d", "orthogonal": "g"}
"""The adversarial losses of a first step in which no term has moved a network yet."""


@pytest.fixture
def first_steps(monkeypatch: pytest.MonkeyPatch, accelerator: Accelerator) -> Callable[..., list[Tensor]]:
    """Train two steps of a row, and return what is recorded of them."""

    def steps(row: Recipe, num_micro_batches: int = 1) -> list[Tensor]:
        monkeypatch.setitem(RECIPES, "with a term", row)
        state: TrainState = float64_state("with a term", accelerator)
        for player in state.players.values():
            leave_out_draws(player.network)
        recorded = []
        for step in range(2):
            taken = inputs("with a term", 6, step).of(state, 1 / 6)
            recorded.append(train_step(state, taken._replace(num_micro_batches=num_micro_batches)))
            state.record(recorded[-1], 6)
        return recorded

    return steps


@pytest.mark.parametrize("num_micro_batches", [1, 3])
@pytest.mark.parametrize("kind", WITH_TERMS)
def test_without_weight_a_term_leaves_the_adversarial_losses(
    kind: str, num_micro_batches: int, first_steps: Callable[..., list[Tensor]]
) -> None:
    """They are the losses themselves, and those of the row that has no such term."""
    row = WITH_TERMS[kind](0.0)
    plain = replace(row, **NO_TERMS)
    assert (row.adds_terms, plain.adds_terms) == (True, False)
    theirs = first_steps(plain, num_micro_batches)
    for ours, expected in zip(first_steps(row, num_micro_batches), theirs, strict=True):
        assert expected.shape == (len(METRICS),)
        torch.testing.assert_close(ours[: len(METRICS)], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours[len(METRICS) :], ours[:2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", WITH_TERMS)
def test_a_term_counts_in_the_loss_and_not_in_the_adversarial_one(
    kind: str, first_steps: Callable[..., list[Tensor]]
) -> None:
    without, _ = first_steps(WITH_TERMS[kind](0.0))
    once, _ = first_steps(WITH_TERMS[kind](0.5))
    for index, player in enumerate("dg"):
        term = once[index] - once[len(METRICS) + index]
        assert (abs(term) > 1e-6) == (player in CHANGED[kind])
        if player in SAME_AT_FIRST[kind]:
            torch.testing.assert_close(once[len(METRICS) + index], without[index], rtol=1e-12, atol=0)


def test_lazy_penalties_are_no_terms_of_a_loss() -> None:
    assert not replace(D_FIRST, penalty=R1(1.0, every=16)).adds_terms
    assert replace(D_FIRST, penalty=R1(1.0)).adds_terms
    assert not replace(D_FIRST, generator_penalty=PathLength()).adds_terms
    with_terms = {name for name, row in RECIPES.items() if row.adds_terms}
    assert with_terms == {
        *("acgan", "infogan", "wgan-gp", "wgan-gp-cifar", "biggan"),
        *("r3gan", "r3gan-cifar", "r3gan-ffhq64"),
    }


def rows(count: int, loss: tuple[float, float], adversarial: tuple[float, float]) -> Tensor:
    return torch.tensor([*loss, 0.5, 0.5, *adversarial]).repeat(count, 1)


def kinds(health: Health, history: Tensor) -> list[tuple[str, str]]:
    return [(alarm.kind, alarm.network) for alarm in health.watch(history, health.step + len(history))]


def test_the_cross_entropy_of_ten_classes_is_no_sign_of_ill_health() -> None:
    """2 log 10 on top of a calm D's loss: 4.3 times that at chance level; and G's falls to a twelfth."""
    health = Health(NonSaturating(), apart=True)
    assert kinds(health, rows(FIRST, (1.3 + 4.6, 0.8 + 2.3), (1.3, 0.8))) == []
    assert kinds(health, rows(RECENT_STEPS, (1.3 + 4.6, 0.8 + 2.3), (1.3, 0.8))) == []
    assert kinds(health, rows(SPIKE_STEPS, (60.0, 40.0), (1.3, 0.8))) == []


def test_a_term_does_not_hide_that_d_is_saturated_or_that_g_runs_away() -> None:
    health = Health(NonSaturating(), apart=True)
    assert kinds(health, rows(FIRST, (4.6, 3.1), (1e-5, 0.8))) == [("saturated", "discriminator")]
    assert kinds(health, rows(SPIKE_STEPS, (4.6, 12.0), (1e-5, 9.7))) == [("spike", "generator")]
    wild = torch.cat([rows(9, (4.6, 3.1), (1.3, 0.8)), rows(1, (4.6, 3.1), (2.5, 0.8))]).repeat(60, 1)
    assert kinds(Health(NonSaturating(), apart=True), wild) == [("unsteady", "discriminator")]


def test_what_an_older_version_made_of_whole_losses_does_not_count() -> None:
    older = {"baseline": [6.0, 3.1], "best_diversity": 0.5, "step": 700}
    older["raised"] = [["unsteady", "discriminator"], ["collapse", "generator"]]
    health = Health(NonSaturating(), apart=True)
    health.load(older)
    assert health.baseline is None
    assert health.raised == {("collapse", "generator")}
    assert (health.step, health.best_diversity) == (700, 0.5)
    later = Health(NonSaturating(), apart=True)
    health.baseline = [1.3, 0.8]
    later.load(json.loads(json.dumps(health.to_json())))
    assert later.to_json() == health.to_json()
    unchanged = Health(NonSaturating())
    unchanged.load(older)
    assert unchanged.to_json().keys() == older.keys()
    assert unchanged.baseline == older["baseline"]


def test_steps_of_which_the_adversarial_losses_are_not_known_are_passed_over() -> None:
    health = Health(NonSaturating(), apart=True)
    unknown = rows(FIRST, (5.9, 3.1), (torch.nan, torch.nan))
    assert kinds(health, unknown) == []
    assert health.baseline is None
    assert kinds(health, rows(FIRST, (5.9, 3.1), (1.3, 0.8))) == []
    assert health.baseline == pytest.approx([1.3, 0.8])


@dataclass(frozen=True)
class Constant:
    """A penalty that trains nothing."""

    mixes: ClassVar[bool] = False
    weight: float = 5.0

    def __call__(self, discriminator: object, real: Tensor, fake: Tensor, mix: Tensor | None = None) -> Tensor:
        return torch.ones(len(real))


def test_a_large_term_raises_no_alarm_in_a_healthy_run(
    run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--on-unhealthy stop` would end it: D's loss is 4.6 times that at chance level."""
    monkeypatch.setitem(RECIPES, "mlp-compact", replace(D_FIRST, penalty=Constant(), keep_generators=False))
    steps = FIRST + RECENT_STEPS
    run = run_training(**{**SMALL, "batch_size": 16}, steps=steps, log_every=50, on_unhealthy="stop")
    last = read_json_lines(RunFolder(run).metrics)[-1]
    assert last["unhealthy"] == []
    assert last["loss_d"] == pytest.approx(last["adversarial_d"] + 5.0, rel=1e-5)
    assert last["loss_g"] == last["adversarial_g"]
    assert last["adversarial_d"] < 2


def test_a_row_without_terms_records_no_more_than_before(run: Path) -> None:
    for line in read_json_lines(RunFolder(run).metrics):
        assert not line.keys() & set(ADVERSARIAL)
    checkpoint = load_checkpoint(newest_first(RunFolder(run).checkpoints)[0])
    assert checkpoint.counters["health"].keys() == {"baseline", "best_diversity", "raised", "step"}


WITH_LECAM = {**SMALL, "set": ("lecam=LeCam",)}


def as_an_older_version_wrote_it(run: Path, num_columns: int = len(METRICS)) -> None:
    """Rewrite a run's last checkpoint without adversarial losses, with what was judged of the whole ones."""
    path = newest_first(RunFolder(run).checkpoints)[0]
    checkpoint = load_checkpoint(path)
    tensors = {**checkpoint.tensors, "history": checkpoint.tensors["history"][..., :num_columns].contiguous()}
    health = {**checkpoint.counters["health"], "baseline": [9.0, 9.0]}
    health["raised"] = [["collapse", "generator"], ["unsteady", "discriminator"]]
    del health["apart"]
    save_checkpoint(
        path.parent,
        tensors,
        {**checkpoint.counters, "health": health},
        recipe="mlp-compact",
        images_seen=int(path.stem.removeprefix("images_")),
    )


def test_a_run_of_an_older_version_goes_on(run_training: Callable[..., Path]) -> None:
    """In the middle of an epoch, of which the adversarial losses are then not known."""
    whole = run_training("whole", **WITH_LECAM, epochs=2)
    run = run_training("begun", **WITH_LECAM, steps=2)
    as_an_older_version_wrote_it(run)
    run_training("begun", **WITH_LECAM, epochs=2, resume=True)
    lines = read_json_lines(RunFolder(run).metrics)
    assert [[line[name] for name in ADVERSARIAL] for line in lines[:1]] == [[None, None]]
    expected = read_json_lines(RunFolder(whole).metrics)
    assert [line["unhealthy"] for line in lines] == [["collapse generator"]] * 2
    for line, other in zip(lines, expected, strict=True):
        assert [line[name] for name in METRICS] == [other[name] for name in METRICS]
    assert [lines[1][name] for name in ADVERSARIAL] == [expected[1][name] for name in ADVERSARIAL]
    assert lines[1]["adversarial_d"] < lines[1]["loss_d"]
    last = load_checkpoint(newest_first(RunFolder(run).checkpoints)[0])
    assert last.counters["health"]["apart"] is True
    assert last.counters["health"]["baseline"] is None


def test_a_record_of_another_width_is_refused(run_training: Callable[..., Path]) -> None:
    run = run_training(**WITH_LECAM, steps=2)
    as_an_older_version_wrote_it(run, num_columns=len(METRICS) + 1)
    with pytest.raises(UsageError, match=r"--resume: no checkpoint in .* can be read; begin a new run"):
        run_training(**WITH_LECAM, epochs=2, resume=True)
