"""The Parzen density as an estimator."""

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from gendae import checks
from gendae.estimators.base import draws_of, validated
from gendae.priors.parzen import ParzenPrior

if TYPE_CHECKING:
    from typing_extensions import Self

    Rows = Any

RULES = ("scott", "silverman")


class ParzenDensity(BaseEstimator):
    """Kernel density with Gaussian windows, exact at any width.

    p(x) = 1/n sum_i N(x; x_i, bandwidth^2 I)

    It gives what `sklearn.neighbors.KernelDensity` gives with its default kernel, to rounding, and
    the same samples. That one walks down a tree, which leaves nothing out at hundreds of features;
    here all distances are one product of matrices, in double precision and bounded memory.

    Args:
        bandwidth: deviation of a window, in units of the features; "scott" or "silverman".
        device: where distances are computed; one with double precision.

    Attributes:
        bandwidth_: the deviation in use.
        n_features_in_, feature_names_in_: of the rows of `fit`.

    Raises:
        ValueError: by `fit`, for a bandwidth <= 0 or an unknown rule.

    Example:
        >>> density = ParzenDensity(bandwidth=1.0).fit([[0.0], [2.0]])
        >>> density.score_samples([[1.0]]).round(4)
        array([-1.4189])
        >>> density.sample(3, random_state=0).shape
        (3, 1)
    """

    def __init__(self, bandwidth: float | str = 1.0, device: str = "cpu") -> None:
        self.bandwidth = bandwidth
        self.device = device

    def fit(self, X: "Rows", y: None = None) -> "Self":
        """Keep the rows, (n, features), as centres of the windows."""
        x = validated(self, X, dtype=np.float64)
        self.bandwidth_ = self._bandwidth(*x.shape)

        self.windows_ = ParzenPrior(self.bandwidth_, leave_one_out=False, noise_scale=1.0)
        self.windows_.codes = torch.tensor(x, device=checks.device(self.device))
        self.windows_.bandwidth_ = self.windows_.codes.new_tensor(self.bandwidth_)
        self.windows_.noise_scale_ = self.windows_.codes.new_tensor(1.0)
        return self

    def _bandwidth(self, n: int, features: int) -> float:
        """The number that `bandwidth` stands for."""
        if isinstance(self.bandwidth, Real):
            return checks.at_least("bandwidth", float(self.bandwidth), 0.0, strict=True)

        rule = checks.one_of("bandwidth", str(self.bandwidth), RULES)
        rows = float(n)
        if rule == "silverman":
            rows *= (features + 2) / 4

        return math.pow(rows, -1 / (features + 4))

    def score_samples(self, X: "Rows") -> np.ndarray:
        """Log density of each row, in nats, (n,)."""
        check_is_fitted(self)
        x = validated(self, X, dtype=np.float64, reset=False)
        h = torch.tensor(x, device=self.windows_.codes.device)

        return self.windows_.log_prob(h).cpu().numpy()

    def score(self, X: "Rows", y: None = None) -> float:
        """Log density of all rows together, as `KernelDensity.score`: their sum."""
        return float(self.score_samples(X).sum())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:  # noqa: ANN401
        """Rows drawn from the density, (n_samples, features)."""
        check_is_fitted(self)
        n = checks.whole("n_samples", n_samples, 1)
        centres = self.windows_.codes.cpu().numpy()

        # the order of KernelDensity's draws
        draws = draws_of(random_state)
        index = (draws.uniform(0, 1, size=n) * len(centres)).astype(np.int64)
        return draws.normal(centres[index], self.bandwidth_)
