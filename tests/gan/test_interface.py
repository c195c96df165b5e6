"""Which interface gloo is told to use between machines."""

import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from gan.process import interface
from gan.process.interface import VARIABLE, choose_interface, interface_towards

ADDRESSES = {"lo": "127.0.0.1", "eth0": "192.0.2.10", "ib0": "198.51.100.10"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with these interfaces, where packets to a host leave by the address that the result names."""
    sources = {}
    entries = {
        name: [SimpleNamespace(family=socket.AF_INET, address=address)] for name, address in ADDRESSES.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
    monkeypatch.setattr(interface, "_source_address", sources.get)
    for name in (VARIABLE, "LOCAL_WORLD_SIZE", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")  # so that it is as before, after the test
        monkeypatch.delenv(name)
    return sources


@pytest.mark.parametrize(
    ("source", "expected"), [("198.51.100.10", "ib0"), ("192.0.2.10", "eth0"), ("127.0.0.1", None), (None, None)]
)
def test_packets_to_the_main_process_choose(source: str | None, expected: str | None, machine) -> None:
    """Of several, none is chosen where the host's name is a loopback address, or resolves to nothing."""
    machine["main"] = source
    assert interface_towards("main") == expected


def test_the_only_interface_is_chosen_on_the_main_machine(machine) -> None:
    """Its own name is 127.0.1.1 to itself, as Debian has it."""
    psutil.net_if_addrs().pop("ib0")
    machine["main"] = "127.0.0.1"
    assert interface_towards("main") == "eth0"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "main"}, "ib0"),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "main", VARIABLE: "eth0"}, "eth0"),
        ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "main"}, None),
        ({}, None),
    ],
)
def test_only_several_machines_without_a_choice_of_the_users_get_one(
    environment: dict[str, str], expected: str | None, machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["main"] = "198.51.100.10"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    choose_interface()
    assert os.environ.get(VARIABLE) == expected


def test_the_address_on_the_route_to_this_machine_is_its_loopback() -> None:
    assert interface._source_address("127.0.0.1") == "127.0.0.1"
    for nowhere in ("no-such-host.invalid", "a..b", "x" * 64, "\udcff"):
        assert interface._source_address(nowhere) is None
