"""Modalities side by side: what makes several kinds of data one representation.

h_l of a joint model is one tensor, in which each modality's h_l^(t) is a slice: h_l = (h_l^(1), .., h_l^(N)). Layer pairs
of different modalities act on their own slices (`side_by_side`); above them, one pair sees all slices and, for each
modality, whether it is observed (`Junction`): f(m * h, m), the mask m being a missingness input.
Source: Bengio 2014, sections 3.1 and 4.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from gendae import checks
from gendae.conditionals import Bernoulli, Categorical, Conditional, Discrete, Gaussian, Law
from gendae.corruption import Corruption
from gendae.layers import ACTIVATIONS, MLP, Affine, Pair
from gendae.spec import register

#: For each kind of data, the activation that has its range, and the law of values around a prediction.
KINDS: dict[str, tuple[str, Callable[[], Law]]] = {
    "real": ("linear", Gaussian),
    "pixels": ("sigmoid", Bernoulli),
    "binary": ("sigmoid", partial(Bernoulli, True)),
    "onehot": ("softmax", Categorical),
    "latent": ("softmax", Categorical),
}
HEADS = ACTIVATIONS | {
    "softmax": partial(torch.softmax, dim=-1)
}  # no lambda, so that heads can be pickled


@register
class Modality:
    """One kind of data, x^(t), and the stack of layer pairs that gives its code h_J^(t).

    Args:
        width: of x^(t).
        kind: "real" numbers, "pixels" in [0, 1], "binary" values 0 and 1, "onehot" rows (labels), or "latent":
            one-hot rows that no data hold, which learning infers (pseudo-inputs of the top stack).
        pairs: (f_1, g_1) .. of its own stack, bottom first; empty for the identity, as for labels.

    Raises:
        ValueError: for an unknown kind, or pairs whose widths do not match.

    Example:
        >>> label = Modality(3, "onehot")
        >>> label.values("label", torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    def __init__(self, width: int, kind: str = "real", pairs: Sequence[Pair] = ()) -> None:
        self.width = int(checks.at_least("width", width, 1))
        self.kind = checks.one_of("kind", kind, KINDS)
        self.pairs = list(pairs)
        if self.kind in ("onehot", "latent") and self.pairs:
            raise ValueError(
                f"kind={self.kind!r}: labels and latents are inputs of the top stack, without pairs of their own"
            )
        below = self.width
        for level, pair in enumerate(self.pairs, 1):
            if pair.f.in_features != below:
                raise ValueError(
                    f"pair {level} of a modality takes {pair.f.in_features} units, but gets {below}"
                )
            below = pair.f.out_features

    @property
    def code_width(self) -> int:
        """Width of h_J^(t)."""
        return self.pairs[-1].f.out_features if self.pairs else self.width

    @property
    def head(self) -> str:
        """Activation of what predicts the code."""
        return self.pairs[-1].f.activation if self.pairs else KINDS[self.kind][0]

    @property
    def law(self) -> Law:
        """Law of the code around its prediction."""
        if not self.pairs:
            return KINDS[self.kind][1]()
        own = self.pairs[-1].recognition
        return own if isinstance(own, Discrete) else Gaussian()

    def values(self, name: str, value: Tensor) -> Tensor:
        """x^(t) as floating-point rows, (batch, width); labels may be class indices.

        Raises:
            ValueError: for a wrong shape, and for values that this kind of data does not have.
        """
        if self.kind in ("onehot", "latent") and value.ndim == 1 and not value.is_floating_point():
            value = nn.functional.one_hot(
                checks.labels(name, value, len(value), self.width), self.width
            )
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        checks.finite(name, checks.width(name, value, self.width))
        bad = False
        if value.numel() and self.kind in ("pixels", "binary"):
            bad = float(value.min()) < 0.0 or float(value.max()) > 1.0
        elif self.kind in ("onehot", "latent"):
            bad = not torch.allclose(
                value.sum(1), torch.ones_like(value[:, 0]), atol=1e-4
            ) or bool((value < 0).any())
        if bad:
            accepted = (
                "values in [0, 1]"
                if self.kind in ("pixels", "binary")
                else "class indices, or rows of probabilities that sum to 1"
            )
            raise ValueError(
                f"{name} holds values that are no {self.kind} data; accepted: {accepted}"
            )
        return value

    def __repr__(self) -> str:
        return f"Modality({self.width}, {self.kind!r}, {len(self.pairs)} pairs, code {self.code_width})"


@register
class Junction:
    """The pair that joins the modalities: f: (m * h_J, m) -> h_{J+1} with missingness inputs, g: h_{J+1} -> h_J.

    Args:
        f: encoder; its input is as wide as all codes together, or has one mask bit more for each modality.
        g: decoder with a linear output: each modality's own activation is put on its slice.
        recognition: law of h_{J+1} around f; Gaussian(1) if None.
    """

    def __init__(self, f: Affine | MLP, g: Affine | MLP, recognition: Law | None = None) -> None:
        self.f, self.g, self.recognition = f, g, recognition

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
        return Pair(
            f,
            Heads(self.g, [modality.head for modality in modalities], widths),
            laws,
            self.recognition,
        )


class Slices(nn.Module):
    """Maps side by side, each on its own slice of the input; None is the identity.

    Args:
        maps: one for each slice.
        widths: of the slices, where the map is None.
    """

    def __init__(self, maps: Sequence[nn.Module | None], widths: Sequence[int]) -> None:
        super().__init__()
        self.inputs = [
            w if m is None else m.in_features for m, w in zip(maps, widths, strict=True)
        ]
        self.outputs = [
            w if m is None else m.out_features for m, w in zip(maps, widths, strict=True)
        ]
        self.maps = nn.ModuleList(nn.Identity() if m is None else m for m in maps)
        self.in_features, self.out_features = sum(self.inputs), sum(self.outputs)
        self.activation = "slices"

    @property
    def penalty(self) -> Callable[[], Tensor]:
        """What the maps ask of themselves, such as orthogonality; an AttributeError where none of them does."""
        own = [m.penalty for m in self.maps if hasattr(m, "penalty")]
        if not own:
            raise AttributeError("penalty")
        return lambda: sum(penalty() for penalty in own)

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat(
            [f(part) for f, part in zip(self.maps, h.split(self.inputs, -1), strict=True)], -1
        )


class Masked(nn.Module):
    """f(m * h, m): slices that are missing are turned off, and f is told which.

    Args:
        f: a map of the slices, and of the N mask bits after them if it has that many more inputs.
        widths: of the N slices.

    Raises:
        ValueError: if the input of f is neither as wide as the slices nor N wider.
    """

    def __init__(self, f: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.in_features, self.out_features = sum(widths), f.out_features
        self.activation = getattr(f, "activation", None)
        if f.in_features not in (self.in_features, self.in_features + len(widths)):
            raise ValueError(
                f"the top's first encoder takes {f.in_features} units; the modalities' codes have {list(widths)}, "
                f"together {self.in_features}, or {self.in_features + len(widths)} with one mask bit for each"
            )
        self.f, self.n, self.sees_mask = f, len(widths), f.in_features != self.in_features
        owner = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, h: Tensor, observed: Tensor | None = None) -> Tensor:
        """f's output; `observed`, (batch, N) boolean, is True where a modality is there, everywhere if None."""
        if observed is None:
            return self.f(torch.cat([h, h.new_ones(len(h), self.n)], 1) if self.sees_mask else h)
        h = h.masked_fill(~observed[:, self.owner], 0.0)
        return self.f(torch.cat([h, observed.to(h.dtype)], 1) if self.sees_mask else h)


class Heads(nn.Module):
    """g with an activation of its own for each slice of its linear output."""

    def __init__(self, g: nn.Module, activations: Sequence[str], widths: Sequence[int]) -> None:
        super().__init__()
        self.g, self.widths = g, list(widths)
        self.activations = [
            HEADS[checks.one_of("activation", name, HEADS)] for name in activations
        ]
        self.in_features, self.out_features, self.activation = (
            g.in_features,
            g.out_features,
            "heads",
        )

    def forward(self, h: Tensor) -> Tensor:
        parts = self.g(h).split(self.widths, -1)
        return torch.cat([s(part) for s, part in zip(self.activations, parts, strict=True)], -1)


class Identity(Gaussian):
    """The law of a slice that is passed on as it is: no noise is injected into it."""

    stochastic = False

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        return mean


class Laws(nn.Module, Conditional):
    """Independent laws of the slices of a representation.

    Args:
        laws: one for each slice.
        widths: of the slices.
        inputs: widths of the layer's input slices, for laws whose width depends on them.
    """

    def __init__(
        self, laws: Sequence[Law], widths: Sequence[int], inputs: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.laws, self.widths, self.inputs = list(laws), list(widths), inputs and list(inputs)
        self.learned = nn.ModuleList(law for law in laws if isinstance(law, nn.Module))
        self.stochastic = any(law.stochastic for law in laws)

    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        raise ValueError(
            "the laws of several modalities are no single torch distribution; use log_prob, sample"
        )

    def parts(self, *tensors: Tensor | None) -> list[tuple]:
        """(law, slice of each tensor) for every modality; the last tensor may be the layer's input."""
        columns = [
            [None] * len(self.laws) if t is None else t.split(self.widths, -1) for t in tensors
        ]
        return list(zip(self.laws, *columns, strict=True))

    def _given(self, given: Tensor | None) -> Sequence[Tensor | None]:
        return (
            [None] * len(self.laws)
            if given is None or not self.inputs
            else given.split(self.inputs, -1)
        )

    def energies(self, h: Tensor, mean: Tensor) -> Tensor:
        """Energy of each slice, (batch, N)."""
        return torch.stack([law.energy(a, m) for law, a, m in self.parts(h, mean)], -1)

    def energy(self, h: Tensor, mean: Tensor) -> Tensor:
        return self.energies(h, mean).sum(-1)

    def log_prob(self, h: Tensor, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return sum(
            law.log_prob(a, m, c)
            for (law, a, m), c in zip(self.parts(h, mean), self._given(given), strict=True)
        )

    def sample(
        self, mean: Tensor, generator: Generator | None = None, given: Tensor | None = None
    ) -> Tensor:
        return torch.cat(
            [
                law.sample(m, generator, c)
                for (law, m), c in zip(self.parts(mean), self._given(given), strict=True)
            ],
            -1,
        )

    def transmit(self, mean: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.cat([law.transmit(m, generator) for law, m in self.parts(mean)], -1)

    def entropy(self, mean: Tensor, given: Tensor | None = None) -> Tensor:
        return sum(
            (
                law.entropy(m, c)
                for (law, m), c in zip(self.parts(mean), self._given(given), strict=True)
                if law.stochastic
            ),
            start=mean.new_zeros(mean.shape[:-1]),
        )


@register
class EachModality(Corruption):
    """A corruption of its own for each modality's slice of a representation.

    Args:
        corruptions: one for each slice; None leaves it as it is.
        widths: of the slices.

    Raises:
        ValueError: for lists of different lengths.
    """

    def __init__(self, corruptions: Sequence[Corruption | None], widths: Sequence[int]) -> None:
        self.corruptions, self.widths = list(corruptions), list(widths)
        if len(self.corruptions) != len(self.widths):
            raise ValueError(
                f"corruptions has {len(self.corruptions)} entries for {len(self.widths)} modalities"
            )

    def __call__(
        self, h: Tensor, progress: float = 0.0, generator: Generator | None = None
    ) -> Tensor:
        parts = zip(self.corruptions, h.split(self.widths, -1), strict=True)
        return torch.cat(
            [part if c is None else c(part, progress, generator) for c, part in parts], -1
        )


def side_by_side(pairs: Sequence[Pair | None], widths: Sequence[int]) -> Pair:
    """The pairs of one level of all modalities as one pair; None is the identity, of the given width."""
    if len(pairs) == 1 and pairs[0] is not None:
        return pairs[0]
    f = Slices([pair and pair.f for pair in pairs], widths)
    g = Slices([pair and pair.g for pair in pairs], f.outputs)
    observation = Laws([pair.observation if pair else Identity() for pair in pairs], f.inputs)
    recognition = Laws(
        [pair.recognition if pair else Identity() for pair in pairs], f.outputs, f.inputs
    )
    return Pair(f, g, observation, recognition)
