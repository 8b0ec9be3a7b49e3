"""Wake-sleep and its reweighted form: the two models of a stack teach each other by their draws.

p(x, h) = p(x | h_1) .. p(h_{L-1} | h_L) p(h_L)   generates, by the decoders g_l and the prior
q(h | x) = q(h_1 | x) .. q(h_L | h_{L-1})         recognises, by the encoders f_l

Awake, q fills in h for an x of the data, and p learns to generate what q saw. Asleep, p dreams
(x, h), and q learns to recognise what p drew. Every layer is a regression on values that are there
already, below and above it: no gradient crosses a layer, and none is needed of the draws.

With one draw the wake phase follows E_q log p(x, h), the gradient of the variational bound. K
draws, weighted as an importance sampler weighs them, follow that of log p(x) itself:

w_k = p(x, h^k) / q(h^k | x) / sum_j p(x, h^j) / q(h^j | x),    h^k ~ q(h | x)
d log p(x) / d theta = sum_k w_k d log p(x, h^k) / d theta + O(1 / K)

The prior has no gradient. Its part of the wake phase, -log p(h_L), is minimised in closed form:
P(h_L) is fitted on the draws, now and then in training and after each epoch.

Source: Hinton, Dayan, Frey and Neal 1995; Bornschein and Bengio 2015, section 2.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.inpainting import Inpainter
from gendae.inference import Representations
from gendae.laws import Law
from gendae.metrics.bounds import check_densities
from gendae.metrics.precision import full_precision
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import register
from gendae.rules.base import Rule, own_penalty
from gendae.rules.kl import residuals_of_draws
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.sampling.samplers import AncestralSampler


class DirectedRule(Rule):
    """Base class of rules that learn p(x, h) and q(h | x), both of which have densities.

    A variant defines `terms`.

    The prior is fitted on draws of h_L from q(h | x), or, of K draws, on one that is drawn by its
    weight: it follows the posterior p(h_L | x) as K grows.

    Args:
        stack: the model.
        samples: number K of draws for each example.
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for layers of deterministic units; for a prior without a density, or one whose
            density is found by a flow; for numbers out of range.
    """

    DEFAULT_SETTINGS = Settings(
        sampler=AncestralSampler(noise=1.0), inpainter=Inpainter.encode_decode()
    )

    def __init__(
        self, stack: Stack, samples: int, rates: Rates, log_every: int, prior_every: int
    ) -> None:
        super().__init__(stack, rates, log_every, prior_every)

        self.samples = checks.whole("samples", samples, 1)
        check_densities(self.stack)
        if self.stack.prior.slow_density:
            raise ValueError(
                f"prior={type(self.stack.prior).__name__}: its density takes a flow for each "
                "code; accepted: FactorialPrior, GaussianPrior, ParzenPrior"
            )

    @full_precision()
    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """The terms in nats, mean over the batch; batch[0] is x.

        Weights are powers of small differences between sums over all units.
        """
        x = checks.rows("x", checks.width("x", batch[0], self.stack.sizes[0]))
        self.stack.prior.require_fitted()

        losses: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            losses |= own_penalty(pair, level)

        return losses | self.terms(x, moment.generator)

    def terms(self, x: Tensor, generator: Generator | None) -> dict[str, Tensor]:
        """What the rule descends; a constant may be left out."""
        raise NotImplementedError(f"{type(self).__name__} must define terms")

    @property
    def prior_in_losses(self) -> Prior | None:
        return self.stack.prior

    @full_precision()
    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """h_L ~ q(h | x): one draw of each x, or one of K by its weight."""
        generator = self.source_of_noise.generator
        h, f_energies = ascend(self.stack, x, self.samples, generator)
        if self.samples == 1 or not self.stack.prior.fitted:
            return h[-1][:: self.samples]

        g_energies = descend(self.stack, h)
        weights = self.weights(h, f_energies, g_energies)
        device = weights.device if generator is None else generator.device
        chosen = torch.multinomial(weights.to(device), 1, generator=generator).to(weights.device)
        first = torch.arange(0, len(h[-1]), self.samples, device=weights.device)

        return h[-1][first + chosen[:, 0]]

    def fit_residuals(self, x: Tensor) -> None:
        """The noise is that of draws from Q(h_l | h_{l-1}); x has none."""

        def law(level: int, below: Tensor) -> Law:
            return self.stack.pairs[level - 1].recognition.conditioned(below)

        residuals_of_draws(self.stack, x, law)

    @torch.no_grad()
    def weights(
        self, h: Representations, f_energies: Sequence[Tensor], g_energies: Sequence[Tensor]
    ) -> Tensor:
        """Normalised importance weights w_k of the draws, (batch, K); constants."""
        of_prior = self.stack.prior.cross_entropy(h[-1], h[-1])
        log_weights = sum(f_energies) - sum(g_energies) - of_prior

        return log_weights.view(-1, self.samples).softmax(1)


@register
class WakeSleepRule(DirectedRule):
    """The wake-sleep algorithm: decoders learn from recognised data, encoders from dreams.

    wake_g_l:  -log p(h_{l-1} | h_l)    h_0 = x,  h_l ~ q(h_l | h_{l-1})
    sleep_f_l: -log q(h_l | h_{l-1})    h_L ~ p(h_L),  h_{l-1} ~ p(h_{l-1} | h_l)

    There are as many dreams as examples in the batch. All h are constants, so that a loss reaches
    its own map alone. What the two phases descend is not one function: q learns from KL(p || q)
    on dreams, and not from the bound that p climbs.
    Source: Hinton, Dayan, Frey and Neal 1995, "The wake-sleep algorithm for unsupervised neural
    networks", Science 268.

    Args:
        stack: the model: stochastic layers, such as `units="binary", stochastic=True` of
            `deep_autoencoder`, or Gaussian ones; under a prior of their units, such as
            FactorialPrior("bernoulli"), or GaussianPrior(variance_scale=1). Where the law of x is
            Bernoulli, dreams are bits: x had better be, too.
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for layers of deterministic units, and a prior without a density.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.priors.factorial import FactorialPrior
        >>> prior = FactorialPrior("bernoulli", flat=True)
        >>> stack = deep_autoencoder([8, 6, 4], observation="bernoulli", units="binary",
        ...                          stochastic=True, prior=prior)
        >>> list(WakeSleepRule(stack).losses((torch.rand(10, 8).round(),)))
        ['wake_g_1', 'wake_g_2', 'sleep_f_1', 'sleep_f_2']
    """

    def __init__(
        self,
        stack: Stack,
        rates: Rates = Rates(),
        log_every: int = 50,
        prior_every: int = 500,
    ) -> None:
        super().__init__(stack, 1, rates, log_every, prior_every)

    def terms(self, x: Tensor, generator: Generator | None) -> dict[str, Tensor]:
        with torch.no_grad():
            h = self.stack.sample_q(x, generator)
        dreamt = dream(self.stack, len(x), generator)

        return {
            **of_levels("wake_g", [energy.mean() for energy in descend(self.stack, h)]),
            **of_levels("sleep_f", [energy.mean() for energy in recognise(self.stack, dreamt)]),
        }


@register
class ReweightedWakeSleepRule(DirectedRule):
    """Wake-sleep of K draws for each example, weighted by how far p explains each of them.

    wake_g_l:  -sum_k w_k log p(h^k_{l-1} | h^k_l)               h^k ~ q(h | x)
    wake_f_l:  -(1 - s) sum_k w_k log q(h^k_l | h^k_{l-1})       the same draws
    sleep_f_l: -s log q(h_l | h_{l-1})                           (x, h) ~ p

    The wake phase follows the gradient of log p(x) up to O(1 / K) in the decoders, and in the
    encoders that of KL(p(h | x) || q(h | x)), on data and not on dreams. With K = 1 and s = 1 this
    is `WakeSleepRule`. Losses reach their own map alone; what is not of one layer is a number for
    each draw, its weight, which all layers share.
    Source: Bornschein and Bengio 2015, "Reweighted wake-sleep", section 2; for s, its wake-phase
    and sleep-phase updates of q and their mean.

    Args:
        stack: the model, see `WakeSleepRule`.
        samples: number K of draws for each example; 5 in most of the paper.
        sleep: share s of the dreams in what the encoders learn, in [0, 1].
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: see `WakeSleepRule`; for fewer than one draw, or a share outside [0, 1].

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.priors.factorial import FactorialPrior
        >>> prior = FactorialPrior("bernoulli", flat=True)
        >>> stack = deep_autoencoder([8, 4], observation="bernoulli", units="binary",
        ...                          stochastic=True, prior=prior)
        >>> list(ReweightedWakeSleepRule(stack, samples=3).losses((torch.rand(10, 8).round(),)))
        ['wake_g_1', 'wake_f_1', 'sleep_f_1']
        >>> list(ReweightedWakeSleepRule(stack, sleep=0.0).losses((torch.rand(10, 8).round(),)))
        ['wake_g_1', 'wake_f_1']
    """

    def __init__(
        self,
        stack: Stack,
        samples: int = 5,
        sleep: float = 0.5,
        rates: Rates = Rates(),
        log_every: int = 50,
        prior_every: int = 500,
    ) -> None:
        super().__init__(stack, samples, rates, log_every, prior_every)
        self.sleep = checks.share("sleep", sleep)

    def terms(self, x: Tensor, generator: Generator | None) -> dict[str, Tensor]:
        terms = self._awake(x, generator)
        if self.sleep > 0.0:
            energies = recognise(self.stack, dream(self.stack, len(x), generator))
            terms |= of_levels("sleep_f", [self.sleep * energy.mean() for energy in energies])

        return terms

    def _awake(self, x: Tensor, generator: Generator | None) -> dict[str, Tensor]:
        """The losses of both maps on K weighted draws of q for each x."""
        awake = 1.0 - self.sleep
        with torch.set_grad_enabled(awake > 0.0):
            h, f_energies = ascend(self.stack, x, self.samples, generator)

        g_energies = descend(self.stack, h)
        weights = self.weights(h, f_energies, g_energies)

        def mean(energy: Tensor) -> Tensor:
            return (weights * energy.view_as(weights)).sum(1).mean()

        terms = of_levels("wake_g", [mean(energy) for energy in g_energies])
        if awake > 0.0:
            terms |= of_levels("wake_f", [awake * mean(energy) for energy in f_energies])

        return terms


# -- the two models ----------------------------------------------------------------------------


def ascend(
    stack: Stack, x: Tensor, samples: int, generator: Generator | None
) -> tuple[Representations, list[Tensor]]:
    """h_l ~ q(h_l | h_{l-1}), some draws of each x side by side, and -log q of every level.

    The draws are constants; each energy has the gradient of its own encoder. f_1 runs once for
    each x.
    """
    h = [x.repeat_interleave(samples, 0)]
    energies = []
    for level, pair in enumerate(stack.pairs):
        below = h[-1]
        if level == 0:
            mean = pair.f(x).repeat_interleave(samples, 0)
        else:
            mean = pair.f(below)

        law = pair.recognition.conditioned(below)
        with torch.no_grad():
            drawn = law.sample(mean, generator, below)

        energies.append(law.energy(drawn, mean, below))
        h.append(drawn)

    return tuple(h), energies


def recognise(stack: Stack, h: Representations) -> list[Tensor]:
    """-log q(h_l | h_{l-1}) of every level, (batch,), with the gradient of f_l."""
    energies = []
    for pair, below, above in zip(stack.pairs, h, h[1:], strict=False):
        law = pair.recognition.conditioned(below)
        energies.append(law.energy(above, pair.f(below), below))

    return energies


def descend(stack: Stack, h: Representations) -> list[Tensor]:
    """-log p(h_{l-1} | h_l) of every level, (batch,), with the gradient of g_l."""
    levels = zip(stack.pairs, h, h[1:], strict=False)
    return [pair.energy(below, above) for pair, below, above in levels]


@torch.no_grad()
def dream(stack: Stack, n: int, generator: Generator | None) -> Representations:
    """n draws of p(x, h): h_L from the prior, and down."""
    h = [stack.prior.sample(n, generator)]
    for pair in reversed(stack.pairs):
        above = h[0]
        h.insert(0, pair.observation.sample(pair.g(above), generator, above))

    return tuple(h)


def of_levels(term: str, losses: Sequence[Tensor]) -> dict[str, Tensor]:
    """Losses of levels 1 .. L by name."""
    return {f"{term}_{level}": loss for level, loss in enumerate(losses, 1)}
