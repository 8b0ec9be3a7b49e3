"""The coupling as a difference, and encoders that learn from free codes to nudged ones."""

import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from gendae.corruption import GaussianNoise
from gendae.inference import TargetPropInference
from gendae.laws import Gaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.labelled import LabelledStack
from gendae.models.stack import Stack
from gendae.rules.nudged_em import NudgedEMRule
from gendae.rules.variational_em import corrupted
from tests.conftest import at, exact_encoder, linear_stack
from tests.rules.test_labelled import examples, labelled, symmetric

SIGMA = 0.7
A, B, C = 2.0, 1.3, 1.5  # scales of g_1, g_2 and o


def rows(n, width):
    return torch.randn(n, width, dtype=torch.float64)


# -- the coupling as a difference -----------------------------------------------------------------


def test_the_difference_is_the_gradient_of_the_posterior_above():
    """g(h_2) - g(f(h_1)) = sigma^2 d log p(h_2 | h_1) / dh_1, whatever its covariance."""
    above = exact_encoder(linear_stack((3, 2), SIGMA)).pairs[0]
    below = linear_stack((4, 3), SIGMA).pairs[0]
    h = (rows(5, 4), rows(5, 3), rows(5, 2))

    alpha = 0.3
    inference = TargetPropInference(1, 0.0, alpha, difference=True)
    moved = inference.begin(Stack(below, above), h, None, None)(h)

    w = above.g.weight.detach()
    precision = torch.eye(2, dtype=torch.float64) + w.T @ w / SIGMA**2
    free = h[1].clone().requires_grad_()
    law = torch.distributions.MultivariateNormal(above.f(free), precision_matrix=precision)
    (gradient,) = torch.autograd.grad(law.log_prob(h[2]).sum(), free)
    expected = h[1] + alpha * SIGMA**2 * gradient

    torch.testing.assert_close(moved[1], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(moved[2], h[2])


def chain():
    """x = A U h_1, h_1 = B V h_2, y = C W h_2, each with noise; encoders are posterior means.

    U, V, W have orthonormal columns, so that S_1, S_2 and S_y are scalars.
    """
    stack = linear_stack((4, 2, 2), SIGMA)
    o = Affine(2, 4, "linear").double()
    r_y = Affine(4, 2, "linear").double()
    variances = []
    of_codes = 1.0
    ways = [(stack.pairs[1], B), (stack.pairs[0], A), (Pair(r_y, o), C)]
    with torch.no_grad():
        for pair, scale in ways:
            g = pair.g
            g.weight.copy_(scale * torch.linalg.qr(rows(g.out_features, 2)).Q)
            g.bias.zero_()
            variance = of_codes * SIGMA**2 / (SIGMA**2 + of_codes * scale**2)
            pair.f.weight.copy_(variance * g.weight.T / SIGMA**2)
            pair.f.bias.zero_()
            pair.recognition = Gaussian(variance**0.5)
            variances.append(variance)
            # of h_1 without h_2; y hangs on h_2 again, of variance 1
            of_codes = SIGMA**2 + B**2 if pair is stack.pairs[1] else 1.0

    label = Pair(r_y, o, observation=Gaussian(SIGMA))
    return LabelledStack(*stack.pairs, label=label, prior=stack.prior), variances


def test_inference_ends_where_the_joint_without_the_law_of_h_1_is_greatest():
    """Pulls of Eq. 12, of the difference and of y are the gradients of a single potential.

    It is log p(x, h, y) - log p(h_1), since p(h_1 | h_2) p(h_2) = p(h_1) p(h_2 | h_1).
    """
    stack, (s_2, s_1, s_y) = chain()
    x = rows(3, 4)
    y = rows(3, 4)
    y[1] = torch.nan

    delta = 0.1
    alpha = delta * s_1 / SIGMA**2
    weight = s_2 / s_y
    inference = TargetPropInference(
        800, delta, alpha, use_prior=True, label_weight=weight, difference=True
    )
    h = inference(stack, x, y=y)

    of_h_1 = SIGMA**2 + B**2
    for row in range(3):
        u = stack.pairs[0].g.weight
        v = stack.pairs[1].g.weight
        w = stack.label.g.weight * (row != 1)
        eye = torch.eye(2, dtype=torch.float64)
        top_left = (u.T @ u + eye) / SIGMA**2 - eye / of_h_1
        top_right = -v / SIGMA**2
        bottom_right = (v.T @ v + w.T @ w) / SIGMA**2 + eye
        precision = torch.cat(
            [torch.cat([top_left, top_right], 1), torch.cat([top_right.T, bottom_right], 1)]
        )
        pulls = torch.cat([x[row] @ u, y[row].nan_to_num() @ w]) / SIGMA**2
        expected = torch.linalg.solve(precision, pulls).detach()
        found = torch.cat([h[1][row], h[2][row]])
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_without_labels_the_difference_moves_nothing_that_the_pairs_leave():
    """At the feed-forward codes g's error cancels; the coupling of Algorithm 2 has it."""
    stack = labelled((8, 6, 5, 4))
    x, _ = examples()

    start = stack.encode(x)
    there = TargetPropInference(4, 0.0, 0.5, difference=True)(stack, x)
    other = TargetPropInference(4, 0.0, 0.5)(stack, x)

    assert all(torch.equal(a, b) for a, b in zip(start, there, strict=True))
    assert not torch.equal(start[1], other[1])


# -- free and nudged codes ------------------------------------------------------------------------


def test_losses_are_written_out():
    stack = labelled((8, 6, 4))
    inference = TargetPropInference(3, 0.1, 0.2, label_weight=2.0, difference=True)
    noise = [GaussianNoise(sigma) for sigma in (0.3, 0.2, 0.1)]
    rule = NudgedEMRule(stack, inference, noise)
    x, classes = examples()
    classes[4:] = -1
    losses = rule.losses((x, classes), at(0))

    moment = at(0)
    (x_tilde,) = corrupted(noise[:1], [x], moment)
    y = stack.label_rows(classes)
    nudged = inference(stack, x_tilde, y=y)
    f = [pair.f for pair in stack.pairs]
    g = [pair.g for pair in stack.pairs]
    free = [x_tilde, f[0](x_tilde), f[1](f[0](x_tilde))]
    h_tilde = corrupted(noise[1:], free[1:], moment)

    def half_square(a, b):
        return (a - b).square().sum(1) / 2

    expected = {
        "f_1": half_square(free[1], nudged[1]).mean(),
        "f_2": half_square(free[2], nudged[2]).mean(),
        "g_1": half_square(g[0](h_tilde[0]), x).mean(),
        "g_2": half_square(g[1](h_tilde[1]), free[1]).mean(),
        "f_3": half_square(stack.label.f(y[:4]), nudged[2][:4]).sum() / 6,
        "g_3": cross_entropy(stack.label.g.g(h_tilde[1][:4]), classes[:4], reduction="sum") / 6,
    }
    constants = {name: losses[name] - value for name, value in expected.items()}
    assert losses.keys() == expected.keys()
    for name, constant in constants.items():  # of the normal densities' logarithms, if any
        assert constant.abs() < 1e-10, name


def test_without_inference_steps_encoders_have_nothing_to_learn():
    rule = NudgedEMRule(labelled(), TargetPropInference(0))
    losses = rule.losses(examples(), at(0))

    assert losses["f_1"] == 0
    assert losses["f_2"] == 0
    assert losses["g_3"] > 0


def cosines(weight):
    """Between the updates of f_1 .. f_3 and those of back-propagation at the same noisy x."""
    torch.manual_seed(2)
    stack = symmetric()
    encoders = [pair.f.weight for pair in stack.pairs]
    x, classes = examples(width=6)
    x = x - 0.5
    noise = [GaussianNoise(0.1), *[GaussianNoise(0.0)] * 3]

    inference = TargetPropInference(60, 0.02, 0.3, label_weight=weight, difference=True)
    losses = NudgedEMRule(stack, inference, noise).losses((x, classes), at(0))
    local = [torch.autograd.grad(losses[f"f_{l}"], w)[0] for l, w in enumerate(encoders, 1)]

    h = stack.encode(noise[0](x, 1.0, at(0).generator))[-1]
    exact = torch.autograd.grad(cross_entropy(stack.label.g.g(h), classes), encoders)
    pairs = zip(local, exact, strict=True)
    return [cosine_similarity(a.flatten(), b.flatten(), 0).item() for a, b in pairs]


def test_the_update_by_a_weak_label_tends_to_back_propagation():
    weak = min(cosines(1e-4))

    assert weak > 0.99999
    assert min(cosines(1.0)) < weak
