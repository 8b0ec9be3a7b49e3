"""Target propagation through structure, against back-propagation through structure."""

import pytest
import torch

from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.models.architectures import (
    deep_autoencoder,
    deep_classifier,
    tree_classifier,
    tree_pair,
)
from gendae.models.classifier import Classifier
from gendae.models.recurrent import Cell, RecurrentPair
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree, TreeCell, TreePair, TreeRows
from gendae.rules.backprop import BackpropRule
from gendae.rules.rates import Rates
from gendae.rules.recurrent import RecurrentTargetPropRule
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.trees import Reading, Telling, TreeLoop, TreeTargetPropRule
from tests.conftest import at
from tests.models import test_trees
from tests.models.test_trees import ARITY, SHAPES, STATE, WIDTH
from tests.rules.test_base import trainer

CLASSES = 4
LABELS = torch.tensor([0, 1, 2, 3])
EXACT = Telling(sigma=0.0)
ALL = Telling(sigma=0.0, short=0.5, long=0.5)


def network(pair):
    torch.manual_seed(1)
    return Classifier(pair, output=Affine(pair.cell.state, CLASSES)).double()


def orthogonal():
    """Linear codes composed by orthonormal rows, of which g is the transpose."""
    cell = test_trees.cell()
    f = Affine(ARITY * STATE + WIDTH, STATE)
    g_state = Affine(STATE, ARITY * STATE, init="orthogonal")
    with torch.no_grad():
        f.weight[:, : ARITY * STATE] = g_state.weight.T

    return network(TreePair(TreeCell(f, g_state, cell.g_input, ARITY), test_trees.layout()))


def curved():
    return network(TreePair(test_trees.cell(), test_trees.layout()))


def losses(network, x, y=LABELS, **options):
    return TreeTargetPropRule(network, **options).losses((x, y), at(0))


def gradients(loss, parameters):
    return torch.autograd.grad(loss, parameters, retain_graph=True)


def reading_of(network):
    pair = network.pairs[0]
    return Reading(pair, pair.layout.trees(test_trees.rows()))


# -- against the chain rule -----------------------------------------------------------------------


def test_with_orthonormal_maps_it_is_back_propagation_through_structure():
    net = orthogonal()
    f = list(net.pairs[0].cell.f.parameters())
    x = test_trees.rows()

    ours = gradients(losses(net, x)["target_f_1"], f)
    theirs = gradients(BackpropRule(net).losses((x, LABELS))["label_f_2"], f)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("difference", [True, False])
def test_displacements_are_the_recursion_written_out(difference):
    net = curved()
    rule = TreeTargetPropRule(net, difference=difference)
    pair = net.pairs[0]
    g = pair.cell.g_state
    reading = reading_of(net)
    trees, codes = reading.trees, reading.codes
    moves = reading.displacements(rule.first(reading, LABELS), difference)

    seen = 0
    for node in range(1, len(codes)):
        after = g(codes[node] + moves[node - 1]).split(STATE)
        before = g(codes[node]).split(STATE)
        for child, new, old in zip(trees.children[node - 1], after, before, strict=True):
            start = old if difference else codes[child]
            if child > 0:
                assert torch.allclose(moves[child - 1], new - start, rtol=1e-9, atol=1e-14)
                seen += 1
    assert seen == len(moves) - len(SHAPES)


