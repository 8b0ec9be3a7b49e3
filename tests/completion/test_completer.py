"""Clamped chains against closed forms: tops, linear auto-encoders, starts, schedules and draws."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer
from gendae.completion.modalities import log_conditional
from gendae.completion.moves import agreement, around, deviation, from_prior
from gendae.corruption import GaussianNoise
from gendae.models.architectures import deep_autoencoder, joint_autoencoder
from gendae.priors.autoencoder import AutoencoderPrior, Learning
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior
from gendae.sampling.samplers import seeded

SEEN = torch.tensor([True, False, True, False])
CHAIN = Annealing(1.0, 1.0)
THERE = torch.tensor([[True, False]])  # the first of two modalities


def gaussian(mean, cov, noise=0.5):
    """A prior with this law, half of it in variance_scale."""
    prior = GaussianPrior("full", variance_scale=2.0, noise=noise)
    prior.mean = mean
    prior.factor = torch.linalg.cholesky(cov / 2.0)
    return prior


def moments(width=4):
    a = torch.randn(width, width, dtype=torch.float64, generator=seeded(1))
    mean = torch.linspace(-1.0, 1.0, width, dtype=torch.float64)
    return mean, a @ a.T / width + 0.3 * torch.eye(width)


def top_of(prior, width):
    """A stack whose top, level 1, is modelled by this prior."""
    stack = deep_autoencoder([2, width]).double()
    stack.prior = prior
    return stack


def smooth(cov, noise):
    return cov + noise**2 * torch.eye(len(cov))


def conditional(mean, cov, h, seen=SEEN):
    """Mean, (batch, missing), and covariance of N(mean, cov) given the seen elements of h."""
    gain = torch.linalg.solve(cov[seen][:, seen], cov[seen][:, ~seen])
    rest = cov[~seen][:, ~seen] - cov[~seen][:, seen] @ gain
    return mean[~seen] + (h - mean)[:, seen] @ gain, rest


def path(completer, stack, h, mask, observed=None, seed=0):
    return list(completer.trajectory(stack, h, mask, observed, seeded(seed)))


def linear_joint(rate=0.6):
    """Real modalities a, b under a linear top, and its map h -> R h + c as (stack, R, c).

    The part of R that maps b onto itself has this spectral radius.
    """
    kinds = {"a": {"sizes": [3], "kind": "real"}, "b": {"sizes": [2], "kind": "real"}}
    stack = joint_autoencoder(kinds, top=[4], activation="linear").double()
    f = stack.junction.f.f
    g = stack.junction.g.g

    with torch.no_grad():
        f.bias.normal_()
        g.bias.normal_()
        r = g.weight @ f.weight[:, :5]
        g.weight.mul_(rate / torch.linalg.eigvals(r[3:, 3:]).abs().max())

    w = g.weight.detach()
    v = f.weight.detach()
    c = w @ (v[:, 5:].sum(1) + f.bias.detach()) + g.bias.detach()

    return stack, w @ v[:, :5], c


def labelled():
    """An image with a code, and a label; residuals and a prior are fitted."""
    members = {"image": {"sizes": [6, 4]}, "label": {"sizes": [3], "kind": "onehot"}}
    stack = joint_autoencoder(members, top=[5], activation="tanh").double()
    g = seeded(3)
    image = torch.rand(40, 6, dtype=torch.float64, generator=g)
    x = stack.join({"image": image, "label": torch.randint(3, (40,), generator=g)})[0]
    stack.prior.fit(stack.encode(x)[-1].detach())
    stack.fit_residuals(x)

    return stack, x


def test_map_climbs_the_smoothed_gaussian_s_conditional_to_its_mean_and_keeps_what_is_observed():
    """r(h) - h = -noise^2 (Sigma + noise^2 I)^-1 (h - mu) is 0 at that law's conditional mean."""
    mean, cov = moments()
    stack = top_of(gaussian(mean, cov), 4)
    h = torch.randn(5, 4, dtype=torch.float64)
    states = path(Completer.map(3000, level=1, begin="noise", tolerance=1e-13), stack, h, SEEN)

    assert all(torch.equal(state[:, SEEN], h[:, SEEN]) for state in states)

    exact, _ = conditional(mean, smooth(cov, 0.5), h)
    assert torch.allclose(states[-1][:, ~SEEN], exact, atol=1e-10)
    assert (exact - conditional(mean, cov, h)[0]).abs().max() > 0.01

    law = gaussian(mean, smooth(cov, 0.5))
    climbed = torch.stack([log_conditional(law, state, SEEN) for state in states[:60]])
    assert (climbed.diff(dim=0) > 0).all()


