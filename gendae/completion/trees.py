"""Completion of trees: any subtrees given the rest, and their shape.

The first time, a tree is read without what is missing, in whose place the empty tree stands; all
of it is told, and the missing inputs are taken from there. In further rounds the completed tree is
read and told again, with the given inputs clamped.
Source: Bengio 2014, section 5: "resample any part given any part".
"""

from typing import cast

import torch
from torch import Tensor

from gendae import checks
from gendae.models.stack import Stack
from gendae.models.trees import TreePair, Trees
from gendae.sampling.samplers import BATCH


@checks.takes_arrays
def complete_trees(
    stack: Stack, x: Tensor, mask: Tensor, rounds: int = 1, batch_size: int = BATCH
) -> Tensor:
    """Rows of trees with the inputs of missing subtrees told by the model.

    A stack that was trained with hidden subtrees (`TreeLoop`) is meant for it.

    Args:
        stack: whose lowest pair is a `TreePair`.
        x: rows, (n, features); of the missing subtrees the shape alone is looked at.
        mask: False where a node is not observed, nor anything below it, by its place in the row:
            (nodes,) or (n, nodes). A `Quadtree` has the image in place 0, its quarters in 1 to 4,
            those of place i in 4 i + 1 to 4 i + 4.
        rounds: how often the tree is read and told.
        batch_size: trees computed at a time.

    Returns:
        (n, features), in CPU memory; what is observed exactly as given.

    Raises:
        ValueError: for another stack, rows that are no trees, and masks of another type or width.

    Example:
        >>> from gendae.models.architectures import tree_pair
        >>> from gendae.models.trees import Quadtree
        >>> stack = Stack(tree_pair(Quadtree([4, 4], patch=1), state=8))
        >>> x = torch.rand(3, 16)
        >>> y = complete_trees(stack, x, torch.arange(21) != 4).view(3, 4, 4)
        >>> (y == x.view(3, 4, 4))[0].int().tolist()
        [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    """
    pair = stack.pairs[0]
    if not isinstance(pair, TreePair):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"stack has a {type(pair).__name__} at the bottom; a TreePair is needed"
        )
    checks.whole("rounds", rounds, 1, checks.REPEATS)
    x = checks.width("x", x, pair.layout.features)
    mask = _of_each(mask, len(x), pair.layout.nodes)

    parts = []
    for part, seen in zip(x.split(batch_size), mask.split(batch_size), strict=True):
        told = _completed(stack, part.to(stack.device), seen.to(stack.device), rounds)
        parts.append(told.cpu())

    return torch.cat(parts)


def _of_each(mask: Tensor, n: int, nodes: int) -> Tensor:
    """The mask of each row, (n, nodes)."""
    if mask.dtype != torch.bool or mask.shape not in ((nodes,), (n, nodes)):
        raise ValueError(
            f"mask has type {mask.dtype} and shape {tuple(mask.shape)}; accepted: boolean, True "
            f"where a node is observed, ({nodes},) or ({n}, {nodes})"
        )

    return mask.expand(n, nodes)


@torch.no_grad()
def _completed(stack: Stack, x: Tensor, mask: Tensor, rounds: int) -> Tensor:
    pair = cast(TreePair, stack.pairs[0])
    trees = pair.layout.trees(x)
    seen = trees.without(~mask.T.flatten()[trees.slots])
    missing = ~seen[: trees.with_input, None]

    given = trees.inputs
    codes = pair.f.codes(trees, seen)
    for _ in range(rounds):
        top = stack.up(codes.index_select(0, trees.roots), 1)[-1]
        root = stack.down(top, stop=1)[0]
        told = torch.where(missing, pair.g.told(trees, root), given[: trees.with_input])
        trees = _with_inputs(trees, told)
        codes = pair.f.codes(trees)

    return pair.layout.rows(trees, told)


def _with_inputs(trees: Trees, inputs: Tensor) -> Trees:
    """The same trees with other inputs, those of the nodes that have some."""
    return trees._replace(inputs=torch.cat([inputs, trees.inputs[len(inputs) :]]))
