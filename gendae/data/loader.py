"""Minibatches by index: the order of a training epoch is a function of (seed, epoch) alone.

Minibatches are rows of a tensor, or of anything that is indexed like one (`shards.Rows`,
arrays on disk).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from gendae import checks

#: What random numbers of an epoch are for.
ORDER = 0
VARIATION = 2**62


class Split(NamedTuple):
    """Examples in rows, those of a data set's split or of a batch, and what is known of each.

    Args:
        x: the examples, (n, features).
        y: their class labels, (n,); of sequences also labels of each step, (n, T), -1 where there
            is none, or numbers of a floating type, (n,) or (n, k). None if they have none.
        observed: which of N modalities each example has, (n, N) boolean; None if it has all.

    Example:
        >>> split = Split(torch.rand(5, 3), y=torch.arange(5))
        >>> split[1:3].y, split[1:3].observed
        (tensor([1, 2]), None)
    """

    x: Tensor
    y: Tensor | None = None
    observed: Tensor | None = None

    @classmethod
    def of(cls, batch: Sequence[Tensor]) -> "Split":
        """A batch of any loader: (x,), (x, y) or (x, observed), whose observed is boolean.

        Raises:
            ValueError: for dictionaries, bare tensors and other things, and for more labels or
                masks than one.
        """
        if isinstance(batch, cls):
            return batch

        x, *others = checks.batch(batch)
        others = [part for part in others if part is not None]
        masks = [part for part in others if part.dtype == torch.bool]
        labels = [part for part in others if part.dtype != torch.bool]
        if x is None or len(masks) > 1 or len(labels) > 1:
            raise ValueError(
                f"batch has {len(batch)} parts; x, labels y and a boolean mask, one each, are "
                "accepted: give the loader a collate_fn that leaves the others out"
            )

        return cls(x, next(iter(labels), None), next(iter(masks), None))

    # a slice of a tuple is a tuple, but a slice of a Split is a Split
    def __getitem__(  # type: ignore[override]
        self, index: int | slice | Tensor
    ) -> "Split | Tensor | None":
        """Some of the rows; by a number, x, y or observed."""
        if isinstance(index, int):
            return tuple.__getitem__(self, index)

        return self.rows(index)

    def rows(self, index: slice | Tensor) -> "Split":
        """Some of the rows, under a name by which type checkers see no tuple's item."""
        return self.map(lambda part: part[index])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Split":
        """What a function makes of each part; absent parts stay absent."""
        x = function(self.x)
        y, observed = (
            None if part is None else function(part) for part in (self.y, self.observed)
        )

        return Split(x, y, observed)


def joined(splits: Sequence[Split]) -> Split:
    """The rows of several splits with the same parts, in order."""
    x, y, observed = (_joined(column) for column in zip(*splits, strict=True))

    return Split(cast(Tensor, x), y, observed)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """One part of several splits, which all have it, or none of them does."""
    if parts[0] is None:
        return None

    return torch.cat(cast(tuple[Tensor, ...], parts))


