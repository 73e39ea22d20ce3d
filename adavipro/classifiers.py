"""Frozen image classifiers: normalised images in, class scores out."""

import hashlib
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.settings import SettingError

PHOTO_TEMPLATE = "This is a photo of a {}"  # VP's and AdaViPro's text, without a full stop


def data_folder() -> Path:
    """The folder of what ships with the project: beside the module in a wheel, at the top of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def resolve_model(name: str) -> str:
    """Give open_clip's name of a model; "small-clip" is the one that ships with the project."""
    return f"local-dir:{data_folder() / 'small_clip'}" if name == "small-clip" else name


def weights_sha256(model: str) -> str | None:
    """sha256 of a model's weight file where it lies in a local folder; None where open_clip fetches it by tag."""
    source = resolve_model(model)
    if not source.startswith("local-dir:"):
        return None
    path = Path(source.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    if not path.exists():
        raise ValueError(
            f"model is {model!r}, but {path} does not exist: train it with `make pretrain`, or install the project "
            "again"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_device(device: str) -> None:
    """Raise a SettingError where torch cannot compute on a device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines()[0]
        raise SettingError(f"device is {device!r}, which torch cannot use here: {told}") from None


def clean_class_names(names: list[str] | tuple[str, ...]) -> list[str]:
    """Lower case, "_" and "-" to spaces, as VP does; two names that become one are an error.

    Raises:
        ValueError: if there is no name, one is empty, or two are the same after cleaning.
    """
    if isinstance(names, str):
        raise ValueError(f"class_names is {names!r}, but it must be a list of names")
    cleaned = [str(n).lower().replace("_", " ").replace("-", " ").strip() for n in names]
    if not cleaned:
        raise ValueError("class_names is empty, but a classifier needs at least one class name")
    if "" in cleaned:
        raise ValueError(f"class name {cleaned.index('')} is empty: {list(names)}")
    twice = sorted({n for n in cleaned if cleaned.count(n) > 1})
    if twice:
        raise ValueError(f"class names {twice} occur more than once after cleaning: {list(names)}")
    return cleaned


class PatchEmbedding(nn.Module):
    """A ViT's first convolution (kernel = stride) as one matrix product: its input gradient is fast on a CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.side = int(conv.stride[0])

    def forward(self, images: Tensor) -> Tensor:
        """Embed each patch: (b, 3, h, w) to (b, d, h / side, w / side)."""
        b, c, h, w = images.shape
        s = self.side
        patches = images.view(b, c, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class FrozenClip(nn.Module):
    """A CLIP image tower with its class embeddings, computed once; nothing in it learns.

    Scores are logit_scale * cosine(f_v(x), f_t("This is a photo of a {c}")), as in VP (Eq. 1). Weights take no
    gradient, and train() leaves it in evaluation mode.

    Args:
        model: an open_clip model.
        class_embeddings: unit vectors (k, d).
        class_names: the k names, in order.
        mean, std: (3,) of the images' normalisation.
        image_px: side of the images that the tower takes.
        name: the model's name, as in an experiment's settings.
    """

    class_embeddings: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Any,
        class_embeddings: Tensor,
        class_names: list[str],
        mean: Tensor,
        std: Tensor,
        image_px: int,
        name: str,
    ) -> None:
        super().__init__()
        self.visual: Any = model.visual
        conv = getattr(self.visual, "conv1", None)
        if (
            isinstance(conv, nn.Conv2d)
            and conv.kernel_size == conv.stride
            and conv.stride[0] == conv.stride[1]
            and (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
        ):
            self.visual.conv1 = PatchEmbedding(conv)
        self.class_names, self.image_px, self.name = class_names, image_px, name
        self.register_buffer("class_embeddings", class_embeddings)
        self.register_buffer("scale", model.logit_scale.detach().exp())
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls,
        name: str,
        class_names: list[str] | tuple[str, ...],
        pretrained: str | None = None,
        template: str = PHOTO_TEMPLATE,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a CLIP through open_clip's factory and embed the class names.

        Args:
            name: "small-clip", any open_clip model ("ViT-B-32-quickgelu"), or "local-dir:FOLDER".
            pretrained: open_clip's tag of the weights ("openai"); None where the folder holds them.
            template: text with one {} for the class name.
        """
        check_device(str(device))
        names = clean_class_names(class_names)
        if "{}" not in template or template.count("{") + template.count("}") != 2:
            raise ValueError(
                f"template is {template!r}, but it must hold exactly one {{}} for the class name"
            )
        source = resolve_model(name)
        if not source.startswith("local-dir:") and source not in open_clip.list_models():
            raise ValueError(
                f"model is {name!r}, but it is small-clip, a name of open_clip's, or local-dir:FOLDER"
            )
        model = open_clip.create_model(source, pretrained=pretrained, require_pretrained=True)
        model.eval()
        tokens = open_clip.get_tokenizer(source)([template.format(n) for n in names])
        with torch.no_grad():
            embeddings = model.encode_text(tokens, normalize=True)
        settings = open_clip.get_model_preprocess_cfg(model)
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        size = model.visual.image_size
        image_px = size[0] if isinstance(size, tuple) else size
        return cls(model, embeddings, names, mean, std, image_px, name).to(device)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for: the classifier is frozen."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1], or uint8 ones, (b, 3, h, w), into what the tower takes."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not (images.amin() >= 0 and images.amax() <= 1):  # NaN included
            low, high = images.amin().item(), images.amax().item()
            raise ValueError(f"pixels lie from {low} to {high}, expected floats in [0, 1] or uint8")
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Score normalised images (b, 3, h, w). Returns logits (b, k)."""
        features = F.normalize(self.visual(images), dim=-1)
        return self.scale * features @ self.class_embeddings.T
