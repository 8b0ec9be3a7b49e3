import itertools
import math

import pytest
import torch
from torch.distributions import Laplace, Normal

from gendae.laws import Discrete
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.factorial import FactorialPrior
from gendae.registry import build, describe

UNITS = [
    ["gaussian", 2],
    ["laplace", 1],
    ["logistic", 1],
    ["bernoulli", 2],
    ["sign", 1],
    ["categorical", 3],
]


def draws(n=4000):
    """Codes with known parameters for UNITS."""
    u = torch.rand(n, 2, dtype=torch.float64)
    location = torch.tensor(-1.0).double()
    laplace = Laplace(location, torch.tensor(0.5).double()).sample((n, 1))
    logistic = 2.0 + 0.3 * torch.logit(u[:, :1])
    bits = (torch.rand(n, 3) < torch.tensor([0.2, 0.9, 0.7])).double()
    kind = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True)
    gaussian = torch.randn(n, 2, dtype=torch.float64) * torch.tensor([1.0, 3.0]) + 1.0

    signs = 2 * bits[:, 2:] - 1
    classes = torch.nn.functional.one_hot(kind, 3)
    return torch.cat([gaussian, laplace, logistic, bits[:, :2], signs, classes], 1)


@pytest.fixture
def prior():
    return FactorialPrior(UNITS, noise=0.3).fit(draws())


def test_fit_finds_the_parameters(prior):
    expected = torch.tensor([1.0, 1.0, -1.0, 2.0, 0.2, 0.9, 0.7, 0.5, 0.3, 0.2]).double()
    assert torch.allclose(prior.location, expected, atol=0.15)
    scale = torch.tensor([1.0, 3.0, 0.5, 0.3, 1, 1, 1, 1, 1, 1]).double()
    assert torch.allclose(prior.scale, scale, rtol=0.05)


@pytest.mark.parametrize("name", ["location", "scale"])
@pytest.mark.parametrize("unit", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_maximum_likelihood(name, unit, factor):
    h = draws()[:, :3]
    prior = FactorialPrior(UNITS[:2]).fit(h)
    other = build(describe(prior)).double()
    other.load_state_dict(prior.state_dict())
    getattr(other, name)[unit] *= factor
    assert other.log_prob(h).mean() <= prior.log_prob(h).mean() + 1e-6


@pytest.mark.parametrize("law", ["gaussian", "laplace", "logistic"])
def test_continuous_densities_integrate_to_one(law):
    prior = FactorialPrior(law).fit(draws()[:, 3:4])
    grid = torch.linspace(-15, 20, 40_001, dtype=torch.float64)[:, None]
    total = torch.trapezoid(prior.log_prob(grid).exp(), grid[:, 0])
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_discrete_probabilities_add_up_to_one():
    prior = FactorialPrior([["bernoulli", 2], ["sign", 1], ["categorical", 3]]).fit(draws()[:, 4:])
    classes = torch.eye(3).tolist()
    states = [
        torch.tensor([*bits, sign, *row]).double()
        for *bits, sign, row in itertools.product((0, 1), (0, 1), (-1, 1), classes)
    ]
    assert prior.log_prob(torch.stack(states)).exp().sum().item() == pytest.approx(1.0)


def test_log_prob_is_the_sum_over_units(prior):
    h = draws(20)
    m = prior.location
    s = prior.scale
    p = (-(h[:, 3] - m[3]) / s[3]).sigmoid()

    expected = (
        Normal(m[:2], s[:2]).log_prob(h[:, :2]).sum(-1)
        + Laplace(m[2], s[2]).log_prob(h[:, 2])
        + (p * (1 - p) / s[3]).log()
    )
    bits = torch.cat([h[:, 4:6], (h[:, 6:7] + 1) / 2], 1)
    expected += torch.where(bits == 1, m[4:7], 1 - m[4:7]).log().sum(-1)
    expected += (h[:, 7:] * m[7:]).sum(-1).log()

    assert torch.allclose(prior.log_prob(h), expected)


def test_score_is_the_gradient_of_log_prob(prior):
    bits = torch.full((8, 3), 0.4).double()
    classes = torch.full((8, 3), 1 / 3).double()
    inner = torch.cat([draws(8)[:, :4], bits, classes], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(inner).sum(), inner)
    assert torch.allclose(prior.score(inner), gradient)


def test_samples_follow_the_law(prior):
    s = prior.sample(100_000, torch.Generator().manual_seed(0))
    again = FactorialPrior(UNITS).fit(s)
    assert torch.allclose(again.location, prior.location, atol=0.03)
    assert torch.allclose(again.scale, prior.scale, rtol=0.02)
    assert set(s[:, 6].unique().tolist()) == {-1.0, 1.0} and (s[:, 7:].sum(1) == 1).all()


@pytest.mark.parametrize("target", ["mode", "probability"])
def test_a_chain_of_the_prior_has_its_law(target):
    """From one code: discrete units are exact at once, others up to the square of the noise."""
    prior = FactorialPrior(UNITS, target=target).fit(draws())
    generator = torch.Generator().manual_seed(0)

    h = prior.sample(4000, generator)
    h[:, 4:] = h[0, 4:]
    h = prior.step(h, generator=generator)
    direct = prior.sample(4000, generator)

    assert ((h.mean(0) - direct.mean(0)) / direct.std(0)).abs().max() < 0.1
    assert torch.allclose(h.std(0), direct.std(0), rtol=0.15)
    assert torch.isfinite(prior.log_prob(h)).all()
    assert set(h[:, 4:].unique().tolist()) == {-1.0, 0.0, 1.0}


def test_the_temperature_leads_discrete_units_from_their_target_to_a_draw():
    prior = FactorialPrior("bernoulli", flat=True)
    prior.prepare(3)
    h = torch.tensor([[0.0, 1.0, 0.25]]).expand(2000, 3)

    assert torch.equal(prior.step(h, 0.0), prior.reconstruct(h))
    for temperature in (1.0, 2.0):
        drawn = prior.step(h, temperature, torch.Generator().manual_seed(0))
        assert set(drawn.unique().tolist()) == {0.0, 1.0}

    half = prior.step(h, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(half, torch.lerp(h, drawn, 0.5))


def test_reconstruction_of_discrete_units(prior):
    h = draws(5)
    mode = prior.reconstruct(h)[:, 4:]

    assert torch.equal(mode, torch.tensor([0, 1, 1, 1, 0, 0]).double().expand(5, 6))

    prior.target = "probability"
    p = prior.location
    expected = torch.cat([p[4:6], 2 * p[6:7] - 1, p[7:]])

    assert torch.allclose(prior.reconstruct(h)[:, 4:], expected.expand(5, 6))


#: Blocks of one law, the location and scale of their units, and values that the units can take.
SHARES = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.1, 0.9]]).double()
CLASSES = torch.cat([torch.eye(3).double(), SHARES])
BITS = torch.cartesian_prod(*[torch.tensor([0.0, 0.3, 1.0]).double()] * 3)
LINE = torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None]
CASES = {
    "categorical": ("categorical", [0.2, 0.5, 0.3], CLASSES),
    "two classes tie": ("categorical", [0.4, 0.4, 0.2], CLASSES),
    "the last two tie": ("categorical", [0.2, 0.4, 0.4], CLASSES),
    "all classes tie": ("categorical", [1 / 3, 1 / 3, 1 / 3], CLASSES),
    "bernoulli": ("bernoulli", [0.2, 0.5, 0.9], BITS),
    "sign": ("sign", [0.5, 0.6, 0.1], 2.0 * BITS - 1.0),
    "gaussian": ("gaussian", [0.1], LINE),
    "laplace": ("laplace", [0.1], LINE),
    "logistic": ("logistic", [0.1], LINE),
}


