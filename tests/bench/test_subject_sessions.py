"""`pytest bench --subject`: a session of subjects, good and bad, in real processes."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bench.harness.windows import Effort
from bench.results.case_result import CaseResult
from bench.results.damage import KEY, schema_error
from bench.results.file import read
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseRefusedError
from bench.suite.cases import Case
from tests.conftest import ROOT, run_script
from tests.documents import commands

BAD = '''
import math, os, resource, time
import torch
from bench.subjects.subject import SubjectError

class Step:
    """Does something wrong in its 30th step."""

    images_per_step = 4

    def __init__(self, fault=lambda: None, loss=1.0):
        self.fault = fault
        self.loss = loss
        self.count = 0
        self.matrix = torch.rand(64, 64)

    def step(self):
        self.count += 1
        self.matrix @ self.matrix
        if self.count == 30:
            self.fault()

    def losses(self):
        return {"loss_d": self.loss}

def good(setup):
    assert os.getcwd() == os.path.dirname(__file__)
    return Step()

def in_make(setup):
    return {}["missing"]

def in_step(setup):
    return Step(lambda: 1 / 0)

def waits(setup):
    return Step(lambda: time.sleep(1000))

def killed(setup):
    return Step(lambda: os.kill(os.getpid(), 9))

def refuses(setup):
    raise SubjectError("only on a GPU")

def diverges(setup):
    return Step(loss=math.nan)

def fills_memory(setup):
    def allocate():
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
        kept = []
        while True:
            kept.append(torch.zeros(2**24))
    return Step(allocate)
'''


def raised(name: str, part: str, code: str) -> str:
    """Return how a line begins that says where a part of a subject raised."""
    number = next(number for number, line in enumerate(BAD.splitlines(), 1) if code in line)
    return f"bad.py:{name}: {part}() raised at bad.py:{number}: "


LINES = {
    "in_make": raised("in_make", "in_make", "missing") + "KeyError: 'missing'",
    "in_step": raised("in_step", "step", "1 / 0") + "ZeroDivisionError: division by zero",
    "waits": "no progress for 5 s (--stall-timeout): rank 0 is sleeping, in 'step'; all its processes were ended",
    "killed": "rank 0 ended with signal SIGKILL, as if memory has run out",
    "fills_memory": raised("fills_memory", "step", "kept.append") + "RuntimeError: [enforce fail at alloc_cpu",
}
DDP = '''
import torch
from accelerate import Accelerator
from torch import distributed, nn

class Gan:
    """Two layers, whose gradients are averaged by one of two ways."""

    def __init__(self, setup, wrap):
        torch.manual_seed(setup.seed)
        self.images_per_step = setup.batch_size
        self.g = nn.Linear(16, 64)
        self.d = nn.Linear(64, 1)
        self.wrapped_g = wrap(self.g)
        self.wrapped_d = wrap(self.d)
        self.optimizers_ = [torch.optim.Adam(network.parameters()) for network in (self.g, self.d)]
        torch.manual_seed(1000 * setup.seed + setup.rank)
        self.real = torch.rand(setup.batch_size, 64)

    def step(self):
        latents = torch.randn(self.images_per_step, 16)
        fake = self.wrapped_g(latents)
        self.loss_d = nn.functional.softplus(self.wrapped_d(fake.detach()) - self.d(self.real).detach()).mean()
        self.take(self.loss_d, 1)
        self.take(-self.d(fake).mean(), 0)

    def take(self, loss, number):
        self.optimizers_[number].zero_grad()
        loss.backward()
        self.optimizers_[number].step()

    def networks(self):
        return {"generator": self.g, "discriminator": self.d}

    def losses(self):
        return {"loss_d": self.loss_d}

def accelerated(setup):
    return Gan(setup, Accelerator(cpu=True).prepare)

def by_itself(setup):
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return Gan(setup, nn.parallel.DistributedDataParallel)

def apart(setup):
    return Gan(setup, lambda network: network)
'''


def bench(*arguments: str, storage: Path, cwd: Path = ROOT) -> Any:
    command = ("-m", "pytest", str(ROOT / "bench"), f"--rootdir={ROOT}", "--benchmark-only", *arguments)
    return run_script(*command, "--benchmark-storage", f"file://{storage}", cwd=cwd, env={"PYTHONPATH": str(ROOT)})


def results_of(storage: Path) -> dict[str, CaseResult]:
    (path,) = storage.rglob("*.json")
    assert schema_error(json.loads(path.read_text(encoding="utf-8"))) is None
    return {f"{result.case.workload} {result.case.subject}": result for result in read(path).cases}


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
def test_each_bad_subject_is_one_line_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD, encoding="utf-8")
    specs = ",".join(f"bad.py:{name}" for name in ("good", *LINES, "refuses", "diverges"))
    chosen = ("-k", "test_step", "--rounds", "4", "--stall-timeout", "5", "--subject", specs)
    done = bench(*chosen, storage=tmp_path / "results", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout
    (path,) = (tmp_path / "results").rglob("*.json")
    failed = {failure.case: failure.reason for failure in read(path).session.failed}
    assert failed.keys() == {f"step bad:{name}-cpu-fp32-eager-b64-p1" for name in LINES}
    for name, line in LINES.items():
        reason = failed[f"step bad:{name}-cpu-fp32-eager-b64-p1"]
        assert reason.splitlines()[0].startswith(line), reason
    assert "skipped: 1 case(s): bad.py:refuses: only on a GPU" in done.stdout
    assert "not finite after the last step: step bad:diverges-cpu-fp32-eager-b64-p1 (loss_d)" in " ".join(
        done.stdout.split()
    )
    results = results_of(tmp_path / "results")
    assert results.keys() == {"step bad.py:good", "step bad.py:diverges"}
    facts = results["step bad.py:good"].facts
    assert facts.subject_sha256 == sha256(BAD.encode()).hexdigest()
    assert facts.left_out["memory of weights"] == "it has no networks()"
    assert "step bad:good: no memory of weights: it has no networks()" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.nightly
def test_a_first_step_that_never_ends_is_ended(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD.replace("self.count == 30", "self.count == 1"), encoding="utf-8")
    chosen = ("-k", "test_step", "--case-timeout", "60", "--subject", "bad.py:waits")
    done = bench(*chosen, storage=tmp_path / "results", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"60 s \(--(case|stall)-timeout\): rank 0 is sleeping, in 'first step of step'", done.stdout)
    assert "bad.py" in done.stdout


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
@pytest.mark.parametrize("names", [("accelerated", "apart"), ("by_itself",)], ids=" and ".join)
def test_several_processes_of_a_subject_measure_together(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "ddp.py").write_text(DDP, encoding="utf-8")
    chosen = ("-k", "test_scaling or test_stability", "--num-processes", "2", "--rounds", "4")
    subjects = ",".join(f"ddp.py:{name}" for name in names)
    done = bench(*chosen, "--subject", subjects, storage=tmp_path / "results", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = results_of(tmp_path / "results")
    for name in names:
        scaling = results[f"scaling ddp.py:{name}"]
        assert scaling.images_per_step("step") == 2 * 64
        ranks = [rank.facts for launch in scaling.launches for rank in launch]
        assert [of_rank.same_weights for of_rank in ranks] == [name != "apart"] * 2
        assert {(check.tier, check.passed) for check in results[f"stability ddp.py:{name}"].checks} == {
            ("T0", True),
            ("T4", True),
        }
    doubted = re.findall(r"the weights of its processes differ: \w+ ddp:(\w+)-", " ".join(done.stdout.split()))
    assert set(doubted) == {"apart"} & set(names)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.nightly
def test_the_documented_example_is_measured_as_it_stands(tmp_path: Path) -> None:
    documented = {command.words for command in commands("pytest", "bench")}
    words = ("pytest", "bench", "--benchmark-only", "--subject", "docs/examples/my_gan.py:make")
    assert words in documented
    storage = ("--benchmark-storage", f"file://{tmp_path}")
    done = run_script("-m", *words, "--stall-timeout", "120", *storage, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    results = results_of(tmp_path)
    assert {result.case.workload for result in results.values()} == {"step", "startup", "stability"}
    step = results["step docs/examples/my_gan.py:make"]
    assert step.seconds_per_step.keys() == {"step", "products", "peak_product", "peak_copy", "peak_update"}
    assert step.facts.left_out == {"× plain": "no --recipe says which GAN the plain loop should train"}
    assert "skipped: 3 case(s): a workload of the core alone" in done.stdout
    assert "holds weights of 0.4 MiB (generator 0.4, discriminator 0.0)" in done.stdout


def test_a_case_that_its_subject_refuses_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(self: CaseRunner, efforts: Mapping[Case, Effort], outcomes: dict[Case, Outcome]) -> None:
        outcomes |= {case: CaseRefusedError("plain: not today") for case in efforts}

    monkeypatch.setattr(CaseRunner, "run", run)
    monkeypatch.chdir(ROOT)
    options = ("-k", "test_step", "--subject", "plain", "--recipe", "mlp", "-p", "no:cacheprovider")
    code = pytest.main(["bench", "--benchmark-only", *options, f"--benchmark-storage=file://{tmp_path}"])
    said = capfd.readouterr().out
    assert code == 0
    assert "skipped: 1 case(s): plain: not today" in said
    assert KEY not in said
