"""Rules that learn from the difference of two phases: generalized recirculation and contrastive Hebbian learning."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.classifier import Classifier
from gendae.corruption import Corruption
from gendae.layers import INITIAL_WEIGHTS
from gendae.rules.core import PerLayer
from gendae.rules.supervised import SupervisedRule
from gendae.spec import register


class TwoPhaseRule(SupervisedRule):
    """Base class: activities at two fixed points of a network with feedback; a variant defines `energy`.

    h_l = s(W_l h_{l-1} + b_l + gamma B_{l+1} h_{l+1}),  l = 1 .. L,  h_M = softmax(W_M h_L + b_M)

    In the minus phase h_M is free, in the plus phase clamped to the label. Feedback of weight gamma reaches layer l
    as gamma^(M-l), by which the differences of the phases are divided: for gamma -> 0 and B = W' both rules give the
    gradient of back-propagation (Xie and Seung 2003 for contrastive Hebbian learning).

    Args:
        stack: the classifier: affine layers without bits or draws. Its decoders are not used.
        gamma: weight of the feedback, small enough that the sweeps settle.
        sweeps: updates of all layers in each phase, bottom to top and back.
        symmetric: B_l = W_l'; else fixed random weights.
        optimizer, input_corruption, eval_samples, lr_f, weight_decay_f, hold, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for gamma outside (0, 1] or sweeps < 1.
    """

    def __init__(
        self,
        stack: Classifier,
        gamma: float = 0.1,
        sweeps: int = 3,
        symmetric: bool = True,
        optimizer: str = "adam",
        input_corruption: Corruption | None = None,
        eval_samples: int = 100,
        lr_f: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        hold: float = 0.0,
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, optimizer, input_corruption, 1, eval_samples, lr_f,
                         weight_decay_f=weight_decay_f, hold=hold, log_every=log_every)
        self.need_affine()
        self.need_continuous()
        self.gamma = checks.at_least("gamma", gamma, 0.0, strict=True)
        if gamma > 1.0:
            raise ValueError(f"gamma={gamma}: a weight of the feedback in (0, 1] is needed")
        self.sweeps, self.symmetric = int(checks.at_least("sweeps", sweeps, 1)), bool(symmetric)
        if not self.symmetric:
            for level, f in enumerate(self.stack.encoders[1:], 2):
                weight = INITIAL_WEIGHTS[f.init](f.in_features, f.out_features, f.gain)
                self.register_buffer(f"feedback_{level}", weight)

    def feedback(self, level: int) -> Tensor:
        """B_l, (width of h_{l-1}, width of h_l)."""
        if self.symmetric:
            return self.stack.encoders[level - 1].weight.detach().T
        return getattr(self, f"feedback_{level}")

    @torch.no_grad()
    def settle(self, h: list[Tensor], label: Tensor | None) -> list[Tensor]:
        """h_0 .. h_M at the fixed point near h, with the output clamped to `label` if there is one."""
        h, top = list(h), self.stack.depth + 1
        upwards = list(range(1, top + 1))
        for _ in range(self.sweeps):
            for level in [*reversed(upwards), *upwards[1:]]:
                f = self.stack.encoders[level - 1]
                if level == top:
                    h[top] = torch.softmax(f(h[top - 1]), -1) if label is None else label
                else:
                    above = F.linear(h[level + 1], self.feedback(level + 1))
                    h[level] = f.s(f.preactivation(h[level - 1]) + self.gamma * above)
        return h

    def phases(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_0 .. h_M in the plus and the minus phase."""
        with torch.no_grad():
            h = [*self.stack.feedforward(x)]
            h.append(torch.softmax(self.stack.output(h[-1]), -1))
        minus = self.settle(h, None)
        label = F.one_hot(y, self.stack.classes).to(x.dtype)
        return self.settle([*minus[:-1], label], label), minus

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Energies whose gradients are the updates, mean over the batch; batch is (x, y)."""
        plus, minus = self.phases(*self.labelled(batch))
        top = self.stack.depth + 1
        terms = {}
        for level, f in enumerate(self.stack.encoders, 1):
            energy = self.energy(f, plus[level - 1 : level + 1], minus[level - 1 : level + 1])
            terms[f"{'label' if level == top else 'phase'}_f_{level}"] = (
                energy.mean() / self.gamma ** (top - level))
        return terms

    def energy(self, f: torch.nn.Module, plus: Sequence[Tensor], minus: Sequence[Tensor]) -> Tensor:
        """Of each example, (batch,); minus its gradient by W_l and b_l is the update. Pairs are (h_{l-1}, h_l)."""
        raise NotImplementedError(f"{type(self).__name__} must define energy")


@register
class GeneRecRule(TwoPhaseRule):
    """Generalized recirculation: dW_l = (h_l+ - h_l-) h_{l-1}-'.

    Source: Lee 2018, section 1.3.4, Eq. 1.14, after O'Reilly 1996.

    Args: see `TwoPhaseRule`.

    Example:
        >>> from gendae.models import deep_classifier
        >>> rule = GeneRecRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def energy(self, f: torch.nn.Module, plus: Sequence[Tensor], minus: Sequence[Tensor]) -> Tensor:
        return -((plus[1] - minus[1]) * f.preactivation(minus[0])).sum(-1)


@register
class ContrastiveHebbianRule(TwoPhaseRule):
    """Contrastive Hebbian learning: dW_l = h_l+ h_{l-1}+' - h_l- h_{l-1}-'.

    Source: Lee 2018, section 1.3.3, Eq. 1.13, after Movellan 1991 and Xie and Seung 2003.

    Args: see `TwoPhaseRule`.

    Example:
        >>> from gendae.models import deep_classifier
        >>> rule = ContrastiveHebbianRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def energy(self, f: torch.nn.Module, plus: Sequence[Tensor], minus: Sequence[Tensor]) -> Tensor:
        return (minus[1] * f.preactivation(minus[0])).sum(-1) - (plus[1] * f.preactivation(plus[0])).sum(-1)
