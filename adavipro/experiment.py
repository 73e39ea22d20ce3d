"""One experiment: settings in, a finished run folder out, and back again from that folder alone."""

import contextlib
import hashlib
import importlib.metadata
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from adavipro import baselines, checkpoints, datasets, models, training
from adavipro.baselines.fine_tuning import FineTuning, fine_tune
from adavipro.baselines.probes import linear_probe
from adavipro.classifier import FrozenClassifier
from adavipro.data import Split
from adavipro.evaluation import Evaluation, evaluate
from adavipro.io import canonical_json, expanded, write_atomically, write_json
from adavipro.method import AdaViPro
from adavipro.models import lite0
from adavipro.prompted import PROMPTS, Masks, Prompt, PromptedClassifier, build_method, check_where, picked
from adavipro.recipe import Recipe, SettingError, Settings, check_names, lengths, setting
from adavipro.report.kept import read_json

METHODS = ("zero-shot", "vp", "adavipro", "linear-probe", "fine-tune")
BASELINES = ("linear-probe", "fine-tune")  # what prompts stand beside
RESULT, PROMPT, TIMING = "result.json", "prompt.safetensors", "timing.json"
# What result.json holds of every run, beside its key and settings; None where a method has no such thing.
MEASURES: dict[str, Any] = {
    "val_accuracy": float | None, "test_accuracy": float, "share_on": float | None, "mask_diversity": float | None,
    "object_cover": float | None, "best_epoch": int | None, "steps": int | None, "parameters": int,
    "mapping": list | None, "picked": str | None,
}  # fmt: skip
GROUPS: dict[str, type[Settings]] = {
    "network": models.Network, "prompt": Prompt, "masks": Masks, "recipe": Recipe, "fine_tuning": FineTuning,
}  # fmt: skip
# Settings that mean nothing to a method, and so are no part of its runs' keys.
_OF_FINE_TUNING = {"epochs", "batch_size", "warmup_share", "warmup_steps"}  # the others are
_OF_GENERATOR = {"generator_lr", "generator_momentum"}
_OF_TEMPERATURE = {"temperature_start", "temperature_gamma", "temperature_end", "temperature_floor"}


@dataclass(frozen=True)
class Experiment(Settings):
    """Everything that decides a result, in groups; by default AdaViPro in the small world.

    Names of settings are unlike in all groups, so that `changed(prompt_px=15)` and `-s prompt_px=15` find theirs.
    """

    dataset: str = setting("digits", "data set: a drawn one, solar-cells, one of the nine, or folder:PATH")
    method: str = setting("adavipro", "how to adapt", choices=METHODS)
    seed: int = setting(0, "seed of template, generator, batch order, Gumbel noise and shots", low=0)
    shots: int | None = setting(
        None, "images of each class to train on, and at most so many to validate on; none: all", low=1
    )
    network: models.Network = field(default_factory=models.Network)
    prompt: Prompt = field(default_factory=Prompt)
    masks: Masks = field(default_factory=Masks)
    recipe: Recipe = field(default_factory=Recipe)
    fine_tuning: FineTuning = field(default_factory=FineTuning)

    def __post_init__(self) -> None:
        super().__post_init__()
        datasets.check_name(self.dataset)
        check_where(self.method, self.masks)

    def changed(self, **settings: Any) -> "Experiment":
        """The same with single settings changed, whatever their group; the first wrong one is a SettingError."""
        check_names(settings, self.flat())
        given = {**self.flat(), **settings}
        if settings.get("warmup_share") is not None and "warmup_steps" not in settings:
            given["warmup_steps"] = None
        if settings.get("temperature_end") is not None and "temperature_gamma" not in settings:
            given["temperature_gamma"] = None
        if self.network.model != given["model"] and "label_mapping" not in settings:
            given["label_mapping"] = None
        groups: dict[str, Any] = {name: picked(kind, given) for name, kind in GROUPS.items()}
        return Experiment(given["dataset"], given["method"], given["seed"], given["shots"], **groups)

    def flat(self) -> dict[str, Any]:
        """Every setting by name."""
        found: dict[str, Any] = {}
        for name, value in asdict(self).items():
            found |= value if name in GROUPS else {name: value}
        return found

    def content(self) -> dict[str, Any]:
        """The settings that matter to this method, by name; one that is none is not there."""
        group = {name: {f.name for f in fields(kind)} for name, kind in GROUPS.items()}  # type: ignore[arg-type]
        left_out = group["fine_tuning"]
        if self.method in ("zero-shot", "linear-probe"):
            left_out = left_out | group["prompt"] | group["masks"] | group["recipe"]
            left_out = left_out | (set() if self.shots else {"seed"})
        elif self.method == "fine-tune":
            left_out = group["prompt"] | group["masks"] | group["recipe"] - _OF_FINE_TUNING
        elif self.method == "vp":
            left_out = left_out | group["masks"] | _OF_GENERATOR | _OF_TEMPERATURE
        elif self.masks.where != "gumbel":
            left_out = left_out | _OF_TEMPERATURE | {"hard"}
            if self.masks.where == "random":
                left_out = left_out | _OF_GENERATOR | group["masks"] - {"where", "region_px", "random_share"}
        return {k: v for k, v in self.flat().items() if k not in left_out and v is not None}

    def key(self, source: datasets.Source | None = None) -> str:
        """Hash of the settings that matter, the frozen weights and the data's version: the same key is the same run.

        The source is the data set, where it was found already.
        """
        version = (source or datasets.find(self.dataset)).version
        weights = models.weights_sha256(self.network.model)
        content = {"settings": self.content(), "weights": weights, "data": version}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]

    def folder(self, root: Path | str, key: str | None = None, source: datasets.Source | None = None) -> Path:
        """Where this run lives: <root>/<dataset>-<method>-<prompt>px-seed<seed>-<key>."""
        size = f"-{self.prompt.prompt_px}px" if self.method in PROMPTS else ""
        seed = f"-seed{self.seed}" if "seed" in self.content() else ""
        name = f"{datasets.slug(self.dataset)}-{self.method}{size}{seed}"
        return expanded(root) / f"{name}-{key or self.key(source)}"


