"""log p(x) by annealed importance sampling: from below, and on the model's own data from above.

Chains lead from p(h) to p(h | x) through p_t(h) = p(h) p(x | h)^beta_t / Z_t, 0 = beta_0 < .. <
beta_T = 1. With h_0 ~ p(h) and h_t from a transition that leaves p_t as it is,

    log w = sum_{t=1..T} (beta_t - beta_{t-1}) log p(x | h_{t-1}),        E w = p(x)

so that log (1/C) sum_c w_c of C chains lies below log p(x) in expectation, by Jensen: a model can
only look worse than it is. The same chain backwards, from an h ~ p(h | x), has E 1/w = 1/p(x), and
-log (1/C) sum_c 1/w_c lies above. p(h | x) is known where x itself was drawn with h: the gap
between the two, on data of the model, bounds what the lower one misses there.

Weights are only exact where transitions do not depend on the chains: step sizes are learned by
chains of their own, with their own random numbers, and then fixed, one for each image and
temperature.
Source: Neal 2001, Eq. 3 and 11; Grosse, Ghahramani, Adams 2015 (both directions); Wu, Burda,
Salakhutdinov, Grosse 2017, sections 3 and 4 (decoders, Hamiltonian dynamics, the schedule).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.metrics.latents import Latents
from gendae.metrics.precision import full_precision
from gendae.metrics.transitions import Draws, Hamiltonian, State, Target, Transition, transitions
from gendae.models.stack import Stack

SCHEDULES = ("sigmoid", "linear")
#: The sigmoid's argument goes from -4 to 4, as Wu et al.'s.
REACH = 4.0
#: Chains (images x chains) at a time; more do not run faster on a CPU.
ROWS = 2000
#: The share of Hamiltonian moves to be taken, at which a step size stays as it is.
ACCEPTANCE = 0.65
#: Chains of each image that learn the step sizes, and how fast log e follows them.
PILOTS = 2
RATE = 0.2
FIRST_STEP = 0.5
#: Transitions that step sizes are learned in at least, where there are few temperatures.
LEARNING = 50
#: Random numbers of an image drawn at a time, about.
BUFFER = 2**13


class Annealed(NamedTuple):
    """Estimates of log p(x), in nats.

    Attributes:
        mean: over images.
        se: standard error of the mean over images, from their deviation (n - 1); NaN of one
            image.
        values: of each image, (n,), in float64 in CPU memory.
        acceptance: share of the moves that were taken.
        effective: effective number of chains of an image, (sum w)^2 / sum w^2, the mean over
            images: near 1, one chain has all the weight, and the estimate may be far off.
        law: which density it is.
    """

    mean: float
    se: float
    values: Tensor
    acceptance: float
    effective: float
    law: str


class Gap(NamedTuple):
    """Both estimates for x that the model drew.

    Attributes:
        lower, upper: the estimates, below and above log p(x) in expectation.
        mean: of upper - lower over images: what the lower one misses on such data at most, in
            expectation.
        se: its standard error, NaN of one image.
        x: the images, (n, width of x).
    """

    lower: Annealed
    upper: Annealed
    mean: float
    se: float
    x: Tensor


def untold(share: float) -> None:
    """A share is done, and nobody is told."""


def inverse_temperatures(temperatures: int, schedule: str = "sigmoid") -> list[float]:
    """beta_0 = 0 .. beta_T = 1 for T temperatures.

    "linear": beta_t = t / T. "sigmoid": s(4 (2t/T - 1)), moved and scaled to [0, 1], with small
    steps at both ends.
    Source: Wu et al. 2017, appendix (sigmoidal schedule).

    Raises:
        ValueError: for fewer than one temperature, or an unknown schedule.

    Example:
        >>> inverse_temperatures(2, "linear")
        [0.0, 0.5, 1.0]
        >>> [round(beta, 3) for beta in inverse_temperatures(4)]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    checks.whole("temperatures", temperatures, 1, checks.REPEATS)
    checks.one_of("schedule", schedule, SCHEDULES)
    shares = [t / temperatures for t in range(temperatures + 1)]
    if schedule == "linear":
        return shares

    # the sigmoid is (1 + tanh) / 2, whose ends are symmetric
    end = math.tanh(REACH / 2.0)
    return [0.5 + 0.5 * math.tanh(REACH / 2.0 * (2.0 * s - 1.0)) / end for s in shares]


