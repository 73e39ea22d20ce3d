"""Frozen classifiers by name: CLIPs of open_clip, and networks of torchvision and timm with a label mapping."""

import contextlib
import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adavipro.classifier import FrozenClassifier, FrozenClip
from adavipro.data import Split, batches
from adavipro.evaluation import EVALUATION_BATCH
from adavipro.io import data_folder, file_sha256
from adavipro.recipe import SettingError, Settings, setting

PHOTO_TEMPLATE = "This is a photo of a {}"  # VP's and AdaViPro's text, without a full stop
MAPPINGS = ("identity", "frequency", "iterative")
MAPPED = ("torchvision:", "timm:")  # models with classes of their own, which a mapping makes the data set's
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Network(Settings):
    """Which frozen classifier."""

    model: str = setting(
        "small-clip", "small-clip, an open_clip name, local-dir:FOLDER, torchvision:NAME, timm:NAME"
    )
    pretrained: str | None = setting(
        None, "tag of the weights, where the name needs one; random: untrained, a control"
    )
    template: str = setting(PHOTO_TEMPLATE, "text of a class, with one {} for its name")
    label_mapping: str | None = setting(
        None, "how classes of a torchvision or timm model become the data set's", choices=MAPPINGS
    )
    precision: str = setting(
        "float32", "numbers of the networks; decisions are sampled in float32", choices=PRECISIONS
    )
    compile: bool = setting(False, "compile the frozen network with torch.compile")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.label_mapping is not None) != self.model.startswith(MAPPED):
            raise SettingError(
                f"label_mapping is {self.label_mapping!r} and model is {self.model!r}, but models of torchvision and "
                f"timm need one of {', '.join(MAPPINGS)}, and a CLIP, which reads the names, needs none"
            )
        if self.template.count("{}") != 1 or self.template.count("{") + self.template.count("}") != 2:
            raise SettingError(
                f"template is {self.template!r}, but it needs exactly one {{}} for the class name"
            )


def load(network: Network, class_names: Sequence[str], device: str = "cpu") -> FrozenClassifier:
    """Load a frozen classifier with a data set's class names.

    Raises:
        SettingError: if model, weights and names do not go together, before anything is fetched; or if the weights
            cannot be had.
    """
    check_device(device)
    names = clean_class_names(class_names)
    weights_file(network.model)  # refuses a folder without
    with _building(network):
        made = (
            _mapped(network, names) if network.model.startswith(MAPPED) else _clip(network, names)
        )
    classifier = made.to(device)
    classifier.precision = getattr(torch, network.precision)
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = network.precision != "float32"  # else its convolutions round to 10 bits
    if network.compile:
        classifier.network.compile()
    return classifier


def weights_file(model: str) -> Path | None:
    """The weight file of a model in a local folder; None where a library fetches it by tag.

    Raises:
        SettingError: if the folder holds none; only safetensors are read, a pickle never.
    """
    kind, folder, path = _resolve(model).partition("local-dir:")
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


def tensors_sha256(network: nn.Module) -> str:
    """sha256 of a network's tensors and their names."""
    state, content = network.state_dict(), hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return content.hexdigest()


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


def _resolve(name: str) -> str:
    """Open_clip's name of a model; "small-clip" is the one that ships with the project."""
    return f"local-dir:{data_folder() / 'small_clip'}" if name == "small-clip" else name


@contextlib.contextmanager
def _building(network: Network) -> Iterator[None]:
    """While a library builds a network: new weights come from seed 0, and what fails is told in one sentence."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    except SettingError:
        raise
    except Exception as error:  # from a network or a file: libraries raise whatever theirs do
        told = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        sentence = f"model {network.model!r} with pretrained {network.pretrained!r} cannot be loaded: {told}"
        if weights_file(network.model) is None and network.pretrained != "random":
            sentence += (
                "; its weights are fetched once, which needs a network connection, and kept under HF_HOME (open_clip, "
                "timm) or TORCH_HOME (torchvision)"
            )
        raise SettingError(sentence) from error


def _nearest(name: str, known: Iterable[str]) -> str:
    """Offer the known name that is nearest to an unknown one, as the end of a sentence."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""


# --- CLIP, through open_clip --------------------------------------------------------------------------------------


