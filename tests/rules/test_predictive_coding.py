"""Predictive coding: its equilibrium as a linear solve, its energy, its limit."""

from itertools import pairwise

import pytest
import torch

import gendae
from gendae.models.classifier import Classifier
from gendae.rules.predictive_coding import PredictiveCodingRule
from tests.rules.test_supervised import batch, cosine, gradients, network, true_gradients

SIZES = (7, 6, 5, 4)


def linear_equilibrium(stack, x, y, variances):
    """h_1 .. h_L where all slopes of F are 0: one linear system, written as one matrix."""
    weights = [f.weight.detach() for f in stack.encoders]
    biases = [f.bias.detach() for f in stack.encoders]
    widths = [len(w) for w in weights]
    costs = [*(1.0 / v for v in variances), 1.0]

    starts = [0]
    for width in widths[:-1]:
        starts.append(starts[-1] + width)
    total = starts[-1]
    where = [slice(a, b) for a, b in pairwise(starts)]

    matrix = torch.zeros(total, total, dtype=x.dtype)
    right = torch.zeros(len(x), total, dtype=x.dtype)
    for level, at in enumerate(where):
        above = weights[level + 1]
        cost = costs[level + 1]
        matrix[at, at] = (
            costs[level] * torch.eye(widths[level], dtype=x.dtype) + cost * above.T @ above
        )
        right[:, at] += costs[level] * biases[level] - cost * biases[level + 1] @ above

        if level == 0:
            right[:, at] += costs[0] * x @ weights[0].T
        else:
            below = where[level - 1]
            matrix[at, below] = -costs[level] * weights[level]
            matrix[below, at] = -costs[level] * weights[level].T

        if level == len(where) - 1:
            right[:, at] += y @ above

    solved = torch.linalg.solve(matrix, right.T).T
    return [x, *(solved[:, at] for at in where)]


def test_a_linear_network_settles_at_the_linear_solve_and_learns_there():
    """And dW_l = -(e_l / s_l^2) h_{l-1}'."""
    stack = network(SIZES, "linear")
    stack = Classifier(*stack.pairs, output=stack.output, predicts="values")
    x, _ = batch()
    y = torch.randn(len(x), 4, dtype=torch.float64)
    variances = [0.5, 1.5, 0.8]
    rule = PredictiveCodingRule(stack, steps=400, delta=0.3, variance=variances)
    expected = linear_equilibrium(stack, x, y, variances)

    for mine, theirs in zip(rule.relax(x, y), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)

    targets = [*expected[1:], y]
    found = gradients(rule, (x, y))
    for level, f in enumerate(stack.encoders):
        error = (targets[level] - f(expected[level]).detach()) / [*variances, 1.0][level]
        weight = -error.T @ expected[level] / len(x)
        torch.testing.assert_close(found[level][0], weight, rtol=0, atol=1e-10)
        torch.testing.assert_close(found[level][1], -error.mean(0), rtol=0, atol=1e-10)


def with_an_edge():
    """Beyond it, where steps lead, nothing is defined."""
    torch.manual_seed(2)
    stack = network(SIZES, "linear", gain=1.0)
    f = stack.pairs[1].f
    f.forward = lambda h: torch.where((a := f.preactivation(h)) > 1.6, torch.nan, a)
    return stack


NETWORKS = {
    "edge": with_an_edge,
    "tanh": lambda: network(SIZES),
    "relu": lambda: network(SIZES, "relu"),
    "steep": lambda: network(SIZES, "softplus", gain=5.0),
    "LeNet": lambda: gendae.lenet((1, 8, 8), [3], 3, [1], sizes=[6], classes=4).double(),
}


@pytest.mark.parametrize("delta", [0.1, 1.0])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_energy_never_rises(make, delta):
    """However long the first step; it is F of the h beside it, and what `losses` add up to."""
    stack = make()
    x, y = batch(width=stack.sizes[0])
    rule = PredictiveCodingRule(stack, steps=100, delta=delta, variance=0.5)
    path = list(rule.relaxation(x, y))
    energies = torch.stack([energy for _, energy in path])

    assert len(path) == 101
    assert bool((energies.diff(dim=0) <= 2e-14 * energies[:-1]).all())
    assert energies[-1].mean() < 0.98 * energies[0].mean()

    with torch.no_grad():
        for h, energy in (path[0], path[-1]):
            again = torch.nn.functional.cross_entropy(stack.output(h[-1]), y, reduction="none")
            for f, below, here in zip(stack.encoders[:-1], h[:-1], h[1:], strict=True):
                again = again + (here - f(below)).square().sum(1)
            torch.testing.assert_close(energy, again, rtol=1e-12, atol=0)

    loss = sum(rule.losses((x, y)).values()).item()
    assert loss == pytest.approx(energies[-1].mean().item(), rel=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_cheap_labels_give_back_propagation(activation):
    """Errors of the gradient fall as s^2 does, whatever the layers' shares of it."""
    stack = network((7, 6, 5), activation)
    data = batch(6)
    true = true_gradients(stack, data)

    errors = []
    for scale in (1e-3, 1e-4):
        found = gradients(PredictiveCodingRule(stack, 150, 0.4, [scale, 1.2 * scale]), data)
        both = list(zip(found, true, strict=True))
        errors.append([(a[0] - b[0]).norm() / b[0].norm() for a, b in both])

    for coarse, fine in zip(*errors, strict=True):
        assert coarse < 0.1 and 9 < coarse / fine < 11
    assert all(cosine(a[0], b[0]) > 1 - 1e-7 for a, b in both)


@pytest.mark.parametrize(("steps", "delta", "tolerance"), [(3, 1.0, 1e-13), (120, 0.3, 1e-10)])
def test_fixed_predictions_give_back_propagation(steps, delta, tolerance):
    """After L whole steps, or in the limit of small ones; not a step earlier."""
    stack = network(SIZES, "softplus")
    data = batch()
    options = {"delta": delta, "variance": [0.5, 1.5, 0.8], "fixed_prediction": True}
    found = gradients(PredictiveCodingRule(stack, steps, **options), data)

    for mine, theirs in zip(found, true_gradients(stack, data), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)

    early = gradients(PredictiveCodingRule(stack, 2, **options), data)
    assert torch.equal(early[0][0], torch.zeros_like(early[0][0]))


@pytest.mark.parametrize("fixed", [False, True])
def test_small_errors_keep_their_digits_under_autocast_and_losses_need_no_gradient(fixed):
    rule = PredictiveCodingRule(network(SIZES).float(), variance=1e-4, fixed_prediction=fixed)
    x, y = batch()
    data = (x.float(), y)

    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = sum(rule.losses(data).values())
        found.append(torch.autograd.grad(loss, [f.weight for f in rule.stack.encoders]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)

    losses = rule.losses(data)
    with torch.no_grad():
        torch.testing.assert_close(rule.losses(data), losses, rtol=0.0, atol=0.0)
