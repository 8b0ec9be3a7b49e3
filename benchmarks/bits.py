"""Classifiers with bits or draws, trained by the loop's displacements and its learned feedback.

The networks and settings of the straight-through configurations, whose rule this one takes the
place of; one run for each of seeds 0, 1, 2 (the feedback is learned from noise, at each update):

    gendae fit --config configs/mnist-st-sign.yaml --model benchmarks.bits.LocalFeedbackRule
        --seed_everything SEED --trainer.default_root_dir runs/feedback-sign
    gendae fit --config configs/mnist-st-binary.yaml --model benchmarks.bits.LocalFeedbackRule
        --seed_everything SEED --trainer.default_root_dir runs/feedback-binary
    python -m benchmarks.classifiers feedback-sign=runs/feedback-sign ..

Lee 2018, 3.3.2 and 3.3.3, has difference target propagation there, whose inverses are trained to
invert. What the outputs lack travels down as in the generative loop (`gendae.rules.differences`):
every affine map learns by a regression of its own, and no gradient leaves it.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.models.classifier import Classifier, mean_log_probability
from gendae.registry import built, register
from gendae.rules.chain import Chain, Link, clean, identity
from gendae.rules.differences import around, losses_of
from gendae.rules.feedback import Feedback
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.transposes import LocalDifference


@register
class LocalFeedbackRule(SupervisedRule):
    """f_l learns towards h_l + the displacement that the feedback of f_{l+1} sends.

    Args:
        stack: the classifier.
        feedback: of the maps; `LocalDifference`, at each update, if None.
        step: of the first displacement, -step dL/da.
        input_corruption, samples, rates, log_every: see `SupervisedRule`.
    """

    def __init__(
        self,
        stack: Classifier,
        feedback: Feedback | None = None,
        step: float = 0.1,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)
        self.step = checks.at_least("step", step, 0.0, strict=True)

        if feedback is None:
            feedback = LocalDifference(every=1)
        self.feedback = built("feedback", feedback, Feedback)
        self.feedback.prepare(self.chain(), self.stack)
        self.rates.check({"feedback": self.learners()})

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return self.feedback.learners()

    @property
    def has_phases(self) -> bool:
        return self.feedback.has_phases

    def chain(self) -> Chain:
        """f_1 .. f_M; the last map gives logits."""
        pairs = self.stack.pairs
        links = [
            Link(f"f_{level}", pair.f, pair, level, pair.recognition)
            for level, pair in enumerate(pairs, 1)
        ]
        links.append(Link(f"f_{len(pairs) + 1}", self.stack.output, None, None, None, identity))

        return Chain(links, len(links))

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """lack_f_l of every map, the cross-entropy of the last, and the feedback's losses."""
        chain = self.chain()
        states = chain.run(x.repeat(self.copies, 1), clean, moment)

        logits = states[-1].output.unflatten(0, (self.copies, -1))
        energies = F.nll_loss(mean_log_probability(logits), y, reduction="none")
        losses = {f"label_{chain.links[-1].name}": energies.mean()}

        # L is a mean over images, that of `losses_of` one over images and draws
        moves = around(chain, states, energies, self.feedback, self.step)
        losses_of(chain, states, moves, self.step / self.copies, losses)

        if self.feedback.due(moment):
            losses |= self.feedback.losses(chain, states, moment)

        return losses
