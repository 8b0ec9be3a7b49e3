"""Feedback by separate maps beside the forward ones: c(d) = inverse(y + d) - inverse(y).

y is what the map sends on: discrete units send their values, not their means. An inverse is
s_0(B y + c), with the activation s_0 that the map's input has been through; that of a convolution
is a transposed one. What it learns is all that the variants differ in:

    Inverses                  what m was given, from what it gave          (Lee 2018, Eq. 3.13)
    DifferenceReconstruction  noise on h, from what it does at the end     (Meulemans et al. 2020)
    FixedWeights              nothing                                      (Shibuya et al. 2023)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import RelativeNoise, normal_like
from gendae.layers.affine import Affine
from gendae.registry import register
from gendae.rules.chain import Chain, Link, State
from gendae.rules.feedback import Feedback, exact
from gendae.rules.moment import Moment
from gendae.rules.targets import squared_error


def inverse_of(link: Link) -> nn.Module:
    """A map of the same kind the other way, with the range of what the map takes."""
    layer = link.layer
    if link.affine and hasattr(layer, "partner"):
        return layer.partner(link.takes)

    return Affine(layer.out_features, layer.in_features, link.takes)


class InverseFeedback(Feedback):
    """Base class: c(d) = inverse(y + d) - inverse(y); without an inverse, exact."""

    def layer_for(self, link: Link) -> nn.Module | None:
        return inverse_of(link)

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        if str(number) not in self.layers:
            return exact(link, state, d)

        return self.layers[str(number)].difference(state.sent, d)


@register
class Inverses(InverseFeedback):
    """Inverses of the maps learn from noisy activations: difference target propagation.

    feedback_m: |inverse(m(h~)) - h~|^2 / 2 for noisy inputs h~ of the map m

    The output layer of a classifier has none: its feedback is exact, the first target that of
    Lee 2018, Eq. 3.7.
    Source: Lee 2018, Eq. 3.13 and 3.15.

    Args:
        sigma: noise on the map's input, relative to its spread.

    Raises:
        ValueError: for a negative sigma.
    """

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        self.sigma = checks.at_least("sigma", sigma, 0.0)

    def learns_in(self, chain: Chain) -> bool:
        return chain.between > 0

    def layer_for(self, link: Link) -> nn.Module | None:
        if link.pair is None:
            return None

        return inverse_of(link)

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


@register
class DifferenceReconstruction(InverseFeedback):
    """Inverses learn to undo all that lies between their map and the end of the chain.

    feedback_m: |c_m(.. c_M(r)) - xi|^2 + damping |c_m(.. c_M(y))|^2, divided by 2 sigma^2,
                r what noise xi ~ N(0, sigma^2 I) on the input of m does to the last output,
                y noise of the same deviation on the last output itself

    where c_m alone learns. In a linear network its minimum sends J' (J J' + damping I)^-1 d down,
    with the Jacobian J of all maps from m on: displacements are those of Gauss and Newton.
    Noise travels as the means of what units send.
    Source: Meulemans et al. 2020, Eq. 9 (difference reconstruction loss).

    Args:
        damping: of the pseudo-inverse.
        sigma: deviation of the noise, in units of h.
        rows: examples of a batch, in each process, that are perturbed.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(self, damping: float = 0.1, sigma: float = 0.1, rows: int = 25) -> None:
        super().__init__()
        self.damping = checks.at_least("damping", damping, 0.0)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.rows = checks.whole("rows", rows, 1)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number in map(int, self.layers):
            link = chain.links[number]
            loss = self._loss(chain, number, states[number].given[: self.rows], moment)

            name = f"feedback_{link.name}"
            losses[name] = losses.get(name, 0.0) + loss

        return losses

    def _loss(self, chain: Chain, number: int, given: Tensor, moment: Moment) -> Tensor:
        """Both terms are one regression: of xi on r, and of 0 on damped noise."""
        with torch.no_grad():
            xi = self.sigma * normal_like(given, moment.generator)
            states = self._way(chain, number, given)
            moved = self._way(chain, number, given + xi)
            response = moved[-1].output - states[-1].output

            noise = normal_like(response, moment.generator)
            d = torch.cat([response, self.sigma * self.damping**0.5 * noise])
            states = [State(*(torch.cat([t, t]) for t in state)) for state in states]
            for above in range(len(chain) - 1, number, -1):
                d = self.through(above, chain.links[above], states[above - number], d, moment)

        reached = self.through(number, chain.links[number], states[0], d, moment)
        wanted = torch.cat([xi, torch.zeros_like(xi)])
        return squared_error(reached, wanted) / self.sigma**2

    def _way(self, chain: Chain, number: int, given: Tensor) -> list[State]:
        """What goes through the maps from a number on; means stand for what units send."""
        states = []
        for link in chain.links[number:]:
            output = link(given)
            states.append(State(given, output, output))
            given = output

        return states


@register
class FixedWeights(InverseFeedback):
    """The maps beside the forward ones stay as they are drawn; the correction does the rest.

    Source: Shibuya et al. 2023 (fixed-weight difference target propagation), whose maps are
    tanh(B y), those of the last layer included; without their batch normalisation.

    Args: none.
    """

    def layer_for(self, link: Link) -> nn.Module | None:
        return inverse_of(link).requires_grad_(False)
