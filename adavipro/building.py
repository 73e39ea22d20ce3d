"""From a configuration to what computes: the frozen classifier, and the method in front of it."""

from collections.abc import Sequence

import torch

from adavipro import datasets
from adavipro.classifiers import FrozenClassifier, FrozenClip
from adavipro.configuration import MAPPED, Experiment
from adavipro.controls import SigmoidMasks, SmmMasks
from adavipro.edges import EdgeDetector
from adavipro.mapping import MappedClassifier
from adavipro.masks import MaskGenerator, RandomMasks
from adavipro.method import AdaViPro
from adavipro.prompts import build_prompt
from adavipro.seeds import generator


def load_classifier(
    experiment: Experiment, device: str = "cpu", class_names: Sequence[str] | None = None
) -> FrozenClassifier:
    """Load the frozen classifier with the data set's class names, or with others."""
    e = experiment
    names = datasets.class_names(e.dataset) if class_names is None else tuple(class_names)
    classifier: FrozenClassifier
    if e.model.startswith(MAPPED):
        assert e.label_mapping is not None  # the configuration has checked it
        classifier = MappedClassifier.load(e.model, names, e.pretrained, e.label_mapping, device)
    else:
        classifier = FrozenClip.load(e.model, names, e.pretrained, e.template, device)
    classifier.precision = getattr(torch, e.precision)
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = e.precision != "float32"  # else its convolutions round to 10 bits
    if e.compile:
        classifier.compile_tower()
    return classifier


def check_image_size(experiment: Experiment, classifier: FrozenClassifier) -> None:
    """Raise a SettingError where the model does not take the data set's images."""
    datasets.check_image_px(experiment.dataset, classifier.image_px)


def build_method(experiment: Experiment, classifier: FrozenClassifier) -> AdaViPro | None:
    """Put the method together: template and, for AdaViPro, edge detector and mask generator; None for zero-shot."""
    e = experiment
    if e.method == "zero-shot":
        return None
    image_px, device = classifier.image_px, classifier.mean.device
    start = generator(e.seed, "template")
    prompt = build_prompt(e.prompt_kind, image_px, e.prompt_px, e.prompt_start_std, start)
    if e.method == "vp":
        return AdaViPro(prompt).to(device)
    raw = (classifier.mean, classifier.std) if e.edge_input == "raw" else (None, None)
    edges = EdgeDetector(e.edge_channels, *raw) if e.edges else torch.nn.Identity()
    if e.random_share is not None:
        masks = RandomMasks(image_px, e.region_px, e.random_share)
        return AdaViPro(prompt, edges, masks, hard=True).to(device)
    start = generator(e.seed, "mask-generator")
    if e.where == "smm":
        return AdaViPro(prompt, torch.nn.Identity(), SmmMasks(image_px, e.region_px, start)).to(device)
    channels = e.edge_channels if e.edges else 3
    switches = (e.bias, e.relu, e.on_bias, e.policy_scale, e.standardise)
    kind = SigmoidMasks if e.where == "sigmoid" else MaskGenerator
    mask_generator = kind(image_px, e.region_px, e.generator_width, channels, *switches, generator=start)
    return AdaViPro(prompt, edges, mask_generator, e.hard, getattr(torch, e.precision)).to(device)
