"""Gradients of back-propagation, straight-through and feedback alignment against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import seed_everything

import gendae
from gendae.data.images import Digits
from gendae.models.architectures import deep_classifier
from gendae.models.settings import Settings
from gendae.rules.backprop import (
    BackpropRule,
    FeedbackAlignmentRule,
    StraightThroughRule,
    fixed_feedback,
)
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.rates import Rates
from gendae.rules.targets import displacement, displacements
from tests.conftest import at
from tests.rules.test_base import trainer
from tests.rules.test_supervised import SLOPES, batch, cosine, gradients, network, true_gradients


def assert_equal(actual, expected):
    for level, (mine, theirs) in enumerate(zip(actual, expected, strict=True), 1):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-9, atol=1e-13, msg=lambda m, level=level: f"layer {level}: {m}"
            )


def outer(e, h):
    """(sum of e h', sum of e) over the batch."""
    return e.T @ h, e.sum(0)


# -- back-propagation -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 5), (7, 6, 5), (7, 6, 5, 8)])
@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("rule", [BackpropRule, StraightThroughRule])
def test_backprop_is_the_gradient_of_the_cross_entropy(rule, activation, sizes):
    stack = network(sizes, activation)
    data = batch()
    assert_equal(gradients(rule(stack), data), true_gradients(stack, data))


@pytest.mark.parametrize("fixed", [1, 2])
def test_fixed_layers_get_no_gradient_and_the_others_that_of_backprop(fixed):
    stack = network()
    data = batch()
    computed = gradients(BackpropRule(stack, fixed=fixed), data)
    expected = true_gradients(stack, data)
    assert computed[:fixed] == [(None, None)] * fixed
    assert_equal(computed[fixed:], expected[fixed:])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize(
    ("options", "fixed"), [({"bits": [1]}, 1), ({"bits": [2]}, 2), ({"stochastic": True}, 3)]
)
def test_fixed_layers_stay_bit_equal_also_with_weight_decay(options, fixed, optimizer):
    stack = network((7, 6, 5, 5), **options)
    rates = Rates(optimizer=optimizer, decay_f=0.1, f=0.01)
    rule = BackpropRule(stack, fixed=fixed, rates=rates)
    before = [f.weight.detach().clone() for f in stack.encoders]
    update = rule.configure_optimizers()

    for _ in range(3):
        update.zero_grad()
        sum(rule.losses(batch()).values()).backward()
        update.step()

    same = [torch.equal(f.weight, w) for f, w in zip(stack.encoders, before, strict=True)]
    assert same == [level <= fixed for level in (1, 2, 3, 4)]


@pytest.mark.parametrize("samples", [1, 3])
def test_fixed_layers_send_the_same_draws(samples):
    stack = network(stochastic=True)
    data = batch()

    of_fixed = []
    for fixed in (0, 1):
        rule = StraightThroughRule(stack, fixed=fixed, samples=samples)
        of_fixed.append(gradients(rule, data, at(5)))

    assert of_fixed[1][0] == (None, None)
    assert_equal(of_fixed[1][1:], of_fixed[0][1:])


# -- straight-through -----------------------------------------------------------------------------


def test_straight_through_bits_by_hand():
    """Eq. 3.24 and 3.25 backwards, the derivative of the step taken as 1."""
    stack = network(bits=[1])
    x, y = batch()
    (w1, b1), (w2, b2), (w3, b3) = [(f.weight.detach(), f.bias.detach()) for f in stack.encoders]
    h1 = torch.tanh(x @ w1.T + b1)
    bits = torch.where(h1 > 0, 1.0, 0.0).double()
    h2 = torch.tanh(bits @ w2.T + b2)

    e3 = (torch.softmax(h2 @ w3.T + b3, 1) - F.one_hot(y, 4)) / len(y)
    e2 = e3 @ w3 * (1 - h2**2)
    e1 = e2 @ w2 * (1 - h1**2)
    computed = gradients(StraightThroughRule(stack), (x, y))

    assert_equal(computed, [outer(e1, x), outer(e2, bits), outer(e3, h2)])


@pytest.mark.parametrize("samples", [1, 3])
def test_straight_through_draws_by_hand(samples):
    """Eq. 3.29 for given draws; the loss of several is that of their mean probability."""
    stack = network(stochastic=True)
    x, y = batch()
    rule = StraightThroughRule(stack, samples=samples)
    computed = gradients(rule, (x, y), at(5))

    generator = torch.Generator().manual_seed(5)
    n = samples * len(x)
    inputs = x.repeat(samples, 1)
    labels = y.repeat(samples)
    (w1, b1), (w2, b2), (w3, b3) = [(f.weight.detach(), f.bias.detach()) for f in stack.encoders]

    p1 = torch.sigmoid(inputs @ w1.T + b1)
    h1 = (torch.rand(n, 6, generator=generator, dtype=torch.float64) < p1).double()
    p2 = torch.sigmoid(h1 @ w2.T + b2)
    h2 = (torch.rand(n, 5, generator=generator, dtype=torch.float64) < p2).double()
    p3 = torch.softmax(h2 @ w3.T + b3, 1)

    right = p3.gather(1, labels[:, None]).view(samples, -1)
    share = (right / right.sum(0)).view(-1, 1)
    e3 = share * (p3 - F.one_hot(labels, 4)) / len(y)
    delta2 = e3 @ w3
    delta1 = (delta2 * p2 * (1 - p2)) @ w2  # Eq. 3.29
    a1 = outer(delta1 * p1 * (1 - p1), inputs)
    a2 = outer(delta2 * p2 * (1 - p2), h1)

    assert_equal(computed, [a1, a2, outer(e3, h2)])


@pytest.mark.parametrize("options", [{"bits": [1]}, {"stochastic": True}], ids=["bits", "draws"])
def test_straight_through_learns_digits_through_bits_and_draws(options, tmp_path, digits):
    seed_everything(0, verbose=False)
    stack = deep_classifier([64, 40, 40], settings=Settings(samples=20), **options)
    r = StraightThroughRule(stack, rates=Rates(f=2e-2))
    run = trainer(max_epochs=10)
    run.fit(r, Digits(batch_size=50))

    assert run.callback_metrics["val/error"] < 0.12

    run.save_checkpoint(tmp_path / "run.ckpt")
    x = digits.split("valid").x

    assert torch.equal(gendae.load(tmp_path / "run.ckpt").predict(x), r.stack.predict(x))


# -- feedback alignment ---------------------------------------------------------------------------


def aligned(stack):
    """The rule with B_l = W_l'."""
    rule = FeedbackAlignmentRule(stack)
    for level, f in enumerate(stack.encoders[1:], 2):
        getattr(rule, f"feedback_{level}").copy_(f.weight.detach().T)
    return rule


@pytest.mark.parametrize("activation", [*SLOPES, "relu", "linear"])
def test_feedback_alignment_with_transposes_is_backprop(activation):
    stack = network((7, 6, 5, 8), activation)
    data = batch()
    assert_equal(gradients(aligned(stack), data), gradients(BackpropRule(stack), data))


def test_feedback_alignment_by_hand_and_only_the_output_layer_is_that_of_backprop():
    stack = network()
    x, y = batch()
    rule = FeedbackAlignmentRule(stack)
    computed = gradients(rule, (x, y))

    _, h1, h2 = stack.encode(x)
    e3 = (torch.softmax(stack.output(h2), 1) - F.one_hot(y, 4)) / len(y)
    e2 = e3 @ rule.feedback_3.T * (1 - h2**2)
    e1 = e2 @ rule.feedback_2.T * (1 - h1**2)

    assert_equal(computed, [outer(e1, x), outer(e2, h1), outer(e3, h2)])

    true = true_gradients(stack, (x, y))
    assert_equal(computed[2:], true[2:])
    for mine, theirs in zip(computed[:2], true[:2], strict=True):
        assert cosine(mine[0], theirs[0]) < 0.8


def linear_decoders(rule):
    """g_l(h) = B_l h + c with the rule's B_l, for any c; B_M = W_M', as in the first target."""
    stack = rule.stack
    getattr(rule, f"feedback_{stack.depth + 1}").copy_(stack.output.weight.detach().T)
    with torch.no_grad():
        for level, pair in enumerate(stack.pairs[1:], 2):
            pair.g.weight.copy_(getattr(rule, f"feedback_{level}"))
            pair.g.bias.normal_()


def encoder_gradients(stack, data):
    """Of difference target propagation, scaled so that they do not depend on its step."""
    rule = DifferenceTargetPropRule(stack, step=0.3)
    rule.zero_grad(set_to_none=True)
    sum(loss for name, loss in rule.losses(data).items() if "_f_" in name).backward()
    return [(f.weight.grad, f.bias.grad) for f in stack.encoders]


def test_feedback_alignment_is_difference_target_propagation_with_linear_decoders():
    """Exact for linear hidden layers; else up to s' between layers: equal in the top two."""
    data = batch()
    for activation, equal in (("linear", 0), ("tanh", 2)):
        rule = FeedbackAlignmentRule(network((7, 6, 5, 8), activation, feedback="linear"))
        linear_decoders(rule)

        computed = gradients(rule, data)
        expected = encoder_gradients(rule.stack, data)

        assert_equal(computed[equal:], expected[equal:])
        for mine, theirs in zip(computed[:equal], expected[:equal], strict=True):
            assert not torch.allclose(mine[0], theirs[0], rtol=1e-3)


@pytest.mark.parametrize("activation", SLOPES)
def test_feedback_alignment_multiplies_displacements_by_the_slope(activation):
    """d_{l-1} = B_l (s'(a_l) * d_l) replaces B_l d_l; f_l then learns s'(a_l) * d_l."""
    rule = FeedbackAlignmentRule(network((7, 6, 5, 8), activation, feedback="linear"))
    linear_decoders(rule)
    stack = rule.stack
    x, y = batch()

    h = [layer.detach() for layer in stack.encode(x)]
    slope = SLOPES[activation]
    e = (torch.softmax(stack.output(h[-1]), 1) - F.one_hot(y, 4)).detach() / len(y)
    d = [-e @ stack.output.weight.detach()]
    plain = displacements(stack.pairs, h, d[0])

    for level in (3, 2):
        scaled = slope(h[level]) * d[0]
        below = displacement(stack.pairs[level - 1], h[level - 1], h[level], scaled)
        d.insert(0, below.detach())

    torch.testing.assert_close(d[-1], plain[-1])

    expected = [outer(-slope(h[level]) * d[level - 1], h[level - 1]) for level in (1, 2, 3)]
    assert_equal(gradients(rule, (x, y))[:3], expected)


@pytest.mark.parametrize("init", ["normal", "orthogonal", "uniform"])
def test_feedback_weights_have_the_size_of_the_transposed_weights(init):
    stack = deep_classifier([30, 400, 100], 50, gain=1.5, init=init)
    for level, weight in fixed_feedback(stack, 2.0).items():
        f = stack.encoders[level - 1]
        assert weight.shape == (f.in_features, f.out_features) and not weight.requires_grad
        assert weight.std().item() == pytest.approx(2.0 * f.weight.std().item(), rel=0.05)
        assert abs(cosine(weight.T, f.weight)) < 0.05
