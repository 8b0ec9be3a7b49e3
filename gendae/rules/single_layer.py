"""Rules of single layers: Hebb's rule, the delta rule and competition, each layer by itself.

    Hebb           dW = eta h_l h_{l-1}'                                          (Eq. 1.6)
    delta rule     dW = eta ((y - h) * s'(a)) x'                                  (Eq. 1.7)
                   dW = eta (y - h) x'     of linear units with the squared error, and
                                           of a sigmoid with its cross-entropy    (Eq. 1.8)
    competition    dw_i = eta_i (h_{l-1} - w_i)'     of the unit i that wins      (Eq. 1.9)

None sends anything from one layer to another. A stack of them learns from below: the input of a
layer is what the one under it gives, whatever that has learned so far. Hebb's rule and competition
see no label; what decodes their codes learns by the delta rule, h_{l-1} being the target of g_l.
Source: Lee 2018, section 1.2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.pair import Pair, Transpose
from gendae.models.classifier import Classifier, label_energy
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.base import Rule
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import squared_error, with_gradient

#: What part of h h' makes the synapses decay, by its name: that of a unit by itself, that of all
#: units alike, or that of a unit and those before it.
DECAYS = {
    "none": torch.zeros_like,
    "unit": lambda products: products.diagonal().diag(),
    "subspace": lambda products: products,
    "ordered": torch.tril,
}
WINNERS = ("nearest", "activated")
UNITS = ("softmax", "sigmoid", "linear")
#: Plain steps, of which one with a rate of 1 takes a winner to the mean of what it won.
PLAIN = {"class_path": "torch.optim.SGD"}


class EachLayerRule(Rule):
    """Base class: every encoder learns from its input alone, and its decoder by the delta rule.

    h_l = f_l(h_{l-1})
    reconstruct_g_l: |g_l(h_l) - h_{l-1}|^2 / 2, the delta rule (Eq. 1.7)

    A variant defines `layer_of` and `loss`. All inputs are detached.

    Args:
        stack: the model.
        rates, log_every: see `Rule`.

    Raises:
        ValueError: see `Rule`; for encoders of another form, encoding by optimisation, decoders
            without weights of their own, and laws that learn their widths, of which these rules
            say nothing; in training, for x of another width.
    """

    #: The name of the losses of encoders, before f_l.
    term = ""
    #: What encoders are accepted.
    accepted = ""

    def __init__(self, stack: Stack, rates: Rates = Rates(), log_every: int = 50) -> None:
        super().__init__(stack, rates, log_every)
        for level, pair in enumerate(self.stack.pairs, 1):
            self._need(level, pair)

    def _need(self, level: int, pair: Pair) -> None:
        """Raise a ValueError for a pair that the rule is not stated for."""
        name = f"{type(self).__name__} does not support this network"
        layer = self.layer_of(pair)
        if layer is None or layer.receives != "real" or type(pair).encode is not Pair.encode:
            raise ValueError(
                f"{name}: f_{level} is {type(pair.f).__name__} of a {type(pair).__name__}; "
                f"accepted: {self.accepted}"
            )

        if isinstance(pair.g, Transpose):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: g_{level} has the weights of f_{level}, which the delta rule of the one "
                "would move against the rule of the other; accepted: a Pair with weights of both"
            )

        for law in (pair.recognition, pair.observation):
            if law.learnable:
                raise ValueError(
                    f"{name}: {type(law).__name__} of pair {level} learns its width by a density, "
                    "and the rule has none; accepted: laws without parameters, as Gaussian"
                )

    def layer_of(self, pair: Pair) -> Affine | None:
        """The affine layer in which f_l learns; None where it has none."""
        raise NotImplementedError(f"{type(self).__name__} must define layer_of")

    def loss(self, layer: Affine, below: Tensor, moment: Moment) -> Tensor:
        """What f_l descends: minus its gradient is the update, mean over the batch.

        Args:
            layer: of f_l.
            below: h_{l-1}, (batch, width).
            moment: of the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Those of each encoder, and reconstruct_g_l; batch[0] is x."""
        h = checks.rows("x", checks.width("x", batch[0], self.stack.sizes[0]))

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            below = h
            with torch.no_grad():
                h = pair.recognition.transmit(pair.f(below), moment.draws)

            terms[f"{self.term}_f_{level}"] = self.loss(self.layer_of(pair), below, moment)
            terms[f"reconstruct_g_{level}"] = squared_error(pair.g(h), below) / 2.0

        return terms


@register
class HebbianRule(EachLayerRule):
    """What fires together wires together: dW = h_l h_{l-1}' - A W, mean over the batch.

    hebb_f_l: its gradient by W is A W - h_l h_{l-1}', by b the mean of a; its value -|h_l|^2 / 2

    A = 0               "none": Eq. 1.6 as it stands, of which synapses only grow
    A = diag(h_l h_l')  "unit": each unit alone ends at the leading eigenvector   (Oja 1982)
    A = h_l h_l'        "subspace": all together span those of the largest        (Oja 1989)
    A = tril(h_l h_l')  "ordered": each ends at an eigenvector of its own         (Sanger 1989)

    The eigenvectors are those of the covariance of h_{l-1} where units are linear: biases take the
    mean of a away, after which correlations are covariances ("correlation or covariance").
    Source: Lee 2018, section 1.2.1, Eq. 1.6. The decays are not in the thesis, which asks for
    "decreases due to stability of the learning process".

    Args:
        stack: the model; every f_l an `Affine` layer.
        decay: "none", "unit", "subspace" or "ordered".
        rates, log_every: see `Rule`.

    Raises:
        ValueError: see `EachLayerRule`; for an unknown decay.

    Example:
        >>> from gendae import deep_autoencoder
        >>> rule = HebbianRule(deep_autoencoder([8, 4], ["linear"], visible="linear"))
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['hebb_f_1', 'reconstruct_g_1']
    """

    term = "hebb"
    accepted = "a Pair with an Affine f that receives real numbers"

    def __init__(
        self,
        stack: Stack,
        decay: str = "subspace",
        rates: Rates = Rates(f=1e-2, g=1e-2),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, rates, log_every)
        self.decay = checks.one_of("decay", decay, DECAYS)

    def layer_of(self, pair: Pair) -> Affine | None:
        return pair.f if type(pair.f) is Affine else None

    @torch.no_grad()
    def _update(self, layer: Affine, below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Minus the updates of W and b, and -|h_l|^2 / 2."""
        a = layer.preactivation(below)
        h = layer.s(a)

        grown = h.T @ below / len(h)
        decay = DECAYS[self.decay](h.T @ h / len(h))
        value = -h.square().sum() / (2.0 * len(h))

        return decay @ layer.weight - grown, a.mean(0), value

    def loss(self, layer: Affine, below: Tensor, moment: Moment) -> Tensor:
        of_weight, of_bias, value = self._update(layer, below)
        loss = with_gradient(layer.weight, value, of_weight)

        return loss + with_gradient(layer.bias, torch.zeros_like(value), of_bias)


@register
class CompetitiveRule(EachLayerRule):
    """The unit that wins an example moves to it: dw_i = eta_i (h_{l-1} - w_i)', the others rest.

    compete_f_l: |h_{l-1} - w_i|^2 / 2 of the winner i; b_j follows -|w_j|^2 / 2

    With these biases the softmax of W h_{l-1} + b, which stands for the lateral connections of the
    layer, has its largest value at the unit whose weights are nearest: it is the posterior of a
    mixture of N(w_j, I). With `own_rate` eta_i is eta divided by the share of the batch that the
    unit wins: a step of eta = 1 takes it to the mean of what it won, as k-means does; several
    processes count for their shares of the batch, each by itself.
    A unit that never wins would never move. Losers follow at `leak` times the rate (Rumelhart and
    Zipser 1985), which declines to 0 over the training.
    Source: Lee 2018, section 1.2.3, Eq. 1.9.

    Args:
        stack: the model; every f_l a softmax of one affine layer, as
            `deep_autoencoder(sizes, ["softmax", ..])` has.
        winner: "nearest", of the least |h_{l-1} - w_i|, or "activated", of the largest a_i.
        own_rate: as above; else one rate for all units.
        leak: of losers, in units of the rate.
        rates, log_every: see `Rule`.

    Raises:
        ValueError: see `EachLayerRule`; for an unknown winner and a leak outside [0, 1].

    Example:
        >>> from gendae import deep_autoencoder
        >>> rule = CompetitiveRule(deep_autoencoder([8, 4], ["softmax"]))
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['compete_f_1', 'reconstruct_g_1']
    """

    term = "compete"
    accepted = 'a Pair whose f is Heads(Affine(n, k), ["softmax"], [k])'

    def __init__(
        self,
        stack: Stack,
        winner: str = "nearest",
        own_rate: bool = True,
        leak: float = 0.1,
        rates: Rates = Rates(f=0.1, g=0.1, optimizer=PLAIN),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, rates, log_every)
        self.winner = checks.one_of("winner", winner, WINNERS)
        self.own_rate = bool(own_rate)
        self.leak = checks.share("leak", leak)

    def layer_of(self, pair: Pair) -> Affine | None:
        if not isinstance(pair.f, Heads) or pair.f.given_activations != ["softmax"]:
            return None

        return pair.f.g if type(pair.f.g) is Affine else None

    @torch.no_grad()
    def _update(
        self, layer: Affine, below: Tensor, progress: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Minus the updates of W and b, and the mean of |h_{l-1} - w_i|^2 / 2."""
        w = layer.weight
        norms = w.square().sum(1) / 2.0
        nearness = F.linear(below, w, -norms)
        a = nearness if self.winner == "nearest" else layer.preactivation(below)
        won = F.one_hot(a.argmax(1), len(w)).to(w.dtype)

        value = (below.square().sum() / 2.0 - (nearness * won).sum()) / len(below)
        counts = won.sum(0)
        each = counts.clamp(min=1.0)[:, None] if self.own_rate else float(len(below))
        of_weight = (w * counts[:, None] - won.T @ below) / each
        of_losers = w * (len(below) - counts[:, None]) - (1.0 - won).T @ below
        leak = self.leak * (1.0 - progress) / len(below)

        return of_weight + leak * of_losers, layer.bias + norms, value

    def loss(self, layer: Affine, below: Tensor, moment: Moment) -> Tensor:
        of_weight, of_bias, value = self._update(layer, below, moment.progress)
        loss = with_gradient(layer.weight, value, of_weight)

        return loss + with_gradient(layer.bias, torch.zeros_like(value), of_bias)


@register
class DeltaRule(SupervisedRule):
    """The output layer learns from its own error; the layers below it stay as they are.

    dW_M = eta (y - s(a)) h_L'            a linear unit with the squared error, a sigmoid or the
                                          softmax with their cross-entropy      (Eq. 1.8)
    dW_M = eta ((y - s(a)) * s'(a)) h_L'  with `squared` of a sigmoid            (Eq. 1.7)

    label_f_M: the squared error / 2, summed over units, or the cross-entropy, in nats; the mean
               over images and draws

    y is 1 at the class and 0 elsewhere, or the values that the network is to predict. The hidden
    layers are features: random ones, or what another rule has learned.
    Source: Lee 2018, section 1.2.2, Eq. 1.7 and 1.8.

    Args:
        stack: the classifier; its output an `Affine` layer that answers once.
        units: of the output in training: "softmax", "sigmoid" or "linear"; if None "softmax", or
            "linear" where it predicts values, which no others do.
        squared: the squared error of sigmoid units, in the place of the cross-entropy.
        input_corruption, samples, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: see `SupervisedRule`; for unknown units, and units that do not go with the
            error or with values.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = DeltaRule(deep_classifier([8, 6], classes=3))
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        units: str | None = None,
        squared: bool = False,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)
        if type(self.stack.output) is not Affine:
            self.refuse(
                f"its output is {type(self.stack.output).__name__}, and the rule is stated for "
                "one affine layer"
            )

        values = self.stack.predicts == "values"
        if units is None:
            units = "linear" if values else "softmax"
        self.units = checks.one_of("units", units, UNITS)
        if values and self.units != "linear":
            raise ValueError(f"units={units!r}: the network predicts values; accepted: linear")

        self.squared = bool(squared)
        if self.squared and self.units != "sigmoid":
            raise ValueError(
                f"squared=True with units={units!r}: linear units have the squared error anyway, "
                "and softmax the cross-entropy; accepted: sigmoid"
            )

    def idle(self) -> list[nn.Module]:
        """All but the output layer."""
        return [*super().idle(), *self.stack.encoders[:-1]]

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        h = x
        with torch.no_grad():
            for number, pair in enumerate(self.stack.pairs):
                mean = pair.f(h)
                if number == 0 and self.copies > 1:
                    mean = mean.repeat(self.copies, 1)
                h = self.stack.send(pair, mean, moment.draws)

        a = self.stack.output(h).unflatten(0, (self.copies, -1))
        return {f"label_f_{self.stack.depth + 1}": self._error(a, y)}

    def _error(self, a: Tensor, y: Tensor) -> Tensor:
        """The mean over images and draws."""
        if self.units == "softmax":
            return label_energy(a, y).mean()

        target = y if y.is_floating_point() else F.one_hot(y, self.stack.classes).to(a.dtype)
        target = target.expand_as(a)
        n = a.shape[:-1].numel()
        if self.units == "sigmoid" and not self.squared:
            return F.binary_cross_entropy_with_logits(a, target, reduction="sum") / n

        h = torch.sigmoid(a) if self.units == "sigmoid" else a
        return F.mse_loss(h, target, reduction="sum") / (2.0 * n)
