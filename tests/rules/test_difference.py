"""Difference target propagation: Algorithm 1, locality, its relation to back-propagation."""

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.layers.invertible import InvertiblePair
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair, TiedPair
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier
from gendae.rules.backprop import BackpropRule, StraightThroughRule
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning, Iterations
from gendae.rules.rates import Rates
from tests.conftest import at

KINDS = {"tanh": {}, "bits": {"bits": [1]}, "stochastic": {"stochastic": True}}
SIZES = (6, 5, 4, 3)


def network(kind="tanh", sizes=SIZES, classes=3):
    return deep_classifier(sizes, classes, **KINDS[kind]).double()


def examples(n=8, features=6, classes=3):
    return torch.rand(n, features).double(), torch.randint(classes, (n,))


def gradients(rule, batch, names=None):
    """d (sum of the losses) / d parameter, by name."""
    rule.zero_grad()
    sum(rule.losses(batch, at(1)).values()).backward()

    return {
        name: p.grad
        for name, p in rule.stack.named_parameters()
        if p.grad is not None and (names is None or name in names)
    }


# -- Algorithm 1 ----------------------------------------------------------------------------------


def algorithm_1(made, x, y, step, sigma, difference, generator):
    """Losses by the letter of the thesis; targets are values, not displacements."""
    f = made.encoders
    g = [pair.g for pair in made.pairs]

    h = [x]
    for layer in f[:-1]:
        h.append(layer(h[-1].detach()))

    rows = torch.arange(len(y))
    logits = f[-1](h[-1].detach())
    losses = {"label_f_4": -torch.log_softmax(logits, 1)[rows, y].mean()}

    values = [layer.detach() for layer in h]
    top = values[3].clone().requires_grad_()
    total = -torch.log_softmax(f[-1](top), 1)[rows, y].sum()  # each example's own loss
    h_hat = {3: (top - step * torch.autograd.grad(total, top)[0]).detach()}
    for i in (3, 2):
        h_hat[i - 1] = g[i - 1](h_hat[i]).detach()
        if difference:
            h_hat[i - 1] += values[i - 1] - g[i - 1](values[i]).detach()

    for i in (1, 2, 3):
        losses[f"target_f_{i}"] = (h[i] - h_hat[i]).square().sum(1).mean()

    for i in (2, 3):
        below = values[i - 1]
        noisy = below + sigma[i - 2] * torch.randn(below.shape, generator=generator).double()
        back = g[i - 1](f[i - 1](noisy).detach())
        losses[f"inverse_g_{i}"] = (back - noisy).square().sum(1).mean()

    return losses


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("kind", ["tanh", "bits"])
def test_losses_and_gradients_are_those_of_algorithm_1(kind, difference):
    made = network(kind)
    x, y = examples()
    sigma = [0.3, 0.2]
    rule = DifferenceTargetPropRule(
        made, step=0.7, difference=difference, scaled=False, inverses=InverseLearning(sigma)
    )

    g = torch.Generator().manual_seed(1)
    expected = algorithm_1(made, x, y, 0.7, sigma, difference, g)
    losses = rule.losses((x, y), at(1))

    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-10), name

    total = torch.autograd.grad(sum(expected.values()), list(made.parameters()), allow_unused=True)
    again = gradients(rule, (x, y))

    for (name, _), gradient in zip(made.named_parameters(), total, strict=True):
        if gradient is None:
            assert name not in again
        else:
            assert torch.allclose(again[name], gradient, rtol=1e-9, atol=1e-13), name


@pytest.mark.parametrize("rounds", [1, 3])
def test_scaled_losses_are_divided_by_twice_the_step(rounds):
    made = network()
    batch = examples()

    def losses(scaled):
        rule = DifferenceTargetPropRule(
            made, step=0.2, scaled=scaled, iterations=Iterations(rounds=rounds)
        )
        return rule.losses(batch, at(1))

    plain = losses(False)
    scaled = losses(True)
    for name, value in plain.items():
        factor = 1.0 / 0.4 if name.startswith("target") else 1.0
        assert torch.allclose(scaled[name], factor * value, rtol=1e-12), name


