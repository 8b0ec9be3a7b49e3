"""Direct feedback that learns: one map from the end of the chain to every layer.

    displacement of h_l = g_l(a + d) - g_l(a),  a the output of the last map, d its displacement

    linear        g_l(a) = Q_l a                                    (DDTP-linear)
    hidden layer  g_l(a) = Q_l tanh(R a + r),  R and r drawn once, the same for all layers,
                  but for the last hidden layer, which is linear    (DDTP-RHL)

Every Q_l learns to undo what noise on h_l does to a. No error of one layer passes another, up or
down: noise on h_l travels up by the forward maps, and what it did comes back in one step.
Source: Meulemans et al. 2020 (direct difference target propagation).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import normal_like
from gendae.layers.affine import Affine
from gendae.metrics.precision import full_precision
from gendae.registry import register
from gendae.rules.chain import Chain, State
from gendae.rules.feedback import DirectFeedback, random_linear, size_of, targets_of
from gendae.rules.moment import Moment
from gendae.rules.targets import squared_error
from gendae.rules.transposes import SMALL, way


@register
class DirectDifference(DirectFeedback):
    """Maps from the last output to every other learn to undo what lies between.

    feedback_m: |g(a + r) - g(a) - xi|^2 + damping |g(a + y) - g(a)|^2, divided by 2 sigma^2,
                r what noise xi ~ N(0, sigma^2 I) on the output of the map m does to a,
                y noise of the same deviation on a itself

    In a linear network the minimum of the linear form is J' (J J' + damping I)^-1, with the
    Jacobian J of all maps above m: displacements are those of Gauss and Newton. It is what
    `DifferenceReconstruction` sends down step by step. Noise travels as the means of what units
    send. A constant of g would cancel in the difference: there is none.
    Source: Meulemans et al. 2020 (DDTP-linear; with `hidden`, DDTP-RHL).

    Args:
        damping: of the pseudo-inverse.
        hidden: width of the random hidden layer; None for linear maps.
        sigma: deviation of the noise, in units of h.
        rows: examples of a batch, in each process, that are perturbed.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from gendae import FeedbackRule, deep_classifier
        >>> rule = FeedbackRule(deep_classifier([8, 6, 6], classes=3), DirectDifference())
        >>> sorted(rule.losses((torch.rand(10, 8), torch.randint(3, (10,)))))
        ['feedback_f_1', 'feedback_f_2', 'label_f_3', 'lack_f_1', 'lack_f_2']
    """

    def __init__(
        self,
        damping: float = 0.1,
        hidden: int | None = None,
        sigma: float = 0.1,
        rows: int = 25,
    ) -> None:
        super().__init__()
        self.damping = checks.at_least("damping", damping, 0.0)
        self.hidden = None if hidden is None else checks.whole("hidden", hidden, 1)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.rows = checks.whole("rows", rows, 1)

    def made_for(self, chain: Chain) -> dict[int, nn.Module | None]:
        *below, top = targets_of(chain)
        last = chain.links[-1]
        outputs = last.layer.out_features

        if self.hidden is not None:
            self.random = Affine(outputs, self.hidden, "tanh").requires_grad_(False)
            nn.init.normal_(self.random.bias, std=outputs**-0.5)

        made: dict[int, nn.Module | None] = {}
        for number in (*below, top):
            width = chain.links[number].layer.out_features
            if self.hidden is None or number == top:
                made[number] = random_linear(outputs, width, SMALL * size_of(last))
            else:
                made[number] = random_linear(self.hidden, width, SMALL * self.hidden**-0.5)

        return made

    def brought(self, number: int, output: Tensor, d: Tensor) -> Tensor:
        """g(a + d) - g(a)."""
        *below, _ = self.layers
        if self.hidden is not None and str(number) in below:
            d = self.random.difference(output, d)

        return self.layers[str(number)](d)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number in map(int, self.layers):
            given = states[number + 1].given[: self.rows]
            loss = self._loss(chain, number, given, moment)

            name = f"feedback_{chain.links[number].name}"
            losses[name] = losses.get(name, 0.0) + loss

        return losses

    @full_precision()
    def _loss(self, chain: Chain, number: int, given: Tensor, moment: Moment) -> Tensor:
        """In the precision of Q: half of it would lose r, which are small differences."""
        given = given.to(self.layers[str(number)].weight.dtype)
        with torch.no_grad():
            xi = self.sigma * normal_like(given, moment.generator)
            output = way(chain, number + 1, given)[-1].output
            response = way(chain, number + 1, given + xi)[-1].output - output

            noise = self.sigma * normal_like(response, moment.generator)

        undone = self.brought(number, output, response)
        damped = self.brought(number, output, noise)
        error = squared_error(undone, xi) + self.damping * squared_error(damped, 0.0 * xi)
        return error / (2.0 * self.sigma**2)
