"""Truncation and standing statistics in evaluations: what is generated, scored, stamped and refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gan.evaluate
import gan.sample
from gan.display.evaluation import show
from gan.errors import UsageError
from gan.evaluate import evaluate, main
from gan.files.run_folder import RunFolder
from gan.models.batch_statistics import has_batchnorm
from gan.models.style_generator import StyleGenerator
from gan.models.stylegan2 import StyleGAN2
from gan.options import TrainOptions
from gan.process.place import Place
from gan.quality.generated import GeneratedImages
from gan.quality.path_length import Paths, path_lengths
from gan.run_options import EvaluateOptions, SampleOptions, parse_evaluate_options
from gan.seeds import derive_seed
from gan.session.evaluation import PathMeasure, measured_path_length
from gan.session.generator import generator_of_run
from gan.session.sampling import latent_threshold, prepare_sampling
from gan.session.subject import Subject
from gan.training.checkpoints import TrainedGenerator
from tests.conftest import run_two_processes
from tests.gan.inception_weights import SmallBackbone
from tests.gan.reference import STYLE

CPU = torch.device("cpu")
WIDTH = 100
SHAPE = (1, 4, 4)


class Told(nn.Module):
    """Keeps the latents that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[Tensor] = []

    def forward(self, latents: Tensor) -> Tensor:
        self.latents.append(latents)
        return torch.zeros(len(latents), *SHAPE)


def latents_of(threshold: float | None, num_images: int = 2000) -> Tensor:
    told = Told()
    images = GeneratedImages(told, WIDTH, num_images, 500, CPU, None, 3, threshold)
    for index in range(images.num_batches):
        images.batch(index)
    return torch.cat(told.latents)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0, 2.0])
def test_scored_images_have_latents_of_the_variance_of_a_truncated_normal(threshold: float) -> None:
    """1 - 2 T φ(T) / (2 Φ(T) - 1), of 200,000 numbers."""
    latents = latents_of(threshold).double()
    density = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * threshold * density / math.erf(threshold / math.sqrt(2))
    assert float(latents.var()) == pytest.approx(variance, rel=0.01)
    assert float(latents.mean()) == pytest.approx(0, abs=0.01 * threshold)
    assert float(latents.abs().max()) <= threshold


def test_without_truncation_latents_are_those_of_before() -> None:
    """A batch has a seed of its own, so scores of earlier evaluations can be had again."""
    expected = []
    for index, count in enumerate((500, 500, 300)):
        source = torch.Generator().manual_seed(derive_seed(3, "generated images", index))
        expected.append(torch.randn(count, WIDTH, generator=source))
    assert torch.equal(latents_of(None, 1300), torch.cat(expected))


def style_based() -> TrainedGenerator:
    torch.manual_seed(0)
    network = StyleGAN2(4, max_channels=8, style_width=8, mapping_layers=2).generator(6, (3, 16, 16)).eval()
    assert isinstance(network, StyleGenerator)
    network.average.copy_(torch.linspace(-1, 1, 8))
    return TrainedGenerator(network, 6, (3, 16, 16), 0)


def test_styles_of_a_style_based_generator_lie_at_the_part_of_their_distance() -> None:
    generator = style_based()
    network = generator.network
    latents = torch.randn(5, 6)
    whole = network.styles(latents)
    options = EvaluateOptions(Path("run"), truncation=0.3)
    prepare_sampling(generator, options, "run", CPU)
    torch.testing.assert_close(network.styles(latents) - network.average, 0.3 * (whole - network.average))
    assert latent_threshold(generator, options) is None, "all latents are drawn"
    prepare_sampling(generator, EvaluateOptions(Path("run"), truncation=1.0), "run", CPU)
    assert torch.equal(network.styles(latents), whole), "bit for bit"


class Halfway(nn.Module):
    """A generator whose styles are moved half of the way to its average style."""

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.generator = generator

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.generator.styles(latents, labels) + self.generator.average) / 2

    def synthesis(self, styles: Tensor) -> Tensor:
        images: Tensor = self.generator.synthesis(styles)
        return images


