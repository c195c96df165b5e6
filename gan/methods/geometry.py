"""Geometric transformations of images: whole pixels copied, or resampled through an orthogonal wavelet filter.

Pixels beyond an edge are those before it, mirrored, as far as anything reaches. Shapes do not depend on what was
drawn, so nothing waits for the device. All of it is linear in the images, and can be differentiated twice:
`grid_sample` cannot.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from gan.methods.draws import Draws

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""The orthonormal low-pass filter of the least asymmetric wavelet with six vanishing moments (Daubechies 1992)."""
MARGIN = len(SYM6) // 2 - 1
"""Positions of the fine grid before an image that its first pixel takes part in."""
MOST_SHIFT = 0.125
"""Of each side: the largest shift by whole pixels, and the standard deviation of one by fractions."""
SCALE_OCTAVES = 0.2
"""Standard deviation of the binary logarithm of a scale."""


Table = tuple[tuple[float, ...], ...]
"""Rows of constants."""


class Affine(NamedTuple):
    """Affine maps of the plane, one for each image, in pixels from the image's centre. Every field has shape (B,).

    (x, y) goes to (xx x + xy y + x0, yx x + yy y + y0); x points to the right, y down.
    """

    xx: Tensor
    xy: Tensor
    x0: Tensor
    yx: Tensor
    yy: Tensor
    y0: Tensor

    def of(self, inner: "Affine") -> "Affine":
        """Return the map that takes `inner` first, and this one then.

        Products are written out, because matrix products may be in tf32, in which places would be wrong by parts
        of a pixel.
        """
        return Affine(
            self.xx * inner.xx + self.xy * inner.yx,
            self.xx * inner.xy + self.xy * inner.yy,
            self.xx * inner.x0 + self.xy * inner.y0 + self.x0,
            self.yx * inner.xx + self.yy * inner.yx,
            self.yx * inner.xy + self.yy * inner.yy,
            self.yx * inner.x0 + self.yy * inner.y0 + self.y0,
        )

    def at(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each point of a grid goes: x and y, both of shape (B, H, W), of x (W,) and y (H,)."""
        xx, xy, x0, yx, yy, y0 = (number.view(-1, 1, 1) for number in self)
        y = y.unsqueeze(1)
        return xx * x + xy * y + x0, yx * x + yy * y + y0


def scaling(x: Tensor, y: Tensor) -> Affine:
    """Return maps that multiply x and y by factors (B,)."""
    zero = torch.zeros_like(x)
    return Affine(x, zero, zero, zero, y, zero)


def rotation(cosine: Tensor, sine: Tensor) -> Affine:
    """Return rotations about the centre, by angles (B,) of which cosine and sine are known."""
    zero = torch.zeros_like(cosine)
    return Affine(cosine, -sine, zero, sine, cosine, zero)


def translation(x: Tensor, y: Tensor) -> Affine:
    """Return shifts by so many pixels, shape (B,), to the right and down."""
    zero = torch.zeros_like(x)
    one = torch.ones_like(x)
    return Affine(one, zero, x, zero, one, y)


def _quarter_cosine(quarters: Tensor) -> Tensor:
    """Return the cosine of 0, 1, 2 or 3 quarter turns exactly: 1, 0, -1, 0."""
    return (quarters - 2).abs() - 1


def whole_pixels(draws: Draws, height: int, width: int) -> Affine:
    """Draw x-flip, quarter turns and a shift by whole pixels; return where the pixels of the result come from.

    "Pixel blitting" of Karras et al. 2020, arXiv:2006.06676, appendix B. It takes 7 uniform numbers.
    """
    inverse = _mirror(torch.where(draws.applied(), draws.whole(2), 0.0))
    quarters = torch.where(draws.applied(), draws.whole(4), 0.0)
    inverse = inverse.of(rotation(_quarter_cosine(quarters), _quarter_cosine((quarters + 3) % 4)))
    shifted = draws.applied()
    shift = [
        torch.where(shifted, (draws.uniform(-MOST_SHIFT, MOST_SHIFT) * size).round(), 0.0)
        for size in (width, height)
    ]
    return inverse.of(translation(-shift[0], -shift[1]))


def mirror_and_shift(draws: Draws, height: int, width: int) -> Affine:
    """Draw an x-flip of half of the images and a shift of all by whole pixels, up to MOST_SHIFT of each side.

    Return where the pixels of the result come from. It takes 3 uniform numbers.
    """
    inverse = _mirror(draws.whole(2))
    shift = [(draws.uniform(-MOST_SHIFT, MOST_SHIFT) * size).round() for size in (width, height)]
    return inverse.of(translation(*shift))


def _mirror(is_mirrored: Tensor) -> Affine:
    return scaling(1 - 2 * is_mirrored, torch.ones_like(is_mirrored))


def continuous(draws: Draws, height: int, width: int) -> Affine:
    """Draw scale, rotation, anisotropic scale and a shift by fractions; return where the result comes from.

    "General geometric transformations" of Karras et al. 2020, arXiv:2006.06676, appendix B. A rotation comes
    before and after the anisotropic scale, each with a probability of 1 - sqrt(1 - p), so that one of them or
    both come with probability p. It takes 11 uniform numbers.
    """
    of_rotation = 1 - torch.sqrt(1 - draws.probability)
    scale = torch.where(draws.applied(), torch.exp2(SCALE_OCTAVES * draws.normal()), 1.0)
    inverse = scaling(1 / scale, 1 / scale)
    inverse = inverse.of(_turn_back(draws, of_rotation))
    scale = torch.where(draws.applied(), torch.exp2(SCALE_OCTAVES * draws.normal()), 1.0)
    inverse = inverse.of(scaling(1 / scale, scale))
    inverse = inverse.of(_turn_back(draws, of_rotation))
    shifted = draws.applied()
    shift = [torch.where(shifted, MOST_SHIFT * draws.normal() * size, 0.0) for size in (width, height)]
    return inverse.of(translation(-shift[0], -shift[1]))


def _turn_back(draws: Draws, probability: Tensor) -> Affine:
    """Draw a rotation by any angle, and return its inverse."""
    angle = torch.where(draws.applied(probability), draws.uniform(-math.pi, math.pi), 0.0)
    return rotation(torch.cos(angle), -torch.sin(angle))


def copied(images: Tensor, inverse: Affine) -> Tensor:
    """Return images (B, C, H, W) whose pixels are copies of those nearest to where they come from.

    Args:
        images: Images.
        inverse: Places in the result to places in the images. If it maps pixels to pixels, nothing is rounded. A
            quarter turn does so, unless one of H and W is even and the other is odd.
    """
    height, width = images.shape[2:]
    x, y = inverse.at(_centred(width, inverse), _centred(height, inverse))
    column = reflected((x + (width - 1) / 2).round().long(), width)
    row = reflected((y + (height - 1) / 2).round().long(), height)
    return _gathered(images, row * width + column)


def resampled(images: Tensor, inverse: Affine) -> Tensor:
    """Return images (B, C, H, W) at the places that the pixels of the result come from, without aliasing.

    The images are upsampled to a grid twice as fine by SYM6, read there between the points (bilinear), and
    downsampled by SYM6 again (Karras et al. 2020, arXiv:2006.06676, appendix B). The identity gives the images.

    Args:
        images: Images.
        inverse: Places in the result to places in the images.
    """
    height, width = images.shape[2:]
    fine = _upsampled(_upsampled(images).mT).mT.contiguous()
    x, y = inverse.at(_centred_finely(width, inverse), _centred_finely(height, inverse))
    # pixel k lies between the points 2k and 2k + 1 of the fine grid
    column = 2 * (x + (width - 1) / 2) + 0.5
    row = 2 * (y + (height - 1) / 2) + 0.5
    return _downsampled(_downsampled(_between(fine, row, column)).mT).mT


def _centred(size: int, like: Affine) -> Tensor:
    """Return the places of pixels along a side, from its centre."""
    return torch.arange(size, dtype=like.xx.dtype, device=like.xx.device) - (size - 1) / 2


def _centred_finely(size: int, like: Affine) -> Tensor:
    """Return the places that pixels are downsampled from, along a side, in pixels from its centre."""
    points = torch.arange(-MARGIN, 2 * size + MARGIN, dtype=like.xx.dtype, device=like.xx.device)
    return (points - 0.5) / 2 - (size - 1) / 2


def reflected(index: Tensor, size: int) -> Tensor:
    """Return which pixel of a side lies at each whole place, if the image goes on mirrored at its edges.

    >>> reflected(torch.arange(-3, 6), 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    place = index % _period(size)
    # not by an absolute value, whose least number inductor takes for one with a fraction, and then fails
    return torch.minimum(place, _period(size) - place)


def _period(size: int) -> int:
    return max(2 * (size - 1), 1)


def _gathered(images: Tensor, index: Tensor) -> Tensor:
    """Return the pixels (B, C, …) at an index (B, …) into the H * W of each image."""
    channels = images.shape[1]
    flat = index.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    pixels: Tensor = images.flatten(2).gather(2, flat).unflatten(2, index.shape[1:])
    return pixels


def _between(fine: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return what images (B, C, H, W) that repeat have at places (B, …), linear between four points."""
    height, width = fine.shape[2:]
    above = row.floor()
    left = column.floor()
    down = (row - above).unsqueeze(1)
    right = (column - left).unsqueeze(1)
    rows = [(above.long() + step) % height * width for step in (0, 1)]
    columns = [(left.long() + step) % width for step in (0, 1)]
    upper = torch.lerp(_gathered(fine, rows[0] + columns[0]), _gathered(fine, rows[0] + columns[1]), right)
    lower = torch.lerp(_gathered(fine, rows[1] + columns[0]), _gathered(fine, rows[1] + columns[1]), right)
    return torch.lerp(upper, lower, down)


def _upsampled(images: Tensor) -> Tensor:
    """Upsample the columns of images (B, C, H, W) twofold; return one period of them mirrored, (…, 2 period)."""
    return images @ _matrix(_upsampling, images.shape[3], images)


def _downsampled(points: Tensor) -> Tensor:
    """Downsample the columns of (B, C, H, 2W + 2 MARGIN) twofold."""
    return points @ _matrix(_downsampling, points.shape[3], points)


def _upsampling(rows: Tensor) -> Tensor:
    """Upsample rows (N, W) twofold; return one period of each mirrored, (N, 2 period).

    Point m is sqrt(2) times the sum of row[k] SYM6[m - 2k + MARGIN] over k.
    """
    size = rows.shape[1]
    reach = len(SYM6) // 4
    index = torch.arange(-reach, _period(size) + reach, device=rows.device)
    extended = rows.index_select(1, reflected(index, size))
    even = (*SYM6[11::-2], 0.0)
    odd = (0.0, *SYM6[10::-2])
    taps = math.sqrt(2) * constant((even, odd), rows.dtype, rows.device)
    return conv1d(extended.unsqueeze(1), taps.unsqueeze(1)).mT.flatten(1)


def _downsampling(rows: Tensor) -> Tensor:
    """Downsample rows (N, 2W + 2 MARGIN) twofold, by the transpose of upsampling over 2."""
    taps = constant((SYM6,), rows.dtype, rows.device) / math.sqrt(2)
    return conv1d(rows.unsqueeze(1), taps.unsqueeze(1), stride=2).squeeze(1)


_MATRICES: dict[tuple[Callable[[Tensor], Tensor], int, torch.dtype, torch.device], Tensor] = {}


def _matrix(linear: Callable[[Tensor], Tensor], size: int, like: Tensor) -> Tensor:
    """Return the matrix of a linear map of rows with `size` numbers, of the type of `like`.

    Its product with images takes a small part of the time of convolutions with one channel.
    """
    key = (linear, size, like.dtype, like.device)
    if key in _MATRICES and not torch.compiler.is_compiling():
        return _MATRICES[key]
    matrix = linear(torch.eye(size, dtype=torch.float64, device=like.device)).to(like.dtype)
    if not torch.compiler.is_compiling():
        _MATRICES[key] = matrix
    return matrix


_CONSTANTS: dict[tuple[Table, torch.dtype, torch.device], Tensor] = {}


def constant(values: Table, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a table as a tensor, made once: copying it to a GPU waits, which a CUDA graph does not allow."""
    if torch.compiler.is_compiling():  # a part of the compiled code then
        return torch.tensor(values, dtype=dtype, device=device)
    key = (values, dtype, device)
    if key not in _CONSTANTS:
        _CONSTANTS[key] = torch.tensor(values, dtype=dtype, device=device)
    return _CONSTANTS[key]
