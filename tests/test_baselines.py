"""The baselines: their gradients against closed forms in float64, and their training."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything

import gendae
from gendae.classifier import Classifier
from gendae.corruption import GaussianNoise
from gendae.data import Digits
from gendae.layers import MLP, Affine, Pair
from gendae.models import deep_classifier
from gendae.rules import (
    BackpropRule,
    ContrastiveHebbianRule,
    DifferenceTargetPropRule,
    FeedbackAlignmentRule,
    GeneRecRule,
    StraightThroughRule,
)
from gendae.rules.backprop import fixed_feedback
from gendae.targets import displacement, displacements

BASELINES = (BackpropRule, StraightThroughRule, FeedbackAlignmentRule, GeneRecRule, ContrastiveHebbianRule)
TWO_PHASES = (GeneRecRule, ContrastiveHebbianRule)
#: s'(a) from h = s(a).
SLOPES = {"tanh": lambda h: 1 - h**2, "sigmoid": lambda h: h * (1 - h),
          "softplus": lambda h: 1 - torch.exp(-h)}
rules = pytest.mark.parametrize("rule", BASELINES, ids=lambda rule: rule.__name__)
two_phases = pytest.mark.parametrize("rule", TWO_PHASES, ids=lambda rule: rule.__name__)


def network(sizes=(7, 6, 5), activation=None, **options):
    """A float64 classifier of 4 classes with non-zero biases."""
    stack = deep_classifier(list(sizes), 4, activation, **options).double()
    with torch.no_grad():
        for f in stack.encoders:
            f.bias.normal_(0.0, 0.3)
    return stack


def batch(n=12, width=7):
    return torch.rand(n, width, dtype=torch.float64) * 2 - 1, torch.randint(4, (n,))


def gradients(rule, data):
    """(dW_l, db_l) for l = 1 .. M; None where there is none."""
    rule.zero_grad(set_to_none=True)
    sum(rule.losses(data).values()).backward()
    return [(f.weight.grad, f.bias.grad) for f in rule.stack.encoders]


def assert_equal(found, expected):
    for level, (mine, theirs) in enumerate(zip(found, expected, strict=True), 1):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-9, atol=1e-13, msg=lambda m, level=level: f"layer {level}: {m}")


def outer(e, h):
    """(sum of e h', sum of e) over the batch."""
    return e.T @ h, e.sum(0)


def true_gradients(stack, data):
    """Autograd of the cross-entropy of a network written out here."""
    h, y = data
    for f in stack.encoders[:-1]:
        h = getattr(F, f.activation, getattr(torch, f.activation, None))(h @ f.weight.T + f.bias)
    loss = F.cross_entropy(h @ stack.output.weight.T + stack.output.bias, y)
    parameters = [p for f in stack.encoders for p in (f.weight, f.bias)]
    found = torch.autograd.grad(loss, parameters)
    return list(zip(found[::2], found[1::2], strict=True))


# -- back-propagation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 5), (7, 6, 5), (7, 6, 5, 8)])
@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("rule", [BackpropRule, StraightThroughRule])
def test_backprop_is_the_gradient_of_the_cross_entropy(rule, activation, sizes):
    stack, data = network(sizes, activation), batch()
    assert_equal(gradients(rule(stack), data), true_gradients(stack, data))


@pytest.mark.parametrize("fixed", [1, 2])
def test_fixed_layers_get_no_gradient_and_the_others_that_of_backprop(fixed):
    stack, data = network(), batch()
    found, expected = gradients(BackpropRule(stack, fixed=fixed), data), true_gradients(stack, data)
    assert found[:fixed] == [(None, None)] * fixed
    assert_equal(found[fixed:], expected[fixed:])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_fixed_layers_stay_bit_equal_also_with_weight_decay(optimizer):
    stack = network(bits=[1])
    rule = BackpropRule(stack, fixed=1, optimizer=optimizer, weight_decay_f=0.1, lr_f=0.01)
    before = [f.weight.detach().clone() for f in stack.encoders]
    update = rule.configure_optimizers()
    for _ in range(3):
        update.zero_grad()
        sum(rule.losses(batch()).values()).backward()
        update.step()
    same = [torch.equal(f.weight, w) for f, w in zip(stack.encoders, before, strict=True)]
    assert same == [True, False, False]


@pytest.mark.parametrize("samples", [1, 3])
def test_fixed_layers_send_the_same_draws(samples):
    stack, data = network(stochastic=True), batch()
    found = []
    for fixed in (0, 1):
        rule = StraightThroughRule(stack, fixed=fixed, samples=samples)
        rule.generator = torch.Generator().manual_seed(5)
        found.append(gradients(rule, data))
    assert found[1][0] == (None, None)
    assert_equal(found[1][1:], found[0][1:])


def test_backprop_refuses_what_no_derivative_passes():
    for options, enough in (({"bits": [1]}, 1), ({"bits": [2]}, 2), ({"stochastic": True}, 3)):
        stack = network((7, 6, 5, 5), **options)
        for fixed in range(enough):
            accepted = f"StraightThroughRule, or BackpropRule with fixed={enough}$"
            with pytest.raises(ValueError, match=accepted):
                BackpropRule(stack, fixed=fixed)
        assert BackpropRule(stack, fixed=enough).losses(batch())
    for fixed in (-1, 4, 5):
        with pytest.raises(ValueError, match=f"fixed={fixed}: .*(>= 0|accepted: 0 .. 3)"):
            BackpropRule(network((7, 6, 5, 5)), fixed=fixed)


# -- straight-through ------------------------------------------------------------------------------------


def test_straight_through_bits_by_hand():
    """Eq. 3.24 and 3.25 backwards, the derivative of the step taken as 1."""
    stack, (x, y) = network(bits=[1]), batch()
    (w1, b1), (w2, b2), (w3, b3) = [(f.weight.detach(), f.bias.detach()) for f in stack.encoders]
    h1 = torch.tanh(x @ w1.T + b1)
    bits = torch.where(h1 > 0, 1.0, 0.0).double()
    h2 = torch.tanh(bits @ w2.T + b2)
    e3 = (torch.softmax(h2 @ w3.T + b3, 1) - F.one_hot(y, 4)) / len(y)
    e2 = e3 @ w3 * (1 - h2**2)
    e1 = e2 @ w2 * (1 - h1**2)
    found = gradients(StraightThroughRule(stack), (x, y))
    assert_equal(found, [outer(e1, x), outer(e2, bits), outer(e3, h2)])


@pytest.mark.parametrize("samples", [1, 3])
def test_straight_through_draws_by_hand(samples):
    """Eq. 3.29 for given draws; the loss of several is that of their mean probability."""
    stack, (x, y) = network(stochastic=True), batch()
    rule = StraightThroughRule(stack, samples=samples)
    rule.generator = torch.Generator().manual_seed(5)
    found = gradients(rule, (x, y))

    generator, n = torch.Generator().manual_seed(5), samples * len(x)
    (w1, b1), (w2, b2), (w3, b3) = [(f.weight.detach(), f.bias.detach()) for f in stack.encoders]
    inputs, labels = x.repeat(samples, 1), y.repeat(samples)
    p1 = torch.sigmoid(inputs @ w1.T + b1)
    h1 = (torch.rand(n, 6, generator=generator, dtype=torch.float64) < p1).double()
    p2 = torch.sigmoid(h1 @ w2.T + b2)
    h2 = (torch.rand(n, 5, generator=generator, dtype=torch.float64) < p2).double()
    p3 = torch.softmax(h2 @ w3.T + b3, 1)
    right = p3.gather(1, labels[:, None]).view(samples, -1)
    share = (right / right.sum(0)).view(-1, 1)
    e3 = share * (p3 - F.one_hot(labels, 4)) / len(y)
    delta2 = e3 @ w3
    delta1 = (delta2 * p2 * (1 - p2)) @ w2  # Eq. 3.29
    expected = [outer(delta1 * p1 * (1 - p1), inputs), outer(delta2 * p2 * (1 - p2), h1), outer(e3, h2)]
    assert_equal(found, expected)


# -- feedback alignment ----------------------------------------------------------------------------------


def aligned(stack):
    """The rule with B_l = W_l'."""
    rule = FeedbackAlignmentRule(stack)
    for level, f in enumerate(stack.encoders[1:], 2):
        getattr(rule, f"feedback_{level}").copy_(f.weight.detach().T)
    return rule


@pytest.mark.parametrize("activation", [*SLOPES, "relu", "linear"])
def test_feedback_alignment_with_transposes_is_backprop(activation):
    stack, data = network((7, 6, 5, 8), activation), batch()
    assert_equal(gradients(aligned(stack), data), gradients(BackpropRule(stack), data))


def test_feedback_alignment_by_hand_and_only_the_output_layer_is_that_of_backprop():
    stack, (x, y) = network(), batch()
    rule = FeedbackAlignmentRule(stack)
    found = gradients(rule, (x, y))
    _, h1, h2 = stack.encode(x)
    e3 = (torch.softmax(stack.output(h2), 1) - F.one_hot(y, 4)) / len(y)
    e2 = e3 @ rule.feedback_3.T * (1 - h2**2)
    e1 = e2 @ rule.feedback_2.T * (1 - h1**2)
    assert_equal(found, [outer(e1, x), outer(e2, h1), outer(e3, h2)])
    true = true_gradients(stack, (x, y))
    assert_equal(found[2:], true[2:])
    for mine, theirs in zip(found[:2], true[:2], strict=True):
        assert cosine(mine[0], theirs[0]) < 0.8


def linear_decoders(rule):
    """g_l(h) = B_l h + c with the rule's B_l, for any c; and B_M = W_M', which the first target has."""
    stack = rule.stack
    getattr(rule, f"feedback_{stack.depth + 1}").copy_(stack.output.weight.detach().T)
    with torch.no_grad():
        for level, pair in enumerate(stack.pairs[1:], 2):
            pair.g.weight.copy_(getattr(rule, f"feedback_{level}"))
            pair.g.bias.normal_()


def encoder_gradients(stack, data):
    """Of difference target propagation, scaled so that they do not depend on its step."""
    rule = DifferenceTargetPropRule(stack, step=0.3)
    rule.zero_grad(set_to_none=True)
    sum(loss for name, loss in rule.losses(data).items() if "_f_" in name).backward()
    return [(f.weight.grad, f.bias.grad) for f in stack.encoders]


def test_feedback_alignment_is_difference_target_propagation_with_linear_decoders():
    """Exactly so for linear hidden layers; else up to s' between the layers: equal in the top two."""
    data = batch()
    for activation, equal in (("linear", 0), ("tanh", 2)):
        rule = FeedbackAlignmentRule(network((7, 6, 5, 8), activation, feedback="linear"))
        linear_decoders(rule)
        found, expected = gradients(rule, data), encoder_gradients(rule.stack, data)
        assert_equal(found[equal:], expected[equal:])
        for mine, theirs in zip(found[:equal], expected[:equal], strict=True):
            assert not torch.allclose(mine[0], theirs[0], rtol=1e-3)


@pytest.mark.parametrize("activation", SLOPES)
def test_feedback_alignment_multiplies_displacements_by_the_slope(activation):
    """d_{l-1} = B_l (s'(a_l) * d_l) in place of displacements' B_l d_l; f_l then learns s'(a_l) * d_l."""
    rule = FeedbackAlignmentRule(network((7, 6, 5, 8), activation, feedback="linear"))
    linear_decoders(rule)
    stack, (x, y) = rule.stack, batch()
    h = [layer.detach() for layer in stack.encode(x)]
    slope = SLOPES[activation]
    e = (torch.softmax(stack.output(h[-1]), 1) - F.one_hot(y, 4)).detach() / len(y)
    d = [-e @ stack.output.weight.detach()]
    plain = displacements(stack.pairs, h, d[0])
    for level in (3, 2):
        below = displacement(stack.pairs[level - 1], h[level - 1], h[level], slope(h[level]) * d[0])
        d.insert(0, below.detach())
    torch.testing.assert_close(d[-1], plain[-1])
    expected = [outer(-slope(h[level]) * d[level - 1], h[level - 1]) for level in (1, 2, 3)]
    assert_equal(gradients(rule, (x, y))[:3], expected)


@pytest.mark.parametrize("init", ["normal", "orthogonal", "uniform"])
def test_feedback_weights_have_the_size_of_the_transposed_weights(init):
    stack = deep_classifier([30, 400, 100], 50, gain=1.5, init=init)
    for level, weight in fixed_feedback(stack, 2.0).items():
        f = stack.encoders[level - 1]
        assert weight.shape == (f.in_features, f.out_features) and not weight.requires_grad
        assert weight.std().item() == pytest.approx(2.0 * f.weight.std().item(), rel=0.05)
        assert abs(cosine(weight.T, f.weight)) < 0.05


def random_feedback(stack):
    return [FeedbackAlignmentRule(stack), *(rule(stack, symmetric=False) for rule in TWO_PHASES)]


def test_feedback_weights_follow_the_seed_and_the_type_of_the_stack():
    for index in range(3):
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            rule = random_feedback(network())[index]
            drawn.append({k: v for k, v in rule.state_dict().items() if k.startswith("feedback")})
        assert sorted(drawn[0]) == ["feedback_2", "feedback_3"]
        assert all(v.dtype == torch.float64 for v in drawn[0].values())
        for name, weight in drawn[0].items():
            assert torch.equal(weight, drawn[1][name]) and not torch.equal(weight, drawn[2][name])


# -- two phases ------------------------------------------------------------------------------------------


def cosine(a, b):
    return torch.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def fixed_point(stack, feedback, x, gamma, label=None):
    """The phase written out, all layers at once, many times over."""
    f, top = stack.encoders, len(stack.encoders)
    h = [x, *(x.new_zeros(len(x), layer.out_features) for layer in f)]
    with torch.no_grad():
        for _ in range(300):
            new = [x, *(layer.preactivation(h[level]) for level, layer in enumerate(f))]
            for level in range(1, top):
                new[level] = f[level - 1].s(new[level] + gamma * h[level + 1] @ feedback[level + 1].T)
            new[top] = torch.softmax(new[top], 1) if label is None else label
            h = new
    return h


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activation", SLOPES)
@two_phases
def test_two_phase_updates_as_printed(rule, activation, symmetric):
    """Eq. 1.13 and 1.14 as outer products at independent fixed points, divided by gamma^(M-l)."""
    stack, (x, y), gamma = network((7, 6, 5, 8), activation), batch(), 0.1
    r = rule(stack, gamma=gamma, sweeps=60, symmetric=symmetric)
    feedback = {level: r.feedback(level) for level in (2, 3, 4)}
    minus = fixed_point(stack, feedback, x, gamma)
    plus = fixed_point(stack, feedback, x, gamma, F.one_hot(y, 4).double())
    expected = []
    for level in (1, 2, 3, 4):
        low, high = (minus[level - 1], minus[level]), (plus[level - 1], plus[level])
        if rule is GeneRecRule:
            weight = (high[1] - low[1]).T @ low[0]
        else:
            weight = high[1].T @ high[0] - low[1].T @ low[0]
        scale = -1.0 / (len(x) * gamma ** (4 - level))
        expected.append((scale * weight, scale * (high[1] - low[1]).sum(0)))
    for mine, theirs in zip(gradients(r, (x, y)), expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3, 7])
