"""A trained prompt in front of its frozen classifier: saved as one folder, loaded, applied to any image."""

import copy
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from adavipro import checkpoints, experiment, settings
from adavipro.checkpoints import CheckpointError
from adavipro.choices import OpenChoices
from adavipro.classifiers import FrozenClassifier, weights_sha256
from adavipro.decoding import ImageError, to_tensor
from adavipro.experiment import Experiment
from adavipro.figures import to_picture
from adavipro.method import AdaViPro
from adavipro.settings import from_mapping

FORMAT = 1
KIND = "prompted classifier"
# The settings that say how method and classifier are built; the others say how they were trained.
BUILT_BY = (
    "method model pretrained template prompt_kind prompt_px region_px generator_width label_mapping precision".split()
) + [f.name for f in fields(OpenChoices)]
SEEN_IN_CLASSIFIER = ("class_names", "image_px", "mean", "std", "weights_sha256")


@dataclass(frozen=True)
class Prediction:
    """What a prompted classifier says of one image, and what it saw.

    name: the likeliest class. scores: softmax probability of each class, in the order of the labels. mask: (h, w), 1
    in the regions that are on. edges: (c, h, w), what the decisions were made from; None for VP. picture: (h, w, 3)
    in [0, 1], the prompted image, clipped for the screen.
    """

    name: str
    scores: dict[str, float]
    mask: Tensor
    edges: Tensor | None
    picture: Tensor


class PromptedClassifier(nn.Module):
    """A frozen classifier with the prompt that adapts it.

    Args:
        classifier: the frozen classifier.
        method: the trained template and mask generator.
        run: the settings that both were built by.
    """

    def __init__(self, classifier: FrozenClassifier, method: AdaViPro, run: Experiment) -> None:
        super().__init__()
        self.classifier, self.method = classifier, copy.deepcopy(method).requires_grad_(False)
        self.made_of = _made_of(run, classifier)

    @classmethod
    def from_run(cls, run: Experiment, root: Path = Path("runs"), device: str = "cpu") -> Self:
        """Take the weights that validation picked in a finished run.

        Raises:
            SettingError: if the run is not finished, or is zero-shot.
            CheckpointError: if its checkpoint is damaged.
        """
        classifier, method = experiment.restore(run, root, device)
        return cls(classifier, method, run)

    def forward(self, images: Tensor) -> Tensor:
        """Prompt and score images (b, 3, h, w), uint8 or in [0, 1]. Returns logits (b, k)."""
        return self.classifier(self.method(self.classifier.normalise(images)).images)

    @torch.no_grad()
    def classify(self, image: Image.Image | Path | str) -> Prediction:
        """Classify one image of any size: an image of Pillow's, or the path of a file.

        Raises:
            ImageError: if it cannot be used, saying why.
        """
        content = image if isinstance(image, Image.Image) else Path(image).read_bytes()
        try:
            pixels = to_tensor(content, self.classifier.image_px)
        except ImageError as error:
            told = "the image" if isinstance(image, Image.Image) else str(image)
            raise ImageError(f"{told} cannot be used: {error}") from None
        shown = self.classifier.normalise(pixels[None].to(self.classifier.mean.device))
        prompted = self.method(shown)
        shares = self.classifier(prompted.images).softmax(1)[0]
        names = self.classifier.class_names
        return Prediction(
            names[int(shares.argmax())],
            dict(zip(names, shares.tolist(), strict=True)),
            prompted.mask[0, 0].cpu(),
            None if self.method.edges is None else self.method.edges(shown)[0].cpu(),
            to_picture(prompted.images, self.classifier)[0],
        )

    def save(self, folder: Path | str) -> None:
        """Save as a folder: tensors (safetensors), and a manifest (JSON) that says all that is needed to load them.

        A save into the same folder replaces the former one only when it is complete, and keeps it as a spare.
        """
        generation = max(checkpoints.steps_saved(Path(folder)), default=0) + 1
        manifest = {"kind": KIND, "format": FORMAT, "made_of": self.made_of}
        checkpoints.save_checkpoint(Path(folder), generation, dict(self.method.named_parameters()), manifest)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Self:
        """Load what `save` saved, after checking every byte of it and the frozen classifier's weights.

        Raises:
            CheckpointError: if the folder holds no saved classifier, or one that is damaged, of another format
                version, or does not fit the frozen classifier that is here; the message lists every difference.
        """
        saved = checkpoints.steps_saved(Path(folder))
        if not saved:
            raise CheckpointError(
                f"there is no classifier in {folder}: save one with PromptedClassifier.save"
            )
        tensors, manifest = checkpoints.load_checkpoint(Path(folder), saved[0])
        if (
            not isinstance(manifest, dict)
            or manifest.get("kind") != KIND
            or not isinstance(manifest.get("made_of"), dict)
        ):
            raise CheckpointError(
                f"{folder} holds no {KIND}, but something else: give a folder that PromptedClassifier.save wrote"
            )
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"the classifier in {folder} has format version {manifest.get('format')}, but this release reads "
                f"{FORMAT}: use the release that wrote it, or save it anew"
            )
        there = manifest["made_of"]
        try:
            run = from_mapping(
                Experiment, {k: v for k, v in there.items() if k not in (*SEEN_IN_CLASSIFIER, "mapping")}
            )
            names = there.get("class_names", [])
            classifier = experiment.load_classifier(run, device, names)
            classifier.use_mapping(there.get("mapping"))
        except (ValueError, TypeError, OSError) as error:
            raise CheckpointError(f"the classifier in {folder} cannot be built here: {error}") from error
        here = _made_of(run, classifier)
        differ = checkpoints.settings_that_differ(there, here)
        method = None
        if there.get("image_px") == here["image_px"]:
            method = experiment.build_method(run, classifier)
            wanted = dict(method.named_parameters()) if method is not None else {}
            differ += checkpoints.tensors_that_differ(tensors, wanted)
        if differ or method is None:
            raise CheckpointError(
                f"the classifier in {folder} does not fit what is here: {'; '.join(differ)}"
            )
        method.load_state_dict(tensors)
        return cls(classifier, method, run)


def _made_of(run: Experiment, classifier: FrozenClassifier) -> dict[str, Any]:
    """All that decides what a prompted classifier says, beside its own tensors, as JSON values."""
    weights = weights_sha256(run.model)
    if weights is None:  # fetched by tag: of the image tower's tensors
        state = classifier.visual.state_dict()
        content = hashlib.sha256()
        for name in sorted(state):
            content.update(name.encode() + state[name].cpu().numpy().tobytes())
        weights = content.hexdigest()
    seen = (
        classifier.class_names,
        classifier.image_px,
        classifier.mean.flatten().tolist(),
        classifier.std.flatten().tolist(),
        weights,
    )
    built_by = {k: v for k, v in settings.content(run).items() if k in BUILT_BY}
    mapping = classifier.mapping_index()
    mapped = {} if mapping is None else {"mapping": mapping}
    return built_by | mapped | dict(zip(SEEN_IN_CLASSIFIER, seen, strict=True))
