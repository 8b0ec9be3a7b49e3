"""Layer pairs: an encoder f_l and a decoder g_l that learn to invert each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard, cast, overload

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from gendae import checks
from gendae.laws import Bernoulli, Gaussian, Law
from gendae.layers.activations import ACTIVATIONS, DIFFERENCES
from gendae.layers.affine import Affine, Matrix
from gendae.layers.conv import Conv, ConvTranspose
from gendae.layers.layers import Layers, fit_together, in_shape, out_shape
from gendae.layers.mlp import MLP
from gendae.layers.wrapped import Layer, as_layer
from gendae.registry import register


class Transpose(Matrix, nn.Module):
    """g(h) = s(W' h + c) with the weights W of an encoder; only the bias c is its own."""

    def __init__(self, layer: Affine, activation: str) -> None:
        super().__init__()
        self.in_features = layer.out_features
        self.out_features = layer.in_features
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.s = ACTIVATIONS[activation]

        self._of = (layer,)  # in a tuple, so that the weights are not registered twice
        self.bias = nn.Parameter(torch.zeros(self.out_features))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W', (features of h_{l-1}, features of h_l)."""
        return self._of[0].weight.T

    def preactivation(self, h: Tensor) -> Tensor:
        """a = W' h + c."""
        return F.linear(h, self.weight, self.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.s(self.preactivation(h))

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """The layer's output at h + step minus that at h."""
        a = self.preactivation(h)
        e = F.linear(step, self.weight)

        return DIFFERENCES[self.activation](a, e)


@register
class Pair(nn.Module):
    """Encoder f: h_{l-1} -> h_l and decoder g: h_l -> h_{l-1}, with the laws around them.

    Source: Bengio et al. 2015, section 5: either of the two is the encoder of one auto-encoder and
    the decoder of the other, trained on the same pairs (h_{l-1}, h_l) with roles reversed.

    Args:
        f: encoder, mean of Q(h_l | h_{l-1}); any module, see `Wrapped`.
        g: decoder, mean of P(h_{l-1} | h_l); any module.
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: if the widths of f and g do not match, or the shapes of images where both know
            them, or a law's mean needs another activation than its layer has.

    Example:
        >>> pair = Pair(Affine(4, 2, "sigmoid"), Affine(2, 4))
        >>> pair.p(pair.f(torch.zeros(3, 4))).mean.shape
        torch.Size([3, 4])
        >>> mine = Pair(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), nn.Linear(2, 4))
        >>> mine.encode(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    f: Layer
    g: Layer
    observation: Law
    recognition: Law

    def __init__(
        self,
        f: nn.Module,
        g: nn.Module,
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        super().__init__()
        up = as_layer(f)
        down = as_layer(g)
        if (up.in_features, up.out_features) != (down.out_features, down.in_features):
            raise ValueError(
                f"f maps {up.in_features} -> {up.out_features} units but g maps "
                f"{down.in_features} -> {down.out_features}; g must map {up.out_features} -> "
                f"{up.in_features}"
            )
        _check_shapes(up, down)

        self.f = up
        self.g = down
        self.observation = observation or Gaussian()
        self.recognition = recognition or Gaussian()

        for law in self.recognition.modules():
            if isinstance(law, Law):
                law.of_codes = True

        _check_activation("observation", self.observation, down)
        _check_activation("recognition", self.recognition, up)

    def encode(self, h_below: Tensor, generator: Generator | None = None) -> Tensor:
        """h_l as the next layer sees it; stochastic units are drawn if a generator is given."""
        return self.recognition.transmit(self.f(h_below), generator)

    def decode(self, h_above: Tensor, generator: Generator | None = None) -> Tensor:
        """h_{l-1} as the layer below sees it."""
        return self.observation.transmit(self.g(h_above), generator)

    def q(self, h_below: Tensor) -> Distribution:
        """Q(h_l | h_{l-1}), around f."""
        return self.recognition.distribution(self.f(h_below), h_below)

    def p(self, h_above: Tensor) -> Distribution:
        """P(h_{l-1} | h_l), around g."""
        return self.observation.distribution(self.g(h_above))

    def energy(self, h_below: Tensor, h_above: Tensor) -> Tensor:
        """-log P(h_{l-1} | h_l) of each example, up to a constant: the law's `energy` around g."""
        law = self.observation
        if takes_logits(law) and gives_logits(self.g):
            a = cast(Affine, self.g).preactivation(h_above)
            return law.energy_of_logits(h_below, a)

        return law.energy(h_below, self.g(h_above), h_above)


#: Layers whose output is nothing but the activation of their `preactivation`; a variant's may be
#: another.
LOGITS = (Affine, Conv, ConvTranspose, MLP, Transpose)


def gives_logits(layer: object) -> bool:
    """Whether a layer has a `preactivation` a of which its output is the activation s(a)."""
    if isinstance(layer, Layers):
        return gives_logits(layer.layers[-1])

    return type(layer) in LOGITS


def takes_logits(law: Law | None) -> TypeGuard[Bernoulli]:
    """Whether a law has its energy from a too, before its layer's sigmoid.

    A variant of it that defines another energy has not.
    """
    return isinstance(law, Bernoulli) and type(law).energy is Bernoulli.energy


def _check_shapes(f: Layer, g: Layer) -> None:
    """Raise a ValueError where both know the shape of an image, and not the same."""
    ends = {"takes": (in_shape(f), out_shape(g)), "gives": (out_shape(f), in_shape(g))}
    for verb, (of_f, of_g) in ends.items():
        if not fit_together(of_f, of_g):
            other = "gives" if verb == "takes" else "takes"
            raise ValueError(f"f {verb} images of {of_f} but g {other} {of_g}; they must be equal")


def _check_activation(name: str, law: Law, layer: Layer) -> None:
    """Raise a ValueError unless each unit's mean lies in the range of the values of its law."""
    width = layer.out_features
    blocks = law.blocks(width)
    if sum(units for _, units in blocks) != width:
        raise ValueError(f"{name}={law!r} has laws of other units than the {width} of its layer")

    activations = getattr(layer, "of_units", [layer.activation] * width)
    start = 0
    for of_block, units in blocks:
        for activation in activations[start : start + units]:
            if of_block.activation not in (None, activation):
                raise ValueError(
                    f"{name}={type(of_block).__name__} needs a {of_block.activation} layer, not "
                    f"{activation!r}: its mean lies in the range of its values"
                )
        start += units


if TYPE_CHECKING:

    class Pairs(nn.ModuleList):
        """Layer pairs, bottom first."""

        @overload
        def __getitem__(self, idx: slice) -> "Pairs": ...
        @overload
        def __getitem__(self, idx: int) -> Pair: ...
        def __getitem__(self, idx: int | slice) -> "Pair | Pairs": ...
        def __iter__(self) -> Iterator[Pair]: ...

else:
    Pairs = nn.ModuleList


@register
class TiedPair(Pair):
    """f(x) = s(W x + b), g(h) = s'(W' h + c): the classical auto-encoder with tied weights.

    A loss of either map moves W, so that f and g of such a pair share a learning rate, that of f.
    Source: thesis, Eq. 3.20 and 3.21.

    Args:
        in_features, out_features: widths of h_{l-1} and h_l.
        activation: s, of h_l.
        visible: s', of h_{l-1}.
        gain, init: see `Affine`.
        observation: law of h_{l-1} around g; Gaussian(1) if None.
        recognition: law of h_l around f; Gaussian(1) if None.

    Raises:
        ValueError: see `Affine` and `Pair`.

    Example:
        >>> pair = TiedPair(8, 3)
        >>> [name for name, _ in pair.named_parameters()]
        ['f.weight', 'f.bias', 'g.bias']
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "sigmoid",
        visible: str = "sigmoid",
        gain: float = 1.0,
        init: str = "orthogonal",
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        f = Affine(in_features, out_features, activation, gain, init)
        super().__init__(f, Transpose(f, visible), observation, recognition)

        self.in_features = f.in_features
        self.out_features = f.out_features
        self.activation = activation
        self.visible = visible
        self.gain = gain
        self.init = init
