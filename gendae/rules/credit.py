"""How well a learning rule assigns credit: its updates and its targets, measured.

    cos(alpha_l) between the rule's gradient and back-propagation's by W_l and b_l    (Theorem 1)
    L(h^_l) < L(h_l)                                                l = 1 .. L        (Eq. 3.3)
    |h^_{l+1} - f_{l+1}(h^_l)|^2 < |h^_{l+1} - f_{l+1}(h_l)|^2      l = 1 .. L - 1    (Eq. 3.6)
    g_l(f_l(h_{l-1})) = h_{l-1}                                     l = 2 .. L        (Eq. 3.8)
    largest eigenvalue of (I - J_f J_g)'(I - J_f J_g) < 1           l = 2 .. L        (Theorem 2)

Classifiers are measured on clean x. The losses of a generative rule have the noise that it trains
with, on x and codes. Random numbers are drawn for the measures alone: the rule is left as it was,
with its own.
Source: Lee 2018, sections 3.2.1 to 3.2.3 and appendix.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.layers.pair import Pair
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.rules.base import Rule
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.moment import Moment
from gendae.rules.supervised import SupervisedRule

SEED = 0  # of the draws of stochastic units


class Angles(NamedTuple):
    """Between the gradients of the rule and of back-propagation, for each map.

    The maps are f_1 .. f_M of a classifier, (M,), and f_1 .. f_L, g_1 .. g_L of a stack, (2 L,).
    """

    cosine: Tensor
    degrees: Tensor


class Improvement(NamedTuple):
    """What targets do, layer by layer.

    improves and local: fractions of examples where Eq. 3.3, (L,), and Eq. 3.6, (L - 1,), hold.
    change: mean change of the global loss L, (L,).
    """

    improves: Tensor
    local: Tensor
    change: Tensor


def _seeded() -> Moment:
    """A moment with draws of its own, at which all maps learn."""
    return Moment(generator=Generator().manual_seed(SEED))


def _batch(rule: SupervisedRule, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x and y, checked."""
    x = checks.rows("x", checks.width("x", x, rule.stack.sizes[0]))
    return x, rule.check_labels("y", y, len(x))


def need_global_loss(rule: Rule) -> None:
    """Raise a ValueError for a rule over several modalities."""
    if isinstance(rule.stack, JointStack):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"rule={type(rule).__name__} has no global loss to assign credit for; accepted: rules "
            "over a Stack or a Classifier"
        )


# -- directions of the updates
# ----------------------------------------------------------------------


