"""Diagnostics of credit assignment against closed forms; they leave the rule as it was."""

import math

import pytest
import torch
import torch.nn.functional as F

from gendae.corruption import GaussianNoise
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair, TiedPair
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier
from gendae.models.stack import Stack
from gendae.rules import credit
from gendae.rules.backprop import BackpropRule, FeedbackAlignmentRule, StraightThroughRule
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning
from gendae.rules.equilibrium import EquilibriumPropagationRule
from gendae.rules.hebbian import ContrastiveHebbianRule, GeneRecRule
from gendae.rules.nudged_stdp import NudgedSTDPRule
from gendae.rules.predictive_coding import PredictiveCodingRule
from gendae.rules.targets import displacements, first_displacement
from tests.conftest import at

NOISE = GaussianNoise(0.5)  # on x: none of the measures may see it


def network(sizes=(8, 8, 8, 8), activation="linear", factor=1.0, **options):
    """Square layers with g = factor * f^-1 (f orthogonal or not); linear ones by default."""
    torch.manual_seed(1)
    options = {"activation": activation, "feedback": "linear", **options}
    stack = deep_classifier(list(sizes), classes=4, **options).double()

    with torch.no_grad():
        for pair in stack.pairs:
            pair.f.bias.normal_()
            pair.g.weight.copy_(factor * torch.linalg.pinv(pair.f.weight))
            pair.g.bias.copy_(-pair.g.weight @ pair.f.bias)

    return stack


def classifier(sizes=(8, 7, 6), **options):
    torch.manual_seed(0)
    return deep_classifier(list(sizes), classes=4, **options).double()


def data(n=20, width=8, classes=4):
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, width, dtype=torch.float64, generator=g)
    return x, torch.randint(classes, (n,), generator=g)


def close(a, b, tolerance=1e-9):
    b = torch.as_tensor(b, dtype=a.dtype).expand_as(a)
    return torch.allclose(a, b, rtol=0, atol=tolerance)


# -- angles ---------------------------------------------------------------------------------------


class Turned(BackpropRule):
    """The loss turns every layer's gradient by 60 degrees."""

    def losses_of(self, x, y, moment):
        loss = super().losses_of(x, y, moment)["label_f_3"]
        total = loss
        for f in self.stack.encoders:
            parameters = list(f.parameters())
            gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
            flat = torch.cat([g.flatten() for g in gradient])

            other = torch.randn_like(flat)
            other -= other @ flat / (flat @ flat) * flat
            other *= math.sqrt(3.0) * flat.norm() / other.norm()
            total = total + torch.cat([p.flatten() for p in parameters]) @ other

        return {"label_f_3": total}


def with_transposes(scaled):
    """Difference target propagation whose inverses are transposes."""
    inverses = InverseLearning(schedule="alternate")
    return DifferenceTargetPropRule(network(), step=0.1, scaled=scaled, inverses=inverses)


@pytest.mark.parametrize(
    ("make", "cosine", "degrees"),
    [
        (lambda: BackpropRule(classifier(), input_corruption=NOISE), 1.0, 0.0),
        (lambda: with_transposes(scaled=True), 1.0, 0.0),
        (lambda: with_transposes(scaled=False), 1.0, 0.0),
        (lambda: Turned(classifier()), 0.5, 60.0),
    ],
    ids=["itself", "targets", "targets not scaled", "turned"],
)
def test_the_angle_is_that_of_weights_and_biases_together(make, cosine, degrees):
    rule = make()
    angles = credit.angles(rule, *data())

    assert angles.cosine.shape == (rule.stack.depth + 1,)
    assert close(angles.cosine, cosine)
    assert close(angles.degrees, degrees, 1e-4)