def squared(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().flatten(1).sum(1)


def test_path_lengths_are_those_of_truncated_styles() -> None:
    """In fp32 over a ten-thousandth of a path, so to a few per cent."""
    generator = style_based()
    paths = Paths(6, 5, 5, None, seed=1)
    alone = Place(0, 1, CPU)
    network = generator.network
    assert isinstance(network, StyleGenerator)
    whole = path_lengths(network, squared, paths, alone)
    expected = path_lengths(Halfway(network).eval(), squared, paths, alone)
    prepare_sampling(generator, EvaluateOptions(Path("run"), truncation=0.5), "run", CPU)
    halved = path_lengths(network, squared, paths, alone)
    assert halved.tolist() == pytest.approx(expected.tolist(), rel=0.05)
    assert float(halved.mean()) < 0.6 * float(whole.mean())


class Squared:
    """A distance with the methods of `PerceptualDistance`."""

    __call__ = staticmethod(squared)

    def stamp(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("truncation", "stamped", "said"),
    [
        (None, None, "styles without truncation"),
        (1.0, {"of": "styles", "value": 1.0}, "styles without truncation"),
        (0.5, {"of": "styles", "value": 0.5}, "styles truncated at 0.5"),
    ],
)
def test_a_path_length_says_whether_its_styles_were_truncated(
    truncation: float | None, stamped: dict[str, Any] | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = style_based()
    options = EvaluateOptions(Path("run"), num_images=5, truncation=truncation, ppl=True)
    prepare_sampling(generator, options, "run", CPU)
    measure: Any = PathMeasure(generator.network, Squared())  # type: ignore[arg-type]
    subject = Subject(Path("run"), "digits", TrainOptions(), generator, None, ())
    dataset: Any = None  # read for classes only
    measured = measured_path_length(measure, subject, options, dataset, Place(0, 1, CPU))
    assert measured["truncation"] == stamped
    extractor = {"dataset": "digits", "sha256": "0" * 64, "accuracy": 1.0}
    shown = {"run": "run", "dataset": "digits", "num_images": 5, "num_real": 5, "extractor": extractor}
    show({**shown, "scores": {}, "floor": {}, "perceptual_path_length": measured})
    words = " ".join(capsys.readouterr().out.split())
    assert f"over 5 paths of {said}" in words
    assert ("compare this path length with no paper's" in words) == (truncation == 0.5)


def first_norm_of(network: nn.Module) -> nn.modules.batchnorm._BatchNorm:
    return next(layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))


def of_batchnorm(run_training: Callable[..., Path]) -> Path:
    return run_training(recipe="mlp-batchnorm", dataset="digits", batch_size=600, steps=1)


def test_standing_statistics_are_of_the_latents_that_are_sampled(run_training: Callable[..., Path]) -> None:
    """Means over batches of what comes into the first BatchNorm layer, by a generator that nothing has changed."""
    folder = RunFolder(of_batchnorm(run_training))
    options = EvaluateOptions(folder.root, truncation=0.5, standing_statistics=3, seed=7)
    prepared, untouched = (generator_of_run(folder, None, best=False) for _ in range(2))
    prepare_sampling(prepared, options, folder.root, CPU)
    incoming: list[Tensor] = []
    first_norm_of(untouched.network).register_forward_pre_hook(lambda _, inputs: incoming.append(inputs[0]))
    source = torch.Generator().manual_seed(derive_seed(7, "standing statistics"))
    uniform = torch.rand(3 * 64, untouched.latent_dim, generator=source, dtype=torch.float64) * 2 - 1
    latents = math.sqrt(2) * torch.erfinv(uniform * math.erf(0.5 / math.sqrt(2)))
    with torch.no_grad():
        for batch in latents.float().split(64):
            untouched.network(batch)
    layer = first_norm_of(prepared.network)
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean(0) for x in incoming]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var(0) for x in incoming]).mean(0))
    assert not torch.equal(layer.running_var, first_norm_of(untouched.network).running_var)


