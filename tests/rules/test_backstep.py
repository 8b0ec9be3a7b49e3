"""The auto-encoder without back-propagation: Eq. 3.20 to 3.23, locality, learning on digits."""

from itertools import pairwise

import pytest
import torch

import gendae
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair, TiedPair
from gendae.models.stack import Stack
from gendae.registry import describe
from gendae.rules.backstep import BackStepRule
from gendae.rules.rates import Rates
from tests.conftest import at
from tests.rules.test_base import trainer


def tied(*sizes):
    """A float64 stack of tied pairs with non-zero biases."""
    stack = Stack(*(TiedPair(low, high) for low, high in pairwise(sizes))).double()
    with torch.no_grad():
        for pair in stack.pairs:
            pair.f.bias.normal_()
            pair.g.bias.normal_()
    return stack


def free(*sizes):
    """The same stack with separate weights for the decoders."""
    pairs = [
        Pair(Affine(low, high, "sigmoid"), Affine(high, low, "sigmoid"))
        for low, high in pairwise(sizes)
    ]
    return Stack(*pairs).double()


def images(n=12, width=7):
    return torch.rand(n, width, dtype=torch.float64)


def quiet(stack):
    return BackStepRule(stack, corruption=[GaussianNoise(0.0)] * (stack.depth + 1))


def gradient(loss, *parameters):
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)


def test_losses_are_equations_3_20_to_3_23():
    """Written with sigmoids and matrices; e of h is drawn before e of x."""
    stack = tied(7, 5)
    x = images()
    level_of_x = 0.3
    level_of_h = 0.2
    rule = BackStepRule(stack, corruption=[GaussianNoise(level_of_x), GaussianNoise(level_of_h)])
    losses = rule.losses((x,), at(3))

    w, b, c = (p.detach() for p in stack.pairs[0].parameters())
    generator = torch.Generator().manual_seed(3)
    e_h = level_of_h * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    e_x = level_of_x * torch.randn(12, 7, generator=generator, dtype=torch.float64)
    h = torch.sigmoid(x @ w.T + b)  # 3.20
    z = torch.sigmoid((h + e_h) @ w + c)  # 3.21
    h_hat = 2 * h - torch.sigmoid(z @ w.T + b)  # 3.23
    again = torch.sigmoid((x + e_x) @ w.T + b)

    for name, error in (("reconstruct_g_1", z - x), ("target_f_1", again - h_hat)):
        assert losses[name].item() == pytest.approx((error**2).sum(1).mean().item(), rel=1e-12)


@pytest.mark.parametrize("make", [tied, free])
def test_noise_free_gradients_by_hand(make):
    """The encoder moves by 2 (f(z) - h) s' x', with h^ constant; the decoder as if h were data."""
    stack = make(7, 5)
    x = images()
    (pair,) = stack.pairs
    n = len(x)
    losses = quiet(stack).losses((x,))

    h = pair.f(x)
    w = pair.f.weight
    z = pair.g(h)
    constant = (2 * h - pair.f(z)).detach()
    expected = gradient((pair.f(x) - constant).square().sum(1).mean(), w, pair.f.bias)
    computed = gradient(losses["target_f_1"], w, pair.f.bias)

    for mine, theirs in zip(computed, expected, strict=True):
        torch.testing.assert_close(mine, theirs)

    delta = (2 * (pair.f(z) - h) * h * (1 - h) / n).detach()
    torch.testing.assert_close(computed[0], delta.T @ x)
    torch.testing.assert_close(computed[1], delta.sum(0))

    delta = (2 * (z - x) * z * (1 - z) / n).detach()
    if make is tied:
        own_weight = w
        by_hand = h.detach().T @ delta
    else:
        own_weight = pair.g.weight
        by_hand = delta.T @ h.detach()

    weight, bias = gradient(losses["reconstruct_g_1"], own_weight, pair.g.bias)
    torch.testing.assert_close(weight, by_hand)
    torch.testing.assert_close(bias, delta.sum(0))


def test_a_pair_learns_from_what_the_pair_below_sends():
    stack = tied(7, 6, 5)
    x = images()
    losses = quiet(stack).losses((x,))
    upper = Stack(stack.pairs[1])
    alone = quiet(upper).losses((stack.encode(x)[1].detach(),))

    for name in ("reconstruct_g", "target_f"):
        assert losses[f"{name}_2"].item() == pytest.approx(alone[f"{name}_1"].item(), rel=1e-12)


def test_a_perfect_reconstruction_is_left_alone():
    """z = x: the target is h itself, and no map moves."""
    w = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    pair = TiedPair(6, 6, "linear", "linear").double()

    with torch.no_grad():
        pair.f.weight.copy_(w)

    rule = quiet(Stack(pair))
    sum(rule.losses((images(width=6),)).values()).backward()

    assert all(p.grad.abs().max() < 1e-13 for p in pair.parameters())


# -- training -------------------------------------------------------------------------------------


def fitted(stack, epochs=10, f=3e-2):
    rule = BackStepRule(stack, rates=Rates(f=f, g=3e-2))
    run = trainer(max_epochs=epochs)
    run.fit(rule, Digits(batch_size=50))
    return rule, run


def mean_image_error(digits):
    train = digits.split("train").x
    valid = digits.split("valid").x
    return (valid - train.mean(0)).square().sum(1).mean().item()


@pytest.mark.parametrize(
    ("widths", "bounds"), [((64, 40), (0.4,)), ((64, 40, 30), (0.4, 0.5))], ids=["one", "two"]
)
def test_pairs_learn_digits(widths, bounds, digits, tmp_path):
    rule, run = fitted(Stack(*(TiedPair(low, high) for low, high in pairwise(widths))))
    x = digits.split("valid").x
    of_images = (rule.stack.reconstruct(x, 1) - x).square().sum(1).mean().item()

    assert run.callback_metrics["val/reconstruction_1"].item() == pytest.approx(
        of_images, rel=1e-5
    )
    for level, bound in enumerate(bounds, 1):
        error = run.callback_metrics[f"val/reconstruction_{level}"].item()
        assert error < bound * mean_image_error(digits)

    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = gendae.load(tmp_path / "run.ckpt")

    assert torch.equal(loaded.reconstruct(x), rule.stack.reconstruct(x))
    assert describe(loaded.settings) == describe(BackStepRule.DEFAULT_SETTINGS)
    assert gendae.generate(loaded, 3, seed=0).shape == (3, 64)


def test_the_target_teaches_the_encoder(digits):
    """With separate weights and few hidden units f must learn too: a random f does worse."""
    errors = []
    for rate in (0.0, 3e-2):
        torch.manual_seed(0)
        stack = Stack(Pair(Affine(64, 10, "sigmoid"), Affine(10, 64, "sigmoid")))
        _, run = fitted(stack, f=rate)
        errors.append(run.callback_metrics["val/reconstruction_1"].item())

    assert errors[1] < 0.7 * errors[0]