# --- Recipes by name ----------------------------------------------------------------------------------------------

RECIPES = ("paper", "ours")
# What each world changes: the small one nothing, photographs what validation picked (docs/choices.md), the paper's
# world its and VP's recipe, word for word, on the smallest of the nine data sets to download.
BASES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "photographs": {
        "dataset": "solar-cells", "model": lite0.NAME, "prompt_px": 30, "region_px": 32, "epochs": 3,
        "batch_size": 32, "prompt_lr": 10.0,
    },
    "paper": {
        "dataset": "eurosat", "model": "ViT-B-32-quickgelu", "pretrained": "openai", "prompt_px": 30, "region_px": 32,
        "generator_width": 64, "standardise": False, "epochs": 1000, "batch_size": 256, "prompt_lr": 40.0,
        "generator_lr": 1.0, "warmup_steps": 1000, "temperature_gamma": 0.98,
    },
}  # fmt: skip
WORLDS = tuple(BASES)
# Where we would leave it; docs/choices.md says why. Not measured on CLIP yet.
OURS: dict[str, Any] = {
    "epochs": 100, "warmup_share": 0.05, "warmup_steps": None, "precision": "bfloat16", "temperature_end": 0.1,
    "temperature_gamma": None, "standardise": True,
}  # fmt: skip
# What a method has of its own in a world. Fine-tuning on photographs and CLIP has usual values, not tuned.
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("embedded", "fine-tune"): {"epochs": 5},  # as its learning rate was searched with
    ("photographs", "adavipro"): {"prompt_lr": 40.0},
    ("photographs", "fine-tune"): {"learning_rate": 3e-4},
    ("paper", "fine-tune"): {
        "learning_rate": 1e-5, "weight_decay": 0.1, "epochs": 20, "batch_size": 256, "warmup_share": 0.05,
        "warmup_steps": None,
    },
}  # fmt: skip
# Controls, each a method with single settings changed.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "random-masks": ("adavipro", {"where": "random"}),
    "soft-masks": ("adavipro", {"where": "sigmoid"}),
    "untrained-masks": ("adavipro", {"generator_lr": 0.0}),
}


def world_of(dataset: str, model: str | None = None) -> str:
    """The world whose recipe suits a data set, "paper" for its nine.

    For a folder it is "photographs", unless the small CLIP knows every class; where its model is given, it is
    "embedded" with the small CLIP alone.
    """
    if dataset in datasets.nine.SPECS:
        return "paper"
    if not dataset.startswith(datasets.folders.PREFIX):
        return "photographs" if dataset in datasets.photographs.FIND else "embedded"
    if model is None:
        names = datasets.find(dataset).class_names
        with contextlib.suppress(SettingError):
            models.load(models.Network(), names)
            model = "small-clip"
    return "embedded" if model == "small-clip" else "photographs"


