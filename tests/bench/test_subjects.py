"""Subjects: how they are named, what they lack, and how a process of a launch pair takes their steps."""

import hashlib
from pathlib import Path

import pytest
import torch

from bench.subjects.load import (
    ENTRY_POINTS,
    build_subject,
    load_subject,
    measured_subject,
    require_named,
    short_name,
    source_of,
)
from bench.subjects.measured import MeasuredSubject
from bench.subjects.plain import make as make_plain
from bench.subjects.subject import OPTIONAL, Setup, SetupRefusedError, SubjectError, missing_offers
from bench.turns import messages as m
from bench.turns.side import MeasuredSide

COUNTING = """
from dataclasses import dataclass, field

@dataclass
class Counting:
    images_per_step: int
    steps: list = field(default_factory=list)

    def step(self):
        self.steps.append(len(self.steps))

    def losses(self):
        return {"loss_d": 0.5 * len(self.steps)}

def make(setup):
    return Counting(setup.batch_size)

def nothing(setup):
    return None

number = 3

def without_step(setup):
    return type("Images", (), {"images_per_step": 1})()

def images(number):
    def build(setup):
        return Counting(number)
    return build

none = images(0)
negative = images(-1)
half = images(0.5)
true = images(True)

def takes_nothing():
    return Counting(1)

def step_takes_a_batch(setup):
    return type("Batch", (), {"images_per_step": 1, "step": lambda self, batch: None})()

def raises(setup):
    values = {}
    return values["missing"]

def ends(setup):
    raise SystemExit("bye")

def refuses(setup):
    from bench.subjects.subject import SubjectError
    raise SubjectError("only in fp32")

class Wrong(Counting):
    def step(self):
        raise MemoryError
    def networks(self):
        return {"generator": 3}
    def optimizers(self):
        return [1]
    def losses(self):
        import torch
        return {"loss_d": torch.zeros(2)}

def wrong(setup):
    return Wrong(1)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "counting.py").write_text(COUNTING, encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no\\nmore')", encoding="utf-8")
    (tmp_path / "syntax.py").write_text("def make(", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("spec", ["counting.py:make", "counting:make"])
def test_a_subject_comes_from_a_file_or_a_module(spec: str, place: Path) -> None:
    subject = build_subject(spec, Setup(batch_size=7), place)
    assert subject.images_per_step == 7
    assert missing_offers(subject).keys() == OPTIONAL.keys() - {"losses"}


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("missing.py:make", "missing.py is no file"),
        ("counting.py:other", "has no function other; it has Counting, make, nothing"),
        ("counting.py:number", "has no function number"),
        ("counting.py:", "'' is no name of a function; give FILE.py:NAME or package.module:NAME"),
        ("counting.py:nothing", "returned NoneType, which lacks images_per_step"),
        ("broken.py:make", "importing broken.py raised at broken.py:1: RuntimeError: no more"),
        ("no.such.module:make", "importing no.such.module raised: ModuleNotFoundError: No module named 'no'"),
        ("counting.py:mke", "has no function mke; did you mean make?"),
        ("counting.py:without_step", "returned Images, which lacks step()"),
        (
            "counting.py:none",
            "images_per_step is 0; give the real images of a step in this process, a whole",
        ),
        ("counting.py:negative", "images_per_step is -1; give"),
        ("counting.py:half", "images_per_step is 0.5; give"),
        ("counting.py:true", "images_per_step is True; give"),
        ("counting.py:takes_nothing", "takes_nothing() takes a Setup and nothing else; its signature is ()"),
        ("counting.py:step_takes_a_batch", "step() takes nothing; its signature is (batch)"),
        ("counting.py:raises", "raises() raised at counting.py:44: KeyError: 'missing'"),
        ("counting.py:ends", "ends() raised at counting.py:47: SystemExit: bye"),
        ("counting.py:refuses", "only in fp32"),
        ("syntax.py:make", "importing syntax.py raised: SyntaxError: '(' was never closed (syntax.py, line 1)"),
        ("korr", "no such subject; give core, plain, FILE.py:NAME or package.module:NAME"),
    ],
)
def test_what_is_no_subject_is_refused_in_one_line(spec: str, line: str, place: Path) -> None:
    with pytest.raises(SubjectError) as error:
        build_subject(spec, Setup(), place)
    assert line in str(error.value)
    assert str(error.value).startswith(f"{spec}: ")
    assert "\n" not in str(error.value)


def test_a_side_takes_a_subjects_steps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)  # a side goes to its place, and this process comes back
    side = MeasuredSide(m.Start(0, 0, 0.0, str(place), has_gan=False))
    spec = m.CaseSpec("step", {}, {}, "counting.py:make", {"batch_size": 5, "image_shape": [1, 8, 8]})
    prepared = side.obey(m.Prepare(spec))
    assert prepared.images_per_step == 5
    assert prepared.num_parameters is None
    assert prepared.configuration["image_shape"] == [1, 8, 8]
    assert side.obey(m.TakeWindow(3)).num_compilations == 0
    assert side.obey(m.ReadLosses()) == m.Losses({"loss_d": 2.0})
    side.drop()


def test_the_plain_loop_is_a_subject() -> None:
    subject = MeasuredSubject(load_subject("plain")(Setup(recipe="mlp", batch_size=4)), Setup(recipe="mlp"))
    next(subject.steps())
    losses = subject.losses()
    assert losses is not None
    assert losses.keys() == {"loss_d", "loss_g"}


def test_what_a_subject_says_that_cannot_be_what_is_asked_for_is_no_failure(place: Path) -> None:
    with pytest.raises(SetupRefusedError):
        build_subject("counting.py:refuses", Setup(), place)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("step", "counting.py:wrong: step() raised at counting.py:55: MemoryError"),
        ("networks", "counting.py:wrong: networks() returned a mapping with int; give modules of torch.nn"),
        ("optimizers", "counting.py:wrong: optimizers() returned list; give a mapping by name"),
        ("losses", "losses() returned a mapping with a tensor of the shape (2,); give losses of one element"),
    ],
)
def test_parts_that_are_not_as_they_should_be_are_said_in_one_line(part: str, line: str, place: Path) -> None:
    subject = measured_subject("counting.py:wrong", Setup(), place)
    with pytest.raises(SubjectError) as error:
        getattr(subject, part)()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_an_installed_package_names_its_subjects(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = tmp_path_factory.mktemp("site")
    (installed / "their_gan.py").write_text(COUNTING, encoding="utf-8")
    metadata = installed / "their_gan-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-gan\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\ntheirs = their_gan:make\n", encoding="utf-8")
    monkeypatch.syspath_prepend(installed)
    require_named("theirs", place)
    assert build_subject("theirs", Setup(batch_size=9), place).images_per_step == 9
    assert source_of("theirs", place)["file"] == str(installed / "their_gan.py")
    with pytest.raises(SubjectError, match="their: no such subject; did you mean theirs"):
        require_named("their", place)


def test_the_file_of_a_subject_is_recorded_with_its_hash(place: Path) -> None:
    build_subject("counting.py:make", Setup(), place)
    expected = hashlib.sha256(COUNTING.encode()).hexdigest()
    assert source_of("counting.py:make", place) == {"file": str(place / "counting.py"), "sha256": expected}


def test_nothing_of_a_subject_is_run_to_know_its_name(place: Path) -> None:
    require_named("broken.py:make", place)
    assert short_name(str(place / "counting.py:make")) == "counting:make"


def test_steps_of_the_plain_loop_are_those_of_its_recipe() -> None:
    subject = measured_subject("plain", Setup(recipe="mlp", batch_size=4))
    before = [weights.clone() for weights in (subject.networks() or {})["generator"].parameters()]
    subject.step()
    after = list((subject.networks() or {})["generator"].parameters())
    assert not any(map(torch.equal, before, after))
    assert not missing_offers(subject.subject).keys() - {"float64_step"}
    for setup in (Setup(), Setup(recipe="mlp", precision="bf16"), Setup(recipe="mlp", world_size=2)):
        with pytest.raises(SetupRefusedError, match="plain: the plain loop"):
            build_subject("plain", setup)


@pytest.mark.parametrize(
    ("setup", "sizes"),
    [
        (Setup(recipe="mlp", batch_size=7000), [7000, 7000]),  # of 10,000 images: no batch of the other 3,000
        (Setup(recipe="mlp", batch_size=1500, options={"accumulate": 2}), [3000] * 5),
        (Setup(recipe="wgan", batch_size=1500), [1500] * 10),
    ],
)
def test_all_steps_of_the_plain_loop_take_as_many_images(
    setup: Setup, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def step(*arguments: object) -> list[float]:
        taken.extend(map(len, arguments[5]))  # type: ignore[call-overload]
        return [0.0] * 4

    monkeypatch.setattr("bench.subjects.plain.plain_step", step)
    loop = make_plain(setup)
    while len(taken) < len(sizes):
        loop.step()
    assert taken == sizes
    assert sum(taken) % loop.images_per_step == 0


def test_a_step_of_the_plain_loop_takes_no_more_than_there_is() -> None:
    """It would wait for a whole batch for ever."""
    with pytest.raises(SetupRefusedError, match="a step of the plain loop takes 10001 images of 10000"):
        build_subject("plain", Setup(recipe="mlp", batch_size=10_001, image_shape=(1, 2, 2)))