def test_targets_of_tiny_steps_keep_their_digits_in_single_precision():
    made = deep_classifier(SIZES, 3)
    x, y = examples()
    twin = network()
    twin.load_state_dict(made.state_dict())
    small = DifferenceTargetPropRule(made, step=1e-6).losses((x.float(), y))

    exact = DifferenceTargetPropRule(twin, step=1e-6).losses((x, y))

    for level in (1, 2, 3):
        assert small[f"target_f_{level}"].item() == pytest.approx(
            exact[f"target_f_{level}"].item(), rel=1e-4
        )


# -- relation to back-propagation -----------------------------------------------------------------


def test_the_output_layer_learns_by_back_propagation_and_so_does_the_top_hidden_layer():
    made = network()
    batch = examples()
    names = ("output.weight", "output.bias", "pairs.2.f.weight", "pairs.2.f.bias")

    local = gradients(DifferenceTargetPropRule(made, step=0.1), batch, names)
    expected = gradients(BackpropRule(made), batch, names)

    assert set(local) == set(names)
    for name in names:
        assert torch.allclose(local[name], expected[name], rtol=1e-10, atol=1e-15), name


def orthogonal_linear_network():
    made = deep_classifier([5] * 4, 3, "linear").double()
    with torch.no_grad():
        for pair in made.pairs:
            pair.f.bias.normal_()
            pair.g.weight.copy_(pair.f.weight.T)
    return made


def tied_linear_network():
    pairs = [TiedPair(5, 5, "linear", "linear", init="normal") for _ in range(3)]
    return Classifier(*pairs, output=Affine(5, 3)).double()


@pytest.mark.parametrize("step", [1e-3, 2.0])
@pytest.mark.parametrize("made", [orthogonal_linear_network, tied_linear_network])
def test_where_decoders_are_transposes_of_linear_layers_all_gradients_are_back_propagation_s(
    made, step
):
    made = made()
    batch = examples(features=5)
    encoders = {name: p for name, p in made.named_parameters() if ".g." not in name}

    rule = DifferenceTargetPropRule(made, step=step, inverses=InverseLearning(sigma=0.0))
    terms = [v for name, v in rule.losses(batch).items() if not name.startswith("inverse")]
    local = torch.autograd.grad(sum(terms), list(encoders.values()))
    expected = gradients(BackpropRule(made), batch)

    for name, gradient in zip(encoders, local, strict=True):
        assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-14), name


def test_gradients_tend_to_back_propagation_s_as_decoders_tend_to_transposes():
    made = orthogonal_linear_network()
    batch = examples(features=5)
    exact = made.pairs[1].g.weight.detach().clone()
    noise = torch.randn(5, 5).double()
    expected = gradients(BackpropRule(made), batch)["pairs.0.f.weight"]

    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        made.pairs[1].g.weight.data = exact + size * noise
        computed = gradients(DifferenceTargetPropRule(made), batch)["pairs.0.f.weight"]
        errors.append((computed - expected).norm().item())

    assert errors[0] / errors[1] == pytest.approx(10.0, rel=1e-6)
    assert errors[1] / errors[2] == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("samples", [1, 4])
def test_with_one_stochastic_layer_the_rule_is_the_straight_through_estimator(samples):
    made = network("stochastic", (6, 5))
    batch = examples()
    names = ("pairs.0.f.weight", "pairs.0.f.bias", "output.weight", "output.bias")

    local = gradients(DifferenceTargetPropRule(made, samples=samples), batch, names)
    expected = gradients(StraightThroughRule(made, samples=samples), batch, names)

    assert set(local) == set(expected) == set(names)
    for name in names:
        assert torch.allclose(local[name], expected[name], rtol=1e-9, atol=1e-14), name


