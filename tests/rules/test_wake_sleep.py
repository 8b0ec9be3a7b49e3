"""Wake-sleep against enumeration: every state of a small sigmoid belief net, in float64."""

import math
from collections import Counter
from functools import partial
from itertools import combinations_with_replacement, product

import pytest
import torch
import torch.nn.functional as F

from gendae.laws import Bernoulli, Discrete, Gaussian, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.factorial import FactorialPrior
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.wake_sleep import (
    ReweightedWakeSleepRule,
    WakeSleepRule,
    ascend,
    descend,
    recognise,
)
from tests.conftest import at


class ToldBits(Discrete):
    """Units whose draws are told."""

    def sample(self, mean, generator=None, given=None):
        return self.told


class ToldPixels(Bernoulli):
    """The same for x."""

    def sample(self, mean, generator=None, given=None):
        return self.told


def net(sizes=(3, 2), told=True):
    """A sigmoid belief net with weights and biases of some size, and a prior that prefers some."""
    torch.manual_seed(0)
    prior = FactorialPrior("bernoulli")
    prior.location = torch.linspace(0.3, 0.8, sizes[-1], dtype=torch.float64)
    prior.scale = torch.ones_like(prior.location)
    options = {"observation": "bernoulli", "units": "binary", "stochastic": True}
    stack = deep_autoencoder(sizes, prior=prior, **options).double()
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.7)

    if told:
        stack.pairs[0].recognition = ToldBits("binary", stochastic=True)
        stack.pairs[0].observation = ToldPixels()

    return stack


def states(width):
    """All bits, (2^width, width)."""
    return torch.tensor(list(product([0.0, 1.0], repeat=width)), dtype=torch.float64)


def log_bits(bits, a):
    """log of independent bits with p = sigmoid(a)."""
    return (bits * a - F.softplus(a)).sum(-1)


def log_p(stack, x, h):
    g = stack.pairs[0].g
    return log_bits(x, g.preactivation(h)) + log_bits(h, stack.prior.location.logit())


def log_q(stack, x, h):
    return log_bits(h, stack.pairs[0].f.preactivation(x))


def gradient(loss, layer):
    """Gradients of a layer's weights and bias as one vector; zeros where there are none."""
    parameters = list(layer.parameters())
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(parts, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def both(stack, loss):
    return torch.cat([gradient(loss, stack.pairs[0].g), gradient(loss, stack.pairs[0].f)])


def terms(rule, x, phase, drawn=None, dreamt=None):
    """The sum of the terms of a phase, where h of x, or all of a dream, is told."""
    pair = rule.stack.pairs[0]
    pair.recognition.told = drawn
    if dreamt is not None:
        pair.observation.told = dreamt[0]
        rule.stack.prior.sample = lambda n, generator: dreamt[1]

    losses = rule.losses((x,))
    return sum(loss for name, loss in losses.items() if name.startswith(phase))


#: A dream for tests of the other phase.
ASLEEP = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)


def draws_of(h, log_q_of_states, samples):
    """Every set of K draws among the states, (K, width), and its probability."""
    for chosen in combinations_with_replacement(range(len(h)), samples):
        counts = Counter(chosen).values()
        orders = math.factorial(samples) / math.prod(map(math.factorial, counts))
        probability = orders * log_q_of_states[list(chosen)].sum().exp()
        yield h[list(chosen)], probability


def expected_wake(rule, x):
    """The expectation of the wake phase's gradients over all sets of draws of q(h | x)."""
    h = states(rule.stack.sizes[-1])
    log_q_of_states = log_q(rule.stack, x, h).detach()

    total = 0.0
    for drawn, probability in draws_of(h, log_q_of_states, rule.samples):
        loss = terms(rule, x, "wake", drawn, ASLEEP)
        total = total + probability * both(rule.stack, loss)

    return total


def of_one_draw(stack, **options):
    return ReweightedWakeSleepRule(stack, samples=1, sleep=1.0, **options)


@pytest.mark.parametrize("make", [WakeSleepRule, of_one_draw])
def test_wake_phase_follows_the_expected_log_joint_under_q(make):
    """Of one draw, weighted or not; and the sleep phase follows log q under p."""
    stack = net()
    rule = make(stack)
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    h = states(2)
    expected = -(log_q(stack, x, h).exp().detach() * log_p(stack, x, h)).sum()

    assert torch.allclose(expected_wake(rule, x), both(stack, expected), rtol=0, atol=1e-12)

    pairs = [(a[None], b[None]) for a, b in product(states(3), h)]
    asleep = sum(
        log_p(stack, a, b).exp().detach() * both(stack, terms(rule, x, "sleep", b, (a, b)))
        for a, b in pairs
    )
    theirs = sum(-log_p(stack, a, b).exp().detach() * log_q(stack, a, b) for a, b in pairs)

    assert torch.allclose(asleep, both(stack, theirs.sum()), rtol=0, atol=1e-12)