# -- a chain is a sequence ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "learns"), [(True, "inverse"), (False, "inverse"), (True, "transpose")]
)
def test_a_chain_is_a_sequence_bit_for_bit(difference, learns):
    steps = 5
    torch.manual_seed(0)
    maps = (Affine(STATE + WIDTH, STATE, "tanh"), Affine(STATE, STATE, "tanh"))
    cell = Cell(*maps, Affine(STATE, WIDTH))
    chain = TreeCell(*maps, cell.g_input, arity=1)
    layout = TreeRows(steps, 1, WIDTH)

    sequence = torch.randn(4, steps, WIDTH).double()
    children = [[1], [2], [3], [4], []]  # the last step is the root
    x = torch.stack([layout.row(children, s.flip(0).tolist()) for s in sequence]).double()
    x.unflatten(1, (steps, -1))[..., 1:] = sequence.flip(1)

    output = Affine(STATE, CLASSES)
    recurrent = Classifier(RecurrentPair(cell, steps), output=output).double()
    tree = Classifier(TreePair(chain, layout), output=output).double()
    there = RecurrentTargetPropRule(recurrent, difference=difference, learns=learns)
    here = TreeTargetPropRule(tree, difference=difference, telling=Telling(learns, empty=True))

    expected = there.losses((sequence.flatten(1), LABELS), at(0))
    terms = here.losses((x, LABELS), at(0))
    assert terms.keys() == expected.keys()
    parameters = list(recurrent.parameters())
    for name, term in terms.items():
        assert torch.equal(term, expected[name]), name
        ours = torch.autograd.grad(term, parameters, allow_unused=True)
        theirs = torch.autograd.grad(expected[name], parameters, allow_unused=True)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None and b is None) or torch.equal(a, b), name


# -- loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [True, False])
def test_an_exact_inverse_leaves_nothing_to_learn_but_the_label(difference):
    pair = test_trees.register(height=3)
    net = network(pair)
    terms = losses(net, test_trees.rows(), difference=difference, telling=ALL)
    label = terms.pop("label_f_2")
    if difference:
        del terms["target_f_1"]
    else:  # the label's target alone, as with the difference
        target = losses(net, test_trees.rows(), telling=EXACT)["target_f_1"]
        assert torch.allclose(terms.pop("target_f_1"), target, rtol=1e-9)

    assert label > 0
    assert len(terms) == 4 + (not difference)
    for name, term in terms.items():
        assert term.abs() < 1e-24, name


def told_below(cell, trees, node, p):
    """(node, what g told of it) for all nodes below one, by recursion."""
    children = trees.children[node - 1].tolist()
    for child, told in zip(children, cell.g_state(p).split(STATE), strict=True):
        if child > 0:
            yield child, told
            yield from told_below(cell, trees, child, told)


def test_loops_are_those_of_all_starts_written_out():
    net = curved()
    rule = TreeTargetPropRule(net, difference=False, telling=Telling(long=1.0))
    cell = net.pairs[0].cell
    x = test_trees.rows()
    reading = reading_of(net)
    trees, codes = reading.trees, reading.codes
    terms = rule.losses((x, LABELS), at(0))

    of_g = torch.zeros(()).double()
    of_f = torch.zeros(()).double()
    for start in range(1, len(codes)):
        for node, told in told_below(cell, trees, start, codes[start]):
            told = told.detach()
            output = reading.outputs()[node - 1]
            of_f = of_f + (output - told).square().sum()
            of_g = of_g + (cell.g_input(told) - trees.inputs[node - 1]).square().sum()
            children = zip(trees.children[node - 1], cell.g_state(told).split(STATE), strict=True)
            for child, p in children:
                if child > 0:
                    of_g = of_g + (p - codes[child]).square().sum()

    of_maps = {"long_f_1": (of_f, [cell.f]), "long_g_1": (of_g, [cell.g_state, cell.g_input])}
    for name, (total, maps) in of_maps.items():
        assert torch.allclose(terms[name], total / 4, rtol=1e-12), name
        weights = [layer.weight for layer in maps]
        both = gradients(terms[name], weights), gradients(total / 4, weights)
        for ours, theirs in zip(*both, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-14), name


