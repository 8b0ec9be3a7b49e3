"""Named architectures: functions that only compose layers into stacks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gendae import checks
from gendae.classifier import Classifier
from gendae.conditionals import UNITS
from gendae.joint import JointStack
from gendae.layers import MLP, Affine, Bernoulli, Discrete, Gaussian, LearnedGaussian, Pair
from gendae.modalities import KINDS, Junction, Modality
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
    hidden_f: Sequence[int] = (),
    hidden_g: Sequence[int] = (),
    noise: float | None = None,
    noise_of_x: bool = False,
    units: str | None = None,
    stochastic: bool = False,
) -> Stack:
    """A stack of affine or MLP layer pairs; by default the MNIST network of 2015, section 8.

    Args:
        sizes: widths of h_0 .. h_L.
        activations: those of h_1 .. h_L; softplus with a sigmoid top if None (the paper's). The decoder
            that gives h_l has the activation of h_l.
        visible: activation of the decoder that gives x; sigmoid for pixels in [0, 1].
        observation: law of x around g_1: gaussian (unit variance) or bernoulli.
        gain: scale of the initial weights, W ~ N(0, gain^2 / fan-in).
        prior: P(h_L); the paper's diagonal Gaussian if None.
        hidden_f, hidden_g: widths of hidden layers inside every encoder, every decoder (2014, section 6);
            from input to output.
        noise: sigma at the start of learned Gaussian noise on each h_l (2014, 7.4); None for none.
        noise_of_x: let log sigma be an affine map of the layer's input.
        units: "sign" or "binary": discrete h_1 .. h_L, whose activations are then fixed; None for real ones.
        stochastic: draw discrete units instead of taking the more probable value.

    Raises:
        ValueError: for fewer than two sizes, a wrong number of activations, or unknown names.

    Example:
        >>> deep_autoencoder([64, 200, 50]).sizes
        [64, 200, 50]
        >>> import torch
        >>> deep_autoencoder([64, 32], units="sign").encode(torch.rand(1, 64))[1].abs().sum()
        tensor(32.)
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes={list(sizes)} needs at least two widths, those of x and h_1")
    if units is not None:
        checks.one_of("units", units, UNITS)
        for name, value in (("activations", activations), ("noise", noise)):
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} and units={units!r} exclude each other: discrete units "
                    "have their own activation and noise (stochastic=True)"
                )
        activations = [UNITS[units][1]] * (len(sizes) - 1)
    elif activations is None:
        activations = ["softplus"] * (len(sizes) - 2) + ["sigmoid"]
    if (stochastic and units is None) or (noise_of_x and noise is None):
        raise ValueError("stochastic=True needs units, and noise_of_x=True needs noise")
    if len(activations) != len(sizes) - 1:
        raise ValueError(f"activations has {len(activations)} entries for {len(sizes) - 1} layers")
    law = OBSERVATIONS[checks.one_of("observation", observation, OBSERVATIONS)]
    names = [visible, *activations]
    pairs = []
    for level, (low, high) in enumerate(pairwise(sizes)):
        below = law() if level == 0 else Discrete(units, stochastic) if units else Gaussian()
        above = Discrete(units, stochastic) if units else None
        if noise is not None:
            above = LearnedGaussian(high, noise, given=low if noise_of_x else None)
        f = layer(low, hidden_f, high, names[level + 1], gain)
        g = layer(high, hidden_g, low, names[level], gain)
        pairs.append(Pair(f, g, observation=below, recognition=above))
    return Stack(*pairs, prior=prior)


def layer(
    low: int, hidden: Sequence[int], high: int, activation: str, gain: float
) -> Affine | MLP:
    """An affine layer, or an MLP where it has hidden layers."""
    if hidden:
        return MLP(low, hidden, high, activation, gain=gain)
    return Affine(low, high, activation, gain)


