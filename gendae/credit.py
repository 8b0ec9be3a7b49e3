"""How well a learning rule assigns credit: its updates beside the gradient, its targets beside what they promise.

    cos(alpha_l) between the rule's gradient and back-propagation's by W_l and b_l             (Theorem 1)
    L(h^_l) < L(h_l)                                                         l = 1 .. L         (Eq. 3.3)
    |h^_{l+1} - f_{l+1}(h^_l)|^2 < |h^_{l+1} - f_{l+1}(h_l)|^2               l = 1 .. L - 1     (Eq. 3.6)
    g_l(f_l(h_{l-1})) = h_{l-1}                                              l = 2 .. L         (Eq. 3.8)
    largest eigenvalue of (I - J_f J_g)'(I - J_f J_g) < 1                    l = 2 .. L         (Theorem 2)

All of it is measured on clean x, with draws of their own: a rule is left as it was, with its random numbers.
Source: Lee 2018, sections 3.2.1 to 3.2.3 and appendix.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.classifier import Classifier, label_loss
from gendae.layers import Pair
from gendae.rules import DifferenceTargetPropRule, Rule, SupervisedRule
from gendae.stack import Stack

SEED = 0  # of the draws of stochastic units


class Angles(NamedTuple):
    """Between the rule's gradient and back-propagation's, for f_1 .. f_M: cosine and angle in degrees, (M,)."""

    cosine: Tensor
    degrees: Tensor


class Improvement(NamedTuple):
    """What targets do: fractions of examples where Eq. 3.3, (L,), and Eq. 3.6, (L - 1,), hold; change of L, (L,)."""

    improves: Tensor
    local: Tensor
    change: Tensor


@contextmanager
def _undisturbed(rule: SupervisedRule) -> Iterator[Generator]:
    """The rule without noise on x, with both kinds of update and draws of its own; afterwards as it was."""
    for_now = {
        "generator": Generator().manual_seed(SEED),
        "input_corruption": None,
        "inverses": True,
        "encoders": True,
    }
    before = {name: getattr(rule, name) for name in for_now if hasattr(rule, name)}
    cuda = [rule.stack.device] if rule.stack.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.enable_grad():
        torch.default_generator.manual_seed(SEED)
        try:
            for name in before:
                setattr(rule, name, for_now[name])
            yield for_now["generator"]
        finally:
            for name, value in before.items():
                setattr(rule, name, value)


def _batch(rule: SupervisedRule, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y, checked."""
    x = checks.rows("x", checks.width("x", x, rule.stack.sizes[0]))
    return x, checks.labels("y", y, len(x), rule.stack.classes)


def supervised(rule: Rule) -> SupervisedRule:
    """`rule` if it trains a classifier, else a ValueError."""
    if not isinstance(rule, SupervisedRule):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"rule={type(rule).__name__} has no global loss to assign credit for; accepted: rules that train a "
            "Classifier, such as DifferenceTargetPropRule or BackpropRule"
        )
    return rule


# -- directions of the updates --------------------------------------------------------------------------


def angles(rule: SupervisedRule, x: Tensor, y: Tensor) -> Angles:
    """Angle between the rule's gradient of the sum of its losses and the gradient of the global loss, by W_l and b_l.

    Below 90 degrees a small update of layer l lowers the loss of this batch. Both are gradients, before the
    optimizer, without weight decay. Where h_l travels as bits or draws no gradient exists: the reference is
    then the straight-through estimate, for the same draws as the rule's.
    Source: Lee 2018, Theorem 1 (there for one example, and g_l = f_l^-1).

    Args:
        rule: any rule that trains a classifier.
        x: clean images, (batch, width of x).
        y: class indices, (batch,).

    Returns:
        Cosine and degrees, (M,), in float64 on the CPU; NaN where either gradient is zero, as in a fixed layer.

    Raises:
        ValueError: for a rule without a global loss, and for x or labels that the classifier does not take.

    Example:
        >>> from gendae.models import deep_classifier
        >>> from gendae.rules import BackpropRule
        >>> rule = BackpropRule(deep_classifier([8, 6, 6], classes=3), fixed=1)
        >>> angles(rule, torch.rand(10, 8), torch.randint(3, (10,))).cosine.round(decimals=4)
        tensor([nan, 1., 1.], dtype=torch.float64)
    """
    x, y = _batch(supervised(rule), x, y)
    layers = [
        [p for p in f.parameters() if p.requires_grad] if isinstance(f, nn.Module) else []
        for f in rule.stack.encoders
    ]
    with _undisturbed(rule):
        own = _gradients(sum(rule.losses((x, y)).values()), layers)
        again = Generator().manual_seed(SEED)
        reference = _gradients(label_loss(rule.stack(x, rule.copies, again), y), layers)
    cosine = torch.stack(
        [a @ b / (a.norm() * b.norm()) for a, b in zip(own, reference, strict=True)]
    )
    return Angles(cosine, cosine.clamp(-1.0, 1.0).acos().rad2deg())


