"""`python -m bench reference`, as documents show it, on what is stored: no seed is trained."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from bench.quality import checked
from bench.quality.checked import check_submission
from bench.quality.submission import write_submission
from bench.stability.convergence import convergence_checks
from bench.stability.references import FOLDER_VARIABLE, read_reference
from bench.suite.cases import Case
from bench.suite.machine import Machine
from gan.rows.classic import CLASSIC
from tests.bench.test_time_to_quality import scheduled
from tests.conftest import ROOT
from tests.documents import commands

Command = Callable[..., tuple[int, str, str]]
STORED = ROOT / "results" / "reference" / "quickstart-b64.json"
SUBMISSIONS = ROOT / "results" / "time-to-quality"
SUBMISSION = "results/time-to-quality/dcgan_small-mnist-core.json"


def seeds_like_the_stored(count: int, shift: float = 0.0) -> list[dict[str, float]]:
    """Outcomes of seeds with the means and standard deviations that are stored.

    Args:
        count: Of the seeds.
        shift: By so many standard deviations, all outcomes are larger.
    """
    scores = stats.norm.ppf([(number + 0.5) / count for number in range(count)])
    scores = scores / scores.std(ddof=1) + shift
    metrics = read_reference(STORED).metrics
    return [{name: sample.mean + sample.sd * score for name, sample in metrics.items()} for score in scores]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a copy of `results/reference` and the submissions, in which commands run."""
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine(num_cores=2, num_gpus=0)))
    (tmp_path / "results" / "reference").mkdir(parents=True)
    (tmp_path / "results" / "reference" / STORED.name).write_bytes(STORED.read_bytes())
    (tmp_path / "results" / "reference" / "time-to-quality").symlink_to(STORED.parent / "time-to-quality")
    (tmp_path / "results" / "time-to-quality").symlink_to(SUBMISSIONS)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "results" / "reference"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documented_commands_run(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the documents, because one makes the reference that another compares with."""
    trained: list[tuple[str, str, int]] = []

    def train(case: Case, num_seeds: int) -> list[dict[str, float]]:
        trained.append((case.recipe, case.precision, num_seeds))
        return seeds_like_the_stored(num_seeds)

    monkeypatch.setattr("bench.reference._run", train)
    monkeypatch.setattr(checked, "RECIPES", CLASSIC)  # the rows as they are, not as narrow as in other tests
    for documented in commands("python", "-m", "bench", "reference"):
        words = [SUBMISSION if word == "FILE" else word for word in documented.words[3:]]
        code, printed, errors = command(*words)
        assert code == 0, (documented, errors)
        if "--submission" in words:
            assert re.search("by the rules|consistent", printed)
        elif "--make" in words:
            assert read_reference(Path(printed.strip())).metrics.keys() == read_reference(STORED).metrics.keys()
        else:
            assert "against its reference" in printed
    assert {("quickstart", "bf16", 20), ("mlp", "fp32", 20), ("mlp", "bf16", 20)} <= set(trained)


def test_a_reference_that_could_not_be_written_is_refused_before_seeds_are_trained(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "file" / "reference"))
    monkeypatch.setattr("bench.reference._run", lambda *_: pytest.fail("seeds are trained"))
    code, _, errors = command("reference", "--make")
    assert code == 2
    assert errors.endswith(f"{folder / 'file'} is no directory that can be written to; nothing was trained\n")


@pytest.mark.parametrize("flags", ["--recipe mlp", "--batch-size 64", "--seeds 5", "--device cuda"])
def test_a_submission_takes_no_options_of_training(flags: str, folder: Path, command: Command) -> None:
    code, _, errors = command("reference", "--submission", SUBMISSION, *flags.split())
    assert (code, errors) == (2, f"error: {flags}: --submission trains nothing; leave one of them out\n")


@pytest.mark.parametrize(
    ("shift", "count", "code", "word"),
    [(0, 20, 0, "equivalent"), (0, 4, 3, "undecided"), (3, 20, 1, "different"), (-3, 20, 1, "different")],
)
def test_the_exit_code_says_whether_seeds_are_equivalent(
    shift: float,
    count: int,
    code: int,
    word: str,
    folder: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.reference._run", lambda _, num_seeds: seeds_like_the_stored(num_seeds, shift))
    ended, printed, _ = command("reference", "--seeds", count, "--precision", "bf16")
    assert ended == code
    assert re.search(rf"\b{word}\s*$", printed, re.MULTILINE)


def test_stored_submissions_are_by_the_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checked, "RECIPES", CLASSIC)
    paths = sorted(SUBMISSIONS.glob("*.json"))
    assert {path.stem for path in paths} > {"dcgan-mnist-core-epyc", "dcgan_small-mnist-core"}
    for path in paths:
        code = check_submission(path, make=False)
        printed = " ".join(capsys.readouterr().out.split())
        assert code == 0, (path.name, printed)
        is_own = path.stem.startswith("dcgan_small")
        said = (
            "by the rules; a recipe of its own" if is_own else r"consistent: \S+ times the images of the reference"
        )
        assert re.search(said, printed), (path.name, printed)


@pytest.mark.parametrize(
    ("evaluations", "failed", "code", "said"),
    [
        (
            [10, 11, 12],
            0,
            3,
            r"undecided: 0\.7\d* times the images .* \(95 %: 0\.\d+ to 0\.\d+; with fewer",
        ),
        (
            [14],
            1,
            3,
            r"undecided: 0\.95\d* times the images of the reference \(with fewer than 5 seeds",
        ),
        ([], 10, 1, r"more images: no seed met the target \(p = "),
    ],
)
def test_numbers_that_seeds_do_not_give_are_not_printed(
    evaluations: list[int],
    failed: int,
    code: int,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "made"))
    path = folder / "mine.json"
    write_submission(path, scheduled([10 + number for number in range(10)]))
    assert check_submission(path, make=True) == 0
    write_submission(path, scheduled(evaluations, failed))
    assert check_submission(path, make=False) == code
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(said, printed)
    assert not re.search(r"\bnan\b", printed)


def test_a_narrow_terminal_leaves_columns_out_and_wide_shows_them(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "50")
    narrow = " ".join(command("reference", "--submission", SUBMISSION)[1].split())
    assert "left out for lack of width: fid, images" in narrow
    assert "; --wide shows them" in narrow
    wide = command("reference", "--submission", SUBMISSION, "--wide")[1]
    assert "left out" not in wide
    assert "4,557 ± 354" in wide


def checks_of(seeds: list[dict[str, float]]) -> dict[str, Any]:
    run: Any = SimpleNamespace(options=SimpleNamespace(recipe="quickstart", set=()), global_batch_size=64)
    return {check.name.partition(",")[0]: check for check in convergence_checks(run, seeds)}


def test_a_session_says_how_far_seeds_are_from_the_reference() -> None:
    assert all(check.passed for check in checks_of(seeds_like_the_stored(20)).values())
    far = checks_of(seeds_like_the_stored(20, shift=3))["fid"]
    assert far.failed
    assert far.complaint().endswith(
        ": +3 standard deviations between seeds from the reference; seeds scatter 1 times as much as its seeds"
    )
    assert "+1,234,567 standard deviations" in checks_of(seeds_like_the_stored(20, 1234567))["fid"].complaint()
    (first, *others) = seeds_like_the_stored(20)
    lost = checks_of([{**first, "fid": math.nan}, *others])["fid"]
    assert lost.failed
    assert lost.complaint() == "T3 fid, different: 1, the limit is 0: that of a seed is not finite"
