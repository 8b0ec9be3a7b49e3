"""scikit-learn's contract: `fit` and `get_params`, for pipelines, searches and cross-validation.

| file | holds |
|---|---|
| `stacked` | `StackedDAE`: codes, samples and a density of rows |
| `classifier` | `TargetPropClassifier`: difference target propagation |
| `imputer` | `DAEImputer`: missing cells filled by clamped inference |
| `parzen` | `ParzenDensity`: what `KernelDensity` computes, where a tree is of no use |
| `scale` | the units of features, and how the network sees them |
| `base` | training without a Trainer: quiet, and repeatable by `random_state` |

Parameters are stored as they are given and checked by `fit`. Features whose values all lie in
[0, 1] are pixels: the network sees them as they are, and its visible units are sigmoids. Any
others are standardised inside, visible units are linear, and what comes out is in their own units.
"""

from gendae.estimators.classifier import TargetPropClassifier
from gendae.estimators.imputer import DAEImputer
from gendae.estimators.parzen import ParzenDensity
from gendae.estimators.stacked import StackedDAE

__all__ = ["DAEImputer", "ParzenDensity", "StackedDAE", "TargetPropClassifier"]
