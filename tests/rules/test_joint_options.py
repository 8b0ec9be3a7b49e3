"""Latent pseudo-inputs for ambiguous posteriors (2014, question 8), and walk-back (7.5)."""

import pytest
import torch
from torch.nn.functional import one_hot

from gendae.completion.completer import Completer
from gendae.completion.modalities import complete
from gendae.corruption import GaussianNoise
from gendae.models.architectures import joint_autoencoder
from gendae.rules import missing
from gendae.rules.joint import JointTargetPropRule, JointWeights
from gendae.rules.missing import Hiding
from gendae.rules.rates import Rates

SIZES = {
    "x": {"sizes": [2], "kind": "real"},
    "y": {"sizes": [3], "kind": "real"},
    "phi": {"sizes": [2], "kind": "latent"},
}


def test_draws_of_a_latent_follow_its_posterior():
    """P(phi | h) is proportional to exp(-sum_t weight_t E_t(phi)) under a uniform prior."""
    torch.manual_seed(0)
    stack = joint_autoencoder(SIZES, [4], gain=2.0).double()
    h = torch.randn(1, 7).double()
    n = 20_000
    there = torch.tensor([[True, True, False]])
    seen = torch.tensor([[True, False, False]])

    energies = []
    for k in range(2):
        phi = one_hot(torch.tensor([k]), 2).double()
        shown = torch.cat(
            [h[:, :2], torch.zeros(1, 3).double(), phi, torch.tensor([[1.0, 0.0, 1.0]]).double()],
            1,
        )
        mean = stack.junction.g.g(stack.junction.f.f(shown))
        energies.append(
            0.5
            * (0.3 * (h - mean)[:, :2].square().sum() + 2.0 * (h - mean)[:, 2:5].square().sum())
        )

    expected = torch.softmax(-torch.stack(energies), 0)[1].item()
    assert 0.02 < expected < 0.98

    drawn = missing.latents(
        stack,
        h.expand(n, -1),
        there.expand(n, -1),
        seen.expand(n, -1),
        [0.3, 2.0, 1.0],
        torch.Generator().manual_seed(1),
    )
    assert drawn["phi"][:, 1].mean().item() == pytest.approx(expected, abs=0.015)


def test_data_know_nothing_of_latents_and_fits_need_none():
    stack = joint_autoencoder(SIZES, [4])
    rule = JointTargetPropRule(stack)
    batch = (torch.randn(20, 5),)

    assert set(rule.losses(batch)) == {"joint_x_1", "joint_y_1", "joint_phi_1"}
    assert rule.examples(batch).shape == (20, 7)

    rule.fit_prior([batch])
    assert stack.prior.fitted


def test_latents_find_the_modes_of_what_the_rest_leaves_open():
    """y is s (1, -1, 1), and x says nothing of the sign s.

    One pass gives the mean, 0; a chain over phi gives a mode.
    """
    torch.manual_seed(0)
    n = 1000
    x = torch.randn(n, 2)
    sign = torch.randint(2, (n, 1)).float() * 2 - 1
    y = torch.cat([sign, -sign, sign], 1) + 0.05 * torch.randn(n, 3)
    sizes = {
        "x": {"sizes": [2], "kind": "real"},
        "y": {"sizes": [3], "kind": "real"},
        "phi": {"sizes": [2], "kind": "latent"},
    }
    stack = joint_autoencoder(sizes, [16], hidden_f=[32], hidden_g=[32])
    rule = JointTargetPropRule(
        stack,
        rates=Rates(f=3e-3, g=3e-3),
        weights=JointWeights(modalities={"y": 10.0}),
        hiding=Hiding(chances={"y": 0.7, "phi": 0.3}),
    )
    optimizer = rule.configure_optimizers()

    for _ in range(500):
        optimizer.zero_grad()
        sum(rule.losses((torch.cat([x, y], 1)[torch.randint(n, (100,))],)).values()).backward()
        optimizer.step()

    given = {"x": torch.randn(200, 2)}
    assert stack.predict(given, "y").abs().mean() < 0.3

    chain = Completer.mcmc(4, corruption=GaussianNoise(0.0))
    completed = complete(stack, given, completer=chain, seed=0).values["y"]

    assert (completed.abs() - 1.0).abs().mean() < 0.2
    assert (completed[:, 0] * completed[:, 1] < 0).float().mean() > 0.95
    assert 0.2 < (completed[:, 0] > 0).float().mean() < 0.8


@pytest.mark.parametrize("walkback", [0, 1, 2])
def test_walkback_reconstructs_from_its_own_reconstructions_of_what_was_hidden(walkback):
    """Without noise: h^0 sees x alone, h^{i+1} sees x and y^i; the loss is the mean error."""
    torch.manual_seed(0)
    stack = joint_autoencoder({name: SIZES[name] for name in "xy"}, [4], "tanh", gain=2.0).double()
    rule = JointTargetPropRule(
        stack, [GaussianNoise(0.0)] * 2, hiding=Hiding(chances={"y": 1.0}, walkback=walkback)
    )
    h = torch.randn(6, 5).double()

    there = torch.tensor([[True, False]]).expand(6, -1)
    mean = h
    errors = []
    for _ in range(1 + walkback):
        mean = stack.loop(torch.cat([h[:, :2], mean[:, 2:]], 1), there)
        errors.append(0.5 * (mean - h).square()[:, 2:].sum(1).mean())
        there = torch.ones(6, 2, dtype=torch.bool)

    assert torch.allclose(rule.losses((h,))["joint_y_1"], torch.stack(errors).mean())


def test_no_gradient_passes_between_two_walks():
    torch.manual_seed(0)
    stack = joint_autoencoder({name: SIZES[name] for name in "xy"}, [4], "tanh", gain=2.0).double()
    h = torch.randn(6, 5).double()

    gradients = []
    for walkback in (0, 1):
        rule = JointTargetPropRule(
            stack, [GaussianNoise(0.0)] * 2, hiding=Hiding(chances={"y": 1.0}, walkback=walkback)
        )
        loss = (1 + walkback) * rule.losses((h,))["joint_y_1"]
        gradients.append(torch.autograd.grad(loss, stack.junction.g.g.weight)[0])

    start = stack.loop(h, torch.tensor([[True, False]]).expand(6, -1)).detach()
    again = stack.loop(torch.cat([h[:, :2], start[:, 2:]], 1), torch.ones(6, 2, dtype=torch.bool))
    (second,) = torch.autograd.grad(
        0.5 * (again - h).square()[:, 2:].sum(1).mean(), stack.junction.g.g.weight
    )

    assert torch.allclose(gradients[1], gradients[0] + second)
