"""Cases, axes and suites."""

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from bench.benchmark_options import chosen_axes, chosen_suite
from bench.regress.options import parse_case_text
from bench.results.records import parse_case
from bench.subjects.subject import Setup
from bench.suite.cases import AXES, Case, parse_axis
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES
from bench.suite.workloads import WORKLOADS
from gan.errors import UsageError
from gan.options import TrainOptions
from gan.recipes import RECIPES
from tests.gan.reference import OWN_RECIPE

LAPTOP = Machine(num_cores=2, num_gpus=0)
SERVER = Machine(num_cores=64, num_gpus=8, gpu_capability=(9, 0))


def test_every_field_but_the_workload_is_an_axis_and_tells_ids_apart() -> None:
    assert [field.name for field in fields(Case)] == ["workload", *AXES]
    case = Case(num_processes=2, batch_size=32)
    others = {}
    for name, axis in AXES.items():
        known = [value for value in axis.known if value != getattr(case, name)]
        texts = {"subject": "plain", "image_shape": "3x8x8", "recipe": "wgan", "set": "latent_dim=3"}
        others[name] = known[0] if known else parse_axis(name, [texts.get(name, "7")])[0]
    ids = {case.id, *(replace(case, **{name: value}).id for name, value in others.items())}
    assert len(ids) == 1 + len(AXES)


@pytest.mark.parametrize("machine", [LAPTOP, SERVER], ids=["laptop", "server"])
@pytest.mark.parametrize("suite", SUITES)
def test_suites_measure_each_recipe_and_nothing_twice(suite: str, machine: Machine) -> None:
    cases = SUITES[suite].cases(machine, {})
    assert len(cases) == len({(case.workload, case.id) for case in cases})
    possible = [case for case in cases if not impossible(case, machine)]
    steps = {(case.recipe, case.device) for case in possible if case.workload == "step"}
    assert steps == {(recipe, device) for recipe in RECIPES for device in machine.devices}
    assert {case.workload for case in cases} <= WORKLOADS.keys()
    assert {case.scaling for case in possible if case.workload == "scaling"} == {"weak", "strong"}


@pytest.mark.parametrize("suite", SUITES)
def test_what_trains_for_minutes_is_measured_where_k_names_it(suite: str) -> None:
    names = {"convergence", "time_to_quality"}
    assert names <= {case.workload for case in SUITES[suite].cases(LAPTOP, {}, " or ".join(names))}


def test_values_of_the_command_line_replace_an_axis_in_every_sweep() -> None:
    chosen = {"recipe": ["mlp-compact"], "precision": ["fp32", "bf16"], "batch_size": [7]}
    cases = SUITES["standard"].cases(LAPTOP, chosen)
    assert {(case.recipe, case.precision, case.batch_size) for case in cases} == {
        ("mlp-compact", "fp32", 7),
        ("mlp-compact", "bf16", 7),
    }
    assert {case.compile for case in cases if case.workload == "step"} == {"no", "inductor"}


def test_the_batch_is_the_recipes_own_unless_it_is_given() -> None:
    cases = SUITES["standard"].cases(LAPTOP, {"batch_size": [7]})
    assert all(case.batch_size == 7 for case in cases)
    cases = [case for case in SUITES["full"].cases(LAPTOP, {}) if case.workload == "sampling"]
    assert all(case.batch_size == RECIPES[case.recipe].batch_size for case in cases)


def test_a_small_suite_measures_convolutions_at_a_small_batch() -> None:
    sizes = {case.recipe: case.batch_size for case in SUITES["smoke"].cases(LAPTOP, {})}
    assert sizes.keys() == RECIPES.keys()
    for name, size in sizes.items():
        of_mlp = "widths" in vars(RECIPES[name].discriminator)
        assert size == (RECIPES[name].batch_size if of_mlp else 8)