def _gradients(loss: Tensor, layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Gradient of the loss by all parameters of each layer, as one vector in float64; `.grad` is left alone."""
    flat = [p for layer in layers for p in layer]
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
    return [
        torch.cat(
            [
                torch.empty(0, dtype=torch.float64),
                *(next(found).flatten().cpu().double() for _ in layer),
            ]
        )
        for layer in layers
    ]


# -- quality of the targets -----------------------------------------------------------------------------


def target_improvement(rule: DifferenceTargetPropRule, x: Tensor, y: Tensor) -> Improvement:
    """How often targets are what they should be: nearby values that lower the global loss, and the next layer's.

    An example counts where h^_l in place of h_l lowers its loss L (Eq. 3.3), or brings f_{l+1} closer to
    h^_{l+1} (Eq. 3.6; each draw by itself). Equal is not lower: a target that flips no bit improves nothing.
    Displacements are those of the rule, in its precision. What they change is tiny for examples that are
    classified well: it is computed in float64 where nothing is drawn, and from the same draws elsewhere.
    Source: Lee 2018, Eq. 3.3 and 3.6; Theorem 2 for the latter.

    Args:
        rule: difference target propagation, or target propagation (difference=False).
        x: clean images, (batch, width of x).
        y: class indices, (batch,).

    Returns:
        Fractions of examples, and the mean change L(h^_l) - L(h_l) in nats, on the CPU.

    Raises:
        ValueError: for a rule without targets, and for x or labels that the classifier does not take.

    Example:
        >>> from gendae.models import deep_classifier
        >>> rule = DifferenceTargetPropRule(deep_classifier([8, 6, 6], classes=3), step=0.01)
        >>> found = target_improvement(rule, torch.rand(10, 8), torch.randint(3, (10,)))
        >>> found.improves[-1], bool(found.change[-1] < 0)                # the first target: down the gradient
        (tensor(1., dtype=torch.float64), True)
    """
    if not isinstance(rule, DifferenceTargetPropRule):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"rule={type(rule).__name__} has no targets; accepted: DifferenceTargetPropRule"
        )
    x, y = _batch(rule, x, y)
    with _undisturbed(rule):
        sent, outputs = rule._up(x)
        outputs = [output.detach() for output in outputs]
        d = [move.detach() for move in rule._displacements(sent, outputs, y)]
    above = _Above(rule.stack, outputs, rule.copies)
    outputs, d = (
        [tensor.to("cpu", above.dtype) for tensor in tensors] for tensors in (outputs, d)
    )
    y, improves, local, change = y.cpu(), [], [], []
    for level, (h, move) in enumerate(zip(outputs, d, strict=True), 1):
        gain = above.loss(level, h + move, y) - above.loss(level, h, y)
        improves.append((gain < 0).double().mean().item())
        change.append(gain.double().mean().item())
        if level < len(d):
            error = above.next(level, h + move) - above.next(level, h) - d[level]
            closer = error.square().sum(-1) < d[level].square().sum(-1)
            local.append(closer.double().mean().item())
    return Improvement(
        *(torch.tensor(found, dtype=torch.float64) for found in (improves, local, change))
    )


class _Above:
    """The network above a layer, on the CPU, as often as one likes with the draws that the rule's way up had."""

    def __init__(self, network: Classifier, outputs: Sequence[Tensor], copies: int) -> None:
        self.dtype = network.dtype if network.stochastic else torch.float64
        self.network, self.copies = (
            deepcopy(network).requires_grad_(False).to("cpu", self.dtype),
            copies,
        )
        self.generator, self.states = Generator().manual_seed(SEED), []
        for pair, output in zip(network.pairs, outputs, strict=True):
            self.states.append(self.generator.get_state())
            pair.recognition.transmit(output.detach().cpu(), self.generator)

    def send(self, level: int, h: Tensor) -> Tensor:
        """What layer `level` sends upwards if its output is h."""
        self.generator.set_state(self.states[level - 1])
        return self.network.pairs[level - 1].recognition.transmit(h, self.generator)

    def next(self, level: int, h: Tensor) -> Tensor:
        """f_{l+1} of it."""
        return self.network.encoders[level](self.send(level, h))

    def loss(self, level: int, h: Tensor, y: Tensor) -> Tensor:
        """Global loss of each example, (batch,), if layer `level` gives h; small losses to their last digit."""
        for lower in range(level, self.network.depth + 1):
            h = self.next(lower, h)
        logits, own = (
            h.unflatten(0, (self.copies, -1)),
            y[None, :, None].expand(self.copies, -1, 1),
        )
        others = (logits - logits.gather(-1, own)).scatter(-1, own, -math.inf)
        return math.log(self.copies) - F.logsigmoid(-others.logsumexp(-1)).logsumexp(0)


# -- quality of the inverses ----------------------------------------------------------------------------


def _hidden(stack: Stack, x: Tensor) -> Iterator[tuple[Pair, Tensor]]:
    """(f_l, g_l) and h_{l-1} for l = 2 .. L; stochastic units are drawn."""
    h, generator = (
        checks.rows("x", checks.width("x", x, stack.sizes[0])),
        Generator().manual_seed(SEED),
    )
    for level, pair in enumerate(stack.pairs, 1):
        if level > 1:
            yield pair, h
        if level < stack.depth:
            h = pair.encode(h, generator)


@torch.no_grad()
def inverse_error(stack: Stack, x: Tensor) -> Tensor:
    """|g_l(f_l(h_{l-1})) - h_{l-1}| relative to the deviation of h_{l-1}, root mean squares, l = 2 .. L.

    0 for an inverse on what the layer sees; 1 for a decoder that only knows the mean of h_{l-1}.
    Source: Lee 2018, Eq. 3.8 and 3.12.

    Args:
        stack: any stack; inverses of x itself (l = 1) are not asked for.
        x: (batch, width of x), two examples or more: one has no deviation.

    Returns:
        (L - 1,).

    Raises:
        ValueError: if x has no rows or another width.

    Example:
        >>> from gendae.layers import Affine
        >>> stack = Stack(Pair(Affine(6, 4), Affine(4, 6)), Pair(Affine(4, 4, init="orthogonal"), Affine(4, 4)))
        >>> stack.pairs[1].g.weight.data = stack.pairs[1].f.weight.data.T
        >>> inverse_error(stack, torch.rand(10, 6)).round(decimals=4)
        tensor([0.])
    """
    found = [
        (pair.g(pair.f(h)) - h).square().sum().sqrt() / (h - h.mean(0)).square().sum().sqrt()
        for pair, h in _hidden(stack, x)
    ]
    return torch.stack(found) if found else x.new_zeros(0)


@torch.no_grad()
def theorem_2_eigenvalue(stack: Stack, x: Tensor) -> Tensor:
    """Largest eigenvalue of (I - J_f J_g)'(I - J_f J_g), J_f of f_l at h_{l-1}, J_g of g_l at h_l, l = 2 .. L.

    Below 1, f_l gets closer to its target where h_{l-1} reaches its own (Eq. 3.6), if displacements are small. It is
    1 or more where layer l is wider than layer l-1, whose values cannot give all those of h_l. Derivatives through
    bits are straight-through estimates.
    Source: Lee 2018, Theorem 2 and Eq. 3.19.

    Args:
        stack: any stack of small layers; Jacobians are formed, (batch, width of h_l, width of h_{l-1}).
        x: a few examples, (batch, width of x).

    Returns:
        Mean over the examples, (L - 1,).

    Raises:
        ValueError: if x has no rows or another width.

    Example:
        >>> from gendae.models import deep_classifier
        >>> theorem_2_eigenvalue(deep_classifier([8, 6, 7], activation="linear"), torch.rand(2, 8)) >= 1
        tensor([True])
    """
    found = []
    for pair, h in _hidden(stack, x):
        product = _jacobian(pair.f, h) @ _jacobian(pair.g, pair.f(h))
        identity = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)
        found.append(torch.linalg.matrix_norm(identity - product, 2).square().mean())
    return torch.stack(found) if found else x.new_zeros(0)


