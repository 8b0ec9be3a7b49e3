import copy
import math
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gendae.laws import Bernoulli
from gendae.layers.activations import RANGES
from gendae.layers.invertible import FORMS, Inverse, InvertibleAffine, InvertiblePair
from gendae.layers.pair import Pair


def dense(layer):
    """W as a matrix, by its definition."""
    if layer.form == "cholesky":
        lower = torch.tril(layer.lower, -1) + torch.diag(layer.log_diagonal.exp())
        return lower @ lower.T
    return layer.u @ torch.diag(layer.log_diagonal.exp()) @ layer.v.T


def trained(layer, steps=30, lr=0.01):
    """The layer after some updates towards random targets, with its penalty."""
    x = torch.rand(64, layer.features, dtype=layer.bias.dtype)
    target = torch.rand_like(x) * 0.8 + 0.1
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)

    for _ in range(steps):
        optimizer.zero_grad()
        (0.1 * (layer(x) - target).square().sum(1).mean() + layer.penalty()).backward()
        optimizer.step()

    return layer


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", RANGES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_inverse_inverts_before_and_after_training(form, activation, dtype, tolerance):
    layer = InvertibleAffine(12, form, activation, refinements=12).to(dtype)
    x = torch.rand(50, 12, dtype=dtype) - 0.5
    start = layer.bias.clone()

    for _ in range(2):
        assert torch.allclose(layer(x), layer.s(x @ dense(layer).T + layer.bias), atol=tolerance)
        assert (layer.inverse(layer(x)) - x).abs().max() < tolerance
        assert (layer(layer.inverse(layer(x))) - layer(x)).abs().max() < tolerance
        trained(layer)

    assert (layer.bias - start).abs().min() > 1e-3  # it did train


def test_refinement_divides_the_error_by_a_constant():
    layer = trained(InvertibleAffine(8, "svd", "linear").double(), lr=0.02)
    x = torch.randn(20, 8, dtype=torch.float64)

    errors = []
    for layer.refinements in range(5):
        errors.append((layer.inverse(layer(x)) - x).norm().item())

    rate = layer.penalty().item() ** 0.5
    assert 1e-4 < rate < 0.5
    assert errors[0] > 1e-4
    assert errors[4] < errors[0] * 20 * rate**4


def test_penalty_keeps_u_and_v_near_orthogonal():
    with_penalty, without = (InvertibleAffine(6, "svd", "linear") for _ in range(2))
    x = torch.rand(40, 6)
    target = torch.rand(40, 6)

    for layer, weight in ((with_penalty, 1.0), (without, 0.0)):
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            ((layer(x) - target).square().mean() + weight * layer.penalty()).backward()
            optimizer.step()

    assert with_penalty.penalty() < 0.01
    assert without.penalty() > 0.1

    by_hand = sum((m.T @ m - torch.eye(6)).norm() ** 2 for m in (without.u, without.v))
    assert torch.allclose(without.penalty(), by_hand)
    assert InvertibleAffine(6, "cholesky").penalty() == 0


class Operations(TorchDispatchMode):
    """Names of the operations that ran, and the shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.names = set()
        self.products = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1]
        self.names.add(name.split(".")[0])
        if name.startswith(("mm", "addmm", "bmm")):
            self.products.append([tuple(a.shape) for a in args if isinstance(a, torch.Tensor)])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
def test_up_and_down_cost_the_square_of_the_width_per_example(form):
    cubic = {
        "linalg_inv_ex",
        "linalg_solve_ex",
        "_linalg_solve_ex",
        "linalg_lu_factor_ex",
        "inverse",
        "linalg_lu",
        "linalg_lstsq",
        "linalg_pinv",
        "_linalg_svd",
        "linalg_qr",
        "linalg_cholesky_ex",
    }
    for use in ("forward", "invert"):
        flops = []
        for width in (20, 40):
            layer = InvertibleAffine(width, form)
            x = torch.rand(1, width) - 0.5

            with torch.no_grad(), Operations() as seen:
                getattr(layer, use)(x)

            assert not seen.names & cubic
            assert all(
                min(shape[0] for shape in shapes if len(shape) == 2) == 1
                for shapes in seen.products
            ), "a product of two d x d matrices"

            with FlopCounterMode(display=False) as counter:
                getattr(layer, use)(x)

            flops.append(counter.get_total_flops())

        assert flops[1] == 4 * flops[0]

    assert seen.names & {"linalg_solve_triangular"} or form == "svd"


@pytest.mark.parametrize("form", FORMS)
def test_gradients_agree_with_finite_differences_up_and_down(form):
    layer = InvertibleAffine(3, form, "tanh").double()
    x = (torch.rand(2, 3, dtype=torch.float64) - 0.5).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())

    class Down(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, h):
            return self.layer.invert(h)

    def up(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    def down(h, *values):
        named = {f"layer.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Down(), named, (h,))

    assert torch.autograd.gradcheck(up, (x, *values))
    assert torch.autograd.gradcheck(down, (x, *values))


@pytest.mark.parametrize(
    ("activation", "bad"),
    [
        ("tanh", 1.0),
        ("tanh", -1.5),
        ("sigmoid", 0.0),
        ("sigmoid", 1.2),
        ("softplus", -0.1),
        ("linear", float("nan")),
    ],
)
def test_values_out_of_range_are_refused_by_inverse_and_clamped_by_g(activation, bad):
    pair = InvertiblePair(4, activation=activation)
    h = torch.full((2, 4), 0.5)
    h[0, 0] = bad

    with pytest.raises(ValueError, match="clamp h") as error:
        pair.f.inverse(h)
    assert "\n" not in str(error.value)
    assert f"{bad:g}"[:3] in str(error.value)
    if not math.isnan(bad):
        assert torch.isfinite(pair.g(h)).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InvertibleAffine(4, activation="relu"), "tanh, sigmoid, softplus, linear"),
        (lambda: InvertibleAffine(4, form="lu"), "cholesky, svd"),
        (lambda: InvertibleAffine(4, out_features=5), "out_features=5 differs from features=4"),
        (lambda: InvertibleAffine(0), "features=0"),
        (lambda: InvertibleAffine(4, refinements=-1), "refinements=-1"),
        (lambda: InvertiblePair(4, observation=Bernoulli()), "sigmoid"),
        (lambda: InvertibleAffine(4).inverse(torch.zeros(2, 3)), r"\(batch, 4\)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_the_pair_holds_its_parameters_once_and_its_copies_share_their_own(form):
    pair = InvertiblePair(5, form)
    assert not [name for name in pair.state_dict() if name.startswith("g")]
    assert len(list(pair.parameters())) == len(list(pair.f.parameters()))

    x = torch.rand(3, 5)
    plain = Pair(pair.f, Inverse(pair.f))  # which can share the layer as well
    assert torch.equal(plain.g(pair.f(x)), pair.g(pair.f(x)))

    for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        with torch.no_grad():
            other.f.bias += 1.0

        assert torch.allclose(other.g(other.f(x)), x, atol=1e-5)
        assert torch.allclose(pair.g(pair.f(x)), x, atol=1e-5)
        assert not torch.equal(other.f.bias, pair.f.bias)

    wide = copy.deepcopy(pair).to(torch.double)
    assert (wide.g(wide.f(x.double())) - x.double()).abs().max() < 1e-12


def test_a_loss_of_g_reaches_the_parameters_of_f():
    pair = InvertiblePair(5)
    pair.observation.energy(torch.rand(3, 5), pair.g(torch.rand(3, 5) - 0.5)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pair.parameters())
