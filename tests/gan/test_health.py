from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gan.errors import UnhealthyError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.methods.losses import Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein
from gan.training.health import (
    BASELINE_FIRST_STEP,
    BASELINE_STEPS,
    DIVERSITY_LIMIT,
    RECENT_STEPS,
    SPIKE_STEPS,
    Health,
    diversity,
    loss_range,
)
from tests.gan.small_run import write_images

CALM = (0.6, 0.8, 0.5, 0.5)
SATURATED = (1e-5, 9.0, 1.0, 0.0)
FIRST = BASELINE_FIRST_STEP + BASELINE_STEPS


def rows(count: int, row: tuple[float, ...] = CALM) -> Tensor:
    return torch.tensor(row).repeat(count, 1)


def kinds(health: Health, history: Tensor) -> list[tuple[str, str, int]]:
    return [(alarm.kind, alarm.network, alarm.step) for alarm in health.watch(history, health.step + len(history))]


@pytest.mark.parametrize(
    ("loss", "lowest", "at_chance_level"),
    [
        (NonSaturating(), 0.0, 1.3863),
        (NonSaturating(scale=0.5), 0.0, 0.6931),
        (NonSaturating(real_label=0.9, scale=0.5), 0.1625, 0.6931),
        (LeastSquares(), 0.0, 0.5),
        (Hinge(), 0.0, 2.0),
        (Relativistic(), 0.0, 0.6931),
        (Wasserstein(), 0.0, 0.0),
    ],
)
def test_the_range_of_a_loss(loss: object, lowest: float, at_chance_level: float) -> None:
    assert loss_range(loss) == pytest.approx((lowest, at_chance_level), abs=1e-4)


def test_a_calm_run_raises_nothing() -> None:
    health = Health(NonSaturating(scale=0.5))
    for _ in range(20):
        assert kinds(health, rows(50)) == []


def test_saturation_is_said_once_and_only_when_it_lasts() -> None:
    health = Health(NonSaturating(scale=0.5))
    assert kinds(health, rows(RECENT_STEPS - 1, SATURATED)) == []
    assert kinds(health, rows(1, SATURATED)) == [("saturated", "discriminator", RECENT_STEPS)]
    assert kinds(health, rows(RECENT_STEPS, SATURATED)) == []
    fresh = Health(NonSaturating(scale=0.5))
    blinks = torch.cat([rows(30, SATURATED), rows(20)])
    assert not any(kinds(fresh, blinks) for _ in range(10))


def test_a_critic_cannot_saturate() -> None:
    assert kinds(Health(Wasserstein()), rows(2 * RECENT_STEPS, SATURATED)) == []


@pytest.mark.parametrize("loss", [Wasserstein(), Hinge()])
def test_the_scores_of_a_critic_have_no_size(loss: object) -> None:
    health = Health(loss)
    assert kinds(health, rows(FIRST, (0.6, 0.01, 0.5, 0.5))) == []
    assert kinds(health, rows(2 * SPIKE_STEPS, (0.6, -5.0, 0.5, 0.5))) == []


def test_smoothing_has_a_loss_that_cannot_be_undercut() -> None:
    health = Health(NonSaturating(real_label=0.9, scale=0.5))
    alarms = kinds(health, rows(RECENT_STEPS, (0.1626, 9.0, 0.9, 0.0)))
    assert alarms == [("saturated", "discriminator", RECENT_STEPS)]


