"""The table of contracts: for every public function and class, what a batch is and how it is called.

A case names what it covers, builds its model, draws its inputs (rows first) and calls. `test_contracts.py` applies every
check to every case; a case is let off a check only with a reason in words. Public names without a case stand in
`contracts_exempt.py`, with a reason each.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

ROWS = 6


@dataclass(frozen=True, eq=False)
class Case:
    """One public callable on one kind of input.

    covers: module.name, with .method where it is one of a class; `variant` tells cases of one name apart.
    kind: "map", one row of output for each row of input, or "reduce", rows in, a summary out.
    random: the call takes a generator as its last argument.
    finite: positions of inputs that the callable promises to check for NaN and infinity.
    together: the inputs belong together row by row: none of them is ever empty alone.
    skips: checks it is let off, with the reason.
    """

    covers: str
    call: Callable[..., Any]
    inputs: tuple = ()
    model: Callable[[], Any] = lambda: None
    kind: str = "map"
    random: bool = False
    finite: tuple = ()
    variant: str = ""
    tolerance: float = 1e-4
    together: bool = False
    skips: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.covers}{f'[{self.variant}]' if self.variant else ''}"


# -- inputs: each takes a generator and gives a tensor, rows first ---------------------------------------------


def unit(width, rows=ROWS):
    """Values in [0, 1]."""
    return lambda g: torch.rand(rows, width, generator=g)


def real(width, rows=ROWS):
    return lambda g: torch.randn(rows, width, generator=g)


def small(width, rows=ROWS):
    """Steps, displacements."""
    return lambda g: 0.01 * torch.randn(rows, width, generator=g)


def line(rows=ROWS):
    return lambda g: torch.randn(rows, generator=g)


def chains(steps, width, rows=ROWS):
    """Rows are chains here: what looks at states in time turns them."""
    return lambda g: torch.randn(rows, steps, width, generator=g).cumsum(1)


def signs(width, rows=ROWS):
    return lambda g: torch.randn(rows, width, generator=g).sign()


def bits(width, rows=ROWS):
    return lambda g: (torch.rand(rows, width, generator=g) < 0.5).float()


def onehot(width, rows=ROWS):
    return lambda g: nn.functional.one_hot(
        torch.randint(width, (rows,), generator=g), width
    ).float()


def shares(width, rows=ROWS):
    """Rows of probabilities."""
    return lambda g: torch.rand(rows, width, generator=g).add(0.1).log().softmax(1)


def index(classes, rows=ROWS):
    return lambda g: torch.randint(classes, (rows,), generator=g)


def mask(width, rows=ROWS):
    """True where observed; the first column is, everywhere, and the last is not."""

    def made(g):
        found = torch.rand(rows, width, generator=g) < 0.5
        found[:, 0], found[:, -1] = True, False
        return found

    return made


def image_with_label(g):
    """x of the joint model below."""
    return torch.cat([unit(8)(g), onehot(3)(g)], 1)


# -- how cases are run ------------------------------------------------------------------------------------------


def cast(thing, dtype):
    """A model in another floating-point type, whatever it is made of."""
    if isinstance(thing, nn.Module):
        return thing.to(dtype)
    if isinstance(thing, torch.Tensor):
        return thing.to(dtype) if thing.is_floating_point() else thing
    if isinstance(thing, tuple):
        return tuple(cast(part, dtype) for part in thing)
    return thing


def model_of(case, dtype=torch.float32):
    """The case's model: the same weights each time and in each type."""
    torch.manual_seed(0)
    return cast(case.model(), dtype)


def inputs_of(case, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return tuple(cast(make(g), dtype) for make in case.inputs)


def run(case, model, inputs, seed=0, evenly=False):
    """The case's result as a flat list of tensors; `evenly`, with the same noise for each row."""
    last = (torch.Generator().manual_seed(seed),) if case.random else ()
    with same_noise() if evenly else nullcontext():
        return flat(case.call(model, *inputs, *last))


def same_noise():
    """Noise that is the same for each row and type: random maps become deterministic ones."""

    def row(width, law):
        u = torch.from_numpy(np.random.RandomState(width).rand(width))
        return u if law == "rand" else torch.special.ndtri(u.clamp(0.01, 0.99))

    def like(law):
        def make(*shape, generator=None, dtype=None, device=None):
            shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
            noise = row(shape[-1] if shape else 1, law).to(dtype or torch.get_default_dtype())
            return (noise if shape else noise[0]).expand(shape).clone()

        return make

    return patch.multiple(torch, rand=like("rand"), randn=like("randn"))


def flat(value):
    """All numbers in a result, as a list of tensors."""
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    if isinstance(value, bool | int | float):
        return [torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)]
    if isinstance(value, dict):
        return [t for part in value.values() for t in flat(part)]
    if isinstance(value, torch.distributions.Distribution):
        return flat(value.mean)
    if value is None or isinstance(value, str):
        return []
    return [t for part in value for t in flat(part)]
