"""Laws around a layer's mean: densities, draws, entropies, and what the next layer sees."""

import pickle

import pytest
import torch

from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Law, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.mlp import MLP
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


REAL = torch.tensor([[0.3, -1.0, 2.0]]).double()
UNIT = torch.tensor([[0.3, 0.9, 0.5]]).double()
SIGNED = torch.tensor([[0.3, -0.9, 0.0]]).double()
SHARES = torch.tensor([[0.5, 0.2, 0.3]]).double()
X = torch.tensor([[0.5, -2.0]]).double()

#: A law, its mean, and what it is given.
LAWS = {
    "a user's own": (Laplace(), REAL, None),
    "gaussian": (Gaussian(0.7), REAL, None),
    "learned": (learned(), REAL, None),
    "learned, one for the layer": (learned(per="layer"), REAL, None),
    "learned, of x": (learned(given=2), REAL, X),
    "learned, hidden": (learned(given=2, hidden=[5]), REAL, X),
    "bernoulli": (Bernoulli(), UNIT, None),
    "categorical": (Categorical(), SHARES, None),
    "stochastic sign": (Discrete("sign", stochastic=True), SIGNED, None),
    "stochastic binary": (Discrete("binary", stochastic=True), UNIT, None),
}
case = pytest.mark.parametrize(("law", "mean", "given"), LAWS.values(), ids=LAWS)


@case
def test_entropy_is_minus_the_mean_log_density_of_draws(law, mean, given):
    n = 200_000
    wide = None if given is None else given.expand(n, -1)

    with torch.no_grad():
        draws = law.sample(mean.expand(n, -1), seeded(), wide)
        if isinstance(law, Discrete):
            draws = draws.round()

        log_p = law.log_prob(draws, mean.expand(n, -1), wide)
        entropy = law.entropy(mean, given)
        variance = law.variance(mean, given)

    assert entropy.item() == pytest.approx(-log_p.mean().item(), abs=0.02)
    assert torch.allclose(draws.mean(0), mean[0], atol=0.01)
    if variance is not None:
        assert torch.allclose(draws.var(0), variance[0], rtol=0.02)


@case
def test_gradients_of_draws_reach_the_mean(law, mean, given):
    leaf = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.sample(leaf, seeded(), given).sum(), leaf)
    assert torch.allclose(gradient, torch.ones_like(mean))


@case
def test_laws_are_modules_that_add_no_keys_unless_they_learn_and_travel_as_plain_data(
    law, mean, given
):
    assert bool(law.state_dict()) == law.learnable == isinstance(law, LearnedGaussian)
    assert law.discrete == law.distribution(mean, given).support.is_discrete
    assert law.hard == isinstance(law, Discrete)
    assert law.drawn == (law.hard or isinstance(law, Categorical))

    copies = [pickle.loads(pickle.dumps(law))]
    if type(law).__name__ in REGISTRY:
        copies.append(build(describe(law)).double())
        copies[-1].load_state_dict(law.state_dict())

    draws = law.sample(mean, seeded(), given)
    for other in copies:
        assert torch.equal(other.sample(mean, seeded(), given), draws)
        assert repr(other) == repr(law)


def value_near(law, mean):
    """Possible values of the law's units near their mean."""
    if isinstance(law, Categorical):
        return torch.tensor([[0.0, 0.0, 1.0]]).double()

    unit = getattr(law, "unit", "")
    h = mean.round()
    if isinstance(law, Discrete):
        h = h.clamp(-1, 1)
    if unit == "sign":
        h = torch.where(h == 0, torch.ones_like(h), h)
    if unit == "binary" or isinstance(law, Bernoulli):
        h = h.abs()

    return h


