"""Any image classifier of torchvision or timm, frozen, with its classes standing for the data set's (ILM-VP)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import timm
import torch
import torchvision
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from adavipro.classifiers import FrozenClassifier, check_device, clean_class_names, weights_file
from adavipro.datasets import Split
from adavipro.evaluation import EVALUATION_BATCH, batches
from adavipro.networks import building, nearest
from adavipro.parallel import ALONE, Team
from adavipro.settings import SettingError

MAPPINGS = ("identity", "frequency", "iterative")


class Source(NamedTuple):
    """A network of another library, with the mean, standard deviation and side of the images that it takes."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    image_px: int


def _from_torchvision(name: str, pretrained: str | None) -> Source:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        told = f"model is 'torchvision:{name}', but torchvision has no such image classifier"
        raise SettingError(told + nearest(name, known))
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
    if name.startswith("local-dir:"):
        weights_file(f"timm:{name}")  # refuses a folder without
        if pretrained not in (None, "random"):
            told = f"pretrained is {pretrained!r}, but model 'timm:{name}' is a folder with its own weights"
            raise SettingError(f"{told}: leave it out")
    else:
        architecture, _, tag = name.partition(".")
        if not timm.is_model(architecture):
            told = f"model is 'timm:{name}', but timm has no such model"
            raise SettingError(told + nearest(architecture, timm.list_models()))
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


_LIBRARIES = {"torchvision": _from_torchvision, "timm": _from_timm}


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
        visual: the network, normalised images (b, 3, h, w) to logits (b, source classes).
        class_names, mean, std, image_px, name: as for every FrozenClassifier.
        sources: number of source classes.
        mapping: one of MAPPINGS.

    Raises:
        SettingError: if there are fewer source classes than classes, or the mapping is unknown.
    """

    index: Tensor

    def __init__(
        self,
        visual: nn.Module,
        class_names: list[str],
        mean: Tensor,
        std: Tensor,
        image_px: int,
        name: str,
        sources: int,
        mapping: str = "identity",
    ) -> None:
        super().__init__(visual, class_names, mean, std, image_px, name)
        if mapping not in MAPPINGS:
            raise SettingError(f"mapping is {mapping!r}, but it must be one of: {', '.join(MAPPINGS)}")
        if len(class_names) > sources:
            raise SettingError(
                f"the data set has {len(class_names)} classes, but model {name!r} has {sources} and no two may share "
                "one: use a model with more"
            )
        self.sources, self.mapping = sources, mapping
        self.register_buffer("index", torch.arange(len(class_names)))

    @classmethod
    def load(
        cls,
        model: str,
        class_names: Sequence[str],
        pretrained: str | None = None,
        mapping: str = "identity",
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a classifier of torchvision or timm.

        Mean, standard deviation and side of the images are the model's own. How they are decoded is ours, the same
        for all models: the shorter side to `image_px` with bicubic resampling, then the centre; the libraries' own
        recipes often resize to more and cut off a border, so their published accuracies are a little different.

        Args:
            model: "torchvision:NAME", "timm:NAME" or "timm:local-dir:FOLDER" (config.json and model.safetensors).
            pretrained: tag of the weights ("IMAGENET1K_V2"); None where a folder or a timm name ("resnet50.a1_in1k")
                says it; "random" is an untrained network, the same for everyone.
            mapping: how its classes become the data set's, one of MAPPINGS.

        Raises:
            SettingError: if model, weights and classes do not go together, or the weights cannot be had.
        """
        check_device(str(device))
        names = clean_class_names(class_names)
        library, _, name = model.partition(":")
        if library not in _LIBRARIES or not name:
            raise SettingError(
                f"model is {model!r}, but it is torchvision:NAME, timm:NAME or timm:local-dir:FOLDER"
            )
        with building(model, pretrained), torch.no_grad():
            source = _LIBRARIES[library](name, pretrained)
            network, px = source.network.eval(), source.image_px
            sources = network(torch.zeros(1, 3, px, px)).shape[1]
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (source.mean, source.std))
        return cls(network, names, mean, std, px, model, sources, mapping).to(device)

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

    def refresh_mapping(
        self, method: Callable[[Tensor], Any] | None, train: Split, epoch: int, team: Team = ALONE
    ) -> None:
        """Find the mapping anew where it is due: "iterative" in every epoch, "frequency" in epoch 0 only."""
        if self.mapping == "iterative":
            self.use_mapping(greedy_mapping(self.count(train, method, team)))
        elif self.mapping == "frequency" and epoch == 0:
            self.use_mapping(greedy_mapping(self.count(train, team=team)))

    @torch.no_grad()
    def count(
        self, split: Split, method: Callable[[Tensor], Any] | None = None, team: Team = ALONE
    ) -> Tensor:
        """Count how often images of each class are taken for each source class: int64 (source classes, k).

        Args:
            method: prompts normalised images; None leaves them as they are.
            team: processes that share the split's batches; all of them get the counts of the whole.
        """
        counts = torch.zeros(self.sources, len(self.class_names), dtype=torch.int64)
        for part in batches(split, EVALUATION_BATCH, team):
            images = self.normalise(split.images[part].to(self.mean.device))
            if method is not None:
                images = method(images).images
            found = (self.outputs(images).argmax(1).cpu(), split.labels[part])
            counts.index_put_(found, torch.tensor(1), accumulate=True)
        return torch.stack(team.all(counts)).sum(0)