def test_a_gpu_measures_convolutions_at_their_own_batch() -> None:
    cases = [case for case in SUITES["smoke"].cases(SERVER, {"device": ["cuda"]}) if case.workload == "step"]
    assert {case.batch_size for case in cases if case.recipe == "dcgan"} == {RECIPES["dcgan"].batch_size}


def test_starts_and_all_reduces_are_measured_more_often() -> None:
    suite = SUITES["smoke"]
    usual = suite.effort_of(Case())
    assert usual == suite.effort
    assert suite.effort_of(Case(workload="startup")).launches > usual.launches
    assert suite.effort_of(Case(num_processes=2)).rounds > usual.rounds
    assert suite.effort_of(Case(num_processes=2)).window_seconds == usual.window_seconds
    assert suite.effort_of(Case(num_processes=2, num_hosts=2)).window_seconds == 0.1


def test_launches_that_are_asked_for_are_those_of_a_start_too() -> None:
    for asked, expected in ((None, (3, 1)), (1, (1, 1)), (7, (7, 7))):
        suite = chosen_suite({"suite": "smoke", "launches": asked, "rounds": None}.get)
        launches = tuple(suite.effort_of(Case(workload=name)).launches for name in ("startup", "step"))
        assert launches == expected
        assert suite.effort_of(Case(workload="stability")).launches == 1


def test_more_windows_than_a_file_takes_are_refused_before_they_are_measured() -> None:
    options = {"suite": "smoke", "launches": 500, "rounds": 100}
    assert chosen_suite(options.get).complaint_of([Case(), Case(workload="startup")]) is None
    for change in ({"launches": 501}, {"rounds": 101}):
        suite = chosen_suite({**options, **change}.get)
        assert suite.complaint_of([Case(workload="startup")]) is None
        complaint = suite.complaint_of([Case()])
        assert complaint
        assert re.match(r"--launches 50. × --rounds 10.: 50,.00 windows of step mlp-cpu-", complaint)


def test_weak_scaling_keeps_the_batch_of_a_process_and_strong_that_of_all() -> None:
    weak = Case(batch_size=64, num_processes=4, scaling="weak")
    strong = replace(weak, scaling="strong")
    assert (weak.batch_per_process, weak.global_batch_size) == (64, 256)
    assert (strong.batch_per_process, strong.global_batch_size) == (16, 64)
    alone = SUITES["smoke"].cases(LAPTOP, {"num_processes": [1]})
    assert {case.scaling for case in alone} == {"weak"}


def test_the_batch_counts_all_micro_batches() -> None:
    case = Case(batch_size=16, accumulate=4, num_processes=2)
    assert (case.batch_per_process, case.global_batch_size) == (16, 128)
    assert case.id == "mlp-cpu-fp32-eager-b16-a4-p2"
    assert Case().id == "mlp-cpu-fp32-eager-b64-p1"
    assert TrainOptions(**case.train_options()).images_per_update == 64


def test_axes_become_flags_of_the_launcher_and_options_of_the_core() -> None:
    case = Case(recipe="mlp-smooth", precision="tf32", compile="inductor", batch_size=64, num_processes=2)
    assert case.launch_flags() == {"mixed_precision": "no", "dynamo_backend": "inductor", "num_processes": 2}
    options = TrainOptions(**replace(case, scaling="strong").train_options())
    assert (options.recipe, options.tf32, options.batch_size) == ("mlp-smooth", True, 32)
    assert Case(precision="bf16").launch_flags()["mixed_precision"] == "bf16"


def of_subject(subject: str, suite: str = "smoke", **chosen: list[Any]) -> list[Case]:
    return SUITES[suite].cases(LAPTOP, {"subject": [subject], **chosen}, "test_step or stability")


@pytest.mark.parametrize("suite", ["smoke", "standard"])
def test_a_subject_is_asked_for_nothing_that_it_may_not_know_of(suite: str) -> None:
    cases = of_subject("my_gan.py:make", suite)
    assert {(case.recipe, case.precision, case.compile, case.num_processes) for case in cases} == {
        ("", "fp32", "no", 1)
    }
    assert {case.workload for case in cases if not impossible(case, LAPTOP)} == {"step", "startup", "stability"}
    sizes = [case.batch_size for case in cases if case.workload == "step"]
    assert sizes == ([64] if suite == "smoke" else [64, 16, 256, 1024, 4096])


