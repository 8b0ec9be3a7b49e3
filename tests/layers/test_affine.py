import copy

import mpmath
import pytest
import torch

from gendae.laws import Bernoulli, Gaussian
from gendae.layers.activations import ACTIVATIONS, DIFFERENCES
from gendae.layers.affine import Affine
from gendae.layers.invertible import InvertiblePair
from gendae.layers.mlp import MLP
from gendae.layers.optimized import OptimizingPair
from gendae.layers.pair import Pair, TiedPair
from gendae.layers.wrapped import change
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.registry import describe
from gendae.storage.model_file import load, save
from tests.conftest import linear_stack, small_stack


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_affine_is_s_of_w_h_plus_b(activation):
    layer = Affine(5, 3, activation).double()
    h = torch.randn(7, 5, dtype=torch.float64)
    expected = ACTIVATIONS[activation](h @ layer.weight.T + layer.bias)
    assert torch.allclose(layer(h), expected)


def test_pair_distributions_are_centred_on_f_and_g():
    pair = small_stack().pairs[0]
    x = torch.rand(3, 8)
    assert torch.equal(pair.q(x).mean, pair.f(x))
    assert torch.equal(pair.p(pair.f(x)).mean, pair.g(pair.f(x)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Affine(3, 2, "swish"), "softplus, sigmoid, tanh, relu, linear"),
        (lambda: Affine(0, 2), "in_features=0"),
        (lambda: Pair(Affine(3, 2), Affine(2, 4)), "must map 2 -> 3"),
        (lambda: Pair(Affine(3, 2), Affine(2, 3), observation=Bernoulli()), "sigmoid"),
        (lambda: Stack(), "at least one Pair"),
        (
            lambda: Stack(Pair(Affine(3, 2), Affine(2, 3)), Pair(Affine(4, 2), Affine(2, 4))),
            "pair 1",
        ),
        (lambda: deep_autoencoder([5]), "at least two widths"),
        (lambda: deep_autoencoder([5, 4], ["tanh", "relu"]), "2 entries for 1 layers"),
        (lambda: deep_autoencoder([5, 4], observation="poisson"), "gaussian, bernoulli"),
        (lambda: small_stack().encode(torch.rand(2, 9)), r"\(2, 9\)"),
        (lambda: small_stack().encode(torch.rand(8)), r"\(batch, 8\)"),
        (lambda: small_stack().decode(torch.rand(2, 3)), r"\(batch, 4\)"),
        (lambda: small_stack().reconstruct(torch.rand(2, 8), 4), "level=4"),
        (lambda: Affine(3, 2, init="zeros"), "normal, orthogonal, uniform"),
        (lambda: Affine(3, 2, receives="spikes"), "real, bits"),
        (lambda: TiedPair(3, 2, visible="swish"), "softplus, sigmoid, tanh, relu, linear"),
    ],
)
def test_bad_architectures_and_widths_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_encode_decode_reconstruct_agree():
    stack = small_stack()
    x = torch.rand(4, 8)
    h = stack.encode(x)

    assert [tuple(a.shape) for a in h] == [(4, 8), (4, 6), (4, 5), (4, 4)]
    assert torch.equal(h[0], x)
    assert torch.equal(stack.reconstruct(x), stack.decode(h[3]))
    assert torch.equal(stack.reconstruct(x, 1), stack.pairs[0].g(h[1]))


def test_log_joint_is_the_sum_of_its_terms_and_of_the_joint_gaussian():
    stack = linear_stack([3, 2])
    pair = stack.pairs[0]
    h = torch.randn(5, 2).double()
    x = torch.randn(5, 3).double()
    terms = pair.p(h).log_prob(x).sum(-1) + stack.prior.log_prob(h)

    assert torch.allclose(stack.log_joint((x, h)), terms)

    w = pair.g.weight
    s2 = pair.observation.sigma**2
    cov = torch.cat(
        [torch.cat([w @ w.T + s2 * torch.eye(3), w], 1), torch.cat([w.T, torch.eye(2)], 1)]
    )
    mean = torch.cat([pair.g.bias, torch.zeros(2).double()])
    joint = torch.distributions.MultivariateNormal(mean, cov).log_prob(torch.cat([x, h], 1))

    assert torch.allclose(stack.log_joint((x, h)), joint)


