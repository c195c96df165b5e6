"""What collectives take by the α–β model: a message of m bytes takes α seconds and m / bandwidth seconds."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Algorithm(StrEnum):
    """How processes form a sum."""

    RING = "ring"
    TREE = "tree"
    BEST = "best"
    """The faster of the two for each message, as NCCL chooses."""


@dataclass(frozen=True)
class Link:
    """What joins two processes.

    Attributes:
        bytes_per_second: In each direction, both at the same time.
        latency_seconds: α, from when a message is sent until its first byte has arrived.
    """

    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True)
class Cluster:
    """Where processes are.

    Attributes:
        link: Between nodes; of a node, however many adapters it has.
        processes_per_node: On a node, which are filled one after another.
        node_link: Between processes of one node. It is not used where each node has one process.
    """

    link: Link
    processes_per_node: int = 1
    node_link: Link | None = None

    def num_nodes(self, num_processes: int) -> int:
        """Return how many nodes so many processes take."""
        return math.ceil(num_processes / self.processes_per_node)

    def slowest(self, num_processes: int) -> float:
        """Return the bandwidth of the slowest link, in bytes per second."""
        links = [self.link] if self.num_nodes(num_processes) > 1 else []
        if self.processes_per_node > 1:
            assert self.node_link is not None
            links.append(self.node_link)
        return min(link.bytes_per_second for link in links)

    def latency(self, hops_in_nodes: int, hops_between: int) -> float:
        """Return the seconds that so many messages take one after another, apart from their bytes."""
        inside = self.node_link.latency_seconds * hops_in_nodes if self.node_link else 0.0
        return inside + self.link.latency_seconds * hops_between


def all_reduce_seconds(
    num_bytes: float, num_processes: int, cluster: Cluster, algorithm: Algorithm = Algorithm.BEST
) -> float:
    """Return the seconds of a sum of `num_bytes` on each of the processes."""
    if num_processes == 1:
        return 0.0
    ring = ring_seconds(num_bytes, num_processes, cluster)
    tree = tree_seconds(num_bytes, num_processes, cluster)
    return {Algorithm.RING: ring, Algorithm.TREE: tree, Algorithm.BEST: min(ring, tree)}[algorithm]


def ring_seconds(num_bytes: float, num_processes: int, cluster: Cluster) -> float:
    """Return the seconds of an all-reduce around a ring.

    With equal links 2 (n - 1) α + 2 (n - 1) / n × bytes / bandwidth: a reduce-scatter and an all-gather of n - 1
    messages each (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations";
    Thakur et al. 2005, section 4.5).
    """
    return _around_a_ring_seconds(2 * (num_processes - 1), num_bytes, num_processes, cluster)


def gather_seconds(num_bytes: float, num_processes: int, cluster: Cluster) -> float:
    """Return the seconds of an all-gather around a ring, after which each process has `num_bytes`.

    With equal links (n - 1) α + (n - 1) / n × bytes / bandwidth (Thakur et al. 2005, section 4.1).
    """
    return _around_a_ring_seconds(num_processes - 1, num_bytes, num_processes, cluster)


def _around_a_ring_seconds(hops: int, num_bytes: float, num_processes: int, cluster: Cluster) -> float:
    """Return the seconds of `hops` messages, each of the n-th part of the bytes, one after another around a ring.

    The ring leaves each node once a round.
    """
    if num_processes == 1:
        return 0.0
    num_nodes = cluster.num_nodes(num_processes)
    rounds = math.ceil(hops / num_processes)
    between = min(hops, rounds * num_nodes) if num_nodes > 1 else 0
    seconds = cluster.latency(hops - between, between)
    return seconds + hops / num_processes * num_bytes / cluster.slowest(num_processes)


def tree_seconds(num_bytes: float, num_processes: int, cluster: Cluster) -> float:
    """Return the seconds of an all-reduce over two binary trees, each of which sums one half of the bytes.

    With one process on each node 2 ⌈log2 n⌉ α + 2 × bytes / bandwidth. A process that is inside of one tree is a
    leaf of the other, so each sends and receives at most twice its bytes (Sanders, Speck & Träff 2009, "Two-tree
    algorithms for full bandwidth broadcast, reduction and scan"). Inside of a node the processes form a chain, as
    NCCL has it.
    """
    if num_processes == 1:
        return 0.0
    num_nodes = cluster.num_nodes(num_processes)
    chain = min(num_processes, cluster.processes_per_node) - 1
    depth = math.ceil(math.log2(num_nodes))
    return cluster.latency(2 * chain, 2 * depth) + 2 * num_bytes / cluster.slowest(num_processes)
