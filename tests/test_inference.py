"""Inference against closed forms: linear-Gaussian posteriors, autograd, a transcription."""

import copy

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.inference import (
    GradientInference,
    LangevinInference,
    TargetPropInference,
    targetprop_gradient,
)
from gendae.laws import Discrete, LearnedGaussian
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.rules.variational_em import VariationalEMRule
from tests import roles
from tests.conftest import at, exact_encoder, linear_stack, posterior, small_stack


def test_eq_12_is_posterior_covariance_times_gradient():
    """f(x) - f(g(h)) = S d log p(x | h) / dh where f is the posterior mean (errata, Eq. 12)."""
    stack = exact_encoder(linear_stack([5, 3]))
    pair = stack.pairs[0]
    s, _ = posterior(stack)
    x = torch.randn(7, 5).double()
    h = torch.randn(7, 3).double().requires_grad_()
    (gradient,) = torch.autograd.grad(pair.p(h).log_prob(x).sum(), h)

    assert torch.allclose(targetprop_gradient(pair.f, pair.g, x, h), gradient @ s)


def test_eq_12_in_scalar_form_where_the_posterior_is_isotropic():
    stack = linear_stack([3, 3], sigma=0.5)
    with torch.no_grad():
        stack.pairs[0].g.weight.copy_(2.0 * torch.linalg.qr(torch.randn(3, 3).double())[0])

    exact_encoder(stack)
    pair = stack.pairs[0]
    variance = 1.0 / (1.0 + 4.0 / 0.25)
    x = torch.randn(4, 3).double()
    h = torch.randn(4, 3).double().requires_grad_()
    (gradient,) = torch.autograd.grad(pair.p(h).log_prob(x).sum(), h)

    assert torch.allclose(targetprop_gradient(pair.f, pair.g, x, h, variance), gradient)


def literal(stack, x, n, delta, alpha, mask=None):
    """Algorithm 2's INFERENCE for three pairs, line by line, nothing cached."""
    p1, p2, p3 = stack.pairs
    h1 = p1.f(x)
    h2 = p2.f(h1)
    h3 = p3.f(h2)
    for _ in range(n):
        h3 = h3 + delta * (p3.f(h2) - p3.f(p3.g(h3)))
        h2 = h2 + delta * (p2.f(h1) - p2.f(p2.g(h2))) + alpha * (p3.g(h3) - h2)
        below = p1.g(h1)
        seen = x if mask is None else torch.where(mask, x, below)
        h1 = h1 + delta * (p1.f(seen) - p1.f(below)) + alpha * (p2.g(h2) - h1)

    return x, h1, h2, h3


