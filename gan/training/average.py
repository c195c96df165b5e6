"""The moving average of a generator."""

import torch
from torch import nn


class AveragedTensors:
    """The tensors of a moving average beside those of its network.

    They are listed once, because the host takes long to list them: longer than a GPU takes to move the average.
    Of buffers, their places are listed: a layer may replace its buffer by another tensor.

    Args:
        average: A copy of the network.
        network: In training.
    """

    def __init__(self, average: nn.Module, network: nn.Module) -> None:
        averaged = average.state_dict()
        current = network.state_dict()
        parameters = [name for name, _ in network.named_parameters()]
        of_parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        buffers = [name for name in averaged if name not in of_parameters]  # a parameter may have several names
        self._parameters = ([averaged[name] for name in parameters], [current[name] for name in parameters])
        places = [name.rpartition(".") for name in buffers]
        self._buffers = [
            (average.get_submodule(path)._buffers, network.get_submodule(path)._buffers, name)
            for path, _, name in places
        ]

    @torch.no_grad()
    def move(self, weight: float) -> None:
        """Move the average's parameters towards the network's by a part of their distance.

        Buffers are averages already, as BatchNorm's and the average style are, or constants, and are taken as they
        are.
        """
        torch._foreach_lerp_(*self._parameters, weight)
        averaged = [held for of_average, _, name in self._buffers if (held := of_average[name]) is not None]
        current = [held for _, of_network, name in self._buffers if (held := of_network[name]) is not None]
        if averaged:
            torch._foreach_copy_(averaged, current)
