"""Recipes of Python files: they train, resume and sample, and run only where a command names them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from gan.errors import DivergedError, UsageError
from gan.evaluate import evaluate
from gan.files.json_files import read_json
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.models.architectures import build_discriminator
from gan.models.batch_statistics import has_batch_statistics
from gan.options import TrainOptions, parse_train_options
from gan.recipe_files import code_of, file_of, full_name, label_of, recipe_named
from gan.recipes import RECIPES
from gan.run_options import EvaluateOptions, SampleOptions, parse_sample_options
from gan.sample import main as sample_main
from gan.sample import sample
from gan.train import main
from gan.training.rehearsal import rehearse
from tests.conftest import ROOT
from tests.gan.reference import OWN_RECIPE

Script = Callable[..., tuple[int, str, str]]
OWN = Path(OWN_RECIPE).read_text()
SMALL = "from dataclasses import replace\nfrom gan.recipes import RECIPES, Recipe\nMLP = RECIPES['mlp']\n"
HIDDEN = "self.hidden = nn.Linear(latent_dim, width)"
HOOKED = "self.hidden = nn.utils.weight_norm(nn.Linear(latent_dim, width))"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "mine.py") -> str:
    Path(name).write_text(text)
    return name


def test_the_only_recipe_of_a_file_needs_no_name() -> None:
    spec = written(
        SMALL + "base = MLP\n_hidden = replace(base, epochs=2)\nbest = replace(base, epochs=3)\nalias = best\n"
    )
    assert recipe_named(spec).epochs == 3
    assert recipe_named(f"{spec}:_hidden").epochs == 2
    assert (full_name(spec), label_of(spec), label_of(f"{spec}:best")) == ("mine:best", "mine", "mine:best")
    assert full_name("mlp") == label_of("mlp") == "mlp"
    assert file_of("mlp") is None


def test_a_function_may_make_the_recipe_and_the_file_may_import_its_neighbours() -> None:
    written("EPOCHS = 7\n", "neighbour_of_mine.py")
    spec = written(
        SMALL + "import neighbour_of_mine as n\ndef make():\n    return replace(RECIPES['mlp'], epochs=n.EPOCHS)\n"
    )
    assert recipe_named(f"{spec}:make").epochs == 7


def test_a_file_runs_once_in_a_process_and_again_when_it_has_changed() -> None:
    spec = written(SMALL + "print('ran')\na = replace(RECIPES['mlp'], epochs=3)\n")
    assert recipe_named(spec) is recipe_named(spec)
    written(SMALL + "a = replace(MLP, epochs=4)\n")
    assert recipe_named(spec).epochs == 4


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (None, "nothing.py", "--recipe nothing.py: no such file"),
        ("def f(:\n", "mine.py", "--recipe mine.py: mine.py:1: SyntaxError: invalid syntax"),
        ("x = 1\n\n1 / 0\n", "mine.py", "--recipe mine.py: mine.py:3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "mine.py", "mine.py:2: SystemExit: 3"),
        ("import no_such_module\n", "mine.py", "mine.py:1: ModuleNotFoundError: No module named"),
        ("x = 1\n", "mine.py", "has no gan.recipes.Recipe at its top level"),
        (SMALL + "a = replace(MLP)\nb = replace(a)\n", "mine.py", "has several recipes: a, b; name one, as"),
        (SMALL + "best = replace(MLP)\n", "mine.py:bset", "the file has no bset; did you mean best?"),
        (SMALL + "a = 3\n", "mine.py:a", "--recipe mine.py:a: is a int, not a gan.recipes.Recipe"),
        ("def make():\n    raise RuntimeError('no\\nluck')\n", "mine.py:make", "mine.py:2: RuntimeError: no"),
        ("def make():\n    return 3\n", "mine.py:make", "is a int, not a gan.recipes.Recipe"),
        (SMALL + "a = replace(RECIPES['wgan'], generator_first=True)\n", "mine.py", "mine.py:4: AssertionError:"),
        (SMALL + "a = replace(MLP, batch_size=0)\n", "mine.py", "a: batch_size 0: must be a whole number"),
        (SMALL + "a = replace(MLP, sampling='shuffle')\n", "mine.py", "must be a member of"),
        (SMALL + "a = replace(MLP, generator=3)\n", "mine.py", "generator 3: must be a frozen dataclass"),
        (SMALL + "a = replace(MLP, loss=MLP.generator)\n", "mine.py", "loss MLP: lacks relativistic"),
        (SMALL + "a = replace(MLP, optimizer=3)\n", "mine.py", "must be Adam or RMSprop"),
        (SMALL + "a = replace(MLP, augmentation=(len,))\n", "mine.py", "or a frozen dataclass that is called"),
        (SMALL + "a = replace(MLP, initialization='x')\n", "mine.py", "initialization 'x': must be one of"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line(text: str | None, spec: str, message: str, script: Script) -> None:
    if text is not None:
        written(text)
    code, _, said = script(main, "--recipe", spec, "--steps", "1")
    assert code == 2
    assert said.startswith("error: --recipe ")
    assert message in said
    assert said.count("\n") == 1
    assert not Path("runs").exists()


OF_A_BATCH = """return discriminator(between).square()

    def before_augmentation(self, of_real, of_fake, real, fake):
        return of_real(real).square().mean()"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("view(-1, *self.image_shape)", "view(-1, 784)", "the generator returns images of shape (2, 784); of 2"),
        ("nn.Linear(self.width, 1), nn.Flatten(0))", "nn.Linear(self.width, 1))", "logits of shape (2, 1)"),
        ("/ self.temperature)\n\n    def", "/ self.temperature).mean()\n\n    def", "values of shape ()"),
        ("return discriminator(between).square()", "return 3.0", "the penalty returns values as float"),
        ("return discriminator(between).square()", OF_A_BATCH, "the penalty returns values of shape (); of 2"),
        ("return images + self", "return images[:, :, 1:] + self", "augmentation returns images of shape"),
        ("nn.Linear(self.width, 1), nn.Fl", "nn.Linear(3, 1), nn.Fl", "discriminator: RuntimeError: mat1 and"),
        ("        pixels = math.prod(image_shape)", "        pixels = missing", "the discriminator: mine.py:"),
        ("batchnorm: ClassVar[bool] = True", "batchnorm: ClassVar[bool] = False", "says `batchnorm = False`"),
        ("nn.LeakyReLU(self.slopes[0]),", "nn.BatchNorm1d(self.width),", "needs a D without BatchNorm"),
        ("Adam(1e-3", "Adam(-1e-3", "recipe: optimizer.learning_rate -0.001: must be a number of at least 0"),
        ("    ema_half_life=500,", "    conditional=True,", "D of a conditional recipe must be an nn.Sequential"),
        ("return torch.sin(x)", "return torch.sin(x - x.mean(0))", "on the other images of its batch; let"),
        (HIDDEN, HOOKED, "the generator: weights of torch.nn.utils.weight_norm can be neither averaged nor init"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_one_line(old: str, new: str, message: str, script: Script) -> None:
    dry = "784" not in new
    text = OWN.replace(old, new)
    if "conditional" in new:
        text = text.replace("nn.Linear(self.width, 1), nn.Flatten(0)", "Sine(), nn.Flatten(0)")
    assert text != OWN
    code, _, said = script(main, "--recipe", written(text), *(["--dry-run"] if dry else ["--steps", "1"]))
    assert (code, message in said, said.count("\n")) == (2, True, 1), said
    assert not Path("runs").exists()


def test_a_layer_that_says_that_it_looks_at_a_batch_is_taken() -> None:
    text = OWN.replace("return torch.sin(x)", "return torch.sin(x - x.mean(0))")
    text = text.replace("class Sine(nn.Module):", "class Sine(GlobalStatistics):\n    mixes_samples = True\n")
    text = text.replace(
        "from gan.recipes", "from gan.models.batch_statistics import GlobalStatistics\nfrom gan.recipes"
    )
    row = recipe_named(written(text))
    rehearse(row, (1, 8, 8), 0, "--recipe mine.py")
    assert has_batch_statistics(build_discriminator(row.discriminator, (1, 8, 8)))


def test_losses_that_are_not_finite_are_said(run_training: Callable[..., Path]) -> None:
    spec = written(OWN.replace("return softplus((real_logits", "return float('nan') * softplus((real_logits"))
    with pytest.raises(DivergedError, match=r"step 1: the generator's loss is not finite"):
        run_training(recipe=spec, steps=2)


def test_the_run_records_its_file_and_goes_by_a_short_name(script: Script) -> None:
    shutil.copy(OWN_RECIPE, "mine.py")
    code, said, error = script(main, "--recipe", "mine.py", "--steps", "2", "--set", "generator.width=16")
    assert code == 0, error
    assert "more pictures: " in said + error
    folder = RunFolder(Path("runs/mine"))
    config = read_json(folder.config)
    assert config["options"]["recipe"] == "mine.py"
    assert config["options"]["set"] == ["generator.width=16"]
    recorded = config["recipe_file"]
    assert (recorded["name"], len(recorded["sha256"]), recorded["batch_size"]) == ("mine:recipe", 64, 16)
    identity = config["identity"]
    assert identity["generator"] == {"kind": "TinyNetworks", "width": 16, "slopes": [0.2]}
    assert identity["augmentation"] == ["cutout", {"kind": "Shade", "strength": 0.3}]
    assert identity["code of loss"].startswith("Tempered ")


@pytest.fixture
def run(run_training: Callable[..., Path]) -> Path:
    shutil.copy(OWN_RECIPE, "mine.py")
    return run_training(recipe="mine.py", steps=2)


def resumed(run: Path, *arguments: str) -> TrainOptions:
    options = parse_train_options(["--resume", "--output", str(run), "--steps", "3", *arguments])
    train(options)
    return options


def test_a_run_folder_never_runs_code(run: Path, script: Script) -> None:
    Path("mine.py").write_text("raise SystemExit('ran')")
    why = "is of a recipe file, which is not run unless you name it"
    with pytest.raises(UsageError) as caught:
        parse_train_options(["--resume", "--output", str(run)])
    assert str(caught.value) == f"--resume: the run in {run} {why}; give --recipe mine.py again"
    for options in (SampleOptions(run, "grid"), EvaluateOptions(run)):
        assert options.recipe is None
    code, _, said = script(sample_main, run)
    assert code == 2
    assert said == f"error: {run}: its generator (TinyNetworks) {why}; add --recipe FILE.py\n"


def test_a_run_of_a_file_is_resumed_with_the_file(run: Path) -> None:
    shutil.move("mine.py", "elsewhere")
    Path("moved").mkdir()
    shutil.move("elsewhere", "moved/mine.py")
    assert resumed(run, "--recipe", "moved/mine.py").recipe == "moved/mine.py"
    assert read_json(RunFolder(run).summary)["steps"] == 3


def test_a_changed_file_is_said_and_changed_parts_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(OWN + "\n# a remark\n")
    resumed(run, "--recipe", "mine.py")
    assert "note: mine.py has changed since the run began; the recipe's values have not" in capsys.readouterr().out
    for old, new, message in (
        ("strength: float = 0.3", "strength: float = 0.4", "augmentation is"),
        ("return images + self", "return images - self", "code of augmentation 2 is Shade"),
        ("torch.tanh(self", "torch.sin(self", None),
    ):
        Path("mine.py").write_text(OWN.replace(old, new))
        if message is None:  # a class beside the parts: its source is not compared, the file's digest is
            resumed(run, "--recipe", "mine.py")
            continue
        with pytest.raises(UsageError, match=message):
            resumed(run, "--recipe", "mine.py")


def test_the_settings_of_a_run_are_its_identity(run_training: Callable[..., Path]) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", steps=2, set=("loss.scale=0.5",))
    assert resumed(run, "--recipe", "mlp-compact").set == ("loss.scale=0.5",)
    assert resumed(run, "--set", "loss.scale=0.5").set == ("loss.scale=0.5",)
    with pytest.raises(UsageError, match=r"--resume: loss is .*'scale': 0.25.* begun with .*'scale': 0.5"):
        resumed(run, "--set", "loss.scale=0.25")
    with pytest.raises(UsageError, match="--resume: latent dim is 7 now"):
        resumed(run, "--set", "latent_dim=7")


def test_a_flag_on_resume_takes_the_place_of_a_setting_of_the_run(run_training: Callable[..., Path]) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", set=("epochs=1", "batch_size=900"))
    options = parse_train_options(["--resume", "--output", str(run), "--epochs", "2"])
    assert (options.set, options.row.epochs) == (("batch_size=900",), 2)


def test_pictures_of_a_run_of_a_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = sample(parse_sample_options([str(run), "grid", "--recipe", "mine.py"]))
    first = path.read_bytes()
    Path("mine.py").write_text(OWN.replace("width: int = 12", "width: int = 99"))
    sample(SampleOptions(run, "grid", recipe="mine.py"))
    assert path.read_bytes() == first, "the run's values count"
    assert "note: TinyNetworks in mine.py has changed since the run was begun" in capsys.readouterr().err
    Path("mine.py").write_text(OWN.replace("self.hidden", "self.hid"))
    with pytest.raises(UsageError, match="TinyNetworks is not that of"):
        sample(SampleOptions(run, "grid", recipe="mine.py"))
    for spec, message in (
        ("mlp", "add --recipe FILE.py"),
        (written(SMALL + "a = replace(RECIPES['mlp'])\n", "b.py"), "is MLP"),
    ):
        with pytest.raises(UsageError, match=message):
            sample(SampleOptions(run, "grid", recipe=spec))


PART = """@dataclass(frozen=True)
class Part:
    width: int = 12
    slopes: tuple[tuple[float, ...], ...] = ((0.2,),)


"""
FIELDS = """
    part: Part = Part()
    computed: int = field(default=3, init=False)
"""


def test_pictures_of_a_run_whose_architecture_has_parts(run_training: Callable[..., Path]) -> None:
    """A dataclass in a dataclass, tuples in a tuple, and a field that is computed."""
    text = OWN.replace("@dataclass(frozen=True)\nclass Tiny", f"{PART}@dataclass(frozen=True)\nclass Tiny")
    text = text.replace(
        "    slopes: tuple[float, ...] = (0.2,)\n", f"    slopes: tuple[float, ...] = (0.2,){FIELDS}"
    )
    text = text.replace("latent_dim, self.width, image_shape", "latent_dim, self.part.width, image_shape")
    text = text.replace("import dataclass\n", "import dataclass, field\n")
    run = run_training(recipe=written(text), steps=1, set=("generator.part.width=7",))
    assert load_file(RunFolder(run).generator)["normal.weight"].shape == (7,)
    (path,) = sample(SampleOptions(run, "grid", recipe="mine.py"))
    assert path.exists()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_computes_are_taken_where_nothing_copies_or_draws_them(
    run_training: Callable[..., Path],
) -> None:
    text = OWN.replace(HIDDEN, HOOKED).replace("    ema_half_life=500,\n", "")
    run = run_training(recipe=written(text), steps=1)
    assert "hidden.weight_g" in load_file(RunFolder(run).generator)
    (path,) = sample(SampleOptions(run, "grid", recipe="mine.py"))
    assert path.exists()


def test_a_damaged_description_of_a_generator_is_one_line(run: Path) -> None:
    config = RunFolder(run).generator_config
    config.write_text(json.dumps({**json.loads(config.read_text()), "latent_dim": "x"}))
    with pytest.raises(UsageError, match="damaged"):
        sample(SampleOptions(run, "grid", recipe="mine.py"))


def test_a_rehearsal_changes_no_random_state() -> None:
    before = torch.get_rng_state()
    rehearse(recipe_named(OWN_RECIPE), (1, 28, 28), 0, "")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_run_of_a_file_is_scored_with_the_file(run: Path) -> None:
    with pytest.raises(UsageError, match=r"add --recipe FILE\.py"):
        evaluate(EvaluateOptions(run, num_images=500))
    AcceleratorState._reset_state(reset_partial_state=True)
    record = evaluate(EvaluateOptions(run, num_images=500, recipe="mine.py"))
    assert record is not None
    assert record["scores"]["fid"] > record["floor"]["fid"]


def test_the_example_is_a_recipe_with_parts_of_its_own() -> None:
    row = recipe_named(str(ROOT / "docs" / "examples" / "my_recipe.py"))
    assert list(code_of(row)) == ["generator", "discriminator", "loss", "penalty", "augmentation 1"]
    assert code_of(RECIPES["r3gan"]) == {}
