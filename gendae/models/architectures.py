"""Named architectures: functions that only compose layers into stacks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import nn

from gendae import checks
from gendae.laws import (
    OBSERVATIONS,
    UNITS,
    Categorical,
    Discrete,
    Law,
    LearnedGaussian,
)
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.layers.residual import Residual
from gendae.layers.wrapped import anew, as_layer
from gendae.models.blocks import SPREAD, Band, Unchanged, noise_pair
from gendae.models.classifier import Classifier
from gendae.models.convolutional import conv_autoencoder
from gendae.models.filling import Filling, FillingBand
from gendae.models.goodness import GoodnessLayer, GoodnessLogits, Zeros
from gendae.models.joint import JointStack
from gendae.models.label_blocks import LabelBlock, LabelLogits
from gendae.models.labelled import LabelledStack
from gendae.models.modalities import KINDS, Junction, Modality
from gendae.models.recurrent import Cell, EveryStep, LSTMReader, RecurrentPair
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.models.trees import Layout, TreeCell, TreePair
from gendae.priors.base import Prior
from gendae.priors.denoiser import LevelMLP
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.levels import Levels, LogUniformLevels
from gendae.registry import build

#: The width of the data, in the place of a network's first size: `gendae fit` knows it.
AUTO: Literal["auto"] = "auto"
Sizes = Sequence[int | Literal["auto"]]


def deep_autoencoder(
    sizes: Sizes = (AUTO, 1000, 100),
    activations: Sequence[str] | None = None,
    visible: str = "sigmoid",
    observation: str = "gaussian",
    gain: float = 1.0,
    prior: Prior | None = None,
    hidden_f: Sequence[int] = (),
    hidden_g: Sequence[int] = (),
    noise: float | Sequence[float | None] | None = None,
    noise_of_x: bool = False,
    units: str | None = None,
    stochastic: bool = False,
    settings: Settings | None = None,
    init: str = "normal",
    hidden_activation: str = "relu",
) -> Stack:
    """A stack of affine or MLP layer pairs; by default the network of 2015, section 8.

    Args:
        sizes: widths of h_0 .. h_L. In a configuration the first may be "auto", the width of the
            data, which is 784 of MNIST.
        activations: those of h_1 .. h_L; softplus with a sigmoid top if None (the paper's). The
            decoder that gives h_l has the activation of h_l.
        visible: activation of the decoder that gives x; sigmoid for pixels in [0, 1].
        observation: law of x around g_1: gaussian (unit variance) or bernoulli.
        gain: scale of the initial weights, W ~ N(0, gain^2 / fan-in).
        init: of affine layers' weights, see `Affine`.
        prior: P(h_L); the paper's diagonal Gaussian if None.
        hidden_f, hidden_g: widths of hidden layers inside every encoder, every decoder (2014,
            section 6); from input to output.
        hidden_activation: of those layers.
        noise: sigma at the start of learned Gaussian noise on h_l (2014, 7.4), one for all levels
            or one for each; None for none.
        noise_of_x: let log sigma be an affine map of the layer's input.
        units: "sign" or "binary": discrete h_1 .. h_L, whose activations are then fixed; None for
            real ones.
        stochastic: draw discrete units instead of taking the more probable value.
        settings: see `Stack`.

    Raises:
        ValueError: for fewer than two sizes, a width that is not known, a wrong number of
            activations, or unknown names.

    Example:
        >>> deep_autoencoder([64, 200, 50]).sizes
        [64, 200, 50]
        >>> import torch
        >>> deep_autoencoder([64, 32], units="sign").encode(torch.rand(1, 64))[1].abs().sum()
        tensor(32.)
    """
    sizes = _widths(sizes)
    if units is not None:
        _check_units(units, activations=activations, noise=noise)
        activations = [UNITS[units][1]] * (len(sizes) - 1)
    elif activations is None:
        activations = ["softplus"] * (len(sizes) - 2) + ["sigmoid"]
    activations = checks.several("activations", activations)

    if (stochastic and units is None) or (noise_of_x and noise is None):
        raise ValueError("stochastic=True needs units, and noise_of_x=True needs noise")
    if len(activations) != len(sizes) - 1:
        raise ValueError(f"activations has {len(activations)} entries for {len(sizes) - 1} layers")

    noises = _noises(noise, len(activations))
    options = (gain, init, hidden_activation)
    pairs = []
    below: Law | None = OBSERVATIONS[checks.one_of("observation", observation, OBSERVATIONS)]()
    for level, (low, high) in enumerate(pairwise(sizes)):
        learned = _learned_noise(low, high, noises[level], noise_of_x)
        above = learned or _law_of_code(units, stochastic)

        f = _level(low, hidden_f, high, activations[level], *options)
        g = _level(high, hidden_g, low, [visible, *activations][level], *options)
        pairs.append(Pair(f, g, observation=below, recognition=above))
        below = _law_of_code(units, stochastic)

    return Stack(*pairs, prior=prior, settings=settings)


def _widths(sizes: Sizes) -> list[int]:
    """Sizes as widths of two levels at least.

    Example:
        >>> _widths(["auto", 20])
        Traceback (most recent call last):
        ValueError: sizes=['auto', 20]: auto is the width of the data, which gendae fit takes ...
    """
    sizes = checks.several("sizes", sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes={sizes} needs at least two widths, those of x and h_1")

    if AUTO in sizes[1:]:
        raise ValueError(f"sizes={sizes}: only the first, that of the data, may be {AUTO}")
    if AUTO in sizes:
        raise ValueError(
            f"sizes={sizes}: {AUTO} is the width of the data, which gendae fit takes from "
            "them; in Python, give it: data.split('train').x.shape[1]"
        )

    return cast(list[int], sizes)


def _check_units(units: str, **excluded: object) -> None:
    checks.one_of("units", units, UNITS)
    for name, value in excluded.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} and units={units!r} exclude each other: discrete units "
                "have their own activation and noise (stochastic=True)"
            )


def _law_of_code(units: str | None, stochastic: bool) -> Law | None:
    """Law of discrete units; None for real ones, to which a pair gives its default."""
    if units is None:
        return None

    return Discrete(units, stochastic)


def _noises(noise: float | Sequence[float | None] | None, levels: int) -> list[float | None]:
    """One sigma, or none, for each level."""
    if noise is None or isinstance(noise, int | float):
        return [noise] * levels

    each = checks.several("noise", noise)
    if len(each) != levels:
        raise ValueError(f"noise has {len(each)} entries for {levels} layers")
    return each


def _learned_noise(
    low: int, high: int, noise: float | None, noise_of_x: bool
) -> LearnedGaussian | None:
    if noise is None:
        return None

    return LearnedGaussian(high, noise, given=low if noise_of_x else None)


def layer(
    low: int,
    hidden: Sequence[int],
    high: int,
    activation: str,
    gain: float,
    init: str = "normal",
    hidden_activation: str = "relu",
) -> Affine | MLP:
    """An affine layer, or an MLP where it has hidden layers."""
    if hidden:
        return MLP(low, hidden, high, activation, hidden_activation, gain)

    return Affine(low, high, activation, gain, init)


def _level(
    low: int,
    hidden: Sequence[int],
    high: int,
    activation: str,
    gain: float,
    init: str,
    hidden_activation: str,
) -> nn.Module:
    """The same; with softmax, the units of a layer compete."""
    competes = activation == "softmax"
    alone = "linear" if competes else activation
    level = layer(low, hidden, high, alone, gain, init, hidden_activation)

    return Heads(level, ["softmax"], [high]) if competes else level


def denoising_blocks(
    width: int,
    blocks: int = 4,
    levels: Levels | None = None,
    network: nn.Module | None = None,
    spread: float = SPREAD,
    filling: Filling | None = None,
    settings: Settings | None = None,
) -> Stack:
    """A stack whose pairs own equal shares of a law of noise levels, from x up to noise.

    Args:
        width: of x.
        blocks: L, number of pairs.
        levels: law of the levels in training, in units of x; of ln s ~ N(-1.2, 1.2^2) if None.
        network, spread: of each block's denoiser, see `Band`.
        filling: what of an image is given in training, from which blocks learn to fill in the
            rest, see `FillingBand`; None for blocks that see x and noise alone.
        settings: see `Stack`.

    Raises:
        ValueError: see `Band`; for less than one block, and filling of images of another width.

    Example:
        >>> stack = denoising_blocks(64, blocks=3)
        >>> stack.sizes, [round(pair.g.high, 2) for pair in stack.pairs]
        ([64, 64, 64, 64], [0.18, 0.51, 50.29])
    """
    blocks = checks.whole("blocks", blocks, 1, checks.REPEATS)

    bands: list[Band] = []
    for block in range(blocks):
        shares = (block / blocks, (block + 1) / blocks)
        if filling is None:
            bands.append(Band(width, levels, shares, network, spread))
        else:
            bands.append(FillingBand(filling, levels, shares, network, spread))

    if bands[0].features != width:
        raise ValueError(f"filling: images have {bands[0].features} elements, and width={width}")

    prior = GaussianPrior("identity", bands[-1].high ** 2 + spread**2)
    return Stack(*map(noise_pair, bands), prior=prior, settings=settings)


def deep_classifier(
    sizes: Sizes = (AUTO, *[240] * 7),
    classes: int = 10,
    activation: str | None = None,
    feedback: str | None = None,
    gain: float = 1.0,
    feedback_gain: float = 1.0,
    init: str = "orthogonal",
    bits: Sequence[int] = (),
    stochastic: bool = False,
    settings: Settings | None = None,
) -> Classifier:
    """A feed-forward network of affine layers with a feedback path.

    The default is the network of thesis, section 3.3.1.

    Args:
        sizes: widths of h_0 .. h_L; the output layer comes on top. The first may be "auto", see
            `deep_autoencoder`.
        classes: number of classes.
        activation: of all hidden layers; tanh if None, or sigmoid for stochastic units, which need
            it.
        feedback: activation of all decoders; if None that of the hidden layers, or tanh for
            stochastic units.
        gain, feedback_gain: scales of the initial weights of encoders and decoders.
        init: their kind, see `Affine`.
        bits: levels l whose values travel as bits between h_l and h_{l+1}, both ways (3.3.2).
        stochastic: draw binary units with the probability that a sigmoid layer gives (3.3.3).
        settings: see `Stack`.

    Raises:
        ValueError: for fewer than two sizes, a width that is not known, unknown names, or levels
            outside 1 .. L - 1.

    Example:
        >>> deep_classifier([784, 500, 500], bits=[1]).discrete_levels
        [1]
        >>> deep_classifier([784, 200, 200], stochastic=True).discrete_levels
        [1, 2]
    """
    sizes = _widths(sizes)
    bits = checks.several("bits", bits)
    outside = [level for level in bits if not 1 <= level < len(sizes) - 1]
    if outside or (bits and stochastic):
        raise ValueError(
            f"bits={bits}: levels 1 .. {len(sizes) - 2} lie between two hidden layers; "
            "stochastic units send bits anyway"
        )
    if stochastic and activation not in (None, "sigmoid"):
        raise ValueError(
            f"activation={activation!r}: stochastic units need sigmoid, which gives their "
            "probability"
        )

    units = None
    if stochastic:
        units = "binary"
        activation = "sigmoid"
        feedback = feedback or "tanh"
    activation = activation or "tanh"
    feedback = feedback or activation

    pairs = []
    for level, (low, high) in enumerate(pairwise(sizes), 1):
        receives = "bits" if level - 1 in bits else "real"
        f = Affine(low, high, activation, gain, init, receives)
        g = Affine(high, low, feedback, feedback_gain, init, receives)
        pairs.append(Pair(f, g, recognition=_law_of_code(units, stochastic)))

    output = Affine(sizes[-1], classes, "linear", gain, init)
    return Classifier(*pairs, output=output, settings=settings)


def denoising_classifier(
    sizes: Sizes = (AUTO, 400, 200),
    classes: int = 10,
    blocks: int = 3,
    levels: Levels | None = None,
    network: nn.Module | None = None,
    guesses: int = 1,
    steps: int = 3,
    settings: Settings | None = None,
    encoder: nn.Module | None = None,
) -> Classifier:
    """A classifier whose layers take noise from a guess of the label, highest levels first.

    Args:
        sizes: widths of x, and of the layers of each block's own encoder of x; the first may be
            "auto", see `deep_autoencoder`.
        encoder: what takes the place of the encoders of these sizes, such as `Layers` of
            convolutions; each block has a copy with weights of its own.
        classes: number of classes.
        blocks: L, number of layers below the output; they own equal shares of the levels.
        levels: law of the levels in training, in units of one-hot labels; uniform in ln s between
            1 and 6 if None. Below 0.3 the label can be read from the guess alone.
        network: F of each block's denoiser, see `Band`; a `LevelMLP` of one layer of 64 if None.
        guesses: 1 begins as the mean of noise; more begin as draws, and are averaged at the end.
        steps: of each block, see `LabelBlock`.
        settings: see `Stack`.

    Raises:
        ValueError: for fewer than two sizes, a width that is not known, fewer than two classes;
            see `LabelBlock`.

    Example:
        >>> network = denoising_classifier([8, 6, 5], classes=3, blocks=2)
        >>> network.sizes, network.predict(torch.rand(4, 8)).sum(1).round()
        ([8, 11, 11], tensor([1., 1., 1., 1.]))
        >>> from gendae.layers.conv import Conv
        >>> conv = Conv((1, 4, 4), 2, kernel=4, stride=2, padding=1, activation="relu")
        >>> denoising_classifier(classes=3, blocks=2, encoder=conv).sizes
        [16, 19, 19]
    """
    if encoder is None:
        width, *hidden = _widths(sizes)
        draw: Callable[[], nn.Module] = partial(MLP, width, hidden[:-1], hidden[-1], "relu")
        condition = hidden[-1]
    else:
        draw = partial(anew, encoder)
        condition = as_layer(encoder).out_features

    classes = checks.whole("classes", classes, 2)
    blocks = checks.whole("blocks", blocks, 1, checks.REPEATS)
    levels = levels or LogUniformLevels(1.0, 6.0)
    network = network or LevelMLP(64, 1)
    spread = classes**-0.5

    pairs: list[Pair] = []
    for block in reversed(range(blocks)):
        shares = (block / blocks, (block + 1) / blocks)
        band = Band(classes, levels, shares, network, spread, condition=condition)
        f = LabelBlock(draw(), band, guesses, first=not pairs, steps=steps)
        pairs.append(Pair(f, Unchanged(f.out_features, f.in_features)))

    output = LabelLogits(f.out_features, classes, guesses)
    return Classifier(*pairs, output=output, settings=settings)


def goodness_classifier(
    sizes: Sizes = (AUTO, 500, 500),
    classes: int = 10,
    activation: str = "relu",
    gain: float = 1.0,
    init: str = "normal",
    settings: Settings | None = None,
) -> Classifier:
    """A classifier that tries all labels, and answers that under which its units are most active.

    Args:
        sizes: widths of x, and of the hidden layers under one label; the first may be "auto", see
            `deep_autoencoder`.
        classes: number of classes.
        activation: of all hidden layers.
        gain, init: of the initial weights, see `Affine`.
        settings: see `Stack`.

    Raises:
        ValueError: for fewer than two sizes, a width that is not known, fewer than two classes;
            see `GoodnessLayer`.

    Example:
        >>> network = goodness_classifier([8, 6, 5], classes=3)
        >>> network.sizes, network.predict(torch.rand(4, 8)).sum(1).round()
        ([8, 21, 21], tensor([1., 1., 1., 1.]))
    """
    widths = _widths(sizes)

    pairs: list[Pair] = []
    for below, (width, units) in enumerate(pairwise(widths)):
        f = GoodnessLayer(width, units, classes, below, activation, gain, init)
        pairs.append(Pair(f, Zeros(f.out_features, f.in_features)))

    output = GoodnessLogits(f.out_features, classes, len(pairs))
    return Classifier(*pairs, output=output, settings=settings)


def recurrent_classifier(
    width: int,
    steps: int,
    state: int = 100,
    classes: int = 10,
    activation: str = "tanh",
    scale: float | None = None,
    masked: bool = False,
    every_step: bool = False,
    predicts: str = "classes",
    sees_input: bool = True,
    bits: bool = False,
    settings: Settings | None = None,
) -> Classifier:
    """A recurrent network that reads a sequence and then tells its class.

    s_t = s(W s_{t-1} + U x_t + b), with an orthogonal W at the start, so that states neither
    vanish nor explode, and U ~ N(0, 1 / width). With a scale,

    s_t = s_{t-1} + scale * s(W s_{t-1} + U x_t + b), with W = -W' at the start, so that states
    turn and do not vanish (Chang et al. 2019), and feedback of the same form: the choice where
    what decides lies many steps back.

    Args:
        width: of the input x_t of one step.
        steps: T.
        state: width of s_t.
        classes: number of classes.
        activation: s, of the feedback from s_t to s_{t-1} too.
        scale: what one step adds to the state; None for a state that is made anew at each step.
        masked: see `RecurrentPair`.
        every_step: whether it answers at every step, and not at the end alone.
        predicts: "classes" or "values", of which there are as many as `classes`.
        sees_input: whether the feedback from s_t to s_{t-1} is given x_t.
        bits: whether states and inputs travel as bits, 1 where they are positive and 0 elsewhere.
        settings: see `Stack`.

    Raises:
        ValueError: for unknown names and numbers out of range.

    Example:
        >>> import torch
        >>> recurrent_classifier(8, steps=8, classes=10)(torch.rand(5, 64)).shape
        torch.Size([1, 5, 10])
        >>> recurrent_classifier(8, steps=8, classes=3, every_step=True)(torch.rand(5, 64)).shape
        torch.Size([1, 5, 8, 3])
    """
    receives = "bits" if bits else "real"
    if bits and (scale is not None or every_step):
        raise ValueError(
            "bits=True: bits are made anew at each step; accepted: no scale, one answer"
        )

    cell = _cell(width, state, activation, "linear", scale, sees_input, receives)
    pair = RecurrentPair(cell, steps, masked, every_step)
    output = Affine(pair.cell.state, classes, receives=receives)
    if pair.every_step:
        output = EveryStep(pair.f.out_features, classes, pair.steps)

    return Classifier(pair, output=output, predicts=predicts, settings=settings)


def lstm_classifier(
    width: int,
    steps: int,
    state: int = 100,
    classes: int = 10,
    masked: bool = False,
    settings: Settings | None = None,
) -> Classifier:
    """A long short-term memory that reads a sequence and then tells its class: a baseline.

    Args:
        width, steps, state, classes, masked: see `recurrent_classifier`.
        settings: see `Stack`.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> import torch
        >>> lstm_classifier(8, steps=8)(torch.rand(5, 64)).shape
        torch.Size([1, 5, 10])
    """
    f = LSTMReader(width, steps, state, masked)
    pair = Pair(f, Affine(f.out_features, f.in_features))

    return Classifier(pair, output=Affine(f.out_features, classes), settings=settings)


def _cell(
    width: int,
    state: int,
    activation: str,
    visible: str,
    scale: float | None,
    sees_input: bool,
    receives: str = "real",
) -> Cell:
    """The maps of one step; see `recurrent_classifier`."""
    width = checks.whole("width", width, 1)
    state = checks.whole("state", state, 1)

    given = state + width if sees_input else state
    f = Affine(state + width, state, activation, receives=receives)
    g = Affine(given, state, activation, receives=receives)
    with torch.no_grad():
        nn.init.normal_(f.weight[:, state:], std=width**-0.5)
        g.weight.zero_()
        if scale is None:
            nn.init.orthogonal_(f.weight[:, :state])
            nn.init.orthogonal_(g.weight[:, :state])
        else:
            square = torch.randn(state, state) / math.sqrt(2.0 * state)
            f.weight[:, :state] = square - square.T

    g_input = Affine(state, width, visible)
    if scale is None:
        return Cell(f, g, g_input)

    return Cell(Residual(f, scale), Residual(g, scale), g_input)


def recurrent_autoencoder(
    width: int,
    steps: int,
    state: int = 100,
    activation: str = "tanh",
    visible: str = "sigmoid",
    observation: str = "gaussian",
    scale: float | None = None,
    masked: bool = False,
    prior: Prior | None = None,
    settings: Settings | None = None,
) -> Stack:
    """A recurrent network that reads a sequence into a state, and tells it from that again.

    Sequences are generated from a prior over the last state, last step first.
    Source: Bengio 2014, section 5.

    Args:
        width, steps, state, activation, scale, masked: see `recurrent_classifier`.
        visible: activation of g_input; sigmoid for values in [0, 1].
        observation: law of x around g: gaussian (unit variance) or bernoulli.
        prior: P(s_T); the diagonal Gaussian if None.
        settings: see `Stack`.

    Raises:
        ValueError: for unknown names and numbers out of range.

    Example:
        >>> import torch
        >>> stack = recurrent_autoencoder(8, steps=8, state=20)
        >>> stack.sizes, stack.reconstruct(torch.rand(5, 64)).shape
        ([64, 20], torch.Size([5, 64]))
    """
    law_of_x = OBSERVATIONS[checks.one_of("observation", observation, OBSERVATIONS)]
    cell = _cell(width, state, activation, visible, scale, sees_input=False)
    pair = RecurrentPair(cell, steps, masked, observation=law_of_x())

    return Stack(pair, prior=prior, settings=settings)


def tree_pair(
    layout: Layout, state: int = 100, activation: str = "tanh", gain: float | None = None
) -> TreePair:
    """The maps of a recursive network that reads trees, and tells them again.

    p = s(W_1 c_1 + .. + W_k c_k + U x + b), with orthonormal rows of (W_1 .. W_k) at the start, so
    that codes neither vanish nor explode from the leaves to the root, and U ~ N(0, gain^2).

    Args:
        layout: what a row of x is, a `TreeRows` or a `Quadtree`.
        state: width of a code.
        activation: of codes, and of the way from a node to its children.
        gain: of the inputs; 1 / sqrt(width of an input) if None, or 1 for symbols.

    Raises:
        ValueError: for unknown names and numbers out of range.

    Example:
        >>> import torch
        >>> from gendae.models.trees import Quadtree
        >>> tree_pair(Quadtree([8, 8], patch=2), state=20).encode(torch.rand(5, 64)).shape
        torch.Size([5, 20])
    """
    layout = checks.kind("layout", build(layout), Layout)
    state = checks.whole("state", state, 1)
    if gain is None:
        gain = 1.0 if getattr(layout, "symbols", False) else layout.width**-0.5

    spread = checks.at_least("gain", gain, 0.0, strict=True)
    below = layout.arity * state
    f = Affine(below + layout.width, state, activation)
    with torch.no_grad():
        nn.init.orthogonal_(f.weight[:, :below])
        nn.init.normal_(f.weight[:, below:], std=spread)

    g_state = Affine(state, below, activation, init="orthogonal")
    cell = TreeCell(f, g_state, Affine(state, layout.width), layout.arity)

    return TreePair(cell, layout)


def tree_classifier(
    layout: Layout,
    state: int = 100,
    classes: int = 10,
    activation: str = "tanh",
    gain: float | None = None,
    settings: Settings | None = None,
) -> Classifier:
    """A recursive network that reads a tree and then tells its class.

    Args:
        layout, state, activation, gain: see `tree_pair`.
        classes: number of classes.
        settings: see `Stack`.

    Raises:
        ValueError: for unknown names and numbers out of range.

    Example:
        >>> import torch
        >>> from gendae.models.trees import Quadtree
        >>> tree_classifier(Quadtree([8, 8], patch=2), state=20)(torch.rand(5, 64)).shape
        torch.Size([1, 5, 10])
    """
    pair = tree_pair(layout, state, activation, gain)

    return Classifier(pair, output=Affine(state, classes), settings=settings)


def with_labels(stack: Stack, classes: int = 10, gain: float = 1.0) -> LabelledStack:
    """A stack under whose top stands a label beside x: h_L -> softmax, and classes -> h_L.

    Args:
        stack: whose pairs, prior and settings it has.
        classes: number of classes.
        gain: scale of the initial weights of both maps.

    Raises:
        ValueError: for fewer than two classes.

    Example:
        >>> import torch
        >>> label = with_labels(deep_autoencoder([8, 6, 4]), classes=3).label
        >>> label.f.activation, label.f(torch.eye(3)).shape, label.g(torch.rand(2, 4)).shape
        ('sigmoid', torch.Size([3, 4]), torch.Size([2, 3]))
    """
    checks.whole("classes", classes, 2)

    top = stack.pairs[-1].f
    partner = Affine(classes, top.out_features, top.activation or "linear", gain)
    logits = Affine(top.out_features, classes, "linear", gain)
    decoder = Heads(logits, ["softmax"], [classes])
    label = Pair(partner, decoder, observation=Categorical())

    return LabelledStack(*stack.pairs, label=label, prior=stack.prior, settings=stack.settings)


def joint_autoencoder(
    modalities: dict[str, dict[str, Any]],
    top: Sequence[int] = (),
    activation: str = "relu",
    hidden_f: Sequence[int] = (),
    hidden_g: Sequence[int] = (),
    missingness: bool = True,
    gain: float = 1.0,
    prior: Prior | None = None,
    settings: Settings | None = None,
) -> JointStack:
    """Stacks of affine or MLP pairs, one for each modality, under a top stack.

    Source: Bengio 2014, Figures 4 and 5.

    Args:
        modalities: options of each modality, by name: "sizes", the widths of x^(t) and its codes
            (a single one for labels: the identity), of which the first may be "auto", see
            `deep_autoencoder`; "kind", see `Modality`, pixels if it is not
            given; and the other options of `deep_autoencoder` (activations, hidden_f, ..). Images
            with a "shape", (channels, height, width), have those of `conv_autoencoder` instead.
        top: widths of h_{J+1} .. h_L; none for a prior over the codes themselves.
        activation: of h_{J+1} .. h_L.
        hidden_f, hidden_g: widths of hidden layers inside the top's encoders and decoders.
        missingness: give the top one mask bit for each modality.
        gain: scale of the top's initial weights.
        prior: P(h_L); the paper's diagonal Gaussian if None.
        settings: see `Stack`.

    Raises:
        ValueError: for unknown kinds, options or names, and widths below 1.

    Example:
        >>> image, label = {"sizes": [784, 500]}, {"sizes": [10], "kind": "onehot"}
        >>> joint = joint_autoencoder({"image": image, "label": label}, [300])
        >>> joint.sizes, joint.widths(1)
        ([794, 510, 300], [500, 10])
        >>> image = {"shape": [3, 8, 8], "channels": [4], "sizes": [20]}
        >>> joint_autoencoder({"image": image, "label": label}, [30]).sizes
        [202, 74, 30, 30]
    """
    told = checks.named("modalities", modalities)
    members = {name: _modality(name, given) for name, given in told.items()}

    alone = None
    if len(members) == 1:
        (alone,) = members.values()
    if alone is not None and alone.head == "softmax":
        raise ValueError(
            f"modalities={list(members)}: labels alone make no joint model; name what they are "
            "labels of"
        )

    mask_bits = 0
    if missingness and alone is None:
        mask_bits = len(members)

    width = sum(m.code_width for m in members.values())
    pairs: list[Junction | Pair] = []
    for level, (low, high) in enumerate(pairwise([width, *checks.wholes("top", top, 1)])):
        if level > 0:
            f = layer(low, hidden_f, high, activation, gain)
            g = layer(high, hidden_g, low, activation, gain)
            pairs.append(Pair(f, g))
        elif alone is None:
            f = layer(low + mask_bits, hidden_f, high, activation, gain)
            g = layer(high, hidden_g, low, "linear", gain)
            pairs.append(Junction(f, g))
        else:
            f = layer(low, hidden_f, high, activation, gain)
            g = layer(high, hidden_g, low, alone.head or "linear", gain)
            pairs.append(Pair(f, g, observation=alone.law))

    return JointStack(members, pairs, prior, settings)


def _modality(name: str, given: dict[str, Any]) -> Modality:
    options = dict(given)
    kind = options.pop("kind", "pixels")
    if "shape" in options:
        return _modality_of_images(name, kind, options)

    sizes = options.pop("sizes", None)
    if not isinstance(sizes, list | tuple) or not sizes:
        raise ValueError(
            f"modality {name!r}: sizes={sizes!r} is no list of widths; give at least the width of "
            "its data, such as [784]"
        )
    if len(sizes) == 1 and options:
        raise ValueError(
            f"modality {name!r}: {', '.join(options)} are options of a stack, and sizes={sizes} "
            "gives it none; accepted: sizes, kind"
        )

    checks.one_of(f"kind of {name!r}", kind, KINDS)
    if len(sizes) == 1 and sizes[0] == AUTO:
        raise ValueError(
            f"modality {name!r}: sizes={sizes}: {AUTO} is the width of the data, which gendae fit "
            "takes from them"
        )
    if len(sizes) == 1:
        return Modality(sizes[0], kind)

    activations = options.pop("activations", ["tanh"] * (len(sizes) - 1))
    visible = options.pop("visible", KINDS[kind][0])
    try:
        stack = deep_autoencoder(sizes, activations, visible, **options)
    except TypeError as error:
        raise ValueError(f"modality {name!r}: {error}") from None

    return Modality(sizes[0], kind, list(stack.pairs))


def _modality_of_images(name: str, kind: str, options: dict[str, Any]) -> Modality:
    """A modality whose own stack begins with convolutions."""
    checks.one_of(f"kind of {name!r}", kind, KINDS)
    usual = {"activation": "tanh", "top": "tanh", "visible": KINDS[kind][0], "sizes": ()}
    try:
        stack = conv_autoencoder(**{**usual, **options})
    except TypeError as error:
        raise ValueError(f"modality {name!r}: {error}") from None

    return Modality(stack.sizes[0], kind, list(stack.pairs))


def stack_of(
    pairs: list[Pair], prior: Prior | None = None, settings: Settings | None = None
) -> Stack:
    """A stack of any pairs, for configuration files.

    Pairs may be invertible, encode by optimisation, or mix laws.

    Example:
        >>> from gendae.layers.invertible import InvertiblePair
        >>> stack_of([InvertiblePair(8), InvertiblePair(8)]).sizes
        [8, 8, 8]
    """
    return Stack(*checks.several("pairs", pairs), prior=prior, settings=settings)
