"""Back-propagation-free target propagation: Algorithm 2 (2014)."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.completion.inpainting import Inpainter
from gendae.corruption import Corruption, RelativeNoise, normal_like
from gendae.layers.pair import Pair
from gendae.models.noise import corruption_of_each
from gendae.models.stack import Stack
from gendae.registry import build, register
from gendae.rules.base import PerLayer, Rule
from gendae.sampling.samplers import AncestralSampler, Sampler

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
        recirculation: weight of short_f.
        long: weight of long_g.
        target: weight of target_f.
        denoise: weight of denoise_f.
        model: weight of model_f and model_g; they start with the first fit of the prior.
        contractive, sparsity: weights of the penalties on encoders.
        warmup: updates over which the weights of all encoders' terms grow from 0: decoders learn
            first. Before g_l can tell its inputs apart, recirculation teaches f_l to send
            everything to one code.
        top_target: what stands above h_L: "flat" (Algorithm 2, no pressure) or "prior", whose
            reconstruction is the target of h_L.
        sampler: what the trained stack is sampled with; AncestralSampler() if None.
        inpainter: what it is inpainted with; rounds of encoding to the top and decoding if None.
        lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every, prior_every: see `Rule`.

    Raises:
        ValueError: for negative weights, an unknown top_target, or a wrong number of corruptions.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = TargetPropRule(deep_autoencoder([8, 6, 4]), denoise=0.0)
        >>> sorted(rule.losses((torch.rand(10, 8),)))
        ['long_g_1', 'long_g_2', 'short_f_1', 'short_f_2', 'short_g_1', 'short_g_2', 'target_f_1']
    """

    WEIGHTS = ("recirculation", "long", "target", "denoise", "model", "contractive", "sparsity")

    def __init__(
        self,
        stack: Stack,
        corruption: Sequence[Corruption] | None = None,
        recirculation: float = 1.0,
        long: float = 1.0,
        target: float = 1.0,
        denoise: float = 1.0,
        model: float = 0.0,
        contractive: float = 0.0,
        sparsity: float = 0.0,
        warmup: int = 0,
        top_target: str = "flat",
        sampler: Sampler | None = None,
        inpainter: Inpainter | None = None,
        lr_f: PerLayer = 3e-4,
        lr_g: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.5,
        log_every: int = 50,
        prior_every: int = 0,
    ) -> None:
        super().__init__(
            stack, lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every, prior_every
        )

        if corruption is None:
            corruption = [RelativeNoise(0.25) for _ in range(self.stack.depth + 1)]
        self.corruption = corruption_of_each(self.stack, build(corruption))

        self.recirculation = recirculation
        self.long = long
        self.target = target
        self.denoise = denoise
        self.model = model
        self.contractive = contractive
        self.sparsity = sparsity
        for name in self.WEIGHTS:
            checks.at_least(name, getattr(self, name), 0.0)
        self.warmup = checks.whole("warmup", warmup, 0)
        self.top_target = checks.one_of("top_target", top_target, TOP_TARGETS)

        self.sampler: Sampler = build(sampler) or AncestralSampler()
        self.inpainter: Inpainter = build(inpainter) or Inpainter.encode_decode()
        self.stack.settings = {"sampler": self.sampler, "inpainting": self.inpainter}

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weighted terms in nats, mean over the batch; batch[0] is x."""
        x = checks.rows("x", batch[0])
        with torch.no_grad():
            if self._uses_prior:
                self.follow_codes(x, self.stack.prior)
            h = self.stack.up(x, generator=self.generator or torch.default_generator)
            h_hat = self.stack.down(self._top(h[-1]))

        terms: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            terms |= self.own_penalty(pair, level)
            terms |= self._loops(pair, level, h, h_hat)
            terms |= self._penalties(pair, level, h)
        if self.model > 0:
            terms |= self._model(len(x))

        ramp = self._ramp()
        for name, term in terms.items():
            if "_f_" in name:
                terms[name] = ramp * term

        return terms

    def phase(self) -> Hashable | None:
        """None during the warm-up, whose weights change, and under a prior that is fitted anew."""
        follows_codes = self._uses_prior and not self.stack.prior.fixed
        if follows_codes or self._ramp() < 1.0:
            return None

        return super().phase()

    @property
    def _uses_prior(self) -> bool:
        return self.top_target == "prior" or self.model > 0

    def _ramp(self) -> float:
        """Weight of the encoders' terms now; 1 outside a Trainer."""
        if self.updates is None or self.updates >= self.warmup:
            return 1.0

        return self.updates / self.warmup

    # -- the two loops -------------------------------------------------------------------------

    def _top(self, h: Tensor) -> Tensor:
        if self.top_target == "prior":
            return self.stack.prior.reconstruct(h)

        return h

    def _loops(
        self, pair: Pair, level: int, h: Sequence[Tensor], h_hat: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The terms of g_l and f_l.

        All inputs of a map go through it in one batch, and its weights are read once.
        """
        below = h[level - 1]
        above = h[level]
        g = together(pair.g, self._decoder_inputs(level, above, h_hat[level]))
        f = together(pair.f, self._encoder_inputs(pair, level, below, g["short"]))

        targets = {"short": above, "target": h_hat[level], "denoise": above}
        weights = {"short": self.recirculation, "target": self.target, "denoise": self.denoise}

        terms = {f"short_g_{level}": pair.observation.energy(below, g["short"]).mean()}
        for name, mean in f.items():
            energy = pair.recognition.energy(targets[name], mean).mean()
            terms[f"{name}_f_{level}"] = weights[name] * energy
        if self.long > 0:
            terms[f"long_g_{level}"] = self.long * pair.observation.energy(below, g["long"]).mean()

        return terms

    def _decoder_inputs(self, level: int, h: Tensor, h_hat: Tensor) -> dict[str, Tensor]:
        inputs = {"short": self._corrupt(level, h)}
        if self.long > 0:
            inputs["long"] = self._corrupt(level, h_hat)

        return inputs

    def _encoder_inputs(
        self, pair: Pair, level: int, below: Tensor, decoded: Tensor
    ) -> dict[str, Tensor]:
        inputs = {}
        if self.recirculation > 0:
            inputs["short"] = pair.observation.transmit(decoded.detach())
        if self.target > 0 and (level < self.stack.depth or self.top_target == "prior"):
            inputs["target"] = below
        if self.denoise > 0:
            inputs["denoise"] = self._corrupt(level - 1, below)

        return inputs

    # -- options of 2.2.5 and section 6 --------------------------------------------------------

    def _penalties(self, pair: Pair, level: int, h: Sequence[Tensor]) -> dict[str, Tensor]:
        below = h[level - 1]

        terms = {}
        if self.contractive > 0:
            probe = torch.add(below, normal_like(below, self.generator), alpha=PROBE)
            change = (pair.f(probe) - pair.f(below)).square().sum(-1).mean() / PROBE**2
            terms[f"contractive_f_{level}"] = self.contractive * change
        if self.sparsity > 0:
            terms[f"sparsity_f_{level}"] = self.sparsity * pair.f(below).abs().sum(-1).mean()

        return terms

    def _model(self, n: int) -> dict[str, Tensor]:
        """Each pair as an auto-encoder of h ~ P(H)."""
        with torch.no_grad():
            h = self.stack.down(self.stack.prior.sample(n, self.generator))

        terms = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            g = pair.g(self._corrupt(level, h[level]))
            energy_g = pair.observation.energy(h[level - 1], g).mean()
            terms[f"model_g_{level}"] = self.model * energy_g

            f = pair.f(h[level - 1])
            energy_f = pair.recognition.energy(h[level], f).mean()
            terms[f"model_f_{level}"] = self.model * energy_f

        return terms

    def _corrupt(self, level: int, h: Tensor) -> Tensor:
        return self.corruption[level](h, self.progress, self.generator)