def test_short_loops_are_recirculation():
    net = curved()
    rule = TreeTargetPropRule(net, telling=Telling(sigma=0.0, short=1.0))
    x = test_trees.rows()
    reading = reading_of(net)
    trees, codes = reading.trees, reading.codes

    total = 0.0
    for node in range(trees.leaves + 1, len(codes)):
        there = (trees.children[node - 1] > 0).repeat_interleave(STATE)
        told = net.pairs[0].cell.g_state(codes[node]) * there
        output = net.pairs[0].cell.step(told, trees.inputs[node - 1])
        total = total + (output - codes[node]).square().sum()

    assert torch.allclose(rule.losses((x, LABELS), at(0))["short_f_1"], total / 4, rtol=1e-12)


# -- auto-encoders --------------------------------------------------------------------------------


def transposed():
    """A linear f, and g of the same weights."""
    stack = Stack(orthogonal().pairs[0])
    cell = stack.pairs[0].cell
    with torch.no_grad():
        cell.f.weight += 0.1 * torch.randn_like(cell.f.weight)
        cell.g_state.weight.copy_(cell.f.weight[:, : ARITY * STATE].T)
        cell.g_input.weight.copy_(cell.f.weight[:, ARITY * STATE :].T)

    return stack


@pytest.mark.parametrize("hidden", [None, [3, 9, 12]])
def test_what_is_lacking_is_back_propagation_through_structure(hidden):
    """Of what is told from every node of all below it, and of itself."""
    pair = transposed().pairs[0]
    trees = pair.layout.trees(test_trees.rows())
    roots = None
    if hidden is not None:
        roots = torch.zeros(len(trees.children), dtype=torch.bool)
        roots[[node - 1 for node in hidden]] = True

    reading = Reading(pair, trees, Telling(sigma=0.0, long=1.0), roots)
    terms = reading.losses(torch.zeros_like(reading.codes[1:]), step=0.1)

    codes = pair.f.codes(trees, reading.seen)
    total = torch.zeros(()).double()
    for start in reading.nodes.tolist():
        told = [(start, codes[start]), *told_below(pair.cell, trees, start, codes[start])]
        for node, p in told:
            total = total + (pair.cell.g_input(p) - trees.inputs[node - 1]).square().sum() / 2

    f = list(pair.cell.f.parameters())
    both = gradients(terms["target_f_1"], f), gradients(total / len(SHAPES), f)
    for ours, theirs in zip(*both, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-13)


def test_hidden_subtrees_are_empty_and_have_no_targets_but_those_of_g():
    net = curved()
    pair = net.pairs[0]
    trees = pair.layout.trees(test_trees.rows())
    top = int(trees.children[trees.roots[0] - 1, 0])  # a node with two children
    hidden = torch.zeros(len(trees.children), dtype=torch.bool)
    hidden[top - 1] = True

    reading = Reading(pair, trees, hidden=hidden)
    below = [top, *trees.children[top - 1].tolist()]
    gone = torch.ones(len(hidden), dtype=torch.bool)
    gone[[node - 1 for node in below]] = False
    assert torch.equal(reading.seen, gone)
    assert (reading.codes[below] == 0).all()
    assert (reading.codes[1:][gone] != 0).all()

    runs = reading.runs()
    assert not set(runs[0].nodes.tolist()) & set(below)
    assert set(below) <= {node for told in runs[1:] for node in told.nodes.tolist()}
    moves = reading.displacements(torch.randn(len(hidden), STATE).double())
    assert torch.equal((moves != 0).any(1), gone)


@pytest.mark.exhaustive
def test_digits_are_told_again():
    """Better than from codes that are left as they were at the start."""
    data = Digits(50)
    x = data.split("valid").x
    errors = {}
    for rate in (0.0, 1e-3):
        torch.manual_seed(0)
        stack = Stack(tree_pair(Quadtree([8, 8], patch=2), 32))
        rates = Rates(f=rate, g=3e-3, hold=0.5)
        run = trainer(max_epochs=15, limit_val_batches=0)
        run.fit(TargetPropRule(stack, TreeLoop(), rates=rates), data)
        errors[rate] = (stack.reconstruct(x) - x).square().sum(1).mean().item()

    constant = (x - x.mean(0)).square().sum(1).mean().item()
    assert errors[1e-3] < errors[0.0] < constant


