"""A feed-forward classifier: a stack with an output layer.

p(y | x) = softmax(f_M(h_L)) with M = L + 1. The stack's encoders f_1 .. f_L are the network's
hidden layers. Its decoders g_2 .. g_L are the feedback paths along which targets come down; g_1
leads to x, which needs no target, so that rules for classifiers leave it alone. Between layers a
unit may transmit its value, a bit (to a layer that receives bits), or a draw (stochastic binary
units). The units of this file report the straight-through gradient of bits and draws to autograd.
Source: Lee 2018, sections 3.2.1, 3.3.2 and 3.3.3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae import checks
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Layer
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import register

BATCH = 1000  # images computed at a time


def label_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Global loss L = -log p(y | x) in nats, mean over the batch.

    p is the mean of the samples' probabilities.

    Args:
        logits: (samples, batch, classes).
        y: class indices, (batch,).
    """
    return F.nll_loss(mean_log_probability(logits), y)


def mean_log_probability(logits: Tensor) -> Tensor:
    """log of the mean over samples of softmax(logits), (samples, batch, classes).

    The result has the shape (batch, classes).
    """
    log_p = torch.log_softmax(logits, -1)
    if len(log_p) == 1:
        return log_p[0]

    return torch.logsumexp(log_p, 0) - math.log(len(log_p))


@register
class Classifier(Stack):
    """Layer pairs with an output layer that gives class logits.

    Args:
        pairs: the layer pairs, bottom first.
        output: f_M, an affine layer whose activation is linear: the softmax belongs to the loss.
        prior: see `Stack`; learning rules for classifiers leave it alone.
        settings: see `Stack`.

    Raises:
        ValueError: if widths do not match, the output is not linear, or a pair encodes otherwise
            than by f_l.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> network = Classifier(Pair(Affine(8, 4, "tanh"), Affine(4, 8)), output=Affine(4, 3))
        >>> network(torch.rand(5, 8)).shape, network.predict(torch.rand(5, 8)).sum(1).round()
        (torch.Size([1, 5, 3]), tensor([1., 1., 1., 1., 1.]))
    """

    ARRAYS = (*Stack.ARRAYS, "forward", "log_probability", "predict")

    output: Affine

    def __init__(
        self,
        *pairs: Pair,
        output: Affine,
        prior: Prior | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(*pairs, prior=prior, settings=settings)

        if output.in_features != self.sizes[-1] or output.activation != "linear":
            raise ValueError(
                f"output maps {output.in_features} units with activation {output.activation!r}; "
                f"the top has {self.sizes[-1]} units, and logits need a linear layer"
            )

        for level, pair in enumerate(pairs, 1):
            if type(pair).encode is not Pair.encode:  # such as encoding by optimisation
                raise ValueError(
                    f"pair {level} is a {type(pair).__name__}, which encodes in its own way; a "
                    "classifier is made of maps f_l"
                )

        self.output = output

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.output.out_features

    @property
    def encoders(self) -> list[Layer]:
        """f_1 .. f_M."""
        return [*(pair.f for pair in self.pairs), self.output]

    @property
    def stochastic(self) -> bool:
        """Whether hidden units are drawn."""
        return any(self._draws(pair) for pair in self.pairs)

    @property
    def discrete_levels(self) -> list[int]:
        """Levels l whose h_l reaches the layer above as bits or draws.

        No true derivative passes there.
        """
        encoders = self.encoders

        levels = []
        for level, pair in enumerate(self.pairs, 1):
            receives = getattr(encoders[level], "receives", "real")
            if pair.recognition.hard or receives != "real":
                levels.append(level)

        return levels

    @staticmethod
    def _draws(pair: Pair) -> bool:
        return pair.recognition.hard and pair.recognition.stochastic

    @staticmethod
    def send(pair: Pair, mean: Tensor, generator: Generator | None = None) -> Tensor:
        """The value that the layer above sees of f_l's output.

        Discrete values have the straight-through gradient.
        """
        law = pair.recognition
        if law.hard:
            return law.sample(mean, generator)

        return law.transmit(mean)

    def forward(self, x: Tensor, samples: int = 1, generator: Generator | None = None) -> Tensor:
        """Class logits, (samples, batch, classes); one sample where no unit is stochastic.

        Args:
            x: (batch, width of x).
            samples: draws M of the stochastic units.
            generator: source of the draws; the global one if None.
        """
        h = x
        copies = 1
        for pair in self.pairs:
            mean = pair.f(h)

            # all samples share the layers below the first draw
            if copies == 1 and samples > 1 and self._draws(pair):
                mean = mean.repeat(samples, 1)
                copies = samples

            h = self.send(pair, mean, generator)

        return self.output(h).unflatten(0, (copies, -1))

    @torch.no_grad()
    def log_probability(
        self, x: Tensor, samples: int = 1, generator: Generator | None = None
    ) -> Tensor:
        """log p(y | x) for every class, mean probability over samples, (batch, classes)."""
        x = checks.width("x", x, self.sizes[0])
        checks.whole("samples", samples, 1, checks.REPEATS)

        parts = []
        for part in x.split(BATCH):
            logits = self(part, samples, generator)
            parts.append(mean_log_probability(logits))

        return torch.cat(parts)

    def predict(self, x: Tensor, samples: int | None = None, seed: int = 0) -> Tensor:
        """p(y | x), (batch, classes), on the classifier's device.

        Args:
            x: (batch, width of x).
            samples: draws of stochastic units; by default the number the model is meant to be used
                with.
            seed: of the draws.

        Raises:
            ValueError: if x has another width, or samples < 1.
        """
        if samples is None:
            samples = self.settings.samples or 1

        generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        log_p = self.log_probability(x, samples, generator)

        return log_p.exp()
