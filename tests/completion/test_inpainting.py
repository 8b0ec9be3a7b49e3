"""Inpainting against the exact conditional mean of a linear-Gaussian pair."""

import torch

from gendae.completion.inpainting import Inpainter
from gendae.inference import TargetPropInference
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.sampling.samplers import seeded


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
    assert error(Inpainter(10, chains=32)) < error(Inpainter(10, chains=2)) / 2 < 0.2
