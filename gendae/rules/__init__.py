"""Learning rules: LightningModules that give every layer its own local loss."""

from gendae.rules.backprop import BackpropRule, FeedbackAlignmentRule, StraightThroughRule
from gendae.rules.backstep import BackStepRule
from gendae.rules.core import Rule, TrainingDiverged
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.hebbian import ContrastiveHebbianRule, GeneRecRule
from gendae.rules.joint import JointTargetPropRule
from gendae.rules.kl import KLRule
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule

__all__ = [
    "BackStepRule",
    "BackpropRule",
    "ContrastiveHebbianRule",
    "DifferenceTargetPropRule",
    "FeedbackAlignmentRule",
    "GeneRecRule",
    "JointTargetPropRule",
    "KLRule",
    "Rule",
    "StraightThroughRule",
    "SupervisedRule",
    "TargetPropRule",
    "TrainingDiverged",
    "VariationalEMRule",
]
