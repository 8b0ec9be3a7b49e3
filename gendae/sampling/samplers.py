"""Sampling h_L -> x, and chains over (x, h).

All samplers start from h_L ~ p(h_L) decoded to x, run some rounds of a transition over the tuple
(h_0 .. h_L), and return means of x, as published Parzen scores do. Noise is drawn on the CPU, so
that a seed gives the same samples on every device, up to rounding.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise, uniform_like
from gendae.inference import Inference, Representations, TargetPropInference
from gendae.layers.pair import Pair
from gendae.models.noise import corruption_of_each, corruption_of_top
from gendae.models.stack import Stack
from gendae.priors.denoising import DenoisingPrior
from gendae.registry import build, register, registered

BATCH = 1000  # samples computed at a time
#: Codes drawn from the prior at a time: a Parzen top spreads them evenly over its templates.
POOL = 10_000


def seeded(seed: int | None) -> Generator | None:
    """A CPU generator with this seed; None (the global generator) for None."""
    if seed is None:
        return None

    return torch.Generator().manual_seed(checks.seed("seed", seed))


class Sampler(checks.TakesArrays):
    """Base class: prior, decoding, `rounds` transitions; a variant overrides `step`.

    Args:
        rounds: number K of transitions after the start.

    Raises:
        ValueError: for a negative number of rounds; when called, for a prior that is not fitted.

    Example:
        >>> class ShortLoopSampler(Sampler):                   # x <- g_1(f_1(x)), without noise
        ...     def step(self, stack, h, generator):
        ...         bottom = stack.pairs[0]
        ...         h_1 = bottom.encode(h[0], generator)
        ...         return (bottom.decode(h_1), h_1, *h[2:])
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> ShortLoopSampler(rounds=5)(stack, 3, seeded(0)).shape
        torch.Size([3, 8])
    """

    ARRAYS = ("from_codes",)

    def __init__(self, rounds: int = 0) -> None:
        self.rounds = checks.whole("rounds", rounds, 0, checks.REPEATS)

    def __call__(
        self, stack: Stack, n: int, generator: Generator | None = None, batch_size: int = BATCH
    ) -> Tensor:
        """n samples in CPU memory, (n, width of x)."""
        checks.fits("n", checks.whole("n", n, 1), n * stack.sizes[0])
        return torch.cat([x.cpu() for x in self.stream(stack, n, generator, batch_size)])

    @torch.no_grad()
    def stream(
        self, stack: Stack, n: int, generator: Generator | None = None, batch_size: int = BATCH
    ) -> Iterator[Tensor]:
        """The same samples batch by batch, on the stack's device: memory does not grow with n."""
        self.check(stack)

        for first in range(0, n, POOL):
            pool = stack.prior.sample(min(POOL, n - first), generator)
            for codes in pool.split(batch_size):
                yield self.from_codes(stack, codes, generator)

    def check(self, stack: Stack) -> None:
        """Raise a ValueError for a stack whose representations the transitions cannot move."""

    def from_codes(self, stack: Stack, codes: Tensor, generator: Generator | None) -> Tensor:
        """x from samples of the prior: down, and `rounds` transitions."""
        for h in self.trajectory(stack, codes, generator):  # noqa: B007
            pass

        return h[0]

    def trajectory(
        self, stack: Stack, codes: Tensor, generator: Generator | None
    ) -> Iterator[Representations]:
        """The representations at the start and after every transition: K + 1 of them."""
        h = self.start(stack, codes, generator)
        yield h

        for _ in range(self.rounds):
            h = self.step(stack, h, generator)
            yield h

    def start(self, stack: Stack, codes: Tensor, generator: Generator | None) -> Representations:
        """h_L = codes, h_{l-1} = g_l(h_l)."""
        return stack.down(codes)

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        """One transition of the representations."""
        raise NotImplementedError(f"{type(self).__name__} must define step")


@register
class AncestralSampler(Sampler):
    """The directed model p(x | h_1) .. p(h_{L-1} | h_L) p(h_L): the prior, then down once.

    Source: Bengio et al. 2015, section 8 ("the directed graphical model p(x|h)p(h)", LL = 126).

    Args:
        noise: scale of the residual noise of the hidden conditionals; 0 passes means down (as
            Algorithm 2 does), 1 draws h_{l-1} ~ p(h_{l-1} | h_l) for l > 1. Pixels are always
            means.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> AncestralSampler()(stack, 3, seeded(0)).shape
        torch.Size([3, 8])
    """

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__(rounds=0)
        self.noise = checks.at_least("noise", noise, 0.0)

    def start(self, stack: Stack, codes: Tensor, generator: Generator | None) -> Representations:
        h = [codes]
        for level in range(stack.depth, 0, -1):
            pair = stack.pairs[level - 1]
            if level > 1 and self.noise > 0.0:
                h.append(self._draw(pair, h[-1], generator))
            else:
                h.append(pair.decode(h[-1]))

        return tuple(reversed(h))

    def _draw(self, pair: Pair, h: Tensor, generator: Generator | None) -> Tensor:
        """A draw from P(h_{l-1} | h_l): Gaussian noise on real units, a coin for discrete ones."""
        return pair.observation.noisy(pair.g(h), self.noise, generator)


