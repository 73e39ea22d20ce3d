"""One validated experiment in, one finished run folder out."""

import contextlib
import importlib.metadata
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from adavipro import checkpoints, datasets, settings, training
from adavipro.building import build_method as build_method  # one module to import for a reader's needs
from adavipro.building import check_image_size as check_image_size
from adavipro.building import load_classifier as load_classifier
from adavipro.classifiers import FrozenClassifier
from adavipro.configuration import METHODS as METHODS
from adavipro.configuration import Experiment as Experiment
from adavipro.datasets import Split
from adavipro.environment import device_name, peak_memory_mb
from adavipro.evaluation import Evaluation, evaluate
from adavipro.files import locked, to_csv, write_atomically, write_json
from adavipro.method import AdaViPro
from adavipro.parallel import ALONE, Team
from adavipro.progress import Progress
from adavipro.schedules import Recipe, steps_an_epoch, warmup_length
from adavipro.settings import SettingError


def recipe_of(experiment: Experiment) -> Recipe:
    """The part of an experiment that says how to train."""
    return Recipe(**{f.name: getattr(experiment, f.name) for f in fields(Recipe)})


def report_test(
    experiment: Experiment, classifier: FrozenClassifier, method: AdaViPro | None, team: Team = ALONE
) -> Evaluation:
    """Evaluate on the test split. Called once a run, after validation has picked; training cannot call it."""
    test = datasets.load_split(experiment.dataset, "test", classifier.image_px)
    return evaluate(classifier, method, test, team=team)


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


class _Ready(NamedTuple):
    """A run whose settings fit each other, the model and the data."""

    classifier: FrozenClassifier
    method: AdaViPro | None
    train: Split
    val: Split


def _prepare(experiment: Experiment, root: Path, resume: bool | None, device: str) -> _Ready:
    """Load and build what a run needs; refuses what does not fit before any work."""
    if resume:
        checkpoints.steps_to_resume(experiment.folder(root) / "checkpoints")
    classifier = load_classifier(experiment, device)
    check_image_size(experiment, classifier)
    method = build_method(experiment, classifier)
    name, px = experiment.dataset, classifier.image_px
    if method is not None:
        recipe = recipe_of(experiment)
        warmup_length(recipe, recipe.epochs * steps_an_epoch(recipe, datasets.count(name, "train")))
    train, val = (datasets.load_split(name, split, px) for split in ("train", "val"))
    return _Ready(classifier, method, train, val)


@contextlib.contextmanager
def _alone_in(folder: Path, team: Team) -> Iterator[None]:
    """Keep other processes out of a run's folder while this is open; they wait, and find the work done."""
    if team.size == 1:
        with locked(folder / "lock"):
            yield
        return
    with contextlib.ExitStack() as held:
        # Together, for a process that waits for the others in a collective gives up after some minutes.
        while not team.all(team.rank > 0 or held.enter_context(locked(folder / "lock", wait=False)))[0]:
            time.sleep(1)
        yield


def _train(
    experiment: Experiment,
    root: Path,
    ready: _Ready,
    resume: bool | None,
    device: str,
    progress_bar: bool,
    watch: training.Watch | None,
    team: Team,
) -> Progress:
    classifier, method, train, val = ready
    folder, first = experiment.folder(root), team.rank == 0
    if first:
        write_json(folder / "config.json", asdict(experiment))
    if method is None:
        classifier.refresh_mapping(None, train, 0, team)
        return Progress(mapping=classifier.mapping_index(), best_mapping=classifier.mapping_index())
    resumed = bool(checkpoints.steps_saved(folder / "checkpoints")) if resume is None else resume
    resumed = all(team.all(resumed))
    started = time.perf_counter()
    progress = training.fit(
        classifier,
        method,
        train,
        val,
        recipe_of(experiment),
        experiment.seed,
        folder / "checkpoints",
        identity={**settings.content(experiment), "class_names": classifier.class_names},
        resume=resumed,
        generator_momentum=experiment.generator_momentum,
        progress_bar=progress_bar and first,
        watch=watch,
        team=team,
    )
    if first:
        timing = {
            "seconds": None if resumed else round(time.perf_counter() - started, 2),  # of a whole run only
            "memory_mb": peak_memory_mb(device),
            "threads": torch.get_num_threads(),
            "device": device_name(device),
            "processes": team.size,
        }
        write_json(folder / "timing.json", timing)
        write_atomically(folder / "metrics.csv", to_csv(progress.history).encode())
    return progress


def train_or_resume(
    experiment: Experiment,
    root: Path,
    resume: bool | None = None,
    device: str = "cpu",
    progress_bar: bool = True,
    watch: training.Watch | None = None,
) -> tuple[FrozenClassifier, AdaViPro | None, Progress]:
    """Train on the training split, pick the epoch on validation; the test split is out of reach here.

    The run's folder gets config.json, checkpoints/, metrics.csv and timing.json. For the arguments see `run`. Returns
    the frozen classifier, the method with the weights that were picked (None for zero-shot), and the progress.
    """
    ready = _prepare(experiment, root, resume, device)
    with _alone_in(experiment.folder(root), ALONE):
        progress = _train(experiment, root, ready, resume, device, progress_bar, watch, ALONE)
    return ready.classifier, ready.method, progress


def run(
    experiment: Experiment,
    root: Path = Path("runs"),
    resume: bool | None = None,
    device: str = "cpu",
    progress_bar: bool = True,
    watch: training.Watch | None = None,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Train and report one experiment, or return its result where it is finished. Writes result.json last.

    Two processes that are asked for the same run do it once: the second waits, and reads the result.

    Args:
        root: folder of run folders.
        resume: True goes on from a checkpoint and fails without one; False starts anew; None goes on where there
            is a checkpoint.
        device: where to compute.
        watch: called after each epoch of a training with the method and the metrics so far.
        team: processes that share the run, as torchrun starts them.

    Raises:
        SettingError: if the settings do not fit each other or the model, before any work starts.
        CheckpointError: if resuming is asked for and there is nothing sound to resume from.
    """
    done = team.all(read_result(experiment, root))[0]
    if done is not None:
        return done
    installed, key, folder = versions(), experiment.key(), experiment.folder(root)
    ready = _prepare(experiment, root, resume, device)
    with _alone_in(folder, team):
        done = team.all(read_result(experiment, root))[0]
        if done is not None:
            return done
        progress = _train(experiment, root, ready, resume, device, progress_bar, watch, team)
        method = ready.method
        test = report_test(experiment, ready.classifier, method, team)
        if experiment.key() != key:
            raise SettingError(f"data set {experiment.dataset!r} changed while the run went on: run it again")
        result = {
            "key": key,
            "settings": asdict(experiment),
            "split": datasets.split_source(experiment.dataset),
            "val_accuracy": progress.best_accuracy if method else None,
            "test_accuracy": test.accuracy,
            "share_on": test.share_on,
            "mask_diversity": test.mask_diversity,
            "object_cover": test.object_cover,
            "best_epoch": progress.best_epoch if method else None,
            "steps": progress.step,
            "parameters": sum(p.numel() for p in method.parameters()) if method else 0,
            "mapping": progress.best_mapping,
            "versions": installed,
        }
        if team.rank == 0:
            write_json(folder / "result.json", result)
    return result


def restore(
    experiment: Experiment, root: Path = Path("runs"), device: str = "cpu"
) -> tuple[FrozenClassifier, AdaViPro]:
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
    classifier.use_mapping(result.get("mapping"))
    return classifier, method
