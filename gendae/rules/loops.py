"""Where the targets of a stack come from: the loops of Algorithm 2, and of auto-encoders alone.

A loop is a function (stack, x, moment) -> local losses. `rules.differences` has the one that
`TargetPropRule` uses by default.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, RelativeNoise
from gendae.layers.pair import Pair
from gendae.models.stack import Stack
from gendae.models.widths import Noise
from gendae.priors.base import Prior
from gendae.registry import built, register
from gendae.rules.chain import Corrupt, send
from gendae.rules.moment import Moment

TOP_TARGETS = ("flat", "prior")


class Loop(nn.Module):
    """Base class of what gives targets; a variant defines `losses`.

    Example:
        >>> class AutoencoderLoop(Loop):
        ...     def losses(self, stack, x, corrupt, moment):
        ...         return {"whole_1": (stack.reconstruct(x) - x).square().sum(-1).mean()}
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> rule = TargetPropRule(deep_autoencoder([8, 4]), AutoencoderLoop())
        >>> list(rule.losses((torch.rand(2, 8),)))
        ['whole_1']
    """

    #: Whether an update's operations depend on its number, so that some maps have no gradient.
    has_phases: bool = False
    #: Whether encoders take corrupted codes of corrupted codes, so that noise adds up on the way.
    adds_up: bool = False
    #: Rate of the encoders as a share of `Rates.f`.
    pace: float = 1.0

    def __init__(self) -> None:  # its signature, not Module's, says which arguments there are
        super().__init__()

    def prepare(self, stack: Stack, corruption: Sequence[Corruption] | None = None) -> None:
        """Make what learns beside the stack, and check that the stack can be trained so.

        Args:
            stack: the model.
            corruption: the user's, of h_0 .. h_L; None where it is the loop's own.
        """

    def learners(self) -> Sequence[Sequence[nn.Module]]:
        """What learns beside the stack: one parameter group for each entry."""
        return []

    def noise_of(self, stack: Stack, x: Tensor, corruption: Sequence[Corruption]) -> list[Noise]:
        """The noise of h_0 .. h_L in training, from which chains take their widths."""
        return list(corruption)

    def corruption(self, stack: Stack) -> list[Corruption]:
        """Noise of h_0 .. h_L where the user names none: a quarter of each one's spread."""
        return [RelativeNoise(0.25) for _ in range(stack.depth + 1)]

    def prior(self, stack: Stack) -> Prior | None:
        """The stack's prior, if the losses use it."""
        return None

    def phase(self, moment: Moment) -> Hashable | None:
        """See `Rule.phase`."""
        return ()

    def turns(self, update: int) -> bool:
        """Whether the losses of encoders and decoders become others at an update."""
        return False

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        """Local losses in nats, mean over the batch.

        Args:
            stack: the model.
            x: (batch, width of x).
            corrupt: (level, h, moment) -> h~.
            moment: of the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses")


def need_fixed_widths(
    level: int, pair: Pair, lowest: bool, accepted: str, drawn: bool = False
) -> None:
    """Raise a ValueError for laws of codes with parameters, which targets of outputs do not teach.

    The lowest pair's observation learns by the energy of what a rule is to give, and the law of
    a code that is `drawn` by the noise it had.
    """
    learned = pair.recognition.learnable and not drawn
    if learned or (pair.observation.learnable and not lowest):
        raise ValueError(
            f"pair {level} has a law of codes that is to be learned, which the targets of "
            f"outputs do not do; accepted: {accepted}"
        )


@register
class PairLoops(Loop):
    """Each pair is a denoising auto-encoder of its own: no gradient from one pair to another.

    pair_l: h_{l-1} is a target for g_l(corrupt(f_l(corrupt(h_{l-1}))))

    The error of a decoder is back-propagated into the encoder of its pair, and no further.
    Discrete codes have the straight-through gradient there.
    Source: Bengio 2014, section 2.2.4; Vincent et al. 2008.

    Example:
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]), PairLoops())
        >>> list(rule.losses((torch.rand(5, 8),)))
        ['pair_1', 'pair_2']
    """

    def prepare(self, stack: Stack, corruption: Sequence[Corruption] | None = None) -> None:
        for level, pair in enumerate(stack.pairs, 1):
            need_fixed_widths(level, pair, True, "Gaussian() there, KLRule, or VariationalEMRule")

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        losses = {}
        below = x
        for level, pair in enumerate(stack.pairs, 1):
            code = pair.f(corrupt(level - 1, below, moment))
            sent = send(pair.recognition, code, moment.draws)
            noisy = sent + (corrupt(level, sent.detach(), moment) - sent.detach())

            losses[f"pair_{level}"] = pair.observation.energy(below, pair.g(noisy), noisy).mean()
            with torch.no_grad():
                below = pair.encode(below, moment.draws)

        return losses


def together(layer: Callable[[Tensor], Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A map's outputs for several batches of one size, computed as one."""
    if not inputs:
        return {}

    outputs = layer(torch.cat(list(inputs.values()))).chunk(len(inputs))
    return dict(zip(inputs, outputs, strict=True))


