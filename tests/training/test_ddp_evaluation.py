"""Validation, tests, priors and scores in two processes: every image counts once."""

import pytest

from tests.training import processes
from tests.training.test_ddp_rules import distances, equal


def everywhere():
    """What one process finds, and each of two."""
    return processes.alone(), *processes.two()


@pytest.mark.parametrize("name", processes.ODD)
@pytest.mark.parametrize(
    ("what", "tolerance"),
    [("metrics", 2e-6), ("test", 2e-6), ("ll", 2e-6), ("se", 2e-6), ("weights", 1e-10)],
)
def test_scores_and_weights_are_those_of_one_process(name, what, tolerance):
    one, *several = (results["odd"][name][what] for results in everywhere())
    for each in several:
        gaps = distances({"": each}, {"": one})
        assert max(gaps.values()) < tolerance, gaps


def test_scores_of_torch_loaders_agree():
    one, first, second = (results["plain"] for results in everywhere())
    assert first == second
    assert first.keys() == one.keys()
    # The orders of the images differ.
    assert first["val/parzen_ll"] == pytest.approx(one["val/parzen_ll"], abs=1.0)


@pytest.mark.parametrize("name", ["one image", "no validation image for one"])
def test_too_few_images_end_with_one_error(name):
    first, second = (results["starved"][name] for results in processes.two())
    assert first == second
    assert first.startswith("1 images for 2 processes"), first


def test_less_than_a_batch_is_enough():
    first, second = (results["starved"]["less than a batch"] for results in processes.two())
    assert not isinstance(first, str), first
    assert equal(first, second)
