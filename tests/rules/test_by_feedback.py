"""Classifiers by feedback: exact, it is back-propagation; learned, it reaches its closed form."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gendae
from gendae.layers.affine import Affine
from gendae.layers.conv import Conv, ConvTranspose
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.models.classifier import Classifier
from gendae.rules.backprop import FeedbackAlignmentRule, StraightThroughRule
from gendae.rules.by_feedback import FeedbackRule
from gendae.rules.chain import Chain, clean
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.direct import DirectDifference
from gendae.rules.feedback import Direct, Exact, Partners
from gendae.rules.inverses import FixedWeights, Inverses
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.transposes import (
    DifferenceReconstruction,
    LearnedTranspose,
    LocalDifference,
    Random,
    SignSymmetry,
    TransposeLike,
    WeightMirror,
)
from tests.conftest import at
from tests.layers.test_conv import as_affine, dense_copy, matrix
from tests.rules.test_supervised import batch, gradients, network, true_gradients


def assert_equal(actual, expected):
    for mine, theirs in zip(actual, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def modules():
    """Maps made of several, and one that is no s(W h + b)."""
    torch.manual_seed(0)
    lower = Pair(MLP(7, [9, 8], 6, "tanh"), Affine(6, 7))
    middle = Pair(nn.Sequential(nn.Linear(6, 5), nn.ELU()), Affine(5, 6))
    return Classifier(lower, middle, output=Affine(5, 4)).double()


def of_values(stack):
    return Classifier(*stack.pairs, output=stack.output, predicts="values")


NETWORKS = {
    "tanh": lambda: network((7, 6, 5, 8), "tanh"),
    "relu": lambda: network((7, 6, 5, 8), "relu"),
    "modules": modules,
    "bits": lambda: network(bits=[1]),
    "draws": lambda: network(stochastic=True),
    "values": lambda: of_values(network()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_feedback_is_the_gradient_of_the_loss(name):
    """Straight-through where bits or draws are sent."""
    stack = NETWORKS[name]()
    x, y = batch()
    if name == "values":
        y = torch.randn(len(x), 4, dtype=torch.float64)

    parameters = [p for f in stack.encoders for p in f.parameters()]
    of_rules = []
    for rule in (FeedbackRule(stack, Exact(), samples=3), StraightThroughRule(stack, samples=3)):
        loss = sum(rule.losses((x, y), at(1)).values())
        of_rules.append(torch.autograd.grad(loss, parameters))

    assert_equal([of_rules[0]], [of_rules[1]])
    if name in ("tanh", "relu"):
        assert_equal(
            gradients(FeedbackRule(stack, Exact()), (x, y)), true_gradients(stack, (x, y))
        )


def transposes(rule, weights):
    """Give the rule the B' of every map."""
    with torch.no_grad():
        for layer, weight in zip(rule.feedback.layers.values(), weights, strict=True):
            layer.difference += weight - layer.weight


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("feedback", [Random, LocalDifference, WeightMirror])
def test_with_the_transposes_it_is_the_gradient_and_with_others_feedback_alignment(
    feedback, tracks
):
    stack = network((7, 6, 5, 8), "tanh")
    data = batch()
    rule = FeedbackRule(stack, feedback(tracks=tracks))

    transposes(rule, [f.weight.detach() for f in stack.encoders[1:]])
    assert_equal(gradients(rule, data), true_gradients(stack, data))

    other = FeedbackAlignmentRule(stack)
    transposes(rule, [getattr(other, f"feedback_{level}").T for level in (2, 3, 4)])
    assert_equal(gradients(rule, data), gradients(other, data))


# -- maps that are no matrices -------------------------------------------------------------------

FEEDBACK = [
    Exact,
    Partners,
    Direct,
    partial(DirectDifference, rows=7),
    Inverses,
    partial(DifferenceReconstruction, rows=7),
    FixedWeights,
    partial(Random, derivative=False),
    Random,
    WeightMirror,
    LocalDifference,
    partial(LocalDifference, derivative=False, tracks=False),
]


def dense_feedback(shared, dense):
    """Give the feedback of matrices what that of convolutions is."""
    for number, layer in dense.layers.items():
        other = shared.layers[number]
        if isinstance(other, TransposeLike):
            inputs = layer.weight.shape[1]
            b = other.part.linear(torch.eye(inputs, dtype=torch.float64), other.weight).T
            with torch.no_grad():
                layer.difference += b - layer.weight
        elif isinstance(other, ConvTranspose):
            layer.load_state_dict(as_affine(other).state_dict())
        else:
            layer.load_state_dict(other.state_dict())


