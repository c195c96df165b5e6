"""`python -m bench predict`: what it refuses, what it says of stubs, and the real step of rank 0 of many."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.harness.messages import decode, encode
from bench.predict import command as predict_command
from bench.predict import summary as predict_summary
from bench.predict.exchange import SAMPLES_NAME, Samples
from bench.predict.fit import Sample, fitted, held_out
from bench.predict.forks import ANSWER_NAME, Answer
from bench.predict.measure import SUMS_TIMEOUT_SECONDS, MeasurementError, rehearsals, run_side_by_side
from bench.predict.options import PREDICT_OPTIONS, settings_of
from bench.predict.rehearsal import Order, Rehearsal
from bench.predict.schedule import Event, Kind
from bench.report.exposures import exposure_tables
from bench.results.case_result import CaseResult
from bench.suite.cases import Case
from gan.command_line import parse
from gan.errors import UsageError
from gan.models.minibatch_deviation import DEVIATION
from gan.process.launcher import THREAD_VARIABLES
from gan.recipes import RECIPES
from gan.recipes_small import SMALL
from gan.training.footprint import footprint
from tests.bench.check_processes import Deaths
from tests.bench.records import explained_record, results_file, scaling_record, step_record
from tests.conftest import ROOT, NodesMaker, run_imported, slow_or_nightly
from tests.documents import commands
from tests.gan.reference import LAZY
from tests.namespaces import end

H100 = ROOT / "results" / "h100" / "step.json"
Command = Callable[..., tuple[int, str, str]]


def settings(*arguments: object):
    return settings_of(parse(PREDICT_OPTIONS, "predict", [str(argument) for argument in arguments]))


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A file with steps of two processes, of two recipes."""
    other = scaling_record()
    other["case"]["recipe"] = "dcgan"
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(results_file(explained_record(), other)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--against", "MEASURED", "--gpus", "8"), "--gpus 8: --against"),
        (("--against", "MEASURED", "--step", H100), "has the numbers of processes and the step; leave this out"),
        (("--against", "MEASURED"), "has steps that differ in more than processes; choose by --recipe"),
        (("--against", "MEASURED", "--recipe", "wgan"), "has no such step; choose by --recipe, --scaling"),
        (("--against", H100), "has no step of the core in several processes; pytest bench"),
    ],
)
def test_what_is_compared_has_to_be_in_the_file(
    arguments: tuple[object, ...], said: str, measured: Path, command: Command
) -> None:
    words = [str(measured) if word == "MEASURED" else str(word) for word in arguments]
    code, shown, errors = command("predict", "--link", "1Gb/s", *words)
    assert (code, shown) == (2, "")
    (line,) = errors.splitlines()
    assert said in line


def test_what_went_through_shared_memory_is_not_what_is_predicted(tmp_path: Path, command: Command) -> None:
    record = explained_record()
    for of_rank in record["launches"][0]["ranks"]:
        of_rank["strategy"]["shared_memory"] = True
    path = tmp_path / "shared.json"
    path.write_text(json.dumps(results_file(record)), encoding="utf-8")
    code, _, errors = command("predict", "--against", str(path))
    assert code == 2
    assert "measure with --shared-memory no" in errors
    (_, messages) = exposure_tables([CaseResult.of(record)])
    assert messages.title.startswith("Messages of a step in shared memory: ")


def test_steps_over_hosts_take_the_bandwidth_of_their_link(tmp_path: Path, command: Command) -> None:
    over_hosts = explained_record()
    over_hosts["case"]["num_hosts"] = 2
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(results_file(over_hosts)), encoding="utf-8")
    code, _, errors = command("predict", "--against", str(path))
    assert code == 2
    assert "p2-h2 is of several hosts; give --link their bandwidth, as in 1Gb/s" in errors
    chosen = settings("--against", path, "--link", "1Gb/s")
    assert (chosen.sizes, chosen.case.num_hosts, chosen.case.num_processes) == ((2,), 1, 1)


