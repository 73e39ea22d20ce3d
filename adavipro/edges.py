"""Where the structure is: the fixed edge detector F_e (AdaViPro, Eq. 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class EdgeDetector(nn.Module):
    """The 4-neighbour Laplacian as a fixed convolution with padding 1 (AdaViPro, Eq. 3).

    m_e(i, j) = x(i+1, j) + x(i-1, j) + x(i, j+1) + x(i, j-1) - 4 x(i, j), each colour channel by itself.
    It has no parameters. Outside the image x is zero, so the border answers to the image's distance from the
    mean colour.

    Args:
        channels: 3 keeps a map for each colour; 1 averages the colours first.
        mean, std: where both are given, (3,) statistics that undo the normalisation before the edges are
            taken, so that the edges are those of the raw image.
    """

    kernel: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 3, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"edge_channels is {channels!r}, but an edge map has 1 or 3 channels")
        self.channels = channels
        kernel = torch.tensor(LAPLACIAN).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)
        if (mean is None) != (std is None):
            raise ValueError("mean and std go together: give both for the edges of the raw image, or neither")
        self.raw = mean is not None and std is not None
        for name, value in (("mean", mean), ("std", std)):
            value = torch.zeros(0) if value is None else value.detach().view(1, 3, 1, 1).clone()
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Take the edges of normalised images (b, 3, h, w). Returns (b, channels, h, w)."""
        if self.raw:
            images = images * self.std + self.mean
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
        kernel = self.kernel.to(images.dtype)
        return F.conv2d(images, kernel, padding=1, groups=self.channels)
