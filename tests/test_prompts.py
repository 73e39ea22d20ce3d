import pytest
import torch

from adavipro.io import generator
from adavipro.prompts import FramePrompt, frame_support


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


@pytest.mark.parametrize("std", [0.25, 1.0])
def test_prompt_starts_from_a_normal_distribution(std, rng):
    values = FramePrompt(112, 56, std, rng).values.flatten()
    n = len(values)
    assert abs(values.mean()) < 5 * std / n**0.5
    assert abs(values.std() - std) < 5 * std / (2 * n) ** 0.5


def test_start_depends_on_the_key_alone():
    first, again, other = (FramePrompt(56, 8, 1.0, generator(s, "prompt")).values for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_support_is_where_the_template_lies(rng):
    prompt = FramePrompt(8, 3, 1.0, rng)
    assert torch.equal(prompt.support, (prompt() != 0).any(0).any(0))
