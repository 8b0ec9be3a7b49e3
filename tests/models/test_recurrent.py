"""Recurrent pairs: a sequence read into a state, and told again."""

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.models.architectures import recurrent_classifier
from gendae.models.recurrent import Cell, RecurrentPair
from gendae.models.stack import Stack
from gendae.registry import build, describe


def cell(state=3, width=2):
    torch.manual_seed(0)
    f = Affine(state + width, state, "tanh")
    return Cell(f, Affine(state, state, "tanh"), Affine(state, width)).double()


def test_it_is_the_recurrence_written_out():
    pair = RecurrentPair(cell(), steps=4)
    x = torch.randn(5, 8).double()
    w, b = pair.cell.f.weight, pair.cell.f.bias

    state = torch.zeros(5, 3).double()
    for t in range(4):
        inputs = torch.cat([state, x[:, 2 * t : 2 * t + 2]], 1)
        state = torch.tanh(inputs @ w.T + b)
    assert torch.allclose(pair.f(x), state, rtol=1e-12)

    told = []
    for _ in range(4):
        told.insert(0, pair.cell.g_input(state))
        state = pair.cell.g_state(state)
    assert torch.allclose(pair.g(pair.f(x)), torch.cat(told, 1), rtol=1e-12)


def test_an_exact_inverse_tells_what_was_read():
    """s_t = (x_t, s_{t-1} without its last entries): a shift register, which g undoes."""
    width, steps = 2, 3
    state = width * steps
    f = Affine(state + width, state)
    g_state = Affine(state, state)
    g_input = Affine(state, width)
    with torch.no_grad():
        for layer in (f, g_state, g_input):
            layer.weight.zero_()
        f.weight[:width, state:] = torch.eye(width)
        f.weight[width:, : state - width] = torch.eye(state - width)
        g_state.weight[: state - width, width:] = torch.eye(state - width)
        g_input.weight[:, :width] = torch.eye(width)

    pair = RecurrentPair(Cell(f, g_state, g_input), steps)
    x = torch.randn(4, width * steps)
    assert torch.allclose(pair.g(pair.f(x)), x)


def test_steps_that_are_not_there_change_nothing():
    short = RecurrentPair(cell(), steps=3)
    ragged = RecurrentPair(short.cell, steps=5, masked=True)
    x = torch.randn(6, 6).double()

    present = torch.cat([torch.ones(6, 3, 1).double(), x.view(6, 3, 2)], 2)
    absent = torch.zeros(6, 2, 3).double()
    absent[..., 1:] = torch.randn(6, 2, 2)
    rows = torch.cat([present, absent], 1).flatten(1)

    assert torch.equal(ragged.f(rows), short.f(x))


def test_a_stack_of_it_samples_from_its_prior_and_travels_in_files():
    stack = Stack(RecurrentPair(cell(), steps=4, masked=True)).double()
    again = build(describe(stack)).double()
    again.load_state_dict(stack.state_dict())

    x = torch.rand(5, 12).double()
    assert [tuple(h.shape) for h in stack.encode(x)] == [(5, 12), (5, 3)]
    assert torch.equal(again.reconstruct(x), stack.reconstruct(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cell(Affine(5, 3), Affine(3, 2), Affine(3, 2)), "g_state maps 3 -> 2 units"),
        (lambda: Cell(Affine(4, 3), Affine(3, 3), Affine(3, 2)), "f maps 4 -> 3 units; .* 5 -> 3"),
        (lambda: RecurrentPair(cell(), steps=0), "steps=0"),
        (lambda: recurrent_classifier(0, 4), "width=0"),
        (lambda: recurrent_classifier(2, 4, state=0), "state=0"),
        (lambda: recurrent_classifier(2, 4, activation="sine"), "activation='sine'"),
    ],
    ids=["another state", "another width", "no step", "no input", "no state", "unknown"],
)
def test_what_does_not_fit_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