@pytest.mark.parametrize("activation", SLOPES)
@two_phases
def test_two_phase_gradients_tend_to_backprop(rule, activation, depth):
    """For every layer the relative error falls as gamma does; in the end direction and length agree."""
    stack, data = network((7, *[6] * depth), activation), batch()
    true, errors = true_gradients(stack, data), []
    for gamma in (1e-2, 1e-3, 1e-4):
        found = gradients(rule(stack, gamma=gamma), data)
        errors.append([(a[0] - b[0]).norm() / b[0].norm() for a, b in zip(found, true, strict=True)])
    for coarse, middle, fine in zip(*errors, strict=True):
        assert coarse < 0.2
        assert 7 < coarse / middle < 14 and 9 < middle / fine < 11
    for (mine, bias), (theirs, b) in zip(found, true, strict=True):
        assert cosine(mine, theirs) > 1 - 1e-5
        assert mine.norm() / theirs.norm() == pytest.approx(1.0, abs=2e-3)
        assert cosine(bias, b) > 1 - 1e-5


@two_phases
def test_differences_of_the_phases_do_not_drown_in_single_precision(rule):
    """0.01^7 is far below the digits of the activities; their displacements keep theirs."""
    stack, (x, y) = network((7, *[6] * 7)), batch()
    true = true_gradients(stack, (x, y))
    found = gradients(rule(stack.float(), gamma=0.01), (x.float(), y))
    for mine, theirs in zip(found, true, strict=True):
        assert cosine(mine[0].double(), theirs[0]) > 0.995


