"""A linear top-level auto-encoder, which is a Gaussian prior in disguise (2014, 7.1)."""

import torch
from torch import Tensor

from gendae import checks
from gendae.priors.base import JITTER, NOISE
from gendae.priors.gaussian import GaussianPrior
from gendae.registry import register


@register
class LinearAutoencoderPrior(GaussianPrior):
    """r(h) = W h + b trained to denoise codes, and the Gaussian read off its weights.

    Training minimises the denoising error averaged over the corruption h + sigma N(0, I),

        E |W h + b - h|^2 + sigma^2 |W|^2,    at whose minimum  W = C (C + sigma^2 I)^-1,

    so that r(h) - h = sigma^2 times the score of N(mean, C + sigma^2 I), and the weights give the
    law of the clean codes:  Sigma = sigma^2 ((I - W)^-1 - I),  mu = (I - W)^-1 b.
    Source: Bengio et al. 2014, section 7.1 ("the auto-encoder weights can be mapped to the
    Gaussian covariance (and the biases to the mean) by a simple calculation").

    Args:
        noise: sigma of the corruption, in units of h; a tenth of the codes' spread if None.
            Directions whose standard deviation is far below it are learned slowly.
        variance_scale: multiplier of the covariance when sampling and scoring; `reconstruct` is
            the auto-encoder itself and does not depend on it.
        iterations: most iterations of L-BFGS.

    Raises:
        ValueError: for noise or variance_scale <= 0 or fewer than one iteration.

    Example:
        >>> codes = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 2 + 1
        >>> prior = LinearAutoencoderPrior(noise=1.0).fit(codes)
        >>> bool(torch.allclose(prior.mean, codes.mean(0), atol=1e-3))
        True
    """

    needs_noise = True
    weight: Tensor
    bias: Tensor

    def __init__(
        self, noise: float | None = None, variance_scale: float = 1.0, iterations: int = 500
    ) -> None:
        super().__init__("full", variance_scale, noise)
        self.iterations = checks.whole("iterations", iterations, 1, checks.REPEATS)
        self.register_buffer("weight", torch.empty(0))
        self.register_buffer("bias", torch.empty(0))

    def estimate(self, codes: Tensor) -> None:
        """Train W, b by gradient descent, then read the Gaussian off."""
        wide = codes.cpu().double()
        spread = max(float(wide.var(0, correction=0).mean().sqrt()), self._least(codes))
        sigma = self.given_noise
        if sigma is None:
            sigma = NOISE * spread

        # descent takes the same steps whatever the scale of the codes
        weight, bias = self._train(wide / spread, sigma / spread)
        bias = spread * bias

        eye = torch.eye(len(bias), dtype=wide.dtype)
        inverse = torch.linalg.inv(eye - weight)
        covariance = sigma**2 * (inverse - eye)

        # A covariance read off learned weights may have eigenvalues below zero.
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        least = JITTER * values.clamp(min=0.0).mean() + torch.finfo(codes.dtype).tiny
        covariance = (vectors * values.clamp(min=least)) @ vectors.T
        factor = torch.linalg.cholesky(covariance).contiguous()

        self.mean = (inverse @ bias).to(codes)
        self.factor = factor.to(codes)
        self.weight = weight.to(codes).contiguous()
        self.bias = bias.to(codes)

    def _least(self, codes: Tensor) -> float:
        """A spread that codes have at least: what rounding leaves, where all are one code."""
        precision = torch.finfo(codes.dtype)
        scale = max(float(codes.abs().max()), self.given_noise or 0.0)

        return precision.eps * scale + precision.tiny

    def _train(self, codes: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """W and b at the criterion's minimum; only the first two moments of the codes enter it."""
        d = codes.shape[1]
        mean = codes.mean(0)
        c = torch.cov(codes.T, correction=0).reshape(d, d)

        eye = torch.eye(d, dtype=codes.dtype)
        weight = torch.zeros_like(eye).requires_grad_()
        bias = mean.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=self.iterations,
            max_eval=2 * self.iterations,
            history_size=20,
            tolerance_grad=1e-12,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            rest = weight - eye
            loss = ((rest @ c) * rest).sum() + (rest @ mean + bias).square().sum()
            loss = loss + sigma**2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)

        return weight.detach(), bias.detach()

    def reconstruct(self, h: Tensor) -> Tensor:
        """The auto-encoder's own r(h) = W h + b, (batch, features)."""
        self.require_fitted()
        return torch.nn.functional.linear(h, self.weight, self.bias)
