"""Bounds on log p(x) of the directed model p(x | h_1) .. p(h_{L-1} | h_L) p(h_L), or log p(x).

Unlike the Parzen score, which looks at samples alone, these bounds ask the model itself. They say
nothing about GENERATE or a Markov chain, whose law has no density in closed form. Their value
depends on the width of the observation law: compare only numbers with the same `sigma_x`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.laws import Bernoulli, Gaussian, Law
from gendae.layers.invertible import InvertiblePair
from gendae.layers.pair import Pair
from gendae.metrics.precision import full_precision
from gendae.models.stack import Stack

#: What hidden levels below the top are: drawn from their laws, or their means.
HIDDEN = ("drawn", "means")
#: Rows (images x importance samples) computed at a time; more do not run faster on a CPU.
ROWS = 1000
#: A sample whose weight is e^-60 of another one's does not show in a sum in float64.
NEGLIGIBLE = 60.0


class NoDensityError(ValueError):
    """The model has no density; the message says why."""


def require_density(stack: Stack, hidden: str = "drawn") -> None:
    """Raise a NoDensityError as `check_densities` does; a ValueError before the prior's fit."""
    check_densities(stack, hidden)
    stack.prior.require_fitted()


def check_densities(stack: Stack, hidden: str = "drawn") -> None:
    """Raise a NoDensityError unless p(h_L) has a density and all layers are stochastic.

    Where hidden levels are means, x and h_L alone have to be.
    """
    if not stack.prior.has_density:
        raise NoDensityError(
            f"prior={type(stack.prior).__name__} has no density, and so the model no bound "
            "on log p(x); use a prior with one, such as GaussianPrior"
        )

    latent = range(1, stack.depth + 1) if hidden == "drawn" else [stack.depth]
    _require_stochastic(stack, latent)
    _require_same_units(stack, latent)


def _require_stochastic(stack: Stack, latent: Sequence[int]) -> None:
    """Raise a NoDensityError for deterministic units of x and the levels that are latent."""
    for level, pair in enumerate(stack.pairs, 1):
        laws: list[tuple[str, Law]] = []
        if level in latent:
            blocks = pair.recognition.blocks(pair.f.out_features)
            laws += (("recognition", law) for law, _ in blocks)
        if level == 1 or level - 1 in latent:
            blocks = pair.observation.blocks(pair.g.out_features)
            laws += (("observation", law) for law, _ in blocks)

        for name, part in laws:
            if not part.stochastic:
                raise NoDensityError(
                    f"{name}={type(part).__name__} of pair {level}: deterministic units have "
                    "no density, and so the model no bound on log p(x)"
                )


def _require_same_units(stack: Stack, latent: Sequence[int]) -> None:
    """Raise a NoDensityError where one law of h_l is a density and the other is not."""
    above = [*(pair.observation for pair in stack.pairs[1:]), stack.prior]
    for level, (pair, law) in enumerate(zip(stack.pairs, above, strict=True), 1):
        if level in latent and pair.recognition.discrete != law.discrete:
            raise NoDensityError(
                f"h_{level} has a density on one side and probabilities of bits on the other "
                f"({type(pair.recognition).__name__}, {type(law).__name__}): p / q means "
                "nothing; give both the same kind of units"
            )


def with_sigma_x(stack: Stack, sigma_x: float) -> Stack:
    """The same stack, sharing all layers, with p(x | h_1) = N(g_1(h_1), sigma_x^2 I)."""
    first = stack.pairs[0]
    bottom = Pair(first.f, first.g, observation=Gaussian(sigma_x), recognition=first.recognition)
    return Stack(bottom, *stack.pairs[1:], prior=stack.prior)