@checks.takes_arrays
def angles(rule: Rule, x: Tensor, y: Tensor | None = None) -> Angles:
    """Angles by W_l and b_l between the gradients of the rule's losses and of the global loss.

    The rule's gradient is that of the sum of its losses. Below 90 degrees a small update of layer
    l lowers the global loss of this batch. Both gradients are taken before the optimizer, without
    weight decay. The global loss, whose gradient is the reference, is

    - of a classifier: that of the labels, at clean x, as its own losses are;
    - of `TargetPropRule` with `DifferenceLoop`: that of the loop, with the noise of the rule's
      losses;
    - of any other generative rule: that of the reconstruction from the top without noise, while
      the rule's losses have theirs.

    No gradient exists where h_l travels as bits or draws: the reference is then the
    straight-through estimate, in the first two cases for the same draws as the rule's.
    Source: Lee 2018, Theorem 1 (for one example, and g_l = f_l^-1).

    Args:
        rule: any rule that has a global loss, see `Rule.global_loss`.
        x: clean images, (batch, width of x).
        y: class indices, (batch,), for a classifier.

    Returns:
        Cosine and degrees of each map, in float64 on the CPU; NaN where either gradient is zero,
        as in a fixed layer.

    Raises:
        ValueError: for a rule without a global loss, and for x or labels that the model does not
            take.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> from gendae.rules.backprop import BackpropRule
        >>> rule = BackpropRule(deep_classifier([8, 6, 6], classes=3), fixed=1)
        >>> angles(rule, torch.rand(10, 8), torch.randint(3, (10,))).cosine.round(decimals=4)
        tensor([nan, 1., 1.], dtype=torch.float64)
        >>> from gendae import DifferenceLoop, Exact, TargetPropRule, deep_autoencoder
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]), DifferenceLoop(Exact()))
        >>> angles(rule, torch.rand(10, 8)).cosine.round(decimals=4)
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    need_global_loss(rule)

    batch: tuple[Tensor, ...]
    if isinstance(rule, SupervisedRule):
        batch = _batch(rule, x, y)
        maps = list(rule.stack.encoders)
    else:
        batch = (checks.rows("x", checks.width("x", x, rule.stack.sizes[0])),)
        maps = [pair.f for pair in rule.stack.pairs] + [pair.g for pair in rule.stack.pairs]
    layers = [_trainable(layer) for layer in maps]

    with torch.enable_grad():
        own = _gradients(rule.total_loss(batch, _seeded()), layers)
        reference = _gradients(rule.global_loss(batch, _seeded()), layers)

    cosines = [a @ b / (a.norm() * b.norm()) for a, b in zip(own, reference, strict=True)]
    cosine = torch.stack(cosines)

    return Angles(cosine, cosine.clamp(-1.0, 1.0).acos().rad2deg())


def _trainable(layer: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Parameters of a layer that are trained; a plain function has none."""
    if not isinstance(layer, nn.Module):
        return []

    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def _gradients(loss: Tensor, layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Gradient of the loss by each layer, as one vector in float64; `.grad` is left alone."""
    flat = list(chain.from_iterable(layers))
    gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))

    vectors = []
    for layer in layers:
        parts = [next(gradients).flatten().cpu().double() for _ in layer]
        empty = torch.empty(0, dtype=torch.float64)  # a layer may have no parameters
        vectors.append(torch.cat([empty, *parts]))

    return vectors


# -- quality of the targets
# -------------------------------------------------------------------------


@checks.takes_arrays
def target_improvement(rule: DifferenceTargetPropRule, x: Tensor, y: Tensor) -> Improvement:
    """How often targets do their work: they lower the global loss, and the loss of the next layer.

    An example counts where h^_l in place of h_l lowers its loss L (Eq. 3.3), or brings f_{l+1}
    closer to h^_{l+1} (Eq. 3.6; each draw by itself). Equal is not lower: a target that flips no
    bit improves nothing. Displacements are those of the rule, in its precision. They change little
    for examples that are classified well. The change is therefore computed in float64 where
    nothing is drawn, and from the same draws elsewhere.
    Source: Lee 2018, Eq. 3.3 and 3.6; Theorem 2 for the latter.

    Args:
        rule: difference target propagation, or target propagation (difference=False).
        x: clean images, (batch, width of x).
        y: class indices, (batch,).

    Returns:
        Fractions of examples, and the mean change L(h^_l) - L(h_l) in nats, on the CPU.

    Raises:
        ValueError: for a rule without targets, and for x or labels that the classifier does not
            take.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = DifferenceTargetPropRule(deep_classifier([8, 6, 6], classes=3), step=0.01)
        >>> targets = target_improvement(rule, torch.rand(10, 8), torch.randint(3, (10,)))
        >>> targets.improves[-1], bool(targets.change[-1] < 0)  # down the gradient
        (tensor(1., dtype=torch.float64), True)
    """
    if not isinstance(rule, DifferenceTargetPropRule):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"rule={type(rule).__name__} has no targets; accepted: DifferenceTargetPropRule"
        )

    x, y = _batch(rule, x, y)
    with torch.enable_grad():
        outputs, moves = rule.targets(x, y, _seeded())

    above = _Above(rule.stack, outputs, rule.copies)
    outputs = [output.to("cpu", above.dtype) for output in outputs]
    moves = [move.to("cpu", above.dtype) for move in moves]
    y = y.cpu()

    changes = []
    closer = []
    for level, (h, move) in enumerate(zip(outputs, moves, strict=True), 1):
        changes.append(above.loss(level, h + move, y) - above.loss(level, h, y))
        if level < len(moves):
            next_move = moves[level]
            error = above.next(level, h + move) - above.next(level, h) - next_move
            closer.append(error.square().sum(-1) < next_move.square().sum(-1))

    return Improvement(
        improves=_means([change < 0 for change in changes]),
        local=_means(closer),
        change=_means(changes),
    )


def _means(of_layers: Sequence[Tensor]) -> Tensor:
    """Mean over the examples of each layer, in float64."""
    means = [values.double().mean().item() for values in of_layers]

    return torch.tensor(means, dtype=torch.float64)


class _Above:
    """The network above a layer, on the CPU, which repeats the draws of the rule's way up."""

    def __init__(self, network: Classifier, outputs: Sequence[Tensor], copies: int) -> None:
        self.dtype = torch.float64
        if network.stochastic:
            self.dtype = network.dtype

        self.network = deepcopy(network).requires_grad_(False).to("cpu", self.dtype)
        self.copies = copies
        self.generator = Generator().manual_seed(SEED)

        self.states = []  # of the generator, before each layer draws
        for pair, output in zip(network.pairs, outputs, strict=True):
            self.states.append(self.generator.get_state())
            pair.recognition.transmit(output.detach().cpu(), self.generator)

    def send(self, level: int, h: Tensor) -> Tensor:
        """What layer `level` sends upwards if its output is h."""
        self.generator.set_state(self.states[level - 1])
        recognition = self.network.pairs[level - 1].recognition

        return recognition.transmit(h, self.generator)

    def next(self, level: int, h: Tensor) -> Tensor:
        """f_{l+1} of what layer `level` sends."""
        return self.network.encoders[level](self.send(level, h))

    def loss(self, level: int, h: Tensor, y: Tensor) -> Tensor:
        """Global loss of each example, (batch,), if layer `level` gives h.

        Small losses are exact to their last digit.
        """
        for lower in range(level, self.network.depth + 1):
            h = self.next(lower, h)

        logits = h.unflatten(0, (self.copies, -1))
        own = y[None, :, None].expand(self.copies, -1, 1)
        others = (logits - logits.gather(-1, own)).scatter(-1, own, -math.inf)
        log_p = F.logsigmoid(-others.logsumexp(-1))

        return math.log(self.copies) - log_p.logsumexp(0)


# -- quality of the inverses
# ------------------------------------------------------------------------


def _hidden(stack: Stack, x: Tensor) -> Iterator[tuple[Pair, Tensor]]:
    """(f_l, g_l) and h_{l-1} for l = 2 .. L; stochastic units are drawn."""
    h = checks.rows("x", checks.width("x", x, stack.sizes[0]))
    generator = Generator().manual_seed(SEED)

    for level, pair in enumerate(stack.pairs, 1):
        if level > 1:
            yield pair, h
        if level < stack.depth:
            h = pair.encode(h, generator)


@checks.takes_arrays
@torch.no_grad()
def inverse_error(stack: Stack, x: Tensor) -> Tensor:
    """|g_l(f_l(h_{l-1})) - h_{l-1}| relative to the deviation of h_{l-1}, for l = 2 .. L.

    Both are root mean squares. The error is 0 for an inverse on the layer's inputs, and 1 for a
    decoder that only knows the mean of h_{l-1}.
    Source: Lee 2018, Eq. 3.8 and 3.12.

    Args:
        stack: any stack; its inverse of x itself (l = 1) is not measured.
        x: (batch, width of x), two examples or more: one has no deviation.

    Returns:
        (L - 1,).

    Raises:
        ValueError: if x has no rows or another width.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> inverse = Pair(Affine(4, 4, init="orthogonal"), Affine(4, 4))
        >>> stack = Stack(Pair(Affine(6, 4), Affine(4, 6)), inverse)
        >>> stack.pairs[1].g.weight.data = stack.pairs[1].f.weight.data.T
        >>> inverse_error(stack, torch.rand(10, 6)).round(decimals=4)
        tensor([0.])
    """
    errors = []
    for pair, h in _hidden(stack, x):
        error = (pair.g(pair.f(h)) - h).square().sum().sqrt()
        deviation = (h - h.mean(0)).square().sum().sqrt()
        errors.append(error / deviation)

    return _stacked(errors, x)


@checks.takes_arrays
@torch.no_grad()
def theorem_2_eigenvalue(stack: Stack, x: Tensor) -> Tensor:
    """Largest eigenvalue of (I - J_f J_g)'(I - J_f J_g), for l = 2 .. L.

    J_f is the Jacobian of f_l at h_{l-1}, J_g that of g_l at h_l. Below 1, f_l gets closer to its
    target where h_{l-1} reaches its own (Eq. 3.6), if displacements are small. The eigenvalue is 1
    or more where layer l is wider than layer l-1, since values of h_{l-1} cannot give all values
    of h_l. Derivatives through bits are straight-through estimates.
    Source: Lee 2018, Theorem 2 and Eq. 3.19.

    Args:
        stack: any stack of small layers; Jacobians are formed, (batch, width of h_l, width of
            h_{l-1}).
        x: a few examples, (batch, width of x).

    Returns:
        Mean over the examples, (L - 1,).

    Raises:
        ValueError: if x has no rows or another width.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> wider = deep_classifier([8, 6, 7], activation="linear")
        >>> theorem_2_eigenvalue(wider, torch.rand(2, 8)) >= 1
        tensor([True])
    """
    eigenvalues = []
    for pair, h in _hidden(stack, x):
        product = _jacobian(pair.f, h) @ _jacobian(pair.g, pair.f(h))
        identity = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)
        norm = torch.linalg.matrix_norm(identity - product, 2)
        eigenvalues.append(norm.square().mean())

    return _stacked(eigenvalues, x)


