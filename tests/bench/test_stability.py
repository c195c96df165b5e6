"""Faults are injected, and the tier that is there for a fault must find it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch import are_deterministic_algorithms_enabled as deterministic

from bench.harness.exchange import no_report
from bench.results.checks import Check
from bench.stability.convergence import outcome_of_seed
from bench.stability.determinism import repetition
from bench.stability.differences import relative_error
from bench.stability.health import health
from bench.stability.precision import _update_errors, precision_errors
from bench.stability.semantics import semantics
from bench.stability.steps import fresh, train_steps
from bench.stability.tiers import Trial, _alarms, judged
from bench.stability.updates import Update
from bench.workloads.subject import finite_or_none
from gan.methods.losses import NonSaturating
from gan.methods.penalties import GradientPenalty, ZeroCentred
from gan.methods.schedules import Linear
from gan.options import TrainOptions
from gan.recipe_files import label_of
from gan.recipes_small import SMALL
from gan.session.run import Run, prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.batch import StepInputs
from gan.training.generator_loss import GeneratorLoss
from gan.training.health import PLAYERS
from gan.training.player import Player
from gan.training.state import TrainState
from gan.training.step import train_step
from tests.conftest import quick_or_slow, run_two_processes
from tests.gan.reference import LAZY, OWN_RECIPE, SHARED, STYLE

ROWS = ["mlp-compact", "mlp-dropout", "mlp-batchnorm", "cgan", "wgan", "wgan-gp", "sngan", "r3gan"]


def prepared(recipe: str = "mlp-compact", precision: str = "no", **options: Any) -> tuple[Run, TrainState]:
    settings = {"recipe": recipe, "dataset": "digits", "batch_size": 16, "output": NOWHERE, "num_threads": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        run, state = prepare(TrainOptions(**{**settings, **options}))
    return whole_batches(run), state


def failed(checks: list[Check]) -> set[str]:
    return {f"{check.tier} {check.name}" for check in checks if not check.passed}


@pytest.mark.parametrize(
    "recipe",
    [
        *quick_or_slow(
            [*ROWS, OWN_RECIPE, *SHARED, STYLE],
            quick=("mlp-compact", "mlp-batchnorm", "cgan"),
            slow=("wgan-gp", "sngan", "r3gan", OWN_RECIPE, SHARED[0]),
        ),
    ],
    ids=label_of,
)
def test_healthy_rows_pass_semantics_and_precision(recipe: str) -> None:
    run, state = prepared(recipe)
    assert failed(semantics(run)) == set()
    assert failed(precision_errors(run, state, "fp32")) == set()


@pytest.mark.parametrize(
    "recipe",
    quick_or_slow(["mlp-batchnorm", "wgan-gp", "dcgan", SHARED[0]], quick=("mlp-batchnorm",)),
    ids=label_of,
)
def test_micro_batches_pass_semantics(recipe: str) -> None:
    run, _ = prepared(recipe, batch_size=4, accumulate=4)
    assert failed(semantics(run)) == set()


def test_every_tier_judges_a_recipe_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T0 to T2 and T4, in fp32, bf16, and with other values of its fields."""
    monkeypatch.setattr("bench.stability.health.HEALTH_STEPS", 100)
    for number, (precision, settings) in enumerate((("fp32", ()), ("bf16", ("generator.width=16",)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        run, _ = prepared(OWN_RECIPE, precision.replace("fp32", "no"), set=settings)
        checks, trial = judged(run, precision, folder)
        assert {check.tier for check in checks} == {"T0", "T1", "T2", "T4"}
        assert failed(checks) == set()
        assert trial.losses
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_wrong_penalty_of_a_recipe_of_a_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = prepared(OWN_RECIPE)
    monkeypatch.setattr(state.discriminator.objective, "penalty_weight", torch.tensor(7.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.training.objectives.at", lambda value, seen: 7.0)
        assert failed(semantics(run)) >= {"T1 losses", "T1 discriminator's gradients"}


def test_half_precision_passes_its_own_limits_and_not_those_of_fp32() -> None:
    run, state = prepared(precision="bf16")
    assert failed(precision_errors(run, state, "bf16")) == set()
    names = failed(precision_errors(run, state, "fp32"))
    assert {"T2 discriminator's gradients", "T2 generator's gradients"} <= names


def test_a_probability_that_has_adapted_is_no_error_of_precision() -> None:
    run, state = prepared(LAZY[2], set=("adaptive.images=200",))
    before = state.probability.item()
    train_steps(run, state, 23)
    assert abs(state.probability.item() - before) > 0.1
    assert failed(precision_errors(run, state, "fp32")) == set()


def test_rounding_of_large_weights_is_no_error_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of StyleGAN2's mapping are about 100; a step moves them by some 1e-4, of which 4e-6 is rounding."""
    run, state = prepared("stylegan2", batch_size=8, set=SMALL["stylegan2"])
    train_steps(run, state, 23)
    assert failed(precision_errors(run, state, "fp32")) == set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.generator.optimizer, "step", lambda: None)
        assert "T2 generator's step" in failed(precision_errors(run, state, "fp32"))
    monkeypatch.setattr("bench.stability.full_precision.FP32_ROUNDING", 0.0)
    assert failed(precision_errors(run, state, "fp32")) == {"T2 generator's step"}


def test_schedules_that_go_on_are_no_error_of_precision() -> None:
    """After 368 of 400 images, top-k, the penalty's weight and the probability of augmentation are others."""
    run, _ = prepared()
    row = replace(
        run.recipe,
        generator_top_k=Linear(1.0, 0.5, images=400),
        penalty=ZeroCentred(Linear(2.0, 1.0, images=400)),
        augmentation=("ada",),
        augmentation_probability=Linear(0.0, 1.0, images=400),
    )
    run, state = fresh(replace(run, recipe=row), 0)
    train_steps(run, state, 23)
    assert failed(precision_errors(run, state, "fp32")) == set()
    state.penalty_weight.fill_(2.0)
    assert failed(precision_errors(run, state, "fp32")) >= {"T2 discriminator's gradients"}


def test_healthy_steps_repeat(tmp_path: Path) -> None:
    run, state = prepared("mlp-dropout")
    modes = []
    assert failed(repetition(run, state, tmp_path, lambda *_: modes.append(deterministic()))) == set()
    assert set(modes) == {True}
    assert not deterministic()


def test_swapped_labels_are_found_by_semantics(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NonSaturating.discriminator
    monkeypatch.setattr(NonSaturating, "discriminator", lambda self, real, fake: right(self, fake, real))
    run, _ = prepared()
    assert {"T1 losses", "T1 discriminator's gradients", "T1 discriminator's update"} <= failed(semantics(run))


def test_fresh_fakes_of_a_recipe_that_shares_them_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(state: TrainState, inputs: StepInputs) -> Tensor:
        state.recipe = replace(state.recipe, shared_fakes=False)
        fresh = torch.randn_like(inputs.latents[:1])
        return train_step(state, inputs._replace(latents=torch.cat([inputs.latents, fresh])))

    run, _ = prepared("mlp-compact", set=("shared_fakes=yes",))
    assert failed(semantics(run)) == set()
    monkeypatch.setattr("bench.stability.semantics.train_step", step)
    assert failed(semantics(run)) == {"T1 losses", "T1 generator's gradients", "T1 generator's update"}


def test_gradients_that_no_optimizer_takes_are_no_other_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """If D's parameters are not detached in G's turn, D gets gradients there, which are cleared unused."""

    def logits(self: GeneratorLoss, images: Tensor, _labels: Tensor | None) -> tuple[Tensor, None]:
        (discriminator,) = self._frozen
        return discriminator(images), None

    monkeypatch.setattr(GeneratorLoss, "_frozen_judgement", logits)
    run, _ = prepared()
    assert failed(semantics(run)) == set()


def test_a_frozen_generator_is_found_by_semantics(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Player.backward

    def backward(self: Player, loss: Tensor) -> None:
        if len(list(self.network.parameters())) and next(self.network.parameters()).shape[1] == 100:
            return
        right(self, loss)

    monkeypatch.setattr(Player, "backward", backward)
    run, _ = prepared()
    assert failed(semantics(run)) == {"T1 generator's gradients", "T1 generator's update"}


def test_another_learning_rate_is_found_by_semantics_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = prepared()
    right = torch.optim.Adam.__init__

    def faster(self: torch.optim.Adam, parameters: Any, lr: float = 1e-3, **settings: Any) -> None:
        right(self, parameters, lr=20 * lr if settings.get("fused") else lr, **settings)

    monkeypatch.setattr(torch.optim.Adam, "__init__", faster)
    assert failed(semantics(run)) >= {"T1 generator's update", "T1 discriminator's update"}
    for player in state.players.values():
        for parameter in player.optimizer.param_groups[0]["params"]:
            parameter.grad = None
    right_state = {"T2 generator's step", "T2 discriminator's step"}
    for player in state.players.values():
        step = player.optimizer.step
        player.optimizer.step = lambda step=step, player=player: _with_rate(player, step)  # type: ignore[method-assign]
    assert failed(precision_errors(run, state, "fp32")) == right_state


def _with_rate(player: Player, step: Callable[[], None]) -> None:
    (group,) = player.optimizer.param_groups
    group["lr"] *= 20
    step()
    group["lr"] /= 20


def test_a_loss_in_half_precision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = prepared(precision="bf16")

    def coarse(right: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def loss(*arguments: Any) -> Tensor:
            values = right(*arguments)
            return values if values.dtype == torch.float64 else values.bfloat16()

        return loss

    for name in PLAYERS:
        monkeypatch.setattr(NonSaturating, name, coarse(getattr(NonSaturating, name)))
    names = failed(precision_errors(run, state, "bf16"))
    assert {f"T2 {name}'s loss, from its logits" for name in PLAYERS} <= names


def test_an_optimizer_in_half_precision_is_found() -> None:
    run, state = prepared()
    train_steps(run, state, 3)
    player = state.discriminator
    right = player.optimizer.step

    def coarse() -> None:
        right()
        for values in player.optimizer.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                values[key].copy_(values[key].bfloat16())

    player.optimizer.step = coarse  # type: ignore[method-assign]
    assert failed(precision_errors(run, state, "fp32")) == {"T2 discriminator's optimizer"}


def test_a_penalty_in_half_precision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = GradientPenalty.__call__

    def coarse(self: GradientPenalty, discriminator: Any, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        if real.dtype == torch.float64:
            return right(self, discriminator, real, fake, mix)

        def score(images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return discriminator(images)

        return right(self, score, real, fake, mix)

    monkeypatch.setattr(GradientPenalty, "__call__", coarse)
    run, state = prepared("wgan-gp", precision="bf16")
    assert "T2 penalty's gradients" in failed(precision_errors(run, state, "bf16"))


def test_a_lost_optimizer_state_is_found_by_the_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Player.load

    def forgetful(self: Player, tensors: Any, scaler: Any) -> None:
        right(self, tensors, scaler)
        for values in self.optimizer.state.values():
            values["exp_avg"].zero_()

    monkeypatch.setattr(Player, "load", forgetful)
    run, state = prepared()
    assert failed(repetition(run, state, tmp_path)) == {"T1 tensors that differ after a resume"}


def test_unseeded_dropout_is_found_by_the_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.session.inputs.seed_default_generator", lambda device, seed: None)
    run, state = prepared("mlp-dropout")
    assert "T0 tensors that differ when repeated" in failed(repetition(run, state, tmp_path))


@pytest.mark.nightly
@pytest.mark.slow
def test_constant_latents_are_found_by_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.session.inputs._draw", lambda distribution, shape, *_: torch.ones(shape))
    run, state = prepared("quickstart", batch_size=64)
    alarms, _ = health(run, state)
    assert "collapse" in {alarm.kind for alarm in alarms}


@pytest.mark.slow
@pytest.mark.nightly
def test_a_much_too_high_learning_rate_is_found_by_health(monkeypatch: pytest.MonkeyPatch) -> None:
    from gan.recipes import RECIPES

    row = RECIPES["quickstart"]
    fast = replace(row.optimizer, learning_rate=1000 * row.optimizer.learning_rate)
    monkeypatch.setitem(RECIPES, "quickstart", replace(row, optimizer=fast))
    alarms, _ = health(*prepared("quickstart", batch_size=64))
    assert alarms


@pytest.mark.slow
@pytest.mark.nightly
def test_a_healthy_run_raises_no_alarm() -> None:
    alarms, course = health(*prepared("quickstart", batch_size=64))
    assert alarms == []
    assert course.shape == (40, 4)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_faults_of_several_processes_are_found_by_semantics(tmp_path: Path) -> None:
    run_two_processes("bench/stability_worker.py", tmp_path / "failures.json", cwd=tmp_path)
    failures = json.loads((tmp_path / "failures.json").read_text())
    gradients = {f"T1 {name}'s gradients" for name in PLAYERS}
    assert failures["healthy"] == failures["healthy by DDP"] == failures["healthy batch statistics"] == []
    assert failures["healthy recipe of a file"] == failures["healthy shared fakes"] == []
    assert gradients <= set(failures["without an exchange"])
    assert gradients <= set(failures["without an exchange by DDP"])
    assert gradients <= set(failures["undivided"])
    assert "T1 generator's gradients" in failures["batch statistics of each rank"]


def test_checks_of_weights_that_are_not_finite_are_failures_that_a_file_can_have() -> None:
    run, state = prepared()
    for parameter in state.discriminator.network.parameters():
        parameter.detach().fill_(math.nan)
    checks = precision_errors(run, state, "fp32")
    assert {"T2 discriminator's loss", "T2 discriminator's gradients"} <= failed(checks)
    assert json.dumps([check.to_json() for check in checks], allow_nan=False)


def test_losses_that_are_too_large_for_a_file_are_noted_as_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = prepared()
    course = torch.tensor([[1e30, 0.5, math.nan, -0.5]], dtype=torch.float64)
    monkeypatch.setattr("bench.stability.tiers.health", lambda *_: ([], course))
    trial = Trial(run, state, "fp32", Path(), no_report)
    assert failed(_alarms(trial)) == set()
    assert [*trial.losses.values()] == [[None], [0.5], [None], [-0.5]]
    assert finite_or_none({"loss_d": torch.tensor(-1e30), "loss_g": 0.5}) == {"loss_d": None, "loss_g": 0.5}
    assert Check("T2", "x", 1e30, 1.0, "a cause", 1e30).to_json()["value"] is None


def test_outcomes_that_are_too_large_for_a_file_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = prepared()
    module = "bench.stability.convergence."
    monkeypatch.setattr(f"{module}_train_until_last_steps", lambda *_: 30_000)
    monkeypatch.setattr(f"{module}train_steps", lambda *_: torch.tensor([[1e30, 0.5, 0.5, 0.5]]))
    monkeypatch.setattr(f"{module}_gradient_norm", lambda _: 1.0)
    monkeypatch.setattr(f"{module}_scores", lambda *_: {"fid": 7.0, "coverage": 0.25})
    judge: Any = None
    outcome = outcome_of_seed(run, 0, judge)
    assert math.isnan(outcome["loss_d"])
    assert (outcome["loss_g"], outcome["fid"], outcome["images_to_quality"]) == (0.5, 7.0, 30_000)


def test_a_satisfied_hinge_has_no_direction_to_miss() -> None:
    nothing = Update(0.0, [torch.zeros(3, dtype=torch.float64)])
    assert failed(_update_errors("discriminator", nothing, nothing, nothing, 1.0)) == set()
    something = Update(0.0, [torch.full((3,), 1e-6)])
    for usual in (nothing, something):
        checks = _update_errors("discriminator", something, usual, nothing, 1.0)
        assert failed(checks) == {"T2 discriminator's gradients"}
        assert max(check.limit for check in checks) < 1


def test_a_missing_gradient_counts_as_zero() -> None:
    ones = torch.ones(3)
    assert relative_error([None], [ones]) == 1
    assert relative_error([ones, ones], [ones, ones]) == 0
    assert relative_error([ones, torch.full((3,), 1e-9)], [ones, torch.zeros(3)]) == pytest.approx(1e-4, rel=1e-3)


def test_nan_is_never_well() -> None:
    nan = torch.full((3,), torch.nan)
    assert not Check("T1", "x", relative_error([torch.ones(3), nan], [torch.ones(3)] * 2), 1.0, "").passed
    assert not Check("T1", "x", float("nan"), 1.0, "").passed
