"""Every rule in two processes (DDP): both learn what one process learns.

Validation, tests, priors and scores count every image once. All tests share one training of each
case in one process and one in two: they stand in one file, which one worker runs.
"""

from itertools import product

import pytest
import torch

from tests.training import processes

CASES = pytest.mark.parametrize("name", processes.RULES)
#: Validation draws units or noise there: other shares of images get other draws of the same law.
DRAWN = {
    "difference of draws": {"metrics/val/error", "metrics/val/loss"},
    "denoising blocks": {"metrics/val/denoise_g_1", "metrics/val/denoise_g_2"},
    "denoising blocks in turn": {"metrics/val/denoise_g_1", "metrics/val/denoise_g_2"},
    "reinforce": {"metrics/val/loss"},
    # widths are measured under noise; rows whose labels are inferred come in another order
    "joint with few labels": {"residuals", "weights/residuals", "weights/loops"},
}
#: Several draws of an example, dreams and noise on weights are no rows of the data: each process
#: has other ones of the same law. Winners are counted by each share for itself.
UNPAIRED = {
    "reweighted wake-sleep",
    "importance weighted",
    "forward-forward",
    "weights",
    "competitive",
}


def flat(state):
    """All numbers of a state by name."""
    numbers = {}
    for key, value in state.items():
        if isinstance(value, dict):
            parts = {f"{key}/{name}": part for name, part in value.items()}
            numbers |= {name: torch.as_tensor(part).double() for name, part in parts.items()}
        elif value is not None:
            numbers[key] = torch.as_tensor(value).double()

    return numbers


def distance(a, b):
    """Largest difference of two tensors, where NaN equals NaN; infinite where shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return (torch.nan_to_num(a, nan=0.5) - torch.nan_to_num(b, nan=0.5)).abs().amax().item()


def distances(a, b):
    """The distance of each pair of tensors of two states, by name."""
    a = flat(a)
    b = flat(b)
    assert a.keys() == b.keys()
    return {name: distance(a[name], b[name]) for name in a if a[name].numel()}


def without_noise(state):
    return {key: value for key, value in state.items() if key != "noise"}


def equal(first, second):
    """Whether two processes have the same numbers everywhere but in their noise."""
    gaps = distances(without_noise(first), without_noise(second))
    return set(gaps.values()) <= {0.0}


@pytest.mark.parametrize("name", [name for name in processes.RULES if name not in UNPAIRED])
def test_two_processes_learn_what_one_learns(name):
    one = processes.alone()["indexed"][name]
    two = processes.two()[0]["indexed"][name]
    far = {key: gap for key, gap in distances(one, two).items() if gap > 1e-10}
    # Lightning logs in single precision.
    logged = {key for key in far if key.startswith("metrics/") and far[key] < 2e-6}

    assert far.keys() - logged - DRAWN.get(name, set()) - {"noise"} == set(), far


KINDS = [
    *product(["indexed"], processes.RULES),
    *product(["free"], processes.RESUMED),
    *product(["bf16"], processes.ROUNDED),
]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_processes_stay_equal_in_all_but_their_noise(kind, name):
    first, second = (results[kind][name] for results in processes.two())
    assert equal(first, second)
    assert not torch.equal(first["noise"], second["noise"])
    assert all(torch.isfinite(weights).all() for weights in first["weights"].values())


@pytest.mark.parametrize("name", processes.RESUMED)
def test_processes_go_on_from_a_checkpoint_as_if_nothing_had_happened(name):
    for results in processes.two():
        whole = results["free"][name]
        resumed = results["resumed"][name]
        assert torch.equal(whole["noise"], resumed["noise"])
        assert equal({**whole, "metrics": {}}, {**resumed, "metrics": {}})


@pytest.mark.parametrize("move", [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on_from_a_checkpoint(move):
    """From the middle of an epoch, with as many examples in a batch of all of them."""
    for results in processes.two():
        whole, rest = results["moved"][move]
        assert max(distances(whole, rest).values()) < 1e-10


@CASES
def test_training_changes_the_weights(name):
    """Otherwise all of the above would hold."""
    torch.manual_seed(1)
    start = processes.RULES[name]().stack.state_dict()
    end = processes.alone()["indexed"][name]["weights"]

    pairs = [key for key in start if key.startswith(("pairs", "output"))]
    gaps = [distance(start[key].double(), end[key]) for key in pairs if start[key].numel()]
    assert any(1e-3 < gap < float("inf") for gap in gaps)


def test_divergence_in_one_process_stops_all_with_the_same_words():
    first, second = (results["diverged"] for results in processes.two())
    assert first == second
    assert "is nan at step 2: training stopped" in first


# -- validation, tests and scores ----------------------------------------------------------------


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
