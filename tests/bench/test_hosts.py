"""Cases whose processes are spread over hosts: with stubs, and with other hosts that are processes of this one."""

import multiprocessing
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.harness import node_messages as m
from bench.harness.exchange import Exchange
from bench.harness.messages import decode, encode
from bench.harness.windows import Effort
from bench.runner import hosts as hosts_module
from bench.runner import other_node
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseError, NodeEnd, failed_on_hosts
from bench.runner.hosts import DEFAULT_TEMPLATE, NODE, Hosts, parse_hosts, passed_variables
from bench.runner.launches import accelerate_launch, config_file
from bench.runner.limits import Limits
from bench.suite.cases import Case
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES
from gan.errors import UsageError
from tests.bench import stub
from tests.bench.check_processes import until
from tests.conftest import ROOT

TWO = Case(workload="scaling", recipe="mlp-compact", num_processes=2, num_hosts=2, batch_size=8)
FOUR = replace(TWO, num_processes=4)
LITTLE = Effort(launches=1, rounds=16, window_seconds=0.005, patience_seconds=0.0)
LONG = Effort(launches=1, rounds=100_000, measure_seconds=1000)
LIMITS = Limits(case_seconds=200)
SOON = Limits(case_seconds=200, stall_seconds=2)
"""Where a process hangs; elsewhere a busy machine is not to look like one that does."""
TEMPLATE = ("env", "STUB_HOST={host}", "{command}")
HERE = "127.0.0.1,127.0.0.2"
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


def measure(
    case: Case,
    effort: Effort,
    template: tuple[str, ...] = TEMPLATE,
    limits: Limits = LIMITS,
    on_launch: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a case of stubs, the second host of which is reached by a template; raise its CaseError."""
    outcomes: dict[Case, Outcome] = {}
    hosts = Hosts(("first", "second"), template)
    CaseRunner(limits, on_launch=on_launch, command=stub.command, hosts=hosts).run({case: effort}, outcomes)
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise outcome
    return outcome


def running(*parts: str) -> list[psutil.Process]:
    """Return the processes whose command lines have one of the parts."""
    lines = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    return [process for process, line in lines.items() if any(part in line for part in parts)]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory; in the end, nothing is in it, and no process of it is left."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("bench.runner.spread.SECONDS_TO_FAIL", 0.5)
    yield path
    until(lambda: not running(str(path)))
    until(lambda: not list(path.iterdir()))


def agents(temporary: Path) -> list[psutil.Process]:
    """Return the nodes on other hosts, which have no path of theirs on their command lines."""
    return [process for process in running(NODE[1]) if process.environ().get("TMPDIR") == str(temporary)]


@pytest.mark.parametrize(
    ("hosts", "template", "complaint"),
    [
        (None, "ssh {host} {command}", "--launch-template: says how nodes of --hosts are started; add --hosts"),
        ("127.0.0.1", None, "--hosts 127.0.0.1: needs at least two, this machine first"),
        ("127.0.0.1,", None, "--hosts 127.0.0.1,: must be names or addresses with commas between them"),
        ("127.0.0.1,-oProxyCommand=x", None, "must be names or addresses with commas between them"),
        ("127.0.0.1,127.0.0.1", None, "--hosts 127.0.0.1,127.0.0.1: names a host twice"),
        ("192.0.2.1,127.0.0.1", None, "192.0.2.1, which is no address of this machine; the first host is"),
        ("no-such.invalid,b", None, "no-such.invalid cannot be resolved"),
        ("localhost,node1", None, "node1 cannot reach this machine as localhost"),
        ("127.0.1.1,node1", None, "node1 cannot reach this machine as 127.0.1.1; give its name or address"),
        ("127.0.0.1,127.000.0.1", None, "names a host twice"),
        ("vm,VM", None, "names a host twice"),
        ("vm,vm.", None, "names a host twice"),
        ("::1,0::1", None, "names a host twice"),
        ("LOCALHOST,node1", None, "node1 cannot reach this machine as LOCALHOST"),
        ("0.0.0.0,node1", None, "0.0.0.0, which is no address of this machine"),
        ("::,node1", None, "::, which is no address of this machine"),
        ("255.255.255.255,node1", None, "255.255.255.255, which is no address of this machine"),
        ("224.0.0.1,node1", None, "224.0.0.1, which is no address of this machine"),
        ("node1..node3,b", None, "--hosts node1..node3,b: must be names or addresses"),
        ("127.0.0.1,.", None, "must be names or addresses"),
        (f"{'x' * 64},b", None, "cannot be resolved (no host can have such a name)"),
        ("127.0.0.1,\udcff", None, r"--hosts 127.0.0.1,\udcff: must be names or addresses"),
        ("127.0.0.1,\x1b[31mred\u202e", None, r"--hosts 127.0.0.1,\x1b[31mred\u202e: must be names"),
        (HERE, "ssh {\x1b} {command}", r": {\x1b}: must be one of {host} (its name in --hosts), {node}"),
        (HERE, "ssh {host}", "needs {command}, or {arguments} after another Python, once"),
        (HERE, "ssh {host} {command} {arguments}", "needs {command}, or {arguments} after another Python, once"),
        (HERE, "ssh b {command}", "needs {host} or {node}"),
        (HERE, "", "--launch-template '': needs {host} or {node}"),
        (HERE, "ssh {user}@{host} {command}", "{user}: must be one of {host} (its name in --hosts), {node}"),
        (HERE, "ssh {host!r} {command}", "{host!r}: must be one of"),
        (HERE, "ssh {} {command}", "{}: must be one of"),
        (HERE, "ssh {host {command}", "a brace that is no placeholder is written twice"),
        (HERE, "ssh '{host} {command}", "No closing quotation"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(hosts: str | None, template: str | None, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hosts(hosts, template)
    assert complaint in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_of_this_machine_may_have_an_address_here_that_no_other_machine_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in /etc/hosts: `127.0.0.1 localhost node0`. The other hosts know node0 by another address."""
    here = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [here])
    hosts = parse_hosts("node0,node1", None)
    assert hosts
    assert hosts.names == ("node0", "node1")


