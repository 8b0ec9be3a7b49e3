"""Temperatures of a clamped chain: the scale of its noise from round to round."""

from gendae import checks
from gendae.registry import register


@register
class Annealing:
    """Temperatures that go from `start` to `end` and stay there.

    T_t = start (end / start)^s,   or   start + (end - start) s   if one of them is 0,
    with s = t / (C - 1) up to 1, where C is the number of rounds before the last ones settle.
    Source: Bengio 2014, Algorithm 6 (MAP) and section 3.2 (MCMC), the ends of this scale.

    Args:
        start: temperature of the first round.
        end: temperature of the last one. 0 and 0 is MAP, 1 and 1 MCMC.
        settle: fraction of the rounds, the last ones, at the temperature `end`.

    Raises:
        ValueError: for a negative temperature, or a fraction outside [0, 1].

    Example:
        >>> Annealing(1.0, 0.25).temperatures(3), Annealing(1.0, 0.0, settle=0.5).temperatures(4)
        ([1.0, 0.5, 0.25], [1.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, start: float = 0.0, end: float = 0.0, settle: float = 0.0) -> None:
        self.start = checks.at_least("start", start, 0.0)
        self.end = checks.at_least("end", end, 0.0)

        if not 0.0 <= settle <= 1.0:
            raise ValueError(
                f"settle={settle}: a fraction of the rounds, between 0 and 1, is needed"
            )

        self.settle = settle

    def temperatures(self, rounds: int) -> list[float]:
        """T_t for t = 0 .. rounds - 1."""
        cooling = round(rounds * (1.0 - self.settle))
        if cooling > 1:
            return [self._at(min(1.0, t / (cooling - 1))) for t in range(rounds)]

        return [self._at(1.0)] * rounds

    def _at(self, share: float) -> float:
        """The temperature after this share of the way."""
        if self.start > 0 and self.end > 0:
            return self.start * (self.end / self.start) ** share

        return self.start + (self.end - self.start) * share
