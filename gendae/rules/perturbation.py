"""Learning by trial and error: what noise did to the loss says where a layer should go.

No error travels down. Every layer knows its own noise and hears one number, the loss L that came
of it, and correlates the two:

    REINFORCE            dW_l = -(L - b_l) d log q(h_l | h_{l-1}) / dW_l,      h_l ~ q
    node perturbation    dW_l = -(L(sigma xi) - L(0)) / sigma  xi_l h_{l-1}',  a_l + sigma xi_l
    weight perturbation  dW_l = -(L(sigma xi) - L(0)) / sigma  xi_l,           W_l + sigma xi_l

with E[xi] = 0 and E[xi xi'] = I, drawn in all hidden layers at once. On average the first goes
down the gradient of E[L], for any b_l that does not depend on h_l; the others go down that of L,
with an error of order sigma^2 which vanishes where L is quadratic in the noise. No derivative
travels. What it costs is variance: n units of noise hear one number, of which each has caused a
small part.

The output layer, of which L is a known function, learns by its own gradient.
Source: Bengio 2014 (slides), "REINFORCE & Stochastic Perturbation"; Williams 1992 (REINFORCE);
Fiete and Seung 2006 (nodes); Jabri and Flower 1992 (weights).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gendae import checks
from gendae.corruption import Corruption, normal_like, uniform_like
from gendae.laws import Law
from gendae.metrics.precision import full_precision
from gendae.models.classifier import Classifier, label_energy
from gendae.registry import register
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule

# -- REINFORCE --------------------------------------------------------------------------------


class MeanBaseline(nn.Module):
    """b_l = c, which follows the losses.

    Args:
        features: width of h_{l-1}, which it does not look at.
        start: c before the first update, in nats.
    """

    def __init__(self, features: int, start: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.full((1,), start))

    def forward(self, given: Tensor) -> Tensor:
        return self.offset.expand(len(given))


class InputBaseline(MeanBaseline):
    """b_l = w' h_{l-1} + c: an affine map, so that nothing back-propagates within it either."""

    def __init__(self, features: int, start: float) -> None:
        super().__init__(features, start)
        self.weight = nn.Parameter(torch.zeros(1, features))

    def forward(self, given: Tensor) -> Tensor:
        return F.linear(given, self.weight, self.offset)[:, 0]


#: What is subtracted from L: what learns it, where something does.
BASELINES: dict[str, type[MeanBaseline] | None] = {
    "none": None,
    "mean": MeanBaseline,
    "input": InputBaseline,
    "others": None,
}


def log_q(law: Law, h: Tensor, mean: Tensor, given: Tensor) -> Tensor:
    """log q(h_l | h_{l-1}) in nats, (rows,); discrete values are not looked at, as they fit."""
    if law.discrete:
        return -law.energy(h, mean, given)

    return law.log_prob(h, mean, given)


class Drawn(NamedTuple):
    """A layer's draw: what it was given, its mean with the graph of its own step, and h_l."""

    given: Tensor
    mean: Tensor
    h: Tensor


