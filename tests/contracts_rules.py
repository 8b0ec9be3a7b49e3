"""Contracts of learning rules: each on a stack that it trains, and whose parameters a loss may move."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from gendae import rules
from gendae.corruption import GaussianNoise, SpikeNoise
from gendae.layers import TiedPair
from gendae.models import stack_of
from gendae.priors import GaussianPrior
from tests.contracts import image_with_label, index, unit
from tests.contracts_models import classifier, joint_stack, stack


@dataclass(frozen=True)
class RuleCase:
    """A rule with a stack and batches; `local`: no loss reaches another layer than its own."""

    rule: type
    make: Callable[[], rules.Rule]
    rows: tuple = (unit(8),)
    local: bool = True
    variant: str = ""

    @property
    def id(self) -> str:
        return f"{self.rule.__name__}{f'[{self.variant}]' if self.variant else ''}"

    def batch(self, n, dtype=torch.float64):
        g = torch.Generator().manual_seed(1)
        parts = [rows(g)[:n] for rows in self.rows]
        return [x.to(dtype) if x.is_floating_point() else x for x in parts]

    def built(self, dtype=torch.float64):
        torch.manual_seed(0)
        rule = self.make().to(dtype)
        rule.generator = torch.Generator().manual_seed(0)
        return rule


def identity_top():
    return stack(noise=0.3, prior=GaussianPrior("identity", 1.0))


def cases():
    yield RuleCase(rules.VariationalEMRule, lambda: rules.VariationalEMRule(stack()))
    yield RuleCase(
        rules.VariationalEMRule,
        lambda: rules.VariationalEMRule(
            stack(hidden_f=[5]),
            decoder_corruption=[GaussianNoise(0.1)] * 2,
            prior_codes="inferred",
        ),
        variant="decoder noise",
    )
    yield RuleCase(rules.TargetPropRule, lambda: rules.TargetPropRule(stack()))
    yield RuleCase(
        rules.TargetPropRule,
        lambda: rules.TargetPropRule(
            stack(),
            [GaussianNoise(0.3), GaussianNoise(0.3), SpikeNoise(2)],
            contractive=0.1,
            sparsity=0.1,
            model=0.5,
            top_target="prior",
        ),
        variant="all terms",
    )
    yield RuleCase(
        rules.TargetPropRule, lambda: rules.TargetPropRule(stack(units="sign")), variant="signs"
    )
    yield RuleCase(
        rules.BackStepRule, lambda: rules.BackStepRule(stack_of([TiedPair(8, 6), TiedPair(6, 4)]))
    )
    yield RuleCase(rules.KLRule, lambda: rules.KLRule(identity_top()), local=False)
    yield RuleCase(
        rules.KLRule,
        lambda: rules.KLRule(identity_top(), reach="within_layer"),
        local=False,
        variant="within_layer",
    )
    joint = (image_with_label,)
    yield RuleCase(
        rules.JointTargetPropRule, lambda: rules.JointTargetPropRule(joint_stack()), joint
    )
    yield RuleCase(
        rules.JointTargetPropRule,
        lambda: rules.JointTargetPropRule(
            joint_stack(), joint_weight=0.5, recirculation=0.5, walkback=1, inferred=0.5
        ),
        joint,
        variant="all terms",
    )
    labelled = (unit(8), index(3))
    plain = {
        rules.BackpropRule: False,
        rules.DifferenceTargetPropRule: True,
        rules.FeedbackAlignmentRule: True,
        rules.GeneRecRule: True,
        rules.ContrastiveHebbianRule: True,
    }
    for rule, local in plain.items():
        yield RuleCase(rule, lambda rule=rule: rule(classifier()), labelled, local)
    yield RuleCase(
        rules.StraightThroughRule,
        lambda: rules.StraightThroughRule(classifier(stochastic=True)),
        labelled,
        False,
    )
    drawn = partial(classifier, stochastic=True)
    options = {
        "drawn": lambda: rules.DifferenceTargetPropRule(
            drawn(), samples=3, input_corruption=GaussianNoise(0.1)
        ),
        "rounds": lambda: rules.DifferenceTargetPropRule(classifier(), rounds=3, reconstruct=0.5),
        "plain": lambda: rules.DifferenceTargetPropRule(
            classifier(bits=[1]), difference=False, scaled=False
        ),
    }
    for name, make in options.items():
        yield RuleCase(rules.DifferenceTargetPropRule, make, labelled, variant=name)


RULES = list(cases())
