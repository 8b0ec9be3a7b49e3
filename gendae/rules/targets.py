"""Targets h^_l: nearby values of the representations that would give a smaller loss, by layer.

They come down from the first one, which the global loss gives, through the decoders:

    target propagation             h^_{l-1} = g_l(h^_l)                                  (Eq. 3.9)
    difference target propagation  h^_{l-1} = h_{l-1} + g_l(h^_l) - g_l(h_l)             (Eq. 3.15)

The functions here pass down displacements d_l = h^_l - h_l. These are much smaller than h_l: the
difference of two reconstructions, or of a target and its layer, would keep few digits in single
precision.
Source: Lee 2018, sections 3.2.1 to 3.2.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.layers.pair import Pair
from gendae.layers.wrapped import change
from gendae.models.classifier import Classifier, label_loss
from gendae.models.joint import JointStack
from gendae.registry import register


def first_displacement(
    network: Classifier, h: Tensor, y: Tensor, step: float, samples: int = 1
) -> Tensor:
    """d_L = -step dL/dh_L, the first target, from the loss of each example (Eq. 3.7, section 3.3).

    It is taken at the top hidden layer, through the output layer alone.

    Args:
        network: the classifier.
        h: what the output layer sees, (samples * batch, width of h_L).
        y: class indices, (batch,).
        step: eta^, in squared units of h per nat.
        samples: M draws for each image.
    """
    with torch.enable_grad():
        h = h.detach().requires_grad_()
        loss = label_loss(network.output(h).unflatten(0, (samples, -1)), y)
        (gradient,) = torch.autograd.grad(loss, h)

    return gradient.mul_(-step * len(y))


def output_displacement(
    network: Classifier, h: Tensor, y: Tensor, step: float, samples: int = 1
) -> tuple[Tensor, Tensor]:
    """h_M and d_M = -step dL/dh_M, the first target where the output has an inverse (Eq. 3.7).

    h_M are the logits, or the values; see `first_displacement`.
    """
    output = network.output(h).detach()
    with torch.enable_grad():
        free = output.clone().requires_grad_()
        loss = label_loss(free.unflatten(0, (samples, -1)), y)
        (gradient,) = torch.autograd.grad(loss, free)

    return output, gradient.mul_(-step * len(y))


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        of: Tensor,
        loss: Tensor,
        gradient: Tensor,
        factor: float,
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return (ctx.factor * scale) * gradient, None, None, None


def with_gradient(of: Tensor, loss: Tensor, gradient: Tensor, factor: float = 1.0) -> Tensor:
    """A loss whose gradient by a tensor has been computed: autograd has nothing to record.

    Args:
        of: the tensor.
        loss: its value, without a graph.
        gradient: of the loss, in the shape of the tensor; without a graph.
        factor: by which it is multiplied where it is wanted.
    """
    return cast(Tensor, _KnownGradient.apply(of, loss, gradient, factor))


def missed(output: Tensor, move: Tensor) -> Tensor:
    """|output - target|^2 for the target output + move, a constant; mean over the batch.

    The error is the displacement, to its last digit: the output itself is not subtracted.
    """
    move = move.detach()
    flat = move.flatten()
    loss = torch.dot(flat, flat) / len(move)

    return with_gradient(output, loss, move, -2.0 / len(move))


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """|output - target|^2, mean over the batch."""
    return F.mse_loss(output, target, reduction="sum") / len(output)


def displacement(
    pair: Pair, below: Tensor, h: Tensor, d: Tensor, difference: bool = True
) -> Tensor:
    """d_{l-1} from d_l.

    That is g_l(h_l + d_l) - g_l(h_l), or without the correction g_l(h_l + d_l) - h_{l-1}.

    Args:
        pair: the pair (f_l, g_l).
        below, h: h_{l-1} and h_l, (batch, width).
        d: displacement of h_l.
        difference: with the correction (difference target propagation) or without (target
            propagation).

    Example:
        >>> from gendae.layers.affine import Affine
        >>> pair = Pair(Affine(2, 2), Affine(2, 2))
        >>> below = torch.rand(1, 2)
        >>> d = torch.zeros(1, 2)
        >>> displacement(pair, below, pair.f(below), d)     # Eq. 3.16: the condition for stability
        tensor([[0., 0.]], ...)
    """
    if difference:
        return change(pair.g, h, d)

    return pair.g(h + d) - below


@torch.no_grad()
def displacements(
    pairs: Sequence[Pair], h: Sequence[Tensor], top: Tensor, difference: bool = True
) -> list[Tensor]:
    """d_1 .. d_L from d_L: one sweep down.

    Args:
        pairs: (f_1, g_1) .. (f_L, g_L).
        h: h_0 .. h_L.
        top: d_L.
        difference: see `displacement`.
    """
    d = [top]
    for level in range(len(pairs) - 1, 0, -1):
        d.append(displacement(pairs[level], h[level], h[level + 1], d[-1], difference))

    return d[::-1]


@torch.no_grad()
def iterated(
    network: Classifier,
    h: Sequence[Tensor],
    y: Tensor,
    step: float,
    rounds: int,
    reconstruct: float,
    samples: int = 1,
    sent: Sequence[Tensor] | None = None,
    first: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """d_1 .. d_L after several rounds, in which h moves towards reconstructing both y and x.

    Each round evaluates the loss at the moved h_L, and moves every layer, top first. A layer moves
    by the change of what the layer above reconstructs,
    "new h_l - old h_l = g(new h_{l+1}) - g(old h_{l+1})", which is the side of y, and towards the
    side of x: reconstruct * (f_l(h_{l-1}) - h_l). Without the second term h may leave what the
    feed-forward path can give.
    Source: Bengio 2014 (slides), "Multiple Iterations of Target-Prop", "Reconstructing Both x and
    y".

    Args:
        network: the classifier.
        h: h_0 .. h_L, feed-forward, h_l = f_l(what h_{l-1} sent).
        y: class indices, (batch,).
        step: of the first target in each round.
        rounds: number of rounds; one, with reconstruct = 0, is difference target propagation.
        reconstruct: weight of the pull from below, in [0, 1].
        samples: M draws for each image.
        sent: what h_0 .. h_L sent upwards, where that is not h: draws, which move with h.
        first: d_L of a round, from what h_L sends; `first_displacement` if None.
    """
    pairs = list(network.pairs)
    if first is None:
        first = partial(first_displacement, network, y=y, step=step, samples=samples)
    if sent is None:
        sent = h

    d = [torch.zeros_like(layer) for layer in h]
    for _ in range(rounds):
        before = [layer + moved for layer, moved in zip(h, d, strict=True)]

        for level in range(len(pairs), 0, -1):
            if level == len(pairs):
                move = first(sent[level] + d[level])
            else:
                move = change(pairs[level].g, before[level + 1], move)

            if reconstruct > 0:
                move = move + reconstruct * _pull_from_below(pairs, sent, d, level)

            d[level] = d[level] + move

    return d[1:]


def _pull_from_below(
    pairs: Sequence[Pair], sent: Sequence[Tensor], d: Sequence[Tensor], level: int
) -> Tensor:
    """f_l(h_{l-1}) - h_l, by how far both have moved since they were equal."""
    if level == 1:  # x does not move
        return 0.0 - d[1]

    lifted = change(pairs[level - 1].f, sent[level - 1], d[level - 1])
    return lifted - d[level]


DISCRIMINANT = ("missing", "inferred", "gradient")


@register
@dataclass(frozen=True)
class Hybrid:
    """The hybrid target of a joint stack's codes (Eq. 19), between two criteria.

           joint        h^                   the score of P(h^x, y) moves h         (Eq. 16)
           discriminant h + h^ - h-          the score of P(y | h^x) moves h        (Eq. 18)
           hybrid       h^ + (1 - joint_weight) (h - h-)                            (Eq. 19)

    Source: Bengio 2014, section 3.3.

    Args:
        joint_weight: 1 models the joint law, 0 the law of the outputs alone.
        unlabelled: the joint weight of examples without outputs; joint_weight if None.
        discriminant: how h- is computed.
            "missing": r(h, m) with y missing from its input (Eq. 17).
            "inferred": y is replaced by its prediction. The score of P(h) is the mean of the
            scores of P(h, y) under P(y | h), so that h^ - h- vanishes where y is certain.
            "gradient": without reconstructions, by the gradient of log P(y | h~_J) within the top
            stack. Above a single pair that is back-propagation: the reference.
        outputs: y, the modalities that others are to predict (all labels if None; none, if there
            are none).

    Raises:
        ValueError: for weights outside [0, 1] and an unknown discriminant; when used, for unknown
            names.
    """

    joint_weight: float = 1.0
    unlabelled: float | None = None
    discriminant: str = "inferred"
    outputs: list[str] | None = None

    def __post_init__(self) -> None:
        checks.share("hybrid.joint_weight", self.joint_weight)
        if self.unlabelled is not None:
            checks.share("hybrid.unlabelled", self.unlabelled)
        checks.one_of("hybrid.discriminant", self.discriminant, DISCRIMINANT)
        if self.outputs is not None:
            checks.several("hybrid.outputs", self.outputs)

    def positions(self, stack: JointStack) -> list[int]:
        """Positions of y among the modalities."""
        names = stack.labels if self.outputs is None else self.outputs
        return [stack.index(name) for name in names]

    def __call__(self, stack: JointStack, codes: Tensor, there: Tensor) -> Tensor:
        """h^_J - h_J, (batch, width); see `hybrid`."""
        outputs = self.positions(stack)
        weights = (self.joint_weight, self.unlabelled)
        return hybrid(stack, codes, there, outputs, *weights, self.discriminant)


@torch.no_grad()
def hybrid(
    stack: JointStack,
    codes: Tensor,
    there: Tensor,
    outputs: Sequence[int],
    joint_weight: float = 1.0,
    unlabelled: float | None = None,
    discriminant: str = "inferred",
) -> Tensor:
    """Displacement h^_J - h_J of a joint stack's codes towards their hybrid target.

        hybrid target = h^ + (1 - joint_weight) (h - h-)                                (Eq. 19)

    h^ is the top's reconstruction from all observed modalities, h- that from all but the outputs
    y. The first moves h along the score of P(h, y) (Eq. 16), the difference along that of P(y | h)
    (Eq. 17). Missing modalities do not move. The result is (batch, width).
    Source: Bengio 2014, section 3.3.

    Args:
        stack: a joint stack with a top.
        codes: h_J, (batch, width).
        there: which modalities are observed, (batch, N).
        outputs: positions of y among them.
        joint_weight: 1 for the joint law, 0 for that of the outputs alone.
        unlabelled: joint weight of rows without outputs; joint_weight if None.
        discriminant: how h- is found: y is "missing" from the input, or "inferred", replaced by
            its prediction, since the score of P(h) is the mean of those of P(h, y) under P(y | h);
            or "gradient": d log P(y | h) / dh takes the place of h^ - h-, by back-propagation
            inside the top stack.
    """
    w = joint_weight
    joint = stack.loop(codes, there) - codes

    if not outputs or w >= 1.0:
        moved = joint
    elif discriminant == "gradient":
        conditional = _gradient(stack, codes, there, outputs)
        moved = w * joint + (1.0 - w) * conditional
    else:
        # w * joint + (1 - w) * conditional, as conditional = joint - marginal
        marginal = _MARGINAL[discriminant](stack, codes, there, outputs)
        moved = joint - (1.0 - w) * marginal

    if outputs:
        alone = w if unlabelled is None else unlabelled
        labelled = there[:, outputs].any(1, keepdim=True)
        moved = torch.where(labelled, moved, alone * joint)

    return moved * stack.spread(there, stack.level)


def _missing(stack: JointStack, codes: Tensor, there: Tensor, outputs: Sequence[int]) -> Tensor:
    """h- - h, (batch, width): h- is the reconstruction without the outputs."""
    return stack.loop(codes, _hidden(there, outputs)) - codes


def _inferred(stack: JointStack, codes: Tensor, there: Tensor, outputs: Sequence[int]) -> Tensor:
    """h- - h, (batch, width): h- is the reconstruction with the outputs as they are predicted."""
    reconstruction = stack.loop(codes, _hidden(there, outputs))
    guess = stack.separate(reconstruction, stack.level)

    names = [stack.names[t] for t in outputs]
    predicted = {name: guess[name] for name in names}

    return stack.loop(stack.replace(codes, stack.level, predicted), there) - codes


def _gradient(stack: JointStack, codes: Tensor, there: Tensor, outputs: Sequence[int]) -> Tensor:
    """d log P(y | h) / dh, (batch, width), which needs no h-."""
    return output_score(stack, codes, there, _hidden(there, outputs), outputs)


#: How h-, the reconstruction that does not see the outputs, is found.
_MARGINAL = {"missing": _missing, "inferred": _inferred}


def _hidden(there: Tensor, outputs: Sequence[int]) -> Tensor:
    """Which modalities are observed once the outputs are hidden, (batch, N)."""
    without = there.clone()
    without[:, outputs] = False

    return without


def output_score(
    stack: JointStack, codes: Tensor, there: Tensor, without: Tensor, outputs: Sequence[int]
) -> Tensor:
    """d log P(y | h) / dh at h_J, (batch, width), by back-propagation inside the top stack.

    Args:
        stack, codes, there, outputs: see `hybrid`.
        without: `there` without the outputs.
    """
    with torch.inference_mode(False), torch.enable_grad():
        free = codes.detach().clone().requires_grad_()
        energies = stack.junction.observation.energies(codes, stack.loop(free, without))

        energy = (energies * there)[:, list(outputs)].sum()
        (slope,) = torch.autograd.grad(energy, free)

    return -slope