def test_a_prediction_is_compared_with_what_was_measured(
    measured: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """20 ms of one process, and 20 ms for 1 MB that is there after 10 ms: 30 ms, where 25 ms were measured."""
    monkeypatch.setattr(predict_command, "rehearsals", stub_rehearsals)
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ("--against", measured, "--recipe", "mlp", "--link", "0.05GB/s", "--latency", "0us")
    code, shown, _ = command("predict", *map(str, arguments), "--output", str(tmp_path / "made.json"))
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80
    assert "PREDICTION against what the file has measured" in shown
    assert "20.0 ms of one process alone in the file, times 1.00" in shown
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    seconds = {one["part"]: (one["predicted_seconds"], one["measured_seconds"]) for one in made["against"]}
    assert seconds["step"] == pytest.approx((0.030, 0.025))
    assert seconds["compute"] == pytest.approx((0.020, 0.014), abs=1e-6)
    assert seconds["exposed"] == pytest.approx((0.010, 0.007), abs=1e-6)
    assert seconds["waiting"] == pytest.approx((0, 0.004), abs=1e-6)
    whole, *parts = (one["error"] for one in made["against"])
    assert whole == pytest.approx(0.2)
    assert sum(parts) == pytest.approx(whole, abs=1e-6)


def test_a_step_is_taken_with_no_more_threads_than_there_are_cores(
    measured: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has 4 threads."""
    asked = []

    def note(case, sizes, num_threads, folder, say) -> dict[int, Rehearsal]:
        asked.append(num_threads)
        return stub_rehearsals(case, sizes, num_threads, folder, say)

    monkeypatch.setattr(predict_command, "rehearsals", note)
    said = {}
    for num_cores in (3, 4):
        for module in (predict_command, predict_summary):
            monkeypatch.setattr(module, "num_available_cores", lambda cores=num_cores: cores)
        _, shown, _ = command("predict", "--against", str(measured), "--recipe", "mlp", "--link", "1Gb/s")
        said[num_cores] = "where it took 3 CPU threads" in " ".join(shown.split())
    assert asked == [3, 4]
    assert said == {3: True, 4: False}


def test_a_step_is_taken_with_the_threads_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    chosen = settings("--link", "1Gb/s", "--gpus", "2")
    assert predict_command._num_threads(chosen, 8) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert predict_command._num_threads(chosen, 8) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpus", "0"), "--gpus 0: must be numbers from 1 to 65,536"),
        (("--gpus", "8,x"), "--gpus 8,x: must be numbers"),
        (("--link", "400"), "--link 400: no bandwidth; give bits as in 400Gb/s"),
        (("--link", "0Gb/s"), "--link 0Gb/s: no bandwidth"),
        (("--link", "1Gb/s", "--latency", "5"), "--latency 5: no time"),
        (("--latency", "5us"), "--latency 5us: --link here is measured"),
        (("--gpus-per-node", "8"), "--gpus-per-node 8: --link here is measured"),
        (("--link", "1Gb/s", "--gpus-per-node", "0"), "--gpus-per-node 0: must be from 1"),
        (("--link", "1Gb/s", "--gpus-per-node", "8"), "--gpus-per-node 8: give --node-link"),
        (("--link", "1Gb/s", "--node-link", "1GB/s"), "--node-link 1GB/s: nodes have one GPU each"),
        (("--algorithm", "tree"), "--algorithm tree: gloo forms sums by rings"),
        (("--link", "1Gb/s", "--algorithm", "trees"), "--algorithm trees: unknown; did you mean tree?"),
        (("--step", H100, "--recipe", "dcgan", "--precision", "bf16"), "--link here measures the step too"),
        (("--link", "1Gb/s", "--recipe", "mpl"), "--recipe mpl"),
        (("--link", "1Gb/s", "--recipe", "mlp,dcgan"), "--recipe mlp,dcgan: 2 values"),
        (("--link", "1Gb/s", "--comm-hook", "powersgd"), "--comm-hook powersgd"),
        (("--link", "1Gb/s", "--scaling", "strong"), "a batch of 64 cannot be split over 512"),
        (("--link", "1Gb/s", "--step", "nowhere.json"), "nowhere.json: not found"),
        (("--link", "1Gb/s", "--step", H100, "--recipe", "r3gan", "--batch-size", "7"), "has no such step"),
        (("--link", "1Gb/s", "--step", H100), "has several steps; choose one"),
        (("--link", "1Gb/s", "--output", "."), "--output .: is a directory"),
        (("--step", "a.json", "--output", "a.json"), "--output a.json: the same file is read"),
        (("--against", "a.json", "--output", "a.json"), "--output a.json: the same file is read"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[object, ...], said: str, command: Command) -> None:
    code, shown, errors = command("predict", *map(str, arguments))
    assert code == 2
    assert not shown
    (line,) = errors.splitlines()
    assert said in line


def test_a_step_comes_from_a_stored_file() -> None:
    chosen = settings("--link", "400Gb/s", "--step", H100, "--recipe", "dcgan", "--precision", "bf16")
    assert chosen.stored is not None
    assert (chosen.case.recipe, chosen.case.precision, chosen.case.device) == ("dcgan", "bf16", "cuda")
    assert chosen.sizes == (8, 64, 512)


def test_of_eager_and_compiled_steps_the_eager_one_is_taken(tmp_path: Path) -> None:
    """No option of `predict` chooses a compiler."""
    path = tmp_path / "steps.json"
    compiled = step_record(Case(compile="inductor"))
    for records, taken in (((step_record(), compiled), "no"), ((compiled,), "inductor")):
        path.write_text(json.dumps(results_file(*records)), encoding="utf-8")
        assert settings("--link", "400Gb/s", "--step", path).case.compile == taken


def stub_rehearsals(case, sizes, num_threads, folder, say) -> dict[int, Rehearsal]:
    """Steps of 10 ms, half before a bucket of 1 MB and half after it."""
    shared = (Event(Kind.BUCKET, 0.005, 10**6, "generator"), Event(Kind.WAIT, 0.005, 0, "generator"))
    alone = (Event(Kind.WAIT, 0.010, 0, "generator"),)
    return {
        size: Rehearsal(size, (*(shared if size > 1 else alone), Event(Kind.END, 0.0)), 64 * size, 2**20, 8)
        for size in sizes
    }


def test_a_slow_link_is_exposed_and_every_table_says_prediction(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """1 MB over a ring of two at 1 MB/ms takes 1 ms and hides; at 0.1 MB/ms it takes 10 ms, of which 5 hide."""
    monkeypatch.setattr(predict_command, "rehearsals", stub_rehearsals)
    monkeypatch.setenv("COLUMNS", "80")
    seconds = {}
    for link in ("1GB/s", "0.1GB/s"):
        arguments = ("--link", link, "--latency", "0us", "--gpus", "2", "--output", tmp_path / "made.json")
        code, shown, _ = command("predict", *map(str, arguments))
        assert code == 0
        assert max(map(len, shown.splitlines())) <= 80
        assert shown.count("PREDICTION") == 2
        assert "assumed:" in shown
        made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
        assert made["kind"] == "prediction"
        assert [one["kind"] for one in made["predictions"]] == ["prediction"]
        seconds[link] = made["predictions"][0]["step_seconds"]
    assert seconds["1GB/s"] == pytest.approx(0.010)
    assert seconds["0.1GB/s"] == pytest.approx(0.015)


def test_sums_of_this_machine_are_fitted_to_two_processes(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sums(sizes, folder, say) -> list[Sample]:
        return [Sample(n, size, 2 * (n - 1) / n * size / 1e9) for n in sizes for size in (2**18, 2**20, 2**22)]

    monkeypatch.setattr(predict_command, "rehearsals", stub_rehearsals)
    monkeypatch.setattr(predict_command, "sums_here", sums)
    monkeypatch.setattr(predict_command, "num_available_cores", lambda: 4)
    code, shown, _ = command("predict")
    assert code == 0
    assert "1.00 GB/s, fitted to gloo's rings of two processes here" in shown
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] in (["3"], ["4"])]
    assert ["3", "0.0%", "0.0%"] in [row[:3] for row in rows]


def test_what_cannot_be_measured_is_a_failure(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MeasurementError("rank 0 of 8 processes: signal SIGKILL")

    monkeypatch.setattr(predict_command, "rehearsals", fail)
    code, _, errors = command("predict", "--link", "1Gb/s")
    assert code == 1
    assert errors.splitlines()[-1] == "error: rank 0 of 8 processes: signal SIGKILL"


@pytest.mark.multiprocess
def test_the_rank_that_failed_is_named_and_those_that_wait_are_ended_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = Deaths(monkeypatch)
    waits, fails = ["http.server", "0"], ["bench.predict.no_such_module"]
    with pytest.raises(MeasurementError, match=r"exit code 1: .*no_such_module"):
        run_side_by_side([waits, fails, waits], [{}, {}, {}], "cpu", tmp_path, 60.0)
    assert deaths.at_once() == 3


def test_processes_that_do_not_answer_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = SimpleNamespace(poll=lambda: None)
    ended: list[object] = []
    monkeypatch.setattr("bench.predict.measure.start", lambda *_, **__: waits)
    monkeypatch.setattr("bench.predict.measure.end", lambda *processes: ended.extend(processes))
    with pytest.raises(MeasurementError, match=r"^forks: no answer in 0 s; try again when the machine is less"):
        run_side_by_side([["forks"]], [{}], "cpu", tmp_path, 0.0)
    assert ended == [waits]
    assert SUMS_TIMEOUT_SECONDS >= 600, "or a busy machine could not import PyTorch four times meanwhile"


def test_a_recipe_file_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").touch()
    answer = encode(Answer(refusal="noted"))
    monkeypatch.setattr(
        "bench.predict.measure.run_side_by_side", lambda *_: (tmp_path / ANSWER_NAME).write_bytes(answer)
    )
    with pytest.raises(UsageError, match="noted"):
        rehearsals(Case(recipe="mine.py:MINE"), (1,), None, tmp_path, lambda _: None)
    order = decode((tmp_path / "order.json").read_bytes(), Order)
    assert order.case.recipe == f"{tmp_path / 'mine.py'}:MINE"


def rehearsed(folder: Path, case: Case, *sizes: int) -> Answer:
    order = folder / "order.json"
    order.write_bytes(encode(Order(case, sizes, 1, 0.0, os.getpid())))
    run_imported(ROOT / "bench" / "predict" / "forks.py", order, cwd=folder)
    return decode((folder / ANSWER_NAME).read_bytes(), Answer)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("hook", slow_or_nightly(["no", "bf16"], slow=["bf16"]))
def test_rank_0_of_many_sends_all_gradients_of_both_networks(tmp_path: Path, hook: str) -> None:
    case = Case(recipe="mlp", batch_size=4, comm_hook=hook)
    answer = rehearsed(tmp_path, case, 1, 1024)
    assert not answer.refusal
    assert not answer.failure
    alone, many = answer.rehearsals
    assert not [event for event in alone.schedule if event.sends]
    assert many.images_per_step == 4 * 1024
    counted = footprint(RECIPES["mlp"], (1, 28, 28), 0)
    parameters = {"generator": counted.generator_parameters, "discriminator": counted.discriminator_parameters}
    for network, num_parameters in parameters.items():
        buckets = [event for event in many.schedule if event.kind is Kind.BUCKET and event.network == network]
        assert len(buckets) == 2  # the first is closed at 1 MiB
        assert sum(event.num_bytes for event in buckets) == num_parameters * (4 if hook == "no" else 2)
    assert [event.network for event in many.schedule if event.kind is Kind.WAIT] == ["generator", "discriminator"]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_tables_of_batchnorm_grow_with_the_number_of_processes(tmp_path: Path) -> None:
    answer = rehearsed(tmp_path, Case(recipe="mlp-batchnorm", batch_size=4), 2, 64)
    few, many = (
        [event.num_bytes for event in rehearsal.schedule if event.kind is Kind.SUM]
        for rehearsal in answer.rehearsals
    )
    assert few
    assert {event.name for event in answer.rehearsals[0].schedule if event.kind is Kind.SUM} == {"BatchNorm"}
    assert many == [32 * num_bytes for num_bytes in few]


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
@pytest.mark.parametrize(("batch_size", "times"), [(6, 32), (4, 0)])
def test_groups_of_several_processes_grow_in_number_with_these(
    tmp_path: Path, batch_size: int, times: int
) -> None:
    """Parts of 6 images divide groups of 4: 1 where two processes train, and 32 where 64 do. Parts of 4 do not."""
    case = Case(recipe="stylegan2", set=SMALL["stylegan2"], batch_size=batch_size)
    answer = rehearsed(tmp_path, case, 2, 64)
    assert not answer.failure
    few, many = (
        {
            kind: [
                event.num_bytes for event in rehearsal.schedule if (event.kind, event.name) == (kind, DEVIATION)
            ]
            for kind in (Kind.GATHER, Kind.SUM)
        }
        for rehearsal in answer.rehearsals
    )
    assert set(many[Kind.GATHER]) == {64 * 8}  # a whole number of each process
    assert len(few[Kind.GATHER]) == len(many[Kind.GATHER])
    assert bool(few[Kind.SUM]) == bool(times)
    assert many[Kind.SUM] == [times * num_bytes for num_bytes in few[Kind.SUM]]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_schedule_has_a_whole_period_of_lazy_penalties(tmp_path: Path) -> None:
    """Six steps. D's penalty takes an update of its own every 3 updates, and G's every 2: at first both."""
    answer = rehearsed(tmp_path, Case(recipe=LAZY[0], batch_size=4), 1, 64)
    assert not answer.failure
    updates = ["DDGG", "DG", "DGG", "DDG", "DGG", "DG"]
    for rehearsal in answer.rehearsals:
        events = rehearsal.schedule
        waits = "".join("." if one.kind is Kind.END else one.network[:1].upper() for one in events)
        if rehearsal.num_processes > 1:  # a bucket, and its end
            waits = waits.replace("DD", "D").replace("GG", "G")
        assert waits.split(".")[:-1] == updates
        assert rehearsal.num_steps % 6 == 0


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_schedule_has_a_whole_interval_of_adaptation(tmp_path: Path) -> None:
    """Four steps. Their signs are added up after the last of them; D's penalty is due in every second one."""
    answer = rehearsed(tmp_path, Case(recipe=LAZY[2], batch_size=4), 64)
    assert not answer.failure
    (rehearsal,) = answer.rehearsals
    assert rehearsal.num_steps % 4 == 0
    sums = [event.name if event.kind is Kind.SUM else "." for event in rehearsal.schedule if not event.network]
    assert [name for name in sums if name] == [".", ".", ".", "signs for adaptation", "."]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_refusal_of_training_is_passed_on(tmp_path: Path) -> None:
    answer = rehearsed(tmp_path, Case(recipe="mlp-batchnorm", batch_size=1), 1, 2)
    assert "BatchNorm" in answer.refusal


DOCUMENTED = commands("python", "-m", "bench", "predict")


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("documented", slow_or_nightly(DOCUMENTED, slow=()), ids=str)
def test_documented_predictions(documented, tmp_path: Path) -> None:
    words = [sys.executable, *documented.words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    (tmp_path / "results").symlink_to(ROOT / "results")
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PREDICTION, not measured" in done.stdout


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("most", [3, 4])
def test_sums_of_more_nodes_are_predicted_from_two(most: int, nodes: NodesMaker, tmp_path: Path) -> None:
    """Over links of 400 Mbit/s, whose bytes take far longer than what the CPUs do."""
    samples: dict[int, tuple[Sample, ...]] = {}
    for count in range(2, most + 1):
        members = nodes(count)
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": members[0].address, "MASTER_PORT": "29500"}
        place |= {"GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(ROOT)}
        running = []
        for rank, node in enumerate(members):
            node.limit("400mbit")
            words = [sys.executable, "-m", "bench.predict.exchange", tmp_path]
            running.append(node.start(words, env={**place, "RANK": str(rank)}))
        said = end(*running, seconds=200)
        assert not any(process.returncode for process in running), said
        samples[count] = decode((tmp_path / SAMPLES_NAME).read_bytes(), Samples).samples
    link = fitted(samples[2])
    others = [sample for count in range(3, most + 1) for sample in samples[count]]
    for outcome in held_out(link, others):
        print(outcome)
        assert outcome.large_error is not None
        assert outcome.large_error < 0.2