def test_a_subject_is_asked_for_what_is_chosen() -> None:
    cases = of_subject("my_gan.py:make", precision=["fp32", "bf16"], num_processes=[2], recipe=["dcgan"])
    possible = [case for case in cases if not impossible(case, LAPTOP)]
    assert {(case.workload, case.precision) for case in possible} == {
        *(("step", "fp32"), ("step", "bf16"), ("startup", "fp32"), ("startup", "bf16")),
        *(("scaling", "fp32"), ("scaling", "bf16"), ("stability", "fp32")),
    }
    assert {(case.recipe, case.num_processes) for case in cases} == {("dcgan", 2)}


def test_the_plain_loop_is_asked_for_every_recipe() -> None:
    possible = [case for case in of_subject("plain") if not impossible(case, LAPTOP)]
    assert {case.recipe for case in possible if case.workload == "step"} == RECIPES.keys()
    assert {(case.precision, case.compile, case.num_processes) for case in possible} == {("fp32", "no", 1)}


def test_the_core_beside_a_subject_is_asked_for_what_it_always_is() -> None:
    alone = SUITES["smoke"].cases(LAPTOP, {})
    beside = SUITES["smoke"].cases(LAPTOP, {"subject": ["core", "my_gan.py:make"]})
    assert [case for case in beside if case.is_core] == alone


def test_a_subject_is_told_what_the_axes_say() -> None:
    case = Case(
        subject="my_gan.py:make",
        recipe="cgan",
        precision="bf16",
        compile="inductor",
        batch_size=8,
        num_processes=2,
        scaling="strong",
        image_shape="3x64x32",
    )
    assert case.id == "my_gan:make-cgan-cpu-bf16-inductor-b8-3x64x32-p2-strong"
    assert case.setup(rank=1) == Setup(
        device="cpu",
        precision="bf16",
        compile="inductor",
        batch_size=4,
        image_shape=(3, 64, 32),
        num_classes=10,
        rank=1,
        world_size=2,
        recipe="cgan",
    )
    assert Case(image_shape="3x64x32").train_options()["image_shape"] == (3, 64, 32)


