import math
from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from gendae.models.architectures import deep_autoencoder
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.bandwidth import HeldOut
from gendae.priors.base import Prior
from gendae.priors.criteria import NearestNeighbour, Reconstruction
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.linear import LinearAutoencoderPrior
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior, parzen_log_prob
from gendae.registry import build, describe, upgraded

COVARIANCES = ["diagonal", "full"]


def codes(n=500, d=4):
    mix = torch.randn(d, d, dtype=torch.float64)
    return torch.randn(n, d, dtype=torch.float64) @ mix + 1.0


MAKERS = {
    "diagonal": lambda: GaussianPrior(),
    "full": lambda: GaussianPrior("full", 1.0, noise=0.5),
    "full x 4": lambda: GaussianPrior("full", 4.0),
    "identity": lambda: GaussianPrior("identity", 1.0),
    "linear": lambda: LinearAutoencoderPrior(0.5),
    "factorial": lambda: FactorialPrior([["gaussian", 2], ["laplace", 1], ["logistic", 1]]),
    "parzen": lambda: ParzenPrior(),
    "manifold": lambda: ManifoldParzenPrior(components=2),
    "autoencoder": lambda: AutoencoderPrior([8], 3, hidden_noise=0.1, learning=Learning(1)),
}
DENSITIES = [name for name in MAKERS if name != "autoencoder"]


def fitted(name):
    return MAKERS[name]().fit(codes(120))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_log_prob_is_that_of_the_fitted_gaussian(scale):
    h = codes()
    x = codes(20)
    diagonal = GaussianPrior("diagonal", scale).fit(h)
    full = GaussianPrior("full", scale).fit(h)

    expected = Normal(h.mean(0), (scale * h.var(0)).sqrt()).log_prob(x).sum(-1)
    assert torch.allclose(diagonal.log_prob(x), expected, rtol=1e-3)

    expected = MultivariateNormal(h.mean(0), scale * torch.cov(h.T)).log_prob(x)
    assert torch.allclose(full.log_prob(x), expected, rtol=1e-3)  # the jitter's share


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_samples_have_the_fitted_mean_and_scaled_variance(covariance):
    h = codes()
    prior = GaussianPrior(covariance, 4.0).fit(h)
    s = prior.sample(200_000, torch.Generator().manual_seed(0))
    assert torch.allclose(s.mean(0), h.mean(0), atol=0.05)

    expected = 4 * torch.cov(h.T)
    if covariance == "diagonal":
        expected = torch.diag(expected.diag())
    assert torch.allclose(torch.cov(s.T), expected, rtol=0.05, atol=0.2)


@pytest.mark.parametrize(
    ("prior", "tolerance"),
    [
        (GaussianPrior("diagonal"), 0.1),
        (GaussianPrior("full"), 0.1),
        (LinearAutoencoderPrior(noise=0.3), 1e-3),
        (FactorialPrior([["gaussian", 2], ["laplace", 1], ["logistic", 1]]), 1.1),
        (AutoencoderPrior([64, 64], 32, learning=Learning(1)), 0.1),
    ],
    ids=["diagonal", "full", "linear", "factorial", "autoencoder"],
)
def test_dead_units_leave_the_prior_usable(prior, tolerance):
    h = codes()
    h[:, 1:] = 0.3
    prior.fit(h)
    moved = h + torch.rand_like(h)

    assert not prior.has_density or torch.isfinite(prior.log_prob(h)).all()
    assert (prior.sample(100)[:, 1:] - 0.3).abs().max() < 0.1
    assert (prior.reconstruct(moved)[:, 1:] - 0.3).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [None, 0.1, 100.0])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0 / 3.0, -5.0, 1e6])