def preset(world: str, method: str, recipe: str = "paper", **changes: Any) -> Experiment:
    """Make an experiment from a world's recipe for a method, with single settings changed.

    Args:
        world: "embedded", the small world, "photographs", or "paper".
        method: one of METHODS, or of VARIANTS.
        recipe: "paper" or "ours"; the other worlds have one recipe only.
        changes: any setting of `Experiment`, by name.
    """
    for name, value, known in (("world", world, WORLDS), ("recipe", recipe, RECIPES)):
        if value not in known:
            raise SettingError(f"{name} is {value!r}, but it must be one of: {', '.join(known)}")
    if world != "paper" and recipe != "paper":
        raise SettingError(f"recipe is {recipe!r}, but the {world} world has one recipe only: leave it out")
    method, variant = VARIANTS.get(method, (method, {}))
    ours = OURS if recipe == "ours" else {}
    values: dict[str, Any] = {"method": method} | BASES[world] | ours | OWN.get((world, method), {})
    if world == "photographs" and isinstance(shots := changes.get("shots"), int) and shots > 0:
        values["epochs"] = max(values["epochs"], round(400 / shots))  # each class is shown 400 times
    return Experiment().changed(**values).changed(**variant | changes)


@dataclass
class _Ready:
    """A run whose settings fit each other, the model and the data: what it is, where it goes, what it needs."""

    experiment: Experiment
    source: datasets.Source
    folder: Path
    classifier: FrozenClassifier
    method: AdaViPro | None
    train: Split
    val: Split


