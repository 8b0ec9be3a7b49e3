"""Activations s: in place, differences, slopes, inverses and ranges, one table each."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _identity(a: Tensor) -> Tensor:  # with a name, so that layers can be pickled
    return a


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": _identity,
}


#: The same functions, which overwrite their argument: half the memory traffic. They serve where
#: autograd keeps nothing.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": lambda a: torch.ops.aten.softplus.out(a, out=a),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "linear": lambda a: a,
}


def _tanh_difference(a: Tensor, e: Tensor) -> Tensor:
    return torch.tanh(e) * (1.0 - torch.tanh(a) * torch.tanh(a + e))


def _softplus_difference(a: Tensor, e: Tensor) -> Tensor:
    small = torch.log1p(torch.sigmoid(a) * torch.expm1(e.clamp(-1.0, 1.0)))
    large = F.softplus(a + e) - F.softplus(a)  # large steps do not cancel

    return torch.where(e.abs() <= 1.0, small, large)


#: s(a + e) - s(a) from a and e without cancellation. Where e is small, the plain difference keeps
#: no digits.
DIFFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softplus": _softplus_difference,
    "sigmoid": lambda a, e: 0.5 * _tanh_difference(0.5 * a, 0.5 * e),
    "tanh": _tanh_difference,
    "relu": lambda a, e: torch.where(a > 0, torch.maximum(e, -a), torch.relu(a + e)),
    "linear": lambda a, e: e,
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
