"""What each loss reaches: that of a local rule has d loss / d theta = 0 outside of its own map."""

from functools import partial

import pytest
import torch

from gendae.layers.pair import TiedPair
from gendae.models.architectures import deep_autoencoder, with_labels
from gendae.rules.backstep import BackStepRule
from gendae.rules.by_feedback import FeedbackRule
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning, Iterations
from gendae.rules.differences import DifferenceLoop
from gendae.rules.direct import DirectDifference
from gendae.rules.feedback import Direct, Exact, Partners
from gendae.rules.inverses import FixedWeights, Inverses
from gendae.rules.joint import JointWeights
from gendae.rules.kl import KLRule
from gendae.rules.labelled import LabelledEMRule
from gendae.rules.loops import LoopWeights, ShortAndLongLoops
from gendae.rules.missing import Inferring
from gendae.rules.nudged_em import NudgedEMRule
from gendae.rules.perturbation import (
    BASELINES,
    NodePerturbationRule,
    ReinforceRule,
    WeightPerturbationRule,
)
from gendae.rules.stdp import STDPRule
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.targets import DISCRIMINANT, Hybrid
from gendae.rules.transposes import (
    DifferenceReconstruction,
    LocalDifference,
    Random,
    SignSymmetry,
    WeightMirror,
)
from gendae.rules.variational_em import VariationalEMRule
from tests import roles
from tests.conftest import at, small_stack
from tests.rules import test_backstep, test_difference, test_joint, test_kl


def maps_of(rule):
    """The parameters of each map, f_1, g_1 ..; both maps of a tied pair share W."""
    maps = {}
    for direction, layers in rule.maps().items():
        for level, (layer, *_) in enumerate(layers, 1):
            maps[f"{direction}_{level}"] = list(layer.parameters())

    for level, pair in enumerate(rule.stack.pairs, 1):
        if isinstance(pair, TiedPair):
            maps[f"g_{level}"].append(pair.f.weight)

    return maps


def gradients(rule, loss):
    """The gradients of a loss that it has, by the number of the parameter."""
    if not loss.requires_grad:  # the entropy of a fixed law
        return {}

    parameters = list(rule.stack.parameters())
    values = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {id(p): g for p, g in zip(parameters, values, strict=True) if g is not None}


def own(term):
    """The map of a loss: reconstruct_g_1 is that of g_1."""
    return "_".join(term.split("_")[-2:])


# -- local rules ---------------------------------------------------------------------------------


def levels_of(rule, loss):
    """The layers that a loss reaches, 1 .. L, and M = L + 1 for an output layer."""
    reached = gradients(rule, loss)
    levels = set()
    for name, parameter in rule.stack.named_parameters():
        if id(parameter) in reached and reached[id(parameter)].abs().max() > 0:
            part, level, *_ = name.split(".")
            levels.add(int(level) + 1 if part == "pairs" else rule.stack.depth + 1)

    return levels


@pytest.mark.parametrize("member", roles.RULES, ids=lambda member: member.name)
def test_losses_of_local_rules_stay_in_their_layer(member):
    """And those of the others do not: what roles.py says of each rule is true."""
    rule = member.built()
    losses = rule.losses(member.batch(), at(1))

    far = [t for t, loss in losses.items() if levels_of(rule, loss) - {int(t.split("_")[-1])}]

    assert (far == []) == member.local


def images(n=10, width=8, dtype=torch.float32):
    return (torch.rand(n, width, dtype=dtype),)


def target_prop(units):
    """With every term; a fitted prior gives the top its target."""
    stack = deep_autoencoder([8, 6, 5], None if units else ["tanh"] * 2, units=units)
    stack.prior.fit(stack.encode(*images())[-1])
    loop = ShortAndLongLoops(LoopWeights(model=0.5), top_target="prior")

    return TargetPropRule(stack, loop, contractive=0.2, sparsity=0.1)


def around(units, feedback):
    """The loop of differences."""
    stack = deep_autoencoder([8, 6, 5], None if units else ["tanh"] * 2, units=units)
    return TargetPropRule(stack, DifferenceLoop(feedback(), start=0))


def by_feedback(kind, feedback):
    return FeedbackRule(test_difference.network(kind), feedback(), samples=2)


def difference(kind, options):
    network = test_difference.network(kind)
    return DifferenceTargetPropRule(network, samples=2, step=0.5, **options)


def reinforced(baseline):
    return ReinforceRule(test_difference.network("stochastic"), baseline, samples=2)


def perturbed(rule, kind):
    return rule(test_difference.network(kind), sigma=1.0, samples=2)


def back_step(make):
    return BackStepRule(make(7, 6, 5))


def labels_by_inference():
    return LabelledEMRule(with_labels(deep_autoencoder([8, 6, 5]), classes=3))


def nudged_by_labels():
    return NudgedEMRule(with_labels(deep_autoencoder([8, 6, 5]), classes=3))


def labelled_images():
    return *images(), torch.arange(10) % 4 - 1


