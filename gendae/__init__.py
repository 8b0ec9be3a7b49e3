"""gendae: deep generative models and classifiers as stacks of auto-encoders.

They are trained by target propagation. Names are imported when first used, so that `import gendae`
and the command line stay quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "FlipNoise": "corruption",
    "GaussianNoise": "corruption",
    "NeighbourNoise": "corruption",
    "RelativeNoise": "corruption",
    "SpikeNoise": "corruption",
    "Bernoulli": "conditionals",
    "Discrete": "conditionals",
    "Gaussian": "conditionals",
    "Categorical": "conditionals",
    "LearnedGaussian": "conditionals",
    "Affine": "layers",
    "MLP": "layers",
    "Pair": "layers",
    "TiedPair": "layers",
    "InvertibleAffine": "invertible",
    "InvertiblePair": "invertible",
    "OptimizingPair": "optimized",
    "optimize_code": "optimized",
    "AutoencoderPrior": "priors",
    "FactorialPrior": "priors",
    "GaussianPrior": "priors",
    "LinearAutoencoderPrior": "priors",
    "ParzenPrior": "priors",
    "parzen_log_prob": "priors",
    "Stack": "stack",
    "Classifier": "classifier",
    "EachModality": "modalities",
    "Modality": "modalities",
    "Junction": "modalities",
    "JointStack": "joint",
    "GradientInference": "inference",
    "TargetPropInference": "inference",
    "targetprop_gradient": "inference",
    "AncestralSampler": "sampling",
    "GenerateSampler": "sampling",
    "JointChainSampler": "sampling",
    "LatentChainSampler": "sampling",
    "generate": "sampling",
    "LevelSampler": "levels",
    "chain_states": "levels",
    "chain_report": "diagnostics",
    "nearest_neighbour_sigma": "diagnostics",
    "signal_dimensions": "diagnostics",
    "Completer": "clamping",
    "complete": "completion",
    "Inpainter": "inpainting",
    "inpaint": "inpainting",
    "named_mask": "inpainting",
    "ParzenLogLikelihood": "metrics",
    "importance_weighted_bound": "bounds",
    "data_copying": "neighbours",
    "precision_recall_density_coverage": "neighbours",
    "sample_quality": "quality",
    "JointTargetPropRule": "rules",
    "KLRule": "rules",
    "TargetPropRule": "rules",
    "VariationalEMRule": "rules",
    "BackStepRule": "rules",
    "BackpropRule": "rules",
    "ContrastiveHebbianRule": "rules",
    "DifferenceTargetPropRule": "rules",
    "FeedbackAlignmentRule": "rules",
    "GeneRecRule": "rules",
    "StraightThroughRule": "rules",
    "angles": "credit",
    "inverse_error": "credit",
    "target_improvement": "credit",
    "deep_autoencoder": "models",
    "deep_classifier": "models",
    "stack_of": "models",
    "joint_autoencoder": "models",
    "MNIST": "data",
    "Digits": "data",
    "Images": "data",
    "Shards": "shards",
    "Toys2D": "toys",
    "Multimodal": "multimodal",
    "Arrays": "multimodal",
    "load": "persistence",
    "save": "persistence",
    "pretrained_classifier": "persistence",
    "FeatureClassifier": "features",
    "load_feature_classifier": "features",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _HOME:
        raise AttributeError(f"module 'gendae' has no attribute {name!r}")

    module = import_module(f"gendae.{_HOME[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
