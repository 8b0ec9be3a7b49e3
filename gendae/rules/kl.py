"""The layer-wise KL(Q || P) criterion: Algorithm 1 (2014)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.laws import DiagonalGaussian, Gaussian, Law
from gendae.models.stack import Stack
from gendae.models.widths import rms
from gendae.priors.base import Prior
from gendae.registry import Plain, build, register
from gendae.rules.base import Rule, own_penalty
from gendae.rules.chain import send
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates

REACHES = ("full", "within_layer")
#: Default alpha but for one pair under a fixed prior: at 1, codes of several pairs, and of one
#: whose prior follows them, end in fewer directions than those of frozen random encoders.
ALPHA = 0.01


@register
class KLRule(Rule):
    """Every layer's joint law under Q is matched to that under P, by stochastic gradient.

    On the noisy way up, h~_l ~ Q(h_l | h~_{l-1}) around m_l = f_l(h~_{l-1}), with sigma_l learned
    where the pair's recognition law is a LearnedGaussian. On the clean way, h_l = f_l(h_{l-1}) up
    to h_L, and h^_{l-1} = g_l(h^_l) down again from h^_L = h_L. The cost sums

        reconstruction_l = -log P(x | h~_l)           short loops x -> h~_l -> x, every l
        entropy_l        = -alpha H(Q(h_l | h~_{l-1}))  (-alpha log sigma_l and a constant)
        prior_l          = -alpha log P(h_l | h^_l)   l < L, clean, h^_l a constant: the target of
                                                      h_l, for the encoders below
        long_l           = -alpha log P(m_l | h~_l -> .. h~_L -> .. h^_l)   l < L, noisy, m_l and
                                                      h~_l constants: for the layers above
        prior_L          = -alpha E_Q log P(h_L)      closed form where there is one (Eq. 22)
        layer_l          = -log P(m_{l-1} | h~_l)     l > 1; only if reach="within_layer"

    One pair under N(0, I) with alpha = 1 is exactly the variational auto-encoder; alpha is then
    its beta. `ImportanceWeightedRule` has its bound for stacks of any depth, and K draws.

    The listing has one long loop, for both of its gradients. Here they are two. The loop that
    gives targets is free of noise, "as clean as possible of a target" (2.2.5). The loop that
    trains the layers above is a denoising auto-encoder, item 2 of the listing's caption: with
    m_l as its target, and Gaussian noise, its optimum r is r(h) - h = sigma_l^2 dlog Q(h) / dh,
    exactly. Trained without noise, h^_l - h_l is no score, and h^_l no target. For the same reason
    `layer_l` asks for m_{l-1}, and not for the noisy h~_{l-1} that f_l sees: each pair is a
    denoising auto-encoder (item 1).

    The entropies are those of the listing, given the layer below, and add up to that of
    Q(h_1 .. h_L | x). Eq. 7 has H(Q(h_l | x)), which has no closed form for l > 1. It is never
    smaller, so that the listing's cost is an upper bound of Eq. 7's; they are equal for l = 1, and
    where the layers below have no noise.

    Source: Bengio 2014, Algorithm 1, Eq. 3-7, 22; questions 1 and 2 for `reach`.

    Args:
        stack: the model. Laws of h_l around f_l are the pairs' `recognition` laws.
        alpha: trade-off between reconstruction and the pressure to make Q(h) simple. If None: 1
            for a single pair under a fixed prior, and 0.01 for several, where every level adds its
            pressure, or a prior that follows the codes, whose scale nothing else holds.
        reach: how far gradients travel: "full", through all layers that a term is for; or
            "within_layer", where gradients from one pair to another are cut off, and `layer_l`
            makes each pair a denoising auto-encoder.
        intermediate: keep the terms of the layers below the top. If False, and with reach="full",
            only the top's remain: back-propagation alone (question 1).
        training_prior: P(h_L) in the cost, where it shall differ from the stack's own, which is
            fitted on the codes and sampled: train under N(0, I), say, and sample from a Parzen
            window or a chain.
        tie_noise: where the prior is a Parzen window, give the top encoder's noise its bandwidth
            (7.3).
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for an unknown reach, numbers out of range, or a prior without density.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.priors.gaussian import GaussianPrior
        >>> _ = torch.manual_seed(0)
        >>> stack = deep_autoencoder([8, 6, 4], ["softplus", "linear"], noise=0.3,
        ...                          prior=GaussianPrior("identity", 1.0))
        >>> sorted(KLRule(stack).losses((torch.rand(10, 8),)))  # doctest: +NORMALIZE_WHITESPACE
        ['entropy_1', 'entropy_2', 'long_1', 'prior_1', 'prior_2', 'reconstruction_1',
         'reconstruction_2']
    """

    def __init__(
        self,
        stack: Stack,
        alpha: float | None = None,
        reach: str = "full",
        intermediate: bool = True,
        training_prior: Prior | None = None,
        tie_noise: bool = False,
        rates: Rates = Rates(hold=0.5),
        log_every: int = 50,
        prior_every: int = 500,
    ) -> None:
        super().__init__(stack, rates, log_every, prior_every)

        self.reach = checks.one_of("reach", reach, REACHES)
        self.intermediate = intermediate
        self.tie_noise = tie_noise

        self.training_prior: Prior | None = build(training_prior)
        if self.training_prior is not None:
            self.training_prior.prepare(self.stack.sizes[-1])
        self._check_prior()

        if alpha is None:
            alpha = 1.0 if self.stack.depth == 1 and self.cost_prior.fixed else ALPHA
        self.alpha = checks.at_least("alpha", alpha, 0.0)

    def _check_prior(self) -> None:
        """Raise a ValueError for a prior that the cost, or the tied noise, cannot use."""
        name = type(self.cost_prior).__name__
        if not self.cost_prior.has_density:
            raise ValueError(
                f"prior={name} has no density, and KLRule needs log P(h_L): train under a "
                "Gaussian, factorial or Parzen training_prior, or by TargetPropRule"
            )

        if self.tie_noise and not hasattr(self.cost_prior, "bandwidth_"):
            raise ValueError(
                f"tie_noise=True needs a prior with a bandwidth, such as ParzenPrior, not {name}"
            )

        if self.tie_noise and self.stack.pairs[-1].recognition.learnable:
            raise ValueError(
                "tie_noise=True: the top's noise is the Parzen bandwidth, so its recognition law "
                "must not be learned; leave it out, or set tie_noise=False"
            )

    @property
    def cost_prior(self) -> Prior:
        """P(h_L) in the cost."""
        if self.training_prior is None:
            return self.stack.prior

        return self.training_prior

    @property
    def cut(self) -> Callable[[Tensor], Tensor]:
        """What a representation goes through between two pairs."""
        if self.reach == "within_layer":
            return torch.Tensor.detach

        return lambda h: h

    @property
    def prior_in_losses(self) -> Prior:
        return self.cost_prior

    def fit_prior(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Fit P(h_L) on the means f_L(h_{L-1}); noise that was tied to a bandwidth joins Q."""
        super().fit_prior(batches)
        if self.tie_noise:
            self.stack.pairs[-1].recognition = Gaussian(float(self.cost_prior.bandwidth_))

    def fit_residuals(self, x: Tensor) -> None:
        """The noise is that of draws from Q(h_l | h_{l-1}); x has none."""
        residuals_of_draws(self.stack, x, self._law_of_noise)

    # -- noise that is tied to a bandwidth -----------------------------------------------------

    def priors(self) -> dict[str, Prior]:
        if self.training_prior is None:
            return super().priors()

        return {**super().priors(), "training_prior.": self.training_prior}

    def described(self, stack: Plain) -> Plain:
        """With `tie_noise`, every fit of the prior sets the noise law of the top encoder anew."""
        return untied(stack) if self.tie_noise else stack

    def take(self, checkpoint: dict[str, Any]) -> None:
        """With `tie_noise`, take that law."""
        if self.tie_noise:
            top = checkpoint["hyper_parameters"]["stack"]["pairs"][-1]
            law = checks.kind("recognition", build(top["recognition"]), Law)
            self.stack.pairs[-1].recognition = law

    # -- the cost ------------------------------------------------------------------------------

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """The terms of the cost in nats, mean over the batch; batch[0] is x."""
        x = checks.rows("x", batch[0])
        self.cost_prior.require_fitted()
        up = self._climb(x, moment.generator)

        losses: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            losses |= own_penalty(pair, level)

        for level in self._levels:
            entropy = up.entropies[level - 1]
            if entropy is not None:
                losses[f"entropy_{level}"] = -self.alpha * entropy.mean()

        losses |= self._descend(up)
        if self.intermediate:
            losses |= self._targets(up.means[0])

        energy = self.cost_prior.cross_entropy(up.h[-1], up.means[-1], up.variance)
        losses[f"prior_{self.stack.depth}"] = self.alpha * energy.mean()
        return losses

    @property
    def _levels(self) -> list[int]:
        """Where short loops turn, top first."""
        if self.intermediate:
            return list(range(self.stack.depth, 0, -1))

        return [self.stack.depth]

    def _climb(self, x: Tensor, generator: Generator | None) -> "Climb":
        """The noisy way up, and beside it the long loops, which begin at h~_1 .. h~_{L-1}.

        Each map runs once, on the rows of all that passes it.
        """
        n = len(x)
        up = Climb([x], [], [])
        for level, pair in enumerate(self.stack.pairs, 1):
            below = self.cut(joined([up.h[-1], *up.long]))
            mean = pair.f(below)
            law = self._law_of_noise(level, below)
            h, *long = divided(law.sample(mean, generator, below), n)

            entropy = None
            if law.stochastic and not self._has_tied_noise(level):
                entropy = first(law.entropy(mean, below), n)
            if self.intermediate and level < self.stack.depth:
                long.append(h.detach())

            up.h.append(h)
            up.means.append(first(mean, n))
            up.entropies.append(entropy)
            up.long = long

        variance = law.variance(mean, below)
        if variance is not None:
            up.variance = first(variance, n)

        return up

    def _law_of_noise(self, level: int, below: Tensor) -> Law:
        """Q(h_l | h_{l-1}) around its mean."""
        if self._has_tied_noise(level):
            return DiagonalGaussian(self.cost_prior.bandwidth_.log())

        return self.stack.pairs[level - 1].recognition.conditioned(below)

    def _has_tied_noise(self, level: int) -> bool:
        return self.tie_noise and level == self.stack.depth

    def _descend(self, up: "Climb") -> dict[str, Tensor]:
        """reconstruction_l and layer_l of the short loops, and long_l, the layers above h_l as a
        denoising auto-encoder of it.
        """
        x = up.h[0]
        n = len(x)
        losses: dict[str, Tensor] = {}
        short: list[Tensor] = []
        long = up.long
        for level in range(self.stack.depth, 1, -1):
            turns = level in self._levels
            if turns:
                short.append(up.h[level])

            pair = self.stack.pairs[level - 1]
            above = joined([*short, *long])
            mean = pair.g(above)
            outputs = divided(mean, n)
            given = divided(above, n)
            target = self._clean(level - 1, up.means)

            if self.reach == "within_layer" and turns:
                own = len(short) - 1
                energy = pair.observation.energy(target, outputs[own], given[own])
                losses[f"layer_{level}"] = energy.mean()

            if long:
                # that of the highest is back where it began
                energy = pair.observation.energy(target, outputs[-1], given[-1])
                losses[f"long_{level - 1}"] = self.alpha * energy.mean()
                mean = mean[:-n]

            sent = divided(self.cut(send(pair.observation, mean)), n)
            long = sent[len(short) :]
            short = sent[: len(short)]

        if 1 in self._levels:
            short.append(up.h[1])

        energies = self.stack.pairs[0].energy(joined([x] * len(short)), joined(short))
        for level, energy in zip(self._levels, divided(energies, n), strict=True):
            losses[f"reconstruction_{level}"] = energy.mean()

        return losses

    def _clean(self, level: int, means: list[Tensor]) -> Tensor:
        """The noise-free value of h~_l, a constant."""
        return self.stack.pairs[level - 1].recognition.transmit(means[level - 1].detach())

    def _targets(self, mean: Tensor) -> dict[str, Tensor]:
        """prior_l, l = 1 .. L-1, from the clean way up and down; it begins with f_1(x)."""
        *below, top = self.stack.pairs
        h: list[Tensor] = []
        for level, pair in enumerate(below, 1):
            if level > 1:
                mean = pair.f(self.cut(h[-1]))
            h.append(send(pair.recognition, mean))

        if not h:
            return {}

        with torch.no_grad():
            h_hat = top.recognition.transmit(top.f(h[-1]))

        losses = {}
        for level in range(self.stack.depth - 1, 0, -1):
            pair = self.stack.pairs[level]
            with torch.no_grad():
                above = h_hat
                mean = pair.g(above)
                h_hat = pair.observation.transmit(mean)

            energy = pair.observation.energy(h[level - 1], mean, above).mean()
            losses[f"prior_{level}"] = self.alpha * energy

        return losses


