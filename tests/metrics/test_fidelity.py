"""PSNR and SSIM of images against their originals, in grey and in colour."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from gendae.metrics.fidelity import psnr, reconstruction_fidelity, ssim
from tests.conftest import small_stack

SHAPES = [(8, 9), (3, 10, 6)]
of_each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(shape, n=4):
    """Images and noisy ones that go beyond [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(n, torch.tensor(shape).prod(), generator=generator, dtype=torch.float64)
    noise = torch.randn(original.shape, generator=generator, dtype=torch.float64)

    return original + 0.2 * noise, original


def windows(image):
    """Weighted means around each pixel, borders mirrored."""
    return gaussian_filter(image, 1.5, truncate=3.5, mode="mirror")


def similarity(x, y):
    """Eq. 13 of Wang et al. 2004, of one channel."""
    mean_x = windows(x)
    mean_y = windows(y)
    var_x = windows(x * x) - mean_x**2
    var_y = windows(y * y) - mean_y**2
    covariance = windows(x * y) - mean_x * mean_y

    upper = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    lower = (mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2)
    return (upper / lower).mean()


@of_each_shape
def test_ssim_is_the_equation_of_its_authors(shape):
    x, y = pair(shape)
    height, width = shape[-2:]
    images = zip(
        x.view(len(x), -1, height, width).numpy(),
        y.view(len(y), -1, height, width).numpy(),
        strict=True,
    )
    expected = [
        sum(similarity(a, b) for a, b in zip(image, original, strict=True)) / len(image)
        for image, original in images
    ]

    assert ssim(x, y, shape).tolist() == pytest.approx(expected, abs=1e-10)
    assert ssim(y, y, shape).tolist() == pytest.approx([1.0] * len(y))
    assert torch.allclose(ssim(x.numpy(), y.float(), shape), ssim(x, y, shape), atol=1e-5)


@of_each_shape
def test_psnr_counts_the_errors_of_missing_pixels_alone(shape):
    x, y = pair(shape)
    x[0] = y[0]
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    errors = (x - y).square()

    expected = -10 * errors.mean(1).log10()
    assert torch.allclose(psnr(x, y), expected)
    assert psnr(x, y)[0] == float("inf")

    missing = ~mask
    expected = -10 * ((errors * missing).sum(1) / missing.sum(1)).log10()
    for given in (mask, mask.int()):
        assert torch.allclose(psnr(x, y, given), expected)

    half = mask[0]
    expected = -10 * errors[:, ~half].mean(1).log10()
    assert torch.allclose(psnr(x, y, half), expected)
    assert torch.allclose(psnr(x.numpy(), y.float(), half), expected, atol=1e-4)


def test_reconstructions_are_measured_at_each_level_and_small_images_without_windows():
    stack = small_stack([64, 20, 8])
    x = torch.rand(30, 64)

    measured = reconstruction_fidelity(stack, x, (8, 8))
    decoded = [stack.reconstruct(x, level).detach() for level in (1, 2)]
    assert measured["psnr"] == [psnr(y, x).mean().item() for y in decoded]
    assert measured["ssim"] == [ssim(y, x, (8, 8)).mean().item() for y in decoded]
    assert reconstruction_fidelity(stack, x, (4, 16))["ssim"] is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: psnr(x, x[:3]), "x has shape .*original"),
        (lambda x: psnr(x, 255 * x), "original holds values"),
        (lambda x: psnr(x * float("nan"), x), "x holds"),
        (lambda x: psnr(x, x, torch.ones(64)), "gives all pixels"),
        (lambda x: psnr(x, x, torch.ones(63)), "mask has shape"),
        (lambda x: ssim(x, x, (4, 16)), r"shape=\(4, 16\): images of at least 6 x 6"),
        (lambda x: ssim(x, x, (8, 9)), r"x has shape .*\(8, 9\) has 72 numbers"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.rand(5, 64))
