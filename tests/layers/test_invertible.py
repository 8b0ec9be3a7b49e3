import copy
import math
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gendae.laws import Bernoulli
from gendae.layers.activations import RANGES
from gendae.layers.invertible import (
    FORMS,
    Inverse,
    InvertibleAffine,
    InvertiblePair,
    orthogonal,
)
from gendae.layers.pair import Pair
from gendae.registry import build, describe


def unitary(matrix):
    """The orthogonal factor, by Gram-Schmidt."""
    columns = []
    for column in matrix.T:
        rest = column - sum((column @ q) * q for q in columns)
        columns.append(rest / rest.norm())

    return torch.stack(columns, 1)


def dense(layer):
    """W as a matrix, by its definition."""
    if layer.form == "cholesky":
        lower = torch.tril(layer.lower, -1) + torch.diag(layer.log_diagonal.exp())
        return lower @ lower.T
    return unitary(layer.u) @ torch.diag(layer.log_diagonal.exp()) @ unitary(layer.v).T


def trained(layer, steps=30, lr=0.01, weight=1.0):
    """The layer after some updates towards random targets, with its penalty or without."""
    x = torch.rand(64, layer.features, dtype=layer.bias.dtype)
    target = torch.rand_like(x) * 0.8 + 0.1
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)

    for _ in range(steps):
        optimizer.zero_grad()
        (0.1 * (layer(x) - target).square().sum(1).mean() + weight * layer.penalty()).backward()
        optimizer.step()

    return layer


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", RANGES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_inverse_inverts_before_and_after_training(form, activation, dtype, tolerance, weight):
    layer = InvertibleAffine(12, form, activation).to(dtype)
    x = torch.rand(50, 12, dtype=dtype) - 0.5
    start = layer.bias.clone()

    for _ in range(2):
        assert torch.allclose(layer(x), layer.s(x @ dense(layer).T + layer.bias), atol=tolerance)
        assert (layer.inverse(layer(x)) - x).abs().max() < tolerance
        assert (layer(layer.inverse(layer(x))) - layer(x)).abs().max() < tolerance
        trained(layer, weight=weight)

    assert (layer.bias - start).abs().mean() > 1e-2  # it did train


@pytest.mark.parametrize("drift", [0.0, 0.1, 1.0, 30.0])
def test_u_and_v_are_orthogonal_wherever_their_free_matrices_drift(drift):
    """An approximate inverse by transposes had errors of 0.1 at a penalty of 2, of 50 at 18."""
    layer = InvertibleAffine(12, "svd").double()
    start = dense(layer)
    with torch.no_grad():
        for free in (layer.u, layer.v):
            free += drift * torch.randn_like(free)

    x = torch.rand(50, 12, dtype=torch.float64) - 0.5
    identity = torch.eye(12, dtype=torch.float64)

    assert (layer.inverse(layer(x)) - x).abs().max() < 1e-12
    for free in (layer.u, layer.v):
        q = orthogonal(free)
        assert torch.allclose(q.T @ q, identity, atol=1e-13)
        assert torch.allclose(q, unitary(free), atol=1e-10)

    if drift == 0.0:  # files of models that were orthogonal but for rounding hold the same map
        old = layer.u @ torch.diag(layer.log_diagonal.exp()) @ layer.v.T
        assert torch.allclose(start, old, atol=1e-6)


def test_the_penalty_keeps_free_matrices_near_their_factors_which_alone_matter():
    with_penalty, without = (InvertibleAffine(6, "svd", "linear").double() for _ in range(2))
    trained(with_penalty, steps=200)
    trained(without, steps=200, weight=0.0)

    assert with_penalty.penalty() < 0.01
    assert without.penalty() > 0.1

    by_hand = sum((m.T @ m - torch.eye(6)).norm() ** 2 for m in (without.u, without.v))
    assert torch.allclose(without.penalty(), by_hand)
    assert InvertibleAffine(6, "cholesky").penalty() == 0

    x = torch.rand(40, 6, dtype=torch.float64)
    before = without(x)
    stretch = torch.rand(6, 6, dtype=torch.float64).triu() + torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        without.u.copy_(without.u @ stretch)
        without.v.copy_(orthogonal(without.v))

    assert torch.allclose(without(x), before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", RANGES)
def test_volumes_are_those_of_the_jacobian(form, activation):
    layer = trained(InvertibleAffine(5, form, activation).double(), lr=0.05)
    x = torch.randn(4, 5, dtype=torch.float64)

    of_weights = torch.linalg.slogdet(dense(layer)).logabsdet
    jacobians = torch.vmap(torch.func.jacrev(layer))(x)
    assert torch.allclose(layer.log_det_of_weights(), of_weights)
    assert torch.allclose(layer.log_det(x), torch.linalg.slogdet(jacobians).logabsdet)

    far = torch.full((1, 5), 300.0, dtype=torch.float64)  # where s' underflows
    assert torch.isfinite(layer.log_det(far)).all()
    assert torch.isfinite(layer.log_det(-far)).all()


class Operations(TorchDispatchMode):
    """Names of the operations that ran, and the shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.products = []

    @property
    def names(self):
        return set(self.calls)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1]
        self.calls.append(name.split(".")[0])
        if name.startswith(("mm", "addmm", "bmm")):
            self.products.append([tuple(a.shape) for a in args if isinstance(a, torch.Tensor)])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
def test_up_and_down_cost_the_square_of_the_width_per_example(form):
    """What is cubic is done once for a batch, and not at all for L L'."""
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
        "linalg_cholesky_ex",
    }
    if form == "cholesky":
        cubic.add("linalg_qr")

    for use in ("forward", "invert"):
        flops = []
        for width in (20, 40):
            layer = InvertibleAffine(width, form)
            x = torch.rand(1, width) - 0.5

            with torch.no_grad(), Operations() as seen:
                getattr(layer, use)(x)

            assert not seen.names & cubic
            assert seen.calls.count("linalg_qr") == (2 if form == "svd" else 0)
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

    old = build({**describe(pair), "refinements": 7})  # as files of 0.1 say
    assert describe(old) == describe(pair)

    wide = copy.deepcopy(pair).to(torch.double)
    assert (wide.g(wide.f(x.double())) - x.double()).abs().max() < 1e-12


def test_a_loss_of_g_reaches_the_parameters_of_f():
    pair = InvertiblePair(5)
    pair.observation.energy(torch.rand(3, 5), pair.g(torch.rand(3, 5) - 0.5)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pair.parameters())
