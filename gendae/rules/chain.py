"""The loop as one chain of maps: up the encoders and down the decoders.

    x -> f_1 -> h_1 -> .. -> f_L -> h_L -> (corruption) -> z -> g_L -> d_{L-1} -> .. -> g_1 -> x^

Every map of the chain runs once, on a detached input, and keeps the graph of that one step: what
is learned from its output reaches its own parameters and nothing else.

The chain of a classifier is the way up alone, with the output layer as its last map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from torch import Generator, Tensor, nn

from gendae.laws import Law
from gendae.layers.activations import ACTIVATIONS, DERIVATIVES
from gendae.layers.affine import Affine
from gendae.layers.conv import Conv, ConvTranspose
from gendae.layers.layers import Layers
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair, Transpose, takes_logits
from gendae.layers.wrapped import Layer
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.stack import Stack
from gendae.rules.moment import Moment

#: Layers of the form s(W h + b), with the calls of a `Linear`; a variant's may be another.
AFFINE = (Affine, Conv, ConvTranspose, Transpose)
#: Layers made of several, which may be taken one by one.
UNFOLDED = (Layers, MLP)

#: (level, h, moment) -> h~
Corrupt = Callable[[int, Tensor, Moment], Tensor]


def is_fixed(layer: nn.Module) -> bool:
    """Whether a map has nothing to learn, such as pooling, and says how it is undone."""
    return hasattr(layer, "copied")


def clean(level: int, h: Tensor, moment: Moment) -> Tensor:
    """No corruption."""
    return h


def send(law: Law, mean: Tensor, generator: Generator | None = None) -> Tensor:
    """What the next layer sees of a mean; discrete values have the straight-through gradient."""
    sent = law.transmit(mean, generator)
    if sent is mean:
        return mean

    return sent + mean - mean.detach()


@dataclass(frozen=True)
class Link:
    """One map of the chain.

    The last one gives what x^ is a function of: its pre-activation a where it is s(W h + b), whose
    s is its head, and counts as part of the energy of x; else x^ itself.

    Attributes:
        name: f_l or g_l; the affine maps inside an MLP share it.
        layer: the map.
        pair: (f_l, g_l); None for the output layer of a classifier.
        gives: the level whose representation it gives; None inside an MLP, and of an output layer.
        law: of what it gives; None likewise.
        head: of the last link, output -> x^; None of any other.
        takes: name of the activation that its input has been through.
    """

    name: str
    layer: Layer
    pair: Pair | None
    gives: int | None
    law: Law | None
    head: Callable[[Tensor], Tensor] | None = None
    takes: str = "linear"

    @property
    def is_encoder(self) -> bool:
        return self.name.startswith("f")

    @property
    def affine(self) -> bool:
        """Whether the map is s(W h + b); any other is back-propagated through inside."""
        return type(self.layer) in AFFINE

    @property
    def fixed(self) -> bool:
        """Whether the map has nothing to learn, such as pooling, and says how it is undone."""
        return is_fixed(self.layer)

    @property
    def is_last(self) -> bool:
        return self.head is not None

    @property
    def partner(self) -> Layer | None:
        """The other map of the pair; an output layer has none."""
        if self.pair is None:
            return None

        return self.pair.g if self.is_encoder else self.pair.f

    def __call__(self, h: Tensor) -> Tensor:
        """The output: h_l, d_l, or for the last map a."""
        if self.is_last and self.affine:
            return self.layer.preactivation(h)

        return self.layer(h)

    def slope(self, output: Tensor) -> Tensor | float:
        """Derivative of the unit's own activation, from its output; 1 where there is none."""
        if self.is_last or not self.affine:
            return 1.0

        return DERIVATIVES[self.layer.activation](output)

    def send(self, output: Tensor, moment: Moment) -> Tensor:
        """What the next map sees of an output, apart from noise; x^ stays a mean."""
        if self.head is not None:
            return self.head(output)
        if self.law is None:
            return output

        return self.law.transmit(output, moment.draws)

    def energy(self, x: Tensor, output: Tensor) -> Tensor:
        """-log P(x | h_1) of each example, from the output of the last map."""
        if self.affine and takes_logits(self.law):
            return self.law.energy_of_logits(x, output)

        return self.law.energy(x, self.head(output))


class State(NamedTuple):
    """What went through a link: its input, its output with the graph, and what that sent on.

    x^ is what the last link sends.
    """

    given: Tensor
    output: Tensor
    sent: Tensor


