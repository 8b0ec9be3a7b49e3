"""Modalities side by side: what makes several kinds of data one representation.

In a joint model, h_l is one tensor, in which each modality's h_l^(t) is a slice:
h_l = (h_l^(1), .., h_l^(N)). Layer pairs of different modalities act on their own slices
(`side_by_side`). Above them, one pair sees all slices, and for each modality whether it is
observed (`Junction`): f(m * h, m), where the mask m is a missingness input.
Source: Bengio 2014, sections 3.1 and 4.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Normal

from gendae import checks
from gendae.corruption import Corruption
from gendae.laws import Bernoulli, Categorical, Gaussian, Law, Laws
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.layers.wrapped import Layer
from gendae.registry import register

#: For each kind of data, the activation that has its range, and the law of values around a
#: prediction.
KINDS: dict[str, tuple[str, Callable[[], Law]]] = {
    "real": ("linear", Gaussian),
    "pixels": ("sigmoid", Bernoulli),
    "binary": ("sigmoid", partial(Bernoulli, True)),
    "onehot": ("softmax", Categorical),
    "latent": ("softmax", Categorical),
}
#: Kinds whose values lie in [0, 1], and kinds whose rows are probabilities of classes.
UNIT_INTERVAL = ("pixels", "binary")
ONE_HOT = ("onehot", "latent")


@register
class Modality:
    """One kind of data, x^(t), and the stack of layer pairs that gives its code h_J^(t).

    Args:
        width: of x^(t).
        kind: "real" numbers, "pixels" in [0, 1], "binary" values 0 and 1, "onehot" rows (labels),
            or "latent": one-hot rows that no data hold, which learning infers (pseudo-inputs of
            the top stack).
        pairs: (f_1, g_1) .. of its own stack, bottom first; empty for the identity, as for labels.

    Raises:
        ValueError: for an unknown kind, pairs whose widths do not match, or a code of several
            activations.

    Example:
        >>> label = Modality(3, "onehot")
        >>> label.values("label", torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(self, width: int, kind: str = "real", pairs: Sequence[Pair] = ()) -> None:
        self.width = checks.whole("width", width, 1)
        self.kind = checks.one_of("kind", kind, KINDS)
        self.pairs = [checks.kind("pairs", pair, Pair) for pair in checks.several("pairs", pairs)]

        if self.kind in ONE_HOT and self.pairs:
            raise ValueError(
                f"kind={self.kind!r}: labels and latents are inputs of the top stack, "
                "without pairs of their own"
            )

        below = self.width
        for level, pair in enumerate(self.pairs, 1):
            if pair.f.in_features != below:
                raise ValueError(
                    f"pair {level} of a modality takes {pair.f.in_features} units, "
                    f"but gets {below}"
                )
            below = pair.f.out_features

        if self.pairs and isinstance(self.pairs[-1].f, Heads):
            raise ValueError(
                "the code of a modality has one activation, and the encoder of its last pair is "
                "Heads, with several; give each block a Modality of its own"
            )

    @property
    def code_width(self) -> int:
        """Width of h_J^(t)."""
        if not self.pairs:
            return self.width

        return self.pairs[-1].f.out_features

    @property
    def head(self) -> str | None:
        """Activation of the layer that predicts the code."""
        if not self.pairs:
            activation, _ = KINDS[self.kind]
            return activation

        return self.pairs[-1].f.activation

    @property
    def law(self) -> Law:
        """Law of the code around its prediction."""
        if not self.pairs:
            _, law = KINDS[self.kind]
            return law()

        recognition = self.pairs[-1].recognition
        if recognition.hard:
            return recognition

        return Gaussian()

    def width_at(self, level: int) -> int:
        """Width of h_level^(t); above its own pairs that is its code."""
        if level < len(self.pairs):
            return self.pairs[level].f.in_features

        return self.code_width

    def law_at(self, level: int) -> Law:
        """Law of h_level^(t) around its prediction; above its own pairs that is its code."""
        if level < len(self.pairs):
            return self.pairs[level].observation

        return self.law

    def bounded(self, x: Tensor) -> Tensor:
        """x^(t) in the range of this kind of data."""
        if self.kind in UNIT_INTERVAL:
            return x.clamp(0.0, 1.0)

        return x

    def values(self, name: str, value: Tensor) -> Tensor:
        """x^(t) as floating-point rows, (batch, width); labels may be class indices.

        Raises:
            ValueError: for a wrong shape, and for values that this kind of data does not have.
        """
        if self.kind in ONE_HOT and value.ndim == 1 and not value.is_floating_point():
            classes = checks.labels(name, value, len(value), self.width)
            value = nn.functional.one_hot(classes, self.width)

        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())

        if self.kind == "pixels" and value.ndim == 4 and _channels_are_last(value.shape):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: channels come first, (n, {checks.RGB}, "
                "height, width); give it as x.movedim(3, 1), an array as np.moveaxis(x, 3, 1)"
            )

        checks.width(name, value, self.width)
        checks.finite(name, value)
        self._check_range(name, value)

        return value

    def _check_range(self, name: str, value: Tensor) -> None:
        if self.kind == "pixels" and value.numel() > 0:
            checks.pixels(name, value)
            return

        if self.kind in UNIT_INTERVAL:
            fits = _within_unit_interval(value)
            accepted = "values in [0, 1]"
        elif self.kind in ONE_HOT:
            fits = _holds_probabilities(value)
            accepted = "class indices, or rows of probabilities that sum to 1"
        else:
            return

        if not fits:
            raise ValueError(
                f"{name} holds values that are no {self.kind} data; accepted: {accepted}"
            )

    def __repr__(self) -> str:
        own = f"{len(self.pairs)} pairs, code {self.code_width}"
        return f"Modality({self.width}, {self.kind!r}, {own})"


