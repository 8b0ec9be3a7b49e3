"""Bands that learn to fill in: noise lies on the missing elements of an image alone.

    z~ = z + s n (1 - v)        D_l(z~; s, v) estimates E[z | z~], where v tells what is given

v is 1 where an element is given, and z there is the image's own; D_l sees v and v z beside z~, so
that what is given is told apart from noise. At the highest level z~ says nothing of what is
missing, and D_L is E[z | z^v] at once; on the way down through the bands a draw of P(z | z^v)
takes shape. A descent under a clamp asks an unconditional denoiser for what it has not learned,
and has to mix; this one does not. With v = 0 everywhere it is the band of `gendae.models.blocks`.

An image is taken in the units of what is given of it, by channel c:

    z = (x - m_c) / r
    m_c = sum v x / (sum v + k)
    r^2 v_x = (sum v (x - m)^2 + k v_x) / (sum v + k)

with v_x the square of the band's `spread`, and k a tenth of an element, so that with nothing given
z is x. A smooth image thus has errors as small as its contrast, and D_l of a brighter or paler
image is that of the image, made brighter or paler. Where all contrast lies in what is missing, z^m
is large, and a few images rule the loss: errors may count in units of z^m instead. D_l is then no
E[z | z~], but what has the least relative error, which a mean of decibels asks for.

Source: Vincent et al. 2008 (masks and denoising); Saharia et al. 2022 (a denoiser that sees what
is given); Mohan et al. 2020 (denoisers that do not care for the scale).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import normal_like, uniform_like
from gendae.models.blocks import SPREAD, Band
from gendae.priors.levels import Levels
from gendae.registry import build, register

#: k, elements that the prior of an image's units counts for.
LITTLE = 0.1


@register
class Filling:
    """What of an image is given in training, drawn for each, and how errors of the rest count.

    Given are no pixels, some at random, or one side.

    The share of pixels that is given is uniform between `least` and `most`, with all channels of a
    pixel. Of the images of which something is given, in half it is pixels here and there, in half
    those on the left, the right, the top or the bottom.

    Args:
        shape: of an image, see `checks.ImageShape`.
        nothing: share of images of which nothing is given.
        least, most: shares of pixels.
        relative: whether errors count in units of what is missing, see the top of this file.

    Raises:
        ValueError: for shares outside [0, 1], or out of order.

    Example:
        >>> filling = Filling((4, 4), least=0.5, most=0.5, nothing=0.0)
        >>> given = filling(torch.zeros(100, 16), torch.Generator().manual_seed(0))
        >>> given.shape, bool(given.any(1).all())
        (torch.Size([100, 16]), True)
    """

    def __init__(
        self,
        shape: Sequence[int],
        nothing: float = 0.1,
        least: float = 0.25,
        most: float = 0.75,
        relative: bool = False,
    ) -> None:
        self.shape = checks.ImageShape.of(shape).plain
        self.nothing = checks.share("nothing", nothing)
        self.least = checks.share("least", least)
        self.most = checks.share("most", most)
        self.relative = bool(relative)
        if self.least > self.most:
            raise ValueError(f"least={least}, most={most}: the first may not be the larger one")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """True where an element of x, (batch, features), is given."""
        channels, height, width = checks.ImageShape.of(self.shape)
        drawn = uniform_like(x.new_empty(len(x), 3), generator)
        share = self.least + (self.most - self.least) * drawn[:, :1]

        rows, columns = torch.arange(height).to(x), torch.arange(width).to(x)
        down = ((rows + 0.5) / height)[:, None].expand(height, width).flatten()
        across = ((columns + 0.5) / width).expand(height, width).flatten()
        ramps = torch.stack([down, 1.0 - down, across, 1.0 - across])
        here_and_there = uniform_like(x.new_empty(len(x), height * width), generator)

        side = (8.0 * drawn[:, 1]).long()
        order = torch.where(side[:, None] < 4, ramps[side.clamp(max=3)], here_and_there)
        something = drawn[:, 2:] >= self.nothing

        return ((order < share) & something).repeat(1, channels)


class Units(NamedTuple):
    """In which an image is taken: those of what is given of it, see the top of this file.

    Attributes:
        mean: m of each element, (batch, features).
        size: r, (batch, 1).
    """

    mean: Tensor
    size: Tensor

    @classmethod
    def of(cls, x: Tensor, given: Tensor, shape: Sequence[int], spread: float = SPREAD) -> "Units":
        """Those of images, (batch, features), given where `given` is True.

        Example:
            >>> x = torch.tensor([[3.0, 5.0, 7.0, 100.0]])
            >>> units = Units.of(x, torch.tensor([[True, True, True, False]]), (2, 2))
            >>> units.enter(x).round(decimals=1)
            tensor([[-0.6000,  0.0000,  0.7000, 29.4000]])
        """
        seen = given.to(x)
        image = checks.ImageShape.of(shape)

        values = image.images(x * seen).sum((2, 3), keepdim=True)
        counts = image.images(seen).sum((2, 3), keepdim=True)
        mean = (values / (counts + LITTLE)).expand(-1, *image).flatten(1)

        squares = ((x - mean) * seen).square().sum(1, keepdim=True) + LITTLE * spread**2
        size = (squares / (seen.sum(1, keepdim=True) + LITTLE)).sqrt() / spread

        return cls(mean, size)

    def enter(self, x: Tensor) -> Tensor:
        """z of x."""
        return (x - self.mean) / self.size

    def leave(self, z: Tensor) -> Tensor:
        """x of z."""
        return torch.addcmul(self.mean, z, self.size)


@register
class FillingBand(Band):
    """g_l of images of which a part is given, see the top of this file.

    denoise_g_l:  E w (F(z~, s, v) - noise left)^2 over missing elements

    with F and the noise left as in `gendae.priors.denoiser`; w = 1, or for relative errors
    v_x / (v_x + c) with c the mean square of what is missing of z.

    Args:
        filling: draws what is given in training.
        levels, shares, network, spread: see `Band`; the network's condition is v and v z, twice as
            wide as x. Levels are in the units of an image.

    Raises:
        ValueError: see `Band`.

    Example:
        >>> from gendae.priors.level_conv import LevelConv
        >>> network = LevelConv((1, 4, 4), channels=4, layers=1, conditions="channels")
        >>> band = FillingBand(Filling((4, 4)), network=network)
        >>> band.loss(torch.rand(10, 16), torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """

    def __init__(
        self,
        filling: Filling,
        levels: Levels | None = None,
        shares: Sequence[float] = (0.0, 1.0),
        network: nn.Module | None = None,
        spread: float = SPREAD,
    ) -> None:
        self.filling = checks.kind("filling", build(filling), Filling)
        features = checks.ImageShape.of(self.filling.shape).features
        super().__init__(features, levels, shares, network, spread, condition=2 * features)

    def units(self, x: Tensor, given: Tensor) -> Units:
        """Those of images of which a part is given."""
        return Units.of(x, given, self.filling.shape, self.spread)

    def denoise(self, z: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        """D(z; s, v), (batch, features): what is given is as it was.

        Args:
            z: in the units of images.
            level: s.
            condition: v, (batch, features); nothing is given if None.
        """
        if condition is None:
            condition = torch.zeros_like(z)

        seen = condition.to(z)
        sigma = z.new_full((len(z), 1), level)
        v = self.variances(z)
        total = v + sigma.square()
        rest = sigma * (v / total).sqrt() * self._estimate(z, sigma, seen)

        return torch.where(seen > 0, z, v / total * z + rest)

    def loss(self, x: Tensor, generator: Generator, condition: Tensor | None = None) -> Tensor:
        """The loss at levels of the band, (); 1 is the denoiser of Gaussian images.

        Args:
            x: images, (batch, features).
            generator: draws levels, noise and what is given.
            condition: what is given, (batch, features); drawn if None.
        """
        given = self.filling(x, generator) if condition is None else condition
        z = self.units(x, given).enter(x)
        missing = 1.0 - given.to(z)

        sigma = self.levels.between(uniform_like(x[:, :1], generator), self.shares)
        noise = normal_like(x, generator)
        v = self.variances(z)
        target = (sigma * z / v - noise) * (v / (v + sigma.square())).sqrt()
        noisy = torch.addcmul(z, sigma, noise * missing)

        square = (self._estimate(noisy, sigma, given.to(z)) - target).square() * missing
        count = missing.sum(1).clamp_min(1.0)
        errors = square.sum(1) / count
        if self.filling.relative:
            errors = errors * v / (v + (z.square() * missing).sum(1) / count)

        return errors.mean()

    def _estimate(self, z: Tensor, sigma: Tensor, seen: Tensor) -> Tensor:
        """F of z scaled to its variance, which has no noise where it is given."""
        total = self.variances(z) + sigma.square() * (1.0 - seen)
        condition = torch.cat([seen, seen * z / self.spread], 1)

        return self.network(z * total.rsqrt(), 0.25 * sigma[:, 0].log(), condition)
