"""Rules that learn from the difference of two phases: generalized recirculation, contrastive Hebbian."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.classifier import Classifier
from gendae.corruption import Corruption
from gendae.layers import DIFFERENCES, Affine
from gendae.rules.backprop import fixed_feedback
from gendae.rules.core import PerLayer
from gendae.rules.supervised import SupervisedRule
from gendae.spec import register

TINY = 1e-30  # single precision ends at 1e-38, and gradients are small themselves


class TwoPhaseRule(SupervisedRule):
    """Base class: activities at two fixed points of a network with feedback; a variant defines `energy`.

    h_l = s(a_l),  a_l = W_l h_{l-1} + b_l + gamma B_{l+1} h_{l+1},  l = 1 .. L,  h_M = softmax(W_M h_L + b_M)

    In the minus phase h_M is free, in the plus phase clamped to the label. Feedback of weight gamma reaches
    layer l as gamma^(M-l), by which the differences of the phases are divided: for gamma -> 0 and B = W' both
    rules give the gradient of back-propagation (Xie and Seung 2003 for contrastive Hebbian learning).
    Differences that small would drown in rounding, and in what the sweeps leave over of the minus phase. So
    the plus phase is computed as what it adds, d_l = h_l+ - h_l-, with all its digits:

    d_l = s(a_l + W_l d_{l-1} + gamma B_{l+1} d_{l+1}) - s(a_l),  l = 1 .. L,  d_0 = 0,  d_M = label - h_M-

    A sweep shrinks what is left by about gamma |W|^2 max(s')^2: the phases settle where that is well below 1,
    which growing weights may end, most easily with softplus or relu. `val/residual` tells how far the minus
    phase is from its fixed point.

    Args:
        stack: the classifier: affine layers without bits or draws. Its decoders are not used.
        gamma: weight of the feedback, small enough that the sweeps settle.
        sweeps: updates of all layers in each phase, top to bottom and back.
        symmetric: B_l = W_l'; else fixed random weights.
        optimizer, input_corruption, eval_samples, lr_f, weight_decay_f, hold, log_every: see
            `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for sweeps < 1, for gamma > 1 or so small that gamma^(M-1) vanishes.
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
        super().__init__(
            stack,
            optimizer,
            input_corruption,
            1,
            eval_samples,
            lr_f,
            weight_decay_f=weight_decay_f,
            hold=hold,
            log_every=log_every,
        )
        self.need_affine()
        self.need_continuous()
        self.gamma = checks.at_least("gamma", gamma, 0.0, strict=True)
        least = TINY ** (1.0 / self.stack.depth)
        if not least <= gamma <= 1.0:
            raise ValueError(
                f"gamma={gamma}: a weight of the feedback in [{least:.2g}, 1] is needed for "
                f"{self.stack.depth + 1} layers"
            )
        self.sweeps, self.symmetric = int(checks.at_least("sweeps", sweeps, 1)), bool(symmetric)
        if not self.symmetric:
            for level, weight in fixed_feedback(self.stack).items():
                self.register_buffer(f"feedback_{level}", weight)

    def feedback(self, level: int) -> Tensor:
        """B_l, (width of h_{l-1}, width of h_l)."""
        if self.symmetric:
            return self.stack.encoders[level - 1].weight.detach().T
        return getattr(self, f"feedback_{level}")

    @torch.no_grad()
    def minus(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """h_0 .. h_M of the minus phase, and what the layers were given, x and a_1 .. a_M."""
        encoders, top = self.stack.encoders, self.stack.depth + 1

        def unit(level: int, a: Tensor) -> Tensor:
            return encoders[level - 1].s(a) if level < top else torch.softmax(a, -1)

        def receive(level: int, h: Tensor) -> Tensor:
            return encoders[level - 1].preactivation(h)

        h, below = [x], [x]
        for level in range(1, top + 1):
            below.append(receive(level, h[-1]))
            h.append(unit(level, below[-1]))
        return h, self.settle(h, below, top, receive, unit)

    @torch.no_grad()
    def plus(self, h: list[Tensor], a: list[Tensor], y: Tensor) -> list[Tensor | None]:
        """d_0 .. d_M: what the plus phase adds to the minus phase; None for d_0 = 0, since x is the same."""
        encoders, top = self.stack.encoders, self.stack.depth + 1

        def unit(level: int, step: Tensor) -> Tensor:
            return DIFFERENCES[encoders[level - 1].activation](a[level], step)

        def receive(level: int, d: Tensor) -> Tensor:
            return F.linear(d, encoders[level - 1].weight)

        d = [None, *(torch.zeros_like(layer) for layer in h[1:-1])]
        d.append(F.one_hot(y, self.stack.classes).to(h[top].dtype) - h[top])
        self.settle(d, list(d), top - 1, receive, unit)
        return d

    def settle(
        self,
        h: list[Tensor],
        below: list[Tensor],
        free: int,
        receive: Callable[[int, Tensor], Tensor],
        unit: Callable[[int, Tensor], Tensor],
    ) -> list[Tensor]:
        """Move h_1 .. h_free towards h_l = unit(l, a_l), a_l = receive(l, h_{l-1}) + gamma B_{l+1} h_{l+1}.

        Either part of a_l is computed only when what it comes from has moved: the one from above on the way
        down, the one from below on the way up.

        Args:
            h: h_0 .. h_M at the start, changed in place.
            below: receive(l, h_{l-1}) of this start, changed in place.
            free: highest layer that is not clamped, L or M.
            receive, unit: what a layer gets from the one below; its activity.

        Returns:
            a_1 .. a_M of the last updates, at 1 .. M: h_l is exactly unit(l, a_l).
        """
        a, above = list(below), [0.0] * len(h)
        for _ in range(self.sweeps):
            for level in range(self.stack.depth, 0, -1):
                above[level] = self.gamma * F.linear(h[level + 1], self.feedback(level + 1))
                a[level] = below[level] + above[level]
                h[level] = unit(level, a[level])
            for level in range(2, free + 1):
                below[level] = receive(level, h[level - 1])
                a[level] = below[level] + above[level]
                h[level] = unit(level, a[level])
        return a

    @torch.no_grad()
    def residual(self, x: Tensor) -> Tensor:
        """Largest |h_l - s(a_l)| of the minus phase after its sweeps, a_l taken anew: 0 once settled."""
        h, _ = self.minus(x)
        gaps = []
        for level, f in enumerate(self.stack.encoders[:-1], 1):
            above = F.linear(h[level + 1], self.feedback(level + 1))
            gaps.append(
                (h[level] - f.s(f.preactivation(h[level - 1]) + self.gamma * above)).abs().max()
            )
        return torch.stack(gaps).max()

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Energies whose gradients are the updates, mean over the batch; batch is (x, y)."""
        x, y = self.labelled(batch)
        h, a = self.minus(x)
        d = self.plus(h, a, y)
        top = self.stack.depth + 1
        terms = {}
        for level, f in enumerate(self.stack.encoders, 1):
            both = slice(level - 1, level + 1)
            name = f"{'label' if level == top else 'phase'}_f_{level}"
            terms[name] = self.energy(f, h[both], d[both]).mean() / self.gamma ** (top - level)
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
        residual = (
            self.residual(x) if len(x) else x.new_zeros(())
        )  # a process may have none of the images
        self.log(
            "val/residual",
            residual,
            batch_size=len(x),
            on_epoch=True,
            sync_dist=True,
            reduce_fx="max",
        )


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

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        return -(d[1] * f.preactivation(h[0])).sum(-1)


@register
class ContrastiveHebbianRule(TwoPhaseRule):
    """Contrastive Hebbian learning: dW_l = h_l+ h_{l-1}+' - h_l- h_{l-1}-' = d_l h_{l-1}-' + h_l+ d_{l-1}'.

    Source: Lee 2018, section 1.3.3, Eq. 1.13, after Movellan 1991 and Xie and Seung 2003.

    Args: see `TwoPhaseRule`.

    Example:
        >>> from gendae.models import deep_classifier
        >>> rule = ContrastiveHebbianRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'phase_f_1', 'phase_f_2']
    """

    def energy(self, f: Affine, h: Sequence[Tensor], d: Sequence[Tensor | None]) -> Tensor:
        energy = -(d[1] * f.preactivation(h[0])).sum(-1)
        if d[0] is not None:
            energy = energy - ((h[1] + d[1]) * F.linear(d[0], f.weight)).sum(-1)
        return energy
