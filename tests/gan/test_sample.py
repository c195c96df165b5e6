import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan.display.figures import TITLE_HEIGHT, cells_by_class, evenly, image_grid, interpolate, timeline, titled
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.recipes import RECIPES
from gan.run_options import SampleOptions, parse_sample_options
from gan.sample import main, sample
from gan.training.checkpoints import load_checkpoint, load_generator, newest_first
from tests.conftest import ROOT, quick_or_slow, run_script

CELL = 28 + 2
MADE = ["grid.png", "compare.png", "interpolation.png", "timeline.png", "progress.gif"]


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
    assert picture.shape == (TITLE_HEIGHT + 4 * CELL + 2, 3 * CELL + 2)
    titles, picture = np.split(picture, [TITLE_HEIGHT])
    columns = [titles[:, 2 + index * CELL : 30 + index * CELL] for index in range(3)]
    assert all(column.any() for column in columns), "each has its epoch's number"
    assert not np.array_equal(columns[0], columns[1])
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
    picture = np.array(timeline(paths, (6, 4), rows=9))[TITLE_HEIGHT:]
    grid = np.array(Image.open(paths[1]))
    assert picture.shape == (9 * 8 + 2, 2 * 6 + 2, 3)
    assert np.array_equal(picture[2 + 5 * 8 : 8 + 5 * 8, 8:12], grid[2 + 8 : 8 + 8, 2 + 2 * 6 : 6 + 2 * 6])


def test_titles_that_do_not_fit_are_left_out() -> None:
    picture = Image.new("RGB", (96, 4))
    alone = titled(picture, [(20, "1000"), (60, "1002")])
    assert titled(picture, [(0, "999"), (20, "1000"), (28, "1001"), (60, "1002"), (94, "1003")]) == alone
    assert alone != titled(picture, [(20, "1000")])


def test_every_run_shows_what_it_has_read(run: Path) -> None:
    """Real digits in a column for each class, as the networks get them."""
    from gan.data.datasets import DATASETS, DatasetRequest

    digits = DATASETS["digits"](DatasetRequest(Path("data"), (1, 28, 28), 0, torch.device("cpu")))
    picture = pixels(RunFolder(run).real)
    assert picture.shape == (8 * CELL + 2, 10 * CELL + 2)
    for label in (0, 7):
        of_class = digits.train[digits.labels == label][:, 0].numpy()
        shown = [cell(picture, row, label) for row in range(8)]
        assert all((image == of_class).all((1, 2)).any() for image in shown)
        assert len({image.tobytes() for image in shown}) == 8
    assert RunFolder(run).real not in RunFolder(run).samples()


def test_cells_by_class_leave_out_what_there_is_not() -> None:
    labels = torch.tensor([2, 0, 0, 0, 1, 0])
    assert cells_by_class(labels, [0, 1], 3) == [1, 4, 3, None, 5, None]
    assert cells_by_class(labels, [0, 2], 2) == [1, 0, 5, None]


def test_real_and_generated_side_by_side(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "compare", output=tmp_path))
    picture, real = pixels(path), pixels(RunFolder(run).real)
    height, width = real.shape
    assert picture.shape == (TITLE_HEIGHT + height, 2 * width + TITLE_HEIGHT)
    titles, picture = np.split(picture, [TITLE_HEIGHT])
    assert np.array_equal(picture[:, :width], real)
    generated = picture[:, width + TITLE_HEIGHT :]
    assert cell(generated, 7, 9).any()
    assert not np.array_equal(generated, real)
    assert titles[:, :width].any()
    assert titles[:, width:].any()


@pytest.mark.parametrize("kind", ["grid", "compare", "interpolation", "timeline"])
def test_pictures_are_enlarged_pixel_by_pixel(run: Path, tmp_path: Path, kind: str) -> None:
    (path,) = sample(SampleOptions(run, kind, output=tmp_path / "1"))
    (large,) = sample(SampleOptions(run, kind, output=tmp_path / "3", scale=3))
    assert np.array_equal(pixels(large), np.kron(pixels(path), np.ones((3, 3), np.uint8)))


def test_an_enlarged_animation_keeps_its_frames(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "gif", output=tmp_path, scale=2))
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.size) == (3, (2 * (8 * CELL + 2),) * 2)


