"""A frozen classifier with the prompt that adapts it: built, fitted to what people have, saved as a file, loaded."""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from filelock import FileLock
from torch import Tensor, nn

from adavipro import checkpoints, evaluation, models, training
from adavipro.baselines.controls import RandomMasks, SigmoidMasks
from adavipro.checkpoints import CheckpointError
from adavipro.classifier import NO_MEAN, UNIT_STD, FrozenClassifier
from adavipro.data import Split, sha256
from adavipro.datasets import as_split, folder_class_names, held_out
from adavipro.datasets.images import ImageError, read_image
from adavipro.io import expanded, generator
from adavipro.method import AdaViPro
from adavipro.models.fast import FastMaskGenerator
from adavipro.prompts import FramePrompt
from adavipro.recipe import Recipe, SettingError, Settings, check_names, lengths, setting
from adavipro.where import EdgeDetector

KIND = "prompted classifier"
PROMPTS = ("vp", "adavipro")
Group = TypeVar("Group", bound=Settings)
ANSWERS = ("gumbel", "sigmoid", "random")  # to "where"; all but the first are controls


@dataclass(frozen=True)
class Prompt(Settings):
    """What to add."""

    prompt_px: int = setting(8, "width of the frame on each side (the paper: 30)", low=1)
    prompt_start_std: float = setting(1.0, "standard deviation of the normal start values (VP: 1)", low=0)


@dataclass(frozen=True)
class Masks(Settings):
    """Where to add it: AdaViPro's mask generator, with our choices where the paper's text is silent.

    docs/choices.md gives the reasons.
    """

    region_px: int = setting(8, "side of a decision region (the paper: 32)", low=1)
    generator_width: int = setting(16, "channels D between F_c and F_p (the paper: 64)", low=1)
    edges: bool = setting(True, "take edges before the mask generator; without, it sees the image (Table 4)")
    relu: bool = setting(True, "a ReLU between F_c and F_p")
    on_bias: float = setting(0.0, "start of F_p's bias, on minus off")
    standardise: bool = setting(True, "F_c's channels to mean 0 and variance 1 over each image, before F_p")
    hard: bool = setting(False, "0 or 1 with straight-through gradients in training; else soft decisions")
    where: str = setting(
        "gumbel",
        "what decides on a region: gumbel, the paper's; as controls sigmoid, the same generator with soft masks and no "
        "noise, or random, no generator",
        choices=ANSWERS,
    )
    random_share: float | None = setting(None, "of where=random: chance that a region is on", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.random_share is not None) != (self.where == "random"):
            told = f"random_share is {self.random_share} and where is {self.where!r}"
            raise SettingError(f"{told}, but random masks need a share and no others have one")
        if self.random_share in (0, 1):
            told = f"random_share is {self.random_share:g}, but it must be between 0 and 1"
            raise SettingError(f"{told}: those are zero-shot and VP")
        if self.hard and self.where != "gumbel":
            raise SettingError(f"hard is True and where is {self.where!r}, but only gumbel samples decisions")


def check_where(method: str, masks: Masks) -> None:
    """Raise a SettingError where a control of the masks is asked of a method that has none."""
    if method != "adavipro" and masks.where != "gumbel":
        told = f"where is {masks.where!r} and method is {method!r}"
        raise SettingError(f"{told}, but only adavipro decides where to add")


def picked(kind: type[Group], given: Mapping[str, Any]) -> Group:
    """A group of settings from settings by name, whatever their group; what is not given is as by default."""
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})  # type: ignore[arg-type]


def build_method(
    method: str, prompt: Prompt, masks: Masks, classifier: FrozenClassifier, seed: int = 0
) -> AdaViPro:
    """Put "vp", a template, or "adavipro", with edge detector and mask generator, together; the seed starts them."""
    image_px, device = classifier.image_px, classifier.mean.device
    template = FramePrompt(image_px, prompt.prompt_px, prompt.prompt_start_std, generator(seed, "template"))
    if method == "vp":
        return AdaViPro(template).to(device)
    if masks.random_share is not None:
        control = RandomMasks(image_px, masks.region_px, masks.random_share)
        return AdaViPro(template, nn.Identity(), control).to(device)
    edges = EdgeDetector() if masks.edges else nn.Identity()
    kind = SigmoidMasks if masks.where == "sigmoid" else FastMaskGenerator
    deciding = kind(
        image_px, masks.region_px, masks.generator_width, masks.relu, masks.on_bias, masks.standardise, masks.hard,
        generator(seed, "mask-generator"),
    )  # fmt: skip
    return AdaViPro(template, edges, deciding, classifier.precision).to(device)