def maps_of(rule):
    """The maps that learn, one by one."""
    chain = Chain.of_classifier(rule.stack, unfolded=True)
    return [link.layer for link in chain if not link.fixed]


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_convolutions_learn_as_their_matrices_do(feedback, pooling):
    shared = gendae.lenet(
        (2, 4, 8), [3, 2], 3, [1, 1], pooling, [5], classes=4, activation="tanh"
    ).double()
    x, y = batch(7, 64)
    rules = [FeedbackRule(stack, feedback()) for stack in (shared, dense_copy(shared))]
    dense_feedback(*(rule.feedback for rule in rules))

    losses = [rule.losses((x, y), at(1)) for rule in rules]
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], rtol=1e-10, atol=0.0)

    sum(losses[0].values()).backward()
    sum(losses[1].values()).backward()
    for ours, theirs in zip(*map(maps_of, rules), strict=True):
        expected = theirs.weight.grad
        if isinstance(ours, Conv):
            (expected,) = torch.autograd.grad(matrix(ours), ours.weight, expected)
        assert_equal([[ours.weight.grad]], [[expected]])


# -- what feedback converges to ------------------------------------------------------------------


def aligned(feedback, sizes=(6, 5, 7), updates=400, classes=4, **options):
    """A rule over a linear network whose feedback has learned from random inputs."""
    torch.manual_seed(0)
    stack = network(sizes, "linear", **options)
    rule = FeedbackRule(stack, feedback, align=updates, rates=Rates(feedback=3e-2))
    optimizer = rule.configure_optimizers()
    before = [p.detach().clone() for p in stack.parameters()]

    for update in range(updates):
        moment = Moment(update / updates, update=update)
        x = torch.randn(300, sizes[0], dtype=torch.float64)
        y = torch.randint(classes, (300,))

        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        losses = rule.losses((x, y), moment)
        assert all(name.startswith("feedback") for name in losses)
        sum(losses.values()).backward()
        optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
    return rule


@pytest.mark.parametrize("feedback", [LocalDifference, WeightMirror])
def test_feedback_from_noise_becomes_the_transpose(feedback):
    rule = aligned(feedback(tracks=False, rows=300))

    for layer, f in zip(rule.feedback.layers.values(), rule.stack.encoders[1:], strict=True):
        cosine = torch.cosine_similarity(layer.weight.flatten(), f.weight.flatten(), 0)
        assert cosine >= 0.999
        assert (layer.weight - f.weight).norm() < 0.03 * f.weight.norm()


def test_difference_reconstruction_becomes_the_damped_pseudo_inverse():
    """Of all maps that lie above, however many they are."""
    rule = aligned(DifferenceReconstruction(damping=0.2, rows=300), updates=1200)
    chain = rule.chain()
    states = chain.run(torch.zeros(4, 6, dtype=torch.float64), clean, Moment())
    moves = rule.feedback.displacements(chain, states, torch.eye(4).double(), Moment())

    jacobian = torch.eye(4, dtype=torch.float64)
    for move, f in zip(moves[-2::-1], rule.stack.encoders[:0:-1], strict=True):
        jacobian = jacobian @ f.weight.detach()
        damped = jacobian @ jacobian.T + 0.2 * torch.eye(4)
        expected = torch.linalg.solve(damped, jacobian)
        assert (move - expected).norm() < 0.05 * expected.norm()

    # answers are small differences, which half precision would lose
    rule.float()
    x = torch.rand(9, 6)
    of_feedback = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = rule.losses((x, torch.zeros(9, dtype=torch.long)), at(1, update=0))
        gradients_now = torch.autograd.grad(sum(losses.values()), list(rule.feedback.parameters()))
        of_feedback.append(torch.cat([gradient.flatten() for gradient in gradients_now]))
    assert torch.cosine_similarity(*of_feedback, 0) > 0.999