def test_what_does_not_fit_is_refused(
    run: Path, tmp_path: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, said = script(main, run, "grid", "--scale", "1000", "--output", tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    assert "--scale 1000: the picture would have 242,000 × 242,000 pixels" in said
    assert not list(tmp_path.iterdir())


def test_a_grid_that_is_none_is_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a copy"
    shutil.copytree(run, copy)
    RunFolder(copy).real.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"real\.png: not a readable image"):
        sample(SampleOptions(copy, "compare"))
    Image.new("RGB", (9, 9)).save(RunFolder(copy).real)
    with pytest.raises(UsageError, match=r"real\.png: not of this run"):
        sample(SampleOptions(copy, "compare"))
    Image.new("RGB", (9, 9)).save(RunFolder(copy).sample(1))
    with pytest.raises(UsageError, match=r"epoch_0001\.png: not a sample grid of this run"):
        sample(SampleOptions(copy, "timeline"))
    RunFolder(copy).real.unlink()
    with pytest.raises(UsageError, match=r"train on with --resume --output '.*/a copy'$"):
        sample(SampleOptions(copy, "compare"))


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


@pytest.mark.multiprocess
def test_the_script_makes_all_and_says_where(run: Path, tmp_path: Path) -> None:
    done = run_script(ROOT / "gan" / "sample.py", run, "--output", tmp_path / "pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in said] == MADE
    assert all(path.stat().st_size > 500 for path in said)


def test_no_run(script: Callable[..., tuple[int, str, str]]) -> None:
    code, _, said = script(main, "nowhere")
    assert code == 2
    assert said == "error: nowhere: no such run; name a directory that training wrote\n"


@pytest.mark.parametrize(
    "name", quick_or_slow(RECIPES, quick=("quickstart", "cgan"), slow=("mlp-batchnorm", "sngan"))
)
def test_every_row_has_its_pictures_of_its_average(
    name: str, run_training: Callable[..., Path], tmp_path: Path
) -> None:
    run = run_training(recipe=name, dataset="digits", batch_size=8, steps=2, ema_half_life=100)
    made = sample(SampleOptions(run, rows=2, steps=3, output=tmp_path / "pictures"))
    assert [path.name for path in made] == MADE
    assert pixels(made[2]).shape == (2 * CELL + 2, 3 * CELL + 2)
    tensors = load_checkpoint(newest_first(RunFolder(run).checkpoints)[0]).tensors
    sampled = load_generator(RunFolder(run).generator, RunFolder(run).generator_config).network
    moved = []
    for key, value in sampled.named_parameters():
        assert torch.equal(value, tensors[f"average.{key}"])
        moved.append(not torch.equal(value, tensors[f"generator.network.{key}"]))
    assert any(moved)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *(
            (
                f"{kind} {option}",
                f"{option.split()[0]}: is for grid, compare, interpolation, not for {kind}; leave",
            )
            for kind in ("timeline", "gif")
            for option in ("--best", "--truncation 0.5", "--standing-statistics 2", "--seed 1")
        ),
        ("gif --by-class", "--by-class: is for grid, not for gif; leave it out"),
        ("compare --num-images 9", "--num-images: is for grid, not for compare; leave it out"),
        ("gif --recipe mlp", "--recipe: is for grid, compare, interpolation, timeline, not for gif; leave it out"),
        ("gif --rows 2", "--rows: is for grid, interpolation, timeline, not for gif; leave it out"),
        ("grid --steps 3", "--steps: is for interpolation, not for grid; leave it out"),
        ("interpolation --columns 3", "--columns: is for timeline, not for interpolation; leave it out"),
        ("grid --rows 2", "--rows: a grid takes it with --by-class; add that, or give --num-images"),
        ("all --num-images 9 --by-class", "--num-images: --by-class draws --rows images of each class; leave one"),
    ],
)
def test_an_option_that_no_picture_takes_is_refused(line: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_sample_options(["run", *line.split()])
    assert str(refused.value).startswith(message)


def test_all_pictures_take_the_options_of_each() -> None:
    line = "run --num-images 9 --rows 2 --steps 3 --columns 4 --seed 1 --scale 2"
    parse_sample_options(line.split())
