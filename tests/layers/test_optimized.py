import pytest
import torch

from gendae.laws import Bernoulli, Discrete, Gaussian
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.optimized import OptimizingPair, optimize_code
from gendae.layers.pair import Pair


def linear_pair(visible=9, hidden=4, sigma=0.6):
    pair = Pair(Affine(visible, hidden), Affine(hidden, visible), Gaussian(sigma)).double()
    with torch.no_grad():
        pair.g.bias.normal_()
    return pair


def least_squares(pair, x):
    centred = x - pair.g.bias.detach()
    return torch.linalg.lstsq(pair.g.weight.detach(), centred.T).solution.T


def test_a_linear_decoder_gives_the_least_squares_code():
    pair = linear_pair()
    x = torch.randn(20, 9, dtype=torch.float64)
    h = optimize_code(pair, x, pair.f(x), steps=300)

    assert torch.allclose(h, least_squares(pair, x), atol=1e-6)
    assert not torch.allclose(pair.f(x), h, atol=0.1)


def test_an_orthonormal_decoder_gives_the_soft_thresholded_code():
    pair = linear_pair(6, 6, sigma=0.5)
    x = torch.randn(30, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.nn.init.orthogonal_(pair.g.weight)
        projected = (x - pair.g.bias) @ pair.g.weight

    h = optimize_code(pair, x, pair.f(x), steps=200, sparsity=2.0)
    expected = projected.sign() * (projected.abs() - 2.0 * 0.25).clamp(min=0.0)

    assert torch.allclose(h, expected, atol=1e-8)
    assert 0.1 < (h == 0).double().mean() < 0.9


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [("sigmoid", 0.0, 1.0), ("tanh", -1.0, 1.0), ("softplus", 0.0, None), ("relu", 0.0, None)],
)
def test_codes_stay_in_the_range_of_the_encoder(activation, low, high):
    pair = Pair(Affine(6, 4, activation), Affine(4, 6))
    x = 5 * torch.randn(20, 6)
    h = optimize_code(pair, x, pair.f(x), steps=30)

    assert h.min() == low
    assert high is None or h.max() == high


@pytest.mark.parametrize("law", [Gaussian(0.3), Bernoulli()])
def test_no_example_is_reconstructed_worse_than_from_the_guess(law):
    pair = OptimizingPair(MLP(8, [16], 5, "tanh"), MLP(5, [16], 8, "sigmoid"), law, steps=15)
    x = torch.rand(40, 8)
    before = law.energy(x, pair.g(pair.f(x)))
    after = law.energy(x, pair.decode(pair.encode(x)))
    more = law.energy(x, pair.g(optimize_code(pair, x, pair.encode(x), steps=15)))

    assert (after <= before).all()
    assert after.mean() < 0.95 * before.mean()
    assert (more <= after).all()


def test_a_far_too_long_first_step_does_no_harm():
    pair = linear_pair()
    x = torch.randn(20, 9, dtype=torch.float64)
    start = pair.f(x)

    few = optimize_code(pair, x, start, steps=3, lr=1e6)
    many = optimize_code(pair, x, start, steps=300, lr=1e6)

    assert torch.equal(few, start)  # three steps, all taken back
    assert torch.allclose(many, least_squares(pair, x), atol=1e-6)


def test_the_code_is_a_constant_and_no_parameter_gets_a_gradient():
    pair = OptimizingPair(Affine(6, 4, "tanh"), Affine(4, 6))
    x = torch.rand(5, 6, requires_grad=True)
    h = pair.encode(x)

    assert not h.requires_grad
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in pair.parameters())

    pair.recognition.energy(h, pair.f(x.detach())).mean().backward()  # it serves f as a target
    assert pair.f.weight.grad.abs().sum() > 0
    assert pair.g.weight.grad is None


def test_it_works_where_autograd_is_off():
    pair = OptimizingPair(Affine(6, 4, "tanh"), Affine(4, 6))
    x = torch.rand(5, 6)
    expected = pair.encode(x)

    with torch.no_grad():
        assert torch.equal(pair.encode(x), expected)
    with torch.inference_mode():
        assert torch.equal(pair.encode(x * 1.0), expected)


def test_f_learns_what_the_optimisation_finds():
    pair = OptimizingPair(Affine(6, 3), Affine(3, 6), steps=30)
    x = torch.randn(200, 6)
    target = pair.encode(x)
    optimizer = torch.optim.Adam(pair.f.parameters(), lr=0.05)

    def gap():
        return (pair.f(x) - target).square().sum(1).mean()

    start = gap().item()
    for _ in range(150):
        optimizer.zero_grad()
        gap().backward()
        optimizer.step()

    assert gap() < 0.05 * start


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p, x, h: optimize_code(p, x[:, :3], h), r"x has shape .*\(batch, 9\)"),
        (lambda p, x, h: optimize_code(p, x, h[:, :3]), r"h_start has shape .*\(batch, 4\)"),
        (lambda p, x, h: optimize_code(p, x, h[:2]), "h_start has 2 rows but x has 5"),
        (lambda p, x, h: optimize_code(p, x, h, steps=-1), "steps=-1"),
        (lambda p, x, h: optimize_code(p, x, h, lr=0.0), "lr=0.0"),
        (lambda p, x, h: optimize_code(p, x, h, sparsity=-1.0), "sparsity=-1.0"),
        (
            lambda p, x, h: OptimizingPair(
                Affine(9, 4, "tanh"), Affine(4, 9), recognition=Discrete("sign")
            ),
            "real units",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, words):
    pair = linear_pair()
    x = torch.randn(5, 9, dtype=torch.float64)
    with pytest.raises(ValueError, match=words) as error:
        make(pair, x, pair.f(x))
    assert "\n" not in str(error.value)
