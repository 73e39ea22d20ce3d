import pytest
import torch

from adavipro import photographs
from adavipro.classifiers import data_folder

FOLDER = data_folder() / "photographs"


def test_photographs_are_clips_size_and_differ():
    pictures = photographs.load()
    assert pictures.dtype == torch.uint8
    assert tuple(pictures.shape) == (len(photographs.NAMES), 3, 224, 224)
    assert len({p.numpy().tobytes() for p in pictures}) == len(pictures)
    assert pictures.float().std((1, 2, 3)).min() > 20


def test_photographs_come_in_the_order_that_is_asked_for():
    assert torch.equal(photographs.load(["rocket", "cat"]), photographs.load()[[3, 1]])
    assert torch.equal(photographs.load("coffee"), photographs.load()[[2]])


@pytest.mark.parametrize("names", [["cat", "dog"], [], "dog"])
def test_an_unknown_photograph_is_refused_with_the_names_that_there_are(names):
    with pytest.raises(ValueError, match="astronaut, cat, coffee, rocket"):
        photographs.load(names)


def test_every_photograph_is_small_and_has_its_source_and_licence_told():
    files = {path.stem: path for path in FOLDER.glob("*.jpg")}
    assert set(files) == set(photographs.NAMES)
    lines = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    for name, path in files.items():
        assert path.stat().st_size < 25_000
        (line,) = (line for line in lines if f"`{name}.jpg`" in line)
        assert "CC0" in line or "public domain" in line