@dataclass
class Climb:
    """The noisy way up.

    Attributes:
        h: h~_0 .. h~_L ~ Q.
        means: f_l(h~_{l-1}), l = 1 .. L, around which they were drawn.
        entropies: of Q(h_l | h~_{l-1}), l = 1 .. L, for each example; None where there is none.
        variance: of Q(h_L | h~_{L-1}); None where it is not Gaussian.
        long: what has come to the latest level from h~_1, h~_2, ..: the long loops.
    """

    h: list[Tensor]
    means: list[Tensor]
    entropies: list[Tensor | None]
    variance: Tensor | None = None
    long: list[Tensor] = field(default_factory=list)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of several batches as one; a single batch as it is."""
    if len(parts) == 1:
        return parts[0]

    return torch.cat(list(parts))


def divided(rows: Tensor, n: int) -> list[Tensor]:
    """Batches of n rows; all rows as they are, where they are one batch."""
    if len(rows) == n:
        return [rows]

    return list(rows.split(n))


def first(rows: Tensor, n: int) -> Tensor:
    """The first batch of n rows."""
    return divided(rows, n)[0]


@torch.no_grad()
def residuals_of_draws(stack: Stack, x: Tensor, law_of: Callable[[int, Tensor], Law]) -> None:
    """Measure P(H_l | h_L) under the noise of draws from Q(h_l | h_{l-1}); x has none.

    Discrete units have none either: a round draws them where it encodes.

    Args:
        stack: what is measured; see `Stack.fit_residuals`.
        x: (batch, width).
        law_of: Q(h_l | h_{l-1}) around its mean, of a level l and h_{l-1}.
    """
    h = stack.encode(x)
    generator = Generator().manual_seed(0)

    noise: list[Tensor | None] = [None]
    for level, below in enumerate(h[:-1], 1):
        pair = stack.pairs[level - 1]
        mean = pair.f(below)
        law = law_of(level, below)
        width = rms(law.sample(mean, generator, below) - mean)
        noise.append(width.masked_fill(hard_units(pair.recognition, width), 0.0))

    stack.fit_residuals(x, noise, adds_up=True)


def hard_units(law: Law, like: Tensor) -> Tensor:
    """Which units of a layer send discrete values, (features,)."""
    blocks = [torch.full((units,), one.hard) for one, units in law.blocks(len(like))]
    return torch.cat(blocks).to(like.device)


def untied(stack: Plain) -> Plain:
    """A described stack without the noise law of its top encoder.

    With `tie_noise`, that law is set anew whenever the prior is fitted.
    """
    try:
        *below, top = stack["pairs"]
        lawless = {key: value for key, value in top.items() if key != "recognition"}
        return {**stack, "pairs": [*below, lawless]}
    except (TypeError, KeyError, ValueError, AttributeError):
        return stack
