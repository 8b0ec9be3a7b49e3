"""Algorithm 1 of 2014: closed forms, names of terms, and how far gradients travel."""

import math

import pytest
import torch

from gendae.laws import Bernoulli, Gaussian, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.rules.kl import REACHES, KLRule
from gendae.rules.rates import Rates
from tests.conftest import at


def stack_of(sizes, alpha=1.0, prior=None, **options):
    torch.manual_seed(0)
    activations = ["softplus"] * (len(sizes) - 2) + ["linear"]
    prior = prior or GaussianPrior("identity", 1.0)
    return deep_autoencoder(sizes, activations, noise=0.5, prior=prior, **options).double()


@pytest.mark.parametrize("observation", [Bernoulli(), Gaussian(0.3)])
@pytest.mark.parametrize("conditional", [None, 12])
def test_one_mlp_pair_is_the_variational_auto_encoder(observation, conditional):
    """Loss and every gradient equal those of Eq. 22 written out by hand, with the same noise."""
    torch.manual_seed(0)
    law = LearnedGaussian(4, 0.5, given=conditional)
    pair = Pair(MLP(12, [9], 4), MLP(4, [9], 12, "sigmoid"), observation, law)
    stack = Stack(pair, prior=GaussianPrior("identity", 1.0)).double()
    x = torch.rand(7, 12, dtype=torch.float64)

    ours = sum(KLRule(stack).losses((x,), at(1)).values())
    ours.backward()
    gradients = [p.grad.clone() for p in stack.parameters()]
    stack.zero_grad()

    mu = pair.f(x)
    log_sigma = law.log_sigma + (0.0 if conditional is None else law.of_input(x))
    log_sigma = log_sigma.expand_as(mu)
    noise = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_hat = pair.g(mu + log_sigma.exp() * noise)

    if isinstance(observation, Bernoulli):
        reconstruction = -(x * x_hat.log() + (1 - x) * (1 - x_hat).log()).sum(1)
    else:
        reconstruction = (x - x_hat).square().sum(1) / (2 * 0.3**2)

    eq22 = -0.5 * (2 * log_sigma + 1 - mu**2 - (2 * log_sigma).exp()).sum(1)
    theirs = (reconstruction + eq22).mean()
    theirs.backward()

    assert torch.allclose(ours, theirs, rtol=1e-12)
    for ours_, p in zip(gradients, stack.parameters(), strict=True):
        assert torch.allclose(ours_, p.grad, rtol=1e-9, atol=1e-12)


def test_terms_are_named_by_name_and_layer():
    stack = stack_of([12, 8, 6, 4])
    x = torch.rand(5, 12, dtype=torch.float64)
    names = {
        f"{term}_{level}" for term in ("reconstruction", "entropy", "prior") for level in (1, 2, 3)
    }
    names |= {"long_1", "long_2"}

    assert set(KLRule(stack).losses((x,))) == names

    local = set(KLRule(stack, reach="within_layer").losses((x,)))
    assert local == names | {"layer_2", "layer_3"}

    alone = set(KLRule(stack, intermediate=False).losses((x,)))
    assert alone == {"reconstruction_3", "entropy_3", "prior_3"}


@pytest.mark.parametrize("below", [0.0, 0.4])
def test_entropies_of_the_listing_bound_those_of_equation_7(below):
    """Linear and Gaussian: Q(h_2 | x) has the covariance W W' sigma_1^2 + sigma_2^2 I.

    Its entropy, of Eq. 7, is that of Q(h_2 | h~_1) or more, and equal without noise on h_1.
    """
    torch.manual_seed(0)
    stack = deep_autoencoder([5, 4, 3], ["linear", "linear"], noise=0.7).double()
    for pair, sigma in zip(stack.pairs, (below, 0.7), strict=True):
        pair.recognition.log_sigma.data.fill_(math.log(max(sigma, 1e-300)))
        pair.recognition.BOUNDS = (-torch.inf, 3.0)

    x = torch.randn(6, 5, dtype=torch.float64)
    rule = KLRule(stack, alpha=1.0, training_prior=GaussianPrior("identity", 1.0))
    listed = -rule.losses((x,), at(0))["entropy_2"].item()

    w = stack.pairs[1].f.weight.detach()
    covariance = below**2 * w @ w.T + 0.7**2 * torch.eye(3, dtype=torch.float64)
    of_equation_7 = 0.5 * torch.logdet(2.0 * math.pi * math.e * covariance).item()

    if below == 0.0:
        assert of_equation_7 == pytest.approx(listed, rel=1e-12)
    else:
        assert of_equation_7 > listed + 0.01


