"""Recipes by name: `paper`, the paper's, and `embedded`, the small world's, found on validation."""

from typing import Any

from adavipro.experiment import Experiment
from adavipro.settings import SettingError, from_mapping

# The small world is a quarter of the paper's: 56 px in regions of 8 px. Frames by their width at 224 px.
FRAMES_PX = {5: 1, 30: 8, 60: 15, 90: 23, 112: 28}
DEFAULT_FRAME_PX = FRAMES_PX[30]
SEARCH_SEEDS = (100, 101)  # never those that report
REPORT_SEEDS = (0, 1, 2, 3, 4)

PAPER = {
    "model": "ViT-B-32-quickgelu", "pretrained": "openai", "prompt_px": 30, "region_px": 32, "generator_width": 64,
}  # fmt: skip
EMBEDDED = {
    "model": "small-clip", "prompt_px": DEFAULT_FRAME_PX, "batch_size": 64, "epochs": 5, "warmup_share": 0.05,
    "region_px": 8,
}  # fmt: skip
# One recipe a method, picked by `adavipro tune` on validation at the 30-equivalent width, kept everywhere.
EMBEDDED_METHOD: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "vp": {"prompt_lr": 4.0},
    "adavipro": {
        "prompt_lr": 4.0, "generator_lr": 0.1, "generator_width": 16, "temperature_gamma": 0.4, "standardise": True,
    },
}  # fmt: skip
# What `adavipro tune` tries for each method: every combination with the first seed, the best of them with the others.
SEARCH: dict[str, dict[str, list[Any]]] = {
    "vp": {"prompt_lr": [1.0, 2.0, 4.0, 8.0, 16.0]},
    "adavipro": {"prompt_lr": [2.0, 4.0, 8.0, 16.0], "generator_lr": [0.1, 0.3]},
}


def preset(world: str, method: str, **overrides: Any) -> Experiment:
    """Make an experiment from a world's recipe for a method, with single settings changed.

    Args:
        world: "embedded" or "paper".
        method: "zero-shot", "vp" or "adavipro".
        overrides: any setting of `Experiment`.
    """
    if world not in ("embedded", "paper"):
        raise SettingError(f"world is {world!r}, but it must be one of: embedded, paper")
    values: dict[str, Any] = {"method": method}
    values |= PAPER if world == "paper" else {**EMBEDDED, **EMBEDDED_METHOD.get(method, {})}
    return from_mapping(Experiment, {**values, **overrides})