def _jacobian(layer: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """Of each example, (batch, outputs, inputs)."""
    return torch.func.vmap(torch.func.jacrev(layer))(h)


# -- all of it ------------------------------------------------------------------------------------------


def by_layer(rule: SupervisedRule, x: Tensor, y: Tensor) -> dict[str, dict[int, float]]:
    """What is worth following in training, by name and layer l.

    cosine: see `angles`. For rules with targets also improves (Eq. 3.3) and local (Eq. 3.6), see `target_improvement`,
    and inverse, see `inverse_error`.

    Example:
        >>> from gendae.models import deep_classifier
        >>> rule = DifferenceTargetPropRule(deep_classifier([8, 6, 6], classes=3))
        >>> found = by_layer(rule, torch.rand(10, 8), torch.randint(3, (10,)))
        >>> {name: list(values) for name, values in found.items()}
        {'cosine': [1, 2, 3], 'improves': [1, 2], 'local': [1], 'inverse': [2]}
    """
    found = {"cosine": (1, angles(rule, x, y).cosine)}
    if isinstance(rule, DifferenceTargetPropRule):
        targets = target_improvement(rule, x, y)
        found |= {
            "improves": (1, targets.improves),
            "local": (1, targets.local),
            "inverse": (2, inverse_error(rule.stack, x)),
        }
    return {
        name: dict(enumerate(values.tolist(), first)) for name, (first, values) in found.items()
    }
