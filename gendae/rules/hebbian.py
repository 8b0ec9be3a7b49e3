"""Rules that learn from the difference of two phases: GeneRec and contrastive Hebbian learning."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption
from gendae.layers.activations import DIFFERENCES
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier
from gendae.models.settling import MinusPhase, Settling, begun, last, swept
from gendae.registry import register
from gendae.rules.backprop import fixed_feedback
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule

TINY = 1e-30  # single precision ends at 1e-38, and gradients are small themselves


class TwoPhaseRule(SupervisedRule):
    """Base class: activities at two fixed points of a network with feedback.

    A variant defines `energy`.

    h_l = s(a_l),  a_l = W_l h_{l-1} + b_l + gamma B_{l+1} h_{l+1},  l = 1 .. L
    h_M = softmax(W_M h_L + b_M)

    In the minus phase h_M is free, in the plus phase clamped to the label. Feedback of weight
    gamma reaches layer l as gamma^(M-l), by which the differences of the phases are divided: for
    gamma -> 0 and B = W' both rules give the gradient of back-propagation (Xie and Seung 2003 for
    contrastive Hebbian learning). Such small differences would drown in rounding, and in the minus
    phase's distance from its fixed point. So the plus phase is computed as its difference from the
    minus phase, d_l = h_l+ - h_l-, with all its digits:

    d_l = s(a_l + W_l d_{l-1} + gamma B_{l+1} d_{l+1}) - s(a_l),  l = 1 .. L
    d_0 = 0,  d_M = label - h_M-

    A sweep shrinks the distance from the fixed point by about gamma |W|^2 max(s')^2. The phases
    settle where this factor is well below 1; growing weights may end that, most easily with
    softplus or relu. `val/residual` tells how far the minus phase is from its fixed point.

    Args:
        stack: the classifier: affine layers without bits or draws. Its decoders are not used.
        gamma: weight of the feedback, small enough that the sweeps settle.
        sweeps: updates of all layers in each phase, top to bottom and back.
        symmetric: B_l = W_l'; else fixed random weights.
        input_corruption, rates, log_every: see `SupervisedRule`.
        settled: answer by the minus phase, in validation, test and prediction, wherever the model
            is loaded; else by the feed-forward pass. It needs feedback by W'.

    Raises:
        ValueError: see `SupervisedRule`; for sweeps < 1, for gamma > 1 or so small that
            gamma^(M-1) vanishes; for a network of values, which a clamped softmax cannot be; for a
            settled answer by random feedback, which no file of a model holds.
    """

    #: Whether the phases know labels that are values.
    takes_values = False
    #: Whether the answer sends feedback in the minus phase.
    closed = True

    def __init__(
        self,
        stack: Classifier,
        gamma: float = 0.1,
        sweeps: int = 3,
        symmetric: bool = True,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
        settled: bool = False,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        self.need_affine()
        self.need_continuous()
        if self.stack.predicts == "values" and not self.takes_values:
            self.refuse("it predicts values, and what clamps the phases is a class")

        self.gamma = checks.at_least("gamma", gamma, 0.0, strict=True)
        least = TINY ** (1.0 / self.stack.depth)
        if not least <= gamma <= 1.0:
            raise ValueError(
                f"gamma={gamma}: a weight of the feedback in [{least:.2g}, 1] is needed for "
                f"{self.stack.depth + 1} layers"
            )

        self.sweeps = checks.whole("sweeps", sweeps, 1, checks.REPEATS)
        self.symmetric = bool(symmetric)
        self.settled = bool(settled)
        if self.settled:
            self._answer_settled()

        if not self.symmetric:
            for level, weight in fixed_feedback(self.stack).items():
                self.register_buffer(f"feedback_{level}", weight)

    def _answer_settled(self) -> None:
        """Have the stack answer by the state that it is trained in."""
        if not self.symmetric:
            raise ValueError(
                "settled=True: the random feedback is the rule's, and no file of a model holds it;"
                " accepted: symmetric=True"
            )

        settling = Settling(self.gamma, self.sweeps, closed=self.closed)
        self.stack.settings = replace(self.stack.settings, settling=settling)

    def feedback(self, level: int) -> Tensor:
        """B_l, (width of h_{l-1}, width of h_l)."""
        if self.symmetric:
            return self.stack.encoders[level - 1].weight.detach().T

        return getattr(self, f"feedback_{level}")

    def free_phase(self) -> MinusPhase:
        """What layers receive, and how they answer, where nothing is known of the label."""
        return MinusPhase(self.stack.encoders)

    @torch.no_grad()
    def minus(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_0 .. h_M of the minus phase, and what the layers received, x and a_1 .. a_M."""
        phase = self.free_phase()
        return self.settle(phase, *begun(phase, x))

    @torch.no_grad()
    def plus(self, h: list[Tensor], a: list[Tensor], y: Tensor) -> list[Tensor | None]:
        """d_0 .. d_M: what the plus phase adds to the minus phase.

        None stands for d_0 = 0, since x is the same.
        """
        label = F.one_hot(y, self.stack.classes).to(h[-1].dtype)

        d = [None, *(torch.zeros_like(layer) for layer in h[1:-1])]
        d.append(label - h[-1])

        # a layer receives zeros from zeros: d_1 .. d_L are both
        d, _ = self.settle(PlusPhase(self.stack.encoders, h, a), d, below=d)
        return d

    def settle(
        self, phase: "MinusPhase | PlusPhase", h: Sequence[Tensor], below: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Where `sweep` ends: the fixed point of a phase, or near it."""
        return last(self.sweep(phase, h, below))

    def sweep(
        self, phase: "MinusPhase | PlusPhase", h: Sequence[Tensor], below: Sequence[Tensor]
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The states after each sweep, see `gendae.models.settling.swept`."""
        return swept(phase, (h, below), self.feedback, self.gamma, self.sweeps)

    @torch.no_grad()
    def residual(self, x: Tensor) -> Tensor:
        """Largest |h_l - s(a_l)| of the minus phase after its sweeps, a_l computed anew.

        It is 0 once the phase has settled.
        """
        h, _ = self.minus(x)

        gaps = []
        for level, f in enumerate(self.stack.encoders[:-1], 1):
            above = F.linear(h[level + 1], self.feedback(level + 1))
            a = f.preactivation(h[level - 1]) + self.gamma * above
            gaps.append((h[level] - f.s(a)).abs().max())

        return torch.stack(gaps).max()

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Energies whose gradients are the updates, mean over the batch."""
        h, a = self.minus(x)
        d = self.plus(h, a, y)

        top = self.stack.depth + 1
        terms = {}
        for level, f in enumerate(self.stack.encoders, 1):
            kind = "label" if level == top else "phase"
            both = slice(level - 1, level + 1)
            energy = self.energy(f, h[both], d[both]).mean()
            terms[f"{kind}_f_{level}"] = energy / self.gamma ** (top - level)

        return terms

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        """Of each example, (batch,); minus its gradient by W_l and b_l is the update.

        Args:
            f: f_l.
            h: h_{l-1} and h_l in the minus phase.
            d: what the plus phase adds to them; None where it adds nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} must define energy")

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)

        x = batch[0]
        residual = x.new_zeros(())
        if len(x) > 0:  # a process may have none of the images
            residual = self.residual(x)

        self.log(
            "val/residual",
            residual,
            batch_size=len(x),
            on_epoch=True,
            sync_dist=True,
            reduce_fx="max",
        )


