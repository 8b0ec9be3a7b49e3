"""Linear feedback: c(d) = B d, or B (s' * d) with the derivative of the unit's own activation.

B has the shape of W' of the map s(W h + b). With B = W' and derivatives this is back-propagation;
what B is instead says how far from the weights of the map it can be, and who tells it:

    Random             nobody: it stays as it is drawn           (feedback alignment)
    SignSymmetry       the signs of W                            (Liao et al. 2016)
    WeightMirror       noise that passes W alone                 (Akrout et al. 2019)
    LocalDifference    what noise on the map's input does to its output  (Ernoult et al. 2022)
    DifferenceReconstruction  what it does to the last output, which B learns to undo
                                                                 (Meulemans et al. 2020)

Tracking comes beside these: B receives every change that W' makes (Kolen and Pollack 1994). What
it needs is that both directions see the same product of signals, not each other's values.

A learned feedback lags behind the weights: errors B - W' that go with the latest changes of W
cost accuracy which no cosine of a single batch shows. Tracking keeps up, and aligns nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.layers.affine import Linear, Matrix
from gendae.metrics.precision import full_precision
from gendae.registry import register
from gendae.rules.chain import Chain, Link, State
from gendae.rules.feedback import Feedback, size_of
from gendae.rules.moment import Moment
from gendae.rules.targets import squared_error, with_gradient

KINDS = ("uniform", "fixed", "random")
#: Size of a B that learns at the start, in units of W: what it begins with is in its way.
SMALL = 0.1


def linear_part(link: Link) -> Linear:
    """The linear part of a map; of one that is not s(W h + b), products with a matrix."""
    return link.layer if link.affine else Matrix()


def way(chain: Chain, number: int, given: Tensor) -> list[State]:
    """What goes through the maps from a number on; means stand for what units send."""
    states = []
    for link in chain.links[number:]:
        output = link(given)
        states.append(State(given, output, output))
        given = output

    return states


class TransposeLike(nn.Module):
    """B of a map s(W h + b): weights of its own, or with `tracks` ones that move as W' does.

    B receives every change of W', and what it learns itself:

        B(t) = W(t)' + (B(0) - W(0)') + what was learned

    so that only the difference B' - W is kept, and B computed from it. Weight decay of B, where
    there is some, is that of the difference: equal to that of W it is what both have in Kolen and
    Pollack's rule, where the difference vanishes.
    Source: Kolen and Pollack 1994; Akrout et al. 2019.

    Args:
        link: the map.
        tracks: whether B follows the changes of W, where the map has a W.
        gain: size of B at the start, where it is random, in units of W.
    """

    def __init__(self, link: Link, tracks: bool, gain: float) -> None:
        super().__init__()
        layer = link.layer
        shape = torch.Size([layer.out_features, layer.in_features])
        if link.affine:
            shape = layer.weight.shape

        start = gain * size_of(link) * torch.randn(shape)
        self._part = (linear_part(link),)  # in a tuple, so that nothing is registered twice
        self._of = (layer,) if tracks and link.affine else ()
        for tracked in self._of:
            start = start.to(tracked.weight) - tracked.weight.detach()
        self.difference = nn.Parameter(start.contiguous())

    @property
    def part(self) -> Linear:
        """What makes products with weights in the shape of W."""
        return self._part[0]

    @property
    def weight(self) -> Tensor:
        """B', in the shape of W."""
        for tracked in self._of:
            return tracked.weight.detach() + self.difference

        return self.difference

    def forward(self, d: Tensor) -> Tensor:
        return self.part.transposed(d, self.weight)


class LinearFeedback(Feedback):
    """Base class: c(d) = B (s'(a) * d), or c(d) = B d without the derivative.

    Args:
        derivative: multiply by s'(a), which a unit knows at its own pre-activation. Pooling then
            sends d to the units that it took; without, to all of them alike.
        tracks: follow the changes of the map's own weights.
    """

    def __init__(self, derivative: bool = True, tracks: bool = False) -> None:
        super().__init__()
        self.derivative = bool(derivative)
        self.tracks = bool(tracks)

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        return self.layers[str(number)](self.routed(link, state.output.detach(), d))

    def routed(self, link: Link, output: Tensor, d: Tensor) -> Tensor:
        """A displacement of the output as one of the pre-activation, where that is wanted."""
        if not self.derivative:
            return d

        return d * link.slope(output)


@register
class Random(LinearFeedback):
    """B stays as it is drawn: feedback alignment.

    Its entries have the size of those of W at the start. With `tracks` it is Kolen and Pollack's
    rule without their weight decay: B - W' stays as it is.
    Source: Lillicrap et al. 2016.

    Args:
        gain: of B.
        derivative, tracks: see `LinearFeedback`.

    Raises:
        ValueError: for a gain of 0 or less.
    """

    def __init__(self, gain: float = 1.0, derivative: bool = True, tracks: bool = False) -> None:
        super().__init__(derivative, tracks)
        self.gain = checks.at_least("gain", gain, 0.0, strict=True)

    def layer_for(self, link: Link) -> nn.Module:
        return TransposeLike(link, self.tracks, self.gain).requires_grad_(False)


