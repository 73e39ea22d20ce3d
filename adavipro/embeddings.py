"""Class embeddings: a CLIP's text encoder, called once for a list of class names and kept on disk."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adavipro.files import canonical_json, locked, write_atomically
from adavipro.storage import cache_folder

WORTH_KEEPING = (
    10_000_000  # weights of a text encoder; a smaller one computes faster than its weights are hashed
)


def class_embeddings(model: Any, tokens: Tensor, architecture: dict[str, Any]) -> Tensor:
    """Embed texts with a CLIP's text encoder, or read what it made of them before.

    They are kept in the cache folder under a hash of all that decides them, to the last bit. A kept file that is
    damaged is computed anew, and a folder that cannot be written is no failure; both with a warning.

    Args:
        model: an open_clip model on the CPU.
        tokens: int64 (k, length), from its tokenizer.
        architecture: open_clip's config of the model: heads and activations are not seen in its weights.

    Returns:
        Unit vectors (k, d).
    """
    weights = {n: p for n, p in model.state_dict().items() if not n.startswith(("visual.", "logit_"))}
    if sum(p.numel() for p in weights.values()) < WORTH_KEEPING:
        return _encode(model, tokens)
    path = cache_folder() / "embeddings" / f"{_key(weights, tokens, architecture)}.safetensors"
    embeddings = None
    try:
        with locked(path.with_suffix(".lock")):  # of several processes one computes and the others read
            embeddings = _read(path, len(tokens))
            if embeddings is None:
                embeddings = _encode(model, tokens)
                content = save({"embeddings": embeddings}, {"sha256": _sha256(embeddings)})
                write_atomically(path, content)
    except OSError as error:
        warnings.warn(f"class embeddings cannot be kept in {path.parent}: {error}", stacklevel=3)
    return _encode(model, tokens) if embeddings is None else embeddings


@torch.no_grad()
def _encode(model: Any, tokens: Tensor) -> Tensor:
    return model.encode_text(tokens, normalize=True)


def _key(weights: dict[str, Tensor], tokens: Tensor, architecture: dict[str, Any]) -> str:
    """Hash of all that decides embeddings: the number of threads and the processor's kind move their last bits."""
    versions = [torch.__version__, open_clip.__version__]
    computed_by = [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    text = {k: v for k, v in architecture.items() if k != "vision_cfg"}
    content = hashlib.sha256(canonical_json([versions, computed_by, text, list(tokens.shape)]).encode())
    for name in sorted(weights):
        content.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
        content.update(weights[name].numpy().tobytes())
    content.update(tokens.numpy().tobytes())
    return content.hexdigest()


def _read(path: Path, count: int) -> Tensor | None:
    """Read what was kept after checking all of it; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            embeddings: Tensor = file.get_tensor("embeddings")
            told = (file.metadata() or {}).get("sha256")
        lengths = embeddings.double().norm(dim=-1)
        if told != _sha256(embeddings):
            raise ValueError("its content does not match its sha256")
        if embeddings.ndim != 2 or len(embeddings) != count or not ((lengths - 1).abs() < 1e-3).all():
            raise ValueError(f"it does not hold {count} unit vectors")
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        warnings.warn(f"{path} cannot be used and is computed anew: {error}", stacklevel=4)
        return None
    return embeddings


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
