"""Targets: the first one, the way down, several rounds, and the two theorems of the thesis."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.func import jacrev, vmap

from gendae.layers.activations import inverse_activation
from gendae.layers.affine import Affine
from gendae.layers.invertible import InvertiblePair
from gendae.layers.pair import Pair
from gendae.layers.wrapped import change
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier
from gendae.rules.targets import displacement, displacements, first_displacement, iterated


def network(sizes=(6, 5, 4, 3), classes=3, **options):
    return deep_classifier(sizes, classes, **options).double()


def up(made, x):
    return [h.detach() for h in made.feedforward(x)]


def examples(n=7, features=6, classes=3):
    return torch.randn(n, features).double(), torch.randint(classes, (n,))


# -- the first target ----------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3])
def test_the_first_displacement_is_minus_step_times_each_example_s_own_gradient(samples):
    made = network()
    _, y = examples()
    h = torch.rand(samples * 7, 3).double()
    d = first_displacement(made, h, y, step=0.3, samples=samples).reshape(samples, 7, 3)

    for i in range(7):
        own = h.reshape(samples, 7, 3)[:, i].clone().requires_grad_()
        p = torch.softmax(own @ made.output.weight.T + made.output.bias, -1)
        loss = -p[:, y[i]].mean().log()
        (gradient,) = torch.autograd.grad(loss, own)
        assert torch.allclose(d[:, i], -0.3 * gradient, rtol=1e-10)


def test_the_first_displacement_works_where_gradients_are_off_and_leaves_none():
    made = network()
    _, y = examples()
    with torch.no_grad():
        d = first_displacement(made, torch.rand(7, 3).double(), y, 1.0)

    assert not d.requires_grad
    assert all(p.grad is None for p in made.parameters())


# -- the way down --------------------------------------------------------------------------------


def test_displacements_are_the_plain_formulas():
    made = network(feedback_gain=0.8)
    x, y = examples()
    h = up(made, x)
    g = [pair.g for pair in made.pairs]
    top = first_displacement(made, h[3], y, 0.5)

    h2_dtp = h[2] + g[2](h[3] + top) - g[2](h[3])
    h1_dtp = h[1] + g[1](h2_dtp) - g[1](h[2])
    moves = displacements(made.pairs, h, top)

    for low, d, expected in zip(h[1:], moves, (h1_dtp, h2_dtp, h[3] + top), strict=True):
        assert torch.allclose(low + d, expected, rtol=1e-12, atol=1e-14)

    h2_tp = g[2](h[3] + top)
    h1_tp = g[1](h2_tp)
    moves = displacements(made.pairs, h, top, difference=False)

    assert torch.allclose(h[2] + moves[1], h2_tp, rtol=1e-12, atol=1e-14)
    assert torch.allclose(h[1] + moves[0], h1_tp, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"bits": [1, 2]}, {"activation": "softplus"}])
def test_layers_at_their_target_leave_those_below_at_theirs(options):
    made = network(**options)
    x, _ = examples()
    h = up(made, x)
    zero = torch.zeros_like(h[3])

    assert all(torch.equal(d, torch.zeros_like(d)) for d in displacements(made.pairs, h, zero))

    plain = displacements(made.pairs, h, zero, difference=False)
    assert min(d.norm() for d in plain[:2]) > 0.1  # Eq. 3.16 fails for plain target propagation


def invertible_network(depth=3, width=5, classes=3):
    """Exact inverses above the first layer."""
    first = Pair(Affine(6, width, "tanh"), Affine(width, 6))
    pairs = [first, *(InvertiblePair(width) for _ in range(depth - 1))]
    made = Classifier(*pairs, output=Affine(width, classes)).double()
    with torch.no_grad():
        for pair in pairs[1:]:
            pair.f.log_diagonal.normal_(0.0, 0.2)

    return made


def square_linear_network(width=5, classes=3):
    pairs = [Pair(Affine(width, width), Affine(width, width)).double() for _ in range(3)]
    with torch.no_grad():
        for pair in pairs:
            pair.f.bias.normal_()
            pair.g.weight.copy_(torch.linalg.inv(pair.f.weight))
            pair.g.bias.copy_(-pair.g.weight @ pair.f.bias)

    return Classifier(*pairs, output=Affine(width, classes)).double()


@pytest.mark.parametrize(
    ("made", "features"), [(invertible_network, 6), (square_linear_network, 5)]
)
def test_with_exact_inverses_the_difference_changes_nothing(made, features):
    made = made()
    x, y = examples(features=features)
    h = up(made, x)
    top = first_displacement(made, h[-1], y, 0.01)

    with_it = displacements(made.pairs, h, top)
    without = displacements(made.pairs, h, top, difference=False)

    for a, b in zip(with_it, without, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-10)
        assert a.norm() > 1e-4

    for level in (1, 2):  # Eq. 3.10: a layer at its target gives the target above
        reached = made.pairs[level].f(h[level] + with_it[level - 1])
        assert torch.allclose(reached, h[level + 1] + with_it[level], atol=1e-10)


def test_change_uses_a_layer_s_own_difference_where_it_has_one():
    h = torch.rand(3, 4)
    d = torch.full((3, 4), 1e-6)
    layer = Affine(4, 4, "tanh")
    assert torch.equal(change(layer, h, d), layer.difference(h, d))
    assert torch.equal(change(torch.tanh, h, d), torch.tanh(h + d) - torch.tanh(h))


# -- several rounds ------------------------------------------------------------------------------


def test_one_round_without_reconstruction_is_difference_target_propagation():
    made = network()
    x, y = examples()
    h = up(made, x)
    single = displacements(made.pairs, h, first_displacement(made, h[-1], y, 0.4))

    for a, b in zip(iterated(made, h, y, 0.4, 1, 0.0), single, strict=True):
        assert torch.equal(a, b)


def with_draws(made, x):
    """What h_0 .. h_L send, and h_0 .. h_L."""
    sent = [x]
    h = [x]
    for pair in made.pairs:
        h.append(pair.f(sent[-1]).detach())
        sent.append(made.send(pair, h[-1]))

    return sent, h


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("reconstruct", [0.0, 0.3, 1.0])
def test_rounds_are_those_of_the_slides(reconstruct, stochastic):
    made = network(stochastic=stochastic)
    x, y = examples()
    sent, h = with_draws(made, x)
    f, g = ([getattr(pair, name) for pair in made.pairs] for name in "fg")
    new = list(h)

    for _ in range(4):
        old = list(new)
        # what arrives is the old target, but for draws
        arrives = [s + moved - start for s, moved, start in zip(sent, old, h, strict=True)]

        for level in (3, 2, 1):
            if level == 3:
                move = first_displacement(made, arrives[3], y, 0.4)
            else:
                move = g[level](new[level + 1]) - g[level](old[level + 1])

            gap = f[level - 1](arrives[level - 1]) - old[level]
            new[level] = old[level] + move + reconstruct * gap

    moves = iterated(made, h, y, 0.4, 4, reconstruct, sent=sent)
    for level in (1, 2, 3):
        assert torch.allclose(h[level] + moves[level - 1], new[level], rtol=1e-11, atol=1e-13)


def test_more_rounds_lower_the_loss_further_where_inverses_are_exact():
    made = invertible_network()
    x, y = examples(30)
    h = up(made, x)

    def loss(rounds):
        moved = h[1]
        if rounds:
            moved = moved + iterated(made, h, y, 0.005, rounds, 0.0)[0]

        for pair in made.pairs[1:]:
            moved = pair.f(moved)

        return F.cross_entropy(made.output(moved), y).item()

    losses = [loss(rounds) for rounds in (0, 1, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[3] > 10 * (losses[0] - losses[1]) > 0


def test_reconstruction_of_x_pulls_h_to_what_the_feed_forward_path_gives():
    made = network()
    x, y = examples(20)
    h = up(made, x)

    def gap(reconstruct):
        moves = iterated(made, h, y, 0.2, 30, reconstruct)
        moved = [x, *(a + d for a, d in zip(h[1:], moves, strict=True))]
        neighbours = zip(made.pairs, moved[:-1], moved[1:], strict=True)

        return sum((pair.f(low) - high).norm() for pair, low, high in neighbours)

    gaps = [gap(reconstruct) for reconstruct in (0.0, 0.1, 0.5)]
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2] > 0


@pytest.mark.parametrize("reconstruct", [0.0, 0.5])
def test_draws_are_not_drawn_again_in_later_rounds(reconstruct):
    made = network(stochastic=True)
    x, y = examples()
    sent, h = with_draws(made, x)

    state = torch.get_rng_state()
    first, again = (iterated(made, h, y, 1e-6, 3, reconstruct, sent=sent) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert max(d.abs().max() for d in first) < 1e-4  # noise of new draws would be of order one


# -- Theorem 1: the angle between target propagation and back-propagation ------------------------

ELEMENTWISE = {
    "linear": (lambda a: a, lambda v: v),
    "tanh": (torch.tanh, lambda v: inverse_activation(v, "tanh")),
    "asinh": (torch.asinh, torch.sinh),
}


def layer(w, s):
    """f(h) = W s(h), and its exact inverse."""
    forward, backward = ELEMENTWISE[s]
    inverse = torch.linalg.inv(w)
    return SimpleNamespace(
        f=lambda h: forward(h) @ w.T, g=lambda h: backward(h @ inverse.T), w=w, s=forward
    )


def above(layers, low):
    """The top layer, from the layer below `layers`."""
    for higher in layers:
        low = higher.f(low)
    return low


def angles(layers, x, loss, step=1e-7):
    """For one example and each W_i: cos of the angle between both updates, and singular values.

    The values are those of h_i -> h_M.
    """
    h = [x]
    for one in layers:
        h.append(one.f(h[-1]))

    top = h[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(top), top)
    moves = displacements(layers, h, -step * gradient, difference=False)
    targets = [a + d for a, d in zip(h[1:], moves, strict=True)]

    pairs = []
    for i, one in enumerate(layers):
        rest = layers[i + 1 :]
        w = one.w.clone().requires_grad_()
        reached = one.s(h[i]) @ w.T
        (tp,) = torch.autograd.grad((reached - targets[i]).square().sum(), w, retain_graph=True)
        (bp,) = torch.autograd.grad(loss(above(rest, reached)), w)
        cosine = F.cosine_similarity(tp.flatten(), bp.flatten(), 0).item()

        jacobian = jacrev(lambda v, rest=rest: above(rest, v[None])[0])(h[i + 1][0])
        pairs.append((cosine, torch.linalg.svdvals(jacobian)))

    return pairs


@pytest.mark.parametrize("s", ELEMENTWISE)
@pytest.mark.parametrize("seed", range(5))
def test_theorem_1_bounds_the_angle_between_both_updates(s, seed):
    torch.manual_seed(seed)
    d = 5
    layers = []
    for _ in range(4):
        w = torch.randn(d, d).double() / d**0.5 + 0.3 * torch.eye(d).double()
        layers.append(layer(w, s))

    widest = 1.0
    for _ in range(6):
        x = 0.5 * torch.randn(1, d).double()
        y = torch.randint(d, (1,))
        for cosine, values in angles(layers, x, lambda top, y=y: F.cross_entropy(top, y))[:-1]:
            ratio = (values[-1] / values[0]).item()
            assert ratio - 1e-4 <= cosine <= 1.0 + 1e-9

            # Kantorovich's bound is sharper than that of the thesis
            assert cosine >= 2 * ratio / (1 + ratio**2) - 1e-4

            widest = min(widest, cosine)

    assert widest < 0.95  # the updates do differ


def test_with_orthogonal_weights_the_bound_is_one_and_the_update_back_propagation_s():
    layers = [layer(torch.linalg.qr(torch.randn(5, 5).double())[0], "linear") for _ in range(4)]
    x = torch.randn(1, 5).double()
    y = torch.tensor([2])

    for cosine, values in angles(layers, x, lambda top: F.cross_entropy(top, y)):
        assert values.max() - values.min() < 1e-12
        assert cosine == pytest.approx(1.0, abs=1e-8)


def test_the_sharp_bound_is_attained_between_the_extreme_singular_directions():
    layers = [layer(torch.randn(4, 4).double(), "linear") for _ in range(2)]
    left, values, _ = torch.linalg.svd(layers[1].w)

    cosines = []
    for direction in (left[:, 0] + left[:, -1], left[:, 1]):
        x = torch.randn(1, 4).double()
        (cosine, _), _ = angles(layers, x, lambda top, v=direction: (top @ v).sum())
        cosines.append(cosine)

    ratio = (values[-1] / values[0]).item()
    assert cosines[0] == pytest.approx(2 * ratio / (1 + ratio**2), abs=1e-6)
    assert cosines[1] == pytest.approx(1.0, abs=1e-6)


# -- Theorem 2: reaching the lower target brings the layer above closer to its own ----------------


def gaps(pair, below, e):
    """|h^_i - f(h^_{i-1})| / |h^_i - h_i| of each example, and the largest eigenvalue."""
    h = pair.f(below)
    d = displacement(pair, below, h, e)
    left = h + e - pair.f(below + d)

    jf, jg = (vmap(jacrev(m))(v) for m, v in ((pair.f, below), (pair.g, h)))
    values = torch.linalg.matrix_norm(torch.eye(h.shape[1]).double() - jf @ jg, ord=2).square()

    return left.norm(dim=1) / e.norm(dim=1), values


def test_theorem_2_holds_wherever_its_condition_does():
    inside = 0
    outside = 0

    for trial in range(60):
        pair = Pair(Affine(4, 4, "tanh"), Affine(4, 4, "linear")).double()
        with torch.no_grad():
            pair.f.weight.mul_(0.7)
            pair.g.weight.copy_(torch.linalg.inv(pair.f.weight))
            pair.g.weight.mul_(torch.rand(()) * 2.5).add_(0.05 * trial / 60 * torch.randn(4, 4))

        below = torch.randn(20, 4).double()
        e = 1e-7 * torch.randn(20, 4).double()
        ratio, value = gaps(pair, below, e)

        holds = value < 0.999
        assert (ratio[holds] < 1.0).all()
        assert (ratio <= value.sqrt() + 1e-4).all()

        inside += int(holds.sum())
        outside += int((ratio > 1.0).sum())

    assert inside > 200
    assert outside > 50


def test_theorem_2_fails_where_the_decoder_turns_displacements_round():
    pair = Pair(Affine(4, 4), Affine(4, 4)).double()
    with torch.no_grad():
        pair.g.weight.copy_(-torch.linalg.inv(pair.f.weight))

    ratio, value = gaps(pair, torch.randn(5, 4).double(), 1e-3 * torch.randn(5, 4).double())
    assert torch.allclose(value, torch.full((5,), 4.0).double(), atol=1e-9)  # I - Jf Jg = 2 I
    assert torch.allclose(ratio, torch.full((5,), 2.0).double(), atol=1e-9)