def test_a_spike_is_judged_by_the_first_steps_only() -> None:
    health = Health(NonSaturating(scale=0.5))
    assert kinds(health, rows(FIRST)) == []
    slowly = rows(400)
    slowly[:, 1] *= torch.linspace(1, 9, 400)
    assert kinds(health, slowly) == []
    high = (0.6, 8.5, 0.5, 0.5)
    assert kinds(health, rows(SPIKE_STEPS // 2, high)) == []
    (alarm,) = kinds(health, rows(SPIKE_STEPS // 2, high))
    assert alarm == ("spike", "generator", health.step)


def test_the_first_steps_are_no_spike() -> None:
    """Losses fall from where they begin, often steeply."""
    health = Health(NonSaturating(scale=0.5))
    falling = torch.cat([rows(BASELINE_FIRST_STEP, (20.0, 30.0, 0.5, 0.5)), rows(FIRST)])
    assert not any(kinds(health, part) for part in falling.split(50))


def test_a_loss_that_is_swings() -> None:
    health = Health(NonSaturating(scale=0.5))
    wild = torch.tensor([CALM] * 9 + [(1.3, 0.8, 0.5, 0.5)]).repeat(100, 1)
    alarms = [alarm for part in wild.split(50) for alarm in kinds(health, part)]
    assert alarms == [("unsteady", "discriminator", FIRST + RECENT_STEPS // 2)]


def test_steps_are_looked_at_once() -> None:
    """The loop hands over the whole epoch so far, each time."""
    health = Health(NonSaturating())
    at_once = Health(NonSaturating())
    history = torch.rand(400, 4) + 0.1
    for end in range(50, 401, 50):
        health.watch(history[:end], end)
    at_once.watch(history, 400)
    assert health.baseline == pytest.approx(at_once.baseline)


def test_what_is_saved_is_what_goes_on() -> None:
    health = Health(NonSaturating(scale=0.5))
    resumed = Health(NonSaturating(scale=0.5))
    health.watch(rows(FIRST), FIRST)
    health.watch_diversity(1e-4, FIRST)
    resumed.load(health.to_json())
    assert resumed.to_json() == health.to_json()
    assert resumed.watch_diversity(1e-4, FIRST) == []
    assert kinds(resumed, rows(SPIKE_STEPS, (60.0, 0.8, 0.5, 0.5))) == [
        ("spike", "discriminator", FIRST + SPIKE_STEPS)
    ]


def test_images_that_are_alike() -> None:
    images = torch.randn(64, 1, 4, 4)
    assert diversity(images) == pytest.approx(float(images.double().var(0, correction=0).sum()))
    assert diversity(images[:1].repeat(64, 1, 1, 1)) == 0
    health = Health(NonSaturating())
    assert health.watch_diversity(0.005, FIRST) == []  # has not learned yet
    assert health.watch_diversity(0.5, FIRST + 1) == []
    assert health.watch_diversity(0.06, FIRST + 2) == []
    (alarm,) = health.watch_diversity(0.01, FIRST + 3)
    assert str(alarm).startswith(
        f"step {FIRST + 3}: generator: its images differ from one another by 1.0% of what real ones do"
    )


def test_first_weights_are_no_collapse() -> None:
    """An untrained G may show one image for all latents, or noise that differs more than what it learns."""
    health = Health(NonSaturating())
    assert [health.watch_diversity(ratio, step) for ratio, step in ((1e-5, 1), (0.9, 2), (1e-5, FIRST - 1))] == [
        []
    ] * 3
    assert health.watch_diversity(0.05, FIRST) == [], "the noise of its first weights is no height to fall from"
    assert [alarm.kind for alarm in health.watch_diversity(1e-5, FIRST + 1)] == ["collapse"]


def test_a_small_folder_trains_without_an_alarm(run_training: Callable[..., Path], tmp_path: Path) -> None:
    settings = {"recipe": "dcgan", "dataset": "folder", "image_shape": (1, 16, 16), "num_workers": 0}
    pictures = write_images(tmp_path / "pictures", 60)
    run = run_training(data_root=pictures, batch_size=32, steps=2, on_unhealthy="stop", **settings)
    lines = read_json_lines(RunFolder(run).metrics)
    assert [line["unhealthy"] for line in lines] == [[], []]
    assert all(line["diversity"] < DIVERSITY_LIMIT for line in lines), "this would alarm a trained G's watcher"


def test_of_real_images_that_are_alike_there_is_no_diversity(
    run_training: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"dataset": "folder", "image_shape": (3, 8, 8), "num_workers": 0, "batch_size": 4, "epochs": 2}
    pictures = write_images(tmp_path / "pictures", 8, levels=1)
    run = run_training(data_root=pictures, on_unhealthy="stop", **settings)
    assert [line["diversity"] for line in read_json_lines(RunFolder(run).metrics)] == [None, None]
    assert capsys.readouterr().out.count("note: 8 real images are all alike") == 1
    health = Health(NonSaturating())
    assert health.watch_diversity(None, FIRST) == []


@pytest.mark.slow
def test_a_sick_run_warns_or_stops_and_is_saved(
    run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gan.training.health.DIVERSITY_LIMIT", 100.0)
    monkeypatch.setattr("gan.training.health.DIVERSITY_FIRST_STEP", 0)
    run = run_training("warned", epochs=2)
    assert capsys.readouterr().out.count("generator: its images differ") == 1
    assert [line["unhealthy"] for line in read_json_lines(RunFolder(run).metrics)] == [["collapse generator"]] * 2
    with pytest.raises(
        UnhealthyError, match=r"its images differ.*stopped and saved; go on regardless with --resume --output"
    ):
        run_training("stopped", epochs=2, on_unhealthy="stop")
    stopped = run.parent / "stopped"
    assert len(list((stopped / "checkpoints").glob("*.safetensors"))) == 1
    resumed = run_training("stopped", epochs=2, on_unhealthy="stop", resume=True)
    assert len(read_json_lines(RunFolder(resumed).metrics)) == 2
