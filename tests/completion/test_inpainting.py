"""Inpainting against the exact conditional mean of a linear-Gaussian pair."""

from time import process_time

import numpy as np
import pytest
import torch

from gendae import load
from gendae.completion.inpainting import DRAWS, Inpainter, inpaint, named_mask
from gendae.inference import TargetPropInference
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.registry import build, describe
from gendae.sampling.samplers import seeded
from tests.conftest import small_stack


def test_the_mean_of_chains_is_the_conditional_mean_of_a_linear_gaussian_pair():
    """P(x | h) = N(G h, s^2), f the posterior mean: E[x^m | x^v] = G_m E[h | x^v].

    The flat P(h_1) of inference differs from N(0, I) by O(s^2).
    """
    s = 0.1
    eye = torch.eye(2, dtype=torch.float64)
    weight = torch.randn(6, 2, dtype=torch.float64, generator=seeded(1))
    pair = Pair(Affine(6, 2), Affine(2, 6)).double()
    with torch.no_grad():
        pair.f.weight.copy_(torch.linalg.solve(weight.T @ weight + s**2 * eye, weight.T))
        pair.g.weight.copy_(weight)

    x = torch.randn(200, 2, dtype=torch.float64, generator=seeded(2)) @ weight.T
    seen, hidden = weight.split([4, 2])
    h = torch.linalg.solve(seen.T @ seen + s**2 * eye, seen.T @ x[:, :4].T).T
    expected = h @ hidden.T

    def error(inpainter):
        completion = inpainter(Stack(pair), x, torch.arange(6) < 4, generator=seeded(0))
        assert torch.equal(completion.h[:, :4], x[:, :4])
        return (completion.h[:, 4:] - expected).square().mean().sqrt() / expected.std()

    exact = TargetPropInference(200, 0.4, 0.2)
    assert error(Inpainter(1, exact, chains=1)) < 0.02

    noisy = TargetPropInference(15, 0.4, 0.2, temperature=0.05)
    assert error(Inpainter(10, noisy, 32)) < error(Inpainter(10, noisy, 2)) / 2 < 0.2


def test_a_start_at_the_prior_is_the_likeliest_draw_of_each_chain():
    """Chains choose among draws of their own; no rounds leave them where they start."""
    stack = deep_autoencoder([8, 6, 4])
    stack.prior.fit(stack.encode(torch.rand(50, 8, generator=seeded(0)))[-1])
    x = torch.rand(5, 8, generator=seeded(1))
    mask = torch.rand(5, 8, generator=seeded(2)) < 0.5

    inpainter = Inpainter(rounds=0, chains=3)
    draws = inpainter.draws(stack, seeded(3))
    assert draws.shape == (3 * DRAWS, 8)

    starts = []
    for own in draws.chunk(3):
        squares = (x[:, None] - own).square()  # P(x | h_1) is Gaussian
        best = (squares * mask[:, None]).sum(2).argmin(1)
        starts.append(torch.where(mask, x, own[best]))

    filled = inpainter(stack, x, mask, generator=seeded(3)).h
    assert torch.allclose(filled, torch.stack(starts).mean(0), atol=1e-6)
    assert torch.equal(inpainter(stack, x, mask, draws=draws).h, filled)


def test_a_prior_that_is_not_fitted_is_no_start():
    stack = deep_autoencoder([8, 6, 4])
    x = torch.rand(2, 8, generator=seeded(0))
    mask = torch.arange(8) < 4

    noise = inpaint(stack, x, mask, Inpainter(begin="noise"), seed=0)
    assert torch.equal(inpaint(stack, x, mask, Inpainter(), seed=0), noise)
    with pytest.raises(ValueError, match="not fitted"):
        inpaint(stack, x, mask, Inpainter(begin="prior"), seed=0)


