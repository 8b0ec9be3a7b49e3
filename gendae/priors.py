"""P(h_L): densities over the top-level representation, fitted on codes, and the Parzen density.

A prior is fitted on the codes of the training set once the layers are trained (2015, Algorithm 2, last
lines); during training it counts as a very broad, uniform one and is ignored.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.spec import register


class Prior(nn.Module):
    """Base class: a density over h_L with `fit`, `log_prob`, `score` and `sample`.

    Fitted numbers are buffers, empty until `fit`; a state dict brings their shapes with it.
    """

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called, or fitted numbers were loaded."""
        return all(buffer.numel() > 0 for buffer in self.buffers(recurse=False))

    def require_fitted(self) -> None:
        """Raise a ValueError unless the prior is fitted."""
        if not self.fitted:
            raise ValueError(f"{type(self).__name__} is not fitted; call prior.fit(codes) with the "
                             "top-level codes of the training set first")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name, buffer in list(self.named_buffers(recurse=False)):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


COVARIANCES = ("diagonal", "full")


@register
class GaussianPrior(Prior):
    """N(mean, variance_scale * C), with the mean and covariance C of the training set's codes.

    Source: Bengio et al. 2015, Algorithm 2: diagonal C, variances multiplied by 4.

    Args:
        covariance: "diagonal" (the paper's) or "full".
        variance_scale: the paper's multiplier of the (co)variances; applied when sampling, so that it
            can be changed without fitting again.

    Raises:
        ValueError: for another covariance or a multiplier that is not positive; and from every use
            before `fit`.

    Example:
        >>> prior = GaussianPrior("full", variance_scale=1.0)
        >>> codes = torch.tensor([[0., 0.], [2., 0.], [0., 2.], [2., 2.]])
        >>> prior.fit(codes).mean
        tensor([1., 1.])
        >>> prior.score(torch.tensor([[1., 2.]]))
        tensor([[-0.0000, -0.7500]])
    """

    #: Share of the mean variance added to the diagonal, so that dead units leave C positive definite.
    JITTER = 1e-6

    def __init__(self, covariance: str = "diagonal", variance_scale: float = 4.0) -> None:
        super().__init__()
        self.covariance = checks.one_of("covariance", covariance, COVARIANCES)
        self.variance_scale = checks.at_least("variance_scale", variance_scale, 0.0, strict=True)
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("factor", torch.empty(0))

    def fit(self, codes: Tensor) -> "GaussianPrior":
        """Set the mean and covariance (n - 1 in the denominator) to those of the codes, (n, features).

        Raises:
            ValueError: for fewer than two codes, or codes with NaN or infinite values.
        """
        if codes.ndim != 2 or len(codes) < 2:
            raise ValueError(f"codes has shape {tuple(codes.shape)}; at least two rows are needed")
        wide = checks.finite("codes", codes).detach().cpu().double()  # not every device has it
        mean = wide.mean(0)
        if self.covariance == "full":
            c = torch.cov(wide.T).reshape(len(mean), len(mean))
            c.diagonal().add_(self.JITTER * c.diagonal().mean() + torch.finfo(codes.dtype).tiny)
            factor = torch.linalg.cholesky(c)
        else:
            variance = wide.var(0)
            factor = (variance + self.JITTER * variance.mean() + torch.finfo(codes.dtype).tiny).sqrt()
        self.mean, self.factor = mean.to(codes), factor.to(codes)
        return self

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
        scales = self.factor.diagonal() if self.covariance == "full" else self.factor
        log_volume = scales.log().sum() + 0.5 * len(scales) * math.log(self.variance_scale)
        return -0.5 * z.square().sum(-1) - log_volume - 0.5 * len(scales) * math.log(2 * math.pi)

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
        device = self.mean.device if generator is None else generator.device
        z = torch.randn(n, len(self.mean), generator=generator, device=device, dtype=self.mean.dtype)
        z = z.to(self.mean.device)
        spread = z @ self.factor.T if self.covariance == "full" else z * self.factor
        return self.mean + math.sqrt(self.variance_scale) * spread

    def extra_repr(self) -> str:
        return f"{self.covariance!r}, variance_scale={self.variance_scale:g}, fitted={self.fitted}"


#: Most entries of the distance matrix held at a time: 32 MiB in float64.
BLOCK_ENTRIES = 2**22


def parzen_log_prob(x: Tensor, samples: Tensor, sigma: float | Sequence[float] | Tensor) -> Tensor:
    """Log density of x under a Parzen window: the mean of isotropic Gaussians centred on samples.

    log p(x) = log (1/n) sum_j exp(-|x - s_j|^2 / (2 sigma^2)) - D log(sigma sqrt(2 pi))

    Source: the estimator behind the log-likelihoods of 2015, section 8 (Breuleux et al. 2011). Distances
    are computed once for all sigmas, in float64 and in bounded memory: the result does not depend on the
    matmul precision, TF32 or autocast setting in force.

    Args:
        x: points, (m, D).
        samples: centres s_j, (n, D).
        sigma: bandwidth in pixel units; a number, or several.

    Returns:
        Nats in float64: (m,) for a number, (k, m) for k bandwidths.

    Raises:
        ValueError: for widths that differ, no samples, NaN or infinite values, or sigma <= 0.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> parzen_log_prob(x, torch.tensor([[0.0]]), 1.0)
        tensor([-0.9189, -1.4189], dtype=torch.float64)
    """
    checks.width("x", x, samples.shape[-1])
    checks.width("samples", samples, x.shape[-1])
    if len(samples) == 0:
        raise ValueError("samples is empty; a Parzen window needs at least one centre")
    single = isinstance(sigma, int | float) or (isinstance(sigma, Tensor) and sigma.ndim == 0)
    sigmas = [float(s) for s in ([sigma] if single else sigma)]
    for s in sigmas:
        checks.at_least("sigma", s, 0.0, strict=True)
    out_device = x.device
    if out_device.type == "mps":  # no float64 there
        x, samples = x.cpu(), samples.cpu()
    centre = checks.finite("samples", samples).double().mean(0)
    x64, s64 = checks.finite("x", x).double() - centre, samples.double() - centre
    half_norm = 0.5 * s64.square().sum(1)
    rows = max(1, BLOCK_ENTRIES // len(s64))
    log_p = torch.empty(len(sigmas), len(x64), dtype=torch.float64, device=x64.device)
    with torch.autocast(x64.device.type, enabled=False):
        for start in range(0, len(x64), rows):
            block = slice(start, start + rows)
            # -|x - s|^2 / 2 = x.s - |s|^2 / 2 - |x|^2 / 2; the last term is the same for all s
            affinity = torch.addmm(half_norm, x64[block], s64.T, beta=-1)
            base = 0.5 * x64[block].square().sum(1)
            for i, s in enumerate(sigmas):
                log_p[i, block] = _log_mean_exp(affinity, s**2) - base / s**2
    for i, s in enumerate(sigmas):
        log_p[i] -= x.shape[1] * math.log(s * math.sqrt(2 * math.pi))
    log_p = log_p.to(out_device)
    return log_p[0] if single else log_p


def _log_mean_exp(affinity: Tensor, variance: float) -> Tensor:
    """log mean_j exp(affinity_ij / variance); the exponentials, all <= 1, in float32."""
    top = affinity.max(1, keepdim=True).values
    exponent = (affinity - top).div_(variance).float()
    return top[:, 0] / variance + exponent.exp_().sum(1).double().div_(affinity.shape[1]).log()