def test_bias_of_k_weighted_draws_falls_as_one_over_k():
    """g follows log p(x), and f the divergence from the posterior, up to this bias.

    It is -1/K E_q (w / E w)^2 (d - E_p d) + O(1 / K^2), with d the gradient at a draw.
    """
    stack = net()
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    h = states(2)
    posterior = log_p(stack, x, h).softmax(0).detach()
    with torch.no_grad():  # a q not too far from the posterior
        f = stack.pairs[0].f
        f.bias += 0.8 * ((posterior @ h).logit() - f.preactivation(x)[0])

    at_draws = [both(stack, -(log_p(stack, x, one) + log_q(stack, x, one))) for one in h]
    d = torch.stack(at_draws)
    exact = posterior @ d
    evidence = both(stack, -log_p(stack, x, h).logsumexp(0))
    assert torch.allclose(exact[:9], evidence[:9], rtol=0, atol=1e-12)

    squares = posterior.square() / log_q(stack, x, h).exp().detach()
    leading = -squares @ (d - exact)

    rest = []
    for samples in (2, 4, 8):
        rule = ReweightedWakeSleepRule(stack, samples, sleep=0.0)
        bias = expected_wake(rule, x) - exact
        rest.append((bias - leading / samples).norm() / leading.norm() * samples)

    assert rest[2] < 0.1
    assert rest[2] < 0.6 * rest[1] < 0.4 * rest[0]


def with_posterior():
    """A net whose units have pixels of their own: q is the exact posterior."""
    stack = net((4, 2))
    pair = stack.pairs[0]
    own = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        pair.g.weight *= own
        w, b = pair.g.weight, pair.g.bias[:, None]
        pair.f.weight.copy_(w.T)
        odds = (F.softplus(b) - F.softplus(b + w)).sum(0)
        pair.f.bias.copy_(stack.prior.location.logit() + odds)

    return stack


def test_all_gradients_vanish_where_q_is_the_posterior_and_the_data_are_of_p():
    stack = with_posterior()
    asleep = torch.zeros(1, 4).double(), torch.zeros(1, 2).double()
    h = states(2)

    rule = ReweightedWakeSleepRule(stack, 2, sleep=0.0)
    plain = WakeSleepRule(stack)
    awake = 0.0
    dreams = 0.0
    for x in states(4):
        x = x[None]
        of_x = log_p(stack, x, h).logsumexp(0).exp().detach()
        log_q_of_states = log_q(stack, x, h).detach()
        for drawn, probability in draws_of(h, log_q_of_states, 2):
            loss = terms(rule, x, "wake", drawn, asleep)
            awake = awake + of_x * probability * both(stack, loss)

        for one in h:
            probability = log_p(stack, x, one).exp().detach()
            loss = terms(plain, x, "sleep", one[None], (x, one[None]))
            assert both(stack, loss).norm() > 0.01
            dreams = dreams + probability * both(stack, loss)

    assert awake.abs().max() < 1e-12
    assert dreams.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("make", "samples", "sleep"),
    [(WakeSleepRule, 1, 1.0), (partial(ReweightedWakeSleepRule, samples=3), 3, 0.5)],
)
def test_draws_are_those_of_q_and_dreams_those_of_p(make, samples, sleep):
    """The gradients of many copies of an x come to their expectations, in two layers too."""
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    stack = net()
    exact = ReweightedWakeSleepRule(stack, samples, sleep=0.0)
    g, f = expected_wake(exact, x).split([9, 8])
    a, b = states(3).repeat_interleave(4, 0), states(2).repeat(8, 1)
    of_dreams = -(log_p(stack, a, b).exp().detach() * log_q(stack, a, b)).sum()
    asleep = gradient(of_dreams, stack.pairs[0].f)

    rule = make(net(told=False))
    loss = rule.total_loss((x.expand(40_000, 3),), at(1))
    ours = both(rule.stack, loss)
    theirs = torch.cat([g, sleep * asleep + (1.0 - sleep) * f])

    # a draw's gradient in a weight is below 1; five standard errors of 40,000
    assert torch.allclose(ours, theirs, rtol=0, atol=5 * 0.5 / 200)


