"""Sequences as rows: x is (x_1 .. x_T), of which a recurrent pair reads one step at a time.

The long dependencies are those on which recurrent networks have been compared since Hochreiter and
Schmidhuber 1997: what decides the label is seen early, and everything after it is noise.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import Data, shuffled_splits
from gendae.data.loader import Split
from gendae.registry import register

#: Letters that mean nothing, and the two that decide.
NOISE_LETTERS = 4
#: Where the deciding letters of a temporal order stand, as fractions of T.
PLACES = {
    2: ((0.1, 0.2), (0.4, 0.5)),
    3: ((0.1, 0.2), (0.3, 0.4), (0.6, 0.7)),
}
ALPHABET = 100


def temporal_order(
    n: int, steps: int, letters: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Letters a, b, c, d at random, and X or Y at two or three places; the label is their order.

    The places are drawn from [T/10, 2T/10] and [4T/10, 5T/10], or from [T/10, 2T/10], [3T/10,
    4T/10] and [6T/10, 7T/10].
    Source: Hochreiter and Schmidhuber 1997, tasks 6a and 6b; Pascanu et al. 2013, section 4.1.

    Args:
        n: number of sequences.
        steps: T.
        letters: 2 or 3, with 4 or 8 classes.
        generator: source of the draws.

    Returns:
        One-hot letters, (n, T, 6), and class indices, (n,).
    """
    symbols = torch.randint(NOISE_LETTERS, (n, steps), generator=generator)
    label = torch.zeros(n, dtype=torch.long)

    rows = torch.arange(n)
    for first, last in PLACES[letters]:
        low = int(first * steps)
        high = max(low + 1, int(last * steps))
        place = torch.randint(low, high, (n,), generator=generator)

        letter = torch.randint(2, (n,), generator=generator)
        symbols[rows, place] = NOISE_LETTERS + letter
        label = 2 * label + letter

    return F.one_hot(symbols, NOISE_LETTERS + 2).float(), label


def random_permutation(n: int, steps: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The first of T symbols is 0 or 1, and is to be told at the end; 2 .. 99 at random follow.

    Source: Martens and Sutskever 2011; Pascanu et al. 2013.

    Args:
        n: number of sequences.
        steps: T.
        generator: source of the draws.

    Returns:
        One-hot symbols, (n, T, 100), and class indices, (n,).
    """
    symbols = torch.randint(2, ALPHABET, (n, steps), generator=generator)
    label = torch.randint(2, (n,), generator=generator)
    symbols[:, 0] = label

    return F.one_hot(symbols, ALPHABET).float(), label


TASKS = {
    "temporal-order": lambda n, steps, g: temporal_order(n, steps, 2, g),
    "temporal-order-3": lambda n, steps, g: temporal_order(n, steps, 3, g),
    "random-permutation": random_permutation,
}
#: Steps that leave every deciding letter a place of its own.
LEAST = 10


@register
class LongDependencies(Data):
    """Sequences whose label is decided early, in splits of 80, 10 and 10 %.

    Args:
        task: "temporal-order" (4 classes), "temporal-order-3" (8) or "random-permutation" (2).
        steps: T; 10 at least.
        n: number of sequences in all.
        batch_size, seed: see `Data`; the seed draws the sequences too.

    Raises:
        ValueError: for an unknown task, and numbers out of range.

    Example:
        >>> data = LongDependencies("temporal-order", steps=20, n=100)
        >>> data.split("train").x.shape, data.shape
        (torch.Size([80, 120]), (20, 6))
    """

    def __init__(
        self,
        task: str = "temporal-order",
        steps: int = 30,
        n: int = 10_000,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.task = checks.one_of("task", task, TASKS)
        self.steps = checks.whole("steps", steps, LEAST, checks.REPEATS)
        self.n = checks.whole("n", n, 10)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        x, y = TASKS[self.task](self.n, self.steps, Generator().manual_seed(self.seed))
        splits = shuffled_splits(x.flatten(1), y, (0.1, 0.1), self.seed)

        return splits, (self.steps, x.shape[2])
