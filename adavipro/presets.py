"""Recipes by name: `paper`, the paper's, and `embedded`, the small world's, found on validation."""

from typing import Any

from adavipro import datasets
from adavipro.experiment import Experiment
from adavipro.settings import SettingError, from_mapping

# The small world is a quarter of the paper's: 56 px in regions of 8 px. Frames by their width at 224 px.
FRAMES_PX = {5: 1, 30: 8, 60: 15, 90: 23, 112: 28}
DEFAULT_FRAME_PX = FRAMES_PX[30]
IMAGE_PX = {"embedded": datasets.IMAGE_PX, "paper": 224}
PAPER_DATASET = "eurosat"  # the smallest of the nine to download
SEARCH_SEEDS = (100, 101)  # never those that report
REPORT_SEEDS = (0, 1, 2, 3, 4)

WORLDS = ("embedded", "paper")
RECIPES = ("paper", "ours")
PAPER = {
    "model": "ViT-B-32-quickgelu", "pretrained": "openai", "prompt_px": 30, "region_px": 32, "generator_width": 64,
}  # fmt: skip
# Where we would leave the paper's recipe; docs/choices.md says why. Not measured on CLIP yet.
OURS: dict[str, Any] = {"epochs": 100, "warmup_share": 0.05, "precision": "bfloat16"}
OURS_METHOD: dict[str, dict[str, Any]] = {"adavipro": {"temperature_end": 0.1, "standardise": True}}
# Controls and VP's other templates, each a method with single settings changed. "learned" is the share of regions
# that AdaViPro has on in the same cell of a table.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vp-fixed-patch": ("vp", {"prompt_kind": "fixed-patch"}),
    "vp-random-patch": ("vp", {"prompt_kind": "random-patch"}),
    "random-masks": ("adavipro", {"random_share": "learned"}),
    "soft-masks": ("adavipro", {"where": "sigmoid"}),
    "smm": ("adavipro", {"where": "smm", "region_px": 8}),
}
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


def preset(world: str, method: str, recipe: str = "paper", **overrides: Any) -> Experiment:
    """Make an experiment from a world's recipe for a method, with single settings changed.

    Args:
        world: "embedded" or "paper".
        method: "zero-shot", "vp", "adavipro", or one of VARIANTS.
        recipe: "paper" or "ours"; the embedded world has one recipe only.
        overrides: any setting of `Experiment`.
    """
    for name, value, known in (("world", world, WORLDS), ("recipe", recipe, RECIPES)):
        if value not in known:
            raise SettingError(f"{name} is {value!r}, but it must be one of: {', '.join(known)}")
    if world == "embedded" and recipe != "paper":
        raise SettingError(f"recipe is {recipe!r}, but the embedded world has one recipe only: leave it out")
    method, variant = VARIANTS.get(method, (method, {}))
    values: dict[str, Any] = {"method": method}
    if world == "embedded":
        values |= EMBEDDED | EMBEDDED_METHOD.get(method, {})
    else:
        values |= {"dataset": PAPER_DATASET, **PAPER}
        if recipe == "ours":
            values |= OURS | OURS_METHOD.get(method, {})
    values |= variant | overrides
    if values.get("random_share") == "learned":
        raise SettingError(
            "random_share is 'learned', which only a table knows, from the AdaViPro run beside it: give a share from 0 "
            "to 1, or sweep tables/controls.yaml"
        )
    return from_mapping(Experiment, values)