@checks.takes_arrays
@full_precision()
def annealed_log_prob(
    stack: Stack,
    x: Tensor,
    chains: int = 16,
    temperatures: int = 2000,
    *,
    schedule: str = "sigmoid",
    steps: int = 10,
    sigma_x: float | None = None,
    hidden: str = "drawn",
    generator: Generator | None = None,
    rows: int = ROWS,
    told: Callable[[float], None] = untold,
) -> Annealed:
    """Stochastic lower bound on log p(x) by annealed importance sampling, for each image.

    log (1/C) sum_c w_c, with E w_c = p(x): no encoder takes part, and none can be blamed.
    Source: Neal 2001; Wu et al. 2017, section 3. See `gendae.metrics.annealed`.

    Args:
        stack: with a fitted prior that has a density.
        x: images, (n, width of x): bits, where the law of x is one of bits.
        chains: C of each image.
        temperatures: T; 1 is plain importance sampling from p(h).
        schedule: "sigmoid" or "linear", see `inverse_temperatures`.
        steps: leapfrog steps of a transition, or changes of bits and classes that it proposes.
        sigma_x: in pixel units; N(g_1(h_1), sigma_x^2 I) takes the place of the law of x.
        hidden: "drawn": h_l ~ p(h_l | h_{l+1}) at all stochastic levels (2015, Eq. 7); "means":
            h_l = g_{l+1}(h_{l+1}), the density p(x | h_L) p(h_L) of the decoder as a whole.
        generator: of all random numbers; the global one if None. An image's are its own: they
            depend on neither the other images nor `rows`.
        rows: chains held at a time.
        told: called with the share that is done, from 0 to 1.

    Raises:
        NoDensityError: (a ValueError) for a prior or laws without a density, and grey x where
            they give probabilities of bits.
        ValueError: for counts below 1, an unknown schedule or `hidden`, no images, NaN, and x of
            another width.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(torch.randn(20, 4))
        >>> result = annealed_log_prob(stack, torch.rand(3, 8), 4, 9, steps=1, sigma_x=0.3)
        >>> result.values.shape, result.law
        (torch.Size([3]), 'x ~ N(g_1(h_1), 0.3^2 I), integrated over h_1, h_2')
    """
    latents = Latents(stack, sigma_x, hidden)
    run = Run(latents, chains, inverse_temperatures(temperatures, schedule), steps, rows)
    x = latents.check(x).to(stack.device)
    seeds = _seeds(len(x), generator)
    progress = Progress(told, len(x) * run.moves(directions=1))

    parts = []
    for images, own in _batches(x, seeds, run):
        sizes = run.step_sizes(images, own[0], progress)
        parts.append(run.forward(images, sizes, own[1], progress))

    return _annealed(parts, 1.0, latents.law)


@full_precision()
def annealed_gap(
    stack: Stack,
    n: int = 100,
    chains: int = 16,
    temperatures: int = 2000,
    *,
    schedule: str = "sigmoid",
    steps: int = 10,
    sigma_x: float | None = None,
    hidden: str = "drawn",
    generator: Generator | None = None,
    rows: int = ROWS,
    told: Callable[[float], None] = untold,
) -> Gap:
    """Bidirectional Monte Carlo: log p(x) from below and above, on x that the model drew.

    (h, x) ~ p(x, h), and so h ~ p(h | x), where the chains start that go backwards.
    Source: Grosse, Ghahramani, Adams 2015; Wu et al. 2017, section 4.

    Args:
        n: how many images are drawn.
        stack, chains, temperatures, schedule, steps, sigma_x, hidden, generator, rows, told: see
            `annealed_log_prob`.

    Raises:
        ValueError: see `annealed_log_prob`.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> _ = stack.prior.fit(torch.randn(20, 4))
        >>> gap = annealed_gap(stack, 5, 4, 9, steps=1, hidden="means")
        >>> gap.x.shape, gap.lower.law == gap.upper.law
        (torch.Size([5, 8]), True)
    """
    checks.whole("n", n, 1)
    latents = Latents(stack, sigma_x, hidden)
    run = Run(latents, chains, inverse_temperatures(temperatures, schedule), steps, rows)
    seeds = _seeds(n, generator)
    h, x = _drawn(latents, seeds[3])
    progress = Progress(told, n * run.moves(directions=2))

    lower = []
    upper = []
    for (images, own), starts in zip(_batches(x, seeds, run), h.split(run.images), strict=True):
        sizes = run.step_sizes(images, own[0], progress)
        lower.append(run.forward(images, sizes, own[1], progress))
        upper.append(run.backward(images, starts, sizes, own[2], progress))

    below = _annealed(lower, 1.0, latents.law)
    above = _annealed(upper, -1.0, latents.law)
    mean, se = _mean(above.values - below.values)

    return Gap(below, above, mean, se, x.cpu())


class Progress:
    """The share of all moves of chains that are done."""

    def __init__(self, told: Callable[[float], None], total: int) -> None:
        self.told = told
        self.total = max(total, 1)
        self.done = 0

    def __call__(self, rows: int) -> None:
        """So many chains have moved once."""
        self.done += rows
        self.told(min(self.done / self.total, 1.0))