# --- Together -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What a prompted classifier says of one image, and what it saw.

    name: the likeliest class. scores: softmax probability of each class, in the order of the labels. mask: (h, w), 1
    in the regions that are on. picture: (h, w, 3) in [0, 1], the prompted image, clipped for the screen.
    """

    name: str
    scores: dict[str, float]
    mask: Tensor
    picture: Tensor


class PromptedClassifier(nn.Module):
    """A frozen classifier with the prompt that adapts it.

    Args:
        method: the trained template and mask generator, of which a copy is kept.
        kind, prompt, masks: the settings that the method was built by: "vp" or "adavipro", and the two groups.
        network: the settings that the classifier was loaded by; None for a network of the caller's own.
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        method: AdaViPro,
        kind: str,
        prompt: Prompt,
        masks: Masks,
        network: models.Network | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.method = classifier, copy.deepcopy(method).requires_grad_(False)
        self.kind, self.prompt, self.masks, self.by_name = kind, prompt, masks, network

    def forward(self, images: Tensor) -> Tensor:
        """Prompt and score images (b, 3, h, w), uint8 or in [0, 1]. Returns logits (b, k)."""
        return self.classifier(self.method(self.classifier.normalise(images)).images)

    @torch.no_grad()
    def classify(self, image: Any) -> Prediction:
        """Classify one image of any size: a path, a file's content, a file object, an image of Pillow's, or an array.

        Raises:
            ImageError: if it cannot be used, saying why.
        """
        try:
            pixels = read_image(image, self.classifier.image_px)
        except ImageError as error:
            told = str(image) if isinstance(image, str | Path) else "the image"
            raise ImageError(f"{told} cannot be used: {error}") from None
        prompted = self.method(self.classifier.normalise(pixels[None].to(self.classifier.mean.device)))
        shares = self.classifier(prompted.images).softmax(1)[0]
        names = self.classifier.class_names
        picture = prompted.images[0] * self.classifier.std[0] + self.classifier.mean[0]
        return Prediction(
            names[int(shares.argmax())],
            dict(zip(names, shares.tolist(), strict=True)),
            prompted.mask[0, 0].cpu(),
            picture.clamp(0, 1).permute(1, 2, 0).cpu(),
        )

    def save(self, file: Path | str) -> None:
        """Save as one file: the prompt's tensors (safetensors), and all that is needed to load them (JSON).

        The network's weights are not saved, only their hash. A former file is replaced when the new one is complete.
        """
        tensors = dict(self.method.named_parameters())
        checkpoints.write_sealed(expanded(file), tensors, {"kind": KIND, "made_of": self.made_of()})

    def made_of(self) -> dict[str, Any]:
        """All that decides what it says, beside its own tensors, as JSON values."""
        c = self.classifier
        known = None if self.by_name is None else models.weights_sha256(self.by_name.model)
        return {
            "network": None if self.by_name is None else asdict(self.by_name),
            "method": self.kind,
            "prompt": asdict(self.prompt),
            "masks": asdict(self.masks),
            "class_names": c.class_names,
            "image_px": c.image_px,
            "mean": c.mean.flatten().tolist(),
            "std": c.std.flatten().tolist(),
            "mapping": c.mapping_index(),
            "precision": str(c.precision).removeprefix("torch."),
            "weights_sha256": known or models.tensors_sha256(c.network),
        }

    @classmethod
    def load(cls, file: Path | str, network: nn.Module | None = None, device: str = "cpu") -> Self:
        """Load what `save` saved, after checking every byte of it and the weights of the network, given if one's own.

        Raises:
            CheckpointError: if the file is no saved classifier, is damaged, of another format version, or does not fit
                the network that is here; the message lists every difference.
        """
        file = expanded(file)
        tensors, manifest = checkpoints.read_sealed(file)
        ours = isinstance(manifest, dict) and manifest.get("kind") == KIND
        if not ours or not isinstance(there := manifest.get("made_of"), dict):
            raise CheckpointError(f"{file} holds no {KIND}: give a file that PromptedClassifier.save wrote")
        models.prepare_device(device)
        try:
            by_name = None if there["network"] is None else models.Network(**there["network"])
            prompt, masks = Prompt(**there["prompt"]), Masks(**there["masks"])
            if by_name is not None and network is not None:
                raise ValueError(f"its network is {by_name.model!r}, which is loaded by name: give no other")
            if by_name is not None:
                classifier = models.load(by_name, there["class_names"], device)
            elif network is not None:
                about = (there[name] for name in ("class_names", "image_px", "mean", "std"))
                classifier = _frozen(network, device, *about)
            else:
                told = "it was fitted to a network of your own"
                raise ValueError(f"{told}: give that network, load(file, network)")
            classifier.use_mapping(there["mapping"])
            method = build_method(there["method"], prompt, masks, classifier)
        except (LookupError, ValueError, TypeError, OSError) as error:
            raise CheckpointError(f"the classifier in {file} cannot be built here: {error}") from error
        loaded = cls(classifier, method, there["method"], prompt, masks, by_name)
        differ = checkpoints.settings_that_differ(there, loaded.made_of())
        differ += checkpoints.tensors_that_differ(tensors, dict(method.named_parameters()))
        if differ:
            raise CheckpointError(f"the classifier in {file} does not fit what is here: {'; '.join(differ)}")
        loaded.method.load_state_dict(tensors)
        return loaded


