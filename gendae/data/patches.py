"""Patches of photographs: the classical data of filters, plain or whitened.

    z = W (x - m),    W = (C + e I)^(-1/2),    x = m + W^(-1) z

with m and C the mean and covariance of the training patches and e a share of the mean variance.
W is symmetric (ZCA): of all matrices that whiten it changes patches least, so that z still looks
like a patch. e > 0 keeps what is noise in a photograph, its finest detail, from being blown up.

Source: Bell and Sejnowski 1997, The "independent components" of natural scenes are edge filters;
Krizhevsky 2009, appendix A.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import SPLITS, Data
from gendae.data.files import IMAGE_SUFFIXES, image_files
from gendae.data.loader import Split
from gendae.data.pictures import COLORS, luma, read_image
from gendae.registry import register

#: Share of the width of a training photograph, at its right, that validation patches come from.
VALID = 0.2


class Whitening(NamedTuple):
    """What whitens patches, and gives them back: the statistics of the training patches.

    Attributes:
        mean: m, (features,).
        matrix: W, (features, features), symmetric.
        inverse: W^(-1).

    Example:
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.rand(3, 3)
        >>> whitening = Whitening.of(x, epsilon=0.0)
        >>> z = whitening(x)
        >>> bool((z.T.cov() - torch.eye(3)).abs().max() < 1e-4)
        True
        >>> bool((whitening.patches(z) - x).abs().max() < 1e-5)
        True
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, x: Tensor, epsilon: float) -> "Whitening":
        """The statistics of training patches, (n, features).

        Args:
            x: the patches.
            epsilon: e, in mean variances of an element.

        Raises:
            ValueError: for patches that do not fill their space, if e is 0.
        """
        values = x.double()
        variances, axes = torch.linalg.eigh(values.T.cov())
        if epsilon == 0 and variances[0] <= 1e-12 * variances[-1]:
            raise ValueError(
                f"epsilon=0.0: the patches vary in fewer than {x.shape[1]} directions; a number "
                "above 0 is needed, or more patches"
            )

        deviations = (variances.clamp_min(0.0) + epsilon * variances.mean()).sqrt()
        matrix = (axes / deviations) @ axes.T
        inverse = (axes * deviations) @ axes.T

        return cls(*(part.to(x.dtype) for part in (values.mean(0), matrix, inverse)))

    def __call__(self, x: Tensor) -> Tensor:
        """Patches, (n, features), whitened: z."""
        return (x - self.mean.to(x)) @ self.matrix.to(x)

    def patches(self, z: Tensor) -> Tensor:
        """The patches that z is made of: x."""
        return self.mean.to(z) + z @ self.inverse.to(z)


