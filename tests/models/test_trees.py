"""Trees: batches of them, how they lie in rows, and pairs that read and tell them."""

import pytest
import torch

from gendae.layers.affine import Affine
from gendae.models.architectures import tree_classifier
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree, TreeCell, TreePair, TreeRows, Trees
from gendae.registry import build, describe

ARITY, WIDTH, STATE = 2, 3, 4
#: Trees of several shapes: children by node, the root first.
SHAPES = [
    [[1, 2], [3, 4], [], [], []],
    [[1], [2], [3], []],
    [[]],
    [[2, 1], [], [3], [4, 5], [], []],
]


def cell(state=STATE, width=WIDTH, arity=ARITY):
    torch.manual_seed(0)
    f = Affine(arity * state + width, state, "tanh")
    return TreeCell(f, Affine(state, arity * state, "tanh"), Affine(state, width), arity).double()


def layout(nodes=6):
    return TreeRows(nodes, ARITY, WIDTH)


def inputs(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(len(shape), WIDTH, generator=g).double() for shape in SHAPES]


def rows(shapes=SHAPES, values=None):
    values = values or inputs()
    pairs = zip(shapes, values, strict=True)
    return torch.stack([layout().row(shape, x.tolist()) for shape, x in pairs]).double()


def code(cell, shape, x, node=0):
    """p of a node, by recursion."""
    below = [code(cell, shape, x, child) for child in shape[node]]
    below += [torch.zeros(STATE).double()] * (ARITY - len(below))
    return torch.tanh(torch.cat([*below, x[node]]) @ cell.f.weight.T + cell.f.bias)


def inputs_told(cell, shape, p, node=0):
    """x^ of the nodes below a code, by recursion."""
    told = {node: cell.g_input(p)}
    for child, below in zip(shape[node], cell.g_state(p).split(STATE), strict=False):
        told |= inputs_told(cell, shape, below, child)

    return told


def test_it_is_the_recursion_written_out():
    pair = TreePair(cell(), layout())
    x = torch.stack([row.round(decimals=6) for row in rows()])
    codes = pair.f(x)

    trees = pair.layout.trees(x)
    told = pair.layout.rows(trees, pair.g.told(trees, codes)).unflatten(1, (6, -1))
    given = x.unflatten(1, (6, -1))
    for i, shape in enumerate(SHAPES):
        assert torch.allclose(codes[i], code(pair.cell, shape, given[i, :, ARITY:]), rtol=1e-12)
        for node, value in inputs_told(pair.cell, shape, codes[i]).items():
            assert torch.allclose(told[i, node, ARITY:], value, rtol=1e-12)
    assert torch.equal(told[..., :ARITY], given[..., :ARITY])


def test_the_order_of_nodes_and_of_trees_is_irrelevant():
    """The root stays first; the other nodes are told under their new numbers."""
    pair = TreePair(cell(), layout())
    values = inputs()
    mixed_shapes = []
    mixed_values = []
    for shape, x in zip(SHAPES, values, strict=True):
        order = [0, *range(len(shape) - 1, 0, -1)]
        mixed_shapes.append([[order.index(child) for child in shape[old]] for old in order])
        mixed_values.append(x[order])

    codes = pair.f(rows(SHAPES, values))
    assert torch.allclose(pair.f(rows(mixed_shapes, mixed_values)), codes, rtol=1e-12)
    back = rows(SHAPES[::-1], values[::-1])
    assert torch.allclose(pair.f(back), codes.flip(0), rtol=1e-12)


def test_a_tree_is_told_whole():
    """g(p) is a row of the complete tree, which f reads."""
    pair = TreePair(cell(), layout())
    told = pair.g(torch.randn(5, STATE).double())

    trees = pair.layout.trees(told)
    assert trees.heights == [15, 10, 5]
    assert pair.f(told).shape == (5, STATE)


def test_an_exact_inverse_tells_what_was_read():
    pair = register(height=2)
    x = rows()[::2]  # of height 2 at most
    trees = pair.layout.trees(x)

    assert torch.allclose(pair.layout.rows(trees, pair.g.told(trees, pair.f(x))), x, rtol=1e-12)


