import pytest
import torch

from adavipro.baselines.controls import PatchPrompt
from adavipro.io import generator
from adavipro.prompts import FramePrompt, frame_support

KINDS = {
    "frame": lambda side, px, std, g: FramePrompt(side, px, std, g),
    "fixed-patch": lambda side, px, std, g: PatchPrompt(side, px, std, g),
    "random-patch": lambda side, px, std, g: PatchPrompt(side, px, std, g, random=True),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize(("side", "width"), [(56, 1), (56, 8), (56, 28), (8, 4), (7, 2)])
def test_frame_holds_the_pixels_nearer_than_its_width_to_the_border(side, width):
    def in_frame(i, j):
        return min(i, j, side - 1 - i, side - 1 - j) < width

    expected = torch.tensor([[in_frame(i, j) for j in range(side)] for i in range(side)])
    assert torch.equal(frame_support(side, width), expected)


@pytest.mark.parametrize(
    ("width", "count"), [(5, 13_140), (30, 69_840), (60, 118_080), (90, 144_720), (112, 150_528)]
)
def test_frame_has_the_papers_parameter_count(width, count):
    assert sum(p.numel() for p in FramePrompt(224, width).parameters()) == count


def test_frame_template_is_zero_inside_and_gradient_reaches_the_frame_only(rng):
    prompt = FramePrompt(56, 8, generator=rng)
    template = prompt()
    assert template.shape == (1, 3, 56, 56)
    assert torch.equal(template[0, :, 8:-8, 8:-8], torch.zeros(3, 40, 40))
    assert torch.equal(template[0][:, frame_support(56, 8)], prompt.values)

    upstream = torch.randn(1, 3, 56, 56, generator=rng)
    (template * upstream).sum().backward()
    assert torch.equal(prompt.values.grad, upstream[0][:, frame_support(56, 8)])


@every_kind
@pytest.mark.parametrize("std", [0.25, 1.0])
def test_prompt_starts_from_a_normal_distribution(kind, std, rng):
    values = kind(112, 56, std, rng).values.flatten()
    n = len(values)
    assert abs(values.mean()) < 5 * std / n**0.5
    assert abs(values.std() - std) < 5 * std / (2 * n) ** 0.5


@every_kind
def test_start_depends_on_the_key_alone(kind):
    first, again, other = (kind(56, 8, 1.0, generator(s, "prompt")).values for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def place_of(prompt: PatchPrompt, template: torch.Tensor) -> tuple[int, int]:
    """Find the top left corner of the one square that is not zero, and check that it is the patch."""
    rows, columns = (template[0] != 0).any(0).nonzero().T
    top, left, side = int(rows.min()), int(columns.min()), prompt.side_px
    assert torch.equal(template[0, :, top : top + side, left : left + side], prompt.values)
    assert int((template != 0).sum()) == prompt.values.numel()
    return top, left


def test_fixed_patch_lies_in_the_top_left_corner(rng):
    prompt = PatchPrompt(8, 6, 1.0, rng)
    assert place_of(prompt, prompt(generator(0, "place"))) == place_of(prompt, prompt()) == (0, 0)


def test_random_patch_reaches_every_place_and_its_place_depends_on_the_key_alone(rng):
    prompt = PatchPrompt(8, 6, 1.0, rng, random=True)
    places = [place_of(prompt, prompt(generator(0, "place", step))) for step in range(100)]
    assert set(places) == {(top, left) for top in range(3) for left in range(3)}
    assert places[7] == place_of(prompt, prompt(generator(0, "place", 7)))
    assert place_of(prompt, prompt()) == (1, 1)  # the centre, where chance is not wanted


@every_kind
def test_support_is_where_the_template_lies_at_inference(kind, rng):
    prompt = kind(8, 3, 1.0, rng)
    assert torch.equal(prompt.support, (prompt() != 0).any(0).any(0))