def _clip(network: Network, names: list[str]) -> FrozenClip:
    """Load a CLIP through open_clip's factory and embed the class names, once."""
    import open_clip

    source, trained = _resolve(network.model), network.pretrained != "random"
    _check_clip(network, source)
    tag = network.pretrained if trained else None
    model: Any = open_clip.create_model(
        source, tag, load_weights=trained, require_pretrained=trained, pretrained_text=False
    ).eval()
    about = open_clip.get_model_preprocess_cfg(model)
    _check_preprocessing(network.model, about)
    tokens = open_clip.get_tokenizer(source)([network.template.format(n) for n in names])
    with torch.no_grad():
        embeddings = model.encode_text(tokens, normalize=True)
    size = model.visual.image_size
    image_px = size[0] if isinstance(size, tuple) else size
    quicken(model.visual)
    return FrozenClip(
        model.visual, embeddings, model.logit_scale.exp(), class_names=names, image_px=image_px,
        mean=about["mean"], std=about["std"], name=network.model, own=True,
    )  # fmt: skip


def _check_clip(network: Network, source: str) -> None:
    """Refuse a CLIP and weights that do not go together, before anything is fetched."""
    import open_clip

    name, pretrained = network.model, network.pretrained
    if source.startswith("local-dir:"):
        if pretrained not in (None, "random"):
            told = f"pretrained is {pretrained!r}, but model {name!r} is a folder with its own weights"
            raise SettingError(f"{told}: leave it out")
    elif source not in open_clip.list_models():
        hint = _nearest(source, ["small-clip", *open_clip.list_models()])
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
        _check_preprocessing(name, weights)


def _check_preprocessing(name: str, about: dict[str, Any]) -> None:
    """Refuse a model that wants its images decoded in another way than ours (`datasets.images.to_tensor`)."""
    for key, ours in (("interpolation", "bicubic"), ("resize_mode", "shortest")):
        if about.get(key, ours) != ours:
            told = f"wants images with {key} {about[key]!r}, but here it is {ours!r} for all"
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


# --- torchvision and timm, with a label mapping -------------------------------------------------------------------