def _channels_are_last(shape: torch.Size) -> bool:
    """Whether images of this shape, (n, .., .., ..), can only be (n, height, width, 3)."""
    return shape[3] == checks.RGB and shape[1] not in (1, checks.RGB)


def _within_unit_interval(value: Tensor) -> bool:
    """Whether all elements lie in [0, 1]; true of an empty tensor."""
    if value.numel() == 0:
        return True

    return float(value.min()) >= 0.0 and float(value.max()) <= 1.0


def _holds_probabilities(value: Tensor) -> bool:
    """Whether each row holds probabilities that sum to 1."""
    ones = torch.ones_like(value[:, 0])
    if not torch.allclose(value.sum(1), ones, atol=1e-4):
        return False

    return not bool((value < 0).any())


@register
class Junction:
    """The pair that joins the modalities.

    f: (m * h_J, m) -> h_{J+1} has missingness inputs; g: h_{J+1} -> h_J.

    Args:
        f: encoder; its input is as wide as all codes together, or has one mask bit more for each
            modality.
        g: decoder with a linear output: each modality's own activation is put on its slice.
        recognition: law of h_{J+1} around f; Gaussian(1) if None.
    """

    def __init__(self, f: Affine | MLP, g: Affine | MLP, recognition: Law | None = None) -> None:
        self.f = f
        self.g = g
        self.recognition = recognition

    def pair(self, modalities: Sequence[Modality]) -> Pair:
        """The pair between these modalities and h_{J+1}.

        Raises:
            ValueError: for maps of other widths, or a decoder that is not linear.
        """
        widths = [modality.code_width for modality in modalities]
        f = Masked(self.f, widths)

        if self.g.activation != "linear" or self.g.out_features != f.in_features:
            raise ValueError(
                f"the decoder that joins the modalities gives {self.g.out_features} units, "
                f"{self.g.activation}; needed: a linear layer of {f.in_features}"
            )

        laws = Laws([modality.law for modality in modalities], widths)
        g = Heads(self.g, [modality.head for modality in modalities], widths)

        return Pair(f, g, laws, self.recognition)