def test_map_falls_short_of_the_prior_s_own_conditional_mode_by_the_fourth_power_of_the_noise():
    mean, cov = moments()
    h = torch.randn(3, 4, dtype=torch.float64)

    short = []
    for noise in (0.1, 0.2):
        prior = gaussian(mean, cov, noise)
        stack = top_of(prior, 4)
        states = path(Completer.map(5000, level=1, begin="noise", tolerance=1e-9), stack, h, SEEN)

        best = h.masked_scatter(~SEEN.expand_as(h), conditional(mean, cov, h)[0])
        short.append(log_conditional(prior, best, SEEN) - log_conditional(prior, states[-1], SEEN))

        early = torch.stack([log_conditional(prior, state, SEEN) for state in states[:30]])
        assert (early.diff(dim=0) > 0).all()

    assert torch.allclose(short[1] / short[0], torch.full((3,), 16.0).double(), rtol=0.3)


def stationary(mean, cov, noise, h):
    """Mean and covariance V of h' = A (h + s z), s^2 = 2 noise^2.

    V = A_mm V A_mm' + s^2 (A A')_mm around the smoothed conditional mean.
    """
    a = torch.linalg.solve(smooth(cov, noise), cov)
    own = a[~SEEN][:, ~SEEN]
    pushed = 2.0 * noise**2 * (a @ a.T)[~SEEN][:, ~SEEN]
    v = torch.linalg.solve(torch.eye(4).double() - torch.kron(own, own), pushed.flatten())
    return conditional(mean, smooth(cov, noise), h)[0], v.view(2, 2)


def test_the_chain_has_the_stationary_law_of_its_linear_recursion():
    mean, cov = moments()
    n = 10_000
    h = torch.randn(1, 4, dtype=torch.float64)
    stack = top_of(gaussian(mean, cov, 0.4), 4)

    chain = Completer.mcmc(120, level=1, begin="noise")
    end = chain(stack, h.expand(n, 4), SEEN, generator=seeded(0)).h[:, ~SEEN]
    centre, v = stationary(mean, cov, 0.4, h)
    sizes = v.diagonal().sqrt()
    errors = (torch.cov(end.T) - v) / torch.outer(sizes, sizes)

    assert ((end.mean(0) - centre) / sizes).abs().max() < 4.0 / math.sqrt(n)
    assert errors.abs().max() < 4.0 * math.sqrt(2.0 / n)

    exact_mean, exact_cov = conditional(mean, cov, h)
    gaps = []
    for noise in (0.02, 0.04):
        centre, v = stationary(mean, cov, noise, h)
        gaps.append(((centre - exact_mean).norm(), (v - exact_cov).norm()))

    ratios = [large / small for small, large in zip(*gaps, strict=True)]
    assert ratios == pytest.approx([4.0, 4.0], rel=0.02)  # O(noise^2)


def parzen(codes, bandwidth=0.3, **options):
    return ParzenPrior(bandwidth=bandwidth, **options).fit(codes.double())


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_map_under_a_parzen_prior_is_mean_shift_and_never_lowers_the_conditional_density(
    leave_one_out,
):
    prior = parzen(torch.randn(40, 4), leave_one_out=leave_one_out)
    h = torch.randn(20, 4, dtype=torch.float64)
    completer = Completer.map(60, level=1, begin="noise", tolerance=0.0)

    states = path(completer, top_of(prior, 4), h, SEEN)
    weights = (-0.5 * torch.cdist(states[0], prior.codes).square() / 0.09).softmax(1)

    assert torch.allclose(states[1][:, ~SEEN], weights @ prior.codes[:, ~SEEN])

    values = torch.stack([log_conditional(prior, state, SEEN) for state in states])
    assert values.diff(dim=0).min() > -1e-9
    assert (values[-1] - values[0]).min() > 0.01


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_a_training_code_completes_to_itself_under_a_parzen_prior(leave_one_out):
    prior = parzen(torch.randn(40, 4), 0.05, leave_one_out=leave_one_out)
    completer = Completer.map(10, level=1, begin="prior")
    states = path(completer, top_of(prior, 4), prior.codes[:5], SEEN)
    assert torch.allclose(states[-1], prior.codes[:5], atol=0.1)