def test_a_linear_autoencoder_of_one_code_gives_that_code(value, noise, dtype):
    h = torch.full((97, 3), value, dtype=dtype)
    prior = LinearAutoencoderPrior(noise=noise).fit(h)

    assert torch.allclose(prior.mean, h[0], rtol=1e-4)
    assert torch.allclose(prior.sample(97), h, rtol=1e-4, atol=1e-10)
    assert torch.allclose(prior.reconstruct(h), h, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianPrior("banded"), "diagonal, full"),
        (lambda: setattr(GaussianPrior(), "noise", -3.0), "noise=-3.0"),
        (lambda: setattr(FactorialPrior(), "noise", math.nan), "noise=nan"),
        (lambda: setattr(LinearAutoencoderPrior(), "noise", 0.0), "noise=0.0"),
        (lambda: GaussianPrior(variance_scale=0.0), "variance_scale"),
        (lambda: GaussianPrior(noise=-1.0), "noise=-1.0"),
        (lambda: LinearAutoencoderPrior(noise=0.0), "noise=0.0"),
        (lambda: GaussianPrior().fit(torch.zeros(1, 3)), "two rows"),
        (lambda: GaussianPrior().fit(torch.full((3, 3), math.nan)), "9 NaN"),
        (lambda: parzen_log_prob(torch.zeros(2, 3), torch.zeros(2, 4), 0.2), r"\(2, 3\)"),
        (lambda: parzen_log_prob(torch.zeros(2, 3), torch.zeros(0, 3), 0.2), "empty"),
        (
            lambda: parzen_log_prob(torch.full((2, 3), math.inf), torch.zeros(2, 3), 0.2),
            "x holds 6",
        ),
        (
            lambda: parzen_log_prob(torch.zeros(2, 3), torch.full((1, 3), math.nan), 0.2),
            "samples holds 3",
        ),
        (lambda: parzen_log_prob(torch.zeros(2, 3), torch.zeros(2, 3), 0.0), "sigma=0.0"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# -- what every prior does -----------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSITIES)
def test_every_score_is_the_gradient_of_its_log_prob(name):
    prior = fitted(name)
    x = codes(7)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(leaf).sum(), leaf)

    with torch.no_grad():
        assert torch.allclose(prior.score(x), gradient, atol=1e-7)
        base = Prior.score(prior, x)  # the base class's way, under no_grad
        assert torch.allclose(base, gradient)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stack_keeps_its_prior_through_description_and_state_dict(name):
    stack = deep_autoencoder([8, 6, 4], prior=MAKERS[name]())
    h = stack.encode(torch.rand(60, 8))[-1].detach()
    stack.prior.fit(h)
    other = build(describe(stack))
    assert type(other.prior) is type(stack.prior)

    state = stack.state_dict()
    other.load_state_dict(
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    )
    assert other.prior.fitted
    assert all(b.is_contiguous() for b in stack.prior.buffers())  # as in a file: the same rounding
    assert torch.equal(other.prior.reconstruct(h), stack.prior.reconstruct(h))

    ours, theirs = (s.prior.sample(3, torch.Generator().manual_seed(0)) for s in (stack, other))
    assert torch.equal(ours, theirs)


def flat(kind, **options):
    """A description of before 0.2, when all arguments were flat."""
    shared = {"sigma": 0.4, "epochs": 2, "lr": 0.01, "batch_size": 30, "chain_noise": "input"}
    windows = {"local": None, "neighbours": 7, "components": 2, "validation_fraction": 0.2}
    return {
        "AutoencoderPrior": {"type": kind, "hidden": [8], "code": 3, **shared, "seed": 3},
        "ParzenPrior": {"type": kind, **windows, "stratified": False, "bandwidth_bonus": 0.5},
    }[kind] | options


LEARNT = {"sigma": 0.4, "learning": Learning(2, 0.01, 30, 3)}
NEAR = {"space": "input", "neighbours": 4, "refresh": 5, "match": 0.3}
NOISES = {"hidden_noise": 0.2, "walkback": 1, "burn_in": 2, "residual": 0.1, "capacity": 40}
FORMER = [
    (
        flat("ParzenPrior", capacity=30),
        ParzenPrior(None, 30, held_out=HeldOut(0.2, 0.5), stratified=False),
    ),
    (
        flat("ParzenPrior", local="manifold"),
        ManifoldParzenPrior(
            neighbours=7, components=2, held_out=HeldOut(0.2, 0.5), stratified=False
        ),
    ),
    (
        flat("AutoencoderPrior", criterion="self", **NEAR, walkback=2, steps=5, chains=4),
        AutoencoderPrior(
            [8], 3, criterion=Reconstruction(2), walk=Walk(5, 0, 4, "input"), **LEARNT
        ),
    ),
    (
        flat("AutoencoderPrior", criterion="nearest", **NEAR, **NOISES),
        AutoencoderPrior(
            [8],
            3,
            hidden_noise=0.2,
            criterion=NearestNeighbour(1, "input", 4, 5, 0.3),
            walk=Walk(20, 2, None, "input", 0.1, 40),
            **LEARNT,
        ),
    ),
    ({"type": "AutoencoderPrior", "criterion": "self"}, AutoencoderPrior()),
    (
        {"type": "GaussianPrior", "covariance": "full", "variance_scale": 2.0},
        GaussianPrior("full", 2.0),
    ),
]


