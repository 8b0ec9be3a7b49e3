"""Packed products: equal to plain ones within rounding, and chosen by machine or variable.

They are never chosen for what they cannot do.
"""

import copy

import pytest
import torch

from gendae.inference import TargetPropInference
from gendae.laws import Gaussian
from gendae.layers import onednn
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.onednn import PackedAffine, packed
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder
from gendae.rules.rates import Rates
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at, small_stack

needs_operators = pytest.mark.skipif(
    not onednn.available(), reason="this PyTorch has no packed products"
)


@pytest.fixture
def forced(monkeypatch):
    monkeypatch.setenv("GENDAE_PRODUCTS", "packed")


@needs_operators
@pytest.mark.parametrize("activation", ["softplus", "sigmoid", "tanh", "relu", "linear"])
def test_a_packed_layer_is_the_layer_within_rounding(activation):
    layer = Affine(300, 200, activation)

    with torch.no_grad():
        layer.bias.normal_()

        for rows in (1, 7, 100):
            h = torch.randn(rows, 300)
            exact = copy.deepcopy(layer).double()(h.double())
            product = PackedAffine(layer, 7)(h)

            assert (product - exact).abs().max() < 1e-5
            assert torch.allclose(product, layer(h), atol=1e-5)


@needs_operators
def test_inference_with_packed_products_equals_the_plain_one_and_repeats_bit_for_bit(monkeypatch):
    stack = deep_autoencoder([784, 100, 20])
    x = torch.rand(10, 784)
    made = []
    monkeypatch.setattr(onednn, "PackedAffine", lambda *a: made.append(a) or PackedAffine(*a))

    monkeypatch.setenv("GENDAE_PRODUCTS", "plain")
    plain = TargetPropInference()(stack, x)
    assert len(made) == 0

    monkeypatch.setenv("GENDAE_PRODUCTS", "packed")
    fast = TargetPropInference()(stack, x)
    assert len(made) == 4

    for a, b in zip(plain, fast, strict=True):
        assert torch.allclose(a, b, atol=2e-5)

    again = TargetPropInference()(stack, x)
    assert all(torch.equal(a, b) for a, b in zip(fast, again, strict=True))


@needs_operators
def test_training_with_packed_products_equals_plain_training(monkeypatch):
    """Three updates, so that the weights that were packed first are not used again."""
    weights = []
    for way in ("plain", "packed"):
        monkeypatch.setenv("GENDAE_PRODUCTS", way)
        torch.manual_seed(0)
        rule = VariationalEMRule(small_stack((40, 30, 10)), rates=Rates(f=1e-2, g=1e-2))
        optimizer = rule.configure_optimizers()
        x = torch.rand(20, 40)
        moment = at(0)

        for _ in range(3):
            optimizer.zero_grad()
            sum(rule.losses((x,), moment).values()).backward()
            optimizer.step()

        weights.append(torch.cat([p.detach().flatten() for p in rule.stack.parameters()]))

    assert torch.allclose(*weights, atol=1e-4)


@pytest.mark.parametrize(
    ("way", "vendor", "expected"),
    [
        ("auto", "vendor_id : AuthenticAMD", True),
        ("auto", "vendor_id : GenuineIntel", False),
        ("auto", "", False),
        ("packed", "vendor_id : GenuineIntel", True),
        ("plain", "vendor_id : AuthenticAMD", False),
    ],
)
def test_the_way_is_chosen_by_processor_or_variable(monkeypatch, way, vendor, expected):
    monkeypatch.setenv("GENDAE_PRODUCTS", way)
    monkeypatch.setattr(onednn, "vendor", lambda: vendor)
    assert onednn.wanted() is expected


def test_an_unknown_way_is_named(monkeypatch):
    monkeypatch.setenv("GENDAE_PRODUCTS", "fast")
    words = "GENDAE_PRODUCTS='fast' is unknown; accepted: auto, packed, plain"
    with pytest.raises(ValueError, match=words):
        TargetPropInference()(small_stack(), torch.rand(2, 8))


@pytest.mark.parametrize(
    "change", ["gradients", "float64", "autocast", "empty", "mlp", "bits", "missing operators"]
)
def test_everything_else_takes_the_layers_themselves(forced, monkeypatch, change):
    pair = Pair(Affine(4, 3, "tanh"), Affine(3, 4), Gaussian())
    h = torch.rand(5, 4)

    if change == "float64":
        pair = pair.double()
        h = h.double()
    elif change == "empty":
        h = h[:0]
    elif change == "mlp":
        pair = Pair(MLP(4, [6], 3), MLP(3, [6], 4))
    elif change == "bits":
        pair = Pair(Affine(4, 3, "tanh", receives="bits"), Affine(3, 4, receives="bits"))
    elif change == "missing operators":
        monkeypatch.setattr(onednn, "available", lambda: False)

    gradients = torch.set_grad_enabled(change == "gradients")
    with gradients, torch.autocast("cpu", enabled=change == "autocast"):
        assert packed(pair, h) == (pair.f, pair.g)


def test_operators_that_are_gone_are_noticed(monkeypatch):
    monkeypatch.setattr(onednn, "pack", lambda *_: torch.ops.mkldnn.no_such_operator())
    onednn.available.cache_clear()

    assert onednn.available() is False

    onednn.available.cache_clear()