def deep_classifier(
    sizes: Sequence[int] = (784, *[240] * 7),
    classes: int = 10,
    activation: str | None = None,
    feedback: str | None = None,
    gain: float = 1.0,
    feedback_gain: float = 1.0,
    init: str = "orthogonal",
    bits: Sequence[int] = (),
    stochastic: bool = False,
) -> Classifier:
    """A feed-forward network of affine layers with a feedback path; by default that of thesis, section 3.3.1.

    Args:
        sizes: widths of h_0 .. h_L; the output layer comes on top.
        classes: number of classes.
        activation: of all hidden layers; tanh if None, sigmoid for stochastic units, which need it.
        feedback: activation of all decoders; the hidden layers' own if None, tanh for stochastic units.
        gain, feedback_gain: scales of the initial weights of encoders and decoders.
        init: their kind, see `Affine`.
        bits: levels l whose values travel as bits between h_l and h_{l+1}, both ways (3.3.2).
        stochastic: draw binary units with the probability that a sigmoid layer gives (3.3.3).

    Raises:
        ValueError: for fewer than two sizes, unknown names, or levels outside 1 .. L - 1.

    Example:
        >>> deep_classifier([784, 500, 500], bits=[1]).discrete_levels
        [1]
        >>> deep_classifier([784, 200, 200], stochastic=True).discrete_levels
        [1, 2]
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes={list(sizes)} needs at least two widths, those of x and h_1")
    outside = [level for level in bits if not 1 <= level < len(sizes) - 1]
    if outside or (bits and stochastic):
        raise ValueError(
            f"bits={list(bits)}: levels 1 .. {len(sizes) - 2} lie between two hidden layers; stochastic "
            "units send bits anyway"
        )
    if stochastic:
        if activation not in (None, "sigmoid"):
            raise ValueError(
                f"activation={activation!r}: stochastic units need sigmoid, which gives their probability"
            )
        activation, feedback = "sigmoid", feedback or "tanh"
    activation = activation or "tanh"
    pairs = []
    for level, (low, high) in enumerate(pairwise(sizes), 1):
        receives = "bits" if level - 1 in bits else "real"
        f = Affine(low, high, activation, gain, init, receives)
        g = Affine(high, low, feedback or activation, feedback_gain, init, receives)
        pairs.append(
            Pair(f, g, recognition=Discrete("binary", stochastic=True) if stochastic else None)
        )
    return Classifier(*pairs, output=Affine(sizes[-1], classes, "linear", gain, init))


def joint_autoencoder(
    modalities: dict[str, dict[str, Any]],
    top: Sequence[int] = (),
    activation: str = "relu",
    hidden_f: Sequence[int] = (),
    hidden_g: Sequence[int] = (),
    missingness: bool = True,
    gain: float = 1.0,
    prior: Prior | None = None,
) -> JointStack:
    """Stacks of affine or MLP pairs, one for each modality, under a top stack (2014, Figures 4 and 5).

    Args:
        modalities: by name; "sizes", the widths of x^(t) and its codes (a single one for labels: the identity), "kind"
            (pixels if it is not given, see `Modality`), and what else `deep_autoencoder` takes (activations, hidden_f, ..).
        top: widths of h_{J+1} .. h_L; none for a prior over the codes themselves.
        activation: of h_{J+1} .. h_L.
        hidden_f, hidden_g: widths of hidden layers inside the top's encoders and decoders.
        missingness: give the top one mask bit for each modality.
        gain: scale of the top's initial weights.
        prior: P(h_L); the paper's diagonal Gaussian if None.

    Raises:
        ValueError: for unknown kinds, options or names, and widths below 1.

    Example:
        >>> joint = joint_autoencoder({"image": {"sizes": [784, 500]}, "label": {"sizes": [10], "kind": "onehot"}}, [300])
        >>> joint.sizes, joint.widths(1)
        ([794, 510, 300], [500, 10])
    """
    members = {}
    for name, given in modalities.items():
        options = dict(given)
        sizes, kind = list(options.pop("sizes", [])), options.pop("kind", "pixels")
        if not sizes:
            raise ValueError(
                f"modality {name!r} has no sizes; give at least the width of its data"
            )
        if len(sizes) == 1 and options:
            raise ValueError(
                f"modality {name!r}: {', '.join(options)} are options of a stack, and sizes={sizes} gives it none; "
                "accepted: sizes, kind"
            )
        activations = options.pop("activations", ["tanh"] * (len(sizes) - 1))
        visible = options.pop("visible", KINDS[checks.one_of(f"kind of {name!r}", kind, KINDS)][0])
        try:
            own = (
                deep_autoencoder(sizes, activations, visible, **options).pairs
                if len(sizes) > 1
                else []
            )
        except TypeError as error:
            raise ValueError(f"modality {name!r}: {error}") from None
        members[name] = Modality(sizes[0], kind, own)
    width = sum(m.code_width for m in members.values())
    alone = next(iter(members.values())) if len(members) == 1 else None
    if alone is not None and alone.head == "softmax":
        raise ValueError(
            f"modalities={list(members)}: labels alone make no joint model; name what they are labels of"
        )
    pairs: list[Junction | Pair] = []
    for level, (low, high) in enumerate(pairwise([width, *top])):
        bits = len(members) if level == 0 and missingness and len(members) > 1 else 0
        f = layer(low + bits, hidden_f, high, activation, gain)
        g = layer(
            high,
            hidden_g,
            low,
            activation if level else "linear" if alone is None else alone.head,
            gain,
        )
        if level == 0:
            pairs.append(Junction(f, g) if alone is None else Pair(f, g, observation=alone.law))
        else:
            pairs.append(Pair(f, g))
    return JointStack(members, pairs, prior)


def stack_of(pairs: list[Pair], prior: Prior | None = None) -> Stack:
    """A stack of any pairs, for configuration files: invertible ones, encoders by optimisation, mixed laws.

    Example:
        >>> from gendae.invertible import InvertiblePair
        >>> stack_of([InvertiblePair(8), InvertiblePair(8)]).sizes
        [8, 8, 8]
    """
    return Stack(*pairs, prior=prior)
