"""Covariances of a Gaussian prior, each by a factor F and a multiplier c: Sigma = c F F^T.

| covariance | factor | fitted |
|---|---|---|
| diagonal | standard deviations, (d,) | yes |
| full | lower triangular, (d, d) | yes |
| identity | ones, (d,) | no |

They act on rows: `solve` is Sigma^-1, `root` and `whiten` are sqrt(c) F and its inverse.
"""

import math

import torch
from torch import Tensor

from gendae.priors.base import JITTER, floored


class Covariance:
    """Sigma = scale F F^T.

    Args:
        factor: F.
        scale: c, the multiplier.

    Attributes:
        fixed: whether `fit` looks at no more than the width of the codes.
    """

    fixed = False

    def __init__(self, factor: Tensor, scale: float = 1.0) -> None:
        self.factor = factor
        self.scale = scale

    @staticmethod
    def fit(codes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and factor of codes (n, d), n - 1 in the denominator; in float64 on the CPU."""
        raise NotImplementedError

    @property
    def log_volume(self) -> Tensor:
        """1/2 log det Sigma."""
        scales = self.deviations
        return scales.log().sum() + 0.5 * len(scales) * math.log(self.scale)

    @property
    def deviations(self) -> Tensor:
        """Diagonal of F, whose product is the root of det F F^T, (d,)."""
        raise NotImplementedError

    @property
    def precisions(self) -> Tensor:
        """Diagonal of Sigma^-1, (d,)."""
        raise NotImplementedError

    def whiten(self, h: Tensor) -> Tensor:
        """F^-1 h / sqrt(c): rows with this covariance get unit covariance."""
        raise NotImplementedError

    def solve(self, h: Tensor) -> Tensor:
        """Sigma^-1 h."""
        raise NotImplementedError

    def root(self, z: Tensor) -> Tensor:
        """sqrt(c) F z: rows with unit covariance get this one."""
        raise NotImplementedError

    def denoise(self, h: Tensor, mean: Tensor, noise: Tensor | float) -> Tensor:
        """mean + Sigma (Sigma + noise^2 I)^-1 (h - mean)."""
        raise NotImplementedError

    def marginal(self, observed: Tensor) -> Tensor:
        """The factor of the covariance of the units where `observed` is True."""
        raise NotImplementedError


class Diagonal(Covariance):
    """Independent units."""

    @staticmethod
    def fit(codes: Tensor) -> tuple[Tensor, Tensor]:
        wide = codes.cpu().double()  # not every device has float64
        return wide.mean(0), floored(wide.var(0), codes.dtype).sqrt()

    @property
    def deviations(self) -> Tensor:
        return self.factor

    @property
    def precisions(self) -> Tensor:
        return 1.0 / (self.scale * self.factor.square())

    def whiten(self, h: Tensor) -> Tensor:
        return h / (math.sqrt(self.scale) * self.factor)

    def solve(self, h: Tensor) -> Tensor:
        return self.whiten(h) / self.factor / math.sqrt(self.scale)

    def root(self, z: Tensor) -> Tensor:
        return math.sqrt(self.scale) * (z * self.factor)

    def denoise(self, h: Tensor, mean: Tensor, noise: Tensor | float) -> Tensor:
        variance = self.scale * self.factor.square()
        return mean + (h - mean) * (variance / (variance + noise**2))

    def marginal(self, observed: Tensor) -> Tensor:
        return self.factor[observed]


class Identity(Diagonal):
    """c I around zero, whatever the codes."""

    fixed = True

    @staticmethod
    def fit(codes: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(codes[0]), torch.ones_like(codes[0])


class Full(Covariance):
    """Any covariance, by its Cholesky factor."""

    @staticmethod
    def fit(codes: Tensor) -> tuple[Tensor, Tensor]:
        wide = codes.cpu().double()
        mean = wide.mean(0)
        c = torch.cov(wide.T).reshape(len(mean), len(mean))
        c.diagonal().add_(JITTER * c.diagonal().mean() + torch.finfo(codes.dtype).tiny)

        return mean, torch.linalg.cholesky(c)

    @property
    def deviations(self) -> Tensor:
        return self.factor.diagonal()

    @property
    def precisions(self) -> Tensor:
        eye = torch.eye(len(self.factor), dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.factor, eye, upper=False)
        return inverse.square().sum(0) / self.scale

    def whiten(self, h: Tensor) -> Tensor:
        h = h / math.sqrt(self.scale)
        return torch.linalg.solve_triangular(self.factor, h.T, upper=False).T

    def solve(self, h: Tensor) -> Tensor:
        z = self.whiten(h)
        z = torch.linalg.solve_triangular(self.factor.T, z.T, upper=True).T
        return z / math.sqrt(self.scale)

    def root(self, z: Tensor) -> Tensor:
        return math.sqrt(self.scale) * (z @ self.factor.T)

    def denoise(self, h: Tensor, mean: Tensor, noise: Tensor | float) -> Tensor:
        noisy = self.scale * self.factor @ self.factor.T
        noisy.diagonal().add_(noise**2)
        root = torch.linalg.cholesky_ex(noisy).L  # checks nothing, so that no device waits

        return h - noise**2 * torch.cholesky_solve((h - mean).T, root).T

    def marginal(self, observed: Tensor) -> Tensor:
        rows = self.factor[observed]
        return torch.linalg.cholesky(rows @ rows.T)


#: All covariances, by name.
COVARIANCES: dict[str, type[Covariance]] = {
    "diagonal": Diagonal,
    "full": Full,
    "identity": Identity,
}
