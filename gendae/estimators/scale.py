"""The units of features, and how the network sees them."""

from typing import NamedTuple

import numpy as np


class Scale(NamedTuple):
    """What standardises features, or leaves pixels as they are.

    Attributes:
        mean, deviation: in units of the features, (features,); 0 and 1 of pixels.
        pixels: whether all values lie in [0, 1].

    Example:
        >>> scale = Scale.of(np.array([[10.0, np.nan], [30.0, 5.0]]))
        >>> scale.pixels, scale.scaled(np.array([[10.0, 5.0]]))
        (False, array([[-1.,  0.]]))
        >>> Scale.of(np.array([[0.0, 0.5], [1.0, 0.0]])).pixels
        True
    """

    mean: np.ndarray
    deviation: np.ndarray
    pixels: bool

    @classmethod
    def of(cls, x: np.ndarray) -> "Scale":
        """That of rows, (n, features); NaN stands for a missing value.

        Raises:
            ValueError: for numbers whose squares are infinite.
        """
        seen = ~np.isnan(x)
        pixels = bool(np.all((x[seen] >= 0.0) & (x[seen] <= 1.0)))
        if pixels:
            return cls(np.zeros(x.shape[1]), np.ones(x.shape[1]), pixels)

        mean = mean_of(x)
        with np.errstate(over="ignore"):
            squares = np.square(np.where(seen, x - mean, 0.0)).sum(0)
        if not np.isfinite(squares).all():
            raise ValueError(
                f"X holds numbers up to {np.nanmax(np.abs(x)):.3g}, too large for their squares "
                "to be added up: give them in another unit"
            )

        deviation = np.sqrt(squares / np.maximum(seen.sum(0), 1))
        constant = deviation <= 10 * np.finfo(x.dtype).eps * np.abs(mean)

        return cls(mean, np.where(constant, 1.0, deviation), pixels)

    @property
    def visible(self) -> str:
        """Activation of the decoder that gives x."""
        return "sigmoid" if self.pixels else "linear"

    @property
    def log_volume(self) -> float:
        """What log densities of scaled rows lose in the units of the features, in nats."""
        return float(np.log(self.deviation).sum())

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Rows as the network sees them."""
        return (x - self.mean) / self.deviation

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `scaled`."""
        return x * self.deviation + self.mean


def mean_of(x: np.ndarray) -> np.ndarray:
    """The mean of the values that each feature has, (features,); 0 where it has none."""
    seen = ~np.isnan(x)
    with np.errstate(over="ignore"):
        return np.where(seen, x, 0.0).sum(0) / np.maximum(seen.sum(0), 1)


def range_of(x: np.ndarray) -> np.ndarray:
    """The least and greatest value that each feature has, (2, features); 0 where it has none."""
    seen = ~np.isnan(x)
    low = np.where(seen, x, np.inf).min(0)
    high = np.where(seen, x, -np.inf).max(0)

    return np.where(seen.any(0), [low, high], 0.0)