@register
@dataclass(frozen=True)
class LoopWeights:
    """Weights of the terms of `ShortAndLongLoops`; that of short_g is 1.

    Args:
        recirculation: of short_f.
        long: of long_g.
        target: of target_f.
        denoise: of denoise_f.
        model: of model_f and model_g.

    Raises:
        ValueError: for a negative weight.
    """

    recirculation: float = 1.0
    long: float = 1.0
    target: float = 1.0
    denoise: float = 1.0
    model: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.at_least(f"weights.{name}", value, 0.0)


@register
class ShortAndLongLoops(Loop):
    """Algorithm 2 as printed: short and long loops give every f_l and g_l targets of their own.

    Up:    h_l = f_l(h_{l-1}),  h~_{l-1} = g_l(corrupt(h_l))
           short_g_l:  h_{l-1} is a target for g_l(corrupt(h_l))
           short_f_l:  h_l is a target for f_l(h~_{l-1})                   (recirculation)
    Down:  h^_L = h_L (or the prior's reconstruction of it),  h^_{l-1} = g_l(h^_l), free of noise
           target_f_l: h^_l is a target for f_l(h_{l-1}), l < L
                       (l = L too under top_target="prior")
           long_g_l:   h_{l-1} is a target for g_l(corrupt(h^_l))
    Extra: denoise_f_l: h_l is a target for f_l(corrupt(h_{l-1}))          (2.2.5)
           model_f_l, model_g_l: the pair auto-encodes samples of P(H) too (2.2.5)

    All inputs and targets are detached: no gradient leaves the layer that it is computed in, nor
    passes from a decoder into its encoder (unless an invertible pair shares its parameters).

    Every term of an encoder reconstructs a code, and nothing that x^ lacks reaches f_l: codes that
    are all the same satisfy them best. At the rate of the decoders, codes of two pairs and more
    contract to a point; at the default `pace` encoders stay near their random start, and score as
    frozen ones do (docs/results.md). `DifferenceLoop` does not contract.
    Source: Bengio 2014, Algorithm 2 and section 2.2.5.

    Args:
        weights: of the terms; see `LoopWeights`.
        warmup: updates over which the weights of all encoders' terms grow from 0: decoders learn
            first. Before g_l can tell its inputs apart, recirculation teaches f_l to send
            everything to one code.
        top_target: what stands above h_L: "flat" (as printed, no pressure) or "prior", whose
            reconstruction is the target of h_L.
        pace: rate of the encoders as a share of `Rates.f`; 1 for encoders that cannot contract,
            those of an `InvertiblePair`.

    Raises:
        ValueError: for an unknown top_target, or a warm-up or pace below 0.

    Example:
        >>> from gendae import TargetPropRule, deep_autoencoder
        >>> loop = ShortAndLongLoops(LoopWeights(denoise=0.0))
        >>> sorted(TargetPropRule(deep_autoencoder([8, 6, 4]), loop).losses((torch.rand(10, 8),)))
        ['long_g_1', 'long_g_2', 'short_f_1', 'short_f_2', 'short_g_1', 'short_g_2', 'target_f_1']
    """

    def __init__(
        self,
        weights: LoopWeights = LoopWeights(),
        warmup: int = 0,
        top_target: str = "flat",
        pace: float = 3e-3,
    ) -> None:
        super().__init__()
        self.weights = built("weights", weights, LoopWeights)
        self.pace = checks.at_least("pace", pace, 0.0)
        self.warmup = checks.whole("warmup", warmup, 0)
        self.top_target = checks.one_of("top_target", top_target, TOP_TARGETS)

    def prior(self, stack: Stack) -> Prior | None:
        if self.top_target == "prior" or self.weights.model > 0:
            return stack.prior

        return None

    def phase(self, moment: Moment) -> Hashable | None:
        """None during the warm-up, in which the weights of the terms change."""
        if moment.share(self.warmup) < 1.0:
            return None

        return ()

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            h = stack.up(x, generator=moment.draws)
            h_hat = stack.down(self._top(stack, h[-1]))

        terms: dict[str, Tensor] = {}
        for level in range(1, stack.depth + 1):
            terms |= self._loops(stack, level, h, h_hat, corrupt, moment)
        if self.weights.model > 0:
            terms |= self._model(stack, len(x), corrupt, moment)

        ramp = moment.share(self.warmup)
        for name, term in terms.items():
            if "_f_" in name:
                terms[name] = ramp * term

        return terms

    def _top(self, stack: Stack, h: Tensor) -> Tensor:
        if self.top_target == "prior":
            return stack.prior.reconstruct(h)

        return h

    def _loops(
        self,
        stack: Stack,
        level: int,
        h: Sequence[Tensor],
        h_hat: Sequence[Tensor],
        corrupt: Corrupt,
        moment: Moment,
    ) -> dict[str, Tensor]:
        """The terms of g_l and f_l.

        All inputs of a map go through it in one batch, and its weights are read once.
        """
        pair = stack.pairs[level - 1]
        below = h[level - 1]
        above = h[level]

        decoded = {"short": corrupt(level, above, moment)}
        if self.weights.long > 0:
            decoded["long"] = corrupt(level, h_hat[level], moment)
        g = together(pair.g, decoded)

        encoded = self._encoder_inputs(stack, level, below, g["short"], corrupt, moment)
        f = together(pair.f, encoded)

        of_decoder = {"short": 1.0, "long": self.weights.long}
        targets = {"short": above, "target": h_hat[level], "denoise": above}
        weights = {
            "short": self.weights.recirculation,
            "target": self.weights.target,
            "denoise": self.weights.denoise,
        }

        terms = {}
        for name, mean in g.items():
            energy = pair.observation.energy(below, mean, decoded[name]).mean()
            terms[f"{name}_g_{level}"] = of_decoder[name] * energy
        for name, mean in f.items():
            energy = pair.recognition.energy(targets[name], mean, encoded[name]).mean()
            terms[f"{name}_f_{level}"] = weights[name] * energy

        return terms

    def _encoder_inputs(
        self,
        stack: Stack,
        level: int,
        below: Tensor,
        decoded: Tensor,
        corrupt: Corrupt,
        moment: Moment,
    ) -> dict[str, Tensor]:
        has_target = level < stack.depth or self.top_target == "prior"

        inputs = {}
        if self.weights.recirculation > 0:
            law = stack.pairs[level - 1].observation
            inputs["short"] = law.transmit(decoded.detach())
        if self.weights.target > 0 and has_target:
            inputs["target"] = below
        if self.weights.denoise > 0:
            inputs["denoise"] = corrupt(level - 1, below, moment)

        return inputs

    def _model(self, stack: Stack, n: int, corrupt: Corrupt, moment: Moment) -> dict[str, Tensor]:
        """Each pair as an auto-encoder of h ~ P(H)."""
        with torch.no_grad():
            h = stack.down(stack.prior.sample(n, moment.generator))

        terms = {}
        for level, pair in enumerate(stack.pairs, 1):
            noisy = corrupt(level, h[level], moment)
            energy_g = pair.observation.energy(h[level - 1], pair.g(noisy), noisy).mean()
            terms[f"model_g_{level}"] = self.weights.model * energy_g

            below = h[level - 1]
            energy_f = pair.recognition.energy(h[level], pair.f(below), below).mean()
            terms[f"model_f_{level}"] = self.weights.model * energy_f

        return terms
