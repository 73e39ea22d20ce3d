"""The photographs that ship with the project: data/photographs/README.md names their sources and licences."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from adavipro.classifiers import data_folder

NAMES = ("astronaut", "cat", "coffee", "rocket")


def load(names: Sequence[str] = NAMES) -> Tensor:
    """Read photographs by name. Returns uint8 (n, 3, 224, 224).

    Raises:
        ValueError: if no name is given, or one is not in `NAMES`.
    """
    names = [names] if isinstance(names, str) else list(names)
    unknown = [n for n in names if n not in NAMES]
    if unknown or not names:
        raise ValueError(f"photographs are {names}, but they are one or more of: {', '.join(NAMES)}")
    pictures = []
    for name in names:
        with Image.open(data_folder() / "photographs" / f"{name}.jpg") as picture:
            pictures.append(pil_to_tensor(picture))
    return torch.stack(pictures)