class Variation(Protocol):
    """How the examples of a training batch are varied, by numbers drawn for each."""

    def draws(self, n: int, generator: torch.Generator) -> Tensor:
        """What is drawn for n examples, (n, ..)."""

    def __call__(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Examples, (batch, features), varied by their draws, (batch, ..)."""


class TensorLoader:
    """Minibatches of tensors by index; the order depends on (seed, epoch) and can be resumed.

    Args:
        split: the examples; batches are splits too, with the same parts.
        batch_size: examples per batch, on each rank.
        shuffle: a new order in each epoch, and no incomplete last batch unless it is the only one.
        seed: seed of the order.
        rank, ranks: this process's share: every `ranks`-th example of the order. All ranks take
            the same number of training steps; `sequential` leaves no example out.
        passes: how often an epoch goes over the order, for rules that train in phases.
        variation: of the batches, by numbers that are drawn for every row in each epoch: they
            depend on (seed, epoch) too, and not on the number of ranks. `sequential` gives the
            examples as they are.

    Raises:
        ValueError: if there are fewer examples than ranks: a rank without data would keep the
            others waiting.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        passes: int = 1,
        variation: Variation | None = None,
    ) -> None:
        if len(split.x) < ranks:
            raise ValueError(
                f"{len(split.x)} images for {ranks} processes; each needs one at least: use fewer "
                "processes, or larger training, validation and test splits"
            )

        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.passes = passes
        self.variation = variation

        #: Every epoch in the order of the rows, as `Trainer(overfit_batches=..)` has it.
        self.fixed = not shuffle
        self.epoch = 0
        self.position = 0
        self._begun = False

    def __len__(self) -> int:
        if not self.shuffle:
            return self._batches_of_a_pass

        return self.passes * self._batches_of_a_pass

    @property
    def _batches_of_a_pass(self) -> int:
        n = len(self.split.x)
        if self.shuffle:
            return max(1, n // self.ranks // self.batch_size)

        return -(-n // (self.ranks * self.batch_size))

    def __iter__(self) -> Iterator[Split]:
        if not self.shuffle:
            yield from self.sequential()
            return

        if self._begun or self.position >= len(self):  # an epoch that was left early is over, too
            self.epoch += 1
            self.position = 0
        self._begun = True

        share = self._share()
        drawn = self._drawn()
        while self.position < len(self):
            self.position += 1
            yield self._batch(share, drawn, self.position - 1)

    def first(self, batches: int) -> Iterator[Split]:
        """The first batches of this epoch, without moving the training position."""
        share = self._share()
        drawn = self._drawn()
        for position in range(batches):
            yield self._batch(share, drawn, position)

    def _batch(self, share: Tensor, drawn: Tensor | None, position: int) -> Split:
        start = position % self._batches_of_a_pass * self.batch_size
        rows = share[start : start + self.batch_size]
        batch = self.split.rows(rows)
        if self.variation is None or drawn is None:
            return batch

        return batch._replace(x=self.variation(batch.x, drawn[rows]))

    def _share(self) -> Tensor:
        """The rows of this rank, in the order of this epoch."""
        return self._order()[self.rank :: self.ranks].to(self.split.x.device)

    def _order(self) -> Tensor:
        """The order of all examples in this epoch."""
        if self.fixed:
            return torch.arange(len(self.split.x))

        return torch.randperm(len(self.split.x), generator=self._seeded(ORDER))

    def _drawn(self) -> Tensor | None:
        """What the variation draws for every row in this epoch."""
        if self.variation is None:
            return None

        drawn = self.variation.draws(len(self.split.x), self._seeded(VARIATION))
        return drawn.to(self.split.x.device)

    def _seeded(self, purpose: int) -> torch.Generator:
        """The generator of this epoch for one purpose."""
        seed = (self.seed * 1_000_003 + self.epoch + purpose) % 2**63
        return torch.Generator().manual_seed(seed)

    def sequential(self) -> Iterator[Split]:
        """This rank's share once, unshuffled, without moving the training position."""
        n = len(self.split.x)
        share = torch.arange(self.rank, n, self.ranks)

        # as many batches on each rank, though one may hold an example more than another
        batches = -(-n // (self.ranks * self.batch_size))
        for index in share.tensor_split(batches):
            yield self.split.rows(index.to(self.split.x.device))

    def state_dict(self) -> dict[str, int]:
        """Epoch and position, for resuming in the middle of an epoch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: for anything but such a state.
        """
        if not isinstance(state, dict):
            raise ValueError(  # noqa: TRY004 - said of a file
                f"the position in the data is {state!r:.60}; epoch and position are needed"
            )

        self.epoch = checks.whole("epoch of the data", state.get("epoch", -1), 0)
        self.position = checks.whole("position in the data", state.get("position", -1), 0)
        self._begun = False
