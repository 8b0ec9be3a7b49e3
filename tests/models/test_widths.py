"""Noise of rounds: exact laws of linear-Gaussian stacks at every level, given and unclamped."""

import math

import pytest
import torch

from gendae import load, save
from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer
from gendae.corruption import FlipNoise, GaussianNoise
from gendae.laws import Bernoulli, Discrete
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.joint import JointStack
from gendae.models.modalities import Junction, Modality
from gendae.models.stack import Stack
from gendae.models.widths import rms
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.rules.differences import DifferenceLoop
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.kl import KLRule
from gendae.rules.loops import ShortAndLongLoops
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from gendae.sampling.level import LevelSampler, chain_states
from gendae.sampling.samplers import seeded

N = 0.15
SEEN = torch.tensor([True, True, False, True, False])
EYE = torch.eye(5, dtype=torch.float64)


def covariance():
    """Of five units, correlated, no direction of which is narrow beside the noise."""
    a = torch.randn(5, 5, dtype=torch.float64, generator=seeded(5))
    return a @ a.T / 5 + 0.4 * EYE


def rotation(n, seed):
    a = torch.randn(n, n, dtype=torch.float64, generator=seeded(seed))
    return torch.linalg.qr(a).Q


def linear(weight):
    layer = Affine(weight.shape[1], weight.shape[0], "linear").double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()

    return layer


def pair(f, g):
    return Pair(linear(f), linear(g))


def optimal(kind, noise):
    """A stack of three levels, whose loop from each level is the optimal denoiser of this noise.

    h_1 and h_2 are rotations of x ~ N(0, S), and h_3 is the denoised h_2. Returns the stack and
    the covariances of h_0 .. h_3.
    """
    s = covariance()
    blocks = [rotation(3, 1), rotation(2, 2)]
    first = torch.block_diag(*blocks)
    second = rotation(5, 3)

    turned = second @ first
    s_2 = turned @ s @ turned.T
    a = torch.linalg.solve(s_2 + noise**2 * EYE, s_2)
    covariances = [s, first @ s @ first.T, s_2, a @ s_2 @ a.T]

    prior = GaussianPrior("full", 1.0, noise=N)
    prior.mean = s.new_zeros(5)
    prior.factor = torch.linalg.cholesky(covariances[-1])

    top = pair(a, EYE)
    if kind == "plain":
        return Stack(pair(first, first.T), pair(second, second.T), top, prior=prior), covariances

    bits = torch.cat([second, s.new_zeros(5, 2)], 1)
    junction = Junction(linear(bits), linear(second.T))
    members = {
        name: Modality(len(block), "real", [pair(block, block.T)])
        for name, block in zip("ab", blocks, strict=True)
    }

    return JointStack(members, [junction, top], prior=prior).double(), covariances


def draws(cov, n=5000):
    z = torch.randn(n, len(cov), dtype=torch.float64, generator=seeded(0))
    return z @ torch.linalg.cholesky(cov).T


def at(*levels):
    """Noise at these levels alone."""
    return [GaussianNoise(N * (level in levels)) for level in range(4)]


@pytest.mark.parametrize("kind", ["plain", "joint"])
@pytest.mark.parametrize(
    ("level", "corruption", "adds_up"),
    [
        (0, at(0), False),  # below the junction
        (1, at(1), False),  # at the junction, whose noise may come from three places
        (1, at(1, 2), False),
        (1, at(0, 1), True),
        (2, at(2), False),  # above it
        (3, at(), False),  # the top, by the prior's own noise
    ],
)
def test_a_clamped_chain_has_the_exact_conditional_law_at_every_level(
    kind, level, corruption, adds_up
):
    """Up to O(noise^2); without draws, or with the residual of clean inputs, its deviation is off.

    Means of rounds: by a factor of sqrt(2). Clean residuals: by one of 10.
    """
    count = max(1, sum(noise.sigma > 0 for noise in corruption))
    stack, covariances = optimal(kind, N * math.sqrt(count))
    stack.fit_residuals(draws(covariances[0]), corruption, adds_up)

    cov = covariances[level]
    h = draws(cov, 1)
    gain = torch.linalg.solve(cov[SEEN][:, SEEN], cov[SEEN][:, ~SEEN])
    expected = cov[~SEEN][:, ~SEEN] - cov[~SEEN][:, SEEN] @ gain

    chain = Completer.mcmc(500, level=level, begin="noise")
    end = chain(stack, h.expand(2500, 5), SEEN, generator=seeded(0)).h[:, ~SEEN]

    sizes = expected.diagonal().sqrt()
    assert torch.allclose(end.mean(0), (h[:, SEEN] @ gain)[0], atol=0.1 * sizes.max())
    assert ((torch.cov(end.T) - expected) / torch.outer(sizes, sizes)).abs().max() < 0.12


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_unclamped_chain_has_the_law_of_the_data_whatever_the_noise(level):
    """By sampling/level.py: noise that is not small changes nothing."""
    noise = [GaussianNoise(0.5 * (k == level)) for k in range(4)]
    stack, covariances = optimal("plain", 0.5)
    stack.fit_residuals(draws(covariances[0]), noise)

    def stationary(sampler):
        stack.prior = GaussianPrior("identity", 0.01).double()
        stack.prior.prepare(5)
        *_, x = chain_states(stack, sampler, 6000, 60, seeded(0))
        return torch.cov(x.T)

    s = covariances[0]
    scale = s.diagonal().mean()
    assert (stationary(LevelSampler(level)) - s).abs().max() / scale < 0.1
    assert (stationary(LevelSampler(level, residual=0.0)).diagonal() < 0.7 * s.diagonal()).all()


