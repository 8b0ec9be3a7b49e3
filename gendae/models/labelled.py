"""A stack whose top explains a label y beside x.

p(x, y, h) = p(y | h_L) p(x, h). The label decoder o: h_L -> y and its partner r_y: y -> h_L are
one more layer pair, whose lower side is y instead of h_{L-1}: o is its g, and r_y its f. So what
holds of x below the top holds of y: Eq. 12 estimates d log p(y | h_L) / dh_L without derivatives,
as r_y(y) - r_y(o(h_L)), and both maps have the losses of any pair.
Source: Bengio et al. 2015, section 9 ("these ideas could be applied to supervised learning").
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gendae import checks
from gendae.layers.pair import Pair
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import register

BATCH = 1000  # examples computed at a time

Infer = Callable[[Stack, Tensor], tuple[Tensor, ...]]


def present(y: Tensor) -> Tensor:
    """Which rows hold a label, (batch, 1) boolean; a row of NaN holds none."""
    return ~y.isnan().any(-1, keepdim=True)


@register
class LabelledStack(Stack):
    """Layer pairs, and one of the top with its label.

    Args:
        pairs: the layer pairs between x and h_L, bottom first.
        label: the pair of y and h_L: f is r_y, g is o. One of a softmax and `Categorical` is of
            classes; one of `Gaussian` is of numbers, which inference takes, and no data set has.
        prior, settings: see `Stack`.

    Raises:
        ValueError: if widths do not match.

    Example:
        >>> from gendae.models.architectures import deep_autoencoder, with_labels
        >>> stack = with_labels(deep_autoencoder([8, 6, 4]), classes=3)
        >>> stack.predict(torch.rand(5, 8)).sum(1).round()
        tensor([1., 1., 1., 1., 1.])
        >>> stack.label_rows(torch.tensor([2, -1]))
        tensor([[0., 0., 1.],
                [nan, nan, nan]])
    """

    ARRAYS = (*Stack.ARRAYS, "predict", "label_rows")

    label: Pair

    def __init__(
        self,
        *pairs: Pair,
        label: Pair,
        prior: Prior | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(*pairs, prior=prior, settings=settings)

        if label.f.out_features != self.sizes[-1]:
            raise ValueError(
                f"label leads to {label.f.out_features} units; the top has {self.sizes[-1]}"
            )
        self.label = label

    @property
    def classes(self) -> int:
        """Width of y, for labels the number of classes."""
        return self.label.f.in_features

    def label_rows(self, y: Tensor) -> Tensor:
        """Class indices as rows of y, (batch, classes): one-hot, or NaN for the index -1.

        The indices themselves are not looked at, which would wait for the device.
        """
        rows = y[:, None] == torch.arange(self.classes, device=y.device)
        return rows.to(self.dtype).masked_fill(y[:, None] < 0, torch.nan)

    @torch.no_grad()
    def predict(self, x: Tensor, infer: Infer | None = None) -> Tensor:
        """E[y | h_L], (batch, classes): of a label, the probabilities of its classes.

        Args:
            x: (batch, width of x).
            infer: what gives h_0 .. h_L, such as an `Inference`, in which y is free; the
                feed-forward pass if None.

        Raises:
            ValueError: if x has another width.
        """
        x = checks.width("x", x, self.sizes[0])
        if infer is None:
            infer = Stack.feedforward

        tops = [infer(self, part)[-1] for part in x.split(BATCH)]
        return torch.cat([self.label.g(h) for h in tops])
