"""Where to add: the edge detector, the mask generator and its decisions (AdaViPro, Eq. 3 to 7)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.data import sent

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


class EdgeDetector(nn.Module):
    """F_e: the 4-neighbour Laplacian as a fixed convolution with padding 1 (AdaViPro, Eq. 3).

    m_e(i, j) = x(i+1, j) + x(i-1, j) + x(i, j+1) + x(i, j-1) - 4 x(i, j), each colour channel by itself.
    It has no parameters. Outside the image x is zero, so the border responds to the image's distance from the
    mean colour.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(LAPLACIAN).repeat(3, 1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Take the edges of normalised images (b, 3, h, w). Returns (b, 3, h, w)."""
        images = images.contiguous(memory_format=torch.channels_last)  # 15 times as fast on a CPU
        return F.conv2d(images, self.kernel.to(images.dtype), padding=1, groups=3)


class MaskGenerator(nn.Module):
    """Two convolutions that turn an edge map into two logits a region, F_p(ReLU(F_c(m_e))), and decide (Eq. 4 to 7).

    F_c (convergence) is 3x3 and sees local edges; F_p (policy) has kernel = stride = region side, so each of
    its outputs sees one region. The ReLU is our choice: without it the logits are linear in the edge map and
    cannot measure how much edge, of either sign, a region holds. At 224 px with regions of 32 and width 64 it
    has 132,866 parameters.

    After the ReLU every channel has a mean far above its differences from region to region, so one step turns
    all regions on or off together. `standardise` (our choice) gives each channel mean 0 and standard deviation 1 over
    each image: what is left is where in the image a channel responds, and the common part is F_p's bias alone.

    Args:
        image_px: side of the image.
        region_px: side of a decision region; must divide image_px.
        width: channels D between F_c and F_p.
        relu: whether a ReLU stands between them.
        on_bias: start of the difference of F_p's two biases, (on - off); above 0 favours on.
        standardise: whether F_c's channels get mean 0 and standard deviation 1 over each image.
        hard: whether training samples decisions of 0 or 1 with straight-through gradients; otherwise soft ones.
        generator: source of the start values.

    Raises:
        ValueError: if the region side does not divide the image.
    """

    def __init__(
        self,
        image_px: int,
        region_px: int,
        width: int = 64,
        relu: bool = True,
        on_bias: float = 0.0,
        standardise: bool = True,
        hard: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_region(image_px, region_px)
        self.region_px, self.relu, self.standardise, self.hard = region_px, relu, standardise, hard
        self.convergence = nn.Conv2d(3, width, 3, padding=1)
        self.policy = nn.Conv2d(width, 2, region_px, stride=region_px)
        with torch.no_grad():
            for conv in (self.convergence, self.policy):
                # U(-1/sqrt(fan in), 1/sqrt(fan in)), torch's own default, from our generator
                bound = conv.weight[0].numel() ** -0.5
                for p in conv.parameters():
                    p.copy_(bound * (2 * torch.rand(p.shape, generator=generator) - 1))
            self.policy.get_parameter("bias").copy_(torch.tensor([-on_bias / 2, on_bias / 2]))

    def forward(self, edges: Tensor) -> Tensor:
        """Turn edges (b, 3, h, w) into region logits (b, 2, r, r); channel 0 is off, channel 1 is on."""
        hidden = self.convergence(edges)
        hidden = hidden.relu() if self.relu else hidden
        hidden = F.layer_norm(hidden, hidden.shape[2:]) if self.standardise else hidden
        logits: Tensor = self.policy(hidden)
        return logits

    def decide(self, logits: Tensor, temperature: float | None, generator: torch.Generator | None) -> Tensor:
        """Decide on each region: sampled in training, the likelier without a temperature. Returns (b, 1, r, r).

        Raises:
            ValueError: if a temperature is given without a generator for the noise.
        """
        if temperature is None:
            return choose(logits)
        if generator is None:
            raise ValueError("a temperature is given without a generator for the Gumbel noise")
        return decide(logits, temperature, gumbel_noise(logits.shape, generator), self.hard)


def check_region(image_px: int, region_px: int) -> None:
    """Raise a ValueError that lists the region sides there are, where `region_px` does not divide the image."""
    sides = [side for side in range(1, image_px + 1) if image_px % side == 0]
    if type(region_px) is not int or region_px not in sides:
        raise ValueError(
            f"region_px is {region_px!r}, but regions must divide the image of {image_px} px: choose one of "
            + ", ".join(map(str, sides))
        )


def gumbel_noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw G = -log(-log U) in float32 (Eq. 6). Returns a tensor of `shape` on the generator's device."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    u = u.clamp(min=torch.finfo(torch.float64).tiny)
    return (-torch.log(-torch.log(u))).float()


def decide(logits: Tensor, temperature: float, noise: Tensor, hard: bool = False) -> Tensor:
    """Sample each region's decision with Gumbel-Softmax (Eq. 6, 7). Returns (b, 1, r, r).

    softmax((e + G) / tau) over {off, on}, in float32 whatever the precision of the model. With `hard` the value
    is 0 or 1 and the gradient is that of the soft value (straight-through); without it the soft value is used.

    Args:
        logits: (b, 2, r, r), off and on.
        temperature: tau > 0.
        noise: G, of the logits' shape.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but it must be above 0")
    # With two choices the softmax is a sigmoid of the difference, which cannot overflow.
    difference = (logits.float() + sent(noise, logits.device)).diff(dim=1)  # on - off: (b, 1, r, r)
    soft = torch.sigmoid(difference / temperature)
    if not hard:
        return soft
    return (difference > 0).float() + (soft - soft.detach())


def choose(logits: Tensor) -> Tensor:
    """Take each region's likelier decision, without noise: inference. Returns 0 or 1, (b, 1, r, r)."""
    return (logits[:, 1:] > logits[:, :1]).float()


def enlarge(decisions: Tensor, region_px: int) -> Tensor:
    """Phi: repeat each region's decision over its pixels (Eq. 5). (b, c, r, r) to (b, c, h, w)."""
    return decisions.repeat_interleave(region_px, 2).repeat_interleave(region_px, 3)


def share_on(decisions: Tensor, live: Tensor) -> float:
    """Mean decision (b, c, r, r) over images and the regions `live`, bool (r, r), that the prompt can reach."""
    return decisions[:, :, live].mean().item()


def settled(logits: Tensor, live: Tensor, temperature: float) -> dict[str, float]:
    """How far the noise of training still reaches, over images and live regions, by name.

    logit_gap: the median of |on - off|. flips: the share of decisions that a draw of noise turns over; the difference
    of two Gumbel variables is logistic (standard deviation 1.8), so it is the mean of sigmoid(-|on - off|). soft: the
    share of sampled decisions that lie between 0.05 and 0.95 at this temperature.
    """
    gap = logits.float().diff(dim=1)[:, :, live]
    reach = temperature * math.log(19)  # sigmoid(log 19) = 0.95
    soft = torch.sigmoid(reach - gap) - torch.sigmoid(-reach - gap)
    told = torch.stack([gap.abs().median(), torch.sigmoid(-gap.abs()).mean(), soft.mean()])
    return dict(zip(("logit_gap", "flips", "soft"), told.tolist(), strict=True))


def mask_diversity(decisions: Tensor, live: Tensor) -> float:
    """How much masks differ between images: the mean over live regions of 4 q (1 - q), q the share of images on.

    0: every image has the same mask. 1: each region is on for half of the images.
    """
    q = decisions[:, :, live].mean(0)
    return (4 * q * (1 - q)).mean().item()