def _frozen(network: nn.Module, device: str, *about: Any) -> FrozenClassifier:
    """A frozen copy of a caller's network; `about` it is what FrozenClassifier takes, which one of its own tells."""
    if isinstance(network, FrozenClassifier):
        return copy.deepcopy(network).to(device)
    return FrozenClassifier(network, *about).to(device)


load = PromptedClassifier.load


# --- For any network and any data ---------------------------------------------------------------------------------


def fit(
    network: nn.Module,
    train: Any,
    val: Any = None,
    method: str = "adavipro",
    image_px: int | None = None,
    mean: Sequence[float] = NO_MEAN,
    std: Sequence[float] = UNIT_STD,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | str | None = None,
    progress_bar: bool = True,
    watch: training.Watch | None = None,
    **settings: Any,
) -> PromptedClassifier:
    """Adapt a network by a prompt: learn what to add to its images, and where. The network itself never changes.

    Args:
        network: any `nn.Module` from normalised images (b, 3, h, w) to logits (b, k); or a FrozenClassifier, which
            brings image_px, mean, std and class_names.
        train: a `torch.utils.data.Dataset` of (image, label), a folder of PATH/class/image.jpg, or a Split. Images are
            Pillow images, or tensors, uint8 or in [0, 1], not yet normalised.
        val: the same, to pick the epoch; None holds out a fifth of train.
        method: "adavipro" or "vp".
        image_px: side of the images that the network takes; None: that of the first image of train.
        mean, std: of the images' normalisation; by default images in [0, 1] stay as they are.
        class_names: k names; None: those of the folder, or class 0, class 1 and so on.
        folder: where checkpoints are saved, from which a call that was stopped goes on, and for which a second waits;
            None: nowhere.
        watch: called after each epoch with the method and the metrics so far.
        settings: any setting of `Prompt`, `Masks` and `Recipe`. Frame and regions are by default those of the paper in
            share of the image (30 and 32 of 224 px).

    Raises:
        ValueError: if a setting, the network and the data do not fit each other, before any training.
        CheckpointError: if `folder` holds checkpoints of another network, other data or other settings.
    """
    models.prepare_device(device)
    if method not in PROMPTS:
        raise SettingError(f"method is {method!r}, but it must be one of: {', '.join(PROMPTS)}")
    check_names(settings, [f.name for kind in (Prompt, Masks, Recipe) for f in fields(kind)])
    for kind in (Prompt, Recipe):
        picked(kind, settings)  # refuses what is wrong, before images are read
    check_where(method, picked(Masks, settings))
    if isinstance(network, FrozenClassifier):
        image_px, class_names = network.image_px, network.class_names
    train_split = as_split(train, image_px)
    image_px = train_split.images.shape[-1]
    defaults = {"prompt_px": max(1, round(image_px * 30 / 224)), "region_px": _region_px(image_px)}
    given: dict[str, Any] = {**defaults, **settings}
    prompt, masks, recipe = picked(Prompt, given), picked(Masks, given), picked(Recipe, given)
    names = class_names if class_names is not None else folder_class_names(train)
    classifier = _frozen(network, device, names or [], image_px, mean, std)
    built = build_method(method, prompt, masks, classifier, seed)
    train_split, val_split = held_out(train_split) if val is None else (train_split, as_split(val, image_px))
    _check_classes(classifier, train_split, val_split)
    _check_labels(classifier, (train, train_split), (val, val_split))
    lengths(recipe, len(train_split))  # refuses a warm-up without end
    kept, identity = None if folder is None else expanded(folder), None
    if kept is not None:
        identity = PromptedClassifier(classifier, built, method, prompt, masks).made_of() | {
            "recipe": asdict(recipe), "seed": seed, "mapping": None, "train": sha256(train_split),
            "val": sha256(val_split),
        }  # fmt: skip
        kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / "lock") if kept else contextlib.nullcontext():  # another call may use the folder
        resume = kept is not None and bool(checkpoints.steps_saved(kept))
        training.train(
            classifier, built, train_split, val_split, recipe, seed, kept, identity, resume, progress_bar, watch
        )  # fmt: skip
    return PromptedClassifier(classifier, built, method, prompt, masks)


