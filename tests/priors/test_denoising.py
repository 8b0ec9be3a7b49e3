"""Denoisers of all levels of noise: against closed forms, with the exact denoiser as network."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gendae.priors.denoiser import LevelMLP, denoised, denoising_loss
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.descents import AncestralDescent, HeunDescent, LangevinDescent
from gendae.priors.fitting import AveragedLearning
from gendae.priors.flow import Flow
from gendae.priors.levels import LogNormalLevels, LogUniformLevels
from gendae.registry import build, describe
from gendae.sampling.samplers import seeded

MEANS = torch.tensor([[-1.4, -0.35, 0.35], [0.6, 0.15, -0.15]], dtype=torch.float64)
SCALE = torch.tensor([0.1, 3.0, 1.0], dtype=torch.float64)
SPREAD = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)


def law(level=0.0, dtype=torch.float64):
    """A mixture of two Gaussians, with noise of a level."""
    deviations = (SPREAD.square() + level**2).sqrt().to(dtype)
    parts = MultivariateNormal(MEANS.to(dtype), torch.diag(deviations.square()))
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7], dtype=dtype)), parts)


def gaussian(level=0.0, correlation=0.6):
    spread = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    return MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), spread + level**2 * torch.eye(2)
    )


class Exact(nn.Module):
    """The F with which D(z; s) = z + s^2 d log p_s(z) / dz, p_s known."""

    def __init__(self, law, variances):
        super().__init__()
        self.law = law
        self.variances = variances

    def forward(self, z, level, condition=None):
        sigma = (4.0 * level[0]).exp().item()
        total = self.variances + sigma**2

        noisy = z * total.sqrt()
        with torch.enable_grad():
            leaf = noisy if noisy.requires_grad else noisy.detach().requires_grad_()
            log_p = self.law(sigma).log_prob(leaf).sum()
            (score,) = torch.autograd.grad(log_p, leaf, create_graph=True)

        clean = noisy + sigma**2 * score
        return (clean - self.variances / total * noisy) / (sigma * (self.variances / total).sqrt())


def exact(law, features, coordinates="units", scale=1.0, center=0.0, **options):
    """A prior of codes scale z + center, the law of z known, whose denoiser of z is exact."""
    prior = DenoisingPrior(LevelMLP(2, 1), coordinates=coordinates, **options)
    prior.prepare(features)
    prior.center = torch.full((features,), center, dtype=torch.float64)
    prior.scale = scale * torch.ones(features, dtype=torch.float64)
    variances = torch.ones(features, dtype=torch.float64)
    if coordinates == "directions":
        variances, prior.basis = torch.linalg.eigh(law(0.0).covariance_matrix)
        turned = law
        law = lambda level: MultivariateNormal(
            torch.zeros(features, dtype=torch.float64),
            prior.basis.T @ turned(level).covariance_matrix @ prior.basis,
        )

    prior.denoiser.variances = variances
    prior.denoiser.networks = nn.ModuleList([Exact(law, variances)])
    return prior


CASES = [
    pytest.param(law, 3, "units", id="mixture"),
    pytest.param(gaussian, 2, "units", id="gaussian"),
    pytest.param(gaussian, 2, "directions", id="gaussian-directions"),
]


@pytest.mark.parametrize("solver", ["heun", "adaptive"])
@pytest.mark.parametrize(("law", "features", "coordinates"), CASES)
def test_the_flow_gives_log_p_of_codes_with_the_exact_denoiser(law, features, coordinates, solver):
    scale = SCALE[:features]
    prior = exact(law, features, coordinates, scale, 2.0, flow=Flow(solver=solver))
    torch.manual_seed(0)
    h = (2.0 + scale * law().sample((30,))).requires_grad_()

    def true(level):
        return law(level).log_prob((h - 2.0) / scale) - scale.log().sum()

    log_p = prior.log_prob(h)
    lowest = true(prior.flow.lowest)
    assert (log_p - lowest).abs().max() < 0.05
    assert (log_p - true(0.0)).abs().mean() < 0.05
    assert (log_p.mean() - true(0.0).mean()).abs() < 0.02

    (gradient,) = torch.autograd.grad(log_p.sum(), h)
    (expected,) = torch.autograd.grad(lowest.sum(), h)
    assert torch.allclose(gradient, expected, atol=1e-6)
    with torch.inference_mode():
        assert torch.allclose(prior.log_prob(h.detach()), log_p)


def test_the_flow_s_error_falls_with_the_square_of_its_steps():
    h = law().sample((20,))
    true = law(0.03).log_prob(h)

    errors = []
    for steps in (20, 40, 80):
        log_p = exact(law, 3, flow=Flow(steps, lowest=0.03)).log_prob(h)
        errors.append((log_p - true).abs().mean().item())

    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.3)
    assert errors[2] < 0.01


@pytest.mark.parametrize(("law", "features", "coordinates"), CASES)
def test_denoising_and_score_are_those_of_the_law(law, features, coordinates):
    scale = SCALE[:features]
    spread = scale.square().mean().sqrt().item()
    prior = exact(law, features, coordinates, scale, 2.0, noise=0.2 * spread)
    level = prior.own_level
    assert level == pytest.approx(0.2)
    assert prior.noise == pytest.approx(0.2 * spread)
    h = (2.0 + scale * torch.randn(20, features, dtype=torch.float64)).requires_grad_()

    (score,) = torch.autograd.grad(law(level).log_prob((h - 2.0) / scale).sum(), h)
    assert torch.allclose(prior.score(h), score, atol=1e-8)
    assert torch.allclose(prior.reconstruct(h), h + prior.noise_of_units**2 * score, atol=1e-8)


def test_a_chain_of_steps_keeps_the_law_of_units_of_any_scale():
    """Its law is the prior's up to the square of the noise, in each unit."""
    scale = torch.tensor([0.01, 1.0], dtype=torch.float64)
    prior = exact(lambda level: gaussian(level, 0.0), 2, scale=scale)

    h = prior.sample(3000, seeded(0))
    for _ in range(200):
        h = prior.step(h, generator=seeded(int(1e6 * abs(h[0, 1]))))
    assert torch.allclose(h.std(0) / scale, torch.ones(2, dtype=torch.float64), atol=0.06)


