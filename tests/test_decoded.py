"""Images decoded once and mapped: the same pixels as the explicit transform, and what is kept on disk."""

import hashlib
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import nine_samples
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from adavipro import decoded, nine
from adavipro.decoded import open_split
from adavipro.decoding import to_tensor

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")


def explicit(image, px):
    """The transform that users of CLIP write, on the RGB image."""
    steps = transforms.Compose(
        [
            transforms.Resize(px, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(px),
            transforms.PILToTensor(),
        ]
    )
    return steps(image.convert("RGB"))


def noise(width, height, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_file(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.fromarray(noise(70, 50)[..., 0])
PALETTE = Image.fromarray(noise(70, 50)).quantize(64)
TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES = {
    "landscape": as_file(Image.fromarray(noise(500, 375)), "JPEG"),
    "portrait": as_file(Image.fromarray(noise(333, 499)), "JPEG"),
    "odd sides": as_file(Image.fromarray(noise(301, 227)), "PNG"),
    "tiny": as_file(Image.fromarray(noise(32, 32)), "PNG"),
    "strip": as_file(Image.fromarray(noise(9, 120)), "PNG"),
    "grey": as_file(GREY, "JPEG"),
    "CMYK": as_file(Image.fromarray(noise(70, 50, 4), "CMYK"), "JPEG"),
    "palette": as_file(PALETTE, "PNG"),
    "GIF": as_file(PALETTE, "GIF"),
    "palette with one clear colour": as_file(PALETTE, "PNG", transparency=3),
    "RGBA": as_file(Image.fromarray(noise(70, 50, 4)), "PNG"),
    "EXIF": as_file(Image.fromarray(noise(70, 50)), "JPEG", exif=TURNED),
}


@pytest.mark.parametrize("px", [56, 224])
@pytest.mark.parametrize("kind", PICTURES)
def test_pixels_are_those_of_the_explicit_transform_bit_for_bit(kind, px):
    found = to_tensor(PICTURES[kind], px, plain=True)
    assert torch.equal(found, explicit(Image.open(io.BytesIO(PICTURES[kind])), px))


@pytest.mark.parametrize("kind", ["landscape", "portrait", "odd sides", "tiny", "strip", "EXIF"])
def test_pixels_are_those_of_open_clips_own_transform(kind):
    transform = open_clip.image_transform(224, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    expected = transform(Image.open(io.BytesIO(PICTURES[kind])))
    assert torch.equal(to_tensor(PICTURES[kind], 224, plain=True).float() / 255, expected)


def test_own_folders_are_turned_and_filled_with_white_and_the_nine_are_not():
    for kind in ("EXIF", "RGBA", "palette with one clear colour"):
        assert not torch.equal(to_tensor(PICTURES[kind], 56), to_tensor(PICTURES[kind], 56, plain=True))


# --- What is kept -----------------------------------------------------------------------------------------------


@pytest.fixture
def listing(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    nine_samples.write("oxfordpets", tmp_path / "data")
    return nine.list_dataset("oxfordpets")


@pytest.mark.parametrize("px", [24, 48])
def test_split_holds_its_pictures_in_order(listing, px, tmp_path):
    for split in ("train", "val", "test"):
        images = open_split(listing, "oxfordpets", split, px)
        pictures = listing.pictures[split]
        assert (images.shape, images.dtype) == ((len(pictures), 3, px, px), torch.uint8)
        for image, (picture, _) in zip(images, pictures, strict=True):
            assert torch.equal(image, explicit(Image.open(listing.folder / picture.path), px))
    kept = {path.name for path in (tmp_path / "cache" / "decoded" / "oxfordpets").iterdir()}
    own = f"{px}px-{listing.version[:12]}"
    assert kept == {f"{s}-{own}.{end}" for s in ("train", "val", "test") for end in ("bytes", "json", "lock")}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_records_of_cifar_are_planes_of_red_green_and_blue(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path))
    nine_samples.write(name, tmp_path)
    listing = nine.list_dataset(name)
    small = open_split(listing, name, "val", 32, tmp_path / "decoded")
    large = open_split(listing, name, "val", 56, tmp_path / "decoded")
    for i, (picture, _) in enumerate(listing.pictures["val"]):
        record = (listing.folder / picture.path).read_bytes()[picture.offset :][:3072]
        planes = torch.frombuffer(bytearray(record), dtype=torch.uint8).view(3, 32, 32)
        assert torch.equal(small[i], planes)
        assert torch.equal(large[i], explicit(transforms.functional.to_pil_image(planes), 56))


def test_split_is_built_once_and_written_to_by_nobody(listing, tmp_path, monkeypatch):
    first = open_split(listing, "oxfordpets", "val", 24)
    (file,) = (tmp_path / "cache/decoded/oxfordpets").glob("val-24px-*.bytes")
    before = file.read_bytes()
    assert before == first.numpy().tobytes()
    monkeypatch.setattr(decoded, "_decode", None)
    first.zero_()  # the mapping is private
    assert open_split(listing, "oxfordpets", "val", 24).numpy().tobytes() == before == file.read_bytes()


def test_manifest_has_a_checksum_for_each_chunk(listing, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "CHUNK", 10_000)
    images = open_split(listing, "oxfordpets", "test", 24, tmp_path)
    content = images.numpy().tobytes()
    (file,) = (tmp_path / "oxfordpets").glob("test-24px-*.json")
    manifest = json.loads(file.read_bytes())
    assert len(manifest.pop("pictures")) == 64
    chunks = [content[i : i + 10_000] for i in range(0, len(content), 10_000)]
    assert len(chunks) == 13
    assert manifest == {
        "format": 2,
        "shape": [74, 3, 24, 24],
        "listing": listing.version,
        "sha256": [hashlib.sha256(chunk).hexdigest() for chunk in chunks],
    }


def test_picture_that_changed_but_for_its_size_is_decoded_again(listing, tmp_path):
    first = open_split(listing, "oxfordpets", "val", 24, tmp_path).clone()
    file = listing.folder / listing.pictures["val"][0][0].path
    size = file.stat().st_size
    file.write_bytes(as_file(Image.new("RGB", (40, 30), "red"), "JPEG", quality=10).ljust(size, b"\0"))
    assert file.stat().st_size == size
    assert nine._list("oxfordpets", tmp_path / "data").version == listing.version
    told = r"val-24px-\w+\.bytes is of pictures that changed since: built again"
    with pytest.warns(UserWarning, match=told):
        images = open_split(listing, "oxfordpets", "val", 24, tmp_path)
    assert not torch.equal(images[0], first[0])
    assert torch.equal(images[1:], first[1:])
    assert torch.equal(open_split(listing, "oxfordpets", "val", 24, tmp_path), images)


def test_coops_split_and_ours_take_turns_without_decoding_again(listing, tmp_path, monkeypatch):
    nine_samples.write("oxfordpets", tmp_path / "data", coop=True)
    (tmp_path / "data/oxford_pets/split_zhou_OxfordPets.json").rename(tmp_path / "coops.json")
    ours = nine.list_dataset("oxfordpets")
    shutil.move(tmp_path / "coops.json", tmp_path / "data/oxford_pets/split_zhou_OxfordPets.json")
    coops = nine.list_dataset("oxfordpets")
    assert ours.version != coops.version
    expected = [open_split(own, "oxfordpets", "train", 24).clone() for own in (ours, coops)]
    monkeypatch.setattr(decoded, "_build", None)
    for own, images in zip((ours, coops), expected, strict=True):
        assert torch.equal(open_split(own, "oxfordpets", "train", 24), images)


def test_two_builders_do_not_collide(listing, tmp_path, monkeypatch):
    built, build = [], decoded._build

    def slowly(*args):
        built.append(args[0])
        time.sleep(0.2)
        build(*args)

    monkeypatch.setattr(decoded, "_build", slowly)
    with ThreadPoolExecutor(
        2
    ) as pool:  # the lock is one of open files: threads are held up by it as processes are
        found = [pool.submit(open_split, listing, "oxfordpets", "train", 24, tmp_path) for _ in range(2)]
    assert torch.equal(found[0].result(), found[1].result())
    assert len(built) == 1