@pytest.mark.parametrize(("hidden", "least"), [(None, 0.999), (30, 0.99)])
def test_direct_differences_become_the_damped_pseudo_inverse_of_all_that_lies_above(hidden, least):
    """Of the random hidden layer the Jacobian is meant, at one output."""
    rule = aligned(DirectDifference(0.2, hidden, rows=300), (6, 5, 7, 6), updates=150)
    chain = rule.chain()
    states = chain.run(torch.zeros(4, 6, dtype=torch.float64), clean, Moment())
    small = 1e-4 * torch.eye(4, dtype=torch.float64)
    moves = rule.feedback.displacements(chain, states, small, Moment())

    jacobian = torch.eye(4, dtype=torch.float64)
    for move, f in zip(moves[-2::-1], rule.stack.encoders[:0:-1], strict=True):
        jacobian = jacobian @ f.weight.detach()
        damped = jacobian @ jacobian.T + 0.2 * torch.eye(4)
        expected = torch.linalg.solve(damped, jacobian)
        assert torch.cosine_similarity(move.flatten(), expected.flatten(), 0) >= least
        if hidden is None:
            assert (1e4 * move - expected).norm() < 0.05 * expected.norm()


def test_direct_differences_go_through_the_random_hidden_layer():
    """Q (tanh(R (a + d) + r) - tanh(R a + r)) below, Q d at the last hidden layer."""
    rule = FeedbackRule(network((7, 6, 5), "tanh"), DirectDifference(hidden=9, rows=4))
    x, _ = batch()
    chain = rule.chain()
    states = chain.run(x, clean, Moment())
    d = torch.randn(len(x), 4, dtype=torch.float64)
    q1, q2 = (layer.weight for layer in rule.feedback.layers.values())
    r = rule.feedback.random

    a = rule.stack(x)[0]
    bent = torch.tanh((a + d) @ r.weight.T + r.bias) - torch.tanh(a @ r.weight.T + r.bias)
    moves = rule.feedback.displacements(chain, states, d, Moment())
    assert_equal([moves], [[bent @ q1.T, d @ q2.T, d]])
    assert [layer.weight.shape for layer in rule.feedback.layers.values()] == [(6, 9), (5, 4)]
    assert len(rule.learners()) == 2

    # the loss of the last hidden layer, written out: noise goes up, and comes back in one step
    noise = torch.Generator().manual_seed(1)
    h1, h2 = rule.stack.encode(x)[1][:4], rule.stack.encode(x)[2][:4]
    options = {"generator": noise, "dtype": torch.float64}
    xi1, y1 = (0.1 * torch.randn(shape, **options) for shape in ((4, 6), (4, 4)))
    xi2, y2 = (0.1 * torch.randn(shape, **options) for shape in ((4, 5), (4, 4)))

    def g(q, at_a, step):
        return (r(at_a + step) - r(at_a)) @ q.T

    out = rule.stack.output
    up = rule.stack.pairs[1].f
    r1, r2 = out(up(h1 + xi1)) - a[:4], out(h2 + xi2) - a[:4]
    first = (g(q1, a[:4], r1) - xi1).square() + 0.1 * g(q1, a[:4], y1).square()
    second = (r2 @ q2.T - xi2).square() + 0.1 * (y2 @ q2.T).square()

    losses = rule.losses((x, batch()[1]), at(1))
    for name, error in (("feedback_f_1", first), ("feedback_f_2", second)):
        assert losses[name].item() == pytest.approx((error.sum() / 4 / 0.02).item(), rel=1e-10)