class Source(NamedTuple):
    """A network of another library, with the mean, standard deviation and side of the images that it takes."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    image_px: int


def _from_torchvision(name: str, pretrained: str | None) -> Source:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        told = f"model is 'torchvision:{name}', but torchvision has no such image classifier"
        raise SettingError(told + _nearest(name, known))
    tags = torchvision.models.get_model_weights(name)
    wanted = tags.DEFAULT if pretrained == "random" else tags.__members__.get(str(pretrained))
    if wanted is None:
        told = f"pretrained is {pretrained!r}, but the weights of torchvision:{name} are"
        raise SettingError(f"{told}: {', '.join(tag.name for tag in tags)}, random")
    if pretrained != "random":  # a pickle that could run code ends here; torchvision would read it
        wanted.get_state_dict(check_hash=True, weights_only=True)
    network = torchvision.models.get_model(name, weights=None if pretrained == "random" else wanted)
    images = wanted.transforms()
    return Source(network, images.mean, images.std, images.crop_size[0])


def _from_timm(name: str, pretrained: str | None) -> Source:
    import timm
    from timm.data.config import resolve_model_data_config

    if name.startswith("local-dir:"):
        if pretrained not in (None, "random"):
            told = f"pretrained is {pretrained!r}, but model 'timm:{name}' is a folder with its own weights"
            raise SettingError(f"{told}: leave it out")
    else:
        architecture, _, tag = name.partition(".")
        if not timm.is_model(architecture):
            told = f"model is 'timm:{name}', but timm has no such model"
            raise SettingError(told + _nearest(architecture, timm.list_models()))
        tags = [n.partition(".")[2] for n in timm.list_models(f"{architecture}.*", pretrained=True)]
        tag = tag if pretrained in (None, "random") else str(pretrained)
        if (tag or pretrained != "random") and tag not in tags:
            told = f"pretrained is {tag or pretrained!r}, but the weights of timm:{architecture} are"
            raise SettingError(f"{told}: {', '.join([*tags, 'random'])}")
        name = f"{architecture}.{tag}" if tag else architecture
    network = timm.create_model(name, pretrained=pretrained != "random")
    if network.num_classes == 0:
        raise SettingError(f"model 'timm:{name}' has features but no classes: use one that classifies")
    images = resolve_model_data_config(network)
    channels, height, width = images["input_size"]
    if channels != 3 or height != width:
        raise SettingError(
            f"model 'timm:{name}' takes images {images['input_size']}, but ours are square, in colour"
        )
    return Source(network, images["mean"], images["std"], height)


def _mapped(network: Network, names: list[str]) -> "MappedClassifier":
    """Load a classifier of torchvision or timm.

    Mean, standard deviation and side of the images are the model's own. How they are decoded is ours, the same for all
    models: the shorter side to `image_px` with bicubic resampling, then the centre; the libraries' own recipes often
    resize to more and cut off a border, so their published accuracies are a little different.
    """
    library, _, name = network.model.partition(":")
    from_library = {"torchvision": _from_torchvision, "timm": _from_timm}[library]
    source = from_library(name, network.pretrained)
    assert network.label_mapping is not None  # the settings have checked it
    return MappedClassifier(
        source.network, network.label_mapping, class_names=names, image_px=source.image_px, mean=source.mean,
        std=source.std, name=network.model, own=True,
    )  # fmt: skip


def greedy_mapping(counts: Tensor) -> list[int]:
    """Give each target class the source class that it is predicted as most, no source class twice.

    The largest count of all is taken first, and its source and target class leave the table; then the largest of
    what is left, and so on. Of equal counts the one with the lowest source class goes first, then the lowest target.

    Args:
        counts: int64 (source classes, target classes): how often an image of the target is taken for the source.

    Returns:
        The source class of each target class.
    """
    sources, targets = counts.shape
    index, taken = [-1] * targets, [False] * sources
    left = targets
    for place in counts.flatten().argsort(descending=True, stable=True).tolist():
        source, target = divmod(place, targets)
        if index[target] < 0 and not taken[source]:
            index[target], taken[source] = source, True
            left -= 1
            if not left:
                break
    return index


class MappedClassifier(FrozenClassifier):
    """A frozen classifier with classes of its own, each of the data set's classes standing on one of them.

    The mapping is "identity" (the first k source classes), "frequency" (greedy on how often unprompted training
    images are taken for each source class, found once, before training), or "iterative" (the same with the current
    prompt, found anew at each epoch's start), as in ILM-VP (arXiv 2211.11635).

    Args:
        network: normalised images (b, 3, h, w) to logits (b, source classes).
        mapping: one of MAPPINGS.
        about: `class_names`, `image_px`, `mean`, `std`, `name` and `own` of every FrozenClassifier.

    Raises:
        SettingError: if there are fewer source classes than classes, or the mapping is unknown.
    """

    index: Tensor

    def __init__(self, network: nn.Module, mapping: str = "identity", **about: Any) -> None:
        super().__init__(network, **about)
        if mapping not in MAPPINGS:
            raise SettingError(f"label_mapping is {mapping!r}, but it must be one of: {', '.join(MAPPINGS)}")
        with torch.no_grad():
            self.sources = self.network(torch.zeros(1, 3, self.image_px, self.image_px)).shape[1]
        if len(self.class_names) > self.sources:
            raise SettingError(
                f"the data set has {len(self.class_names)} classes, but model {self.name!r} has {self.sources} and no "
                "two may share one: use a model with more"
            )
        self.mapping = mapping
        self.register_buffer("index", torch.arange(len(self.class_names)))

    def scores(self, outputs: Tensor) -> Tensor:
        """Pick the logits of the source classes that stand for ours: (b, source classes) to (b, k)."""
        return outputs[:, self.index]

    def mapping_index(self) -> list[int]:
        """The source class of each class."""
        return self.index.tolist()

    def use_mapping(self, index: list[int] | None) -> None:
        """Let source classes stand for ours, one for each; None is the identity.

        Raises:
            ValueError: if they are too few or too many, out of range, or one occurs twice.
        """
        count = len(self.class_names)
        wanted = list(range(count)) if index is None else index
        if len(wanted) != count or len({i for i in wanted if 0 <= i < self.sources}) != count:
            raise ValueError(
                f"mapping is {wanted}, but it must hold {count} different source classes from 0 to {self.sources - 1}"
            )
        self.index.copy_(torch.tensor(wanted))

    def refresh_mapping(self, method: Callable[[Tensor], Any] | None, train: Split, epoch: int) -> None:
        """Find the mapping anew where it is due: "iterative" in every epoch, "frequency" in epoch 0 only."""
        if self.mapping == "iterative":
            self.use_mapping(greedy_mapping(self.count(train, method)))
        elif self.mapping == "frequency" and epoch == 0:
            self.use_mapping(greedy_mapping(self.count(train)))

    @torch.no_grad()
    def count(self, split: Split, method: Callable[[Tensor], Any] | None = None) -> Tensor:
        """Count how often images of each class are taken for each source class: int64 (source classes, k).

        Args:
            method: prompts normalised images; None leaves them as they are.
        """
        counts = torch.zeros(self.sources, len(self.class_names), dtype=torch.int64)
        for part in batches(split, EVALUATION_BATCH):
            images = self.normalise(split.images[part].to(self.mean.device))
            if method is not None:
                images = method(images).images
            found = (self.outputs(images).argmax(1).cpu(), split.labels[part])
            counts.index_put_(found, torch.tensor(1), accumulate=True)
        return counts
