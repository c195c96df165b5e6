"""`--hosts` and `--launch-template`: where processes are spread, and how a node is started on another host."""

import contextlib
import ipaddress
import os
import re
import shlex
import socket
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.harness.host import NOT_INHERITED, python_path
from gan.errors import UsageError
from gan.files.repository import CODE
from gan.files.sources import digest_of_modules
from gan.files.text import printable

ROOT = Path(__file__).resolve().parent.parent.parent
NODE = ("-m", "bench.runner.node")
DEFAULT_TEMPLATE = "ssh -o BatchMode=yes -o ConnectTimeout=15 {host} {command}"
PLACEHOLDERS = {
    "host": "its name in --hosts",
    "node": "its place there, 1 for the second",
    "command": "Python with this machine's paths, and its arguments",
    "arguments": "the arguments of another Python, in a directory with this project",
}
PASSED = re.compile(
    r"(MKL|ONEDNN|DNNL|KMP|OMP|GOMP|OPENBLAS|CUBLAS|CUDNN|NVIDIA_TF32|NCCL|GLOO|TORCH|PYTORCH)_\w+"
    r"|ATEN_CPU_CAPABILITY|CUDA_(DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING)"
)
"""Variables that change what is measured."""
OF_ONE_HOST = re.compile(
    r"\w+_(IFNAME|HCA|HOSTID|FILE|DIR|PATH|HOME)|(GOMP_CPU|KMP)_AFFINITY|OMP_PLACES|TORCH_TRACE|TORCH_LOGS_OUT"
)
"""Of them, those that name what other hosts may not have: interfaces, files, cores."""
IN_ONE_WORD = re.compile(r"-\w*c")
"""The option after which a shell takes a whole command as one word."""
BROADCAST = ipaddress.IPv4Address("255.255.255.255")
NAME = re.compile(r"(?!-)[^\s.]+(\.[^\s.]+)*\.?")
"""A name or an address of a host: no part of it between dots is empty."""
THIS_MACHINE_ANYWHERE = ("127.", "::1", "localhost", "ip6-localhost")
"""So begin names that every machine has for itself. A name of this one alone may have such an address, too, in its
/etc/hosts, and another address elsewhere."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the launchers of a case meet.

    Attributes:
        node: The number of this launcher, from 0.
        address: Of the first host.
        port: There.
    """

    node: int
    address: str
    port: int


@dataclass(frozen=True)
class Hosts:
    """Hosts over which processes can be spread.

    Attributes:
        names: This host's, as the others know it, and theirs.
        template: What starts a node on another host, as words with placeholders.
        never_came: Why the first node on a host could not be started, by the host's place; "" if any node came.
    """

    names: tuple[str, ...]
    template: tuple[str, ...]
    never_came: dict[int, str] = field(default_factory=dict, compare=False)

    def command(self, node: int) -> list[str]:
        """Return what starts a node on its host."""
        words: list[str] = []
        for word in self.template:
            if word in ("{command}", "{arguments}"):
                part: Sequence[str] = NODE if word == "{arguments}" else _node_command()
                if IN_ONE_WORD.fullmatch(words[-1] if words else ""):
                    part = [shlex.join(part)]
                words += map(shlex.quote, part) if _goes_to_a_shell(words) else part
            else:
                words.append(word.format(**self._values(node)))
        return words

    def _values(self, node: int) -> Mapping[str, object]:
        return {
            "host": self.names[node],
            "node": node,
            "command": shlex.join(_node_command()),
            "arguments": shlex.join(NODE),
        }


def _goes_to_a_shell(words: Sequence[str]) -> bool:
    """Say whether words that follow are read by a shell: ssh hands them to one, other programs do not."""
    return any(Path(word).name == "ssh" for word in words)


def _node_command() -> list[str]:
    return ["env", f"PYTHONPATH={python_path(ROOT)}", sys.executable, "-P", *NODE]


