"""Learning by perturbation: on average over all draws it is the gradient, to the last digit."""

from itertools import product

import pytest
import torch
from torch import nn

from gendae.laws import Categorical, Discrete, Gaussian, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Wrapped
from gendae.models.classifier import Classifier
from gendae.rules.perturbation import (
    BASELINES,
    NodePerturbationRule,
    ReinforceRule,
    WeightPerturbationRule,
)
from tests.conftest import at
from tests.rules.test_supervised import batch, network


def assert_close(actual, expected, tolerance=1e-12):
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=tolerance)


# -- REINFORCE: all states of a small network -------------------------------------------------


def states(kind, width):
    """All values of a layer, (states, width)."""
    if kind == "classes":
        return torch.eye(width, dtype=torch.float64)

    values = {"binary": (0.0, 1.0), "sign": (-1.0, 1.0)}[kind]
    return torch.tensor(list(product(values, repeat=width)), dtype=torch.float64)


LAW = {
    "binary": (lambda: Discrete("binary", stochastic=True), "sigmoid"),
    "sign": (lambda: Discrete("sign", stochastic=True), "tanh"),
    "classes": (Categorical, "linear"),  # and a softmax on top
}


def drawn_network(kinds, widths, classes=3):
    """A float64 classifier of two inputs whose hidden units are drawn, with biases."""
    pairs = []
    for kind, (low, high) in zip(kinds, zip((2, *widths), widths, strict=False), strict=True):
        law, activation = LAW[kind]
        f = Affine(low, high, activation, gain=2.0)
        if kind == "classes":
            f = Heads(f, ["softmax"], [high])
        pairs.append(Pair(f, Affine(high, low), recognition=law()))

    stack = Classifier(*pairs, output=Affine(widths[-1], classes)).double()
    with torch.no_grad():
        for parameter in parameters(stack):
            parameter.add_(0.3 * torch.randn_like(parameter))

    return stack


def parameters(stack):
    return [p for f in stack.encoders for p in f.parameters()]


def all_draws(stack, kinds):
    """Every joint state of the hidden layers, one tensor for each layer, (states, width)."""
    grids = [states(kind, width) for kind, width in zip(kinds, stack.sizes[1:], strict=True)]
    index = torch.cartesian_prod(*(torch.arange(len(grid)) for grid in grids))
    index = index.view(len(index), -1)

    return [grid[index[:, level]] for level, grid in enumerate(grids)]


def chances(stack, x, draws):
    """q(h_1, h_2 | x) of every joint state, written out; with the graph."""
    q = 1.0
    given = x.expand(len(draws[0]), -1)
    for f, pair, h in zip(stack.encoders, stack.pairs, draws, strict=False):
        mean = f(given)
        if isinstance(pair.recognition, Categorical):
            p = (mean * h).sum(-1)
        else:
            upper = (mean - pair.recognition.low) / (1.0 - pair.recognition.low)
            p = torch.where(h == 1.0, upper, 1.0 - upper).prod(-1)
        q = q * p
        given = h

    return q


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(
    ("kinds", "widths"),
    [
        (("binary", "binary"), (3, 4)),
        (("sign", "binary"), (4, 3)),
        (("classes", "binary", "sign"), (3, 2, 2)),
    ],
)
def test_the_mean_over_all_draws_is_the_gradient_of_the_mean_loss(kinds, widths, baseline):
    """All pairs of draws, where each is compared with the other."""
    stack = drawn_network(kinds, widths)
    x = torch.randn(1, 2, dtype=torch.float64)
    y = torch.tensor([1])

    draws = all_draws(stack, kinds)
    q = chances(stack, x, draws)
    loss = -torch.log_softmax(stack.output(draws[-1]), -1)[:, 1]
    expected = torch.autograd.grad((q * loss).sum(), parameters(stack))
    torch.testing.assert_close(q.sum().item(), 1.0, rtol=0.0, atol=1e-14)

    samples = 1
    weight = q.detach()[None]
    if baseline == "others":
        samples = 2
        number = len(q)
        one = torch.arange(number).repeat_interleave(number)
        two = torch.arange(number).repeat(number)
        draws = [torch.cat([h[one], h[two]]) for h in draws]
        weight = (q[one] * q[two]).detach().expand(2, -1) / 2.0

    rule = ReinforceRule(stack, baseline, samples=samples)
    for part in rule.baselines.parameters():
        torch.nn.init.normal_(part)
    for pair, h in zip(stack.pairs, draws, strict=True):
        pair.recognition.sample = lambda mean, generator, given, h=h: h

    copies = weight.shape[1]
    rows = rule.rows_of(x.expand(copies, -1), y.expand(copies), at())
    total = sum((weight * row).sum() for name, row in rows.items() if "baseline" not in name)
    assert_close(torch.autograd.grad(total, parameters(stack)), expected)