DESCENTS = [
    (HeunDescent(30, stop=0.02, churn=0.0), 0.05),
    (HeunDescent(30, stop=0.02), 0.05),
    (AncestralDescent(150, stop=0.02), 0.05),
    (LangevinDescent(60, stop=0.02, rounds=5, rate=0.1), 0.06),
]


@pytest.mark.parametrize(("descent", "tolerance"), DESCENTS, ids=lambda d: type(d).__name__)
def test_descents_end_in_the_law_of_the_codes(descent, tolerance):
    """Shares, means and deviations of both components, from the exact denoiser."""
    n = 3000
    prior = exact(law, 3, descent=descent)
    h = prior.sample(n, seeded(0))

    right = h[:, 0] > -0.4
    assert right.double().mean() == pytest.approx(0.7, abs=tolerance)
    for part, mean in zip((h[~right], h[right]), MEANS, strict=True):
        assert (part.mean(0) - mean).abs().max() < tolerance
        assert (part.std(0) / SPREAD - 1.0).abs().max() < 2 * tolerance

    assert torch.equal(h, prior.sample(n, seeded(0)))
    way = list(prior.way(n, seeded(0)))
    assert len(way) == descent.steps
    assert torch.equal(way[-1], h)
    assert way[0].std(0).max() < 0.1  # the mean of all codes, still


def test_levels_have_their_law():
    laws = (LogNormalLevels(-0.5, 1.2), LogUniformLevels(0.1, 10.0))
    for levels in laws:
        sigma = levels.draw(1001, seeded(0))
        shares = [0.1, 0.5, 0.9]
        expected = levels.quantile(torch.tensor(shares))
        assert torch.allclose(sigma.quantile(torch.tensor(shares)), expected, rtol=0.01)

        bounds = levels.bounds(4)
        parts = [levels.draw(100, seeded(1), (i / 4, (i + 1) / 4)) for i in range(4)]
        for low, part in zip(bounds, parts[1:], strict=True):
            assert part.min() >= low * 0.999
        for high, part in zip(bounds, parts, strict=False):
            assert part.max() <= high * 1.001

    log_normal = laws[0].draw(10_000, seeded(0)).log()
    assert log_normal.mean() == pytest.approx(-0.5, abs=0.01)
    assert log_normal.std() == pytest.approx(1.2, abs=0.01)


def test_the_loss_of_the_exact_denoiser_is_least():
    """With F = 0 of Gaussian codes it is 1 at every level; of a mixture, less with its own F."""
    torch.manual_seed(0)
    z = torch.randn(20_000, 3, dtype=torch.float64)
    noise = torch.randn_like(z)
    one = torch.ones(3, dtype=torch.float64)
    nothing = lambda z, level: torch.zeros_like(z)
    for level in (0.05, 1.0, 10.0):
        sigma = torch.full((len(z), 1), level, dtype=torch.float64)
        assert denoising_loss(nothing, z, sigma, noise, one) == pytest.approx(1.0, abs=0.02)

        h = law().sample((len(z),))
        best = denoising_loss(Exact(law, one), h, sigma, noise, one)
        assert best < denoising_loss(nothing, h, sigma, noise, one)

    # (v + s^2) / (v s^2) |D - z|^2, by hand
    v = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    sigma = torch.rand(len(z), 1, dtype=torch.float64) + 0.1
    noisy = z + sigma * noise
    scaled = noisy / (v + sigma**2).sqrt()
    half = lambda z, level: 0.5 * z
    clean = v / (v + sigma**2) * noisy + sigma * (v / (v + sigma**2)).sqrt() * 0.5 * scaled
    by_hand = ((v + sigma**2) / (v * sigma**2) * (clean - z) ** 2).mean()
    assert torch.allclose(denoising_loss(half, z, sigma, noise, v), by_hand)


