"""The deep generative model: a stack of layer pairs under a top-level prior.

p(x, h) = p(x | h_1) ... p(h_{L-1} | h_L) p(h_L)     going down (2015, Eq. 7)
q(h | x) = q(h_1 | x) ... q(h_L | h_{L-1})           going up

Representations are tuples h[0] .. h[L] of tensors, batch first, with h[0] = x.
"""

import copy
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.laws import LOWEST, Gaussian, Law
from gendae.layers.layers import fit_together, in_shape, out_shape
from gendae.layers.pair import Pair, Pairs
from gendae.models.settings import Facts, Settings
from gendae.models.widths import ROUND, LoopNoise, Noise, measure
from gendae.priors.base import Prior
from gendae.priors.gaussian import GaussianPrior
from gendae.registry import register

if TYPE_CHECKING:
    from typing_extensions import Self

#: Buffers that `fit_residuals` fills.
MEASURED = ("residuals", "loops", "noises")


def lowest_values(pair: Pair) -> list[float | None]:
    """The lower end of each code unit's range; None where it is not that of a two-valued unit.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> lowest_values(Pair(Affine(3, 2, "tanh"), Affine(2, 3)))
        [-1.0, -1.0]
    """
    activations = getattr(pair.f, "of_units", [pair.f.activation] * pair.f.out_features)
    return [LOWEST.get(activation) for activation in activations]


