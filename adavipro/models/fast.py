"""The same numbers in less time and memory: a ViT's patch embedding, and the mask generator."""

import contextlib
import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.where import MaskGenerator

# Of F_c's output, so many bytes are at work at a time (on a CPU: what stays in the cache), and so many may be kept.
HIDDEN_BYTES, KEPT_BYTES = {"cpu": 4_000_000, "cuda": 256_000_000}, 64_000_000
VARIANCE_EPS = 1e-5  # as in torch's layer_norm


def keep_freed_memory() -> None:
    """Have glibc keep what is freed; nothing elsewhere.

    It maps a tensor of over 32 MB anew at each use, and the system then clears its pages: half the time of a network with
    large activations on a CPU.
    """
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3)
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(threshold, 2**30)
        libc.mallopt(trim, 2**31 - 1)


class PatchEmbedding(nn.Module):
    """A ViT's first convolution (kernel = stride) as one matrix product: its input gradient is fast on a CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.side = int(conv.stride[0])

    def forward(self, images: Tensor) -> Tensor:
        """Embed each patch: (b, 3, h, w) to (b, d, h / side, w / side)."""
        (b, c, h, w), s = images.shape, self.side
        # To b (h s) (w s): patch, pixels.
        patches = images.view(b, c, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class FastMaskGenerator(MaskGenerator):
    """The mask generator, its logits a few images at a time."""

    def forward(self, edges: Tensor) -> Tensor:
        """Turn edges (b, c, h, w) into region logits (b, 2, r, r), as MaskGenerator does."""
        d, s, r = self.convergence.out_channels, self.region_px, edges.shape[-1] // self.region_px
        policy = self.policy.weight.permute(0, 2, 3, 1).reshape(2, s * s * d)
        place, dtype = edges.device.type, edges.dtype
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else dtype
        bias = self.convergence.bias
        weights = (
            self.convergence.weight.to(dtype),
            bias if bias is None else bias.to(dtype),
            policy.to(dtype),
        )
        image_bytes = dtype.itemsize * d * edges.shape[2] * edges.shape[3]
        parts = edges.to(dtype).split(max(1, HIDDEN_BYTES.get(place, 0) // image_bytes))
        how = (s, self.relu, self.standardise, len(edges) * image_bytes <= KEPT_BYTES)
        logits: Tensor = torch.cat([_RegionLogits.apply(part, *weights, *how) for part in parts])
        logits = logits if self.policy.bias is None else logits + self.policy.bias
        return logits.transpose(1, 2).reshape(len(edges), 2, r, r)


class _RegionLogits(torch.autograd.Function):
    """F_p of the standardised ReLU of F_c, without F_p's bias, (b, regions, 2), for a few images at a time.

    F_c's output has D numbers a pixel, far more than all else: unless the batch is small, it is not kept but computed
    again for the gradient. The pixels of a region lie together, channels last, so that F_p is one matrix product.
    """

    @staticmethod
    def hidden(edges: Tensor, weight: Tensor, bias: Tensor | None, side: int, relu: bool) -> Tensor:
        """ReLU(F_c(m_e)), region by region: (b, h w, d)."""
        edges, weight = (t.contiguous(memory_format=torch.channels_last) for t in (edges, weight))
        out = _RegionLogits.by_region(F.conv2d(edges, weight, bias, padding=1), side)
        hidden = torch.empty(out.shape, dtype=out.dtype, device=out.device)
        torch.clamp(out, min=0, out=hidden) if relu else hidden.copy_(out)  # reordered on the way
        return hidden.view(len(out), -1, out.shape[-1])

    @staticmethod
    def by_region(images: Tensor, side: int) -> Tensor:
        """View (b, d, h, w) as (b, r, r, side, side, d)."""
        return images.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 3, 5, 1)

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Logits of edges (b, c, h, w), F_c's weight and bias, and F_p's weight (2, side * side * d)."""
        edges, weight, bias, policy, side, relu, standardise, keep = given
        with torch.autocast(policy.device.type, enabled=False):
            hidden = _RegionLogits.hidden(edges, weight, bias, side, relu)
            mean, scale = hidden.new_zeros(1, 1, 1), hidden.new_ones(1, 1, 1)
            if standardise:  # by image and channel: (b, 1, d), in float32 at least
                dtype = torch.promote_types(hidden.dtype, torch.float32)
                mean, square = (t.mean(1, keepdim=True, dtype=dtype) for t in (hidden, hidden.square()))
                scale = ((square - mean * mean).clamp(min=0) + VARIANCE_EPS).rsqrt()
            ctx.save_for_backward(edges, weight, bias, policy, mean, scale, hidden if keep else None)
            ctx.how = side, relu, standardise
            standard = torch.addcmul(-mean * scale, hidden, scale).to(hidden.dtype)
            return F.linear(standard.view(len(hidden), -1, policy.shape[1]), policy)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of what `forward` was given: those of F_c only where they are asked for."""
        edges, weight, bias, policy, mean, scale, hidden = ctx.saved_tensors
        (grad,), (side, relu, standardise) = grads, ctx.how
        with torch.autocast(grad.device.type, enabled=False):
            hidden = _RegionLogits.hidden(edges, weight, bias, side, relu) if hidden is None else hidden
            b, pixels, d = hidden.shape
            regions = hidden.view(b, -1, policy.shape[1])
            # The sum over regions of gradient times standardised output, by image: (b, 2, side * side, d).
            by_image = (grad.transpose(1, 2) @ regions).view(b, 2, -1, d)
            total = grad.sum(1)[..., None, None]
            by_image = (by_image - total * mean.unsqueeze(1)) * scale.unsqueeze(1)
            weights = policy.view(2, -1, d)
            shift = factor = torch.zeros_like(mean)
            if standardise:  # less the parts that mean and standard deviation take
                first = (total * weights.sum(1, keepdim=True)).sum(1) / pixels
                factor = -(by_image * weights).sum((1, 2)).unsqueeze(1) / pixels * scale * scale
                shift = -scale * first - mean * factor
            back = torch.addcmul(shift, hidden, factor)
            outer = back.view(b, -1, policy.shape[1])
            scaled = (weights * scale.unsqueeze(1)).flatten(2)  # (b, 2, side * side * d)
            for choice in range(2):
                outer.addcmul_(grad[..., choice, None], scaled[:, choice, None])
            back = back.to(hidden.dtype)
            hidden_grad = hidden.new_empty(b, *edges.shape[2:], d).permute(0, 3, 1, 2)
            ordered = _RegionLogits.by_region(hidden_grad, side)
            if relu:
                back, hidden = (t.view(ordered.shape) for t in (back, hidden))
                torch.ops.aten.threshold_backward.grad_input(back, hidden, 0, grad_input=ordered)
            else:
                ordered.copy_(back.view(ordered.shape))
            asked = [*ctx.needs_input_grad[:2], bias is not None]
            convolution = torch.ops.aten.convolution_backward(
                hidden_grad, edges, weight, [d], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, asked
            )
        return *convolution, by_image.sum(0).flatten(1).to(policy.dtype), None, None, None, None
