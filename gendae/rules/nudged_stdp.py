"""Spike-timing-dependent plasticity of a classifier whose top is nudged towards the label."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier
from gendae.registry import register
from gendae.rules.hebbian import PlusPhase, TwoPhaseRule
from gendae.rules.rates import Rates


@register
class NudgedSTDPRule(TwoPhaseRule):
    """Every synapse follows the rates it sees while a label nudges the top.

    Free phase:    the network settles, as in `TwoPhaseRule`; nothing learns
    Nudged phase:  h_M = (1 - beta) softmax(a_M) + beta label, beta being `nudge`, from there on
                   dW_l = sum_t (h_l^{t+1} - h_l^t) h_{l-1}^t'

    The change of a rate times the rate before the synapse is Eq. 1 of 2015; rates change since
    what the label does to h_M travels down by the feedback. The first phase is where the second
    one begins, no activity of it is remembered, and no synapse needs more than its two rates.

    Each sweep of the nudged phase is a step t, and the sum is divided by beta gamma^(M-l), the
    part of the nudge that reaches layer l. For beta -> 0 and B = W' the result is the gradient
    of the cross-entropy at the free fixed point, by the forward weights, for any gamma: that of
    back-propagation through the free phase (Almeida 1987). For gamma -> 0 too it is that of the
    feed-forward network. beta = 1 clamps the label.
    Source: Bengio et al. 2015, sections 2 and 9; the two phases are those of equilibrium
    propagation (Scellier and Bengio 2017).

    Args:
        stack: the classifier: affine layers without bits or draws. Its decoders are not used.
        nudge: beta, in (0, 1].
        gamma, sweeps, symmetric, input_corruption, rates, log_every, settled: see `TwoPhaseRule`.

    Raises:
        ValueError: see `TwoPhaseRule`; for a nudge outside (0, 1].

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = NudgedSTDPRule(deep_classifier([8, 6, 6], classes=3), nudge=0.1)
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        nudge: float = 0.5,
        gamma: float = 0.1,
        sweeps: int = 3,
        symmetric: bool = True,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
        settled: bool = False,
    ) -> None:
        shared = (gamma, sweeps, symmetric, input_corruption, rates, log_every, settled)
        super().__init__(stack, *shared)

        self.nudge = checks.share("nudge", nudge)
        if self.nudge == 0.0:
            raise ValueError("nudge=0: the label would do nothing; a share in (0, 1] is needed")

    @torch.no_grad()
    def plus(self, h: list[Tensor], a: list[Tensor], y: Tensor) -> list[Tensor | None]:
        """d_0 .. d_M of the nudged phase at all its times, (times, batch, width).

        None stands for d_0 = 0, since x is the same.
        """
        label = F.one_hot(y, self.stack.classes).to(h[-1].dtype)
        phase = NudgedPhase(self.stack.encoders, h, a, label, self.nudge)

        still = [torch.zeros_like(layer) for layer in h]
        begun = [*still[:-1], phase.unit(phase.free, still[-1])]
        path = [still, begun, *(d for d, _ in self.sweep(phase, begun, below=still))]

        return [None, *(torch.stack(layer) for layer in list(zip(*path, strict=True))[1:])]

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        """See `TwoPhaseRule`; d holds all times of the nudged phase."""
        change = d[1].diff(dim=0) / self.nudge
        if d[0] is None:
            return -(change.sum(0) * f.preactivation(h[0])).sum(-1)

        before = h[0] + d[0][:-1]
        return -(change * f.preactivation(before)).sum((0, -1))


class NudgedPhase(PlusPhase):
    """The phase in which h_M is drawn towards the label; all layers are free.

    Args:
        encoders, h, a: see `PlusPhase`.
        label: one-hot, (batch, classes).
        nudge: beta.
    """

    def __init__(
        self,
        encoders: Sequence[Affine],
        h: Sequence[Tensor],
        a: Sequence[Tensor],
        label: Tensor,
        nudge: float,
    ) -> None:
        super().__init__(encoders, h, a)
        self.free = len(encoders)
        self.nudge = nudge
        self.pull = nudge * (label - h[-1])

    def unit(self, level: int, step: Tensor) -> Tensor:
        if level < self.free:
            return super().unit(level, step)

        difference = softmax_difference(self.h[level], step)
        return torch.add(self.pull, difference, alpha=1.0 - self.nudge)


def softmax_difference(p: Tensor, step: Tensor) -> Tensor:
    """softmax(a + step) - softmax(a) from p = softmax(a), without cancellation.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0]])
        >>> step = torch.tensor([[0.0, 1.0, 0.0]])
        >>> exact = (a + step).softmax(1) - a.softmax(1)
        >>> torch.allclose(softmax_difference(a.softmax(1), step), exact)
        True
    """
    growth = torch.expm1(step - step.amax(-1, keepdim=True))
    mean = (p * growth).sum(-1, keepdim=True)

    return p * (growth - mean) / (1.0 + mean)
