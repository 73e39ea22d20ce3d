"""The paper's nine data sets when what lies on disk changes, is linked, or is unsound."""

import nine_samples
import pytest

from adavipro import nine
from adavipro.nine import list_dataset

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.nine.PartialDataWarning")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAVIPRO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_version_changes_with_what_is_on_disk(data):
    nine_samples.write("eurosat", data)
    file = data / "eurosat/2750/Forest/Forest_1.jpg"
    versions = [nine._list("eurosat", data).version]
    file.write_bytes(file.read_bytes() + b"\0")
    versions.append(nine._list("eurosat", data).version)
    file.rename(file.with_name("Forest_7.jpg"))
    versions.append(nine._list("eurosat", data).version)
    assert len(set(versions)) == 3


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_version_of_records_changes_with_every_bit_of_them(name, data):
    base = nine_samples.write(name, data)
    first = list_dataset(name)
    file = base / ("data_batch_4.bin" if name == "cifar10" else "test.bin")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert list_dataset(name).pictures == first.pictures
    assert list_dataset(name).version != first.version


def test_listing_is_read_again_in_the_same_process_only_when_something_changed(data):
    base = nine_samples.write("oxfordpets", data, coop=True)
    aside = base / "split_zhou_OxfordPets.json.aside"
    (base / "split_zhou_OxfordPets.json").rename(aside)
    first = list_dataset("oxfordpets")
    assert list_dataset("oxfordpets") is first
    assert first.split == "ours, version 1"
    aside.rename(base / "split_zhou_OxfordPets.json")
    assert list_dataset("oxfordpets").split == "CoOp's split_zhou_OxfordPets.json"
    (base / "split_zhou_OxfordPets.json").unlink()
    assert list_dataset("oxfordpets") == first
    lists = base / "annotations/test.txt"
    lists.write_text(lists.read_text().rstrip().rpartition("\n")[0])
    assert len(list_dataset("oxfordpets").pictures["test"]) == len(first.pictures["test"]) - 1


@pytest.mark.parametrize(("name", "folder"), [("eurosat", "2750/Forest"), ("sun397", "SUN397/a/abbey")])
def test_picture_that_comes_into_a_class_is_noticed_in_the_same_process(name, folder, data):
    base = nine_samples.write(name, data)
    sizes = [sum(map(len, list_dataset(name).pictures.values()))]
    (base / folder / "new.jpg").write_bytes(nine_samples.jpeg(1))
    sizes.append(sum(map(len, list_dataset(name).pictures.values())))
    assert sizes[1] == sizes[0] + 1


def test_links_to_folders_are_followed_and_none_in_a_circle(data, tmp_path):
    true, images = nine_samples.write("eurosat", tmp_path / "true"), data / "eurosat/2750"
    images.mkdir(parents=True)
    for own in (true / "2750").iterdir():
        (images / own.name).symlink_to(own)
    (data / "other/nested").mkdir(parents=True)
    (data / "other/nested/around").symlink_to(data / "other")
    for name, target in {"up": "..", "root": data, "self": ".", "other": data / "other"}.items():
        (images / name).symlink_to(target)
    there, here = list_dataset("eurosat"), nine._list("eurosat", tmp_path / "true")
    assert (there.pictures, there.version) == (here.pictures, here.version)


def test_two_unsound_files_of_sun397_are_left_out(data, tmp_path):
    """Their class folders are none of the sample's: a class would be too many if one were read."""
    nine_samples.write("sun397", tmp_path / "sound")
    base = nine_samples.write("sun397", data)
    for path in ("c/church/outdoor/sun_bhenjvsvrtumjuri.jpg", "t/track/outdoor/sun_aophkoiosslinihb.jpg"):
        (base / "SUN397" / path).parent.mkdir(parents=True)
        (base / "SUN397" / path).write_bytes(nine_samples.jpeg(1))
    assert list_dataset("sun397").pictures == nine._list("sun397", tmp_path / "sound").pictures
