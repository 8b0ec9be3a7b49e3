"""Target propagation through time, against back-propagation through time."""

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_classifier, recurrent_classifier
from gendae.models.classifier import Classifier, label_loss
from gendae.models.recurrent import Cell, EveryStep, RecurrentPair
from gendae.rules.backprop import BackpropRule
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.rates import Rates
from gendae.rules.recurrent import (
    Reading,
    RecurrentTargetPropRule,
    RegularizedInversionRule,
    TransposeFeedbackRule,
    TruncatedBackpropRule,
    branch_of,
)
from tests.conftest import at
from tests.rules.test_base import trainer

STATE, WIDTH, STEPS, CLASSES = 5, 3, 6, 4


def turning(state, width):
    """Linear states turned by an orthogonal W, which g turns back."""
    torch.manual_seed(0)
    f = Affine(state + width, state)
    g_state = Affine(state, state)
    turn = torch.linalg.qr(torch.randn(state, state))[0]
    with torch.no_grad():
        f.weight[:, :state] = turn
        g_state.weight.copy_(turn.T)

    return Cell(f, g_state, Affine(state, width))


def orthogonal(masked=False):
    pair = RecurrentPair(turning(STATE, WIDTH), STEPS, masked)
    return Classifier(pair, output=Affine(STATE, CLASSES)).double()


def every_step(masked=False):
    """The same with an answer at every step."""
    cell = orthogonal(masked).pairs[0].cell
    pair = RecurrentPair(cell, STEPS, masked, every_step=True)

    torch.manual_seed(1)
    return Classifier(pair, output=EveryStep(STEPS * STATE, CLASSES, STEPS)).double()


def nonlinear(sees_input=True, **options):
    torch.manual_seed(0)
    return recurrent_classifier(
        WIDTH, STEPS, STATE, CLASSES, sees_input=sees_input, **options
    ).double()


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


@pytest.mark.parametrize("masked", [False, True])
def test_with_an_answer_at_every_step_too(masked):
    network = every_step(masked)
    x, _ = batch(masked)
    y = torch.randint(-1, CLASSES, (7, STEPS), generator=torch.Generator().manual_seed(0))
    if masked:
        y[x.view(7, STEPS, -1)[..., 0] == 0] = -1
    f = network.pairs[0].cell.f

    RecurrentTargetPropRule(network).losses((x, y), at(0))["target_f_1"].backward()
    ours = f.weight.grad.clone()
    f.weight.grad = None

    BackpropRule(network).losses((x, y))["label_f_2"].backward()
    assert torch.allclose(ours, f.weight.grad, rtol=1e-9, atol=1e-14)


def test_values_are_learned_as_classes_are():
    """Half the squared distance, whose first displacement is the error through the output."""
    network = nonlinear(predicts="values")
    x, _ = batch()
    y = torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    losses = RecurrentTargetPropRule(network).losses((x, y), at(0))

    error = network(x)[0] - y
    assert torch.allclose(losses["label_f_2"], error.square().sum(1).mean() / 2)

    rule = RecurrentTargetPropRule(network, step=0.2)
    reading = Reading(rule.pair, x)
    first = -0.2 * error.detach() @ network.output.weight.detach()
    assert torch.allclose(rule.displacements(reading, y)[-1], first)
    assert torch.equal(network.predict(x), network(x)[0].detach())


def untied(network):
    """The same network as a stack of T pairs, for inputs that are 0 but for the first."""
    cell = network.pairs[0].cell
    pairs = []
    for t in range(STEPS):
        width = WIDTH if t == 0 else STATE
        f = Affine(width, STATE, "tanh")
        g = Affine(STATE, width, "linear" if t == 0 else "tanh")
        with torch.no_grad():
            f.weight.copy_(cell.f.weight[:, STATE:] if t == 0 else cell.f.weight[:, :STATE])
            if t > 0:
                g.weight.copy_(cell.g_state.weight)
        pairs.append(Pair(f, g))

    return Classifier(*pairs, output=network.output).double()