def test_annealing_ends_in_higher_modes_than_ascent_from_the_same_starts():
    codes = torch.tensor([[0.0, 0.1], [0.0, 0.9], [0.0, 0.9], [0.0, 0.9], [0.0, 0.9]])
    prior = parzen(codes, 0.2)
    seen = torch.tensor([True, False])
    stack = top_of(prior, 2)
    h = torch.full((200, 2), 0.01, dtype=torch.float64)
    noise = torch.rand(200, 2, generator=seeded(2), dtype=torch.float64)

    ends = {}
    for name in ("map", "annealed"):
        completer = getattr(Completer, name)(40, level=1, begin="noise")
        states = path(completer, stack, h, seen, seed=2)
        assert torch.equal(states[0][:, 1], noise[:, 1])
        ends[name] = log_conditional(prior, states[-1], seen)

    assert ends["map"].std() > 0.4  # both modes
    assert ends["annealed"].mean() > ends["map"].mean() + 0.2


def test_linear_map_converges_geometrically_to_the_fixed_point_of_the_clamped_map():
    stack, r, c = linear_joint()
    h = torch.randn(6, 5, dtype=torch.float64)
    mask = torch.arange(5) < 3
    completion = Completer.map(500, tolerance=1e-10)(stack, h, mask, THERE.expand(6, 2))

    own = r[3:, 3:]
    push = h[:, :3] @ r[3:, :3].T + c[3:]
    fixed = torch.linalg.solve(torch.eye(2).double() - own, push.T).T

    assert torch.allclose(completion.h[:, 3:], fixed, atol=1e-8)
    assert torch.equal(completion.h[:, :3], h[:, :3])

    b_and_bits = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64).expand(6, 4)
    up = stack.junction.f.f(torch.cat([h[:, :3], b_and_bits], 1))
    first = stack.junction.g.g(up)[:, 3:].detach()
    step = first @ own.T + push - first
    for residual in completion.residuals:
        assert torch.allclose(residual, step.square().mean(1).sqrt(), atol=1e-13)
        step = step @ own.T

    assert completion.converged.all()
    assert completion.residuals[-1].max() <= 1e-10 < completion.residuals[-2].max()

    rates = (completion.residuals[-1] / completion.residuals[-21]).pow(1 / 20)
    assert rates.mean() == pytest.approx(0.6, abs=0.03)


def test_convergence_is_told_row_by_row_and_rounds_are_bounded():
    stack = linear_joint()[0]
    h = torch.randn(4, 5, dtype=torch.float64)
    there = THERE.expand(4, 2)

    def run(*options, seen=3, **more):
        return Completer(*options, **more)(stack, h, torch.arange(5) < seen, there)

    few = run(4, tolerance=0.0)
    middle = few.residuals[-1].median().item()
    told = run(4, tolerance=middle)

    assert few.rounds == told.rounds == 4
    assert not few.converged.any()
    assert torch.equal(told.converged, few.residuals[-1] <= middle)
    assert 0 < told.converged.sum() < 4
    assert (run(0).residuals.shape, run(0).converged.any()) == ((0, 4), False)
    assert run(9, seen=5).rounds == 1
    assert run(9, CHAIN, corruption=GaussianNoise(0.1), tolerance=1e9).rounds == 9


@pytest.mark.parametrize(
    ("begin", "observed", "level", "same"),
    [
        ("auto", True, None, "mask"),
        ("auto", False, None, "prior"),
        ("auto", True, 0, "mask"),
        ("auto", False, 0, "noise"),
        ("auto", True, 2, "prior"),
    ],
)
def test_auto_takes_the_first_start_that_there_is(begin, observed, level, same):
    stack, x = labelled()
    there = THERE.expand(4, 2) if observed else None
    h = stack.encode(x[:4])[1 if level is None else level].detach()
    mask = torch.arange(h.shape[1]) < 2

    def start(begin):
        return path(Completer.map(0, begin=begin, level=level), stack, h, mask, there)[0]

    other = {"mask": "prior", "noise": "prior", "prior": "noise"}[same]
    assert torch.equal(start(begin), start(same))
    assert not torch.allclose(start(begin), start(other))


