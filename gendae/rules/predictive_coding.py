"""Predictive coding: hidden units settle where prediction errors balance, and layers learn there.

    F = sum_l |e_l|^2 / (2 s_l^2) + L(f_M(h_L), y),   e_l = h_l - f_l(h_{l-1}),   l = 1 .. L

f_l predicts the layer above it, and the label is what the network sees at its top. First h goes
down the slope of F, in which each layer needs its own error and that of the layer above:

    h_l <- h_l - delta (e_l - s_l^2 J_{l+1}' e_{l+1} / s_{l+1}^2)

    F, energy; e_l, prediction error of h_l; s_l^2, its variance, in squared units per nat;
    J_{l+1} = df_{l+1}/dh_l, in the place of whose error the output layer has -dL/df_M

Then each layer descends its own term of F, with h as it is. Where the hidden errors cost much more
than the label, s^2 -> 0, e_l / s_l^2 is the error of back-propagation.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption
from gendae.metrics.precision import full_precision
from gendae.models.classifier import Classifier, label_energy
from gendae.registry import register
from gendae.rules.moment import Moment
from gendae.rules.rates import PerLayer, Rates
from gendae.rules.supervised import SupervisedRule

#: Rounding errors by which F may rise at a step.
ROUNDING = 64


@register
class PredictiveCodingRule(SupervisedRule):
    """A classifier whose layers learn from their own prediction errors, after these have settled.

    error_f_l: |h_l - f_l(h_{l-1})|^2 / (2 s_l^2),  l = 1 .. L
    label_f_M: L(f_M(h_L), y)

    All h are constants here, found by N steps down F from the feed-forward pass, where errors are
    0 and the label alone pulls. A step that would raise F of an example is not taken, and half as
    long from then on: F never rises. Derivatives of one map at a time are taken; a map that is
    neither affine nor a convolution back-propagates inside.

    With a fixed prediction, f_l and J_l stay those of the feed-forward pass while errors settle:

        e_l <- (1 - delta) e_l + delta s_l^2 J_{l+1}' e_{l+1} / s_{l+1}^2

    which ends at back-propagation for any s; with delta = 1 it is there after L steps, as each
    layer is in zero-divergence inference learning at the step in which it learns.
    Source: Whittington and Bogacz 2017, Eq. 2.12 to 2.19; Millidge, Tschantz and Buckley 2022 for
    fixed predictions; Song et al. 2020 for zero divergence.

    Args:
        stack: the classifier, of maps with derivatives; its decoders are not used.
        steps: N.
        delta: length of a step, a fraction of the way to f_l were there no layer above.
        variance: s_l^2, one number or one for each hidden layer. In single precision the errors
            of much smaller ones than 1e-4 drown in rounding.
        fixed_prediction: see above.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for numbers out of range, bits and draws, and networks
            that answer at every step.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = PredictiveCodingRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['error_f_1', 'error_f_2', 'label_f_3']
    """

    def __init__(
        self,
        stack: Classifier,
        steps: int = 10,
        delta: float = 0.2,
        variance: PerLayer = 1.0,
        fixed_prediction: bool = False,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        self.need_continuous()
        self.need_one_answer()

        self.steps = checks.whole("steps", steps, 0, checks.REPEATS)
        self.delta = checks.share("delta", delta)
        self.variance = checks.per_layer("variance", variance, self.stack.depth)
        for value in self.variance:
            checks.at_least("variance", value, 0.0, strict=True)
        self.fixed_prediction = bool(fixed_prediction)

    @full_precision()
    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """The terms of F, mean over the batch.

        Errors are small differences, which are divided by s^2.
        """
        if self.fixed_prediction:
            predictions, h = self.settle_errors(x, y)
        else:
            h = self.relax(x, y)
            predictions = [f(below) for f, below in zip(self.stack.encoders, h, strict=True)]

        terms = {}
        targets = zip(predictions[:-1], h[1:], self.variance, strict=True)
        for level, (prediction, target, variance) in enumerate(targets, 1):
            error = (target - prediction).square().sum(-1).mean()
            terms[f"error_f_{level}"] = error / (2.0 * variance)

        terms[f"label_f_{len(predictions)}"] = label_energy(predictions[-1], y).mean()
        return terms

    # -- free predictions ----------------------------------------------------------------------

    def relax(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """h_0 .. h_L where the relaxation ends."""
        for h, _ in self.relaxation(x, y):  # noqa: B007
            pass

        return h

    @torch.no_grad()
    def relaxation(self, x: Tensor, y: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        """h_0 .. h_L, and F of each example, (batch,), at the start and after each step."""
        h = list(self.stack.feedforward(x))
        of_x = h[1]  # the prediction of h_1 stays
        energy, descent = self._descent(of_x, h[1:], y, self.steps > 0)
        delta = torch.full_like(energy, self.delta)[:, None]
        yield h, energy

        for left in range(self.steps - 1, -1, -1):
            ahead = [layer + delta * move for layer, move in zip(h[1:], descent, strict=True)]
            energy_ahead, descent_ahead = self._descent(of_x, ahead, y, left > 0)

            limit = energy * (1.0 + ROUNDING * torch.finfo(energy.dtype).eps)
            worse = ~(energy_ahead <= limit)  # NaN too
            energy = torch.where(worse, energy, energy_ahead)
            delta = torch.where(worse[:, None], delta / 2.0, delta)
            h = [x, *kept(worse, h[1:], ahead)]
            if left > 0:
                descent = kept(worse, descent, descent_ahead)
            yield h, energy

    def energy(self, of_x: Tensor, hidden: Sequence[Tensor], y: Tensor) -> Tensor:
        """F of each example, (batch,).

        Args:
            of_x: f_1(x).
            hidden: h_1 .. h_L.
            y: class indices or values.
        """
        prediction = of_x
        total = torch.zeros_like(of_x[:, 0])
        for h, f, variance in zip(hidden, self.stack.encoders[1:], self.variance, strict=True):
            total = total + (h - prediction).square().sum(-1) / (2.0 * variance)
            prediction = f(h)

        return total + label_energy(prediction, y)

    def _descent(
        self, of_x: Tensor, hidden: Sequence[Tensor], y: Tensor, goes_on: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """F of each example, and -s_l^2 dF/dh_l, where another step needs it."""
        if not goes_on:
            return self.energy(of_x, hidden, y), []

        with torch.enable_grad():
            free = [layer.detach().requires_grad_() for layer in hidden]
            energy = self.energy(of_x, free, y)
            slopes = torch.autograd.grad(energy.sum(), free)

        moves = [-v * slope for v, slope in zip(self.variance, slopes, strict=True)]
        return energy.detach(), moves

    # -- fixed predictions ---------------------------------------------------------------------

    @torch.enable_grad()
    def settle_errors(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """f_1(x) .. f_M(h_L) with the graph of their own step, and h_0, h_1 + e_1 .. h_L + e_L."""
        inputs = [x]
        outputs = []
        for f in self.stack.encoders:
            outputs.append(f(inputs[-1]))
            inputs.append(outputs[-1].detach().requires_grad_())

        below = inputs[1:-1]
        logits = outputs[-1]
        (pull,) = torch.autograd.grad(label_energy(logits, y).sum(), below[-1], retain_graph=True)

        errors = [torch.zeros_like(layer) for layer in below]
        for _ in range(self.steps):
            raised = [e / v for e, v in zip(errors[1:], self.variance[1:], strict=True)]
            from_above = [-pull]
            if raised:
                sent = torch.autograd.grad(outputs[1:-1], below[:-1], raised, retain_graph=True)
                from_above = [*sent, -pull]

            errors = [
                torch.lerp(e, v * d, self.delta)
                for e, v, d in zip(errors, self.variance, from_above, strict=True)
            ]

        moved = [h.detach() + e for h, e in zip(below, errors, strict=True)]
        return outputs, [x, *moved]


def kept(worse: Tensor, before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    """Of each example what was before where that was better, (batch,), else what came after."""
    rows = worse[:, None]
    return [torch.where(rows, a, b) for a, b in zip(before, after, strict=True)]
