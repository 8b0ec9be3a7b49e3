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


@pytest.mark.parametrize("steps", [10, 31])
def test_the_sum_of_the_marked_numbers(steps):
    data = LongDependencies("adding", steps, n=2000)
    x, y, _ = data.split("train")
    numbers, marks = x.view(-1, steps, 2).unbind(2)

    assert ((numbers >= 0) & (numbers < 1)).all()
    assert (marks[:, : steps // 2].sum(1) == 1).all()
    assert (marks[:, steps // 2 :].sum(1) == 1).all()
    assert torch.equal(y, (numbers * marks).sum(1))
    assert y.dtype == torch.float32
    assert abs((y - 1.0).square().mean() - 1 / 6) < 0.02  # of whoever tells the mean


@pytest.mark.parametrize("steps", [21, 70])
def test_ten_symbols_are_to_be_copied_after_a_pause(steps):
    data = LongDependencies("copy", steps, n=100)
    x, y, _ = data.split("train")
    symbols = x.view(-1, steps, 10).argmax(2)

    assert (symbols[:, :10] < 8).all()
    assert (symbols[:, 10:] >= 8).all()
    assert (symbols == 9).nonzero()[:, 1].eq(steps - 11).all()
    assert torch.equal(y[:, -10:], symbols[:, :10])
    assert (y[:, :-10] == 8).all()
    assert len(symbols[:, :10].unique()) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "sorting"}, "task='sorting'"),
        ({"steps": 9}, "steps=9"),
        ({"task": "copy", "steps": 20}, "steps=20: a whole number >= 21"),
        ({"n": 5}, "n=5"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=["task", "steps", "copy", "n", "seed"],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        LongDependencies(**arguments)