def run(
    experiment: Experiment,
    root: Path | str = "runs",
    resume: bool | None = None,
    device: str = "cpu",
    progress_bar: bool = True,
    watch: training.Watch | None = None,
) -> dict[str, Any]:
    """Train and report one experiment, or return its result where it is finished. Writes result.json last.

    A result has key, settings, split, versions and MEASURES. The test split is evaluated once, after validation picked.
    Two processes that are asked for the same run do it once: the second waits, and reads the result.

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
    source, device = datasets.find(experiment.dataset), str(device)
    key = experiment.key(source)
    folder = experiment.folder(root, key)
    if (done := read_folder(folder, key)) is not None:
        return done
    ready = _prepare(experiment, source, folder, resume, device)
    with FileLock(folder / "lock"):
        if (done := read_folder(folder, key)) is not None:  # another process did it while we waited
            return done
        if experiment.method in BASELINES:
            learned = _learn_baseline(ready, device)
        else:
            learned = _learn_prompt(ready, resume, device, progress_bar, watch)
        if datasets.find(experiment.dataset).version != source.version:
            raise SettingError(f"data set {experiment.dataset!r} changed while the run went on: run it again")
        result = {
            "key": key, "settings": experiment.content(), "split": source.split, **dict.fromkeys(MEASURES), **learned,
            "versions": versions(),
        }  # fmt: skip
        write_json(folder / RESULT, result)
    return result


def read_result(experiment: Experiment, root: Path | str) -> dict[str, Any] | None:
    """The result of a finished run; None where it is not finished. Finished is a whole result.json with the run's key.

    A damaged one is no result: a warning names what is wrong, and `run` writes it anew.
    """
    source = datasets.find(experiment.dataset)
    key = experiment.key(source)
    return read_folder(experiment.folder(root, key), key)


def read_folder(folder: Path, key: str) -> dict[str, Any] | None:
    """The result of the finished run with a key, from its folder; see `read_result`."""
    kinds = {"settings": dict, "versions": dict, "split": str | None, **MEASURES}
    return read_json(folder / RESULT, kinds, key, 1 + 1e-6)  # sums are as exact as float32


def _prepare(
    experiment: Experiment, source: datasets.Source, folder: Path, resume: bool | None, device: str
) -> _Ready:
    """Load and build what a run needs; refuses what does not fit before any work."""
    if resume and not checkpoints.steps_saved(folder / "checkpoints"):
        told = f"there is no checkpoint in {folder / 'checkpoints'} to resume from"
        raise checkpoints.CheckpointError(f"{told}: start the run without asking to resume")
    e = experiment
    classifier = models.load(e.network, source.class_names, device)
    method = None
    if e.method in PROMPTS:
        method = build_method(e.method, e.prompt, e.masks, classifier, e.seed)
    if e.method not in ("zero-shot", "linear-probe"):
        images = e.shots * len(source.class_names) if e.shots else source.counts["train"]
        lengths(e.recipe, images)  # refuses a warm-up without end
    train, val = (source.load(split, classifier.image_px) for split in ("train", "val"))
    if e.shots:
        train = datasets.few(train, source.class_names, e.shots, e.seed)
        val = datasets.few(val, source.class_names, e.shots, e.seed, at_most=True)
    folder.mkdir(parents=True, exist_ok=True)
    return _Ready(experiment, source, folder, classifier, method, train, val)


def _train(
    ready: _Ready, resume: bool | None, device: str, progress_bar: bool, watch: training.Watch | None
) -> training.Progress:
    """Train as far as validation; the test split is out of reach here."""
    e, classifier, method, folder = ready.experiment, ready.classifier, ready.method, ready.folder
    write_json(folder / "config.json", e.content())
    if method is None:
        classifier.refresh_mapping(None, ready.train, 0)
        return training.Progress(mapping=classifier.mapping_index(), best_mapping=classifier.mapping_index())
    resumed = bool(checkpoints.steps_saved(folder / "checkpoints")) if resume is None else resume
    started = time.perf_counter()
    progress = training.train(
        classifier, method, ready.train, ready.val, e.recipe, e.seed, folder / "checkpoints",
        {**e.content(), "class_names": classifier.class_names}, resumed, progress_bar, watch,
    )  # fmt: skip
    if not (resumed and (folder / TIMING).exists()):  # the time of a whole run stays
        _write_timing(folder, None if resumed else time.perf_counter() - started, device)
    import pandas  # here, for it takes its time

    text = pandas.DataFrame(progress.history, dtype=object).to_csv(index=False, lineterminator="\n")
    write_atomically(folder / "metrics.csv", text.encode())
    return progress


def _learn_prompt(
    ready: _Ready, resume: bool | None, device: str, progress_bar: bool, watch: training.Watch | None
) -> dict[str, Any]:
    """Train a prompt, save it, and report it on the test split."""
    e, method = ready.experiment, ready.method
    progress = _train(ready, resume, device, progress_bar, watch)
    if method is not None:
        model = PromptedClassifier(ready.classifier, method, e.method, e.prompt, e.masks, e.network)
        model.save(ready.folder / PROMPT)
    test = asdict(report_test(ready.source, ready.classifier, method))
    return {
        "val_accuracy": progress.best_accuracy if method else None,
        "test_accuracy": test["accuracy"],
        **{name: value for name, value in test.items() if name in MEASURES},
        "best_epoch": progress.best_epoch if method else None,
        "steps": progress.step,
        "parameters": sum(p.numel() for p in method.parameters()) if method else 0,
        "mapping": progress.best_mapping,
    }


def _learn_baseline(ready: _Ready, device: str) -> dict[str, Any]:
    """Learn a linear probe or fine-tune the tower, and report it on the test split. `seconds` are of learning."""
    e, given = ready.experiment, (ready.classifier, ready.train, ready.val)
    started = time.perf_counter()
    probe = e.method == "linear-probe"
    learned = linear_probe(*given) if probe else fine_tune(*given, e.recipe, e.fine_tuning, e.seed)
    _write_timing(ready.folder, time.perf_counter() - started, device)
    checkpoints.write_sealed(ready.folder / baselines.FILE, learned.tensors, {"kind": e.method})
    test = ready.source.load("test", ready.classifier.image_px)
    return {
        "val_accuracy": learned.val_accuracy,
        "test_accuracy": learned.accuracy(test),
        "best_epoch": learned.best_epoch,
        "parameters": sum(t.numel() for t in learned.tensors.values() if t.is_floating_point()),
        "picked": learned.picked,
    }


def report_test(source: datasets.Source, classifier: FrozenClassifier, method: AdaViPro | None) -> Evaluation:
    """Evaluate on the test split. Called once a run, after validation has picked; training cannot call it."""
    return evaluate(classifier, method, source.load("test", classifier.image_px))


def validate(experiment: Experiment, root: Path | str = "runs", device: str = "cpu") -> training.Progress:
    """Train as far as validation, as a search does; the test split is not touched."""
    source = datasets.find(experiment.dataset)
    ready = _prepare(experiment, source, experiment.folder(root, None, source), None, device)
    with FileLock(ready.folder / "lock"):
        return _train(ready, None, device, False, None)


def restore(folder: Path | str, device: str = "cpu") -> PromptedClassifier:
    """Load a finished run's prompted classifier, with the weights that validation picked, from its folder alone.

    A SettingError where the run is not finished or learned no prompt; else errors as of `PromptedClassifier.load`.
    """
    folder = expanded(folder)
    if not (folder / RESULT).exists():
        raise SettingError(f"there is no finished run in {folder}: run it first")
    if not (folder / PROMPT).exists():
        raise SettingError(f"the run in {folder} learned no prompt, as zero-shot: nothing to restore")
    return PromptedClassifier.load(folder / PROMPT, device=device)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    return {n: importlib.metadata.version(n) for n in ("adavipro", "torch", "torchvision", "open_clip_torch")}


def _write_timing(folder: Path, seconds: float | None, device: str) -> None:
    timing = {
        "seconds": None if seconds is None else round(seconds, 2),
        "memory_mb": peak_memory_mb(device),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }
    write_json(folder / TIMING, timing)


def peak_memory_mb(device: str = "cpu") -> int | None:
    """Most memory that this process has had: the GPU's where it computes on one, else the machine's, if it tells."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2 ** (20 if sys.platform == "darwin" else 10)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
