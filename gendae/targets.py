"""Targets h^_l: nearby values of the representations that would give a smaller loss, one for each layer.

They come down from the first one, which the global loss gives, through the decoders:

    target propagation             h^_{l-1} = g_l(h^_l)                                     (Eq. 3.9)
    difference target propagation  h^_{l-1} = h_{l-1} + g_l(h^_l) - g_l(h_l)                (Eq. 3.15)

What is passed down here are displacements d_l = h^_l - h_l. They are much smaller than h_l, so that the difference
of two reconstructions, or of a target and its layer, would keep few digits in single precision.
Source: Lee 2018, sections 3.2.1 to 3.2.3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae.classifier import Classifier, label_loss
from gendae.layers import Pair


def first_displacement(network: Classifier, h: Tensor, y: Tensor, step: float, samples: int = 1) -> Tensor:
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


def change(layer: nn.Module, h: Tensor, d: Tensor) -> Tensor:
    """layer(h + d) - layer(h), by the layer's own formula without cancellation where it has one."""
    own = getattr(layer, "difference", None)
    return layer(h + d) - layer(h) if own is None else own(h, d)


def displacement(pair: Pair, below: Tensor, h: Tensor, d: Tensor, difference: bool = True) -> Tensor:
    """d_{l-1} from d_l: g_l(h_l + d_l) - g_l(h_l), or without the correction g_l(h_l + d_l) - h_{l-1}.

    Args:
        pair: the pair (f_l, g_l).
        below, h: h_{l-1} and h_l, (batch, width).
        d: displacement of h_l.
        difference: with the correction (difference target propagation) or without (target propagation).

    Example:
        >>> from gendae.layers import Affine
        >>> pair = Pair(Affine(2, 2), Affine(2, 2))
        >>> below = torch.rand(1, 2)
        >>> displacement(pair, below, pair.f(below), torch.zeros(1, 2))      # Eq. 3.16: the condition for stability
        tensor([[0., 0.]], ...)
    """
    return change(pair.g, h, d) if difference else pair.g(h + d) - below


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
    found = [top]
    for level in range(len(pairs) - 1, 0, -1):
        found.append(displacement(pairs[level], h[level], h[level + 1], found[-1], difference))
    return found[::-1]


@torch.no_grad()
def iterated(
    network: Classifier, h: Sequence[Tensor], y: Tensor, step: float, rounds: int, reconstruct: float,
    samples: int = 1, sent: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """d_1 .. d_L after several rounds: h moves towards what reconstructs both y (from above) and x (from below).

    Each round evaluates the loss at the moved h_L, and moves every layer, top first, by the change of what the layer
    above reconstructs, "new h_l - old h_l = g(new h_{l+1}) - g(old h_{l+1})", and towards its input's side,
    reconstruct * (f_l(h_{l-1}) - h_l). Without the second term h may leave what the feed-forward path can give.
    Source: Bengio 2014 (slides), "Multiple Iterations of Target-Prop", "Reconstructing Both x and y".

    Args:
        network: the classifier.
        h: h_0 .. h_L, feed-forward, h_l = f_l(what h_{l-1} sent).
        y: class indices, (batch,).
        step: of the first target in each round.
        rounds: number of rounds; one, with reconstruct = 0, is difference target propagation.
        reconstruct: weight of the pull from below, in [0, 1].
        samples: M draws for each image.
        sent: what h_0 .. h_L sent upwards, where that is not h: draws, which move with h.
    """
    pairs, sent = list(network.pairs), h if sent is None else sent
    d = [torch.zeros_like(layer) for layer in h]
    for _ in range(rounds):
        before = [layer + moved for layer, moved in zip(h, d, strict=True)]
        for level in range(len(pairs), 0, -1):
            if level == len(pairs):
                move = first_displacement(network, sent[level] + d[level], y, step, samples)
            else:
                move = change(pairs[level].g, before[level + 1], move)
            if reconstruct > 0:  # f_l(h_{l-1}) - h_l, as both have moved since they were equal; x does not move
                lifted = change(pairs[level - 1].f, sent[level - 1], d[level - 1]) if level > 1 else 0.0
                move = move + reconstruct * (lifted - d[level])
            d[level] = d[level] + move
    return d[1:]
