"""Saving and loading that cannot lie: atomic, hashed, two generations, no pickle.

A checkpoint is `step-<n>.safetensors` (tensors) and `step-<n>.json` (the manifest: format version, step, settings,
sha256 of the tensors, sha256 of itself). Both are written aside, synced and renamed, the manifest last; a
checkpoint without a sound manifest does not exist.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adavipro.files import PARTIAL, canonical_json, write_atomically

FORMAT = 1
KEEP = 2  # generations
# What reading a damaged file can raise.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not of this run; the message says which and what to do."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Save one generation and remove those older than the one before it.

    Args:
        folder: where checkpoints of one run live.
        step: steps done; names the files.
        tensors: everything that is a tensor.
        settings: everything else, as JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    manifest = {"format": FORMAT, "step": step, "tensors_sha256": _sha256(content), "settings": settings}
    manifest["sha256"] = _sha256(canonical_json(manifest).encode())
    write_atomically(_tensors_path(folder, step), content)
    write_atomically(_manifest_path(folder, step), canonical_json(manifest).encode())
    for old in steps_saved(folder)[KEEP:]:
        _manifest_path(folder, old).unlink(missing_ok=True)
        _tensors_path(folder, old).unlink(missing_ok=True)


def _tensors_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.json"


def steps_saved(folder: Path) -> list[int]:
    """Steps that have a manifest, newest first."""
    found = [p.stem.removeprefix("step-") for p in folder.glob("step-*.json")]
    return sorted((int(s) for s in found if s.isdigit()), reverse=True)


def steps_to_resume(folder: Path) -> list[int]:
    """Steps that have a manifest, newest first.

    Raises:
        CheckpointError: if there is none.
    """
    steps = steps_saved(folder)
    if not steps:
        raise CheckpointError(
            f"there is no checkpoint in {folder} to resume from: start the run without asking to resume"
        )
    return steps


def sweep_partial_files(folder: Path) -> None:
    """Remove what a killed save left behind: partial files, and tensors whose manifest never came."""
    for partial in folder.glob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)
    for tensors in folder.glob("step-*.safetensors"):
        if not tensors.with_suffix(".json").exists():
            tensors.unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove all generations: a run that starts anew must not be mixed up with the former one."""
    for step in steps_saved(folder):
        _manifest_path(folder, step).unlink(missing_ok=True)
    sweep_partial_files(folder)


def load_checkpoint(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load one generation after checking every byte of it. Returns tensors and settings.

    Raises:
        CheckpointError: if a file is missing, cut short, altered, or of another format version.
    """
    with _described(_manifest_path(folder, step)) as path:
        text = path.read_bytes()
        manifest = json.loads(text)
        told = manifest.pop("sha256")
        if told != _sha256(canonical_json(manifest).encode()):
            raise ValueError("its content does not match its own sha256")
        if canonical_json({**manifest, "sha256": told}).encode() != text:
            raise ValueError("its bytes were altered")
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format version {manifest['format']}, but this release reads {FORMAT}: use the release "
                "that wrote it, or start the run anew"
            )
        settings, expected = manifest["settings"], manifest["tensors_sha256"]
    with _described(_tensors_path(folder, step)) as path:
        content = path.read_bytes()
        found = _sha256(content)
        if found != expected:
            raise ValueError(f"its sha256 is {found}, the manifest says {expected}")
        return load(content), settings


@contextlib.contextmanager
def _described(path: Path) -> Iterator[Path]:
    """Turn whatever goes wrong in reading `path` into one CheckpointError that names it."""
    try:
        yield path
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"checkpoint file {path} cannot be used: {error}") from error


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the newest sound generation; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: if there is no checkpoint, or none is sound.
    """
    problems = []
    for step in steps_to_resume(folder):
        try:
            loaded = load_checkpoint(folder, step)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; going on from step {step}", stacklevel=2)
        return loaded
    raise CheckpointError("no checkpoint is sound: " + "; ".join(problems))


def settings_that_differ(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What is stored other than it is here, a phrase for each setting."""
    return [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]


def tensors_that_differ(
    found: dict[str, Tensor], wanted: Mapping[str, Tensor], optional: Collection[str] = ()
) -> list[str]:
    """What is wrong with stored tensors, a phrase for each: missing, of another shape, not finite, or unknown.

    Args:
        wanted: tensors of the right names and shapes.
        optional: names of further tensors that may be there.
    """
    differ = []
    for name, p in wanted.items():
        value = found.get(name)
        if value is None:
            differ.append(f"tensor {name} is missing")
        elif value.shape != p.shape:
            differ.append(f"tensor {name} has shape {tuple(value.shape)} there, {tuple(p.shape)} here")
        elif not value.isfinite().all():
            differ.append(f"tensor {name} holds values that are not finite")
    return differ + [f"tensor {n} is unknown" for n in sorted(found.keys() - wanted.keys() - set(optional))]
