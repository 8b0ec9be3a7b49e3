"""Hebb's rule, competition and the delta rule of single layers, against their closed forms."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import gendae
from gendae import CompetitiveRule, DeltaRule, HebbianRule, deep_autoencoder, deep_classifier
from gendae.models.architectures import stack_of
from gendae.rules.moment import Moment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n=200, width=5):
    """Rows with a mean, whose covariance has eigenvalues far apart."""
    z = torch.randn(n, width, dtype=torch.float64, generator=seeded())
    turn, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=seeded(1)))
    spread = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.1], dtype=torch.float64)

    return z * spread @ turn + 0.3


def stack(sizes, activation):
    torch.manual_seed(0)
    names = [activation] * (len(sizes) - 1)
    return deep_autoencoder(sizes, names, visible="linear").double()


def descend(rule, batch, parameters, rate, steps):
    """Full-batch steps along minus the gradients, each layer by its own."""
    for _ in range(steps):
        losses = rule.losses(batch, Moment(0.0, seeded()))
        gradients = torch.autograd.grad(sum(losses.values()), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient


@pytest.mark.parametrize("decay", ["unit", "subspace", "ordered"])
def test_hebb_with_decay_ends_at_eigenvectors_of_the_covariance(decay):
    """Oja 1982 and 1989, Sanger 1989; decoders end at the regression on the codes."""
    x = cloud()
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :2].T

    network = stack([5, 2], "linear")
    rule = HebbianRule(network, decay)
    f, g = network.pairs[0].f, network.pairs[0].g
    descend(rule, (x,), [*f.parameters(), *g.parameters()], 0.7, 250)

    w = f.weight.detach()
    cosines = w @ vectors.T
    if decay == "unit":
        assert torch.allclose(cosines[:, 0].abs(), torch.ones(2).double(), atol=1e-10)
    if decay == "ordered":
        assert torch.allclose(cosines.abs(), torch.eye(2).double(), atol=1e-10)
    if decay == "subspace":
        assert torch.allclose(w.T @ w, vectors.T @ vectors, atol=1e-10)

    assert torch.allclose(f(x).mean(0), torch.zeros(2).double(), atol=1e-12)
    if decay != "unit":  # whose units are one, so that the regression has no single solution
        inputs = torch.cat([f(x).detach(), torch.ones(len(x), 1).double()], 1)
        best = torch.linalg.lstsq(inputs, x).solution.T
        assert torch.allclose(torch.cat([g.weight, g.bias[:, None]], 1), best, atol=1e-9)


def test_hebb_as_printed_is_the_product_of_what_is_on_both_sides():
    """Eq. 1.6, at every level and after any activation."""
    x = cloud(20)
    network = stack([5, 4, 3], "tanh")
    with torch.no_grad():
        network.pairs[0].f.bias.normal_()
    rule = HebbianRule(network, "none")
    losses = rule.losses((x,))
    assert list(losses) == ["hebb_f_1", "reconstruct_g_1", "hebb_f_2", "reconstruct_g_2"]

    for level, h in enumerate(network.encode(x)[1:], 1):
        f = network.pairs[level - 1].f
        (gradient,) = torch.autograd.grad(losses[f"hebb_f_{level}"], f.weight)
        below = network.encode(x)[level - 1]
        expected = torch.einsum("ni,nj->ij", h, below) / len(x)
        torch.testing.assert_close(-gradient, expected.detach(), rtol=1e-12, atol=1e-14)

    others = [p for name, p in network.named_parameters() if not name.startswith("pairs.0.g")]
    own = torch.autograd.grad(losses["reconstruct_g_1"], others, allow_unused=True)
    assert all(gradient is None for gradient in own)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_competition_is_k_means():
    """A full batch of rate 1 is a step of Lloyd's; its fixed points are the centres of k-means."""
    x = torch.cat([cloud(60) + 3.0 * shift for shift in torch.eye(5, dtype=torch.float64)[:3]])
    network = stack([5, 4], "softmax")
    rule = CompetitiveRule(network, leak=0.0)
    layer = network.pairs[0].f.g
    with torch.no_grad():
        layer.weight.copy_(x[[0, 70, 140, 141]])

    parameters = [*layer.parameters()]
    start = layer.weight.detach().numpy().copy()
    one = KMeans(4, init=start, n_init=1, max_iter=1, tol=0.0).fit(x.numpy())
    descend(rule, (x,), parameters, 1.0, 1)
    nearest = torch.cdist(x, torch.from_numpy(start)).argmin(1)
    means = torch.stack([x[nearest == i].mean(0) for i in range(4)])
    torch.testing.assert_close(layer.weight.detach(), means, rtol=0, atol=1e-12)
    assert one.n_iter_ == 1
    assert np.allclose(one.cluster_centers_, means.numpy(), atol=1e-12)

    descend(rule, (x,), parameters, 1.0, 30)
    ours = KMeans(4, init=start, n_init=1, max_iter=300, tol=0.0).fit(x.numpy()).cluster_centers_
    assert np.allclose(layer.weight.detach().numpy(), ours, atol=1e-10)

    # the softmax is largest at the nearest weights
    assert torch.equal(network.encode(x)[1].argmax(1), torch.cdist(x, layer.weight).argmin(1))


