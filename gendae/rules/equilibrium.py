"""Equilibrium propagation: gradients from how a settled network answers to a nudge of its loss.

A network of symmetric connections settles where an energy is lowest, and the label enters as a
force on that state:

    E = sum_l gamma^(l-L) (G(h_l) - h_l'(W_l h_{l-1} + b_l)),   G' = s^-1,   l = 1 .. L
    dE/dh_l + beta dloss/dh_l = 0:
        h_l = s(W_l h_{l-1} + b_l + gamma W_{l+1}' h_{l+1}),    l < L
        h_L = s(W_L h_{L-1} + b_L - beta dloss/dh_L)

    gamma, weight of the feedback; beta, of the nudge; loss = L(f_M(h_L), y), of the read-out f_M

Such a G exists for every s that rises: h atanh h + log(1 - h^2) / 2 of tanh, the negative entropy
of sigmoid, h^2 / 2 of linear units, and of relu where h >= 0. With h^beta the state that a nudge
of beta gives,

    d loss(h^0) / d theta = d/dbeta dE/dtheta(h^beta)  at beta = 0,

so that two states tell the gradient, by activities before and behind each synapse alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption
from gendae.data.loader import Split
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier, error_of, label_energy
from gendae.models.settling import FreePhase
from gendae.registry import register
from gendae.rules.hebbian import ContrastiveHebbianRule, PlusPhase
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Rates

#: The nudges, in units of beta.
NUDGES = {"both": (1.0, -1.0), "one": (1.0,)}


@register
class EquilibriumPropagationRule(ContrastiveHebbianRule):
    """Synapses follow how products of activities differ between states nudged both ways.

    both:  dW_l = gamma^(l-L) (h_l^+ h_{l-1}^+' - h_l^- h_{l-1}^-') / (2 beta),  nudged by +-beta
    one:   dW_l = gamma^(l-L) (h_l^+ h_{l-1}^+' - h_l^0 h_{l-1}^0') / beta
    f_M:   the gradient of the loss at the nudged states

    It is the gradient of the loss at the free fixed point: with an error of O(beta^2) from both
    sides, O(beta) from one. As in `TwoPhaseRule` nudged states are computed as their difference
    from the free one, with all digits. With `settled` the network answers by the free fixed point;
    else by the feed-forward pass, which is that state for gamma -> 0. `val/settled_error` is the
    error at the fixed point, and `val/residual` how far it is.
    Source: Scellier and Bengio 2017, Eq. 8 to 12; Laborieux et al. 2021, section 3, for both sides
    and for the read-out by cross-entropy.

    Args:
        stack: the classifier: affine layers without bits or draws; all activations have an energy.
            Its decoders are not used.
        beta: strength of the nudge, in units of h per nat.
        nudge: "both" or "one".
        gamma: weight of the feedback, in (0, 1], small enough that the sweeps settle.
        sweeps: updates of all layers in each phase, top to bottom and back.
        input_corruption, rates, log_every: see `SupervisedRule`.
        settled: answer by the free fixed point, see `TwoPhaseRule`.

    Raises:
        ValueError: see `TwoPhaseRule`; for a beta that is not positive, and unknown names.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = EquilibriumPropagationRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    takes_values = True
    closed = False

    def __init__(
        self,
        stack: Classifier,
        beta: float = 0.2,
        nudge: str = "both",
        gamma: float = 0.1,
        sweeps: int = 5,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
        settled: bool = False,
    ) -> None:
        super().__init__(stack, gamma, sweeps, True, input_corruption, rates, log_every, settled)
        self.beta = checks.at_least("beta", beta, 0.0, strict=True)
        self.nudge = checks.one_of("nudge", nudge, NUDGES)

    def free_phase(self) -> FreePhase:
        return FreePhase(self.stack.encoders)

    @torch.no_grad()
    def settled_answer(self, x: Tensor) -> Tensor:
        """The read-out of the free fixed point: logits or values, (batch, classes)."""
        h, _ = self.minus(x)
        return self.stack.output(h[-2])

    @torch.no_grad()
    def nudged(
        self, h: list[Tensor], a: list[Tensor], y: Tensor, beta: float
    ) -> list[Tensor | None]:
        """d_0 .. d_M: what a nudge adds to the free state; d_0 = 0 is None."""
        phase = NudgedPhase(self.stack.encoders, h, a, y, beta / self.gamma)

        still = [torch.zeros_like(layer) for layer in h]
        begun = [*still[:-1], phase.unit(phase.free, still[-1])]
        d, _ = self.settle(phase, begun, below=still)

        return [None, *d[1:]]

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Energies whose gradients are the updates, mean over the batch."""
        h, a = self.minus(x)
        betas = [side * self.beta for side in NUDGES[self.nudge]]
        states = [self.nudged(h, a, y, beta) for beta in betas]

        terms = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            both = slice(level - 1, level + 1)
            parts = [
                self.energy(pair.f, h[both], d[both]).mean() / beta
                for d, beta in zip(states, betas, strict=True)
            ]
            scale = self.gamma ** (self.stack.depth - level)
            terms[f"phase_f_{level}"] = sum(parts) / (len(parts) * scale)

        losses = [label_energy(self.stack.output(h[-2] + d[-2]), y).mean() for d in states]
        terms[f"label_f_{self.stack.depth + 1}"] = sum(losses) / len(losses)
        return terms

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)

        x, y, _ = Split.of(batch)
        error = error_of(self.settled_answer(x), self.check_labels("y", y, len(x)))
        log_means(self, {"val/settled_error": error}, len(x))


class NudgedPhase(PlusPhase):
    """The phase in which the loss pulls at h_L; differences from the free phase are computed.

    Args:
        encoders, h, a: see `PlusPhase`.
        y: class indices or values.
        pull: beta / gamma.
    """

    def __init__(
        self,
        encoders: Sequence[Affine],
        h: Sequence[Tensor],
        a: Sequence[Tensor],
        y: Tensor,
        pull: float,
    ) -> None:
        super().__init__(encoders, h, a)
        self.free = len(encoders)
        self.pull = pull
        self.values = y.is_floating_point()
        self.label = y if self.values else F.one_hot(y, h[-1].shape[-1]).to(h[-1])

    def unit(self, level: int, step: Tensor) -> Tensor:
        """d_l; in the place of d_M minus the slope of the loss, times the pull."""
        if level < self.free:
            return super().unit(level, step)

        answer = self.a[level] + step
        if not self.values:
            answer = torch.softmax(answer, -1)
        return self.pull * (self.label - answer)
