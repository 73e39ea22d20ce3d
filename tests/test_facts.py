import itertools
import statistics

from comparison_samples import FOUR, GRIDS, NINE, cells, compared, run, the_line

from adavipro import comparison, tables


def test_gain_over_zero_shot_of_vps_own_paper_stands_in_table_1():
    rows = [run("dtd", "zero-shot", None, 0, 0.44), *(run("dtd", "vp", 30, s, 0.5 + s / 100) for s in (0, 1))]
    line = compared("1", rows, dataset="DTD", quantity="gain over zero-shot")
    assert cells(line, "published source") == ["14.1", "arXiv 2203.17274 (VP)"]
    assert cells(line, "ours ci95 difference inside") == ["6.50", "6.35", "-7.60", "no"]


def test_gains_on_all_nine_need_all_nine_and_say_on_how_many_they_hold():
    rows = [run(name, "vp", 30, s, 0.6) for name in NINE for s in (0, 1)]
    rows += [run(name, "adavipro", 30, s, 0.5 + 0.02 * i) for i, name in enumerate(NINE) for s in (0, 1)]
    wanted = {"dataset": "all nine", "quantity": "gain over vp"}
    line = compared("1", rows, **wanted)
    assert cells(line, "published ours difference inside") == ["", "-2.00", "", ""]
    assert line["note"].endswith("figures not read; ours is above 0 on 3 of 9")
    fewer = comparison.lines("1", rows, NINE[:8], *GRIDS["1"][1:])
    assert cells(the_line(fewer, **wanted), "ours seeds") == ["", ""]


def table_2(gains):
    """Runs of Table 2 in which AdaViPro gains so much over VP, by data set and seed; 30 px would spoil the mean."""
    rows = []
    for (name, seed), gain in gains.items():
        for px, more in ((5, -2), (60, 0), (90, 0), (112, 2), (30, 50)):
            rows.append(run(name, "vp", px, seed, 0.3))
            rows.append(run(name, "adavipro", px, seed, 0.3 + (gain + more) / 100))
    return rows


def test_mean_gain_of_table_2_is_over_pairs_of_data_set_and_seed_at_the_four_widths():
    gains = {cell: float(i) for i, cell in enumerate(itertools.product(FOUR, (0, 1)), start=-1)}
    line = compared("2", table_2(gains), dataset="mean")
    half = tables.confidence_half_width(list(gains.values()))
    assert line["ours"] == f"{statistics.fmean(gains.values()):.2f}" == "2.50"
    assert line["ci95"] == f"{half:.2f}"
    assert cells(line, "difference inside seeds") == ["-6.50", "no", "2"]
    assert line["note"] == "mean over prompts of 5, 60, 90 and 112 px; ours is above 0 on 3 of 4"


def test_a_fact_waits_for_every_run_that_it_speaks_of():
    rows = table_2(dict.fromkeys(itertools.product(FOUR, (0, 1)), 9.0))
    wanted = {"dataset": "mean", "quantity": "gain over vp"}
    assert compared("2", rows, **wanted)["ours"] == "9.00"
    for missing in (rows[0], rows[1], rows[-3]):
        fewer = [r for r in rows if r is not missing]
        line = compared("2", fewer, **wanted)
        assert (line["ours"], line["published"]) == ("", "9.0")
    line = the_line(comparison.lines("2", rows, *GRIDS["2"], seeds=[0, 1, 2]), **wanted)
    assert (line["ours"], line["seeds"]) == ("", "")
    assert the_line(comparison.lines("2", rows, *GRIDS["2"], seeds=[0]), **wanted)["seeds"] == "1"


def ablation(accuracies, names=FOUR, **others):
    """Runs with an accuracy in percent by value, or by data set and value."""
    return [
        run(name, "adavipro", 30, s, (accuracies.get((name, v), accuracies.get(v, 0)) + s) / 100, v, **others)
        for name, v, s in itertools.product(
            names, {k[1] if isinstance(k, tuple) else k for k in accuracies}, (0, 1)
        )
    ]


def test_change_without_edges_is_without_minus_with():
    rows = ablation({True: 60, False: 55, ("dtd", False): 47.7, ("ucf101", False): 61})
    found = comparison.lines("4", rows, *GRIDS["4"])
    line = the_line(found, dataset="DTD", quantity="change without edges")
    assert cells(line, "ours ci95 difference inside") == ["-12.30", "0.00", "+0.00", "yes"]
    several = the_line(found, dataset="all four")
    assert (several["published"], several["ours"], several["difference"]) == ("", "-5.32", "")
    assert several["note"].endswith("; ours is above 0 on 1 of 4")
    of_three = comparison.lines("4", rows, FOUR[:3], *GRIDS["4"][1:])
    assert the_line(of_three, dataset="all four")["ours"] == ""


def test_best_values_are_of_the_data_sets_that_the_fact_speaks_of():
    accuracies = {8: 50, 16: 50, 32: 60, 56: 55, ("ucf101", 56): 99, ("ucf101", 32): 10}
    found = comparison.lines("6", ablation(accuracies), *GRIDS["6"])
    best = {line["dataset"]: line for line in found if line["quantity"] == "best region_px"}
    assert {name: (line["published"], line["ours"]) for name, line in best.items()} == {
        "": ("32", "32"), "UCF101": ("56", "56"),
    }  # fmt: skip
    assert not any(line[c] for line in best.values() for c in ("ci95", "difference", "inside"))
    line = the_line(found, dataset="UCF101", published="70.9")
    assert cells(line, "setting ours difference") == ["region_px=56", "99.50", "+28.60"]
    gammas = ablation({0.9: 50, 0.94: 51, 0.98: 50.5, 0.99: 50})
    assert compared("5", gammas, published="0.98")["ours"] == "0.94"
    rows = [run("dtd", "adavipro", px, 0, px / 200) for px in (5, 30, 60, 90, 112)]
    assert compared("2", rows, quantity="best prompt_px")["ours"] == "112"


def test_table_3_and_width_8_count_parameters():
    rows = [run("dtd", "linear-probe", None, 0, 0.5, parameters="24111")]
    for s in (0, 1):
        rows.append(run("dtd", "vp", 30, s, 0.5, parameters="69840"))
        rows.append(run("dtd", "adavipro", 30, s, 0.6, parameters="202706"))
    found = comparison.lines("3", rows, *GRIDS["3"])
    ours = {(line["method"], line["quantity"]): line["ours"] for line in found if not line["dataset"]}
    assert ours == {("vp", "parameters"): "0.0698", ("adavipro", "added parameters"): "0.1329"}
    line = the_line(found, dataset="DTD", method="linear-probe")
    assert cells(line, "quantity unit ours ci95") == ["parameters", "million", "0.0241", ""]
    narrow = ablation(dict.fromkeys((8, 16, 32, 64), 50), parameters="86448")
    line = compared("7", narrow, quantity="parameters at width 8")
    assert cells(line, "published ours difference") == ["0.09", "0.0864", "-0.0036"]
