"""Runs made up for tests of the comparison with published figures, and what each table wants."""

from adavipro import comparison, published

NINE = [name.lower() for name in published.DATASETS]
FOUR = ["cifar10", "cifar100", "dtd", "ucf101"]
# What each table wants: data sets, methods, widths, the setting that varies.
GRIDS = {
    "1": (NINE, ["zero-shot", "linear-probe", "fine-tune", "vp", "adavipro"], [30], {}),
    "2": (FOUR, ["vp", "adavipro"], [5, 30, 60, 90, 112], {}),
    "3": (["dtd"], ["linear-probe", "vp", "adavipro"], [30], {}),
    "4": (FOUR, ["adavipro"], [30], {"edges": [True, False]}),
    "5": (FOUR, ["adavipro"], [30], {"temperature_gamma": [0.9, 0.94, 0.98, 0.99]}),
    "6": (FOUR, ["adavipro"], [30], {"region_px": [8, 16, 32, 56]}),
    "7": (FOUR, ["adavipro"], [30], {"generator_width": [8, 16, 32, 64]}),
}
FACT = ("dataset", "method", "prompt_px", "quantity", "unit", "source")


def run(dataset, method, prompt_px, seed, accuracy, value="", **others):
    return {
        "study": "main", "value": str(value), "dataset": dataset, "method": method,
        "prompt_px": "" if prompt_px is None else str(prompt_px), "seed": str(seed), "test_accuracy": str(accuracy),
        "seconds": "", "parameters": "10", "key": f"{dataset}{method}{prompt_px}{seed}{value}",
        "versions": "torch=2.14.1", **others,
    }  # fmt: skip


def the_line(found, **wanted):
    (line,) = [line for line in found if all(line[k] == v for k, v in wanted.items())]
    return line


def compared(table, rows, **wanted):
    return the_line(comparison.lines(table, rows, *GRIDS[table]), **wanted)


def cells(line, columns):
    return [line[c] for c in columns.split()]
