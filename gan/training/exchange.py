"""Gradients that the processes of one host average in memory which they share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, distributed, nn

from gan.errors import UsageError
from gan.process.named_sums import total
from gan.process.shared_memory import ALIGNMENT_BYTES, Neighbours

UNFROZEN = "unfrozen parameters"
"""The name of what `average_unfrozen` adds up over processes."""


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
    the bits that DDP would have given them. Below 2.4e-38 in fp32 they may not: DDP rounds halves to 0 there.

    Attributes:
        buckets_bytes: How many bytes of gradients each bucket has.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        neighbours: Neighbours,
        means: Tensor,
        present: Tensor,
        sent: Sequence[Tensor],
    ) -> None:
        """Divide memory that processes share, shapes (bytes,), uint8.

        Args:
            parameters: Of the network, those that are trained.
            neighbours: The processes.
            means: For the means of all gradients.
            present: For which gradients there are, of each process, of this average and of the one before.
            sent: For what each process sends of a bucket, by rank. Networks that take turns may have the same.
        """
        self._neighbours = neighbours
        self._share = 1 / neighbours.world_size
        self._parameters = parameters
        offsets, total_bytes = _offsets(parameters)
        self._means = [
            means[offset : offset + parameter.nbytes]
            .view(parameter.dtype)
            .as_strided(parameter.shape, torch.empty_like(parameter).stride())
            for parameter, offset in zip(parameters, offsets, strict=True)
        ]
        num_flags = 2 * neighbours.world_size * len(parameters)
        self._present = present[:num_flags].view(2, neighbours.world_size, len(parameters)).numpy()
        self._num_averages = 0
        bucket_bytes = len(sent[0])
        buckets = [
            range(first, min(first + bucket_bytes, total_bytes)) for first in range(0, total_bytes, bucket_bytes)
        ]
        self._buckets = [list(_parts(parameters, offsets, bucket, means, sent)) for bucket in buckets]
        self.buckets_bytes = [sum(part.mean.nbytes for part in bucket) for bucket in self._buckets]

    def average(self) -> None:
        """Replace the gradients by their means over processes, all of which have to call this.

        A parameter that only others have a gradient of counts as zeros. If nobody has one, it gets none.

        Raises:
            torch.distributed.DistNetworkError: Another process has ended, or did not come.
        """
        # Others may still read those of the average before. Nobody reads those of the one before that.
        present = self._present[self._num_averages % 2]
        self._num_averages += 1
        present[self._neighbours.rank] = [parameter.grad is not None for parameter in self._parameters]
        gradients = [
            _as_in_memory(parameter.grad, mean)
            for parameter, mean in zip(self._parameters, self._means, strict=True)
        ]
        for number in range(len(self._buckets)):
            self.average_bucket(number, gradients)
        for parameter, mean, is_present in zip(self._parameters, self._means, present.any(0), strict=True):
            parameter.grad = mean if is_present else None

    @torch.no_grad()
    def average_bucket(self, number: int, gradients: Sequence[Tensor]) -> None:
        """Form the means of one bucket.

        Args:
            number: Of the bucket, from 0.
            gradients: Of this process, of every parameter, as numbers in the order in which they lie in memory.
        """
        rank = self._neighbours.rank
        num_bytes = self.buckets_bytes[number]
        for part in self._buckets[number]:
            if part.owner != rank:
                torch.mul(gradients[part.index][part.numbers], self._share, out=part.sent[rank])
        self._neighbours.meet(num_bytes)
        for part in self._buckets[number]:
            if part.owner == rank:
                first, *others = part.sent[:rank] + part.sent[rank + 1 :]
                torch.add(first, gradients[part.index][part.numbers], alpha=self._share, out=part.mean)
                for sent in others:
                    part.mean.add_(sent)
        self._neighbours.meet(num_bytes)


def shared_gradients(
    networks: Sequence[nn.Module], neighbours: Neighbours, bucket_bytes: int
) -> list[SharedGradients] | None:
    """Return what averages the gradients of each network, which take turns; all processes have to call it.

    Returns:
        None, in all processes, if one of them lacks the memory.
    """
    world_size = neighbours.world_size
    trained = [[weight for weight in network.parameters() if weight.requires_grad] for network in networks]
    means_bytes = [_offsets(parameters)[1] for parameters in trained]
    present_bytes = [_aligned(2 * world_size * len(parameters)) for parameters in trained]
    sent_bytes = [min(bucket_bytes, max(means_bytes))] * world_size
    memory = neighbours.share(sum([*means_bytes, *present_bytes, *sent_bytes]))
    if memory is None:
        return None
    of_means, of_present, *sent = memory.split([sum(means_bytes), sum(present_bytes), *sent_bytes])
    return [
        SharedGradients(parameters, neighbours, means, present, sent)
        for parameters, means, present in zip(
            trained, of_means.split(means_bytes), of_present.split(present_bytes), strict=True
        )
    ]


@torch.no_grad()
def average_unfrozen(frozen: Sequence[nn.Parameter]) -> None:
    """Average the gradients of parameters that were frozen when training began, and are trained now.

    Neither DDP nor `SharedGradients` has a place for them, because both divide what is trained in the beginning.
    All processes have to unfreeze the same parameters in the same step. What is absent counts as in
    `SharedGradients.average`.
    """
    unfrozen = [parameter for parameter in frozen if parameter.requires_grad]
    if not unfrozen:
        return
    present = torch.tensor([parameter.grad is not None for parameter in unfrozen], dtype=torch.int32)
    present = present.to(unfrozen[0].device)
    share = 1 / distributed.get_world_size()
    for parameter, num_present in zip(unfrozen, total(present, UNFROZEN).tolist(), strict=True):
        if num_present:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = torch.empty_like(parameter).copy_(total(gradient * share, UNFROZEN))


@torch.no_grad()
def begin_alike(networks: Mapping[str, nn.Module]) -> None:
    """Give all processes the weights and buffers of rank 0, as DDP does; all of them have to call it.

    Raises:
        UsageError: A process has other networks. All of them raise it.
    """
    for name, network in networks.items():
        layouts: list[list[str]] = [[]] * distributed.get_world_size()
        distributed.all_gather_object(layouts, _layout(network))
        _require_same(name, layouts)
        for value in (*network.parameters(), *network.buffers()):
            in_order = value.contiguous()
            distributed.broadcast(in_order.flatten().view(torch.uint8), 0)
            value.copy_(in_order)


def _require_same(name: str, layouts: Sequence[Sequence[str]]) -> None:
    for rank, layout in enumerate(layouts):
        for here, first in zip_longest(layout, layouts[0], fillvalue="nothing"):
            if here != first:
                error = UsageError(
                    f"--recipe: the {name} has {here} on rank {rank}, but {first} on rank 0; build the same "
                    "network in every process"
                )
                error.everywhere = True
                raise error


def _layout(network: nn.Module) -> list[str]:
    """Return each parameter and buffer in words, with what has to be the same in all processes."""
    return [
        f"{name} of shape {tuple(value.shape)}, strides {value.stride()}, {value.dtype}"
        + (", trained" if value.requires_grad else "")
        for name, value in (*network.named_parameters(), *network.named_buffers())
    ]


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


def _as_in_memory(gradient: Tensor | None, mean: Tensor) -> Tensor:
    """Return a gradient, zeros if there is none, as numbers in the order in which those of its mean lie."""
    if gradient is None:
        gradient = torch.zeros_like(mean)
    elif gradient.stride() != mean.stride():
        gradient = torch.empty_like(mean).copy_(gradient)
    return gradient.as_strided((mean.numel(),), (1,))