@two_phases
def test_without_symmetric_feedback_only_the_output_layer_follows_backprop(rule):
    stack, data = network((7, 6, 5, 8)), batch()
    found = gradients(rule(stack, gamma=1e-4, symmetric=False), data)
    cosines = [cosine(a[0], b[0]) for a, b in zip(found, true_gradients(stack, data), strict=True)]
    assert max(cosines[:-1]) < 0.8 and cosines[-1] > 0.999


def test_generec_without_symmetric_feedback_tends_to_feedback_alignment():
    stack, data = network((7, 6, 5, 8)), batch()
    rule, other = GeneRecRule(stack, gamma=1e-5, symmetric=False), FeedbackAlignmentRule(stack)
    for name, weight in rule.named_buffers(recurse=False):
        getattr(other, name).copy_(weight)
    for mine, theirs in zip(gradients(rule, data), gradients(other, data), strict=True):
        torch.testing.assert_close(mine[0], theirs[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("activation", SLOPES)
def test_the_sweeps_settle(activation):
    stack, (x, y) = network((7, 6, 5, 8), activation), batch()
    residuals = [GeneRecRule(stack, sweeps=n).residual(x).item() for n in (1, 2, 3, 10)]
    assert residuals[0] < 0.1 and residuals[2] < 1e-2 and residuals[3] < 1e-8
    assert all(b < 0.5 * a for a, b in pairwise(residuals))
    rule = GeneRecRule(stack, sweeps=40)
    h, a = rule.minus(x)
    d = rule.plus(h, a, y)
    assert d[0] is None
    feedback = {level: rule.feedback(level) for level in (2, 3, 4)}
    plus = fixed_point(stack, feedback, x, 0.1, F.one_hot(y, 4).double())
    for level in range(1, 5):
        torch.testing.assert_close(h[level] + d[level], plus[level], rtol=1e-9, atol=1e-11)


def test_too_much_feedback_shows_in_the_residual():
    stack, (x, _) = network((7, 6, 5, 8), "softplus", gain=2.0), batch()
    assert GeneRecRule(stack, gamma=1.0).residual(x) > 1.0
    assert GeneRecRule(stack, gamma=1e-3).residual(x) < 1e-6


@two_phases
def test_sweeps_compute_only_what_moves(rule, monkeypatch):
    """Products with weights: M up; then in each sweep L down, M - 1 up when free and M - 2 when clamped."""
    stack, data = network((7, 6, 5, 8)), batch()
    calls, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda h, w, b=None: calls.append(w.shape[1]) or linear(h, w, b))
    r = rule(stack, sweeps=5)
    h, a = r.minus(data[0])
    r.plus(h, a, data[1])
    assert len(calls) == 4 + 5 * (3 + 3) + 5 * (3 + 2)
    assert calls.count(7) == 1  # x is fixed


@two_phases
def test_two_phase_arguments(rule):
    for arguments in ({"gamma": 0.0}, {"gamma": 1.5}, {"gamma": float("nan")}, {"sweeps": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
            rule(network(), **arguments)
    with pytest.raises(ValueError, match=r"gamma=1e-06: a weight of the feedback in \[5.2e-05, 1\]"):
        rule(network((7, *[6] * 7)), gamma=1e-6)


# -- all of them -----------------------------------------------------------------------------------------


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu", "devices": 1}
    return Trainer(**quiet, **options)


def fitted(rule, seed=0, epochs=10, **options):
    seed_everything(seed, verbose=False)
    r = rule(deep_classifier([64, 40, 40]), lr_f=1e-2, **options)
    run = trainer(max_epochs=epochs)
    run.fit(r, Digits(batch_size=50))
    return r, run


@rules
def test_learns_digits(rule, tmp_path, digits):
    r, run = fitted(rule)
    metrics = run.callback_metrics
    assert metrics["val/error"] < 0.08
    split = digits.split("valid")
    p = r.stack.predict(split.x)
    assert metrics["val/error"].item() == pytest.approx((p.argmax(1) != split.y).float().mean().item())
    assert metrics["val/loss"].item() == pytest.approx(F.nll_loss(p.log(), split.y).item(), rel=1e-4)
    if rule in TWO_PHASES:
        assert metrics["val/residual"] < 0.1

    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = gendae.load(tmp_path / "run.ckpt")
    assert torch.equal(loaded.predict(split.x), p)
    assert loaded.facts["rule"] == rule.__name__


@rules
def test_the_same_seed_gives_the_same_weights(rule):
    options = {"epochs": 1, "input_corruption": GaussianNoise(0.2)}
    if rule in TWO_PHASES:
        options["symmetric"] = False
    one, two, other = (fitted(rule, seed, **options)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["stack.pairs.0.f.weight"], other["stack.pairs.0.f.weight"])


@pytest.mark.parametrize("index", range(3))
def test_feedback_weights_travel_with_the_checkpoint(index, tmp_path):
    seed_everything(1, verbose=False)
    first = random_feedback(deep_classifier([64, 10, 10]))[index]
    run = trainer(max_epochs=1)
    run.fit(first, Digits())
    run.save_checkpoint(tmp_path / "run.ckpt")
    seed_everything(2, verbose=False)
    second = random_feedback(deep_classifier([64, 10, 10]))[index]
    assert not torch.equal(second.feedback_2, first.feedback_2)
    trainer(max_epochs=2).fit(second, Digits(), ckpt_path=tmp_path / "run.ckpt")
    for level in (2, 3):
        assert torch.equal(getattr(second, f"feedback_{level}"), getattr(first, f"feedback_{level}"))


@rules
def test_a_plain_loop_trains(rule, digits):
    rule = rule(deep_classifier([64, 40, 40]), lr_f=5e-3)
    optimizer = rule.configure_optimizers()
    for step in range(60):
        optimizer.zero_grad()
        sum(rule.losses(digits.split("train")[20 * step : 20 * step + 20]).values()).backward()
        optimizer.step()
    x, y = digits.split("valid")
    assert (rule.stack.predict(x).argmax(1) != y).float().mean() < 0.25


@pytest.mark.parametrize("options", [{"bits": [1]}, {"stochastic": True}], ids=["bits", "draws"])
def test_straight_through_learns_digits_through_bits_and_draws(options, tmp_path, digits):
    seed_everything(0, verbose=False)
    r = StraightThroughRule(deep_classifier([64, 40, 40], **options), lr_f=2e-2, eval_samples=20)
    run = trainer(max_epochs=10)
    run.fit(r, Digits(batch_size=50))
    assert run.callback_metrics["val/error"] < 0.12
    run.save_checkpoint(tmp_path / "run.ckpt")
    x = digits.split("valid").x
    assert torch.equal(gendae.load(tmp_path / "run.ckpt").predict(x), r.stack.predict(x))


@rules
def test_refusals(rule):
    stack = network()
    for arguments in ({"lr_f": [1e-3, 1e-3]}, {"weight_decay_f": [0.0] * 4}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} has .* each of the 3 layers"):
            rule(stack, **arguments)
    assert [g["lr"] for g in rule(stack, lr_f=[0.1, 0.2, 0.3]).configure_optimizers().param_groups][:3] == [
        0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="no output layer"):
        rule(gendae.Stack(*stack.pairs))
    x, y = batch()
    r = rule(stack)
    for data, complaint in (((x,), "no labels"), ((x[:, :5], y), r"x has shape \(12, 5\)"),
                            ((x, y + 1), "labels from"), ((x, y[:5]), "y has shape"), ((x, x[:, 0]), "integer")):
        with pytest.raises(ValueError, match=complaint):
            r.losses(data)


@rules
def test_hidden_layers_inside_an_encoder_are_for_backprop_alone(rule):
    pair = Pair(MLP(7, [9], 6, "tanh"), Affine(6, 7))
    stack = Classifier(pair, Pair(Affine(6, 5, "tanh"), Affine(5, 6)), output=Affine(5, 4)).double()
    if rule in (BackpropRule, StraightThroughRule):
        sum(rule(stack).losses(batch()).values()).backward()
        assert all(p.grad.abs().sum() > 0 for p in pair.f.parameters())
    else:
        with pytest.raises(ValueError, match=f"{rule.__name__} does not support this network: f_1 is MLP"):
            rule(stack)


@pytest.mark.parametrize("options", [{"bits": [1]}, {"stochastic": True}], ids=["bits", "draws"])
@pytest.mark.parametrize("rule", [FeedbackAlignmentRule, *TWO_PHASES])
def test_bits_are_refused(rule, options):
    with pytest.raises(ValueError, match="h_1 is transmitted as bits.*accepted: DifferenceTargetPropRule"):
        rule(network(**options))


@rules
def test_decoders_are_left_alone(rule):
    stack = network()
    sum(rule(stack).losses(batch()).values()).backward()
    assert all(p.grad is None for pair in stack.pairs for p in pair.g.parameters())
