"""AdaViPro (arXiv 2403.13282) and VP (arXiv 2203.17274), by hand in one file: read it from top to bottom.

Learned pixels adapt a frozen CLIP to new pictures: VP adds a frame of them, AdaViPro decides by region whether to.

    python notebooks/adavipro_from_scratch.py  # a minute on two CPU cores; --prompt-px 28: a frame over all
"""

import argparse
import hashlib
import math
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

# The recipe, as by default in `adavipro run` but for the epochs: change it here.
PROMPT_PX, START_STD = 8, 1.0  # of the frame: its width, and the standard deviation of its start values
REGION_PX, WIDTH, ON_BIAS = 8, 16, 0.0  # of the masks: side of a region, channels, start of the bias for on
EPOCHS, BATCH_SIZE, WARMUP_SHARE = 5, 64, 0.05  # of the module 20 epochs; the warm-up is a share of all steps
PROMPT_LR, PROMPT_MOMENTUM, GENERATOR_LR, GENERATOR_MOMENTUM = 4.0, 0.9, 0.01, 0.9  # of SGD
TEMPERATURE_START, TEMPERATURE_END = 5.0, 0.1  # of the first and of the last epoch

IMAGE_PX = 56  # side of the images that the small CLIP takes, with these mean and deviation of each colour:
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
CLASSES = [f"digit {word}" for word in "zero one two three four five six seven eight nine".split()]
DATA = Path(__file__).resolve().parents[1] / "data"
Split = tuple[Tensor, Tensor]  # normalised images (n, 3, h, w) and their labels (n,)


def chance(seed: int, *name: str | int) -> Generator:
    """A source of random numbers for one purpose: they depend on seed and name alone, as everywhere in the module."""
    digest = hashlib.sha256(":".join(map(str, (seed, *name))).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def load_clip(classes: list[str]):
    """A frozen CLIP: images (b, 3, h, w) to scores (b, k), scale * cosine of image and class text (VP, Eq. 1)."""
    source = f"local-dir:{DATA / 'small_clip'}"  # open_clip's way to name a folder with weights
    clip = open_clip.create_model(source).eval().requires_grad_(False)
    tokens = open_clip.get_tokenizer(source)([f"This is a photo of a {name}" for name in classes])
    texts = clip.encode_text(tokens, normalize=True)  # (k, d), computed once: they do not depend on the image
    return lambda images: clip.logit_scale.exp() * clip.encode_image(images, normalize=True) @ texts.T


def load_split(name: str) -> Split:
    """Draw "train", "val" or "test": scans of real handwriting, 8 x 8, each at two places in two colours."""
    # As the module's data set `digits`: same scans in each split; plainer pictures, for its own take 90 lines to draw.
    stored = load_file(DATA / "handwritten_digits.safetensors")
    parts = torch.randperm(1797, generator=chance(2403, "digits-scans")).split([1000, 297, 500])
    chosen = parts[("train", "val", "test").index(name)].repeat(2)
    n, source = len(chosen), chance(2403, "from-scratch", name)
    size = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=source)  # as a share of the picture
    place = (2 * torch.rand(n, 2, 1, generator=source) - 1) * (1 - size)
    where = torch.cat([torch.eye(2) / size, -place / size], 2)
    grid = F.affine_grid(where, [n, 1, IMAGE_PX, IMAGE_PX], align_corners=False)
    scans = F.grid_sample(stored["images"][chosen, None] / 16, grid, mode="bicubic", align_corners=False)
    digit = ((scans - 0.3) / 0.4).clamp(0, 1)  # 1 where there is ink
    ground, other = torch.rand(2, n, 3, 1, 1, generator=source)
    ink = torch.where(ground.mean(1, keepdim=True) > 0.5, 0.4 * other, 1 - 0.4 * other)  # dark on bright
    picture = 0.25 + 0.5 * (ground + (ink - ground) * digit)  # of a poor camera: half the contrast, and noise
    picture = picture + 0.03 * torch.randn(picture.shape, generator=source)
    return (picture.clamp(0, 1) - MEAN) / STD, stored["labels"][chosen].long()


class Template(nn.Module):
    """What to add: P, a frame of learned pixels around the image, zero inside (VP, section 3). It starts as noise."""

    def __init__(self, prompt_px: int, seed: int) -> None:
        super().__init__()
        inside = IMAGE_PX - 2 * prompt_px
        self.frame = F.pad(torch.zeros(inside, inside), [prompt_px] * 4, value=1).bool()
        start = torch.randn(3, int(self.frame.sum()), generator=chance(seed, "template"))
        self.pixels = nn.Parameter(START_STD * start)

    def forward(self) -> Tensor:
        return torch.zeros(3, IMAGE_PX, IMAGE_PX).masked_scatter(self.frame, self.pixels)


