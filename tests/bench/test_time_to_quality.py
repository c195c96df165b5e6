"""Time to quality: seeds on their way to the target, what is kept of them, and the reference points."""

import errno
import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.quality import command as quality_command
from bench.quality import course
from bench.quality.checked import check_submission
from bench.quality.course import distance_of, judge_for, reach_target
from bench.quality.options import QualityOptions
from bench.quality.reference_points import CONSISTENT, FEWER, MORE, UNDECIDED, compare
from bench.quality.rules import Rules
from bench.quality.submission import Interval, Point, Seed, Submission, read_submission, write_submission
from bench.quality.trainees import TRAINEES, CoreTrainee, PlainTrainee
from bench.results.environment import session_environment
from bench.subjects.plain import _batches
from gan.data.order import Sampling
from gan.errors import DivergedError, UsageError
from gan.files.locks import DirectoryLock
from gan.process.place import Place
from gan.recipes import RECIPES

RULES = Rules.of("mnist")
Run = Callable[..., tuple[int, str, str]]


class Stub:
    """Takes no time to train; its distance falls as images are seen."""

    def __init__(self, quick: int = 100, diverges_at: int = 10**9, evaluation_seconds: float = 0.0) -> None:
        self.recipe = RECIPES["mlp"]
        self.dataset = None
        self.place = Place(0, 1, torch.device("cpu"))
        self.images_seen = 0
        self.quick = quick
        self.diverges_at = diverges_at
        self.evaluation_seconds = evaluation_seconds

    def train(self, images: int) -> None:
        if images > self.diverges_at:
            raise DivergedError
        self.images_seen = -(-images // 64) * 64

    def generator(self) -> nn.Module:
        return nn.Identity()


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Evaluate by the images seen alone, and note when."""
    looked: list[int] = []

    def distance(trainee: Stub, _judge: object, _seed: int) -> float:
        time.sleep(trainee.evaluation_seconds)
        looked.append(trainee.images_seen)
        return 1e6 * trainee.quick / trainee.images_seen

    monkeypatch.setattr(course, "distance_of", distance)
    return looked


def reach(trainee: Stub, rules: Rules = RULES) -> Seed:
    return reach_target(trainee, None, rules, 3, lambda _: None)  # type: ignore[arg-type]


def test_a_seed_ends_with_the_first_evaluation_that_meets_the_target(evaluations: list[int]) -> None:
    seed = reach(Stub(evaluation_seconds=0.02))
    assert seed.reached
    assert seed.images == next(images for images in evaluations if 1e8 / images <= RULES.target)
    assert evaluations[0] == 1024
    assert all(1.1 <= after / before < 1.17 for before, after in itertools.pairwise(evaluations))
    assert seed.seconds < 0.01 * len(evaluations), "evaluations are not timed"


def test_a_seed_fails_after_the_most_images_or_when_it_diverges(evaluations: list[int]) -> None:
    rules = replace(RULES, most=5000)
    failed = reach(Stub(), rules)
    assert (failed.reached, failed.diverged) == (False, False)
    assert failed.images == evaluations[-1] == 5056
    diverged = reach(Stub(diverges_at=1500))
    assert (diverged.reached, diverged.diverged) == (False, True)
    assert diverged.images <= 1500
    assert diverged.seconds > diverged.course[-1].seconds, "what was trained until it diverged costs its time"


environment = cache(session_environment)


def submission_of(images: list[int], failed: int = 0) -> Submission:
    seeds = [
        Seed(number, True, False, (Point(seen // 2, 1.0, 2e3), Point(seen, 2.0, 1e3)))
        for number, seen in enumerate(images)
    ]
    lost = Seed(0, False, False, (Point(RULES.most, 9.0, 2e3),))
    seeds += [replace(lost, seed=len(images) + number) for number in range(failed)]
    settings = {"device": "cpu", "precision": "fp32", "compile": "no", "threads": 2}
    row = RECIPES["mlp"].to_json()
    return Submission("mlp", row, 64, "core", settings, RULES, tuple(seeds), environment())


def scheduled(evaluations: list[int], failed: int = 0) -> Submission:
    """A submission by the rules.

    Args:
        evaluations: How many each seed took to the target.
        failed: So many seeds more did not meet it.
    """

    def course(most: int, last_fid: float) -> tuple[Point, ...]:
        images = [0]
        while len(images) <= most and images[-1] < RULES.most:
            images.append(-(-RULES.next_evaluation(images[-1]) // 64) * 64)
        return (*(Point(seen, seen / 1e3, 2e3) for seen in images[1:-1]), Point(images[-1], 3e3, last_fid))

    lost = [False] * len(evaluations) + [True] * failed
    courses = [*(course(count, 1e3) for count in evaluations), *(course(10**9, 2e3) for _ in range(failed))]
    seeds = [
        Seed(number, not is_lost, False, points)
        for number, (is_lost, points) in enumerate(zip(lost, courses, strict=True))
    ]
    return replace(submission_of([]), seeds=tuple(seeds))


def test_failed_seeds_are_counted_and_cost_their_time() -> None:
    submission = submission_of([1000, 2000], failed=1)
    assert submission.num_failed == 1
    assert submission.seconds_per_success == (2 + 2 + 9) / 2
    assert submission_of([], failed=2).seconds_per_success == float("inf")
    assert Interval.of([1.0, 2.0, 3.0]).half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # t of 2 degrees


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    submission = submission_of([1000, 2000], failed=1)
    write_submission(tmp_path / "a.json", submission)
    assert read_submission(tmp_path / "a.json") == submission
    data = submission.to_json()
    for seed in data["seeds"]:
        del seed["revision"]
    assert Submission.of(data) == submission, "older files have no revision of a seed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/1"}, "schema other/1; this version reads gan-time-to-quality/1"),
        ({"seeds": [{"seed": 0}]}, "damaged"),
        ({"rules": {}}, "damaged"),
        ({"environment": {}}, "damaged"),
        ({"seeds": "0"}, "damaged"),
        ({"row": {"discriminator_steps": "some"}}, "damaged"),
        ({"row": {"discriminator_steps": 0}}, r"damaged \(a step takes 0 images\)"),
    ],
)
def test_a_damaged_file_is_one_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**submission_of([1000]).to_json(), **change}))
    with pytest.raises(UsageError, match=message) as caught:
        read_submission(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (
            Seed(0, True, False, (Point(64, 1.0, 1e3), Point(128, 2.0, 1e3))),
            "it went on after it had met",
        ),
        (Seed(0, True, False, (Point(64, 1.0, 2e3),)), "its last evaluation is not what it says"),
        (Seed(0, False, False, (Point(64, 1.0, 2e3),)), "it ended early"),
        (Seed(0, True, False, (Point(64, 2.0, 2e3), Point(128, 1.0, 1e3))), "its images or seconds do not grow"),
    ],
)
def test_a_course_that_contradicts_itself_is_refused(seed: Seed, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_submission(path, replace(submission_of([]), seeds=(seed,)))
    with pytest.raises(UsageError, match=message):
        read_submission(path)


def test_fewer_images_than_the_reference_are_as_doubtful_as_more() -> None:
    rng = np.random.default_rng(0)

    def seeds(scale: float = 1.0, count: int = 10, failed: int = 0) -> Submission:
        return submission_of([int(scale * 1e6 * factor) for factor in rng.lognormal(0, 0.1, count)], failed)

    reference = seeds()
    assert compare(seeds(), reference).word == CONSISTENT
    assert compare(reference, reference).word == CONSISTENT
    assert compare(seeds(0.7), reference).word == FEWER
    assert compare(seeds(1.4), reference).word == MORE
    assert compare(seeds(count=3, failed=7), reference).word == MORE
    assert compare(seeds(0.2, count=4), reference).word == UNDECIDED
    assert compare(submission_of([], failed=10), submission_of([], failed=10)).word == CONSISTENT
    result = compare(seeds(0.7, count=40), seeds(count=40))
    assert result.low < 0.7 < result.high
    assert result.high - result.low < 0.1
    wrong = sum(compare(seeds(), seeds()).word != CONSISTENT for _ in range(300))
    assert wrong <= 10, "1 % is expected"


def test_a_submission_is_checked_against_its_recipes_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAN_BENCH_REFERENCES", str(tmp_path / "reference"))
    path = tmp_path / "mine.json"
    evaluations = [10 + number for number in range(10)]
    write_submission(path, scheduled(evaluations))
    with pytest.raises(UsageError, match=r"mlp-mnist\.json does not exist; make it"):
        check_submission(path, make=False)
    assert check_submission(path, make=True) == 0
    assert check_submission(path, make=False) == 0
    write_submission(path, scheduled([count - 7 for count in evaluations]))
    assert check_submission(path, make=False) == 1
    assert "fewer images: 0.48 times the images of the reference" in capsys.readouterr().out
    write_submission(path, replace(scheduled(evaluations), batch_size=128))
    assert check_submission(path, make=False) == 0
    assert "mlp: by the rules; a recipe of its own, which has no reference points" in capsys.readouterr().out
    trial = replace(scheduled([10]), rules=replace(RULES, most=5000))
    write_submission(path, trial)
    with pytest.raises(UsageError, match="not by the rules, but a trial"):
        check_submission(path, make=False)
    chosen = scheduled(evaluations)
    write_submission(path, replace(chosen, seeds=chosen.seeds[1:]))
    with pytest.raises(UsageError, match=r"none of 0, 1, 2, \.\.\. may be left out"):
        check_submission(path, make=False)
    write_submission(path, scheduled([10]))
    with pytest.raises(UsageError, match="has 1 seeds; a reference has 10"):
        check_submission(path, make=True)
    write_submission(path, scheduled([*evaluations, 50]))
    with pytest.raises(UsageError, match="has 11 seeds; by the rules there are 10"):
        check_submission(path, make=False)
    write_submission(path, scheduled([], failed=10))
    with pytest.raises(UsageError, match="no seed met the target, so no submission could be compared with it"):
        check_submission(path, make=True)
    write_submission(path, replace(scheduled(evaluations), settings={}))
    with pytest.raises(UsageError, match="a reference is in fp32 without a compiler"):
        check_submission(path, make=True)


@pytest.mark.parametrize(
    ("evaluation", "images", "complaint"),
    [
        (0, None, "seed 1: evaluated after 1,152 images; by the rules it is after 1,000"),
        (2, None, "seed 1: evaluated after 1,408 images; by the rules it is after 1,267"),
        (0, 960, "seed 1: evaluated after 960 images; by the rules it is after 1,000"),
        (1, 1190, "seed 1: evaluated after 1,190 images; by the rules it is after 1,126"),
        (1, 1189, ""),
    ],
)
def test_evaluations_are_those_of_the_rules(
    evaluation: int, images: int | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is left out, or comes when the step before it, or one after it, has ended."""
    monkeypatch.setenv("GAN_BENCH_REFERENCES", str(tmp_path / "reference"))
    submission = scheduled([5] * 10)
    assert [point.images for point in submission.seeds[1].course] == [1024, 1152, 1280, 1408, 1600]
    course = list(submission.seeds[1].course[:4])
    moved = course.pop(evaluation)
    if images is not None:
        course.insert(evaluation, replace(moved, images=images))
    course[-1] = replace(course[-1], fid=1e3)
    if images == 1189:
        course = course[:2]
        course[-1] = replace(course[-1], fid=1e3)
    seeds = list(submission.seeds)
    seeds[1] = replace(seeds[1], course=tuple(course))
    path = tmp_path / "mine.json"
    write_submission(path, replace(submission, seeds=tuple(seeds)))
    with pytest.raises(UsageError, match=complaint or "does not exist; make it"):
        check_submission(path, make=False)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, evaluations: list[int], tmp_path: Path) -> list[int]:
    """Train stubs; note the seeds."""
    trained: list[int] = []

    def stub(options: object) -> Stub:
        trained.append(options.seed)  # type: ignore[attr-defined]
        return Stub()

    monkeypatch.setitem(quality_command.TRAINEES, "core", stub)
    monkeypatch.setattr(quality_command, "judge_for", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for name in quality_command._environment(QualityOptions()):
        monkeypatch.setenv(name, "")  # which the command sets, to be restored
    return trained


def stopped_by(number: int, at_seed: int) -> Callable[..., Seed]:
    """Return what trains a seed, but for one, at which the process gets a signal."""

    def reach_or_stop(trainee: Stub, judge: None, rules: Rules, seed: int, say: object) -> Seed:
        if seed == at_seed:
            signal.raise_signal(number)
        return reach_target(trainee, judge, rules, seed, say)  # type: ignore[arg-type]

    return reach_or_stop


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "TERM"],
)
def test_what_is_kept_is_said_as_it_is(
    number: int, code: int, word: str, stubs: list[int], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("results/time-to-quality/mlp-mnist-core.json")
    monkeypatch.setattr(quality_command, "reach_target", stopped_by(number, at_seed=0))
    ended, _, errors = command("time-to-quality", "--seeds", 2)
    assert (ended, errors.splitlines()[-1]) == (code, f"{word}; no seed was done, so nothing was written")
    assert not path.exists()
    monkeypatch.setattr(quality_command, "reach_target", stopped_by(number, at_seed=1))
    ended, _, errors = command("time-to-quality", "--seeds", 2)
    kept = f"1 seed is done and kept in {path}; --continue goes on"
    assert (ended, errors.splitlines()[-1]) == (code, f"{word}; {kept}")
    assert len(read_submission(path).seeds) == 1


def test_seeds_that_are_done_survive_an_interruption(
    stubs: list[int], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("results/time-to-quality/mlp-mnist-core.json")

    with monkeypatch.context() as patch:
        patch.setattr(quality_command, "reach_target", stopped_by(signal.SIGINT, at_seed=2))
        code, _, errors = command("time-to-quality", "--seeds", 4)
    assert code == 130
    assert errors.splitlines()[-1] == f"interrupted; 2 seeds are done and kept in {path}; --continue goes on"
    assert [seed.seed for seed in read_submission(path).seeds] == [0, 1]
    before = path.read_bytes()
    code, _, errors = command("time-to-quality", "--seeds", 4)
    assert (code, errors) == (2, f"error: {path}: exists; go on with it by --continue, or name another --output\n")
    code, _, errors = command(
        "time-to-quality", "--seeds", 4, "--continue", "--output", path, "--set", "latent_dim=50"
    )
    assert code == 2
    assert "was begun with another row; name another --output" in errors
    assert path.read_bytes() == before
    stubs.clear()
    begun_at = read_submission(path).seeds[0].revision
    elsewhere = {**environment(), "git": {"revision": "f" * 40, "dirty": True}}
    monkeypatch.setattr(quality_command, "session_environment", lambda: elsewhere)
    code, out, _ = command("time-to-quality", "--seeds", 4, "--continue")
    assert code == 0
    assert [seed.seed for seed in read_submission(path).seeds] == [0, 1, 2, 3]
    assert [seed.revision for seed in read_submission(path).seeds] == [begun_at] * 2 + [f"{'f' * 40}+"] * 2
    assert stubs == [2, 3]
    assert out.splitlines()[-1] == str(path)


def test_a_full_disk_is_said_with_what_is_kept(
    stubs: list[int], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 would say that a seed did not meet the target."""

    def write(path: Path, submission: Submission) -> None:
        if len(submission.seeds) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_submission(path, submission)

    monkeypatch.setattr(quality_command, "write_submission", write)
    code, _, errors = command("time-to-quality", "--seeds", 3, "--output", "a.json")
    assert code == 2
    kept = "1 seed is done and kept in a.json; --continue goes on"
    assert errors.splitlines()[-1] == f"error: a.json: No space left on device; {kept}"


def refuse(*_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_complete_file_of_another_machine_is_shown_and_not_gone_on_with(
    stubs: list[int], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("results/time-to-quality/mlp-mnist-core.json")
    assert command("time-to-quality", "--seeds", 2)[0] == 0
    kept = read_submission(path)
    elsewhere = {**kept.environment, "platform": "elsewhere"}
    write_submission(path, replace(kept, environment=elsewhere, settings={**kept.settings, "threads": 99}))
    before = path.read_bytes()
    stubs.clear()
    with monkeypatch.context() as patch:
        patch.setattr("bench.regress.command.try_writing", refuse)
        patch.setattr(quality_command, "DirectoryLock", refuse)
        code, out, _ = command("time-to-quality", "--seeds", 2, "--continue")
    assert (code, out.splitlines()[-1]) == (0, str(path))
    begun = f"error: --continue: {path} was begun with another settings"
    for asked, differs in {
        ("--seeds", 3): ", platform;",
        ("--seeds", 2, "--output", path, "--precision", "bf16"): ";",
    }.items():
        code, _, errors = command("time-to-quality", *asked, "--continue")
        assert code == 2
        assert errors.startswith(begun + differs)
    assert stubs == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "mlp-mnist-core.json"),
        (
            {"set": ("latent_dim=50", "generator.widths=64,64")},
            "mlp-mnist-core-latent_dim=50-generator.widths=64,64.json",
        ),
        ({"set": ("loss=a/b c",)}, "mlp-mnist-core-loss=a_b_c.json"),
        ({"most_images": 3000}, "mlp-mnist-core-3000-images.json"),
    ],
)
def test_other_settings_have_a_file_of_their_own(asked: dict[str, Any], name: str) -> None:
    assert QualityOptions(**asked).path.name == name


def test_many_settings_fit_into_the_name_of_a_file() -> None:
    """With a lock or the number of a process behind it."""
    settings = [f"optimizer.learning_rate={number}.000000000001" for number in range(20)]
    names = {QualityOptions(set=(*settings, last)).path.name for last in ("latent_dim=9", "latent_dim=8")}
    assert len(names) == 2
    assert max(map(len, names)) < 220


def test_a_batch_that_is_refused_is_named_by_the_option_of_this_command(
    stubs: list[int], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise UsageError("--batch-size 1798 × 1 processes: more than the 1797 images of digits; at most 1797")

    monkeypatch.setitem(quality_command.TRAINEES, "core", refuse)
    code, _, errors = command("time-to-quality", "--set", "batch_size=1798")
    assert code == 2
    assert errors.startswith("error: --set batch_size=1798 × 1 processes: more than the 1797 images")


def test_a_file_that_another_run_is_writing_is_left_alone(stubs: list[int], command: Run) -> None:
    """Both runs begin before either has a seed to keep."""
    folder = Path("results/time-to-quality")
    folder.mkdir(parents=True)
    with DirectoryLock(folder, ".mlp-mnist-core.json.lock"):
        code, _, errors = command("time-to-quality", "--seeds", 1)
        assert code == 2
        assert errors.startswith(f"error: mlp-mnist-core.json in {folder}: in use by process ")
        assert errors.endswith("; wait for it, or name another --output\n")
        assert command("time-to-quality", "--seeds", 1, "--output", folder / "mine.json")[0] == 0
    assert command("time-to-quality", "--seeds", 1)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["mine.json", "mlp-mnist-core.json"]


def test_a_seed_that_failed_is_shown_and_ends_with_1(stubs: list[int], command: Run) -> None:
    code, out, _ = command("time-to-quality", "--seeds", 2, "--most-images", 3000, "--output", "trial.json")
    assert code == 1
    assert stubs == [0, 1]
    row = next(line for line in out.splitlines() if "mlp on mnist, core" in line)
    assert row.split()[4:6] == ["2", "2"]
    code, out, _ = command("time-to-quality", "--seeds", 2, "--output", "b.json", "--against", "trial.json")
    assert code == 0
    assert "by other rules, so the two do not compare" in out


def test_seeds_of_another_device_are_not_recorded_as_of_the_one_that_was_asked_for(
    stubs: list[int], command: Run
) -> None:
    """The stubs train on the CPU, as everything does on a machine without a GPU."""
    code, _, errors = command("time-to-quality", "--seeds", 1, "--device", "cuda", "--output", "gpu.json")
    assert code == 2
    assert errors == "error: --device cuda: there is none here, and training would run on cpu\n"
    assert not Path("gpu.json").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--dataset cifar10", "--dataset cifar10: unknown"),
        ("--seeds 0", "--seeds 0: must be at least 1"),
        ("--subject plain --precision bf16", "--precision bf16: the plain loop is always fp32 and eager"),
        ("--subject mine", "--subject mine: unknown"),
        ("--recipe mpl", "--recipe mpl: unknown; did you mean mlp?"),
        ("--against nowhere.json", "nowhere.json: not found"),
    ],
)
def test_bad_input_is_one_line(
    line: str, message: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("time-to-quality", *line.split())
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_both_loops_train_the_images_that_they_count() -> None:
    """In an epoch of 1,797 digits the last of 18 batches has 97."""
    options = QualityOptions(recipe="mlp-compact", dataset="digits").train_options(0)
    for kind in (CoreTrainee, PlainTrainee):
        trainee = kind(options)
        before = [parameter.clone() for parameter in trainee.generator().parameters()]
        trainee.train(1700)
        assert trainee.images_seen == 1700
        trainee.train(1701)
        assert trainee.images_seen == 1797
        trainee.train(1798)
        assert trainee.images_seen == 1897
        assert all(not torch.equal(a, b) for a, b in zip(before, trainee.generator().parameters(), strict=True))


@pytest.mark.parametrize("subject", TRAINEES)
def test_an_evaluation_changes_nothing_of_the_training_after_it(subject: str) -> None:
    """The plain loop draws from the generator that an evaluation seeds."""
    options = QualityOptions(recipe="mlp-compact", dataset="digits").train_options(0)

    def weights(*, evaluated: bool) -> list[torch.Tensor]:
        trainee = TRAINEES[subject](options)
        trainee.train(200)
        if evaluated:
            distance_of(trainee, judge_for(trainee, Rules.of("digits")), 0)
        trainee.train(500)
        return [parameter.detach() for parameter in trainee.generator().parameters()]

    assert all(map(torch.equal, weights(evaluated=True), weights(evaluated=False)))


def test_the_plain_loop_draws_images_as_the_row_does() -> None:
    """With replacement, an epoch has some images twice, and others not at all."""
    images = torch.arange(240, dtype=torch.uint8).reshape(240, 1, 1, 1)
    for sampling, least, most in (("shuffle", 240, 240), ("with-replacement", 120, 180)):
        recipe = replace(RECIPES["mlp-compact"], sampling=Sampling(sampling))
        batches = _batches(recipe, images, torch.zeros(240, dtype=torch.int64), 24, torch.device("cpu"))
        drawn = torch.cat([next(batches)[0][0] for _ in range(10)])
        assert least <= len(drawn.unique()) <= most


@pytest.mark.parametrize(
    ("recipe", "settings", "complaint"),
    [
        ("mlp-compact", ("ema_half_life=500",), "has no average of G with the row's half-life, so it would not"),
        ("r3gan", (), "has no schedules and no average of G .* train r3gan; use core"),
        ("mlp-compact", ("mirror=yes",), "has no mirrored images"),
        ("quickstart", ("batch_size=1798",), "--batch-size 1798 .* more than the 1797 images of digits"),
    ],
)
def test_the_plain_loop_refuses_what_it_would_not_train(
    recipe: str, settings: tuple[str, ...], complaint: str
) -> None:
    """A row that it would train as another GAN, and a batch that the dataset has not: it would wait for ever."""
    options = QualityOptions(recipe=recipe, dataset="digits", set=settings).train_options(0)
    with pytest.raises(UsageError, match=complaint):
        PlainTrainee(options)
