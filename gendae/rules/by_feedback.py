"""Classifiers by feedback: every map learns towards what the feedback of the next one asks.

    d_M = -step dL/da_M,  d_{l-1} = c_l(d_l)            with the feedback c_l of f_l
    f_l learns towards h_l + d_l                        l = 1 .. L; f_M by L itself

With exact feedback this is back-propagation of the cross-entropy; with fixed random weights it is
feedback alignment, with separate inverses difference target propagation. What lies between, and
what it costs, is the choice of the feedback: see `rules.feedback`.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.models.classifier import Classifier, label_loss
from gendae.registry import built, register
from gendae.rules.chain import Chain, State, clean
from gendae.rules.differences import around, losses_of
from gendae.rules.feedback import Feedback
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.transposes import LocalDifference

#: Updates that learned feedback is aligned in before anything else learns, where nobody says.
ALIGN = 500


@register
class FeedbackRule(SupervisedRule):
    """f_l learns by a regression of its own towards h_l + d_l, which the feedback brings down.

    label_f_M: the cross-entropy L, by which the output layer learns
    lack_f_l:  |f_l(h_{l-1}) - (h_l + d_l)|^2 / (2 step)

    and the losses of the feedback. All inputs and targets are detached. Divided by the step, the
    gradients have the scale of those of L, which they are with the feedback `Exact`. A map made of
    several is taken as those, if the feedback does so; any other module back-propagates inside.

    Targets of discrete units move what they send; their means learn. Feedback without derivatives
    (`derivative=False`, inverses, `Direct`) takes no derivative of units but f_l's own at its own
    target. The others multiply by the slope of the mean, the straight-through estimate.

    At the start the feedback alone learns, from the same batches, whose labels it does not see.
    Source: Lee 2018, Eq. 3.15; Ernoult et al. 2022; see `rules.feedback` for each feedback.

    Args:
        stack: the classifier; its decoders are used by the feedback `Partners` alone.
        feedback: of the maps; `LocalDifference` if None.
        step: length of a displacement, in squared units of h per nat; it matters for feedback that
            is not linear only.
        align: updates at the start in which the feedback alone learns; if None 500, or 0 for
            feedback that does not learn.
        input_corruption, samples, rates, log_every: see `SupervisedRule`; `rates.feedback` is that
            of learned feedback, which declines as the others do.

    Raises:
        ValueError: see `SupervisedRule`; for numbers out of range, `align` with feedback that does
            not learn, feedback that another rule has, and networks that answer at every step.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = FeedbackRule(deep_classifier([8, 6, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['feedback_f_2', 'feedback_f_3', 'label_f_3', 'lack_f_1', 'lack_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        feedback: Feedback | None = None,
        step: float = 0.1,
        align: int | None = None,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(hold=0.5),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)
        self.need_one_answer()
        self.step = checks.at_least("step", step, 0.0, strict=True)

        if feedback is None:
            feedback = LocalDifference()
        self.feedback: Feedback = built("feedback", feedback, Feedback)

        learns = self.feedback.learns_in(self.chain())
        if align is None:
            align = ALIGN if learns else 0
        self.align = checks.whole("align", align, 0)
        if self.align > 0 and not learns:
            raise ValueError(
                f"align={align}: feedback={type(self.feedback).__name__} does not learn in this "
                "network, so that it has nothing to align; accepted: align=0"
            )

        # last: what a rule of mistakes has prepared is of no use to the next one
        self.feedback.prepare(self.chain(), self.stack)
        self.rates.check({"feedback": self.learners()})

    def chain(self) -> Chain:
        """f_1 .. f_M."""
        return Chain.of_classifier(self.stack, unfolded=self.feedback.unfolds)

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return self.feedback.learners()

    def idle(self) -> list[nn.Module]:
        """Decoders, unless they are the feedback of what lies above a map that learns.

        g_1 leads to x, which needs no target.
        """
        if self.feedback.by_partners:
            lead_to_none = self.stack.pairs[: self.chain().lowest + 1]
            return [*self.laws(), *(pair.g for pair in lead_to_none)]

        return super().idle()

    @property
    def has_phases(self) -> bool:
        return self.align > 0 or self.feedback.has_phases

    def phase(self, moment: Moment) -> Hashable | None:
        return self._aligns(moment), self._feedback_learns(moment)

    def _aligns(self, moment: Moment) -> bool:
        """Whether the feedback alone learns at this moment; not outside a Trainer."""
        return moment.update is not None and moment.update < self.align

    def _feedback_learns(self, moment: Moment) -> bool:
        return self._aligns(moment) or self.feedback.due(moment)

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """label_f_M, lack_f_l of every other map, and the feedback's losses."""
        chain = self.chain()
        aligns = self._aligns(moment)
        if aligns:
            x = x[: self.feedback.rows]
        if self.copies > 1:
            x = x.repeat(self.copies, 1)

        with torch.set_grad_enabled(not aligns):
            states = chain.run(x, clean, moment)

        losses: dict[str, Tensor] = {}
        if not aligns:
            losses = self._lacks(chain, states, y, moment)
        if self._feedback_learns(moment):
            losses |= self.feedback.losses(chain, states, moment)

        return losses

    def _lacks(
        self, chain: Chain, states: Sequence[State], y: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        """label_f_M and lack_f_l."""
        loss = label_loss(states[-1].output.unflatten(0, (self.copies, -1)), y)
        losses = {f"label_{chain.links[-1].name}": loss}

        moves = around(chain, states, loss * len(y), self.feedback, self.step, moment)

        # L is a mean over images, that of `losses_of` one over images and draws
        return losses_of(chain, states, moves, self.step / self.copies, losses)