class Slices(nn.Module):
    """Maps side by side, each on its own slice of the input; None is the identity.

    Args:
        maps: one for each slice.
        widths: of the slices, where the map is None.
    """

    def __init__(self, maps: Sequence[Layer | None], widths: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList()
        self.inputs: list[int] = []
        self.outputs: list[int] = []

        for f, width in zip(maps, widths, strict=True):
            if f is None:
                self.maps.append(nn.Identity())
                self.inputs.append(width)
                self.outputs.append(width)
            else:
                self.maps.append(cast(nn.Module, f))
                self.inputs.append(f.in_features)
                self.outputs.append(f.out_features)

        self.in_features = sum(self.inputs)
        self.out_features = sum(self.outputs)
        self.activation = "slices"

    @property
    def of_units(self) -> list[str | None]:
        """The activation of each unit of the output; None of the identity's."""
        names: list[str | None] = []
        for f, width in zip(self.maps, self.outputs, strict=True):
            names += [getattr(f, "activation", None)] * width

        return names

    @property
    def penalty(self) -> Callable[[], Tensor]:
        """The sum of the maps' own penalties, such as that of orthogonality.

        An AttributeError if no map has one.
        """
        penalties = [
            cast(Callable[[], Tensor], m.penalty) for m in self.maps if hasattr(m, "penalty")
        ]
        if not penalties:
            raise AttributeError("penalty")

        return lambda: cast(Tensor, sum(penalty() for penalty in penalties))

    def forward(self, h: Tensor) -> Tensor:
        parts = h.split(self.inputs, -1)
        return torch.cat([f(part) for f, part in zip(self.maps, parts, strict=True)], -1)


class Masked(nn.Module):
    """f(m * h, m): missing slices are turned off, and f is told which they are.

    Args:
        f: a map of the slices, and of the N mask bits after them if it has that many more inputs.
        widths: of the N slices.

    Raises:
        ValueError: if the input of f is neither as wide as the slices nor N wider.
    """

    f: Layer
    owner: Tensor

    def __init__(self, f: Layer, widths: Sequence[int]) -> None:
        super().__init__()
        self.in_features = sum(widths)
        self.out_features = f.out_features
        self.activation = getattr(f, "activation", None)

        if f.in_features not in (self.in_features, self.in_features + len(widths)):
            raise ValueError(
                f"the top's first encoder takes {f.in_features} units; the modalities' codes have "
                f"{list(widths)}, together {self.in_features}, or "
                f"{self.in_features + len(widths)} with one mask bit for each"
            )

        self.f = f
        self.n = len(widths)
        self.sees_mask = f.in_features != self.in_features

        owner = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, h: Tensor, observed: Tensor | None = None) -> Tensor:
        """f's output.

        Args:
            h: (batch, width).
            observed: True where a modality is observed, (batch, N) boolean; everywhere if None.
        """
        return self.f(self.input(h, observed))

    def input(self, h: Tensor, observed: Tensor | None = None) -> Tensor:
        """(m * h, m), or m * h where f does not see the mask."""
        if observed is not None:
            h = h.masked_fill(~observed[:, self.owner], 0.0)

        if self.sees_mask:
            h = torch.cat([h, self._bits(h, observed)], 1)

        return h

    def _bits(self, h: Tensor, observed: Tensor | None) -> Tensor:
        """The missingness input, (batch, N): 1 where a modality is observed."""
        if observed is None:
            return h.new_ones(h.shape[0], self.n)  # len would fix the rows of a traced graph

        return observed.to(h.dtype)


class Identity(Gaussian):
    """The law of a slice that is passed on as it is: no noise is injected into it.

    Its density is that of N(mean, I), where one is asked for beside those of other slices.
    """

    def __init__(self) -> None:
        super().__init__(stochastic=False)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return Normal(mean, self.sigma, validate_args=False)

    def near(self, mean: Tensor, width: Tensor, generator: Generator | None = None) -> Tensor:
        return mean


@register
class EachModality(Corruption):
    """A separate corruption for each modality's slice of a representation.

    Args:
        corruptions: one for each slice; None leaves it as it is.
        widths: of the slices.

    Raises:
        ValueError: for lists of different lengths.
    """

    def __init__(self, corruptions: Sequence[Corruption | None], widths: Sequence[int]) -> None:
        self.corruptions = checks.several("corruptions", corruptions)
        self.widths = checks.wholes("widths", widths, 1)

        if len(self.corruptions) != len(self.widths):
            raise ValueError(
                f"corruptions has {len(self.corruptions)} entries "
                f"for {len(self.widths)} modalities"
            )

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        parts = list(h.split(self.widths, -1))

        for t, corruption in enumerate(self.corruptions):
            if corruption is not None:
                parts[t] = corruption(parts[t], progress, generator)

        return torch.cat(parts, -1)


def side_by_side(pairs: Sequence[Pair | None], widths: Sequence[int]) -> Pair:
    """The pairs of one level of all modalities as one pair.

    None is the identity, of the given width.
    """
    if len(pairs) == 1 and pairs[0] is not None:
        return pairs[0]

    parts = [_parts_of(pair) for pair in pairs]
    encoders, decoders, observations, recognitions = zip(*parts, strict=True)

    f = Slices(encoders, widths)
    g = Slices(decoders, f.outputs)
    observation = Laws(observations, f.inputs)
    recognition = Laws(recognitions, f.outputs, f.inputs)

    return Pair(f, g, observation, recognition)


def _parts_of(pair: Pair | None) -> tuple[Layer | None, Layer | None, Law, Law]:
    """f, g and the laws around them; of None, those of the identity."""
    if pair is None:
        return None, None, Identity(), Identity()

    return pair.f, pair.g, pair.observation, pair.recognition
