"""What the shipped results consist of: the main grid, VP tuned for each width, and the ablations."""

from typing import Any

from adavipro.recipe import SettingError

# The small world is a quarter of the paper's: 56 px in regions of 8 px. Frames by their width at 224 px.
FRAMES_PX = {5: 1, 30: 8, 60: 15, 90: 23, 112: 28}
NARROW_PX, FULL_PX = FRAMES_PX[30], FRAMES_PX[112]
SEARCH_SEEDS = (100, 101)  # never those that report
REPORT_SEEDS = (0, 1, 2, 3, 4)
# The recipe's own value, first, and what else is tried: Tables 4, 6, 5 and 7 of the paper, and two choices of ours. At
# full cover, where every region's decision counts.
ABLATIONS: dict[str, list[Any]] = {
    "edges": [True, False],
    "region_px": [8, 2, 4, 14],
    "temperature_gamma": [0.4, 0.9, 0.94, 0.98, 0.99],
    "generator_width": [16, 8, 32, 64],
    "hard": [False, True],
    "standardise": [True, False],
}
# What both methods hang on, at full cover. A longer run cools at the same share of its length.
SENSITIVITY: dict[str, list[Any]] = {"epochs": [5, 10], "prompt_start_std": [1.0, 0.25]}
ABLATION_SEEDS = REPORT_SEEDS[:3]
FEW_SEEDS = REPORT_SEEDS[:2]  # of ablations with many values, and of SENSITIVITY
STUDIES = ("main", "vp-tuned", *SENSITIVITY, "random_share", *ABLATIONS)
# What the search tries for each method: every combination with the first seed, the best of them with the others.
SEARCH: dict[str, dict[str, list[Any]]] = {
    "vp": {"prompt_lr": [1.0, 2.0, 4.0, 8.0, 16.0]},
    "adavipro": {"prompt_lr": [2.0, 4.0, 8.0, 16.0], "generator_lr": [0.1, 0.3]},
}
SEARCHED = ("prompt_lr", "generator_lr", "on_bias", "epochs")  # what some search varies, of any world
# Names of the ablations in `adavipro table`: the paper's numbers where it has one.
TABLES = {
    "4": "edges", "5": "temperature_gamma", "6": "region_px", "7": "generator_width", "random": "random_share",
    "hard": "hard", "standardise": "standardise", "epochs": "epochs", "start": "prompt_start_std",
}  # fmt: skip


def own_value(study: str) -> Any:
    """The recipe's own value of what a study varies; random masks stand beside learned ones."""
    return "learned" if study == "random_share" else (ABLATIONS | SENSITIVITY)[study][0]


def ablation_value(study: str, text: str) -> Any:
    """The value of an ablation that a text of a results file stands for; a SettingError where it has no such value."""
    if study not in ABLATIONS:
        raise SettingError(f"study is {study!r}, but it must be one of: {', '.join(ABLATIONS)}")
    values = {str(value): value for value in ABLATIONS[study]}
    if text not in values:
        raise SettingError(f"value is {text!r}, but the values of {study} are: {', '.join(values)}")
    return values[text]
