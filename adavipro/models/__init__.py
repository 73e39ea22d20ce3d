"""Frozen classifiers by name: CLIPs of open_clip, and networks of torchvision and timm with a label mapping."""

import contextlib
import difflib
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from adavipro.classifier import FrozenClassifier, FrozenClip
from adavipro.data import Split, batches
from adavipro.io import data_folder, expanded, file_sha256
from adavipro.models import lite0
from adavipro.models.fast import PatchEmbedding, keep_freed_memory
from adavipro.recipe import SettingError, Settings, setting

PHOTO_TEMPLATE = "This is a photo of a {}"  # VP's and AdaViPro's text, without a full stop
MAPPINGS = ("identity", "frequency", "iterative")
MAPPED = ("torchvision:", "timm:")
FOLDERS = {"local-dir:": "open_clip_model.safetensors", "timm:local-dir:": "model.safetensors"}


@dataclass(frozen=True)
class Network(Settings):
    """Which frozen classifier."""

    model: str = setting(
        "small-clip",
        "small-clip, efficientnet-lite0, open_clip's name, local-dir:, torchvision: or timm:NAME",
    )
    pretrained: str | None = setting(None, "tag of the weights; random: untrained, a control")
    template: str = setting(PHOTO_TEMPLATE, "text of a class, with one {} for its name")
    label_mapping: str | None = setting(
        None, "how a model's classes become the data's (efficientnet-lite0: frequency)", choices=MAPPINGS
    )
    precision: str = setting("float32", "numbers of the networks", choices=("float32", "bfloat16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == lite0.NAME and self.label_mapping is None:
            object.__setattr__(self, "label_mapping", "frequency")
        if (self.label_mapping is not None) != self.has_classes:
            told = f"label_mapping is {self.label_mapping!r} and model is {self.model!r}"
            need = f"models of torchvision and timm, and {lite0.NAME}, need one of {', '.join(MAPPINGS)}"
            raise SettingError(f"{told}, but {need}, and a CLIP, which reads the names, needs none")
        if self.template.count("{}") != 1 or self.template.count("{") + self.template.count("}") != 2:
            raise SettingError(f"template is {self.template!r}, but it needs exactly one {{}} for the name")

    @property
    def has_classes(self) -> bool:
        """Whether the model has classes of its own, which a label mapping makes the data set's."""
        return self.model == lite0.NAME or self.model.startswith(MAPPED)


def load(network: Network, class_names: Sequence[str], device: str = "cpu") -> FrozenClassifier:
    """Load a frozen classifier with a data set's class names.

    Raises:
        SettingError: if model, weights and names do not go together, or the weights cannot be had.
    """
    prepare_device(device := str(device))
    names = clean_class_names(class_names)
    if weights_file(network.model) is not None and network.pretrained not in (None, "random"):
        told = f"pretrained is {network.pretrained!r}, but model {network.model!r} has its own weights"
        raise SettingError(f"{told}: leave it out")
    with _building(network):
        made = _mapped(network, names) if network.has_classes else _clip(network, names)
    classifier = made.to(device)
    classifier.precision = getattr(torch, network.precision)
    return classifier


def weights_file(model: str) -> Path | None:
    """The weight file of a model that is here; None where a library fetches it by tag.

    Raises:
        SettingError: if its folder holds none, for of folders only safetensors are read; or its package is missing.
    """
    if model == "small-clip":
        return data_folder() / "small_clip" / "open_clip_model.safetensors"
    if model == lite0.NAME:
        return lite0.weights_file()
    for kind, name in FOLDERS.items():
        if model.startswith(kind):
            file = expanded(model.removeprefix(kind)) / name
            if not file.exists():
                raise SettingError(f"model is {model!r}, but {file} does not exist: use another folder")
            return file
    return None


def weights_sha256(model: str) -> str | None:
    """sha256 of the weights, and of a folder's config; None of a model that a library fetches by tag.

    Of the small CLIP, whose config ships beside it, it is the weight file's alone.
    """
    file = weights_file(model)
    if file is None:
        return None
    config = file.with_name("config.json" if model.startswith("timm:") else "open_clip_config.json")
    if model == "small-clip" or not config.exists():
        return file_sha256(file)
    return hashlib.sha256(f"{file_sha256(file)} {file_sha256(config)}".encode()).hexdigest()


def tensors_sha256(network: nn.Module) -> str:
    """sha256 of a network's tensors and their names."""
    state = network.state_dict()
    copies = {k: t.cpu().clone(memory_format=torch.contiguous_format) for k, t in state.items()}
    return hashlib.sha256(save(copies)).hexdigest()


def prepare_device(device: str) -> None:
    """Make ready to compute on a device, a GPU without TF32 and in a fixed order; a SettingError where torch cannot."""
    try:
        kind = torch.empty(0, device=device).device.type
    except (RuntimeError, AssertionError) as error:
        told = f"which torch cannot use here ({str(error).splitlines()[0]})"
        raise SettingError(f"device is {device!r}, {told}: use cpu, or a torch for your GPU") from None
    if kind == "cuda":
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    elif kind == "cpu":
        keep_freed_memory()


def clean_class_names(names: Sequence[str]) -> list[str]:
    """Lower case, "_" and "-" to spaces, as VP does, and letters with accents as one character each (NFC).

    Raises:
        SettingError: if there is no name, one is empty, or two are the same after cleaning.
    """
    if isinstance(names, str):
        raise SettingError(f"class_names is {names!r}, but it must be a list of names")
    composed = (unicodedata.normalize("NFC", str(name)) for name in names)
    cleaned = [name.lower().replace("_", " ").replace("-", " ").strip() for name in composed]
    if not cleaned:
        raise SettingError("class_names is empty, but a classifier needs at least one class name")
    if "" in cleaned:
        raise SettingError(f"class name {cleaned.index('')} is empty: {list(names)}")
    if twice := sorted({n for n in cleaned if cleaned.count(n) > 1}):
        raise SettingError(f"class names {twice} occur more than once after cleaning: {list(names)}")
    return cleaned


@contextlib.contextmanager
def _building(network: Network) -> Iterator[None]:
    """While a library builds a network: new weights come from seed 0, and what fails is told in one sentence."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    except SettingError:
        raise
    except Exception as error:  # libraries raise whatever theirs do
        told = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):  # a network's, or a file's
            cause = cause.__cause__ or cause.__context__
        if cause is not None and weights_file(network.model) is None:
            told += "; weights are fetched once, which needs a network connection, and kept under HF_HOME or TORCH_HOME"
        sentence = f"model {network.model!r} with pretrained {network.pretrained!r} cannot be loaded: {told}"
        raise SettingError(sentence) from error


def _check_known(what: str, name: str | None, owner: str, known: Sequence[str]) -> None:
    """Refuse a model or a tag that its library does not have, and offer the nearest, or all."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known[:30])}"
        raise SettingError(f"{what} is {name!r}, but {owner} has none of that name: {hint}")


# --- CLIP, through open_clip --------------------------------------------------------------------------------------


def _clip(network: Network, names: list[str]) -> FrozenClip:
    """Load a CLIP through open_clip's factory and embed the class names, once."""
    import open_clip

    folder, trained = weights_file(network.model), network.pretrained != "random"
    if folder is None:
        _check_clip(network)
    source = network.model if folder is None else f"local-dir:{folder.parent}"
    options = {"load_weights": trained, "require_pretrained": trained, "pretrained_text": False}
    model: Any = open_clip.create_model(source, network.pretrained if trained else None, **options).eval()
    about = open_clip.get_model_preprocess_cfg(model)
    _check_preprocessing(network.model, about)
    embeddings = _embed(network, names, model, open_clip.get_tokenizer(source))
    size = model.visual.image_size
    image_px = size[0] if isinstance(size, tuple) else size
    conv = getattr(model.visual, "conv1", None)
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride:  # a ViT's
        model.visual.conv1 = PatchEmbedding(conv)
    return FrozenClip(
        model.visual, embeddings, model.logit_scale.exp(), class_names=names, image_px=image_px,
        mean=about["mean"], std=about["std"], name=network.model, own=True,
    )  # fmt: skip


def _check_clip(network: Network) -> None:
    """Refuse a name of open_clip's and weights that do not go together, before anything is fetched."""
    import open_clip

    name, pretrained = network.model, network.pretrained
    _check_known("model", name, "open_clip", ["small-clip", *open_clip.list_models()])
    config = open_clip.get_model_config(name)
    if "multimodal_cfg" in config:
        raise SettingError(f"model {name!r} writes captions beside its features: use one that is CLIP alone")
    _check_known("pretrained", pretrained, name, [*open_clip.list_pretrained_tags_by_model(name), "random"])
    if pretrained == "random":
        return
    weights = open_clip.get_pretrained_cfg(name, pretrained)
    quick = weights.get("quick_gelu", False)
    if quick != config.get("quick_gelu", False):
        told = f"whose weights were trained {'with' if quick else 'without'} QuickGELU, other than model {name!r}"
        way_out = f"{name}-quickgelu" if quick else name.removesuffix("-quickgelu")
        raise SettingError(f"pretrained is {pretrained!r}, {told}: use {way_out}")
    _check_preprocessing(name, weights)


def _embed(network: Network, names: list[str], model: Any, tokenizer: Any) -> Tensor:
    """Embed class names as unit vectors (k, d); refuses those that the text encoder does not know or tell apart."""
    tokens = tokenizer([network.template.format(name) for name in names])  # (k, length)
    with torch.no_grad():
        embeddings: Tensor = model.encode_text(tokens, normalize=True)
    refused = (embeddings @ embeddings.T > 1 - 1e-6).sum(1) > 1
    cut = f", in the {tokens.shape[1]} tokens that it reads," if tokens[refused].all() else ""
    told = f"cannot tell apart{cut}"
    if hasattr(model, "token_embedding"):
        # Words that the small CLIP has never seen have rows of zeros; token 0 fills up a text.
        unseen = (model.token_embedding.weight == 0).all(1)[tokens] & (tokens > 0)
        if unseen.any():
            refused, told = unseen.any(1), "does not know words of"
    if refused.any():
        shown = ", ".join(repr(names[i]) for i in refused.nonzero().flatten().tolist())
        raise SettingError(
            f"model {network.model!r} {told} the classes {shown}: use other names (for a folder, in its classes.json), "
            "another model, or one of torchvision or timm with a label_mapping"
        )
    return embeddings


def _check_preprocessing(name: str, about: dict[str, Any]) -> None:
    """Refuse a model that wants its images decoded in another way than ours (`datasets.images.to_tensor`)."""
    for key, ours in (("interpolation", "bicubic"), ("resize_mode", "shortest")):
        if about.get(key, ours) != ours:
            told = f"wants images with {key} {about[key]!r}, but here it is {ours!r} for all"
            raise SettingError(f"model {name!r} {told}: use another model")


# --- torchvision and timm, with a label mapping -------------------------------------------------------------------


def _from_torchvision(name: str, pretrained: str | None) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models as library

    _check_known("model", name, "torchvision", library.list_models(module=library))
    tags = library.get_model_weights(name)
    _check_known("pretrained", pretrained, name, [*(tag.name for tag in tags), "random"])
    weights = None if pretrained == "random" else tags[pretrained]
    if weights is not None:  # a pickle that could run code ends here; torchvision would read it
        weights.get_state_dict(check_hash=True, weights_only=True)
    images = (weights or tags.DEFAULT).transforms()
    about = {"mean": images.mean, "std": images.std, "image_px": images.crop_size[0]}
    return library.get_model(name, weights=weights), about


def _from_timm(name: str, pretrained: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network of timm's; the one whose weights a package brings is one too."""
    import timm
    from timm.data.config import resolve_model_data_config

    if name == lite0.NAME:
        network: Any = lite0.build(pretrained)
    else:
        if file := weights_file(f"timm:{name}"):
            name = f"local-dir:{file.parent}"
        elif pretrained != "random":
            name = name if pretrained is None else f"{name}.{pretrained}"
            _check_known("model", name, "timm", timm.list_models(pretrained=True))
        network = timm.create_model(name, pretrained=pretrained != "random")
        if network.num_classes == 0:
            raise SettingError(f"model 'timm:{name}' has features but no classes: use one that classifies")
    images = resolve_model_data_config(network)
    return network, {"mean": images["mean"], "std": images["std"], "image_px": images["input_size"][-1]}


def _mapped(network: Network, names: list[str]) -> "MappedClassifier":
    """Load a classifier of torchvision or timm.

    Mean, standard deviation and side of the images are the model's own. How they are decoded is ours, the same for all
    models: the shorter side to `image_px` with bicubic resampling, then the centre; the libraries' own recipes often
    resize to more and cut off a border, so their published accuracies are a little different.
    """
    library = network.model.partition(":")[0]
    name = network.model.removeprefix(f"{library}:")
    made, about = (_from_torchvision if library == "torchvision" else _from_timm)(name, network.pretrained)
    about |= {"class_names": names, "name": network.model, "own": True}
    made.to(memory_format=torch.channels_last)  # convolutions are faster so
    return MappedClassifier(made, str(network.label_mapping), **about)


def greedy_mapping(counts: Tensor) -> list[int]:
    """Give each target class the source class that it is predicted as most, no source class twice.

    `counts`, int64 (source classes, target classes), say how often an image of the target is taken for the source. The
    largest is taken first, and its source and target class leave the table; then the largest of what is left, and so
    on. Of equal counts the one with the lowest source class goes first, then the lowest target.
    """
    left, index = counts.clone(), [-1] * counts.shape[1]
    for _ in index:
        source, target = divmod(int(left.argmax()), len(index))  # the first of equal ones
        index[target] = source
        left[source], left[:, target] = -1, -1
    return index


class MappedClassifier(FrozenClassifier):
    """A frozen classifier with classes of its own, each of the data set's classes standing on one of them.

    The mapping is "identity" (the first k source classes), "frequency" (greedy on how often unprompted training
    images are taken for each source class, found once, before training), or "iterative" (the same with the current
    prompt, found anew at each epoch's start), as in ILM-VP (arXiv 2211.11635).

    Args:
        network: normalised images (b, 3, h, w) to logits (b, source classes).
        about: `class_names`, `image_px`, `mean`, `std`, `name` and `own` of every FrozenClassifier.

    Raises:
        SettingError: if there are fewer source classes than classes.
    """

    index: Tensor

    def __init__(self, network: nn.Module, mapping: str = "identity", **about: Any) -> None:
        super().__init__(network, **about)
        with torch.no_grad():
            self.sources = self.network(torch.zeros(1, 3, self.image_px, self.image_px)).shape[1]
        if len(self.class_names) > self.sources:
            told = f"the data set has {len(self.class_names)} classes, but model {self.name!r} has {self.sources}"
            raise SettingError(f"{told} and no two may share one: use a model with more")
        self.mapping = mapping
        self.register_buffer("index", torch.arange(len(self.class_names)))

    def scores(self, outputs: Tensor) -> Tensor:
        """Pick the logits of the source classes that stand for ours: (b, source classes) to (b, k)."""
        return outputs[:, self.index]

    def mapping_index(self) -> list[int]:
        """The source class of each class."""
        return self.index.tolist()

    def use_mapping(self, index: list[int] | None) -> None:
        """Let source classes stand for ours, one for each, or raise a ValueError; None is the identity."""
        count = len(self.class_names)
        wanted = list(range(count)) if index is None else index
        if len(wanted) != count or len({i for i in wanted if 0 <= i < self.sources}) != count:
            told = f"it must hold {count} different source classes from 0 to {self.sources - 1}"
            raise ValueError(f"mapping is {wanted}, but {told}")
        self.index.copy_(torch.tensor(wanted))

    def refresh_mapping(self, method: Callable[[Tensor], Any] | None, train: Split, epoch: int) -> None:
        """Find the mapping anew where it is due: "iterative" in every epoch, "frequency" in epoch 0 only."""
        if self.mapping == "iterative" or (self.mapping == "frequency" and epoch == 0):
            prompted = method if self.mapping == "iterative" else None
            self.use_mapping(greedy_mapping(self.count(train, prompted)))

    @torch.no_grad()
    def count(self, split: Split, method: Callable[[Tensor], Any] | None = None) -> Tensor:
        """Count how often images, with their prompt, are taken for each source class: int64 (source classes, k)."""
        counts = torch.zeros(self.sources, len(self.class_names), dtype=torch.int64)
        for _, images, labels, _ in batches(split, self):
            images = images if method is None else method(images).images
            found = (self.outputs(images).argmax(1).cpu(), labels.cpu())
            counts.index_put_(found, torch.tensor(1), accumulate=True)
        return counts
