"""The paper's effects as differences that can be measured, from the main grid of a world's results."""

import statistics
from collections.abc import Iterable
from typing import Any

import open_clip
import torch
from torch import nn

from adavipro import presets, published, studies
from adavipro.masks import MaskGenerator
from adavipro.presets import FRAMES_PX
from adavipro.prompts import FramePrompt
from adavipro.settings import SettingError
from adavipro.tables import (
    BASELINES,
    MEAN,
    TABLE_1,
    ablation_matrix,
    main_matrix,
    mean_and_interval,
    method_of,
    of_studies,
    read_rows,
    shown,
    with_mean,
)  # fmt: skip

CONTROLS = BASELINES.with_name("controls.csv")
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


def with_baselines(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the main grid at the narrow frame, those of the baselines that ship beside them (Tables 1 and 3)."""
    main = [r for r in of_studies(rows, "main") if str(r["prompt_px"]) in ("", "None", str(NARROW))]
    return main + of_studies(read_rows(BASELINES), "main")


def main_table(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Table 1: every method, prompts at the narrow frame, on every data set and on their mean."""
    return main_matrix(with_baselines(rows), NARROW)


PAPER_CLASSES = (10, 397)  # of the nine data sets, fewest and most


def paper_parameters() -> dict[str, tuple[int, ...]]:
    """Parameters that each method learns at the paper's sizes, counted on the modules.

    A linear probe's depend on the classes: with the fewest and with the most of the nine data sets.
    """
    e = presets.preset("paper", "adavipro")
    sizes = open_clip.get_model_config(e.model)
    frame = FramePrompt(sizes["vision_cfg"]["image_size"], e.prompt_px)
    with torch.device("meta"):  # shapes, and no memory
        tower = open_clip.CLIP(**sizes).visual
        masks = MaskGenerator(frame.image_px, e.region_px, e.generator_width, e.edge_channels)
        probes = [nn.Linear(sizes["embed_dim"], classes) for classes in PAPER_CLASSES]
    learned: dict[str, list[list[nn.Module]]] = {
        "zero-shot": [[]], "linear-probe": [[p] for p in probes], "fine-tune": [[tower]], "vp": [[frame]],
        "adavipro": [[frame, masks]],
    }  # fmt: skip
    return {
        method: tuple(sum(p.numel() for module in modules for p in module.parameters()) for modules in cases)
        for method, cases in learned.items()
    }


def _from_to(counts: Iterable[int]) -> str:
    """A count, or the least and the most of several."""
    counts = set(counts)
    return " to ".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))


def price_table(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Table 3: what each method learns, here and at the paper's sizes, and the seconds of a run here.

    Of runs with one thread, mean over data sets and seeds; prompts at the narrow frame.
    """
    rows, at_paper = with_baselines(rows), paper_parameters()
    template = published.find(table="3", method="vp", quantity="parameters")
    added = published.find(table="3", method="adavipro", quantity="added parameters")
    told = {"vp": f"{template:g} M", "adavipro": f"VP's + {added:g} M"}
    lines = []
    for method, title in TABLE_1.items():
        own = [r for r in rows if r["method"] == method]
        if not own:
            continue
        seconds = [float(r["seconds"]) for r in own if r["seconds"]]
        lines.append(
            {
                "method": title,
                "parameters": _from_to(int(r["parameters"]) for r in own),
                "seconds": f"{statistics.fmean(seconds):.0f}" if seconds else "",
                "parameters at the paper's sizes": _from_to(at_paper[method]),
                "published": told.get(method, ""),
            }
        )
    return lines


def ablation_value(study: str, text: str) -> Any:
    """The value of an ablation that a text stands for, as results files have it.

    Raises:
        SettingError: if there is no such ablation, or it has no such value.
    """
    if study not in studies.ABLATIONS:
        raise SettingError(f"study is {study!r}, but it must be one of: {', '.join(studies.ABLATIONS)}")
    values = {str(value): value for value in studies.ABLATIONS[study]}
    if text not in values:
        raise SettingError(f"value is {text!r}, but the values of {study} are: {', '.join(values)}")
    return values[text]


def where_table(_: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Every answer to "where" beside AdaViPro's, from the sweep of tables/embedded_controls.yaml.

    Accuracy by data set and on the mean, difference from AdaViPro with its 95 % interval over pairs of the same data
    set and seed, and how much of the objects the prompt covers (textures, SMM's masks and a random patch tell none).
    """
    rows = read_rows(CONTROLS)
    found = [{**r, "study": "where", "value": r["method"], "method": ""} for r in rows]
    lines = ablation_matrix(found, "where", "adavipro")
    covers: dict[tuple[str, str], list[float]] = {}
    for r in rows:
        if r["object_cover"] and r["method"] != "vp-random-patch":  # its reach is everywhere, it is not
            covers.setdefault((r["prompt_px"], r["method"]), []).append(100 * float(r["object_cover"]))
    for line in lines:
        del line["method"]
        cover = covers.get((line["frame (px)"], line["where"]))
        line["objects covered (%)"] = f"{statistics.fmean(cover):.0f}" if cover else ""
    order = ["vp", "adavipro", *presets.VARIANTS]
    return sorted(lines, key=lambda line: (int(line["frame (px)"]), order.index(line["where"])))


# What `adavipro table` computes from the results, by name.
TABLES = {"1": main_table, "3": price_table, "effects": effects, "masks": mask_table, "where": where_table}


def table(name: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Compute a table of TABLES.

    Raises:
        ValueError: if the results lack a column or a run that it needs.
    """
    try:
        return TABLES[name](rows)
    except LookupError as error:
        raise ValueError(f"the results hold no {error}, which table {name} needs") from None