@pytest.mark.parametrize(("old", "prior"), FORMER)
def test_descriptions_of_earlier_versions_build_the_same_prior(old, prior):
    assert describe(build(old)) == describe(prior)
    assert upgraded(describe(prior)) == describe(prior)


@pytest.mark.parametrize("name", MAKERS)
def test_a_prior_fitted_in_inference_mode_serves_training(name):
    with torch.inference_mode():  # as Lightning's validation does
        prior = MAKERS[name]().fit(codes(60) * 1.0)

    x = codes(5).requires_grad_()
    use = prior.reconstruct
    if prior.has_density:
        use = partial(prior.cross_entropy, x)
    use(x).sum().backward()

    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", MAKERS)
def test_codes_in_half_precision_make_a_prior_in_single(name):
    with torch.autocast("cpu", torch.bfloat16):
        prior = MAKERS[name]().fit(codes(60).bfloat16())
        x = prior.sample(3)
        assert torch.isfinite(prior.reconstruct(x)).all()

    assert x.dtype == torch.float32
    assert all(b.dtype == torch.float32 for b in prior.buffers())


@pytest.mark.parametrize("name", MAKERS)
def test_a_chain_where_draws_are_direct_and_use_before_fit_are_refused(name):
    uses = [lambda p: p.sample(2), lambda p: p.reconstruct(torch.zeros(1, 4))]
    if name in DENSITIES:
        uses += [lambda p: p.log_prob(torch.zeros(1, 4)), lambda p: p.score(torch.zeros(1, 4))]

    for use in uses:
        if name != "identity":  # which is fitted by a stack
            with pytest.raises(ValueError, match="not fitted"):
                use(MAKERS[name]())

    assert MAKERS[name]().analytic == (name in DENSITIES)
    if name in DENSITIES:
        with pytest.raises(ValueError, match="sampled directly"):
            fitted(name).chain(codes(2), 3)


@pytest.mark.parametrize("name", DENSITIES)
def test_cross_entropy_is_the_mean_of_minus_log_prob_under_q(name):
    prior = fitted(name)
    mean = codes(2)
    variance = torch.tensor([0.5, 1.0, 0.1, 2.0], dtype=torch.float64)
    draws = mean + variance.sqrt() * torch.randn(40_000, 1, 4, dtype=torch.float64)

    expected = -prior.log_prob(draws.flatten(0, 1)).view(-1, 2)
    got = torch.stack([prior.cross_entropy(d, mean, variance) for d in draws[:400]]).mean(0)
    spread = expected.std(0) * (400**-0.5)
    assert ((got - expected.mean(0)).abs() < 5 * spread + 1e-3).all()

    if isinstance(prior, GaussianPrior):  # closed: no draw enters it
        assert torch.allclose(got, expected.mean(0), rtol=0.02)
        assert torch.equal(
            prior.cross_entropy(draws[0], mean, variance),
            prior.cross_entropy(draws[1], mean, variance),
        )


# -- Gaussian ------------------------------------------------------------------------------------


def test_identity_prior_minus_entropy_is_equation_22():
    prior = GaussianPrior("identity", 1.0)
    sigma = torch.rand(3, dtype=torch.float64) + 0.2
    prior.prepare(3)
    mean = codes(5, 3)

    entropy = Normal(mean, sigma.expand_as(mean)).entropy().sum(-1)
    kl = prior.double().cross_entropy(mean, mean, sigma**2) - entropy
    expected = -0.5 * ((sigma**2).log() + 1 - mean**2 - sigma**2).sum(-1)
    assert torch.allclose(kl, expected)


def test_identity_prior_takes_its_width_from_the_stack_and_ignores_codes():
    stack = deep_autoencoder([8, 6, 4], prior=GaussianPrior("identity", 2.0))
    assert stack.prior.fitted

    x = torch.randn(3, 4)
    before = stack.prior.log_prob(x)
    stack.prior.fit(torch.rand(10, 4))

    assert torch.equal(stack.prior.log_prob(x), before)
    assert torch.allclose(before, Normal(0.0, math.sqrt(2.0)).log_prob(x).sum(-1))


