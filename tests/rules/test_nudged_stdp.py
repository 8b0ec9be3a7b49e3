"""STDP while a label nudges the top: its sum written out, and the limit of a weak nudge."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from gendae.layers.activations import ACTIVATIONS
from gendae.rules.hebbian import GeneRecRule
from gendae.rules.nudged_stdp import NudgedSTDPRule, softmax_difference
from tests.rules.test_supervised import SLOPES, batch, cosine, gradients, network, true_gradients

SIZES = (7, 6, 5, 8)


def nudged_phase(rule, x, y):
    """h_1 .. h_M at all times of the nudged phase, activities themselves, in the same order."""
    f = rule.stack.encoders
    top = len(f)
    label = F.one_hot(y, rule.stack.classes).double()
    h, _ = rule.minus(x)
    h = list(h)
    free = h[top]
    times = [list(h)]

    def update(level):
        a = f[level - 1].preactivation(h[level - 1])
        if level == top:
            h[top] = (1 - rule.nudge) * torch.softmax(a, 1) + rule.nudge * label
        else:
            h[level] = f[level - 1].s(a + rule.gamma * h[level + 1] @ f[level].weight)

    h[top] = (1 - rule.nudge) * free + rule.nudge * label
    times.append(list(h))
    with torch.no_grad():
        for _ in range(rule.sweeps):
            for level in (*range(top - 1, 0, -1), *range(2, top + 1)):
                update(level)
            times.append(list(h))

    return times


@pytest.mark.parametrize("activation", SLOPES)
def test_the_update_is_the_sum_of_changes_times_the_rates_before_the_synapse(activation):
    stack = network(SIZES, activation)
    x, y = batch()
    rule = NudgedSTDPRule(stack, nudge=0.7, gamma=0.3, sweeps=40)
    times = nudged_phase(rule, x, y)
    found = gradients(rule, (x, y))

    for level, (weight, bias) in enumerate(found, 1):
        expected = torch.zeros_like(weight)
        for now, then in pairwise(times):
            expected -= (then[level] - now[level]).T @ now[level - 1].detach()

        scale = len(x) * rule.nudge * rule.gamma ** (4 - level)
        torch.testing.assert_close(weight, expected / scale, rtol=1e-7, atol=1e-10)
        change = (times[0][level] - times[-1][level]).sum(0)
        torch.testing.assert_close(bias, change / scale, rtol=1e-7, atol=1e-10)


def gradients_of_free_phase(stack, data, gamma, sweeps=200):
    """Autograd through the settling of the free phase, by the forward weights."""
    x, y = data
    f = stack.encoders
    back = [layer.weight.detach().T.clone() for layer in f]
    h = [x, *(x.new_zeros(len(x), layer.out_features) for layer in f)]
    for _ in range(sweeps):
        a = [layer.preactivation(below) for layer, below in zip(f, h, strict=False)]
        for level in range(1, len(f)):
            a[level - 1] = a[level - 1] + gamma * h[level + 1] @ back[level].T
        middle = [ACTIVATIONS[layer.activation](b) for layer, b in zip(f[:-1], a, strict=False)]
        h = [x, *middle, a[-1].softmax(1)]

    loss = F.nll_loss(h[-1].log(), y)
    return torch.autograd.grad(loss, [layer.weight for layer in f])


@pytest.mark.parametrize("activation", SLOPES)
def test_a_weak_nudge_gives_back_propagation_through_the_free_phase(activation):
    """For a feedback that is not weak: cosines tend to 1, lengths are equal."""
    stack = network(SIZES, activation)
    data = batch()
    exact = gradients_of_free_phase(stack, data, gamma=0.3)

    apart = []
    for nudge in (0.1, 0.01, 1e-6):
        found = gradients(NudgedSTDPRule(stack, nudge, gamma=0.3, sweeps=60), data)
        apart.append([1 - cosine(a[0], b) for a, b in zip(found, exact, strict=True)])

    for coarse, fine, least in zip(*apart, strict=True):
        assert fine < coarse / 50 or fine < 1e-9  # as the square of the nudge
        assert least < 1e-10
    for (mine, _), theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_where_feedback_is_weak_too_it_is_that_of_the_feed_forward_network():
    stack = network(SIZES)
    data = batch()
    found = gradients(NudgedSTDPRule(stack, nudge=1e-6, gamma=1e-5), data)
    for (mine, _), (theirs, _) in zip(found, true_gradients(stack, data), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_a_clamped_label_and_rates_of_the_free_phase_are_generec():
    """Of the output layer, whose rates before it are those of the whole way."""
    stack = network((7, 6))
    data = batch()
    mine = gradients(NudgedSTDPRule(stack, nudge=1.0), data)
    theirs = gradients(GeneRecRule(stack), data)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [1e-8, 1.0, 100.0])
def test_the_difference_of_two_softmaxes_keeps_its_digits(size):
    a = torch.randn(5, 4, dtype=torch.float64)
    step = size * torch.randn(5, 4, dtype=torch.float64)
    small = softmax_difference(a.float().softmax(1), step.float())
    exact = softmax_difference(a.softmax(1), step)

    if size >= 1.0:
        expected = (a + step).softmax(1) - a.softmax(1)
        torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(small.double(), exact, rtol=1e-4, atol=1e-6 * min(size, 1.0))


@pytest.mark.parametrize("nudge", [0, -0.1, 1.5, "much"])
def test_refusals(nudge):
    with pytest.raises(ValueError, match="nudge="):
        NudgedSTDPRule(network(), nudge=nudge)
