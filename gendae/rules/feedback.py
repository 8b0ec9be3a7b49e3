"""Feedback: what a displacement of a map's output asks of its input.

A map m of the loop (see `rules.chain`) gave y = m(h), and is told that y should have been y + d.
Its own weights learn that as a regression. What lies before it is told by the feedback c of m:

    displacement of h = c(d)

Partners           the pair's other map: f_l(d_{l-1} + d) - f_l(d_{l-1}) for g_l, and likewise
                   g_l for f_l                              (2015, Eq. 12; Lee 2018, Eq. 3.15)
Inverses           separate maps that learn to invert m on noisy activations (Lee 2018, Eq. 3.13)
LocalDifference    separate linear maps that learn the transpose of m's Jacobian from how m answers
                   to noise (Ernoult et al. 2022), which may follow the changes of m's own weights
                   (Kolen and Pollack 1994)
Exact              the transpose itself: the loop is then back-propagation of its loss, the control
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import RelativeNoise, normal_like
from gendae.layers.activations import ACTIVATIONS
from gendae.layers.affine import Affine
from gendae.layers.wrapped import change
from gendae.metrics.precision import full_precision
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.chain import Chain, Link, State
from gendae.rules.moment import Moment
from gendae.rules.targets import squared_error, with_gradient


class Feedback(nn.Module):
    """Base class; a variant defines `back`, and where it learns `layer_for` and `losses`.

    Attributes:
        unfolds: whether MLPs are taken as the affine maps that they are made of.
        layers: what learns, by the number of the link in the chain, as text.

    Example:
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> class Random(Feedback):                       # feedback alignment
        ...     def layer_for(self, link):
        ...         return nn.Linear(link.layer.out_features, link.layer.in_features)
        ...
        ...     def back(self, number, link, state, d):
        ...         return d @ self.layers[str(number)].weight.T
    """

    unfolds = True
    #: Whether an update's operations depend on its number.
    has_phases = False

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()

    @property
    def learns(self) -> bool:
        """Whether there are losses of the feedback itself."""
        return type(self).losses is not Feedback.losses

    def prepare(self, chain: Chain, stack: Stack) -> None:
        """Make what learns, for all maps but f_1, before which nothing learns.

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

        for number, link in enumerate(chain.links):
            layer = self.layer_for(link)
            if number > 0 and layer is not None:
                self.layers[str(number)] = layer

        self.to(stack.device, stack.dtype)

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        """What learns: one parameter group for each map."""
        return [[layer] for layer in self.layers.values()]

    def layer_for(self, link: Link) -> nn.Module | None:
        """What learns to be the feedback of a map; None where nothing does."""
        return None

    def back(self, number: int, link: Link, state: State, d: Tensor) -> Tensor:
        """Displacement of a map's input for that of its output, (batch, width of the input).

        Args:
            number: of the link in the chain.
            link: the map.
            state: its input and output.
            d: displacement of the output; of the pre-activation for the last map.
        """
        raise NotImplementedError(f"{type(self).__name__} must define back")

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        """Local losses of the feedback itself, by name, mean over the batch."""
        return {}

    def due(self, moment: Moment) -> bool:
        """Whether feedback learns at this update."""
        return True


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

    def back(self, number: int, link: Link, state: State, d: Tensor) -> Tensor:
        if link.affine:
            return (d * link.slope(state.output.detach())) @ link.layer.weight

        with torch.enable_grad():
            given = state.given.detach().requires_grad_()
            output = link(given)
        (displacement,) = torch.autograd.grad(output, given, d)
        return displacement


@register
class Partners(Feedback):
    """The maps of a pair are each other's feedback, and learn to invert each other.

    c(d) = f_l(y + d) - f_l(y) for y = g_l(h), and g_l(y + d) - g_l(y) for y = f_l(h)
    inverse_f_l: what g_l was given is a target for f_l of what it gave
    inverse_g_l: what f_l was given is a target for g_l of what it gave

    Source: Bengio et al. 2015, Eq. 12; Lee 2018, Eq. 3.12 and 3.15.

    Args:
        weight: of the two inverse losses.

    Raises:
        ValueError: for a negative weight.
    """

    unfolds = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = checks.at_least("weight", weight, 0.0)

    def back(self, number: int, link: Link, state: State, d: Tensor) -> Tensor:
        return change(link.partner, state.sent, d)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses = {}
        for link, state in zip(chain, states, strict=True):
            law = link.pair.observation if link.is_encoder else link.pair.recognition
            again = link.partner(state.sent)
            energy = law.energy(state.given, again).mean()

            direction, level = link.name.split("_")
            partner = "g" if direction == "f" else "f"
            losses[f"inverse_{partner}_{level}"] = self.weight * energy

        return losses


@register
class Inverses(Feedback):
    """Separate affine maps learn to invert the maps of the loop: difference target propagation.

    c(d) = inverse(y + d) - inverse(y)
    feedback_m: |inverse(m(h~)) - h~|^2 / 2 for noisy inputs h~ of the map m

    y is what m sends on: discrete units send their values, not their means.

    Source: Lee 2018, Eq. 3.13 and 3.15.

    Args:
        sigma: noise on the map's input, relative to its spread.

    Raises:
        ValueError: for a negative sigma.
    """

    unfolds = False

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        self.sigma = checks.at_least("sigma", sigma, 0.0)

    def layer_for(self, link: Link) -> nn.Module:
        """An inverse has the range of what its map takes, as the map's partner has."""
        activation = link.partner.activation
        if activation not in ACTIVATIONS:
            activation = "linear"

        return Affine(link.layer.out_features, link.layer.in_features, activation)

    def back(self, number: int, link: Link, state: State, d: Tensor) -> Tensor:
        return self.layers[str(number)].difference(state.sent, d)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        noise = RelativeNoise(self.sigma)

        losses: dict[str, Tensor] = {}
        for number, inverse in self.layers.items():
            link = chain.links[int(number)]

            with torch.no_grad():
                given = noise(states[int(number)].given, moment.progress, moment.generator)
                sent = link.send(link(given), moment)

            error = squared_error(inverse(sent), given) / 2.0
            name = f"feedback_{link.name}"
            losses[name] = losses.get(name, 0.0) + error

        return losses


