"""Forward-forward: each layer tells right labels from wrong ones by its own activity, alone.

    loss_l = log(1 + exp(k (theta - G_l(x, y)))) + log(1 + exp(k (G_l(x, y') - theta)))

    G_l, goodness of layer l: mean square of its units; y, the label; y', a wrong one
    theta, threshold in squared units of h; k, sharpness

Two passes upwards, one of the right and one of the wrong label; no layer waits for any other, and
nothing comes down.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption, uniform_like
from gendae.models.classifier import Classifier
from gendae.models.goodness import goodness_layers, goodness_of
from gendae.registry import register
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule

NEGATIVES = ("drawn", "hardest")


@register
class ForwardForwardRule(SupervisedRule):
    """Every layer is to be active under the right label and silent under a wrong one.

    goodness_f_l: loss_l of this file, of h_{l-1} as it is
    label_f_M:    -log of the share of y among y and y', by their logits

    The output layer weighs the goodness of the layers, and gives it the scale of a probability: it
    learns from the two labels that are tried anyway, which for drawn y' is the softmax of all. At
    its start it adds them up, and what it learns reaches no layer.
    Source: Hinton 2022, "The Forward-Forward Algorithm", sections 2, 2.1 and 3.3; Eq. 1 is the
    logistic of goodness above a threshold.

    Args:
        stack: the classifier, as `gendae.goodness_classifier` makes it.
        threshold: theta.
        sharpness: k.
        negatives: y' "drawn" from the wrong labels, or the "hardest", to which the network now
            gives the highest logit: a pass of all labels.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for numbers that are not positive, unknown names, and a
            classifier of other layers.

    Example:
        >>> from gendae.models.architectures import goodness_classifier
        >>> rule = ForwardForwardRule(goodness_classifier([8, 6, 5], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['goodness_f_1', 'goodness_f_2', 'label_f_3']
    """

    def __init__(
        self,
        stack: Classifier,
        threshold: float = 0.3,
        sharpness: float = 4.0,
        negatives: str = "drawn",
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        goodness_layers("stack", self.stack)

        self.threshold = checks.at_least("threshold", threshold, 0.0, strict=True)
        self.sharpness = checks.at_least("sharpness", sharpness, 0.0, strict=True)
        self.negatives = checks.one_of("negatives", negatives, NEGATIVES)

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """The layers' losses, and the output's in nats, mean over the batch."""
        both = torch.stack([y, self.wrong(x, y, moment)])
        labels = F.one_hot(both, self.stack.classes).to(x)
        layers = goodness_layers("stack", self.stack)

        terms = {}
        goodness = []
        h = x  # W_1 x serves both labels
        for level, layer in enumerate(layers, 1):
            h = layer.hidden(h.detach(), labels if layer.first else None)
            goodness.append(goodness_of(h))
            terms[f"goodness_f_{level}"] = self.contrast(*goodness[-1])

        right, wrong = self.stack.output.logits(torch.stack(goodness, -1).detach(), both)
        terms[f"label_f_{len(layers) + 1}"] = F.softplus(wrong - right).mean()
        return terms

    def contrast(self, right: Tensor, wrong: Tensor) -> Tensor:
        """loss_l, mean over the batch, from goodness under right and wrong labels, (batch,)."""
        misses = F.softplus(self.sharpness * (self.threshold - right))
        alarms = F.softplus(self.sharpness * (wrong - self.threshold))

        return (misses + alarms).mean()

    @torch.no_grad()
    def wrong(self, x: Tensor, y: Tensor, moment: Moment) -> Tensor:
        """y', a label for each example that is not its own, (batch,)."""
        if self.negatives == "hardest":
            logits = self.stack(x)[0]
            return logits.scatter(1, y[:, None], -torch.inf).argmax(1)

        others = self.stack.classes - 1
        ahead = (others * uniform_like(x[:, 0], moment.generator)).long()
        return (y + 1 + ahead) % self.stack.classes
