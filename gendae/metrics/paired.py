"""Differences between two rules that were trained with the same seeds.

    d_i = a_i - b_i                               for each seed i of n that both have
    se  = s_d / sqrt(n)                           s_d: standard deviation of d (n - 1)
    z   = (a - b) / sqrt(se_a^2 + se_b^2)         of two numbers whose errors are apart

An interval of the mean is that of its bootstrap: means of n values drawn with replacement. With
few seeds all n^n draws are counted, each multiset of values with the number of its orders,
n! / (k_1! .. k_n!); with more, `RESAMPLES` are drawn. Of three seeds the interval of 95 % is the
range of the differences, since each end has the weight 1 / 27.

The sign-flip test asks how often |mean| is as large as it is where the sign of each d_i is a coin:
no p is below 2 / 2^n, which of three seeds is 0.25.

Source: Efron and Tibshirani 1993, section 13.3 (percentile intervals) and chapter 15
(permutations); Fisher 1935, section 21 (signs).
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import torch
from torch import Tensor

#: Most values of which all resamples are counted: 6,435 multisets of eight.
ALL = 8
#: Resamples, and draws of signs, where there are more values.
RESAMPLES = 20_000
#: Most values of which all signs are tried.
ALL_SIGNS = 14
#: Means that differ by rounding alone count as equal.
ROUNDING = 1e-12


class Paired(NamedTuple):
    """Differences of pairs.

    Args:
        n: pairs.
        mean: of the differences.
        se: its standard error; None of one pair.
        low, high: the bootstrap interval of the mean; None of one pair.
        p: of the sign-flip test; None of one pair.
    """

    n: int
    mean: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None


def paired(a: Sequence[float], b: Sequence[float], level: float = 0.95, seed: int = 0) -> Paired:
    """The mean of the differences a_i - b_i, with its interval over pairs.

    Source: see the head of this file.

    Args:
        a, b: (n,) values of two rules, the same seeds in the same order.
        level: of the interval.
        seed: of resamples, where they are drawn.

    Raises:
        ValueError: unless both have the same number of values, one at least.

    Example:
        >>> paired([3.0, 4.0, 6.0], [1.0, 1.0, 1.0])
        Paired(n=3, mean=3.33..., se=0.881..., low=2.0, high=5.0, p=0.25)
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} values; pairs are needed, one at least")

    d = _column(a) - _column(b)
    n = len(d)
    if n == 1:
        return Paired(1, d.item(), None, None, None, None)

    low, high = interval(d.tolist(), level, seed)
    return Paired(n, d.mean().item(), standard_error(d.tolist()), low, high, sign_flip(d, seed))


def standard_error(values: Sequence[float]) -> float | None:
    """s / sqrt(n) of a mean; None of fewer than two values.

    Example:
        >>> standard_error([1.0, 3.0]), standard_error([1.0])
        (1.0, None)
    """
    if len(values) < 2:
        return None

    return _column(values).std().item() / math.sqrt(len(values))


def interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean of n values, over its bootstrap.

    Args:
        values: (n,), two at least.
        level: share of resamples within.
        seed: of resamples, where they are drawn: where there are more than `ALL` values.

    Example:
        >>> interval([1.0, 2.0, 6.0])
        (1.0, 6.0)
    """
    v = _column(values)
    means, weights = _all_means(v) if len(v) <= ALL else _drawn_means(v, seed)

    order = means.argsort()
    below = weights[order].cumsum(0)
    outside = (1.0 - level) / 2.0
    ends = torch.tensor([outside, 1.0 - outside], dtype=v.dtype)
    places = torch.searchsorted(below, ends - ROUNDING).clamp_max(len(order) - 1)

    low, high = means[order][places].tolist()
    return low, high


def _all_means(v: Tensor) -> tuple[Tensor, Tensor]:
    """Means of all multisets of n of the n values, and how probable each is."""
    n = len(v)
    chosen = list(combinations_with_replacement(range(n), n))
    orders = [_orders(places) for places in chosen]

    weights = torch.tensor(orders, dtype=v.dtype) / float(n**n)
    return v[torch.tensor(chosen)].mean(1), weights


def _orders(places: tuple[int, ...]) -> int:
    """In how many orders these places can be drawn."""
    repeats = math.prod(math.factorial(k) for k in Counter(places).values())
    return math.factorial(len(places)) // repeats


def _drawn_means(v: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Means of resamples that are drawn, each as probable as the other."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(v), (RESAMPLES, len(v)), generator=generator)

    return v[places].mean(1), torch.full((RESAMPLES,), 1.0 / RESAMPLES, dtype=v.dtype)


def sign_flip(d: Tensor, seed: int = 0) -> float:
    """How often the mean of differences with signs of a coin is as far from 0 as theirs.

    Source: Fisher 1935, section 21.

    Args:
        d: (n,) differences.
        seed: of the signs, where they are drawn: of more than `ALL_SIGNS` differences.

    Example:
        >>> sign_flip(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        0.125
    """
    if len(d) <= ALL_SIGNS:
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=len(d))), dtype=d.dtype)
    else:
        generator = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(2, (RESAMPLES, len(d)), generator=generator).to(d.dtype) - 1.0
        signs[0] = 1.0  # the signs as they are: p is never 0

    means = (signs * d).mean(1).abs()
    return (means >= d.mean().abs() * (1.0 - ROUNDING)).double().mean().item()


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
