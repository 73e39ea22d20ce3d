"""Class embeddings are computed once and kept on disk; whatever happens to what is kept, they are right."""

import threading
import time

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from adavipro import embeddings
from adavipro.classifiers import FrozenClip
from adavipro.embeddings import class_embeddings

NAMES = ["star", "moon", "sun"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of the test's own, where the small CLIP's embeddings are kept too."""
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embeddings, "WORTH_KEEPING", 0)
    return tmp_path / "cache" / "embeddings"


class Encoder:
    """The small CLIP as open_clip makes it, counting the calls of its text encoder."""

    def __init__(self, folder) -> None:
        source = f"local-dir:{folder}"
        self.model, self.config = open_clip.create_model(source).eval(), open_clip.get_model_config(source)
        self.tokenizer, self.calls, encode = open_clip.get_tokenizer(source), 0, self.model.encode_text

        def encode_and_count(tokens, **options):
            self.calls += 1
            return encode(tokens, **options)

        self.model.encode_text = encode_and_count

    def embed(self, names=NAMES) -> torch.Tensor:
        return class_embeddings(self.model, self.tokenizer(list(names)), self.config)


@pytest.fixture
def encoder(small_clip_folder) -> Encoder:
    return Encoder(small_clip_folder)


def kept(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def test_text_is_encoded_once_for_a_model_and_a_list_of_names(encoder, small_clip_folder, folder):
    first = encoder.embed()
    with torch.no_grad():
        expected = encoder.model.encode_text(encoder.tokenizer(NAMES), normalize=True)
    assert torch.equal(first, expected)
    again = Encoder(small_clip_folder)
    assert torch.equal(again.embed(), first)
    assert again.calls == 0
    assert not list(folder.glob("*.partial"))
    assert not torch.equal(again.embed(["star", "sun", "moon"]), first)
    assert again.calls == 1


def test_a_loaded_classifier_has_what_is_kept(small_clip_folder, folder):
    first, second = (FrozenClip.load("small-clip", NAMES) for _ in range(2))
    assert torch.equal(first.class_embeddings, second.class_embeddings)
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_whatever_decides_the_embeddings_decides_where_they_are_kept(encoder, folder, monkeypatch):
    encoder.embed()
    encoder.config["quick_gelu"] = True  # an activation is not seen in the weights
    encoder.embed()
    with torch.no_grad():
        encoder.model.ln_final.bias[0] += 1e-6
    encoder.embed()
    encoder.embed([*NAMES, "comet"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    encoder.embed()
    assert encoder.calls == len(list(folder.glob("*.safetensors"))) == 5
    with torch.no_grad():
        encoder.model.visual.ln_post.bias[0] += 1  # the image tower has no part in it
    encoder.embed()
    assert encoder.calls == 5


def test_a_small_text_encoder_computes_without_a_file(encoder, folder, monkeypatch):
    monkeypatch.setattr(embeddings, "WORTH_KEEPING", 10_000_000)
    assert torch.equal(encoder.embed(), encoder.embed())
    assert encoder.calls == 2
    assert not folder.exists()


def vectors(*rows, **metadata):
    def write(path):
        save_file({"embeddings": torch.tensor(rows)}, path, metadata)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"<html>not found</html>"),
        lambda path: save_file({"other": torch.ones(3, 64)}, path),
        vectors([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]),
        vectors([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], sha256="0" * 64),
    ],
)
def test_a_damaged_file_is_computed_anew_with_a_warning(damage, encoder, folder):
    expected = encoder.embed()
    damage(kept(folder))
    with pytest.warns(UserWarning, match=r"\.safetensors cannot be used and is computed anew"):
        assert torch.equal(encoder.embed(), expected)
    assert torch.equal(encoder.embed(), expected)
    assert encoder.calls == 2


@pytest.mark.parametrize(
    "wrong", [[[1.0, 1.0]] * 3, [[1.0, float("nan")]] * 3, [[1.0, 0.0]] * 2, [1.0, 1.0, 1.0]]
)
def test_what_is_kept_must_be_unit_vectors_even_if_its_hash_is_right(wrong, encoder, folder):
    expected = encoder.embed()
    values = torch.tensor(wrong)
    save_file({"embeddings": values}, kept(folder), {"sha256": embeddings._sha256(values)})
    with pytest.warns(UserWarning, match="does not hold 3 unit vectors"):
        assert torch.equal(encoder.embed(), expected)


@pytest.mark.filterwarnings("ignore:.*computed anew")
def test_one_flipped_bit_never_changes_the_embeddings(encoder, folder):
    expected = encoder.embed()
    sound = kept(folder).read_bytes()
    for place in range(0, 8 * len(sound), 97):
        flipped = bytearray(sound)
        flipped[place // 8] ^= 1 << place % 8
        kept(folder).write_bytes(flipped)
        assert torch.equal(encoder.embed(), expected), place


def test_a_folder_that_cannot_be_written_is_no_failure(encoder, tmp_path, monkeypatch):
    expected = encoder.embed()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAVIPRO_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="class embeddings cannot be kept in .*file"):
        assert torch.equal(encoder.embed(), expected)
    assert encoder.calls == 2


def test_of_two_at_once_one_computes_and_the_other_reads(encoder, small_clip_folder):
    other, encode = Encoder(small_clip_folder), encoder.model.encode_text
    encoding = threading.Event()

    def encode_slowly(tokens, **options):
        encoding.set()
        time.sleep(0.3)
        return encode(tokens, **options)

    encoder.model.encode_text = encode_slowly
    found = []
    threads = [threading.Thread(target=lambda e=e: found.append(e.embed())) for e in (encoder, other)]
    threads[0].start()
    assert encoding.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert (encoder.calls, other.calls) == (1, 0)
    assert torch.equal(*found)
