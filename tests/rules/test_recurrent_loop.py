"""Loops in time, against the gradient of the reconstruction error through all steps."""

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.layers.affine import Affine
from gendae.models.architectures import deep_autoencoder, recurrent_autoencoder
from gendae.models.recurrent import Cell, RecurrentPair
from gendae.models.stack import Stack
from gendae.rules.recurrent_loop import RecurrentLoop
from gendae.rules.targetprop import TargetPropRule
from tests.conftest import at
from tests.rules.test_recurrent import turning

STATE, WIDTH, STEPS = 6, 2, 5
CLEAN = [GaussianNoise(0.0), GaussianNoise(0.0)]


def orthogonal(masked=False):
    """States that are turned, and turned back: all feedback is exact."""
    return Stack(RecurrentPair(turning(STATE, WIDTH), STEPS, masked)).double()


def data(masked=False):
    x = torch.randn(7, STEPS, WIDTH + masked, generator=torch.Generator().manual_seed(1)).double()
    if masked:
        lengths = torch.tensor([5, 4, 3, 2, 1, 5, 3])
        x[..., 0] = (torch.arange(STEPS) < lengths[:, None]).double()
        x[..., 1:] *= x[..., :1]

    return x.flatten(1)


def rule(stack, **options):
    loop = RecurrentLoop(short=0.0, **options)
    return TargetPropRule(stack, loop, corruption=CLEAN)


def loss(stack, x, prior_weight=0.0):
    """The energy of x around what is told, and of the last state."""
    code = stack.pairs[0].f(x)
    energy = stack.pairs[0].observation.energy(x, stack.pairs[0].g(code)).mean()

    return energy + prior_weight * code.square().sum(1).mean() / 2.0


@pytest.mark.parametrize("masked", [False, True])
def test_with_exact_inverses_it_is_the_gradient_through_time(masked):
    stack = orthogonal(masked)
    x = data(masked)
    weights = {name: p for name, p in stack.named_parameters() if "bias" not in name}

    losses = rule(stack, prior_weight=0.2).losses((x,), at(0))
    ours = torch.autograd.grad(sum(losses.values()), list(weights.values()))
    true = torch.autograd.grad(loss_of_all(stack, x, masked), list(weights.values()))
    for name, mine, exact in zip(weights, ours, true, strict=True):
        assert torch.allclose(mine, exact, rtol=1e-9, atol=1e-12), name


def loss_of_all(stack, x, masked):
    """What is told of steps that are not there costs nothing, and the state stays as it is."""
    if not masked:
        return loss(stack, x, 0.2)

    cell = stack.pairs[0].cell
    steps = x.view(7, STEPS, -1)
    total = x.new_zeros(())
    for row in steps:
        row = row[row[:, 0] == 1.0, 1:]
        state = x.new_zeros(STATE)
        for value in row:
            state = cell.step(state, value)
        total = total + 0.1 * state.square().sum()
        for value in row.flip(0):
            total = total + (cell.g_input(state) - value).square().sum() / 2.0
            state = cell.g_state(state)

    return total / 7


def test_long_loops_start_where_they_are_told_to():
    assert RecurrentLoop().starts(5) == [(5, 1)]
    assert RecurrentLoop(every=2, horizon=3).starts(5) == [(5, 3), (3, 1), (1, 1)]

    stack = orthogonal()
    whole = rule(stack, every=2).losses((data(),), at(0))
    parts = [data()[:, : 2 * last] for last in (5, 3, 1)]
    each = []
    for last, part in zip((5, 3, 1), parts, strict=True):
        shorter = Stack(RecurrentPair(stack.pairs[0].cell, last)).double()
        pull = 0.01 if last == 5 else 0.0
        each.append(rule(shorter, prior_weight=pull).losses((part,), at(0)))
    for name, value in whole.items():
        assert torch.allclose(value, sum(losses[name] for losses in each) / 3), name


def test_an_exact_inverse_lacks_nothing():
    """States that hold the whole sequence, told without error: no map is asked to move."""
    f = Affine(4 + 2, 4)
    g_state = Affine(4, 4)
    g_input = Affine(4, 2)
    with torch.no_grad():  # a register that is shifted by one input at each step
        f.weight.zero_()
        f.weight[2:, :2] = torch.eye(2)
        f.weight[:2, 4:] = torch.eye(2)
        g_state.weight.zero_()
        g_state.weight[:2, 2:] = torch.eye(2)
        g_input.weight.copy_(torch.eye(4)[:2])
    stack = Stack(RecurrentPair(Cell(f, g_state, g_input), 2)).double()

    loop = RecurrentLoop(prior_weight=0.0)
    losses = TargetPropRule(stack, loop, corruption=CLEAN).losses(
        (torch.randn(5, 4).double(),), at(0)
    )
    assert all(value.abs() < 1e-12 for value in losses.values())


@pytest.mark.parametrize("difference", [True, False])
def test_no_gradient_crosses_a_step(difference):
    """Each map learns as if its input were a constant: one application, T times."""
    torch.manual_seed(0)
    stack = recurrent_autoencoder(WIDTH, STEPS, STATE, visible="linear").double()
    calls = []
    for layer in (stack.pairs[0].cell.f, stack.pairs[0].cell.g_state):
        layer.register_forward_hook(lambda m, args, out: calls.append((args[0], out)))

    rule(stack, difference=difference).losses((data(),), at(0))
    assert calls
    assert not any(given.requires_grad and given.grad_fn is not None for given, _ in calls)


def test_another_stack_is_refused():
    with pytest.raises(ValueError, match="a stack of one RecurrentPair"):
        TargetPropRule(deep_autoencoder([8, 4]), RecurrentLoop())