def test_one_rate_for_all_and_losers_that_follow():
    """Eq. 1.9 example by example; the leak is gone at the end of training."""
    x = cloud(30)
    network = stack([5, 3], "softmax")
    layer = network.pairs[0].f.g
    for leak, progress in ((0.0, 0.0), (0.2, 0.25), (0.2, 1.0)):
        rule = CompetitiveRule(network, "activated", own_rate=False, leak=leak)
        loss = rule.losses((x,), Moment(progress))["compete_f_1"]
        (gradient,) = torch.autograd.grad(loss, layer.weight)

        expected = torch.zeros_like(gradient)
        for row in x:
            winner = int(layer(row[None]).argmax())
            for unit in range(3):
                rate = 1.0 if unit == winner else leak * (1.0 - progress)
                expected[unit] += rate * (row - layer.weight[unit].detach()) / len(x)
        torch.testing.assert_close(-gradient, expected, rtol=1e-12, atol=1e-13)


def test_the_delta_rule_is_the_gradient_of_half_the_squared_error():
    """Eq. 1.7 and 1.8 as printed; of linear units it ends at least squares."""
    x = cloud(40)
    y = torch.randint(3, (40,), generator=seeded())
    torch.manual_seed(0)
    network = deep_classifier([5, 4], classes=3).double()
    output = network.output
    h = network.encode(x)[-1].detach()
    a = output(h).detach()
    target = torch.nn.functional.one_hot(y, 3).double()

    s = torch.sigmoid(a)
    deltas = {
        ("linear", False): target - a,
        ("sigmoid", False): target - s,
        ("sigmoid", True): (target - s) * s * (1.0 - s),
        ("softmax", False): target - torch.softmax(a, 1),
    }
    for (units, squared), delta in deltas.items():
        rule = DeltaRule(network, units, squared)
        (loss,) = rule.losses((x, y)).values()
        (gradient,) = torch.autograd.grad(loss, output.weight)
        torch.testing.assert_close(-gradient, delta.T @ h / 40, rtol=1e-12, atol=1e-14)

        alone, other = (rule._error(one[None], y) for one in (a, a.flip(0)))
        of_draws = rule._error(torch.stack([a, a.flip(0)]), y)
        torch.testing.assert_close(of_draws, (alone + other) / 2.0, rtol=1e-12, atol=0.0)

    assert (DeltaRule(network).units, DeltaRule(VALUES).units) == ("softmax", "linear")
    inputs = torch.cat([h, torch.ones(40, 1).double()], 1)
    best = torch.linalg.lstsq(inputs, target).solution.T
    with torch.no_grad():
        output.weight.copy_(best[:, :-1])
        output.bias.copy_(best[:, -1])
    (loss,) = DeltaRule(network, "linear").losses((x, y)).values()
    for gradient in torch.autograd.grad(loss, list(output.parameters())):
        assert gradient.abs().max() < 1e-13


CONV = gendae.Conv((1, 2, 4), 2, 1)


def learned_widths():
    law = gendae.LearnedGaussian(3)
    return gendae.Stack(gendae.Pair(gendae.Affine(4, 3), gendae.Affine(3, 4), recognition=law))


VALUES = gendae.Classifier(
    *deep_autoencoder([4, 3]).pairs, output=gendae.Affine(3, 2), predicts="values"
)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HebbianRule(stack_of([gendae.Pair(CONV, CONV.partner())])), "f_1 is Conv of a"),
        (lambda: HebbianRule(gendae.Stack(gendae.TiedPair(4, 3))), "g_1 has the weights of f_1"),
        (lambda: HebbianRule(learned_widths()), "LearnedGaussian of pair 1 learns its width"),
        (lambda: HebbianRule(deep_autoencoder([4, 3]), "oja"), "decay='oja' is unknown"),
        (lambda: CompetitiveRule(deep_autoencoder([4, 3])), r"f_1 is Affine.*\[\"softmax\"\]"),
        (
            lambda: CompetitiveRule(stack([4, 3], "softmax"), leak=2),
            r"leak=2: a number in \[0, 1\]",
        ),
        (lambda: DeltaRule(deep_autoencoder([4, 3])), "has no output layer"),
        (lambda: DeltaRule(deep_classifier([4, 3]), squared=True), "accepted: sigmoid"),
        (lambda: DeltaRule(VALUES, "sigmoid"), "predicts values; accepted: linear"),
        (lambda: DeltaRule(gendae.denoising_classifier([4, 3])), "its output is LabelLogits"),
    ],
)
def test_other_networks_are_refused_with_a_reason(make, words):
    with pytest.raises(ValueError, match=words):
        make()
