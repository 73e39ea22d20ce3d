"""Frozen image classifiers: normalised images in, class scores out."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.embeddings import class_embeddings
from adavipro.files import file_sha256
from adavipro.networks import building, check_clip, check_preprocessing, quicken
from adavipro.parallel import ALONE, Team
from adavipro.settings import SettingError

PHOTO_TEMPLATE = "This is a photo of a {}"  # VP's and AdaViPro's text, without a full stop


def data_folder() -> Path:
    """The folder of what ships with the project: beside the module in a wheel, at the top of a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def shipped(name: str, folder: str = "") -> Path:
    """A file or folder that a wheel has among its data, and a checkout in `folder`, at its top where none is given."""
    inside = data_folder() / name
    return inside if inside.exists() else data_folder().parent / folder / name


def resolve_model(name: str) -> str:
    """Give open_clip's name of a model; "small-clip" is the one that ships with the project."""
    return f"local-dir:{data_folder() / 'small_clip'}" if name == "small-clip" else name


def weights_file(model: str) -> Path | None:
    """The weight file of a model in a local folder; None where a library fetches it by tag.

    Raises:
        SettingError: if the folder holds none; only safetensors are read, a pickle never.
    """
    kind, folder, path = resolve_model(model).partition("local-dir:")
    if not folder or kind not in ("", "timm:"):
        return None
    file = Path(path) / ("model.safetensors" if kind else "open_clip_model.safetensors")
    if not file.exists():
        way_out = "install the project again" if model == "small-clip" else "give a folder that holds it"
        raise SettingError(f"model is {model!r}, but {file} does not exist: {way_out}")
    return file


def weights_sha256(model: str) -> str | None:
    """sha256 of a local folder's weights and config; None of a model that a library fetches by tag.

    Of the small CLIP, whose config ships beside it, it is the weight file's alone.
    """
    file = weights_file(model)
    if file is None:
        return None
    config = file.with_name("config.json" if model.startswith("timm:") else "open_clip_config.json")
    if model == "small-clip" or not config.exists():
        return file_sha256(file)
    return hashlib.sha256(f"{file_sha256(file)} {file_sha256(config)}".encode()).hexdigest()


def check_device(device: str) -> None:
    """Raise a SettingError where torch cannot compute on a device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines()[0]
        raise SettingError(f"device is {device!r}, which torch cannot use here: {told}") from None


def clean_class_names(names: Sequence[str]) -> list[str]:
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


class FrozenClassifier(nn.Module):
    """An image classifier in which nothing learns: its weights take no gradient, and it stays in evaluation mode.

    Args:
        visual: the network, normalised images (b, 3, h, w) to (b, d).
        class_names: the k names, in order.
        mean, std: (1, 3, 1, 1), of the images' normalisation.
        image_px: side of the images that the network takes.
        name: the model's name, as in an experiment's settings.
    """

    mean: Tensor
    std: Tensor
    precision = torch.float32  # of the network's numbers; logits are float32 whatever it is

    def __init__(
        self, visual: Any, class_names: list[str], mean: Tensor, std: Tensor, image_px: int, name: str
    ) -> None:
        super().__init__()
        self.visual = visual
        self.class_names, self.image_px, self.name = class_names, image_px, name
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for: the classifier is frozen."""
        return super().train(False)

    def compile_tower(self, backend: str = "inductor") -> None:
        """Have torch compile the network at its first call; names of weights stay as they are."""
        self.visual.compile(backend=backend)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images in [0, 1], or uint8 ones, (b, 3, h, w), into what the network takes."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not (images.amin() >= 0 and images.amax() <= 1):  # NaN included
            low, high = images.amin().item(), images.amax().item()
            raise ValueError(f"pixels lie from {low} to {high}, expected floats in [0, 1] or uint8")
        return (images - self.mean) / self.std

    def outputs(self, images: Tensor) -> Tensor:
        """What the network makes of normalised images (b, 3, h, w), in its precision: float32 (b, d)."""
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not torch.float32):
            return self.visual(images).float()

    def scores(self, outputs: Tensor) -> Tensor:
        """Turn the network's outputs (b, d) into logits (b, k)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Score normalised images (b, 3, h, w). Returns float32 logits (b, k)."""
        return self.scores(self.outputs(images))

    def mapping_index(self) -> list[int] | None:
        """Which output of the network stands for each class; None where classes have no such output."""
        return None

    def use_mapping(self, index: list[int] | None) -> None:
        """Take over an index that `mapping_index` gave; None is the one it starts with."""

    def refresh_mapping(
        self, method: Callable[[Tensor], Any] | None, train: Any, epoch: int, team: Team = ALONE
    ) -> None:
        """Find the mapping anew where it is due; called at the start of each epoch.

        Args:
            method: prompts normalised images as they are prompted at inference; None leaves them as they are.
            train: the training split.
            epoch: the epoch that starts.
            team: processes that share the work.
        """


class FrozenClip(FrozenClassifier):
    """A CLIP image tower with its class embeddings, computed once.

    Scores are logit_scale * cosine(f_v(x), f_t("This is a photo of a {c}")), as in VP (Eq. 1).

    Args:
        model: an open_clip model.
        class_embeddings: unit vectors (k, d).
        class_names, mean, std, image_px, name: as for every FrozenClassifier.
    """

    class_embeddings: Tensor
    scale: Tensor

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
        quicken(model.visual)
        super().__init__(model.visual, class_names, mean, std, image_px, name)
        self.register_buffer("class_embeddings", class_embeddings)
        self.register_buffer("scale", model.logit_scale.detach().exp())

    @classmethod
    def load(
        cls,
        name: str,
        class_names: Sequence[str],
        pretrained: str | None = None,
        template: str = PHOTO_TEMPLATE,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a CLIP through open_clip's factory and embed the class names.

        Images get open_clip's mean and std; they are decoded as `decoding.to_tensor` does, bicubic and from the centre.

        Args:
            name: "small-clip", any open_clip model ("ViT-B-32-quickgelu"), or "local-dir:FOLDER".
            pretrained: open_clip's tag of the weights ("openai"); None where the folder holds them; "random" for an
                untrained network, whose weights are the same for everyone: for tests, controls and measuring speed.
            template: text with one {} for the class name.

        Raises:
            SettingError: if name, weights and our way to decode images do not go together, before anything is
                fetched; or if the weights cannot be had.
        """
        check_device(str(device))
        names = clean_class_names(class_names)
        if "{}" not in template or template.count("{") + template.count("}") != 2:
            raise ValueError(f"template is {template!r}, but it needs exactly one {{}} for the class name")
        source, trained = resolve_model(name), pretrained != "random"
        weights_file(name)  # refuses a folder without
        check_clip(name, source, pretrained)
        with building(name, pretrained):
            tag = pretrained if trained else None
            model = open_clip.create_model(
                source, tag, load_weights=trained, require_pretrained=trained, pretrained_text=False
            ).eval()
            tokens = open_clip.get_tokenizer(source)([template.format(n) for n in names])
        settings = open_clip.get_model_preprocess_cfg(model)
        check_preprocessing(name, settings)
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        size = model.visual.image_size
        image_px = size[0] if isinstance(size, tuple) else size
        embeddings = class_embeddings(model, tokens, open_clip.get_model_config(source))
        return cls(model, embeddings, names, mean, std, image_px, name).to(device)

    def scores(self, outputs: Tensor) -> Tensor:
        """Turn image features (b, d) into logits (b, k)."""
        return self.scale * F.normalize(outputs, dim=-1) @ self.class_embeddings.T
