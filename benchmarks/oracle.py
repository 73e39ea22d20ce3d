"""How far could a perfect mask get? VP whose prompt leaves out every region that the true object touches.

Trains a template under masks made from the data set's own objects, on the training split, and prints the best
validation accuracy of its epochs; nothing learns where to add. One run takes half a minute.

    python benchmarks/oracle.py
"""

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor

from adavipro import datasets, models
from adavipro.data import Split
from adavipro.experiment import preset
from adavipro.io import generator
from adavipro.prompted import build_method
from adavipro.recipe import learning_rate_factor, steps_an_epoch, warmup_length
from adavipro.report.studies import SEARCH_SEEDS
from adavipro.report.tables import to_markdown


def free_of_objects(split: Split, index: Tensor, region_px: int) -> Tensor:
    """Decisions (b, 1, r, r): on where no pixel of the region belongs to the object."""
    assert split.objects is not None
    return (F.max_pool2d(split.objects[index].float(), region_px) == 0).float()


def best_accuracy(dataset: str, prompt_px: int, prompt_lr: float) -> float:
    """Train under true masks; the best validation accuracy of the epochs."""
    run = preset("embedded", "vp", dataset=dataset, prompt_px=prompt_px, seed=SEARCH_SEEDS[0])
    recipe, source = run.recipe, datasets.find(dataset)
    classifier = models.load(run.network, source.class_names)
    method = build_method(run.method, run.prompt, run.masks, classifier, run.seed)
    train, val = (source.load(name, classifier.image_px) for name in ("train", "val"))
    optimizer = torch.optim.SGD(method.parameters(), prompt_lr, momentum=recipe.momentum)
    epoch_steps = steps_an_epoch(recipe, len(train))
    total = recipe.epochs * epoch_steps
    step, best = 0, 0.0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator(run.seed, "order", epoch))
        for index in order.split(recipe.batch_size):
            factor = learning_rate_factor(step, total, warmup_length(recipe, total))
            optimizer.param_groups[0]["lr"] = prompt_lr * factor
            decisions = free_of_objects(train, index, run.masks.region_px)
            scores = classifier(method(classifier.normalise(train.images[index]), decisions=decisions).images)
            optimizer.zero_grad()
            F.cross_entropy(scores, train.labels[index]).backward()
            optimizer.step()
            step += 1
        with torch.no_grad():
            right = 0
            for index in torch.arange(len(val)).split(250):
                decisions = free_of_objects(val, index, run.masks.region_px)
                images = method(classifier.normalise(val.images[index]), decisions=decisions).images
                right += int((classifier(images).argmax(1) == val.labels[index]).sum())
        best = max(best, right / len(val))
    return best


def main() -> None:
    """Print the table."""
    lines = []
    for dataset in ("digits", "letters", "sketches"):  # textures fill the image
        rate = preset("embedded", "vp").recipe.prompt_lr
        cells = {f"{px} px": f"{100 * best_accuracy(dataset, px, rate):.1f}" for px in (8, 15, 28)}
        lines.append({"dataset": dataset, **cells})
    print(to_markdown(pandas.DataFrame(lines)), end="")


if __name__ == "__main__":
    main()
