"""A race: its arithmetic, its record, what it says, and which input is refused."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.race.contenders import Contender, in_order, shared_settings
from bench.race.launch import Launches, MemoryGuard
from bench.race.load import CpuTimes
from bench.race.measure import ContenderError, measure_race
from bench.race.options import RACE_OPTIONS, RaceSettings, settings_of
from bench.race.record import Duel, RaceRecord, complaint_of, read_race, write_race
from bench.race.standing import Ratio, failures_of, outcome_of, standings_of
from bench.race.summary import notes_of, sentences_of, table_of
from bench.suite.cases import Case
from bench.turns import messages as m
from bench.turns.ranks import PairError
from bench.turns.specs import spec_of
from gan.command_line import parse
from gan.errors import UsageError
from tests.bench.race_records import NOISE, SLOWER, launch_json, race_json, race_of
from tests.documents import commands

Command = Callable[..., tuple[int, str, str]]


# The arithmetic.


def test_a_contender_with_twice_the_step_time_takes_twice_the_time() -> None:
    duel = Duel((3, 2), ("ABBA", "BAAB"), ((0.012,) * 4, (0.016,) * 4))
    assert duel.log_ratio((64, 64)) == pytest.approx(math.log(2), abs=1e-12)
    assert duel.log_ratio((64, 128)) == pytest.approx(0, abs=1e-12), "with twice the images it is as quick"
    ratio = Ratio.of([duel.log_ratio((64, 64))] * 8)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((2, 2, 2), abs=1e-12)


def test_a_drift_of_the_machine_within_a_quad_is_no_difference() -> None:
    """Each window takes 10 % longer than the one before, and both contenders are alike."""
    at = [0.01 * 1.1**index for index in range(8)]
    abba, baab = at[:4], at[4:]
    first = (abba[0], abba[3], baab[1], baab[2])
    other = (abba[1], abba[2], baab[0], baab[3])
    assert Duel((1, 1), ("ABBA", "BAAB"), (first, other)).log_ratio((8, 8)) == pytest.approx(0, abs=1e-9)


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    """An exact 95 % interval of eight pairs errs in at most 5 % of races, whatever the noise looks like."""
    draw = random.Random(0)
    noises: list[Callable[[], float]] = [
        lambda: draw.gauss(0, 0.01),
        lambda: draw.choice([-1, 1]) * draw.expovariate(50) ** 2 * 10,
    ]
    for noise in noises:
        covered = 0
        for _ in range(1000):
            ratio = Ratio.of([math.log(1.3) + noise() for _ in range(8)])
            covered += ratio.low <= 1.3 <= ratio.high
        assert 0.945 < covered / 1000 < 0.98


def test_too_few_pairs_have_no_interval() -> None:
    assert not Ratio.of(SLOWER[:5]).has_interval
    assert Ratio.of(SLOWER[:6]).has_interval
    assert Ratio.of(SLOWER[:1]).estimate == pytest.approx(2, rel=0.01)


def test_each_contender_is_compared_with_the_first() -> None:
    first, plain, mine = standings_of(race_of(SLOWER, NOISE))
    assert first.ratio is None
    assert plain.ratio
    assert mine.ratio
    assert plain.ratio.estimate == pytest.approx(2, rel=2e-3)
    assert plain.ratio.is_different
    assert not mine.ratio.is_different
    assert first.step_seconds == 0.006
    assert plain.step_seconds == pytest.approx(0.012, rel=0.01)
    assert first.images_per_second == pytest.approx(64 / 0.006)


def test_ratios_are_of_the_time_per_image() -> None:
    record = race_of(SLOWER, b={"images_per_step": 256})
    _, other = standings_of(record)
    assert other.ratio
    assert other.ratio.estimate == pytest.approx(2, rel=2e-3)
    assert other.step_seconds == pytest.approx(0.006 * 2 * 4, rel=0.01)
    assert "images of a step differ (core 64, plain 256)" in " ".join(notes_of(record, standings_of(record)))


# Launches.


class FakeSide:
    """Answers as the processes of a contender would."""

    def __init__(self, letter: str, step_seconds: float, images: Any = 8, losses: Any = None) -> None:
        self.letter, self.step_seconds, self.images, self.losses = letter, step_seconds, images, losses
        self.num_steps, self.windows, self.held_bytes = 0, [], 2**20
        self.answer: Any = None

    def send(self, command: m.SideCommand[Any]) -> None:
        assert isinstance(command, (m.Hello, m.Prepare))
        self.num_steps += isinstance(command, m.Prepare)
        facts = {"python": "3", "gpus": []}
        prepared = m.Prepared(1.5, {"device": "cpu"}, self.images, {"G": 5})
        self.answer = m.Greeting((), facts) if isinstance(command, m.Hello) else prepared

    def ask(self, command: m.SideCommand[Any]) -> list[Any]:
        return [m.Memory(1000) if isinstance(command, m.ReadMemory) else m.Losses(self.losses)]

    def run(self, num_steps: int) -> m.Window:
        self.num_steps += num_steps
        self.windows.append(num_steps)
        TURNS.append(self.letter)
        return m.Window(num_steps * self.step_seconds, 0)

    def resident_bytes(self) -> int:
        return self.held_bytes


TURNS: list[str] = []


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launches]:
    """Return what measures launches of these sides, whose contenders are `core` in cases of their own."""

    def launches_of(*sides: FakeSide, **settings: Any) -> Launches:
        @contextmanager
        def processes(_: object, letters: tuple[str, ...], *__: object) -> Iterator[dict[str, FakeSide]]:
            yield {letters[0]: by_letter[letters[0]]}

        by_letter = {side.letter: side for side in sides}
        TURNS.clear()
        monkeypatch.setattr("bench.race.launch.processes", processes)
        monkeypatch.setattr("bench.race.launch.replace", lambda side, **changes: _replaced(side, changes))
        answers = {"answers_of_all": lambda sides: {name: [side.answer] for name, side in sides.items()}}
        monkeypatch.setattr("bench.race.launch.answers_of_all", answers["answers_of_all"])
        monkeypatch.setattr("bench.turns.ranks.answers_of_all", answers["answers_of_all"])
        contenders = in_order([Contender(Case(batch_size=8 + index)) for index in range(len(sides))])
        chosen = RaceSettings(contenders, **{"most_quads": 12, "num_pairs": 2, **settings})
        return Launches(chosen, dict.fromkeys(contenders), random.Random(0))  # type: ignore[arg-type]

    return launches_of


def _replaced(value: Any, changes: dict[str, Any]) -> Any:
    return value if isinstance(value, FakeSide) else type(value)(**{**vars(value), **changes})


def test_contenders_take_turns_in_quads_of_random_order(launches: Callable[..., Launches]) -> None:
    sides = [FakeSide("a", 0.004), FakeSide("b", 0.002), FakeSide("c", 0.03)]
    launch = launches(*sides).measure()
    assert set(launch.duels) == {"b", "c"}
    assert launch.duels["b"].steps_per_window == (3, 6), "windows are about equally long"
    assert launch.duels["c"].steps_per_window == (8, 1)
    assert {order for duel in launch.duels.values() for order in duel.orders} == {"ABBA", "BAAB"}
    assert launch.log_ratio("b") == pytest.approx(math.log(0.5))
    assert launch.log_ratio("c") == pytest.approx(math.log(7.5))
    quads = "".join(TURNS)
    assert quads.endswith("".join({"ABBA": "acca", "BAAB": "caac"}[order] for order in launch.duels["c"].orders))
    entry = launch.entries["c"]
    assert (entry.images_per_step, entry.startup_seconds, entry.num_parameters) == (8, 1.5, {"G": 5})


def test_losses_are_read_after_the_same_number_of_steps(launches: Callable[..., Launches]) -> None:
    sides = [FakeSide("a", 0.004, losses={"d": 0.5}), FakeSide("b", 0.03)]
    race = launches(*sides)
    first, second = race.measure(), race.measure()
    steps = {entry.early_losses.step for launch in (first, second) for entry in launch.entries.values()}
    assert steps == {1 + 20}, "0.6 s of the slowest, in every launch, after the first step"
    assert first.entries["a"].early_losses.values == {"d": 0.5}
    assert first.entries["b"].early_losses.values is None
    taken = {side.letter: side.num_steps for side in sides}
    for letter, num_steps in taken.items():
        assert first.entries[letter].last_losses.step + second.entries[letter].last_losses.step == num_steps


def test_who_starts_first_is_drawn(launches: Callable[..., Launches]) -> None:
    race = launches(FakeSide("a", 0.004), FakeSide("b", 0.004), FakeSide("c", 0.004))
    assert len({race.measure().started for _ in range(20)}) > 3


@pytest.mark.parametrize("images", [0, -3, "64", 2.5])
def test_a_step_takes_images(images: Any, launches: Callable[..., Launches]) -> None:
    race = launches(FakeSide("a", 0.004), FakeSide("b", 0.004, images=images))
    with pytest.raises(PairError, match="it must be a whole number of at least 1") as caught:
        race.measure()
    assert caught.value.side == "b"


def test_cores_that_others_take_are_counted_apart_from_the_race_s() -> None:
    before = CpuTimes(seconds=100.0, busy_seconds=50.0, own_seconds=10.0, stolen_seconds=1.0)
    after = CpuTimes(seconds=110.0, busy_seconds=65.0, own_seconds=20.0, stolen_seconds=3.0)
    assert after.cores_since(before) == (0.5, 0.2)
    now = CpuTimes.now()
    assert sum(range(2_000_000))
    assert CpuTimes.now().own_seconds > now.own_seconds


def test_who_takes_all_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sides: dict[str, Any] = {"a": FakeSide("a", 0.1), "b": FakeSide("b", 0.1)}
    guard = MemoryGuard(sides)
    sides["a"].held_bytes, sides["b"].held_bytes = 2**21, 2**30
    guard.check()
    monkeypatch.setattr("bench.race.launch.LEAST_FREE_BYTES", 2**60)
    with pytest.raises(
        PairError, match="runs out of memory; it holds 1,024 MiB, and 1 MiB when it was warm"
    ) as end:
        guard.check()
    assert end.value.side == "b"


def test_a_launch_that_fails_is_measured_again_and_a_second_one_ends_the_race(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = race_of(SLOWER)
    contenders = in_order([Contender(Case()), Contender(Case(subject="plain"))])

    def race(*outcomes: Any) -> RaceRecord:
        left = iter(outcomes)

        def measure(_: Launches) -> Any:
            outcome = next(left)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr("bench.race.measure.Launches.measure", measure)
        return measure_race(RaceSettings(contenders, num_pairs=3), {}, lambda _: None)

    good, bad = record.launches[0], PairError("b", "it died")
    measured = race(good, bad, good, good)
    assert len(measured.launches) == 3
    assert measured.failed_launches == ("plain: it died",)
    for outcomes in ((bad,), (good, bad, bad)):
        with pytest.raises(ContenderError, match=r"^plain: it died$"):
            race(*outcomes)


def test_a_budget_ends_a_race_with_the_pairs_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = race_of(SLOWER).launches[0]
    monkeypatch.setattr("bench.race.measure.Launches.measure", lambda _: launch)
    contenders = in_order([Contender(Case()), Contender(Case(subject="plain"))])
    record = measure_race(RaceSettings(contenders, num_pairs=9, budget_seconds=10), {}, lambda _: None)
    assert len(record.launches) == 1, "it takes 15 s"
    notes = " ".join(notes_of(record, standings_of(record)))
    assert "--budget ended the race after 1 of 9 launch pairs: raise it" in notes


# What is said.


def said(record: RaceRecord) -> list[str]:
    standings = standings_of(record)
    return [*sentences_of(standings), *notes_of(record, standings)]


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        (SLOWER, "plain takes 2.000 × the time of core per image (1.993 to 2.007)"),
        (
            [math.log(0.62) + 5 * value for value in NOISE],
            "plain takes 0.62 × the time of core per image (0.61 to 0.63)",
        ),
        (
            NOISE,
            "no difference larger than ±0.4% is there: "
            "plain takes 1.000 × the time of core per image (0.997 to 1.004)",
        ),
        (SLOWER[:2], "plain took 2.00 × the time of core per image; without an interval, which takes 6 launch"),
    ],
)
def test_one_number_with_an_interval_says_whether_it_is_worth_it(ratios: Any, sentence: str) -> None:
    assert said(race_of(ratios))[0].startswith(sentence)


def test_the_table_has_a_row_for_each_contender() -> None:
    record = race_of(
        SLOWER,
        NOISE,
        b={"early_losses": {"step": 31, "values": {"loss_d": 0.25, "other": None}}},
        c={"early_losses": {"step": 31, "values": None}, "num_parameters": None},
    )
    table = table_of(record, standings_of(record))
    by_column = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    first, plain, mine = by_column
    assert first["× core"] == "1"
    assert plain["× core"] == "2.000"
    assert mine["95 % interval"] == "0.997 to 1.004"
    assert first["ms/step"] == "6.00"
    assert first["peak MiB"] == "300"
    assert first["parameters"] == "5,000"
    assert (first["loss_d, step 31"], plain["loss_d, step 31"], mine["loss_d, step 31"]) == (
        "0.5000",
        "0.2500",
        "–",
    )
    assert (first["other, step 31"], plain["other, step 31"]) == ("–", "not finite")
    assert mine["parameters"] == "–"
    lines = said(record)
    assert "mine has no networks(): its parameters are not counted" in lines
    assert "mine has no losses(): its losses are not compared" in lines
    assert failures_of(record) == ["plain: not finite after 31 steps: other"]


def test_noise_is_said_and_what_would_narrow_the_interval() -> None:
    quiet = " ".join(said(race_of(SLOWER)))
    assert "the widest interval is ±0.4% of its ratio; launch pairs differ by 0.4% (SD)" in quiet
    assert "--pairs" not in quiet
    noisy = race_json([20 * value for value in NOISE])
    noisy["launches"][3]["busy_cores"] = 1.4
    noisy["launches"][2]["stolen_cores"] = 0.5
    noisy["launches"][-1]["entries"]["b"]["last_peak_bytes"] = 900 * 2**20
    lines = " ".join(said(RaceRecord.parse(noisy)))
    assert "--pairs 32 would about halve the interval" in lines
    assert "other processes kept up to 1.4 cores busy" in lines
    assert "the host took up to 0.5 cores away" in lines
    assert "plain: its memory grew from 300 to 900 MiB while windows were taken" in lines


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


# The record.


def test_a_replay_says_the_same_again(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "race.json"
    record = race_of(SLOWER, NOISE)
    write_race(path, record, outcome_of(record))
    assert read_race(path) == record
    assert said(read_race(path)) == said(record)
    stored = json.loads(path.read_text())
    assert stored.pop("outcome") == outcome_of(record)
    assert stored == race_json(SLOWER, NOISE)
    outputs = ("--markdown", tmp_path / "race.md", "--html", tmp_path / "race.html")
    code, printed, _ = command("race", "--replay", path, *outputs)
    assert code == 0
    sentence = "plain takes 2.000 × the time of core per image (1.993 to 2.007)"
    assert sentence in printed
    markdown = (tmp_path / "race.md").read_text()
    assert f"- {sentence}\n" in markdown
    assert "| plain | 2.000 | 1.993 to 2.007 |" in markdown
    page = (tmp_path / "race.html").read_text()
    assert sentence in page
    assert "<svg" in page
    assert "<td class=label>plain</td><td>2.000</td>" in page


def test_losses_that_are_not_finite_fail_the_race_and_are_said(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "race.json"
    path.write_text(json.dumps(race_json(SLOWER, b={"last_losses": {"step": 700, "values": {"loss_g": None}}})))
    code, printed, _ = command("race", "--replay", path)
    assert code == 1
    assert "plain: not finite after 700 steps: loss_g" in printed


def _launch(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda record: change(record["launches"][2])


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (lambda record: record["launches"].clear(), "no launch pair was measured"),
        (lambda record: record["contenders"].pop("b"), "damaged ($.contenders"),
        (lambda record: record.update(schema="gan-race/9"), "written as 'gan-race/9'"),
        (lambda record: record.pop("schema"), "not written by a race"),
        (lambda record: record.pop("launches"), "damaged ($: 'launches' is a required property)"),
        (_launch(lambda it: it["duels"]["b"]["windows"][1].__setitem__(1, math.nan)), "a window that is no time"),
        (_launch(lambda it: it["duels"]["b"]["windows"][0].pop()), "unequal windows: 5 in 3 quads"),
        (_launch(lambda it: it["duels"]["b"].update(steps_per_window=[2, 3])), "unequal windows: (2, 3) steps"),
        (_launch(lambda it: it["duels"]["b"].update(orders=[], windows=[[], []])), "empty: it has no windows"),
        (_launch(lambda it: it["duels"].pop("b")), "pair 3: its contenders are not those of the race"),
        (_launch(lambda it: it["entries"].pop("a")), "pair 3: its contenders are not those of the race"),
        (_launch(lambda it: it["entries"]["b"].update(images_per_step=0)), "a step takes at least one image"),
        (_launch(lambda it: it["entries"]["b"].update(images_per_step=65)), "is 65, and was 64 in the first pair"),
        (_launch(lambda it: it["entries"]["a"].update(startup_seconds="long")), "start-up is no time"),
        (
            _launch(lambda it: it["entries"]["b"]["facts"].update(instructions="AVX512")),
            "pair 3, plain: facts.instructions is 'AVX512', and was 'AVX2' in the first pair",
        ),
        (
            _launch(lambda it: it["entries"]["b"]["configuration"].update(threads=1)),
            "pair 3, plain: threads is 1, and was 2 in the first pair",
        ),
    ],
)  # fmt: skip
def test_what_is_damaged_is_refused_in_one_line(
    fault: Callable[[dict[str, Any]], object], line: str, tmp_path: Path
) -> None:
    record = copy.deepcopy(race_json(SLOWER))
    fault(record)
    path = tmp_path / "race.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as caught:
        read_race(path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_contenders_share_the_machine_and_the_versions_and_nothing_else() -> None:
    data = race_json(SLOWER, b={"configuration": {"device": "cuda", "threads": 1}})
    for launch in data["launches"]:
        launch["entries"]["b"]["facts"]["gpus"] = ["A GPU"]
    assert complaint_of(RaceRecord.parse(data)) is None
    for launch in data["launches"]:
        launch["entries"]["b"]["facts"]["packages"] = {"torch": "2.12.0"}
    assert complaint_of(RaceRecord.parse(data)) == (
        "pair 1: packages.torch is '2.11.0' for core in pair 1 and '2.12.0' for plain; "
        "only what ran on one machine with the same versions can race"
    )


# The options.


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


def test_the_plain_loop_is_what_it_is() -> None:
    core, plain = contenders_of("core", "plain", "--precision", "bf16")
    assert (core.name, plain.name) == ("core bf16", "plain fp32")
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


def test_a_launch_has_what_the_schema_asks_for() -> None:
    """A record as it is measured is one that can be read."""
    record = race_json(SLOWER)
    assert set(record["launches"][0]) == set(launch_json([0.1]))
    assert RaceRecord.parse(record).to_json().keys() == record.keys()
