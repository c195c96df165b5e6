"""Which network interface gloo uses between machines, where the user does not say."""

import os
import socket

import psutil

VARIABLE = "GLOO_SOCKET_IFNAME"
"""The interface of this process to other machines, for gloo: `eth0`. The user's value is left as it is."""


def choose_interface() -> None:
    """Let gloo use the interface that leads to the main process, if processes run on several machines.

    By itself, gloo uses the address that the machine's own name resolves to. Debian and its relatives write
    127.0.1.1 for it into /etc/hosts, and gloo gives up after 15 seconds of connecting to the wrong machine.
    """
    several = os.environ.get("LOCAL_WORLD_SIZE", "") != os.environ.get("WORLD_SIZE", "")
    main_address = os.environ.get("MASTER_ADDR")
    if several and main_address and VARIABLE not in os.environ:
        interface = interface_towards(main_address)
        if interface is not None:
            os.environ[VARIABLE] = interface


def interface_towards(host: str) -> str | None:
    """Return the interface that packets to a host leave by, or the only one; None if that is not known.

    On the host itself, its name often resolves to a loopback address, which names no interface.
    """
    addresses_by_interface = {
        interface: {entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)}
        for interface, entries in psutil.net_if_addrs().items()
    }
    remote = {
        interface: addresses
        for interface, addresses in addresses_by_interface.items()
        if addresses and not addresses & {"127.0.0.1", "::1"}
    }
    source = _source_address(host)
    leading = [interface for interface, addresses in remote.items() if source in addresses]
    candidates = leading or list(remote)
    return candidates[0] if len(candidates) == 1 else None


def _source_address(host: str) -> str | None:
    """Return this machine's address on the route to a host; nothing is sent."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):  # UnicodeError: no host can have such a name
        return None
