"""Data of several modalities: x holds them side by side; a mask tells which are observed.

The mask, `observed`, (n, N), is True where an example has a modality; what is missing is 0 in x.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.data.base import SPLITS, Data, shuffled_splits, source_of
from gendae.data.files import channels_first, is_coloured, read_modality
from gendae.data.loader import Split
from gendae.data.pictures import LUMA_REAL
from gendae.registry import Plain, build, register

#: Class indices of `Arrays` are below this: each class is a column.
CLASSES = 100_000
PARTS = ("image", "label", "top", "bottom", "left", "right", "edges")
#: Arguments of `FewLabels` by the names that version 0.1 gave them among those of `Multimodal`.
FORMER = {"label_seed": "seed", "share": "share", "only_labelled": "only"}


def edge_map(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Magnitude of the Sobel gradient of images, of their luma in colour, in [0, 1], (n, pixels).

    Args:
        x: images in [0, 1], (n, features).
        shape: of an image, see `checks.ImageShape`.

    Example:
        >>> step = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(1, 4)         # a vertical edge
        >>> edge_map(step, (4, 4))[0, 4:8]
        tensor([0., 1., 1., 0.])
    """
    smooth = x.new_tensor([1.0, 2.0, 1.0])
    slope = x.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None] / 4.0

    images = checks.ImageShape.of(shape).images(x)
    if images.shape[1] == checks.RGB:
        images = torch.einsum("ncij,c->nij", images, x.new_tensor(LUMA_REAL)).unsqueeze(1)

    images = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(images, kernels).norm(dim=1).clamp(max=1.0).flatten(1)