def parse_hosts(hosts: str | None, template: str | None) -> Hosts | None:
    """Return the hosts that the options name; None without --hosts.

    Raises:
        UsageError: One of them cannot be.
    """
    if hosts is None:
        if template is not None:
            raise UsageError("--launch-template: says how nodes of --hosts are started; add --hosts HERE,OTHER")
        return None
    names = tuple(name.strip() for name in hosts.split(","))
    flag = f"--hosts {printable(hosts)}"
    if not all(name.isprintable() and NAME.fullmatch(name) for name in names):
        raise UsageError(f"{flag}: must be names or addresses with commas between them, as in node0,node1")
    if len(names) < 2:
        raise UsageError(f"{flag}: needs at least two, this machine first; leave it out for this machine alone")
    if len({_usual_form(name) for name in names}) < len(names):
        raise UsageError(f"{flag}: names a host twice; --num-processes says how many processes all of them have")
    _require_here(flag, names)
    return Hosts(names, _parse_template(DEFAULT_TEMPLATE if template is None else template))


def _require_here(flag: str, names: Sequence[str]) -> None:
    """Raise UsageError unless the first host is this machine, under a name that other machines can know."""
    here = names[0]
    try:
        resolved = socket.getaddrinfo(here, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no host can have such a name"
        raise UsageError(f"{flag}: {here} cannot be resolved ({reason}); give this machine's address") from None
    addresses = [str(address[0]) for *_, address in resolved]
    if not any(_is_of_this_machine(family, address) for family, *_, address in resolved):
        raise UsageError(
            f"{flag}: {here} is {addresses[0]}, which is no address of this machine; the first host is the one "
            "that runs pytest"
        )
    elsewhere = [name for name in names[1:] if not name.lower().startswith(THIS_MACHINE_ANYWHERE)]
    if elsewhere and here.lower().startswith(THIS_MACHINE_ANYWHERE):
        raise UsageError(f"{flag}: {elsewhere[0]} cannot reach this machine as {here}; give its name or address")


def _usual_form(name: str) -> str:
    """Return what is equal for two ways to write a name, or an address.

    >>> _usual_form("Node0."), _usual_form("127.000.0.1"), _usual_form("0::1")
    ('node0', '127.0.0.1', '::1')
    """
    with contextlib.suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(name))
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.lower().removesuffix(".")


def _is_of_this_machine(family: int, address: tuple[object, ...]) -> bool:
    parsed = ipaddress.ip_address(str(address[0]))
    if parsed.is_unspecified or parsed.is_multicast or parsed == BROADCAST:  # a socket takes them all
        return False
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _parse_template(text: str) -> tuple[str, ...]:
    flag = f"--launch-template {text!r}"
    try:
        words = tuple(shlex.split(text))
        parsed = [part for word in words for part in string.Formatter().parse(word)]
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; a brace that is no placeholder is written twice") from None
    known = ", ".join(f"{{{name}}} ({meaning})" for name, meaning in PLACEHOLDERS.items())
    names = [name for _, name, _, _ in parsed if name is not None]
    for _, name, form, conversion in parsed:
        if name is not None and (name not in PLACEHOLDERS or form or conversion):
            whole = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
            raise UsageError(f"{flag}: {printable(whole)}: must be one of {known}; a brace is written twice")
    if not {"host", "node"} & set(names):
        raise UsageError(f"{flag}: needs {{host}} or {{node}}, or all nodes would start in one place")
    if names.count("command") + names.count("arguments") != 1:
        raise UsageError(f"{flag}: needs {{command}}, or {{arguments}} after another Python, once")
    return words


def passed_variables() -> dict[str, str]:
    """Return the variables of this process that ranks on other hosts need as well."""
    return {
        name: value
        for name, value in os.environ.items()
        if PASSED.fullmatch(name) and not OF_ONE_HOST.fullmatch(name) and not NOT_INHERITED.fullmatch(name)
    }


@cache
def code_digest() -> str:
    """Return the digest of the modules that measure, which have to be the same on all hosts."""
    return digest_of_modules(*(ROOT / name for name in CODE))