@pytest.mark.parametrize(("law", "location", "h"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("noise", [0.1, 10.0])
def test_a_mode_target_is_never_less_probable_and_of_discrete_units_the_most(
    law, location, h, noise
):
    """Also where several values are equally probable; h stays if there is none above it."""
    prior = FactorialPrior([[law, len(location)]], noise=noise)
    prior.location = torch.tensor(location, dtype=torch.float64)
    prior.scale = torch.full_like(prior.location, 0.7 if law in ("laplace", "logistic") else 1.0)

    target = prior.reconstruct(h)
    before = prior.log_prob(h)
    after = prior.log_prob(target)

    assert (after >= before - 1e-12).all()
    if prior.discrete:
        assert torch.allclose(after, before.max())

        highest = torch.isclose(before, before.max(), rtol=0.0, atol=1e-12)
        assert torch.equal(target[highest], h[highest])
        assert FactorialPrior([[law, len(location)]]).fit(target)  # values that the units have


def test_reconstruction_of_continuous_units(prior):
    h = draws(5)
    gain = prior.scale[:2] ** 2 / (prior.scale[:2] ** 2 + 0.09)  # the optimal denoising
    expected = prior.location[:2] + gain * (h[:, :2] - prior.location[:2])

    assert torch.allclose(prior.reconstruct(h)[:, :2], expected)

    prior.noise = 1e-4
    moved = prior.reconstruct(h)[:, :4] - h[:, :4]

    assert torch.allclose(moved, 1e-8 * prior.score(h)[:, :4], rtol=1e-3, atol=1e-12)


def test_flat_prior_is_usable_at_once_and_stays_flat():
    stack = deep_autoencoder([8, 6, 4], prior=FactorialPrior("bernoulli", flat=True))
    prior = stack.prior

    assert torch.allclose(prior.log_prob(torch.rand(3, 4)), torch.tensor(-4 * math.log(2.0)))

    prior.fit(torch.ones(5, 4))
    assert torch.equal(prior.location, torch.full((4,), 0.5))

    h = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    assert torch.equal(prior.reconstruct(h), h)  # no value is more probable than another

    mixed = FactorialPrior([["categorical", 4], ["gaussian", 1]], flat=True)
    assert torch.allclose(mixed.location, torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]))

    mixed.fit(torch.tensor([[1.0, 0, 0, 0, 3.0], [1, 0, 0, 0, 5]]))
    assert torch.equal(mixed.location, torch.tensor([0.25, 0.25, 0.25, 0.25, 4.0]))


