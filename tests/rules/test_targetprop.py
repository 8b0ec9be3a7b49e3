"""Algorithm 2 of 2014 as printed: each target in its place, and each layer its own gradient."""

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.laws import Gaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.rules.loops import LoopWeights, ShortAndLongLoops
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from tests.conftest import at
from tests.rules.test_base import trainer


def stack_of(sizes=(12, 8, 6), **options):
    torch.manual_seed(0)
    activations = ["tanh"] * (len(sizes) - 1)
    if options.get("units"):
        activations = None

    return deep_autoencoder(list(sizes), activations, **options).double()


def clean(stack):
    return [GaussianNoise(0.0) for _ in range(stack.depth + 1)]


def printed(stack, weights=None, top_target="flat", **options):
    """Algorithm 2 as printed, without corruption."""
    loop = ShortAndLongLoops(weights or LoopWeights(), top_target=top_target)
    return TargetPropRule(stack, loop, clean(stack), **options)


def data(n=7, width=12):
    return torch.rand(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_every_target_is_the_listing_s():
    """Without corruption all terms equal the squared errors of Algorithm 2 written out by hand."""
    stack = stack_of()
    x = data()
    (f1, g1), (f2, g2) = ((p.f, p.g) for p in stack.pairs)
    losses = printed(stack, LoopWeights(target=0.3, denoise=2.0)).losses((x,))

    h1 = f1(x)
    h2 = f2(h1)
    h1_hat = g2(h2)
    expected = {
        "short_g_1": (x, g1(h1), 1.0),
        "short_g_2": (h1, g2(h2), 1.0),
        "short_f_1": (h1, f1(g1(h1)), 1.0),
        "short_f_2": (h2, f2(g2(h2)), 1.0),
        "target_f_1": (h1_hat, f1(x), 0.3),
        "long_g_2": (h1, g2(h2), 1.0),
        "long_g_1": (x, g1(h1_hat), 1.0),
        "denoise_f_1": (h1, f1(x), 2.0),
        "denoise_f_2": (h2, f2(h1), 2.0),
    }

    assert set(losses) == set(expected)
    for name, (target, output, weight) in expected.items():
        value = weight * (target - output).square().sum(1).mean() / 2
        assert torch.allclose(losses[name], value), name


def test_one_backward_of_the_sum_gives_each_layer_its_own_gradient():
    stack = stack_of()
    x = data()
    rule = printed(stack)
    losses = rule.losses((x,))
    sum(losses.values()).backward()

    weight = stack.pairs[1].g.weight
    fresh = rule.losses((x,))
    (expected,) = torch.autograd.grad(fresh["short_g_2"] + fresh["long_g_2"], weight)
    assert torch.allclose(weight.grad, expected)


def test_targets_of_the_top_are_the_prior_s_reconstruction():
    stack = stack_of(prior=GaussianPrior("full", 1.0))
    x = data(30)
    h = stack.encode(x)
    stack.prior.fit(h[-1])
    losses = printed(stack, top_target="prior").losses((x,))

    wanted = stack.prior.reconstruct(h[-1])
    value = (wanted - h[-1]).square().sum(1).mean() / 2
    assert torch.allclose(losses["target_f_2"], value)

    h1_hat = stack.pairs[1].g(wanted)
    assert torch.allclose(losses["target_f_1"], (h1_hat - h[1]).square().sum(1).mean() / 2)


def test_contractive_penalty_is_the_jacobian_s_norm():
    torch.manual_seed(0)
    pair = Pair(Affine(5, 4, "tanh"), Affine(4, 5))
    stack = Stack(pair).double()
    x = data(1, 5)
    jacobian = torch.autograd.functional.jacobian(lambda v: pair.f(v[None])[0], x[0])

    rule = TargetPropRule(stack, contractive=1.0)
    many = (x.expand(20000, -1),)
    value = rule.losses(many, at(0))["contractive_f_1"]

    assert torch.allclose(value, jacobian.square().sum(), rtol=0.03)


def test_linear_recirculation_is_at_rest_for_an_invertible_pair():
    """g(f(x)) = x: all short- and long-loop terms and their gradients vanish."""
    torch.manual_seed(0)
    f = Affine(6, 6)
    g = Affine(6, 6)
    stack = Stack(Pair(f, g, Gaussian(), Gaussian())).double()
    with torch.no_grad():
        g.weight.copy_(torch.linalg.inv(f.weight))

    losses = printed(stack).losses((data(9, 6),))
    total = sum(losses.values())
    total.backward()

    assert total.item() < 1e-20
    assert all(p.grad.abs().max() < 1e-9 for p in stack.pairs.parameters())


def test_model_terms_need_a_fitted_prior_and_use_its_samples():
    stack = stack_of()
    x = data(30)
    rule = printed(stack, LoopWeights(model=1.0))

    with pytest.raises(ValueError, match="GaussianPrior is not fitted"):
        rule.losses((x,))

    rule.fit_prior([(x,)])
    losses = rule.losses((x,), at(3))

    sample = stack.prior.sample(30, torch.Generator().manual_seed(3))
    h1 = stack.pairs[1].g(sample)
    value = (sample - stack.pairs[1].f(h1)).square().sum(1).mean() / 2

    assert torch.allclose(losses["model_f_2"], value)


@pytest.mark.parametrize(("options", "holds"), [({}, True), ({"pace": 1.0}, False)])
def test_codes_keep_their_directions_at_the_default_pace_and_contract_at_that_of_decoders(
    options, holds
):
    """Participation ratio of the top code of three pairs, trained for 20 epochs."""
    torch.manual_seed(0)
    stack = deep_autoencoder([64, 60, 60, 20], ["tanh"] * 3, observation="bernoulli")
    x = Digits().split("train").x
    before = participation(stack, x)

    rule = TargetPropRule(stack, ShortAndLongLoops(**options))
    trainer(max_epochs=20, limit_val_batches=0).fit(rule, Digits())

    assert (participation(stack, x) > 0.9 * before) == holds


@torch.no_grad()
def participation(stack, x):
    values = torch.linalg.eigvalsh(torch.cov(stack.encode(x)[-1].T))
    return values.sum() ** 2 / values.square().sum()


def test_encoders_learn_at_the_pace_of_the_loop():
    loop = ShortAndLongLoops(pace=0.1)
    rule = TargetPropRule(stack_of(), loop, rates=Rates(f=[1e-2, 1e-3], g=2e-3))
    groups = rule.configure_optimizers().param_groups
    found = {group["name"]: (group["lr"], group["initial_lr"]) for group in groups}

    assert found["f_1"] == pytest.approx((1e-3, 1e-3))
    assert found["f_2"] == pytest.approx((1e-4, 1e-4))
    assert found["g_1"] == found["g_2"] == (2e-3, 2e-3)
