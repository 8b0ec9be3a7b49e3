"""Labels by inference in two phases: encoders learn from free codes to those that labels nudge."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gendae.registry import register
from gendae.rules.labelled import LabelledEMRule
from gendae.rules.moment import Moment
from gendae.rules.variational_em import corrupted


@register
class NudgedEMRule(LabelledEMRule):
    """`LabelledEMRule` whose decoders, and the read-out, learn on codes that saw no label.

    Inference with y gives codes that tell y, on which a read-out learns little of how to tell it
    from x; and encoders that denoise towards them shrink by the noise of x more than labels spread
    them. Here the noise of x comes before inference, and both ends of what an encoder learns are
    codes of the same x~:

    E-step:  x~ = corrupt(x);   h'_1 .. h'_L the feed-forward codes of x~, h'_0 = x
             h_1 .. h_L <- INFERENCE(x~, y), which starts at h'
    M-step:  f_l: |f_l(h'_{l-1}) - h_l|^2 / 2, of x~ for l = 1
             g_l: -log p(h'_{l-1} | h~_l), and g_M: -log p(y | h~_L), with h~_l = corrupt(h'_l)
             f_M: |r_y(y) - h_L|^2 / 2

    So f_l learns the displacement h_l - h'_l, as in difference target propagation, whose targets
    the weak limit has; with `label_weight` well above 1 and a small delta it is the label's rather
    than that of x. `TargetPropInference(difference=True)` brings it down without g's errors.
    Source: Bengio et al. 2015, section 9; free and nudged phase: Xie and Seung 2003, which the
    paper's section 6 compares its inference to.

    Args:
        stack, inference, corruption, decoder_corruption, warmup, prior_codes, rates, log_every:
            see `LabelledEMRule`.

    Raises:
        ValueError: see `LabelledEMRule`.

    Example:
        >>> from gendae.inference import TargetPropInference
        >>> from gendae.models.architectures import deep_autoencoder, with_labels
        >>> stack = with_labels(deep_autoencoder([8, 6, 4], ["tanh", "tanh"]), classes=3)
        >>> inference = TargetPropInference(5, 0.02, 0.3, label_weight=30, difference=True)
        >>> rule = NudgedEMRule(stack, inference)
        >>> list(rule.losses((torch.rand(2, 8), torch.tensor([2, -1]))))
        ['f_1', 'g_1', 'f_2', 'g_2', 'f_3', 'g_3']
    """

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Local losses f_1, g_1 .. f_M, g_M in nats, mean over the batch (x, y)."""
        x, classes = self.labelled(batch)
        y = self.stack.label_rows(classes)

        (x_tilde,) = corrupted(self.corruption[:1], [x], moment)
        nudged = self.expect(x_tilde, moment, y)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            free = self.stack.feedforward(x_tilde)

        noise = self.decoder_corruption or self.corruption[1:]
        h_tilde = corrupted(noise, free[1:], moment)
        losses = self.local_losses(nudged, free[:-1], h_tilde, (x, *free[1:]))

        return losses | self.label_losses(y, nudged[-1], h_tilde[-1])
