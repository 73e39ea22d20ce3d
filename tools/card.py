"""The small CLIP's model card, written by the training from what it measured."""

import hashlib
import json
from pathlib import Path

from captioned import CLASS_TEMPLATES, COLOUR_TEMPLATES, HIDDEN, SHAPES
from safetensors.torch import load

from adavipro.datasets.embedded.vocabulary import CLASS_NAMES, DIGITS, LETTERS, SYMBOLS, TEXTURES
from adavipro.io import write_atomically

TEXT = """# Small CLIP: model card

A CLIP for pictures of 56 x 56 px, small enough to adapt on two CPU cores in seconds. It stands for CLIP
ViT-B/32 in the embedded world: 7 x 7 patches of 8 px where that has 7 x 7 patches of 32 px.

| what | value |
| --- | --- |
| image tower | ViT, {layers} layers of width {width}, mean pooling (`open_clip_config.json`) |
| text tower | transformer, {text_layers} layers of width {text_width} |
| parameters of the image tower | {parameters:,} |
| file | `open_clip_model.safetensors`, half precision, {megabytes:.1f} MB |
| sha256 | `{sha256}` |
| zero-shot accuracy, 5,000 held-out drawings of its own kind | {clean:.1%} of {classes} classes |
| the same, under clutter | {cluttered:.1%} |
| licence | MIT, as the project |

## What it was trained on

{pictures:,} pictures, all drawn by `adavipro/datasets/embedded/` and `tools/captioned.py` while it trained; no
photograph and no data of others.
{digits} digits and {letters} capital letters in 20 of the font faces that matplotlib ships, {symbols} symbols
in 5 faces, and {textures} textures, at random place, size, tilt, slant and colour (12 named colours), over
backgrounds with clouds, grain and faint textures.

**Clutter.** Photographs have things beside and before what they show, and CLIP has learned to bear them. So from early
on up to {noisy:.0%} of the pictures carried up to {shapes} foreign boxes, discs, bars and blobs of random place, size
and tilt, filled with noise, with a smear of the picture, with a plain colour or with a pattern. The clutter follows
neither AdaViPro's grid nor VP's frame. It heeds the object in one way: a shape that would have brought the hidden
part of the object over {hidden:.0%} was left out.

## How

Each picture has two captions: what it shows ({class_templates}) and its colour ({colour_templates}). The loss
is the cross-entropy of the cosine with all captions of the kind, times a learned scale, colour weighted 0.2.
AdamW, warm-up and cosine; backgrounds and clutter grow over the first part of the run. `training_log.jsonl` has a
line for each of the {rounds} rounds, with its loss, its accuracy on {validation} validation drawings and its
time: {hours:.1f} hours on the {device} where it was made.

**The logit scale is set, not learned.** Training ends with a scale that is far too sure of itself on unfamiliar
pictures, so it was then set to {scale:g}, the best one for 2,000 validation drawings with less contrast, blur and
noise. No data set that the kit adapts to was used for it. Without this step a mistake costs more than a guess, and
every prompt learns to destroy what the classifier sees.

    make pretrain

trains it again, and goes on where it was stopped.

## What it is not for

It knows these classes in these styles and nothing else. A word that is not in its captions has a zero
embedding.
"""


def write_card(
    folder: Path,
    accuracy: dict[str, float],
    scale: float,
    device: str,
) -> Path:
    """Write README.md beside the weights in `folder`. Returns its path."""
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    vision, text = config["vision_cfg"], config["text_cfg"]
    content = TEXT.format(
        layers=vision["layers"],
        width=vision["width"],
        text_layers=text["layers"],
        text_width=text["width"],
        parameters=image_parameters(weights),
        megabytes=len(weights) / 1e6,
        sha256=hashlib.sha256(weights).hexdigest(),
        clean=accuracy["clean"],
        cluttered=accuracy["cluttered"],
        noisy=log[-1]["noisy"],
        shapes=SHAPES,
        hidden=HIDDEN,
        scale=scale,
        classes=len(CLASS_NAMES),
        pictures=log[-1]["pictures"],
        digits=len(DIGITS),
        letters=len(LETTERS),
        symbols=len(SYMBOLS),
        textures=len(TEXTURES),
        class_templates=", ".join(f'"{t}"' for t in CLASS_TEMPLATES),
        colour_templates=", ".join(f'"{t}"' for t in COLOUR_TEMPLATES),
        rounds=len(log),
        validation="1,000",
        hours=sum(row["seconds"] for row in log) / 3600,
        device=device,
    )
    path = folder / "README.md"
    write_atomically(path, content.encode())
    return path


def image_parameters(weights: bytes) -> int:
    """Count the numbers in the image tower's tensors."""
    return sum(t.numel() for name, t in load(weights).items() if name.startswith("visual."))