FEEDBACK = (
    Direct,
    DirectDifference,
    partial(DirectDifference, hidden=9),
    DifferenceReconstruction,
    Exact,
    FixedWeights,
    Inverses,
    LocalDifference,
    Partners,
    Random,
    SignSymmetry,
    WeightMirror,
)
ROUNDS = Iterations(rounds=3, reconstruct=0.2)
OF_OUTPUT = "inverse_g_4"  # of the output layer: the rule's own, not the stack's
LOCAL = [
    (lambda: VariationalEMRule(small_stack()), images),
    (lambda: STDPRule(small_stack()), images),
    (lambda: STDPRule(small_stack(), slope=True, source="all"), images),
    (labels_by_inference, labelled_images),
    (nudged_by_labels, labelled_images),
    *((partial(target_prop, units), images) for units in (None, "sign", "binary")),
    *(
        (partial(around, units, feedback), images)
        for units in (None, "sign")
        for feedback in FEEDBACK
    ),
    *(
        (partial(difference, kind, options), test_difference.examples)
        for kind in test_difference.KINDS
        for options in (
            {},
            {"difference": False},
            {"iterations": ROUNDS},
            {"inverses": InverseLearning(output=True)},
        )
    ),
    *(
        (partial(by_feedback, kind, feedback), test_difference.examples)
        for kind in test_difference.KINDS
        for feedback in FEEDBACK
    ),
    *((partial(reinforced, baseline), test_difference.examples) for baseline in BASELINES),
    *(
        (partial(perturbed, rule, kind), test_difference.examples)
        for rule in (NodePerturbationRule, WeightPerturbationRule)
        for kind in ("tanh", "bits")
    ),
    *(
        (partial(back_step, make), lambda: (test_backstep.images(),))
        for make in (test_backstep.tied, test_backstep.free)
    ),
]


@pytest.mark.parametrize(("make", "batch"), LOCAL)
def test_no_gradient_crosses_a_layer(make, batch):
    """A loss has gradients for all parameters of its own map, and for no other.

    Those of learned feedback, of baselines and of an output's inverse have them for nothing in
    the stack.
    """
    rule = make()
    maps = maps_of(rule)

    for term, loss in rule.losses(batch(), at(1)).items():
        reached = gradients(rule, loss)
        beside = term.startswith(("feedback", "baseline")) or term == OF_OUTPUT
        learns = [] if beside else maps[own(term)]

        assert reached.keys() == {id(p) for p in learns}, term
        assert loss == 0 or all(g.abs().sum() > 0 for g in reached.values()), term


# -- rules whose losses reach several maps -------------------------------------------------------

KL_FULL = {
    "reconstruction_1": "f_1 g_1",
    "reconstruction_2": "f_1 f_2 g_1 g_2",
    "reconstruction_3": "f_1 f_2 f_3 g_1 g_2 g_3",
    "prior_1": "f_1",
    "prior_2": "f_1 f_2",
    "prior_3": "f_1 f_2 f_3",
    "long_1": "f_2 f_3 g_2 g_3",
    "long_2": "f_3 g_3",
}
KL_WITHIN_LAYER = {
    "reconstruction_1": "f_1 g_1",
    "reconstruction_2": "g_1",
    "reconstruction_3": "g_1",
    "prior_1": "f_1",
    "prior_2": "f_2",
    "prior_3": "f_3",
    "long_1": "g_2",
    "long_2": "f_3 g_3",
    "layer_2": "f_2 g_2",
    "layer_3": "f_3 g_3",
}
#: Each pair below the top is an auto-encoder; inside the top targets travel.
JOINT = {
    "pair_1": "f_1 g_1",
    "pair_2": "f_2 g_2",
    "short_g_1": "g_1",
    "short_g_2": "g_2",
    "short_f_1": "f_1",
    "short_f_2": "f_2",
    "long_g_1": "g_1",
    "long_g_2": "g_2",
    "joint_image_3": "g_3",
    "joint_label_3": "g_3",
    "lack_f_3": "f_3",
    "lack_f_4": "f_4",
    "lack_g_4": "g_4",
    "feedback_f_4": "",
    "feedback_g_4": "",
    "feedback_g_3": "",
    "target_f_1": "f_1",
    "target_f_2": "f_2",
}


def kl(reach):
    rule = KLRule(test_kl.stack_of([12, 8, 6, 4]), reach=reach)
    return rule, images(5, 12, torch.float64)


def joint(discriminant):
    stack = test_joint.stack_of(top=(5, 4))
    rule = test_joint.rule_of(
        stack,
        0.1,
        weights=JointWeights(recirculation=1.0, short=1.0),
        inferring=Inferring(weight=1.0, confidence=0.3),
        hybrid=Hybrid(joint_weight=0.3, discriminant=discriminant),
    )
    return rule, test_joint.batch_of(stack)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(kl, "full"), KL_FULL),
        (partial(kl, "within_layer"), KL_WITHIN_LAYER),
        *((partial(joint, discriminant), JOINT) for discriminant in DISCRIMINANT),
    ],
)
def test_how_far_gradients_travel(make, expected):
    rule, batch = make()
    maps = maps_of(rule)
    losses = rule.losses(batch, at(0))

    assert {term for term in losses if not term.startswith("entropy")} == set(expected)
    for term, names in expected.items():
        moved = {key for key, g in gradients(rule, losses[term]).items() if g.abs().max() > 0}
        reached = [name for name, parameters in maps.items() if moved & set(map(id, parameters))]
        assert reached == names.split(), term
