"""Images of bits, drawn once: x' ~ Bernoulli(x), the grey value of a pixel as its probability.

A law of bits gives bits a probability, and grey values none. Drawn once, by a stated seed, they
are one test for all models; drawn anew in each epoch they would be another one.

Source: Salakhutdinov and Murray 2008 (pixels as probabilities). The file that published numbers on
"binarised MNIST" are measured on (Larochelle and Murray 2011) is another draw, and comes with no
package: numbers here are of the same law of bits, and not of the same bits.
"""

import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import SPLITS, Data, source_of
from gendae.data.images import MNIST
from gendae.data.loader import Split
from gendae.registry import Plain, register


@register
class Binarised(Data):
    """Images of a source as bits, drawn once for all epochs and splits.

    x'_i = 1 if u_i < x_i, else 0, with u ~ U[0, 1) from one generator: for the training images
    first, then those of validation and of the test. Black and white stay what they are.
    Source: Salakhutdinov and Murray 2008.

    Args:
        source: images in [0, 1]; MNIST if None.
        draw: the seed of the bits.
        batch_size, seed: see `Data`; this seed is of the order of batches alone.

    Raises:
        ValueError: for a seed below 0; for `Augmented` images, since bits that are drawn once have
            none that vary (put Augmented around the bits); for a source of anything but images,
            when it is read.

    Example:
        >>> from gendae import Digits
        >>> data = Binarised(Digits(), draw=0)
        >>> data.split("test").x.unique(), data.shape
        (tensor([0., 1.]), (8, 8))
    """

    kind = "image"
    decisive = ("draw",)

    def __init__(
        self, source: Data | None = None, draw: int = 0, batch_size: int = 100, seed: int = 0
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(MNIST() if source is None else source, type(self).__name__)
        self.draw = checks.whole("draw", draw, 0, checks.MOST_SEED)

    def prepare_data(self) -> None:
        """Fetch the images where they are missing."""
        self.source.prepare_data()

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        shape = self.source.shape
        self._identity = self.source.identity
        if self.source.kind != "image":
            raise ValueError(
                f"source={type(self.source).__name__}: x holds other things than pixels in [0, 1],"
                " which are probabilities of bits"
            )

        generator = torch.Generator().manual_seed(self.draw)
        splits = {}
        for name in SPLITS:
            grey = self.source.split(name)
            splits[name] = Split(bits_of(grey.x, generator), grey.y, grey.observed)

        return splits, shape

    def facts(self) -> dict[str, Plain]:
        """Those of the source, such as names of the classes."""
        return self.source.facts()

    def remark(self) -> str | None:
        """That of the source."""
        return self.source.remark()


def bits_of(x: Tensor, generator: Generator) -> Tensor:
    """Bits with these probabilities, of the same shape and type.

    Example:
        >>> bits_of(torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
        tensor([0., 1.])
    """
    uniform = torch.rand(x.shape, generator=generator, dtype=torch.float32)
    return (uniform < x.cpu()).to(x)
