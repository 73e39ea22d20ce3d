"""Networks of other libraries: which name goes with which weights, building them, and a faster first layer."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.settings import SettingError


@contextlib.contextmanager
def building(model: str, pretrained: str | None) -> Iterator[None]:
    """While a library builds a network: new weights come from seed 0, and what fails is told in one sentence."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    except SettingError:
        raise
    except Exception as error:  # from a network or a file: libraries raise whatever theirs do
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise SettingError(
            f"model {model!r} with pretrained {pretrained!r} cannot be loaded: {told.rstrip('.')}; weights that do not "
            "lie in a local folder are fetched once, which needs the network, and kept under HF_HOME (open_clip, timm) "
            "or TORCH_HOME (torchvision)"
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Offer the known name that is nearest to an unknown one, as the end of a sentence."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def check_clip(name: str, source: str, pretrained: str | None) -> None:
    """Refuse a CLIP and weights that do not go together, before anything is fetched.

    Args:
        name: the model's name, as in an experiment's settings.
        source: open_clip's name of it.
        pretrained: tag of the weights; None where a folder holds them, "random" for none.

    Raises:
        SettingError: saying what goes together.
    """
    if source.startswith("local-dir:"):
        if pretrained not in (None, "random"):
            raise SettingError(
                f"pretrained is {pretrained!r}, but model {name!r} is a folder with its own weights: leave it out"
            )
    elif source not in open_clip.list_models():
        hint = nearest(source, ["small-clip", *open_clip.list_models()])
        raise SettingError(
            f"model is {name!r}, but it is small-clip, a name of open_clip's, or local-dir:FOLDER{hint}"
        )
    elif "multimodal_cfg" in open_clip.get_model_config(source):
        raise SettingError(f"model {name!r} writes captions beside its features: use one that is CLIP alone")
    elif pretrained != "random":
        weights = open_clip.get_pretrained_cfg(source, pretrained or "")
        if not weights:
            tags = ", ".join([*open_clip.list_pretrained_tags_by_model(source), "random"])
            raise SettingError(
                f"pretrained is {pretrained!r}, but the weights of {name} are: {tags}; a file of your own goes into a "
                "folder with its preprocessing, as model local-dir:FOLDER"
            )
        quick = weights.get("quick_gelu", False)
        if quick != open_clip.get_model_config(source).get("quick_gelu", False):
            other = f"{source}-quickgelu" if quick else source.removesuffix("-quickgelu")
            told = f"whose weights were trained {'with' if quick else 'without'} QuickGELU, other than model {name!r}"
            way_out = other if other in open_clip.list_models() else "another"
            raise SettingError(f"pretrained is {pretrained!r}, {told}: use {way_out}")
        check_preprocessing(name, weights)


def check_preprocessing(name: str, settings: dict[str, Any]) -> None:
    """Raise a SettingError where a model wants its images decoded in another way than ours (`decoding.to_tensor`)."""
    for key, ours in (("interpolation", "bicubic"), ("resize_mode", "shortest")):
        if settings.get(key, ours) != ours:
            told = f"wants images with {key} {settings[key]!r}, but here it is {ours!r} for all"
            raise SettingError(f"model {name!r} {told}: use another model")


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


def quicken(visual: nn.Module) -> None:
    """Put a PatchEmbedding in the place of a ViT's first convolution; another network stays as it is."""
    conv = getattr(visual, "conv1", None)
    if (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == conv.stride
        and conv.stride[0] == conv.stride[1]
        and (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
    ):
        visual.conv1 = PatchEmbedding(conv)