def test_scores_change_with_what_is_asked_and_the_record_says_so(
    run_training: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = of_batchnorm(run_training)

    def scored(**options: Any) -> dict[str, Any]:
        record = evaluate(EvaluateOptions(run, num_images=200, **options))
        assert record == json.loads((run / "evaluation.json").read_text())
        return record

    plain = scored()
    truncated = scored(truncation=0.5)
    standing = scored(standing_statistics=2)
    both = scored(truncation=0.5, standing_statistics=2)
    records = (plain, truncated, standing, both)
    assert len({record["scores"]["fid"] for record in records}) == 4
    assert all(record["floor"] == plain["floor"] for record in records)
    of_latents = {"of": "latents", "value": 0.5}
    of_batches = {"num_batches": 2, "batch_size": 64}
    assert [record["truncation"] for record in records] == [None, of_latents, None, of_latents]
    assert [record["standing_statistics"] for record in records] == [None, None, of_batches, of_batches]
    assert scored()["scores"] == plain["scores"]
    assert scored(truncation=0.5, standing_statistics=2)["scores"] == both["scores"]
    capsys.readouterr()
    show(both)
    said = capsys.readouterr().out
    assert "latents truncated at 0.5" in said
    assert "standing statistics of BatchNorm, of 2 batches of 64 images" in said
    show(plain)
    assert "truncated" not in capsys.readouterr().out


def test_scores_of_papers_are_of_what_is_asked_too(
    run_training: Callable[..., Path], backbone: SmallBackbone
) -> None:
    run = of_batchnorm(run_training)
    arguments = [str(run), "--backbone", "inception", "--num-images", "100", "--cache", "none"]
    asked = [*arguments, "--truncation", "0.5", "--standing-statistics", "1"]
    plain, changed = (evaluate(parse_evaluate_options(words)) for words in (arguments, asked))
    assert plain is not None
    assert changed is not None
    assert plain["scores"]["fid"] != changed["scores"]["fid"]
    assert plain["floor"] == changed["floor"]
    assert changed["truncation"] == {"of": "latents", "value": 0.5}
    assert changed["standing_statistics"] == {"num_batches": 1, "batch_size": 64}


@pytest.mark.slow
def test_the_whole_style_gives_the_same_scores_bit_for_bit(run_training: Callable[..., Path]) -> None:
    run = run_training(recipe=STYLE, dataset="digits", steps=1, batch_size=4)
    plain, whole, half = (
        evaluate(EvaluateOptions(run, num_images=100, truncation=truncation)) for truncation in (None, 1.0, 0.5)
    )
    assert plain is not None
    assert whole is not None
    assert half is not None
    assert whole["scores"] == plain["scores"]
    assert half["scores"]["fid"] != plain["scores"]["fid"]
    assert half["truncation"] == {"of": "styles", "value": 0.5}


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_get_the_scores_of_one(run_training: Callable[..., Path], backbone: SmallBackbone) -> None:
    """Each makes every other batch, with statistics that it has taken itself."""
    run = of_batchnorm(run_training)
    asked = ["--backbone", "inception", "--num-images", "300", "--cache", "none"]
    asked += ["--truncation", "0.5", "--standing-statistics", "2"]
    one = evaluate(parse_evaluate_options([str(run), *asked]))
    assert one is not None
    run_two_processes("gan/paper_worker.py", run, *asked, cwd=run)
    two = json.loads((run / "evaluation.json").read_text())
    # G's products are rounded by the number of threads, and that may change a grey level of some pixels
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-4, abs=1e-4)
    assert (two["truncation"], two["standing_statistics"]) == (one["truncation"], one["standing_statistics"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--images", "x", "--dataset", "digits", "--truncation", "0.5"],
            "--truncation: is about a run's generator; leave it out with --images",
        ),
        (
            ["--images", "x", "--dataset", "digits", "--standing-statistics", "4"],
            "--standing-statistics: is about a run's generator; leave it out with --images",
        ),
        (["run", "--truncation", "0"], "--truncation 0.0: must be greater than 0 and finite, as 0.5 or 1"),
        (["run", "--truncation", "inf"], "--truncation inf: must be greater than 0 and finite, as 0.5 or 1"),
        (["run", "--standing-statistics", "-1"], "--standing-statistics -1: must be at least 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, script: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, said = script(main, *arguments)
    assert (code, said) == (2, f"error: {message}\n")


def test_generators_that_cannot_be_sampled_so_are_refused(run_training: Callable[..., Path]) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", batch_size=600, steps=1)
    generator = generator_of_run(RunFolder(run), None, best=False)
    assert not has_batchnorm(generator.network)
    with pytest.raises(UsageError, match=r"--standing-statistics: the generator of .* has no BatchNorm; leave"):
        evaluate(EvaluateOptions(run, num_images=100, standing_statistics=2))
    halfway = TrainedGenerator(Halfway(style_based().network), 6, (3, 16, 16), 0)
    for options in (EvaluateOptions(run, truncation=0.5), SampleOptions(run, truncation=0.5)):
        with pytest.raises(UsageError, match=r"--truncation: the generator of .* has styles, and no average"):
            prepare_sampling(halfway, options, run, CPU)


@pytest.mark.parametrize(
    ("script", "named"),
    [
        (gan.evaluate, "--standing-statistics or, with --backbone inception, --batch-size;"),
        (gan.sample, "or --standing-statistics;"),
    ],
)
def test_who_asks_for_too_many_batches_hears_which_option_to_lower(
    script: Any, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def without_memory() -> None:
        raise MemoryError

    monkeypatch.setattr(script, "main", without_memory)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert script.run() == 1
    said = capsys.readouterr().err
    assert "lower --num-images" in said
    assert named in said
