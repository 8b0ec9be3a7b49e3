"""Sums taken forward in time, against the update that keeps the whole history."""

import tracemalloc

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.layers.residual import Residual
from gendae.models.recurrent import Cell
from gendae.rules.forward_sums import ForwardSums, fixed_point

STATE, WIDTH = 4, 3


def cell(activation="tanh"):
    torch.manual_seed(0)
    f = Affine(STATE + WIDTH, STATE, activation)
    back = Affine(STATE, STATE, activation, gain=0.5)
    torch.nn.init.normal_(back.bias)

    return Cell(f, back, Affine(STATE, WIDTH)).double()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "linear"])
def test_they_are_the_update_of_a_stored_history(activation):
    maps = cell(activation)
    x = torch.randn(50, 7, WIDTH).double()
    sums = ForwardSums(maps)
    states = [torch.zeros(7, STATE).double(), *(sums.step(row) for row in x)]

    target = fixed_point(maps, states[-1])[0]
    output = maps.step(torch.stack(states[:-1]).detach(), x)
    loss = (output - target).square().sum() / 2 / 7
    expected = torch.autograd.grad(loss, [maps.f.weight, maps.f.bias])

    for ours, exact in zip(sums.gradient(target), expected, strict=True):
        assert torch.allclose(ours, exact, rtol=1e-12, atol=1e-12 * exact.abs().max().item())


def test_the_fixed_point_does_not_depend_on_the_start():
    maps = cell()
    points = fixed_point(maps, torch.randn(20, STATE).double())

    assert torch.allclose(points, points[:1].expand_as(points), atol=1e-9)
    assert torch.allclose(maps.g_state(points), points, atol=1e-9)


def test_a_network_that_does_not_rest_is_named():
    maps = cell("linear")
    with torch.no_grad():
        maps.g_state.weight.copy_(2.0 * torch.eye(STATE))
    with pytest.raises(ValueError, match="has no fixed point"):
        fixed_point(maps, torch.ones(1, STATE).double(), most=50)


def test_memory_does_not_grow_with_time():
    peaks = []
    for steps in (100, 2000):
        sums = ForwardSums(cell())
        sums.step(torch.zeros(2, WIDTH).double())
        tracemalloc.start()
        tensors = [id(sums._slopes), id(sums._values)]
        for _ in range(steps):
            sums.step(torch.zeros(2, WIDTH).double())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert tensors == [id(sums._slopes), id(sums._values)]

    assert peaks[1] < 1.2 * peaks[0] + 20_000


def test_another_f_is_refused():
    maps = Cell(Residual(Affine(STATE + WIDTH, STATE)), Affine(STATE, STATE), Affine(STATE, WIDTH))
    with pytest.raises(ValueError, match="f is Residual"):
        ForwardSums(maps)