def test_samples_of_a_chain_at_level_0_are_means():
    stack, covariances = optimal("plain", 0.5)
    stack.fit_residuals(draws(covariances[0]), at(0))
    one = LevelSampler(0, rounds=1)
    x = stack.down(stack.prior.sample(5, g := seeded(1)))[0]
    noise = stack.loop_noise(0)
    top = noise.climb(list(stack.pairs), x, math.sqrt(2.0), g)

    assert torch.allclose(one(stack, 5, seeded(1)), stack.decode(top))


def test_residuals_are_measured_under_the_noise_and_by_hand_for_one_linear_pair():
    """E (h - a (h + n xi))^2 = (1 - a)^2 v + a^2 n^2, of which a^2 n^2 goes through the loop."""
    a, n, v = 0.7, 0.3, 2.0
    one = torch.ones(1, 1, dtype=torch.float64)
    stack = Stack(pair(a * one, one))
    x = math.sqrt(v) * torch.randn(200_000, 1, dtype=torch.float64, generator=seeded(0))

    missed = (1 - a) ** 2 * v
    with pytest.raises(ValueError, match="corruption has 1 entries; a stack of 1 pairs has 2"):
        stack.fit_residuals(x, [None])

    clean = stack.fit_residuals(x)
    assert clean.item() == pytest.approx(math.sqrt(missed), rel=0.01)

    noisy = stack.fit_residuals(x, [GaussianNoise(n), None])
    assert noisy.item() == pytest.approx(math.sqrt(missed + a**2 * n**2), rel=0.01)

    noise = stack.loop_noise(0)
    assert noise.entering.item() == pytest.approx(n, rel=0.01)
    assert noise.rest.item() == pytest.approx(math.sqrt(missed), rel=0.01)


X = torch.rand(300, 6, generator=seeded(2))


def two_pairs(**options):
    torch.manual_seed(0)
    if "units" not in options:
        options["activations"] = ["linear", "linear"]

    return deep_autoencoder([6, 5, 4], **options)


def carried(stack, noise):
    """Deviations of h_1 where the noise of x alone moves it."""
    return noise * stack.pairs[0].f.weight.detach().square().sum(1).sqrt()


NONE = [GaussianNoise(0.0)]
X_ALONE = [GaussianNoise(N), *NONE, *NONE]