# -- differences: s(a + e) - s(a) without cancellation --------------------------------------------

ACTIVATIONS_AS_NUMBERS = {
    "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
    "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
    "tanh": mpmath.tanh,
    "relu": lambda a: max(a, mpmath.mpf(0)),
    "linear": lambda a: a,
}


@pytest.mark.parametrize("receives", ["real", "bits"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
def test_difference_is_the_change_of_the_output(activation, receives, scale):
    layer = Affine(5, 3, activation, receives=receives).double()
    with torch.no_grad():
        layer.bias.normal_()

    h, d = torch.randn(2, 50, 5, dtype=torch.float64)
    change = layer.difference(h, scale * d)

    assert torch.allclose(
        change, layer(h + scale * d) - layer(h), rtol=1e-10, atol=1e-12 * max(scale, 1.0)
    )
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("step", [1e-13, 1e-6, 0.1, 3.0])
def test_difference_has_all_digits_of_a_reference_with_fifty(activation, step):
    a = torch.linspace(-4.7, 4.3, 37, dtype=torch.float64)
    for e in (step, -step):
        differences = DIFFERENCES[activation](a, torch.full_like(a, e))
        with mpmath.workdps(50):
            s = ACTIVATIONS_AS_NUMBERS[activation]
            exact = [
                float(s(mpmath.mpf(v) + mpmath.mpf(e)) - s(mpmath.mpf(v))) for v in a.tolist()
            ]
        assert differences.tolist() == pytest.approx(exact, rel=1e-10, abs=0)


@pytest.mark.parametrize("activation", ["softplus", "sigmoid", "tanh", "linear"])
def test_small_steps_keep_their_digits_in_single_precision(activation):
    layer = Affine(20, 30, activation)
    h = torch.randn(10, 20)
    d = 1e-6 * torch.randn(10, 20)
    double = copy.deepcopy(layer).double()

    exact = double(h.double() + d.double()) - double(h.double())
    error, plain = (
        (change - exact).norm() / exact.norm()
        for change in (layer.difference(h, d), layer(h + d) - layer(h))
    )

    assert error < 1e-5
    assert plain > 1e-2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_differences_are_finite_where_units_saturate_and_steps_are_large(activation):
    values = torch.tensor([0.0, 1e-3, 0.7, 1.0, 5.0, 20.0, 40.0, 100.0, 1000.0])
    values = torch.cat([-values, values])
    a, e = (v.flatten() for v in torch.meshgrid(values, values, indexing="ij"))
    s = ACTIVATIONS[activation]
    expected = s(a.double() + e.double()) - s(a.double())

    assert torch.allclose(DIFFERENCES[activation](a, e).double(), expected, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize(
    "pair",
    [
        lambda: Pair(MLP(4, [6], 3, "tanh"), MLP(3, [6], 4, "tanh")),
        lambda: TiedPair(4, 3, "tanh", "softplus"),
    ],
)
def test_other_maps_have_differences_too(pair):
    pair = pair().double()
    h, d = torch.randn(2, 7, 3, dtype=torch.float64)
    assert torch.allclose(change(pair.g, h, d), pair.g(h + d) - pair.g(h), atol=1e-12)


# -- initial weights, bits, tied weights ----------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(30, 50), (50, 30), (40, 40)])
def test_orthogonal_weights_have_orthonormal_rows_or_columns_times_the_gain(rows, columns):
    w = Affine(columns, rows, gain=0.7, init="orthogonal").weight.detach()
    gram = w.T @ w
    if rows <= columns:
        gram = w @ w.T

    assert torch.allclose(gram, 0.49 * torch.eye(min(rows, columns)), atol=1e-5)


@pytest.mark.parametrize(
    ("init", "gain", "variance"),
    [("normal", 0.5, 0.25 / 400), ("uniform", 2.0, 2 * 4.0 / 1300)],
)
def test_initial_weights_have_the_variance_of_their_law(init, gain, variance):
    """N(0, gain^2 / fan-in), or Glorot's."""
    w = Affine(400, 900, gain=gain, init=init).weight

    assert w.var().item() == pytest.approx(variance, rel=0.02)
    assert w.mean().item() == pytest.approx(0.0, abs=1e-3)
    if init == "uniform":
        assert w.abs().max().item() == pytest.approx((3 * variance) ** 0.5, rel=0.01)


def test_bits_are_one_where_the_input_is_positive_and_their_gradient_is_the_identity():
    layer = Affine(5, 2, "tanh", receives="bits").double()
    h = torch.tensor([[-2.0, -0.0, 0.0, 1e-30, 0.4]], dtype=torch.float64, requires_grad=True)
    bits = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)

    assert torch.equal(layer.receive(h), bits)
    assert torch.equal(layer(h), torch.tanh(bits @ layer.weight.T))

    layer(h).sum().backward()
    (through,) = torch.autograd.grad(
        torch.tanh(bits.requires_grad_() @ layer.weight.T).sum(), bits
    )

    assert torch.equal(h.grad, through)
    assert torch.equal(Affine(5, 2).receive(h), h)


def test_tied_pairs_hold_one_weight_that_both_maps_move():
    stack = Stack(TiedPair(6, 4, "sigmoid", "tanh", gain=1.5, init="normal"))
    pair = stack.pairs[0]
    x = torch.rand(3, 6)

    with torch.no_grad():
        pair.g.bias.normal_()

    assert sum(p.numel() for p in pair.parameters()) == 6 * 4 + 4 + 6

    h = pair.f(x)
    expected = torch.tanh(h @ pair.f.weight + pair.g.bias)
    assert torch.allclose(pair.g(h), expected, atol=1e-6)

    for loss in (pair.f(x).square().sum(), pair.g(h.detach()).square().sum()):
        (gradient,) = torch.autograd.grad(loss, pair.f.weight)
        assert gradient.abs().sum() > 0

    twin = copy.deepcopy(stack).double()
    with torch.no_grad():
        twin.pairs[0].f.weight.zero_()

    assert not twin.pairs[0].g.weight.any()
    assert pair.g.weight.any()


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stack(TiedPair(6, 4, "sigmoid", "tanh", gain=1.5, init="normal")),
        lambda: Stack(
            OptimizingPair(Affine(6, 4, "tanh"), Affine(4, 6), steps=7, lr=0.3, sparsity=0.01),
            Pair(Affine(4, 3, "tanh"), Affine(3, 4)),
        ),
        lambda: Stack(
            InvertiblePair(6, "svd", "tanh", observation=Gaussian(0.5)),
            InvertiblePair(6, "cholesky", "softplus"),
            Pair(Affine(6, 3, "tanh"), Affine(3, 6)),
        ),
    ],
    ids=["tied", "optimizing", "invertible"],
)
def test_a_stack_of_other_pairs_survives_its_file(tmp_path, make):
    stack = make()
    x = torch.rand(8, 6)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))

    stack.prior.fit(stack.encode(x)[-1].detach())
    again = load(save(stack, tmp_path / "model.safetensors"))

    assert describe(again) == describe(stack)
    assert [type(pair) for pair in again.pairs] == [type(pair) for pair in stack.pairs]
    assert all(torch.equal(a, b) for a, b in zip(again.encode(x), stack.encode(x), strict=True))
    assert torch.equal(again.reconstruct(x), stack.reconstruct(x))
