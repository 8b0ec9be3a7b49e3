"""What every data module does: one tensor per split, on the device, minibatches by index."""

from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gendae import checks
from gendae.data.loader import Split, TensorLoader
from gendae.registry import REGISTRY, Plain, describe

SPLITS = ("train", "valid", "test")


class ImageData(LightningDataModule):
    """Base class: a variant defines `read`, which returns the three splits and the image shape.

    Args:
        batch_size: images per update and process.
        seed: of the order of training batches, and of the split where it is drawn.
    """

    EVAL_BATCH = 1000

    def __init__(self, batch_size: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = checks.whole("batch_size", batch_size, 1)
        self.seed = checks.whole("seed", seed, 0)

        self._splits: dict[str, Split] | None = None
        self._shape: tuple[int, int] = (0, 0)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        """Splits by name, and the height and width of an image."""
        raise NotImplementedError(f"{type(self).__name__} must define read")

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data once."""
        if self._splits is not None:
            return

        self._splits, self._shape = self.read()
        for name, split in self._splits.items():
            self.check(f"{type(self).__name__} {name} images", split.x)

    def check(self, name: str, x: Tensor) -> None:
        """Raise a ValueError unless all values are finite, and pixels in [0, 1]."""
        checks.pixels(name, x)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        self.setup()
        return self._shape

    def split(self, name: str) -> Split:
        """The split of this name: train, valid or test."""
        checks.one_of("split", name, SPLITS)
        self.setup()
        return self._splits[name]

    def rows(self, name: str) -> Split:
        """The examples that the batches of a split are made of."""
        return self.split(name)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> TensorLoader:
        x, y = self.rows(name)
        device = torch.device("cpu")
        share = {}
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            share = {
                "rank": self.trainer.global_rank,
                "ranks": self.trainer.world_size,
                "passes": getattr(self.trainer.lightning_module, "passes", 1),
            }

        x = x.to(device)
        if y is not None:
            y = y.to(device)
        return TensorLoader(Split(x, y), batch_size, shuffle, self.seed, **share)

    def train_dataloader(self) -> TensorLoader:
        """Shuffled batches of the training split."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        """The validation split in order."""
        return self._loader("valid", self.EVAL_BATCH)

    def test_dataloader(self) -> TensorLoader:
        """The test split in order."""
        return self._loader("test", self.EVAL_BATCH)


def shuffled_splits(
    x: Tensor, y: Tensor | None, fractions: tuple[float, float], seed: int
) -> dict:
    """Train, valid and test in a seeded random order; `fractions` are those of valid and test."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n_valid, n_test = (int(len(x) * f) for f in fractions)
    first_training = n_test + n_valid

    images = Split(x, y)
    return {
        "train": images[order[first_training:]],
        "valid": images[order[n_test:first_training]],
        "test": images[order[:n_test]],
    }


def portable(data: dict[str, Any]) -> dict[str, Any]:
    """A described data set without the folders of this machine."""
    kept = {key: value for key, value in data.items() if key != "root"}
    for key, value in kept.items():
        if isinstance(value, dict):
            kept[key] = portable(value)
    return kept


def facts_of(data: Any) -> dict[str, Plain]:  # noqa: ANN401 - any data module, or None
    """What a trained model remembers of a registered data set."""
    if data is None or REGISTRY.get(type(data).__name__) is not type(data):
        return {}

    facts = {"dataset": portable(describe(data)), "shape": list(data.shape)}
    if hasattr(data, "shapes"):
        facts["shapes"] = data.shapes
    return facts
