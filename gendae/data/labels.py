"""Labelled examples of which few keep their label: data for semi-supervised learning."""

import torch
from torch import Tensor

from gendae import checks
from gendae.data.base import Data
from gendae.data.loader import Split
from gendae.data.multimodal import FewLabels
from gendae.registry import build, register


@register
class PartlyLabelled(Data):
    """Training examples without their label but for a few; validation and test are as they were.

    The label of an example without one is -1.

    Args:
        source: the examples, with labels.
        labelled: which of them keep their label, see `FewLabels`.
        classes: number of classes.
        batch_size, seed: see `Data`.

    Raises:
        ValueError: for a number of labels that is no multiple of the classes, or that the data do
            not have; for data without labels.

    Example:
        >>> from gendae.data.images import Digits
        >>> y = PartlyLabelled(Digits(), FewLabels(100)).split("train").y
        >>> len(y), int((y >= 0).sum())
        (1199, 100)
    """

    def __init__(
        self,
        source: Data,
        labelled: FewLabels,
        classes: int = 10,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source: Data = build(source)
        self.kind = self.source.kind
        self.classes = checks.whole("classes", classes, 2)
        self.labelled = checks.kind("labelled", build(labelled), FewLabels)
        self.labelled.check(self.classes)

    def prepare_data(self) -> None:
        """Fetch the examples where they are missing."""
        self.source.prepare_data()

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        shape = self.source.shape
        self._identity = self.source.identity
        splits = {name: self.source.split(name) for name in ("valid", "test")}

        x, y, _ = self.source.split("train")
        if y is None:
            raise ValueError(
                f"the training examples of {type(self.source).__name__} have no labels"
            )

        checks.labels("labels of the training examples", y, len(x), self.classes)
        splits["train"] = self._hide_labels(x, y)
        return splits, shape

    def _hide_labels(self, x: Tensor, y: Tensor) -> Split:
        keep = self.labelled.drawn(y, self.classes)
        few = torch.full_like(y, -1)
        few[keep] = y[keep]

        return Split(x, few)[self.labelled.rows(keep, len(y))]