def _jacobian(layer: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """Jacobian of a layer at each example, (batch, outputs, inputs)."""
    return torch.func.vmap(torch.func.jacrev(layer))(h)


def _stacked(of_layers: Sequence[Tensor], x: Tensor) -> Tensor:
    """Values of layers as one tensor; empty for a stack of one layer."""
    if not of_layers:
        return x.new_zeros(0)

    return torch.stack(of_layers)


# -- all measures
# -----------------------------------------------------------------------------------


@checks.takes_arrays
def by_layer(rule: Rule, x: Tensor, y: Tensor | None = None) -> dict[str, dict[int, float]]:
    """Measures to follow in training, by name and layer l.

    cosine: see `angles`; of a generative stack cosine_f and cosine_g. For rules with targets of
    labels also improves (Eq. 3.3) and local (Eq. 3.6), see `target_improvement`, and inverse, see
    `inverse_error`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = DifferenceTargetPropRule(deep_classifier([8, 6, 6], classes=3))
        >>> measures = by_layer(rule, torch.rand(10, 8), torch.randint(3, (10,)))
        >>> {name: list(values) for name, values in measures.items()}
        {'cosine': [1, 2, 3], 'improves': [1, 2], 'local': [1], 'inverse': [2]}
    """
    cosine = angles(rule, x, y).cosine
    if not isinstance(rule, SupervisedRule):
        encoders, decoders = cosine.chunk(2)
        return {"cosine_f": _numbered(encoders), "cosine_g": _numbered(decoders)}

    measures = {"cosine": _numbered(cosine)}
    if isinstance(rule, DifferenceTargetPropRule):
        targets = target_improvement(rule, x, y)
        measures["improves"] = _numbered(targets.improves)
        measures["local"] = _numbered(targets.local)
        measures["inverse"] = _numbered(inverse_error(rule.stack, x), first=2)

    return measures


def _numbered(values: Tensor, first: int = 1) -> dict[int, float]:
    """Values by layer, from layer `first` on."""
    return dict(enumerate(values.tolist(), first))