@pytest.mark.parametrize("feedback", [Random(tracks=True), LocalDifference(every=50)])
def test_tracking_keeps_what_b_lacks_of_the_weights(feedback):
    """To rounding, through updates of Adam at which the feedback does not learn."""
    stack = network((7, 6, 5), "tanh")
    rule = FeedbackRule(stack, feedback, align=0, rates=Rates(f=1e-2))
    optimizer = rule.configure_optimizers()

    def lacks():
        pairs = zip(feedback.layers.values(), stack.encoders[1:], strict=True)
        return [(layer.weight - f.weight).detach().clone() for layer, f in pairs]

    before = lacks()
    weight = stack.output.weight.detach().clone()
    for update in range(1, 40):
        optimizer.zero_grad()
        sum(rule.losses(batch(), Moment(update=update)).values()).backward()
        optimizer.step()

    assert (stack.output.weight - weight).norm() > 0.1 * weight.norm()
    for a, b in zip(before, lacks(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-14)


# -- feedback that does not learn ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "fixed", "random"])
def test_sign_symmetric_feedback_has_the_signs_of_the_weights_now(kind):
    stack = network((7, 40, 30), "linear")
    rule = FeedbackRule(stack, SignSymmetry(kind))
    f = stack.encoders[1]
    with torch.no_grad():
        f.weight.neg_()

    def b(seed):
        layer = rule.feedback.layers["1"]
        return layer(torch.eye(30, dtype=torch.float64), at(seed))

    magnitudes = b(0) / f.weight.detach().sign()
    assert (magnitudes > 0).all()
    assert magnitudes.square().mean().sqrt() == pytest.approx((2.0 / 70) ** 0.5, rel=0.05)
    assert (magnitudes.std() < 1e-9) == (kind == "uniform")
    assert torch.equal(b(0), b(1)) == (kind != "random")


def test_direct_feedback_brings_the_error_of_the_output_to_every_layer():
    stack = network((7, 6, 5), "tanh")
    x, y = batch()
    rule = FeedbackRule(stack, Direct())
    _, h1, h2 = stack.encode(x)
    b1, b2 = (rule.feedback.layers[number].weight for number in ("0", "1"))

    e3 = (torch.softmax(stack.output(h2), 1) - F.one_hot(y, 4)) / len(y)
    e2 = e3 @ b2.T * (1 - h2**2)
    e1 = e3 @ b1.T * (1 - h1**2)
    expected = [(e.T @ h, e.sum(0)) for e, h in ((e1, x), (e2, h1), (e3, h2))]

    assert_equal(gradients(rule, (x, y)), expected)


@pytest.mark.parametrize("options", [{}, {"bits": [1]}])
def test_partners_are_difference_target_propagation(options):
    stack = network((7, 6, 5, 8), **options)
    data = batch()
    published = DifferenceTargetPropRule(stack, step=0.7)

    def of_encoders(rule):
        losses = rule.losses(data, at(3))
        loss = sum(loss for name, loss in losses.items() if "_f_" in name)
        return torch.autograd.grad(loss, [p for f in stack.encoders for p in f.parameters()])

    assert_equal([of_encoders(FeedbackRule(stack, Partners(), 0.7))], [of_encoders(published)])


def test_fixed_inverses_send_differences():
    """tanh(B (y + d)) - tanh(B y), those of the output layer included; nothing learns."""
    stack = network((7, 6, 5), "tanh")
    x, _ = batch()
    rule = FeedbackRule(stack, FixedWeights(), step=2.0)
    chain = rule.chain()
    states = chain.run(x, clean, Moment())
    last = torch.randn(len(x), 4, dtype=torch.float64)

    h2 = stack.encode(x)[2]
    b2, b3 = (layer.weight for layer in rule.feedback.layers.values())
    a = stack.output(h2)
    d2 = torch.tanh((a + last) @ b3.T) - torch.tanh(a @ b3.T)
    d1 = torch.tanh((h2 + d2) @ b2.T) - torch.tanh(h2 @ b2.T)

    moves = rule.feedback.displacements(chain, states, last, Moment())
    assert_equal([moves], [[d1, d2, last]])
    assert rule.learners() == []


# -- stages and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", [LocalDifference, WeightMirror, Inverses])
def test_feedback_learns_first_without_labels(feedback):
    rule = FeedbackRule(network(), feedback(), align=3)
    x, y = batch()

    def terms(update, y=y):
        return rule.losses((x, y), at(1, update=update))

    assert terms(0).keys() == terms(2).keys() == {n for n in terms(10) if "feedback" in n}
    assert {"label_f_3", "lack_f_1", "lack_f_2"} <= terms(3).keys()
    assert ("feedback_f_2" in terms(3)) == (not issubclass(feedback, LearnedTranspose))
    assert terms(0) == terms(0, y.flip(0))


def test_what_cannot_be_is_refused():
    stack = network()
    with pytest.raises(ValueError, match="align=3: feedback=Random does not learn"):
        FeedbackRule(stack, Random(), align=3)
    with pytest.raises(ValueError, match="align=3: feedback=Inverses does not learn in this net"):
        FeedbackRule(network((7, 5)), Inverses(), align=3)
    with pytest.raises(ValueError, match="f_2 is Wrapped, which has no weights W"):
        FeedbackRule(modules(), SignSymmetry())
    with pytest.raises(ValueError, match="answers at every step"):
        FeedbackRule(gendae.recurrent_classifier(2, 4, 5, classes=3, every_step=True))

    shared = LocalDifference()
    FeedbackRule(stack, shared)
    with pytest.raises(ValueError, match="feedback=LocalDifference serves another rule"):
        FeedbackRule(network(), shared)
