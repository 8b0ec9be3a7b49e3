"""Trees: codes of subtrees, composed from the leaves to the root, and told again from the root.

p = f(c_1, .., c_k, x)                      up: the code of a node is that of the tree below it
(c^_1, .., c^_k, x^) = g(p^)                down: the codes of the children, and the node's input

c_i is the code of the node's i-th child, 0 where it has none: the empty tree, as s_0 is of a
sequence. x is the node's own input, a label or, in a leaf, a word or a patch: a leaf is a node
without children, whose encoder is f at c = 0. A chain is a sequence: `models.recurrent`.

In a batch the nodes of all trees are computed together, one height after the other, since children
lie lower than their parent; within a height no node waits for another. `Trees` holds such a batch.

Trees travel as rows of one width, like everything that data sets, files and stacks hold; a layout
says what a row means. `TreeRows` are any trees of up to N nodes: for each, the numbers of its
children and its input. A `Quadtree` is an image, of which every tree has the same shape. So f of a
`TreePair` maps a row to the code of the root, and its g tells a row: the whole tree of the layout,
all N nodes, as the g of a recurrent pair tells all steps. Where the shape of a tree is known,
`Teller.told` tells the inputs of its nodes.
Source: Bengio 2014, section 5; Pollack 1990 (recursive auto-associative memories); Socher et al.
2011.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendae import checks
from gendae.laws import Law
from gendae.layers.pair import Pair
from gendae.models.recurrent import Cell
from gendae.registry import register

#: Most nodes of a tree.
MOST_NODES = 1 << 16


class Trees(NamedTuple):
    """A batch of trees: their nodes in one numbering 1 .. n, leaves first, by height.

    Args:
        inputs: x of each node, (n, width).
        children: numbers of the children of each node, (n, arity); 0 for none.
        roots: number of each tree's root, (batch,).
        slots: slot * batch + row of each node, (n,): where it stands in the rows.
        heights: how many nodes have height 0, 1, ..
        with_input: how many nodes have an input, the first ones.
    """

    inputs: Tensor
    children: Tensor
    roots: Tensor
    slots: Tensor
    heights: list[int]
    with_input: int

    @property
    def batch(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @property
    def leaves(self) -> int:
        """Number of nodes without children, the first ones."""
        return self.heights[0] if self.heights else 0

    def without(self, hidden: Tensor) -> Tensor:
        """Which nodes are left without some subtrees, (n,).

        Args:
            hidden: whether a subtree is hidden, by the number of its root, (n,).
        """
        left = F.pad(~hidden, (1, 0))
        stop = len(left)
        for count in reversed(self.heights[1:]):  # parents lie higher than their children
            children = self.children[stop - count - 1 : stop - 1].flatten()
            above = left[stop - count : stop].repeat_interleave(self.children.shape[1])
            left[children] &= above
            stop -= count

        return left[1:]

    @classmethod
    def of(cls, children: Tensor, inputs: Tensor, of_leaves: bool = False) -> "Trees":
        """The trees whose nodes stand in slots, slot 0 the root; slots may be left over.

        Args:
            children: slots of the children, (batch, N, arity); 0 for none.
            inputs: (batch, N, width).
            of_leaves: leaves alone have an input.

        Raises:
            ValueError: for a child that is no slot, one of two nodes, and nodes that hang
                together in a cycle, or not with the root.
        """
        batch, nodes, arity = children.shape
        _check_slots(children)

        # a slot after the other, so that trees of one shape lie side by side
        row = torch.arange(batch, device=children.device)[:, None]
        known = children.long().transpose(0, 1)
        none = nodes * batch
        below = torch.where(known > 0, known * batch + row, none).reshape(none, arity)

        parents = torch.bincount(below.flatten(), minlength=none + 1)[:none]
        parents[:batch] += 1
        _check_parents(parents, below, batch)

        height = _heights(below, nodes, batch)
        height = torch.where(parents > 0, height, nodes)
        order = torch.sort(height, stable=True).indices
        heights = torch.bincount(height, minlength=nodes + 1)[:nodes].tolist()
        while heights and heights[-1] == 0:
            heights.pop()
        n = sum(heights)
        order = order[:n]

        number = order.new_zeros(none + 1)
        number[order] = torch.arange(1, n + 1, device=order.device)

        return cls(
            inputs=inputs.transpose(0, 1).flatten(0, 1)[order],
            children=number[below[order]],
            roots=number[:batch],
            slots=order,
            heights=heights,
            with_input=heights[0] if of_leaves and heights else n,
        )


def _check_slots(children: Tensor) -> None:
    """Raise a ValueError for numbers that are no slots."""
    nodes = children.shape[1]
    bad = (children != children.round()) | (children < 0) | (children >= nodes)
    if bool(bad.any()):
        tree, node, place = bad.nonzero()[0].tolist()
        raise ValueError(
            f"node {node} of tree {tree} has the child {children[tree, node, place].item():g}; "
            f"accepted: nodes 1 .. {nodes - 1}, 0 for none"
        )


def _check_parents(parents: Tensor, below: Tensor, batch: int) -> None:
    """Raise a ValueError for nodes of two parents, and parents that have none."""
    twice = parents > 1
    alone = (parents == 0) & (below < len(below)).any(1)
    if bool((twice | alone).any()):
        slot, tree = divmod(int((twice | alone).nonzero()[0]), batch)
        what = "has two parents" if twice[slot * batch + tree] else "has children but no parent"
        raise ValueError(
            f"node {slot} of tree {tree} {what}; in a tree every node but the root, node 0, is "
            "the child of one"
        )


def _heights(below: Tensor, nodes: int, batch: int) -> Tensor:
    """0 for leaves, else one more than the highest child has; (nodes * batch,)."""
    height = below.new_zeros(len(below) + 1)
    height[-1] = -1
    for _ in range(nodes):
        new = height[below].amax(1) + 1
        if torch.equal(new, height[:-1]):
            return new
        height[:-1] = new

    slot, tree = divmod(int(height.argmax()), batch)
    raise ValueError(f"tree {tree} has a cycle, through node {slot} or below it; none is accepted")


# -- how trees lie in rows -----------------------------------------------------------------------


class Layout(nn.Module):
    """Base class of what rows of trees are.

    Attributes:
        arity: most children of a node.
        width: of a node's input.
        nodes: of the largest tree.
        features: of a row.
    """

    arity: int
    width: int
    nodes: int
    features: int
    #: Whether a told row is made of told inputs alone.
    of_inputs = True

    def trees(self, x: Tensor) -> Trees:
        """The trees in rows, (batch, features)."""
        raise NotImplementedError(f"{type(self).__name__} must define trees")

    def rows(self, trees: Trees, inputs: Tensor) -> Tensor:
        """Rows of trees with other inputs, those of the nodes that have some."""
        raise NotImplementedError(f"{type(self).__name__} must define rows")

    def whole(self, like: Tensor) -> Trees:
        """The largest tree, once for each row of `like`."""
        raise NotImplementedError(f"{type(self).__name__} must define whole")


def complete_tree(nodes: int, arity: int) -> Tensor:
    """Children of a tree that is filled level by level, (nodes, arity); 0 for none.

    Example:
        >>> complete_tree(4, 2).tolist()
        [[1, 2], [3, 0], [0, 0], [0, 0]]
    """
    children = torch.arange(1, nodes * arity + 1).view(nodes, arity)

    return torch.where(children < nodes, children, 0)


@register
class TreeRows(Layout):
    """Trees of any shape, of up to N nodes.

    A row has the nodes one after the other, in any order but for the root, which comes first: for
    each the numbers of its children, 0 for none, and its input. Nodes that are nobody's child are
    left over.

    Args:
        nodes: N.
        arity: most children of a node.
        width: of a node's input.
        symbols: the input is the number of a symbol, 0 .. width - 1, which f sees one-hot.

    Raises:
        ValueError: for numbers out of range; in use, for rows that are no trees.

    Example:
        >>> layout = TreeRows(nodes=4, arity=2, width=3, symbols=True)
        >>> x = layout.row([[1, 2], [], []], [0, 2, 2])[None]
        >>> x
        tensor([[1., 2., 0., 0., 0., 2., 0., 0., 2., 0., 0., 0.]])
        >>> layout.trees(x).heights
        [2, 1]
    """

    of_inputs = False

    def __init__(self, nodes: int, arity: int, width: int, symbols: bool = False) -> None:
        super().__init__()
        self.nodes = checks.whole("nodes", nodes, 1, MOST_NODES)
        self.arity = checks.whole("arity", arity, 1)
        self.width = checks.whole("width", width, 1)
        self.symbols = bool(symbols)

        self.features = self.nodes * (self.arity + (1 if self.symbols else self.width))

    def trees(self, x: Tensor) -> Trees:
        x = checks.width("x", x, self.features)
        children, inputs = x.unflatten(1, (self.nodes, -1)).tensor_split([self.arity], 2)
        if self.symbols:
            inputs = self._one_hot(inputs[..., 0])

        return Trees.of(children, inputs)

    def _one_hot(self, symbols: Tensor) -> Tensor:
        known = symbols.long()
        if bool(((known != symbols) | (known < 0) | (known >= self.width)).any()):
            raise ValueError(
                f"x has symbols in {symbols.min().item():g} .. {symbols.max().item():g}; whole "
                f"numbers 0 .. {self.width - 1} are accepted"
            )

        return F.one_hot(known, self.width).to(symbols.dtype)

    def rows(self, trees: Trees, inputs: Tensor) -> Tensor:
        slot_of = F.pad(trees.slots // max(1, trees.batch), (1, 0))
        children = slot_of[trees.children].to(inputs.dtype)
        if self.symbols:
            inputs = inputs.argmax(1, keepdim=True).to(inputs.dtype)

        told = torch.cat([children, inputs], 1)
        rows = told.new_zeros(self.nodes * trees.batch, told.shape[1])
        rows = rows.index_copy(0, trees.slots, told)

        return rows.unflatten(0, (self.nodes, trees.batch)).transpose(0, 1).flatten(1)

    def whole(self, like: Tensor) -> Trees:
        children = complete_tree(self.nodes, self.arity).to(like.device)
        inputs = like.new_zeros(len(like), self.nodes, self.width)

        return Trees.of(children.expand(len(like), -1, -1), inputs)

    def row(
        self, children: Sequence[Sequence[int]], inputs: Sequence[int] | Sequence[Sequence[float]]
    ) -> Tensor:
        """The row of one tree, (features,).

        Args:
            children: numbers of the children of each node; the first node is the root.
            inputs: of each node; symbols, if these are the layout's.

        Raises:
            ValueError: for more nodes or children than there is room for, and inputs of another
                number or width.
        """
        if not 1 <= len(children) <= self.nodes:
            raise ValueError(f"the tree has {len(children)} nodes; accepted: 1 .. {self.nodes}")

        most = max(map(len, children))
        if most > self.arity:
            raise ValueError(
                f"node {[*map(len, children)].index(most)} has {most} children; accepted: "
                f"{self.arity} at most"
            )

        values = torch.as_tensor(inputs, dtype=torch.get_default_dtype()).view(len(inputs), -1)
        room = self.features // self.nodes - self.arity
        if values.shape != (len(children), room):
            raise ValueError(
                f"inputs have shape {tuple(values.shape)}; {(len(children), room)} is needed"
            )

        filled = [[*below, *[0] * (self.arity - len(below))] for below in children]
        nodes = torch.cat([torch.tensor(filled, dtype=values.dtype), values], 1)

        return F.pad(nodes.flatten(), (0, self.features - nodes.numel()))


@register
class Quadtree(Layout):
    """An image as a tree: each square is made of its four quarters, down to patches.

    The image lies in the middle of the smallest square that patches and quarters fill; outside of
    it pixels are 0. Leaves have an input, the pixels of their patch.

    Args:
        shape: height and width, in pixels.
        patch: side of a patch.

    Raises:
        ValueError: for what is no shape, and a patch that holds the whole image.

    Example:
        >>> layout = Quadtree([28, 28], patch=4)
        >>> layout.side, layout.trees(torch.rand(5, 784)).heights
        (32, [320, 80, 20, 5])
    """

    arity = 4
    pixel: Tensor
    place: Tensor

    def __init__(self, shape: Sequence[int], patch: int) -> None:
        super().__init__()
        height, width = checks.grey_shape(shape, "a quadtree")
        self.shape = [height, width]
        self.patch = checks.whole("patch", patch, 1)
        if self.patch >= max(height, width):
            raise ValueError(f"patch={patch} leaves nothing to compose of {height} x {width}")

        depth = math.ceil(math.log2(max(height, width) / self.patch))
        self.side = self.patch * 2**depth
        self.width = self.patch**2
        self.features = height * width
        self.leaves = 4**depth
        self.inner = (self.leaves - 1) // 3
        self.nodes = self.inner + self.leaves

        pixel = self._pixels(depth)
        place = torch.empty(self.features + 1, dtype=torch.long)
        place[pixel] = torch.arange(len(pixel))
        self.register_buffer("pixel", pixel, persistent=False)
        self.register_buffer("place", place[:-1], persistent=False)

    def _pixels(self, depth: int) -> Tensor:
        """The pixel at each place of the leaves; `features` outside of the image."""
        height, width = self.shape
        top = (self.side - height) // 2
        left = (self.side - width) // 2

        square = torch.full((self.side, self.side), self.features)
        image = torch.arange(self.features).view(height, width)
        square[top : top + height, left : left + width] = image

        halves = [2] * depth
        sides = square.view(*halves, self.patch, *halves, self.patch)
        quarters = [axis + step for axis in range(depth) for step in (0, depth + 1)]

        return sides.permute(*quarters, depth, 2 * depth + 1).flatten()

    def trees(self, x: Tensor) -> Trees:
        x = checks.width("x", x, self.features)
        leaves = F.pad(x, (0, 1))[:, self.pixel].unflatten(1, (-1, self.width))

        return self._of(F.pad(leaves, (0, 0, self.inner, 0)))

    def _of(self, inputs: Tensor) -> Trees:
        batch, nodes, _ = inputs.shape
        children = complete_tree(nodes, 4).to(inputs.device).expand(batch, -1, -1)

        return Trees.of(children, inputs, of_leaves=True)

    def rows(self, trees: Trees, inputs: Tensor) -> Tensor:
        leaves = inputs.view(self.leaves, trees.batch, self.width).transpose(0, 1).flatten(1)

        return leaves[:, self.place]

    def whole(self, like: Tensor) -> Trees:
        return self._of(like.new_zeros(len(like), self.nodes, self.width))


# -- the maps ------------------------------------------------------------------------------------


@register
class TreeCell(Cell):
    """The maps of a node: f, and the two halves of g.

    Args:
        f: (c_1, .., c_k, x) -> p; the codes of the children come first in its input.
        g_state: p -> (c_1, .., c_k).
        g_input: p -> x.
        arity: k.

    Raises:
        ValueError: if the widths do not match.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> cell = TreeCell(Affine(8, 3, "tanh"), Affine(3, 6, "tanh"), Affine(3, 2), arity=2)
        >>> cell.state, cell.width
        (3, 2)
    """

    def __init__(self, f: nn.Module, g_state: nn.Module, g_input: nn.Module, arity: int) -> None:
        self.arity = checks.whole("arity", arity, 1)
        super().__init__(f, g_state, g_input)
        if self.sees_input:
            raise ValueError(
                f"g_state maps {self.g_state.in_features} units; that of a tree's cell takes the "
                f"{self.state} of a code alone"
            )


class TreeReader(nn.Module):
    """f of a tree pair: a row -> the code of the root."""

    def __init__(self, cell: TreeCell, layout: Layout) -> None:
        super().__init__()
        self.layer = cell.f
        self.layout = layout
        self.in_features = layout.features
        self.out_features = cell.state
        self.activation = cell.f.activation

        self._of = (cell,)  # in a tuple, so that the maps of g are not registered here

    @property
    def cell(self) -> TreeCell:
        return self._of[0]

    def codes(self, trees: Trees, seen: Tensor | None = None) -> Tensor:
        """Codes of all nodes by their numbers, (n + 1, state), after that of the empty tree.

        Args:
            trees: the batch.
            seen: whether a node is seen, (n,); the others have the code 0 of the empty tree. None
                for all.
        """
        codes = trees.inputs.new_zeros(1, self.out_features)
        start = 0
        for count in trees.heights:
            nodes = slice(start, start + count)
            below = children_of(codes, trees.children[nodes])
            above = self.cell.step(below, trees.inputs[nodes])
            if seen is not None:
                above = above * seen[nodes, None]
            codes = torch.cat([codes, above])
            start += count

        return codes

    def forward(self, x: Tensor) -> Tensor:
        trees = self.layout.trees(x)

        return self.codes(trees).index_select(0, trees.roots)


def children_of(codes: Tensor, children: Tensor) -> Tensor:
    """(c_1, .., c_k) of some nodes, side by side, (nodes, arity * state)."""
    nodes, arity = children.shape

    return codes.index_select(0, children.flatten()).view(nodes, arity * codes.shape[1])


class TreeTeller(nn.Module):
    """g of a tree pair: the code of the root -> a row."""

    def __init__(self, cell: TreeCell, layout: Layout) -> None:
        super().__init__()
        self.back = cell.g_state
        self.out = cell.g_input
        self.in_features = cell.state
        self.out_features = layout.features
        self.activation = cell.g_input.activation if layout.of_inputs else None

        self._of = (layout,)  # in a tuple, so that it is registered once, in f

    @property
    def layout(self) -> Layout:
        return self._of[0]

    def told(self, trees: Trees, root: Tensor) -> Tensor:
        """x^ of the nodes that have an input, (nodes, width), in trees of known shape.

        Args:
            trees: their shape; inputs are not looked at.
            root: codes of the roots, (batch, state).
        """
        stop = len(trees.children)
        codes = root.new_zeros(stop + 1, self.in_features).index_copy(0, trees.roots, root)
        for count in reversed(trees.heights[1:]):
            start = stop - count
            children = trees.children[start:stop].flatten()
            told = self.back(codes[start + 1 : stop + 1]).view(-1, self.in_features)
            codes = codes.index_copy(0, children, told)
            stop = start

        return self.out(codes[1 : trees.with_input + 1])

    def forward(self, root: Tensor) -> Tensor:
        trees = self.layout.whole(root)

        return self.layout.rows(trees, self.told(trees, root))


@register
class TreePair(Pair):
    """A pair whose f reads a tree from its leaves to the root, and whose g tells it again.

    Args:
        cell: the maps of a node.
        layout: what the rows of x are, `TreeRows` or `Quadtree`.
        observation: law of x around g; Gaussian(1) if None.
        recognition: law of the root's code around f; Gaussian(1) if None.

    Raises:
        ValueError: if cell and layout have other numbers of children or inputs, and if a law's
            mean needs another activation than its layer has.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> cell = TreeCell(Affine(16, 3, "tanh"), Affine(3, 12, "tanh"), Affine(3, 4), arity=4)
        >>> pair = TreePair(cell, Quadtree([8, 8], patch=2))
        >>> pair.f(torch.rand(7, 64)).shape, pair.g(torch.rand(7, 3)).shape
        (torch.Size([7, 3]), torch.Size([7, 64]))
    """

    f: TreeReader
    g: TreeTeller

    def __init__(
        self,
        cell: TreeCell,
        layout: Layout,
        observation: Law | None = None,
        recognition: Law | None = None,
    ) -> None:
        for name in ("arity", "width"):
            if getattr(cell, name) != getattr(layout, name):
                raise ValueError(
                    f"layout has {name} {getattr(layout, name)}, and the cell {name} "
                    f"{getattr(cell, name)}; they must be equal"
                )

        super().__init__(
            TreeReader(cell, layout), TreeTeller(cell, layout), observation, recognition
        )

    @property
    def cell(self) -> TreeCell:
        """The maps of a node."""
        return self.f.cell

    @property
    def layout(self) -> Layout:
        """What the rows of x are."""
        return self.f.layout
