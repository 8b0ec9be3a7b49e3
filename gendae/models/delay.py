"""Networks in continuous operation: every unit updates once a tick, and there are no phases.

    p^f_l = f_l(x_{l-1}),  p^r_l = g_{l+1}(x_{l+1})             from the values of the tick before
    x_l = (1 - a) p^f_l + a p^r_l                               0 < l < L, weight a of feedback
    x_0 = the stimulus, or p^r_0 while there is none
    x_L = p^f_L, or the label while it is given

Each layer thus answers one tick after the layers beside it. Several streams run side by side as
the rows of a tensor, each with a state of its own.
Source: Bengio 2014, section 8.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae import checks
from gendae.corruption import normal_like
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair


class Activity(NamedTuple):
    """What all units do at a tick, tensors (rows, width of the layer) for l = 0 .. L.

    Args:
        x: the values of the units, which others receive at the next tick.
        up: p^f_l of the forward units; at l = 0 the stimulus, or p^r_0 while there is none.
        down: p^r_l of the reconstruction units; at l = L the label, or p^f_L while there is none.
    """

    x: list[Tensor]
    up: list[Tensor]
    down: list[Tensor]


class DelayNetwork:
    """Layer pairs that run all at once, with a delay of one tick between neighbours.

    Args:
        pairs: (f_1, g_1) .. (f_L, g_L), affine layers of real values.
        feedback: a, the weight of what comes from above, in [0, 1].

    Raises:
        ValueError: for other layers or discrete units, and a outside [0, 1].

    Example:
        >>> from gendae import deep_autoencoder
        >>> network = DelayNetwork(deep_autoencoder([8, 6, 4]).pairs)
        >>> x = torch.rand(5, 8)
        >>> seen = network.show(network.rest(5), ticks=3, x=x)
        >>> gone = network.tick(seen)             # without a stimulus, x_0 is reconstructed
        >>> torch.equal(seen.x[0], x), torch.equal(gone.x[0], gone.down[0])
        (True, True)
    """

    def __init__(self, pairs: Sequence[Pair], feedback: float = 0.1) -> None:
        self.pairs = [checks.kind("pairs", pair, Pair) for pair in checks.several("pairs", pairs)]
        for level, pair in enumerate(self.pairs, 1):
            _need_affine(level, pair)

        self.feedback = checks.share("feedback", feedback)
        self.depth = len(self.pairs)
        self.sizes = [self.pairs[0].f.in_features, *(p.f.out_features for p in self.pairs)]

    def rest(self, rows: int) -> Activity:
        """All units at 0, for a number of streams side by side."""
        like = cast(Affine, self.pairs[0].f).weight
        x = [like.new_zeros(rows, width) for width in self.sizes]

        return Activity(x, x, x)

    @torch.no_grad()
    def tick(
        self,
        before: Activity,
        x: Tensor | None = None,
        y: Tensor | None = None,
        noise: float = 0.0,
        generator: Generator | None = None,
    ) -> Activity:
        """What the units do one tick later.

        Args:
            before: what they did at the tick before.
            x: the stimulus, (rows, width of x); None while there is none.
            y: values that the top is held at, (rows, width of h_L); None while it is free.
            noise: standard deviation of noise on all values.
            generator: source of the noise; the global one if None.
        """
        top = self.depth
        up = [before.x[0], *(self.forward_units(level, before.x) for level in range(1, top + 1))]
        down = [self.reconstruction_units(level, before.x) for level in range(top)]

        up[0] = down[0] if x is None else x
        down.append(up[top] if y is None else y)

        inner = [self.values(level, before.x, up, down) for level in range(1, top)]
        values = [up[0], *inner, down[top]]
        if noise > 0.0:
            values = [torch.add(v, normal_like(v, generator), alpha=noise) for v in values]

        return Activity(values, up, down)

    def show(
        self, start: Activity, ticks: int, x: Tensor | None = None, y: Tensor | None = None
    ) -> Activity:
        """The last of several ticks with a constant stimulus, without noise.

        Args:
            start: what the units did before.
            ticks: their number, 1 or more.
            x, y: see `tick`.

        Raises:
            ValueError: for ticks < 1, and x or y of another width.
        """
        checks.whole("ticks", ticks, 1, checks.REPEATS)
        if x is not None:
            x = checks.width("x", x, self.sizes[0])
        if y is not None:
            y = checks.width("y", y, self.sizes[-1])

        now = start
        for _ in range(ticks):
            now = self.tick(now, x, y)

        return now

    # -- what a variant may define -------------------------------------------------------------

    def forward_units(self, level: int, x: Sequence[Tensor]) -> Tensor:
        """p^f_l from the values of the tick before."""
        return self.pairs[level - 1].f(x[level - 1])

    def reconstruction_units(self, level: int, x: Sequence[Tensor]) -> Tensor:
        """p^r_l from the values of the tick before."""
        return self.pairs[level].g(x[level + 1])

    def values(
        self, level: int, x: Sequence[Tensor], up: Sequence[Tensor], down: Sequence[Tensor]
    ) -> Tensor:
        """x_l of a layer between the sensors and the top.

        Args:
            level: l.
            x: values of the tick before.
            up, down: p^f and p^r of this tick.
        """
        return torch.lerp(up[level], down[level], self.feedback)


class SymmetricDelayNetwork(DelayNetwork):
    """The control of Hinton 2007: feedback is the transpose, and adds to what a unit receives.

    x_l = s(W_l x_{l-1} + b_l + a W_{l+1}' x_{l+1})

    For a -> 0, a label at the top moves h_l by a^(L-l) times minus the gradient of its
    cross-entropy by what the unit receives: rates of change are the derivatives of
    back-propagation. Decoders give x_0 alone, while there is no stimulus.

    Args: see `DelayNetwork`.

    Example:
        >>> from gendae import deep_autoencoder
        >>> network = SymmetricDelayNetwork(deep_autoencoder([8, 6, 4]).pairs, feedback=0.01)
        >>> network.tick(network.rest(2), torch.rand(2, 8)).x[1].shape
        torch.Size([2, 6])
    """

    def values(
        self, level: int, x: Sequence[Tensor], up: Sequence[Tensor], down: Sequence[Tensor]
    ) -> Tensor:
        f = cast(Affine, self.pairs[level - 1].f)
        over = cast(Affine, self.pairs[level].f)
        above = F.linear(x[level + 1], over.weight.T)

        return f.s(f.preactivation(x[level - 1]) + self.feedback * above)


def _need_affine(level: int, pair: Pair) -> None:
    """Raise a ValueError unless both maps of a pair have synapses, and pass real values on."""
    for name, layer in (("f", pair.f), ("g", pair.g)):
        if type(layer) is not Affine or layer.receives != "real":
            raise ValueError(
                f"{name}_{level} is {type(layer).__name__}; a network in continuous operation has "
                "affine layers of real values, whose synapses are their own: use Pair(Affine(..), "
                "Affine(..))"
            )

    for law in (pair.recognition, pair.observation):
        if law.hard:
            raise ValueError(
                f"pair {level} has discrete units; those of a network in continuous operation "
                "have values between: accepted: real units"
            )
