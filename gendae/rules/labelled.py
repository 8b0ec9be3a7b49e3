"""Variational EM with a label beside x: supervised and semi-supervised learning by inference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.data.loader import Split
from gendae.models.labelled import LabelledStack, present
from gendae.registry import register
from gendae.rules.labels import LabelRule
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Maps
from gendae.rules.variational_em import VariationalEMRule


@register
class LabelledEMRule(LabelRule, VariationalEMRule):
    """`VariationalEMRule` of x and y: the label pulls on h_L as x does on h_1.

    E-step:  h_1 .. h_L <- INFERENCE(x, y), in which the top has the step
             h_L <- .. + label_weight delta (r_y(y) - r_y(o(h_L)))
    M-step:  that of every pair; and with M = L + 1 for the pair of y and h_L, descend
             f_M: |r_y(y) - h_L|^2 / 2,   g_M: -log p(y | h~_L), the cross-entropy of o

    `inference.label_weight` says how much more it matters to predict y than x; with 0, layers
    learn as without labels, and o is a read-out of what they learn. An example whose label is -1
    lacks all of the three terms, whose losses are means over the whole batch nevertheless. How far
    labels reach below the top is in `inference.alpha`.

    Labels are predicted from x alone: `val/error` is that of the feed-forward pass, and
    `val/error_inferred` that after the N steps of inference with y free. `best.ckpt` is the epoch
    of the lowest first one.
    Source: Bengio et al. 2015, section 9 (y "is more important to predict than x"); Eq. 12.

    Args:
        stack: the model, a `LabelledStack`.
        inference: the E-step; TargetPropInference() if None.
        corruption, decoder_corruption, warmup, prior_codes, log_every: see `VariationalEMRule`;
            o takes h_L with the noise of g_L's input.
        rates: of f_1 .. f_M and g_1 .. g_M; see `Rates`.

    Raises:
        ValueError: see `VariationalEMRule`; for a stack without labels; in training, for batches
            without labels, and for labels of a wrong type or range.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder, with_labels
        >>> _ = torch.manual_seed(0)
        >>> rule = LabelledEMRule(with_labels(deep_autoencoder([8, 6, 4]), classes=3))
        >>> list(rule.losses((torch.rand(3, 8), torch.tensor([2, 0, -1]))))
        ['f_1', 'g_1', 'f_2', 'g_2', 'f_3', 'g_3']
    """

    learns_label = True
    unlabelled = True
    score = ("val/error", "min")

    stack: LabelledStack

    def _check_untrained(self) -> None:
        super()._check_untrained()
        if not isinstance(self.stack, LabelledStack):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"stack={type(self.stack).__name__} has no labels; LabelledEMRule trains a "
                "LabelledStack, as with_labels(stack) gives"
            )

    def maps(self) -> Maps:
        """Those of the stack, and r_y and o."""
        maps = super().maps()
        label = self.stack.label
        return {
            "f": [*maps["f"], [label.f, label.recognition]],
            "g": [*maps["g"], [label.g, label.observation]],
        }

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Local losses f_1, g_1 .. f_M, g_M in nats, mean over the batch (x, y)."""
        x, classes = self.labelled(batch)
        y = self.stack.label_rows(classes)

        h = self.expect(x, moment, y)
        f_inputs, g_inputs = self.inputs(h, moment)
        losses = self.local_losses(h, f_inputs, g_inputs)

        return losses | self.label_losses(y, h[-1], g_inputs[-1])

    def label_losses(self, y: Tensor, h: Tensor, h_tilde: Tensor) -> dict[str, Tensor]:
        """The losses of r_y and o, 0 for rows without a label; see `LabelledStack.label_rows`."""
        label = self.stack.label
        there = present(y)[:, 0]
        y = y.nan_to_num()

        f_energy = label.recognition.energy(h, label.f(y), y)
        g_energy = label.observation.energy(y, label.g(h_tilde), h_tilde)

        level = self.stack.depth + 1
        return {
            f"f_{level}": (f_energy * there).mean(),
            f"g_{level}": (g_energy * there).mean(),
        }

    # -- validation and test -------------------------------------------------------------------

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self._log_error("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self._log_error("test", batch)

    def _log_error(self, split: str, batch: Sequence[Tensor]) -> None:
        """Fraction of wrong labels, of those that there are, and their cross-entropy in nats."""
        x, y, _ = Split.of(batch)
        if y is None:
            raise ValueError("the batch has no labels; the error of a label needs them")

        y = checks.labels("y", y, len(x), self.stack.classes, self.unlabelled)
        there = y >= 0
        x = x[there]
        y = y[there]

        p = self.stack.predict(x)
        inferred = self.stack.predict(x, self.inference)
        log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        values = {
            f"{split}/error": (p.argmax(1) != y).float().mean(),
            f"{split}/error_inferred": (inferred.argmax(1) != y).float().mean(),
            f"{split}/loss": torch.nn.functional.nll_loss(log_p, y),
        }
        log_means(self, values, len(x), prog_bar=True)