# -- what does not matter -------------------------------------------------------------------------


def test_the_order_of_nodes_is_irrelevant():
    shapes = [[[2, 1], [], [4, 3], [], []], *SHAPES[1:]]  # the first tree under other numbers
    values = test_trees.inputs()
    other = [values[0][[0, 2, 1, 4, 3]], *values[1:]]

    first = losses(curved(), test_trees.rows(SHAPES, values), telling=ALL)
    second = losses(curved(), test_trees.rows(shapes, other), telling=ALL)
    for name, term in first.items():
        assert torch.allclose(second[name], term, rtol=1e-12), name


def test_the_losses_of_a_batch_are_the_mean_of_those_of_its_trees():
    x = test_trees.rows()
    options = {"difference": False, "telling": ALL}
    whole = losses(curved(), x, **options)
    parts = [losses(curved(), x[i : i + 1], LABELS[i : i + 1], **options) for i in range(4)]

    for name, term in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert torch.allclose(term, mean, rtol=1e-12), name


def test_no_gradient_crosses_a_node():
    """f learns from one application at a time: from codes that are constants."""
    net = curved()
    terms = losses(net, test_trees.rows(), difference=False, telling=ALL)
    cell = net.pairs[0].cell
    maps = {"f": [cell.f], "g": [cell.g_state, cell.g_input], "output": [net.output]}

    for name, term in terms.items():
        own = "output" if name == "label_f_2" else name.split("_")[1]
        for other, layers in maps.items():
            found = [
                torch.autograd.grad(term, layer.weight, retain_graph=True, allow_unused=True)[0]
                for layer in layers
            ]
            assert any(g is not None for g in found) == (other == own), (name, other)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="one TreePair is needed"):
        TreeTargetPropRule(deep_classifier([8, 6, 6], 3))
    with pytest.raises(ValueError, match="one TreePair is needed"):
        TargetPropRule(deep_autoencoder([8, 6]), TreeLoop())
    with pytest.raises(ValueError, match="TreeLoop has its own noise"):
        TargetPropRule(transposed(), TreeLoop(), [GaussianNoise(0.1)] * 2)
    with pytest.raises(ValueError, match=r"telling\.long=-1"):
        Telling(long=-1.0)


def test_digits_are_read_as_quadtrees():
    """Better than a network whose codes are left as they were at the start."""
    errors = {}
    for name, cls, rates in (
        ("targets", TreeTargetPropRule, Rates(f=3e-3, g=3e-3, hold=0.5)),
        ("frozen", BackpropRule, Rates(f=[0.0, 3e-3], hold=0.5)),
    ):
        torch.manual_seed(0)
        rule = cls(tree_classifier(Quadtree([8, 8], patch=2), 32), rates=rates)
        run = trainer(max_epochs=3)
        run.fit(rule, Digits(20))
        errors[name] = run.callback_metrics["val/error"].item()

    assert errors["targets"] < 0.08
    assert errors["targets"] < errors["frozen"] - 0.08


def test_hidden_subtrees_do_not_make_trees_depend_on_each_other():
    """Losses are the mean of those of the trees, each with what is hidden of it."""
    pair = curved().pairs[0]
    x = test_trees.rows()
    mask = torch.ones(len(SHAPES), 6, dtype=torch.bool)
    mask[0, 1] = mask[1, 2] = mask[3, 3] = False

    def terms(rows, seen):
        trees = pair.layout.trees(rows)
        reading = Reading(pair, trees, ALL, ~seen.T.flatten()[trees.slots])
        return reading.losses(torch.zeros_like(reading.codes[1:]), step=0.1)

    whole = terms(x, mask)
    parts = [terms(x[i : i + 1], mask[i : i + 1]) for i in range(len(SHAPES))]
    for name, term in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert torch.allclose(term, mean, rtol=1e-12), name