@pytest.mark.parametrize(
    ("make", "entering", "passing"),
    [
        # what the encoders take holds the noise of x
        (
            lambda: TargetPropRule(two_pairs(), DifferenceLoop(), X_ALONE),
            lambda rule: (N, carried(rule.stack, N)),
            lambda rule: (0.0, 0.0),
        ),
        # each encoder takes a clean code, corrupted
        (
            lambda: TargetPropRule(two_pairs(), ShortAndLongLoops(), X_ALONE),
            lambda rule: (N, 0.0),
            lambda rule: (0.0, 0.0),
        ),
        # draws from Q on the way, and none of x
        (
            lambda: KLRule(two_pairs(noise=0.3)),
            lambda rule: (0.0, 0.3),
            lambda rule: (0.3, 0.3),
        ),
        # the noise of the top is the bandwidth of this fit
        (
            lambda: KLRule(two_pairs(prior=ParzenPrior()), tie_noise=True),
            lambda rule: (0.0, None),
            lambda rule: (None, rule.stack.prior.bandwidth_),
        ),
        # h_L goes into a decoder alone
        (
            lambda: VariationalEMRule(
                two_pairs(),
                corruption=[*X_ALONE[:2], GaussianNoise(9.0)],
                decoder_corruption=[GaussianNoise(9.0), GaussianNoise(N)],
            ),
            lambda rule: (N, 0.0),
            lambda rule: (0.0, N),
        ),
    ],
)
def test_rules_measure_under_their_own_noise(make, entering, passing):
    """None: of no interest."""
    rule = make()
    rule.fit_prior([(X,)])
    noises = [rule.stack.loop_noise(level) for level in (0, 1)]

    measured = [*(noise.entering for noise in noises), *noises[0].passing]
    for width, expected in zip(measured, (*entering(rule), *passing(rule)), strict=True):
        if expected is not None:
            expected = torch.as_tensor(expected).expand_as(width)
            assert torch.allclose(width, expected.to(width), rtol=0.25, atol=1e-6)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(("unit", "low"), [("sign", -1.0), ("binary", 0.0)])
def test_rounds_leave_discrete_units_their_two_values(unit, low, stochastic):
    """Some of them flip, as many as in training; those that are drawn in training are drawn."""
    stack = two_pairs(units=unit, stochastic=stochastic)
    stack.fit_residuals(X, [None, FlipNoise(0.2, unit), FlipNoise(0.1, unit)])
    noise = stack.loop_noise(1)

    h = stack.encode(X)[1].repeat(20, 1)
    seen = []
    stack.pairs[1].f.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    top = noise.climb(list(stack.pairs[1:]), h, 1.0, seeded(0))

    assert set(torch.cat([seen[0].flatten(), top.flatten()]).tolist()) == {low, 1.0}
    assert (seen[0] != h).float().mean() == pytest.approx(0.2, abs=0.03)

    calm = noise._replace(entering=0.0 * noise.entering, passing=(0.0 * noise.passing[0],))
    one, other = (calm.climb(list(stack.pairs[1:]), h, 1.0, seeded(seed)) for seed in (0, 1))
    assert torch.equal(one, other) is not stochastic


def test_the_joint_rule_s_codes_hold_the_noise_of_x_too():
    members = {
        "a": Modality(4, "real", [Pair(Affine(4, 3), Affine(3, 4))]),
        "b": Modality(2, "real", [Pair(Affine(2, 2), Affine(2, 2))]),
    }
    stack = JointStack(members, [Junction(Affine(7, 4), Affine(4, 5))])
    rule = JointTargetPropRule(stack, at(0, 1)[:3])
    rule.fit_prior([(X,)])

    weight = stack.lower(torch.eye(6))[-1] - stack.lower(torch.zeros(1, 6))[-1]
    expected = N * (1.0 + weight.square().sum(0)).sqrt()
    assert torch.allclose(stack.loop_noise(1).entering, expected.detach(), rtol=0.2)


class Posterior(torch.nn.Module):
    """E[x given x~] of bits that are copies of one another but for flips, x~ with more flips."""

    in_features = out_features = 6
    activation = "sigmoid"
    OWN, NOISE = 0.2, 0.1  # chances of a flip

    def __init__(self):
        super().__init__()
        values = torch.tensor([0.0, 1.0])
        self.x = torch.cartesian_prod(*[values] * 6).double()
        ones = self.x.sum(1)
        chances = [(p**ones * (1 - p) ** (6 - ones)) for p in (self.OWN, 1 - self.OWN)]
        self.p = 0.5 * sum(chances)

    def forward(self, noisy):
        flips = torch.cdist(noisy, self.x, p=1)
        weights = self.p * self.NOISE**flips * (1 - self.NOISE) ** (6 - flips)
        return weights @ self.x / weights.sum(1, keepdim=True)

    def correlation(self, x):
        return (torch.corrcoef(x.T).sum().item() - 6) / 30


