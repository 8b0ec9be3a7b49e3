"""What every data set does: one tensor per split, on the device, minibatches by index."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gendae import checks
from gendae.data.identity import Identity
from gendae.data.loader import Split, TensorLoader, Variation
from gendae.registry import REGISTRY, Plain, build, describe
from gendae.storage.model_file import digest

SPLITS = ("train", "valid", "test")


class Kind(NamedTuple):
    """What the examples of a data set are called, and what they must be."""

    noun: str
    check: Callable[[str, Tensor], Tensor]


def _points(name: str, x: Tensor) -> Tensor:
    """`x` if it holds points in the plane."""
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(
            f"{name} have shape {tuple(x.shape)}; points in the plane, (n, 2), are needed"
        )
    return _numbers(name, x)


def _numbers(name: str, x: Tensor) -> Tensor:
    """`x` if it holds finite numbers."""
    if x.numel() == 0:
        raise ValueError(f"{name} are none (shape {tuple(x.shape)}); one at least is needed")
    return checks.finite(name, x)


KINDS = {
    "image": Kind("images", checks.pixels),
    "points": Kind("points", _points),
    "vector": Kind("examples", _numbers),
    "sequence": Kind("sequences", _numbers),
    "whitened": Kind("images", _numbers),
}


class Data(LightningDataModule):
    """Base class of data sets: a variant defines `read`, which returns its splits and a shape.

    Nothing is read before `prepare_data`, `setup` or the first use. A registered variant (see
    `gendae.register`) travels in the files of the models that it trains.

    Args:
        batch_size: examples per update and process.
        seed: of the order of training batches, and of the split where it is drawn.

    Attributes:
        kind: what an example is, which decides what is checked and how samples are drawn.
            "image": pixels in [0, 1], `shape` is (height, width) or (3, height, width), see
            `checks.ImageShape`. "whitened": images of finite numbers around 0. "points": finite
            coordinates in the plane, shape (1, 2). "vector": finite numbers, shape (1, features).
            "sequence": finite numbers of T steps, one after the other, shape (T, numbers of a
            step).
        decisive: names of the arguments that decide what an example is, beside files, such as the
            seed of drawn bits: a training goes on with the same ones only. How many examples there
            are, their order and their split are others.

    Raises:
        ValueError: when they are first read, for data that are not what their kind promises.

    Example:
        >>> import gendae
        >>> class Walks(gendae.Data):
        ...     kind = "vector"
        ...     def read(self):
        ...         x = torch.randn(500, 8).cumsum(1)
        ...         return shuffled_splits(x, None, (0.1, 0.1), self.seed), (1, 8)
        >>> data = Walks(batch_size=50)
        >>> next(iter(data.train_dataloader())).x.shape, data.split("valid").x.shape
        (torch.Size([50, 8]), torch.Size([50, 8]))
    """

    EVAL_BATCH = 1000

    kind = "vector"

    decisive: ClassVar[tuple[str, ...]] = ()

    def __init__(self, batch_size: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = checks.whole("batch_size", batch_size, 1)
        self.seed = checks.whole("seed", seed, 0, checks.MOST_SEED)

        self._splits: dict[str, Split] | None = None
        self._shape: tuple[int, ...] = (0, 0)
        self._identity: Identity | None = None

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        """Splits by name, and the shape of an example."""
        raise NotImplementedError(f"{type(self).__name__} must define read")

    def identify(self, place: object, **arrays: Tensor | None) -> None:
        """Note which arrays were read, so that a model of them is known to be one.

        `read` calls it before the splits are drawn, where the arrays come from files. Data that
        follow from the constructor's arguments need none.

        Args:
            place: file or folder.
            arrays: what was read, by name; None is passed over.
        """
        present = {name: array for name, array in arrays.items() if array is not None}
        self._identity = Identity(digest(present), str(place))

    @property
    def identity(self) -> Identity | None:
        """Place and SHA-256 of what was read from files; None if nothing was."""
        self.setup()
        return self._identity

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data once."""
        if self._splits is not None:
            return

        splits, shape = self.read()
        noun = KINDS[checks.one_of("kind", self.kind, KINDS)].noun
        for name, split in splits.items():
            self.check(f"{type(self).__name__} {name} {noun}", split.x)

        self._splits = splits
        self._shape = shape

    def check(self, name: str, x: Tensor) -> None:
        """Raise a ValueError unless x holds examples of this kind."""
        KINDS[self.kind].check(name, x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, see `checks.ImageShape`; T and width of a sequence; or (1, features)."""
        self.setup()
        return self._shape

    def facts(self) -> dict[str, Plain]:
        """What a model of these data remembers beside their description, such as their units."""
        return {}

    def remark(self) -> str | None:
        """What is to be said of the data before a model learns them; None without a reason."""
        return None

    def split(self, name: str) -> Split:
        """The split of this name: train, valid or test."""
        checks.one_of("split", name, SPLITS)
        self.setup()
        assert self._splits is not None  # `setup` has read them
        return self._splits[name]

    def rows(self, name: str) -> Split:
        """The examples that the batches of a split are made of."""
        return self.split(name)

    def variation(self) -> Variation | None:
        """How training batches are varied; None leaves them as they are."""
        return None

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> TensorLoader:
        device = torch.device("cpu")
        share: dict[str, int] = {}
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            share = {
                "rank": self.trainer.global_rank,
                "ranks": self.trainer.world_size,
                "passes": getattr(self.trainer.lightning_module, "passes", 1),
            }

        rows = self.rows(name).map(lambda part: part.to(device))
        variation = self.variation() if shuffle else None
        return TensorLoader(rows, batch_size, shuffle, self.seed, variation=variation, **share)

    def train_dataloader(self) -> TensorLoader:
        """Shuffled batches of the training split."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        """The validation split in order."""
        return self._loader("valid", self.EVAL_BATCH)

    def test_dataloader(self) -> TensorLoader:
        """The test split in order."""
        return self._loader("test", self.EVAL_BATCH)


def source_of(source: object, user: str) -> "Data":
    """A data set that another one is made of, from itself or its description.

    Raises:
        ValueError: for one whose training batches vary, which `user` would not keep.
    """
    data = checks.kind("source", build(source), Data)
    if type(data).variation is not Data.variation:
        kind = type(data).__name__
        raise ValueError(f"source={kind}: {user} does not vary batches; put {kind} around it")

    return data


def shuffled_splits(
    x: Tensor,
    y: Tensor | None,
    fractions: tuple[float, float],
    seed: int,
    observed: Tensor | None = None,
) -> dict[str, Split]:
    """Train, valid and test in a seeded random order; `fractions` are those of valid and test.

    Of few examples, a fraction above 0 keeps one.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n_valid, n_test = (counted(len(x), f) for f in fractions)
    first_training = n_test + n_valid

    examples = Split(x, y, observed)
    return {
        "train": examples.rows(order[first_training:]),
        "valid": examples.rows(order[n_test:first_training]),
        "test": examples.rows(order[:n_test]),
    }


def counted(n: int, fraction: float) -> int:
    """How many of n examples a fraction is: one at least, unless it is 0.

    Example:
        >>> counted(50, 0.1), counted(5, 0.1), counted(5, 0.0)
        (5, 1, 0)
    """
    return max(int(n * fraction), int(fraction > 0))


def portable(data: dict[str, Any]) -> dict[str, Any]:
    """A described data set without the folders of this machine."""
    kept = {key: value for key, value in data.items() if key != "root"}
    for key, value in kept.items():
        if isinstance(value, dict):
            kept[key] = portable(value)
    return kept


def facts_of(data: Any) -> dict[str, Plain]:  # noqa: ANN401 - any data module, or None
    """What a trained model remembers of a data set; a registered one can be built again."""
    if not isinstance(data, Data):
        return {}

    facts: dict[str, Plain] = {"kind": data.kind, "shape": list(data.shape), **data.facts()}
    if hasattr(data, "shapes"):
        facts["shapes"] = data.shapes
    if REGISTRY.get(type(data).__name__) is type(data):
        facts = {"dataset": portable(describe(data)), **facts}
    if data.identity is not None:
        facts["data"] = data.identity.fact()
    return facts
