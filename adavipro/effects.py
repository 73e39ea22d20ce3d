"""The paper's effects as differences that can be measured, from the main grid of a world's results."""

import statistics
from collections.abc import Iterable
from typing import Any

from adavipro.presets import FRAMES_PX
from adavipro.tables import MEAN, mean_and_interval, method_of, of_studies, shown, with_mean

NARROW, FULL = FRAMES_PX[30], FRAMES_PX[112]


def means_by_seed(rows: Iterable[dict[str, Any]], value: str) -> dict[tuple[str, int], dict[str, float]]:
    """Mean over data sets in percent, by seed, for each method and width; zero-shot has width 0 and seed "0"."""
    known = [r for r in rows if r[value] not in ("", None)]
    found: dict[tuple[str, int], dict[str, float]] = {}
    for r in with_mean(known, value):
        if r["dataset"] == MEAN:
            cell = found.setdefault((method_of(r), int(r["prompt_px"] or 0)), {})
            cell[str(r["seed"])] = 100 * float(r[value])
    return found


def difference(first: dict[str, float], second: dict[str, float]) -> list[float]:
    """Differences seed by seed; a single value (zero-shot) stands for all seeds."""
    if len(second) == 1:
        (constant,) = second.values()
        return [value - constant for value in first.values()]
    return [first[seed] - second[seed] for seed in first if seed in second]


def best_width(found: dict[tuple[str, int], dict[str, float]], method: str) -> int:
    """The width with a method's best mean."""
    widths = {px: statistics.fmean(v.values()) for (m, px), v in found.items() if m == method}
    return max(widths, key=lambda px: widths[px])


def effects(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """List each effect with its size, mean over data sets with its 95 % interval over seeds.

    Accuracy in points of percent, differences taken seed by seed. The paper reports the first three of AdaViPro's
    on CLIP, where its mean gain over VP at the four other widths is 9.0 (Table 2).
    """
    rows = of_studies(rows, "main", "vp-tuned")
    found = means_by_seed(rows, "test_accuracy")
    zero_shot = found["zero-shot", 0]
    lines: list[tuple[str, list[float]]] = []
    widths = sorted(px for method, px in found if method == "adavipro")
    vp_best, ada_best = best_width(found, "vp"), best_width(found, "adavipro")
    lines.append((f"VP at {NARROW} px, over zero-shot", difference(found["vp", NARROW], zero_shot)))
    lines.append(
        (
            f"VP at full cover, over its best width ({vp_best} px)",
            difference(found["vp", FULL], found["vp", vp_best]),
        )
    )
    for rival, name in (("vp", "VP"), ("vp-tuned", "VP with its rate tuned for each width")):
        if (rival, FULL) not in found:
            continue
        gaps = {px: difference(found["adavipro", px], found[rival, px]) for px in widths}
        lines += [(f"AdaViPro over {name} at {px} px", gaps[px]) for px in widths]
        others = zip(*(gaps[px] for px in widths if px != NARROW), strict=True)
        lines.append(
            (f"AdaViPro over {name}, mean of the four other widths", [statistics.fmean(g) for g in others])
        )
    lines.append(
        (
            f"AdaViPro at full cover, over its best width ({ada_best} px)",
            difference(found["adavipro", FULL], found["adavipro", ada_best]),
        )
    )
    worst = min(widths, key=lambda px: statistics.fmean(found["adavipro", px].values()))
    lines.append(
        (
            f"AdaViPro at its worst width ({worst} px), over zero-shot",
            difference(found["adavipro", worst], zero_shot),
        )
    )
    return [{"effect": name, "points": shown(mean_and_interval(values))} for name, values in lines]


def mask_table(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """AdaViPro's masks by width: regions on, how much masks differ, object pixels under the prompt beside VP's.

    In percent, mean over data sets (those that know their objects, for the cover), and the number of runs whose
    masks are collapsed (under 5 or over 95 % on).
    """
    rows = of_studies(rows, "main")
    shares, diversity, cover = (
        means_by_seed(rows, v) for v in ("share_on", "mask_diversity", "object_cover")
    )
    lines = []
    for px in sorted(px for method, px in shares if method == "adavipro"):
        runs = [float(r["share_on"]) for r in rows if r["method"] == "adavipro" and int(r["prompt_px"]) == px]
        collapsed = sum(not 0.05 <= share <= 0.95 for share in runs)
        cells = {
            "regions on": shares["adavipro", px],
            "diversity": diversity["adavipro", px],
            "object cover": cover["adavipro", px],
            "VP's object cover": cover["vp", px],
        }
        told = {name: shown(mean_and_interval(list(values.values()))) for name, values in cells.items()}
        lines.append({"frame (px)": str(px), **told, "collapsed runs": f"{collapsed} of {len(runs)}"})
    return lines
