"""Train the small CLIP from scratch on drawn pictures: `python tools/pretrain.py`.

Training goes in rounds. A round draws fresh pictures, makes a few passes over them and saves everything it
needs to go on, so a stopped training continues with the next round. Each picture has two captions, one for
what it shows and one for its colour; the image tower is trained to find each among all captions of its kind,
the text tower to tell them apart.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import captioned
import open_clip
import torch
import torch.nn.functional as F
from card import write_card
from safetensors.torch import load_file, save
from torch import Tensor

from adavipro.datasets.embedded import scenes
from adavipro.datasets.embedded.vocabulary import CLASS_NAMES, COLOURS
from adavipro.io import generator, write_atomically
from adavipro.models.fast import keep_freed_memory


class Captions:
    """All captions of the small world as token ids of a compact vocabulary (the few hundred words in use)."""

    def __init__(self, tokenizer: Any) -> None:
        names = [[t.format(n) for t in captioned.CLASS_TEMPLATES] for n in CLASS_NAMES]
        colours = [[t.format(c) for t in captioned.COLOUR_TEMPLATES] for c in COLOURS]
        ids = [torch.stack([tokenizer(texts) for texts in group]) for group in (names, colours)]
        self.used = torch.unique(torch.cat([i.flatten() for i in ids]))  # sorted: end-of-text stays largest
        self.names, self.colours = (torch.searchsorted(self.used, i) for i in ids)

    def draw(self, g: torch.Generator) -> Tensor:
        """One caption for each class and each colour, templates at random. Returns ids (k, length)."""
        picked = []
        for group in (self.names, self.colours):
            choice = torch.randint(group.shape[1], (len(group),), generator=g)
            picked.append(group[torch.arange(len(group)), choice])
        return torch.cat(picked)


def build(folder: Path, words: int) -> open_clip.CLIP:
    """Make the CLIP that `folder`'s open_clip_config.json describes, with a vocabulary of `words`."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["vocab_size"] = words
    with torch.random.fork_rng(devices=[]):  # open_clip draws its start weights from torch's own generator
        torch.manual_seed(0)
        return open_clip.CLIP(**config)