@pytest.mark.parametrize("baseline", BASELINES)
def test_reinforce_by_the_letter(baseline):
    """Gaussian units: (h - mean) / sigma^2 times what L is above b_l, at their own draws."""
    sigma = 0.3
    f = Affine(7, 5, "tanh")
    law = LearnedGaussian(5, sigma) if baseline == "input" else Gaussian(sigma)
    stack = Classifier(Pair(f, Affine(5, 7), recognition=law), output=Affine(5, 4)).double()
    if baseline == "input":
        sigma = law.log_sigma.detach().exp()
    x, y = batch(6)

    rule = ReinforceRule(stack, baseline, samples=2)
    for part in rule.baselines.parameters():
        torch.nn.init.normal_(part)
    losses = rule.losses((x, y), at(3))

    given = x.repeat(2, 1)
    mean = torch.tanh(given @ f.weight.T)
    noise = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h = (mean + sigma * noise).detach()
    loss = -torch.log_softmax(stack.output(h), -1)[range(12), y.repeat(2)].detach()

    b = {
        "none": lambda: torch.zeros(12, dtype=torch.float64),
        "mean": lambda: rule.baselines[0].offset.expand(12),
        "input": lambda: given @ rule.baselines[0].weight[0] + rule.baselines[0].offset,
        "others": lambda: loss.roll(6),
    }[baseline]()

    learned = list(rule.baselines.parameters())
    if learned:
        expected = torch.autograd.grad((b - loss).square().mean() / 2.0, learned)
        got = torch.autograd.grad(losses["baseline_f_1"], learned)
        assert_close(got, expected)
        reached = torch.autograd.grad(
            losses["score_f_1"], learned, retain_graph=True, allow_unused=True
        )
        assert set(reached) == {None}

    slope = (loss - b).detach()[:, None] * noise / sigma * (1.0 - mean**2)
    (got,) = torch.autograd.grad(losses["score_f_1"], f.weight, retain_graph=True)
    assert_close([got], [slope.T @ given / 12])

    if baseline == "input":  # the widths learn: d log q / d log sigma = xi^2 - 1
        (got,) = torch.autograd.grad(losses["score_f_1"], law.log_sigma)
        assert_close([got], [((loss - b).detach()[:, None] * (noise**2 - 1.0)).mean(0)])


# -- perturbation -----------------------------------------------------------------------------

#: Every value of xi as often as it is to be taken: its two signs; or the three points at which
#: Gauss and Hermite take a Gaussian, whose weights are 1/6, 4/6 and 1/6.
VALUES = {"signs": (-1.0, 1.0), "gaussian": (-(3.0**0.5), 0.0, 0.0, 0.0, 0.0, 3.0**0.5)}


def without_draws(widths, activation, predicts="classes"):
    """A float64 classifier of two inputs, with biases."""
    pairs = []
    for low, high in zip((2, *widths), widths, strict=False):
        pairs.append(Pair(Affine(low, high, activation), Affine(high, low)))

    output = Affine(widths[-1], 3)
    stack = Classifier(*pairs, output=output, predicts=predicts).double()
    with torch.no_grad():
        for f in stack.encoders:
            f.bias.normal_(0.0, 0.5)

    return stack