@dataclass(frozen=True)
class Chain:
    """The links of a stack's loop, from x up and down to x^.

    Example:
        >>> from gendae import deep_autoencoder
        >>> chain = Chain.of(deep_autoencoder([8, 6, 4], hidden_g=[5]), unfolded=True)
        >>> [link.name for link in chain]
        ['f_1', 'f_2', 'g_2', 'g_2', 'g_1', 'g_1']
    """

    links: Sequence[Link]
    #: The number of links that climb.
    climb: int

    @classmethod
    def of(cls, stack: Stack, unfolded: bool = False) -> "Chain":
        """The chain of a stack.

        Args:
            stack: the model.
            unfolded: take an MLP, and `Layers`, as the maps that they are made of.
        """
        up, down = ways(stack, unfolded)
        last = down[-1]
        head = last.layer.s if last.affine else identity

        return cls(in_order([*up, *down[:-1], replace(last, head=head)]), len(up))

    @classmethod
    def of_top(cls, stack: JointStack, unfolded: bool = False) -> "Chain":
        """The chain of the top of a joint stack: from the masked codes h_J to their means.

        What the first map is given holds the mask: see `Masked.input`.
        """
        up, down = ways(stack, unfolded, stack.level)

        junction = stack.junction
        first = _links(up[0].name, junction.f.f, junction, up[0].gives, up[0].law, unfolded)
        last = _links(down[-1].name, junction.g.g, junction, stack.level, None, unfolded)
        last[-1] = replace(last[-1], head=junction.g.heads)

        links = [*first, *up[1:], *down[:-1], *last]
        return cls(in_order(links), len(first) + len(up) - 1)

    @classmethod
    def of_classifier(cls, stack: Classifier, unfolded: bool = False) -> "Chain":
        """The chain of a classifier, f_1 .. f_M, whose last output is the logits or the values.

        Args:
            stack: the classifier.
            unfolded: see `of`.

        Example:
            >>> from gendae import deep_classifier
            >>> [link.name for link in Chain.of_classifier(deep_classifier([8, 6, 6]))]
            ['f_1', 'f_2', 'f_3']
        """
        up, _ = ways(stack, unfolded)
        output = Link(f"f_{stack.depth + 1}", stack.output, None, None, None, identity)

        return cls(in_order([*up, output]), len(up) + 1)

    @property
    def goes_down(self) -> bool:
        """Whether there are decoders in it."""
        return self.climb < len(self.links)

    @property
    def lowest(self) -> int:
        """The number of the first map that learns: what lies below needs no target."""
        return next((n for n, link in enumerate(self.links) if not link.fixed), len(self) - 1)

    @property
    def between(self) -> int:
        """How many maps of pairs lie above the first that learns."""
        return sum(link.pair is not None for link in self.links[self.lowest + 1 :])

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def run(self, given: Tensor, corrupt: Corrupt, moment: Moment) -> list[State]:
        """Every map on a detached input, with the graph of its own step.

        Args:
            given: what the first map takes, noise included.
            corrupt: of the representations that the encoders give.
            moment: of the update.
        """
        states: list[State] = []
        for link in self.links:
            if link.fixed:
                given = given.detach().requires_grad_()  # its graph says how it went through

            output = link(given)
            sent = link.send(output.detach(), moment)
            states.append(State(given, output, sent))
            given = self._noisy(link, sent, corrupt, moment).detach()

        return states

    def through(self, given: Tensor, corrupt: Corrupt, moment: Moment) -> tuple[Tensor, Tensor]:
        """h_L and the output of the last link, with one graph, for the same noise as in `run`.

        Noise counts as a constant; discrete values have the straight-through gradient.
        """
        h = given
        top = given
        for number, link in enumerate(self.links, 1):
            output = link(h)
            constant = output.detach()
            sent = link.send(constant, moment)
            noisy = self._noisy(link, sent, corrupt, moment)

            if number == self.climb:
                top = output + (sent - constant)
            h = output if link.is_last else output + (noisy - constant)

        return top, h

    def _noisy(self, link: Link, sent: Tensor, corrupt: Corrupt, moment: Moment) -> Tensor:
        """Noise stands on the way up, and on the code from which the way down begins."""
        if not link.is_encoder or link.gives is None:
            return sent

        return corrupt(link.gives, sent, moment)


def ways(stack: Stack, unfolded: bool, start: int = 0) -> tuple[list[Link], list[Link]]:
    """The links of the way up from a level, and of the way down to it."""
    up: list[Link] = []
    down: list[Link] = []
    for level, pair in enumerate(stack.pairs[start:], start + 1):
        up += _links(f"f_{level}", pair.f, pair, level, pair.recognition, unfolded)
        decoder = _links(f"g_{level}", pair.g, pair, level - 1, pair.observation, unfolded)
        down = [*decoder, *down]

    return up, down


def identity(output: Tensor) -> Tensor:
    """x^ where the last map gives it."""
    return output


def in_order(links: Sequence[Link]) -> list[Link]:
    """Links that know what they take: what the one before gives."""
    ordered = list(links[:1])
    for before, link in pairwise(links):
        takes = ordered[-1].takes if before.fixed else before.layer.activation
        if takes not in ACTIVATIONS:
            takes = "linear"
        ordered.append(replace(link, takes=takes))

    return ordered


def parts_of(layer: Layer) -> Iterator[Layer]:
    """The layers that a layer is made of."""
    if not isinstance(layer, UNFOLDED):
        yield layer
        return

    for part in layer.layers:
        yield from parts_of(part)


def _links(
    name: str, layer: Layer, pair: Pair, gives: int | None, law: Law | None, unfolded: bool
) -> list[Link]:
    parts: list[Layer] = [layer]
    if unfolded:
        parts = list(parts_of(layer))

    inside = [Link(name, part, pair, None, None) for part in parts[:-1]]
    return [*inside, Link(name, parts[-1], pair, gives, law)]
