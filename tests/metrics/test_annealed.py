"""Annealed importance sampling against Gaussians, sums over all codes, and its own two sides."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from gendae import annealed_gap, annealed_log_prob
from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Wrapped
from gendae.metrics.annealed import inverse_temperatures
from gendae.metrics.latents import Latents
from gendae.models.stack import Stack
from gendae.priors.autoencoder import AutoencoderPrior
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.factorial import FactorialPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.samplers import seeded
from tests.conftest import linear_stack


def gaussian_log_prob(stack, x, means=False):
    """log p(x) of a linear-Gaussian stack, whose top may be a Parzen window."""
    centres = torch.zeros(1, stack.sizes[-1]).double()
    covariance = torch.eye(stack.sizes[-1]).double()
    if isinstance(stack.prior, ParzenPrior):
        centres = stack.prior.codes
        covariance = covariance * stack.prior.bandwidth_**2

    for level in range(stack.depth, 0, -1):
        pair = stack.pairs[level - 1]
        w = pair.g.weight.detach()
        centres = centres @ w.T + pair.g.bias.detach()
        covariance = w @ covariance @ w.T
        if level == 1 or not means:
            covariance = covariance + pair.observation.sigma**2 * torch.eye(len(w)).double()

    terms = [MultivariateNormal(centre, covariance).log_prob(x) for centre in centres]
    return torch.stack(terms).logsumexp(0) - math.log(len(centres))


def errors(result, chains):
    """Standard error of log (1/C) sum_c w_c, from the effective number of chains."""
    return math.sqrt((chains / result.effective - 1.0) / chains)


def parzen_stack():
    """A linear stack under windows that are sampled with less noise than they have."""
    stack = linear_stack((4, 2))
    prior = ParzenPrior(bandwidth=0.6, noise_scale=0.2)
    stack.prior = prior.fit(torch.randn(5, 2).double())
    return stack


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: linear_stack((2, 1), sigma=2.0), {"temperatures": 20}),
        (lambda: linear_stack((4, 3, 2)), {"schedule": "linear"}),
        (lambda: linear_stack((4, 3, 2)), {"hidden": "means"}),
        (lambda: linear_stack((3, 2), sigma=0.5), {"sigma_x": 0.7}),
        (parzen_stack, {}),
    ],
    ids=["closely", "two levels", "means", "sigma_x", "windows"],
)
def test_log_p_of_linear_gaussian_stacks(make, options):
    """Few temperatures and many chains: a transition that moved p_t would show as a bias."""
    stack = make()
    x = torch.randn(2, stack.sizes[0]).double()
    options = {"chains": 20_000, "temperatures": 6, "steps": 3, "rows": 40_000} | options
    result = annealed_log_prob(stack, x, generator=seeded(1), **options)

    if "sigma_x" in options:
        stack.pairs[0].observation = Gaussian(options["sigma_x"])
    exact = gaussian_log_prob(stack, x, means="hidden" in options)
    error = errors(result, options["chains"])

    assert error < (0.0025 if options["temperatures"] == 20 else 0.0125)
    assert torch.allclose(result.values, exact, atol=4.0 * error)
    assert result.mean == result.values.mean().item()
    assert 0.45 < result.acceptance < 0.9


def binary_pair(low, high, law, observation):
    pair = Pair(
        Affine(low, high, law.activation), Affine(high, low, observation.activation or "linear")
    )
    pair.observation = observation
    pair.recognition = law
    return pair


def bits_stack(law, observation):
    """x of four units over three bits over two."""
    sizes = [binary_pair(4, 3, law, observation), binary_pair(3, 2, law, law)]
    name = "sign" if getattr(law, "low", 0.0) else "bernoulli"
    stack = Stack(*sizes, prior=FactorialPrior(name)).double()
    with torch.no_grad():
        for pair in stack.pairs:
            pair.g.weight.mul_(1.5)
            pair.g.bias.normal_()

    low = -1.0 if name == "sign" else 0.0
    stack.prior.fit(torch.tensor([[low, 1.0], [1.0, 1.0], [1.0, low], [1.0, 1.0]]).double())
    return stack


def mixed_stack():
    """x over a real unit, a bit and one of three classes, side by side."""
    prior = FactorialPrior([["gaussian", 1], ["bernoulli", 1], ["categorical", 3]])
    stack = Stack(Pair(Affine(4, 5), Affine(5, 4), Gaussian(0.5)), prior=prior).double()
    one_hot = torch.eye(3)[torch.arange(30) % 3]
    bits = (torch.arange(30) % 4 == 0)[:, None].float()
    prior.fit(torch.cat([torch.randn(30, 1), bits, one_hot], 1).double())

    return stack


def codes_of(stack):
    """All values of the latent units, in a row each, and log of the volume of each."""
    kinds = Latents(stack).kinds
    grid = (
        torch.linspace(-8.0, 8.0, 161).double()[:, None] if kinds.real.any() else torch.empty(1, 0)
    )
    bits = [(low, 1.0) for low in kinds.low[~kinds.low.isnan()].tolist()]
    classes = [torch.eye(group.stop - group.start).tolist() for group in kinds.groups]

    rows = [
        [*real, *values, *itertools.chain(*one_hots)]
        for real in grid.tolist()
        for values in itertools.product(*bits)
        for one_hots in itertools.product(*classes)
    ]
    log_volume = math.log(16.0 / 160) if kinds.real.any() else 0.0
    return torch.tensor(rows).double(), log_volume


def summed_log_prob(stack, x):
    """log sum_h p(x, h) over all h."""
    h, log_volume = codes_of(stack)
    latents = Latents(stack)
    values = []
    for row in x:
        parts = h.split(latents.widths, 1)
        log_p = stack.log_joint((row.expand(len(h), -1), *parts))
        values.append(log_p.logsumexp(0) + log_volume)

    return torch.stack(values).detach()


BITS = Discrete("sign", stochastic=True)
DISCRETE = {
    "bits of bits": lambda: bits_stack(Bernoulli(binary=True), Bernoulli()),
    "signs": lambda: bits_stack(BITS, Gaussian(5.0)),
    "real, bit and class": mixed_stack,
}


@pytest.mark.parametrize("name", DISCRETE)
def test_log_p_where_all_codes_can_be_summed(name):
    stack = DISCRETE[name]()
    latents = Latents(stack)
    x = latents.draw_x(latents.draw(2, seeded(3)), seeded(4))

    result = annealed_log_prob(stack, x, 10_000, 5, steps=2, generator=seeded(1), rows=20_000)
    error = errors(result, 10_000)

    assert error < 0.0125
    assert torch.allclose(result.values, summed_log_prob(stack, x), atol=4.0 * error)


@pytest.mark.parametrize("name", ["linear", *DISCRETE])
def test_below_on_the_way_up_and_above_on_the_way_down(name):
    """E w / p(x) = E p(x) / w' = 1, so that by Jensen E log w < log p(x) < E log w'."""
    stack = linear_stack((3, 2), 2.0) if name == "linear" else DISCRETE[name]()
    gap = annealed_gap(stack, 400, 1, 6, steps=1, generator=seeded(2))
    exact = gaussian_log_prob if name == "linear" else summed_log_prob
    exact = exact(stack, gap.x)

    below = exact - gap.lower.values
    above = gap.upper.values - exact
    for miss in (below, above):
        ratio = (-miss).exp()
        assert ratio.mean().item() == pytest.approx(1.0, abs=4.0 * ratio.std().item() / 20.0)
        assert miss.mean().item() > 2.0 * miss.std().item() / 20.0

    assert gap.mean == pytest.approx((below + above).mean().item())


def test_more_temperatures_close_the_gap():
    stack = linear_stack((4, 3, 2))
    gaps = (annealed_gap(stack, 30, 4, n, steps=2, generator=seeded(0)) for n in (1, 20))
    wide, narrow = (gap.mean for gap in gaps)
    assert 0.0 < narrow < wide / 2.0


@pytest.mark.parametrize("name", ["linear", "real, bit and class"])
def test_the_seed_decides_and_neither_other_images_nor_rows_do(name):
    stack = linear_stack((4, 3, 2)) if name == "linear" else DISCRETE[name]()
    latents = Latents(stack)
    x = latents.draw_x(latents.draw(3, seeded(3)), seeded(4))

    def run(x, rows=1000, seed=0):
        options = {"steps": 1, "generator": seeded(seed), "rows": rows}
        return annealed_log_prob(stack, x, 2, 3, **options).values

    before = torch.get_rng_state()
    values = run(x)
    assert torch.equal(run(x), values)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.isclose(run(x, seed=1), values).any()
    assert torch.allclose(run(x, rows=4), values, atol=1e-9)
    assert torch.allclose(run(x[:2]), values[:2], atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_inverse_temperatures_rise_from_0_to_1(schedule):
    betas = torch.tensor(inverse_temperatures(50, schedule)).double()
    rises = betas.diff()
    assert betas[[0, -1]].tolist() == [0.0, 1.0]
    assert torch.allclose(rises, rises.flip(0))

    logistic = torch.sigmoid(4.0 * torch.linspace(-1.0, 1.0, 51).double())
    expected = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    if schedule == "linear":
        expected = torch.linspace(0.0, 1.0, 51).double()
    assert torch.allclose(betas, expected)


def test_what_is_told_ends_at_1():
    shares = []
    annealed_log_prob(linear_stack(), torch.zeros(3, 3), 2, 4, steps=1, rows=4, told=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


FLAT = FactorialPrior("gaussian", flat=True)
DETERMINISTIC = Gaussian(stochastic=False)


def bits_x():
    return Stack(Pair(Affine(3, 2), Affine(2, 3, "sigmoid"), Bernoulli()), prior=FLAT)


def classes_x():
    g = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Softmax(1))
    return Stack(Pair(Affine(3, 2), Wrapped(g, activation="softmax"), Categorical()), prior=FLAT)


def under(prior, observation=None):
    return Stack(Pair(Affine(3, 2), Affine(2, 3), observation), prior=prior)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: under(AutoencoderPrior([4], 2)), {}, "prior=AutoencoderPrior has no density"),
        (lambda: under(DenoisingPrior()), {}, "prior=DenoisingPrior has its density from an"),
        (lambda: under(FactorialPrior()), {}, "not fitted"),
        (lambda: under(FLAT, DETERMINISTIC), {}, "x has deterministic units in its law"),
        (lambda: under(FLAT), {"chains": 0}, "chains=0"),
        (lambda: under(FLAT), {"temperatures": 0}, "temperatures=0"),
        (lambda: under(FLAT), {"schedule": "cosine"}, "schedule='cosine'"),
        (lambda: under(FLAT), {"hidden": "mean"}, "hidden='mean' is unknown"),
        (lambda: under(FLAT), {"sigma_x": 0.0}, "sigma_x=0.0"),
        (lambda: under(FLAT), {"x": torch.zeros(0, 3)}, "x has"),
        (lambda: under(FLAT), {"x": torch.zeros(2, 4)}, r"\(batch, 4\)|\(2, 4\)"),
        (bits_x, {}, "x holds grey values, and Bernoulli gives probabilities of bits"),
        (classes_x, {}, "one-hot"),
    ],
)
def test_what_has_no_density_is_refused(make, options, words):
    with pytest.raises(ValueError, match=words):
        annealed_log_prob(make(), options.pop("x", torch.full((2, 3), 0.5)), **options)
