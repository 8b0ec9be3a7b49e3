"""Maps of images whose weights are shared over places: convolution, its transpose, and pooling.

    a_o(i, j) = b_o + sum_cuv W_o,c,u,v h_c(s i + u - p, s j + v - p)               `Conv`
    a_c(s i + u - p, s j + v - p) += W_o,c,u,v h_o(i, j)                            `ConvTranspose`

with kernel k, u and v in 0 .. k - 1, stride s and padding p; k - 2 p - s = 0 gives sides that are
divided, or multiplied, by s. The second map is the transpose of the first, up to its bias.

A stack is flat: representations are rows, (batch, channels * height * width), channels first.
Only these layers know the shape of an image, as `in_shape` and `out_shape`. Noise, laws, priors,
chains and rules take rows, and are the same for all layers.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from gendae import checks
from gendae.layers.activations import ACTIVATIONS, DIFFERENCES, IN_PLACE
from gendae.layers.affine import INITIAL_WEIGHTS
from gendae.registry import register

#: Channels, height and width.
Shape = tuple[int, int, int]
POOLINGS = ("max", "mean")

W = TypeVar("W", bound="SharedWeights")


def image_shape(name: str, shape: Sequence[int]) -> Shape:
    """`shape` as channels, height and width.

    Raises:
        ValueError: unless it is three whole numbers of 1 or more.
    """
    sides = list(shape) if isinstance(shape, Sequence) else [shape]
    if len(sides) != 3:
        raise ValueError(f"{name}={shape}: (channels, height, width) is needed")

    channels, height, width = (checks.whole(name, side, 1) for side in sides)
    return channels, height, width


def divided(shape: Shape, channels: int, kernel: int, stride: int, padding: int) -> Shape:
    """The shape that a convolution gives.

    Raises:
        ValueError: for a kernel larger than the image, and a stride that does not divide what is
            left beside the kernel.

    Example:
        >>> divided((1, 28, 28), 16, kernel=4, stride=2, padding=1)
        (16, 14, 14)
        >>> divided((1, 28, 28), 16, kernel=3, stride=2, padding=1)
        Traceback (most recent call last):
        ValueError: stride=2 does not divide 27, the places beside a kernel of 3 in an image of ...
    """
    sides = []
    for side in shape[1:]:
        places = side + 2 * padding - kernel
        if places < 0:
            raise ValueError(
                f"kernel={kernel} is larger than an image of (channels, height, width) = {shape} "
                f"with padding={padding}"
            )
        if places % stride:
            raise ValueError(
                f"stride={stride} does not divide {places}, the places beside a kernel of "
                f"{kernel} in an image of (channels, height, width) = {shape} with "
                f"padding={padding}"
            )
        sides.append(places // stride + 1)

    return channels, sides[0], sides[1]


class OfImages(nn.Module):
    """Base class of maps from images to images, as rows.

    Attributes:
        in_shape, out_shape: channels, height and width of input and output.
    """

    in_shape: Shape
    out_shape: Shape

    @property
    def in_features(self) -> int:
        """Width of the input, as a row."""
        channels, height, width = self.in_shape
        return channels * height * width

    @property
    def out_features(self) -> int:
        """Width of the output, as a row."""
        channels, height, width = self.out_shape
        return channels * height * width

    def extra_repr(self) -> str:
        return f"{self.in_shape} -> {self.out_shape}"


class SharedWeights(OfImages):
    """Base class of `Conv` and `ConvTranspose`: s(a) of an `a` that is linear in h.

    Attributes:
        weight: W, (channels of the smaller image, channels of the larger, kernel, kernel), where
            the convolution goes from the larger to the smaller.
        bias: b, one for each channel of the output.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        activation: str = "linear",
        gain: float = 1.0,
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.in_shape = image_shape("in_shape", in_shape)
        self.channels = checks.whole("channels", channels, 1)
        self.kernel = checks.whole("kernel", kernel, 1)
        self.stride = checks.whole("stride", stride, 1)
        self.padding = checks.whole("padding", padding, 0, self.kernel - 1)

        self.activation = checks.one_of("activation", activation, ACTIVATIONS)
        self.gain = checks.real("gain", gain)
        self.init = checks.one_of("init", init, INITIAL_WEIGHTS)
        self.s = ACTIVATIONS[activation]

        self.out_shape = self._out_shape()
        self.weight = nn.Parameter(self._initial_weight())
        self.bias = nn.Parameter(torch.zeros(self.channels))

    def _out_shape(self) -> Shape:
        raise NotImplementedError

    def _initial_weight(self) -> Tensor:
        raise NotImplementedError

    def _drawn(self, gain: float) -> Tensor:
        """Weights to each channel of the output from k^2 pixels of those of the input."""
        fan_in = self.in_shape[0] * self.kernel**2
        matrix = INITIAL_WEIGHTS[self.init](self.channels, fan_in, gain)

        return matrix.view(self.channels, -1, self.kernel, self.kernel)

    def _partner(self, cls: type[W], activation: str, gain: float, init: str) -> W:
        sides = (self.kernel, self.stride, self.padding)
        return cls(self.out_shape, self.in_shape[0], *sides, activation, gain, init)

    def linear(self, h: Tensor, weight: Tensor | None = None) -> Tensor:
        """a without b, (batch, out_features); `weight` takes the place of W."""
        return self._forth(h, self.weight if weight is None else weight)

    def transposed(self, d: Tensor, weight: Tensor | None = None) -> Tensor:
        """The transpose of `linear`, (batch, in_features)."""
        return self._back(d, self.weight if weight is None else weight)

    def weight_gradient(self, h: Tensor, d: Tensor) -> Tensor:
        """Gradient of sum(d * linear(h)) by W, in its shape."""
        raise NotImplementedError

    def preactivation(self, h: Tensor) -> Tensor:
        """a."""
        return self._forth(h, self.weight, self.bias)

    def forward(self, h: Tensor) -> Tensor:
        a = self.preactivation(h)
        if a.requires_grad:
            return self.s(a)

        return IN_PLACE[self.activation](a)

    def difference(self, h: Tensor, step: Tensor) -> Tensor:
        """The output at h + step minus that at h, see `Affine.difference`."""
        return DIFFERENCES[self.activation](self.preactivation(h), self.linear(step))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, kernel={self.kernel}, stride={self.stride}, "
            f"padding={self.padding}, {self.activation!r}"
        )

    def _forth(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def _back(self, d: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _down(
        self, rows: Tensor, shape: Shape, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """The convolution, from rows of the larger image to rows of the smaller."""
        images = rows.unflatten(1, shape)
        return F.conv2d(images, weight, bias, self.stride, self.padding).flatten(1)

    def _up(
        self, rows: Tensor, shape: Shape, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Its transpose, from rows of the smaller image to rows of the larger."""
        images = rows.unflatten(1, shape)
        return F.conv_transpose2d(images, weight, bias, self.stride, self.padding).flatten(1)

    def _products(self, larger: Tensor, smaller: Tensor) -> Tensor:
        """Sum over batch and places of the products of two images, in the shape of W."""
        return conv2d_weight(larger, self.weight.shape, smaller, self.stride, self.padding)


@register
class Conv(SharedWeights):
    """A convolution, h -> s(W * h + b), with b = 0 at the start.

    Args:
        in_shape: (channels, height, width) of h.
        channels: of the output.
        kernel: side of the kernel, k, in pixels.
        stride: step between two of its places, s; k - 2 p must be s for sides divided by s.
        padding: zeros on each side, p, fewer than k.
        activation: s, see `Affine`.
        gain, init: of W at the start, see `Affine`; the fan-in is k^2 times the input's channels.

    Raises:
        ValueError: for an unknown name, a number out of range, a kernel larger than the image,
            and a stride that does not divide.

    Example:
        >>> f = Conv((1, 28, 28), 16, kernel=4, stride=2, padding=1, activation="relu")
        >>> f(torch.rand(5, 784)).shape, f.out_shape
        (torch.Size([5, 3136]), (16, 14, 14))
        >>> h, d = torch.rand(1, 784), torch.rand(1, 3136)
        >>> torch.allclose((f.linear(h) * d).sum(), (h * f.transposed(d)).sum(), rtol=1e-4)
        True
    """

    def _out_shape(self) -> Shape:
        return divided(self.in_shape, self.channels, self.kernel, self.stride, self.padding)

    def _initial_weight(self) -> Tensor:
        return self._drawn(self.gain)

    def weight_gradient(self, h: Tensor, d: Tensor) -> Tensor:
        return self._products(h.unflatten(1, self.in_shape), d.unflatten(1, self.out_shape))

    def _forth(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._down(h, self.in_shape, weight, bias)

    def _back(self, d: Tensor, weight: Tensor) -> Tensor:
        return self._up(d, self.out_shape, weight)

    def partner(
        self, activation: str = "linear", gain: float = 1.0, init: str = "normal"
    ) -> "ConvTranspose":
        """A map of the same kind the other way, with weights of its own."""
        return self._partner(ConvTranspose, activation, gain, init)


@register
class ConvTranspose(SharedWeights):
    """The transpose of a convolution with weights of its own, h -> s(W' * h + b): a decoder.

    Args:
        in_shape: (channels, height, width) of h, the smaller image.
        channels: of the output, the larger image.
        kernel, stride, padding: of the convolution whose transpose it is, see `Conv`.
        activation: s, see `Affine`.
        gain, init: of W at the start, see `Affine`; the fan-in is k^2 / s^2 times the input's
            channels, which is how many numbers meet in a pixel.

    Raises:
        ValueError: for an unknown name or a number out of range, and where nothing would be left
            beside the padding.

    Example:
        >>> g = ConvTranspose((16, 14, 14), 1, kernel=4, stride=2, padding=1)
        >>> g(torch.rand(5, 3136)).shape, g.out_shape
        (torch.Size([5, 784]), (1, 28, 28))
    """

    def _out_shape(self) -> Shape:
        sides = []
        for side in self.in_shape[1:]:
            larger = (side - 1) * self.stride + self.kernel - 2 * self.padding
            if larger < 1:
                raise ValueError(
                    f"padding={self.padding} leaves nothing of an image of (channels, height, "
                    f"width) = {self.in_shape} under a kernel of {self.kernel}"
                )
            sides.append(larger)

        return self.channels, sides[0], sides[1]

    def _initial_weight(self) -> Tensor:
        return self._drawn(self.gain * self.stride).transpose(0, 1).contiguous()

    def weight_gradient(self, h: Tensor, d: Tensor) -> Tensor:
        return self._products(d.unflatten(1, self.out_shape), h.unflatten(1, self.in_shape))

    def _forth(self, h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._up(h, self.in_shape, weight, bias)

    def _back(self, d: Tensor, weight: Tensor) -> Tensor:
        return self._down(d, self.out_shape, weight)

    def partner(self, activation: str = "linear", gain: float = 1.0, init: str = "normal") -> Conv:
        """A map of the same kind the other way, with weights of its own."""
        return self._partner(Conv, activation, gain, init)


class WithoutWeights(OfImages):
    """Base class of `Pool` and `Unpool`: maps of images in which nothing learns.

    What has come through has the range of what went in: they have no activation of their own.
    """

    activation = None

    def back(self, h: Tensor, d: Tensor) -> Tensor:
        """J' d at h: d sent back to where it came from."""
        raise NotImplementedError

    def copied(self, d: Tensor) -> Tensor:
        """d sent back by who does not know where it came from: the transpose of taking means."""
        raise NotImplementedError


@register
class Pool(WithoutWeights):
    """The largest number, or the mean, of each window of an image.

    Args:
        in_shape: (channels, height, width) of h.
        size: side of the windows, which lie side by side, in pixels.
        pooling: "max" or "mean".

    Raises:
        ValueError: for a size that does not divide height and width.

    Example:
        >>> f = Pool((1, 2, 4), size=2)
        >>> h = torch.tensor([[1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 8.0]])
        >>> f(h), f.back(h, torch.tensor([[5.0, 7.0]]))
        (tensor([[4., 8.]]), tensor([[0., 0., 0., 0., 0., 5., 0., 7.]]))
    """

    def __init__(self, in_shape: Sequence[int], size: int = 2, pooling: str = "max") -> None:
        super().__init__()
        self.in_shape = image_shape("in_shape", in_shape)
        self.size = checks.whole("size", size, 1)
        self.pooling = checks.one_of("pooling", pooling, POOLINGS)

        channels, height, width = self.in_shape
        if height % self.size or width % self.size:
            raise ValueError(
                f"size={self.size} does not divide the sides of images of (channels, height, "
                f"width) = {self.in_shape}"
            )
        self.out_shape = (channels, height // self.size, width // self.size)

    def forward(self, h: Tensor) -> Tensor:
        images = h.unflatten(1, self.in_shape)
        if self.pooling == "mean":
            return F.avg_pool2d(images, self.size).flatten(1)

        return F.max_pool2d(images, self.size).flatten(1)

    def back(self, h: Tensor, d: Tensor) -> Tensor:
        """d at the pixel that was largest, in each window of h; or spread over the window."""
        if self.pooling == "mean":
            return self.copied(d)

        images = h.unflatten(1, self.in_shape)
        _, switches = F.max_pool2d(images, self.size, return_indices=True)
        moved = F.max_unpool2d(d.unflatten(1, self.out_shape), switches, [self.size, self.size])

        return moved.flatten(1)

    def copied(self, d: Tensor) -> Tensor:
        return _spread(d, self.out_shape, self.size) / self.size**2

    def partner(self, *_: object) -> "Unpool":
        """The map the other way."""
        return Unpool(self.out_shape, self.size)


@register
class Unpool(WithoutWeights):
    """Each pixel copied into all pixels of a window: the inverse of the mean over windows.

    Args:
        in_shape: (channels, height, width) of h.
        size: side of the windows, in pixels.

    Example:
        >>> Unpool((1, 1, 2), size=2)(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 1., 2., 2., 1., 1., 2., 2.]])
    """

    def __init__(self, in_shape: Sequence[int], size: int = 2) -> None:
        super().__init__()
        self.in_shape = image_shape("in_shape", in_shape)
        self.size = checks.whole("size", size, 1)

        channels, height, width = self.in_shape
        self.out_shape = (channels, self.size * height, self.size * width)

    def forward(self, h: Tensor) -> Tensor:
        return _spread(h, self.in_shape, self.size)

    def back(self, h: Tensor, d: Tensor) -> Tensor:
        return self.copied(d)

    def copied(self, d: Tensor) -> Tensor:
        images = d.unflatten(1, self.out_shape)
        return F.avg_pool2d(images, self.size, divisor_override=1).flatten(1)

    def partner(self, *_: object) -> Pool:
        """The map the other way."""
        return Pool(self.out_shape, self.size, "mean")


def _spread(h: Tensor, shape: Shape, size: int) -> Tensor:
    """Each pixel of rows of images copied into a window."""
    images = h.unflatten(1, shape)
    return images.repeat_interleave(size, -2).repeat_interleave(size, -1).flatten(1)