def test_a_template_says_how_a_node_is_started() -> None:
    assert parse_hosts(None, None) is None
    default = parse_hosts("127.0.0.1, 127.0.0.2", None)
    assert default == Hosts(("127.0.0.1", "127.0.0.2"), tuple(shlex.split(DEFAULT_TEMPLATE)))
    words = default.command(1)
    assert words[4:6] == ["ConnectTimeout=15", "127.0.0.2"]
    assert words[:4] == ["ssh", "-o", "BatchMode=yes", "-o"]
    assert words[-4:] == [sys.executable, "-P", *NODE]
    other = parse_hosts(HERE, "run --on={host} -n {node} {{}} .venv/bin/python {arguments}")
    assert other
    assert other.command(1) == ["run", "--on=127.0.0.2", "-n", "1", "{}", ".venv/bin/python", *NODE]


def test_a_path_with_a_space_arrives_whole_whether_or_not_a_shell_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.runner.hosts.ROOT", Path("/a place"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    templates = (
        "ssh {host} {command}",
        "to {host} {command}",
        "on {host} sh -lc '{command}'",
        "ssh {host} bash -lc {command}",
    )
    by_shell, directly, quoted, login = (
        Hosts(("a", "b"), tuple(shlex.split(text))).command(1) for text in templates
    )
    assert shlex.split(" ".join(by_shell[2:])) == directly[2:] == shlex.split(quoted[4])
    *login_shell, its_command = shlex.split(" ".join(login[2:]))  # as the shell that ssh starts reads it
    assert login_shell == ["bash", "-lc"]
    assert shlex.split(its_command) == directly[2:]
    assert "PYTHONPATH=/a place" in directly


