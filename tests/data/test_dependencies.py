"""Sequences with long dependencies."""

import pytest
import torch

from gendae.data.dependencies import PLACES, LongDependencies


@pytest.mark.parametrize(("task", "letters"), [("temporal-order", 2), ("temporal-order-3", 3)])
@pytest.mark.parametrize("steps", [10, 30, 101])
def test_the_order_of_the_letters_is_the_label(task, letters, steps):
    data = LongDependencies(task, steps, n=500)
    x, y, _ = data.split("train")
    symbols = x.view(-1, steps, 6).argmax(2)
    assert torch.equal(x.view(-1, steps, 6).sum(2), torch.ones(len(x), steps))

    for row, label in zip(symbols, y, strict=True):
        places = (row >= 4).nonzero().flatten()
        assert len(places) == letters

        bits = "".join(str(symbol - 4) for symbol in row[places].tolist())
        assert int(bits, 2) == label
        for place, (low, high) in zip(places.tolist(), PLACES[letters], strict=True):
            assert int(low * steps) <= place <= max(int(low * steps), high * steps - 1)


def test_the_first_symbol_is_to_be_remembered():
    data = LongDependencies("random-permutation", 12, n=300)
    x, y, _ = data.split("train")
    symbols = x.view(-1, 12, 100).argmax(2)

    assert torch.equal(symbols[:, 0], y)
    assert (symbols[:, 1:] >= 2).all()
    assert data.shape == (12, 100)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "sorting"}, "task='sorting'"),
        ({"steps": 9}, "steps=9"),
        ({"n": 5}, "n=5"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=["task", "steps", "n", "seed"],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        LongDependencies(**arguments)
