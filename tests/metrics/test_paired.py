"""Paired differences: every resample and every sign written out."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from gendae.metrics.paired import RESAMPLES, interval, paired, sign_flip
from gendae.metrics.paired import _column as column

A = [1.50, 1.45, 1.47, 1.62, 1.41]
B = [1.49, 1.40, 1.55, 1.38, 1.36]


def quantile(means, share):
    """The smallest mean that a share of the resamples does not exceed."""
    means = np.sort(means)
    below = np.arange(1, len(means) + 1) / len(means)
    return means[np.searchsorted(below, share - 1e-12)]


@pytest.mark.parametrize(("n", "level"), [(2, 0.95), (3, 0.95), (4, 0.8), (5, 0.95)])
def test_the_interval_is_that_of_all_resamples_and_p_that_of_all_signs(n, level):
    d = np.array(A[:n]) - np.array(B[:n])
    means = np.array([np.mean(draw) for draw in product(d, repeat=n)])
    outside = (1.0 - level) / 2.0

    pair = paired(A[:n], B[:n], level)

    assert pair.low == pytest.approx(quantile(means, outside), abs=1e-12)
    assert pair.high == pytest.approx(quantile(means, 1.0 - outside), abs=1e-12)
    assert pair.mean == pytest.approx(d.mean(), abs=1e-12)
    assert pair.se == pytest.approx(stats.sem(d), abs=1e-12)

    statistic = [abs(np.mean(d * signs)) for signs in product((-1, 1), repeat=n)]
    share = np.mean(np.array(statistic) >= abs(d.mean()) - 1e-12)
    of_scipy = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=1000)
    assert pair.p == pytest.approx(share, abs=1e-12)
    assert pair.p == pytest.approx(of_scipy.pvalue, abs=1e-12)


def test_many_values_are_resampled_alike_and_one_pair_has_no_interval():
    d = np.random.default_rng(0).normal(0.5, 1.0, 40)
    low, high = interval(d)
    of_scipy = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=0)

    assert (low, high) == pytest.approx(tuple(of_scipy.confidence_interval), abs=0.02)
    assert interval(d) == (low, high)
    assert sign_flip(column(d)) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.005)

    for a, b in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="pairs are needed"):
            paired(a, b)
    assert paired([2.0], [1.5]) == (1, 0.5, None, None, None, None)
