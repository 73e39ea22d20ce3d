"""The same numbers in less time and memory: a ViT's patch embedding, and the mask generator."""

import contextlib
import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.where import MaskGenerator

# F_c's output is made in parts of so many bytes (on a CPU: what stays in the cache; gradients take some times that),
# and so many bytes of it are kept (on a GPU few parts: making them again is fast).
HIDDEN_BYTES, KEPT_BYTES = {"cpu": 7_000_000, "elsewhere": 256_000_000}, 160_000_000
EPS = 1e-5  # beside the variance, as in torch's layer_norm


def keep_freed_memory() -> None:
    """Have glibc keep what is freed; nothing elsewhere.

    It maps a tensor of over 32 MB anew at each use, and the system then clears its pages: half the time of a network
    with large activations on a CPU.
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
    """The mask generator, its logits computed a few images at a time."""

    def forward(self, edges: Tensor) -> Tensor:
        """Turn edges (b, 3, h, w) into region logits (b, 2, r, r), as MaskGenerator does."""
        d, s, r = self.convergence.out_channels, self.region_px, edges.shape[-1] // self.region_px
        place, dtype = edges.device.type, edges.dtype
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else dtype
        policy = self.policy.weight.permute(0, 2, 3, 1).reshape(2, s * s * d)
        given = (edges, *self.convergence.parameters(), policy)
        how = (s, self.relu, self.standardise)
        logits: Tensor = _RegionLogits.apply(*(t.to(dtype) for t in given), *how)
        return (logits + self.policy.get_parameter("bias")).transpose(1, 2).reshape(len(edges), 2, r, r)


class _RegionLogits(torch.autograd.Function):
    """F_p of the standardised ReLU of F_c, without F_p's bias: (b, regions, 2).

    F_c's output has D numbers a pixel, far more than all else: it is there for a few images at a time, and what there
    is no room to keep is computed again for the gradient. Whatever lasts is allocated before, so that the memory of one
    part serves the next. The pixels of a region lie together, channels last, so that F_p is one matrix product, with
    weights that are scaled for each image in place of the output.
    """

    @staticmethod
    def hidden(edges: Tensor, weight: Tensor, bias: Tensor, side: int, relu: bool) -> Tensor:
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
        """Logits of edges (b, 3, h, w), F_c's weight and bias, and F_p's weight (2, side * side * d)."""
        edges, weight, bias, policy, side, relu, standardise = given
        (b, _, h, w), d = edges.shape, len(weight)
        image_bytes = edges.element_size() * d * h * w
        size = max(1, HIDDEN_BYTES["cpu" if edges.device.type == "cpu" else "elsewhere"] // image_bytes)
        parts = [slice(i, i + size) for i in range(0, b, size)]
        # By image and channel, in float32 at least.
        exact = torch.promote_types(edges.dtype, torch.float32)
        mean, scale = edges.new_zeros(b, 1, d, dtype=exact), edges.new_ones(b, 1, d, dtype=exact)
        logits, kept = edges.new_empty(b, h * w // side**2, 2, dtype=exact), []
        weights = policy.view(2, -1, d)
        with torch.autocast(edges.device.type, enabled=False):
            for part in parts:
                hidden = _RegionLogits.hidden(edges[part], weight, bias, side, relu)
                if standardise:
                    blocks = hidden.view(len(hidden), -1, side**2, d)  # each core sums what it has written
                    mean[part] = blocks.sum(2, dtype=exact).sum(1, keepdim=True) / (h * w)
                    square = blocks.square().sum(2, dtype=exact).sum(1, keepdim=True) / (h * w)
                    scale[part] = (
                        square.addcmul_(mean[part], mean[part], value=-1).clamp_(min=0) + EPS
                    ).rsqrt()
                scaled = (weights * scale[part].unsqueeze(1)).flatten(2)  # (n, 2, side * side * d)
                regions = hidden.view(len(hidden), -1, policy.shape[1]).to(exact)
                logits[part] = regions @ scaled.transpose(1, 2)
                logits[part] -= (weights.sum(1) * (mean[part] * scale[part])).sum(2).unsqueeze(1)
                kept += [hidden] if part.stop * image_bytes <= KEPT_BYTES else []
                del hidden, regions  # before the next part is made
        ctx.save_for_backward(edges, weight, bias, policy, mean, scale, *kept)
        ctx.how = side, relu, standardise, parts
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of what `forward` was given."""
        edges, weight, bias, policy, mean, scale, *kept = ctx.saved_tensors
        side, relu, standardise, parts = ctx.how
        (_, _, h, w), d = edges.shape, len(weight)
        weights = policy.view(2, -1, d)
        asked = [*ctx.needs_input_grad[:3]]
        pairs = zip((edges, weight, bias), asked, strict=True)
        found = [torch.zeros_like(t, dtype=mean.dtype) if is_asked else None for t, is_asked in pairs]
        policy_grad = torch.zeros_like(weights, dtype=mean.dtype)
        with torch.autocast(edges.device.type, enabled=False):
            for i, part in enumerate(parts):
                hidden = (
                    kept[i] if i < len(kept) else _RegionLogits.hidden(edges[part], weight, bias, side, relu)
                )
                grad, centre, factor = grads[0][part].contiguous(), mean[part], scale[part]
                regions = hidden.view(len(hidden), -1, policy.shape[1]).to(mean.dtype)
                # The sum over regions of gradient times standardised output, by image: (b, 2, side * side, d).
                by_image = (grad.transpose(1, 2) @ regions).view(len(hidden), 2, -1, d)
                total = grad.sum(1)[..., None, None]
                by_image = (by_image - total * centre.unsqueeze(1)) * factor.unsqueeze(1)
                policy_grad += by_image.sum(0)
                shift = slope = torch.zeros_like(centre)
                if standardise:  # less the parts that mean and standard deviation take
                    first = (total * weights.sum(1, keepdim=True)).sum(1) / (h * w)
                    slope = -(by_image * weights).sum((1, 2)).unsqueeze(1) / (h * w) * factor * factor
                    shift = -factor * first - centre * slope
                back = torch.addcmul(shift, hidden, slope)
                scaled = (weights * factor.unsqueeze(1)).flatten(2)  # (b, 2, side * side * d)
                for choice in range(2):
                    back.view(regions.shape).addcmul_(grad[..., choice, None], scaled[:, choice, None])
                back = back.to(hidden.dtype)
                hidden_grad = hidden.new_empty(len(hidden), h, w, d).permute(0, 3, 1, 2)
                ordered = _RegionLogits.by_region(hidden_grad, side)
                if relu:
                    pair = (t.view(ordered.shape) for t in (back, hidden))
                    torch.ops.aten.threshold_backward.grad_input(*pair, 0, grad_input=ordered)
                else:
                    ordered.copy_(back.view(ordered.shape))
                own = torch.ops.aten.convolution_backward(
                    hidden_grad, edges[part], weight, [d], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, asked
                )
                for total_grad, more in zip(found, own, strict=True):
                    if total_grad is not None:
                        (total_grad[part] if total_grad is found[0] else total_grad).add_(more)
                del hidden, regions, back, hidden_grad, ordered, own
        return *found, policy_grad.flatten(1), None, None, None
