"""Completion of trees: subtrees given the rest."""

import pytest
import torch

from gendae.completion.trees import complete_trees
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree, TreePair
from tests.models import test_trees
from tests.models.test_trees import ARITY

NODES = 6


def stack():
    return Stack(TreePair(test_trees.cell(), test_trees.layout())).double()


def inputs(x):
    return x.unflatten(1, (NODES, -1))[..., ARITY:]


def test_what_is_missing_is_told_without_having_been_read():
    model = stack()
    x = test_trees.rows()
    mask = torch.arange(NODES) != 1
    y = complete_trees(model, x, mask)

    other = x.clone()
    inputs(other)[:, 1] = 7.0
    inputs(other)[0, 3:5] = 7.0  # below node 1 of the first tree
    assert torch.equal(complete_trees(model, other, mask), y)

    first = test_trees.code
    read = torch.zeros(ARITY, test_trees.STATE).double()
    read[1] = first(model.pairs[0].cell, test_trees.SHAPES[0], inputs(x)[0], node=2)
    root = torch.tanh(
        torch.cat([read.flatten(), inputs(x)[0, 0]]) @ model.pairs[0].cell.f.weight.T
        + model.pairs[0].cell.f.bias
    )
    told = test_trees.inputs_told(model.pairs[0].cell, test_trees.SHAPES[0], root)
    for node in (1, 3, 4):
        assert torch.allclose(inputs(y)[0, node], told[node], rtol=1e-12)
    assert torch.equal(inputs(y)[0, [0, 2]], inputs(x)[0, [0, 2]])
    assert torch.equal(
        y.unflatten(1, (NODES, -1))[..., :ARITY], x.unflatten(1, (NODES, -1))[..., :ARITY]
    )


def test_an_exact_model_keeps_what_it_has_completed():
    """Its rounds are the identity: a second one reads the tree that the first has told."""
    model = Stack(test_trees.register(height=3)).double()
    x = test_trees.rows()
    mask = torch.arange(NODES) != 2
    once = complete_trees(model, x, mask)

    assert (inputs(once)[0, 2] == 0).all()  # nothing is known of it
    assert torch.allclose(complete_trees(model, x, mask, rounds=5), once, atol=1e-12)


def test_each_row_may_lack_other_parts_of_an_image():
    layout = Quadtree([4, 4], patch=1)
    model = Stack(TreePair(test_trees.cell(width=1, arity=4), layout)).double()
    x = torch.rand(3, 16).double()
    mask = torch.ones(3, 21, dtype=torch.bool)
    mask[1, 1] = False
    mask[2, 0] = False
    y = complete_trees(model, x, mask, rounds=2)

    kept = (y == x).view(3, 4, 4)
    assert kept[0].all()
    assert kept[1].int().tolist() == [[0, 0, 1, 1]] * 2 + [[1, 1, 1, 1]] * 2
    assert not kept[2].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stack": deep_autoencoder([30, 4])}, "stack has a Pair at the bottom"),
        ({"mask": torch.ones(NODES)}, "mask has type torch.float"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, r"mask .* shape \(5,\)"),
        ({"x": torch.rand(4, 29)}, "x has shape"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    good = {"stack": stack(), "x": test_trees.rows(), "mask": torch.ones(NODES, dtype=torch.bool)}
    with pytest.raises(ValueError, match=words):
        complete_trees(**(good | change))