def test_probabilities_have_targets_and_layers_above_see_draws():
    made = network("stochastic", (6, 5, 4))
    x, y = examples()
    rule = DifferenceTargetPropRule(
        made, step=0.7, scaled=False, inverses=InverseLearning(sigma=0.0)
    )
    terms = rule.losses((x, y), at(1))

    generator = torch.Generator().manual_seed(1)
    p1 = made.pairs[0].f(x)
    h1 = (torch.rand(p1.shape, generator=generator, dtype=p1.dtype) < p1).double()
    p2 = made.pairs[1].f(h1)
    h2 = (torch.rand(p2.shape, generator=generator, dtype=p2.dtype) < p2).double().requires_grad_()

    loss = torch.nn.functional.cross_entropy(made.output(h2), y, reduction="sum")
    p2_hat = p2 - 0.7 * torch.autograd.grad(loss, h2)[0]
    g = made.pairs[1].g
    p1_hat = p1 + g(p2_hat) - g(p2)  # Eq. 3.30

    # The last is Eq. 3.31.
    errors = {"target_f_2": p2_hat - p2, "target_f_1": p1_hat - p1, "inverse_g_2": g(p2) - h1}
    for name, error in errors.items():
        assert torch.allclose(terms[name], error.square().sum(1).mean(), rtol=1e-10), name


@pytest.mark.parametrize(
    "pairs",
    [
        lambda: [Pair(Affine(6, 4, "tanh"), Affine(4, 6)), InvertiblePair(4), InvertiblePair(4)],
        lambda: [
            Pair(MLP(6, [7], 4, "tanh"), Affine(4, 6)),
            Pair(MLP(4, [5], 4, "tanh"), MLP(4, [5], 4, "tanh")),
        ],
        lambda: [TiedPair(6, 5, "tanh", "tanh"), TiedPair(5, 4, "tanh", "tanh")],
    ],
)
@pytest.mark.parametrize("rounds", [1, 2])
def test_any_pairs_will_do(pairs, rounds):
    stack = Classifier(*pairs(), output=Affine(4, 3)).double()
    iterations = Iterations(rounds, reconstruct=0.1 * (rounds - 1))
    rule = DifferenceTargetPropRule(stack, iterations=iterations, rates=Rates(f=0.01))
    batch = examples(40)
    optimizer = rule.configure_optimizers()
    label = f"label_f_{rule.stack.depth + 1}"
    before = rule.losses(batch)[label].item()

    for _ in range(100):
        optimizer.zero_grad()
        sum(rule.losses(batch).values()).backward()
        optimizer.step()

    assert rule.losses(batch)[label].item() < before - 0.02


# -- an inverse of the output layer ---------------------------------------------------------------

OUTPUT = InverseLearning(sigma=0.0, output=True)


def invertible_network():
    """Square layers, each with its exact inverse; the inverse of the output layer is returned."""
    made = Classifier(*(InvertiblePair(4) for _ in range(3)), output=Affine(4, 4)).double()
    with torch.no_grad():
        made.output.bias.normal_()
        for pair in made.pairs:
            pair.f.bias.normal_(0.0, 0.1)

    inverse = torch.linalg.inv(made.output.weight.detach())
    return made, inverse


def give(rule, weight):
    """A linear inverse of the output layer: h_L = B (h_M - b)."""
    rule.of_output = Affine(*weight.T.shape).double()
    with torch.no_grad():
        rule.of_output.weight.copy_(weight)
        rule.of_output.bias.copy_(-weight @ rule.stack.output.bias)