@checks.takes_arrays
@full_precision()
def exact_log_prob(stack: Stack, x: Tensor) -> Tensor:
    """log p(x) of a stack of perfect auto-encoders, in nats, (batch,).

    log p(x) = log p(h_L) + sum_l log |det df_l / dh_{l-1}|,   h_l = f_l(h_{l-1})

    It is the density of x = g_1(.. g_L(h_L)), decoded from draws of the prior. A prior with mass
    where f_L gives no values leaves that mass out: a last layer that is linear gives any.
    Gradients reach all parameters.
    Source: Bengio 2014, sections 6 and 7.2 (an invertible map to a simple top).

    Args:
        stack: all of its pairs are `InvertiblePair`s of real units; the prior is fitted and has a
            density.
        x: (batch, width).

    Raises:
        ValueError: for another kind of pair or prior, and x of another width.

    Example:
        >>> from gendae.priors.factorial import FactorialPrior
        >>> pair = InvertiblePair(2, activation="linear")
        >>> stack = Stack(pair, prior=FactorialPrior("gaussian").fit(torch.randn(9, 2)))
        >>> x = torch.randn(3, 2)
        >>> given_codes = stack.prior.log_prob(pair.f(x)) + pair.f.log_det_of_weights()
        >>> torch.allclose(exact_log_prob(stack, x), given_codes)
        True
    """
    for level, pair in enumerate(stack.pairs, 1):
        if not isinstance(pair, InvertiblePair) or pair.recognition.hard:
            raise NoDensityError(
                f"pair {level} is a {type(pair).__name__}; log p(x) is known where all pairs are "
                "InvertiblePairs of real units: use importance_weighted_bound"
            )
    if not stack.prior.has_density or stack.prior.discrete:
        raise NoDensityError(
            f"prior={type(stack.prior).__name__} has no density of real units, and so the model "
            "none of x"
        )

    h = stack.encode(x)
    log_p = stack.prior.log_prob(h[-1])
    for pair, below in zip(stack.pairs, h, strict=False):
        log_p = log_p + pair.f.log_det(below)

    return log_p