@pytest.mark.parametrize("covariance", ["diagonal", "full", "identity"])
def test_gaussian_reconstruction_is_the_optimal_denoising(covariance):
    noise = 0.7
    prior = GaussianPrior(covariance, 1.5, noise=noise).fit(codes())
    x = codes(6)
    factor = prior.factor
    if covariance != "full":
        factor = factor.diag()

    sigma = 1.5 * factor @ factor.T
    gain = sigma @ torch.linalg.inv(sigma + noise**2 * torch.eye(4, dtype=torch.float64))

    assert torch.allclose(prior.reconstruct(x), prior.mean + (x - prior.mean) @ gain.T)

    marginal = prior.marginal(torch.ones(4, dtype=torch.bool))  # which keeps the noise
    assert torch.allclose(marginal.reconstruct(x), prior.reconstruct(x))

    prior.noise = 1e-4
    assert torch.allclose(prior.reconstruct(x) - x, 1e-8 * prior.score(x), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda **noise: GaussianPrior("diagonal", 1.0, **noise),
        lambda **noise: GaussianPrior("full", 4.0, **noise),
        lambda **noise: FactorialPrior("laplace", **noise),
        lambda **noise: FactorialPrior([["logistic", 2], ["gaussian", 2]], **noise),
        lambda **noise: LinearAutoencoderPrior(**noise),
    ],
    ids=["diagonal", "full", "laplace", "blocks", "linear"],
)
def test_the_noise_is_a_tenth_of_the_codes_spread_unless_it_is_given(make):
    """So that denoising is the same to codes of another scale: r(c h) = c r(h)."""
    h = codes(3000)
    own = make().fit(h)
    large = make().fit(1000.0 * h)

    assert make().noise == 0.1
    if isinstance(own, GaussianPrior):
        assert own.noise == pytest.approx(0.1 * h.var(0).mean().sqrt().item(), rel=1e-2)

    assert large.noise == pytest.approx(1000.0 * own.noise, rel=1e-3)
    assert torch.allclose(large.reconstruct(1000.0 * h), 1000.0 * own.reconstruct(h), rtol=1e-3)

    # as described by files of version 0.1, whose noise is in units of h
    given = make(noise=0.1).fit(1000.0 * h)
    again = build(describe(given)).fit(1000.0 * h)
    assert given.noise == again.noise == 0.1
    assert build(describe(own)).fit(h).noise == own.noise


def test_linear_autoencoder_is_the_gaussian_of_its_data():
    h = codes(2000, 5)
    prior = LinearAutoencoderPrior(noise=0.5).fit(h)
    assert torch.allclose(prior.mean, h.mean(0), atol=1e-4)

    covariance = torch.cov(h.T, correction=0)
    assert torch.allclose(prior.factor @ prior.factor.T, covariance, rtol=1e-3, atol=1e-4)

    x = codes(8, 5)
    expected = MultivariateNormal(h.mean(0), covariance).log_prob(x)
    assert torch.allclose(prior.log_prob(x), expected, rtol=1e-3)

    # the auto-encoder W h + b itself is the optimal denoising of that Gaussian
    assert torch.allclose(prior.reconstruct(x), GaussianPrior.reconstruct(prior, x), atol=1e-4)


# -- the Parzen function -------------------------------------------------------------------------


def oracle(x, samples, sigma):
    """Explicit differences in float64."""
    d2 = (x.double()[:, None] - samples.double()[None]).square().sum(-1)
    d = x.shape[1]
    return (
        torch.logsumexp(-d2 / (2 * sigma**2), 1)
        - math.log(len(samples))
        - d * math.log(sigma * math.sqrt(2 * math.pi))
    )


@pytest.fixture
def hostile_settings():
    """Low matmul precision everywhere, restored afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_parzen_is_exact_at_784_dimensions_whatever_the_settings(
    sigma, autocast, hostile_settings
):
    x = torch.rand(40, 784)
    samples = torch.rand(300, 784)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = parzen_log_prob(x, samples, sigma)
    assert got.dtype == torch.float64
    assert (got - oracle(x, samples, sigma)).abs().max() < 1e-6


def test_parzen_with_several_sigmas_and_blocks(monkeypatch):
    monkeypatch.setattr("gendae.priors.parzen.BLOCK_ENTRIES", 100)
    x = torch.rand(17, 5)
    samples = torch.rand(30, 5)
    got = parzen_log_prob(x, samples, [0.1, 0.3])
    assert torch.allclose(got[0], oracle(x, samples, 0.1))
    assert torch.allclose(got[1], oracle(x, samples, 0.3))