def edges(images: Tensor) -> Tensor:
    """Find edges with the Laplacian, each pixel's four neighbours less four times itself (AdaViPro, Eq. 3)."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return F.conv2d(images, kernel.expand(3, 1, 3, 3), padding=1, groups=3)  # each colour by itself


class MaskGenerator(nn.Module):
    """Where to add it: edges m_e to two scores (logits) a region, off and on, F_p(F_c(m_e)) (AdaViPro, Eq. 4, 5)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.convergence = nn.Conv2d(3, WIDTH, 3, padding=1)  # F_c sees edges close by
        self.policy = nn.Conv2d(WIDTH, 2, REGION_PX, stride=REGION_PX)  # each output of F_p sees one region
        source = chance(seed, "mask-generator")
        for conv in (self.convergence, self.policy):
            bound = conv.weight[0].numel() ** -0.5
            for values in conv.parameters():  # torch's own start, U(-bound, bound), from a source of our own
                nn.init.uniform_(values, -bound, bound, generator=source)
        self.policy.bias.data = torch.tensor([-ON_BIAS / 2, ON_BIAS / 2])  # on - off; above 0 favours on

    def forward(self, edges: Tensor) -> Tensor:
        hidden = self.convergence(edges).relu()
        return self.policy(F.layer_norm(hidden, hidden.shape[2:]))  # standardised: mean 0, deviation 1


def decide(logits: Tensor, temperature: float | None, source: Generator | None) -> Tensor:
    """Decide on each region, (b, 1, r, r): in training soft, with Gumbel noise, so that it can learn; in use 0 or 1."""
    if temperature is None:
        return (logits[:, 1:] > logits[:, :1]).float()
    noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=source, dtype=torch.float64))).float()
    return ((logits + noise) / temperature).softmax(1)[:, 1:]  # Gumbel-Softmax (AdaViPro, Eq. 6 and 7)


class AdaViPro(nn.Module):
    """The prompted image, x + P * m_p (AdaViPro, Eq. 2). Without a mask generator m_p is 1: that is VP."""

    def __init__(self, template: Template, masks: MaskGenerator | None) -> None:
        super().__init__()
        self.template, self.masks = template, masks

    def forward(self, images: Tensor, temperature: float | None = None, source=None) -> tuple[Tensor, Tensor]:
        decisions = torch.ones(len(images), 1, IMAGE_PX // REGION_PX, IMAGE_PX // REGION_PX)
        if self.masks is not None:
            decisions = decide(self.masks(edges(images)), temperature, source)
        mask = decisions.repeat_interleave(REGION_PX, 2).repeat_interleave(REGION_PX, 3)  # Phi (Eq. 5)
        return images + self.template() * mask, decisions


def learning_rate_factor(step: int, steps: int) -> float:
    """A short linear warm-up, then half a cosine wave down to 0 (VP's schedule)."""
    warmup = round(WARMUP_SHARE * steps)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return (step + 1) / warmup if step < warmup else cosine


def temperature_of(epoch: int, epochs: int) -> float:
    """The temperature falls from start to end by one factor an epoch."""
    return TEMPERATURE_START * (TEMPERATURE_END / TEMPERATURE_START) ** (epoch / max(1, epochs - 1))


@torch.no_grad()
def evaluate(clip, method: AdaViPro, split: Split) -> tuple[float, float]:
    """Share of the images that are right, and share on of the regions that the frame reaches."""
    prompted, decisions = method(split[0])
    reached = F.max_pool2d(method.template.frame[None].float(), REGION_PX)[0].bool()
    right = clip(prompted).argmax(1) == split[1]
    return right.float().mean().item(), decisions[..., reached].mean().item()


def train(clip, method: AdaViPro, learn: Split, val: Split, epochs: int, seed: int) -> None:
    """Train template and mask generator through CLIP, which never moves; validation picks the epoch."""
    optimizer = torch.optim.SGD(method.template.parameters(), lr=PROMPT_LR, momentum=PROMPT_MOMENTUM)
    if method.masks is not None:
        rates = {"lr": GENERATOR_LR, "momentum": GENERATOR_MOMENTUM}
        optimizer.add_param_group({"params": method.masks.parameters(), **rates})
    batches = math.ceil(len(learn[1]) / BATCH_SIZE)  # of an epoch
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate_factor(s, epochs * batches))
    best, best_accuracy = {}, -1.0
    for epoch in range(epochs):
        order = torch.randperm(len(learn[1]), generator=chance(seed, "order", epoch))
        for step, index in enumerate(order.split(BATCH_SIZE), epoch * batches):
            prompted, _ = method(learn[0][index], temperature_of(epoch, epochs), chance(seed, "gumbel", step))
            loss = F.cross_entropy(clip(prompted), learn[1][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        accuracy, on = evaluate(clip, method, val)
        print(f"epoch {epoch + 1}: last loss {loss:.2f}, validation {accuracy:.1%}, regions on {on:.0%}")
        if accuracy > best_accuracy:
            best, best_accuracy = {k: v.clone() for k, v in method.state_dict().items()}, accuracy
    method.load_state_dict(best)


def main() -> None:
    parser = argparse.ArgumentParser(description="zero-shot, VP and AdaViPro on handwritten digits")
    for name, default in (("epochs", EPOCHS), ("images", 2000), ("prompt-px", PROMPT_PX), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    clip = load_clip(CLASSES)
    learn, val, test = ([part[: asked.images] for part in load_split(n)] for n in ("train", "val", "test"))
    zero_shot = (clip(test[0]).argmax(1) == test[1]).float().mean()  # nothing added, nothing learned
    lines = [f"method     test accuracy  regions on\nzero-shot {zero_shot:13.1%}"]
    for name, masks in (("VP", None), ("AdaViPro", MaskGenerator(asked.seed))):
        print(name)
        method = AdaViPro(Template(asked.prompt_px, asked.seed), masks)
        train(clip, method, learn, val, asked.epochs, asked.seed)
        accuracy, on = evaluate(clip, method, test)  # the only look at the test images
        lines.append(f"{name:9} {accuracy:13.1%} {on:11.0%}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
