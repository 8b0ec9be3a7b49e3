"""GeneRec and contrastive Hebbian learning against independent fixed points, and their limits."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from gendae.rules.backprop import FeedbackAlignmentRule
from gendae.rules.hebbian import GeneRecRule
from tests.rules.test_supervised import (
    SLOPES,
    TWO_PHASES,
    batch,
    cosine,
    gradients,
    network,
    true_gradients,
)

two_phases = pytest.mark.parametrize("rule", TWO_PHASES, ids=lambda rule: rule.__name__)


def fixed_point(stack, feedback, x, gamma, label=None):
    """The phase written out, all layers at once, many times over."""
    f = stack.encoders
    top = len(stack.encoders)

    h = [x, *(x.new_zeros(len(x), layer.out_features) for layer in f)]
    with torch.no_grad():
        for _ in range(300):
            new = [x, *(layer.preactivation(h[level]) for level, layer in enumerate(f))]
            for level in range(1, top):
                new[level] = f[level - 1].s(
                    new[level] + gamma * h[level + 1] @ feedback[level + 1].T
                )
            new[top] = torch.softmax(new[top], 1) if label is None else label
            h = new

    return h


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation", SLOPES)
@two_phases
def test_two_phase_updates_as_printed(rule, activation, symmetric):
    """Eq. 1.13 and 1.14 as outer products at independent fixed points, divided by gamma^(M-l)."""
    stack = network((7, 6, 5, 8), activation)
    x, y = batch()
    gamma = 0.1
    r = rule(stack, gamma=gamma, sweeps=60, symmetric=symmetric)
    feedback = {level: r.feedback(level) for level in (2, 3, 4)}
    minus = fixed_point(stack, feedback, x, gamma)
    plus = fixed_point(stack, feedback, x, gamma, F.one_hot(y, 4).double())

    expected = []
    for level in (1, 2, 3, 4):
        low = (minus[level - 1], minus[level])
        high = (plus[level - 1], plus[level])

        if rule is GeneRecRule:
            weight = (high[1] - low[1]).T @ low[0]
        else:
            weight = high[1].T @ high[0] - low[1].T @ low[0]

        scale = -1.0 / (len(x) * gamma ** (4 - level))
        expected.append((scale * weight, scale * (high[1] - low[1]).sum(0)))

    for mine, theirs in zip(gradients(r, (x, y)), expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 7])
@pytest.mark.parametrize("activation", SLOPES)
@two_phases
def test_two_phase_gradients_tend_to_backprop(rule, activation, depth):
    """Each layer's relative error falls as gamma does; in the end direction and length agree."""
    stack = network((7, *[6] * depth), activation)
    data = batch()
    true = true_gradients(stack, data)

    errors = []
    for gamma in (1e-2, 1e-3, 1e-4):
        computed = gradients(rule(stack, gamma=gamma), data)
        errors.append(
            [(a[0] - b[0]).norm() / b[0].norm() for a, b in zip(computed, true, strict=True)]
        )

    for coarse, middle, fine in zip(*errors, strict=True):
        assert coarse < 0.2
        assert 7 < coarse / middle < 14 and 9 < middle / fine < 11
    for (mine, bias), (theirs, b) in zip(computed, true, strict=True):
        assert cosine(mine, theirs) > 1 - 1e-5
        assert mine.norm() / theirs.norm() == pytest.approx(1.0, abs=2e-3)
        assert cosine(bias, b) > 1 - 1e-5


@two_phases
def test_differences_of_the_phases_do_not_drown_in_single_precision(rule):
    """0.01^7 is far below the digits of the activities; their displacements keep theirs."""
    stack = network((7, *[6] * 7))
    x, y = batch()
    true = true_gradients(stack, (x, y))
    computed = gradients(rule(stack.float(), gamma=0.01), (x.float(), y))

    for mine, theirs in zip(computed, true, strict=True):
        assert cosine(mine[0].double(), theirs[0]) > 0.995


@two_phases
def test_without_symmetric_feedback_only_the_output_layer_follows_backprop(rule):
    stack = network((7, 6, 5, 8))
    data = batch()
    computed = gradients(rule(stack, gamma=1e-4, symmetric=False), data)
    cosines = [
        cosine(a[0], b[0]) for a, b in zip(computed, true_gradients(stack, data), strict=True)
    ]

    assert max(cosines[:-1]) < 0.8 and cosines[-1] > 0.999


def test_generec_without_symmetric_feedback_tends_to_feedback_alignment():
    stack = network((7, 6, 5, 8))
    data = batch()
    rule = GeneRecRule(stack, gamma=1e-5, symmetric=False)
    other = FeedbackAlignmentRule(stack)

    for name, weight in rule.named_buffers(recurse=False):
        getattr(other, name).copy_(weight)

    for mine, theirs in zip(gradients(rule, data), gradients(other, data), strict=True):
        torch.testing.assert_close(mine[0], theirs[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("activation", SLOPES)
def test_the_sweeps_settle(activation):
    stack = network((7, 6, 5, 8), activation)
    x, y = batch()
    residuals = [GeneRecRule(stack, sweeps=n).residual(x).item() for n in (1, 2, 3, 10)]

    assert residuals[0] < 0.1 and residuals[2] < 1e-2 and residuals[3] < 1e-8
    assert all(b < 0.5 * a for a, b in pairwise(residuals))

    rule = GeneRecRule(stack, sweeps=40)
    h, a = rule.minus(x)
    d = rule.plus(h, a, y)

    assert d[0] is None

    feedback = {level: rule.feedback(level) for level in (2, 3, 4)}
    plus = fixed_point(stack, feedback, x, 0.1, F.one_hot(y, 4).double())

    for level in range(1, 5):
        torch.testing.assert_close(h[level] + d[level], plus[level], rtol=1e-9, atol=1e-11)


def test_too_much_feedback_shows_in_the_residual():
    stack = network((7, 6, 5, 8), "softplus", gain=2.0)
    x, _ = batch()
    assert GeneRecRule(stack, gamma=1.0).residual(x) > 1.0
    assert GeneRecRule(stack, gamma=1e-3).residual(x) < 1e-6


@two_phases
def test_sweeps_compute_only_what_moves(rule, monkeypatch):
    """Products with weights: M up; each sweep L down, M - 1 up when free, M - 2 when clamped."""
    stack = network((7, 6, 5, 8))
    data = batch()
    calls = []
    linear = F.linear
    monkeypatch.setattr(
        F, "linear", lambda h, w, b=None: calls.append(w.shape[1]) or linear(h, w, b)
    )
    r = rule(stack, sweeps=5)
    h, a = r.minus(data[0])
    r.plus(h, a, data[1])

    assert len(calls) == 4 + 5 * (3 + 3) + 5 * (3 + 2)
    assert calls.count(7) == 1  # x is fixed