def test_processes_are_spread_evenly_over_hosts() -> None:
    two_hosts = Machine(num_cores=4, num_gpus=0, num_hosts=2)
    chosen: dict[str, list[Any]] = {"recipe": ["mlp"], "num_processes": [1, 2, 3, 4, 16], "scaling": ["weak"]}
    scaling = [case for case in SUITES["smoke"].cases(two_hosts, chosen) if case.workload == "scaling"]
    assert {case.num_processes: case.num_hosts for case in scaling} == {1: 1, 2: 2, 3: 2, 4: 2, 16: 2}
    reasons = {case.num_processes: impossible(case, two_hosts) for case in scaling}
    assert reasons == {
        1: None,
        2: None,
        3: "3 processes cannot be spread evenly over 2 hosts",
        4: None,
        16: "8 processes on a host, but 4 cores",
    }
    both = SUITES["smoke"].cases(two_hosts, {**chosen, "num_processes": [2], "num_hosts": [1, 2]})
    assert [case.id for case in both if case.workload == "scaling"] == [
        "mlp-cpu-fp32-eager-b64-p2",
        "mlp-cpu-fp32-eager-b64-p2-h2",
    ]
    assert impossible(TWO, Machine(num_cores=4, num_gpus=0)) == "2 hosts, but --hosts names 1"
    three_hosts = replace(two_hosts, num_hosts=3)
    (of_two,) = (
        case
        for case in SUITES["smoke"].cases(three_hosts, {**chosen, "num_processes": [2]})
        if case.workload == "scaling"
    )
    assert of_two.num_hosts == 2, "fewer processes than hosts take the first hosts"


def test_the_launchers_of_all_hosts_have_one_command_but_for_their_number() -> None:
    first, second = (accelerate_launch(FOUR, hosts_module.Rendezvous(node, "node0", 2000)) for node in (0, 1))
    place = first.index("--machine_rank") + 1
    assert (first[place], second[place]) == ("0", "1")
    assert first[:place] + first[place + 1 :] == second[:place] + second[place + 1 :]
    flags = dict(zip(first[3::2], first[4::2], strict=False))
    assert flags["--num_processes"] == "4"
    assert flags["--num_machines"] == "2"
    assert flags["--main_process_ip"] == "node0"
    assert flags["--main_process_port"] == "2000"
    assert (ROOT / flags["--config_file"]) == config_file(FOUR)
    assert not Path(flags["--config_file"]).is_absolute(), "other hosts may have another directory"


