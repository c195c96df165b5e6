"""A launch over several hosts: the nodes besides this host's, and which of all nodes a failure comes from."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.harness import node_messages as m
from bench.harness.exchange import Exchange, Grant
from bench.runner.diagnosis import CaseError, Elsewhere, NodeEnd, failed_on_hosts, hung
from bench.runner.hosts import Hosts, passed_variables
from bench.runner.other_node import OtherNode, end_nodes
from bench.suite.cases import Case

SECONDS_TO_FAIL = 3.0
"""After one node has failed, others have so long to fail, too: the cause may be with them."""
POLL_SECONDS = 0.03


@dataclass(frozen=True)
class OtherNodes:
    """The nodes of a launch on other hosts.

    Attributes:
        case: The case.
        hosts: This one first.
        exchange: Of the launch.
        nodes: From the second host on.
    """

    case: Case
    hosts: Hosts
    exchange: Exchange
    nodes: Sequence[OtherNode]

    @classmethod
    def of(
        cls,
        case: Case,
        hosts: Hosts,
        exchange: Exchange,
        commands: Sequence[Sequence[str]],
        defaults: Mapping[str, str],
    ) -> "OtherNodes":
        """Return the nodes, which have not been started.

        Args:
            case: The case.
            hosts: This one first.
            exchange: Of the launch; its assignment is written.
            commands: What every host starts, this one first.
            defaults: Variables of the ranks, where the user has not set them.
        """
        assignment = json.loads(exchange.assignment.read_bytes())
        nodes = [
            OtherNode(
                number,
                hosts,
                m.Begin(
                    words=commands[number][1:],  # after Python, which every host has in its place
                    assignment=assignment,
                    device=case.device,
                    variables={**defaults, **passed_variables()},
                    main_host=hosts.names[0],
                    ranks=ranks_on(case, number),
                ),
                exchange,
                exchange.root.parent / f"node{number}.log",
            )
            for number in range(1, case.num_hosts)
        ]
        return cls(case, hosts, exchange, nodes)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start all; `stack` waits for their end."""
        stack.callback(end_nodes, self.nodes)
        for node in self.nodes:
            node.start()

    def leave(self) -> None:
        """Let all end what they have started, and return at once."""
        for node in self.nodes:
            node.leave()

    def grant(self, turn: int, grant: Grant) -> None:
        """Let the ranks there take a turn, or end."""
        for node in self.nodes:
            node.send(m.Turn(turn, grant))

    def exit_codes(self) -> list[int | None]:
        """Return the exit codes of all launchers there; 1 for one of which nothing more will be heard."""
        return [1 if node.lost else node.exit_code for node in self.nodes]

    def failed(self, exit_code_here: Callable[[], int | None]) -> CaseError:
        """Return why the launch has failed.

        Args:
            exit_code_here: Returns that of this host's launcher; None until it has ended.
        """
        until = time.monotonic() + SECONDS_TO_FAIL
        while None in (exit_code_here(), *self.exit_codes()) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        log = self.exchange.launcher_log
        ends = [NodeEnd(self.hosts.names[0], ranks_on(self.case, 0), exit_code_here(), "", log)]
        ends += [NodeEnd(node.host, node.begin.ranks, node.exit_code, node.lost, node.log) for node in self.nodes]
        return failed_on_hosts(self.exchange, self.case.num_processes, ends)

    def hung(self, complaint: str) -> CaseError:
        """Say where all ranks stand."""
        elsewhere = {}
        for node in self.nodes:
            states = node.look()
            for rank in node.begin.ranks:
                elsewhere[rank] = Elsewhere(node.host, states.get(str(rank), "not answering"), node.log)
        return hung(self.exchange, self.case.num_processes, complaint, elsewhere)


def ranks_on(case: Case, node: int) -> list[int]:
    """Return the ranks of a case on one of its hosts."""
    num_here = case.num_processes // case.num_hosts
    return list(range(node * num_here, (node + 1) * num_here))


def host_of_each_rank(case: Case, hosts: Hosts) -> tuple[str, ...]:
    """Return the name of each rank's host."""
    return tuple(hosts.names[node] for node in range(case.num_hosts) for _ in ranks_on(case, node))
