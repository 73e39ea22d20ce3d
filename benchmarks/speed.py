"""Measure what a step costs beside the floor: the frozen network, forward and back to its input.

python benchmarks/speed.py [--device cuda] [--models vit_b32 vit_l14] [--rounds 7] [--precision bfloat16] [--compile]

What is compared runs in one process, in turn, and ratios are medians over the rounds. Networks have random weights:
speed and memory do not depend on them. With all models on a CPU it takes about nine minutes on two cores, and writes
results.json, step.png and the tables of README.md beside it.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import open_clip
import pandas
import torch
import torch.nn.functional as F

from adavipro import models
from adavipro.data import Split, batches
from adavipro.datasets import embedded
from adavipro.evaluation import evaluate
from adavipro.experiment import Experiment, peak_memory_mb, preset
from adavipro.io import generator, write_json
from adavipro.prompted import build_method
from adavipro.report.printing import to_markdown
from adavipro.training import build_optimizer, train_step

HERE = Path(__file__).parent
# World, settings, and the batch of a CPU; a GPU's is 256.
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit_b32": ("paper", {}, 32),
    "vit_l14": ("paper", {"model": "ViT-L-14-quickgelu"}, 8),
    "lite0": (
        "paper",
        {"model": "timm:tf_efficientnet_lite0", "label_mapping": "identity", "generator_width": 16},
        32,
    ),
    "small": ("embedded", {}, 64),
}
# Operations of one image, forward and back to the input, in 10^9 multiply-adds, for the share of a GPU's peak.
GIGA_MACS = {"vit_b32": 2 * 4.4, "vit_l14": 2 * 81.1}
PEAK_TERAFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bfloat16, of the makers' data sheets
Step = Callable[[], object]
FIRST_STEP = """
from adavipro import datasets, models
from adavipro.experiment import preset
from adavipro.io import generator
from adavipro.prompted import build_method
from adavipro.training import build_optimizer, train_step
e = preset("embedded", "adavipro")
source = datasets.find(e.dataset)
train = source.load("train", 56)
classifier = models.load(e.network, source.class_names)
method = build_method(e.method, e.prompt, e.masks, classifier)
images = classifier.normalise(train.images[:64])
optimizer = build_optimizer(method, e.recipe)
train_step(classifier, method, optimizer, images, train.labels[:64], 5.0, generator(0, "x"), "step 0")
import time
print(time.time())
"""


class Bench:
    """A frozen network with a batch of random pictures, and the steps that are timed on it."""

    def __init__(self, name: str, args: argparse.Namespace, batch: int | None = None, **changes: Any) -> None:
        world, settings, cpu_batch = MODELS[name]
        self.name, self.device = name, args.device
        self.batch = batch or (cpu_batch if args.device == "cpu" else 256)
        common = {"precision": args.precision, "dataset": "digits", **settings}
        common |= {"pretrained": "random"} if world == "paper" else {}
        self.of = lambda method, **more: preset(world, method, **common | changes | more)
        self.names = embedded.CLASS_NAMES["digits"]
        self.classifier = models.load(self.of("vp").network, self.names, args.device)
        if args.compile:
            self.classifier.network.compile()
        px, source = self.classifier.image_px, generator(0, "benchmark-images")
        pixels = torch.randint(256, (self.batch, 3, px, px), generator=source, dtype=torch.uint8)
        self.split = Split(pixels, None, torch.randint(len(self.names), (self.batch,), generator=source))
        _, self.images, self.labels, _ = next(
            batches(self.split, self.classifier, [torch.arange(self.batch)])
        )
        self.leaf = self.images.clone().requires_grad_()

    def floor(self) -> None:
        """The frozen network, forward and back to its input."""
        self.leaf.grad = None
        F.cross_entropy(self.classifier(self.leaf), self.labels).backward()

    def method(self, e: Experiment) -> Any:
        """The template and mask generator of an experiment."""
        return build_method(e.method, e.prompt, e.masks, self.classifier)

    def step(self, method: str, **changes: Any) -> Step:
        """A training step, with rates that leave the start as it is."""
        e = self.of(method, **changes)
        built, noise = self.method(e), generator(0, "benchmark")
        optimizer = build_optimizer(built, e.recipe)
        for group in optimizer.param_groups:
            group["lr"] = 1e-6
        given = (self.classifier, built, optimizer, self.images, self.labels, 5.0, noise, "the benchmark")
        return lambda: train_step(*given)

    def published(self, classes: int) -> Step:
        """A step of VP as published: the class names are embedded anew, and all weights get gradients.

        What it costs, restated: CLIP's own model, nothing frozen, the optimiser over the template alone.
        """
        model: Any = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).to(self.device).eval()
        names = [f"This is a photo of a {name} {i}" for i, name in enumerate(classes * ["thing"])]
        tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(names).to(self.device)
        method = self.method(self.of("vp"))
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-6, momentum=0.9)

        def step() -> None:
            with torch.autocast(
                self.device, torch.bfloat16, enabled=self.classifier.precision != torch.float32
            ):
                image, text, scale = model(method(self.images).images, tokens)[:3]
                loss = F.cross_entropy(scale * image.float() @ text.float().T, self.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

        return step

    def parts(self) -> dict[str, Step]:
        """The pieces of AdaViPro's step, each by itself."""
        method, noise = self.method(self.of("adavipro")), generator(0, "benchmark")
        edges = method.edges(self.images)
        logits = method.masks(edges).detach()
        pull, pull_images = torch.randn_like(logits), torch.randn_like(self.images)

        def prompt() -> None:
            given = logits.requires_grad_()
            decisions = method.masks.decide(given, 5.0, noise)
            method(self.images, decisions=decisions).images.backward(pull_images)

        with torch.no_grad():
            forward = torch.no_grad()(lambda: self.classifier(self.images))
        return {
            "read": lambda: next(batches(self.split, self.classifier, [torch.arange(self.batch)])),
            "edges": lambda: method.edges(self.images),
            "mask generator": lambda: method.masks(edges).backward(pull),
            "decide, enlarge, add": prompt,
            "network, forward": forward,
            "network, forward and back": self.floor,
        }


