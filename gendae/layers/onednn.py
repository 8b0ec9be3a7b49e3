"""Matrix products by oneDNN, with weights packed once for many calls.

INFERENCE multiplies by the same matrices some thirty times in an update. PyTorch's ordinary
products come from MKL. On AMD processors MKL runs at a fraction of the rate of oneDNN; on Intel's
it is the faster of the two. So packed products are taken on AMD processors, or as the environment
variable GENDAE_PRODUCTS says: "packed", "plain", or "auto". Results are equal within rounding. The
choice depends on the machine and that variable alone, so that runs repeat.

PyTorch has no public call for this, so the operators behind compiled and frozen linear layers are
used. The layer itself is used where this version lacks them, and for anything but an affine layer
in single precision on the CPU.
"""

import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from gendae import checks
from gendae.layers.activations import IN_PLACE
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair

Map = Callable[[Tensor], Tensor]
WAYS = ("auto", "packed", "plain")


@cache
def vendor() -> str:
    """The processor's description of itself; empty where there is none."""
    try:
        description = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        description = ""

    return platform.processor() + description


@cache
def available() -> bool:
    """Whether this PyTorch has the two operators, and they give what an affine layer does."""
    try:
        h = torch.ones(2, 3)
        weight = torch.ones(4, 3)
        bias = torch.ones(4)
        product = linear(h, pack(weight, 2), bias)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False

    expected = torch.full((2, 4), 4.0)
    return bool(torch.allclose(product, expected))


def pack(weight: Tensor, rows: int) -> Tensor:
    """W, (out, in), in the layout that oneDNN prefers for batches of so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear(h: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """W h + b, (batch, out)."""
    return torch.ops.mkldnn._linear_pointwise(h, packed, bias, "none", [], "")


def wanted() -> bool:
    """Whether packed products are to be taken on this machine.

    Raises:
        ValueError: if GENDAE_PRODUCTS is none of auto, packed, plain.
    """
    way = checks.one_of("GENDAE_PRODUCTS", os.environ.get("GENDAE_PRODUCTS", "auto"), WAYS)

    if way == "auto":
        return "AuthenticAMD" in vendor()
    return way == "packed"


class PackedAffine:
    """The function of an affine layer, s(W h + b), as it was when this was made.

    Args:
        layer: the layer.
        rows: examples in a batch; batches of another size work too, more slowly.
    """

    def __init__(self, layer: Affine, rows: int) -> None:
        self.weight = pack(layer.weight.detach(), rows)
        self.bias = layer.bias.detach()
        self.s = IN_PLACE[layer.activation]

    def __call__(self, h: Tensor) -> Tensor:
        return self.s(linear(h, self.weight, self.bias))


def packed(pair: Pair, h: Tensor) -> tuple[Map, Map]:
    """f and g of a pair as functions for a loop in which the pair's weights do not change.

    They are packed where that is wanted and possible.

    Args:
        pair: the pair.
        h: a batch like those that f will get: tells device, precision and number of rows.

    Example:
        >>> pair, h = Pair(Affine(4, 3, "tanh"), Affine(3, 4)), torch.rand(5, 4)
        >>> with torch.no_grad():
        ...     f, g = packed(pair, h)
        ...     torch.allclose(g(f(h)), pair.g(pair.f(h)), atol=1e-6)
        True
    """
    if not _packs(h):
        return pair.f, pair.g

    return _packed_layer(pair.f, len(h)), _packed_layer(pair.g, len(h))


def product(weight: Tensor, bias: Tensor | None, h: Tensor) -> Map:
    """W h + b as a function for such a loop, for a part of a layer's weights.

    Args:
        weight: W, (out, in).
        bias: b, (out,); 0 if None.
        h: a batch like those that the function will get.

    Example:
        >>> with torch.no_grad():
        ...     product(2.0 * torch.eye(2), None, torch.ones(1, 2))(torch.ones(1, 2))
        tensor([[2., 2.]])
    """
    if not _packs(h) or weight.numel() == 0:
        return lambda h: functional.linear(h, weight, bias)

    layout = pack(weight, len(h))
    return lambda h: linear(h, layout, bias)


def _packs(h: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and h.device.type == "cpu"
        and h.dtype == torch.float32
        and len(h) > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and wanted()
        and available()
    )


def _packed_layer(layer: Map, rows: int) -> Map:
    if plain_affine(layer):
        return PackedAffine(layer, rows)
    return layer


def plain_affine(layer: object) -> TypeGuard[Affine]:
    """Whether a layer is nothing but s(W h + b) in single precision."""
    if type(layer) is not Affine:
        return False

    return layer.receives == "real" and layer.weight.dtype == torch.float32