def export(model: torch.nn.Module, captions: Captions, folder: Path) -> Path:
    """Write the weights in half precision, in open_clip's layout; rows of unused words are zero."""
    state = {k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    table = torch.zeros(config["text_cfg"]["vocab_size"], config["text_cfg"]["width"]).half()
    table[captions.used] = state["token_embedding.weight"]
    state["token_embedding.weight"] = table
    state.pop("attn_mask", None)
    target = folder / "open_clip_model.safetensors"
    write_atomically(target, save(state))
    return target


class Trainer:
    """The state of pretraining: model, optimiser, rounds done."""

    def __init__(self, folder: Path, work: Path, args: argparse.Namespace) -> None:
        self.args, self.folder, self.work = args, folder, work
        self.device = torch.device(args.device)
        name = f"local-dir:{folder}"
        preprocess = open_clip.factory.PreprocessCfg(
            **json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
        )
        self.mean = torch.tensor(preprocess.mean).view(3, 1, 1)
        self.std = torch.tensor(preprocess.std).view(3, 1, 1)
        self.captions = Captions(open_clip.get_tokenizer(name))
        self.model = build(folder, len(self.captions.used)).to(self.device)
        self.parameters = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        decay = [p for p in self.parameters.values() if p.ndim >= 2]
        plain = [p for p in self.parameters.values() if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
        self.steps_a_round = args.passes * math.ceil(args.pictures / args.batch)
        self.done = 0

    def save(self) -> None:
        """Save model, optimiser and round count in one file, renamed into place."""
        tensors = {f"model.{k}": v.detach() for k, v in self.parameters.items()}
        for name, p in self.parameters.items():
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{key}.{name}"] = self.optimizer.state[p][key]
        write_atomically(self.work / "pretrain.safetensors", save(tensors))

    def load(self) -> None:
        """Continue from the last saved round, where there is one."""
        path = self.work / "pretrain.safetensors"
        if not path.exists():
            return
        tensors = load_file(path)
        for name, p in self.parameters.items():
            with torch.no_grad():
                p.copy_(tensors[f"model.{name}"])
            self.optimizer.state[p] = {
                key: tensors[f"{key}.{name}"].to(p.device if key != "step" else "cpu")
                for key in ("exp_avg", "exp_avg_sq", "step")
            }
        log = (self.work / "pretrain.jsonl").read_text().splitlines()
        self.done = int(tensors["step." + name]) // self.steps_a_round
        (self.work / "pretrain.jsonl").write_text("".join(f"{x}\n" for x in log[: self.done]))

    def losses(self, images: Tensor, label: Tensor, colour: Tensor, g: torch.Generator) -> Tensor:
        """Cross-entropy of each picture's two captions among all captions of their kinds."""
        image = self.model.encode_image(images, normalize=True)
        text = self.model.encode_text(self.captions.draw(g).to(self.device), normalize=True)
        scores = self.model.logit_scale.exp() * image @ text.T
        k = len(CLASS_NAMES)
        return F.cross_entropy(scores[:, :k], label) + 0.2 * F.cross_entropy(scores[:, k:], colour)

    def round(self) -> dict[str, float]:
        """Draw pictures, pass over them, and return what the log shows."""
        args, started = self.args, time.perf_counter()
        progress = self.done / args.rounds
        g = generator(args.seed, "pretrain", self.done)
        clutter = 0.7 * min(1.0, progress / 0.4)
        noisy = 0.6 * min(1.0, max(0.0, (progress - 0.15) / 0.2))
        drawn = [
            captioned.pictures(min(800, args.pictures - i), g, clutter) for i in range(0, args.pictures, 800)
        ]
        images, label, colour, coverage = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        images = (images * 255).round().to(torch.uint8)
        coverage = (coverage * 255).round().to(torch.uint8)
        drawing_seconds = time.perf_counter() - started
        self.model.train()
        total, step = 0.0, self.done * self.steps_a_round
        for _ in range(args.passes):
            order = torch.randperm(args.pictures, generator=g)
            for batch in order.split(args.batch):
                fraction = step / (args.rounds * self.steps_a_round)
                rate = args.lr * min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * fraction))
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                x = (images[batch].float() / 255 - self.mean) / self.std
                x = captioned.clutter(x, coverage[batch].float() / 255, g, noisy) if noisy else x
                loss = self.losses(
                    x.to(self.device), label[batch].to(self.device), colour[batch].to(self.device), g
                )
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                with torch.no_grad():
                    self.model.logit_scale.clamp_(0, math.log(100))
                total += loss.item()
                step += 1
        self.done += 1
        seconds = time.perf_counter() - started
        return {
            "round": self.done,
            "pictures": self.done * args.passes * args.pictures,
            "loss": round(total / self.steps_a_round, 4),
            **{k: round(v, 4) for k, v in self.accuracy().items()},
            "clutter": round(clutter, 3),
            "noisy": round(noisy, 3),
            "seconds": round(seconds, 1),
            "drawing_seconds": round(drawing_seconds, 1),
        }

    @torch.no_grad()
    def accuracy(self, pictures: int = 1000, split: str = "pretrain-validation") -> dict[str, float]:
        """Zero-shot accuracy on held-out drawings of the same kind: as they are, and under clutter."""
        self.model.eval()
        g = generator(self.args.seed, split)
        images, label, _, coverage = captioned.pictures(pictures, g, clutter=0.7)
        x = (images - self.mean) / self.std
        text = self.model.encode_text(self.captions.names[:, 0].to(self.device), normalize=True)
        result = {}
        for name, shown in (("clean", x), ("cluttered", captioned.clutter(x, coverage, g, 1.0))):
            found = [
                (self.model.encode_image(part.to(self.device), normalize=True) @ text.T).argmax(1)
                for part in shown.split(250)
            ]
            result[name] = (torch.cat(found).cpu() == label).float().mean().item()
        return result

    @torch.no_grad()
    def calibrate(self, pictures: int = 2000) -> float:
        """Set the logit scale that is best for worn pictures of the same kind. Returns it.

        Training drives the scale up, until a mistake on an unfamiliar picture costs more than a guess would. A prompt
        then lowers its loss fastest by destroying what the classifier sees, and a mask generator by turning every
        region on. CLIP, trained on pictures of every quality, is not so sure of itself.
        """
        self.model.eval()
        g = generator(self.args.seed, "pretrain-calibration")
        images, label, _, _ = captioned.pictures(pictures, g, clutter=0.7)
        x = (scenes.wear(images, g) - self.mean) / self.std
        text = self.model.encode_text(self.captions.names[:, 0].to(self.device), normalize=True)
        cosines = torch.cat(
            [self.model.encode_image(part.to(self.device), normalize=True) @ text.T for part in x.split(250)]
        ).cpu()
        losses = {scale: F.cross_entropy(scale * cosines, label).item() for scale in range(1, 101)}
        best = min(losses, key=losses.__getitem__)
        self.model.logit_scale.fill_(math.log(best))
        return float(best)


def main() -> None:
    """Train until all rounds are done, then write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/small_clip"))
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"))
    parser.add_argument("--rounds", type=int, default=54)
    parser.add_argument("--pictures", type=int, default=12800, help="drawn in each round")
    parser.add_argument("--passes", type=int, default=3, help="over the pictures of a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    trainer = Trainer(args.folder, args.work, args)
    trainer.load()
    while trainer.done < args.rounds:
        row = trainer.round()
        with (args.work / "pretrain.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        trainer.save()
        print(json.dumps(row), flush=True)
    scale = trainer.calibrate()
    weights = export(trainer.model, trainer.captions, args.folder)
    shutil.copy(args.work / "pretrain.jsonl", args.folder / "training_log.jsonl")
    made_on = "two CPU cores, shared with other work,"
    if trainer.device.type == "cuda":
        made_on = torch.cuda.get_device_name(trainer.device)
    card = write_card(args.folder, trainer.accuracy(5000, "pretrain-test"), scale, made_on)
    print(f"wrote {weights} and {card}")


if __name__ == "__main__":
    main()
