"""Variational EM by target propagation: TRAIN of Algorithm 2 (2015)."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.completion.inpainting import Inpainter
from gendae.corruption import Corruption
from gendae.inference import Inference, Representations, TargetPropInference
from gendae.models.noise import corruption_of_each
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import build, register
from gendae.rules.base import Rule, own_penalty
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.sampling.samplers import GenerateSampler

CODES = ("feedforward", "inferred")


@register
class VariationalEMRule(Rule):
    """Every layer learns to denoise towards the code that inference gives its partner.

    E-step:  h_1 .. h_L <- INFERENCE(x)
    M-step:  for each l, descend  |g_l(h~_l) - h_{l-1}|^2 / 2  and  |f_l(h~_{l-1}) - h_l|^2 / 2
             (-log p(h_{l-1} | h~_l) and -log q(h_l | h~_{l-1}) for unit variances; other laws
             have the loss of their `energy`)

    Nothing in the listing bounds h_1: f_1's target is f_1(x) plus the error of g_1, so that an f_1
    that runs ahead of g_1 is trained to amplify itself. The defaults hold h_1 at any depth:
    encoders learn more slowly than decoders, and x is corrupted enough to make f_1 contract. With
    less noise on x, a `warmup`, in which the number of inference steps grows from 0 to N, lets the
    decoders learn first.
    Source: Bengio et al. 2015, Algorithm 2, TRAIN (descending: the sign printed there is a slip).

    Args:
        stack: the model.
        inference: the E-step; TargetPropInference() (N = 15, delta = 0.1, alpha = 0.001) if None.
        corruption: of h_0 .. h_L, as inputs of f_{l+1} and g_l; `default_corruption` if None.
        decoder_corruption: of h_1 .. h_L as inputs of g_l, where it shall differ from f's.
        warmup: updates over which the number of inference steps grows from 0 to N.
        prior_codes: codes the prior is fitted on: "feedforward" or "inferred" (the paper does not
            say).
        rates, log_every: see `Rule`.

    Raises:
        ValueError: for lists of a wrong length, numbers out of range, or discrete units, which
            inference does not move.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = VariationalEMRule(deep_autoencoder([8, 6, 4]))
        >>> list(rule.losses((torch.rand(10, 8),)))
        ['f_1', 'g_1', 'f_2', 'g_2']
    """

    DEFAULT_SETTINGS = Settings(sampler=GenerateSampler(), inpainter=Inpainter())

    def __init__(
        self,
        stack: Stack,
        inference: Inference | None = None,
        corruption: Sequence[Corruption] | None = None,
        decoder_corruption: Sequence[Corruption] | None = None,
        warmup: int = 0,
        prior_codes: str = "feedforward",
        rates: Rates = Rates(f=1.2e-4, g=4e-4, hold=0.3),
        log_every: int = 50,
    ) -> None:
        stack = build(stack)
        inference = build(inference) or TargetPropInference()
        inference.check(stack)
        super().__init__(stack, rates, log_every)

        self.inference: Inference = inference
        self.corruption: list[Corruption] = corruption_of_each(self.stack, build(corruption))
        self.decoder_corruption = None
        if decoder_corruption is not None:
            given = checks.several("decoder_corruption", build(decoder_corruption))
            self.decoder_corruption = given
            if len(self.decoder_corruption) != self.stack.depth:
                raise ValueError(
                    f"decoder_corruption has {len(self.decoder_corruption)} entries; the "
                    f"stack has {self.stack.depth} decoders"
                )

        self.warmup = checks.whole("warmup", warmup, 0)
        self.prior_codes = checks.one_of("prior_codes", prior_codes, CODES)

    def default_settings(self) -> Settings:
        """GENERATE and clamped inference; where units are discrete, the settings of `Rule`."""
        if self.stack.hard_levels:
            return Rule.DEFAULT_SETTINGS

        return self.DEFAULT_SETTINGS

    def inference_steps(self, moment: Moment) -> int:
        """N now: grows linearly over the warm-up, whole outside a Trainer."""
        if moment.update is None or moment.update >= self.warmup:
            return self.inference.steps

        return self.inference.steps * moment.update // self.warmup

    @property
    def prior_in_losses(self) -> Prior | None:
        return self.stack.prior if self.inference.use_prior else None

    def phase(self, moment: Moment) -> Hashable | None:
        """The number of inference steps; None under a prior that changes."""
        if super().phase(moment) is None:
            return None

        return (self.inference_steps(moment),)

    def expect(
        self, x: Tensor, moment: Moment = Moment(), y: Tensor | None = None
    ) -> Representations:
        """E-step: the representations that inference gives x, and the rows y of a label."""
        steps = self.inference_steps(moment)
        given = {} if y is None else {"y": y}
        with torch.autocast(x.device.type, enabled=False):
            return self.inference(self.stack, x, generator=moment.generator, steps=steps, **given)

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Local losses f_1, g_1 .. f_L, g_L in nats, mean over the batch; batch[0] is x."""
        h = self.expect(checks.rows("x", batch[0]), moment)
        f_inputs, g_inputs = self.inputs(h, moment)

        return self.local_losses(h, f_inputs, g_inputs)

    def inputs(
        self, h: Representations, moment: Moment
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """h~_0 .. h~_{L-1} as inputs of f_1 .. f_L, and h~_1 .. h~_L as those of g_1 .. g_L."""
        h_tilde = corrupted(self.corruption, h, moment)
        if self.decoder_corruption is None:
            return h_tilde[:-1], h_tilde[1:]

        return h_tilde[:-1], corrupted(self.decoder_corruption, h[1:], moment)

    def local_losses(
        self,
        h: Representations,
        f_inputs: Sequence[Tensor],
        g_inputs: Sequence[Tensor],
        of_g: Representations | None = None,
    ) -> dict[str, Tensor]:
        """M-step: the losses of all pairs, mean over the batch.

        Args:
            h: h_0 .. h_L, targets of encoders and decoders.
            f_inputs: h~_0 .. h~_{L-1}.
            g_inputs: h~_1 .. h~_L.
            of_g: h_0 .. h_{L-1}, where the decoders' targets differ.
        """
        if of_g is None:
            of_g = h

        losses: dict[str, Tensor] = {}
        levels = zip(self.stack.pairs, f_inputs, g_inputs, strict=True)
        for level, (pair, below, above) in enumerate(levels, 1):
            losses |= own_penalty(pair, level)
            f_energy = pair.recognition.energy(h[level], pair.f(below), below)
            g_energy = pair.observation.energy(of_g[level - 1], pair.g(above), above)
            losses[f"f_{level}"] = f_energy.mean()
            losses[f"g_{level}"] = g_energy.mean()

        return losses

    def fit_residuals(self, x: Tensor) -> None:
        """The top's noise is that of the decoder, which alone takes h_L."""
        noise = self.corruption
        if self.decoder_corruption is not None:
            noise = [*noise[:-1], self.decoder_corruption[-1]]

        self.stack.fit_residuals(x, noise)

    def codes(self, x: Tensor) -> Tensor:
        """Feed-forward or inferred codes, as `prior_codes` says.

        They are feed-forward ones while inference lacks a prior that it asks for.
        """
        possible = self.stack.prior.fitted or not self.inference.use_prior
        if self.prior_codes == "inferred" and possible:
            return self.inference(self.stack, x)[-1]

        return super().codes(x)


def corrupted(
    noise: Sequence[Corruption], layers: Sequence[Tensor], moment: Moment
) -> list[Tensor]:
    """Representations, each with its own noise."""
    noisy = []
    for corruption, layer in zip(noise, layers, strict=True):
        noisy.append(corruption(layer, moment.progress, moment.generator))

    return noisy
