"""Convolutions whose kernel covers the whole image, as the matrix products that they are.

The first layer of DCGAN's G and the last one of its D are such. PyTorch's convolutions take several times as long
for them as a matrix product does.
"""

from torch import Tensor, nn

from gan.models.networks import lies_by_channels_last
from gan.models.onednn import linear


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, *, by_onednn: bool) -> Tensor:
    # oneDNN takes several times as long to begin a product, which counts where its result is a single column
    product = linear if by_onednn and len(weight) > 1 else nn.functional.linear
    return product(x, weight, bias)


def _is_plain(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return layer.groups == 1 and layer.padding == (0, 0) and layer.dilation == (1, 1)


class CoveringConv2d(nn.Conv2d):
    """`nn.Conv2d` without padding that multiplies matrices if its kernel is as large as the image."""

    by_onednn: bool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (B, C, H, W) to (B, O, H', W')."""
        if tuple(input.shape[2:]) != self.kernel_size:
            return super().forward(input)
        weight = self.weight
        if lies_by_channels_last(weight):
            input, weight = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)  # noqa: A001
        output = _product(input.flatten(1), weight.flatten(1), self.bias, by_onednn=self.by_onednn)
        return output[:, :, None, None]


class CoveringConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` without padding that multiplies matrices if its images are single pixels."""

    by_onednn: bool

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Map (B, C, H, W) to (B, O, H', W')."""
        if tuple(input.shape[2:]) != (1, 1) or output_size is not None:
            return super().forward(input, output_size)
        height, width = self.kernel_size
        channels = self.out_channels
        if lies_by_channels_last(self.weight):
            weight, shape, order = self.weight.permute(2, 3, 1, 0), (height, width, channels), (0, 3, 1, 2)
        else:
            weight, shape, order = self.weight.permute(1, 2, 3, 0), (channels, height, width), (0, 1, 2, 3)
        output = _product(input.flatten(1), weight.flatten(0, 2), None, by_onednn=self.by_onednn)
        images: Tensor = output.unflatten(1, shape).permute(order)
        return images if self.bias is None else images + self.bias.to(images.dtype)[:, None, None]


def use_covering(network: nn.Module, *, by_onednn: bool) -> None:
    """Turn convolutions of a network on the CPU into `CoveringConv2d` and `CoveringConvTranspose2d`, in place.

    Layers of another class, and those with padding, groups or dilation, stay as they are.
    """
    for layer in network.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = CoveringConv2d
        elif type(layer) is nn.ConvTranspose2d and _is_plain(layer) and layer.output_padding == (0, 0):
            layer.__class__ = CoveringConvTranspose2d
        if isinstance(layer, CoveringConv2d | CoveringConvTranspose2d):
            layer.by_onednn = by_onednn
