"""How much the images of a group differ, as one more channel (Karras et al. 2018, arXiv:1710.10196, section 3)."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad

from gan.models.batch_statistics import GlobalStatistics, counts_of_processes, sum_over_processes
from gan.models.networks import full_precision

DEVIATION = "minibatch deviation"
"""The name of what the layer exchanges with other processes."""
EPSILON = 1e-8


class MinibatchDeviation(GlobalStatistics):
    """Adds a channel: the standard deviation over the images of a group, averaged over channels and pixels.

    A group is `group_size` images that follow one another in the batch; the last one may be smaller. On CPUs
    groups reach over processes, so that several processes compute what one does. Processes tell one another how
    many images they have, and add up the groups of which several have images. On accelerators a group ends where
    the images of a process end. That is the same if a process's part is a multiple of `group_size`, and no process
    waits for its device.

    A penalty on D's gradient at an image takes the sum of all logits. So it has what the image does to the logits
    of its group, as in arXiv:1912.04958.
    """

    mixes_samples = True

    def __init__(self, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + 1, H, W)."""
        rows = full_precision(x).flatten(1)
        counts = [len(rows)]
        rank = 0
        if self.across_processes and self.training and x.device.type == "cpu":
            counts = counts_of_processes(len(rows), rows.device, DEVIATION)
            rank = torch.distributed.get_rank()

        centred = rows - self._means(rows, counts, rank)
        variance = self._means(centred.square(), counts, rank)
        deviation = (variance + EPSILON).sqrt().mean(1).to(x.dtype)
        return torch.cat([x, deviation.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)

    def _means(self, rows: Tensor, counts: Sequence[int], rank: int) -> Tensor:
        """Return for each row (B, F) the mean over its group, (B, F)."""
        size = self.group_size
        before = sum(counts[:rank])  # images of the batch before this process's
        first = before // size
        front = before % size
        num_here = -(-(front + len(rows)) // size)  # groups that this process has images of
        padded = pad(rows, (0, 0, front, num_here * size - front - len(rows)))
        sums = padded.view(num_here, size, rows.shape[1]).sum(1)
        if len(counts) > 1 and (divided := _divided(counts, size)):
            sums = _over_processes(sums, first, divided)
        starts = size * torch.arange(first, first + num_here, device=rows.device)
        sizes = (sum(counts) - starts).clamp(max=size).to(rows.dtype)
        means = sums / sizes.unsqueeze(1)
        return means.unsqueeze(1).expand(-1, size, -1).flatten(0, 1)[front : front + len(rows)]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _divided(counts: Sequence[int], size: int) -> list[int]:
    """Return the numbers of the groups of which several processes have images, in order.

    Args:
        counts: Images of each process.
        size: Images of a group.
    """
    ends = list(accumulate(counts))
    return sorted({end // size for end in ends if end % size and end < ends[-1]})


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _over_processes(sums: Tensor, first: int, divided: Sequence[int]) -> Tensor:
    """Return the sums of groups (N, F), those of divided groups over all processes, all of which call this.

    Args:
        sums: Over this process's images.
        first: The number of the first group here.
        divided: The numbers of the divided groups, the same in all processes.
    """
    begin, end = (bisect_left(divided, number) for number in (first, first + len(sums)))
    groups = torch.tensor([number - first for number in divided[begin:end]], dtype=torch.long, device=sums.device)
    table = pad(sums.index_select(0, groups), (0, 0, begin, len(divided) - end))
    completed = sum_over_processes(table, DEVIATION)[begin:end]
    return sums.index_copy(0, groups, completed)
