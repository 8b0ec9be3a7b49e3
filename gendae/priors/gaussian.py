"""Gaussian priors: fixed, diagonal or full; sampled directly.

Source: Bengio et al. 2014, 7.1 and 7.4; Bengio et al. 2015, Algorithm 2.
"""

import math

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.base import ScaledPrior
from gendae.priors.covariance import COVARIANCES, Covariance
from gendae.registry import register

LOG_2PI = math.log(2.0 * math.pi)


@register
class GaussianPrior(ScaledPrior):
    """N(mean, variance_scale * C), with the mean and covariance C of the training set's codes.

    Source: Bengio et al. 2015, Algorithm 2: diagonal C, variances multiplied by 4. Bengio et al.
    2014, 7.4: N(0, I), fixed ("we might as well choose P(H_L) to have the identity matrix as
    covariance"): pass covariance="identity", variance_scale=1.

    Args:
        covariance: "diagonal" (the 2015 paper's), "full", or "identity": N(0, variance_scale I),
            which has its width from the stack and is never fitted.
        variance_scale: the 2015 paper's multiplier of the (co)variances. It is applied at each
            use, so that it can be changed without fitting again.
        noise: level sigma of the denoising that `reconstruct` stands for, in units of h; a tenth
            of the codes' spread if None, so that it means the same to codes of any scale.

    Attributes:
        noise: that level; a tenth before `fit`.

    Raises:
        ValueError: for another covariance, a multiplier that is not positive or a negative noise;
            and from every use before `fit`.

    Example:
        >>> prior = GaussianPrior("full", variance_scale=1.0)
        >>> codes = torch.tensor([[0., 0.], [2., 0.], [0., 2.], [2., 2.]])
        >>> prior.fit(codes).mean
        tensor([1., 1.])
        >>> prior.score(torch.tensor([[1., 2.]]))
        tensor([[-0.0000, -0.7500]])
    """

    mean: Tensor
    factor: Tensor

    def __init__(
        self,
        covariance: str = "diagonal",
        variance_scale: float = 4.0,
        noise: float | None = None,
    ) -> None:
        super().__init__(noise)
        self.covariance = checks.one_of("covariance", covariance, COVARIANCES)
        self.variance_scale = checks.at_least("variance_scale", variance_scale, 0.0, strict=True)

        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("factor", torch.empty(0))

    @property
    def fixed(self) -> bool:
        """N(0, variance_scale I) is not estimated."""
        return COVARIANCES[self.covariance].fixed

    @property
    def spread(self) -> Covariance:
        """The covariance Sigma = variance_scale * C."""
        self.require_fitted()
        return COVARIANCES[self.covariance](self.factor, self.variance_scale)

    @property
    def variance(self) -> Tensor:
        """Mean of the diagonal of C."""
        return self.factor.square().sum() / len(self.mean)

    def prepare(self, features: int) -> None:
        """Set N(0, I) for this width, if nothing is to be fitted."""
        if self.fixed and len(self.mean) != features:
            self.mean = self.mean.new_zeros(features)
            self.factor = self.mean.new_ones(features)

    def estimate(self, codes: Tensor) -> None:
        """Mean and covariance (n - 1 in the denominator) of the codes.

        "identity" only takes the codes' width.
        """
        mean, factor = COVARIANCES[self.covariance].fit(codes)
        self.mean = mean.to(codes)
        self.factor = factor.to(codes).contiguous()

    def marginal(self, observed: Tensor) -> "GaussianPrior":
        marginal = GaussianPrior(self.covariance, self.variance_scale, self.noise)
        marginal.factor = self.spread.marginal(observed)
        marginal.mean = self.mean[observed]

        return marginal

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,)."""
        spread = self.spread
        z = spread.whiten(h - self.mean)

        return -0.5 * z.square().sum(-1) - self._log_normaliser(spread)

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh = -Sigma^-1 (h - mean), (batch, features)."""
        return -self.spread.solve(h - self.mean)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features), on the prior's device; drawn where `generator` lives."""
        spread = self.spread
        z = normal_like(self.mean.new_empty(n, len(self.mean)), generator)

        return self.mean + spread.root(z)

    def reconstruct(self, h: Tensor) -> Tensor:
        """The optimal denoising of h, (batch, features).

        It is mean + Sigma (Sigma + noise^2 I)^-1 (h - mean).
        To first order in noise^2 it is h + noise^2 score(h). But it stays bounded in directions of
        no variance, where the score blows up.
        Source: Bengio et al. 2014, section 7.1.
        """
        return self.spread.denoise(h, self.mean, self.level)

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-E_Q log p(h), (batch,); without a variance it is -log p(sample).

        It is 1/2 [(m - mu)^T S^-1 (m - mu) + tr(S^-1 diag v) + log det 2 pi S]. With S = I, minus
        the entropy of Q, it is the second term of 2014, Eq. 22.
        """
        if variance is None:
            return -self.log_prob(sample)

        spread = self.spread
        z = spread.whiten(mean - self.mean)
        terms = torch.addcmul(z.square(), variance, spread.precisions)

        return 0.5 * terms.sum(-1) + self._log_normaliser(spread)

    def _log_normaliser(self, spread: Covariance) -> Tensor:
        """1/2 log det 2 pi Sigma."""
        return spread.log_volume + 0.5 * len(self.mean) * LOG_2PI

    def extra_repr(self) -> str:
        return f"{self.covariance!r}, variance_scale={self.variance_scale:g}, fitted={self.fitted}"
