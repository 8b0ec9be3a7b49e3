"""Inpainting through the code: against the posterior of a linear-Gaussian stack."""

import pytest
import torch
from torch import nn

from gendae.completion.annealed import AnnealedInpainter, width_of_codes
from gendae.completion.inpainting import inpaint, inpainting_steps
from gendae.corruption import GaussianNoise
from gendae.laws import Gaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.priors.denoiser import LevelMLP
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.descents import LangevinDescent
from gendae.sampling.samplers import seeded

TAU = 0.4
LENGTH = 2.0  # of a change of x by one unit of h


class Nothing(nn.Module):
    """F of N(0, I)."""

    def forward(self, z, level, condition=None):
        return torch.zeros_like(z)


def stack_of(width=TAU):
    """x = LENGTH U h with U of orthonormal columns: f is the inverse of g."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 2)).Q
    pair = Pair(Affine(12, 2), Affine(2, 12), recognition=Gaussian(TAU, stochastic=width > 0.0))
    with torch.no_grad():
        pair.f.weight.copy_(basis.T / LENGTH)
        pair.g.weight.copy_(basis * LENGTH)
        pair.f.bias.zero_()
        pair.g.bias.zero_()

    prior = DenoisingPrior(LevelMLP(2, 1))
    stack = Stack(pair, prior=prior)
    prior.center, prior.scale = torch.zeros(2), torch.ones(2)
    prior.denoiser.networks = nn.ModuleList([Nothing()])
    stack.facts = {"kind": "sequence"}  # whose x is any number

    return stack.double().requires_grad_(False)


@pytest.mark.parametrize("guide", ["encode", "gradient"])
def test_codes_are_drawn_from_their_law_given_what_is_observed(guide):
    """Also from a small pool: the dynamics come to rest in the posterior."""
    stack = stack_of()
    noise = TAU * LENGTH
    seen = torch.arange(12) < 6
    x = stack.decode(torch.tensor([[0.8, -0.5]], dtype=torch.float64))

    g = stack.pairs[0].g.weight[seen]
    precision = torch.eye(2, dtype=torch.float64) + g.T @ g / noise**2
    covariance = precision.inverse()
    mean = covariance @ g.T @ x[0, seen] / noise**2

    descent = LangevinDescent(6, highest=0.5, stop=0.15, rounds=40, rate=0.4)
    for pool, slow in ((10_000, LangevinDescent(2, 0.02, 0.01, rounds=1)), (200, descent)):
        inpainter = AnnealedInpainter(1, pool, slow, guide)
        filled = inpainter(stack, x.expand(800, -1), seen, generator=seeded(0)).h
        assert torch.equal(filled[:, seen], x[:, seen].expand(800, -1))

        missing = stack.pairs[0].g.weight[~seen]
        law = missing @ covariance @ missing.T
        assert (filled[:, ~seen].mean(0) - missing @ mean).abs().max() < 0.1
        assert torch.allclose(filled[:, ~seen].var(0), law.diag(), atol=0.08, rtol=0.25)


def test_widths_are_measured_on_the_model():
    stack = stack_of()
    codes = stack.prior.sample(500, seeded(0))
    tau, noise = AnnealedInpainter()._widths(stack, codes, seeded(1))
    assert tau.tolist() == pytest.approx([TAU, TAU], rel=0.1)
    assert noise == pytest.approx(TAU * LENGTH, rel=0.1)
    assert AnnealedInpainter(noise=0.3)._widths(stack, codes, None)[1] == 0.3

    # the noise of training takes the place of that of an encoder that has none
    stack = stack_of(width=0.0)
    stack.fit_residuals(stack.decode(codes), [None, GaussianNoise(0.3)])
    assert width_of_codes(stack, codes).tolist() == pytest.approx([0.3, 0.3], rel=0.1)


def test_means_films_and_refusals():
    stack = stack_of()
    x = stack.decode(stack.prior.sample(5, seeded(0)))
    seen = torch.arange(12) < 6
    inpainter = AnnealedInpainter(chains=3, pool=100)
    filled = inpaint(stack, x, seen, inpainter, seed=0)
    states = inpainting_steps(stack, x, seen, inpainter, seed=0)
    assert torch.equal(states[-1], filled)
    assert len(states) == inpainter.states == 7
    assert inpainter.effort == [(3, "chain"), (5, "level")]

    for make, words in (
        (lambda: AnnealedInpainter(guide="up"), "guide='up'"),
        (lambda: AnnealedInpainter(pool=0), "pool=0"),
        (lambda: AnnealedInpainter(noise=0.0), "noise=0.0"),
        (lambda: inpaint(stack_of(0.0), x, seen, inpainter), "codes have no width"),
        (lambda: inpainter(Stack(*stack.pairs), x, seen), "is a GaussianPrior; needed"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)
