import pytest
import torch

from adavipro import drawings
from adavipro.prompts import frame_support
from adavipro.seeds import generator

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@pytest.fixture
def pictures(rng):
    return torch.randint(256, (2, 3, 56, 56), generator=rng, dtype=torch.uint8)


def drawn(axes):
    return torch.tensor(axes.images[0].get_array())


def test_frames_figure_adds_the_frame_after_normalisation_and_clips_the_sum(pictures):
    template = torch.randn(1, 3, 56, 56, generator=generator(3, "template"))
    figure = drawings.frames_figure(pictures, [0, 8, 28], seed=3)
    assert len(figure.axes) == 6
    x = (pictures / 255 - MEAN) / STD
    for i, axes in enumerate(figure.axes):
        image, width = divmod(i, 3)
        frame = template * frame_support(56, [8, 28][width - 1]) if width else 0 * template
        expected = ((x + frame) * STD + MEAN).clamp(0, 1)[image].permute(1, 2, 0)
        assert drawn(axes).allclose(expected, atol=1e-5)


def test_frames_figure_names_each_width_and_what_it_covers(pictures):
    top = drawings.frames_figure(pictures, [0, 8, 28]).axes[:3]
    assert [axes.get_title() for axes in top] == ["as it is", "8 px, 49% covered", "28 px, 100% covered"]


@pytest.mark.parametrize(
    ("images", "widths", "told"),
    [
        (torch.zeros(1, 3, 56, 56), [8], "expected uint8"),
        (torch.zeros(3, 56, 56, dtype=torch.uint8), [8], "expected uint8"),
        (torch.zeros(1, 3, 56, 48, dtype=torch.uint8), [8], "expected uint8"),
        (torch.zeros(1, 3, 56, 56, dtype=torch.uint8), [29], "prompt_px is 29"),
    ],
)
def test_frames_figure_refuses_what_does_not_fit(images, widths, told):
    with pytest.raises(ValueError, match=told):
        drawings.frames_figure(images, widths)


def test_grid_figure_shows_images_and_maps_with_zero_in_its_place(pictures, rng):
    signed = torch.randn(2, 7, 7, generator=rng)
    rows = {"image": pictures, "float": pictures / 255, "signed": signed, "strength": signed.abs()}
    figure = drawings.grid_figure(rows, ["one", "two"])
    grid = [figure.axes[i : i + 2] for i in range(0, 8, 2)]
    assert [line[0].get_ylabel() for line in grid] == list(rows)
    assert [axes.get_title() for axes in grid[0]] == ["one", "two"]
    for column in (0, 1):
        expected = (pictures[column] / 255).permute(1, 2, 0)
        assert drawn(grid[0][column]).allclose(expected)
        assert drawn(grid[1][column]).allclose(expected)
        assert torch.equal(drawn(grid[2][column]), signed[column])
        low, high = grid[2][column].images[0].get_clim()
        assert low == -high
        assert grid[3][column].images[0].get_clim() == (0, high)
    assert high == pytest.approx(signed.abs().flatten().quantile(0.995).item())


def test_grid_figure_draws_maps_that_are_zero_everywhere():
    axes = drawings.grid_figure({"nothing": torch.zeros(1, 4, 4)}).axes[0]
    low, high = axes.images[0].get_clim()
    assert (low, high > 0) == (0, True)


@pytest.mark.parametrize(
    ("rows", "columns", "told"),
    [
        ({}, (), "needs one length"),
        ({"a": torch.zeros(2, 7, 7), "b": torch.zeros(3, 7, 7)}, (), r"lengths \[2, 3\]"),
        ({"a": torch.zeros(2, 7, 7)}, ("one",), r"lengths \[1, 2\]"),
        ({"a": torch.zeros(2, 1, 7, 7)}, (), "row 'a' has shape"),
    ],
)
def test_grid_figure_refuses_rows_that_are_no_grid(rows, columns, told):
    with pytest.raises(ValueError, match=told):
        drawings.grid_figure(rows, columns)
