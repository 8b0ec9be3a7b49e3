"""Recurrent pairs: a sequence read into a state, and told again."""

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.models.architectures import recurrent_classifier
from gendae.models.classifier import Classifier
from gendae.models.recurrent import Cell, EveryStep, LSTMReader, RecurrentPair
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


def test_every_state_can_be_the_code():
    """(s_1 .. s_T), from which each input is told alone, and one affine layer answers."""
    pair = RecurrentPair(cell(), steps=4, every_step=True)
    x = torch.randn(5, 8).double()
    states = torch.stack(pair.f.states(x)[1:], 1)

    assert torch.equal(pair.f(x), states.flatten(1))
    assert torch.allclose(pair.g(pair.f(x)), pair.cell.g_input(states).flatten(1), rtol=1e-12)

    output = EveryStep(12, 2, steps=4).double()
    network = Classifier(pair, output=output)
    assert torch.allclose(network(x)[0, :, 2], states[:, 2] @ output.weight.T, rtol=1e-12)
    assert network.predict(x).shape == (5, 4, 2)


def test_a_recurrent_pair_reads_the_states_of_another():
    below = RecurrentPair(cell(), steps=4, every_step=True)
    stack = Stack(below, RecurrentPair(cell(width=3), steps=4)).double()

    assert stack.sizes == [8, 12, 3]
    assert stack.reconstruct(torch.randn(5, 8).double()).shape == (5, 8)


def test_states_that_do_not_make_whole_steps_are_refused():
    with pytest.raises(ValueError, match="in_features=10 are not 4 states of one width"):
        EveryStep(10, 2, steps=4)


def test_feedback_that_sees_the_input_is_given_it_in_telling():
    torch.manual_seed(0)
    maps = Cell(Affine(5, 3, "tanh"), Affine(5, 3, "tanh"), Affine(3, 2)).double()
    pair = RecurrentPair(maps, steps=2)
    state = torch.randn(4, 3).double()

    last = maps.g_input(state)
    before = maps.g_state(torch.cat([state, last], 1))
    told = torch.cat([maps.g_input(before), last], 1)
    assert torch.allclose(pair.g(state), told, rtol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_long_short_term_memory_stops_where_the_sequence_does(length):
    torch.manual_seed(0)
    whole = LSTMReader(2, length, 5)
    ragged = LSTMReader(2, 4, 5, masked=True)
    ragged.load_state_dict(whole.state_dict())

    x = torch.randn(6, length, 2)
    padded = torch.zeros(6, 4, 3)
    padded[:, :length] = torch.cat([torch.ones(6, length, 1), x], -1)
    assert torch.allclose(ragged(padded.flatten(1)), whole(x.flatten(1)), atol=1e-6)


def test_bits_travel_between_the_steps():
    network = recurrent_classifier(2, steps=3, state=6, classes=4, bits=True)
    x = torch.randn(5, 6)

    f = network.pairs[0].cell.f
    state = torch.zeros(5, 6)
    for t in range(3):
        given = torch.cat([state, x[:, 2 * t : 2 * t + 2]], 1)
        state = torch.tanh((given > 0).float() @ f.weight.T + f.bias)
    logits = (state > 0).float() @ network.output.weight.T + network.output.bias

    assert torch.allclose(network(x)[0], logits, atol=1e-6)
    assert network.discrete_levels == [1]
    with pytest.raises(ValueError, match="accepted: no scale, one answer"):
        recurrent_classifier(2, steps=3, scale=0.1, bits=True)
