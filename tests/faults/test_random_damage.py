"""Files that a run has written or a user gives, damaged at random: used as they were meant, or refused by name."""

import io
import json
import math
import os
import pickle
import shutil
import time
import warnings
from pathlib import Path

import nine_samples
import numpy as np
import own_network
import pytest
import torch
from helpers import draw_image, draw_splits, small_splits, tiny
from PIL import Image

import adavipro
from adavipro import checkpoints, datasets, experiment, training
from adavipro.checkpoints import CheckpointError
from adavipro.datasets.images import ImageError, to_tensor
from adavipro.recipe import SettingError
from adavipro.report import results
from adavipro.sweeps import grids

pytestmark = [
    pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning"),
    pytest.mark.filterwarnings("ignore::adavipro.datasets.nine.PartialDataWarning"),
]
RUN = tiny("adavipro", epochs=3)


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The root of a finished run."""
    root = tmp_path_factory.mktemp("whole")
    experiment.run(RUN, root, progress_bar=False)
    return root


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """The folder of a copy of it."""
    return RUN.folder(shutil.copytree(whole, tmp_path / "copy"))


def content(folder) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "timing.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def flipped(whole, chance, first=0) -> bytes:
    """Bytes with one bit flipped, at `first` or behind it."""
    damaged = bytearray(whole)
    damaged[chance.randrange(first, len(whole))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


# --- Checkpoints and results --------------------------------------------------------------------------------------


@pytest.mark.fault("one flipped bit in a checkpoint", quick=4, long=1000)
def test_flipped_bit_in_a_checkpoint_is_found_and_the_former_is_loaded(copy, chance):
    newest = copy / "checkpoints" / "step-00000009.safetensors"
    newest.write_bytes(flipped(newest.read_bytes(), chance))
    with pytest.raises(CheckpointError, match=newest.name):
        checkpoints.read_sealed(newest)
    with pytest.warns(UserWarning, match=rf"{newest.name}.*going on from step 6"):
        assert checkpoints.load_newest(newest.parent)[1]["progress"]["step"] == 6


@pytest.mark.fault("a checkpoint cut short", long=100)
def test_run_goes_on_from_before_a_checkpoint_that_is_cut_short(whole, copy, chance):
    (copy / "result.json").unlink()
    newest = copy / "checkpoints" / "step-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[: chance.randrange(newest.stat().st_size)])
    with pytest.warns(UserWarning, match=rf"{newest.name}.*going on from step 6"):
        experiment.run(RUN, copy.parent, progress_bar=False)
    assert content(copy) == content(RUN.folder(whole))


@pytest.mark.fault("a result file that was cut or edited", long=100)
def test_result_that_is_cut_or_lacks_something_is_written_anew(whole, copy, chance, monkeypatch):
    file = copy / "result.json"
    if chance.random() < 0.5:
        file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size - 2)])
    else:
        edited = json.loads(file.read_text())
        name = chance.choice([*experiment.MEASURES, "key", "settings"])
        edited[name] = {"a": 1} if name == "mapping" else [1]
        if chance.random() < 0.5:
            del edited[name]
        file.write_text(json.dumps(edited))
    monkeypatch.setattr(training, "train_step", None)
    with pytest.warns(UserWarning, match=r"result\.json is damaged and counts as not there"):
        experiment.run(RUN, copy.parent, progress_bar=False)
    assert content(copy) == content(RUN.folder(whole))


# --- Training -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("NaN or infinity in a pixel, the loss or a gradient", long=100)
def test_value_that_is_not_finite_at_any_step_stops_the_training_before_it(tmp_path, chance, monkeypatch):
    last, value = chance.randrange(15), chance.choice([math.nan, math.inf, -math.inf])
    where = chance.choice(["pixel", "loss", "gradient"])
    step, begun, before, spoilt = training.train_step, 0, {}, None

    def spoiling(classifier, method, optimizer, images, *rest):
        nonlocal begun, spoilt
        if begun == last:
            before.update((name, p.detach().clone()) for name, p in method.named_parameters())
            spoilt = method
            if where == "pixel":
                images = images.clone()
                images.view(-1)[chance.randrange(images.numel())] = value
            elif where == "loss":
                monkeypatch.setattr(
                    torch.nn.functional, "cross_entropy", lambda scores, _: scores.sum() * value
                )
            else:
                p = chance.choice(list(method.parameters()))
                place = chance.randrange(p.numel())
                p.register_hook(lambda g: g.flatten().index_fill(0, torch.tensor([place]), value).view_as(g))
        begun += 1
        return step(classifier, method, optimizer, images, *rest)

    monkeypatch.setattr(training, "train_step", spoiling)
    with pytest.raises(
        training.TrainingDiverged, match=rf"not finite at step {last} \(epoch {last // 5 + 1}, images \["
    ):
        own_network.fit(tmp_path, epochs=3)
    assert begun == last + 1
    for name, p in spoilt.named_parameters():
        assert torch.equal(p, before[name])
    assert max(checkpoints.steps_saved(tmp_path), default=0) == 5 * (last // 5)


# --- Images -------------------------------------------------------------------------------------------------------

KINDS = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "WEBP lossless": {"lossless": True},
}


def picture(chance, **more) -> tuple[str, bytes]:
    """A picture's kind and content: noise of random size over a slope, so that each place has its own pixels."""
    width, height = chance.randint(20, 90), chance.randint(20, 90)
    noise = np.random.default_rng(chance.randrange(2**32)).integers(0, 64, (height, width, 3))
    slope = np.linspace(0, 150, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    kind, file = chance.choice(list(KINDS)), io.BytesIO()
    Image.fromarray((noise + slope).astype(np.uint8)).save(file, kind.split()[0], **KINDS[kind], **more)
    return kind, file.getvalue()


def read(content) -> torch.Tensor | None:
    """The tensor of an image, or None where it is refused; Pillow may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return to_tensor(content, 24)
        except ImageError:
            return None


@pytest.mark.fault("a damaged image", quick=4, long=500)
def test_image_that_is_cut_anywhere_is_refused_or_whole(chance):
    _, content = picture(chance)
    found = read(content[: chance.randrange(len(content))])
    assert found is None or torch.equal(found, read(content))


@pytest.mark.fault("a damaged image", quick=4, long=500)
def test_image_with_random_bytes_is_refused_or_an_image(chance):
    _, content = picture(chance)
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 20)):
        damaged[chance.randrange(len(content))] = chance.randrange(256)
    found = read(bytes(damaged))
    assert found is None or (found.shape, found.dtype) == ((3, 24, 24), torch.uint8)


@pytest.mark.fault("damaged EXIF", quick=4, long=500)
def test_picture_whose_exif_is_damaged_at_random_is_there_in_one_of_eight_ways(chance):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = chance.randint(1, 8), "a picture", 72.0
    damaged = exif.tobytes()
    for _ in range(chance.randint(1, 8)):
        damaged = flipped(damaged, chance, first=6)  # behind the word Exif
    damaged = damaged[: chance.randint(8, len(damaged))]
    stored, file = Image.open(io.BytesIO(picture(chance)[1])).convert("RGB"), io.BytesIO()
    kind, how = chance.choice([("PNG", {}), ("WEBP", {"lossless": True})])
    stored.save(file, kind, exif=damaged, **how)
    ways = [stored] + [stored.transpose(way) for way in Image.Transpose]
    found = read(file.getvalue())
    assert found is not None
    assert any(torch.equal(found, to_tensor(way, 24)) for way in ways)


# --- Links --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("a link that leads out of a folder of images", quick=2, long=100)
def test_link_that_leads_out_is_refused_or_hashed_and_read_as_what_it_shows(tmp_path, chance):
    folder, outside = draw_splits(tmp_path / "inside", ("star", "moon")), tmp_path / "outside"
    draw_image(outside / "own.png", 999)
    (outside / "secret.txt").write_text("nobody may see this")
    link = folder / chance.choice(["train", "val", "test"]) / chance.choice(["star", "moon"]) / "link.png"
    target = chance.choice(["own.png", "secret.txt", "nowhere.png", ""])
    link.symlink_to(
        os.path.relpath(outside / target, link.parent) if chance.random() < 0.5 else outside / target
    )
    told = ""
    try:
        before = datasets.find(f"folder:{folder}").version
        split = datasets.load_split(f"folder:{folder}", link.parts[-3])
    except SettingError as error:
        told = str(error)
    if told:
        assert link.parent.name in told
        assert "nobody" not in told
        return
    assert target == "own.png"
    shown = to_tensor((outside / "own.png").read_bytes(), 56)
    assert sum(torch.equal(image, shown) for image in split.images) == 1
    draw_image(outside / "own.png", 998)
    assert datasets.find(f"folder:{folder}").version != before


# --- Pickles ------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def in_run(name):
    return lambda copy, top: (
        copy / name,
        lambda: experiment.restore(experiment.run(RUN, copy.parent) and copy),
    )


def in_folder(name):
    def place(copy, top):
        folder = draw_splits(top / "pictures", ("star", "moon"))
        return folder / name, lambda: datasets.load_split(f"folder:{folder}", "train")

    return place


def in_eurosat(copy, top):
    file = nine_samples.write("eurosat", top / "data", coop=True) / "split_zhou_EuroSAT.json"
    return file, lambda: datasets.find("eurosat")


PLACES = {
    "result.json": in_run("result.json"),
    "prompt.safetensors": in_run("prompt.safetensors"),
    "timing.json": in_run("timing.json"),
    "config.json": in_run("config.json"),
    "a saved classifier": lambda copy, top: (top / "saved", lambda: adavipro.load(top / "saved")),
    "an image": in_folder("train/star/0.png"),
    "classes.json": in_folder("classes.json"),
    "a split file": in_eurosat,
    "a results file": lambda copy, top: (top / "x.csv", lambda: results.read(top / "x.csv")),
    "a table file": lambda copy, top: (top / "x.yaml", lambda: grids.read(top / "x.yaml")),
    "a picture to classify": lambda copy, top: (
        top / "x.png",
        lambda: to_tensor((top / "x.png").read_bytes(), 56),
    ),
}


@pytest.mark.fault("a pickle that runs code, in the place of a file that is read")
@pytest.mark.parametrize("form", [pickle.dump, torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("place", PLACES)
def test_pickle_in_the_place_of_any_file_is_not_executed(place, form, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    file, read_it = PLACES[place](copy, tmp_path)
    bomb = Bomb(tmp_path / "executed")
    with file.open("wb") as opened:
        form(bomb, opened)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if place in ("result.json", "timing.json", "config.json"):  # as if they were not there
            read_it()
        else:
            with pytest.raises((ValueError, OSError)):
                read_it()
    assert not (tmp_path / "executed").exists()


# --- Table files --------------------------------------------------------------------------------------------------

SOUND = "table: x\nworld: embedded\ndatasets: [digits]\nmethods: [vp]\nprompt_px: [8]\n"


TRAPS = {
    "a list that holds itself": lambda chance: SOUND + "seeds: &a [*a]\n",
    "brackets": lambda chance: SOUND + "seeds: " + "[" * chance.randint(1_000, 20_000),
    "a python object": lambda chance: SOUND + "seeds: !!python/object/apply:os.mkdir [executed]\n",
}


@pytest.mark.fault("a table file that holds itself, is nested without end, or holds code", long=10)
@pytest.mark.parametrize("trap", TRAPS)
def test_table_file_that_is_a_trap_is_one_sentence_at_once(trap, chance, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(TRAPS[trap](chance))
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"x\.yaml") as caught:
        grids.read(tmp_path / "x.yaml")
    assert time.monotonic() - begun < 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "executed").exists()
