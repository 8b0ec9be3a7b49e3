"""Classifiers by goodness: every label is tried, and that under which the layers are most active.

    h_1(y) = s(W_1 x + U y + b_1),   h_l(y) = s(W_l n(h_{l-1}(y)) + b_l),   y one-hot
    n(h) = h / rms(h),   goodness_l(y) = mean of h_l(y)^2 over units
    logit of y = sum_l v_{y,l} goodness_l(y) + c_y

Normalisation leaves a layer the direction of what lies below, not its length: that is the goodness
below, which a layer could pass on without learning anything. The label comes beside x, not in the
place of its first pixels: nothing of x is lost, any data will do, and W_1 x serves all labels.

A classifier takes one row and gives one, so that h_l of all labels travel side by side, with the
goodness of the layers so far behind them: (h_l(0) .. h_l(C-1), goodness_1(0) .. goodness_l(C-1)).
Source: Hinton 2022, "The Forward-Forward Algorithm", sections 2 and 3.3.
"""

import math

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.layers.activations import ACTIVATIONS
from gendae.layers.affine import INITIAL_WEIGHTS, Affine
from gendae.models.classifier import Classifier
from gendae.registry import register


def normalised(h: Tensor) -> Tensor:
    """h / rms(h), row by row; a row of zeros stays one.

    Example:
        >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.8485, 1.1314],
                [0.0000, 0.0000]])
    """
    rms = h.norm(dim=-1, keepdim=True) / math.sqrt(h.shape[-1])
    return h / rms.clamp(min=torch.finfo(h.dtype).tiny)


def goodness_of(h: Tensor) -> Tensor:
    """Mean square of the units, over the last axis."""
    return h.square().mean(-1)


