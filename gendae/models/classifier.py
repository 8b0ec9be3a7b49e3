"""A feed-forward classifier: a stack with an output layer.

p(y | x) = softmax(f_M(h_L)) with M = L + 1, or N(f_M(h_L), I) where y is a value. The stack's
encoders f_1 .. f_L are the network's hidden layers. Its decoders g_2 .. g_L are the feedback paths
along which targets come down; g_1 leads to x, which needs no target, so that rules for classifiers
leave it alone. Between layers a unit may transmit its value, a bit (to a layer that receives
bits), or a draw (stochastic binary units). The units of this file report the straight-through
gradient of bits and draws to autograd.
Source: Lee 2018, sections 3.2.1, 3.3.2 and 3.3.3.
"""

import math
from typing import cast

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
PREDICTS = ("classes", "values")


def label_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Global loss L = -log p(y | x) in nats, mean over the batch, and over steps if there are any.

    p is the mean of the samples' probabilities; of values, the Gaussian around the samples' mean,
    without its constant.

    Args:
        logits: (samples, batch, classes), or (samples, batch, steps, classes).
        y: class indices, (batch,), or (batch, steps), where -1 is a step without a label, which
            adds 0; real numbers in the shape of one sample are values.
    """
    if y.is_floating_point():
        return loss_of(logits.mean(0), y)

    return loss_of(mean_log_probability(logits), y)


def loss_of(answer: Tensor, y: Tensor) -> Tensor:
    """The loss of log p(y | x), or of values, (batch, .., classes); see `label_loss`."""
    if y.is_floating_point():
        return squared_distance(answer, y) / 2.0

    if y.ndim == 1:
        return F.nll_loss(answer, y)

    rows = answer.flatten(0, 1)
    return F.nll_loss(rows, y.flatten(), reduction="sum", ignore_index=-1) / y.numel()


def label_energy(answer: Tensor, y: Tensor) -> Tensor:
    """L of each example: -log p(y | h_L) in nats, or |answer - y|^2 / 2 of values.

    Args:
        answer: logits or values, (.., batch, classes): of several draws one after the other.
        y: class indices, (batch,), or values.

    Example:
        >>> label_energy(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([1, 0]))
        tensor([0.6931, 0.1269])
    """
    if y.is_floating_point():
        return (answer - y).square().sum(-1) / 2.0

    log_p = torch.log_softmax(answer, -1)
    own = y.expand(answer.shape[:-1])[..., None]

    return -log_p.gather(-1, own)[..., 0]


def squared_distance(output: Tensor, y: Tensor) -> Tensor:
    """|output - y|^2, mean over the batch, and over steps if there are any."""
    return (output - y).square().sum(-1).mean()


def error_of(answer: Tensor, y: Tensor) -> Tensor:
    """Fraction of wrong labels, of those there are; of values, their squared distance.

    Args:
        answer: log p(y | x), or values, (batch, .., classes).
        y: class indices, -1 where a step has none, or values.
    """
    if y.is_floating_point():
        return squared_distance(answer, y)

    there = y >= 0
    wrong = (answer.argmax(-1) != y) & there
    return wrong.sum().to(answer.dtype) / there.sum().clamp(min=1)


def mean_log_probability(logits: Tensor) -> Tensor:
    """log of the mean over samples of softmax(logits), (samples, batch, .., classes).

    The result has the shape of one sample.
    """
    log_p = torch.log_softmax(logits, -1)
    if len(log_p) == 1:
        return log_p[0]

    return torch.logsumexp(log_p, 0) - math.log(len(log_p))


@register
class Classifier(Stack):
    """Layer pairs with an output layer that gives class logits, or values.

    Args:
        pairs: the layer pairs, bottom first.
        output: f_M, an affine layer whose activation is linear: the softmax belongs to the loss.
            An `EveryStep` answers at every step of a sequence.
        predicts: "classes", or "values": y is real numbers, and the loss |f_M(h_L) - y|^2 / 2.
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
        predicts: str = "classes",
        prior: Prior | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(*pairs, prior=prior, settings=settings)
        self.predicts = checks.one_of("predicts", predicts, PREDICTS)

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
        """Number of classes, or of values."""
        return self.output.out_features

    @property
    def steps(self) -> int | None:
        """Number of answers for each example, one for each step; None for a single one."""
        return getattr(self.output, "steps", None)

    def answers(self, name: str, y: Tensor, n: int, look: bool = True) -> Tensor:
        """y as the loss takes it, checked.

        Args:
            name: of y, for messages.
            y: class indices, (n,) or (n, steps), or values, (n, outputs) or (n, steps, outputs).
            n: number of examples.
            look: whether to look at the numbers, which synchronises with the device.

        Raises:
            ValueError: for another shape or type; for numbers out of range, if they are looked at.
        """
        if self.predicts == "values":
            steps = () if self.steps is None else (self.steps,)
            return checks.values(name, y, (n, *steps, self.classes), look)

        return checks.labels(name, y, n, self.classes if look else None, steps=self.steps)

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
        """Class logits or values, (samples, batch, .., classes).

        There is one sample where no unit is stochastic. The answer is that of the settled state
        where `settings.settling` says so.

        Args:
            x: (batch, width of x).
            samples: draws M of the stochastic units.
            generator: source of the draws; the global one if None.
        """
        if self.settings.settling is not None:
            affine = cast("list[Affine]", self.encoders)  # as `Settling.check` has found
            return self.settings.settling.answer(affine, x)[None]

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
        """log p(y | x) for every class, mean probability over samples, (batch, .., classes).

        Raises:
            ValueError: of values.
        """
        if self.predicts == "values":
            raise ValueError("predicts='values': there are no classes; predict gives the values")

        return self.answer(x, samples, generator)

    @torch.no_grad()
    def answer(self, x: Tensor, samples: int = 1, generator: Generator | None = None) -> Tensor:
        """log p(y | x) for every class, or the mean of the values, (batch, .., classes)."""
        x = checks.width("x", x, self.sizes[0])
        checks.whole("samples", samples, 1, checks.REPEATS)

        parts = []
        for part in x.split(BATCH):
            logits = self(part, samples, generator)
            if self.predicts == "values":
                parts.append(logits.mean(0))
            else:
                parts.append(mean_log_probability(logits))

        return torch.cat(parts)

    def predict(self, x: Tensor, samples: int | None = None, seed: int = 0) -> Tensor:
        """p(y | x), (batch, .., classes), or the values, on the classifier's device.

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
        answer = self.answer(x, samples, generator)

        return answer if self.predicts == "values" else answer.exp()
