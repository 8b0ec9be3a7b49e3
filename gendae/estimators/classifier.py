"""Difference target propagation as an estimator."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from gendae import checks
from gendae.corruption import RelativeNoise
from gendae.estimators.base import Network, validated
from gendae.estimators.scale import Scale
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier
from gendae.rules.difference import DifferenceTargetPropRule

if TYPE_CHECKING:
    from typing_extensions import Self

    Rows = Any


class TargetPropClassifier(ClassifierMixin, Network):
    """A feed-forward network that learns without back-propagation through its layers.

    Every hidden layer has a target, which comes down through learned inverses; see
    `DifferenceTargetPropRule`. With one hidden layer that is the gradient itself.

    Args:
        hidden: widths of the hidden layers, of tanh units.
        epochs, batch_size, learning_rate: of the training; the rate is held for half of it and
            then declines to 0.
        corruption: noise on x in training, as a part of the spread of x.
        random_state: of weights and noise; None draws from NumPy's global state.
        device: where it learns: cpu, cuda, cuda:0, mps.
        verbose: show a bar on standard error.

    Attributes:
        classes_: the labels, sorted.
        stack_: the network, a `gendae.Classifier`, which sees scaled rows.
        scale_: how rows are scaled.
        n_features_in_, feature_names_in_: of the rows of `fit`.

    Raises:
        ValueError: by `fit`, for parameters out of range and rows that do not fit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> bool(TargetPropClassifier((20, 20), random_state=0).fit(x, y).score(x, y) > 0.9)
        True
    """

    stack_: Classifier

    def __init__(
        self,
        hidden: Sequence[int] = (200, 200),
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 3e-3,
        corruption: float = 0.0,
        random_state: Any = None,  # noqa: ANN401 - as scikit-learn takes it
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden

        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.corruption = corruption

        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: "Rows", y: "Rows") -> "Self":
        """Learn labels of any type, (n,), of rows, (n, features)."""
        x, y = validated(self, X, y, dtype=np.float64)
        check_classification_targets(y)

        self.classes_, labels = np.unique(y, return_inverse=True)
        self.scale_ = Scale.of(x)
        with self._repeatable() as generator:
            rule = self._rule(x)
            y = torch.as_tensor(labels, device=rule.stack.device)
            self._train(rule, (self._seen(x), y), generator)

        self._settle()
        return self

    def _rule(self, x: np.ndarray) -> DifferenceTargetPropRule:
        network = deep_classifier(self._sizes(x.shape[1]), len(self.classes_))
        self._centre(network, x)

        noise = RelativeNoise(checks.at_least("corruption", self.corruption, 0.0))
        return DifferenceTargetPropRule(
            network.to(checks.device(self.device)), input_corruption=noise, rates=self._rates()
        )

    def predict_proba(self, X: "Rows") -> np.ndarray:
        """p(y | x) in the order of `classes_`, (n, classes)."""
        check_is_fitted(self)
        x = validated(self, X, dtype=np.float64, reset=False)

        return self.stack_.predict(self._used(x)).cpu().numpy()

    def predict(self, X: "Rows") -> np.ndarray:
        """The most probable label of each row, (n,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]
