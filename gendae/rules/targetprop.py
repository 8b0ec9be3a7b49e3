"""Back-propagation-free target propagation: Algorithm 2 (2014)."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption, RelativeNoise, normal_like
from gendae.models.noise import corruption_of_each
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import build, register
from gendae.rules.base import Rule, own_penalty
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates

TOP_TARGETS = ("flat", "prior")
#: Length of the finite difference by which the contractive penalty is estimated, in units of h.
PROBE = 1e-2


def together(layer: Callable[[Tensor], Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A map's outputs for several batches of one size, computed as one."""
    if not inputs:
        return {}

    outputs = layer(torch.cat(list(inputs.values()))).chunk(len(inputs))
    return dict(zip(inputs, outputs, strict=True))


@register
@dataclass(frozen=True)
class LoopWeights:
    """Weights of the terms of `TargetPropRule`; that of short_g is 1.

    Args:
        recirculation: of short_f.
        long: of long_g.
        target: of target_f.
        denoise: of denoise_f.
        model: of model_f and model_g.
        contractive, sparsity: of the penalties on encoders.

    Raises:
        ValueError: for a negative weight.
    """

    recirculation: float = 1.0
    long: float = 1.0
    target: float = 1.0
    denoise: float = 1.0
    model: float = 0.0
    contractive: float = 0.0
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.at_least(f"weights.{name}", value, 0.0)


