"""Parse trees with a hidden node, and expressions of a known depth."""

import ast
import random

import pytest
import torch

from gendae.data.trees import (
    HIDDEN,
    TYPES,
    ListOps,
    StandardLibrary,
    around,
    expression,
    library_files,
    most_nodes,
    parsed,
)

SOURCE = "def f(a, b):\n    x = a + b\n    return x\n"


def test_a_parse_tree_has_the_nodes_of_ast():
    tree = parsed(SOURCE)
    whole = [n for n in ast.walk(ast.parse(SOURCE)) if not isinstance(n, ast.expr_context)]
    assert sorted(TYPES[i] for i in tree.types) == sorted(type(n).__name__ for n in whole)

    for node, (parent, previous, following, first) in enumerate(tree.links):
        for other, place in ((previous, 2), (following, 1)):
            assert other < 0 or tree.links[other][place] == node
            assert other < 0 or tree.links[other][0] == parent
        assert first < 0 or tree.links[first][:2] == (node, -1)


@pytest.mark.parametrize("hidden", range(6))
def test_seen_from_a_hidden_node_every_other_one_hangs_in_one_place(hidden):
    tree = parsed(SOURCE)
    n = len(tree.types)
    children, symbols = around(tree, hidden, nodes=100)

    assert symbols[0] == HIDDEN
    rest = [t + 1 for i, t in enumerate(tree.types) if i != hidden]
    assert sorted(symbols[1:]) == sorted(rest)
    assert sorted(child for below in children for child in below if child) == [*range(1, n)]

    near, _ = around(tree, hidden, nodes=4)
    assert [[child if child < 4 else 0 for child in below] for below in children[:4]] == near


def test_the_standard_library_is_shared_out_by_file():
    data = StandardLibrary(nodes=8, n=60)
    splits = [data.split(name) for name in ("train", "valid", "test")]

    assert [len(split.x) for split in splits] == [48, 6, 6]
    for split in splits:
        assert data.layout.trees(split.x).batch == len(split.x)
        assert 0 <= split.y.min() <= split.y.max() < len(TYPES)
    names = [path.name for path in library_files()]
    assert names == sorted(names)
    assert "ast.py" in names
    assert data.identity is not None


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_expressions_have_their_depth_and_value(depth):
    values = {"MIN": min, "MAX": max, "SM": lambda digits: sum(digits) % 10}
    values["MED"] = lambda digits: sorted(digits)[(len(digits) - 1) // 2]
    operators = ["MIN", "MAX", "MED", "SM"]

    def evaluated(e):
        if not e.arguments:
            return e.symbol, 0
        below = [evaluated(argument) for argument in e.arguments]
        value = values[operators[e.symbol - 10]]([v for v, _ in below])
        return value, 1 + max(height for _, height in below)

    draw = random.Random(0)
    for _ in range(30):
        e = expression(depth, draw)
        assert evaluated(e) == (e.value, depth)
        assert len(list(e.walk())) <= most_nodes(depth)


def test_list_ops_are_rows_of_trees_of_their_depth():
    data = ListOps([2, 3], n=40)
    split = data.split("train")
    trees = data.layout.trees(split.x)

    assert torch.equal(split.x, ListOps([2, 3], n=40).split("train").x)
    assert not torch.equal(split.x, ListOps([2, 3], n=40, seed=1).split("train").x)
    assert len(trees.heights) == 4
    depths = {len(data.layout.trees(row[None]).heights) - 1 for row in split.x}
    assert depths == {2, 3}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ListOps([]), "one depth is needed"),
        (lambda: ListOps([0]), "depths=0"),
        (lambda: ListOps([3], nodes=39), "nodes=39"),
        (lambda: StandardLibrary(nodes=1), "nodes=1"),
        (lambda: StandardLibrary(n=5), "n=5"),
    ],
)
def test_what_does_not_fit_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