def evaluate(model: PromptedClassifier, data: Any) -> evaluation.Evaluation:
    """Classify each image of what `fit` takes as `val` once, with its prompt: accuracy, and where the prompt lies.

    A SettingError where its images or labels are none that the model knows.
    """
    split = as_split(data, model.classifier.image_px)
    _check_labels(model.classifier, (data, split))
    return evaluation.evaluate(model.classifier, model.method, split)


def _region_px(image_px: int) -> int:
    """The divisor of the image's side that is nearest to a seventh of it, as 32 is of 224."""
    sides = [side for side in range(1, image_px + 1) if image_px % side == 0]
    return min(sides, key=lambda side: abs(side - image_px / 7))


@torch.no_grad()
def _check_classes(classifier: FrozenClassifier, *splits: Split) -> None:
    """Refuse images that the network cannot take, and names that are not one for each of its logits."""
    for split in splits:  # the least and the largest value of each pixel stand for all images
        ends = torch.stack([split.images.amin(0), split.images.amax(0)]).to(classifier.mean.device)
        images = classifier.normalise(ends)
    try:
        logits = classifier(images)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        side = f"{classifier.image_px} x {classifier.image_px}"
        raise SettingError(f"the network cannot take images of {side} px: {told}") from error
    if logits.ndim != 2 or len(logits) != 2:
        raise SettingError(f"the network makes {tuple(logits.shape)} of 2 images, expected logits (2, k)")
    count = logits.shape[1]
    classifier.class_names = [str(n) for n in classifier.class_names] or [f"class {i}" for i in range(count)]
    names = classifier.class_names
    if len(names) != count or len(set(names)) != count:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        told = f"there are {len(names)} class names ({shown})"
        raise SettingError(f"{told}, but the network has {count} logits: give each its own name")


def _check_labels(classifier: FrozenClassifier, *data: tuple[Any, Split]) -> None:
    """Refuse labels for which the network has no logit, and folders of other classes than it has."""
    names = classifier.class_names
    for source, split in data:
        found = folder_class_names(source) if isinstance(source, str | Path) else names
        if found != names:
            told = f"the folder {source} has the classes {found}"
            raise SettingError(f"{told}, but the network has {names}: name the folders so")
        low, high, count = int(split.labels.min()), int(split.labels.max()), len(names)
        if low < 0 or high >= count:
            told = f"labels lie from {low} to {high}, but the network has {count} logits"
            raise SettingError(f"{told}: expected 0 to {count - 1}")