def test_alpha_weighs_entropy_and_prior_not_reconstruction():
    stack = stack_of([12, 8, 4])
    x = torch.rand(5, 12, dtype=torch.float64)
    one, three = (KLRule(stack, alpha=a).losses((x,), at(1)) for a in (1.0, 3.0))

    for name, value in one.items():
        factor = 1.0 if name.startswith("reconstruction") else 3.0
        assert torch.allclose(three[name], factor * value)


SPREAD = 0.15  # of each Gaussian of the ring
NOISE = 0.3  # sigma_1, of the recognition law of h_1


def ring(n, generator):
    """Draws from six Gaussians on a ring, (n, 2), and their centres."""
    angles = torch.arange(6).double() * torch.pi / 3
    centres = 1.5 * torch.stack([angles.cos(), angles.sin()], 1)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)

    return centres[torch.randint(6, (n,), generator=generator)] + SPREAD * noise, centres


def score_of_noisy(h, centres):
    """d log p(h) / dh of the ring's Gaussians widened by sigma_1, in closed form."""
    variance = SPREAD**2 + NOISE**2
    towards = centres - h[:, None]
    shares = (towards.square().sum(-1) / (-2.0 * variance)).softmax(1)

    return (shares[:, :, None] * towards).sum(1) / variance


def under_a_loop():
    """h_1 = x with noise, under one pair of MLPs."""
    torch.manual_seed(0)
    same = Pair(Affine(2, 2, "linear"), Affine(2, 2, "linear"), recognition=Gaussian(NOISE))
    with torch.no_grad():
        for layer in (same.f, same.g):
            layer.weight.copy_(torch.eye(2))

    maps = MLP(2, [64], 32, "linear", "tanh"), MLP(32, [64], 2, "linear", "tanh")
    loop = Pair(*maps, observation=Gaussian(0.1), recognition=Gaussian(0.1))
    return Stack(same, loop, prior=GaussianPrior("identity", 1.0)).double()


@pytest.mark.parametrize("reach", REACHES)
def test_the_upper_loop_learns_the_score_of_what_it_reconstructs(reach):
    """h^ - h = sigma^2 dlog Q(h) / dh for the noise-free loop above h_1 (2014, 2.2.4)."""
    stack = under_a_loop()
    rule = KLRule(stack, reach=reach)
    loop = stack.pairs[1]
    moment = at(0)
    optimizer = torch.optim.Adam(loop.parameters(), lr=0.01)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=400)

    for _ in range(400):
        x, _ = ring(256, moment.generator)
        optimizer.zero_grad()
        sum(rule.losses((x,), moment).values()).backward()
        optimizer.step()
        slower.step()

    x, centres = ring(4000, moment.generator)
    h = stack.pairs[0].recognition.sample(x, moment.generator)
    move = (loop.g(loop.f(h)) - h).detach()
    expected = NOISE**2 * score_of_noisy(h, centres)

    assert torch.cosine_similarity(move, expected).mean() > 0.93
    assert 0.85 < move.norm(dim=1).mean() / expected.norm(dim=1).mean() < 1.15


def test_noise_grows_where_the_code_is_not_used():
    """The decoder ignores h_2 of two units: log sigma_2 goes to the prior's, log sigma_1 not."""
    torch.manual_seed(0)
    pair = Pair(MLP(3, [8], 2), MLP(2, [8], 3), Gaussian(0.1), LearnedGaussian(2, 0.3))
    stack = Stack(pair, prior=GaussianPrior("identity", 1.0))

    with torch.no_grad():
        pair.g.layers[0].weight[:, 1] = 0.0

    rule = KLRule(stack, rates=Rates(f=5e-3, g=5e-3, hold=0.5))
    optimizer = rule.configure_optimizers()
    x = torch.randn(256, 1) * torch.tensor([[1.0, -1.0, 0.5]])

    for _ in range(400):
        losses = rule.losses((x,))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        pair.g.layers[0].weight.grad[:, 1] = 0.0
        optimizer.step()

    used, unused = pair.recognition.log_sigma.exp().tolist()
    assert unused > 0.85
    assert used < 0.3


def test_noise_tied_to_a_parzen_top_has_its_bandwidth_and_becomes_part_of_q():
    stack = deep_autoencoder([12, 4], ["linear"], prior=ParzenPrior(bandwidth=0.7)).double()
    x = torch.rand(30, 12, dtype=torch.float64)
    rule = KLRule(stack, tie_noise=True)

    with pytest.raises(ValueError, match="ParzenPrior is not fitted"):
        rule.losses((x,))

    rule.fit_prior([(x,)])
    losses = rule.losses((x,), at(1))

    assert stack.pairs[0].recognition.sigma == pytest.approx(0.7)
    assert "entropy_1" not in losses

    noise = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_hat = stack.pairs[0].g(stack.pairs[0].f(x) + 0.7 * noise)
    expected = stack.pairs[0].observation.energy(x, x_hat).mean()

    assert torch.allclose(losses["reconstruction_1"], expected)