@pytest.mark.parametrize(
    ("case", "machine", "reason"),
    [
        (Case(subject="a.py:make", workload="phases"), LAPTOP, "all that is known of a subject is its step"),
        (Case(subject="a.py:make", accumulate=2), LAPTOP, "a subject's micro-batches are its own"),
        (Case(subject="a.py:make", recipe="", batch_size=1), LAPTOP, None),
        (Case(subject="a.py:make", precision="fp16"), LAPTOP, "fp16 needs a GPU"),
        (Case(subject="plain", precision="bf16"), LAPTOP, "the plain loop is always fp32 and eager"),
        (Case(subject="plain", workload="scaling", num_processes=2), LAPTOP, "runs in one process"),
        (Case(workload="stability", image_shape="3x64x64"), LAPTOP, "is judged on images of 1x28x28"),
        (Case(), LAPTOP, None),
        (Case(device="cuda"), LAPTOP, "no CUDA device"),
        (Case(precision="fp16"), SERVER, "fp16 needs a GPU"),
        (Case(device="cuda", precision="fp16"), SERVER, None),
        (Case(precision="tf32"), SERVER, "tf32 needs a GPU"),
        (Case(device="cuda", precision="tf32"), replace(SERVER, gpu_capability=(7, 5)), "8.0 or newer"),
        (Case(device="cuda", workload="phases", cuda_graph=True), SERVER, "one CUDA graph cannot be told apart"),
        (Case(device="cuda", cuda_graph=True), SERVER, None),
        (Case(device="cuda", precision="fp16", cuda_graph=True), SERVER, None),
        (Case(recipe="r3gan", device="cuda", precision="fp16", cuda_graph=True), SERVER, "without a schedule"),
        (
            Case(recipe="wgan", device="cuda", precision="fp16", cuda_graph=True),
            SERVER,
            "--cuda-graph: fp16 needs",
        ),
        (
            Case(device="cuda", precision="fp16", num_processes=2, comm_hook="powersgd"),
            SERVER,
            "overflows in fp16",
        ),
        (Case(cuda_graph=True), SERVER, "need a GPU, one process and no compiler"),
        (
            Case(device="cuda", cuda_graph=True, compile="inductor"),
            SERVER,
            "need a GPU, one process and no compiler",
        ),
        (Case(device="cuda", precision="tf32"), SERVER, None),
        (Case(compile="inductor"), replace(LAPTOP, cpp_compiler=False), "C++ compiler"),
        (Case(num_processes=4), LAPTOP, "4 processes, but 2 cores"),
        (Case(num_processes=2), replace(LAPTOP, num_cores=1), "2 processes, but 1 cores"),
        (Case(device="cuda", num_processes=16), SERVER, "16 processes, but 8 GPUs"),
        (Case(batch_size=9, num_processes=2, scaling="strong"), LAPTOP, "cannot be split over 2"),
        (Case(workload="phases", num_processes=2), LAPTOP, "measured in one process"),
        (Case(recipe="mlp-batchnorm", batch_size=1), LAPTOP, "at least 2 images"),
        (Case(recipe="mlp-batchnorm", batch_size=1, num_processes=2), LAPTOP, "at least 2 images"),
        (Case(recipe="mlp-batchnorm", batch_size=1, accumulate=4), LAPTOP, "at least 2 images"),
        (Case(recipe="mlp", batch_size=1), LAPTOP, None),
        (Case(recipe="dcgan", batch_size=1), LAPTOP, None),
        (Case(recipe="dcgan", batch_size=1, image_shape="3x7x9"), LAPTOP, None),
    ],
)
def test_impossible_cases_have_a_reason(case: Case, machine: Machine, reason: str | None) -> None:
    refused = impossible(case, machine)
    assert (refused is None) if reason is None else (refused is not None and reason in refused)


