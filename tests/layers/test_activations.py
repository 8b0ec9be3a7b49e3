"""Activations: quick forms against plain ones."""

import pytest
import torch

from gendae.layers import activations
from gendae.layers.activations import DIFFERENCES, IN_PLACE, MANY, tanh


@pytest.fixture
def quickly(monkeypatch):
    """The detour for any number of elements."""
    monkeypatch.setattr(activations, "MANY", 0)


def values():
    return torch.cat([torch.linspace(-12, 12, 50_001), torch.linspace(-1e-2, 1e-2, 50_001)])


def test_tanh_errs_by_rounding_beside_1_with_its_gradient():
    a = values().requires_grad_()
    exact = torch.tanh(a.detach().double())
    y = tanh(a)
    y.sum().backward()

    assert len(a) >= MANY
    assert not torch.equal(y, torch.tanh(a))  # it is the detour that is looked at
    assert (y.double() - exact).abs().max() < 2e-7
    assert (a.grad.double() - (1.0 - exact.square())).abs().max() < 5e-7
    assert torch.equal(IN_PLACE["tanh"](values()), y)
    assert torch.equal(tanh(values()), y)


def test_tanh_of_extremes(quickly):
    a = torch.tensor([0.0, -0.0, 50.0, -50.0, torch.inf, -torch.inf, torch.nan])
    y = tanh(a)
    assert y[:6].tolist() == [0.0, 0.0, 1.0, -1.0, 1.0, -1.0]
    assert y[6].isnan()


@pytest.mark.parametrize("a", [torch.randn(MANY, dtype=torch.double), torch.randn(MANY - 1)])
def test_double_precision_and_few_elements_are_torch_s(a):
    assert torch.equal(tanh(a), torch.tanh(a))


def test_tanh_under_vmap_and_second_gradients(quickly):
    a = torch.randn(5, 3)
    jacobians = torch.func.vmap(torch.func.jacrev(tanh))(a)
    assert torch.allclose(jacobians, torch.diag_embed(1.0 - torch.tanh(a).square()), atol=1e-6)

    a.requires_grad_()
    (slope,) = torch.autograd.grad(tanh(a).sum(), a, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), a)
    y = torch.tanh(a)
    assert torch.allclose(curve, -2.0 * y * (1.0 - y.square()), atol=1e-5)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_from_the_known_output_is_the_same(name):
    torch.manual_seed(0)
    a = 3.0 * torch.randn(1000, dtype=torch.double)
    e = torch.randn(1000, dtype=torch.double)
    y = activations.ACTIVATIONS[name](a)

    assert torch.allclose(DIFFERENCES[name](a, e, y), DIFFERENCES[name](a, e), rtol=1e-9)