def test_variables_of_libraries_are_passed_on_and_names_of_interfaces_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alike = {"MKL_CBWR", "NCCL_ALGO", "NCCL_IGNORE_CPU_AFFINITY", "ATEN_CPU_CAPABILITY", "CUDA_LAUNCH_BLOCKING"}
    of_this_host = {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_HOSTID", "NCCL_TOPO_FILE"}
    of_this_host |= {"TORCH_HOME", "TORCH_EXTENSIONS_DIR", "GOMP_CPU_AFFINITY"}
    never = {"TORCH_COMPILE_DEBUG", "CUDA_VISIBLE_DEVICES", "X"}
    for name in alike | of_this_host | never:
        monkeypatch.setenv(name, "1")
    passed = passed_variables().keys()
    assert alike <= passed
    assert not (of_this_host | never | {"PATH"}) & passed


def test_of_all_nodes_that_failed_the_one_is_named_that_made_the_others_fail(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    exchange = Exchange(tmp_path / "0")

    def node(rank: int, host: str, code: int, rank_log: str, lost: str = "") -> NodeEnd:
        log = tmp_path / f"{host}.log"
        log.write_text(f"Root Cause (first observed failure):\n rank : {rank} (local…)\n exitcode : {code}\n")
        exchange.log(rank).write_text(rank_log)
        return NodeEnd(host, [rank], None if lost else 1, lost, log)

    broken = "RuntimeError: Connection closed by peer [192.0.2.10]"
    victim = node(0, "a", 1, broken)
    culprit = failed_on_hosts(exchange, 2, [victim, node(1, "b", 1, "ValueError: mine")])
    assert str(culprit).startswith("rank 1 on b ended with exit code 1\nits log ends:\n  ValueError: mine")
    killed = failed_on_hosts(exchange, 2, [victim, node(1, "b", -9, "")])
    assert str(killed).startswith("rank 1 on b ended with signal SIGKILL, as if memory has run out")
    lost = failed_on_hosts(exchange, 2, [victim, node(1, "b", 0, "last words", lost="the connection to it ended")])
    assert str(lost).startswith("b: the connection to it ended\n")
    assert "last words" in str(lost)
    (exchange.root / "rank1.refusal.json").write_bytes(encode(stub.refusal("not in bf16")))
    assert str(failed_on_hosts(exchange, 2, [victim, node(1, "b", 2, "")])) == "not in bf16 (on b)"


@pytest.mark.multiprocess
def test_every_rank_is_measured_on_its_host_and_recorded_here(temporary: Path) -> None:
    record = measure(FOUR, LITTLE)
    assert record["case"]["num_hosts"] == 2
    assert record["accelerate"]["num_machines"] == 2
    (launch,) = record["launches"]
    assert [(rank["rank"], rank["host"]["name"], rank["host"]["hostname"]) for rank in launch["ranks"]] == [
        (0, "first", ""),
        (1, "first", ""),
        (2, "second", "second"),
        (3, "second", "second"),
    ]
    assert {len(rank["arms"]["step"]["windows"]) for rank in launch["ranks"]} == {16}


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("fault", "first", "tail"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 on second ended with signal SIGKILL", ""),
        pytest.param(
            *(
                "raise FloatingPointError('injected')",
                "rank 1 on second ended with exit code 1",
                "Error: injected",
            ),
            marks=NIGHTLY,
        ),
        pytest.param(
            "time.sleep(1000)",
            "no progress for 2 s (--stall-timeout): rank 1 on second is sleeping, in 'step'",
            "stub.py",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["killed", "raises", "hangs"],
)
def test_a_rank_on_another_host_that_fails_is_named_with_the_end_of_its_log(
    fault: str, first: str, tail: str, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setenv("STUB_FAULT", f"if rank == 1: {fault}")
    with pytest.raises(CaseError) as caught:
        measure(TWO, LONG, limits=SOON if "no progress" in first else LIMITS)
    assert str(caught.value).startswith(first), caught.value
    assert tail in str(caught.value)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_node_that_is_killed_ends_its_case_and_leaves_no_process(temporary: Path) -> None:
    """Its ranks end with it, though nobody is left there to end them."""

    def kill(exchange: Exchange) -> None:
        until(lambda: (status := exchange.status(1)) and status.wait)
        for agent in agents(temporary):
            agent.kill()

    with pytest.raises(CaseError, match="second: the connection to it ended: env ended with signal SIGKILL"):
        measure(TWO, LONG, on_launch=kill)
    assert not agents(temporary)
    until(lambda: not running(str(temporary)))
    for left in temporary.iterdir():  # the next session would do so
        subprocess.run(("rm", "-r", left), check=True)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            ("no-such-program", "{host}"),
            "second: could not be started: no-such-program: No such file",
        ),
        (
            ("sh", "-c", "echo cannot resolve {host} >&2; exit 255"),
            "second: could not be started: sh ended with exit code 255\nits log ends:\n  cannot resolve second",
        ),
        pytest.param(
            ("sh", "-c", "echo Welcome; sleep 1000"),
            "second: could not be started: no answer within 1 s",
            marks=NIGHTLY,
        ),
    ],
    ids=["no program", "fails", "never answers"],
)
def test_a_node_that_cannot_be_started_ends_its_case(
    template: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    if "within 1 s" in message:
        monkeypatch.setattr(other_node, "SECONDS_TO_ANSWER", 1.0)
    monkeypatch.setattr(other_node, "SECONDS_TO_LEAVE", 0.1)
    began = time.monotonic()
    with pytest.raises(CaseError) as caught:
        measure(TWO, LONG, template)
    assert str(caught.value).startswith(message), caught.value
    assert time.monotonic() - began < 50


@pytest.mark.multiprocess
def test_a_host_that_never_came_is_not_tried_for_other_cases(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary: Path
) -> None:
    """Cases over hosts start a few at a time, whatever the number of cores: sshd turns away more."""
    monkeypatch.setattr("bench.runner.case_runner.num_available_cores", lambda: 64)
    monkeypatch.setattr("bench.runner.case_runner.MOST_STARTS_OVER_HOSTS", 1)
    monkeypatch.setattr("bench.runner.spread.SECONDS_TO_FAIL", 0.0)
    tries = tmp_path / "tries"
    hosts = Hosts(("first", "second"), ("sh", "-c", f"echo try >> {tries}; exit 255"))
    outcomes: dict[Case, Outcome] = {}
    CaseRunner(LIMITS, command=stub.command, hosts=hosts).run({TWO: LONG, FOUR: LONG}, outcomes)
    reason = "second: could not be started: sh ended with exit code 255"
    assert [str(outcomes[case]).splitlines()[0] for case in (TWO, FOUR)] == [
        reason,
        f"{reason} (for an earlier case; it is not tried again)",
    ]
    assert tries.read_text() == "try\n"


@pytest.mark.multiprocess
def test_a_node_that_cannot_do_its_work_says_why(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """As one says whose disk is full."""
    monkeypatch.setattr("bench.runner.spread.SECONDS_TO_FAIL", 0.1)
    program = "import os; from bench.runner import node; "
    program += "node.Node.start = lambda _: os.mkdir('/no/such/place'); node.main()"
    with pytest.raises(CaseError) as caught:
        measure(TWO, LONG, (sys.executable, "-c", program, "{host}"))
    assert str(caught.value).startswith("second: the connection to it ended: ")
    assert "ended with exit code 1" in str(caught.value)
    assert "[Errno 2] No such file or directory: '/no/such/place'" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_other_code_on_a_host_is_refused(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(other_node, "code_digest", lambda: "other")
    with pytest.raises(CaseError, match=r"second: has another version of this project \(.*, here: other\)"):
        measure(TWO, LONG)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_a_node_of_which_nothing_is_heard_ends_its_case(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """As one is whose network is down, it is stopped; what it has started is ended when it goes on."""
    monkeypatch.setattr(m, "SILENCE_SECONDS", 2.0)
    stopped = []

    def stop(exchange: Exchange) -> None:
        until(lambda: (status := exchange.status(1)) and status.wait)
        for agent in agents(temporary):
            agent.suspend()
            stopped.append(agent)

    monkeypatch.setattr(other_node, "SECONDS_TO_LEAVE", 0.1)
    with pytest.raises(CaseError, match="second: nothing was heard of it for 2 s"):
        measure(TWO, LONG, limits=Limits(60, 60), on_launch=stop)
    assert stopped
    for left in temporary.iterdir():
        subprocess.run(("rm", "-r", left), check=True)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("ending", ["closed", pytest.param("silent", marks=pytest.mark.nightly)])
def test_a_node_ends_all_it_has_started_when_its_owner_is_gone(ending: str, temporary: Path) -> None:
    silence = "2.0" if ending == "silent" else "60.0"
    program = f"from bench.harness import node_messages as m; m.SILENCE_SECONDS = {silence}; "
    program += "from bench.runner.node import main; main()"
    node = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert node.stdin
    assert node.stdout
    assert node.stdout.readline() == b"\n"
    assert isinstance(decode(node.stdout.readline(), *m.FROM_NODE), m.Hello)
    assignment = {"message": "Assignment", "case": {"workload": "scaling"}, "effort": asdict(LONG)}
    assignment |= {"num_threads": None, "place": ".", "traces": "", "hosts": ["a", "b"]}
    begin = m.Begin(stub.command(TWO)[1:], assignment, "cpu", {}, "127.0.0.1", [0, 1])
    node.stdin.write(encode(m.Beat()) + encode(begin))
    node.stdin.flush()
    while not isinstance(decode(node.stdout.readline(), *m.FROM_NODE), m.Reported):
        pass
    assert running(str(temporary))
    if ending == "closed":
        node.stdin.close()
    else:
        node.stdout.read()
    assert node.wait(100) == (0 if ending == "closed" else 1)
    assert not running(str(temporary))
    if ending == "silent":
        for left in temporary.iterdir():
            subprocess.run(("rm", "-r", left), check=True)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_nodes_end_when_the_process_that_measures_is_killed(temporary: Path) -> None:
    context = multiprocessing.get_context("fork")
    folders: Any = context.SimpleQueue()
    owner = context.Process(target=lambda: measure(TWO, LONG, on_launch=lambda one: folders.put(one.root)))
    owner.start()
    exchange = Exchange(folders.get())
    until(lambda: (status := exchange.status(1)) and status.wait)
    assert agents(temporary)
    owner.kill()
    owner.join()
    until(lambda: not agents(temporary) and not running(str(temporary)))
    subprocess.run(("rm", "-r", exchange.root.parent), check=True)  # the next session would do so
