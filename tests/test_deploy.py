import hashlib
import json
import subprocess
import sys

import open_clip
import pytest
import torch
from helpers import draw_image, small_splits, tiny
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from adavipro import checkpoints, datasets, deploy, experiment, presets
from adavipro.classifiers import data_folder
from adavipro.deploy import PromptedClassifier

pytestmark = pytest.mark.filterwarnings("ignore::adavipro.training.MaskCollapseWarning")
TENSORS, MANIFEST = "step-00000001.safetensors", "step-00000001.json"


@pytest.fixture(scope="module", autouse=True)
def _small_splits():
    with small_splits():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Finished runs of both methods."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("vp", "adavipro"):
        experiment.run(tiny(method), root, progress_bar=False)
    return root


@pytest.fixture(scope="module")
def made(root):
    return PromptedClassifier.from_run(tiny(), root)


@pytest.fixture
def saved(made, tmp_path):
    made.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="module")
def picture():
    """A picture of a letter, with more at its sides than the classifier sees."""
    image = to_pil_image(datasets.load_split("letters", "test").images[0]).resize((112, 112))
    wide = Image.new("RGB", (150, 112), "red")
    wide.paste(image, (19, 0))
    return wide


@pytest.mark.parametrize("method", ["vp", "adavipro"])
def test_three_lines_give_what_the_run_gave(root, tmp_path, picture, method):
    made = PromptedClassifier.from_run(tiny(method), root)
    made.save(tmp_path / "my-classifier")
    classifier = PromptedClassifier.load(tmp_path / "my-classifier")
    picture.save(tmp_path / "photo.png")
    ours, theirs = classifier.classify(str(tmp_path / "photo.png")), made.classify(picture)
    assert (ours.name, ours.scores) == (theirs.name, theirs.scores)
    assert torch.equal(ours.picture, theirs.picture)
    test = datasets.load_split("letters", "test")
    right = (classifier(test.images).argmax(1) == test.labels).sum().item()
    assert right / len(test) == experiment.read_result(tiny(method), root)["test_accuracy"]


def test_prediction_is_what_the_parts_say(made, picture):
    found = made.classify(picture)
    clip, method = experiment.load_classifier(tiny()), made.method
    crop = picture.resize((75, 56), Image.Resampling.BICUBIC).crop((10, 0, 66, 56))
    images = clip.normalise(pil_to_tensor(crop)[None])
    prompted = method(images)
    expected = clip(prompted.images).softmax(1)[0]
    assert list(found.scores) == clip.class_names
    torch.testing.assert_close(torch.tensor(list(found.scores.values())), expected)
    assert found.name == clip.class_names[int(expected.argmax())]
    assert sum(found.scores.values()) == pytest.approx(1)
    assert torch.equal(found.mask, prompted.mask[0, 0])
    assert torch.equal(found.edges, method.edges(images)[0])
    assert (found.picture.shape, found.mask.shape, found.edges.shape) == ((56, 56, 3), (56, 56), (3, 56, 56))
    inside = ((prompted.images * clip.std + clip.mean)[0] > 0) & (
        (prompted.images * clip.std + clip.mean)[0] < 1
    )
    shown = found.picture.permute(2, 0, 1)[inside]
    torch.testing.assert_close(shown, (prompted.images * clip.std + clip.mean)[0][inside])


def test_vp_has_no_edges_and_its_mask_is_on_everywhere(root, picture):
    found = PromptedClassifier.from_run(tiny("vp"), root).classify(picture)
    assert found.edges is None
    assert (found.mask == 1).all()


def test_loaded_in_a_fresh_process_it_says_the_same(saved, made, picture, tmp_path):
    picture.save(tmp_path / "photo.png")
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from adavipro.deploy import PromptedClassifier\n"
        "classifier = PromptedClassifier.load(sys.argv[1])\n"
        "print(classifier.classify(sys.argv[2]).scores)"
    )
    command = [sys.executable, "-c", code, str(saved), str(tmp_path / "photo.png")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert told.strip() == str(made.classify(picture).scores)


def test_nothing_in_it_learns_and_it_is_a_module(made):
    assert not any(p.requires_grad for p in made.parameters())
    assert made(torch.zeros(2, 3, 56, 56, dtype=torch.uint8)).shape == (2, 24)


def test_manifest_says_what_is_needed_and_nothing_of_the_place(saved, small_clip_folder):
    settings = json.loads((saved / MANIFEST).read_text())["settings"]
    made_of = settings.pop("made_of")
    assert settings == {"kind": "prompted classifier", "format": 1}
    assert made_of["model"] == "small-clip"
    assert made_of["class_names"] == list(datasets.CLASS_NAMES["letters"])
    weights = (small_clip_folder / "open_clip_model.safetensors").read_bytes()
    assert made_of["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(small_clip_folder.parent) not in (saved / MANIFEST).read_text()
    assert {p.name for p in saved.iterdir()} == {TENSORS, MANIFEST}


def test_weights_that_no_local_file_holds_are_known_by_their_tensors(made, monkeypatch):
    monkeypatch.setattr(deploy, "weights_sha256", lambda model: None)
    clip = experiment.load_classifier(tiny())
    first = deploy._made_of(tiny(), clip)["weights_sha256"]
    assert deploy._made_of(tiny(), made.classifier)["weights_sha256"] == first
    clip.visual.class_embedding[0] += 1
    assert deploy._made_of(tiny(), clip)["weights_sha256"] != first


def test_second_save_replaces_the_first(root, tmp_path):
    for method in ("adavipro", "vp", "adavipro", "vp"):
        PromptedClassifier.from_run(tiny(method), root).save(tmp_path)
    assert PromptedClassifier.load(tmp_path).made_of["method"] == "vp"
    assert checkpoints.steps_saved(tmp_path) == [4, 3]


def paper_sized(folder):
    """A CLIP of the paper's image and patch size with random weights, tiny otherwise."""
    config = json.loads((data_folder() / "small_clip" / "open_clip_config.json").read_text())
    vision = config["model_cfg"]["vision_cfg"]
    vision |= {"image_size": 224, "patch_size": 32, "layers": 1}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    cfg = config["model_cfg"]
    model = open_clip.model.CLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_paper_sized_model_goes_the_same_way(tmp_path):
    for i in range(8):
        draw_image(tmp_path / "images" / f"class {i % 2}" / f"{i}.png", i)
    run = presets.preset(
        "paper",
        "adavipro",
        model=paper_sized(tmp_path / "model"),
        pretrained=None,
        dataset=f"folder:{tmp_path / 'images'}",
        epochs=1,
        batch_size=2,
        warmup_share=0.05,
        temperature_end=0.1,
    )
    experiment.run(run, tmp_path / "runs", progress_bar=False)
    PromptedClassifier.from_run(run, tmp_path / "runs").save(tmp_path / "saved")
    found = PromptedClassifier.load(tmp_path / "saved").classify(Image.new("RGB", (300, 500)))
    assert list(found.scores) == ["class 0", "class 1"]
    assert found.mask.shape == (224, 224)
    assert found.picture.shape == (224, 224, 3)
