"""p(h | c): against closed forms with exact denoisers, learned, and clamped sampling of units."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from gendae.priors.conditional import Condition, ConditionalDenoisingPrior
from gendae.priors.denoiser import LevelMLP
from gendae.priors.descents import HeunDescent
from gendae.priors.fitting import AveragedLearning, Fitting
from gendae.priors.levels import LogNormalLevels
from gendae.registry import build, describe
from gendae.sampling.samplers import seeded
from tests.priors.test_denoising import exact, gaussian

CENTRES = torch.tensor([-0.9, 0.3], dtype=torch.float64)
SHARES = torch.tensor([0.25, 0.75], dtype=torch.float64)
SPREAD = 0.4
BRIEF = AveragedLearning(epochs=3, batch_size=64, warm_up=5)


def log_parts(z, level):
    return Normal(CENTRES, (SPREAD**2 + level**2) ** 0.5).log_prob(z)


class ExactGiven(nn.Module):
    """F of two classes of numbers around centres of their own, and of both where none is given."""

    def forward(self, z, level, told):
        sigma = (4.0 * level[0]).exp()
        total = 1.0 + sigma**2
        noisy = z * total.sqrt()

        mixed = (log_parts(noisy, sigma) + SHARES.log()).softmax(-1)
        share = torch.where(told[:, 2:] > 0, told[:, :2], mixed)
        left = SPREAD**2 / (SPREAD**2 + sigma**2)
        clean = left * noisy + (1.0 - left) * (share @ CENTRES)[:, None]

        return (clean - noisy / total) / (sigma / total.sqrt())


def exactly(guidance=0.0, **options):
    prior = ConditionalDenoisingPrior(Condition(2, guidance=guidance), LevelMLP(2, 1), **options)
    prior.prepare(1)
    prior.center = torch.zeros(1, dtype=torch.float64)
    prior.scale = torch.ones(1, dtype=torch.float64)
    prior.denoiser.variances = torch.ones(1, dtype=torch.float64)
    prior.denoiser.networks = nn.ModuleList([ExactGiven()])
    prior.met = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    prior.shares = SHARES

    return prior


def test_the_law_given_a_class_and_the_law_given_nothing():
    prior = exactly(descent=HeunDescent(30, stop=0.02))
    for c, centre in enumerate(CENTRES.tolist()):
        law = prior.given(c)
        h = law.sample(3000, seeded(0))
        assert h.mean() == pytest.approx(centre, abs=0.03)
        assert h.std() == pytest.approx(SPREAD, abs=0.02)

        true = Normal(centre, SPREAD).log_prob(h[:20, 0])
        assert (law.log_prob(h[:20]) - true).abs().mean() < 0.05

    h = prior.sample(3000, seeded(0))
    assert h.mean() == pytest.approx((SHARES @ CENTRES).item(), abs=0.04)
    true = (log_parts(h[:20], 0.0) + SHARES.log()).logsumexp(-1)
    assert (prior.log_prob(h[:20]) - true).abs().mean() < 0.05

    classes = torch.arange(3000) % 2
    h = prior.given(classes).sample(3000, seeded(0))
    assert (h[classes == 0].mean() - CENTRES[0]).abs() < 0.04


def test_guidance_goes_on_from_the_law_of_all_beyond_that_of_the_class():
    """The score is that of p_s(z) (p_s(z | c) / p_s(z))^(1 + w)."""
    z = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None].requires_grad_()
    prior = exactly(guidance=0.5)
    for guidance, w in ((None, 0.5), (2.0, 2.0), (0.0, 0.0), (-1.0, -1.0)):
        parts = log_parts(z, 0.7)
        free = (parts + SHARES.log()).logsumexp(-1)
        target = free + (1.0 + w) * (parts[:, 1] - free)
        (score,) = torch.autograd.grad(target.sum(), z)

        law = prior.given(1, guidance)
        assert torch.allclose(law.denoise(z, 0.7), z + 0.49 * score)

    assert prior.condition.guidance == 0.5
    assert prior.given(1, 3.0).sample(500, seeded(0)).std() < 0.9 * SPREAD


def test_conditions_are_learned_hidden_and_kept():
    """Also where some are missing; hidden ones are those of which the network is told nothing."""
    torch.manual_seed(0)
    label = torch.arange(1000) % 3
    codes = torch.randn(1000, 2) + 4.0 * torch.eye(3)[label][:, :2]
    label[::10] = -1
    learning = AveragedLearning(epochs=30, lr=5e-3, batch_size=200, average=0.98)
    prior = ConditionalDenoisingPrior(
        Condition(3, dropout=0.2), LevelMLP(32, 1), learning=learning
    )
    prior.fit(codes, label)
    for c, centre in enumerate(([4.0, 0.0], [0.0, 4.0], [0.0, 0.0])):
        h = prior.given(c).sample(300, seeded(0))
        assert (h.mean(0) - torch.tensor(centre)).abs().max() < 0.5
        assert (h.std(0) - 1.0).abs().max() < 0.4
    assert (prior.sample(500, seeded(0)).mean(0) - codes.mean(0)).abs().max() < 0.4
    assert prior.shares.tolist() == pytest.approx([0.1, 0.3, 0.3, 0.3], abs=0.002)

    other = build(describe(prior))
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.given(2).sample(5, seeded(0)), prior.given(2).sample(5, seeded(0)))

    seen = []

    class Sees(LevelMLP):
        def forward(self, z, level, condition):
            seen.append(condition)
            return super().forward(z, level, condition)

    network = Sees(4, 1, 2)
    network.prepare(2, 4)
    rows = prior.told_of(codes, label)
    z, ones = torch.zeros_like(codes), torch.ones(2)
    fitting = Fitting([network], LogNormalLevels(), BRIEF, z, ones, rows, dropout=0.2)
    fitting.advance()
    hidden = (torch.cat(seen) == 0).all(1).float().mean()
    assert hidden == pytest.approx(0.1 + 0.9 * 0.2, abs=0.03)


class Linear(nn.Module):
    """F of Gaussian codes with this covariance."""

    def __init__(self, covariance, variances):
        super().__init__()
        self.values, self.basis = torch.linalg.eigh(covariance)
        self.variances = variances

    def forward(self, z, level):
        sigma = (4.0 * level[0]).exp()
        total = self.variances + sigma**2
        noisy = z * total.sqrt()
        clean = (noisy @ self.basis * self.values / (self.values + sigma**2)) @ self.basis.T

        return (clean - self.variances / total * noisy) / (sigma * (self.variances / total).sqrt())


@pytest.mark.parametrize("coordinates", ["units", "directions"])
def test_missing_units_have_the_law_given_the_others(coordinates):
    """And a marginal that of some of them; a reverse process alone is 0.3 off the mean."""
    prior = exact(gaussian, 2, coordinates)
    covariance = gaussian().covariance_matrix
    if coordinates == "directions":
        covariance = prior.basis.T @ covariance @ prior.basis
    prior.denoiser.networks = nn.ModuleList([Linear(covariance, prior.denoiser.variances)])

    h = torch.tensor([[1.2, torch.nan], [torch.nan, -1.0]], dtype=torch.float64).repeat(2000, 1)
    observed = ~h.isnan()
    filled = prior.complete(h, observed, seeded(0))
    assert torch.equal(filled[observed], h[observed])
    for column, mean in ((1, 0.6 * 1.2), (0, 0.6 * -1.0)):
        missing = filled[observed[:, 1 - column], column]
        assert missing.mean() == pytest.approx(mean, abs=0.06)
        assert missing.std() == pytest.approx(0.8, abs=0.04)

    alone = prior.marginal(torch.tensor([False, True])).sample(3000, seeded(0))
    assert alone.shape == (3000, 1)
    assert alone.std() == pytest.approx(1.0, abs=0.06)


def fit(prior, codes=50, given=None):
    torch.manual_seed(0)
    return prior.fit(torch.randn(codes, 2), given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Condition(0), "width=0"),
        (lambda: Condition(dropout=1.5), "dropout=1.5"),
        (lambda: Condition(guidance=-2.0), "guidance=-2.0"),
        (lambda: ConditionalDenoisingPrior(condition="label"), "condition='label'"),
        (lambda: ConditionalDenoisingPrior().given(3), "is not fitted"),
        (lambda: exactly().given(2), "the model has 2 classes"),
        (lambda: exactly().given(torch.zeros(1, 3)), "label has"),
        (lambda: exactly().given(torch.tensor([0, 1])).sample(5), "2 rows, and the codes are 5"),
        (lambda: fit(ConditionalDenoisingPrior(learning=BRIEF)), r"fit\(codes, label\)"),
        (
            lambda: fit(ConditionalDenoisingPrior(learning=BRIEF), 50, torch.zeros(4).long()),
            "conditions has 4 rows, and codes 50",
        ),
        (lambda: fit(exact(gaussian, 2), 50, torch.zeros(50).long()), "models p.h. alone"),
        (lambda: exact(gaussian, 2).complete(torch.zeros(1, 2), torch.ones(3) > 0), "observed"),
        (
            lambda: exact(gaussian, 2).marginal(torch.arange(2) < 1).log_prob(torch.ones(1, 1)),
            "is sampled only",
        ),
    ],
)
def test_what_cannot_be_conditioned_is_said_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