def test_the_prior_is_fitted_on_draws_of_q_or_by_weight_of_the_posterior():
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    h = states(2)
    stack = net(told=False)
    of_q = log_q(stack, x, h).exp().detach() @ h
    of_p = log_p(stack, x, h).softmax(0).detach() @ h
    assert (of_q - of_p).abs().min() > 0.05

    rows = x.expand(20_000, 3)
    for make, mean in (
        (WakeSleepRule, of_q),
        (partial(ReweightedWakeSleepRule, samples=50), of_p),
    ):
        rule = make(net(told=False))
        rule.fit_prior([(rows,)])
        assert torch.allclose(rule.stack.prior.location, mean, rtol=0, atol=0.02)

        rule.float()
        codes = []
        for half in (False, True):  # which would draw other bits, and weigh them otherwise
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                codes.append(rule.codes(rows.float()))
        assert torch.equal(*codes)


def mixed():
    """A unit with learned noise, and one bit."""
    learned = LearnedGaussian(2, 0.4, given=5)
    f = Affine(5, 3, "linear")
    f.of_units = ["linear", "linear", "sigmoid"]
    f.s = lambda a: torch.cat([a[:, :2], a[:, 2:].sigmoid()], 1)
    return Pair(f, Affine(3, 5), recognition=Laws([learned, Bernoulli()], [2, 1]))


RECOGNITION = {
    "learned": lambda: Pair(Affine(5, 3), Affine(3, 5), recognition=LearnedGaussian(3, 0.4)),
    "of x": lambda: Pair(Affine(5, 3), Affine(3, 5), recognition=LearnedGaussian(3, given=5)),
    "fixed": lambda: Pair(Affine(5, 3), Affine(3, 5), Gaussian(0.5), Gaussian(0.4)),
    "mixed": mixed,
}


@pytest.mark.parametrize("make", RECOGNITION.values(), ids=RECOGNITION)
def test_energies_have_the_gradients_of_the_densities(make):
    """Also in a learned sigma: around targets that come nearer, `energy` leaves that out."""
    stack = Stack(make(), prior=FactorialPrior("gaussian")).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    h, f_energies = ascend(stack, x, 3, at(0).generator)
    exact = torch.autograd.grad(-stack.log_q(h).sum(), list(stack.pairs[0].f.parameters()))
    laws = list(stack.pairs[0].recognition.parameters())
    exact += torch.autograd.grad(-stack.log_q(h).sum(), laws) if laws else ()

    for energies in (f_energies, recognise(stack, h)):
        energies = sum(energies)
        wanted = [*stack.pairs[0].f.parameters(), *laws]
        ours = torch.autograd.grad(energies.sum(), wanted)
        for one, other in zip(ours, exact, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)

        offset = energies + stack.log_q(h)
        assert torch.allclose(offset, offset[0].expand_as(offset), rtol=0, atol=1e-10)

    offset = sum(descend(stack, h)) + stack.log_joint(h, prior=False)
    assert torch.allclose(offset, offset[0].expand_as(offset), rtol=0, atol=1e-10)


def patterns():
    """Two patterns of four pixels with a flip of one pixel now and then, as 64 rows."""
    bases = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    rows = bases.repeat(32, 1)
    for i in range(0, 64, 5):
        rows[i, i % 4] = 1.0 - rows[i, i % 4]

    return rows


@pytest.mark.parametrize("make", [WakeSleepRule, ReweightedWakeSleepRule])
def test_training_raises_the_exact_likelihood_and_fits_the_prior(make):
    x = patterns()
    rule = make(net((4, 2), told=False), rates=Rates(f=0.05, g=0.05, hold=0.5), prior_every=20)
    optimizer = rule.configure_optimizers()
    before = log_p(rule.stack, x[:, None], states(2)).logsumexp(1).mean()

    generator = torch.Generator().manual_seed(0)
    for update in range(200):
        moment = Moment(update / 200, generator, update)
        rule.prior_fit.follow(rule, (x,), rule.prior_in_losses, moment)
        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        rule.total_loss((x,), moment).backward()
        optimizer.step()

    after = log_p(rule.stack, x[:, None], states(2)).logsumexp(1).mean()
    counts = torch.unique(x, dim=0, return_counts=True)[1].double() / len(x)
    best = (counts * counts.log()).sum()

    assert before < best - 1.0
    assert after > best - 0.5