@pytest.mark.parametrize("options", [{"bits": [1]}, {"stochastic": True}])
def test_the_reference_of_bits_and_draws_is_straight_through_for_the_same_draws(options):
    stack = classifier(**options)
    rule = StraightThroughRule(stack, samples=3, input_corruption=NOISE)

    assert close(credit.angles(rule, *data()).cosine, 1.0)

    rule = DifferenceTargetPropRule(stack, samples=3, input_corruption=NOISE)
    targets = credit.angles(rule, *data())
    assert close(targets.cosine[-1], 1.0)
    assert (targets.cosine[:-1] < 0.999).any()

    twice = credit.angles(DifferenceTargetPropRule(stack, samples=3), *data())
    assert torch.equal(targets.cosine, twice.cosine)


def with_bad_inverses():
    """Plain target propagation, which goes anywhere."""
    stack = deep_classifier([400] * 4, classes=10, activation="linear").double()
    return DifferenceTargetPropRule(stack, difference=False, step=1e-3)


@pytest.mark.parametrize(
    ("make", "exact", "bound"),
    [(lambda: FeedbackAlignmentRule(classifier()), 1, 0.95), (with_bad_inverses, 2, 0.1)],
    ids=["feedback alignment", "target propagation with bad inverses"],
)
def test_the_highest_layers_alone_are_exact(make, exact, bound):
    rule = make()
    x = torch.randn(20, rule.stack.sizes[0], dtype=torch.float64)
    y = torch.randint(rule.stack.classes, (20,))

    cosines = credit.angles(rule, x, y).cosine

    assert close(cosines[-exact:], 1.0)
    assert (cosines[:-exact].abs() < bound).all()


def test_theorem_1_bounds_the_angle_of_one_example():
    """cos >= smallest / largest singular value of the Jacobian above, where inverses are exact."""
    stack = network(init="normal")
    x, y = data(1)
    cosines = credit.angles(DifferenceTargetPropRule(stack, step=1e-3), x, y).cosine

    for level in (1, 2):
        above = torch.eye(8, dtype=torch.float64)
        for pair in stack.pairs[level:]:
            above = pair.f.weight @ above

        values = torch.linalg.svdvals(above)
        assert values[-1] / values[0] - 1e-9 <= cosines[level - 1] < 0.999

    assert close(cosines[2:], 1.0)


def test_layers_without_an_update_have_no_angle():
    stack = classifier()
    angles = credit.angles(BackpropRule(stack, fixed=1), *data())
    assert angles.cosine.isnan().tolist() == [True, False, False]
    assert angles.degrees.isnan().tolist() == [True, False, False]

    stack.pairs[1].f.requires_grad_(False)
    angles = credit.angles(BackpropRule(stack), *data())
    assert angles.cosine.isnan().tolist() == [False, True, False]


def test_layers_of_any_kind_are_measured():
    torch.manual_seed(0)
    pairs = [TiedPair(8, 7), Pair(MLP(7, [5], 6), Affine(6, 7, "sigmoid"))]
    stack = Classifier(*pairs, output=Affine(6, 4)).double()

    assert close(credit.angles(BackpropRule(stack), *data()).cosine, 1.0)

    rule = DifferenceTargetPropRule(stack)
    assert close(credit.angles(rule, *data()).cosine[-1], 1.0)
    assert credit.target_improvement(rule, *data()).improves[-1] == 1.0
    assert credit.theorem_2_eigenvalue(stack, data(3)[0]).shape == (1,)


# -- targets --------------------------------------------------------------------------------------


class Flipped(DifferenceTargetPropRule):
    """Targets on the wrong side."""

    def _displacements(self, *arguments):
        return [-d for d in super()._displacements(*arguments)]


@pytest.mark.parametrize("difference", [True, False])
def test_targets_improve_where_inverses_are_exact_and_steps_small(difference):
    stack = network()
    x, y = data()
    options = {"step": 1e-4, "difference": difference, "input_corruption": NOISE}
    good = credit.target_improvement(DifferenceTargetPropRule(stack, **options), x, y)

    assert good.improves.tolist() == [1.0] * 3
    assert good.local.tolist() == [1.0] * 2

    bad = credit.target_improvement(Flipped(stack, **options), x, y)
    assert bad.improves.tolist() == [0.0] * 3
    # The layer above still gets closer to its own, wrong, target.
    assert bad.local.tolist() == [1.0] * 2

    # Orthogonal layers keep the gradient's length.
    gradient = first_displacement(stack, stack.encode(x)[-1], y, 1.0).square().sum(1).mean()
    change = 1e-4 * gradient.expand(3)
    assert torch.allclose(good.change, -change, rtol=1e-3)
    assert torch.allclose(bad.change, change, rtol=1e-3)