def part_of(
    name: str, x: Tensor, y: Tensor | None, shape: tuple[int, ...], classes: int
) -> Tensor:
    """One modality of labelled images.

    It is a half of the image, its edge map, its label as a one-hot row, or the whole image.
    """
    if name == "label":
        if y is None:
            raise ValueError(
                "parts contains 'label', but the images have no labels; use a data set with "
                "labels, or Images with labels=FILE"
            )
        return F.one_hot(y, classes).to(x.dtype)
    if name == "edges":
        return edge_map(x, shape)

    frame = checks.ImageShape.of(shape)
    images = frame.images(x)
    _, height, width = frame
    halves = {
        "top": images[..., : height // 2, :],
        "bottom": images[..., height // 2 :, :],
        "left": images[..., : width // 2],
        "right": images[..., width // 2 :],
    }
    if name in halves:
        return halves[name].flatten(1)
    return x


def _part_shape(name: str, shape: tuple[int, ...]) -> list[int]:
    """The shape of a part of an image of this shape."""
    frame = checks.ImageShape.of(shape)
    _, height, width = frame
    parts = {
        "top": frame._replace(height=height // 2),
        "bottom": frame._replace(height=height - height // 2),
        "left": frame._replace(width=width // 2),
        "right": frame._replace(width=width - width // 2),
        "edges": frame._replace(channels=1),
    }
    return list(parts.get(name, frame).plain)


@register
@dataclass(frozen=True)
class FewLabels:
    """Which training images keep their label: few, equally many of each class.

    Args:
        count: number of images whose label is observed, a multiple of the number of classes.
        share: of the training batches' rows that are labelled, on average, by repeating labelled
            images; None leaves them as rare as they are.
        seed: draws which images keep their label.
        only: leave the other training images out, whatever the share: the supervised baseline.

    Raises:
        ValueError: for count < 1 and shares outside (0, 1).
    """

    count: int
    share: float | None = None
    seed: int = 0
    only: bool = False

    def __post_init__(self) -> None:
        checks.whole("count", self.count, 1)
        checks.whole("seed", self.seed, 0, checks.MOST_SEED)
        if self.share is not None and not 0.0 < self.share < 1.0:
            raise ValueError(f"share={self.share}: a number between 0 and 1 is needed")

    def check(self, classes: int) -> None:
        """Raise a ValueError unless there can be as many labels of each class."""
        if self.count % classes:
            raise ValueError(
                f"count={self.count}: a multiple of {classes} is needed, as many labels of each "
                "class"
            )

    def drawn(self, y: Tensor, classes: int) -> Tensor:
        """Indices of the images that keep their label, (count,), drawn by the seed."""
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.seed))
        classes_in_order = y[order]

        each = self.count // classes
        drawn = [order[classes_in_order == c][:each] for c in range(classes)]
        for c, indices in enumerate(drawn):
            if len(indices) < each:
                raise ValueError(
                    f"count={self.count}: class {c} has only {len(indices)} training images"
                )
        return torch.cat(drawn)

    def rows(self, keep: Tensor, n: int) -> Tensor:
        """Indices of the training rows: of n images, those to keep may come several times.

        Copies come after the distinct images.
        """
        if self.only:
            repeats = math.ceil(n / len(keep))
            return keep.repeat(repeats)[:n]  # epochs of the same length
        if self.share is None:
            return torch.arange(n)

        rest = torch.ones(n, dtype=torch.bool)
        rest[keep] = False
        odds = self.share / (1.0 - self.share)
        copies = round(odds * (n - len(keep)) / len(keep))
        return torch.cat([rest.nonzero().flatten(), keep.repeat(max(1, copies))])


class MultimodalData(Data):
    """Base class: a variant also defines `modalities` and `shapes`."""

    @property
    def modalities(self) -> dict[str, int]:
        """Width of each modality by name, in the order of their slices of x."""
        raise NotImplementedError(f"{type(self).__name__} must define modalities")

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Height and width of the modalities that are images."""
        return {}


@register
class Multimodal(MultimodalData):
    """Parts of labelled images as modalities.

    Examples are image and label, top and bottom half, image and edge map.

    Args:
        source: the images.
        parts: names of the modalities, among image, label, top, bottom, left, right, edges.
        classes: number of classes of the labels.
        labelled: which training images have their label observed, see `FewLabels`; None for all.
        batch_size, seed: see `Data`.

    Raises:
        ValueError: for unknown or repeated parts, and a number of labels that is no multiple of
            the classes or that the data do not have.

    Example:
        >>> from gendae.data.images import Digits
        >>> data = Multimodal(Digits(), ["image", "label"], labelled=FewLabels(100))
        >>> train = data.split("train")
        >>> train.x.shape, train.observed.sum(0)
        (torch.Size([1199, 74]), tensor([1199,  100]))
    """

    decisive = ("parts", "classes")

    def __init__(
        self,
        source: Data,
        parts: list[str],
        classes: int = 10,
        labelled: FewLabels | None = None,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(source, type(self).__name__)
        self.parts = checks.several("parts", parts)
        for name in self.parts:
            checks.one_of("parts", name, PARTS)
        if len(set(self.parts)) < len(self.parts) or not self.parts:
            raise ValueError(f"parts={self.parts}: one or several different names are needed")

        self.classes = checks.whole("classes", classes, 2)
        self.labelled: FewLabels | None = build(labelled)
        self.distinct: int | None = None
        if self.labelled is not None:
            self._check_labelled()

    @classmethod
    def upgrade(cls, arguments: dict[str, Plain]) -> dict[str, Plain]:
        """Version 0.1 took the arguments of `FewLabels` itself, with `labelled` for the count."""
        options = {new: arguments.pop(old) for old, new in FORMER.items() if old in arguments}
        if isinstance(arguments.get("labelled"), int):
            arguments["labelled"] = {
                "type": "FewLabels",
                "count": arguments["labelled"],
                **options,
            }
        return arguments

    def _check_labelled(self) -> None:
        """Raise a ValueError unless few labels can be observed as asked for."""
        if not isinstance(self.labelled, FewLabels):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"labelled={self.labelled!r}: FewLabels or None is needed"
            )

        self.labelled.check(self.classes)
        if "label" not in self.parts:
            raise ValueError(f"{self.labelled} needs a part 'label'; parts={self.parts}")
        if self.parts == ["label"]:
            raise ValueError(
                f"{self.labelled}: images without a label have no other part; name one beside "
                "'label'"
            )

    def prepare_data(self) -> None:
        """Fetch the images where they are missing."""
        self.source.prepare_data()

    def facts(self) -> dict[str, Plain]:
        """Those of the images, such as names of their classes."""
        return self.source.facts()

    @property
    def modalities(self) -> dict[str, int]:
        """Width of each modality by name."""
        shape = self.source.shape
        widths = {name: math.prod(_part_shape(name, shape)) for name in self.parts}
        if "label" in widths:
            widths["label"] = self.classes
        return widths

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape of each modality but the label, see `checks.ImageShape`."""
        shape = self.source.shape
        return {name: _part_shape(name, shape) for name in self.parts if name != "label"}

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        shape = self.source.shape
        self._identity = self.source.identity
        splits = {}
        for name in SPLITS:
            x, y, _ = self.source.split(name)
            if "label" in self.parts and y is not None:
                checks.labels(f"labels of the {name} images", y, len(x), self.classes)

            parts = [part_of(part, x, y, shape, self.classes) for part in self.parts]
            observed = torch.ones(len(x), len(self.parts), dtype=torch.bool)
            split = Split(torch.cat(parts, 1), observed=observed)
            if name == "train" and self.labelled is not None:
                split = self._hide_labels(split, y)
            splits[name] = split

        return splits, shape

    def _hide_labels(self, split: Split, y: Tensor) -> Split:
        """Training data with few labels, with copies of labelled images where they are asked for.

        Copies come after the `distinct` rows.
        """
        keep = self.labelled.drawn(y, self.classes)
        rows = self.labelled.rows(keep, len(y))
        self.distinct = len(rows.unique())

        return self._without_labels(split, keep)[rows]

    def _without_labels(self, split: Split, keep: Tensor) -> Split:
        """A split in which all labels but those to keep are 0 and not observed."""
        label = self.parts.index("label")
        observed = split.observed.clone()
        observed[:, label] = False
        observed[keep, label] = True

        widths = list(self.modalities.values())
        start = sum(widths[:label])
        end = start + widths[label]
        x = split.x.clone()
        x[:, start:end] *= observed[:, label : label + 1]
        return Split(x, observed=observed)


@register
class Arrays(MultimodalData):
    """Your own modalities, each in a file with one row for each example.

    Args:
        files: .npy of each modality by name: numbers, (n, ..); integers of shape (n,) are class
            labels. A row of NaN, or the label -1, is missing.
        valid_fraction, test_fraction: shares of the examples kept out of training.
        batch_size, seed: see `Data`; the seed draws the split.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for other kinds of file, different numbers of rows, infinite numbers, rows that
            are partly NaN, and examples without any modality.
    """

    def __init__(
        self,
        files: dict[str, str],
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if not checks.named("files", files):
            raise ValueError(
                "files is empty: at least one modality is needed, as {name: FILE.npy}"
            )

        self.files = {name: str(path) for name, path in files.items()}
        self.valid_fraction, self.test_fraction = checks.fractions(
            valid_fraction=valid_fraction, test_fraction=test_fraction
        )
        self._arrays: dict[str, np.ndarray] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the files, read once."""
        if self._arrays is not None:
            return self._arrays

        arrays = {name: channels_first(read_modality(path)) for name, path in self.files.items()}
        for name, array in arrays.items():
            if array.ndim == 1:
                _check_classes(self.files[name], array)

        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the files hold different numbers of examples: {lengths}")

        self._arrays = arrays
        return arrays

    @property
    def modalities(self) -> dict[str, int]:
        """Width of each modality by name; for labels, the number of classes."""
        return {name: _width(array) for name, array in self.arrays().items()}

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of modalities stored as (n, height, width), or with three channels."""
        return {
            name: list(array.shape[1:])
            for name, array in self.arrays().items()
            if array.ndim == 3 or is_coloured(array.shape)
        }

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        parts = []
        masks = []
        for name, width in self.modalities.items():
            x, present = rows_of(name, self.arrays()[name], width)
            parts.append(x)
            masks.append(present)

        observed = torch.stack(masks, 1)
        empty = ~observed.any(1)
        if bool(empty.any()):
            raise ValueError(f"{int(empty.sum())} examples have no modality at all")

        x = torch.cat(parts, 1)
        self.identify(", ".join(self.files.values()), x=x, observed=observed)
        fractions = (self.valid_fraction, self.test_fraction)
        splits = shuffled_splits(x, None, fractions, self.seed, observed)
        return splits, (1, x.shape[1])


def _check_classes(path: str, labels: np.ndarray) -> None:
    """Raise a ValueError unless an array of shape (n,) holds class indices."""
    if labels.dtype.kind not in "iu" or labels.max() < 1:
        raise ValueError(
            f"{path}: numbers of shape (n, features), or class indices (n,) of at least two "
            "classes in an integer type are needed"
        )
    if labels.max() >= CLASSES:
        raise ValueError(
            f"{path} holds the label {labels.max()}; class indices below {CLASSES:,} are needed"
        )


def _width(array: np.ndarray) -> int:
    """Columns of a modality: one for each class, or for each number of an example."""
    if array.ndim == 1:
        return int(array.max()) + 1
    return array[0].size


def rows_of(name: str, array: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
    """Rows of a modality in single precision, 0 where missing, and a mask of those present."""
    if array.ndim == 1:
        y = torch.from_numpy(array.astype(np.int64))
        if int(y.min()) < -1:
            raise ValueError(
                f"{name} holds the label {int(y.min())}; class indices are >= 0, and -1 is missing"
            )

        present = y >= 0
        return F.one_hot(y.clamp_min(0), width).float() * present[:, None], present

    x = torch.from_numpy(array.reshape(len(array), -1).astype(np.float32))
    nan = torch.isnan(x)
    missing = nan.any(1)
    partly = missing & ~nan.all(1)
    if bool(partly.any()):
        raise ValueError(f"{name} holds rows that are partly NaN; a missing row is NaN throughout")

    return checks.finite(name, x.masked_fill(nan, 0.0)), ~missing