@register
class ReinforceRule(SupervisedRule):
    """Layers that draw their values make draws likelier that came with a small loss.

    label_f_M:    L = -log p(y | h_L), mean over draws: the output layer's exact gradient
    score_f_l:    (L - b_l) log q(h_l | h_{l-1}),  L - b_l being a constant          l = 1 .. L
    baseline_f_l: (L - b_l)^2 / 2, where b_l learns

    The gradient of the scores is, on average over draws, that of E[L]. All layers hear the same L.
    Every hidden layer must draw: bits and signs (`Discrete(stochastic=True)`), one of several
    classes, or a Gaussian around its mean, whose sigma is the noise. Without a law a pair has
    sigma 1; `Gaussian(0.1)` is nearer to a network without noise. Prediction draws what the
    classifier draws, and takes the means of Gaussian units. Learned widths learn, too. Any module
    that is a layer back-propagates inside.
    Source: Williams 1992; Bengio 2014 (slides); Mnih and Gregor 2014 for b_l(h_{l-1}).

    Args:
        stack: the classifier. Its decoders are not used.
        baseline: b_l, which changes the variance and not the mean. "none"; "mean", one number that
            follows the losses; "input", an affine map of h_{l-1} that learns to predict L; or
            "others", the mean loss of the other draws for the same example.
        input_corruption, rates, log_every: see `SupervisedRule`; `rates.feedback` is that of b_l.
        samples: draws M for each image in training.

    Raises:
        ValueError: see `SupervisedRule`; for an unknown baseline, "others" with one draw, hidden
            layers without noise, and networks that answer at every step.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = ReinforceRule(deep_classifier([8, 6], classes=3, stochastic=True), samples=2)
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['baseline_f_1', 'label_f_2', 'score_f_1']
    """

    def __init__(
        self,
        stack: Classifier,
        baseline: str = "mean",
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(feedback=1e-2),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)
        self.need_one_answer()
        self._need_draws()

        self.baseline = checks.one_of("baseline", baseline, BASELINES)
        if baseline == "others" and self.samples == 1:
            raise ValueError(
                "baseline='others' is the mean loss of an example's other draws, of which "
                "samples=1 leaves none; accepted: samples >= 2"
            )

        self.baselines = nn.ModuleList(self._baselines())
        self.rates.check({"feedback": self.learners()})

    def _need_draws(self) -> None:
        """Raise for a hidden layer whose value is no draw: log q has no gradient there."""
        for level, pair in enumerate(self.stack.pairs, 1):
            laws = [law for law, _ in pair.recognition.blocks(pair.f.out_features)]
            if not all(law.stochastic for law in laws):
                self.refuse(
                    f"h_{level} is not drawn, so that no log q(h_{level} | h_{level - 1}) says "
                    "how likely it was; accepted: stochastic units, or NodePerturbationRule"
                )

    def _baselines(self) -> list[nn.Module]:
        kind = BASELINES[self.baseline]
        if kind is None:
            return []

        start = 0.0
        if self.stack.predicts == "classes":
            start = torch.tensor(float(self.stack.classes)).log().item()  # of a uniform guess
        made = [kind(width, start) for width in self.stack.sizes[:-1]]

        return [one.to(self.stack.device, self.stack.dtype) for one in made]

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        return [[baseline] for baseline in self.baselines]

    def idle(self) -> list[nn.Module]:
        """Decoders; the laws of the hidden layers learn with their maps."""
        return [part for pair in self.stack.pairs for part in (pair.observation, pair.g)]

    @property
    def copies(self) -> int:
        """M: every network that this rule trains is drawn from."""
        return self.samples

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """label_f_M, score_f_l and baseline_f_l, mean over the batch and the draws."""
        return {name: rows.mean() for name, rows in self.rows_of(x, y, moment).items()}

    def rows_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """What the losses are means of, (draws, batch).

        Args:
            x: (batch, width of x).
            y: class indices, (batch,), or values.
            moment: of the update.
        """
        layers = self._up(x, moment)
        logits = self.stack.output(layers[-1].h).unflatten(0, (self.copies, -1))
        loss = label_energy(logits, y)
        rows = {f"label_f_{self.stack.depth + 1}": loss}

        heard = loss.detach()
        for level, (layer, pair) in enumerate(zip(layers, self.stack.pairs, strict=True), 1):
            advantage = heard
            if self.baseline == "others":
                advantage = heard - (heard.sum(0) - heard) / (self.copies - 1)
            if len(self.baselines) > 0:
                expected = self.baselines[level - 1](layer.given).view_as(heard)
                rows[f"baseline_f_{level}"] = (expected - heard).square() / 2.0
                advantage = heard - expected.detach()

            score = log_q(pair.recognition, layer.h, layer.mean, layer.given)
            rows[f"score_f_{level}"] = advantage * score.view_as(heard)

        return rows

    def _up(self, x: Tensor, moment: Moment) -> list[Drawn]:
        """The draws of all hidden layers, each a constant for the layers above."""
        given = x.repeat(self.copies, 1)

        layers: list[Drawn] = []
        for pair in self.stack.pairs:
            if layers:
                mean = pair.f(given)
            else:
                mean = pair.f(x).repeat(self.copies, 1)

            h = pair.recognition.sample(mean.detach(), moment.draws, given)
            layers.append(Drawn(given, mean, h.detach()))
            given = layers[-1].h

        return layers


# -- perturbation -----------------------------------------------------------------------------


def gaussian(h: Tensor, moment: Moment) -> Tensor:
    """xi ~ N(0, I)."""
    return normal_like(h, moment.generator)


def signs(h: Tensor, moment: Moment) -> Tensor:
    """xi = -1 or 1, each with probability 1/2."""
    return 2.0 * (uniform_like(h, moment.generator) < 0.5).to(h.dtype) - 1.0


NOISES = {"gaussian": gaussian, "signs": signs}
#: torch's modules that draw in training, and those that do where they have a dropout.
DRAWING = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)
MAY_DRAW = (nn.MultiheadAttention, nn.RNNBase)