def test_fractions_are_of_examples_and_changes_are_of_the_loss():
    """Steps that are too large, through maps that are no inverses, by hand."""
    stack = classifier([8, 8, 7, 6], init="normal")
    x, y = data()
    improvement = credit.target_improvement(DifferenceTargetPropRule(stack, step=10.0), x, y)

    h = stack.encode(x)
    d = displacements(stack.pairs, h, first_displacement(stack, h[-1], y, 10.0))
    before = F.cross_entropy(stack(x)[0], y, reduction="none")
    for level in (1, 2, 3):
        moved = h[level] + d[level - 1]
        if level < 3:
            error = (h[level + 1] + d[level] - stack.pairs[level].f(moved)).norm(dim=1)
            closer = (error < d[level].norm(dim=1)).double().mean()
            assert improvement.local[level - 1] == closer

        for pair in stack.pairs[level:]:
            moved = pair.f(moved)

        change = F.cross_entropy(stack.output(moved), y, reduction="none") - before
        assert improvement.improves[level - 1] == (change < 0).double().mean()
        assert torch.allclose(improvement.change[level - 1], change.mean())

    assert 0 < improvement.improves.min() < 1
    assert 0 < improvement.local.max() < 1


def test_single_precision_counts_the_improvements_of_confident_classifiers():
    """A loss of 1e-6 nats changes by less than the logits' resolution in single precision."""
    stack = network()
    x, y = data()
    with torch.no_grad():
        stack.output.bias.copy_(torch.tensor([25.0, 0.0, 1.0, 2.0]))

    y = torch.zeros_like(y)
    rule = DifferenceTargetPropRule(stack.float(), step=1e-4)
    improvement = credit.target_improvement(rule, x.float(), y)

    assert -1e-20 < improvement.change[-1] < 0
    assert improvement.improves.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("factor", "eigenvalue", "holds"), [(1.0, 0.0, 1.0), (1.5, 0.25, 1.0), (3.0, 4.0, 0.0)]
)
def test_theorem_2_tells_where_the_next_layer_gets_closer(factor, eigenvalue, holds):
    """I - J_f J_g = (1 - factor) I."""
    stack = network(factor=factor, init="normal")
    x, y = data()

    assert close(credit.theorem_2_eigenvalue(stack, x[:3]), eigenvalue)

    rule = DifferenceTargetPropRule(stack, step=1e-3)
    assert credit.target_improvement(rule, x, y).local.tolist() == [holds] * 2


def test_theorem_2_s_jacobians_are_those_at_h():
    stack = classifier([8, 6, 5])
    x = data(3)[0]
    pair = stack.pairs[1]

    expected = []
    for h in stack.encode(x)[1]:
        j_f = torch.autograd.functional.jacobian(pair.f, h)
        j_g = torch.autograd.functional.jacobian(pair.g, pair.f(h))
        rest = torch.eye(5, dtype=torch.float64) - j_f @ j_g
        expected.append(torch.linalg.eigvalsh(rest.T @ rest)[-1])

    assert close(credit.theorem_2_eigenvalue(stack, x), torch.stack(expected).mean())


def test_bits_that_do_not_flip_improve_nothing():
    stack = classifier(bits=[1])
    x, y = data()
    improvement = credit.target_improvement(DifferenceTargetPropRule(stack, step=1e-9), x, y)

    assert improvement.improves.tolist() == [0.0, 1.0]
    assert improvement.change[0] == 0.0
    assert improvement.local.tolist() == [0.0]


