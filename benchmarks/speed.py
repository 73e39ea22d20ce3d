"""Time one training step of each method against the floor: the frozen classifier, forward and back to its input.

python benchmarks/speed.py [--world paper] [--device cuda] [--precision bfloat16] [--compile] [--batch 64] [--seconds 3]

The paper's world is measured with an untrained CLIP ViT-B/32: speed and memory do not depend on the weights.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import pandas
import torch
import torch.nn.functional as F

from adavipro import models
from adavipro.datasets import embedded
from adavipro.experiment import WORLDS, Experiment, peak_memory_mb, preset
from adavipro.io import generator
from adavipro.prompted import build_method
from adavipro.report.tables import to_markdown
from adavipro.training import build_optimizer, train_step


def seconds_of(step: Callable[[], object], device: str, seconds: float) -> float:
    """Median time of a step, over repetitions that take about `seconds`, after three unmeasured ones."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(3):
        step()
    times: list[float] = []
    while sum(times) < seconds:
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="embedded", choices=WORLDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    small = args.world == "embedded"
    common = {"precision": args.precision, "compile": args.compile, "dataset": "digits"}
    common |= {} if small else {"pretrained": "random"}
    network = preset(args.world, "zero-shot", **common).network
    names = embedded.CLASS_NAMES["digits"]
    classifier = models.load(network, names, args.device)
    g, px = generator(0, "benchmark-images"), classifier.image_px
    pixels = torch.randint(256, (args.batch, 3, px, px), generator=g, dtype=torch.uint8)
    labels = torch.randint(len(names), (args.batch,), generator=g).to(args.device)
    images = classifier.normalise(pixels.to(args.device))
    rows = []

    def measure(name: str, step: Callable[[], object]) -> None:
        if args.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        took = seconds_of(step, args.device, args.seconds)
        row = {"step": name, "images a second": f"{args.batch / took:,.0f}", "ms": f"{1000 * took:.1f}"}
        if args.device.startswith("cuda"):
            row["peak memory (MB)"] = f"{peak_memory_mb(args.device):,}"
        rows.append(row)

    leaf = images.clone().requires_grad_()

    def floor() -> None:
        F.cross_entropy(classifier(leaf), labels).backward()

    with torch.no_grad():
        measure("classifier, forward only", lambda: classifier(images))
    measure("classifier, forward and input gradient (the floor)", floor)
    if not args.compile:
        embedding = classifier.network.conv1
        conv = torch.nn.Conv2d(3, embedding.weight.shape[0], embedding.side, embedding.side, bias=False)
        conv.weight = embedding.weight
        classifier.network.conv1 = conv
        measure("the same with open_clip's own patch convolution", floor)
        classifier.network.conv1 = embedding

    def training_step(e: Experiment) -> Callable[[], object]:
        method = build_method(e.method, e.prompt, e.masks, classifier)
        optimizer = build_optimizer(method, e.recipe)
        noise = generator(0, "benchmark")
        return lambda: train_step(classifier, method, optimizer, images, labels, 5.0, noise, "benchmark")

    measure("VP step", training_step(preset(args.world, "vp", **common)))
    for width in (8, 16, 32, 64):
        e = preset(args.world, "adavipro", generator_width=width, **common)
        measure(f"AdaViPro step, generator width {width}", training_step(e))
    where = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else platform.machine()
    print(
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {args.batch}, {args.precision}"
        f"{', compiled' if args.compile else ''}, model {classifier.name}\n"
    )
    print(to_markdown(pandas.DataFrame(rows)))


if __name__ == "__main__":
    main()
