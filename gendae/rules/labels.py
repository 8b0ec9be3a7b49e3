"""What rules that learn labels share: labels are checked before they reach the losses."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from gendae import checks
from gendae.data.loader import Split
from gendae.rules.base import Rule


class LabelRule(Rule):
    """Base class of the rules of a stack with `classes`: batches are (x, y), y class indices."""

    #: Whether an example may lack its label, which is -1.
    unlabelled: ClassVar[bool] = False

    def check_labels(self, name: str, y: Tensor, n: int, look: bool = True) -> Tensor:
        """y as the losses take it, checked.

        Args:
            name: of y, for messages.
            y: class indices, (n,).
            n: number of examples.
            look: whether to look at the indices, which synchronises with the device.
        """
        return checks.labels(name, y, n, self.stack.classes if look else None, self.unlabelled)

    def labelled(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """x and its labels, checked where that costs no synchronisation."""
        x, y, _ = Split.of(batch)
        if y is None:
            raise ValueError(
                f"the batch has no labels; {type(self).__name__} learns from (x, y), y of an "
                "integer type (torch.bool marks modalities): use a data set with labels, or "
                "Images with labels=FILE"
            )

        checks.rows("x", checks.width("x", x, self.stack.sizes[0]))

        # a Trainer's batches are checked by `check_data` and `on_before_batch_transfer`
        return x, self.check_labels("y", y, len(x), look=self._trainer is None)

    def check_data(self, data: object) -> None:
        """Raise a ValueError unless both splits have images and labels that fit the stack."""
        if not hasattr(data, "split"):
            return

        for name in ("train", "valid"):
            x, y, _ = data.split(name)
            if y is None:
                raise ValueError(
                    f"{type(data).__name__} has no labels; {type(self).__name__} learns from "
                    "(x, y): use a data set with labels, or Images with labels=FILE"
                )
            checks.width(f"{type(data).__name__} {name} images", x, self.stack.sizes[0])
            self.check_labels(f"labels of the {name} images", y, len(x))

    def on_train_start(self) -> None:
        """Check the data once, before the first update."""
        super().on_train_start()
        self.check_data(getattr(self.trainer, "datamodule", None))

    def on_before_batch_transfer(
        self, batch: Sequence[Tensor], dataloader_idx: int
    ) -> Sequence[Tensor]:
        """Check labels while they are on the CPU: a device would only notice bad ones by dying."""
        x, y, _ = Split.of(batch)
        if y is not None and y.device.type == "cpu":
            self.check_labels("y", y, len(x))

        return batch
