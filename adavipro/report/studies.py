"""What the shipped results consist of: the search, the main grid, and the studies that vary one thing of it."""

from typing import Any

from adavipro.recipe import SettingError

# The small world is a quarter of the paper's: 56 px in regions of 8 px. Frames by their width at 224 px.
FRAMES_PX = {5: 1, 30: 8, 60: 15, 90: 23, 112: 28}
NARROW_PX, FULL_PX = ENDS_PX = [FRAMES_PX[30], FRAMES_PX[112]]
SEARCH_SEEDS = (100, 101)  # never those that report
REPORT_SEEDS = (0, 1, 2, 3, 4)
ABLATION_SEEDS = REPORT_SEEDS[:3]
# What some search varies, of any world.
SEARCHED = ("epochs", "prompt_lr", "prompt_start_std", "generator_lr", "on_bias")
# The recipe's own value, first, and what else is tried: Tables 4, 6, 5 and 7 of the paper, and choices of ours. Those
# of the paper's at both ends of the widths, ours at full cover, where every region's decision counts.
_VALUES: dict[str, list[Any]] = {
    "edges": [True, False],
    "region_px": [8, 4, 14],
    "temperature_gamma": [None, 0.98],
    "generator_width": [16, 64],
    "relu": [True, False],
    "hard": [False, True],
    "standardise": [True, False],
}
ABLATIONS = tuple(_VALUES)
# How the template is trained, of both methods at both ends: passes over the images, its start N(0, std^2), its rate.
_TRAINING = [(20, 1.0, 4.0), (20, 0.25, 4.0), (10, 1.0, 4.0), (5, 1.0, 4.0), (5, 0.25, 4.0), (20, 0.25, 1.0)]
# Of these, on validation, VP has the best for each width at which AdaViPro leads with one recipe.
TUNED_PX = [FRAMES_PX[90], FRAMES_PX[112]]
_TUNED = [(20, start, rate) for start in (1.0, 0.25) for rate in (4.0, 1.0, 0.25)]
# What each study tries, as results files write it, and the settings that it stands for; the recipe's own first.
VARIED: dict[str, dict[str, dict[str, Any]]] = {
    name: {str(value): {name: value} for value in values} for name, values in _VALUES.items()
} | {
    study: {
        f"{n} epochs at rate {lr:g} from start {s:g}": {"epochs": n, "prompt_lr": lr, "prompt_start_std": s}
        for n, s, lr in trainings
    }
    for study, trainings in (("training", _TRAINING), ("tuned", _TUNED))
}
STUDIES = ("main", *VARIED)
# Names of the ablations in `adavipro table`: the paper's numbers where it has one.
TABLES = {
    "4": "edges", "5": "temperature_gamma", "6": "region_px", "7": "generator_width", "relu": "relu", "hard": "hard",
    "standardise": "standardise",
}  # fmt: skip
OURS = [study for name, study in TABLES.items() if name == study]  # ablations that the paper does not have


def own_value(study: str) -> str:
    """The recipe's own value of what a study varies, as text."""
    return next(iter(VARIED[study]))


def changes(study: str, text: str) -> dict[str, Any]:
    """The settings that a text of a results file stands for in a study; a SettingError where it has no such text."""
    if study not in VARIED:
        raise SettingError(f"study is {study!r}, but it must be one of: {', '.join(VARIED)}")
    if text not in VARIED[study]:
        raise SettingError(f"value is {text!r}, but the values of {study} are: {', '.join(VARIED[study])}")
    return VARIED[study][text]