def over_all_noise(make, stack, noise, **options):
    """The rule with every value of its noise as a draw; rows of one image are together."""
    width = sum(stack.sizes[1:])
    if make is WeightPerturbationRule:
        width = sum(p.numel() for pair in stack.pairs for p in pair.f.parameters())

    grid = torch.tensor(list(product(VALUES[noise], repeat=width)), dtype=torch.float64)
    rule = make(stack, noise=noise, samples=len(grid), **options)
    place = [0]

    def drawn(like, moment):
        """Columns of the grid for a layer; or a row of it, parameter by parameter."""
        if make is NodePerturbationRule:
            part = grid[:, place[0] : place[0] + like.shape[1]]
            place[0] += like.shape[1]
            return part.repeat_interleave(len(like) // len(grid), 0)

        part = grid.flatten()[place[0] : place[0] + like.numel()]
        place[0] += like.numel()
        return part.view_as(like)

    rule.drawn = drawn
    return rule


def loss_and_gradients(stack, x, y):
    logits = stack(x)[0]
    if y.is_floating_point():
        loss = (logits - y).square().sum(-1).mean() / 2.0
    else:
        loss = -torch.log_softmax(logits, -1)[range(len(y)), y].mean()

    return torch.autograd.grad(loss, parameters(stack))


NETS = {NodePerturbationRule: (2, 2), WeightPerturbationRule: (1,)}


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("noise", VALUES)
@pytest.mark.parametrize("make", NETS)
def test_where_the_loss_is_quadratic_the_mean_over_all_noise_is_its_gradient(make, noise, central):
    stack = without_draws(NETS[make], "linear", "values")
    x = torch.randn(3, 2, dtype=torch.float64)
    y = torch.randn(3, 3, dtype=torch.float64)

    rule = over_all_noise(make, stack, noise, sigma=0.7, central=central)
    total = sum(rule.losses((x, y)).values())
    got = torch.autograd.grad(total, parameters(stack))

    assert_close(got, loss_and_gradients(stack, x, y))


@pytest.mark.parametrize("noise", VALUES)
@pytest.mark.parametrize("make", NETS)
def test_elsewhere_its_error_is_of_the_order_of_sigma_squared(make, noise):
    stack = without_draws(NETS[make], "tanh")
    x = torch.randn(3, 2, dtype=torch.float64)
    y = torch.tensor([0, 2, 1])
    expected = torch.cat([g.flatten() for g in loss_and_gradients(stack, x, y)])

    errors = []
    for sigma in (0.02, 0.01):
        rule = over_all_noise(make, stack, noise, sigma=sigma)
        got = torch.autograd.grad(sum(rule.losses((x, y)).values()), parameters(stack))
        errors.append((torch.cat([g.flatten() for g in got]) - expected).norm())

    assert 0.0 < errors[0] < 1e-2 * expected.norm()
    assert errors[0] / errors[1] == pytest.approx(4.0, abs=0.05)


def test_through_a_bit_it_is_the_gradient_of_the_smoothed_loss():
    """Of one sign unit: (L(1) - L(-1)) phi(a / sigma) / sigma, at all quantiles of the noise."""
    f = Affine(2, 1, "tanh")
    law = Discrete("sign")
    stack = Classifier(Pair(f, Affine(1, 2), recognition=law), output=Affine(1, 3)).double()
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    y = torch.tensor([1])
    sigma = 0.5

    draws = 20_000
    quantiles = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    normal = torch.distributions.Normal(0.0, 1.0)
    rule = NodePerturbationRule(stack, sigma, samples=draws)
    rule.drawn = lambda like, moment: normal.icdf(quantiles)[:, None]
    got = torch.autograd.grad(rule.losses((x, y))["perturb_f_1"], f.weight)[0]

    values = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    up, down = -torch.log_softmax(stack.output(values), -1)[:, 1]
    density = normal.log_prob(f.preactivation(x) / sigma).exp() / sigma
    torch.testing.assert_close(got, (up - down) * density * x, rtol=1e-3, atol=0.0)


def test_through_two_bits_biases_follow_the_smoothed_loss():
    """E over h_1 of (L(1) - L(-1)) phi(a_2(h_1) / sigma) / sigma, at all quantiles of both."""
    pairs = []
    for low in (2, 1):
        f = Affine(low, 1, "tanh")
        pairs.append(Pair(f, Affine(1, low), recognition=Discrete("sign")))
    stack = Classifier(*pairs, output=Affine(1, 3)).double()
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    sigma = 0.5

    quantiles = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    normal = torch.distributions.Normal(0.0, 1.0)
    grid = torch.cartesian_prod(*2 * [normal.icdf(quantiles)])
    rule = NodePerturbationRule(stack, sigma, samples=len(grid))
    columns = iter(grid.split(1, 1))
    rule.drawn = lambda like, moment: next(columns)
    loss = rule.losses((x, torch.tensor([1])))["perturb_f_2"]
    got = torch.autograd.grad(loss, pairs[1].f.bias)[0]

    values = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    up, down = -torch.log_softmax(stack.output(values), -1)[:, 1]
    chances = normal.cdf(values * pairs[0].f.preactivation(x) / sigma)
    density = normal.log_prob(pairs[1].f.preactivation(values) / sigma).exp() / sigma
    expected = (up - down) * (chances * density).sum(0)
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("noise", VALUES)
@pytest.mark.parametrize("make", NETS)
def test_perturbation_by_the_letter(make, noise, central):
    """One draw: c xi h' of each example, and c xi of the weights for all examples."""
    stack = without_draws((4, 3), "tanh")
    x = torch.randn(5, 2, dtype=torch.float64)
    y = torch.arange(5) % 3
    nodes = make is NodePerturbationRule
    sigma = 0.1

    rule = make(stack, sigma, noise, central)
    got = torch.autograd.grad(sum(rule.losses((x, y), at(2)).values()), parameters(stack))

    generator = torch.Generator().manual_seed(2)
    shapes = [(5, 4), (5, 3)] if nodes else [(4, 2), (4,), (3, 4), (3,)]
    options = {"generator": generator, "dtype": torch.float64}
    if noise == "signs":
        xi = [(0.5 - torch.rand(shape, **options)).sign() for shape in shapes]
    else:
        xi = [torch.randn(shape, **options) for shape in shapes]

    def loss(scale):
        h = x
        for level, f in enumerate(stack.encoders[:2]):
            if nodes:
                h = torch.tanh(h @ f.weight.T + f.bias + scale * xi[level])
            else:
                w, b = f.weight + scale * xi[2 * level], f.bias + scale * xi[2 * level + 1]
                h = torch.tanh(h @ w.T + b)
        return -torch.log_softmax(stack.output(h), -1)[range(5), y]

    below = loss(-sigma) if central else loss(0.0)
    c = ((loss(sigma) - below) / (2.0 * sigma if central else sigma)).detach()

    expected = [c.mean() * each for each in xi]
    if nodes:
        h = torch.tanh(x @ stack.encoders[0].weight.T + stack.encoders[0].bias)
        error = [c[:, None] * each / 5 for each in xi]
        expected = [error[0].T @ x, error[0].sum(0), error[1].T @ h, error[1].sum(0)]

    assert_close(got[:4], expected, 1e-11)
    assert_close(got[4:], loss_and_gradients(stack, x, y)[4:])


# -- what it is not for -----------------------------------------------------------------------


def with_hidden_layers():
    return Classifier(Pair(MLP(2, [3], 4, "tanh"), Affine(4, 2)), output=Affine(4, 3))


def of_certain_bits():
    f = Affine(2, 4, "tanh")
    return Classifier(Pair(f, Affine(4, 2), recognition=Discrete("sign")), output=Affine(4, 3))


def half_drawn():
    law = Laws([Gaussian(0.5), Discrete("binary")], [2, 2])
    f = Affine(2, 4, "sigmoid")
    return Classifier(Pair(f, Affine(4, 2), recognition=law), output=Affine(4, 3))


def wrapped(module):
    """A classifier with a module of torch between its weights."""
    f = Wrapped(nn.Sequential(nn.Linear(2, 4), module))
    return Classifier(Pair(f, Affine(4, 2)), output=Affine(4, 3))


@pytest.mark.parametrize("central", [False, True])
def test_running_means_see_what_is_not_perturbed_alone(central):
    norm = nn.BatchNorm1d(4)
    rule = WeightPerturbationRule(wrapped(norm), sigma=1.0, central=central, samples=3).train()
    x = torch.randn(5, 2)
    losses = rule.losses((x, torch.arange(5) % 3), at())

    assert norm.num_batches_tracked == 1
    mean = rule.stack.pairs[0].f.module[0](x).mean(0).detach()
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    assert torch.autograd.grad(losses["perturb_f_1"], norm.weight)[0].norm() > 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ReinforceRule(of_certain_bits()), "h_1 is not drawn"),
        (lambda: ReinforceRule(network(), "best"), "baseline='best' .* none, mean, input, others"),
        (lambda: ReinforceRule(network(), "others"), "samples=1 leaves none"),
        (lambda: ReinforceRule(half_drawn()), "h_1 is not drawn"),
        (lambda: NodePerturbationRule(network(stochastic=True)), "or ReinforceRule"),
        (lambda: WeightPerturbationRule(wrapped(nn.Dropout(0.1))), "Dropout in f_1 draws"),
        (lambda: WeightPerturbationRule(wrapped(nn.RReLU())), "RReLU in f_1 draws"),
        (lambda: NodePerturbationRule(with_hidden_layers()), "f_1 is MLP"),
        (lambda: WeightPerturbationRule(network(), sigma=0.0), "sigma=0.0"),
        (lambda: WeightPerturbationRule(network(), noise="white"), "noise='white'"),
    ],
)
def test_networks_and_options_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
