"""Feedback by separate maps beside the forward ones: c(d) = inverse(y + d) - inverse(y).

y is what the map sends on: discrete units send their values, not their means. An inverse is
s_0(B y + c), with the activation s_0 that the map's input has been through; that of a convolution
is a transposed one. What it learns is what the variants differ in:

    Inverses        what m was given, from what it gave          (Lee 2018, Eq. 3.13)
    FixedWeights    nothing                                      (Shibuya et al. 2023)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import RelativeNoise
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
class FixedWeights(InverseFeedback):
    """The maps beside the forward ones stay as they are drawn; the correction does the rest.

    Source: Shibuya et al. 2023 (fixed-weight difference target propagation), whose maps are
    tanh(B y), those of the last layer included; without their batch normalisation.

    Args: none.
    """

    def layer_for(self, link: Link) -> nn.Module | None:
        return inverse_of(link).requires_grad_(False)
