"""Learning rules: LightningModules that give every layer its own local loss."""

from gendae.rules.core import Rule, TrainingDiverged
from gendae.rules.kl import KLRule
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule

__all__ = ["KLRule", "Rule", "TargetPropRule", "TrainingDiverged", "VariationalEMRule"]
