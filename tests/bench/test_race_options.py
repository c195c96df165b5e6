"""The options of a race: who takes part, in which settings, and which input is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.race.contenders import Contender, in_order, shared_settings
from bench.race.options import RACE_OPTIONS, settings_of
from bench.suite.cases import Case
from bench.turns.specs import spec_of
from gan.command_line import parse
from gan.errors import UsageError
from tests.conftest import ROOT
from tests.documents import commands

Command = Callable[..., tuple[int, str, str]]


def test_contenders_are_called_by_what_differs() -> None:
    def names(*contenders: Contender) -> list[str]:
        return [one.name for one in in_order(contenders).values()]

    assert names(Contender(Case()), Contender(Case(subject="plain"))) == ["core", "plain"]
    assert names(Contender(Case()), Contender(Case(precision="bf16"))) == [
        "core fp32",
        "core bf16",
    ]
    assert names(Contender(Case()), Contender(Case())) == ["core (A)", "core (B)"]
    two = in_order([Contender(Case(precision="bf16")), Contender(Case(batch_size=8))])
    assert shared_settings(two) == "mlp, cpu, eager, p1"


def contenders_of(*arguments: str) -> list[Contender]:
    return list(settings_of(parse(RACE_OPTIONS, "race", arguments)).contenders.values())


def test_an_axis_has_one_value_for_all_or_one_for_each() -> None:
    fast, slow = contenders_of("core", "core", "--precision", "fp32,bf16", "--recipe", "mlp-compact")
    assert (fast.case.precision, slow.case.precision) == ("fp32", "bf16")
    assert fast.case.recipe == slow.case.recipe == "mlp-compact"
    assert (fast.name, slow.name) == ("core fp32", "core bf16")
    one, two = contenders_of("core", "core", "--batch-size", "8", "--batch-size", "16")
    assert (one.case.batch_size, two.case.batch_size) == (8, 16)
    assert contenders_of("core", "core", "--recipe", "dcgan", "--device", "cpu")[0].case.batch_size == 8


@pytest.mark.parametrize("documented", commands("python", "-m", "bench", "race"), ids=str)
def test_documented_races_are_possible(documented: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_gan.py").touch()
    Path("docs").symlink_to(ROOT / "docs")
    if "--replay" not in documented.words:
        assert len(contenders_of(*documented.words[4:])) > 1


def test_a_subject_of_somebody_s_has_a_recipe_if_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_gan.py").touch()
    mine, core = contenders_of("my_gan.py:make", "core")
    assert (mine.case.recipe, core.case.recipe, mine.name, core.name) == ("", "mlp", "my_gan.py:make", "core mlp")
    mine, core = contenders_of("my_gan.py:make", "core", "--recipe", "dcgan", "--image-shape", "3x32x32")
    setup = spec_of(mine.case).setup
    assert (setup["recipe"], setup["image_shape"], setup["batch_size"]) == ("dcgan", (3, 32, 32), 8)
    assert core.name == "core"
    with pytest.raises(UsageError, match="a subject's micro-batches are its own"):
        contenders_of("my_gan.py:make", "core", "--accumulate", "2")


def test_a_name_has_of_a_path_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "the other"):
        Path(folder).mkdir()
        Path(folder, "my_gan.py").touch()
    names = [one.name for one in contenders_of("one/my_gan.py:make", "the other/my_gan.py:make", "core")]
    assert names == ["my_gan.py:make (A)", "my_gan.py:make (B)", "core mlp"]


def test_contenders_may_differ_in_a_field_of_the_recipe() -> None:
    one, two = contenders_of("core", "core", "--set", "optimizer.learning_rate=1e-4,2e-4")
    assert (one.case.set, two.case.set) == (("optimizer.learning_rate=1e-4",), ("optimizer.learning_rate=2e-4",))
    assert two.name == "core optimizer.learning_rate=2e-4"
    assert spec_of(two.case).options["set"] == ("optimizer.learning_rate=2e-4",)
    with pytest.raises(UsageError, match=r"optimizer\.rate"):
        contenders_of("core", "core", "--set", "optimizer.rate=1e-4")


def test_a_recipe_of_a_file_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from dataclasses import replace\nfrom gan.recipes import RECIPES\n"
    Path("tiny.py").write_text(text + "TINY = replace(RECIPES['mlp'], batch_size=12)\n")
    core, plain = contenders_of("core", "plain", "--recipe", "tiny.py")
    assert core.case.batch_size == plain.case.batch_size == 12


def test_the_plain_loop_is_what_it_is() -> None:
    core, plain = contenders_of("core", "plain", "--precision", "bf16")
    assert (core.name, plain.name) == ("core bf16", "plain fp32")
    assert contenders_of("core", "plain", "--accumulate", "4")[1].case.accumulate == 4  # or it had other updates
    with pytest.raises(UsageError, match="--precision bf16 for plain: the plain loop always has fp32"):
        contenders_of("core", "plain", "--precision", "fp32,bf16")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "race : name two contenders or more"),
        (("core",), "race core: name two contenders or more, as in: race core plain"),
        (("core",) * 9, "race: 9 contenders; at most 8"),
        (("core", "korr"), "korr: no such subject; give core, plain"),
        (("core", "nothing.py:make"), "nothing.py:make: nothing.py is no file"),
        (("core", "my_gan.py:"), "my_gan.py:: '' is no name of a function; give FILE.py:NAME"),
        (("core", "plain", "--recipe", "mpl"), "--recipe mpl: unknown; did you mean mlp?"),
        (
            ("core", "plain", "--recipe", "wgan-small"),
            "--recipe wgan-small: no recipe, but what benchmarks call wgan with small networks; take "
            "--recipe wgan, and for small networks --set generator.channels=4 --set discriminator.channels=4\n",
        ),
        (("core", "core", "--precision", "fp32,bf17"), "--precision bf17: unknown; did you mean bf16?"),
        (
            ("core", "plain", "core", "--precision", "fp32,bf16"),
            "--precision fp32,bf16: 2 values for 3 contenders; give one, or one for each",
        ),
        (("core", "core", "--batch-size", "0"), "--batch-size 0: must be a whole number of at least 1"),
        (("core", "core", "--precision", "fp16", "--device", "cpu"), "race core: fp16 needs a GPU"),
        (("core", "core", "--num-processes", "999", "--device", "cpu"), "race core: 999 processes, but "),
        (("core", "plain", "--pairs", "0"), "--pairs 0: must be from 1 to 1000"),
        (("core", "plain", "--budget", "5"), "--budget 5: must be a time, as in 90s, 10m or 2h"),
        (("core", "plain", "--stall-timeout", "0s"), "--stall-timeout 0s: must be a time"),
        (
            ("core", "plain", "--output", "nowhere/race.json"),
            "--output nowhere/race.json: nowhere is no directory",
        ),
        (
            ("core", "plain", "--html", "x.html", "--markdown", "x.html"),
            "--html x.html: the same file is --markdown's",
        ),
        (("core", "plain", "--replay", "x.json"), "core plain: --replay measures nothing anew"),
        (("--replay", "x.json", "--batch-size", "8"), "--batch-size 8: --replay measures nothing anew"),
        (("--replay", "x.json", "--pairs", "20"), "--pairs 20: --replay measures nothing anew"),
        (("--replay", "x.json"), "x.json: not found"),
        (("core", "plain", "--presicion", "bf16"), "--presicion: no such option; did you mean --precision?"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_measured(
    arguments: tuple[str, ...], line: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.race.command.measure_race", lambda *_: pytest.fail("it measures"))
    code, printed, errors = command("race", *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {line}"), errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("race", "core", "mine.py:make"),
        ("race", "core", "plain", "--recipe", "mine.py"),
        ("tune", "--recipe", "mine.py"),
        ("predict", "--recipe", "mine.py"),
    ],
    ids=" ".join,
)
def test_what_is_measured_replaces_no_file_that_it_reads(
    arguments: tuple[str, ...], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = (ROOT / "docs" / "examples" / "recipes" / "dcgan_small.py").read_bytes()
    Path("mine.py").write_bytes(recipe)
    for module, name in (("race", "measure_race"), ("tune", "tune_recipe"), ("predict", "rehearsals")):
        monkeypatch.setattr(f"bench.{module}.command.{name}", lambda *_: pytest.fail("it measures"))
    code, _, errors = command(*arguments, "--output", "mine.py")
    assert (code, errors) == (2, "error: --output mine.py: the same file is read; name another\n")
    assert Path("mine.py").read_bytes() == recipe
