"""Layers that compute what PyTorch's do, and take less time for it on CPUs."""

import torch
from torch import Tensor, nn

from gan.models.covering import use_covering
from gan.models.onednn import onednn_is_faster, use_onednn
from gan.models.resampling import ResamplingBlock


class CPUDropout(nn.Dropout):
    """`nn.Dropout` with the same random numbers, bit by bit, drawn in half the time.

    PyTorch fills a tensor by `bernoulli_` one number after another: each is a uniform number in double precision,
    compared with the probability. Drawing these numbers first leaves the comparison to vector instructions.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Zero entries with probability `p`, and scale the others by 1 / (1 - p), in training."""
        if not self.training or not 0 < self.p < 1:
            return super().forward(input)
        kept = 1 - self.p
        mask = torch.rand(input.shape, dtype=torch.float64, device=input.device) < kept
        return input * mask.to(input.dtype).div_(kept)


def use_cpu_layers(network: nn.Module) -> None:
    """Turn layers of a network on the CPU into faster ones, in place, where there are such on this machine."""
    if onednn_is_faster():
        use_onednn(network)
    use_covering(network, by_onednn=onednn_is_faster())
    for layer in network.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = CPUDropout
        elif isinstance(layer, ResamplingBlock):
            layer.merges = True
