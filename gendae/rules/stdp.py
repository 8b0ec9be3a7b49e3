"""Spike-timing-dependent plasticity as the learning rule of a stack."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption
from gendae.inference import Inference, Representations
from gendae.layers.activations import DERIVATIVES
from gendae.layers.affine import Affine
from gendae.layers.pair import Transpose
from gendae.models.stack import Stack
from gendae.registry import register
from gendae.rules.loops import need_fixed_widths
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targets import with_gradient
from gendae.rules.variational_em import VariationalEMRule, corrupted

SOURCES = ("rest", "all")


@register
class STDPRule(VariationalEMRule):
    """Every synapse follows the rates it sees: dW ~ (rate of change behind it) x (rate before it).

    E-step:  h_1 .. h_L <- INFERENCE(x), as in `VariationalEMRule`
    f_l:     dW = sum_t (v^{t+1} - v^t) h~_{l-1}^t'  along INFERENCE, from where h~_{l-1} drives v
    g_l:     dW = (h_{l-1} - g_l(h~_l)) h~_l'        while h_{l-1} is nudged to where it was

    No error is computed anywhere: what each unit does is all that its synapses need. Where the
    rates before a synapse stay, as x does, the changes add up to h_l - f_l(h~_{l-1}), and the
    update is that of the M-step of `VariationalEMRule`: exactly with `slope`; without it, that of
    the energy which matches the activation, such as the cross-entropy of sigmoid units.

    Where they move, h_l follows them, of which the M-step knows nothing. So v is the part of h_l
    that the rest of its inputs, the feedback, adds to what h~_{l-1} drives it to: the change that
    section 2 speaks of. h~ has the noise of the end of inference all the time, like spikes counted
    over it (`PoissonNoise`). Laws of the pairs do not enter: errors are those of unit variances.
    Source: Bengio et al. 2015, sections 2 and 3, Eq. 1.

    Args:
        stack: the model, of affine layers.
        inference, corruption, warmup: see `VariationalEMRule`.
        source: what v is: "rest" h_l - f_l(h~_{l-1}), or "all" h_l.
        slope: multiply each change by s', the slope of the activation.
        rates, log_every: see `Rule`.

    Raises:
        ValueError: see `VariationalEMRule`; for layers that are not affine, and laws whose widths
            are to be learned.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder
        >>> _ = torch.manual_seed(0)
        >>> rule = STDPRule(deep_autoencoder([8, 6, 4]))
        >>> list(rule.losses((torch.rand(10, 8),)))
        ['f_1', 'g_1', 'f_2', 'g_2']
    """

    def __init__(
        self,
        stack: Stack,
        inference: Inference | None = None,
        corruption: Sequence[Corruption] | None = None,
        warmup: int = 0,
        source: str = "rest",
        slope: bool = False,
        rates: Rates = Rates(f=1.2e-4, g=4e-4, hold=0.3),
        log_every: int = 50,
    ) -> None:
        super().__init__(
            stack, inference, corruption, warmup=warmup, rates=rates, log_every=log_every
        )
        self.source = checks.one_of("source", source, SOURCES)
        self.slope = bool(slope)

        for level, pair in enumerate(self.stack.pairs, 1):
            need_fixed_widths(level, pair, False, "Gaussian() there, or VariationalEMRule")
            for direction, layer in {"f": pair.f, "g": pair.g}.items():
                if type(layer) not in (Affine, Transpose):
                    raise ValueError(
                        f"{direction}_{level} is {type(layer).__name__}, and STDPRule is stated "
                        "for affine layers; accepted: Affine, TiedPair, or VariationalEMRule"
                    )

    def path(self, x: Tensor, moment: Moment = Moment()) -> list[Representations]:
        """h_0 .. h_L at the start of inference and after each of its steps."""
        steps = self.inference_steps(moment)
        with torch.autocast(x.device.type, enabled=False):
            return [*self.inference.trajectory(self.stack, x, None, moment.generator, steps)]

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Half the squared changes, whose gradients are the updates; mean over the batch."""
        path = self.path(checks.rows("x", batch[0]), moment)
        h = path[-1]
        h_tilde = corrupted(self.corruption, h, moment)

        losses: dict[str, Tensor] = {}
        for level, pair in enumerate(self.stack.pairs, 1):
            losses[f"f_{level}"] = self._inferred(level, path, h_tilde[level - 1])
            losses[f"g_{level}"] = self._nudged(pair.g, h_tilde[level], h[level - 1])

        return losses

    @torch.no_grad()
    def _inferred(self, level: int, path: Sequence[Representations], below: Tensor) -> Tensor:
        """What f_l learns along inference; `below` is h~_{l-1} at its end."""
        f = self.stack.pairs[level - 1].f
        if level == 1:  # x and its noise stay, and changes add up to the last
            path = path[-1:]

        pre = torch.stack([h[level - 1] for h in path]).add_(below - path[-1][level - 1])
        drive = f(pre)
        v = torch.stack([h[level] for h in path])
        start = drive[:1]
        if self.source == "rest":
            v = v - drive
            start = torch.zeros_like(start)

        # the first move, from what h~ drives h_l to, is made at the first input too
        change = v.diff(dim=0, prepend=start)
        before = [0, *range(len(path) - 1)]
        return self._learn(f, pre[before], drive[before], change)

    @torch.no_grad()
    def _nudged(self, g: Affine, above: Tensor, below: Tensor) -> Tensor:
        """What g_l learns while h_{l-1} goes from g_l(h~_l), however slowly, to where it was."""
        drive = g(above)
        return self._learn(g, above[None], drive[None], (below - drive)[None])

    def _learn(self, layer: Affine, pre: Tensor, drive: Tensor, change: Tensor) -> Tensor:
        """A loss whose gradient is minus the update, mean over the batch.

        Args:
            layer: what learns.
            pre: the rates before its synapses, (times, batch, in).
            drive: what they drive the layer to, (times, batch, out).
            change: of the rates behind them, (times, batch, out).
        """
        rows = change.shape[1]
        size = 0.5 * change.sum(0).square().sum() / rows
        if self.slope:
            change = change * DERIVATIVES[layer.activation](drive)

        change = change.flatten(0, 1) / -rows
        with torch.enable_grad():
            synapses = with_gradient(layer.weight, size, change.T @ pre.flatten(0, 1))
            return synapses + with_gradient(layer.bias, torch.zeros_like(size), change.sum(0))
