"""Feedback: what a displacement of a map's output asks of its input.

A map m of a chain (see `rules.chain`) gave y = m(h), and is told that y should have been y + d.
Its own weights learn that as a regression. What lies before it is told by the feedback c of m:

    displacement of h = c(d)

Exact              the transposed Jacobian: back-propagation, the control
Partners           the pair's other map: f_l(d_{l-1} + d) - f_l(d_{l-1}) for g_l, and likewise
                   g_l for f_l                              (2015, Eq. 12; Lee 2018, Eq. 3.15)
Direct             none of m: fixed random weights lead from the last map to every other
                                                            (direct feedback alignment)
DirectDifference   likewise, by maps that learn to undo all that lies between, see `rules.direct`
                                                            (Meulemans et al. 2020)

Separate maps beside m, c(d) = inverse(y + d) - inverse(y), see `rules.inverses`:

Inverses           learn to invert m on noisy activations                   (Lee 2018, Eq. 3.13)
FixedWeights       stay as they are drawn                   (Shibuya et al. 2023)

Separate linear maps, c(d) = B d or B (s' * d), see `rules.transposes`:

Random             stay as they are drawn                   (feedback alignment)
SignSymmetry       have the signs of W'                     (Liao et al. 2016)
WeightMirror       learn W' from how W answers to noise     (Akrout et al. 2019)
LocalDifference    learn the transpose of m's Jacobian from how m answers to noise
                                                            (Ernoult et al. 2022)
DifferenceReconstruction  learn to undo all that lies between m and the end, the damped
                   pseudo-inverse                           (Meulemans et al. 2020)

and may follow the changes of m's own weights, whether they learn or not (Kolen and Pollack 1994).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.layers.wrapped import change
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.chain import Chain, Link, State
from gendae.rules.moment import Moment


class Feedback(nn.Module):
    """Base class; a variant defines `back`, and where it learns `layer_for` and `losses`.

    Attributes:
        unfolds: whether maps made of several are taken as those.
        derivative: whether maps that do not learn, such as pooling, send d where their derivative
            says; if not, each copies it to all that it was made of.
        layers: what learns, or was drawn, by the number of the link in the chain, as text.

    Example:
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> class Half(Feedback):                       # every map is told a half
        ...     def layer_for(self, link):
        ...         return nn.Linear(link.layer.out_features, link.layer.in_features)
        ...
        ...     def back(self, number, link, state, d, moment):
        ...         return d @ self.layers[str(number)].weight.T / 2.0
    """

    unfolds = True
    derivative = False
    #: Whether an update's operations depend on its number.
    has_phases = False
    #: Examples of a batch that its losses look at; None for all.
    rows: int | None = None
    #: Whether the decoders of the pairs are the feedback of the encoders, and learn to be that.
    by_partners = False

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()

    @property
    def learns(self) -> bool:
        """Whether there are losses of the feedback itself."""
        return type(self).losses is not Feedback.losses

    def learns_in(self, chain: Chain) -> bool:
        """Whether any map of a chain has feedback that learns."""
        return self.learns

    def prepare(self, chain: Chain, stack: Stack) -> None:
        """Make what learns or is drawn, for all maps above the first that learns.

        Args:
            chain: the maps.
            stack: the model that they are of, which tells device and precision.

        Raises:
            ValueError: for feedback that has learned, or is to learn, to serve other maps.
        """
        if self.layers:
            raise ValueError(
                f"feedback={type(self).__name__} serves another rule, which would lose what it "
                "learns by; accepted: a loop and feedback of each rule's own"
            )

        for number, layer in self.made_for(chain).items():
            if layer is not None:
                self.layers[str(number)] = layer

        self.to(stack.device, stack.dtype)

    def made_for(self, chain: Chain) -> dict[int, nn.Module | None]:
        """What is to be the feedback, by the number of the map that it belongs to."""
        above = range(chain.lowest + 1, len(chain))
        links = {number: chain.links[number] for number in above}

        return {number: self.layer_for(link) for number, link in links.items() if not link.fixed}

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        """What learns: one parameter group for each map."""
        if not self.learns:
            return []

        return [[layer] for layer in self.layers.values()]

    def layer_for(self, link: Link) -> nn.Module | None:
        """What is to be the feedback of a map; None where nothing is made for it."""
        return None

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        """Displacement of a map's input for that of its output, (batch, width of the input).

        Args:
            number: of the link in the chain.
            link: the map.
            state: its input and output.
            d: displacement of the output; of the pre-activation for the last map.
            moment: of the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define back")

    def through(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        """`back`, or the way of a displacement through a map that does not learn."""
        if not link.fixed:
            return self.back(number, link, state, d, moment)
        if not self.derivative:
            return link.layer.copied(d)
        if not state.output.requires_grad:
            return link.layer.back(state.given, d)

        # the switches of the way up, which pooling would take longer to find again
        return torch.autograd.grad(state.output, state.given, d, retain_graph=True)[0]

    def displacements(
        self,
        chain: Chain,
        states: Sequence[State],
        last: Tensor,
        moment: Moment,
        pull: Tensor | None = None,
    ) -> list[Tensor]:
        """Displacements of the outputs of all maps, in the order of the chain.

        Those below the first map that learns, which nobody asks for, are 0.

        Args:
            chain: the maps.
            states: what went through them.
            last: displacement of the last map's output.
            moment: of the update.
            pull: what a prior adds at h_L.
        """
        moves = [last]
        for number in range(len(chain) - 1, chain.lowest, -1):
            move = self.through(number, chain.links[number], states[number], moves[-1], moment)
            if number == chain.climb and pull is not None:
                move = move + pull
            moves.append(move)

        below = [torch.zeros_like(state.output) for state in states[: chain.lowest]]
        return [*below, *moves[::-1]]

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        """Local losses of the feedback itself, by name, mean over the batch."""
        return {}

    def due(self, moment: Moment) -> bool:
        """Whether feedback learns at this update."""
        return self.learns


def exact(link: Link, state: State, d: Tensor) -> Tensor:
    """J' d, by the weights of the map itself."""
    if link.affine:
        return link.layer.transposed(d * link.slope(state.output.detach()))

    with torch.enable_grad():
        given = state.given.detach().requires_grad_()
        output = link(given)
    (displacement,) = torch.autograd.grad(output, given, d)
    return displacement


def size_of(link: Link) -> float:
    """Root mean square of the weights of a map; of one of another form, what keeps lengths."""
    if link.affine:
        return link.layer.weight.detach().square().mean().sqrt().item()

    return max(link.layer.in_features, link.layer.out_features) ** -0.5


@register
class Exact(Feedback):
    """c = J', by the weights of the map itself: back-propagation of the loop's loss.

    It is no local rule, but the control beside which others stand: same loss, same noise, same
    optimizer.

    Example:
        >>> from gendae import DifferenceLoop, TargetPropRule, deep_autoencoder
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]), DifferenceLoop(Exact(), start=0))
        >>> sorted(rule.losses((torch.rand(5, 8),)))
        ['lack_f_1', 'lack_f_2', 'lack_g_1', 'lack_g_2']
    """

    derivative = True

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        return exact(link, state, d)


@register
class Partners(Feedback):
    """The maps of a pair are each other's feedback, and learn to invert each other.

    c(d) = f_l(y + d) - f_l(y) for y = g_l(h), and g_l(y + d) - g_l(y) for y = f_l(h)
    inverse_f_l: what g_l was given is a target for f_l of what it gave
    inverse_g_l: what f_l was given is a target for g_l of what it gave

    The output layer of a classifier has no partner: its feedback is exact, the first target that
    of Lee 2018, Eq. 3.7. g_1 of a classifier, which leads to x, does not learn.

    Source: Bengio et al. 2015, Eq. 12; Lee 2018, Eq. 3.12 and 3.15.

    Args:
        weight: of the two inverse losses.

    Raises:
        ValueError: for a negative weight.
    """

    unfolds = False
    by_partners = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = checks.at_least("weight", weight, 0.0)

    def learns_in(self, chain: Chain) -> bool:
        return chain.between > 0

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        if link.partner is None:
            return exact(link, state, d)

        return change(link.partner, state.sent, d)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        maps = list(zip(chain, states, strict=True))
        if not chain.goes_down:
            maps = maps[chain.lowest + 1 : -1]

        losses = {}
        for link, state in maps:
            law = link.pair.observation if link.is_encoder else link.pair.recognition
            again = link.partner(state.sent)
            energy = law.energy(state.given, again).mean()

            direction, level = link.name.split("_")
            partner = "g" if direction == "f" else "f"
            losses[f"inverse_{partner}_{level}"] = self.weight * energy

        return losses


def targets_of(chain: Chain) -> list[int]:
    """Numbers of the maps that direct feedback leads to: those that learn, but the last."""
    return [number for number, link in enumerate(chain.links[:-1]) if not link.fixed]


def random_linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Random weights of this deviation, without a constant."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)

    return layer


class DirectFeedback(Feedback):
    """Base class: displacements come from the last map alone, a map of its own for every other.

    Maps that do not learn, such as pooling, are passed over. In a generative loop the prior pulls
    h_L alone. A variant defines `made_for`, and `brought` where a displacement is more than a
    layer of what the last map's output moves by.
    """

    def brought(self, number: int, output: Tensor, d: Tensor) -> Tensor:
        """Displacement of the output of a map.

        Args:
            number: of the map in the chain.
            output: of the last map.
            d: displacement of that.
        """
        return self.layers[str(number)](d)

    def displacements(
        self,
        chain: Chain,
        states: Sequence[State],
        last: Tensor,
        moment: Moment,
        pull: Tensor | None = None,
    ) -> list[Tensor]:
        moves = []
        for number, state in enumerate(states[:-1]):
            if chain.links[number].fixed:
                moves.append(torch.zeros_like(state.output))
            else:
                moves.append(self.brought(number, states[-1].output.detach(), last))

        if pull is not None:
            moves[chain.climb - 1] = moves[chain.climb - 1] + pull
        return [*moves, last]


@register
class Direct(DirectFeedback):
    """Fixed random weights lead from the last map to all others: direct feedback alignment.

    displacement of the output of the map l = B_l d, with d that of the last map's output

    The entries of B_l have the size of the last map's weights at the start. Maps that do not
    learn, such as pooling, are passed over. In a generative loop the prior pulls h_L alone.
    Source: Noekland 2016.

    Args:
        gain: of the B_l.

    Raises:
        ValueError: for a gain of 0 or less.
    """

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = checks.at_least("gain", gain, 0.0, strict=True)

    def made_for(self, chain: Chain) -> dict[int, nn.Module | None]:
        last = chain.links[-1]
        inputs = last.layer.out_features
        std = self.gain * size_of(last)

        made: dict[int, nn.Module | None] = {}
        for number in targets_of(chain):
            width = chain.links[number].layer.out_features
            made[number] = random_linear(inputs, width, std).requires_grad_(False)

        return made
