"""Inpainting through the code: Algorithm 6, annealed over levels of noise.

x^v are the observed pixels, x^m the missing ones. What is drawn is the code, from

    P(h_L | x^v)  ~  P(h_L) exp(-|x^v - g^v(h_L)|^2 / (2 noise^2)),

and x^m = g^m(h_L). Draws of the prior, resampled by how well they agree with x^v, find the right
modes; noise of low levels, from which clamped Langevin dynamics descends, makes them draws of
their own. On the way the denoiser is told of x^v:

    D(z; s | x^v) = D + r^2 / (r^2 + tau^2) move,        r^2 = s^2 v / (s^2 + v)

r is how far a code may lie from D, tau how far x leaves its code open: the width of Q(h_L | x).
`move` is where x^v leads from h = D, by the encoder, as in INFERENCE under a clamp,

    move = f(x^v, g^m(h)) - f(g(h)),

or tau^2 times the gradient of the agreement, -|x^v - g^v(h)|^2 / (2 noise^2), which is the same
where f is the inverse of g around h and J_g^T J_g = (noise / tau)^2 I.

Errors of pixels go together, so that `noise` is no pixel's own. It is the one at which a change of
the code by tau costs half a nat a unit, as for a Gaussian posterior of width tau:

    noise^2 = E |g(h + tau n) - g(h)|^2 / units of h_L

Source: Bengio 2014, Algorithm 6 and section 3.2; Bengio et al. 2015, section 8; Song and Ermon
2019, section 4 and Algorithm 3.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.completion.chain import ClampedChain, Completion
from gendae.completion.inpainting import Inpainter
from gendae.corruption import normal_like
from gendae.inference import fill
from gendae.laws import Gaussian
from gendae.models.stack import Stack
from gendae.models.widths import rms
from gendae.priors.denoiser import Denoise
from gendae.priors.denoising import DenoisingPrior
from gendae.priors.descents import Descent, LangevinDescent
from gendae.registry import Plain, build, register
from gendae.sampling.samplers import BATCH, POOL

GUIDES = ("encode", "gradient")
#: Draws of the prior on which the widths tau and noise are measured.
MEASURED = 500
#: Images whose agreement with the pool is weighed at a time.
ROWS = 100


@register
class AnnealedInpainter(Inpainter):
    """Missing pixels from draws of the code given the observed ones; see the module.

    One chain gives a sample of P(x^m | x^v), several their mean. The defaults were chosen on
    validation images of MNIST, halves of which were given.

    Args:
        chains: number of draws averaged.
        pool: draws of the prior among which codes start; the more units a code has, the more are
            needed.
        descent: the levels, low ones, and the dynamics; LangevinDescent(5, 0.25, 0.08), 4 rounds
            of rate 0.3, if None.
        guide: "encode", by encoder and decoder passes alone, or "gradient", by the decoder's.
        noise: deviation of observed pixels from the decoded code; measured on the model if None.

    Raises:
        ValueError: for numbers out of range, or an unknown guide; when called, for a stack whose
            prior is no fitted `DenoisingPrior`, and one without noise in Q(h_L | h_{L-1}).

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> from gendae.priors.denoiser import LevelMLP
        >>> from gendae.priors.fitting import AveragedLearning
        >>> prior = DenoisingPrior(LevelMLP(8, 1), learning=AveragedLearning(1))
        >>> stack = deep_autoencoder([8, 3], noise=0.3, prior=prior)
        >>> x, left = torch.rand(30, 8), torch.arange(8) < 4
        >>> _ = prior.fit(stack.encode(x)[-1])
        >>> filled = AnnealedInpainter(pool=50)(stack, x, left).h
        >>> torch.equal(filled[:, :4], x[:, :4])
        True
    """

    def __init__(
        self,
        chains: int = 1,
        pool: int = POOL,
        descent: Descent | None = None,
        guide: str = "encode",
        noise: float | None = None,
    ) -> None:
        super().__init__(rounds=0, chains=chains, begin="prior")
        self.pool = checks.whole("pool", pool, 1, checks.REPEATS)
        self.guide = checks.one_of("guide", guide, GUIDES)
        self.noise = noise
        if noise is not None:
            self.noise = checks.at_least("noise", noise, 0.0, strict=True)

        default = LangevinDescent(5, highest=0.25, stop=0.08, rounds=4, rate=0.3)
        self.descent: Descent = checks.kind("descent", build(descent) or default, Descent)

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """Arguments as they are: there are no earlier versions."""
        return arguments

    @property
    def effort(self) -> list[tuple[int, str]]:
        return [(self.chains, "chain"), (self.descent.steps, "level")]

    @property
    def states(self) -> int:
        return self.descent.steps + 2

    def check(self, stack: Stack) -> None:
        """Raise a ValueError for a stack whose prior denoises at one level at most."""
        prior_of(stack)

    @torch.no_grad()
    def __call__(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        observed: Tensor | None = None,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Completion:
        """See `Inpainter`; residuals are changes of x from level to level."""
        states = self._states(stack, x, mask, generator, draws)
        given, clamped = self._repeated(x, mask)

        def step(x: Tensor, temperature: float) -> Tensor:
            return next(states)

        chain = ClampedChain(step, temperatures=[1.0] * (self.states - 1))
        mean = chain(next(states), given, clamped).mean_over(self.chains)

        return mean._replace(h=fill(x, mask, mean.h))

    @torch.no_grad()
    def trajectory(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
        draws: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The mean of the chains at the start, at each level, and at the end, (batch, width)."""
        for state in self._states(stack, x, mask, generator, draws):
            yield self._mean(state, x, mask)

    @torch.no_grad()
    def draws(self, stack: Stack, generator: Generator | None = None) -> Tensor:
        """Codes of the prior with the x that they decode to, (pool, width of h_L and of x)."""
        codes = prior_of(stack).sample(self.pool, generator)
        decoded = torch.cat([stack.down(part)[0] for part in codes.split(BATCH)])

        return torch.cat([codes, decoded], 1)

    def _states(
        self,
        stack: Stack,
        x: Tensor,
        mask: Tensor,
        generator: Generator | None,
        draws: Tensor | None,
    ) -> Iterator[Tensor]:
        """x of all chains at the start, at each level and at the end, (chains * batch, width)."""
        prior = prior_of(stack)
        if draws is None:
            draws = self.draws(stack, generator)

        codes, decoded = draws.split([stack.sizes[-1], stack.sizes[0]], 1)
        tau, noise = self._widths(stack, codes[:MEASURED], generator)
        chosen = self._chosen(x, mask, decoded, noise, generator)
        yield decoded[chosen]

        denoise = self._guided(stack, *self._repeated(x, mask), tau, noise)
        z = prior.standardised(codes[chosen])
        z = torch.add(z, normal_like(z, generator), alpha=self.descent.highest)
        for state in self.descent.way(denoise, z, generator):
            yield stack.down(prior.restored(state))[0]

    def _widths(
        self, stack: Stack, codes: Tensor, generator: Generator | None
    ) -> tuple[Tensor, float]:
        """tau of each unit, (features,), and the noise of observed pixels."""
        tau = width_of_codes(stack, codes, generator)
        if self.noise is not None:
            return tau, self.noise

        moved = torch.addcmul(codes, tau, normal_like(codes, generator))
        change = stack.down(moved)[0] - stack.down(codes)[0]
        noise = (change.square().sum(1).mean() / codes.shape[1]).sqrt()

        return tau, float(noise)

    def _chosen(
        self,
        x: Tensor,
        mask: Tensor,
        decoded: Tensor,
        noise: float,
        generator: Generator | None,
    ) -> Tensor:
        """Rows of the pool at which the chains start, drawn by their agreement with x^v."""
        seen = mask.expand_as(x)
        given = x.masked_fill(~seen, 0.0)

        chosen = []
        for part, there in zip(given.split(ROWS), seen.split(ROWS), strict=True):
            score = Gaussian().pool_log_prob(part, there.to(x), decoded, noise)
            weights = score.softmax(1).cpu()
            rows = torch.multinomial(weights, self.chains, replacement=True, generator=generator)
            chosen.append(rows)

        return torch.cat(chosen).T.flatten().to(x.device)

    def _guided(
        self, stack: Stack, given: Tensor, mask: Tensor, tau: Tensor, noise: float
    ) -> Denoise:
        """D(z; s | x^v)."""
        prior = prior_of(stack)
        variance = prior.scale.square()

        def denoise(z: Tensor, level: float) -> Tensor:
            h = prior.restored(prior.denoise(z, level))
            if self.guide == "encode":
                move = _by_encoder(stack, h, given, mask)
            else:
                move = _by_gradient(stack, h, given, mask) * (tau / noise).square()

            left = variance * level**2 / (1.0 + level**2)
            return prior.standardised(torch.addcmul(h, left / (left + tau.square()), move))

        return denoise