def test_files_of_earlier_versions_keep_their_start():
    """Their inpainters say nothing of it: all chains started as noise."""
    arguments = {"rounds": 10, "chains": 32}
    assert build({"type": "Inpainter", **arguments}).begin == "noise"
    assert build({"type": "Inpainter", **arguments, "begin": "prior"}).begin == "prior"
    assert build(describe(Inpainter())).begin == "auto"
    assert Inpainter.encode_decode().begin == "noise"
    assert Inpainter(20, TargetPropInference(), chains=1).begin == "noise"


@pytest.mark.parametrize("way", ["packed", "plain"])
@pytest.mark.parametrize(
    "mask",
    [
        (torch.arange(8) < 5).expand(3, 8),
        torch.ones(3, 8, dtype=torch.bool),
        torch.zeros(3, 8, dtype=torch.bool),
        torch.rand(3, 8, generator=seeded(1)) < 0.5,
    ],
    ids=["same in all rows", "all given", "none given", "of each row"],
)
def test_products_of_clamped_pixels_are_taken_once(way, mask, monkeypatch):
    """The same mask in all rows needs fewer products than a mask for each: equal results."""
    monkeypatch.setenv("GENDAE_PRODUCTS", way)
    stack = deep_autoencoder([8, 6, 4])
    x = torch.rand(3, 8, generator=seeded(0))
    inference = TargetPropInference(1, 0.4, 0.2)

    (f_1, g_1), (f_2, g_2) = ((pair.f, pair.g) for pair in stack.pairs)
    with torch.no_grad():
        _, h_1, h_2 = stack.feedforward(x)
        h_2 = h_2 + 0.4 * (f_2(h_1) - f_2(g_2(h_2)))
        below = g_1(h_1)
        moved = h_1 + 0.2 * (g_2(h_2) - h_1)
        moved = moved + 0.4 * (f_1(torch.where(mask, x, below)) - f_1(below))

    assert torch.allclose(inference(stack, x, mask)[1], moved, atol=1e-6)


def test_a_hundred_digits_take_seconds(mnist):
    """The default was once half a second an image; a loose bound, CPU seconds of all threads."""
    stack = load("mnist-variational-em")
    x = mnist.split("test").x[:100]

    began = process_time()
    filled = inpaint(stack, x, named_mask("left", (28, 28)), seed=0)
    assert process_time() - began < 10
    assert (filled - x).square().mean() < 0.03


MASK = torch.arange(8) < 3
MASKS = {
    "NumPy": MASK.numpy(),
    "whole numbers": MASK.int(),
    "real": MASK.double(),
    "height and width": MASK.view(2, 4),
    "one row": MASK[None],
    "of each row": MASK.expand(5, 8),
    "of each image": MASK.view(2, 4).expand(5, 2, 4).numpy().astype(np.uint8),
    "channel": MASK.view(1, 2, 4).expand(5, 1, 2, 4),
}


@pytest.mark.parametrize("form", MASKS)
def test_masks_in_every_form_fill_the_same_pixels(form):
    stack = small_stack()
    x = torch.rand(5, 8)
    expected = inpaint(stack, x, MASK, seed=0)
    assert torch.equal(expected[:, :3], x[:, :3])
    assert torch.equal(inpaint(stack, x, MASKS[form], seed=0), expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0.5 * MASK, "^mask holds other values than 0 and 1; True or 1 where observed"),
        (255 * MASK.int(), "^mask holds other values than 0 and 1"),
        (
            MASK[:7],
            r"^mask has shape \(7,\), which does not fit x, \(5, 8\): \(8,\) or \(5, 8\) is",
        ),
        (MASK.expand(4, 8), r"^mask has shape \(4, 8\), which does not fit"),
        (MASK[:5, None], r"^mask has shape \(5, 1\), which does not fit x, \(5, 8\)"),
        (MASK[:, None], r"^mask has shape \(8, 1\), which does not fit x, \(8, 8\): \(8,\) or"),
    ],
)
def test_a_mask_that_is_none_is_named(mask, words):
    rows = 8 if mask.shape == (8, 1) else 5
    with pytest.raises(ValueError, match=words):
        inpaint(small_stack(), torch.rand(rows, 8), mask)