@register
class GenerateSampler(Sampler):
    """GENERATE of Algorithm 2: from a prior sample, K rounds of INFERENCE and x = g_1(h_1).

    Source: Bengio et al. 2015, Algorithm 2, GENERATE: K = 3, alpha = 0.3.

    Args:
        rounds: K.
        inference: INFERENCE with the alpha of generation; TargetPropInference(alpha=0.3) if None.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> a, b = (GenerateSampler()(stack, 3, seeded(0)) for _ in range(2))
        >>> torch.equal(a, b)
        True
    """

    def __init__(self, rounds: int = 3, inference: Inference | None = None) -> None:
        super().__init__(rounds)
        self.inference = build(inference) or TargetPropInference(alpha=0.3)

    def check(self, stack: Stack) -> None:
        if self.rounds > 0:
            self.inference.check(stack, "sampler.inference")

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        h = self.inference(stack, h[0], generator=generator)
        return (stack.pairs[0].g(h[1]), *h[1:])


@register
class LatentChainSampler(GenerateSampler):
    """The chain of section 5.2, in which the latent variables are the corruption of x.

    x -> h ~ q*(h | x) -> h~ -> x = g_1(h~_1): inference, then the corruption under which g_1
    learned to give x. The stationary law estimates that of the training data (Bengio et al. 2013,
    Theorem 1). Without noise on h_1 it is GENERATE, the paper's own case.

    The defaults were chosen by the Parzen score of 1,000 samples of the shipped
    mnist-variational-em on 1,000 validation images of MNIST: 180 nats (GENERATE 182). Coupled to
    the layers above by training's alpha of 0.001, or with noise as large as training's, the chain
    leaves the digits: 131 after 20 rounds with both, 126 after 20 rounds with neither.

    Source: Bengio et al. 2015, section 5.2.

    Args:
        rounds: transitions after the start.
        inference: q*; set its temperature to make it stochastic; TargetPropInference(alpha=0.3),
            as in GENERATE, if None.
        corruption: of h_1; GaussianNoise(0.1) if None.
    """

    def __init__(
        self,
        rounds: int = 5,
        inference: Inference | None = None,
        corruption: Corruption | None = None,
    ) -> None:
        super().__init__(rounds, inference)
        self.corruption = build(corruption) or GaussianNoise(0.1)

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        h = self.inference(stack, h[0], generator=generator)
        noisy = self.corruption(h[1], 1.0, generator)

        return (stack.pairs[0].g(noisy), *h[1:])


@register
class JointChainSampler(Sampler):
    """The joint denoising chain over (x, h_1 .. h_L): corrupt all, denoise each from a neighbour.

    h~_l <- corrupt(h_l);   x <- g_1(h~_1),   h_L <- f_L(h~_{L-1}),   and for a middle layer
    h_l <- g_{l+1}(h~_{l+1}) with probability 1/2, otherwise f_l(h~_{l-1}), for each example.
    Means stand for draws, since the corruption already holds the noise of training; discrete units
    send their more probable values.

    The defaults were chosen by the Parzen score of 1,000 samples of the shipped
    mnist-variational-em on 1,000 validation images of MNIST: 163 nats. With all of training's
    noise it is 153 after 10 rounds, and falls from there; 93 after 100. Without any noise it is
    181 after 10 and 79 after 100: better for a while, but Eq. 9's chain corrupts.
    Source: Bengio et al. 2015, Eq. 9, 10, 11.

    Args:
        rounds: transitions after the start.
        corruption: of h_0 .. h_L; `corruption_of_top` on h_L alone if None.
        from_above: the probability of Eq. 10.

    Raises:
        ValueError: for a probability outside [0, 1]; when called, for a wrong number of
            corruptions.
    """

    def __init__(
        self,
        rounds: int = 10,
        corruption: Sequence[Corruption] | None = None,
        from_above: float = 0.5,
    ) -> None:
        super().__init__(rounds)
        if not 0.0 <= from_above <= 1.0:
            raise ValueError(f"from_above={from_above} is a probability: between 0 and 1")

        self.corruption = (
            None
            if corruption is None
            else [build(c) for c in checks.several("corruption", corruption)]
        )
        self.from_above = from_above

    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        noise = self._noise(stack)
        h_tilde = [c(layer, 1.0, generator) for c, layer in zip(noise, h, strict=True)]

        x = stack.pairs[0].decode(h_tilde[1])
        middle = [
            self._from_either_side(stack, h_tilde, level, generator)
            for level in range(1, stack.depth)
        ]
        top = self._encode(stack.pairs[-1], h_tilde[-2])

        return (x, *middle, top)

    def _noise(self, stack: Stack) -> list[Corruption]:
        if self.corruption is not None:
            return corruption_of_each(stack, self.corruption)

        below = [GaussianNoise(0.0) for _ in stack.pairs]
        return [*below, corruption_of_top(stack)]

    def _from_either_side(
        self, stack: Stack, h_tilde: Sequence[Tensor], level: int, generator: Generator | None
    ) -> Tensor:
        """h_l decoded from the layer above or encoded from the one below, as a coin says."""
        above = stack.pairs[level].decode(h_tilde[level + 1])
        below = self._encode(stack.pairs[level - 1], h_tilde[level - 1])
        coin = uniform_like(h_tilde[level][:, :1], generator) < self.from_above

        return torch.where(coin, above, below)

    @staticmethod
    def _encode(pair: Pair, h: Tensor) -> Tensor:
        """f_l(h_{l-1}) as the next layer sees it, not optimised: the partner that q is."""
        return pair.recognition.transmit(pair.f(h))


