"""Orthogonal regularisation of G's weights (Brock et al. 2019, arXiv:1809.11096, section 3.1)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NAMES = ("weight", "parametrizations.weight.original", "weight_orig")
"""Of the parameter of a layer's weights: as it is, under spectral norm, and under spectral norm by a hook."""


@dataclass(frozen=True)
class OrthogonalRegularization:
    """Keep the outputs of each layer of G apart: no two rows of its weights shall have a product.

    ``weight * Σ ||W Wᵀ ⊙ (1 - I)||²`` over linear and convolutional layers, whose weights are a matrix W with a
    row for each output (Brock et al. 2019, arXiv:1809.11096, section 3.1 and equation 3, where W has a column for
    each). The mask leaves out the norms of the rows. Under spectral norm, W is the parameter behind it. Vectors of
    classes take no part, as in an author's code (ajbrock/BigGAN-PyTorch), which adds half of this gradient,
    ``2 weight (W Wᵀ ⊙ (1 - I)) W``, to that of the loss.

    >>> layer = nn.Linear(2, 2)
    >>> layer.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> OrthogonalRegularization()(layer).item()  # the rows' product of 1 is there twice
    2.0

    Attributes:
        weight: β.
    """

    weight: float = 1e-4

    def __call__(self, generator: nn.Module, *_of_images: Tensor | None) -> Tensor:
        """Return ``Σ ||W Wᵀ ⊙ (1 - I)||²``, a scalar that is not in half precision; images have no part in it.

        Raises:
            TypeError: G has neither linear nor convolutional layers.
        """
        with torch.autocast(next(generator.parameters()).device.type, enabled=False):
            penalties = [_products(weight) for weight in _matrices(generator)]
            if not penalties:
                raise TypeError("OrthogonalRegularization needs a G with linear or convolutional layers")
            return torch.stack(penalties).sum()


def _matrices(network: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of each layer as a matrix with a row for each output."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # under spectral norm `layer.weight` is computed, with an iteration; under weight norm, of two of them
            parameters = dict(layer.named_parameters())
            name = next((name for name in NAMES if name in parameters), None)
            weight: Tensor = layer.weight if name is None else parameters[name]
            if isinstance(layer, nn.ConvTranspose2d):
                weight = weight.transpose(0, 1)
            yield weight.flatten(1)


def _products(weight: Tensor) -> Tensor:
    """Return the sum of the squared products of any two rows, in either order.

    Of more rows than columns it is ``||Wᵀ W||² - Σ |w|⁴``, because ``||W Wᵀ|| = ||Wᵀ W||``: G's first layer has so
    many rows that ``W Wᵀ`` would take gigabytes. There the difference is far from 0, since so many rows cannot be
    orthogonal.
    """
    num_rows, num_columns = weight.shape
    if num_rows > num_columns:
        return (weight.T @ weight).square().sum() - weight.square().sum(1).square().sum()
    others = 1 - torch.eye(num_rows, dtype=weight.dtype, device=weight.device)
    return (weight @ weight.T * others).square().sum()