def test_draws_are_those_of_the_rule_and_the_same_on_both_sides():
    """Displacements too small to flip a draw change nothing; the loss is the rule's own."""
    stack = classifier(stochastic=True)
    x, y = data()

    tiny = credit.target_improvement(DifferenceTargetPropRule(stack, step=1e-12, samples=4), x, y)
    assert tiny.change.tolist() == [0.0, 0.0]

    large = credit.target_improvement(DifferenceTargetPropRule(stack, step=1e2, samples=4), x, y)
    assert (large.change[-1] < 0) and (large.improves[-1] > 0.5)

    rule = DifferenceTargetPropRule(stack, samples=4)
    outputs, _ = rule.targets(x, y, at(credit.SEED))
    loss = credit._Above(stack, outputs, 4).loss(1, outputs[0], y).mean()
    other_draws = rule.losses((x, y), at(credit.SEED + 1))["label_f_3"]
    same_draws = rule.losses((x, y), at(credit.SEED))["label_f_3"]

    assert not torch.allclose(loss, other_draws)
    assert torch.allclose(loss, same_draws)


# -- inverses -------------------------------------------------------------------------------------


def test_inverse_error_is_zero_for_inverses_and_one_for_the_mean():
    stack = network(init="normal")
    x = data()[0]
    h = stack.encode(x)
    pair = stack.pairs[1]

    assert close(credit.inverse_error(stack, x), 0.0)

    with torch.no_grad():
        pair.g.weight.zero_()
        pair.g.bias.copy_(h[1].mean(0))

    assert close(credit.inverse_error(stack, x), [1.0, 0.0])

    with torch.no_grad():
        pair.g.bias.add_(1.0)

    expected = (1.0 + 1.0 / h[1].var(0, correction=0).mean()).sqrt()
    assert close(credit.inverse_error(stack, x)[0], expected.item())
    assert credit.inverse_error(Stack(Pair(Affine(8, 4), Affine(4, 8))), x.float()).shape == (0,)


# -- nothing is disturbed -------------------------------------------------------------------------


ALL = [
    BackpropRule,
    StraightThroughRule,
    FeedbackAlignmentRule,
    GeneRecRule,
    ContrastiveHebbianRule,
    NudgedSTDPRule,
    EquilibriumPropagationRule,
    PredictiveCodingRule,
    DifferenceTargetPropRule,
]


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_a_rule_is_left_as_it_was(cls, training):
    """In the middle of a training it has a generator of its own, which is not touched."""
    torch.manual_seed(0)
    rule = cls(deep_classifier([8, 7, 6], classes=4), input_corruption=NOISE)
    noise = torch.Generator().manual_seed(3)
    rule.source_of_noise.generator = noise if training else None
    x, y = data()
    x = x.float()
    sum(rule.losses((x, y)).values()).backward()

    def state():
        grads = [torch.zeros(1) if p.grad is None else p.grad for p in rule.parameters()]
        tensors = [torch.get_rng_state(), noise.get_state(), *rule.state_dict().values(), *grads]
        return [t.clone() for t in tensors]

    before = state()
    objects = (rule.source_of_noise.generator, rule.input_corruption, rule.training)

    with torch.no_grad():
        first = credit.by_layer(rule, x, y)
        torch.rand(3)  # what is measured depends on no one's random numbers
        assert str(credit.by_layer(rule, x, y)) == str(first)

    torch.set_rng_state(before[0])
    credit.by_layer(rule, x, y)

    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    assert (rule.source_of_noise.generator, rule.input_corruption, rule.training) == objects
    assert list(first["cosine"]) == [1, 2, 3]
    assert ("improves" in first) == (cls is DifferenceTargetPropRule)


def test_a_rule_is_left_as_it_was_by_errors_too():
    class Failing(BackpropRule):
        def losses_of(self, x, y, moment):
            raise RuntimeError("no")

    rule = Failing(deep_classifier([8, 6], classes=4).double(), input_corruption=NOISE)
    before = torch.get_rng_state()

    with pytest.raises(RuntimeError, match="no"):
        credit.angles(rule, *data())

    assert rule.input_corruption is NOISE
    assert rule.source_of_noise.generator is None
    assert torch.equal(before, torch.get_rng_state())
