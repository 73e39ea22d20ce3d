"""One validated experiment in, one finished run folder out."""

import hashlib
import importlib.metadata
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from adavipro import checkpoints, datasets, settings, training
from adavipro.choices import OpenChoices
from adavipro.classifiers import PHOTO_TEMPLATE, FrozenClip, weights_sha256
from adavipro.edges import EdgeDetector
from adavipro.evaluation import Evaluation, evaluate
from adavipro.files import canonical_json, to_csv, write_atomically, write_json
from adavipro.masks import MaskGenerator, RandomMasks
from adavipro.method import AdaViPro
from adavipro.progress import Progress
from adavipro.prompts import KINDS, build_prompt
from adavipro.schedules import Recipe, steps_an_epoch, warmup_length
from adavipro.seeds import generator
from adavipro.settings import SettingError, setting

METHODS = ("zero-shot", "vp", "adavipro")


@dataclass(frozen=True)
class Experiment(OpenChoices, Recipe):
    """Everything that decides a result. Wrong names, types and values are refused with one sentence."""

    dataset: str = setting("digits", "data set to adapt to: embedded, or folder:PATH of your own images")
    method: str = setting("adavipro", "how to adapt", choices=METHODS)
    model: str = setting("small-clip", "frozen CLIP: small-clip, an open_clip name, or local-dir:FOLDER")
    pretrained: str | None = setting(None, "open_clip's tag of the weights, where the name needs one")
    template: str = setting(PHOTO_TEMPLATE, "text of a class, with one {} for its name")
    prompt_kind: str = setting("frame", "template", choices=KINDS)
    prompt_px: int = setting(30, "width of the frame on each side, or side of the patch", low=1)
    region_px: int = setting(32, "side of a decision region", low=1)
    generator_width: int = setting(64, "channels D between F_c and F_p", low=1)
    seed: int = setting(0, "seed of template, generator, batch order and Gumbel noise", low=0)

    def __post_init__(self) -> None:
        settings.validate(self)
        datasets.check_name(self.dataset)

    def key(self) -> str:
        """Hash of all settings, the frozen weights and the version of the data: the same key is the same run."""
        content = {
            "settings": asdict(self),
            "weights": weights_sha256(self.model),
            "data": datasets.version(self.dataset),
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    def folder(self, root: Path) -> Path:
        """Where this run lives: <root>/<dataset>-<method>-<prompt>px-seed<seed>-<key>."""
        size = "" if self.method == "zero-shot" else f"-{self.prompt_px}px"
        return root / f"{datasets.slug(self.dataset)}-{self.method}{size}-seed{self.seed}-{self.key()}"


# --- Building --------------------------------------------------------------------------------------------------


def load_classifier(experiment: Experiment, device: str = "cpu") -> FrozenClip:
    """Load the frozen CLIP with the data set's class names."""
    names = datasets.class_names(experiment.dataset)
    return FrozenClip.load(experiment.model, names, experiment.pretrained, experiment.template, device)


def check_image_size(experiment: Experiment, classifier: FrozenClip) -> None:
    """Raise a SettingError where the model does not take the data set's images."""
    datasets.check_image_px(experiment.dataset, classifier.image_px)


def build_method(experiment: Experiment, classifier: FrozenClip) -> AdaViPro | None:
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
        return AdaViPro(prompt, edges, RandomMasks(image_px, e.region_px, e.random_share), hard=True).to(
            device
        )
    channels, start = e.edge_channels if e.edges else 3, generator(e.seed, "mask-generator")
    switches = (e.bias, e.relu, e.on_bias, e.policy_scale, e.standardise)
    mask_generator = MaskGenerator(
        image_px, e.region_px, e.generator_width, channels, *switches, generator=start
    )
    return AdaViPro(prompt, edges, mask_generator, e.hard).to(device)


# --- Running ---------------------------------------------------------------------------------------------------


def recipe_of(experiment: Experiment) -> Recipe:
    """The part of an experiment that says how to train."""
    return Recipe(**{f.name: getattr(experiment, f.name) for f in fields(Recipe)})


def report_test(experiment: Experiment, classifier: FrozenClip, method: AdaViPro | None) -> Evaluation:
    """Evaluate on the test split. Called once a run, after validation has picked; training cannot call it."""
    return evaluate(classifier, method, datasets.load_split(experiment.dataset, "test", classifier.image_px))


def read_result(experiment: Any, root: Path) -> dict[str, Any] | None:
    """The result of a finished run; None where it is not finished. Finished is result.json with the run's key."""
    path = experiment.folder(root) / "result.json"
    try:
        result = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == experiment.key() else None


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    names = ("adavipro", "torch", "torchvision", "open_clip_torch")
    return {n: importlib.metadata.version(n) for n in names}


def train_or_resume(
    experiment: Experiment,
    root: Path,
    resume: bool | None = None,
    device: str = "cpu",
    progress_bar: bool = True,
    watch: training.Watch | None = None,
) -> tuple[FrozenClip, AdaViPro | None, Progress]:
    """Train on the training split, pick the epoch on validation; the test split is out of reach here.

    The run's folder gets config.json, checkpoints/, metrics.csv and timing.json. For the arguments see `run`. Returns
    the frozen classifier, the method with the weights that were picked (None for zero-shot), and the progress.
    """
    folder = experiment.folder(root)
    if resume:
        checkpoints.steps_to_resume(folder / "checkpoints")  # refuses before any work
    classifier = load_classifier(experiment, device)
    check_image_size(experiment, classifier)
    method = build_method(experiment, classifier)
    name, px = experiment.dataset, classifier.image_px
    train, val = (datasets.load_split(name, split, px) for split in ("train", "val"))
    recipe = recipe_of(experiment)
    if method is not None:
        warmup_length(recipe, recipe.epochs * steps_an_epoch(recipe, len(train)))  # refuses before any work
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", asdict(experiment))
    if method is None:
        return classifier, None, Progress()
    resumed = bool(checkpoints.steps_saved(folder / "checkpoints")) if resume is None else resume
    started = time.perf_counter()
    progress = training.fit(
        classifier,
        method,
        train,
        val,
        recipe,
        experiment.seed,
        folder / "checkpoints",
        identity={**asdict(experiment), "class_names": classifier.class_names},
        resume=resumed,
        generator_momentum=experiment.generator_momentum,
        progress_bar=progress_bar,
        watch=watch,
    )
    seconds = None if resumed else round(time.perf_counter() - started, 2)  # of a whole run only
    timing = {"seconds": seconds, "threads": torch.get_num_threads(), "device": device}
    write_json(folder / "timing.json", timing)
    write_atomically(folder / "metrics.csv", to_csv(progress.history).encode())
    return classifier, method, progress


def run(
    experiment: Experiment,
    root: Path = Path("runs"),
    resume: bool | None = None,
    device: str = "cpu",
    progress_bar: bool = True,
    watch: training.Watch | None = None,
) -> dict[str, Any]:
    """Train and report one experiment, or return its result where it is finished. Writes result.json last.

    Args:
        root: folder of run folders.
        resume: True goes on from a checkpoint and fails without one; False starts anew; None goes on where there
            is a checkpoint.
        device: where to compute.
        watch: called after each epoch of a training with the method and the metrics so far.

    Raises:
        SettingError: if the settings do not fit each other or the model, before any work starts.
        CheckpointError: if resuming is asked for and there is nothing sound to resume from.
    """
    done = read_result(experiment, root)
    if done is not None:
        return done
    installed, key = versions(), experiment.key()
    classifier, method, progress = train_or_resume(experiment, root, resume, device, progress_bar, watch)
    test = report_test(experiment, classifier, method)
    if experiment.key() != key:
        raise SettingError(f"data set {experiment.dataset!r} changed while the run went on: run it again")
    result = {
        "key": key,
        "settings": asdict(experiment),
        "val_accuracy": progress.best_accuracy if method else None,
        "test_accuracy": test.accuracy,
        "share_on": test.share_on,
        "mask_diversity": test.mask_diversity,
        "object_cover": test.object_cover,
        "best_epoch": progress.best_epoch if method else None,
        "steps": progress.step,
        "parameters": sum(p.numel() for p in method.parameters()) if method else 0,
        "versions": installed,
    }
    write_json(experiment.folder(root) / "result.json", result)
    return result


def restore(
    experiment: Experiment, root: Path = Path("runs"), device: str = "cpu"
) -> tuple[FrozenClip, AdaViPro]:
    """Load a finished run: the frozen classifier and the method with the weights that validation picked.

    Raises:
        SettingError: if the run is not finished, or is zero-shot, which has nothing to restore.
        CheckpointError: if its last checkpoint is damaged.
    """
    result = read_result(experiment, root)
    if result is None:
        raise SettingError(f"there is no finished run in {experiment.folder(root)}: run it first")
    classifier = load_classifier(experiment, device)
    method = build_method(experiment, classifier)
    if method is None:
        raise SettingError("method is 'zero-shot', which has nothing to restore")
    tensors, _ = checkpoints.load_checkpoint(experiment.folder(root) / "checkpoints", result["steps"])
    with torch.no_grad():
        for name, p in method.named_parameters():
            p.copy_(tensors[f"best.{name}"])
    return classifier, method
