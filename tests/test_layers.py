import pytest
import torch

from gendae.layers import ACTIVATIONS, Affine, Bernoulli, Gaussian, Pair
from gendae.models import deep_autoencoder
from gendae.stack import Stack
from tests.conftest import linear_stack, small_stack


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_affine_is_s_of_w_h_plus_b(activation):
    layer = Affine(5, 3, activation).double()
    h = torch.randn(7, 5, dtype=torch.float64)
    expected = ACTIVATIONS[activation](h @ layer.weight.T + layer.bias)
    assert torch.allclose(layer(h), expected)


def test_initial_weights_have_variance_one_over_fan_in():
    weight = Affine(400, 900, gain=0.5).weight
    assert weight.std().item() == pytest.approx(0.5 / 20, rel=0.01)


@pytest.mark.parametrize("law", [Gaussian(0.3), Gaussian(2.0), Bernoulli()])
def test_energy_is_minus_log_prob_up_to_a_constant(law):
    mean = torch.rand(2, 6, 4, dtype=torch.float64) * 0.8 + 0.1
    h = torch.randint(0, 2, (6, 4)).double()
    gap = [law.energy(h, m) + law.log_prob(h, m) for m in mean]
    assert torch.allclose(gap[0], gap[1])


def test_gaussian_density_integrates_to_one():
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    density = Gaussian(0.8).log_prob(x, torch.full_like(x, 0.4)).exp()
    assert torch.trapezoid(density, x[:, 0]).item() == pytest.approx(1.0, abs=1e-9)


def test_bernoulli_probabilities_sum_to_one():
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    mean = torch.tensor([0.2, 0.7, 0.5]).expand(8, 3)
    assert Bernoulli().log_prob(h, mean).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_pair_distributions_are_centred_on_f_and_g():
    pair = small_stack().pairs[0]
    x = torch.rand(3, 8)
    assert torch.equal(pair.q(x).mean, pair.f(x))
    assert torch.equal(pair.p(pair.f(x)).mean, pair.g(pair.f(x)))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Affine(3, 2, "swish"), "softplus, sigmoid, tanh, relu, linear"),
    (lambda: Affine(0, 2), "in_features=0"),
    (lambda: Pair(Affine(3, 2), Affine(2, 4)), "must map 2 -> 3"),
    (lambda: Pair(Affine(3, 2), Affine(2, 3), observation=Bernoulli()), "sigmoid"),
    (lambda: Stack(), "at least one Pair"),
    (lambda: Stack(Pair(Affine(3, 2), Affine(2, 3)), Pair(Affine(4, 2), Affine(2, 4))), "pair 1"),
    (lambda: deep_autoencoder([5]), "at least two widths"),
    (lambda: deep_autoencoder([5, 4], ["tanh", "relu"]), "2 entries for 1 layers"),
    (lambda: deep_autoencoder([5, 4], observation="poisson"), "gaussian, bernoulli"),
])
def test_bad_architectures_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_encode_decode_reconstruct_agree():
    stack, x = small_stack(), torch.rand(4, 8)
    h = stack.encode(x)
    assert [tuple(a.shape) for a in h] == [(4, 8), (4, 6), (4, 5), (4, 4)]
    assert torch.equal(h[0], x)
    assert torch.equal(stack.reconstruct(x), stack.decode(h[3]))
    assert torch.equal(stack.reconstruct(x, 1), stack.pairs[0].g(h[1]))
    assert torch.allclose(stack.encode(x[:1])[3], h[3][:1], atol=1e-6)  # rows do not depend on the batch


@pytest.mark.parametrize(("call", "words"), [
    (lambda s: s.encode(torch.rand(2, 9)), r"\(2, 9\)"),
    (lambda s: s.encode(torch.rand(8)), r"\(batch, 8\)"),
    (lambda s: s.decode(torch.rand(2, 3)), r"\(batch, 4\)"),
    (lambda s: s.reconstruct(torch.rand(2, 8), 4), "level=4"),
])
def test_wrong_widths_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(small_stack())


def test_log_joint_is_the_sum_of_its_terms_and_of_the_joint_gaussian():
    stack = linear_stack([3, 2])
    pair = stack.pairs[0]
    h, x = torch.randn(5, 2).double(), torch.randn(5, 3).double()
    terms = pair.p(h).log_prob(x).sum(-1) + stack.prior.log_prob(h)
    assert torch.allclose(stack.log_joint((x, h)), terms)
    w, s2 = pair.g.weight, pair.observation.sigma**2
    cov = torch.cat([torch.cat([w @ w.T + s2 * torch.eye(3), w], 1),
                     torch.cat([w.T, torch.eye(2)], 1)])
    mean = torch.cat([pair.g.bias, torch.zeros(2).double()])
    joint = torch.distributions.MultivariateNormal(mean, cov).log_prob(torch.cat([x, h], 1))
    assert torch.allclose(stack.log_joint((x, h)), joint)