class SignLike(nn.Module):
    """B of a map s(W h + b): the signs of W', and magnitudes of its own."""

    def __init__(self, link: Link, kind: str) -> None:
        super().__init__()
        weight = link.layer.weight
        fans = sum(weight.shape[:2]) * weight[0, 0].numel()
        self._of = (link.layer,)
        self.kind = kind

        self.scale = (2.0 / fans) ** 0.5
        if kind != "uniform":
            self.scale *= 3.0**0.5
        if kind == "fixed":
            self.register_buffer("magnitude", torch.rand(weight.shape))

    def forward(self, d: Tensor, moment: Moment) -> Tensor:
        (layer,) = self._of
        weight = self.scale * layer.weight.detach().sign()
        if self.kind == "fixed":
            weight = weight * self.magnitude
        if self.kind == "random":
            weight = weight * uniform_like(weight, moment.generator)

        return layer.transposed(d, weight)


@register
class SignSymmetry(LinearFeedback):
    """B has the signs of W', which change with it, and no more of its numbers.

    uniform (uSF):  B = sign(W') v,          v = sqrt(2 / (fan-in + fan-out))
    fixed (frSF):   B = sign(W') * |M|,      M uniform on sqrt(3) [-v, v], drawn once
    random (brSF):  likewise, drawn anew at every batch, by each process for itself

    Source: Liao, Leibo and Poggio 2016; scaled as in Xiao et al. 2019, after biotorch.

    Args:
        kind: of the magnitudes: "uniform", "fixed" or "random".
        derivative: see `LinearFeedback`.

    Raises:
        ValueError: for another kind; in use, for maps that are not s(W h + b).
    """

    def __init__(self, kind: str = "uniform", derivative: bool = True) -> None:
        super().__init__(derivative)
        self.kind = checks.one_of("kind", kind, KINDS)

    def layer_for(self, link: Link) -> nn.Module:
        if not link.affine:
            raise ValueError(
                f"feedback=SignSymmetry: {link.name} is {type(link.layer).__name__}, which has no "
                "weights W whose signs could be taken; accepted: layers s(W h + b)"
            )

        return SignLike(link, self.kind)

    def back(self, number: int, link: Link, state: State, d: Tensor, moment: Moment) -> Tensor:
        return self.layers[str(number)](self.routed(link, state.output.detach(), d), moment)