@checks.takes_arrays
@full_precision()
@torch.no_grad()
def importance_weighted_bound(
    stack: Stack,
    x: Tensor,
    k: int = 1000,
    sigma_x: float | None = None,
    generator: Generator | None = None,
    rows: int = ROWS,
    hidden: str = "drawn",
) -> Tensor:
    """Lower bound on log p(x) from k samples of Q, for each image.

    L_k(x) = log (1/k) sum_j p(x, h_j) / q(h_j | x),  h_j ~ Q(h | x)

    E L_k <= E L_{k+1} <= log p(x). k = 1 is the variational bound in expectation. Equality holds
    for any k where Q is the exact posterior.
    The sum is streamed in float64: memory grows neither with k nor with the number of images.
    Source: Burda, Grosse, Salakhutdinov 2016, Eq. 8; p and q as in Bengio et al. 2015, Eq. 7.

    Args:
        stack: with a fitted prior that has a density, and stochastic layers.
        x: images, (n, width of x).
        k: importance samples for each image.
        sigma_x: in pixel units; N(g_1(h_1), sigma_x^2 I) takes the place of the observation law of
            x. None keeps the stack's own law.
        generator: of the samples; the global one if None.
        rows: images x samples held at a time.
        hidden: "drawn": every level is latent; "means": h_L alone, around f_L(.. f_1(x)) and
            decoded by means, as for `annealed_log_prob`: the density of another model.

    Returns:
        Nats in float64, (n,), in CPU memory.

    Raises:
        NoDensityError: (a ValueError) for a prior or layers without a density.
        ValueError: for a prior that is not fitted, k < 1, sigma_x <= 0, an unknown `hidden`, or
            another width of x.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> stack = deep_autoencoder([8, 6, 4])
        >>> x = torch.rand(20, 8)
        >>> _ = stack.prior.fit(stack.encode(x)[-1])
        >>> importance_weighted_bound(stack, x, k=10, sigma_x=0.3).shape
        torch.Size([20])
    """
    checks.whole("k", k, 1)
    checks.whole("rows", rows, 1)
    checks.one_of("hidden", hidden, HIDDEN)
    x = checks.width("x", x, stack.sizes[0])
    if sigma_x is not None:
        stack = with_sigma_x(stack, checks.at_least("sigma_x", sigma_x, 0.0, strict=True))

    require_density(stack, hidden)
    if len(x) == 0:
        return torch.empty(0, dtype=torch.float64)

    bounds = []
    images = max(1, rows // k)
    for batch in x.split(images):
        bound = _bound(stack, batch.to(stack.device), k, rows, generator, hidden)
        bounds.append(bound.cpu())

    return torch.cat(bounds)


def draw_q(
    stack: Stack, x: Tensor, samples: int, generator: Generator | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`Stack.sample_q` of each image `samples` times, and log q(h | x).

    f_1 runs once for each image.
    """
    h = [x.repeat_interleave(samples, 0)]
    log_q = 0.0
    for level, pair in enumerate(stack.pairs):
        given = h[-1]
        if level == 0:
            mean = pair.f(x).repeat_interleave(samples, 0)
        else:
            mean = pair.f(given)

        sample = pair.recognition.sample(mean, generator, given)
        log_q = log_q + pair.recognition.log_prob(sample, mean, given)
        h.append(sample)

    return tuple(h), log_q


def draw_top(
    stack: Stack, x: Tensor, samples: int, generator: Generator | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """h_L of each image `samples` times, around f_L(.. f_1(x)), below x; and log q(h_L | x)."""
    top = stack.pairs[-1]
    below = stack.encode(x)[-2]
    given = below.repeat_interleave(samples, 0)
    mean = top.f(below).repeat_interleave(samples, 0)
    sample = top.recognition.sample(mean, generator, given)

    log_q = top.recognition.log_prob(sample, mean, given)
    return (x.repeat_interleave(samples, 0), sample), log_q


def _bound(
    stack: Stack, x: Tensor, k: int, rows: int, generator: Generator | None, hidden: str
) -> Tensor:
    """L_k of a few images: log-weights of some samples at a time, added up by log-sum-exp."""
    draw = draw_q if hidden == "drawn" else draw_top
    total = None
    for start in range(0, k, rows):
        samples = min(rows, k - start)
        h, log_q = draw(stack, x, samples, generator)
        part = _log_weights(stack, h, log_q, samples).logsumexp(1)
        if total is None:
            total = part
        else:
            total = torch.logaddexp(total, part)

    return total - math.log(k)


def _log_weights(stack: Stack, h: tuple[Tensor, ...], log_q: Tensor, samples: int) -> Tensor:
    """log p(x, h) / q(h | x), (images, samples); -inf for samples that are negligible.

    h holds all levels, or x and h_L alone, whose means are decoded.
    p(x | h_1) costs more than all the rest, and cannot exceed `_highest`. Samples that would be
    negligible even then are left out: in a wide model nearly all of them.
    """
    bottom = stack.pairs[0]
    x, h_1 = h[:2]
    decode = bottom.g if len(h) > 2 else stack.decode
    rest = _log_above(stack, h) - log_q.double()

    def weights(rows: Tensor) -> Tensor:
        log_p = bottom.observation.log_prob(x[rows], decode(h_1[rows]))
        return log_p.double() + rest[rows]

    most = rest + _highest(bottom.observation, x[::samples]).repeat_interleave(samples)
    first = torch.arange(0, len(rest), samples, device=rest.device)
    promising = first + most.view(-1, samples).argmax(1)
    enough = weights(promising).repeat_interleave(samples) - NEGLIGIBLE

    counts = ~(most < enough)  # NaN counts
    log_weights = torch.full_like(rest, -math.inf)
    log_weights[counts] = weights(counts)
    return log_weights.view(-1, samples)


def _log_above(stack: Stack, h: tuple[Tensor, ...]) -> Tensor:
    """log p(h_1 .. h_L), or log p(h_L) of h_L alone, in float64."""
    total = stack.prior.log_prob(h[-1]).double()
    for pair, low, high in zip(stack.pairs[1:], h[1:], h[2:], strict=False):
        total = total + pair.observation.log_prob(low, pair.g(high)).double()

    return total


def _highest(law: Law, x: Tensor) -> Tensor:
    """The log-probability of x that no mean exceeds, (batch,); infinite where none is known."""
    if type(law) in (Gaussian, Bernoulli):
        return law.log_prob(x, x).double()

    return torch.full(x.shape[:1], math.inf, dtype=torch.float64, device=x.device)
