"""Target propagation through time, against back-propagation through time."""

import pytest
import torch

from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.models.architectures import deep_classifier, recurrent_classifier
from gendae.models.classifier import Classifier
from gendae.models.recurrent import Cell, RecurrentPair
from gendae.rules.backprop import BackpropRule
from gendae.rules.rates import Rates
from gendae.rules.recurrent import RecurrentTargetPropRule
from tests.conftest import at
from tests.rules.test_base import trainer

STATE, WIDTH, STEPS, CLASSES = 5, 3, 6, 4


def orthogonal(masked=False):
    """Linear states turned by an orthogonal W, which g turns back."""
    torch.manual_seed(0)
    f = Affine(STATE + WIDTH, STATE)
    g_state = Affine(STATE, STATE)
    turn = torch.linalg.qr(torch.randn(STATE, STATE))[0]
    with torch.no_grad():
        f.weight[:, :STATE] = turn
        g_state.weight.copy_(turn.T)

    pair = RecurrentPair(Cell(f, g_state, Affine(STATE, WIDTH)), STEPS, masked)
    return Classifier(pair, output=Affine(STATE, CLASSES)).double()


def batch(masked=False):
    x = torch.randn(7, STEPS, WIDTH + masked, generator=torch.Generator().manual_seed(0)).double()
    if masked:
        lengths = torch.tensor([6, 5, 4, 3, 2, 1, 6])
        x[..., 0] = (torch.arange(STEPS) < lengths[:, None]).double()

    return x.flatten(1), torch.tensor([0, 1, 2, 3, 0, 1, 2])


@pytest.mark.parametrize("masked", [False, True])
def test_with_an_exact_inverse_it_is_back_propagation_through_time(masked):
    network = orthogonal(masked)
    x, y = batch(masked)
    f = network.pairs[0].cell.f

    RecurrentTargetPropRule(network).losses((x, y), at(0))["target_f_1"].backward()
    ours = f.weight.grad.clone()
    f.weight.grad = None

    BackpropRule(network).losses((x, y))["label_f_2"].backward()
    assert torch.allclose(ours, f.weight.grad, rtol=1e-9, atol=1e-14)


def test_displacements_go_back_by_the_inverse_as_far_as_there_are_steps():
    network = orthogonal(masked=True)
    x, y = batch(masked=True)
    rule = RecurrentTargetPropRule(network)

    moves = rule.displacements(rule.pair.f.states(x), x, y)
    turn = rule.pair.cell.f.weight[:, :STATE].detach()
    assert len(moves) == STEPS

    whole = moves[-1][0]
    for move in reversed(moves):
        assert torch.allclose(move[0], whole, rtol=1e-9)
        whole = whole @ turn
    assert all(torch.equal(move[5], moves[-1][5]) for move in moves)  # of one step alone


def test_steps_that_are_not_there_change_no_loss():
    rule = RecurrentTargetPropRule(orthogonal(masked=True), sigma=0.0)
    x, y = batch(masked=True)
    steps = x.view(7, STEPS, -1)
    before = rule.losses((x, y), at(0))

    steps[..., 1:] += (1.0 - steps[..., :1]) * torch.randn(7, STEPS, WIDTH)
    for name, value in rule.losses((x, y), at(0)).items():
        assert torch.allclose(value, before[name], rtol=1e-12), name


def test_no_gradient_crosses_a_step():
    """f learns from one application at a time: from states that are constants."""
    network = orthogonal()
    x, y = batch()
    losses = RecurrentTargetPropRule(network).losses((x, y), at(0))
    cell = network.pairs[0].cell

    names = {
        "target_f_1": {"f"},
        "state_g_1": {"g_state"},
        "input_g_1": {"g_input"},
        "label_f_2": {"output"},
    }
    maps = {"f": cell.f, "g_state": cell.g_state, "g_input": cell.g_input}
    maps["output"] = network.output
    for name, reached in names.items():
        for other, layer in maps.items():
            (gradient,) = torch.autograd.grad(
                losses[name], layer.weight, retain_graph=True, allow_unused=True
            )
            assert (gradient is not None) == (other in reached), (name, other)


def test_without_the_difference_targets_are_reconstructions():
    rule = RecurrentTargetPropRule(orthogonal(), difference=False)
    x, y = batch()
    states = rule.pair.f.states(x)
    moves = rule.displacements(states, x, y)

    told = rule.pair.cell.g_state(states[-1] + moves[-1])
    assert torch.allclose(states[-2] + moves[-2], told, rtol=1e-12)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="one RecurrentPair is needed"):
        RecurrentTargetPropRule(deep_classifier([8, 6, 6], 3))


def test_digits_are_read_row_by_row():
    """Better than a reservoir, whose state is left as it was at the start."""
    errors = {}
    for name, cls, rates in (
        ("targets", RecurrentTargetPropRule, Rates(hold=0.5)),
        ("reservoir", BackpropRule, Rates(f=[0.0, 1e-3], hold=0.5)),
    ):
        torch.manual_seed(0)
        rule = cls(recurrent_classifier(8, 8, 48), rates=rates)
        run = trainer(max_epochs=6)
        run.fit(rule, Digits(20))
        errors[name] = run.callback_metrics["val/error"].item()

    assert errors["targets"] < 0.15
    assert errors["targets"] < errors["reservoir"] - 0.1