@pytest.mark.parametrize("law", [Discrete("binary", True), Bernoulli(True)], ids=repr)
@pytest.mark.parametrize("kind", ["sampler", "completer"])
def test_bits_are_drawn_after_each_round(law, kind):
    """Noise of training once, then a draw: up to O(flips^2) the chain has the law of the data."""
    posterior = Posterior()
    stack = Stack(Pair(linear(torch.eye(6, dtype=torch.float64)), posterior, law)).double()
    index = torch.multinomial(posterior.p, 20_000, replacement=True, generator=seeded(0))
    data = posterior.x[index]
    stack.fit_residuals(data, [FlipNoise(Posterior.NOISE, "binary"), None])

    x = data[:4000]
    if kind == "sampler":
        for seed in range(40):
            x, _ = LevelSampler(0).step(stack, (x, x), seeded(seed))
    else:
        seen = torch.zeros(6, dtype=torch.bool)
        chain = Completer.mcmc(40, level=0, begin="noise")
        x = chain(stack, x, seen, generator=seeded(0)).h

    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert posterior.correlation(x) == pytest.approx(posterior.correlation(data), abs=0.08)


def test_the_junction_does_not_see_the_noise_inside_a_modality():
    members = {
        "a": Modality(
            4, "real", [Pair(Affine(4, 3), Affine(3, 4)), Pair(Affine(3, 2), Affine(2, 3))]
        ),
        "b": Modality(2, "real", [Pair(Affine(2, 2), Affine(2, 2)) for _ in range(2)]),
    }
    stack = JointStack(members, [Junction(Affine(6, 4), Affine(4, 4))])
    rule = JointTargetPropRule(stack, [*NONE, GaussianNoise(9.0), *NONE, *NONE])
    rule.fit_prior([(X,)])

    assert stack.loop_noise(2).entering.max() < 1e-6


def test_files_keep_widths_and_one_number_of_an_older_file_is_all_the_noise_it_had(tmp_path):
    """Still older ones hold no number at all."""
    stack = deep_autoencoder([9, 7, 5])
    stack.prior.fit(torch.rand(20, 5))
    stack.fit_residuals(torch.rand(200, 9), [GaussianNoise(0.2)] * 3)
    again = load(save(stack, tmp_path / "a.safetensors"))

    for level in (0, 1):
        for a, b in zip(again.loop_noise(level), stack.loop_noise(level), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    state = stack.state_dict()
    measured = ("residuals", "loops", "noises")
    oldest = {name: value for name, value in state.items() if name not in measured}
    deep_autoencoder([9, 7, 5]).load_state_dict(oldest)

    old = {name: value for name, value in state.items() if name not in measured[1:]}
    former = deep_autoencoder([9, 7, 5])
    former.load_state_dict(old)
    noise = former.loop_noise(1)

    # a round doubles the variance
    assert torch.allclose(math.sqrt(2.0) * noise.entering, stack.residuals[1].expand(7))
    assert noise.rest.sum() == 0.0
    assert all(width.sum() == 0.0 for width in noise.passing)


@pytest.mark.parametrize("width", [0.0, 0.2, 0.5, 0.9])
def test_grey_values_spread_by_a_share_of_what_their_mean_allows(width):
    mean = torch.tensor([0.0, 0.01, 0.3, 0.9, 1.0]).double().expand(100_000, 5)
    x = Bernoulli().near(mean, torch.full((5,), width).double(), seeded(0))
    most = mean[0] * (1 - mean[0])

    assert ((x >= 0) & (x <= 1)).all()
    assert torch.allclose(x.mean(0), mean[0], atol=0.01)
    assert torch.allclose(rms(x - mean).square(), width**2 * most, rtol=0.1, atol=1e-4)

    law = Bernoulli()
    assert torch.allclose(law.width_of(width**2 * most, mean), torch.full((5,), width).double())
    drawn = Bernoulli(True).near(mean, torch.ones(5).double(), seeded(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.01)
    assert torch.equal(Bernoulli(True).near(mean, torch.zeros(5).double()), mean)


def test_the_last_round_s_temperature_decides_whether_x_is_drawn():
    stack = JointStack(
        {
            "a": Modality(3, "pixels", [Pair(Affine(3, 2), Affine(2, 3, "sigmoid"))]),
            "b": Modality(1, "real", [Pair(Affine(1, 1), Affine(1, 1))]),
        },
        [Junction(Affine(5, 4), Affine(4, 3))],
    )
    stack.fit_residuals(torch.rand(100, 4), [GaussianNoise(0.1)] * 3)
    codes = torch.randn(50, 3)

    for annealing, drawn in ((Annealing(1.0, 0.0), False), (Annealing(0.0, 1.0), True)):
        x = Completer(3, annealing).values(stack, codes, seeded(0))
        assert torch.equal(x, stack.x_of(codes)) is not drawn
        assert x[:, :3].min() >= 0.0 and x[:, :3].max() <= 1.0