def register(height):
    """A code that is the list of all inputs, level by level, of a tree of this height or less.

    f moves what a child lists into the parent's list, and g moves it back.
    """
    places = 2 ** (height + 1) - 1
    state = places * WIDTH
    f = Affine(ARITY * state + WIDTH, state)
    g_state = Affine(state, ARITY * state)
    g_input = Affine(state, WIDTH)

    with torch.no_grad():
        for layer in (f, g_state, g_input):
            layer.weight.zero_()
        f.weight[:WIDTH, ARITY * state :] = torch.eye(WIDTH)
        g_input.weight[:, :WIDTH] = torch.eye(WIDTH)

        for child in range(ARITY):
            for place in range(places // 2):
                level = 2 ** (place + 1).bit_length() // 2
                above = WIDTH * (place + level * (1 + child))
                below = child * state + WIDTH * place
                for i in range(WIDTH):
                    f.weight[above + i, below + i] = 1.0
                    g_state.weight[below + i, above + i] = 1.0

    return TreePair(TreeCell(f, g_state, g_input, ARITY), layout()).double()


def test_quadtrees_are_quarters_of_quarters():
    """Each leaf is a patch of the padded image, and a node's quarters lie side by side."""
    shape = Quadtree([6, 7], patch=2)
    x = torch.arange(1, 43).double().view(1, 6, 7)
    square = torch.nn.functional.pad(x, (0, 1, 1, 1))
    trees = shape.trees(x.flatten(1))
    assert (shape.side, trees.heights, trees.with_input) == (8, [16, 4, 1], 16)

    def squares(node, image):
        if node <= 16:
            assert torch.equal(trees.inputs[node - 1], image.flatten())
            return
        half = image.shape[1] // 2
        quarters = [image[:, a : a + half, b : b + half] for a in (0, half) for b in (0, half)]
        for child, quarter in zip(trees.children[node - 1].tolist(), quarters, strict=True):
            squares(child, quarter)

    squares(21, square)
    assert torch.equal(shape.rows(trees, trees.inputs[:16]), x.flatten(1))


def test_symbols_are_one_hot():
    symbols = TreeRows(3, ARITY, WIDTH, symbols=True)
    plain = TreeRows(3, ARITY, WIDTH)
    x = symbols.row([[1, 2], [], []], [2, 0, 1])[None]
    y = plain.row([[1, 2], [], []], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])[None]

    assert torch.equal(symbols.trees(x).inputs, plain.trees(y).inputs)
    trees = symbols.trees(x)
    assert torch.equal(symbols.rows(trees, trees.inputs), x)


def test_a_stack_of_it_samples_and_travels_in_files():
    for shape in (layout(), Quadtree([2, 4], patch=1)):
        torch.manual_seed(0)
        maps = cell(width=shape.width, arity=shape.arity)
        stack = Stack(TreePair(maps, shape)).double()
        again = build(describe(stack)).double()
        again.load_state_dict(stack.state_dict())

        h = torch.randn(5, STATE).double()
        assert stack.decode(h).shape == (5, shape.features)
        assert torch.equal(again.decode(h), stack.decode(h))
        assert torch.equal(again.reconstruct(stack.decode(h)), stack.reconstruct(stack.decode(h)))


def changed(node, place, value):
    x = rows()
    x[1, node * (ARITY + WIDTH) + place] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (changed(1, 0, 6.0), "node 1 of tree 1 has the child 6; accepted: nodes 1 .. 5"),
        (changed(1, 0, -1.0), "node 1 of tree 1 has the child -1"),
        (changed(1, 0, 2.5), "node 1 of tree 1 has the child 2.5"),
        (changed(1, 0, float("nan")), "node 1 of tree 1 has the child nan"),
        (changed(0, 1, 2.0), "node 2 of tree 1 has two parents"),
        (changed(1, 0, 0.0), "node 2 of tree 1 has children but no parent"),
        (changed(4, 0, 4.0), "tree 1 has a cycle"),
        (changed(3, 0, 1.0), "node 1 of tree 1 has two parents"),
        (rows()[:, 1:], "x"),
    ],
)
def test_what_is_no_tree_is_named(x, words):
    pair = TreePair(cell(), layout())
    with pytest.raises(ValueError, match=words):
        pair.f(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layout().row([[1, 2, 3], [], [], []], [[0.0] * 3] * 4), "node 0 has 3 children"),
        (lambda: layout().row([[]] * 7, [[0.0] * 3] * 7), "7 nodes; accepted: 1 .. 6"),
        (lambda: layout().row([[]], [[0.0] * 2]), r"inputs have shape \(1, 2\); \(1, 3\)"),
        (lambda: TreePair(cell(arity=3), layout()), "layout has arity 2, and the cell arity 3"),
        (lambda: TreePair(cell(width=2), layout()), "layout has width 3, and the cell width 2"),
        (lambda: TreeCell(Affine(7, 2), Affine(2, 6), Affine(2, 3), 2), "g_state maps 2 -> 6"),
        (lambda: TreeCell(Affine(9, 3), Affine(3, 4), Affine(3, 3), 2), "g_state maps 3 -> 4"),
        (lambda: TreeCell(Affine(9, 3), Affine(6, 6), Affine(3, 3), 2), "g_state maps 6 units"),
        (lambda: Quadtree([8, 8], patch=8), "patch=8"),
        (lambda: tree_classifier(3), "layout"),
        (lambda: tree_classifier(layout(), state=0), "state=0"),
        (
            lambda: TreeRows(2, 1, 3, symbols=True).trees(torch.tensor([[1.0, 3, 0, 0]])),
            "x has symbols in 0 .. 3; whole numbers 0 .. 2",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_heights_are_those_of_the_batch():
    """Nodes of one height are computed together, whatever tree they belong to."""
    trees = layout().trees(rows())
    assert trees.heights == [3 + 1 + 1 + 3, 1 + 1 + 1, 1 + 1 + 1, 1 + 1]
    assert isinstance(trees, Trees)
    assert (trees.children < torch.arange(1, len(trees.children) + 1)[:, None]).all()
