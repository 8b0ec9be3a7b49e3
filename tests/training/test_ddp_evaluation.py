"""Validation, tests, priors and scores in two processes: every image counts once, whatever their number."""

import pytest

from tests.training import processes
from tests.training.test_ddp_rules import distances, equal


@pytest.mark.parametrize("name", processes.ODD)
@pytest.mark.parametrize("what", ["metrics", "test", "ll", "se"])
def test_scores_are_those_of_one_process(name, what):
    one, *several = (found["odd"][name][what] for found in (processes.alone(), *processes.two()))
    for found in several:
        gaps = distances({"": found}, {"": one})
        assert max(gaps.values()) < 2e-6, gaps


@pytest.mark.parametrize("name", processes.ODD)
def test_priors_and_weights_are_those_of_one_process(name):
    one, two = (
        processes.alone()["odd"][name]["weights"],
        processes.two()[0]["odd"][name]["weights"],
    )
    gaps = distances(one, two)
    assert max(gaps.values()) < 1e-10, gaps


def test_scores_of_torch_loaders_agree():
    one, *several = (found["plain"] for found in (processes.alone(), *processes.two()))
    assert several[0] == several[1]
    assert several[0].keys() == one.keys()
    assert several[0]["val/parzen_ll"] == pytest.approx(
        one["val/parzen_ll"], abs=1.0
    )  # orders differ


@pytest.mark.parametrize("name", ["one image", "no validation image for one"])
def test_too_few_images_end_with_one_error(name):
    first, second = (found["starved"][name] for found in processes.two())
    assert first == second
    assert first.startswith("1 images for 2 processes"), first


def test_less_than_a_batch_is_enough():
    first, second = (found["starved"]["less than a batch"] for found in processes.two())
    assert not isinstance(first, str), first
    assert equal(first, second)