@pytest.mark.parametrize("difference", [True, False])
def test_with_exact_inverses_every_target_gives_the_target_of_the_output(difference):
    """h^_M = h_M - step dL/dh_M is what the layers above make of each h^_l (Eq. 3.7, 3.10)."""
    made, inverse = invertible_network()
    x, y = examples(features=4, classes=4)
    rule = DifferenceTargetPropRule(made, step=0.05, difference=difference, inverses=OUTPUT)
    give(rule, inverse)

    outputs, moves = rule.targets(x, y)
    logits = made.output(outputs[-1])
    slope = torch.softmax(logits, 1) - torch.nn.functional.one_hot(y, 4)
    wanted = logits - 0.05 * slope

    for level, (h, d) in enumerate(zip(outputs, moves, strict=True), 1):
        reached = h + d
        for f in made.encoders[level:]:
            reached = f(reached)
        assert torch.allclose(reached, wanted, rtol=0.0, atol=1e-10), level

    losses = rule.losses((x, y))
    assert set(losses) == {
        *(f"target_f_{level}" for level in (1, 2, 3)),
        *(f"inverse_g_{level}" for level in (2, 3, 4)),
        "label_f_4",
    }
    assert all(losses[f"inverse_g_{level}"] < 1e-20 for level in (2, 3, 4))
    assert all(losses[f"target_f_{level}"] > 1e-5 for level in (1, 2, 3))


@pytest.mark.parametrize("rounds", [1, 3])
def test_with_the_transpose_of_the_output_layer_both_first_targets_are_one(rounds):
    """W' is the inverse of W where its columns are orthonormal; and J' is the slope by h_L."""
    made = deep_classifier([6, 5, 4, 3], 3).double()
    batch = examples()
    iterations = Iterations(rounds, reconstruct=0.2 * (rounds - 1))
    rule = DifferenceTargetPropRule(made, step=0.3, inverses=OUTPUT, iterations=iterations)
    give(rule, made.output.weight.detach().T)

    other = DifferenceTargetPropRule(made, step=0.3, iterations=iterations)
    for mine, published in zip(*(r.targets(*batch)[1] for r in (rule, other)), strict=True):
        assert torch.allclose(mine, published, rtol=1e-10, atol=1e-14)


def test_the_inverse_of_the_output_layer_learns_at_the_rate_of_feedback():
    rates = Rates(f=0.0, g=[1e-3, 2e-3], feedback=1e-2)
    inverses = InverseLearning(sigma=[0.1, 0.2], output=True)
    made = deep_classifier([6, 5, 4], 3).double()
    rule = DifferenceTargetPropRule(made, rates=rates, inverses=inverses)
    optimizer = rule.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups[-2:]] == [2e-3, 1e-2]
    assert (rule.of_output.in_features, rule.of_output.activation) == (3, "tanh")

    batch = examples(100)
    before = rule.losses(batch, at(1))["inverse_g_3"].item()
    for _ in range(200):
        optimizer.zero_grad()
        sum(rule.losses(batch, at(1)).values()).backward()
        optimizer.step()

    assert rule.losses(batch, at(1))["inverse_g_3"].item() < 0.2 * before


# -- noise of the inverses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half_life", "progress", "level"),
    [(None, 0.9, 0.4), (0.25, 0.0, 0.4), (0.25, 0.25, 0.2), (0.25, 1.0, 0.08)],
)
def test_noise_of_the_inverses_follows_its_half_life(half_life, progress, level):
    inverses = InverseLearning(sigma=[0.9, 0.4], half_life=half_life)
    rule = DifferenceTargetPropRule(network(), inverses=inverses)
    g = rule.stack.pairs[2].g

    with torch.no_grad():
        g.weight.zero_()  # then |g - (0 + e)|^2 = |e|^2

    loss = rule.inverse_loss(3, torch.zeros(20_000, 4).double(), at(1, progress=progress))

    assert loss.item() == pytest.approx(4 * level**2, rel=0.02)


def test_labels_of_any_integer_type_will_do():
    rule = DifferenceTargetPropRule(deep_classifier(SIZES, 3), inverses=InverseLearning(sigma=0.0))
    x = torch.rand(4, 6)
    y = torch.tensor([0, 1, 2, 1])
    losses = rule.losses((x, y))
    for kind in (torch.uint8, torch.int32):
        assert rule.losses((x, y.to(kind))) == losses