@register
class Stack(checks.TakesArrays, nn.Module):
    """Layer pairs (f_1, g_1) .. (f_L, g_L), bottom first, and the prior P(h_L).

    Args:
        pairs: the layer pairs; each must take the width that the one below it gives.
        prior: density over h_L; the paper's diagonal Gaussian if None.

        settings: what samples, inpaints and completes where the user names nothing else; see
            `Settings`.

    Attributes:
        shapes: of h_0 .. h_L where layers of convolution know them.
        residuals: widths of P(H_l | h_L) for l = 0 .. L-1, empty until `fit_residuals`; what goes
            with them, unit by unit, is `loop_noise`.
        facts: what is known of its training; see `Facts`.

    Raises:
        ValueError: without pairs, or if widths do not match.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> stack = Stack(Pair(Affine(8, 4, "softplus"), Affine(4, 8, "sigmoid")))
        >>> x = torch.rand(5, 8)
        >>> [h.shape[1] for h in stack.encode(x)]
        [8, 4]
        >>> stack.reconstruct(x).shape
        torch.Size([5, 8])
    """

    ARRAYS: ClassVar[tuple[str, ...]] = (
        "encode",
        "decode",
        "reconstruct",
        "fit_residuals",
        "log_joint",
        "log_q",
        "sample_q",
    )

    #: Files hold settings beside the architecture.
    UNDESCRIBED = ("settings",)

    pairs: Pairs
    prior: Prior
    residuals: Tensor
    loops: Tensor
    noises: Tensor

    def __init__(
        self, *pairs: Pair, prior: Prior | None = None, settings: Settings | None = None
    ) -> None:
        super().__init__()
        if not pairs:
            raise ValueError("a Stack needs at least one Pair")

        for pair in pairs:
            checks.kind("pairs", pair, Pair)
        for level, (low, high) in enumerate(pairwise(pairs), 1):
            if low.f.out_features != high.f.in_features:
                raise ValueError(
                    f"pair {level} gives {low.f.out_features} units but pair {level + 1} "
                    f"takes {high.f.in_features}"
                )
            if not fit_together(out_shape(low.f), in_shape(high.f)):
                raise ValueError(
                    f"pair {level} gives images of {out_shape(low.f)} but pair {level + 1} takes "
                    f"{in_shape(high.f)}"
                )

        if prior is None:
            prior = GaussianPrior()
        self.pairs = Pairs(pairs)
        self.prior = prior
        self.prior.prepare(pairs[-1].f.out_features)
        self.prior.check_units(lowest_values(pairs[-1]))

        for name in MEASURED:
            self.register_buffer(name, torch.empty(0))
        self.settings = settings or Settings()
        self.facts: Facts = {}

    @property
    def depth(self) -> int:
        """L, the number of layer pairs."""
        return len(self.pairs)

    @property
    def sizes(self) -> list[int]:
        """Widths of h_0 .. h_L."""
        return [self.pairs[0].f.in_features, *(pair.f.out_features for pair in self.pairs)]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of h_0 .. h_L: (channels, height, width) where a layer knows it, else (width,).

        Representations are rows all the same; `h.unflatten(1, stack.shapes[l])` are images.
        """
        below = [[in_shape(pair.f), out_shape(pair.g)] for pair in self.pairs]
        above = [[out_shape(pair.f), in_shape(pair.g)] for pair in self.pairs]

        levels = zip([*below, []], [[], *above], strict=True)
        return [max(low + high, key=len) for low, high in levels]

    @property
    def hard_levels(self) -> list[int]:
        """Levels l = 1 .. L of discrete units, which no small step moves."""
        observations = [*(pair.observation for pair in self.pairs[1:]), None]

        levels = []
        for level, (pair, law) in enumerate(zip(self.pairs, observations, strict=True), 1):
            if pair.recognition.hard or (law is not None and law.hard):
                levels.append(level)

        return levels

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    def up(
        self,
        h: Tensor,
        start: int = 0,
        stop: int | None = None,
        generator: Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """h_start .. h_stop, each level as the next one sees it; without checks, for the hot path.

        Args:
            h: h_start, (batch, sizes[start]).
            start, stop: the levels between which h climbs; the top if `stop` is None.
            generator: source of draws of stochastic units; without one nothing is drawn.
        """
        path = [h]
        for pair in self.pairs[start:stop]:
            path.append(pair.encode(path[-1], generator))

        return tuple(path)

    def down(
        self,
        h: Tensor,
        start: int | None = None,
        stop: int = 0,
        generator: Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """h_stop .. h_start, decoded from h_start without noise; without checks, for the hot path.

        Args:
            h: h_start, (batch, sizes[start]).
            start, stop: the levels between which h descends; from the top if `start` is None.
            generator: draws stochastic units; None for their more probable values.
        """
        path = [h]
        for pair in reversed(self.pairs[stop:start]):
            path.append(pair.decode(path[-1], generator))

        return tuple(reversed(path))

    def feedforward(self, x: Tensor) -> tuple[Tensor, ...]:
        """h_0 = x, h_l = f_l(h_{l-1}), without checks: the hot path's `encode`."""
        return self.up(x)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feed-forward representations h_0 .. h_L of x, (batch, sizes[0]).

        Raises:
            ValueError: if x has another width.
        """
        return self.feedforward(checks.width("x", x, self.sizes[0]))

    def decode(self, h: Tensor, level: int | None = None) -> Tensor:
        """x = g_1(.. g_level(h)): means all the way down from level l (the top if None).

        Raises:
            ValueError: if the level is not in 1 .. L, or h does not have its width.
        """
        level = self._level(level)
        h = checks.width("h", h, self.sizes[level])

        return self.down(h, level)[0]

    def reconstruct(self, x: Tensor, level: int | None = None) -> Tensor:
        """x up to level l (the top if None) and down again, noise-free."""
        level = self._level(level)
        code = self.encode(x)[level]

        return self.decode(code, level)

    @torch.no_grad()
    def fit_residuals(
        self, x: Tensor, corruption: Sequence[Noise] | None = None, adds_up: bool = False
    ) -> Tensor:
        """Root mean square error of h_l, corrupted and reconstructed from the top, l = 0 .. L-1.

        It is the width of P(H_l | h_L) around its mean (2014, 2.2.7), one number for a layer,
        measured on x. Chains need it under the noise that the layers were trained with: on clean
        inputs, a good auto-encoder misses h_l by far less, and a chain with that noise is far too
        narrow. Training measures it at its end; the widths unit by unit are kept too.

        Args:
            x: examples, (batch, width of x).
            corruption: of h_0 .. h_L, at the end of training; a tensor stands for Gaussian noise
                of these deviations. None for no noise at all.
            adds_up: whether training encodes h~_{l-1} to h~_l, so that lower noise adds to it.

        Raises:
            ValueError: if x has no rows or another width; for a wrong number of corruptions.

        Example:
            >>> from gendae.corruption import GaussianNoise
            >>> from gendae.layers.affine import Affine
            >>> stack = Stack(Pair(Affine(8, 4, "softplus"), Affine(4, 8, "sigmoid")))
            >>> stack.fit_residuals(torch.rand(50, 8), [GaussianNoise(0.3), None]).shape
            torch.Size([1])
        """
        h = self.encode(checks.rows("x", x))
        if corruption is None:
            corruption = [None] * len(h)
        if len(corruption) != len(h):
            raise ValueError(
                f"corruption has {len(corruption)} entries; a stack of {self.depth} pairs has "
                f"{len(h)} representations, h_0 .. h_{self.depth}"
            )

        generator = torch.Generator().manual_seed(0)
        laws = [self.law(level) for level in range(self.depth)]
        widths = measure(list(self.pairs), laws, h, corruption, adds_up, generator)
        self.residuals, self.loops, self.noises = widths

        return self.residuals

    def law(self, level: int) -> Law:
        """Law of h_level around what is decoded to it; Gaussian(1) at the top."""
        if level == self.depth:
            return Gaussian()

        return self.pairs[level].observation

    def require_residuals(self, level: int) -> None:
        """Raise a ValueError unless `fit_residuals` measured how far reconstructions miss h_l."""
        if self.residuals.numel() <= level:
            raise ValueError(
                "the stack does not know how far its reconstructions miss h: call "
                "stack.fit_residuals(x, corruption), or give the completer a corruption"
            )

    def loop_noise(self, level: int) -> LoopNoise:
        """Noise of a round from h_level up to the top and down again, level < L.

        Models of version 0.1 hold one number for a level, by which clean reconstructions miss it:
        their rounds have that noise alone, as they had then.

        Raises:
            ValueError: before `fit_residuals`.
        """
        self.require_residuals(level)

        if self.loops.numel() == 0:
            ones = self.residuals.new_ones(self.sizes[level])
            passing = tuple(ones.new_zeros(width) for width in self.sizes[level + 1 :])
            return LoopNoise(ones * self.residuals[level] / ROUND, passing, 0.0 * ones)

        ends = list(accumulate(self.sizes))
        here = slice(ends[level] - self.sizes[level], ends[level])
        passing = self.noises.split(self.sizes[1:])[level:]

        return LoopNoise(self.loops[0, here], passing, self.loops[1, here])

    def condition(self, name: str, x: Tensor, labels: Tensor | None) -> Tensor:
        """What a prior of p(h_L | c) is told of examples: here the label of each.

        Args:
            name: of c.
            x: (batch, width of x).
            labels: of the data, (batch,) class indices; None if they have none.

        Raises:
            ValueError: for another name than label, and data without labels of examples.
        """
        if name != "label" or labels is None or labels.ndim != 1:
            raise ValueError(
                f"the prior is conditioned on {name!r}, which {type(self).__name__} and its data "
                "do not have; accepted: 'label' with labelled examples, or a modality of a "
                "JointStack"
            )

        return labels

    def under(self, prior: Prior) -> "Self":
        """The same layers under another prior, such as one given a label; nothing is copied.

        Example:
            >>> from gendae.layers.affine import Affine
            >>> stack = Stack(Pair(Affine(8, 4), Affine(4, 8)))
            >>> wide = stack.under(GaussianPrior("identity", 4.0))
            >>> wide.pairs is stack.pairs, wide.prior is stack.prior
            (True, False)
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.prior = prior

        return other

    def log_joint(self, h: tuple[Tensor, ...], prior: bool = True) -> Tensor:
        """log p(x, h) = sum_l log p(h_{l-1} | h_l) + log p(h_L), in nats, (batch,).

        Source: 2015, Eq. 7. Training and Figure 4 ignore the top-level prior: `prior=False`.
        """
        levels = zip(self.pairs, h, h[1:], strict=False)
        terms = (pair.observation.log_prob(low, pair.g(high)) for pair, low, high in levels)
        total = cast(Tensor, sum(terms))
        if prior:
            total = total + self.prior.log_prob(h[-1])

        return total

    def log_q(self, h: tuple[Tensor, ...]) -> Tensor:
        """log q(h | x) = sum_l log q(h_l | h_{l-1}), in nats, (batch,) (2015, Eq. 7)."""
        levels = zip(self.pairs, h, h[1:], strict=False)
        terms = (pair.recognition.log_prob(high, pair.f(low), low) for pair, low, high in levels)
        return cast(Tensor, sum(terms))

    def sample_q(self, x: Tensor, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """h_0 = x, h_l ~ Q(h_l | h_{l-1}): the noisy way up (2014, Eq. 2)."""
        h = [x]
        for pair in self.pairs:
            mean = pair.f(h[-1])
            h.append(pair.recognition.sample(mean, generator, h[-1]))

        return tuple(h)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        # older files hold no residuals, or only these
        for name in MEASURED:
            stored = state_dict.setdefault(prefix + name, torch.empty(0))
            setattr(self, name, self.residuals.new_empty(stored.shape))

        super()._load_from_state_dict(state_dict, prefix, *args)

    def _level(self, level: int | None) -> int:
        if level is None:
            level = self.depth
        if not 1 <= level <= self.depth:
            raise ValueError(f"level={level} is not in 1 .. {self.depth}")

        return level