class LearnedTranspose(LinearFeedback):
    """Base class of linear maps B that learn from how their maps answer to noise.

    feedback_m: E[ -xi' B r / sigma^2 ] + sum_j gain_j |B_j|^2 / 2

    for noise xi ~ N(0, sigma^2 I) on the input of m and what it answers, r. The first term is
    Hebbian, the second a decay of the synapses B_j of unit j. For r = W xi and gain 1 the minimum
    is W'. No derivative of one map reaches another.

    A variant defines `answer`.

    Args:
        derivative, tracks: see `LinearFeedback`.
        sigma: deviation of the noise, in units of h.
        rows: examples of a batch, in each process, that are perturbed.
        every: updates between two of the feedback's, once it is aligned.

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
        super().__init__(derivative, tracks)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.rows = checks.whole("rows", rows, 1)
        self.every = checks.whole("every", every, 1)

    def layer_for(self, link: Link) -> nn.Module:
        return TransposeLike(link, self.tracks, SMALL)

    @property
    def has_phases(self) -> bool:
        return self.every > 1

    def due(self, moment: Moment) -> bool:
        return moment.update is None or moment.update % self.every == 0

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, layer in self.layers.items():
            link = chain.links[int(number)]
            state = states[int(number)]

            name = f"feedback_{link.name}"
            losses[name] = losses.get(name, 0.0) + self._loss(link, state, layer, moment)

        return losses

    def answer(
        self, link: Link, given: Tensor, output: Tensor, xi: Tensor
    ) -> tuple[Tensor, Tensor]:
        """r, (rows, width of the output), and the units' gains, in the same shape or (1, width).

        Args:
            link: the map.
            given, output: what went through it.
            xi: noise on its input.
        """
        raise NotImplementedError(f"{type(self).__name__} must define answer")

    @full_precision()
    def _loss(self, link: Link, state: State, layer: nn.Module, moment: Moment) -> Tensor:
        """In the precision of B: half of it would lose answers, which are small differences."""
        b = layer.weight
        given = state.given[: self.rows].to(b.dtype)
        output = state.output.detach()[: self.rows]

        with torch.no_grad():
            if output.dtype != b.dtype:
                output = link(given)

            xi = self.sigma * normal_like(given, moment.generator)
            response, gain = self.answer(link, given, output, xi)

            # the synapses of a unit at the border of an image are those that lie inside
            inside = torch.ones_like(xi[:1])
            decay = b * layer.part.weight_gradient(inside, gain.mean(0, keepdim=True))

            # both terms are quadratic in B at most: their gradients give their values, too
            hebbian = layer.part.weight_gradient(xi, response) / (len(xi) * self.sigma**2)
            loss = torch.vdot(b.flatten(), decay.flatten()) / 2.0
            loss = loss - torch.vdot(b.flatten(), hebbian.flatten())

        return with_gradient(b, loss, decay.sub_(hebbian))


@register
class LocalDifference(LearnedTranspose):
    """Linear maps B learn the transpose of a map's Jacobian from how it answers to noise.

    c(d) = B (s'(a) * d), with the derivative of the unit's own activation, or c(d) = B d
    feedback_m: E[ -xi' B r / sigma^2 ] + sum_j E[s'(a_j)^2] |B_j|^2 / 2,
                r = s'(a) * (m(h + xi) - m(h)),  xi ~ N(0, sigma^2 I) on the map's input

    The second term is the mean of the published |B y|^2 / (2 sigma^2) over noise y on the output,
    without its variance. The minimum is B = W' with the derivative, and B = E[J'] without. No
    derivative of one map reaches another: a unit knows s' at its own pre-activation.
    Source: Ernoult et al. 2022 (local difference reconstruction loss); Meulemans et al. 2020.

    Args: see `LearnedTranspose`.

    Raises:
        ValueError: see `LearnedTranspose`.
    """

    def answer(
        self, link: Link, given: Tensor, output: Tensor, xi: Tensor
    ) -> tuple[Tensor, Tensor]:
        response = self.routed(link, output, link(given + xi) - output)
        gain = self.routed(link, output, torch.ones_like(output)).square()

        return response, gain


@register
class WeightMirror(LearnedTranspose):
    """Linear maps B learn W' from noise that passes W alone: biases and units are silent.

    feedback_m: E[ -xi' B W xi / sigma^2 ] + |B|^2 / 2

    Of a map that is not s(W h + b) the answer is m(xi) - m(0), whose mean Jacobian B learns.
    Source: Akrout et al. 2019, the rule dB = rate xi (W xi)' with a decay of B.

    Args: see `LearnedTranspose`.

    Raises:
        ValueError: see `LearnedTranspose`.
    """

    def answer(
        self, link: Link, given: Tensor, output: Tensor, xi: Tensor
    ) -> tuple[Tensor, Tensor]:
        if link.affine:
            response = link.layer.linear(xi)
        else:
            response = link(xi) - link(torch.zeros_like(xi))

        return response, torch.ones_like(response[:1])


@register
class DifferenceReconstruction(LinearFeedback):
    """Linear maps B learn to undo all that lies between their map and the end of the chain.

    feedback_m: |c_m(.. c_M(r)) - xi|^2 + damping |c_m(.. c_M(y))|^2, divided by 2 sigma^2,
                r what noise xi ~ N(0, sigma^2 I) on the input of m does to the last output,
                y noise of the same deviation on the last output itself

    where B of m alone learns. In a linear network the minimum sends J' (J J' + damping I)^-1 d
    down, with the Jacobian J of all maps from m on: displacements are those of Gauss and Newton.
    Noise travels as the means of what units send.
    Source: Meulemans et al. 2020 (difference reconstruction loss), whose feedback may bend.

    Args:
        damping: of the pseudo-inverse.
        derivative, tracks: see `LinearFeedback`.
        sigma: deviation of the noise, in units of h.
        rows: examples of a batch, in each process, that are perturbed.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        damping: float = 0.1,
        derivative: bool = False,
        tracks: bool = False,
        sigma: float = 0.1,
        rows: int = 25,
    ) -> None:
        super().__init__(derivative, tracks)
        self.damping = checks.at_least("damping", damping, 0.0)
        self.sigma = checks.at_least("sigma", sigma, 0.0, strict=True)
        self.rows = checks.whole("rows", rows, 1)

    def layer_for(self, link: Link) -> nn.Module:
        return TransposeLike(link, self.tracks, SMALL)

    def losses(self, chain: Chain, states: Sequence[State], moment: Moment) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number in map(int, self.layers):
            link = chain.links[number]
            loss = self._loss(chain, number, states[number].given[: self.rows], moment)

            name = f"feedback_{link.name}"
            losses[name] = losses.get(name, 0.0) + loss

        return losses

    @full_precision()
    def _loss(self, chain: Chain, number: int, given: Tensor, moment: Moment) -> Tensor:
        """Both terms are one regression: of xi on r, and of 0 on damped noise.

        In the precision of B: half of it would lose r, which are small differences.
        """
        given = given.to(self.layers[str(number)].weight.dtype)
        with torch.no_grad():
            xi = self.sigma * normal_like(given, moment.generator)
            states = way(chain, number, given)
            moved = way(chain, number, given + xi)
            response = moved[-1].output - states[-1].output

            noise = normal_like(response, moment.generator)
            d = torch.cat([response, self.sigma * self.damping**0.5 * noise])
            states = [State(*(torch.cat([t, t]) for t in state)) for state in states]
            for above in range(len(chain) - 1, number, -1):
                d = self.through(above, chain.links[above], states[above - number], d, moment)

        reached = self.through(number, chain.links[number], states[0], d, moment)
        wanted = torch.cat([xi, torch.zeros_like(xi)])
        return squared_error(reached, wanted) / self.sigma**2
