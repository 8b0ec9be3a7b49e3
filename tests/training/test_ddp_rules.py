"""Every rule in two processes (DDP): what it learns is what one process learns, and is the same in both."""

import inspect

import pytest
import torch

from gendae import rules
from gendae.rules import base, ledger, supervised
from tests.training import processes

CASES = pytest.mark.parametrize("name", processes.RULES)
#: Validation draws units there, other ones for other shares of the images: of one law, not of one value.
DRAWN = {"difference of draws": ("val/error", "val/loss")}


def flat(state):
    """All numbers of a state by name."""
    found = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= {
                f"{key}/{name}": torch.as_tensor(part).double() for name, part in value.items()
            }
        elif value is not None:
            found[key] = torch.as_tensor(value).double()
    return found


def distances(a, b):
    """Largest difference of each pair of tensors, infinite where shapes differ; those of two NaN are equal."""
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    return {
        name: (torch.nan_to_num(a[name], nan=0.5) - torch.nan_to_num(b[name], nan=0.5))
        .abs()
        .amax()
        .item()
        if a[name].shape == b[name].shape
        else float("inf")
        for name in a
        if a[name].numel()
    }


def equal(first, second):
    """Whether two processes have the same numbers everywhere but in their noise."""
    first, second = (
        {key: value for key, value in state.items() if key != "noise"} for state in (first, second)
    )
    return set(distances(first, second).values()) <= {0.0}


def test_no_rule_is_left_out():
    trained = {type(make()) for make in processes.RULES.values()}
    everything = {
        getattr(rules, name) for name in rules.__all__ if inspect.isclass(getattr(rules, name))
    }
    assert everything - trained == {base.Rule, supervised.SupervisedRule, ledger.TrainingDiverged}


@CASES
def test_two_processes_learn_what_one_learns(name):
    one, two = processes.alone()["indexed"][name], processes.two()[0]["indexed"][name]
    far = {key: gap for key, gap in distances(one, two).items() if gap > 1e-10}
    logged = {
        key for key in far if key.startswith("metrics/") and far[key] < 2e-6
    }  # Lightning's, in single precision
    drawn = {f"metrics/{metric}" for metric in DRAWN.get(name, ())}
    assert far.keys() - logged - drawn - {"noise"} == set(), far


@CASES
@pytest.mark.parametrize("kind", ["indexed", "free"])
def test_processes_stay_equal_in_all_but_their_noise(name, kind):
    first, second = (found[kind][name] for found in processes.two())
    assert equal(first, second)
    assert not torch.equal(first["noise"], second["noise"])


@pytest.mark.parametrize("name", ["em", "kl", "difference"])
def test_processes_stay_equal_under_bf16(name):
    first, second = (found["bf16"][name] for found in processes.two())
    assert equal(first, second)
    assert all(torch.isfinite(weights).all() for weights in first["weights"].values())


@pytest.mark.parametrize("name", processes.RESUMED)
def test_processes_go_on_from_a_checkpoint_as_if_nothing_had_happened(name):
    for found in processes.two():
        whole, resumed = found["free"][name], found["resumed"][name]
        assert torch.equal(whole["noise"], resumed["noise"])
        assert equal({**whole, "metrics": {}}, {**resumed, "metrics": {}})


def test_training_changes_the_weights():
    """Otherwise all of the above would hold."""
    for name, make in processes.RULES.items():
        torch.manual_seed(1)
        start = {key: value.double() for key, value in make().stack.state_dict().items()}
        end = processes.alone()["indexed"][name]["weights"]
        moved = [
            key
            for key in start
            if key.startswith("pairs")
            and start[key].shape == end[key].shape
            and (start[key] - end[key]).abs().max() > 1e-3
        ]
        assert moved, name


def test_divergence_in_one_process_stops_all_with_the_same_words():
    first, second = (found["diverged"] for found in processes.two())
    assert first == second
    assert "is nan at step 2: training stopped" in first