def of_a_rule():
    """The E-step of TRAIN."""
    return VariationalEMRule(small_stack()).inference


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: TargetPropInference(steps=9, delta=0.2, alpha=0.3), (9, 0.2, 0.3)),
        (of_a_rule, (15, 0.1, 0.001)),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_targetprop_inference_is_algorithm_2_for_three_layers(masked, make, numbers):
    """With the paper's numbers where a rule is given none."""
    stack = small_stack().double()
    x = torch.rand(6, 8).double()
    mask = torch.arange(8) < 3 if masked else None
    got = make()(stack, x, mask)

    for a, b in zip(got, literal(stack, x, *numbers, mask), strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("inference", [TargetPropInference(5, 0.2), GradientInference(5, 0.05)])
@pytest.mark.parametrize(
    "pair",
    [member for member in roles.PAIRS if member.name != "drawn codes"],
    ids=lambda m: m.name,
)
def test_a_mask_that_observes_all_is_none(pair, inference):
    """Also where a pair encodes by other means than f."""
    stack = Stack(pair.built())
    x = roles.rows(pair.takes)

    clamped = inference(stack, x, torch.ones_like(x, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(inference(stack, x), clamped, strict=True))


@pytest.mark.parametrize("member", roles.INFERENCES, ids=lambda member: member.name)
@pytest.mark.parametrize(
    ("side", "pair", "level"),
    [("recognition", 0, 1), ("recognition", 2, 3), ("observation", 1, 1)],
)
def test_discrete_units_of_any_level_are_refused(member, side, pair, level):
    """But for no steps, after which h is what encoding gives."""
    stack = deep_autoencoder([8, 6, 5, 4], ["tanh"] * 3)
    setattr(stack.pairs[pair], side, Discrete("sign"))
    x = torch.rand(2, 8)
    inference = member.built()

    with pytest.raises(ValueError, match=f"moves real units, but h_{level} of this stack are"):
        inference(stack, x)

    h = inference(stack, x, steps=0)
    assert all(torch.equal(a, b) for a, b in zip(h, stack.encode(x), strict=True))


@pytest.mark.parametrize("inference", [TargetPropInference(5), GradientInference(5, q_weight=0.5)])
def test_trajectory_starts_feed_forward_and_ends_at_the_call(inference):
    stack = small_stack()
    x = torch.rand(3, 8)
    path = list(inference.trajectory(stack, x))

    assert len(path) == 6
    assert all(torch.equal(a, b) for a, b in zip(path[0], stack.encode(x), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(path[5], inference(stack, x), strict=True))
    assert len(list(inference.trajectory(stack, x, steps=0))) == 1


def test_linear_targetprop_converges_to_the_likelihood_maximum():
    stack = exact_encoder(linear_stack([5, 3]))
    x = torch.randn(4, 5).double()
    h = TargetPropInference(steps=3000, delta=0.5, alpha=0.0)(stack, x)[1]
    w = stack.pairs[0].g.weight
    b = stack.pairs[0].g.bias

    assert torch.allclose(h, torch.linalg.lstsq(w, (x - b).T).solution.T, atol=1e-6)


def test_gradient_inference_with_the_prior_finds_the_posterior_mean():
    stack = linear_stack([5, 3])
    x = torch.randn(4, 5).double()
    h = GradientInference(steps=4000, delta=0.05, use_prior=True)(stack, x)[1]
    assert torch.allclose(h, posterior(stack)[1](x), atol=1e-6)


@pytest.mark.parametrize("q_weight", [0.0, 0.7])
def test_gradient_step_is_eq_8(q_weight):
    """One update against autograd of Eq. 8's four terms, written out for the middle layer."""
    stack = small_stack([8, 6, 4]).double()
    x = torch.rand(3, 8).double()
    p1, p2 = stack.pairs
    h1, h2 = (h.detach().requires_grad_() for h in stack.encode(x)[1:])
    j1 = (
        p1.p(h1).log_prob(x).sum()
        + p2.p(h2).log_prob(h1).sum()
        + q_weight * (p1.q(x).log_prob(h1).sum() + p2.q(h1).log_prob(h2).sum())
    )

    expected = h1 + 0.1 * torch.autograd.grad(j1, h1)[0]
    got = GradientInference(steps=1, delta=0.1, q_weight=q_weight)(stack, x)

    assert torch.allclose(got[1], expected)


def test_rewarding_every_q_keeps_h_near_its_path():
    stack = linear_stack([5, 3])
    x = torch.randn(4, 5).double()

    spread = {}
    for every in (False, True):
        path = list(GradientInference(30, 0.02, q_weight=3.0, every_q=every).trajectory(stack, x))
        spread[every] = (path[-1][1] - path[-2][1]).norm().item()

    objective = GradientInference(q_weight=3.0, every_q=True)
    h = path[3]
    past = path[1:3]
    laws = torch.stack(
        [stack.log_q(h)]
        + [torch.distributions.Normal(p[1], 1.0).log_prob(h[1]).sum(-1) for p in past]
    )

    assert torch.allclose(
        objective.objective(stack, h, past), stack.log_joint(h, prior=False) + 3.0 * laws.mean(0)
    )
    assert spread[True] != spread[False]


@pytest.mark.parametrize(
    "inference",
    [
        TargetPropInference(10, 0.1, 0.3),
        TargetPropInference(10, 0.1, 0.3, temperature=0.5),
        GradientInference(10, 0.05, q_weight=0.2),
    ],
)
def test_observed_pixels_never_move_and_missing_ones_do_not_matter_in_the_limit(inference):
    stack = small_stack().double()
    x = torch.rand(5, 8).double()
    mask = torch.arange(8) < 4
    for h in inference.trajectory(stack, x, mask, torch.Generator().manual_seed(0)):
        assert torch.equal(h[0], x)


def test_missing_pixels_exert_no_gradient():
    """With a mask the gradient form climbs log p(x^v | h): x^m has no say after the start."""
    stack = linear_stack([6, 2])
    x = torch.randn(3, 6).double()
    other = torch.randn(3, 6).double()
    mask = torch.arange(6) < 4
    other = torch.where(mask, x, other)
    inference = GradientInference(steps=3000, delta=0.05, use_prior=True)

    assert torch.allclose(inference(stack, x, mask)[1], inference(stack, other, mask)[1])

    w = stack.pairs[0].g.weight[:4]
    b = stack.pairs[0].g.bias[:4]
    s = torch.linalg.inv(torch.eye(2) + w.T @ w / 0.49)

    assert torch.allclose(inference(stack, x, mask)[1], (x[:, :4] - b) @ w @ s / 0.49, atol=1e-6)


def test_langevin_noise_samples_the_posterior():
    stack = linear_stack([4, 2])
    s, mean = posterior(stack)
    x = torch.randn(1, 4).double().expand(20_000, 4)
    inference = GradientInference(steps=150, delta=0.02, use_prior=True, temperature=1.0)
    h = inference(stack, x, generator=torch.Generator().manual_seed(0))[1]

    assert torch.allclose(h.mean(0), mean(x[0]), atol=0.03)
    assert torch.allclose(torch.cov(h.T), s, atol=0.03)


def with_encoders(stack, variances):
    """A linear stack with f_l = S_l W_l' / sigma^2 and Q of variance S_l, which is diagonal."""
    for pair, variance in zip(stack.pairs, variances, strict=True):
        s = torch.tensor(variance, dtype=torch.float64)
        pair.recognition = LearnedGaussian(len(s)).double()
        with torch.no_grad():
            pair.recognition.log_sigma.copy_(s.sqrt().log())
            pair.f.weight.copy_(s[:, None] * pair.g.weight.T / pair.observation.sigma**2)
            pair.f.bias.normal_()  # it cancels

    return stack


def posterior_of(stack, x):
    """Mean and covariance of p(h_1 .. h_L | x) of a linear stack, all levels side by side.

    The energy is quadratic in h: its Hessian is the precision.
    """
    sizes = stack.sizes[1:]

    def energy(h):
        return -stack.log_joint((x[None], *h[None].split(sizes, 1))).sum()

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    precision = torch.autograd.functional.hessian(energy, zero)
    slope = torch.autograd.functional.jacobian(energy, zero)
    covariance = torch.linalg.inv(precision)

    return -covariance @ slope, covariance


def recursion_of(inference, stack, x):
    """A, b and Cov[noise] of a step h <- A h + b + noise, all levels side by side."""
    sizes = stack.sizes[1:]
    width = sum(sizes)

    def moved(h, steps):
        rows = (x.expand(len(h), -1), *h.split(sizes, 1))
        step = steps.begin(stack, rows, None, at(0).generator)
        return torch.cat(step(rows)[1:], 1)

    quiet = copy.copy(inference)
    quiet.temperature = 0.0
    rows = torch.cat([torch.zeros(1, width), torch.eye(width)]).double()
    b, *columns = moved(rows, quiet)
    noisy = moved(torch.zeros(200_000, width).double(), inference)

    return torch.stack(columns, 1) - b[:, None], b, torch.cov(noisy.T)


@pytest.mark.parametrize(
    ("sizes", "variances"),
    [([4, 2], [(0.2, 0.7)]), ([4, 3, 2], [(0.4, 0.4, 0.4), (0.3, 0.8)])],
)
def test_langevin_noise_of_targetprop_samples_the_posterior(sizes, variances):
    """With alpha = delta S_l / sigma^2 below the top, and under a prior that f does not know."""
    stack = with_encoders(linear_stack(sizes), variances)
    stack.prior.mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    stack.prior.factor = torch.tensor([[1.2, 0.0], [0.5, 0.6]], dtype=torch.float64)
    x = torch.randn(4).double()
    mean, covariance = posterior_of(stack, x)

    delta = 1e-3
    alpha = delta * variances[0][0] / stack.pairs[0].observation.sigma ** 2
    inference = TargetPropInference(1, delta, alpha, temperature=1.0, use_prior=True)
    a, b, noise = recursion_of(inference, stack, x)
    rest = torch.eye(len(b)) - a
    stationary = torch.linalg.solve(torch.eye(len(b) ** 2) - torch.kron(a, a), noise.flatten())

    assert torch.allclose(torch.linalg.solve(rest, b), mean)
    torch.testing.assert_close(stationary.view_as(noise), covariance, rtol=0.02, atol=0.02)


def test_inference_leaves_no_gradients_behind_and_works_in_inference_mode():
    stack = small_stack()
    x = torch.rand(3, 8)
    expected = GradientInference(3, q_weight=1.0)(stack, x)
    h = TargetPropInference(3)(stack, x)

    assert all(p.grad is None for p in stack.parameters())
    assert not any(layer.requires_grad for layer in (*expected, *h))

    with torch.inference_mode():
        again = GradientInference(3, q_weight=1.0)(stack, x.clone())

    assert torch.allclose(again[1], expected[1])


@pytest.mark.parametrize("masked", [False, True])
def test_x_is_encoded_ahead_of_the_steps_only_where_all_of_it_is_clamped(masked, monkeypatch):
    stack = small_stack((8, 6, 5))
    h = stack.encode(torch.rand(2, 8))
    encoded = []

    def counted(pair, x):
        return (lambda h: encoded.append(pair) or pair.f(h)), pair.g

    monkeypatch.setattr("gendae.inference.packed", counted)
    mask = torch.ones(2, 8, dtype=torch.bool) if masked else None
    TargetPropInference().begin(stack, h, mask, None)

    assert encoded == ([] if masked else [stack.pairs[0]])


# -- predictive coding ---------------------------------------------------------------------------


def test_gradient_inference_moves_by_errors_of_prediction_and_em_learns_from_them():
    """h_l <- h_l + delta (J_l' e_{l-1} - e_l), and dW_l of g_l is e_{l-1} h_l' through s'."""
    stack = deep_autoencoder([6, 5, 4], ["tanh", "tanh"], visible="tanh").double()
    x = torch.rand(3, 6).double()
    inference = GradientInference(steps=1, delta=0.1)
    start = stack.encode(x)

    def errors(h):
        return [
            below - pair.g(above)
            for pair, below, above in zip(stack.pairs, h[:-1], h[1:], strict=True)
        ]

    def through(pair, h, error):
        return error * (1 - pair.g(h).square())

    with torch.no_grad():
        e_0, e_1 = errors(start)
        first, second = stack.pairs
        back_0 = through(first, start[1], e_0) @ first.g.weight
        back_1 = through(second, start[2], e_1) @ second.g.weight
        expected = [start[1] + 0.1 * (back_0 - e_1), start[2] + 0.1 * back_1]

    h = inference(stack, x)
    for mine, theirs in zip(h[1:], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)

    clean = [GaussianNoise(0.0)] * 3
    losses = VariationalEMRule(stack, inference, clean).losses((x,))
    for level, error in enumerate(errors(h), 1):
        pair = stack.pairs[level - 1]
        (found,) = torch.autograd.grad(losses[f"g_{level}"], pair.g.weight)
        weight = -through(pair, h[level], error).T @ h[level] / len(x)
        torch.testing.assert_close(found, weight.detach(), rtol=1e-11, atol=1e-13)


def langevin_law(stack, x, delta, adapt):
    """Mean and covariance that a step leaves, by its map, and P; all from `begin` itself."""
    inference = LangevinInference(delta=delta, adapt=adapt, floor=0.5, temperature=0.0)
    sizes = stack.sizes[1:]
    rows = sum(sizes) + 1
    h = tuple(layer.expand(rows, -1) for layer in stack.feedforward(x))
    generator = torch.Generator().manual_seed(3)
    step = inference.begin(stack, h, None, generator)
    for _ in range(max(adapt, 1)):
        h = step(h)

    basis = torch.cat([torch.zeros(1, rows - 1), torch.eye(rows - 1)]).double()
    images = torch.cat(step((h[0], *basis.split(sizes, 1)))[1:], 1)
    shift = images[0]
    matrix = (images[1:] - shift).T

    inference.temperature = 1.0
    noisy = torch.cat(step((h[0], *basis.split(sizes, 1)))[1:], 1)
    generator.manual_seed(3)
    drawn = [torch.randn(rows, n, generator=generator, dtype=x.dtype) for n in sizes]
    scale = ((noisy - images) / torch.cat(drawn, 1))[0]

    n = rows - 1
    lyapunov = torch.eye(n * n).double() - torch.kron(matrix, matrix)
    covariance = torch.linalg.solve(lyapunov, torch.diag(scale.square()).flatten()).view(n, n)
    mean = torch.linalg.solve(torch.eye(n).double() - matrix, shift)

    return mean, covariance, scale.square() / (2 * delta)


def exact_law(stack, x):
    """Mean and precision of p(h_1, h_2 | x), written out."""
    (w_1, b_1), (w_2, b_2) = ((p.g.weight.detach(), p.g.bias.detach()) for p in stack.pairs)
    cost = 1 / stack.pairs[0].observation.sigma ** 2
    top_left = cost * w_1.T @ w_1 + cost * torch.eye(len(w_2), dtype=x.dtype)
    precision = torch.cat(
        [
            torch.cat([top_left, -cost * w_2], 1),
            torch.cat(
                [-cost * w_2.T, cost * w_2.T @ w_2 + torch.eye(w_2.shape[1], dtype=x.dtype)], 1
            ),
        ]
    )
    right = torch.cat([cost * (x[0] - b_1) @ w_1 + cost * b_2, -cost * b_2 @ w_2])

    return torch.linalg.solve(precision, right), precision


@pytest.mark.parametrize("adapt", [0, 1, 6])
def test_the_law_that_langevin_steps_leave(adapt):
    """Mean exact; covariance by the discrete Lyapunov equation, O(delta) off the exact one."""
    stack = linear_stack([6, 4, 3])
    x = torch.randn(1, 6).double()
    exact, precision = exact_law(stack, x)

    gaps = []
    for delta in (0.02, 0.01):
        mean, covariance, p = langevin_law(stack, x, delta, adapt)
        torch.testing.assert_close(mean, exact, rtol=0, atol=1e-8)

        closed = precision - delta / 2 * precision @ torch.diag(p) @ precision
        torch.testing.assert_close(covariance, torch.linalg.inv(closed), rtol=0, atol=1e-8)
        gaps.append((covariance - torch.linalg.inv(precision)).norm())

    assert bool(((p - 1.0).abs() < 1e-6).all()) == (adapt == 0)
    assert 1.8 < gaps[0] / gaps[1] < 2.6


def test_adapted_steps_are_stable_where_plain_ones_are_not():
    """A unit whose slopes are a hundred times those of the other."""
    stack = linear_stack([6, 2])
    with torch.no_grad():
        stack.pairs[0].g.weight[:, 0].mul_(30.0)
    s, mean = posterior(stack)
    x = torch.randn(1, 6).double().expand(1500, 6)

    def draws(**options):
        inference = LangevinInference(100, 0.2, **options)
        return inference(stack, x, generator=torch.Generator().manual_seed(0))[1]

    assert not bool((draws(adapt=0).abs() < 1e6).any())
    h = draws()
    deviations = s.diagonal().sqrt()
    assert bool(((h.mean(0) - mean(x[0])).abs() < 0.15 * deviations).all())
    assert bool((h.std(0) / deviations - 1).abs().max() < 0.2)
