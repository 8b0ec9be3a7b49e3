"""Matrix products with weights that stay the same over many calls, by oneDNN, with W in a layout of its own.

INFERENCE multiplies by the same matrices some thirty times in an update. On AMD processors PyTorch's ordinary way to a
product, MKL, runs at a fraction of the rate of oneDNN; on Intel's it is the faster of the two. So packed products are
taken on AMD processors, or as the environment variable GENDAE_PRODUCTS says: "packed", "plain", or "auto". Results are
equal within rounding; which way is taken depends on the machine and that variable alone, so that runs repeat.

PyTorch has no public call for this: the operators behind compiled and frozen linear layers are used, and where this
version lacks them, or for anything but an affine layer in single precision on the CPU, the layer itself.
"""

import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from gendae import checks
from gendae.layers import IN_PLACE, Affine, Pair

Map = Callable[[Tensor], Tensor]
WAYS = ("auto", "packed", "plain")


@cache
def vendor() -> str:
    """What the processor says of itself; empty where it says nothing."""
    try:
        told = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        told = ""
    return platform.processor() + told


@cache
def available() -> bool:
    """Whether this PyTorch has the two operators, and they give what an affine layer does."""
    try:
        h, w, b = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)
        found = linear(h, pack(w, 2), b)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return bool(torch.allclose(found, torch.full((2, 4), 4.0)))


def pack(weight: Tensor, rows: int) -> Tensor:
    """W, (out, in), in the layout that oneDNN prefers for batches of so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear(h: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """W h + b, (batch, out)."""
    return torch.ops.mkldnn._linear_pointwise(h, packed, bias, "none", [], "")


def wanted() -> bool:
    """Whether packed products are to be taken on this machine.

    Raises:
        ValueError: if GENDAE_PRODUCTS is none of auto, packed, plain.
    """
    way = checks.one_of("GENDAE_PRODUCTS", os.environ.get("GENDAE_PRODUCTS", "auto"), WAYS)
    return way == "packed" or (way == "auto" and "AuthenticAMD" in vendor())


class PackedAffine:
    """The function of an affine layer, s(W h + b), as it was when this was made.

    Args:
        layer: the layer.
        rows: examples in a batch; others may come, more slowly.
    """

    def __init__(self, layer: Affine, rows: int) -> None:
        self.weight, self.bias = pack(layer.weight.detach(), rows), layer.bias.detach()
        self.s = IN_PLACE[layer.activation]

    def __call__(self, h: Tensor) -> Tensor:
        return self.s(linear(h, self.weight, self.bias))


def packed(pair: Pair, h: Tensor) -> tuple[Map, Map]:
    """f and g of a pair as functions for a loop in which its weights do not change; packed where that is wanted and can be.

    Args:
        pair: the pair.
        h: a batch of the kind that f will get: tells device, precision and number of rows.

    Example:
        >>> pair, h = Pair(Affine(4, 3, "tanh"), Affine(3, 4)), torch.rand(5, 4)
        >>> with torch.no_grad():
        ...     f, g = packed(pair, h)
        ...     torch.allclose(g(f(h)), pair.g(pair.f(h)), atol=1e-6)
        True
    """
    usable = (
        not torch.compiler.is_compiling()
        and h.device.type == "cpu"
        and h.dtype == torch.float32
        and len(h) > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and wanted()
        and available()
    )
    f, g = (
        PackedAffine(layer, len(h)) if usable and plain_affine(layer) else layer
        for layer in (pair.f, pair.g)
    )
    return f, g


def plain_affine(layer: object) -> bool:
    """Whether a layer is nothing but s(W h + b) in single precision."""
    return (
        type(layer) is Affine and layer.receives == "real" and layer.weight.dtype == torch.float32
    )
