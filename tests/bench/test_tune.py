"""Tuning: the search over settings, what follows from a record, and the command that it ends with."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.results.checks import Check
from bench.suite.cases import AXES, EXECUTION_AXES, SETTING_AXES, Case
from bench.suite.machine import Machine
from bench.tune.advice import launch_command
from bench.tune.measure import cannot_win
from bench.tune.options import TUNE_OPTIONS, settings_of
from bench.tune.record import RecordedTrial, TuneRecord, read_tuning, write_tuning
from bench.tune.search import WIDTH, Failed, Heat, Search, Trial
from bench.tune.settings import identity, neighbours, values_tried
from bench.tune.summary import decision_of, notes_of, outcome_of_tuning, table_of
from gan.command_line import parse
from gan.errors import UsageError
from gan.options import TrainOptions, parse_train_options
from tests.bench.race_records import NOISE, race_json, race_of
from tests.bench.records import ENVIRONMENT
from tests.documents import commands

CPU = Machine(num_cores=2, num_gpus=0, processes_at_once=8)
GPU = Machine(num_cores=16, num_gpus=1, gpu_capability=(9, 0), processes_at_once=24)
DEFAULT = Case(recipe="quickstart")
PASSED = Check("T2", "gradients", 0.5, 1.0, "")
FAILED = Check("T2", "gradients", 2.0, 1.0, "too coarse")

Factors = dict[tuple[str, Any], float]


class Scripted:
    """Measures that multiply a factor for each axis's value."""

    def __init__(self, factors: Factors, unfit: Callable[[Case], bool] = lambda _: False, heats: int = 99) -> None:
        self.factors, self.unfit, self.heats_left = factors, unfit, heats
        self.heats: list[tuple[int, int]] = []
        self.judged: list[Case] = []

    def log_ratio(self, case: Case) -> float:
        values = {(name, getattr(case, name)) for name in SETTING_AXES}
        return sum(math.log(self.factors[pair]) for pair in values & self.factors.keys())

    def heat(self, cases: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
        self.heats.append((len(cases), num_quads))
        self.heats_left -= 1
        return {case: Heat(num_quads, self.log_ratio(case)) for case in cases}

    def judge(self, case: Case) -> tuple[Check, ...] | Failed:
        self.judged.append(case)
        return (FAILED,) if self.unfit(case) else (PASSED,)

    def has_time(self) -> bool:
        return self.heats_left > 0


def searched(measures: Scripted, machine: Machine = CPU, **fixed: Any) -> tuple[Search, Trial | None]:
    values = {name: values_tried()[name] for name in ("precision", "compile")}
    values["memory_format"] = ("contiguous", "channels_last")
    default = replace(DEFAULT, **fixed)
    search = Search(default, lambda case: list(neighbours(case, values, machine)), measures)
    return search, search.run()


# The search.


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_best_combination_is_found(machine: Machine) -> None:
    device = machine.devices[-1]
    factors = {("precision", "bf16"): 0.6, ("compile", "inductor"): 0.9, ("memory_format", "channels_last"): 0.95}
    _, best = searched(Scripted(factors), machine, recipe="dcgan", memory_format="contiguous", device=device)
    assert best
    assert (best.case.precision, best.case.compile, best.case.memory_format) == (
        "bf16",
        "inductor",
        "channels_last",
    )
    assert best.log_ratio == pytest.approx(math.log(0.6 * 0.9 * 0.95))
    assert not best.dropped


def test_the_best_pair_is_found_though_the_best_single_change_is_no_part_of_it() -> None:
    ratios = {"": 1, "c": 0.9, "b": 0.95, "i": 1.05, "bc": 1.2, "ic": 1.2, "bi": 0.5, "bic": 0.6}

    class Joint(Scripted):
        def log_ratio(self, case: Case) -> float:
            changes = {"b": case.precision == "bf16", "i": case.compile == "inductor"}
            changes["c"] = case.memory_format == "channels_last"
            return math.log(ratios["".join(name for name, changed in changes.items() if changed)])

    _, best = searched(Joint({}), recipe="dcgan", memory_format="contiguous")
    assert best
    assert best.log_ratio == pytest.approx(math.log(0.5))


def test_a_setting_that_fails_its_checks_is_dropped_and_nothing_is_built_upon_it() -> None:
    measures = Scripted(
        {("precision", "bf16"): 0.5, ("compile", "inductor"): 0.9}, lambda one: one.precision == "bf16"
    )
    search, best = searched(measures)
    assert best
    assert best.case == replace(DEFAULT, compile="inductor")
    dropped = [trial for trial in search.trials.values() if trial.case.precision == "bf16"]
    assert all("T2 gradients: 2, the limit is 1: too coarse" in trial.dropped for trial in dropped if trial.checks)
    assert any(trial.checks for trial in dropped)


def test_a_setting_that_cannot_be_measured_is_dropped_with_its_reason() -> None:
    class Refusing(Scripted):
        def heat(self, cases: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
            refused = Failed("no compiler")
            measured = super().heat(cases, num_quads)
            return {case: refused if case.compile == "inductor" else ratio for case, ratio in measured.items()}

    search, best = searched(Refusing({("precision", "bf16"): 0.8, ("compile", "inductor"): 0.1}))
    assert best
    assert best.case == replace(DEFAULT, precision="bf16")
    compiled = [trial for trial in search.trials.values() if trial.case.compile == "inductor"]
    assert compiled
    assert {trial.dropped for trial in compiled} == {"no compiler"}


def test_the_better_half_goes_on_with_twice_the_quads() -> None:
    measures = Scripted({("precision", "bf16"): 0.6, ("precision", "fp16"): 0.7, ("precision", "tf32"): 0.9})
    searched(measures, GPU, device="cuda", recipe="dcgan")
    assert measures.heats[:3] == [(5, 24), (3, 48), (2, 96)]
    assert len(measures.judged) >= WIDTH


def test_what_is_impossible_here_is_said_and_not_measured() -> None:
    search, _ = searched(Scripted({}))
    reasons = {trial.name: trial.dropped for trial in search.trials.values() if not trial.heats}
    convolutions = {"fp32 eager channels_last": "its networks have no convolutions"}
    assert reasons == {"fp16 eager": "fp16 needs a GPU", "tf32 eager": "tf32 needs a GPU", **convolutions}


def test_what_is_possible_beside_another_change_is_not_said_to_be_impossible() -> None:
    record = record_of(*NOISE)
    mode = {"compile_mode": "reduce-overhead"}
    alone = Trial(replace(DEFAULT, **mode), dropped="is a mode of inductor")
    compiled = Trial(replace(DEFAULT, compile="inductor", **mode), (Heat(6, 0.1),))
    for trials, said in (((alone,), True), ((alone, compiled), False)):
        shown = notes_of(replace(record, trials=(*record.trials, *(RecordedTrial.of(one, "") for one in trials))))
        assert any("is a mode of inductor" in note for note in shown) is said


def test_settings_that_run_the_same_step_are_tried_once() -> None:
    """Networks of an MLP have no convolutions, so "auto" is contiguous."""
    assert identity(DEFAULT) == identity(replace(DEFAULT, memory_format="contiguous"))
    convolutional = Case(recipe="dcgan")
    assert identity(convolutional) == identity(replace(convolutional, memory_format="channels_last"))
    search, _ = searched(Scripted({}))
    assert {trial.case.memory_format for trial in search.trials.values() if trial.heats} == {"auto"}
    search, _ = searched(Scripted({}), recipe="dcgan")
    assert {trial.case.memory_format for trial in search.trials.values() if trial.heats} == {"auto", "contiguous"}


def test_a_search_without_time_keeps_what_it_has() -> None:
    search, best = searched(Scripted({("precision", "bf16"): 0.5}, heats=1))
    assert best
    assert best.case.precision == "bf16"
    assert "--budget" in search.ended
    _, best = searched(Scripted({}, heats=0))
    assert best is None


def test_settings_that_were_not_measured_in_time_are_no_answer() -> None:
    class Late(Scripted):
        def heat(self, cases: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
            return dict([*super().heat(cases, num_quads).items()][:1])

    search, best = searched(Late({("precision", "bf16"): 0.999}, heats=1))
    assert best
    assert best.case.precision == "bf16"
    assert "--budget" in search.ended, "others may be better by 1 %"


def test_a_search_ends_where_nothing_is_better_by_one_per_cent() -> None:
    measures = Scripted({("precision", "bf16"): 0.995})
    search, _ = searched(measures)
    assert search.ended == "no setting one change away was better by more than 1 %"
    assert all(trial.case.compile == "no" or trial.case.precision == "fp32" for trial in search.trials.values())


def test_every_axis_of_the_execution_is_tried() -> None:
    assert set(EXECUTION_AXES) <= set(SETTING_AXES) < set(AXES)
    assert not {"batch_size", "accumulate", "recipe", "set"} & set(SETTING_AXES)
    tried = values_tried()
    assert tried["cuda_graph"] == (False, True)
    assert "powersgd" not in tried["comm_hook"], "it trains with other gradients"
    assert tried["bucket_size"] == (), "no list of values is known"


# The decision.


def record_of(*log_ratios: float, **changes: Any) -> TuneRecord:
    trial = Trial(replace(DEFAULT, precision="bf16"), (Heat(6, -0.1),), (PASSED,))
    return TuneRecord(
        what="quickstart, cpu",
        default=RecordedTrial.of(Trial(DEFAULT), launch_command(DEFAULT)),
        trials=(RecordedTrial.of(trial, launch_command(trial.case)),),
        finalist="bf16 eager" if log_ratios else "",
        race=race_of(log_ratios) if log_ratios else None,
        ended="of a test",
        budget_seconds=600.0,
        environment={**ENVIRONMENT, "command": ["tune"]},
        **changes,
    )


@pytest.mark.parametrize(
    ("log_ratios", "setting", "sentence"),
    [
        ([-0.2 + value for value in NOISE], "bf16 eager", "use bf16 eager: it takes 0.81"),
        (NOISE, "fp32 eager", "keep the default, fp32 eager: the best other setting is not better by 1 %"),
        ([-0.007 + value / 4 for value in NOISE], "fp32 eager", "is not better by 1 %"),
        ([-0.012 + 4 * value for value in NOISE], "fp32 eager", "whether another one is better is open"),
        ([0.1 + value for value in NOISE], "fp32 eager", "is not better by 1 %"),
        ([-0.2, -0.2], "fp32 eager", "there was time for 2 of 6 launch pairs"),
        ([], "fp32 eager", "no other setting that may be used was faster"),
    ],
)
def test_the_default_stays_unless_another_setting_is_surely_better(
    log_ratios: list[float], setting: str, sentence: str
) -> None:
    decision = decision_of(record_of(*log_ratios))
    assert decision.setting.name == setting
    assert sentence in decision.sentence


def test_a_finalist_whose_losses_are_not_finite_in_the_final_race_is_not_recommended() -> None:
    """The race takes more steps than the heats before it."""
    faster = [-0.2 + value for value in NOISE]
    lost = {"last_losses": {"step": 700, "values": {"loss_g": None}}}
    decision = decision_of(replace(record_of(*faster), race=race_of(faster, b=lost)))
    assert decision.setting.name == "fp32 eager"
    assert decision.sentence == (
        "keep the default, fp32 eager: bf16 eager was the fastest, but in the final race plain: not finite after "
        "700 steps: loss_g"
    )


def test_a_finalist_of_a_final_race_that_ended_by_failures_is_not_recommended() -> None:
    faster = [-0.2 + value for value in NOISE]
    race = replace(race_of(faster), failed_launches=("core: it died", "core: it died again"))
    decision = decision_of(replace(record_of(*faster), race=race))
    assert decision.setting.name == "fp32 eager"
    assert decision.sentence.startswith(
        "keep the default, fp32 eager: bf16 eager was the fastest, but in the final race a second launch failed, "
    )


def test_a_final_race_ends_early_only_if_the_setting_cannot_win() -> None:
    assert cannot_win(race_of(NOISE[:6]))
    assert not cannot_win(race_of(NOISE[:5])), "there is no interval yet"
    assert not cannot_win(race_of([-0.2 + value for value in NOISE[:6]]))


def test_the_table_and_notes_say_what_was_tried() -> None:
    record = record_of(*NOISE)
    table = table_of(record)
    assert [row[0] for row in table.rows] == ["fp32 eager (default)", "bf16 eager"]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert (row["× default"], row["T1, T2"], row["outcome"]) == ("0.905", "pass", "finalist")
    unfit = Trial(replace(DEFAULT, precision="fp16"), dropped="fp16 needs a GPU")
    record = replace(record, trials=(*record.trials, RecordedTrial.of(unfit, "")))
    assert "not possible: fp16 eager: fp16 needs a GPU" in notes_of(record)


# The record.


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for record in (record_of(*NOISE), record_of()):
        path = tmp_path / "tune.json"
        write_tuning(path, record, outcome_of_tuning(record))
        assert decision_of(read_tuning(path)) == decision_of(record)
        assert read_tuning(path).trials == record.trials


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": "gan-race/1"}, "only 'gan-tune/1' can be shown"),
        ({"finalist": "another"}, "its finalist 'another' is none of its settings"),
        ({"race": None}, "a finalist and no race"),
        ({"race": {}}, "damaged"),
        ({"race": race_json(NOISE, NOISE)}, "not one of two contenders"),
        ({"seconds": "long"}, "damaged"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:

    record = record_of(*NOISE)
    path = tmp_path / "tune.json"
    path.write_text(json.dumps({**record.to_json(), **change}))
    with pytest.raises(UsageError, match=complaint):
        read_tuning(path)


# The command.


COMMANDS = [
    (DEFAULT, TrainOptions()),
    (Case(recipe="dcgan", precision="bf16", memory_format="contiguous"), None),
    (Case(recipe="dcgan", batch_size=8), None),
    (Case(recipe="mlp", compile="inductor", batch_size=128, accumulate=2), None),
    (Case(recipe="mlp", set=("optimizer.learning_rate=1e-4", "generator.widths=512,512")), None),
    (Case(recipe="mlp", image_shape="3x32x32", device="cuda", precision="tf32"), None),
    (Case(recipe="mlp", num_processes=2, precision="fp16", device="cuda", comm_hook="bf16"), None),
    (Case(recipe="mlp", cuda_graph=True, precision="bf16", device="cuda"), None),
    (Case(recipe="mlp", num_processes=2, scaling="strong"), None),
]


@pytest.mark.parametrize(("case", "expected"), COMMANDS, ids=lambda value: getattr(value, "id", ""))
def test_the_command_trains_what_was_measured(case: Case, expected: TrainOptions | None) -> None:
    words = shlex.split(launch_command(case, batch_was_chosen=case.batch_size != Case.batch_size))
    assert words[:3] == ["accelerate", "launch", "--config_file"]
    assert Path(words[3]).is_file()
    assert ("ddp" in words[3]) is (case.num_processes > 1)
    place = words.index("gan/train.py")
    launched = dict(zip(words[4:place:2], words[5:place:2], strict=True))
    assert launched.get("--mixed_precision", "no") == case.launch_flags()["mixed_precision"]
    assert launched.get("--dynamo_backend", "no") == case.launch_flags()["dynamo_backend"]
    assert int(launched.get("--num_processes", "1")) == case.num_processes
    options = parse_train_options(words[place + 1 :])
    if expected:
        assert options == expected
    for name, value in case.train_options().items():
        given = getattr(options, name)
        if name == "batch_size" and given is None:
            assert value in (options.row.batch_size, 64 if case.recipe == "dcgan" else options.row.batch_size)
        else:
            assert given == value, name


def test_elsewhere_the_command_names_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another project has a file of the same name."""
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan" / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(launch_command(DEFAULT))
    assert words[4:] == ["-m", "gan.train", "--recipe", "quickstart"]
    assert Path(words[3]).is_file()


@pytest.mark.parametrize("documented", commands("python", "-m", "bench", "tune"), ids=str)
def test_documented_tunings_are_possible(documented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: CPU))
    options = parse(TUNE_OPTIONS, "bench tune", documented.words[4:])
    if not options.replay:
        assert settings_of(options).default.recipe in ("mlp", "dcgan")


def test_the_options_say_what_is_trained_and_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: CPU))
    settings = settings_of(TUNE_OPTIONS(recipe=("dcgan",), precision=("bf16,fp32",), budget="2m"))
    assert settings.default.precision == "fp32"
    assert settings.default.batch_size == 8
    assert settings.values["precision"] == ["bf16", "fp32"]
    assert settings.values["compile"] == ("no", "inductor")
    assert settings.budget_seconds == 120
    settings = settings_of(TUNE_OPTIONS(precision=("bf16",)))
    assert settings.default.precision == "bf16", "fp32 was not asked for"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": ("32,64",)}, "--batch-size 32,64: 2 values; give one"),
        ({"recipe": ("nothing",)}, "nothing"),
        ({"precision": ("fp12",)}, "fp12"),
        ({"device": ("cuda",)}, "no CUDA device"),
        ({"budget": "soon"}, "--budget soon"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], complaint: str
) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: CPU))
    with pytest.raises(UsageError, match=complaint):
        settings_of(TUNE_OPTIONS(**options))


@pytest.mark.parametrize("flags", ["--recipe mlp", "--budget 5m", "--output a.json"])
def test_a_replay_takes_no_options_of_measuring(flags: str, command: Callable[..., Any]) -> None:
    code, _, errors = command("tune", "--replay", "x.json", *flags.split())
    assert (code, errors) == (2, f"error: {flags}: --replay measures nothing anew; leave one of them out\n")