@case
def test_energy_is_minus_log_density_up_to_a_constant(law, mean, given):
    """Its gradients, in the mean and in what the law learns, are those of -log p."""
    h = value_near(law, mean)
    leaf = mean.clone().requires_grad_()
    inputs = [leaf, *law.parameters()]

    energy = torch.autograd.grad(law.energy(h, leaf, given).sum(), inputs)
    density = torch.autograd.grad(-law.log_prob(h, leaf, given).sum(), inputs)

    assert all(map(torch.allclose, energy, density))


@pytest.mark.parametrize("per", ["unit", "layer"])
def test_around_an_encoder_sigma_is_fitted_and_does_not_rescale_the_mean_s_loss(per):
    """d/d mean = mean - h, and d/d log sigma_j = 1 - (h_j - mean_j)^2 / sigma_j^2."""
    law = learned(per=per)
    pair = Pair(Affine(5, 3), Affine(3, 5), recognition=law)
    mean = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(6, 3, dtype=torch.float64)

    energy = pair.recognition.energy(h, mean).sum()
    of_mean, of_sigma = torch.autograd.grad(energy, [mean, law.log_sigma])

    slopes = 1.0 - (h - mean).square() / 0.4**2
    expected = slopes.sum(0) if per == "unit" else slopes.sum().reshape(1)
    assert torch.allclose(of_mean, mean - h)
    assert torch.allclose(of_sigma, expected)

    of_x = Pair(Affine(5, 3), Affine(3, 5), recognition=learned(given=2)).recognition
    x = torch.randn(6, 2, dtype=torch.float64)
    assert torch.equal(of_x.energy(h, mean), (h - mean).square().sum(-1) / 2.0)
    (slope,) = torch.autograd.grad(of_x.energy(h, mean, x).sum(), of_x.of_input[-1].weight)
    assert slope.abs().min() > 0


def test_sigma_of_x_starts_as_the_constant_and_then_follows_x():
    law = LearnedGaussian(3, 0.4, given=2, hidden=[4])
    mean = torch.zeros(5, 3)
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


GRID = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
BITS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)


@pytest.mark.parametrize(
    ("law", "mean", "values", "step"),
    [
        (Gaussian(0.8), [0.4], GRID, 0.004),
        (LearnedGaussian(1, 0.6).double(), [0.3], GRID, 0.004),
        (Bernoulli(), [0.2, 0.7, 0.5], BITS, 1.0),
        (Discrete("sign", stochastic=True), [-0.6, 0.4, 0.0], 2 * BITS - 1, 1.0),
        (Categorical(), [0.5, 0.2, 0.3], torch.eye(3).double(), 1.0),
    ],
    ids=["gaussian", "learned", "bernoulli", "sign", "categorical"],
)
def test_densities_integrate_and_probabilities_sum_to_one(law, mean, values, step):
    mean = torch.tensor([mean], dtype=torch.float64).expand_as(values)
    total = law.log_prob(values, mean).exp().sum() * step
    assert total.item() == pytest.approx(1.0, abs=1e-9)


HEADED = Heads(Affine(4, 3), ["linear", "tanh"], [2, 1])