@register
class Patches(Data):
    """Square patches of photographs, at random places; those for testing are of other photographs.

    The last photographs, in natural order, are for testing. Validation patches come from the right
    fifth of the others, where no training patch does. The photographs are those of scikit-learn,
    china.jpg for training and flower.jpg for testing, or your own, of any sizes.

    Args:
        path: a folder of photographs, or a list of files; None takes those of scikit-learn.
        size: height and width of a patch, in pixels.
        counts: number of training, validation and test patches.
        epsilon: e of the whitening, see the top of this file; None leaves patches in [0, 1].
        color: "rgb" or "grey" (luma).
        tested: number of photographs for testing.
        batch_size, seed: see `Data`; the seed draws the places.

    Attributes:
        whitening: what whitens these patches and gives them back, a `Whitening`; None if they are
            plain.

    Raises:
        FileNotFoundError: if there is nothing at a path, when they are first read.
        ValueError: then, for fewer photographs than are needed, or smaller ones.

    Example:
        >>> data = Patches(size=8, counts=[500, 50, 50])
        >>> data.shape, data.split("train").x.shape
        ((3, 8, 8), torch.Size([500, 192]))
    """

    decisive = ("size", "epsilon", "color")

    def __init__(
        self,
        path: str | Path | list[str] | None = None,
        size: int = 16,
        counts: Sequence[int] = (20_000, 2_000, 2_000),
        epsilon: float | None = None,
        color: str = "rgb",
        tested: int = 1,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path = str(path) if isinstance(path, Path) else path
        self.size = checks.whole("size", size, 1)
        self.counts = checks.wholes("counts", counts, 1)
        if len(self.counts) != len(SPLITS):
            raise ValueError(
                f"counts={self.counts}: a number of training, validation and test patches is "
                "needed, three"
            )

        self.epsilon = None if epsilon is None else checks.at_least("epsilon", epsilon, 0.0)
        self.color = checks.one_of("color", color, COLORS)
        self.tested = checks.whole("tested", tested, 1)
        self._whitening: Whitening | None = None

        self.kind = "image" if self.epsilon is None else "whitened"

    @property
    def whitening(self) -> Whitening | None:
        """See above."""
        self.setup()
        return self._whitening

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        photographs = self._photographs()
        generator = Generator().manual_seed(self.seed)
        parts = {}
        for (name, areas), count in zip(
            self._areas(photographs).items(), self.counts, strict=True
        ):
            parts[name] = drawn(areas, count, self.size, generator)

        if self.epsilon is not None:
            self._whitening = Whitening.of(parts["train"], self.epsilon)
            parts = {name: self._whitening(x) for name, x in parts.items()}

        channels = checks.RGB if self.color == "rgb" else 1
        shape = checks.ImageShape(channels, self.size, self.size)

        return {name: Split(x) for name, x in parts.items()}, shape.plain

    def _photographs(self) -> dict[str, Tensor]:
        """Photographs by name, (channels, height, width)."""
        if self.path is None:
            return {name: self._channels(pixels / 255.0) for name, pixels in bundled().items()}

        files = photograph_files(self.path)
        photographs = {str(file): self._channels(read_image(file, "rgb")) for file in files}
        self.identify(files[0].parent, **photographs)

        return photographs

    def _channels(self, pixels: np.ndarray) -> Tensor:
        """Pixels, (height, width, 3), as (channels, height, width)."""
        kept = pixels if self.color == "rgb" else luma(pixels)[..., None]
        return torch.from_numpy(np.moveaxis(kept, 2, 0).astype(np.float32))

    def _areas(self, photographs: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """What the patches of each split come from: no pixel of one is in another."""
        if len(photographs) <= self.tested:
            raise ValueError(
                f"tested={self.tested}: there are {len(photographs)} photographs "
                f"({', '.join(photographs)}); one more at least is needed for training"
            )

        areas: dict[str, list[Tensor]] = {name: [] for name in SPLITS}
        for number, (name, pixels) in enumerate(photographs.items()):
            of_testing = number >= len(photographs) - self.tested
            self._check_size(name, pixels, of_testing)
            if of_testing:
                areas["test"].append(pixels)
                continue

            width = pixels.shape[2]
            strip = max(self.size, round(VALID * width))
            areas["train"].append(pixels[:, :, : width - strip])
            areas["valid"].append(pixels[:, :, width - strip :])

        return areas

    def _check_size(self, name: str, pixels: Tensor, of_testing: bool) -> None:
        """Raise a ValueError for a photograph that is too small."""
        _, height, width = pixels.shape
        least = self.size if of_testing else 2 * self.size
        if height < self.size or width < least:
            raise ValueError(
                f"size={self.size}: {name} has {height} x {width} pixels; {self.size} x {least} "
                "at least are needed"
            )


def drawn(areas: Sequence[Tensor], count: int, size: int, generator: Generator) -> Tensor:
    """Patches of a size, (count, channels * size * size), at places drawn from all of the areas.

    Every place has the same chance.

    Args:
        areas: (channels, height, width) each.
        count: how many.
        size: height and width, in pixels.
        generator: draws the places.
    """
    windows = [area.unfold(1, size, 1).unfold(2, size, 1) for area in areas]
    sizes = torch.tensor([window[0, ..., 0, 0].numel() for window in windows])
    ends = sizes.cumsum(0)
    places = torch.randint(int(ends[-1]), (count,), generator=generator)
    numbers = torch.bucketize(places, ends, right=True)

    patches = torch.empty(count, windows[0].shape[0], size, size)
    for number, window in enumerate(windows):
        mine = numbers == number
        place = places[mine] - (ends[number] - sizes[number])
        columns = window.shape[2]
        patches[mine] = window[:, place // columns, place % columns].transpose(0, 1)

    return patches.flatten(1)


def bundled() -> dict[str, np.ndarray]:
    """The photographs of scikit-learn, (427, 640, 3) bytes each, by name."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    names = [Path(name).name for name in bunch.filenames]

    return dict(sorted(zip(names, bunch.images, strict=True)))


def photograph_files(path: str | list[str]) -> list[Path]:
    """The files of photographs that a user names, in natural order if they are a folder's.

    Raises:
        FileNotFoundError: if there is nothing at a path.
        ValueError: for a folder without images, and an empty list.
    """
    if path == []:
        raise ValueError("path=[]: a folder of photographs, or files, are needed")
    if isinstance(path, list):
        return [checks.path("path", file) for file in path]

    folder = checks.path("path", path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")

    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return files