class PlusPhase:
    """The phase in which h_M is clamped; differences from the minus phase are computed.

    Args:
        encoders: f_1 .. f_M.
        h: h_0 .. h_M of the minus phase.
        a: a_1 .. a_M of the minus phase, at 1 .. M.

    Attributes:
        free: the highest layer that is free.
    """

    def __init__(
        self, encoders: Sequence[Affine], h: Sequence[Tensor], a: Sequence[Tensor]
    ) -> None:
        self.encoders = encoders
        self.h = h
        self.a = a
        self.free = len(encoders) - 1

    def receive(self, level: int, d: Tensor) -> Tensor:
        """What layer l receives from d_{l-1}."""
        return F.linear(d, self.encoders[level - 1].weight)

    def unit(self, level: int, step: Tensor) -> Tensor:
        """d_l, where a_l moves by a step."""
        difference = DIFFERENCES[self.encoders[level - 1].activation]
        return difference(self.a[level], step, self.h[level])


@register
class GeneRecRule(TwoPhaseRule):
    """Generalized recirculation: dW_l = (h_l+ - h_l-) h_{l-1}-'.

    Source: Lee 2018, section 1.3.4, Eq. 1.14, after O'Reilly 1996.

    Args: see `TwoPhaseRule`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = GeneRecRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        return -(d[1] * f.preactivation(h[0])).sum(-1)


@register
class ContrastiveHebbianRule(TwoPhaseRule):
    """Contrastive Hebbian learning.

    dW_l = h_l+ h_{l-1}+' - h_l- h_{l-1}-' = d_l h_{l-1}-' + h_l+ d_{l-1}'

    Source: Lee 2018, section 1.3.3, Eq. 1.13, after Movellan 1991 and Xie and Seung 2003.

    Args: see `TwoPhaseRule`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = ContrastiveHebbianRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        energy = -(d[1] * f.preactivation(h[0])).sum(-1)
        if d[0] is not None:
            energy = energy - ((h[1] + d[1]) * F.linear(d[0], f.weight)).sum(-1)

        return energy
