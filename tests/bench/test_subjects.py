"""Subjects: how they are named, what they lack, and how a process of a launch pair takes their steps."""

from pathlib import Path

import pytest

from bench.subjects.load import build_subject, load_subject
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import OPTIONAL, Setup, SubjectError, missing_offers
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
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "counting.py").write_text(COUNTING, encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no\\nmore')", encoding="utf-8")
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
        ("korr", "no such subject; give core, plain, FILE.py:NAME or package.module:NAME"),
    ],
)
def test_what_is_no_subject_is_refused_in_one_line(spec: str, line: str, place: Path) -> None:
    with pytest.raises(SubjectError) as error:
        build_subject(spec, Setup(), place)
    assert line in str(error.value)
    assert str(error.value).startswith(f"{spec}: ")
    assert "\n" not in str(error.value)


def test_a_side_takes_a_subjects_steps(place: Path) -> None:
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
