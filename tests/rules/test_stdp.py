"""STDP along inference: what its changes add up to, and what spikes make of it."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import gendae
from gendae.corruption import GaussianNoise, PoissonNoise
from gendae.inference import TargetPropInference
from gendae.laws import LearnedGaussian
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair, TiedPair
from gendae.metrics.spikes import weight_change
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.rules.stdp import STDPRule
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at

SIZES = (8, 6, 5, 4)
QUIET = [GaussianNoise(0.0)] * 4
NOISY = [GaussianNoise(0.3)] * 4
FAST = TargetPropInference(steps=6, delta=0.3, alpha=0.1)  # moves far


def stack_of(activation, sizes=SIZES):
    torch.manual_seed(0)
    stack = deep_autoencoder(sizes, [activation] * (len(sizes) - 1), visible="sigmoid")
    return stack.double()


def rule_of(activation="softplus", noise=QUIET, **options):
    return STDPRule(stack_of(activation), FAST, noise, **options)


def images(n=7):
    return torch.rand(n, SIZES[0], generator=torch.Generator().manual_seed(3)).double()


def updates(rule, losses=None):
    """Minus the gradients, by map: the updates of its weights and of its biases."""
    if losses is None:
        losses = rule.losses((images(),), at(1))

    found = {}
    for level, pair in enumerate(rule.stack.pairs, 1):
        for name, layer in {f"f_{level}": pair.f, f"g_{level}": pair.g}.items():
            both = torch.autograd.grad(losses[name], [layer.weight, layer.bias])
            found[name] = tuple(-gradient for gradient in both)

    return found


def same(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


# -- the rule, term by term ------------------------------------------------------------------


@pytest.mark.parametrize("source", ["all", "rest"])
@pytest.mark.parametrize("activation", ["linear", "softplus", "tanh"])
def test_updates_are_the_sums_that_the_docstring_says(activation, source):
    """One example, one step of inference after the other, Eq. 1 each time."""
    rule = rule_of(activation, NOISY, source=source)
    path = rule.path(images())
    noise = {}
    generator = at(1).generator
    for level, corrupt in enumerate(rule.corruption):
        noise[level] = corrupt(path[-1][level], 0.0, generator) - path[-1][level]

    found = updates(rule)
    for level, pair in enumerate(rule.stack.pairs, 1):
        before = [h[level - 1] + noise[level - 1] for h in path]
        if source == "all":
            v = [pair.f(before[0]), *(h[level] for h in path)]
        else:
            rest = [h[level] - pair.f(b) for h, b in zip(path, before, strict=True)]
            v = [torch.zeros_like(rest[0]), *rest]

        expected = 0.0
        for t, pre in enumerate([before[0], *before[:-1]]):
            expected = expected + (v[t + 1] - v[t]).T @ pre / len(pre)
        assert torch.allclose(found[f"f_{level}"][0], expected.detach(), rtol=1e-9, atol=1e-12)
        assert torch.allclose(found[f"f_{level}"][1], (v[-1] - v[0]).mean(0).detach())

        above = path[-1][level] + noise[level]
        expected = (path[-1][level - 1] - pair.g(above)).T @ above / len(above)
        assert torch.allclose(found[f"g_{level}"][0], expected.detach(), rtol=1e-9, atol=1e-12)


def test_equation_1_on_whole_spikes_gives_the_same_sum():
    """A linear layer with spike counts before it: `weight_change` of the trajectory."""
    stack = stack_of("linear", (8, 6))
    rule = STDPRule(stack, FAST, [PoissonNoise(1), GaussianNoise(0.0)])
    x = images(1)
    spikes = rule.corruption[0](x, 0.0, at(1).generator)

    h = torch.cat([layers[1] for layers in rule.path(x)])
    potential = torch.cat([stack.pairs[0].f(spikes), h[1:]]).detach()  # driven by the spikes
    expected = weight_change(spikes.expand(len(h) - 1, -1), potential)

    losses = rule.losses((x,), at(1))
    (found,) = torch.autograd.grad(losses["f_1"], [stack.pairs[0].f.weight])
    assert torch.allclose(-found, expected)


# -- what the changes add up to ------------------------------------------------------------------


def m_step(rule, energy):
    """The M-step's updates, with the energies of a law at all layers."""
    path = rule.path(images())
    generator = at(1).generator
    h = path[-1]
    h_tilde = [
        noise(layer, 0.0, generator) for noise, layer in zip(rule.corruption, h, strict=True)
    ]

    losses = {}
    for level, pair in enumerate(rule.stack.pairs, 1):
        f, g = pair.f, pair.g
        losses[f"f_{level}"] = energy(f.preactivation(h_tilde[level - 1]), f.s, h[level])
        losses[f"g_{level}"] = energy(g.preactivation(h_tilde[level]), g.s, h[level - 1])

    return updates(rule, losses)


def squares(a, s, target):
    return 0.5 * (s(a) - target).square().sum(-1).mean()


def cross_entropy(a, s, target):
    return F.binary_cross_entropy_with_logits(a, target, reduction="none").sum(-1).mean()