class TransposeLike(nn.Module):
    """B of a map s(W h + b): a matrix of its own, or with `tracks` one that moves as W' does.

    B receives every change of W', and what it learns itself:

        B(t) = W(t)' + (B(0) - W(0)') + what was learned

    so that only the difference B' - W is kept, and B computed from it. B starts at random, and
    both directions see the same product of signals, not each other's values.
    Source: Kolen and Pollack 1994; Akrout et al. 2019.
    """

    def __init__(self, link: Link, tracks: bool) -> None:
        super().__init__()
        layer = link.layer
        wider = max(layer.in_features, layer.out_features)
        start = torch.randn(layer.in_features, layer.out_features).T / wider**0.5

        self._of = (layer,) if tracks and link.affine else ()
        for tracked in self._of:
            start = start.to(tracked.weight) - tracked.weight.detach()
        self.difference = nn.Parameter(start.contiguous())

    @property
    def transposed(self) -> Tensor:
        """B', (width of the map's output, width of its input): it lies in memory as W does."""
        for tracked in self._of:
            return tracked.weight.detach() + self.difference

        return self.difference

    @property
    def weight(self) -> Tensor:
        """B, (width of the map's input, width of its output)."""
        return self.transposed.T

    def forward(self, d: Tensor) -> Tensor:
        return d @ self.transposed


@register
class LocalDifference(Feedback):
    """Linear maps B learn the transpose of a map's Jacobian from how it answers to noise.

    c(d) = B (s'(a) * d), with the derivative of the unit's own activation, or c(d) = B d
    feedback_m: E[ -xi' B r / sigma^2 ] + sum_j E[s'(a_j)^2] |B_j|^2 / 2,
                r = s'(a) * (m(h + xi) - m(h)),  xi ~ N(0, sigma^2 I) on the map's input

    The first term is Hebbian. The second, a decay of the synapses B_j of unit j, is the mean of
    the published |B y|^2 / (2 sigma^2) over noise y on the output, without its variance. The
    minimum is B = W' with the derivative, and B = E[J'] without. No derivative of one map
    reaches another: a unit knows s' at its own pre-activation.
    Source: Ernoult et al. 2022 (local difference reconstruction loss); Meulemans et al. 2020.

    A learned feedback lags behind the weights. With `tracks` it moves as they do: see
    `TransposeLike`.

    Args:
        derivative: multiply by s'(a).
        tracks: follow the changes of the map's own weights (affine maps only).
        sigma: deviation of the noise, in units of h.
        rows: examples of a batch, in each process, that are perturbed.
        every: updates between two of the feedback's, once the start is over.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        derivative: bool = True,
        tracks: bool = True,
        sigma: float = 0.1,
        rows: int = 25,
        every: int = 10,
    ) -> None:
        super().__init__()
        self.derivative = bool(derivative)
        self.tracks = bool(tracks)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.rows = checks.whole("rows", rows, 1)
        self.every = checks.whole("every", every, 1)

    @property
    def has_phases(self) -> bool:
        return self.every > 1

    def due(self, moment: Moment) -> bool:
        return moment.update is None or moment.update % self.every == 0

    def layer_for(self, link: Link) -> nn.Module:
        return TransposeLike(link, self.tracks)

    def back(self, number: int, link: Link, state: State, d: Tensor) -> Tensor:
        return self.layers[str(number)](self._routed(link, state.output.detach(), d))

    def _routed(self, link: Link, output: Tensor, d: Tensor) -> Tensor:
        """A displacement of the output as one of the pre-activation, where that is wanted."""
        if not self.derivative:
            return d

        return d * link.slope(output)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, layer in self.layers.items():
            link = chain.links[int(number)]
            state = states[int(number)]

            name = f"feedback_{link.name}"
            losses[name] = losses.get(name, 0.0) + self._loss(link, state, layer, moment)

        return losses

    @full_precision()
    def _loss(self, link: Link, state: State, layer: nn.Module, moment: Moment) -> Tensor:
        """In the precision of B: half of it would lose answers, which are small differences."""
        b = layer.transposed
        given = state.given[: self.rows].to(b.dtype)
        output = state.output.detach()[: self.rows]

        with torch.no_grad():
            if output.dtype != b.dtype:
                output = link(given)

            xi = self.sigma * normal_like(given, moment.generator)
            response = self._routed(link, output, link(given + xi) - output)
            gain = self._routed(link, output, torch.ones_like(output)).square().mean(0)

            # both terms are quadratic in B at most: their gradients give their values, too
            hebbian = response.T @ xi / (len(xi) * self.sigma**2)
            decay = b * gain[:, None]
            loss = torch.vdot(b.flatten(), decay.flatten()) / 2.0
            loss = loss - torch.vdot(b.flatten(), hebbian.flatten())

        return with_gradient(b, loss, decay.sub_(hebbian))
