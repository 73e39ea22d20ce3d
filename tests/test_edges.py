import numpy as np
import pytest
import scipy.ndimage
import torch

from adavipro.edges import EdgeDetector

MEAN, STD = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_are_scipys_laplacian_of_each_channel(dtype, rng):
    images = torch.randn(2, 3, 9, 12, generator=rng, dtype=dtype)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    edges = EdgeDetector()(images)
    assert edges.dtype == dtype
    for image, edge in zip(images.numpy(), edges.numpy(), strict=True):
        for channel in range(3):
            convolved = scipy.ndimage.convolve(image[channel], kernel, mode="constant", cval=0.0)
            np.testing.assert_allclose(edge[channel], convolved, atol=1e-5)
            laplacian = scipy.ndimage.laplace(image[channel], mode="constant", cval=0.0)
            np.testing.assert_allclose(edge[channel], laplacian, atol=1e-5)


def test_one_channel_takes_the_edges_of_the_mean_colour(rng):
    images = torch.randn(2, 3, 9, 12, generator=rng)
    edges = EdgeDetector(channels=1)(images)
    assert edges.shape == (2, 1, 9, 12)
    expected = [scipy.ndimage.laplace(gray, mode="constant", cval=0.0) for gray in images.mean(1).numpy()]
    np.testing.assert_allclose(edges[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_edges_are_those_of_the_image_before_normalisation(channels, rng):
    raw = torch.rand(2, 3, 9, 12, generator=rng)
    normalised = (raw - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    edges = EdgeDetector(channels, MEAN, STD)(normalised)
    torch.testing.assert_close(edges, EdgeDetector(channels)(raw), atol=1e-5, rtol=0)
    assert not torch.allclose(edges, EdgeDetector(channels)(normalised), atol=0.1)


def test_flat_image_has_edges_at_its_border_only():
    """Outside the image is zero: a border pixel lacks one neighbour, a corner two."""
    edges = EdgeDetector()(torch.full((1, 3, 5, 5), 3.0))[0, 0]
    assert torch.equal(edges[1:-1, 1:-1], torch.zeros(3, 3))
    assert torch.equal(edges[0, 1:-1], torch.full((3,), -3.0))
    assert torch.equal(edges[0, 0], torch.tensor(-6.0))


def test_detector_is_fixed():
    detector = EdgeDetector(3, MEAN, STD)
    assert not list(detector.parameters())
    assert not detector.state_dict()


def test_only_one_or_three_channels():
    with pytest.raises(ValueError, match=r"edge_channels is 2.*1 or 3"):
        EdgeDetector(channels=2)