def test_prior_starts_are_draws_from_the_exact_posterior_given_what_is_observed():
    codes = torch.tensor([[0.0, 5.0], [0.6, 6.0], [-1.0, 7.0], [9.0, 8.0]], dtype=torch.float64)
    prior = GaussianPrior(noise=0.5)
    seen = torch.tensor([True, False])
    n = 40_000
    prior.sample = lambda n, generator: codes
    h = torch.tensor([[0.2, 99.0]], dtype=torch.float64).expand(n, 2)

    start = from_prior(top_of(prior, 2), 1, h, seen, seeded(0))[:, 1]
    law = Normal(codes[:, 0], math.sqrt(2.0) * 0.5)
    weights = law.log_prob(torch.tensor(0.2).double()).softmax(0)
    shares = torch.stack([(start == value).double().mean() for value in codes[:, 1]])

    assert ((shares - weights).abs() < 4.0 * (weights / n).sqrt() + 1e-12).all()


def test_agreement_is_each_modality_s_own_log_likelihood():
    kinds = {
        "real": {"sizes": [2], "kind": "real"},
        "bits": {"sizes": [3], "kind": "binary"},
        "label": {"sizes": [4], "kind": "onehot"},
    }
    stack = joint_autoencoder(kinds, top=[5], activation="linear").double()
    stack.residuals = torch.tensor([0.7]).double()

    real = torch.randn(6, 2).double()
    bits = torch.randint(2, (6, 3)).double()
    y = torch.randint(4, (6,))
    x, observed = stack.join({"real": real, "bits": bits, "label": y})
    observed[0, 2] = observed[1, 0] = observed[2, 1] = False

    pool = stack.pairs[0].g(torch.randn(7, 5).double()).detach()
    mean, probability, classes = (p[None] for p in pool.split([2, 3, 4], 1))
    of_real = -(x[:, None, :2] - mean).square().sum(-1) / (2.0 * 0.49)
    of_bits = Bernoulli(probs=probability.expand(6, -1, -1)).log_prob(x[:, None, 2:5]).sum(-1)
    of_label = classes[0].log()[:, y].T

    terms = torch.stack([of_real, of_bits, of_label], 1)
    expected = (terms * observed[:, :, None]).sum(1)
    log_likelihood = agreement(stack, 0, x, stack.spread(observed).double(), pool)

    assert torch.allclose(log_likelihood, expected)


def test_missing_elements_may_hold_anything_whatever_the_start():
    stack, x = labelled()
    mask = torch.arange(7) < 4
    h = stack.lower(x)[-1].detach()
    spoiled = h.masked_fill(~mask, math.nan)

    for begin in ("noise", "prior"):
        completer = Completer.map(0, begin=begin)
        clean, dirty = (path(completer, stack, v, mask)[0] for v in (h, spoiled))
        assert torch.equal(clean, dirty), begin


def test_labels_are_drawn_from_their_probabilities_at_temperature_one_and_not_at_zero():
    stack, x = labelled()
    h = stack.lower(x[:1])[-1].detach().expand(20_000, 7)
    step = Completer.mcmc(1, corruption=GaussianNoise(0.0)).step
    p = around(stack, 1, h)[:, 4:].detach()
    drawn = step(stack, h, None, 1.0, seeded(0))[:, 4:].detach()

    assert ((drawn == 0) | (drawn == 1)).all()
    assert torch.equal(drawn.sum(1), torch.ones(len(h)).double())
    assert ((drawn.mean(0) - p[0]).abs() < 4.0 * (p[0] / len(h)).sqrt()).all()
    assert torch.equal(step(stack, h, None, 0.0, seeded(0))[:, 4:], p)

    half = step(stack, h, None, 0.5, seeded(0))[:, 4:]
    assert torch.allclose(half, (p + drawn) / 2)


def test_observed_labels_never_change_and_get_no_noise():
    stack, x = labelled()
    h = stack.lower(x)[-1].detach()
    there = torch.tensor([[False, True]]).expand(40, 2)
    chain = Completer.mcmc(5)

    for state in path(chain, stack, h, stack.spread(there, 1), there):
        assert torch.equal(state[:, 4:], h[:, 4:])

    noisy = chain.disturb(stack, 1, h, seeded(0))
    assert torch.equal(noisy[:, 4:], h[:, 4:])
    assert (noisy - h)[:, :4].std().item() == pytest.approx(float(stack.residuals[1]), rel=0.2)


def real_and_bits():
    kinds = {"real": {"sizes": [2], "kind": "real"}, "bits": {"sizes": [3], "kind": "binary"}}
    return joint_autoencoder(kinds, [4]), torch.rand(9, 5)


