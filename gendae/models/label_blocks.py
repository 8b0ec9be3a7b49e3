"""Classifiers made of blocks that own a band of noise each: what is denoised is the label.

h_{l-1} = (x, y~_{l-1}) -> f_l -> (x, y~_l): layer l takes noise of the levels that it owns from a
guess y~ of the one-hot label, the highest ones first, and sees x by an encoder of its own:

    y~_0 = 0,   dy~/ds = (y~ - D_l(y~; s, e_l(x))) / s  in the band,   y^ = D_L(y~_L; s, e_L(x))

The partner g_l adds the noise again, and leaves its input as it is in the mean. At high levels D
knows the label from x alone, and is a classifier; at low ones it has more and more from y~.
Source: see `gendae.models.blocks`.
"""

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.layers.affine import Affine
from gendae.layers.layers import in_shape
from gendae.layers.wrapped import as_layer
from gendae.models.blocks import Band, check_order
from gendae.models.classifier import Classifier
from gendae.priors.descents import HeunDescent
from gendae.registry import register

#: Logits of an untrained output layer, as multiples of y^, which lies between 0 and 1.
SHARPNESS = 10.0


@register
class LabelBlock(nn.Module):
    """f_l: (x, y~) with noise of the band's highest level -> (x, y~) with that of its lowest.

    Several guesses y~ of one label may lie side by side, and go down each for itself.

    Args:
        encoder: e_l, from x to what the band is conditioned on.
        band: D_l, of one-hot labels.
        guesses: number of y~ side by side.
        first: whether the layer takes x alone. A single guess then begins as 0, the mean of noise;
            several begin as draws of the highest level, the same for each x.
        steps: levels of the way down by Heun's method, the band's ends among them.

    Raises:
        ValueError: for numbers below 1, fewer than two steps, and a band that is not conditioned
            on the encoder's output.

    Example:
        >>> band = Band(3, condition=4, spread=0.5)
        >>> block = LabelBlock(Affine(8, 4), band, first=True)
        >>> block(torch.rand(5, 8)).shape                           # x and y~
        torch.Size([5, 11])
    """

    activation = "linear"

    def __init__(
        self,
        encoder: nn.Module,
        band: Band,
        guesses: int = 1,
        first: bool = False,
        steps: int = 3,
    ) -> None:
        super().__init__()
        self.encoder = as_layer(encoder)
        self.band = checks.kind("band", band, Band)
        if self.band.condition != self.encoder.out_features:
            raise ValueError(
                f"band is conditioned on {self.band.condition} units; the encoder gives "
                f"{self.encoder.out_features}"
            )

        self.guesses = checks.whole("guesses", guesses, 1, checks.REPEATS)
        self.first = bool(first)
        self.steps = checks.whole("steps", steps, 2, checks.REPEATS)

        width = self.encoder.in_features
        state = width + self.guesses * self.band.features
        self.in_features = width if self.first else state
        self.in_shape = in_shape(self.encoder) if self.first else (state,)
        self.out_features = state

    def forward(self, h: Tensor) -> Tensor:
        width = self.encoder.in_features
        x = h[:, :width]
        y = self.begin(x) if self.first else h[:, width:]

        return torch.cat([x, self.down(y, self.encoder(x))], 1)

    def begin(self, x: Tensor) -> Tensor:
        """The guesses at the highest level, (batch, guesses * classes)."""
        units = self.guesses * self.band.features
        if self.guesses == 1:
            return x.new_zeros(len(x), units)

        draws = torch.randn(units, generator=Generator().manual_seed(0)).to(x)
        return self.band.high * draws.expand(len(x), -1)

    def down(self, y: Tensor, condition: Tensor) -> Tensor:
        """The guesses at the lowest level; from the lowest band the label that they come to."""
        band = self.band
        among = condition.repeat_interleave(self.guesses, 0)

        def denoise(z: Tensor, level: float) -> Tensor:
            return band.denoise(z, level, among)

        descent = HeunDescent(self.steps, band.high, band.lowest, churn=0.0)
        z = y.reshape(-1, band.features)
        for level, lower in pairwise(descent.levels()):
            z = descent.step(denoise, z, level, lower, None)
        if band.low == 0.0:
            z = denoise(z, band.lowest)

        return z.reshape(y.shape)

    def loss(self, y: Tensor, condition: Tensor, generator: Generator) -> Tensor:
        """The denoising loss of one-hot labels, ()."""
        return self.band.loss(y, generator, condition)


@register
class LabelLogits(Affine):
    """The output layer of a classifier of blocks: (x, y^) -> an affine map of y^, at first 10 y^.

    Args:
        in_features: width of x and of all guesses together.
        out_features: number of classes.
        guesses: number of y^ side by side, of which the mean is taken.

    Raises:
        ValueError: for an input without room for the guesses.

    Example:
        >>> layer = LabelLogits(11, 3)
        >>> layer(torch.rand(5, 11)).shape, layer.weight.shape
        (torch.Size([5, 3]), torch.Size([3, 3]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        guesses: int = 1,
    ) -> None:
        classes = checks.whole("out_features", out_features, 1)
        super().__init__(classes, classes)
        self.guesses = checks.whole("guesses", guesses, 1, checks.REPEATS)
        self.in_features = checks.whole("in_features", in_features, 1)
        if self.in_features <= self.guesses * self.out_features:
            raise ValueError(
                f"in_features={in_features}: {guesses} guesses of {out_features} classes, and x, "
                "need more"
            )

        with torch.no_grad():
            self.weight.copy_(SHARPNESS * torch.eye(self.out_features))

    def forward(self, h: Tensor) -> Tensor:
        guesses = h[..., -self.guesses * self.out_features :]
        mean = guesses.unflatten(-1, (self.guesses, -1)).mean(-2)

        return super().forward(mean)


def label_blocks(name: str, stack: Classifier) -> list[LabelBlock]:
    """The encoders of a classifier of blocks, in their order: highest levels first.

    Args:
        name: of the argument, for the message.
        stack: as `gendae.denoising_classifier` makes it.

    Raises:
        ValueError: for other layers, and bands that leave levels out.

    Example:
        >>> from gendae.models.architectures import deep_classifier
        >>> label_blocks("stack", deep_classifier([8, 4], 3))
        Traceback (most recent call last):
        ValueError: stack: f_1 is Affine; accepted: LabelBlock, as gendae.denoising_classifier ...
    """
    blocks: list[LabelBlock] = []
    for level, pair in enumerate(stack.pairs, 1):
        if not isinstance(pair.f, LabelBlock):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: f_{level} is {type(pair.f).__name__}; accepted: LabelBlock, as "
                "gendae.denoising_classifier gives"
            )
        blocks.append(pair.f)

    check_order(name, [block.band for block in reversed(blocks)])
    return blocks
