"""Back-propagation and its closest relatives: baselines that use, or replace, the chain rule."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.layers.affine import INITIAL_WEIGHTS
from gendae.models.classifier import Classifier, label_loss
from gendae.registry import register
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule


@register
class BackpropRule(SupervisedRule):
    """Gradient descent on the global loss L by the chain rule through all layers.

    Source: Lee 2018, section 1.3.2 (Eq. 1.10 to 1.12); with fixed lower layers, the second
    baseline of 3.3.2.

    Args:
        stack: the classifier; layers that learn must not lie below bits or draws.
        fixed: number of lowest layers that stay as they are.
        input_corruption, samples, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for fixed >= M.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = BackpropRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3']
    """

    def __init__(
        self,
        stack: Classifier,
        fixed: int = 0,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)

        self.fixed = checks.whole("fixed", fixed, 0)
        if self.fixed > self.stack.depth:
            raise ValueError(
                f"fixed={fixed}: of {self.stack.depth + 1} layers at least the output layer must "
                f"learn; accepted: 0 .. {self.stack.depth}"
            )
        self.check_network()

    def check_network(self) -> None:
        """Raise a ValueError for networks through which no derivative passes."""
        self.need_continuous(self.fixed)

    def idle(self) -> list[nn.Module]:
        return [*super().idle(), *self.stack.encoders[: self.fixed]]

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """The global loss in nats, mean over the batch."""
        if self.fixed > 0:
            logits = self._above_fixed(x, moment)
        else:
            logits = self.stack(x, self.copies, moment.draws)

        return {f"label_f_{self.stack.depth + 1}": label_loss(logits, y)}

    def _above_fixed(self, x: Tensor, moment: Moment) -> Tensor:
        """Logits without a gradient for the fixed layers.

        Optimizers skip parameters without a gradient, decay included.
        """
        h = x
        if self.copies > 1:
            h = x.repeat(self.copies, 1)

        for level, pair in enumerate(self.stack.pairs, 1):
            with torch.set_grad_enabled(level > self.fixed):
                h = self.stack.send(pair, pair.f(h), moment.draws)

        return self.stack.output(h).unflatten(0, (self.copies, -1))


@register
class StraightThroughRule(BackpropRule):
    """Back-propagation in which a bit, or a draw, has derivative 1 by the value that it replaces.

    On networks without bits and draws it is back-propagation.
    Source: Bengio, Leonard and Courville 2013, as in Lee 2018, section 3.3.2 and Eq. 3.29.

    Args: see `BackpropRule`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> _ = torch.manual_seed(0)
        >>> network = deep_classifier([8, 6, 6], classes=3, bits=[1])
        >>> rule = StraightThroughRule(network)
        >>> rule.losses((torch.rand(10, 8), torch.randint(3, (10,))))["label_f_3"].backward()
        >>> bool(network.pairs[0].f.weight.grad.abs().sum() > 0)
        True
    """

    def check_network(self) -> None:
        """Any network will do."""


@register
class FeedbackAlignmentRule(SupervisedRule):
    """Back-propagation of errors through fixed random weights B_l in place of W_l'.

    e_M = dL/da_M,  e_{l-1} = s'(a_{l-1}) * (B_l e_l),  dL/dW_l is replaced by e_l h_{l-1}'

    It is the slides' special case g_l(h) = B_l h of difference target propagation, up to factors
    s' between the layers: target propagation passes down d_{l-1} = B_l d_l and moves a_l by
    s'(a_l) * d_l; here d_{l-1} is B_l (s'(a_l) * d_l). For B_M = W_M', with which the first target
    begins, both are equal in the layers L and M, and in all layers where s is linear.
    `FeedbackRule` has it for maps of any kind, as the feedback `Random`.
    Source: Bengio 2014 (slides, "Feedback Alignment"), after Lillicrap et al. 2014.

    Args:
        stack: the classifier: affine layers without bits or draws. Its decoders are not used.
        feedback_gain: scale of B_l, drawn as W_l' was; 1 gives it the size of the weights at the
            start.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = FeedbackAlignmentRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['error_f_1', 'error_f_2', 'label_f_3']
    """

    def __init__(
        self,
        stack: Classifier,
        feedback_gain: float = 1.0,
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        self.need_affine()
        self.need_continuous()

        self.feedback_gain = checks.at_least("feedback_gain", feedback_gain, 0.0, strict=True)
        for level, weight in fixed_feedback(self.stack, self.feedback_gain).items():
            self.register_buffer(f"feedback_{level}", weight)

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Products of a_l with its error e_l, whose gradients are the updates."""
        h = [x]
        a = []
        for pair in self.stack.pairs:
            a.append(pair.f.preactivation(h[-1].detach()))
            h.append(pair.f.s(a[-1]))
        logits = self.stack.output(h[-1].detach())

        loss = label_loss(logits[None], y)
        terms = {f"label_f_{self.stack.depth + 1}": loss}

        (e,) = torch.autograd.grad(loss, logits, retain_graph=True)
        for level in range(self.stack.depth, 0, -1):
            e = F.linear(e, getattr(self, f"feedback_{level + 1}"))
            (e,) = torch.autograd.grad(h[level], a[level - 1], e)  # e * s'(a), within the layer
            terms[f"error_f_{level}"] = (e * a[level - 1]).sum()

        return terms


def fixed_feedback(stack: Classifier, gain: float = 1.0) -> dict[int, Tensor]:
    """B_l for l = 2 .. M, (width of h_{l-1}, width of h_l): drawn as W_l' was, times a gain."""
    feedback = {}
    for level, f in enumerate(stack.encoders[1:], 2):
        like_w = INITIAL_WEIGHTS[f.init](f.out_features, f.in_features, gain * f.gain)
        feedback[level] = like_w.T.contiguous().to(f.weight)

    return feedback