@register
class GoodnessLayer(nn.Module):
    """f_l of a classifier by goodness; see this file.

    Args:
        width: of x, or of h_{l-1} under one label.
        units: of h_l under one label.
        classes: C, number of labels.
        below: l - 1, number of such layers below; one without any takes x, and the label.
        activation: s, see `Affine`.
        gain, init: of the weights at the start, see `Affine`; U is drawn as W_1 is.

    Raises:
        ValueError: for an unknown name and numbers out of range.

    Example:
        >>> first, second = GoodnessLayer(8, 6, 3), GoodnessLayer(6, 5, 3, below=1)
        >>> h = second(first(torch.rand(4, 8)))
        >>> h.shape, torch.equal(h[:, -3:], h[:, :15].unflatten(1, (3, 5)).square().mean(2))
        (torch.Size([4, 21]), True)
    """

    def __init__(
        self,
        width: int,
        units: int,
        classes: int,
        below: int = 0,
        activation: str = "relu",
        gain: float = 1.0,
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.width = checks.whole("width", width, 1)
        self.units = checks.whole("units", units, 1)
        self.classes = checks.whole("classes", classes, 2)
        self.below = checks.whole("below", below, 0, checks.REPEATS)
        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.gain = checks.real("gain", gain)
        self.init = checks.one_of("init", init, INITIAL_WEIGHTS)
        self.s = ACTIVATIONS[activation]

        draw = INITIAL_WEIGHTS[init]
        self.weight = nn.Parameter(draw(self.units, self.width, gain))
        self.bias = nn.Parameter(torch.zeros(self.units))
        if self.first:
            self.label = nn.Parameter(draw(self.units, self.classes, gain))

    @property
    def first(self) -> bool:
        """Whether the layer takes x."""
        return self.below == 0

    @property
    def in_features(self) -> int:
        """Width of a row that it takes."""
        return self.width if self.first else self.classes * (self.width + self.below)

    @property
    def out_features(self) -> int:
        """Width of a row that it gives."""
        return self.classes * (self.units + self.below + 1)

    def hidden(self, h: Tensor, y: Tensor | None = None) -> Tensor:
        """h_l under one label, (batch, units).

        Args:
            h: x, or h_{l-1} as it is, (batch, width).
            y: one-hot labels of the first layer, (batch, classes); None of others.
        """
        if y is None:
            return self.s(normalised(h) @ self.weight.T + self.bias)

        return self.s(h @ self.weight.T + self.bias + y @ self.label.T)

    def forward(self, h: Tensor) -> Tensor:
        if self.first:
            of_x = h @ self.weight.T + self.bias
            hidden = self.s(of_x[:, None] + self.label.T)
            earlier = h[:, :0]
        else:
            end = self.classes * self.width
            hidden = self.hidden(h[:, :end].unflatten(1, (self.classes, self.width)))
            earlier = h[:, end:]

        return torch.cat([hidden.flatten(1), earlier, goodness_of(hidden)], 1)

    def extra_repr(self) -> str:
        return f"{self.width}, {self.units}, {self.classes}, {self.below}, {self.activation!r}"


@register
class Zeros(nn.Module):
    """g_l of a classifier by goodness, which has no way down: zeros for any input.

    Args:
        in_features, out_features: widths of what it takes and gives.

    Raises:
        ValueError: for a width below 1.

    Example:
        >>> Zeros(3, 2)(torch.ones(1, 3))
        tensor([[0., 0.]])
    """

    activation = "linear"

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = checks.whole("in_features", in_features, 1)
        self.out_features = checks.whole("out_features", out_features, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h.new_zeros(len(h), self.out_features)


@register
class GoodnessLogits(Affine):
    """The output layer of a classifier by goodness: sum_l v_{y,l} goodness_l(y) + c_y.

    At the start v = 1 and c = 0: the total goodness.

    Args:
        in_features: width of the row from the top layer.
        out_features: C, number of classes.
        layers: L, number of layers below.

    Raises:
        ValueError: for an input without room for the goodness of so many layers.

    Example:
        >>> GoodnessLogits(21, 3, layers=2)(torch.ones(1, 21))
        tensor([[2., 2., 2.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, in_features: int, out_features: int, layers: int = 1) -> None:
        layers = checks.whole("layers", layers, 1, checks.REPEATS)
        super().__init__(layers, out_features)
        self.layers = layers
        self.in_features = checks.whole("in_features", in_features, 1)
        if self.in_features <= self.layers * self.out_features:
            raise ValueError(
                f"in_features={in_features}: the goodness of {layers} layers under "
                f"{out_features} labels, and the top's units, need more"
            )

        with torch.no_grad():
            self.weight.fill_(1.0)

    def logits(self, goodness: Tensor, y: Tensor) -> Tensor:
        """Of labels y, (..), from the goodness of the layers under them, (.., layers)."""
        return (goodness * self.weight[y]).sum(-1) + self.bias[y]

    def forward(self, h: Tensor) -> Tensor:
        goodness = h[..., -self.layers * self.out_features :]
        goodness = goodness.unflatten(-1, (self.layers, -1)).transpose(-1, -2)

        return (goodness * self.weight).sum(-1) + self.bias


def goodness_layers(name: str, stack: Classifier) -> list[GoodnessLayer]:
    """The encoders of a classifier by goodness.

    Args:
        name: of the argument, for the message.
        stack: as `gendae.goodness_classifier` makes it.

    Raises:
        ValueError: for other layers, or an order in which they do not fit.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> goodness_layers("stack", deep_classifier([8, 4], 3))
        Traceback (most recent call last):
        ValueError: stack: f_1 is Affine; accepted: GoodnessLayer, as gendae.goodness_...
    """
    layers: list[GoodnessLayer] = []
    for level, pair in enumerate(stack.pairs, 1):
        if not isinstance(pair.f, GoodnessLayer):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: f_{level} is {type(pair.f).__name__}; accepted: GoodnessLayer, as "
                "gendae.goodness_classifier gives"
            )
        if pair.f.below != len(layers):
            raise ValueError(
                f"{name}: f_{level} says below={pair.f.below}; {len(layers)} layers are below it"
            )
        layers.append(pair.f)

    output = stack.output
    if not isinstance(output, GoodnessLogits) or output.layers != len(layers):
        raise ValueError(
            f"{name}: the output layer is {output}; GoodnessLogits of {len(layers)} layers is "
            "needed, as gendae.goodness_classifier gives"
        )

    return layers
