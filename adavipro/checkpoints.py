"""Saving and loading that cannot lie: one file that is whole, hashed and without pickle; two generations of a training.

A sealed file is safetensors with a manifest (JSON) in its metadata: the format's version, settings, and the sha256 of
all of it. It is written aside, synced and renamed; it is used only if its hash and its every byte are right.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adavipro.io import PARTIAL, canonical_json, write_atomically

FORMAT = 2
KEEP = 2  # generations
# What reading a damaged file can raise.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not of this run; the message says which and what to do."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], settings: dict[str, Any]) -> None:
    """Write tensors, and settings as JSON values, into one sealed file, atomically."""
    content = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _seal(content, {"format": FORMAT, "settings": settings}))


def _seal(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> bytes:
    told = canonical_json(manifest)
    sha256 = hashlib.sha256(told.encode() + save(tensors)).hexdigest()
    # One entry, for the order of several is not fixed.
    return save(tensors, {"manifest": canonical_json({"sha256": sha256, "content": told})})


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a sealed file after checking every byte of it. Returns tensors and settings.

    Raises:
        CheckpointError: if it is missing, cut short, altered, or of another format version.
    """
    try:
        content = path.read_bytes()
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        manifest = json.loads(json.loads(head["__metadata__"]["manifest"])["content"])
        tensors = load(content)
        if manifest["format"] != FORMAT:
            told = f"{path} has format version {manifest['format']}, but this release reads {FORMAT}"
            raise CheckpointError(f"{told}: use the release that wrote it, or make it anew")
        if _seal(tensors, manifest) != content:  # the hash, and every byte that is in no tensor
            raise ValueError("its content does not match its sha256")
        return tensors, manifest["settings"]
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


# --- Generations of a training ----------------------------------------------------------------------------------


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], settings: dict[str, Any]) -> None:
    """Save the generation of a step, and remove those older than the one before it."""
    write_sealed(_path(folder, step), tensors, settings)
    for old in steps_saved(folder)[KEEP:]:
        _path(folder, old).unlink(missing_ok=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def steps_saved(folder: Path) -> list[int]:
    """Steps that have a checkpoint, newest first."""
    found = [p.stem.removeprefix("step-") for p in folder.glob("step-*.safetensors")]
    return sorted((int(s) for s in found if s.isdecimal()), reverse=True)


def clear(folder: Path, keep_saved: bool) -> None:
    """Remove what a killed save left behind, and all generations unless they are kept."""
    for stray in folder.glob(f"step-*{PARTIAL}"):
        stray.unlink(missing_ok=True)
    for step in [] if keep_saved else steps_saved(folder):
        _path(folder, step).unlink(missing_ok=True)


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the newest sound generation, past damaged ones with a warning; a CheckpointError where none is sound."""
    problems: list[str] = []
    for step in steps_saved(folder):
        try:
            loaded = read_sealed(_path(folder, step))
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; going on from step {step}", stacklevel=2)
        return loaded
    if not problems:
        told = f"there is no checkpoint in {folder} to resume from"
        raise CheckpointError(f"{told}: start the run without asking to resume")
    raise CheckpointError("no checkpoint is sound: " + "; ".join(problems))


# --- What is stored, held against what is here --------------------------------------------------------------------


def settings_that_differ(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What is stored other than it is here, a phrase for each setting."""
    differ = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    return [f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in differ]


def tensors_that_differ(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with stored tensors, a phrase for each: missing, of another shape, not finite, or unknown."""
    differ = []
    for name, p in wanted.items():
        value = found.get(name)
        if value is None:
            differ.append(f"tensor {name} is missing")
        elif value.shape != p.shape:
            differ.append(f"tensor {name} has shape {tuple(value.shape)} there, {tuple(p.shape)} here")
        elif not value.isfinite().all():
            differ.append(f"tensor {name} holds values that are not finite")
    return differ + [f"tensor {n} is unknown" for n in sorted(found.keys() - wanted.keys())]