def rounds_of(steps: dict[str, Step], rounds: int, device: str) -> pandas.DataFrame:
    """Seconds of each step, a row a round, after one round that does not count; the steps take turns."""

    def timed(step: Step) -> float:
        start = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return pandas.DataFrame([{k: timed(step) for k, step in steps.items()} for _ in range(rounds + 1)][1:])


def over(seconds: pandas.DataFrame, name: str, base: str) -> float:
    """Median over the rounds of one step's time over another's."""
    return round(float((seconds[name] / seconds[base]).median()), 3)


def peak_mb(what: str) -> int:
    """Peak memory of a process that makes two steps of ViT-B/32 at batch 128 on the CPU."""
    told = subprocess.run(
        [sys.executable, __file__, "--peak", what], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def seconds_to_first_step() -> float:
    """Seconds from the start of Python to the end of the first step in the small world, median of three."""
    took = []
    for _ in range(3):
        start = time.time()
        command = [sys.executable, "-W", "ignore", "-c", FIRST_STEP]
        took.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) - start)
    return round(statistics.median(took), 2)


def measure_steps(
    args: argparse.Namespace, results: dict[str, Any]
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Floor, VP, AdaViPro and, on ViT-B/32, VP's published loop; and the parts of AdaViPro's step."""
    rows, pieces = [], []
    for name in args.models:
        bench = Bench(name, args)
        steps: dict[str, Step] = {
            "floor": bench.floor,
            "vp": bench.step("vp"),
            "adavipro": bench.step("adavipro"),
        }
        if name == "vit_b32" and not args.compile:
            steps |= {f"published loop, {n} classes": bench.published(n) for n in (10, 100)}
        rounds = args.rounds if name != "small" else 5 * args.rounds
        seconds = rounds_of(steps, rounds, args.device)
        for step in seconds:
            ms = 1000 * seconds[step].median()
            row = {"network": name, "batch": bench.batch, "step": step, "ms": f"{ms:.1f}"}
            row |= {
                "images a second": f"{1000 * bench.batch / ms:,.0f}",
                "over the floor": over(seconds, step, "floor"),
            }
            if args.device.startswith("cuda"):
                torch.cuda.reset_peak_memory_stats()
                steps[step]()
                row["peak memory (MB)"] = f"{peak_memory_mb(args.device):,}"
                row |= peak_share(name, bench.batch, ms)
            rows.append(row)
        results["step_over_floor"] |= {f"{m}_{name}": over(seconds, m, "floor") for m in ("vp", "adavipro")}
        if "published loop, 10 classes" in seconds:
            results["vp_published_over_ours"] = {
                str(n): over(seconds, f"published loop, {n} classes", "vp") for n in (10, 100)
            }
        part = rounds_of(bench.parts(), rounds, args.device).median()
        whole = seconds["adavipro"].median()
        part["network, back"] = part["network, forward and back"] - part["network, forward"]
        part["rest"] = max(0.0, whole + part["read"] - part.drop("network, forward and back").sum())
        shares = part.drop("network, forward and back") / (whole + part["read"])
        pieces.append({"network": name, "batch": bench.batch, **shares.round(3).to_dict()})
        results["batch_over_step"] = max(results["batch_over_step"], round(float(part["read"] / whole), 4))
    return pandas.DataFrame(rows), pandas.DataFrame(pieces)


def peak_share(name: str, batch: int, ms: float) -> dict[str, str]:
    """Share of the card's bfloat16 peak that the network's own operations are, where both are known."""
    card = torch.cuda.get_device_name()
    known = [peak for kind, peak in PEAK_TERAFLOPS.items() if kind in card]
    if not known or name not in GIGA_MACS:
        return {}
    reached = 2 * GIGA_MACS[name] * batch / ms  # teraflops: 10^9 * 2 * batch / 10^-3 s
    return {"share of the peak": f"{reached / known[0]:.0%}"}


def measure_evaluation(args: argparse.Namespace, results: dict[str, Any]) -> pandas.DataFrame:
    """One pass over a split, with reading, normalising, prompting and counting, over the network's forward alone."""
    rows = []
    for name in args.models:
        bench = Bench(name, args, 2000 if name == "small" else 64)
        parts = [batch.images for batch in batches(bench.split, bench.classifier)]
        forward = torch.no_grad()(lambda parts=parts, bench=bench: [bench.classifier(p) for p in parts])
        methods = {"zero-shot": None, **{m: bench.method(bench.of(m)) for m in ("vp", "adavipro")}}
        steps: dict[str, Step] = {"forward": forward}
        steps |= {
            m: lambda bench=bench, k=k: evaluate(bench.classifier, k, bench.split) for m, k in methods.items()
        }
        seconds = rounds_of(steps, args.rounds, args.device)
        ratios = {m: over(seconds, m, "forward") for m in methods}
        rows.append({"network": name, "images": len(bench.split), **ratios})
        results["eval_over_forward"] = max(results["eval_over_forward"], ratios["vp"])
    return pandas.DataFrame(rows)


def measure_growth(args: argparse.Namespace) -> pandas.DataFrame:
    """How a step of AdaViPro with the small CLIP grows: milliseconds."""
    rows = []
    for what, values in {
        "batch": (16, 64, 256), "prompt_px": (1, 8, 28), "region_px": (4, 8, 28), "classes": (10, 100, 1000),
    }.items():  # fmt: skip
        steps = {}
        for value in values:
            bench = Bench("small", args, value if what == "batch" else None)
            if what == "classes":
                some = torch.randn(
                    value, bench.classifier.class_embeddings.shape[1], generator=generator(0, "classes")
                )
                bench.classifier.class_embeddings = F.normalize(some, dim=1).to(args.device)
            change = {what: value} if what.endswith("px") else {}
            steps[str(value)] = bench.step("adavipro", **change)
        seconds = rounds_of(steps, 3 * args.rounds, args.device).median()
        told = ", ".join(f"{value}: {1000 * s:.1f}" for value, s in seconds.items())
        rows.append({"what grows": what, "ms a step": told})
    return pandas.DataFrame(rows)


def draw(pieces: pandas.DataFrame) -> None:
    """The parts of AdaViPro's step, a bar a network."""
    table = pieces.set_index("network").drop(columns="batch")
    ax = table.plot.barh(stacked=True, figsize=(8, 0.6 * len(table) + 1.4), colormap="cividis", width=0.7)
    ax.set(xlabel="share of a step of AdaViPro, with its batch", ylabel="", xlim=(0, 1))
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False, fontsize=8)
    plt.savefig(HERE / "step.png", dpi=110, bbox_inches="tight")


