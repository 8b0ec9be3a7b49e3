"""Equilibrium propagation against autograd through the fixed point, and its energy."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gendae import Digits, load, save
from gendae.models.architectures import deep_autoencoder, deep_classifier
from gendae.models.classifier import Classifier
from gendae.rules.backprop import BackpropRule
from gendae.rules.equilibrium import EquilibriumPropagationRule
from gendae.rules.hebbian import ContrastiveHebbianRule, GeneRecRule
from gendae.rules.nudged_stdp import NudgedSTDPRule
from gendae.rules.rates import Rates
from gendae.storage.programs import save_program
from tests.rules.test_base import trainer
from tests.rules.test_supervised import batch, gradients, network

SIZES = (7, 6, 5, 6)
GAMMA = 0.25
Rule = partial(EquilibriumPropagationRule, gamma=GAMMA, sweeps=60)


def stack_of(activation, predicts="classes"):
    stack = network(SIZES, activation)
    return Classifier(*stack.pairs, output=stack.output, predicts=predicts)


def examples(predicts):
    x, y = batch(6)
    return x, torch.randn(6, 4, dtype=torch.float64) if predicts == "values" else y


def loss_of(stack, h, y):
    """Of each example."""
    answer = stack.output(h)
    if y.is_floating_point():
        return (answer - y).square().sum(1) / 2

    return F.cross_entropy(answer, y, reduction="none")


def state(stack, x, y=None, beta=0.0, rounds=110):
    """h_0 .. h_L of the nudged network, all layers at once, many times over."""
    f = stack.encoders[:-1]
    h = [x, *(x.new_zeros(len(x), layer.out_features) for layer in f)]
    for _ in range(rounds):
        new = [x, *(layer.preactivation(h[level]) for level, layer in enumerate(f))]
        for level in range(1, len(f)):
            new[level] = new[level] + GAMMA * h[level + 1] @ f[level].weight
        if beta != 0.0:
            top = h[-1].detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss_of(stack, top, y).sum(), top)
            new[-1] = new[-1] - beta * slope
        h = [x, *(layer.s(a) for layer, a in zip(f, new[1:], strict=True))]

    return h


@pytest.mark.parametrize(
    ("activation", "predicts"),
    [("tanh", "classes"), ("sigmoid", "classes"), ("softplus", "values"), ("linear", "classes")],
)
def test_the_gradient_of_the_fixed_points_loss(activation, predicts):
    """By autograd through the settling; the error falls by 4 with half of beta, by 2 one-sided."""
    stack = stack_of(activation, predicts)
    x, y = examples(predicts)
    parameters = [p for f in stack.encoders for p in (f.weight, f.bias)]
    loss = loss_of(stack, state(stack, x)[-1], y).mean()
    true = torch.autograd.grad(loss, parameters)
    norms = torch.stack([g.norm() for g in true])

    def errors(**options):
        found = [g for layer in gradients(Rule(stack, **options), (x, y)) for g in layer]
        gaps = [(a - b).norm() for a, b in zip(found, true, strict=True)]
        return torch.stack(gaps) / norms

    for nudge, factor in (("both", 4.0), ("one", 2.0)):
        ratio = errors(beta=2e-2, nudge=nudge) / errors(beta=1e-2, nudge=nudge)
        assert bool((ratio / factor - 1.0).abs().max() < 0.03), (nudge, ratio)

    assert errors(beta=1e-5).max() < 1e-8


#: G of each activation, whose slope is its inverse.
ENERGIES = {
    "tanh": lambda h: h * torch.atanh(h) + torch.log1p(-h.square()) / 2,
    "sigmoid": lambda h: torch.xlogy(h, h) + torch.xlogy(1 - h, 1 - h),
    "relu": lambda h: h.square() / 2,
    "linear": lambda h: h.square() / 2,
}


@pytest.mark.parametrize("activation", ENERGIES)
def test_states_lie_where_the_energy_is_lowest(activation):
    """Its slope is 0 there, of the free state and of nudged ones; of relu where a unit is on."""
    stack = stack_of(activation)
    x, y = examples("classes")
    rule = Rule(stack)
    assert rule.residual(x) < 1e-12

    h, a = rule.minus(x)
    torch.testing.assert_close(rule.settled_answer(x), stack.output(state(stack, x)[-1]).detach())
    for beta in (0.0, 0.3, -0.3):
        d = rule.nudged(h, a, y, beta)
        free = [(b + e).requires_grad_() for b, e in zip(h[1:-1], d[1:-1], strict=True)]

        total = beta * loss_of(stack, free[-1], y).sum()
        for level, (f, below, here) in enumerate(
            zip(stack.encoders[:-1], [x, *free], free, strict=False), 1
        ):
            term = ENERGIES[activation](here) - here * f.preactivation(below)
            total = total + GAMMA ** (level - stack.depth) * term.sum()

        for layer, slope in zip(free, torch.autograd.grad(total, free), strict=True):
            on = layer != 0 if activation == "relu" else torch.ones_like(layer, dtype=bool)
            assert slope[on].abs().max() < 1e-10
            assert bool((slope[~on] >= 0).all())


@pytest.mark.parametrize("nudge", ["both", "one"])
def test_updates_are_products_of_activities(nudge):
    """As printed, at states found by another way, for a nudge that is not small."""
    stack = stack_of("tanh")
    x, y = examples("classes")
    beta = 0.5
    found = gradients(Rule(stack, beta=beta, nudge=nudge), (x, y))

    high = state(stack, x, y, beta)
    low = state(stack, x, y, -beta if nudge == "both" else 0.0)
    distance = 2 * beta if nudge == "both" else beta
    for level, (weight, bias) in enumerate(found[:-1], 1):
        scale = -(GAMMA ** (level - stack.depth)) / (distance * len(x))
        products = high[level].T @ high[level - 1] - low[level].T @ low[level - 1]
        torch.testing.assert_close(weight, scale * products, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(
            bias, scale * (high[level] - low[level]).sum(0), rtol=1e-9, atol=1e-11
        )


# -- the answer ----------------------------------------------------------------------------------


def closed_form(stack, x):
    """The answer at the fixed point of a linear network: one system of equations for all h_l."""
    f = stack.encoders[:-1]
    at = torch.tensor([layer.out_features for layer in f]).cumsum(0).tolist()
    places = [slice(end - layer.out_features, end) for layer, end in zip(f, at, strict=True)]
    matrix = torch.eye(at[-1], dtype=torch.float64)
    given = torch.cat([layer.bias.expand(len(x), -1) for layer in f], 1)
    given[:, places[0]] += x @ f[0].weight.T
    for layer, below, here in zip(f[1:], places, places[1:], strict=False):
        matrix[here, below] -= layer.weight
        matrix[below, here] -= GAMMA * layer.weight.T

    return stack.output(torch.linalg.solve(matrix, given.T).T[:, places[-1]])


def with_softmax(stack, x, rounds=110):
    """The logits where the softmax sends feedback too, all layers at once, many times over."""
    f = stack.encoders
    h = [x, *(x.new_zeros(len(x), layer.out_features) for layer in f)]
    for _ in range(rounds):
        a = [layer.preactivation(below) for layer, below in zip(f, h, strict=False)]
        logits = a[-1]
        for level in range(1, len(f)):
            a[level - 1] = a[level - 1] + GAMMA * h[level + 1] @ f[level].weight
        h = [
            x,
            *(layer.s(each) for layer, each in zip(f[:-1], a, strict=False)),
            logits.softmax(1),
        ]

    return logits


@pytest.mark.parametrize(
    ("make", "oracle"),
    [
        (EquilibriumPropagationRule, closed_form),
        (ContrastiveHebbianRule, with_softmax),
        (GeneRecRule, with_softmax),
        (NudgedSTDPRule, with_softmax),
    ],
)
def test_a_settled_network_answers_by_the_fixed_point_wherever_it_is_loaded(
    make, oracle, tmp_path
):
    stack = stack_of("linear")
    x, y = examples("classes")
    with torch.no_grad():
        answer = oracle(stack, x).softmax(1)
        forward = stack(x)[0].softmax(1)

    forward_rule = make(stack, gamma=GAMMA, sweeps=60)
    loss = forward_rule.total_loss((x, y))
    torch.testing.assert_close(stack.predict(x), forward, rtol=0, atol=1e-12)

    rule = make(stack, gamma=GAMMA, sweeps=60, settled=True)
    assert (answer - forward).abs().max() > 0.01
    torch.testing.assert_close(stack.predict(x), answer, rtol=0, atol=1e-10)
    assert torch.equal(rule.total_loss((x, y)), loss)

    again = load(save(stack, tmp_path / "m.safetensors"))
    assert vars(again.settings.settling) == vars(stack.settings.settling)
    torch.testing.assert_close(again.double().predict(x), answer, rtol=0, atol=1e-6)
    save_program(again, tmp_path / "m.pt2", "predict")
    (found,) = torch.export.load(tmp_path / "m.pt2").module()(x.float())
    torch.testing.assert_close(found.double(), answer, rtol=0, atol=1e-6)

    with pytest.raises(ValueError, match="affine layers without bits or draws is needed"):
        stack.settings.settling.check(deep_autoencoder([7, 3]))
    if make is not EquilibriumPropagationRule:
        with pytest.raises(ValueError, match="accepted: symmetric=True"):
            make(stack, symmetric=False, settled=True)

    BackpropRule(stack)
    torch.testing.assert_close(stack.predict(x), forward, rtol=0, atol=1e-12)


def test_a_settled_run_validates_tests_and_keeps_the_settled_answer(tmp_path):
    options = {"gamma": 0.8, "sweeps": 3, "rates": Rates(f=0.05)}
    found = {}
    for settled in (False, True):
        torch.manual_seed(0)
        rule = EquilibriumPropagationRule(
            deep_classifier([64, 20, 12], init="uniform", gain=2.0), settled=settled, **options
        )
        run = trainer(max_epochs=1, limit_val_batches=None, enable_checkpointing=False)
        run.fit(rule, Digits(batch_size=200))
        found[settled] = dict(run.callback_metrics)

    (tested,) = run.test(rule, Digits(), verbose=False)
    assert found[True]["val/error"] == found[True]["val/settled_error"]
    assert found[False]["val/error"] != found[False]["val/settled_error"]
    assert found[False]["val/settled_error"] == found[True]["val/settled_error"]

    path = tmp_path / "m.ckpt"
    run.save_checkpoint(path)
    x, y, _ = Digits().split("test")
    loaded = load(path)
    assert torch.equal(loaded.predict(x), rule.stack.predict(x))
    assert tested["test/error"] == pytest.approx((loaded.predict(x).argmax(1) != y).float().mean())
