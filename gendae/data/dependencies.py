"""Sequences with long dependencies: what decides the answer is seen early, and noise follows.

On these tasks recurrent networks have been compared since Hochreiter and Schmidhuber 1997. Some
ask for a class at the end, one for a number, and one for a symbol at every step.
"""

from collections.abc import Callable
from typing import NamedTuple

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
#: Symbols to copy, how many they are to choose from, and so the number of the blank.
COPIED = 10
BLANK = 8


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


def adding(n: int, steps: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Numbers of which two are marked, one in each half; y is the sum of the two.

    x_t = (u_t, m_t), u_t uniform on [0, 1], m_t = 1 at the two places, drawn uniformly from the
    first and the second half, and else 0. Whoever always tells the mean, 1, has a squared error of
    1/6 = 0.167.
    Source: Hochreiter and Schmidhuber 1997, task 4, with the numbers and marks of Le et al. 2015,
    section 4.1, and of Arjovsky et al. 2016, section 4.2.

    Args:
        n: number of sequences.
        steps: T.
        generator: source of the draws.

    Returns:
        Numbers and marks, (n, T, 2), and sums, (n,) in float32.
    """
    numbers = torch.rand(n, steps, generator=generator)
    marks = torch.zeros(n, steps)

    half = steps // 2
    rows = torch.arange(n)
    marks[rows, torch.randint(half, (n,), generator=generator)] = 1.0
    marks[rows, torch.randint(half, steps, (n,), generator=generator)] = 1.0

    return torch.stack([numbers, marks], 2), (numbers * marks).sum(1)


def copy(n: int, steps: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Ten symbols, a pause, and a sign at which they are to be told again, in order.

    Symbols 0 .. 7 at random in the first ten steps; the blank 8 after them, but for the sign 9 at
    eleven steps before the end. The label of every step is the blank, and in the last ten steps
    the symbols. The sign comes T steps after the last symbol, steps = T + 20. Whoever remembers
    nothing has a cross-entropy of 10 ln 8 / (T + 20) nats a step.
    Source: Hochreiter and Schmidhuber 1997; in this layout Arjovsky et al. 2016, section 4.1.

    Args:
        n: number of sequences.
        steps: T + 20.
        generator: source of the draws.

    Returns:
        One-hot symbols, (n, steps, 10), and labels 0 .. 8 at every step, (n, steps).
    """
    told = torch.randint(BLANK, (n, COPIED), generator=generator)
    symbols = torch.full((n, steps), BLANK)
    symbols[:, :COPIED] = told
    symbols[:, -COPIED - 1] = BLANK + 1

    labels = torch.full((n, steps), BLANK)
    labels[:, -COPIED:] = told

    return F.one_hot(symbols, BLANK + 2).float(), labels


class Task(NamedTuple):
    """How sequences are drawn: (n, steps, generator) -> x and y; and the fewest steps."""

    draw: Callable[[int, int, Generator], tuple[Tensor, Tensor]]
    least: int = 10


TASKS = {
    "temporal-order": Task(lambda n, steps, g: temporal_order(n, steps, 2, g)),
    "temporal-order-3": Task(lambda n, steps, g: temporal_order(n, steps, 3, g)),
    "random-permutation": Task(random_permutation),
    "adding": Task(adding),
    "copy": Task(copy, 2 * COPIED + 1),
}


@register
class LongDependencies(Data):
    """Sequences whose answer is decided early, in splits of 80, 10 and 10 %.

    Args:
        task: "temporal-order" (4 classes), "temporal-order-3" (8) or "random-permutation" (2),
            with a label at the end; "adding", with a number; "copy", with a label (9 classes) at
            every step.
        steps: T of a sequence; 10 at least, of copy 21.
        n: number of sequences in all.
        batch_size, seed: see `Data`; the seed draws the sequences too.

    Raises:
        ValueError: for an unknown task, and numbers out of range.

    Example:
        >>> data = LongDependencies("temporal-order", steps=20, n=100)
        >>> data.split("train").x.shape, data.shape
        (torch.Size([80, 120]), (20, 6))
    """

    kind = "sequence"
    decisive = ("task",)

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
        self.steps = checks.whole("steps", steps, TASKS[task].least, checks.REPEATS)
        self.n = checks.whole("n", n, 10)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        generator = Generator().manual_seed(self.seed)
        x, y = TASKS[self.task].draw(self.n, self.steps, generator)
        splits = shuffled_splits(x.flatten(1), y, (0.1, 0.1), self.seed)

        return splits, (self.steps, x.shape[2])