def test_tied_layers_learn_the_sum_of_what_untied_ones_do():
    """The gradient by W is the sum of those of the layers of a stack of T pairs."""
    network = nonlinear(sees_input=False)
    stack = untied(network)
    x, y = batch()
    x[:, WIDTH:] = 0.0

    RecurrentTargetPropRule(network).losses((x, y), at(0))["target_f_1"].backward()
    losses = DifferenceTargetPropRule(stack, step=0.1).losses((x[:, :WIDTH], y), at(0))
    sum(loss for name, loss in losses.items() if name.startswith("target_f")).backward()

    gradient = network.pairs[0].cell.f.weight.grad
    assert torch.allclose(gradient[:, :STATE], sum(pair.f.weight.grad for pair in stack.pairs[1:]))
    assert torch.allclose(gradient[:, STATE:], stack.pairs[0].f.weight.grad)


def test_one_step_is_one_pair():
    """T = 1: the losses of a pair that sees x_1, to the last bit."""
    torch.manual_seed(0)
    network = recurrent_classifier(WIDTH, 1, STATE, CLASSES).double()
    cell = network.pairs[0].cell
    alone = Pair(Affine(WIDTH, STATE, "tanh"), Affine(STATE, WIDTH)).double()
    with torch.no_grad():
        alone.f.weight.copy_(cell.f.weight[:, STATE:])

    x, y = batch()
    ours = RecurrentTargetPropRule(network).losses((x[:, :WIDTH], y), at(0))
    theirs = DifferenceTargetPropRule(Classifier(alone, output=network.output), step=0.1).losses(
        (x[:, :WIDTH], y), at(0)
    )
    assert torch.equal(ours["target_f_1"], theirs["target_f_1"])
    assert torch.equal(ours["label_f_2"], theirs["label_f_2"])


def test_feedback_that_learns_the_transpose_of_the_jacobian():
    """Linear f, g: the mean of the loss is least at g = W', whatever the states are."""
    network = orthogonal()
    with torch.no_grad():
        network.pairs[0].cell.f.weight[:, :STATE] = torch.randn(STATE, STATE).double()
        network.pairs[0].cell.g_state.weight.copy_(network.pairs[0].cell.f.weight[:, :STATE].T)
    rule = RecurrentTargetPropRule(network, learns="transpose")

    x, _ = batch()
    losses = rule.feedback_losses(Reading(rule.pair, x.repeat(20_000, 1)), at(0))
    losses["state_g_1"].backward()

    weight = network.pairs[0].cell.g_state.weight
    assert weight.grad.abs().max() < 0.02 * STEPS * weight.abs().max()

    # a step of one tenth away, the gradient is that of |B - W'|^2 / 2 at every time step
    away = 0.1 * torch.randn(STATE, STATE).double()
    weight.grad = None
    with torch.no_grad():
        weight += away
    losses = rule.feedback_losses(Reading(rule.pair, x.repeat(20_000, 1)), at(0))
    losses["state_g_1"].backward()
    assert torch.allclose(weight.grad, STEPS * away, atol=0.02 * STEPS * weight.abs().max().item())


def test_regularised_inversion_tends_to_the_inverse_and_to_the_transpose():
    """Without damping g(f(s)) = s; with much of it, and small steps, W' d comes back."""
    network = nonlinear()
    x = 0.1 * batch()[0]
    cell = network.pairs[0].cell

    inverse = RegularizedInversionRule(network, damping=1e-12, margin=0.0)
    reading = Reading(inverse.pair, x)
    back = inverse.feedback(reading)
    moved = 0.1 * torch.randn(7, STATE).double()
    lifted = cell.step(reading.states[2] + moved, reading.inputs[2]) - reading.states[3]
    assert torch.allclose(back(3, lifted), moved, atol=1e-7)

    damped = RegularizedInversionRule(network, damping=1e9, margin=0.0)
    back = damped.feedback(reading)
    move = 1e-8 * torch.randn(7, STATE).double()
    slope = 1.0 - reading.states[3].square()
    transposed = (move / slope) @ cell.f.weight[:, :STATE].detach()
    assert torch.allclose(back(3, move) * 1e9, transposed, rtol=1e-4)


def test_regularised_inversion_needs_an_activation_that_can_be_inverted():
    network = recurrent_classifier(WIDTH, STEPS, STATE, CLASSES, activation="relu")
    with pytest.raises(ValueError, match="f must be an Affine layer with one of tanh"):
        RegularizedInversionRule(network)


