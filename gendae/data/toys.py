"""Data in the plane: small enough to draw a whole vector field, one with a known density."""

import math

import numpy as np
import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import Data, shuffled_splits
from gendae.data.loader import Split
from gendae.registry import Plain, register

DISTRIBUTIONS = ("moons", "rings", "spiral", "gaussians")
#: Modes along each side of the square of Gaussians, one unit apart.
SIDE = 5


def noiseless(distribution: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n points on curves or centres in [-2, 2]^2, (n, 2), and which of them, (n,)."""
    from sklearn import datasets

    if distribution == "gaussians":
        label = torch.randint(SIDE**2, (n,), generator=Generator().manual_seed(seed))
        return grid().index_select(0, label), label

    if distribution == "moons":
        points, label = datasets.make_moons(n, random_state=checks.folded(seed))
        points = (points - [0.5, 0.25]) * 4.0 / 3.0
    elif distribution == "rings":
        points, label = datasets.make_circles(n, factor=0.5, random_state=checks.folded(seed))
        points = 2.0 * points
    else:
        points, angle = datasets.make_swiss_roll(n, random_state=checks.folded(seed))
        points = points[:, [0, 2]] / (4.5 * math.pi) * 2.0
        label = np.zeros_like(angle)

    return torch.from_numpy(points).float(), torch.from_numpy(label).long()


def grid() -> Tensor:
    """Centres of the 25 Gaussians, (25, 2)."""
    axis = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    return torch.cartesian_prod(axis, axis)


@register
class Toys2D(Data):
    """Points in the plane, x of width 2 within about [-2, 2]^2, in splits of 80, 10 and 10 %.

    "moons": two half circles; "rings": circles of radius 1 and 2; "spiral": one and a half turns;
    "gaussians": 25 equally probable modes on a grid, one unit apart, whose density is known. All
    have isotropic Gaussian noise. Labels tell the moon, ring or mode.

    Args:
        distribution: one of moons, rings, spiral, gaussians.
        n: number of points in all.
        noise: standard deviation of the noise, in units of x.
        batch_size, seed: see `Data`; the seed draws the points too.

    Raises:
        ValueError: for an unknown distribution, fewer than 10 points or a negative noise.

    Example:
        >>> data = Toys2D("gaussians", n=1000)
        >>> data.split("train").x.shape, data.shape
        (torch.Size([800, 2]), (1, 2))
        >>> data.log_prob(torch.zeros(1, 2))             # a mode: log(1 / (25 * 2 pi 0.1^2))
        tensor([-0.4516])
    """

    kind = "points"
    decisive = ("distribution", "noise")

    def __init__(
        self,
        distribution: str = "moons",
        n: int = 10_000,
        noise: float = 0.1,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.distribution = checks.one_of("distribution", distribution, DISTRIBUTIONS)
        self.n = checks.whole("n", n, 10)
        self.noise = checks.at_least("noise", noise, 0.0)

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """Version 0.1 called the distribution `kind`."""
        if "kind" in arguments:
            arguments["distribution"] = arguments.pop("kind")
        return arguments

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        x, y = noiseless(self.distribution, self.n, self.seed)

        # not the seed of the modes: noise and modes share no draws
        generator = Generator().manual_seed(self.seed + 1)
        x = torch.add(x, torch.randn(x.shape, generator=generator), alpha=self.noise)

        return shuffled_splits(x, y, (0.1, 0.1), self.seed), (1, 2)

    @checks.takes_arrays
    def log_prob(self, x: Tensor) -> Tensor:
        """True log density in nats, (batch,), of "gaussians".

        Raises:
            ValueError: for another distribution, noise 0, or x that is not (batch, 2).
        """
        exponent, variance = self._exponents(x)
        return exponent.logsumexp(1) - math.log(SIDE**2 * 2.0 * math.pi * variance)

    @checks.takes_arrays
    def score(self, x: Tensor) -> Tensor:
        """d log p(x) / dx, (batch, 2), of "gaussians"; raises as `log_prob` does."""
        exponent, variance = self._exponents(x)
        return (exponent.softmax(1) @ grid().to(x) - x) / variance

    def _exponents(self, x: Tensor) -> tuple[Tensor, float]:
        """-|x - centre|^2 / (2 variance) for each centre, and the variance."""
        if self.distribution != "gaussians" or self.noise == 0.0:
            raise ValueError(
                f"distribution={self.distribution!r}, noise={self.noise:g}: only 'gaussians' with "
                "noise > 0 has a known density"
            )

        checks.width("x", x, 2)
        distance = (x[:, None] - grid().to(x)).square().sum(-1)

        return -0.5 * distance / self.noise**2, self.noise**2