def test_bernoulli_cross_entropy_minus_entropy_is_the_kl_of_section_7_4():
    p = torch.rand(3).double()
    q = torch.rand(6, 3).double()
    prior = FactorialPrior("bernoulli")
    prior.location = p
    prior.scale = torch.ones(3).double()
    entropy = -(q * q.log() + (1 - q) * (1 - q).log()).sum(-1)
    kl = prior.cross_entropy((q > 0.5).double(), q) - entropy

    assert torch.allclose(kl, (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(-1))
    assert (kl > 0).all()


def test_laplace_cross_entropy_is_closed():
    prior = FactorialPrior("laplace").fit(draws()[:, 2:3])
    mean = torch.tensor([[-0.5]]).double()
    v = torch.tensor([0.4]).double()
    grid = torch.linspace(-15, 15, 60_001, dtype=torch.float64)[:, None]
    weight = Normal(mean[0], v.sqrt()).log_prob(grid)[:, 0].exp()

    expected = torch.trapezoid(-weight * prior.log_prob(grid), grid[:, 0])

    assert prior.cross_entropy(mean + 3, mean, v).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_impossible_values_stay_improbable_but_possible():
    prior = FactorialPrior("bernoulli").fit(torch.zeros(9, 2))
    assert torch.allclose(prior.location, torch.full((2,), 0.05))
    assert torch.isfinite(prior.log_prob(torch.ones(1, 2))).all()

    prior = FactorialPrior("categorical").fit(torch.tensor([[1.0, 0.0, 0.0]]).expand(6, 3))
    assert torch.allclose(prior.location, torch.tensor([6.5, 0.5, 0.5]) / 7.5)


@pytest.mark.parametrize(
    ("units", "activation", "recognition"),
    [
        ("sign", "sigmoid", Discrete("binary")),
        ("sign", "sigmoid", None),
        ("bernoulli", "tanh", Discrete("sign")),
        ("bernoulli", "tanh", None),
        ([["gaussian", 1], ["sign", 1]], "sigmoid", None),
    ],
)
def test_a_prior_of_values_that_the_top_layer_does_not_have(units, activation, recognition):
    """0 was half a -1 and half a 1: samples had values that the decoder had never seen."""
    pair = Pair(Affine(3, 2, activation), Affine(2, 3), recognition=recognition)
    mixed = Pair(Heads(Affine(3, 3), ["linear", activation], [1, 2]), Affine(3, 3))
    with pytest.raises(ValueError, match="units of the prior are"):
        Stack(mixed, prior=FactorialPrior([["gaussian", 1], ["sign", 1], ["bernoulli", 1]]))
    with pytest.raises(ValueError, match="units of the prior are"):
        Stack(pair, prior=FactorialPrior(units))


@pytest.mark.parametrize(("units", "unit"), [("sign", "sign"), ("bernoulli", "binary")])
def test_a_prior_of_the_top_layer_s_values(units, unit):
    law = Discrete(unit)
    pair = Pair(Affine(3, 2, law.activation), Affine(2, 3), recognition=law)
    assert Stack(pair, prior=FactorialPrior(units)).depth == 1


SIGNS = FactorialPrior([["sign", 2]], flat=True)


def fitted(units, codes):
    return FactorialPrior(units).fit(codes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FactorialPrior([["poisson", 2]]), "law in units='poisson'"),
        (lambda: FactorialPrior([["gaussian", 0]]), "size of gaussian in units=0"),
        (lambda: FactorialPrior([["categorical", 1]]), ">= 2"),
        (lambda: FactorialPrior(target="median"), "mode, probability"),
        (lambda: fitted([["gaussian", 3]], torch.rand(4, 2)), "3 features, but h_L has 2"),
        (lambda: fitted("bernoulli", torch.full((4, 2), 2.0)), "clamp or threshold"),
        (lambda: fitted("categorical", torch.ones(4, 2)), "add up to 1"),
        (lambda: SIGNS.log_prob(torch.full((1, 2), -1.5)), r"\[-1, 1\]"),
        (lambda: SIGNS.log_prob(torch.zeros(1, 3)), r"\(batch, 2\)"),
        (lambda: FactorialPrior().log_prob(torch.zeros(1, 3)), "not fitted"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
