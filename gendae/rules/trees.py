"""Target propagation through structure: for classifiers of trees, and for auto-encoders of them.

A network that reads trees is a stack whose layers are the applications of one f to the nodes.
Targets come from a label at the root, or from what is told of the inputs, and go down by g, to all
children of a node at once, as far as the leaves:

    d = -step dL/dp at the root
    (d_1, .., d_k) = g(p + d) - g(p)                     (difference; Lee 2018, Eq. 3.15)
    f learns at every node, leaves included: p + d is a target for f(c_1, .., c_k, x)
    g learns at every node with children: c~ is a target for g(f(c~, x)), c~ = c + noise, and x

Loops of auto-encoding start at every node, and run down to the leaves:

    short   p is a target for f(g(p + noise), x)                            (recirculation)
    long    p^ = p at the start, (c^_1, .., c^_k, x^) = g(p^)
            c and x are targets for g(p^), at every node below the start
            c^ is a target for f at the child                   (without difference, as printed)

What is told of a code is no news to it: with the difference, a loop has d = c^ - c = 0 as long as
nothing but g lies in between. It is what the told inputs lack that makes one. That travels up
again from the leaves, by f, which g has learned to invert, to where the loop began, and adds to d
there:

    e = f(c^ + e_c, x) - f(c^, x^),  d = step e at the start            (2015, Eq. 12, by nodes)

No gradient crosses a node. All nodes share one f and one g, whose losses are added up.
Source: Bengio 2014, section 5, with the differences of Lee 2018.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import Corruption, normal_like, uniform_like
from gendae.laws import Gaussian
from gendae.layers.wrapped import change
from gendae.models.classifier import Classifier, label_loss
from gendae.models.stack import Stack
from gendae.models.trees import TreeCell, TreePair, Trees, children_of
from gendae.registry import built, register
from gendae.rules.chain import Corrupt
from gendae.rules.loops import Loop
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.recurrent import LEARNS
from gendae.rules.supervised import SupervisedRule
from gendae.rules.targets import first_displacement, missed, with_gradient


@register
@dataclass(frozen=True)
class Telling:
    """How g learns in the rules for trees, and the weights of the loops through it.

    Args:
        learns: what g_state learns to be, by how f answers to noise on the codes of children: f's
            "inverse", or the "transpose" of its Jacobian (see `RecurrentTargetPropRule`).
        sigma: standard deviation of the noise.
        short: weight of recirculation.
        long: weight of all that starts higher up.
        empty: g tells children that are not there, too, with their code 0: as a recurrent pair
            tells the state before the first step. Else these have no loss.

    Raises:
        ValueError: for an unknown name, negative numbers, and a transpose without noise.
    """

    learns: str = "inverse"
    sigma: float = 0.3
    short: float = 0.0
    long: float = 0.0
    empty: bool = False

    def __post_init__(self) -> None:
        checks.one_of("telling.learns", self.learns, LEARNS)
        checks.at_least("telling.sigma", self.sigma, 0.0, strict=self.learns == "transpose")
        checks.at_least("telling.short", self.short, 0.0)
        checks.at_least("telling.long", self.long, 0.0)


class Told(NamedTuple):
    """What g told of some nodes, from starts at one distance above them.

    Args:
        nodes: their numbers, (m,).
        codes: p^, (m, state).
        below: for each child of each node its place among what is told next, (m, arity); 0 for
            none.
    """

    nodes: Tensor
    codes: Tensor
    below: Tensor


class Reading:
    """A batch of trees as it was read, and the losses of the maps of a node around its codes.

    Losses are sums over nodes, mean over trees. Some subtrees may be hidden while it is read, in
    whose place stands the empty tree: f is not applied to their nodes, and g is to tell them.

    Args:
        pair: the maps.
        trees: the batch.
        telling: see `Telling`.
        hidden: whether a subtree is hidden, by the number of its root, (n,); None for none.
    """

    def __init__(
        self,
        pair: TreePair,
        trees: Trees,
        telling: Telling = Telling(),
        hidden: Tensor | None = None,
    ) -> None:
        self.cell: TreeCell = pair.cell
        self.trees = trees
        self.telling = telling
        self.seen: Tensor | None = None

        with torch.no_grad():
            self.codes = pair.f.codes(trees)
            self.whole = self.codes

            if hidden is not None:
                self.seen = trees.without(hidden)
                self.codes = pair.f.codes(trees, self.seen)

    @property
    def roots(self) -> Tensor:
        """Codes of the roots, (batch, state)."""
        return self.codes.index_select(0, self.trees.roots)

    @property
    def nodes(self) -> Tensor:
        """Numbers of the nodes that are seen."""
        numbers = torch.arange(1, len(self.codes), device=self.codes.device)
        if self.seen is None:
            return numbers

        return numbers[self.seen]

    def error(self, output: Tensor, target: Tensor, there: Tensor | None = None) -> Tensor:
        """|output - target|^2, where there is a target."""
        if len(output) == 0:
            return output.sum()

        if there is not None:
            output = torch.where(there, output, target)

        return F.mse_loss(output, target, reduction="sum") / self.trees.batch

    def share(self, output: Tensor) -> float:
        """Nodes for each tree."""
        return len(output) / max(1, self.trees.batch)

    def outputs(self) -> Tensor:
        """f of all nodes at once: their children's codes are constants."""
        return self.cell.step(children_of(self.codes, self.trees.children), self.trees.inputs)

    def real(self, children: Tensor, seen: bool = True) -> Tensor | None:
        """Which codes of children there are, (nodes, arity * state); None for all.

        Args:
            children: their numbers, (nodes, arity).
            seen: those that are seen.
        """
        if self.telling.empty:
            return None

        there = children > 0
        if seen and self.seen is not None:
            there = F.pad(self.seen, (1, 0))[children]

        return there.repeat_interleave(self.cell.state, 1)

    # -- targets ----------------------------------------------------------------------------------

    @torch.no_grad()
    def displacements(self, start: Tensor, difference: bool = True) -> Tensor:
        """d of all nodes, (n, state), from those that they have of their own.

        Args:
            start: (n, state).
            difference: with the correction; else d_i = g_i(p + d) - c_i.
        """
        moves = torch.cat([torch.zeros_like(self.codes[:1]), start])

        stop = len(moves)
        for count in reversed(self.trees.heights[1:]):  # parents lie higher than their children
            nodes = slice(stop - count, stop)
            children = self.trees.children[stop - count - 1 : stop - 1]
            told = self._down(self.codes[nodes], children, moves[nodes], difference)
            moves[children.flatten()] += told.view(-1, moves.shape[1])
            stop -= count

        if self.seen is not None:
            moves = moves * F.pad(self.seen, (1, 0))[:, None]
        return moves[1:]

    def _down(self, codes: Tensor, children: Tensor, move: Tensor, difference: bool) -> Tensor:
        """d of the children of some nodes, (nodes, arity * state), from those of the nodes."""
        if difference:
            return change(self.cell.g_state, codes, move)

        return self.cell.g_state(codes + move) - children_of(self.codes, children)

    def targets(self, moves: Tensor, step: float) -> Tensor:
        """|f(c, x) - (p + d)|^2 / (2 step)."""
        output = self.outputs()
        return missed(output, moves) * (self.share(output) / (2.0 * step))

    # -- how g learns -----------------------------------------------------------------------------

    def states(self, generator: Generator | None) -> Tensor:
        """The loss of g_state at all nodes with children."""
        nodes = slice(0 if self.telling.empty else self.trees.leaves, None)
        children = self.trees.children[nodes]
        real = self.real(children)

        with torch.no_grad():
            below = children_of(self.codes, children)
            noise = self.telling.sigma * normal_like(below, generator)
            if real is not None:
                noise = noise * real
            answer = self.cell.step(below + noise, self.trees.inputs[nodes])

        if self.telling.learns == "inverse":
            return self.error(self.cell.g_state(answer), below + noise, real)

        return self._transpose(self.codes[1:][nodes], answer, noise, real, generator)

    def _transpose(
        self,
        above: Tensor,
        answer: Tensor,
        noise: Tensor,
        real: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        """The local difference reconstruction loss (Ernoult et al. 2022)."""
        g = self.cell.g_state
        sigma = self.telling.sigma
        other = above + sigma * normal_like(above, generator)

        here = g(above)
        none = torch.zeros_like(here)
        agreement = (noise * (g(answer) - here)).sum() / max(1, self.trees.batch)

        return (self.error(g(other) - here, none, real) / 2.0 - agreement) / sigma**2

    def inputs(self, nodes: Tensor, codes: Tensor) -> Tensor:
        """|g_input(p) - x|^2 of those nodes that have an input."""
        seen = nodes <= self.trees.with_input
        output = self.cell.g_input(codes[seen])

        return self.error(output, self.trees.inputs[nodes[seen] - 1])

    # -- loops ------------------------------------------------------------------------------------

    @torch.no_grad()
    def runs(self) -> list[Told]:
        """The starts, which are all nodes, and what g tells of nodes 1, 2, .. below them."""
        told = self._told(self.nodes, self.codes[self.nodes])
        runs = [told]
        while bool((told.below > 0).any()):
            parents = told.nodes > self.trees.leaves
            below = told.below[parents].flatten()
            children = self.trees.children[told.nodes[parents] - 1].flatten()
            codes = self.cell.g_state(told.codes[parents]).view(len(children), -1)

            told = self._told(children[below > 0], codes[below > 0])
            runs.append(told)

        return runs

    def _told(self, nodes: Tensor, codes: Tensor) -> Told:
        children = self.trees.children[nodes - 1]
        there = (children > 0).flatten()
        below = torch.where(there, there.cumsum(0), 0)

        return Told(nodes, codes, below.view_as(children))

    def long_g(self, runs: Sequence[Told]) -> Tensor:
        """Children and inputs are targets for g wherever a run has come."""
        total = torch.zeros_like(self.codes[0, 0])
        for told in runs[1:]:
            parents = told.nodes > self.trees.leaves
            children = self.trees.children[told.nodes[parents] - 1]

            output = self.cell.g_state(told.codes[parents])
            below = children_of(self.whole, children)
            total = total + self.error(output, below, self.real(children, seen=False))
            total = total + self.inputs(told.nodes, told.codes)

        return total

    def long_f(self, runs: Sequence[Told]) -> Tensor:
        """What g told is a target for f, from every start above a node."""
        output = self.outputs()
        loss = torch.zeros_like(self.codes[0, 0])
        moves = torch.zeros_like(self.codes)
        for told in runs[1:]:
            move = told.codes - self.codes[told.nodes]
            if self.seen is not None:
                move = move * self.seen[told.nodes - 1, None]
            loss += move.square().sum()
            moves.index_add_(0, told.nodes, move)

        batch = max(1, self.trees.batch)
        return with_gradient(output, loss / batch, moves[1:] * (-2.0 / batch))

    @torch.no_grad()
    def lacks(self, runs: Sequence[Told]) -> Tensor:
        """e of all starts, (n, state): what the inputs told of them lack, brought up to them."""
        nothing = torch.zeros_like(self.codes[:1])
        codes_below = nothing
        lacks_below = nothing
        for told in reversed(runs):
            seen = (told.nodes <= self.trees.with_input)[:, None]
            given = self.trees.inputs[told.nodes - 1]
            lack = torch.where(seen, given - self.cell.g_input(told.codes), 0.0)

            before = torch.cat([children_of(codes_below, told.below), given - lack], 1)
            move = torch.cat([children_of(lacks_below, told.below), lack], 1)
            lacks = change(self.cell.f, before, move)

            codes_below = torch.cat([nothing, told.codes])
            lacks_below = torch.cat([nothing, lacks])

        starts = torch.zeros_like(self.codes)
        starts[self.nodes] = lacks_below[1:]
        return starts[1:]

    def recirculation(self, generator: Generator | None) -> Tensor:
        """|f(g(p + noise), x) - p|^2 of all nodes with children."""
        nodes = self.nodes[self.nodes > self.trees.leaves]
        above = self.codes[nodes]
        noisy = above + self.telling.sigma * normal_like(above, generator)

        with torch.no_grad():
            told = self.cell.g_state(noisy)
            real = self.real(self.trees.children[nodes - 1])
            if real is not None:
                told = told * real

        return self.error(self.cell.step(told, self.trees.inputs[nodes - 1]), above)

    def losses(
        self,
        start: Tensor,
        step: float,
        generator: Generator | None = None,
        difference: bool = True,
    ) -> dict[str, Tensor]:
        """All losses of f and g.

        Args:
            start: d of the nodes of their own, (n, state).
            step: by which d is multiplied.
            generator: source of noise.
            difference: see `displacements`.
        """
        short = self.telling.short
        long = self.telling.long
        runs: list[Told] = []
        if long > 0:
            runs = self.runs()
        if long > 0 and difference:
            start = start + long * step * self.lacks(runs)

        moves = self.displacements(start, difference)
        terms = {
            "target_f_1": self.targets(moves, step),
            "state_g_1": self.states(generator),
            "input_g_1": self.inputs(self.nodes, self.codes[self.nodes]),
        }
        if short > 0:
            terms["short_f_1"] = short * self.recirculation(generator)
        if long > 0:
            terms["long_g_1"] = long * self.long_g(runs)
        if long > 0 and not difference:
            terms["long_f_1"] = long * self.long_f(runs)

        return terms


def need_tree_pair(name: str, stack: Stack) -> None:
    """Raise a ValueError unless a stack is one `TreePair`."""
    pair = stack.pairs[0]
    if stack.depth != 1 or not isinstance(pair, TreePair):
        raise ValueError(
            f"{name} does not support this network: one TreePair is needed, through whose nodes "
            "targets go down"
        )


@register
class TreeTargetPropRule(SupervisedRule):
    """A classifier of trees learns from targets that go down from the root.

    target_f_1: sum over nodes of |f(c, x) - (p + d)|^2 / (2 step)
    state_g_1:  sum over nodes with children of |g_state(f(c~, x)) - c~|^2  (see `Telling`)
    input_g_1:  sum over nodes of |g_input(p) - x|^2
    short_f_1, long_g_1, long_f_1: of the loops, where they have a weight
    label_f_2:  cross-entropy of the label, in nats

    Divided by the step, the gradient by f is that of back-propagation through structure where g is
    the transpose of f's Jacobian, as it is for linear f of orthonormal rows with that g. A tree in
    which every node has one child is a sequence: `RecurrentTargetPropRule`.
    Source: Bengio 2014, section 5; Lee 2018, Eq. 3.7, 3.13, 3.15.

    Args:
        stack: a classifier of one `TreePair`.
        step: length of the first displacement, in squared units of p per nat.
        difference: with the correction; without it targets are the reconstructions themselves,
            d_i = g_i(p + d) - c_i.
        telling: how g learns, and the loops; see `Telling`.
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
        difference: bool = True,
        telling: Telling = Telling(),
        input_corruption: Corruption | None = None,
        rates: Rates = Rates(f=3e-3, g=3e-3, hold=0.5, clip=1.0),
        log_every: int = 50,
    ) -> None:
        super().__init__(stack, input_corruption, rates=rates, log_every=log_every)
        need_tree_pair("TreeTargetPropRule", self.stack)

        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.difference = bool(difference)
        self.telling = built("telling", telling, Telling)

    def idle(self) -> list[nn.Module]:
        return self.laws()

    def phase(self, moment: Moment) -> None:
        """None: the shapes of trees are found out in Python."""

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        pair = self.stack.pairs[0]
        reading = Reading(pair, pair.layout.trees(x), self.telling)
        start = self.first(reading, y)

        terms = reading.losses(start, self.step, moment.generator, self.difference)
        terms["label_f_2"] = label_loss(self.stack.output(reading.roots)[None], y)

        return terms

    def first(self, reading: Reading, y: Tensor) -> Tensor:
        """d of the label, (n, state): -step dL/dp at the roots."""
        start = torch.zeros_like(reading.codes)
        start[reading.trees.roots] = first_displacement(self.stack, reading.roots, y, self.step)

        return start[1:]


@register
class TreeLoop(Loop):
    """Loops from every node, for a stack of one tree pair: it learns to tell what it has read.

    The terms are those of `TreeTargetPropRule` without a label, where d comes from what the told
    inputs lack. For a linear f, and its transpose as g, the gradient by f is that of
    back-propagation through structure of |x^ - x|^2 / 2, x^ told from each node of all below it.
    Source: Bengio 2014, section 5; Bengio et al. 2015, Eq. 12; Lee 2018, Eq. 3.15.

    Args:
        hide: probability that a subtree is hidden where its root is not hidden yet, as it is when
            a tree is completed; what is told of it counts all the same.
        step: by which d is multiplied; f's loss is divided by it.
        telling: how g learns, and the loops; see `Telling`. Its long loops are those that move f.

    Raises:
        ValueError: for numbers out of range; for another stack, and noise of its user's.

    Example:
        >>> from gendae import Stack, TargetPropRule
        >>> from gendae.models.architectures import tree_pair
        >>> from gendae.models.trees import Quadtree
        >>> rule = TargetPropRule(Stack(tree_pair(Quadtree([4, 4], patch=1))), TreeLoop())
        >>> list(rule.losses((torch.rand(10, 16),)))
        ['target_f_1', 'state_g_1', 'input_g_1', 'long_g_1']
    """

    def __init__(
        self,
        hide: float = 0.1,
        step: float = 0.1,
        telling: Telling = Telling(sigma=0.1, long=1.0),
    ) -> None:
        super().__init__()
        self.hide = checks.share("hide", hide)
        self.step = checks.at_least("step", step, 0.0, strict=True)
        self.telling = built("telling", telling, Telling)

    def prepare(self, stack: Stack, corruption: Sequence[Corruption] | None = None) -> None:
        need_tree_pair("TreeLoop", stack)
        pair = stack.pairs[0]
        if type(pair.observation) is not Gaussian or pair.recognition.learnable:
            raise ValueError(
                "TreeLoop tells means in the sense of least squares, and teaches no law with "
                "parameters; accepted: Gaussian()"
            )
        if corruption is not None:
            raise ValueError(
                "TreeLoop has its own noise, `telling.sigma`: corruption must be None"
            )

    def phase(self, moment: Moment) -> None:
        """None: the shapes of trees are found out in Python."""

    def losses(
        self, stack: Stack, x: Tensor, corrupt: Corrupt, moment: Moment
    ) -> dict[str, Tensor]:
        pair = stack.pairs[0]
        trees = pair.layout.trees(x)
        hidden = self.hidden(trees, moment) if self.hide > 0 else None

        reading = Reading(pair, trees, self.telling, hidden)
        start = torch.zeros_like(reading.codes[1:])

        return reading.losses(start, self.step, moment.generator)

    def hidden(self, trees: Trees, moment: Moment) -> Tensor:
        """Roots of hidden subtrees, (n,); the whole tree is never hidden."""
        draws = uniform_like(trees.inputs[:, :1], moment.generator)[:, 0]
        hidden = draws < self.hide
        hidden[trees.roots - 1] = False

        return hidden