class Noise:
    """Random numbers of some images, each from a generator of its own.

    They come some transitions at a time: a generator is asked for many at once, and how many
    depends on nothing but the chains of one image.

    Args:
        generators: of the images.
        chains: of each image.
        moves: what the numbers are for.
        count: of transitions, each with all of these moves.
        like: a tensor of their device and type.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        chains: int,
        moves: Sequence[Transition],
        count: int,
        like: Tensor,
    ) -> None:
        self.generators = generators
        self.chains = chains
        self.normals = [move.normals for move in moves]
        self.uniforms = [move.uniforms for move in moves]
        self.like = like

        numbers = chains * max(sum(self.normals) + sum(self.uniforms), 1)
        self.ahead = max(1, min(BUFFER // numbers, count))
        self.used = self.ahead
        self.buffers: tuple[Tensor, Tensor] | None = None

    def __call__(self) -> list[Draws]:
        """Those of the next transition, for each of its moves."""
        if self.buffers is None or self.used == self.ahead:
            self.buffers = (
                self._drawn(torch.randn, self.normals),
                self._drawn(torch.rand, self.uniforms),
            )
            self.used = 0

        normal, uniform = (buffer[:, self.used].flatten(0, 1) for buffer in self.buffers)
        self.used += 1
        pairs = zip(normal.split(self.normals, 1), uniform.split(self.uniforms, 1), strict=True)
        return [Draws(*pair) for pair in pairs]

    def _drawn(self, law: Callable[..., Tensor], columns: list[int]) -> Tensor:
        shape = (self.ahead, self.chains, sum(columns))
        draws = [law(shape, generator=g, dtype=self.like.dtype) for g in self.generators]
        return torch.stack(draws).to(self.like.device)


class Chains(NamedTuple):
    """What chains came to.

    Attributes:
        log_w: log weights, (images, chains), in float64.
        taken: the mean share of moves that were taken.
    """

    log_w: Tensor
    taken: float


class Run:
    """Chains of some images through the temperatures, one way or the other.

    Args:
        latents: of the model.
        chains: of each image.
        betas: inverse temperatures, from 0 to 1.
        steps: of a transition.
        rows: chains held at a time.
    """

    def __init__(
        self, latents: Latents, chains: int, betas: list[float], steps: int, rows: int
    ) -> None:
        self.latents = latents
        self.chains = checks.whole("chains", chains, 1)
        self.betas = betas
        self.transitions = transitions(latents, checks.whole("steps", steps, 1))
        self.images = max(1, checks.whole("rows", rows, 1) // chains)
        self.learns = isinstance(self.transitions[0], Hamiltonian)

    def moves(self, directions: int) -> int:
        """Moves of all chains of one image, those that learn step sizes among them."""
        total = directions * self.chains * (len(self.betas) - 2)
        if self.learns:
            total += PILOTS * self.repeats * (len(self.betas) - 2)

        return total

    @property
    def repeats(self) -> int:
        """Transitions at each temperature that step sizes are learned in."""
        return -(-LEARNING // max(len(self.betas) - 2, 1))

    def step_sizes(self, x: Tensor, seeds: Sequence[int], progress: Progress) -> Tensor:
        """e of each temperature and image, (T + 1, images); without use for bits alone.

        log e follows the acceptance of a few chains, up where it is above 0.65 and down where it
        is below.
        Source: Robbins and Monro 1951; Wu et al. 2017, appendix (step sizes adapted as it runs).
        """
        log_e = torch.full((len(x),), math.log(FIRST_STEP), dtype=torch.float64, device=x.device)
        sizes = log_e.exp().repeat(len(self.betas), 1)
        if not self.learns or len(self.betas) < 3:
            return sizes

        target, state, noise = self._begin(x, PILOTS, seeds, self.repeats)
        for t in range(1, len(self.betas) - 1):
            for _ in range(self.repeats):
                step = log_e.exp().repeat_interleave(PILOTS)
                state, taken = self._moved(target, state, t, step, noise())
                log_e = log_e + RATE * (taken[0].view(-1, PILOTS).mean(1) - ACCEPTANCE)
                progress(len(state.h))

            sizes[t] = log_e.exp()

        return sizes

    def forward(
        self, x: Tensor, sizes: Tensor, seeds: Sequence[int], progress: Progress
    ) -> Chains:
        """From p(h) to p(h | x): E w = p(x)."""
        target, state, noise = self._begin(x, self.chains, seeds, repeats=1)
        order = list(range(1, len(self.betas) - 1))

        return self._annealed(target, state, order, sizes, noise, progress)

    def backward(
        self, x: Tensor, h: Tensor, sizes: Tensor, seeds: Sequence[int], progress: Progress
    ) -> Chains:
        """From h ~ p(h | x), (images, width), to p(h): E 1/w = 1/p(x)."""
        target = Target(self.latents, x.repeat_interleave(self.chains, 0))
        state = target.at(h.repeat_interleave(self.chains, 0))
        noise = self._noise(_generators(seeds), self.chains, x, repeats=1)
        order = list(range(len(self.betas) - 2, 0, -1))

        return self._annealed(target, state, order, sizes, noise, progress, backwards=True)

    def _begin(
        self, x: Tensor, chains: int, seeds: Sequence[int], repeats: int
    ) -> tuple[Target, State, Noise]:
        """Chains at draws from p(h)."""
        generators = _generators(seeds)
        target = Target(self.latents, x.repeat_interleave(chains, 0))
        h = torch.cat([self.latents.draw(chains, generator) for generator in generators])

        return target, target.at(h), self._noise(generators, chains, x, repeats)

    def _noise(
        self, generators: list[Generator], chains: int, like: Tensor, repeats: int
    ) -> Noise:
        count = repeats * (len(self.betas) - 2)
        return Noise(generators, chains, self.transitions, count, like)

    def _annealed(
        self,
        target: Target,
        state: State,
        order: list[int],
        sizes: Tensor,
        noise: Noise,
        progress: Progress,
        backwards: bool = False,
    ) -> Chains:
        """Weights of chains that move at these temperatures, in this order."""
        rises = [high - low for low, high in zip(self.betas, self.betas[1:], strict=False)]
        if backwards:
            rises = rises[::-1]

        log_w = torch.zeros_like(state.log_x, dtype=torch.float64)
        taken = log_w.new_zeros(())
        for rise, t in zip(rises, order, strict=False):
            log_w = log_w + rise * state.log_x.double()
            step = sizes[t].repeat_interleave(self.chains)
            state, shares = self._moved(target, state, t, step, noise(), backwards)
            taken = taken + torch.stack(shares).mean()
            progress(len(log_w))

        log_w = log_w + rises[-1] * state.log_x.double()
        return Chains(log_w.view(-1, self.chains), taken.item() / max(len(order), 1))

    def _moved(
        self,
        target: Target,
        state: State,
        t: int,
        step: Tensor,
        draws: list[Draws],
        backwards: bool = False,
    ) -> tuple[State, list[Tensor]]:
        """All moves at one temperature, and the shares of them that were taken."""
        moves = list(zip(self.transitions, draws, strict=True))
        if backwards:
            moves = moves[::-1]

        shares = []
        for move, numbers in moves:
            state, taken = move(target, state, self.betas[t], step, numbers)
            shares.append(taken)

        return state, shares


def _seeds(n: int, generator: Generator | None) -> list[list[int]]:
    """Seeds of each image's step sizes, of its chains one way and the other, and of itself."""
    device = torch.device("cpu") if generator is None else generator.device
    seeds = torch.randint(checks.MOST_SEED, (n, 4), generator=generator, device=device)
    return seeds.T.tolist()


