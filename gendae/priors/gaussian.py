"""Gaussian priors: fixed, diagonal or full; sampled directly.

Source: Bengio et al. 2014, 7.1 and 7.4; Bengio et al. 2015, Algorithm 2.
"""

import math

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.priors.base import JITTER, Prior, floored
from gendae.registry import register

COVARIANCES = ("diagonal", "full")  # the fitted ones
LOG_2PI = math.log(2.0 * math.pi)


@register
class GaussianPrior(Prior):
    """N(mean, variance_scale * C), with the mean and covariance C of the training set's codes.

    Source: Bengio et al. 2015, Algorithm 2: diagonal C, variances multiplied by 4. Bengio et al.
    2014, 7.4: N(0, I), fixed ("we might as well choose P(H_L) to have the identity matrix as
    covariance"): pass covariance="identity", variance_scale=1.

    Args:
        covariance: "diagonal" (the 2015 paper's), "full", or "identity": N(0, variance_scale I),
            which has its width from the stack and is never fitted.
        variance_scale: the 2015 paper's multiplier of the (co)variances. It is applied at each
            use, so that it can be changed without fitting again.
        noise: level sigma of the denoising that `reconstruct` stands for, in units of h.

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

    def __init__(
        self, covariance: str = "diagonal", variance_scale: float = 4.0, noise: float = 0.1
    ) -> None:
        super().__init__()
        self.covariance = checks.one_of("covariance", covariance, (*COVARIANCES, "identity"))
        self.variance_scale = checks.at_least("variance_scale", variance_scale, 0.0, strict=True)
        self.noise = checks.at_least("noise", noise, 0.0)

        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("factor", torch.empty(0))

    @property
    def fixed(self) -> bool:
        """N(0, variance_scale I) is not estimated."""
        return self.covariance == "identity"

    def prepare(self, features: int) -> None:
        """Set N(0, I) for this width, if the covariance is "identity"."""
        if self.covariance == "identity" and len(self.mean) != features:
            self.mean = self.mean.new_zeros(features)
            self.factor = self.mean.new_ones(features)

    def estimate(self, codes: Tensor) -> None:
        """Mean and covariance (n - 1 in the denominator) of the codes.

        "identity" only takes the codes' width.
        """
        if self.covariance == "identity":
            self.prepare(codes.shape[1])
            self.mean = self.mean.to(codes)
            self.factor = self.factor.to(codes)
            return

        wide = codes.cpu().double()  # not every device has float64
        mean = wide.mean(0)
        if self.covariance == "full":
            c = torch.cov(wide.T).reshape(len(mean), len(mean))
            c.diagonal().add_(JITTER * c.diagonal().mean() + torch.finfo(codes.dtype).tiny)
            factor = torch.linalg.cholesky(c)
        else:
            factor = floored(wide.var(0), codes.dtype).sqrt()

        self.mean = mean.to(codes)
        self.factor = factor.to(codes).contiguous()

    def marginal(self, observed: Tensor) -> "GaussianPrior":
        self.require_fitted()

        marginal = GaussianPrior(self.covariance, self.variance_scale)
        marginal.mean = self.mean[observed]
        if self.covariance == "full":
            rows = self.factor[observed]
            marginal.factor = torch.linalg.cholesky(rows @ rows.T)
        else:
            marginal.factor = self.factor[observed]

        return marginal

    def _whiten(self, h: Tensor) -> Tensor:
        """F^-1 (h - mean), where F F^T = variance_scale * C."""
        self.require_fitted()

        centred = (h - self.mean) / math.sqrt(self.variance_scale)
        if self.covariance == "full":
            return torch.linalg.solve_triangular(self.factor, centred.T, upper=False).T
        return centred / self.factor

    def log_prob(self, h: Tensor) -> Tensor:
        """log p(h) in nats, (batch,)."""
        z = self._whiten(h)

        scales = self.factor
        if self.covariance == "full":
            scales = self.factor.diagonal()
        log_volume = scales.log().sum() + 0.5 * len(scales) * math.log(self.variance_scale)

        return -0.5 * z.square().sum(-1) - log_volume - 0.5 * len(scales) * LOG_2PI

    def score(self, h: Tensor) -> Tensor:
        """d log p(h) / dh = -Sigma^-1 (h - mean), (batch, features)."""
        z = self._whiten(h)
        if self.covariance == "full":
            z = torch.linalg.solve_triangular(self.factor.T, z.T, upper=True).T
        else:
            z = z / self.factor

        return -z / math.sqrt(self.variance_scale)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """n draws, (n, features), on the prior's device; drawn where `generator` lives."""
        self.require_fitted()

        z = normal_like(self.mean.new_empty(n, len(self.mean)), generator)
        if self.covariance == "full":
            spread = z @ self.factor.T
        else:
            spread = z * self.factor

        return self.mean + math.sqrt(self.variance_scale) * spread

    def reconstruct(self, h: Tensor) -> Tensor:
        """The optimal denoising of h, (batch, features).

        It is mean + Sigma (Sigma + noise^2 I)^-1 (h - mean).
        To first order in noise^2 it is h + noise^2 score(h). But it stays bounded in directions of
        no variance, where the score blows up.
        Source: Bengio et al. 2014, section 7.1.
        """
        self.require_fitted()

        centred = h - self.mean
        if self.covariance != "full":
            variance = self.variance_scale * self.factor.square()
            return self.mean + centred * (variance / (variance + self.noise**2))

        noisy = self.variance_scale * self.factor @ self.factor.T
        noisy.diagonal().add_(self.noise**2)
        root = torch.linalg.cholesky_ex(noisy).L  # checks nothing, so that no device waits

        return h - self.noise**2 * torch.cholesky_solve(centred.T, root).T

    def cross_entropy(
        self, sample: Tensor, mean: Tensor, variance: Tensor | None = None
    ) -> Tensor:
        """-E_Q log p(h), (batch,); without a variance it is -log p(sample).

        It is 1/2 [(m - mu)^T S^-1 (m - mu) + tr(S^-1 diag v) + log det 2 pi S]. With S = I, minus
        the entropy of Q, it is the second term of 2014, Eq. 22.
        """
        if variance is None:
            return -self.log_prob(sample)

        self.require_fitted()
        if self.covariance == "full":
            eye = torch.eye(len(self.mean), dtype=self.factor.dtype, device=self.factor.device)
            inverse = torch.linalg.solve_triangular(self.factor, eye, upper=False)
            precision = inverse.square().sum(0) / self.variance_scale
        else:
            precision = 1.0 / (self.variance_scale * self.factor.square())

        return -self.log_prob(mean) + 0.5 * (variance * precision).sum(-1)

    def extra_repr(self) -> str:
        return f"{self.covariance!r}, variance_scale={self.variance_scale:g}, fitted={self.fitted}"