BRIEF = AveragedLearning(epochs=3, batch_size=64, warm_up=5)


def small(blocks=1, learning=BRIEF, **options):
    return DenoisingPrior(LevelMLP(16, 1, 4), learning=learning, blocks=blocks, **options)


def codes(n=400, dtype=torch.float32):
    torch.manual_seed(0)
    return 5.0 + 3.0 * law().sample((n,)).to(dtype)


@pytest.mark.parametrize("coordinates", ["units", "directions"])
def test_learning_lowers_the_loss_and_gives_the_law(coordinates):
    learning = AveragedLearning(epochs=40, lr=3e-3, batch_size=200, average=0.99)
    prior = DenoisingPrior(LevelMLP(32, 1), learning=learning, coordinates=coordinates)
    prior.fit(codes(4000))
    fresh = codes(6000)[4000:]

    z = (fresh - 5.0) / 3.0
    assert prior.loss(fresh) < 0.95

    h = (prior.sample(2000, seeded(0)) - 5.0) / 3.0
    right = h[:, 0] > -0.4
    assert right.float().mean() == pytest.approx(0.7, abs=0.05)
    assert (h[right].mean(0) - MEANS[1]).abs().max() < 0.1

    log_p = prior.log_prob(fresh[:100])
    true = law().log_prob(z[:100].double()) - 3 * math.log(3.0)
    assert (log_p - true).mean().abs() < 0.2


class Weightless(nn.Module):
    def forward(self, z, level):
        return 0.0 * z


