"""The record of a race: what is said of it, and which files are refused."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.race.record import RaceRecord, complaint_of, read_race, write_race
from bench.race.standing import failures_of, outcome_of, standings_of
from bench.race.summary import notes_of, sentences_of, table_of
from gan.errors import UsageError
from tests.bench.race_records import NOISE, SLOWER, launch_json, race_json, race_of

Command = Callable[..., tuple[int, str, str]]


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
        (
            [math.log(0.004) + value for value in NOISE],
            "plain takes 0.00400 × the time of core per image (0.00399 to 0.00401)",
        ),
        ([math.log(0.00123)], "plain took 0.0012 × the time of core per image; without an interval"),
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
    many = " ".join(said(race_of([200 * value for value in NOISE] * 32)))
    assert "--pairs" not in many, "a race has at most 1,000"
    assert "(SD): a quieter machine might narrow the interval" in many


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
    assert "<th scope=row class=label>plain</th><td>2.000</td>" in page


def test_losses_that_are_not_finite_fail_the_race_and_are_said(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "race.json"
    path.write_text(json.dumps(race_json(SLOWER, b={"last_losses": {"step": 700, "values": {"loss_g": None}}})))
    code, printed, _ = command("race", "--replay", path)
    assert code == 1
    assert "plain: not finite after 700 steps: loss_g" in printed


def test_a_loss_too_large_for_a_float_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    path.write_text(json.dumps(race_json(SLOWER, b={"early_losses": {"step": 3, "values": {"loss_g": 10**400}}})))
    assert failures_of(read_race(path)) == ["plain: not finite after 3 steps: loss_g"]


@pytest.mark.filterwarnings("error:Glyph")
def test_a_name_that_leaves_a_path_out_is_explained_and_drawn_without_a_warning(
    tmp_path: Path, command: Command
) -> None:
    data = race_json(SLOWER, names=["core", "犬.py:make"])
    data["contenders"]["b"]["subject"] = "models/犬.py:make"
    (tmp_path / "race.json").write_text(json.dumps(data))
    code, printed, _ = command("race", "--replay", tmp_path / "race.json", "--html", tmp_path / "race.html")
    assert code == 0
    assert "• 犬.py:make is models/犬.py:make" in printed


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


def test_a_launch_has_what_the_schema_asks_for() -> None:
    """A record as it is measured is one that can be read."""
    record = race_json(SLOWER)
    assert set(record["launches"][0]) == set(launch_json([0.1]))
    assert RaceRecord.parse(record).to_json().keys() == record.keys()
