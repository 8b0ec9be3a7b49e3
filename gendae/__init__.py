"""gendae: deep generative models as stacks of denoising auto-encoders, trained by target propagation.

Names are imported when first used, so that `import gendae` and the command line stay quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "GaussianNoise": "corruption", "SpikeNoise": "corruption",
    "Affine": "layers", "Bernoulli": "layers", "Gaussian": "layers", "Pair": "layers",
    "GaussianPrior": "priors", "parzen_log_prob": "priors",
    "Stack": "stack",
    "GradientInference": "inference", "TargetPropInference": "inference",
    "targetprop_gradient": "inference",
    "AncestralSampler": "sampling", "GenerateSampler": "sampling", "JointChainSampler": "sampling",
    "LatentChainSampler": "sampling", "generate": "sampling",
    "Inpainter": "inpainting", "inpaint": "inpainting", "named_mask": "inpainting",
    "ParzenLogLikelihood": "metrics",
    "importance_weighted_bound": "bounds",
    "data_copying": "quality", "precision_recall_density_coverage": "quality",
    "sample_quality": "quality",
    "VariationalEMRule": "rules",
    "deep_autoencoder": "models",
    "MNIST": "data", "Digits": "data", "Images": "data",
    "load": "persistence", "save": "persistence",
    "load_classifier": "classifier",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name in _HOME:
        return getattr(import_module(f"gendae.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gendae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