def mixed(f, widths):
    return Pair(f, Affine(3, 4), recognition=Laws([Gaussian(), Discrete("sign")], widths))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Discrete("ternary"), "unit='ternary' is unknown; accepted: sign, binary"),
        (
            lambda: Discrete("sign").log_prob(torch.ones(1, 2), torch.zeros(1, 2)),
            "stochastic=False",
        ),
        (
            lambda: Discrete("binary", True).log_prob(torch.full((1, 2), -3.0), UNIT[:, :2]),
            r"h holds values from -3 to -3; binary units lie in \[0, 1\]: clamp",
        ),
        (lambda: LearnedGaussian(3, sigma=0.0), "sigma=0.0"),
        (lambda: LearnedGaussian(3, per="batch"), "per='batch' is unknown"),
        (lambda: LearnedGaussian(3, per="layer", given=2), "use per='unit'"),
        (lambda: LearnedGaussian(3, given=2).variance(torch.zeros(1, 3)), "given=None"),
        (lambda: LearnedGaussian(3, given=2).energy(REAL, REAL), "or use LearnedGaussian"),
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
        (lambda: mixed(HEADED, [2, 2]), "has laws of other units than the 3"),
        (lambda: mixed(Affine(4, 3), [2, 1]), "recognition=Discrete needs a tanh layer, not 'lin"),
        (lambda: mixed(HEADED, [1, 2]), "needs a tanh layer, not 'linear'"),
        (lambda: mixed(HEADED, [3]), "2 laws need as many widths"),
        (lambda: Laws([Gaussian(), "sign"], [2, 1]), "laws='sign': a Law is needed"),
        (lambda: Heads(Affine(4, 3), ["linear"], [2]), "make 2 units, but g gives 3"),
        (lambda: Heads(Affine(4, 3), ["linear"], [2, 1]), "one activation for each block"),
        (lambda: Heads(Affine(4, 3, "tanh"), ["linear"], [3]), "a linear one is needed"),
        (lambda: Heads(Affine(4, 3), ["steps"], [3]), "activation='steps' is unknown"),
    ],
)
def test_refusals_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("layer", [Affine(3, 4, "sigmoid"), MLP(3, [5], 4, "sigmoid")])
def test_the_energy_of_bits_from_logits_is_that_of_their_means(layer):
    torch.manual_seed(0)
    pair = Pair(Affine(4, 3), layer, observation=Bernoulli()).double()
    h = torch.randn(6, 3).double()
    x = torch.rand(6, 4).double()
    expected = pair.observation.energy(x, pair.g(h))

    assert torch.allclose(pair.energy(x, h), expected, rtol=1e-12)


def test_the_energy_of_bits_from_logits_is_exact_where_a_mean_rounds_to_0_or_1():
    a = torch.tensor([[-300.0, 300.0, 40.0]], requires_grad=True)
    energy = Bernoulli().energy_of_logits(torch.tensor([[1.0, 0.0, 1.0]]), a)
    energy.sum().backward()

    assert energy.item() == 600.0
    assert a.grad.tolist() == [[-1.0, 1.0, 0.0]]


def test_a_law_of_bits_with_an_energy_of_its_own_keeps_it():
    class Halved(Bernoulli):
        def energy(self, h, mean, given=None):
            return super().energy(h, mean, given) / 2.0

    torch.manual_seed(0)
    layers = Affine(4, 3), Affine(3, 4, "sigmoid")
    x = torch.rand(2, 4)
    h = torch.randn(2, 3)

    halved = Pair(*layers, observation=Halved()).energy(x, h)
    assert torch.allclose(2.0 * halved, Pair(*layers, observation=Bernoulli()).energy(x, h))


def test_deterministic_real_units_are_their_mean_and_have_no_density():
    law = Gaussian(0.5, stochastic=False)
    assert law.sample(REAL, seeded()) is REAL
    assert not law.variance(REAL).any()
    assert law.energy(REAL + 1.0, REAL).item() == 3 / (2 * 0.5**2)

    for ask in (law.log_prob, lambda h, mean: law.entropy(mean)):
        with pytest.raises(ValueError, match="deterministic units have no density"):
            ask(REAL, REAL)


@pytest.mark.parametrize("name", ["learned", "learned, of x", "learned, one for the layer"])
def test_a_learned_law_for_one_input_is_the_same_law(name):
    law, mean, given = LAWS[name]
    fixed = law.conditioned(given)

    assert torch.equal(fixed.sample(mean, seeded()), law.sample(mean, seeded(), given))
    assert torch.allclose(fixed.entropy(mean), law.entropy(mean, given), rtol=1e-12)
    assert torch.allclose(fixed.variance(mean), law.variance(mean, given), rtol=1e-12)
    assert torch.allclose(fixed.log_prob(mean, mean), law.log_prob(mean, mean, given), rtol=1e-12)