class Narrow(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def forward(self, z, level):
        return super().forward(z)


class Normalised(nn.Module):
    """A network with statistics of its batches, and units that are dropped."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )

    def forward(self, z, level):
        return self.layers(torch.cat([z, level[:, None]], 1))


def test_networks_of_ones_own_are_used_as_they_were_learned():
    prior = DenoisingPrior(Normalised(), learning=AveragedLearning(5, batch_size=50))
    h = codes()
    prior.fit(h)
    norm = prior.denoiser.networks[0].layers[1]
    assert (norm.running_var - 1.0).abs().max() > 0.05

    once = prior.reconstruct(h)
    prior.train()
    assert torch.equal(prior.reconstruct(h), once)


def test_a_training_that_does_not_end_changes_nothing():
    prior = small()
    prior.begin(codes()).advance()
    assert not prior.fitted

    prior.fit(codes())
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    prior.learning = AveragedLearning(3, lr=1e30)
    with pytest.raises(ValueError, match="diverged"):
        prior.fit(2.0 * codes())
    assert all(torch.equal(prior.state_dict()[name], value) for name, value in before.items())


def test_each_level_is_denoised_by_the_network_that_owns_it():
    prior = small(blocks=3).fit(codes())
    low, high = prior.levels.bounds(3)
    z = torch.randn(4, 3)
    for block, level in enumerate((0.5 * low, 0.5 * (low + high), 2.0 * high)):
        own = denoised(prior.denoiser.networks[block], z, torch.full((4, 1), level), torch.ones(3))
        assert torch.equal(prior.denoise(z, level), own)

    other = small(blocks=3, levels=LogUniformLevels(0.5, 0.6))
    other.load_state_dict(prior.state_dict())  # the bounds of training are those of the weights
    assert torch.equal(other.denoise(z, low * 1.01), prior.denoise(z, low * 1.01))


def test_a_training_goes_on_where_it_was_kept():
    whole = small(blocks=2).fit(codes())

    prior = small(blocks=2)
    fitting = prior.begin(codes())
    for _ in range(4):
        fitting.advance()
    kept = fitting.state_dict()
    fitting.advance()  # which does not change what was kept

    again = small(blocks=2)
    other = again.begin(codes())
    other.load_state_dict(kept)
    while not other.done:
        other.advance()
    again.finish(other)

    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_blocks_learn_apart():
    """No parameter and no gradient in common: each block ends where it does alone."""
    together = small(blocks=3).fit(codes())
    ids = [{id(p) for p in network.parameters()} for network in together.denoiser.networks]
    assert not ids[0] & ids[1] and not ids[1] & ids[2]

    prior = small(blocks=3)
    fitting = prior.begin(codes())
    for block in reversed(fitting.blocks):
        while not block.done:
            block.advance(*fitting.data)
    prior.finish(fitting)
    for name, value in together.state_dict().items():
        assert torch.equal(prior.state_dict()[name], value), name

    fitting = small(blocks=3).begin(codes())
    before = [w.clone() for block in (0, 2) for w in fitting.blocks[block].network.parameters()]
    fitting.blocks[1].advance(*fitting.data)
    after = [w for block in (0, 2) for w in fitting.blocks[block].network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(w.grad is None for w in after)

    parallel = small(3, AveragedLearning(3, batch_size=64, warm_up=5, processes=2)).fit(codes())
    for name, value in together.state_dict().items():
        assert torch.allclose(parallel.state_dict()[name], value, atol=1e-5), name


def test_a_budget_of_time_ends_the_training():
    learning = AveragedLearning(epochs=10_000, batch_size=64, seconds=0.3)
    prior = small(learning=learning)
    fitting = prior.begin(codes())
    while not fitting.done:
        fitting.advance()

    assert fitting.epoch < 2000
    block = fitting.blocks[0]
    assert block.seconds >= 0.3
    assert block.optimizer.param_groups[0]["lr"] < learning.lr


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("coordinates", ["units", "directions"])
def test_descriptions_and_states_rebuild_a_prior(blocks, coordinates):
    options = {
        "levels": LogUniformLevels(0.05, 5.0),
        "descent": AncestralDescent(4, stop=0.1),
        "flow": Flow(10),
    }
    prior = small(blocks, coordinates=coordinates, **options).fit(codes())
    other = build(describe(prior))
    assert describe(other) == describe(prior)
    assert not other.fitted

    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.sample(5, seeded(0)), prior.sample(5, seeded(0)))
    assert torch.equal(other.log_prob(codes(5)), prior.log_prob(codes(5)))
    assert not any(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LogUniformLevels(2.0, 1.0), "lowest=2.0, highest=1.0: lowest has to be below"),
        (lambda: LogNormalLevels(deviation=0.0), "deviation=0.0"),
        (lambda: HeunDescent(stop=30.0), "stop=30.0, highest=20.0: stop has to be below highest"),
        (lambda: HeunDescent(0), "steps=0"),
        (lambda: HeunDescent(churn=-1.0), "churn=-1.0"),
        (lambda: LangevinDescent(rate=0.0), "rate=0.0"),
        (lambda: Flow(lowest=50.0), "lowest=50.0, highest=40.0"),
        (lambda: Flow(solver="euler"), "solver='euler'"),
        (lambda: AveragedLearning(seconds=0), "seconds=0"),
        (lambda: AveragedLearning(epochs=0), "epochs=0"),
        (lambda: small(coordinates="pixels"), "coordinates='pixels'"),
        (lambda: small(blocks=0), "blocks=0"),
        (lambda: small(levels="many"), "levels='many': a Levels"),
        (lambda: small().fit(torch.randn(3, 3)), "codes has 3 rows of 3 units; more rows"),
        (lambda: small().fit(torch.ones(30, 3)), "codes are all equal"),
        (lambda: small().fit(torch.randn(30, 2).sign()), "unit 0 of the codes has two values"),
        (lambda: small().fit(torch.full((30, 2), torch.nan)), "NaN"),
        (lambda: small().begin(torch.full((30, 2), torch.nan)), "NaN"),
        (lambda: small().begin(torch.zeros(30)), "codes has shape"),
        (lambda: small().loss(torch.zeros(1, 3)), "is not fitted"),
        (lambda: small().fit(codes()).log_prob(torch.zeros(1, 1)), "h"),
        (lambda: DenoisingPrior(nn.Linear(3, 3)).fit(codes()), "network: F.z, level. of codes"),
        (
            lambda: DenoisingPrior(Weightless()).fit(codes()),
            "network: a Weightless has no weights",
        ),
        (lambda: DenoisingPrior(Narrow()).fit(codes()), r"Narrow gives \(2, 1\)"),
        (lambda: small().sample(3), "is not fitted"),
        (lambda: small().log_prob(torch.zeros(1, 3)), "is not fitted"),
        (lambda: small().fit(codes()).prepare(7), "width 3, not 7"),
        (
            lambda: small(learning=AveragedLearning(3, lr=1e30)).fit(codes()),
            "lr=1e.30: training diverged",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_solver_that_does_not_reach_its_tolerance_is_named():
    class Jumps(nn.Module):
        def forward(self, z, level, condition=None):
            return 1e12 * (z * 1e6).sin()

    prior = exact(gaussian, 2, flow=Flow(solver="adaptive", tolerance=1e-12))
    prior.denoiser.networks = nn.ModuleList([Jumps()])
    with pytest.raises(ValueError, match="tolerance=1e-12: the adaptive solver does not reach it"):
        prior.log_prob(torch.randn(2, 2, dtype=torch.float64))
