"""Target propagation through structure, for classifiers of trees.

A network that reads trees is a stack whose layers are the applications of one f to the nodes. The
first target is that of the root, from the output layer; it goes down by g, to all children of a
node at once, as far as the leaves:

    h^ = p - step dL/dp at the root,  d = h^ - p
    (d_1, .., d_k) = g(p + d) - g(p)                     (difference; Lee 2018, Eq. 3.15)
    f learns at every node, leaves included: p + d is a target for f(c_1, .., c_k, x)
    g learns at every node with children: c~ is a target for g(f(c~, x)), c~ = c + noise, and x

Loops of auto-encoding start at every node that has children, and run down to the leaves:

    short   p is a target for f(g(p + noise), x)                            (recirculation)
    long    p^ = p at the start, (c^_1, .., c^_k, x^) = g(p^)
            c and x are targets for g(p^), at every node below the start
            c^ is a target for f at the child

With the difference a loop without label starts with d = 0, which stays 0 all the way down: then
long loops teach g alone. Without it they move f towards what g tells.

No gradient crosses a node. All nodes share one f and one g, whose losses are added up.
Source: Bengio 2014, section 5, with the differences of Lee 2018.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, normal_like
from gendae.models.classifier import Classifier, label_loss
from gendae.models.trees import TreePair, Trees, children_of
from gendae.registry import built, register
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import change, first_displacement, missed, squared_error, with_gradient


@register
@dataclass(frozen=True)
class TreeLoops:
    """Weights of the loops of `TreeTargetPropRule`, and where g learns.

    Args:
        short: of recirculation.
        long: of all that starts higher up.
        empty: g tells children that are not there, too, with their code 0: as a recurrent pair
            tells the state before the first step. Else these have no loss.

    Raises:
        ValueError: for a negative weight.
    """

    short: float = 0.0
    long: float = 0.0
    empty: bool = False

    def __post_init__(self) -> None:
        checks.at_least("loops.short", self.short, 0.0)
        checks.at_least("loops.long", self.long, 0.0)


class Told(NamedTuple):
    """What g told of some nodes, from starts at one distance above them.

    Args:
        nodes: their numbers, (m,).
        codes: p^, (m, state).
    """

    nodes: Tensor
    codes: Tensor


@register
class TreeTargetPropRule(SupervisedRule):
    """A classifier of trees learns from targets that go down from the root.

    target_f_1: sum over nodes of |f(c, x) - (p + d)|^2 / (2 step)
    state_g_1:  sum over nodes with children of |g_state(f(c~, x)) - c~|^2
    input_g_1:  sum over nodes of |g_input(p) - x|^2
    short_f_1, long_f_1, long_g_1: of the loops, where they have a weight
    label_f_2:  cross-entropy of the label, in nats

    Divided by the step, the gradient by f is that of back-propagation through structure where g is
    the transpose of f's Jacobian, as it is for linear f of orthonormal rows with that g. A tree in
    which every node has one child is a sequence: `RecurrentTargetPropRule`.
    Source: Bengio 2014, section 5; Lee 2018, Eq. 3.7, 3.13, 3.15.

    Args:
        stack: a classifier of one `TreePair`.
        step: length of the first displacement, in squared units of p per nat.
        sigma: standard deviation of the noise at which g_state learns to invert f.
        difference: with the correction; without it targets are the reconstructions themselves,
            d_i = g_i(p + d) - c_i.
        loops: see `TreeLoops`.
        input_corruption, rates, log_every: see `SupervisedRule`.

    Raises:
        ValueError: for another network, and numbers out of range.

    Example:
        >>> from gendae.models.architectures import tree_classifier
        >>> from gendae.models.trees import Quadtree
        >>> rule = TreeTargetPropRule(tree_classifier(Quadtree([4, 4], patch=1), classes=3))
        >>> list(rule.losses((torch.rand(10, 16), torch.randint(3, (10,)))))
        ['target_f_1', 'state_g_1', 'input_g_1', 'label_f_2']
    """

    def __init__(
        self,
        stack: Classifier,
        step: float = 0.1,
        sigma: float = 0.3,
        difference: bool = True,
        loops: TreeLoops = TreeLoops(),
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        if self.stack.depth != 1 or not isinstance(self.stack.pairs[0], TreePair):
            self.refuse("one TreePair is needed, through whose nodes targets go down")

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.sigma = checks.at_least("sigma", sigma, 0.0)
        self.difference = bool(difference)
        self.loops = built("loops", loops, TreeLoops)

    @property
    def pair(self) -> TreePair:
        return self.stack.pairs[0]

    def idle(self) -> list[nn.Module]:
        return self.laws()

    def phase(self, moment: Moment) -> None:
        """None: the shapes of trees are found out in Python."""

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        with torch.no_grad():
            trees = self.pair.layout.trees(x)
            codes = self.pair.f.codes(trees)
            moves = self.displacements(codes, trees, y)
            loops = []
            if self.loops.long > 0:
                loops = list(self.runs(codes, trees))

        terms = {
            "target_f_1": self._targets(codes, trees, moves),
            "state_g_1": self._inverses(codes, trees, moment),
            "input_g_1": self._inputs(Told(_all(codes), codes[1:]), trees),
        }
        if self.loops.short > 0:
            terms["short_f_1"] = self.loops.short * self._recirculation(codes, trees, moment)
        if self.loops.long > 0:
            terms["long_g_1"] = self.loops.long * self._long_g(loops, codes, trees)
        if self.loops.long > 0 and not self.difference:
            terms["long_f_1"] = self.loops.long * self._long_f(loops, codes, trees)

        roots = codes.index_select(0, trees.roots)
        terms["label_f_2"] = label_loss(self.stack.output(roots)[None], y)

        return terms

    # -- targets from the label ------------------------------------------------------------------

    @torch.no_grad()
    def displacements(self, codes: Tensor, trees: Trees, y: Tensor) -> Tensor:
        """d of all nodes, (n, state).

        Args:
            codes: of all nodes by their numbers, see `TreeReader.codes`.
            trees: their shape.
            y: class indices, (batch,).
        """
        roots = codes.index_select(0, trees.roots)
        moves = torch.zeros_like(codes)
        moves[trees.roots] = first_displacement(self.stack, roots, y, self.step)

        stop = len(codes)
        for count in reversed(trees.heights[1:]):  # parents lie higher than their children
            nodes = slice(stop - count, stop)
            children = trees.children[stop - count - 1 : stop - 1]
            told = self._down(codes, nodes, children, moves[nodes])
            moves[children.flatten()] = told.view(-1, codes.shape[1])
            stop -= count

        return moves[1:]

    def _down(self, codes: Tensor, nodes: slice, children: Tensor, move: Tensor) -> Tensor:
        """d of the children of some nodes, (nodes, arity * state), from those of the nodes."""
        g = self.pair.cell.g_state
        if self.difference:
            return change(g, codes[nodes], move)

        return g(codes[nodes] + move) - children_of(codes, children)

    def _targets(self, codes: Tensor, trees: Trees, moves: Tensor) -> Tensor:
        """target_f_1."""
        output = self._step(codes, trees)
        return missed(output, moves) * (_share(output, trees) / (2.0 * self.step))

    def _step(self, codes: Tensor, trees: Trees) -> Tensor:
        """f of all nodes at once: their children's codes are constants."""
        return self.pair.cell.step(children_of(codes, trees.children), trees.inputs)

    # -- how g learns ----------------------------------------------------------------------------

    def _inverses(self, codes: Tensor, trees: Trees, moment: Moment) -> Tensor:
        """state_g_1."""
        cell = self.pair.cell
        nodes = slice(0 if self.loops.empty else trees.leaves, None)
        children = trees.children[nodes]
        there = self._there(children)

        below = children_of(codes, children)
        noise = self.sigma * normal_like(below, moment.generator)
        if there is not None:
            noise = noise * there
        noisy = below + noise
        with torch.no_grad():
            given = cell.step(noisy, trees.inputs[nodes])

        return _error(cell.g_state(given), noisy, there, trees)

    def _there(self, children: Tensor) -> Tensor | None:
        """Which codes of children g is to tell, (nodes, arity * state); None for all."""
        if self.loops.empty:
            return None

        return (children > 0).repeat_interleave(self.pair.cell.state, 1)

    def _inputs(self, told: Told, trees: Trees) -> Tensor:
        """|x^ - x|^2 of nodes that have an input."""
        seen = told.nodes <= trees.with_input
        output = self.pair.cell.g_input(told.codes[seen])

        return _error(output, trees.inputs[told.nodes[seen] - 1], None, trees)

    # -- loops -----------------------------------------------------------------------------------

    def runs(self, codes: Tensor, trees: Trees) -> Iterator[Told]:
        """What g tells of nodes 1, 2, .. below its starts, which are all nodes with children."""
        told = Told(_all(codes), codes[1:])
        while True:
            told = self._below(told, trees)
            if len(told.nodes) == 0:
                return
            yield told

    def _below(self, told: Told, trees: Trees) -> Told:
        """The children of the nodes that were told."""
        parents = told.nodes > trees.leaves
        children = trees.children[told.nodes[parents] - 1].flatten()
        codes = self.pair.cell.g_state(told.codes[parents]).view(
            len(children), told.codes.shape[1]
        )
        there = children > 0

        return Told(children[there], codes[there])

    def _long_g(self, runs: list[Told], codes: Tensor, trees: Trees) -> Tensor:
        """long_g_1: children and inputs are targets for g wherever a run has come."""
        total = torch.zeros_like(codes[0, 0])
        for told in runs:
            parents = told.nodes > trees.leaves
            children = trees.children[told.nodes[parents] - 1]
            there = self._there(children)

            output = self.pair.cell.g_state(told.codes[parents])
            total = total + _error(output, children_of(codes, children), there, trees)
            total = total + self._inputs(told, trees)

        return total

    def _long_f(self, runs: list[Told], codes: Tensor, trees: Trees) -> Tensor:
        """long_f_1: what g told is a target for f, from every start above a node."""
        output = self._step(codes, trees)
        loss = torch.zeros_like(codes[0, 0])
        moves = torch.zeros_like(codes)
        for told in runs:
            move = told.codes - codes[told.nodes]
            loss += move.square().sum()
            moves.index_add_(0, told.nodes, move)

        batch = max(1, trees.batch)
        return with_gradient(output, loss / batch, moves[1:] * (-2.0 / batch))

    def _recirculation(self, codes: Tensor, trees: Trees, moment: Moment) -> Tensor:
        """short_f_1."""
        cell = self.pair.cell
        nodes = slice(trees.leaves, None)
        above = codes[1:][nodes]
        noisy = above + self.sigma * normal_like(above, moment.generator)

        with torch.no_grad():
            told = cell.g_state(noisy)
            there = self._there(trees.children[nodes])
            if there is not None:
                told = told * there

        return _error(cell.step(told, trees.inputs[nodes]), above, None, trees)


def _all(codes: Tensor) -> Tensor:
    """Numbers of all nodes, (n,)."""
    return torch.arange(1, len(codes), device=codes.device)


def _share(output: Tensor, trees: Trees) -> float:
    """Nodes for each tree."""
    return len(output) / max(1, trees.batch)


def _error(output: Tensor, target: Tensor, there: Tensor | None, trees: Trees) -> Tensor:
    """|output - target|^2, the sum over nodes, mean over trees."""
    if len(output) == 0:
        return output.sum()

    if there is not None:
        output = torch.where(there, output, target)

    return _share(output, trees) * squared_error(output, target)
