"""Named architectures of convolutions: functions that only compose layers into stacks."""

from collections.abc import Sequence
from itertools import pairwise

from gendae import checks
from gendae.laws import OBSERVATIONS, UNITS, Discrete, Law
from gendae.layers.affine import Affine
from gendae.layers.conv import Conv, Pool
from gendae.layers.layers import Layers
from gendae.layers.pair import Pair
from gendae.models.classifier import Classifier
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior


def conv_autoencoder(
    shape: Sequence[int] = (1, 28, 28),
    channels: Sequence[int] = (32, 64),
    sizes: Sequence[int] = (20,),
    kernel: int = 4,
    stride: int = 2,
    padding: int = 1,
    activation: str = "relu",
    top: str = "linear",
    visible: str = "sigmoid",
    observation: str = "gaussian",
    gain: float = 1.0,
    init: str = "normal",
    prior: Prior | None = None,
    settings: Settings | None = None,
) -> Stack:
    """Convolutions, each with a transposed convolution as decoder, under affine layers.

    Args:
        shape: (channels, height, width) of x.
        channels: of the convolutions h_1, h_2, ..
        sizes: widths of the affine layers above them.
        kernel, stride, padding: of all convolutions, see `Conv`.
        activation: of all layers but the top, and of the decoders that give them.
        top: activation of the top.
        visible: activation of the decoder that gives x; sigmoid for pixels in [0, 1].
        observation: law of x around g_1: gaussian (unit variance) or bernoulli.
        gain, init: of all weights at the start, see `Affine`.
        prior: P(h_L); the diagonal Gaussian of 2015 if None.
        settings: see `Stack`.

    Raises:
        ValueError: without layers, for unknown names, and for sides that do not fit, see `Conv`.

    Example:
        >>> stack = conv_autoencoder((1, 28, 28), [32, 64], [20])
        >>> stack.shapes
        [(1, 28, 28), (32, 14, 14), (64, 7, 7), (20,)]
    """
    channels = checks.wholes("channels", channels, 1)
    sizes = checks.wholes("sizes", sizes, 1)
    if not channels:
        raise ValueError("channels=[]: at least one convolution is needed")

    count = len(channels) + len(sizes)
    of_code = [activation] * (count - 1) + [top]
    law: Law | None = OBSERVATIONS[checks.one_of("observation", observation, OBSERVATIONS)]()

    pairs: list[Pair] = []
    names = pairwise([visible, *of_code])
    for number, (below, above) in zip(channels, names, strict=False):
        conv = Conv(shape, number, kernel, stride, padding, above, gain, init)
        pairs.append(Pair(conv, conv.partner(below, gain, init), observation=law))
        shape = conv.out_shape
        law = None

    widths = pairwise([pairs[-1].f.out_features, *sizes])
    for (low, high), (below, above) in zip(widths, names, strict=True):
        f = Affine(low, high, above, gain, init)
        pairs.append(Pair(f, Affine(high, low, below, gain, init)))

    return Stack(*pairs, prior=prior, settings=settings)


def lenet(
    shape: Sequence[int] = (1, 28, 28),
    channels: Sequence[int] = (16, 32),
    kernel: int = 5,
    paddings: Sequence[int] = (2, 0),
    pooling: str = "max",
    sizes: Sequence[int] = (128,),
    classes: int = 10,
    activation: str = "relu",
    units: str | None = None,
    stochastic: bool = False,
    gain: float = 1.0,
    init: str = "normal",
    settings: Settings | None = None,
) -> Classifier:
    """Convolutions, each pooled by two, under affine layers: a small network for small images.

    Each convolution with its pooling is one f_l. Its g_l copies each number over the window that
    it came from, and goes on with a transposed convolution.
    Source: LeCun et al. 1998.

    Args:
        shape: (channels, height, width) of x.
        channels: of the convolutions.
        kernel: of all of them, see `Conv`.
        paddings: of each.
        pooling: "max" or "mean", over windows of 2 x 2.
        sizes: widths of the affine layers below the output.
        classes: number of classes.
        activation: of all hidden layers, and of the decoders.
        units: "sign" or "binary": discrete hidden units, whose activation is then fixed; None for
            real ones.
        stochastic: draw discrete units instead of taking the more probable value.
        gain, init: of all weights at the start, see `Affine`.
        settings: see `Stack`.

    Raises:
        ValueError: without layers, for unknown names, lists of unlike lengths, and for sides that
            do not fit, see `Conv` and `Pool`.

    Example:
        >>> network = lenet()
        >>> network.shapes
        [(1, 28, 28), (16, 14, 14), (32, 5, 5), (128,)]
        >>> network.classes
        10
    """
    channels = checks.wholes("channels", channels, 1)
    paddings = checks.wholes("paddings", paddings, 0)
    sizes = checks.wholes("sizes", sizes, 1)
    if len(paddings) != len(channels) or not channels:
        raise ValueError(
            f"paddings={paddings}: one for each of channels={channels} is needed, and "
            "one of these at least"
        )
    law, activation = _hidden_units(units, stochastic, activation)

    pairs: list[Pair] = []
    for number, padding in zip(channels, paddings, strict=True):
        conv = Conv(shape, number, kernel, 1, padding, activation, gain, init)
        pool = Pool(conv.out_shape, 2, pooling)
        back = conv.partner(activation, gain, init)

        g = Layers([pool.partner(), back])
        pairs.append(Pair(Layers([conv, pool]), g, recognition=law))
        shape = pool.out_shape

    for low, high in pairwise([pairs[-1].f.out_features, *sizes]):
        f = Affine(low, high, activation, gain, init)
        pairs.append(Pair(f, Affine(high, low, activation, gain, init), recognition=law))

    output = Affine(pairs[-1].f.out_features, classes, "linear", gain, init)
    return Classifier(*pairs, output=output, settings=settings)


def _hidden_units(
    units: str | None, stochastic: bool, activation: str
) -> tuple[Discrete | None, str]:
    """The law of hidden units, if they are discrete, and their activation."""
    if units is not None:
        law = Discrete(checks.one_of("units", units, UNITS), stochastic)
        return law, UNITS[units][1]
    if stochastic:
        raise ValueError("stochastic=True needs units")

    return None, activation
