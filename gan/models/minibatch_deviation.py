"""How much the images of a group differ, as one more channel (Karras et al. 2018, arXiv:1710.10196, section 3)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from gan.models.batch_statistics import GlobalStatistics, counts_of_processes, sum_over_processes
from gan.models.networks import full_precision

DEVIATION = "minibatch deviation"
"""The name of what the layer adds up over processes."""
EPSILON = 1e-8


class MinibatchDeviation(GlobalStatistics):
    """Adds a channel: the standard deviation over the images of a group, averaged over channels and pixels.

    A group is `group_size` images that follow one another in the batch; the last one may be smaller. On CPUs
    groups reach over processes, so that several processes compute what one does. On accelerators a group ends
    where the images of a process end. That is the same if a process's part is a multiple of `group_size`, and no
    process waits for its device.

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
        across = self.across_processes and self.training and x.device.type == "cpu"
        before = 0  # images of the batch before this process's
        total = len(rows)
        if across:
            counts = counts_of_processes(len(rows), rows.device, DEVIATION)
            before = sum(counts[: torch.distributed.get_rank()])
            total = sum(counts)

        centred = rows - self._means(rows, before, total, across=across)
        variance = self._means(centred.square(), before, total, across=across)
        deviation = (variance + EPSILON).sqrt().mean(1).to(x.dtype)
        return torch.cat([x, deviation.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)

    def _means(self, rows: Tensor, before: int, total: int, *, across: bool) -> Tensor:
        """Return for each row (B, F) the mean over its group, (B, F)."""
        size = self.group_size
        first = before // size
        front = before % size
        num_here = -(-(front + len(rows)) // size)  # groups that this process has images of
        num_groups = -(-total // size)
        padded = pad(rows, (0, 0, front, num_here * size - front - len(rows)))
        sums = padded.view(num_here, size, rows.shape[1]).sum(1)
        if across:
            table = pad(sums, (0, 0, first, num_groups - first - num_here))
            sums = sum_over_processes(table, DEVIATION)[first : first + num_here]
        starts = size * torch.arange(first, first + num_here, device=rows.device)
        sizes = (total - starts).clamp(max=size).to(rows.dtype)
        means = sums / sizes.unsqueeze(1)
        return means.unsqueeze(1).expand(-1, size, -1).flatten(0, 1)[front : front + len(rows)]