@pytest.mark.parametrize(
    ("make", "chain", "seen"),
    [
        (labelled, Completer.mcmc(3, level=0), 6),
        (real_and_bits, Completer.mcmc(2, corruption=GaussianNoise(0.1)), 2),
    ],
)
def test_missing_labels_and_bits_are_drawn_at_the_level_of_values_too(make, chain, seen):
    stack, x = make()
    mask = torch.arange(x.shape[1]) < seen
    drawn = path(chain, stack, x, mask, THERE.expand(len(x), 2))[-1][:, seen:]
    assert ((drawn == 0) | (drawn == 1)).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_corruption_takes_the_place_of_the_stack_s_own_noise_and_temperature_scales_it(
    temperature,
):
    stack, r, c = linear_joint()
    h = torch.randn(4, 5, dtype=torch.float64)
    completer = Completer(1, Annealing(temperature, temperature), GaussianNoise(0.2))

    new = completer.step(stack, h, None, temperature, seeded(1))
    z = torch.randn(4, 5, dtype=torch.float64, generator=seeded(1))

    assert torch.allclose(new, (h + 0.2 * temperature * z) @ r.T + c)


def under_autoencoder():
    prior = AutoencoderPrior([4], code=2, sigma=0.5, learning=Learning(1))
    return top_of(prior.fit(7.0 * torch.randn(50, 2)), 2)


@pytest.mark.parametrize(
    ("make", "level", "noise", "rel"),
    [
        (lambda: labelled()[0], 0, lambda stack: stack.residuals[0].item(), 0.0),
        (lambda: labelled()[0], 1, lambda stack: stack.residuals[1].item(), 0.0),
        (lambda: labelled()[0], 2, lambda stack: math.sqrt(2.0) * stack.prior.noise, 1e-6),
        (
            lambda: top_of(parzen(torch.randn(9, 2), 0.3), 2),
            1,
            lambda stack: math.sqrt(2.0) * 0.3,
            1e-6,
        ),
        (under_autoencoder, 1, lambda stack: math.sqrt(2.0) * 0.5 * 7.0, 0.3),
    ],
    ids=["x", "codes", "Gaussian", "Parzen", "auto-encoder"],
)
def test_noise_of_the_chain_is_the_residual_or_at_the_top_that_of_the_prior_s_step(
    make, level, noise, rel
):
    stack = make()
    assert deviation(stack, level) == pytest.approx(noise(stack), rel=rel, abs=0.0)


def run(stack, level=None, observed=True, **options):
    start = getattr(stack, "level", 1) if level is None else level
    width = stack.sizes[min(stack.depth, start)]
    there = THERE.expand(3, 2) if observed else None
    h = torch.zeros(3, width).double()

    return Completer(2, level=level, **options)(stack, h, torch.arange(width) < 2, there)


def noiseless():
    return GaussianPrior(noise=0.0).fit(torch.randn(9, 3).double())


def run_top(prior, begin):
    return run(top_of(prior, 3), 1, annealing=CHAIN, begin=begin)


NO_MARGINAL = "{} has no closed marginal.*GaussianPrior, ParzenPrior"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Completer(rounds=-1), "rounds=-1"),
        (lambda: Annealing(end=math.nan), "end=nan"),
        (lambda: Annealing(settle=1.5), "settle=1.5"),
        (lambda: Completer(begin="zeros"), "auto, mask, prior, noise"),
        (lambda: run(labelled()[0], level=3), r"level=3 is not in 0 \.\. 2"),
        (lambda: run(labelled()[0], observed=False, begin="mask"), "prior, noise"),
        (lambda: run(labelled()[0], level=2, begin="mask"), "prior, noise"),
        (lambda: run_top(parzen(torch.randn(9, 3)), begin="mask"), "prior, noise"),
        (lambda: run(linear_joint()[0], annealing=CHAIN), r"fit_residuals.* a corruption"),
        (lambda: run_top(ParzenPrior(), begin="prior"), "not fitted"),
        (lambda: run_top(ParzenPrior(), begin="noise"), "not fitted"),
        (lambda: run_top(noiseless(), begin="prior"), "noise"),
        (lambda: FactorialPrior().marginal(SEEN), NO_MARGINAL.format("FactorialPrior")),
        (lambda: AutoencoderPrior().marginal(SEEN), NO_MARGINAL.format("AutoencoderPrior")),
        (lambda: ManifoldParzenPrior().marginal(SEEN), NO_MARGINAL.format("ManifoldParzenPrior")),
    ],
)
def test_bad_requests(call, words):
    with pytest.raises(ValueError, match=words):
        call()
