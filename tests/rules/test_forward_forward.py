"""Forward-forward: losses and gradients by hand, what a layer sees of the others, its answer."""

from collections import Counter
from functools import partial

import pytest
import torch

import gendae
from gendae.data.images import Digits
from gendae.models.architectures import goodness_classifier
from gendae.models.classifier import Classifier
from gendae.rules.forward_forward import ForwardForwardRule
from gendae.rules.rates import Rates
from tests.conftest import at
from tests.rules.test_base import trainer
from tests.rules.test_supervised import batch

CLASSES = 4


def network(sizes=(7, 6, 5), activation="relu"):
    stack = goodness_classifier(sizes, CLASSES, activation, gain=2.0).double()
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * torch.randn_like(p))

    return stack


def by_hand(stack, x, y, rescaled=(1.0, 1.0)):
    """h_1, h_2 and what they were made of, under the labels y."""
    first, second = (pair.f for pair in stack.pairs)
    a_1 = x @ first.weight.T + first.label.T[y] + first.bias
    h_1 = rescaled[0] * a_1.clamp(min=0)
    below = h_1 / h_1.square().mean(1, keepdim=True).sqrt()
    h_2 = (below @ second.weight.T + second.bias).clamp(min=0)

    return (h_1, h_2), (x, below)


def test_losses_and_gradients_by_hand():
    """dloss / dW_l = sum_n slope_n (2 / units) h_l h_{l-1}', the sigmoid of the miss as slope."""
    stack = network()
    x, y = batch()
    k, theta = 3.0, 0.7
    rule = ForwardForwardRule(stack, theta, k)
    other = rule.wrong(x, y, at(5))
    losses = rule.losses((x, y), at(5))

    expected = [0.0, 0.0]
    weights = [0.0, 0.0]
    logits = []
    with torch.no_grad():
        for labels, sign in ((y, 1.0), (other, -1.0)):
            hidden, inputs = by_hand(stack, x, labels)
            goodness = [(h * h).sum(1) / h.shape[1] for h in hidden]
            out = stack.output
            total = sum(g * out.weight[labels, i] for i, g in enumerate(goodness))
            logits.append(total + out.bias[labels])
            for i, (g, h, given) in enumerate(zip(goodness, hidden, inputs, strict=True)):
                miss = k * sign * (theta - g)
                expected[i] += torch.log(1 + torch.exp(miss)).mean()
                slope = -k * sign * torch.sigmoid(miss) * 2.0 / h.shape[1] / len(x)
                weights[i] = weights[i] + (slope[:, None] * h).T @ given

    for i in (0, 1):
        loss = losses[f"goodness_f_{i + 1}"]
        (weight,) = torch.autograd.grad(loss, stack.pairs[i].f.weight, retain_graph=True)
        assert loss.item() == pytest.approx(expected[i].item(), rel=1e-12)
        torch.testing.assert_close(weight, weights[i], rtol=1e-11, atol=1e-13)

    share = torch.exp(logits[0]) / (torch.exp(logits[0]) + torch.exp(logits[1]))
    assert losses["label_f_3"].item() == pytest.approx(-share.log().mean().item(), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_layer_sees_nothing_of_the_length_below(scale):
    """Nor does the derivative: along h_{l-1} the loss of layer l is flat."""
    stack = network((7, 6, 5, 6))
    x, y = batch()
    before = ForwardForwardRule(stack).losses((x, y), at(5))
    (layer,) = (pair.f for pair in stack.pairs[1:2])
    h = torch.rand(12, 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer.hidden(scale * h).square().sum(), h)
    along = (slope * h).sum(1)

    assert slope.abs().max() > 0.01
    assert along.abs().max() < 1e-12 * slope.abs().max()

    with torch.no_grad():
        for p in stack.pairs[0].f.parameters():
            p.mul_(scale)
    after = ForwardForwardRule(stack).losses((x, y), at(5))

    for name in ("goodness_f_2", "goodness_f_3"):
        assert after[name].item() == pytest.approx(before[name].item(), rel=1e-12)
    assert (after["goodness_f_1"] == before["goodness_f_1"]) == (scale == 1.0)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_answer_is_the_goodness_under_each_label(activation):
    """At first the sum over layers; wrong labels are never right ones, and all are drawn."""
    stack = goodness_classifier([7, 6, 5], CLASSES, activation).double()
    x, y = batch(600)
    first, second = (pair.f for pair in stack.pairs)
    total = []
    for label in torch.eye(CLASSES, dtype=torch.float64):
        h_1 = first.hidden(x, label.expand(len(x), -1))
        h_2 = second.hidden(h_1)
        total.append(h_1.square().mean(1) + h_2.square().mean(1))
    total = torch.stack(total, 1).detach()

    torch.testing.assert_close(stack.predict(x), total.softmax(1), rtol=1e-12, atol=0)

    drawn = ForwardForwardRule(stack).wrong(x, y, at(3))
    counts = Counter(((drawn - y) % CLASSES).tolist())
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 150

    hardest = ForwardForwardRule(stack, negatives="hardest").wrong(x, y, at(3))
    total[torch.arange(len(x)), y] = -1.0
    assert torch.equal(hardest, total.argmax(1))


def test_learns_digits(tmp_path, digits):
    stack = goodness_classifier([64, 60, 60])
    rule = ForwardForwardRule(stack, rates=Rates(f=2e-2))
    run = trainer(max_epochs=4)
    run.fit(rule, Digits(batch_size=50))
    assert run.callback_metrics["val/error"] < 0.12

    x = digits.split("valid").x
    run.save_checkpoint(tmp_path / "run.ckpt")
    assert torch.equal(gendae.load(tmp_path / "run.ckpt").predict(x), stack.predict(x))


def of_other_layers():
    """The layers of a classifier by goodness, in a wrong order or under another output."""
    stack = goodness_classifier([7, 7, 7], CLASSES)
    return Classifier(stack.pairs[0], output=gendae.Affine(32, CLASSES))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ForwardForwardRule(gendae.deep_classifier([7, 6], 3)), "f_1 is Affine; accepted"),
        (lambda: ForwardForwardRule(of_other_layers()), "GoodnessLogits of 1 layers is needed"),
        (lambda: gendae.GeneRecRule(network()), "f_1 is GoodnessLayer, and the rule is stated"),
        (lambda: ForwardForwardRule(gendae.deep_autoencoder([7, 6])), "has no output layer"),
        (partial(ForwardForwardRule, network(), threshold=0.0), "threshold=0.0"),
        (partial(ForwardForwardRule, network(), negatives="all"), "accepted: drawn, hardest"),
        (lambda: goodness_classifier([7, 6], 1), "classes=1"),
        (lambda: gendae.GoodnessLogits(6, 3, layers=2), "in_features=6"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