def main() -> None:
    """Measure, print Markdown, and write what a whole measurement on a CPU found."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["vit_b32", "lite0", "small"], choices=MODELS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", choices=("floor", "adavipro"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        bench = Bench("vit_b32", args, 128)
        step = bench.floor if args.peak == "floor" else bench.step("adavipro")
        step(), step()
        print(peak_memory_mb())
        return
    results: dict[str, Any] = {"step_over_floor": {}, "batch_over_step": 0.0, "eval_over_forward": 0.0}
    steps, pieces = measure_steps(args, results)
    tables = {"steps": steps, "parts": pieces, "evaluation": measure_evaluation(args, results)}
    tables["growth"] = measure_growth(args)
    if args.device == "cpu":
        results["memory_over_floor"] = round(peak_mb("adavipro") / peak_mb("floor"), 3)
        results["import_to_first_step_s"] = seconds_to_first_step()
    card = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else platform.processor()
    results["machine"] = {
        "device": card or platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "precision": args.precision, "compile": args.compile,
    }  # fmt: skip
    for name, table in tables.items():
        print(f"\n{name}\n\n{to_markdown(table)}")
    print(json.dumps(results, indent=1))
    if args.device == "cpu" and set(args.models) >= {"vit_b32", "lite0", "small"}:
        write_json(HERE / "results.json", results)
        draw(pieces)
        page = HERE / "README.md"
        text = page.read_text()
        for name, table in tables.items():
            block = f"<!-- speed {name} -->\n\n{to_markdown(table)}\n<!-- end -->"
            text = re.sub(
                rf"<!-- speed {name} -->.*?<!-- end -->", lambda _, new=block: new, text, flags=re.DOTALL
            )
        page.write_text(text)


if __name__ == "__main__":
    main()