@register
class TargetPropRule(Rule):
    """Short loops and long loops of auto-encoding give every f_l and g_l targets of their own.

    Up:    h_l = f_l(h_{l-1}),  h~_{l-1} = g_l(corrupt(h_l))
           short_g_l:  h_{l-1} is a target for g_l(corrupt(h_l))
           short_f_l:  h_l is a target for f_l(h~_{l-1})                   (recirculation)
    Down:  h^_L = h_L (or the prior's reconstruction of it),  h^_{l-1} = g_l(h^_l), free of noise
           target_f_l: h^_l is a target for f_l(h_{l-1}), l < L
                       (l = L too under top_target="prior")
           long_g_l:   h_{l-1} is a target for g_l(corrupt(h^_l))
    Extra: denoise_f_l: h_l is a target for f_l(corrupt(h_{l-1}))          (2.2.5)
           model_f_l, model_g_l: the pair auto-encodes samples of P(H) too (2.2.5)
           contractive_f_l = E |df_l v|^2, sparsity_f_l = E |h_l|_1        (section 6, question 11)

    All inputs and targets are detached: no gradient leaves the layer that it is computed in, nor
    passes from a decoder into its encoder (unless an invertible pair shares its parameters).
    Discrete units transmit their values; layers learn from targets alone.
    Source: Bengio 2014, Algorithm 2 and section 2.2.5.

    Args:
        stack: the model.
        corruption: of h_0 .. h_L; noise of a quarter of each representation's own spread if None.
        weights: of the terms; see `LoopWeights`.
        warmup: updates over which the weights of all encoders' terms grow from 0: decoders learn
            first. Before g_l can tell its inputs apart, recirculation teaches f_l to send
            everything to one code.
        top_target: what stands above h_L: "flat" (Algorithm 2, no pressure) or "prior", whose
            reconstruction is the target of h_L.
        rates, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for negative weights, an unknown top_target, or a wrong number of corruptions.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]), weights=LoopWeights(denoise=0.0))
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['long_g_1', 'long_g_2', 'short_f_1', 'short_f_2', 'short_g_1', 'short_g_2', 'target_f_1']
    """

    def __init__(
        self,
        stack: Stack,
        corruption: Sequence[Corruption] | None = None,
        weights: LoopWeights = LoopWeights(),
        warmup: int = 0,
        top_target: str = "flat",
        rates: Rates = Rates(f=3e-4, g=1e-3, hold=0.5),
        log_every: int = 50,
        prior_every: int = 0,
    ) -> None:
        super().__init__(stack, rates, log_every, prior_every)

        if corruption is None:
            corruption = [RelativeNoise(0.25) for _ in range(self.stack.depth + 1)]
        self.corruption: list[Corruption] = corruption_of_each(self.stack, build(corruption))

        self.weights: LoopWeights = build(weights)
        self.warmup = checks.whole("warmup", warmup, 0)
        self.top_target = checks.one_of("top_target", top_target, TOP_TARGETS)

    @property
    def prior_in_losses(self) -> Prior | None:
        if self.top_target == "prior" or self.weights.model > 0:
            return self.stack.prior

        return None

    def phase(self, moment: Moment) -> Hashable | None:
        """None during the warm-up, in which the weights of the terms change."""
        if moment.share(self.warmup) < 1.0:
            return None

        return super().phase(moment)

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch; batch[0] is x."""
        x = checks.rows("x", batch[0])
        with torch.no_grad():
            h = self.stack.up(x, generator=moment.draws)
            h_hat = self.stack.down(self._top(h[-1]))

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            terms |= own_penalty(pair, level)
            terms |= self._loops(level, h, h_hat, moment)
            terms |= self._penalties(level, h, moment)
        if self.weights.model > 0:
            terms |= self._model(len(x), moment)

        ramp = moment.share(self.warmup)
        for name, term in terms.items():
            if "_f_" in name:
                terms[name] = ramp * term

        return terms

    # -- the two loops -------------------------------------------------------------------------

    def _top(self, h: Tensor) -> Tensor:
        if self.top_target == "prior":
            return self.stack.prior.reconstruct(h)

        return h

    def _loops(
        self, level: int, h: Sequence[Tensor], h_hat: Sequence[Tensor], moment: Moment
    ) -> dict[str, Tensor]:
        """The terms of g_l and f_l.

        All inputs of a map go through it in one batch, and its weights are read once.
        """
        pair = self.stack.pairs[level - 1]
        below = h[level - 1]
        above = h[level]
        g = together(pair.g, self._decoder_inputs(level, above, h_hat[level], moment))
        f = together(pair.f, self._encoder_inputs(level, below, g["short"], moment))

        targets = {"short": above, "target": h_hat[level], "denoise": above}
        weights = {
            "short": self.weights.recirculation,
            "target": self.weights.target,
            "denoise": self.weights.denoise,
        }

        terms = {f"short_g_{level}": pair.observation.energy(below, g["short"]).mean()}
        for name, mean in f.items():
            energy = pair.recognition.energy(targets[name], mean).mean()
            terms[f"{name}_f_{level}"] = weights[name] * energy
        if "long" in g:
            energy = pair.observation.energy(below, g["long"]).mean()
            terms[f"long_g_{level}"] = self.weights.long * energy

        return terms

    def _decoder_inputs(
        self, level: int, h: Tensor, h_hat: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        inputs = {"short": self._corrupt(level, h, moment)}
        if self.weights.long > 0:
            inputs["long"] = self._corrupt(level, h_hat, moment)

        return inputs

    def _encoder_inputs(
        self, level: int, below: Tensor, decoded: Tensor, moment: Moment
    ) -> dict[str, Tensor]:
        has_target = level < self.stack.depth or self.top_target == "prior"

        inputs = {}
        if self.weights.recirculation > 0:
            law = self.stack.pairs[level - 1].observation
            inputs["short"] = law.transmit(decoded.detach())
        if self.weights.target > 0 and has_target:
            inputs["target"] = below
        if self.weights.denoise > 0:
            inputs["denoise"] = self._corrupt(level - 1, below, moment)

        return inputs

    # -- options of 2.2.5 and section 6 --------------------------------------------------------

    def _penalties(self, level: int, h: Sequence[Tensor], moment: Moment) -> dict[str, Tensor]:
        f = self.stack.pairs[level - 1].f
        below = h[level - 1]

        terms = {}
        if self.weights.contractive > 0:
            probe = torch.add(below, normal_like(below, moment.generator), alpha=PROBE)
            change = (f(probe) - f(below)).square().sum(-1).mean() / PROBE**2
            terms[f"contractive_f_{level}"] = self.weights.contractive * change
        if self.weights.sparsity > 0:
            size = f(below).abs().sum(-1).mean()
            terms[f"sparsity_f_{level}"] = self.weights.sparsity * size

        return terms

    def _model(self, n: int, moment: Moment) -> dict[str, Tensor]:
        """Each pair as an auto-encoder of h ~ P(H)."""
        with torch.no_grad():
            h = self.stack.down(self.stack.prior.sample(n, moment.generator))

        terms = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            g = pair.g(self._corrupt(level, h[level], moment))
            energy_g = pair.observation.energy(h[level - 1], g).mean()
            terms[f"model_g_{level}"] = self.weights.model * energy_g

            f = pair.f(h[level - 1])
            energy_f = pair.recognition.energy(h[level], f).mean()
            terms[f"model_f_{level}"] = self.weights.model * energy_f

        return terms

    def _corrupt(self, level: int, h: Tensor, moment: Moment) -> Tensor:
        return self.corruption[level](h, moment.progress, moment.generator)
