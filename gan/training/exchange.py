"""Gradients that the processes of one host average in memory which they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.process.shared_memory import Neighbours

ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class _Part:
    """Neighbouring numbers of a gradient, whose mean over processes one of these forms for all.

    Attributes:
        index: Of the parameter.
        numbers: Which of its numbers, in the order in which they lie in memory.
        owner: The process that forms the mean.
        sent: What each process gives the owner, by rank. That of the owner is not used.
        mean: The result, which all processes read.
    """

    index: int
    numbers: slice
    owner: int
    sent: tuple[Tensor, ...]
    mean: Tensor


class SharedGradients:
    """The gradients of a network, averaged over processes of one host.

    Each process owns a part of every bucket. It reads what the others have of that part, and writes the mean into
    memory that then holds the gradients of all processes. So a number is copied once on its way, and nobody may
    change gradients in place afterwards.

    In which order a sum is formed depends on the layout alone. Two numbers have only one order: two processes get
    the bits that DDP would have given them.
    """

    def __init__(self, network: nn.Module, neighbours: Neighbours, bucket_bytes: int) -> None:
        """Divide memory that is shared for this; all processes have to call it.

        Raises:
            UsageError: There is not so much memory.
        """
        self._neighbours = neighbours
        self._share = 1 / neighbours.world_size
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        offsets, total_bytes = _offsets(self._parameters)
        bucket_bytes = min(bucket_bytes, total_bytes)
        num_bytes = total_bytes + neighbours.world_size * bucket_bytes
        memory = neighbours.share(num_bytes)
        if memory is None:
            raise UsageError(
                f"--shared-memory: this machine does not have {num_bytes:,} bytes for gradients; give "
                "--no-shared-memory"
            )
        means, *sent = memory.split([total_bytes, *[bucket_bytes] * neighbours.world_size])
        self._means = [
            means[offset : offset + parameter.nbytes]
            .view(parameter.dtype)
            .as_strided(parameter.shape, parameter.stride())
            for parameter, offset in zip(self._parameters, offsets, strict=True)
        ]
        buckets = [
            range(first, min(first + bucket_bytes, total_bytes)) for first in range(0, total_bytes, bucket_bytes)
        ]
        self._buckets = [list(_parts(self._parameters, offsets, bucket, means, sent)) for bucket in buckets]

    @property
    def buckets_bytes(self) -> list[int]:
        """How many bytes of gradients each bucket has."""
        return [sum(part.mean.nbytes for part in bucket) for bucket in self._buckets]

    def average(self) -> None:
        """Replace the gradients by their means over processes, all of which have to call this.

        A parameter that no process has a gradient of gets zeros.

        Raises:
            torch.distributed.DistNetworkError: Another process has ended, or did not come.
        """
        gradients = [_as_in_memory(parameter) for parameter in self._parameters]
        for number in range(len(self._buckets)):
            self.average_bucket(number, gradients)
        for parameter, mean in zip(self._parameters, self._means, strict=True):
            parameter.grad = mean

    @torch.no_grad()
    def average_bucket(self, number: int, gradients: Sequence[Tensor]) -> None:
        """Form the means of one bucket.

        Args:
            number: Of the bucket, from 0.
            gradients: Of this process, of every parameter, as numbers in the order in which they lie in memory.
        """
        rank = self._neighbours.rank
        for part in self._buckets[number]:
            if part.owner != rank:
                torch.mul(gradients[part.index][part.numbers], self._share, out=part.sent[rank])
        self._neighbours.meet()
        for part in self._buckets[number]:
            if part.owner == rank:
                first, *others = part.sent[:rank] + part.sent[rank + 1 :]
                torch.add(first, gradients[part.index][part.numbers], alpha=self._share, out=part.mean)
                for sent in others:
                    part.mean.add_(sent)
        self._neighbours.meet()


def _offsets(parameters: Sequence[Tensor]) -> tuple[list[int], int]:
    """Return where each gradient begins, and where the last one ends, in bytes."""
    offsets = []
    total_bytes = 0
    for parameter in parameters:
        offsets.append(total_bytes)
        total_bytes += _aligned(parameter.nbytes)
    return offsets, total_bytes


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _parts(
    parameters: Sequence[Tensor], offsets: Sequence[int], bucket: range, means: Tensor, sent: Sequence[Tensor]
) -> Iterator[_Part]:
    """Yield the parts of a bucket, which each process owns about as many bytes of.

    Args:
        parameters: All of them.
        offsets: Where each begins, in bytes.
        bucket: Which bytes belong to the bucket.
        means: Memory for the means of all gradients.
        sent: Memory for what each process sends of a bucket, by rank.
    """
    world_size = len(sent)
    cuts = [bucket.start + _aligned(len(bucket) * rank // world_size) for rank in range(world_size + 1)]
    for index, (parameter, offset) in enumerate(zip(parameters, offsets, strict=True)):
        for owner in range(world_size):
            begin = max(offset, cuts[owner])
            end = min(offset + parameter.nbytes, cuts[owner + 1])
            if begin < end:
                size = parameter.element_size()
                in_bucket = slice(begin - bucket.start, end - bucket.start)
                yield _Part(
                    index=index,
                    numbers=slice((begin - offset) // size, (end - offset) // size),
                    owner=owner,
                    sent=tuple(memory[in_bucket].view(parameter.dtype) for memory in sent),
                    mean=means[begin:end].view(parameter.dtype),
                )


def _as_in_memory(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient, zeros without one, as numbers in the order of the parameter's own."""
    gradient = parameter.grad
    if gradient is None:
        gradient = torch.zeros_like(parameter)
    elif gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((parameter.numel(),), (1,))
