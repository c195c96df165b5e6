from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_script
from PIL import Image

from gan.checkpoints import load_checkpoint, load_generator, newest_first
from gan.errors import UsageError
from gan.figures import evenly, image_grid, interpolate, timeline
from gan.options import SampleOptions
from gan.recipes import RECIPES
from gan.records import RunFolder
from gan.sample import main, sample

CELL = 28 + 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gan.loop import train
    from gan.options import TrainOptions

    output = tmp_path_factory.mktemp("sample") / "run"
    train(TrainOptions(recipe="mlp-compact", dataset="digits", epochs=3, batch_size=300, output=output))
    return output


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("L"))


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = 2 + row * CELL, 2 + column * CELL
    return picture[top : top + 28, left : left + 28]


def test_grid_has_the_images_asked_for_and_depends_on_the_seed(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "grid", output=tmp_path / "a", num_images=10))
    picture = pixels(path)
    assert picture.shape == (3 * CELL + 2, 4 * CELL + 2)
    assert cell(picture, 2, 1).any()
    assert not cell(picture, 2, 2).any(), "there is no eleventh image"
    (again,) = sample(SampleOptions(run, "grid", output=tmp_path / "b", num_images=10))
    (other,) = sample(SampleOptions(run, "grid", output=tmp_path / "c", num_images=10, seed=1))
    assert again.read_bytes() == path.read_bytes()
    assert other.read_bytes() != path.read_bytes()


def test_interpolation_is_a_straight_line_between_its_ends() -> None:
    start, end = torch.randn(2, 3, 5)
    latents = interpolate(start, end, 8).view(3, 8, 5)
    torch.testing.assert_close(latents[:, 0], start)
    torch.testing.assert_close(latents[:, -1], end)
    steps = latents.diff(dim=1)
    torch.testing.assert_close(steps, ((end - start) / 7).unsqueeze(1).expand_as(steps), rtol=1e-4, atol=1e-5)


def test_interpolation_picture_has_a_row_for_each_pair(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "interpolation", output=tmp_path, rows=3, steps=5))
    assert pixels(path).shape == (3 * CELL + 2, 5 * CELL + 2)


def test_timeline_has_an_epoch_in_each_column_and_a_latent_in_each_row(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "timeline", output=tmp_path, rows=4))
    picture = pixels(path)
    assert picture.shape == (4 * CELL + 2, 3 * CELL + 2)
    for column, epoch in enumerate((1, 2, 3)):
        grid = pixels(RunFolder(run).sample(epoch))
        for row in range(4):
            assert np.array_equal(cell(picture, row, column), cell(grid, 0, row))


def test_timeline_of_colour_images(tmp_path: Path) -> None:
    paths = []
    for index in range(2):
        images = torch.rand(9, 3, 6, 4, generator=torch.Generator().manual_seed(index)) * 2 - 1
        paths.append(tmp_path / f"{index}.png")
        image_grid(images).save(paths[-1])
    picture = np.array(timeline(paths, (6, 4), rows=9))
    grid = np.array(Image.open(paths[1]))
    assert picture.shape == (9 * 8 + 2, 2 * 6 + 2, 3)
    assert np.array_equal(picture[2 + 5 * 8 : 8 + 5 * 8, 8:12], grid[2 + 8 : 8 + 8, 2 + 2 * 6 : 6 + 2 * 6])


def test_gif_shows_every_epoch_in_order(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "gif", output=tmp_path))
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        animation.seek(2)
        last = np.array(animation.convert("L")).astype(int)
    assert np.abs(last - pixels(RunFolder(run).sample(3))).mean() < 3


def test_evenly_keeps_the_ends() -> None:
    paths = [Path(str(index)) for index in range(100)]
    chosen = evenly(paths, 7)
    assert (chosen[0], chosen[-1], len(chosen)) == (paths[0], paths[-1], 7)
    assert evenly(paths[:5], 7) == paths[:5]


def test_grid_and_interpolation_need_only_the_generator(run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    lone.mkdir()
    for path in (RunFolder(run).generator, RunFolder(run).generator_config):
        (lone / path.name).write_bytes(path.read_bytes())
    for kind in ("grid", "interpolation"):
        sample(SampleOptions(lone, kind))
    with pytest.raises(UsageError, match="no sample grids yet"):
        sample(SampleOptions(lone, "timeline"))
    generator = load_generator(RunFolder(lone).generator, RunFolder(lone).generator_config)
    assert generator.latent_dim == 100


def test_the_script_makes_all_four_and_says_where(run: Path, tmp_path: Path) -> None:
    done = run_script(ROOT / "gan" / "sample.py", run, "--output", tmp_path / "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in said] == ["grid.png", "interpolation.png", "timeline.png", "progress.gif"]
    assert all(path.stat().st_size > 500 for path in said)


def test_no_run(script: Callable[..., tuple[int, str, str]]) -> None:
    code, _, said = script(main, "nowhere")
    assert code == 2
    assert said == "error: nowhere: no such run; name a directory that gan/train.py wrote\n"


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_its_pictures_of_its_average(
    name: str, run_training: Callable[..., Path], tmp_path: Path
) -> None:
    run = run_training(recipe=name, dataset="digits", batch_size=8, steps=2, ema_half_life=100)
    made = sample(SampleOptions(run, rows=2, steps=3, output=tmp_path / "pictures"))
    assert [path.name for path in made] == ["grid.png", "interpolation.png", "timeline.png", "progress.gif"]
    assert pixels(made[1]).shape == (2 * CELL + 2, 3 * CELL + 2)
    tensors = load_checkpoint(newest_first(RunFolder(run).checkpoints)[0]).tensors
    sampled = load_generator(RunFolder(run).generator, RunFolder(run).generator_config).network
    moved = []
    for key, value in sampled.named_parameters():
        assert torch.equal(value, tensors[f"average.{key}"])
        moved.append(not torch.equal(value, tensors[f"generator.network.{key}"]))
    assert any(moved)


def test_classes_are_for_grids(run: Path) -> None:
    with pytest.raises(UsageError, match="--by-class: is for grid, not for gif; leave it out"):
        sample(SampleOptions(run, "gif", by_class=True))