def test_prior_every_refits_on_the_latest_codes():
    """And an unfitted prior at once: a training need not begin with a fit."""
    stack = stack_of([12, 4], prior=GaussianPrior("diagonal", 1.0))
    rule = KLRule(stack, prior_every=2)
    batches = [torch.rand(10, 12, dtype=torch.float64) + step for step in range(4)]

    means = []
    for step, x in enumerate(batches, 1):
        rule.prior_fit.follow(rule, (x,), rule.prior_in_losses, at(update=step))
        means.append(stack.prior.mean.clone())

    assert not torch.equal(means[0], means[1])
    assert torch.equal(means[1], means[2])
    assert torch.equal(rule.prior_fit.recent, stack.encode(torch.cat(batches))[-1])
    torch.testing.assert_close(means[3], rule.prior_fit.recent.mean(0))


@pytest.mark.parametrize(
    ("sizes", "prior", "alpha"),
    [
        ((8, 4), GaussianPrior("identity", 1.0), 1.0),
        ((8, 6, 4), GaussianPrior("identity", 1.0), 0.01),
        ((8, 4), ParzenPrior(), 0.01),
    ],
)
def test_alpha_is_that_of_the_vae_for_one_pair_under_a_fixed_prior_alone(sizes, prior, alpha):
    stack = deep_autoencoder(sizes, ["linear"] * (len(sizes) - 1), noise=0.3, prior=prior)

    assert KLRule(stack).alpha == alpha
    assert KLRule(stack, alpha=0.5).alpha == 0.5


@pytest.mark.parametrize("reach", REACHES)
def test_each_map_runs_once_for_all_noisy_loops_and_once_for_the_clean_one(reach):
    rule = KLRule(stack_of([12, 8, 6, 4]), reach=reach)
    rows = {}
    for level, pair in enumerate(rule.stack.pairs, 1):
        for name in "fg":
            counted = rows.setdefault(f"{name}_{level}", [])
            getattr(pair, name).preactivation = counting(getattr(pair, name), counted)

    rule.losses((torch.rand(5, 12, dtype=torch.float64),), at(0))

    # up: the noisy way, and long loops from h_1 and h_2; down: short loops join on the way
    assert rows == {
        "f_1": [5],
        "f_2": [10, 5],
        "f_3": [15, 5],
        "g_3": [15, 5],
        "g_2": [15, 5],
        "g_1": [15],
    }


def counting(layer, rows):
    """A layer's `preactivation`, which notes how many rows it gets."""
    preactivation = layer.preactivation

    def counted(h):
        rows.append(len(h))
        return preactivation(h)

    return counted


def test_a_deterministic_level_has_no_noise_and_no_entropy():
    """With it the network of the usual variational auto-encoder is a stack of two pairs."""
    torch.manual_seed(0)
    hidden = Pair(
        Affine(12, 9, "relu"),
        Affine(9, 12, "sigmoid"),
        observation=Bernoulli(),
        recognition=Gaussian(stochastic=False),
    )
    law = LearnedGaussian(4, 0.5, given=9)
    torch.nn.init.normal_(law.of_input[-1].weight, std=0.3)
    code = Pair(Affine(9, 4), Affine(4, 9, "relu"), recognition=law)
    stack = Stack(hidden, code, prior=GaussianPrior("identity", 1.0)).double()
    x = torch.rand(7, 12, dtype=torch.float64)

    losses = KLRule(stack, alpha=1.0, intermediate=False).losses((x,), at(1))
    assert set(losses) == {"reconstruction_2", "entropy_2", "prior_2"}

    h = hidden.f(x)
    mu = code.f(h)
    log_variance = 2.0 * (law.log_sigma + law.of_input(h))
    noise = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_hat = hidden.g(code.g(mu + (log_variance / 2.0).exp() * noise))

    reconstruction = torch.nn.functional.binary_cross_entropy(x_hat, x, reduction="none").sum(1)
    kl = -0.5 * (1.0 + log_variance - mu**2 - log_variance.exp()).sum(1)
    assert torch.allclose(sum(losses.values()), (reconstruction + kl).mean(), rtol=1e-12)


def test_the_top_alone_has_its_own_pair_s_loss_within_layers():
    """Levels without short loops have none: what comes by is decoded from further above."""
    stack = stack_of([12, 8, 6, 4])
    x = torch.rand(5, 12, dtype=torch.float64)
    alone = KLRule(stack, reach="within_layer", intermediate=False).losses((x,))

    assert set(alone) == {"reconstruction_3", "entropy_3", "layer_3", "prior_3"}
