"""gendae: deep generative models and classifiers as stacks of auto-encoders.

They are trained by target propagation. Names are imported when first used, so that `import gendae`
and the command line stay quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Corruption": "corruption",
    "FlipNoise": "corruption",
    "GaussianNoise": "corruption",
    "NeighbourNoise": "corruption",
    "RelativeNoise": "corruption",
    "SpikeNoise": "corruption",
    "Law": "laws",
    "Bernoulli": "laws",
    "Discrete": "laws",
    "Gaussian": "laws",
    "Categorical": "laws",
    "LearnedGaussian": "laws",
    "Affine": "layers.affine",
    "MLP": "layers.mlp",
    "Pair": "layers.pair",
    "TiedPair": "layers.pair",
    "InvertibleAffine": "layers.invertible",
    "InvertiblePair": "layers.invertible",
    "OptimizingPair": "layers.optimized",
    "optimize_code": "layers.optimized",
    "Prior": "priors.base",
    "AutoencoderPrior": "priors.autoencoder",
    "FactorialPrior": "priors.factorial",
    "GaussianPrior": "priors.gaussian",
    "LinearAutoencoderPrior": "priors.linear",
    "ParzenPrior": "priors.parzen",
    "parzen_log_prob": "priors.parzen",
    "Stack": "models.stack",
    "Classifier": "models.classifier",
    "EachModality": "models.modalities",
    "Modality": "models.modalities",
    "Junction": "models.modalities",
    "JointStack": "models.joint",
    "Inference": "inference",
    "GradientInference": "inference",
    "TargetPropInference": "inference",
    "targetprop_gradient": "inference",
    "Sampler": "sampling.samplers",
    "AncestralSampler": "sampling.samplers",
    "GenerateSampler": "sampling.samplers",
    "JointChainSampler": "sampling.samplers",
    "LatentChainSampler": "sampling.samplers",
    "generate": "sampling.samplers",
    "LevelSampler": "sampling.level",
    "chain_states": "sampling.level",
    "chain_report": "metrics.chains",
    "nearest_neighbour_sigma": "metrics.chains",
    "signal_dimensions": "metrics.chains",
    "Annealing": "completion.annealing",
    "Completer": "completion.completer",
    "complete": "completion.modalities",
    "Inpainter": "completion.inpainting",
    "inpaint": "completion.inpainting",
    "named_mask": "completion.inpainting",
    "ParzenLogLikelihood": "metrics.parzen",
    "importance_weighted_bound": "metrics.bounds",
    "data_copying": "metrics.neighbours",
    "precision_recall_density_coverage": "metrics.neighbours",
    "sample_quality": "metrics.quality",
    "JointTargetPropRule": "rules.joint",
    "KLRule": "rules.kl",
    "TargetPropRule": "rules.targetprop",
    "VariationalEMRule": "rules.variational_em",
    "BackStepRule": "rules.backstep",
    "BackpropRule": "rules.backprop",
    "ContrastiveHebbianRule": "rules.hebbian",
    "DifferenceTargetPropRule": "rules.difference",
    "FeedbackAlignmentRule": "rules.backprop",
    "GeneRecRule": "rules.hebbian",
    "StraightThroughRule": "rules.backprop",
    "angles": "rules.credit",
    "inverse_error": "rules.credit",
    "target_improvement": "rules.credit",
    "Graphs": "training.graphs",
    "deep_autoencoder": "models.architectures",
    "deep_classifier": "models.architectures",
    "stack_of": "models.architectures",
    "joint_autoencoder": "models.architectures",
    "MNIST": "data.images",
    "Digits": "data.images",
    "Images": "data.images",
    "Shards": "data.shards",
    "Toys2D": "data.toys",
    "Multimodal": "data.multimodal",
    "Arrays": "data.multimodal",
    "register": "registry",
    "load": "storage.model_file",
    "save": "storage.model_file",
    "pretrained_classifier": "storage.model_file",
    "FeatureClassifier": "metrics.features",
    "load_feature_classifier": "metrics.features",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _HOME:
        raise AttributeError(f"module 'gendae' has no attribute {name!r}")

    module = import_module(f"gendae.{_HOME[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
