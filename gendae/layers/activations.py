"""Activations s: in place, differences, slopes, inverses and ranges, one table each."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def _identity(a: Tensor) -> Tensor:  # with a name, so that layers can be pickled
    return a


#: Elements from which on `tanh` is computed by the sigmoid: fewer do not pay for the detour.
MANY = 16_384


class _Tanh(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return _tanh_of_half(2.0 * a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, y)


def tanh(a: Tensor) -> Tensor:
    """tanh(a) = 2 sigmoid(2 a) - 1, where that is quicker.

    On a CPU torch's own takes six times as long as its sigmoid, and most of the time of a
    classifier's activations. This one errs by 1.8e-7 at most, which is rounding beside 1; where
    small values are to keep their digits, torch's is used.
    """
    if not _pays(a):
        return torch.tanh(a)
    if a.requires_grad:
        return cast(Tensor, _Tanh.apply(a))

    return _tanh_of_half(2.0 * a)


def _tanh_in_place(a: Tensor) -> Tensor:
    if not _pays(a):
        return torch.tanh_(a)

    return _tanh_of_half(a.mul_(2.0))


def _tanh_of_half(b: Tensor) -> Tensor:
    """tanh(b / 2), written over b."""
    return b.sigmoid_().mul_(2.0).sub_(1.0)


def _pays(a: Tensor) -> bool:
    if torch.compiler.is_compiling():  # whose number of rows may be free
        return False

    single = a.device.type == "cpu" and a.dtype == torch.float32
    return single and a.numel() >= MANY


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": tanh,
    "relu": torch.relu,
    "linear": _identity,
}


#: The same functions, which overwrite their argument: half the memory traffic. They serve where
#: autograd keeps nothing.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": lambda a: torch.ops.aten.softplus.out(a, out=a),
    "sigmoid": torch.sigmoid_,
    "tanh": _tanh_in_place,
    "relu": torch.relu_,
    "linear": lambda a: a,
}


def _tanh_difference(a: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
    y = tanh(a) if y is None else y
    return torch.tanh(e) * (1.0 - y * tanh(a + e))


def _sigmoid_difference(a: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
    of_half = None if y is None else 2.0 * y - 1.0
    return 0.5 * _tanh_difference(0.5 * a, 0.5 * e, of_half)


def _softplus_difference(a: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
    y = F.softplus(a) if y is None else y
    small = torch.log1p(torch.sigmoid(a) * torch.expm1(e.clamp(-1.0, 1.0)))
    large = F.softplus(a + e) - y  # large steps do not cancel

    return torch.where(e.abs() <= 1.0, small, large)


def _relu_difference(a: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
    return torch.where(a > 0, torch.maximum(e, -a), torch.relu(a + e))


def _linear_difference(a: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
    return e


#: s(a + e) - s(a) from a and e without cancellation, and from y = s(a) where it is known. Where e
#: is small, the plain difference keeps no digits.
DIFFERENCES: dict[str, Callable[..., Tensor]] = {
    "softplus": _softplus_difference,
    "sigmoid": _sigmoid_difference,
    "tanh": _tanh_difference,
    "relu": _relu_difference,
    "linear": _linear_difference,
}
#: s'(a) from the output y = s(a), which is all that a unit has to keep of a.
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": lambda y: -torch.expm1(-y),
    "sigmoid": lambda y: y * (1.0 - y),
    "tanh": lambda y: 1.0 - y.square(),
    "relu": lambda y: (y > 0).to(y.dtype),
    "linear": torch.ones_like,
}


#: Open range of each activation that has an inverse.
RANGES = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "softplus": (0.0, float("inf")),
    "linear": (float("-inf"), float("inf")),
}


#: log s'(a) of each activation that has an inverse, exact also where s' underflows.
LOG_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda a: 2.0 * (math.log(2.0) - a - F.softplus(-2.0 * a)),
    "sigmoid": lambda a: F.logsigmoid(a) + F.logsigmoid(-a),
    "softplus": F.logsigmoid,
    "linear": torch.zeros_like,
}


#: Softplus is the identity above this, as in torch.
SOFTPLUS_THRESHOLD = 20.0


def inverse_activation(h: Tensor, activation: str) -> Tensor:
    """s^-1(h), after moving h into the range of s, one rounding unit away from its ends."""
    epsilon = torch.finfo(h.dtype).eps

    if activation == "tanh":
        return torch.atanh(h.clamp(-1.0 + epsilon, 1.0 - epsilon))
    if activation == "sigmoid":
        return torch.logit(h.clamp(epsilon, 1.0 - epsilon))
    if activation == "softplus":
        h = h.clamp(min=epsilon)
        inverse = h + torch.log(-torch.expm1(-h))
        return torch.where(h > SOFTPLUS_THRESHOLD, h, inverse)

    return h
