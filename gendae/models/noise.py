"""The corruption that a stack is trained with where a rule is given none."""

from collections.abc import Sequence

from gendae import checks
from gendae.corruption import Corruption, GaussianNoise, RelativeNoise, SpikeNoise
from gendae.models.joint import JointStack
from gendae.models.modalities import ONE_HOT, EachModality
from gendae.models.stack import Stack
from gendae.registry import build


def default_corruption(stack: Stack) -> list[Corruption]:
    """The corruption that trains at any depth.

    Up to two pairs: 0.5 on x, 0.3 on h_1 below the top, a spike at a sigmoid top (the paper
    averages three; one makes codes that a Gaussian top fits better). The noise on f_l's input
    keeps an unbounded h_l from amplifying itself. The Gaussian levels fall to 60 % in training.

    Above two pairs codes are small, fixed noise drowns them, and they shrink on: there it is 0.3
    of each representation's spread.
    """
    if stack.depth > 2:
        return [RelativeNoise(0.3) for _ in range(stack.depth + 1)]

    below: list[Corruption] = [
        GaussianNoise(sigma, decay=0.6) for sigma in (0.5, 0.3)[: stack.depth]
    ]
    return [*below, corruption_of_top(stack)]


def corruption_of_top(stack: Stack) -> Corruption:
    """A spike at a sigmoid top, Gaussian noise at others."""
    if stack.pairs[-1].f.activation == "sigmoid":
        return SpikeNoise(1)

    return GaussianNoise(0.3, decay=0.6)


def corruption_of_each(stack: Stack, corruption: Sequence[Corruption] | None) -> list[Corruption]:
    """One corruption for each of h_0 .. h_L, the default ones if None.

    A ValueError for a wrong number of them, and for anything else.
    """
    if corruption is None:
        return default_corruption(stack)

    corruption = build(corruption)
    if not isinstance(corruption, tuple):
        corruption = checks.kind("corruption", corruption, list)
    for level, noise in enumerate(corruption):
        checks.kind(f"corruption[{level}]", noise, Corruption)

    if len(corruption) != stack.depth + 1:
        raise ValueError(
            f"corruption has {len(corruption)} entries; a stack of {stack.depth} pairs "
            f"has {stack.depth + 1} representations, h_0 .. h_{stack.depth}"
        )

    return list(corruption)


def noise_of_all_but_labels(stack: JointStack, sigma: float = 0.25) -> list[Corruption]:
    """Gaussian noise on h_0 .. h_L in units of their spread, none on one-hot rows."""
    each: list[Corruption | None] = []
    for modality in stack.modalities.values():
        if modality.kind in ONE_HOT:
            each.append(None)
        else:
            each.append(RelativeNoise(sigma))

    below: list[Corruption] = [
        EachModality(each, stack.widths(level)) for level in range(stack.level + 1)
    ]
    above = [RelativeNoise(sigma) for _ in range(stack.depth - stack.level)]

    return [*below, *above]
