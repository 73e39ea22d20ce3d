"""One validated configuration: everything that decides a result."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from adavipro import datasets, settings
from adavipro.choices import OpenChoices
from adavipro.classifiers import PHOTO_TEMPLATE, weights_sha256
from adavipro.files import canonical_json
from adavipro.mapping import MAPPINGS
from adavipro.prompts import KINDS
from adavipro.schedules import Recipe
from adavipro.settings import SettingError, setting

METHODS = ("zero-shot", "vp", "adavipro")
PRECISIONS = ("float32", "bfloat16")
MAPPED = (
    "torchvision:",
    "timm:",
)  # models with classes of their own, which a label mapping makes the data set's


@dataclass(frozen=True)
class Experiment(OpenChoices, Recipe):
    """Everything that decides a result. Wrong names, types and values are refused with one sentence."""

    dataset: str = setting(
        "digits", "data set to adapt to: embedded, one of the paper's nine, or folder:PATH of your own images"
    )
    method: str = setting("adavipro", "how to adapt", choices=METHODS)
    model: str = setting(
        "small-clip",
        "frozen classifier: small-clip, an open_clip name, local-dir:FOLDER, torchvision:NAME or timm:NAME",
    )
    pretrained: str | None = setting(
        None, "tag of the weights, where the name needs one; random: untrained, a control"
    )
    template: str = setting(PHOTO_TEMPLATE, "text of a class, with one {} for its name")
    prompt_kind: str = setting("frame", "template", choices=KINDS)
    prompt_px: int = setting(30, "width of the frame on each side, or side of the patch", low=1)
    region_px: int = setting(32, "side of a decision region", low=1)
    generator_width: int = setting(64, "channels D between F_c and F_p", low=1)
    seed: int = setting(0, "seed of template, generator, batch order and Gumbel noise", low=0)
    label_mapping: str | None = setting(
        None, "how classes of a torchvision or timm model become the data set's", choices=MAPPINGS, later=True
    )
    precision: str = setting(
        "float32", "numbers of the networks; decisions are sampled in float32", choices=PRECISIONS, later=True
    )
    compile: bool = setting(False, "compile the frozen network with torch.compile", later=True)

    def __post_init__(self) -> None:
        settings.validate(self)
        datasets.check_name(self.dataset)
        if (self.label_mapping is not None) != self.model.startswith(MAPPED):
            raise SettingError(
                f"label_mapping is {self.label_mapping!r} and model is {self.model!r}, but models of torchvision and "
                f"timm need one of {', '.join(MAPPINGS)}, and a CLIP, which reads the names, needs none"
            )

    def key(self) -> str:
        """Hash of all settings, the frozen weights and the version of the data: the same key is the same run."""
        content = {
            "settings": settings.content(self),
            "weights": weights_sha256(self.model),
            "data": datasets.version(self.dataset),
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Where this run lives: <root>/<dataset>-<method>-<prompt>px-seed<seed>-<key>."""
        size = "" if self.method == "zero-shot" else f"-{self.prompt_px}px"
        return root / f"{datasets.slug(self.dataset)}-{self.method}{size}-seed{self.seed}-{self.key()}"