class PerturbationRule(SupervisedRule):
    """Base class: deterministic networks, whose loss is compared with that under noise.

    label_f_M:    L, by which the output layer learns
    perturb_f_l:  c xi_l . (what xi_l was added to), c xi_l being a constant

    c = (L(sigma xi) - L(0)) / sigma, or with `central` (L(sigma xi) - L(-sigma xi)) / (2 sigma).
    Over draws of xi, E[c xi] = dL + O(sigma^2). With Gaussian noise it is, for any sigma, the
    gradient of E[L(sigma xi)] by what xi is added to (Stein's lemma), which exists for bits too.
    Signs have the smallest fourth moment that E[xi_i^2] = 1 leaves: for small sigma
    E[c^2 xi_i^2] = |dL|^2 then, and |dL|^2 + 2 (dL_i)^2 with Gaussian noise, which differ where
    few units are perturbed.

    A variant defines `perturbed`.

    Args:
        stack: the classifier; what it draws would drown what the noise does. Its decoders are not
            used.
        sigma: of the noise, in units of what it is added to.
        noise: xi, "gaussian" or "signs".
        central: compare sigma xi with -sigma xi, which costs no more than another pass and has no
            error of odd order in xi: the variance loses what curvature adds.
        input_corruption, rates, log_every: see `SupervisedRule`.
        samples: draws M of xi in an update, whose estimates are averaged.

    Raises:
        ValueError: see `SupervisedRule`; for sigma <= 0, an unknown noise, units and modules that
            draw, and networks that answer at every step.
    """

    def __init__(
        self,
        stack: Classifier,
        sigma: float = 0.01,
        noise: str = "gaussian",
        central: bool = False,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, samples, rates, log_every)
        self.check_network()

        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.noise = checks.one_of("noise", noise, NOISES)
        self.central = bool(central)

    def check_network(self) -> None:
        """Raise a ValueError for networks whose loss cannot be compared."""
        self.need_one_answer()
        if self.stack.stochastic:
            self.refuse(
                "its units are drawn, and what they change in the loss would hide what the noise "
                "does; accepted: units that are not drawn, or ReinforceRule"
            )

        for level, f in enumerate(self.stack.encoders, 1):
            for part in f.modules():
                if isinstance(part, DRAWING) or (isinstance(part, MAY_DRAW) and part.dropout > 0):
                    self.refuse(
                        f"{type(part).__name__} in f_{level} draws, and what that changes in the "
                        "loss would hide what the noise does; accepted: modules that do not draw"
                    )

    @full_precision()
    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """label_f_M, and perturb_f_l of every hidden layer.

        A change of L that is divided by sigma has no digits to lose.
        """
        with torch.no_grad():
            given = [x]
            for pair in self.stack.pairs:
                given.append(self.stack.send(pair, pair.f(given[-1])))

        loss = self.answer(given[-1], y)
        losses = self.perturbed(given, loss.detach(), y, moment)
        losses[f"label_f_{self.stack.depth + 1}"] = loss.mean()

        return losses

    def perturbed(
        self, given: Sequence[Tensor], loss: Tensor, y: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        """perturb_f_1 .. perturb_f_L.

        Args:
            given: what h_0 .. h_L send without noise.
            loss: L(0) of each example, (batch,).
            y: class indices, (batch,), or values.
            moment: of the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perturbed")

    def drawn(self, like: Tensor, moment: Moment) -> Tensor:
        """xi in the shape of a tensor."""
        return NOISES[self.noise](like, moment)

    def answer(self, h: Tensor, y: Tensor) -> Tensor:
        """L of each example, (batch,), from what h_L sends."""
        return label_energy(self.stack.output(h), y)


@register
class NodePerturbationRule(PerturbationRule):
    """Noise on the pre-activations of every example: those that helped are learned.

    perturb_f_l: c xi_l' a_l,   so that   dW_l = -c xi_l h_{l-1}',   a_l = W_l h_{l-1} + b_l

    with c of each example, from the loss under a_l + sigma xi_l in all hidden layers at once, and
    h_{l-1} as it is without noise. So E[c xi_l], by which b_l and W_1 learn, is the gradient of
    E[L(sigma xi)]; that by the other W_l has E[c xi_l h_{l-1}'] of the h_{l-1} under noise. For
    h_{l-1} that is smooth they differ by O(sigma^2); where it is bits, however small sigma is, and
    W_l follows no gradient.
    Source: Fiete and Seung 2006; Bengio 2014 (slides).

    Args: see `PerturbationRule`; the layers are affine.

    Raises:
        ValueError: see `PerturbationRule`; for layers that are not s(W h + b).

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = NodePerturbationRule(deep_classifier([8, 6, 6], classes=3), noise="signs")
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'perturb_f_1', 'perturb_f_2']
    """

    def check_network(self) -> None:
        super().check_network()
        self.need_affine()

    def perturbed(
        self, given: Sequence[Tensor], loss: Tensor, y: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            first = self.stack.pairs[0].f.preactivation(given[0]).repeat(self.samples, 1)
            widths = self.stack.sizes[1:]
            xi = [self.drawn(first.new_empty(len(first), width), moment) for width in widths]

            change = self._loss(first, xi, self.sigma, y)
            if self.central:
                change = (change - self._loss(first, xi, -self.sigma, y)) / 2.0
            else:
                change = change - loss
            c = change.flatten()[:, None] / self.sigma

        losses = {}
        for level, (below, noise) in enumerate(zip(given, xi, strict=False), 1):
            wanted = (c * noise).unflatten(0, (self.samples, -1)).mean(0)
            a = self.stack.pairs[level - 1].f.preactivation(below)
            losses[f"perturb_f_{level}"] = (wanted * a).sum() / len(a)

        return losses

    def _loss(self, first: Tensor, xi: Sequence[Tensor], sigma: float, y: Tensor) -> Tensor:
        """L under noise, (draws, batch).

        Args:
            first: a_1 without noise, (draws * batch, width of h_1).
            xi: the noise of every hidden layer.
            sigma: by which it is multiplied.
            y: see `perturbed`.
        """
        a = first
        above = self.stack.encoders[1:]
        for pair, noise, next_map in zip(self.stack.pairs, xi, above, strict=True):
            h = pair.recognition.transmit(pair.f.s(a + sigma * noise))
            a = next_map.preactivation(h)

        return label_energy(a.unflatten(0, (self.samples, -1)), y)


@register
class WeightPerturbationRule(PerturbationRule):
    """Noise on the weights, the same for all examples of a batch: what helped them is learned.

    perturb_f_l: c xi_l . W_l,   so that   dW_l = -c xi_l

    and likewise for b_l, with c of the batch's mean loss under noise on all hidden layers at once.
    It needs nothing of a layer but its parameters, which any module has.
    Source: Jabri and Flower 1992; Bengio 2014 (slides), "Stochastic Perturbation".

    Args: see `PerturbationRule`.

    Raises:
        ValueError: see `PerturbationRule`.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> rule = WeightPerturbationRule(deep_classifier([8, 6, 6], classes=3), central=True)
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['label_f_3', 'perturb_f_1', 'perturb_f_2']
    """

    def perturbed(
        self, given: Sequence[Tensor], loss: Tensor, y: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        weights = [dict(pair.f.named_parameters()) for pair in self.stack.pairs]
        losses: dict[str, Tensor] = {}
        for _ in range(self.samples):
            with torch.no_grad():
                xi = [self._drawn(layer, moment) for layer in weights]
                change = self._loss(given[0], weights, xi, self.sigma, y)
                if self.central:
                    change = (change - self._loss(given[0], weights, xi, -self.sigma, y)) / 2.0
                else:
                    change = change - loss.mean()
                c = change / (self.sigma * self.samples)

            for level, (layer, noise) in enumerate(zip(weights, xi, strict=True), 1):
                for key, weight in layer.items():
                    name = f"perturb_f_{level}"
                    term = c * (noise[key] * weight).sum()
                    losses[name] = losses.get(name, 0.0) + term

        return losses

    def _drawn(self, layer: dict[str, Tensor], moment: Moment) -> dict[str, Tensor]:
        return {key: self.drawn(weight, moment) for key, weight in layer.items()}

    def _loss(
        self,
        x: Tensor,
        weights: Sequence[dict[str, Tensor]],
        xi: Sequence[dict[str, Tensor]],
        sigma: float,
        y: Tensor,
    ) -> Tensor:
        """L under noise, mean over the batch; running means see the pass without noise alone."""
        h = x
        for pair, layer, noise in zip(self.stack.pairs, weights, xi, strict=True):
            moved = {key: weight + sigma * noise[key] for key, weight in layer.items()}
            kept = {key: buffer.clone() for key, buffer in pair.f.named_buffers()}
            h = pair.recognition.transmit(functional_call(pair.f, (moved, kept), (h,)))

        return self.answer(h, y).mean()
