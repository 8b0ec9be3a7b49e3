"""Laws around a layer's mean: densities, draws, entropies, and what the next layer sees."""

import math
import pickle

import pytest
import torch

from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Law, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.registry import REGISTRY, build, describe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def learned(**options):
    torch.manual_seed(0)
    law = LearnedGaussian(3, 0.4, **options).double()
    if law.of_input is not None:
        torch.nn.init.normal_(law.of_input[-1].weight, std=0.3)
    return law


class Laplace(Law):
    """What a user defines: all but the distribution is the base class's."""

    def distribution(self, mean, given=None):
        return torch.distributions.Laplace(mean, 0.7, validate_args=False)


LAWS = {
    "a user's own": (Laplace(), torch.tensor([[0.3, -1.0, 2.0]]), None),
    "gaussian": (Gaussian(0.7), torch.tensor([[0.3, -1.0, 2.0]]), None),
    "learned": (learned(), torch.tensor([[0.3, -1.0, 2.0]]), None),
    "learned, one for the layer": (learned(per="layer"), torch.tensor([[0.3, -1.0, 2.0]]), None),
    "learned, of x": (
        learned(given=2),
        torch.tensor([[0.3, -1.0, 2.0]]),
        torch.tensor([[0.5, -2.0]]),
    ),
    "learned, hidden": (
        learned(given=2, hidden=[5]),
        torch.tensor([[0.3, -1.0, 2.0]]),
        torch.tensor([[0.5, -2.0]]),
    ),
    "bernoulli": (Bernoulli(), torch.tensor([[0.3, 0.9, 0.5]]), None),
    "stochastic sign": (Discrete("sign", stochastic=True), torch.tensor([[0.3, -0.9, 0.0]]), None),
    "stochastic binary": (
        Discrete("binary", stochastic=True),
        torch.tensor([[0.3, 0.9, 0.5]]),
        None,
    ),
}


@pytest.fixture(params=LAWS.values(), ids=LAWS)
def case(request):
    law, mean, given = request.param
    return law, mean.double(), None if given is None else given.double()


def test_entropy_is_minus_the_mean_log_density_of_draws(case):
    law, mean, given = case
    n = 200_000
    wide = None if given is None else given.expand(n, -1)
    with torch.no_grad():
        draws = law.sample(mean.expand(n, -1), seeded(), wide)
        if isinstance(law, Discrete):
            draws = draws.round()
        log_p = law.log_prob(draws, mean.expand(n, -1), wide)
        assert law.entropy(mean, given).item() == pytest.approx(-log_p.mean().item(), abs=0.02)
        variance = law.variance(mean, given)
        if variance is not None:
            assert torch.allclose(draws.var(0), variance[0], rtol=0.02)
        assert torch.allclose(draws.mean(0), mean[0], atol=0.01)


def test_gradients_of_draws_reach_the_mean(case):
    law, mean, given = case
    leaf = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.sample(leaf, seeded(), given).sum(), leaf)
    assert torch.allclose(gradient, torch.ones_like(mean))


def test_laws_are_modules_that_add_no_keys_unless_they_learn_and_travel_as_plain_data(case):
    law, mean, given = case
    assert bool(law.state_dict()) == law.learnable == isinstance(law, LearnedGaussian)
    again = pickle.loads(pickle.dumps(law))
    assert torch.equal(again.sample(mean, seeded(), given), law.sample(mean, seeded(), given))
    assert law.drawn == (law.hard and law.stochastic)
    assert law.continuous != law.distribution(mean, given).support.is_discrete
    if type(law).__name__ in REGISTRY:
        copy = build(describe(law)).double()
        copy.load_state_dict(law.state_dict())
        assert torch.equal(copy.sample(mean, seeded(), given), law.sample(mean, seeded(), given))
        assert repr(copy) == repr(law)


def test_energy_is_minus_log_density_up_to_a_constant_in_the_mean(case):
    law, mean, _ = case
    if isinstance(law, LearnedGaussian):
        pytest.skip("its energy leaves sigma out on purpose")
    h = mean.round().clamp(-1, 1) if isinstance(law, Discrete) else mean.round()
    h = torch.where(h == 0, torch.ones_like(h), h) if getattr(law, "unit", "") == "sign" else h
    h = h.abs() if isinstance(law, Bernoulli) or getattr(law, "unit", "") == "binary" else h
    leaf = mean.clone().requires_grad_()
    (energy,) = torch.autograd.grad(law.energy(h, leaf).sum(), leaf, retain_graph=True)
    (density,) = torch.autograd.grad(-law.log_prob(h, leaf).sum(), leaf)
    assert torch.allclose(energy, density)


def test_sigma_of_x_starts_as_the_constant_and_then_follows_x():
    law, mean = LearnedGaussian(3, 0.4, given=2, hidden=[4]), torch.zeros(5, 3)
    x = torch.randn(5, 2)
    assert torch.allclose(law.variance(mean, x), torch.full((5, 3), 0.16))
    torch.nn.init.ones_(law.of_input[-1].weight)
    assert law.variance(mean, x).std(0).min() > 0


def test_discrete_units_send_values_and_draw_only_with_a_generator():
    mean = torch.tensor([[-0.2, 0.0, 0.7]])
    assert Discrete("sign").transmit(mean).tolist() == [[-1.0, -1.0, 1.0]]
    assert Discrete("binary").transmit(torch.tensor([[0.2, 0.7]])).tolist() == [[0.0, 1.0]]
    law = Discrete("sign", stochastic=True)
    assert law.transmit(mean).tolist() == [[-1.0, -1.0, 1.0]]
    draws = law.transmit(mean.expand(50_000, -1), seeded())
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(draws.mean(0), mean[0], atol=0.02)


def test_gaussian_density_integrates_to_one():
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    law = LearnedGaussian(1, 0.6).double()
    total = law.log_prob(grid, torch.full_like(grid, 0.3)).exp().sum() * (12 / 4000)
    assert total.item() == pytest.approx(1.0, abs=1e-9)
    assert law.entropy(grid[:1]).item() == pytest.approx(
        0.5 * math.log(2 * math.pi * math.e * 0.36)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Discrete("ternary"), "unit='ternary' is unknown; accepted: sign, binary"),
        (
            lambda: Discrete("sign").log_prob(torch.ones(1, 2), torch.zeros(1, 2)),
            "stochastic=False",
        ),
        (
            lambda: Discrete("binary", True).log_prob(
                torch.full((1, 2), -3.0), torch.full((1, 2), 0.5)
            ),
            r"h holds values from -3 to -3; binary units lie in \[0, 1\]: clamp",
        ),
        (lambda: LearnedGaussian(3, sigma=0.0), "sigma=0.0"),
        (lambda: LearnedGaussian(3, per="batch"), "per='batch' is unknown"),
        (lambda: LearnedGaussian(3, per="layer", given=2), "use per='unit'"),
        (lambda: LearnedGaussian(3, given=2).variance(torch.zeros(1, 3)), "given=None"),
        (
            lambda: Pair(Affine(3, 2), Affine(2, 3), recognition=Discrete("sign")),
            "needs a tanh layer",
        ),
        (
            lambda: Pair(Affine(4, 3, "tanh"), Affine(3, 4), recognition=Categorical()),
            "recognition=Categorical needs a softmax layer, not 'tanh'",
        ),
        (
            lambda: Pair(Affine(4, 3), Affine(3, 4), observation=Bernoulli()),
            "observation=Bernoulli needs a sigmoid layer, not 'linear'",
        ),
        (lambda: deep_autoencoder([4, 2], units="spin"), "units='spin' is unknown"),
    ],
)
def test_refusals_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