def test_displacements_go_back_by_the_inverse_as_far_as_there_are_steps():
    network = orthogonal(masked=True)
    x, y = batch(masked=True)
    rule = RecurrentTargetPropRule(network)

    moves = rule.displacements(Reading(rule.pair, x), y)
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
    reading = Reading(rule.pair, x)
    moves = rule.displacements(reading, y)

    told = rule.pair.cell.g_state(reading.states[-1] + moves[-1])
    assert torch.allclose(reading.states[-2] + moves[-2], told, rtol=1e-12)


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


@pytest.mark.parametrize("horizon", [1, 2, 4, 6, 100])
def test_truncated_gradients_stop_at_the_horizon(horizon):
    """Those of a network whose state of `horizon` steps before is a constant."""
    network = nonlinear()
    x, y = batch()
    TruncatedBackpropRule(network, horizon).losses((x, y))["label_f_2"].backward()
    ours = network.pairs[0].cell.f.weight.grad.clone()

    network.zero_grad()
    cell = network.pairs[0].cell
    inputs = x.view(7, STEPS, WIDTH)
    state = x.new_zeros(7, STATE)
    for t in range(STEPS):
        if t == STEPS - horizon:
            state = state.detach()
        state = cell.step(state, inputs[:, t])
    label_loss(network.output(state)[None], y).backward()
    assert torch.allclose(ours, cell.f.weight.grad, rtol=1e-12)


def test_states_of_bits_learn():
    """Back-propagation is refused, and a target moves what a step of its size can turn over."""
    network = nonlinear(bits=True)
    with pytest.raises(ValueError, match="transmitted as bits"):
        BackpropRule(network)

    rule = RecurrentTargetPropRule(network, step=10.0)
    x, y = batch()
    reading = Reading(rule.pair, x)
    moves = rule.displacements(reading, y)
    g = rule.pair.cell.g_state
    given = rule.pair.cell.given(reading.after, reading.inputs)[-1]
    turned = torch.cat([reading.states[-1] + moves[-1], reading.inputs[-1]], 1)
    assert torch.allclose(moves[-2], g(turned) - g(given), atol=1e-12)
    assert moves[-2].abs().max() > 0.0


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("masked", [False, True])
def test_with_transposed_weights_it_is_back_propagation_through_time(scale, masked):
    """Of nonlinear units too, whose slopes the feedback knows."""
    network = nonlinear(scale=scale, masked=masked)
    rule = TransposeFeedbackRule(network)
    f = branch_of(rule.pair.cell.f)
    with torch.no_grad():
        rule.matrix.copy_(f.weight[:, :STATE].T)

    x, y = batch(masked)
    rule.losses((x, y), at(0))["target_f_1"].backward()
    ours = f.weight.grad.clone()
    f.weight.grad = None

    BackpropRule(network).losses((x, y))["label_f_2"].backward()
    assert torch.allclose(ours, f.weight.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("scale", [None, 0.2])
def test_the_matrix_learns_the_transposed_weights(scale):
    """Its mean gradient is (B - W') diag(E s'^2): none at W', and a known one elsewhere."""
    network = nonlinear(scale=scale)
    rule = TransposeFeedbackRule(network, sigma=1e-3)
    f = branch_of(rule.pair.cell.f)
    away = 0.5 * torch.randn(STATE, STATE).double()
    with torch.no_grad():
        rule.matrix.copy_(f.weight[:, :STATE].T + away)

    x, _ = batch()
    reading = Reading(rule.pair, x.repeat(20_000, 1))
    rule.feedback_losses(reading, at(0))["feedback_g_1"].backward()
    gradient = branch_of(rule.pair.cell.g_state).weight.grad[:, :STATE]

    slopes = rule.slopes(rule.units(reading.before, reading.inputs)).square().sum(0).mean(0)
    assert torch.allclose(gradient, away * slopes, atol=0.05)


@pytest.mark.parametrize("cls", [RecurrentTargetPropRule, BackpropRule, TruncatedBackpropRule])
def test_noise_on_what_says_which_steps_there_are_is_refused(cls):
    with pytest.raises(ValueError, match="its inputs say which steps there are"):
        cls(nonlinear(masked=True), input_corruption=GaussianNoise(0.1))
