"""Named architectures: functions that only compose layers into stacks."""

from collections.abc import Sequence
from itertools import pairwise

from gendae import checks
from gendae.layers import Affine, Bernoulli, Gaussian, Pair
from gendae.priors import Prior
from gendae.stack import Stack

OBSERVATIONS = {"gaussian": Gaussian, "bernoulli": Bernoulli}


def deep_autoencoder(
    sizes: Sequence[int] = (784, 1000, 100),
    activations: Sequence[str] | None = None,
    visible: str = "sigmoid",
    observation: str = "gaussian",
    gain: float = 1.0,
    prior: Prior | None = None,
) -> Stack:
    """A stack of affine layer pairs; by default the MNIST network of 2015, section 8.

    Args:
        sizes: widths of h_0 .. h_L.
        activations: those of h_1 .. h_L; softplus with a sigmoid top if None (the paper's). The decoder
            that gives h_l has the activation of h_l.
        visible: activation of the decoder that gives x; sigmoid for pixels in [0, 1].
        observation: law of x around g_1: gaussian (unit variance) or bernoulli.
        gain: scale of the initial weights, W ~ N(0, gain^2 / fan-in).
        prior: P(h_L); the paper's diagonal Gaussian if None.

    Raises:
        ValueError: for fewer than two sizes, a wrong number of activations, or unknown names.

    Example:
        >>> deep_autoencoder([64, 200, 50]).sizes
        [64, 200, 50]
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes={list(sizes)} needs at least two widths, those of x and h_1")
    if activations is None:
        activations = ["softplus"] * (len(sizes) - 2) + ["sigmoid"]
    if len(activations) != len(sizes) - 1:
        raise ValueError(f"activations has {len(activations)} entries for {len(sizes) - 1} layers")
    law = OBSERVATIONS[checks.one_of("observation", observation, OBSERVATIONS)]
    names = [visible, *activations]
    pairs = []
    for level, (low, high) in enumerate(pairwise(sizes)):
        f = Affine(low, high, names[level + 1], gain)
        g = Affine(high, low, names[level], gain)
        pairs.append(Pair(f, g, observation=law() if level == 0 else Gaussian()))
    return Stack(*pairs, prior=prior)