@pytest.mark.parametrize("noise", [QUIET, NOISY], ids=["quiet", "noisy"])
@pytest.mark.parametrize("source", ["all", "rest"])
@pytest.mark.parametrize("activation", ["linear", "softplus", "tanh", "sigmoid"])
def test_changes_add_up_to_the_m_step_where_the_input_stays(activation, source, noise):
    """f_1's input is x: (h_1^N - f_1(x~)) x~', times s'. All decoders learn at the end."""
    rule = rule_of(activation, noise, source=source, slope=True)
    found = updates(rule)
    expected = updates(rule, VariationalEMRule.losses(rule, (images(),), at(1)))

    for name in ("f_1", "g_1", "g_2", "g_3"):
        assert same(found[name], expected[name]), name
    assert all(
        same(found[name], expected[name]) for name in m_step(rule, squares) if name[0] == "g"
    )


def test_without_slopes_it_is_the_m_step_of_the_matching_energy():
    """The cross-entropy of sigmoid units; linear units need no slope."""
    for activation, energy in {"sigmoid": cross_entropy, "linear": squares}.items():
        rule = rule_of(activation, NOISY)
        found = updates(rule)
        expected = m_step(rule, energy)
        for name in ("f_1", "g_2", "g_3"):
            assert same(found[name], expected[name]), (activation, name)


def test_all_changes_of_a_stack_that_is_at_rest_vanish():
    rule = STDPRule(stack_of("softplus"), TargetPropInference(steps=0), QUIET)
    assert all(
        a.abs().max() < 1e-12 for n, both in updates(rule).items() if n[0] == "f" for a in both
    )


def cosines(a, b):
    return {
        name: torch.cosine_similarity(a[name][0].flatten(), b[name][0].flatten(), 0).item()
        for name in a
    }


def test_the_rest_of_the_inputs_gives_the_m_step_s_direction_in_every_layer():
    """A rate that follows its own input does not."""
    found = {
        source: updates(rule_of(noise=NOISY, source=source, slope=True))
        for source in ("rest", "all")
    }
    rule = rule_of(noise=NOISY)
    m = updates(rule, VariationalEMRule.losses(rule, (images(),), at(1)))

    assert min(cosines(found["rest"], m).values()) > 0.9
    assert cosines(found["rest"], m)["f_2"] > cosines(found["all"], m)["f_2"]


# -- spikes --------------------------------------------------------------------------------------


def test_spikes_converge_to_rates_as_one_over_the_root_of_their_number():
    rule = STDPRule(stack_of("softplus", (8, 6)), TargetPropInference(steps=4), QUIET[:2])
    assert rule.path(images())[-1][1].min() > 0  # rates below 0 would be silence
    exact = torch.cat([w.flatten() for w, _ in updates(rule).values()])

    errors = {}
    for k in (64, 4096):
        rule.corruption = [PoissonNoise(k)] * 2
        squares = []
        for seed in range(40):
            found = updates(rule, rule.losses((images(),), at(seed)))
            spiked = torch.cat([w.flatten() for w, _ in found.values()])
            squares.append((spiked - exact).square().sum())
        errors[k] = torch.stack(squares).mean().sqrt().item()

    slope = math.log(errors[4096] / errors[64]) / math.log(4096 / 64)
    assert slope == pytest.approx(-0.5, abs=0.06)


def test_values_that_are_no_rates_stay_what_they_are():
    h = torch.tensor([float("nan"), float("inf"), 1.0])
    assert PoissonNoise(2)(h).isfinite().tolist() == [False, False, True]


def test_poisson_noise_has_the_mean_and_variance_of_counts():
    h = torch.tensor([-1.0, 0.0, 0.3, 2.0]).double()
    drawn = PoissonNoise(4)(h.expand(40_000, 4), generator=at(1).generator)

    expected = h.clamp(min=0)
    assert torch.allclose(drawn.mean(0), expected, atol=0.02)
    assert torch.allclose(drawn.var(0), expected / 4, atol=0.02)
    assert torch.equal(4 * drawn, (4 * drawn).round())


# -- refusals --------------------------------------------------------------------------------


def learned_width():
    stack = deep_autoencoder([8, 4])
    stack.pairs[0].recognition = LearnedGaussian(4)
    return stack


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (partial(deep_autoencoder, [8, 4], hidden_f=[5]), {}, "f_1 is MLP, and STDPRule is"),
        (learned_width, {}, "pair 1 has a law of codes that is to be learned"),
        (partial(deep_autoencoder, [8, 4]), {"source": "al"}, "source='al' is unknown"),
        (partial(deep_autoencoder, [8, 4]), {"warmup": -1}, "warmup=-1"),
    ],
)
def test_refusals(make, options, words):
    with pytest.raises(ValueError, match=words):
        STDPRule(make(), **options)


def test_decoders_are_affine_too():
    stack = Stack(Pair(gendae.Affine(8, 4), MLP(4, [5], 8)))
    with pytest.raises(ValueError, match="g_1 is MLP"):
        STDPRule(stack)


def test_tied_weights_learn_from_both_sides():
    rule = STDPRule(Stack(TiedPair(8, 4)).double(), FAST, QUIET[:2])
    losses = rule.losses((images(),), at(1))
    weight = rule.stack.pairs[0].f.weight

    both = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses.values()]
    assert all(gradient.abs().max() > 0 for gradient in both)