def test_axis_values_are_repeated_or_have_commas() -> None:
    assert parse_axis("precision", ["fp32,bf16", "fp16"]) == ["fp32", "bf16", "fp16"]
    assert parse_axis("batch_size", ["16, 64"]) == [16, 64]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("recipe", "mpl", "--recipe mpl: unknown; did you mean mlp? choose one of"),
        ("precision", "fp8", "--precision fp8: unknown"),
        ("compile", "inductr", "did you mean inductor?"),
        ("batch_size", "0", "--batch-size 0: must be a whole number of at least 1"),
        ("accumulate", "0", "--accumulate 0: must be a whole number of at least 1"),
        ("subject", "cor", "--subject cor: no such subject; did you mean core? give core, plain, "),
        ("subject", "no/such.py:make", "--subject no/such.py:make: no/such.py is no file; give FILE.py:NAME"),
        ("subject", "package.module:1", "--subject package.module:1: '1' is no name of a function"),
        ("image_shape", "3x64", "--image-shape 3x64: must be channels, height and width, as 3x64x64"),
        ("image_shape", "3x0x64", "--image-shape 3x0x64: must be channels"),
        ("num_processes", "two", "--num-processes two: must be a whole number of at least 1"),
    ],
)
def test_bad_values_are_refused_in_one_line(name: str, text: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_axis(name, [text])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_of_a_file_is_short_in_ids_and_whole_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = parse_axis("recipe", [OWN_RECIPE])
    case = Case(recipe=f"{spec}:recipe", set=("generator.width=16",))
    assert case.id == "own_recipe:recipe-cpu-fp32-eager-b64-p1-generator.width=16"
    record = case.to_json()
    assert (record["recipe"], record["set"]) == (f"{OWN_RECIPE}:recipe", ("generator.width=16",))
    assert parse_case(json.loads(json.dumps(record))) == case
    assert case.row.generator.width == 16  # type: ignore[attr-defined]
    assert "set" not in Case().to_json()
    options = TrainOptions(**case.train_options())
    options.validate()
    assert options.row == replace(case.row, batch_size=64)


def chosen(**texts: list[str]) -> dict[str, list[Any]]:
    return chosen_axes({f"axis_{name}": values for name, values in texts.items()}.get)


def test_a_sweep_of_settings_is_every_value_with_every_other() -> None:
    swept = chosen(recipe=["mlp"], set=["optimizer.learning_rate=1e-4, 2e-4", "generator.widths=512,512;256"])[
        "set"
    ]
    assert swept == [
        ("optimizer.learning_rate=1e-4", "generator.widths=512,512"),
        ("optimizer.learning_rate=1e-4", "generator.widths=256"),
        ("optimizer.learning_rate=2e-4", "generator.widths=512,512"),
        ("optimizer.learning_rate=2e-4", "generator.widths=256"),
    ]
    assert chosen(recipe=["mlp"], set=["loss=Hinge", "loss=LeastSquares"])["set"] == [
        ("loss=Hinge",),
        ("loss=LeastSquares",),
    ]
    sweep = {"workload": ["step"], **chosen(recipe=["mlp"], set=["optimizer.learning_rate=1e-4,2e-4"])}
    cases = [case for case in SUITES["smoke"].cases(LAPTOP, sweep) if case.workload == "step"]
    assert {case.set for case in cases} == {("optimizer.learning_rate=1e-4",), ("optimizer.learning_rate=2e-4",)}


def test_the_class_that_a_setting_chooses_decides_where_commas_belong() -> None:
    settings = chosen(recipe=["dcgan"], set=["generator=MLP", "generator.widths=64,64"])["set"]
    assert settings == [("generator=MLP", "generator.widths=64,64")]


def test_a_recipe_without_the_field_is_skipped_with_the_reason() -> None:
    settings = chosen(recipe=["mlp", "dcgan"], set=["generator.widths=64,64"])["set"][0]
    assert impossible(Case(recipe="mlp", set=settings), LAPTOP) is None
    reason = impossible(Case(recipe="dcgan", set=settings), LAPTOP)
    assert reason == ("--set generator.widths=64,64: generator (DCGAN) has no widths; it has channels, batchnorm")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"set": ["x"]}, "--set x: must be KEY=VALUE"),
        ({"set": ["batch_size=3,4"]}, "the batch size is an axis of its own; give --batch-size 3,4"),
        ({"set": ["epochs=3"]}, "--set epochs=3: changes nothing that is measured; leave it out"),
        ({"set": ["published_shape=3,64,64"]}, "64: changes nothing that is measured; leave it out"),
        ({"set": ["optimzer.eps=1"]}, "did you mean optimizer?"),
        ({"recipe": ["dcgan"], "set": ["generator.widths=3"]}, "generator (DCGAN) has no widths"),
        ({"recipe": ["mlp"], "set": ["loss=Hinge,Hing"]}, "--set loss=Hing: must be"),
        ({"recipe": ["no.py"]}, "--recipe no.py: no such file"),
        ({"recipe": [OWN_RECIPE, "own_recipe.py"]}, "both are called own_recipe; rename a file"),
    ],
)
def test_bad_recipes_and_settings_of_the_suite_are_one_line(
    texts: dict[str, list[str]], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(OWN_RECIPE, tmp_path)
    with pytest.raises(UsageError) as caught:
        chosen(**texts)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [OWN_RECIPE, "mlp,set=loss=Hinge"])
def test_regress_takes_rows_as_they_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"--case .*: (takes rows of gan/recipes.py|axis set: unknown)"):
        parse_case_text(text, "cpu")
