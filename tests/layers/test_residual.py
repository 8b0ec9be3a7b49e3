"""Residual steps: what they carry, and their differences."""

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.layers.residual import Residual
from gendae.layers.wrapped import Wrapped


@pytest.mark.parametrize("given", [4, 7])
def test_the_first_units_are_carried(given):
    branch = Affine(given, 4, "tanh").double()
    layer = Residual(branch, scale=0.25)
    h = torch.randn(5, given).double()

    assert torch.allclose(layer(h), h[:, :4] + 0.25 * branch(h), rtol=1e-15)


def test_differences_do_not_cancel():
    """A step of 1e-12 keeps all its digits, as it does not in the difference of two outputs."""
    layer = Residual(Affine(6, 4, "tanh")).double()
    h = torch.randn(5, 6).double()
    step = torch.randn(5, 6).double()

    whole = layer(h + step) - layer(h)
    assert torch.allclose(layer.difference(h, step), whole, rtol=1e-12)

    jacobian = torch.func.vmap(torch.func.jacrev(layer))(h)
    small = torch.einsum("bij,bj->bi", jacobian, 1e-12 * step)
    assert torch.allclose(layer.difference(h, 1e-12 * step), small, rtol=1e-9)


def test_a_branch_of_ones_own():
    layer = Residual(Wrapped(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU())), 0.5)
    h = torch.randn(3, 4)
    step = torch.randn(3, 4)

    assert torch.allclose(layer.difference(h, step), layer(h + step) - layer(h), atol=1e-6)


def test_a_branch_that_gives_more_than_it_takes_is_refused():
    with pytest.raises(ValueError, match="3 -> 4 units; what it gives is added"):
        Residual(Affine(3, 4))
    with pytest.raises(ValueError, match="scale=0.0: a number > 0.0 is needed"):
        Residual(Affine(4, 4), scale=0.0)