def _generators(seeds: Sequence[int]) -> list[Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _batches(x: Tensor, seeds: list[list[int]], run: Run) -> list[tuple[Tensor, list[list[int]]]]:
    """Images, and their seeds, as many as are computed with at a time."""
    starts = range(0, len(x), run.images)
    return [(x[i : i + run.images], [own[i : i + run.images] for own in seeds]) for i in starts]


def _drawn(latents: Latents, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """One (h, x) of each seed from p(x, h)."""
    codes = []
    images = []
    for generator in _generators(seeds):
        h = latents.draw(1, generator)
        codes.append(h)
        images.append(latents.draw_x(h, generator))

    return torch.cat(codes), torch.cat(images)


def _annealed(parts: list[Chains], sign: float, law: str) -> Annealed:
    """What chains say of log p(x): sign 1 of those from p(h), -1 of those that go backwards."""
    log_w = sign * torch.cat([part.log_w for part in parts]).cpu()
    values = sign * (log_w.logsumexp(1) - math.log(log_w.shape[1]))
    effective = (2.0 * log_w.logsumexp(1) - (2.0 * log_w).logsumexp(1)).exp()

    images = sum(len(part.log_w) for part in parts)
    taken = sum(part.taken * len(part.log_w) for part in parts) / images
    mean, se = _mean(values)

    return Annealed(mean, se, values, taken, effective.mean().item(), law)


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean, and its standard error, which one value does not have."""
    if len(values) == 1:
        return values.item(), math.nan
    return values.mean().item(), values.std().item() / math.sqrt(len(values))