#: Short names of samplers, as commands take them.
SAMPLERS = {
    "generate": "GenerateSampler",
    "ancestral": "AncestralSampler",
    "chain": "LatentChainSampler",
    "joint": "JointChainSampler",
    "level": "LevelSampler",
    "labelled": "LabelledSampler",
    "descent": "DescentSampler",
}


def sampler_named(stack: Stack, name: str | None) -> Sampler:
    """The stack's own sampler where it is of that kind, otherwise one with default settings.

    Without a name see `sampler_of`.
    """
    if name is None:
        return sampler_of(stack)

    own = stack.settings.sampler

    kind = SAMPLERS[checks.one_of("sampler", name, SAMPLERS)]
    if own is not None and type(own) is registered(kind):
        return own

    return build({"type": kind})


def sampler_of(stack: Stack) -> Sampler:
    """The stack's own sampler; GENERATE where it has none, or ancestral for discrete units."""
    if stack.settings.sampler is not None:
        return stack.settings.sampler

    return AncestralSampler() if stack.hard_levels else GenerateSampler()


@torch.no_grad()
def sampling_steps(stack: Stack, n: int, sampler: Sampler, seed: int | None = None) -> Tensor:
    """`generate` transition by transition, (K + 1, n, width of x): its samples are the last.

    Where the sampler has no transitions, but the prior descends from noise to codes, the steps are
    those of the prior: the codes to which each level would lead, decoded.

    Raises:
        ValueError: for n not in 1 .. 1000, and a sampler and a prior without transitions.
    """
    checks.whole("n", n, 1, BATCH)
    sampler.check(stack)
    generator = seeded(seed)
    if sampler.rounds > 0:
        checks.fits("n", n, (sampler.rounds + 1) * n * stack.sizes[0])
        states = sampler.trajectory(stack, stack.prior.sample(n, generator), generator)
        return torch.stack([h[0].cpu() for h in states])

    prior = stack.prior
    if not isinstance(prior, DenoisingPrior):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{type(sampler).__name__} with {sampler.rounds} rounds makes samples in one step; "
            "steps are those of generate, chain, joint and level, and of a DenoisingPrior"
        )

    checks.fits("n", n, prior.descent.steps * n * stack.sizes[0])
    ways = list(prior.way(n, generator))  # before the sampler draws from the generator too
    return torch.stack([sampler.from_codes(stack, h, generator).cpu() for h in ways])


def generate(
    stack: Stack, n: int, sampler: Sampler | str | None = None, seed: int | None = None
) -> Tensor:
    """n samples of x, means in CPU memory, (n, width of x).

    Args:
        stack: a trained stack with a fitted prior.
        n: number of samples; memory beyond the result does not grow with it.
        sampler: a sampler, or one of generate, ancestral, chain, joint, level; the stack's
            own if None, see `sampler_of`.
        seed: the same seed gives the same samples; None takes the global generator.

    Raises:
        ValueError: for n < 1, an unknown sampler or a prior that is not fitted.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
        >>> generate(stack, 5, seed=0).shape
        torch.Size([5, 8])
    """
    if sampler is None or isinstance(sampler, str):
        sampler = sampler_named(stack, sampler)

    if not isinstance(sampler, Sampler):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"sampler={sampler!r} is none; accepted: a Sampler, or one of {', '.join(SAMPLERS)}"
        )

    return sampler(stack, n, seeded(seed))
