"""Time one training step of each method against the floor: the frozen classifier, forward and back to its input.

python benchmarks/speed.py [--batch 64] [--seconds 3]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from adavipro import classifiers, datasets, experiment, presets
from adavipro.experiment import Experiment
from adavipro.seeds import generator
from adavipro.tables import to_markdown
from adavipro.training import build_optimizer, train_step


def images_per_second(step: Callable[[], object], batch: int, seconds: float) -> float:
    """Median speed of a step, over repetitions that take about `seconds`, after three unmeasured ones."""
    for _ in range(3):
        step()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    base = presets.preset("embedded", "adavipro")
    classifier = experiment.load_classifier(base)
    split = datasets.load_split(base.dataset, "val")
    images, labels = classifier.normalise(split.images[: args.batch]), split.labels[: args.batch]
    rows = []

    def measure(name: str, step: Callable[[], object]) -> None:
        speed = images_per_second(step, args.batch, args.seconds)
        rows.append(
            {"step": name, "images a second": f"{speed:,.0f}", "ms": f"{1000 * args.batch / speed:.1f}"}
        )

    leaf = images.clone().requires_grad_()

    def floor() -> None:
        F.cross_entropy(classifier(leaf), labels).backward()

    with torch.no_grad():
        measure("classifier, forward only", lambda: classifier(images))
    measure("classifier, forward and input gradient (the floor)", floor)
    embedding = classifier.visual.conv1
    conv = torch.nn.Conv2d(3, embedding.weight.shape[0], embedding.side, embedding.side, bias=False)
    conv.weight = embedding.weight
    classifier.visual.conv1 = conv
    measure("the same with open_clip's own patch convolution", floor)
    classifier.visual.conv1 = embedding

    def training_step(e: Experiment) -> Callable[[], object]:
        method = experiment.build_method(e, classifier)
        assert method is not None
        optimizer = build_optimizer(method, experiment.recipe_of(e), e.generator_momentum)
        noise = generator(0, "benchmark")
        return lambda: train_step(classifier, method, optimizer, images, labels, 5.0, noise, "benchmark")

    measure("VP step", training_step(presets.preset("embedded", "vp")))
    for width in (8, 16, 32, 64):
        e = presets.preset("embedded", "adavipro", generator_width=width)
        measure(f"AdaViPro step, generator width {width}", training_step(e))
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {args.batch}\n"
    )
    print(to_markdown(rows))
    print(f"model: {Path(classifiers.resolve_model(base.model)).name}")


if __name__ == "__main__":
    main()
