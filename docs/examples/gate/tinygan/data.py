"""The images: discs of random size and place, drawn as they are needed."""

import torch


def discs(count: int, shape: tuple[int, int, int], device: str) -> torch.Tensor:
    """Return images of shape (count, *shape) with values from -1 to 1."""
    channels, height, width = shape
    rows = torch.linspace(-1, 1, height, device=device).view(1, 1, height, 1)
    columns = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, width)
    centres = torch.rand(count, 2, 1, 1, device=device) - 0.5
    radii = 0.2 + 0.3 * torch.rand(count, 1, 1, 1, device=device)
    inside = (rows - centres[:, :1]) ** 2 + (columns - centres[:, 1:]) ** 2 < radii**2
    return (2.0 * inside - 1.0).expand(count, channels, height, width)