def prior_of(stack: Stack) -> DenoisingPrior:
    """The stack's prior, if it is a fitted one that denoises at all levels.

    Raises:
        ValueError: for another one.
    """
    prior = stack.prior
    if not isinstance(prior, DenoisingPrior):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"AnnealedInpainter descends through levels of noise, and the prior is a "
            f"{type(prior).__name__}; needed: a DenoisingPrior"
        )
    prior.require_fitted()

    return prior


def width_of_codes(stack: Stack, codes: Tensor, generator: Generator | None = None) -> Tensor:
    """tau: root mean square width of Q(h_L | h_{L-1}) at decoded codes, (features,).

    Where an encoder has none, it is the noise that h_L had in training.

    Raises:
        ValueError: where some unit has none.
    """
    *_, below, _ = stack.up(stack.down(codes)[0])
    pair = stack.pairs[-1]
    mean = pair.f(below)
    source = generator or torch.Generator().manual_seed(0)
    tau = rms(pair.recognition.sample(mean, source, below) - mean)
    if not bool((tau > 0.0).all()) and len(stack.noises):
        tau = stack.noises[-len(tau) :]

    if not bool((tau > 0.0).all()):
        raise ValueError(
            "the stack's codes have no width: h_L had no noise in training, which says how far x "
            "leaves its code open; needed: noise in Q(h_L | h_{L-1}), or a corruption of h_L"
        )
    return tau


def _by_encoder(stack: Stack, h: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """f(x^v, g^m(h)) - f(g(h)), (batch, features)."""
    x = stack.down(h)[0]
    return stack.up(fill(given, mask, x))[-1] - stack.up(x)[-1]


def _by_gradient(stack: Stack, h: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """The gradient of -|x^v - g^v(h)|^2 / 2, (batch, features)."""
    with torch.enable_grad():
        leaf = h.detach().requires_grad_()
        error = (given - stack.down(leaf)[0]) * mask
        (gradient,) = torch.autograd.grad(error.square().sum().mul(-0.5), leaf)

    return gradient
