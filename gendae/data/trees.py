"""Trees as rows, see `models.trees.TreeRows`: parse trees, and expressions that have a value.

The parse trees are those of the interpreter's own standard library, which every Python brings
along. One node of a tree is hidden, and its type is to be told from the rest. For that the tree is
seen from the hidden node: it is the root, and what hangs from it are its parent, its siblings to
the left and to the right, and its first child, each with what lies behind it,

    from a parent            its parent, the siblings on both sides
    from a sibling           the next one in the same direction, and its first child
    from a first child       the next sibling, and its first child

so that every other node of the file hangs in one place, the near ones high up.
"""

import ast
import random
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from gendae import checks
from gendae.data.base import SPLITS, Data, shuffled_splits
from gendae.data.loader import Split
from gendae.models.trees import TreeRows
from gendae.registry import register

#: Types of nodes, of the grammars from Python 3.10 on: files of one version read those of another.
TYPES = (
    *("Module", "FunctionDef", "AsyncFunctionDef", "ClassDef", "Return", "Delete", "Assign"),
    *("AugAssign", "AnnAssign", "For", "AsyncFor", "While", "If", "With", "AsyncWith", "Match"),
    *("Raise", "Try", "Assert", "Import", "ImportFrom", "Global", "Nonlocal", "Expr", "Pass"),
    *("Break", "Continue", "BoolOp", "NamedExpr", "BinOp", "UnaryOp", "Lambda", "IfExp", "Dict"),
    *("Set", "ListComp", "SetComp", "DictComp", "GeneratorExp", "Await", "Yield", "YieldFrom"),
    *("Compare", "Call", "FormattedValue", "JoinedStr", "Constant", "Attribute", "Subscript"),
    *("Starred", "Name", "List", "Tuple", "Slice", "And", "Or", "Add", "Sub", "Mult", "MatMult"),
    *("Div", "Mod", "Pow", "LShift", "RShift", "BitOr", "BitXor", "BitAnd", "FloorDiv"),
    *("Invert", "Not", "UAdd", "USub", "Eq", "NotEq", "Lt", "LtE", "Gt", "GtE", "Is", "IsNot"),
    *("In", "NotIn", "comprehension", "ExceptHandler", "arguments", "arg", "keyword", "alias"),
    *("withitem", "match_case", "other"),
)
#: Symbol of the hidden node; type i is i + 1.
HIDDEN = 0
#: Where what hangs from a node stands among its children.
PARENT, PREVIOUS, NEXT, FIRST = range(4)
#: What hangs from a node, by its own place: what has been seen before does not.
BEHIND = {
    None: (PARENT, PREVIOUS, NEXT, FIRST),
    PARENT: (PARENT, PREVIOUS, NEXT),
    PREVIOUS: (PREVIOUS, FIRST),
    NEXT: (NEXT, FIRST),
    FIRST: (NEXT, FIRST),
}


class ParseTree(NamedTuple):
    """The nodes of a file.

    Args:
        types: of each node, an index of `TYPES`.
        links: its parent, previous and next sibling, and first child; -1 for none.
    """

    types: list[int]
    links: list[tuple[int, int, int, int]]


def parsed(source: bytes | str) -> ParseTree:
    """The parse tree of a file, without the contexts of names (Load, Store, Del).

    Example:
        >>> tree = parsed("x = 1")
        >>> [TYPES[i] for i in tree.types]
        ['Module', 'Assign', 'Name', 'Constant']
        >>> tree.links[2]
        (1, -1, 3, -1)
    """
    number = {name: i for i, name in enumerate(TYPES)}
    types: list[int] = []
    links: list[tuple[int, int, int, int]] = []

    def enter(node: ast.AST, parent: int, previous: int) -> int:
        mine = len(types)
        types.append(number.get(type(node).__name__, number["other"]))
        links.append((parent, previous, -1, -1))

        first = last = -1
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr_context):
                continue

            entered = enter(child, mine, last)
            if last >= 0:
                links[last] = (*links[last][:NEXT], entered, links[last][FIRST])
            else:
                first = entered
            last = entered

        links[mine] = (parent, previous, -1, first)
        return mine

    enter(ast.parse(source), -1, -1)
    return ParseTree(types, links)


def around(tree: ParseTree, hidden: int, nodes: int) -> tuple[list[list[int]], list[int]]:
    """The nodes nearest to a hidden one: their children and symbols, as `TreeRows.row` takes them.

    Args:
        tree: of the file.
        hidden: number of the node.
        nodes: how many there may be.
    """
    symbols = [HIDDEN]
    children = [[0] * 4]
    waiting = deque([(hidden, 0, None)])
    while waiting and len(symbols) < nodes:
        node, at, place = waiting.popleft()
        for link in BEHIND[place]:
            other = tree.links[node][link]
            if other >= 0 and len(symbols) < nodes:
                children[at][link] = len(symbols)
                waiting.append((other, len(symbols), link))
                symbols.append(tree.types[other] + 1)
                children.append([0] * 4)

    return children, symbols


def library_files() -> list[Path]:
    """Modules of the standard library that are a single file, by name.

    That leaves out packages, and whatever is built in or installed beside it.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)]

    return [path for path in paths if path.is_file()]


@register
class StandardLibrary(Data):
    """Parse trees of Python's standard library with one hidden node, whose type is the label.

    The files are shared out: 80 % of them have the training examples, 10 % each those of
    validation and test. Which files there are, and what is in them, is a matter of the Python
    version; a model remembers the SHA-256 of what it was trained on.

    Args:
        nodes: of a tree, the hidden one and the nearest others.
        n: number of examples in all.
        batch_size, seed: see `Data`; the seed shares the files out, and draws the nodes.

    Raises:
        ValueError: for numbers out of range.
        FileNotFoundError: in use, for a Python without the sources of its library.

    Example:
        >>> data = StandardLibrary(nodes=8, n=100)
        >>> data.layout.arity, data.layout.width == len(TYPES) + 1
        (4, True)
    """

    def __init__(
        self, nodes: int = 32, n: int = 50_000, batch_size: int = 100, seed: int = 0
    ) -> None:
        super().__init__(batch_size, seed)
        self.nodes = checks.whole("nodes", nodes, 2, checks.REPEATS)
        self.n = checks.whole("n", n, 10)

    @property
    def layout(self) -> TreeRows:
        """What the rows are."""
        return TreeRows(self.nodes, arity=4, width=len(TYPES) + 1, symbols=True)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        files = library_files()
        if len(files) < len(SPLITS):
            raise FileNotFoundError(
                f"{sysconfig.get_paths()['stdlib']} has no sources of the standard library"
            )

        draw = random.Random(self.seed)
        draw.shuffle(files)

        tenth = max(1, len(files) // 10)
        shares = {"test": files[:tenth], "valid": files[tenth : 2 * tenth]}
        shares["train"] = files[2 * tenth :]
        numbers = {"test": self.n // 10, "valid": self.n // 10}
        numbers["train"] = self.n - sum(numbers.values())

        splits = {name: self._examples(shares[name], numbers[name], draw) for name in shares}
        self.identify(
            "the standard library of Python", **{name: split.x for name, split in splits.items()}
        )
        return splits, (1, self.layout.features)

    def _examples(self, files: list[Path], n: int, draw: random.Random) -> Split:
        """Nodes of the files, each of them as often as is in proportion to its length."""
        sizes = [path.stat().st_size for path in files]
        numbers = Counter(draw.choices(range(len(files)), sizes, k=n))
        layout = self.layout

        rows = []
        labels = []
        for file, number in sorted(numbers.items()):
            tree = parsed(files[file].read_bytes())
            for node in draw.choices(range(len(tree.types)), k=number):
                rows.append(layout.row(*around(tree, node, self.nodes)))
                labels.append(tree.types[node])

        return Split(torch.stack(rows), torch.tensor(labels))


# -- expressions ---------------------------------------------------------------------------------

#: Symbols of ListOps: the digits, and what the functions make of digits.
OPERATORS = {
    "MIN": min,
    "MAX": max,
    "MED": lambda digits: sorted(digits)[(len(digits) - 1) // 2],
    "SM": lambda digits: sum(digits) % 10,
}
MOST_ARGUMENTS = 3
#: The other arguments of an operator are no deeper than this, so that depth is paid in proportion.
SIDE = 2


class Expression(NamedTuple):
    """An expression: a digit, or an operator with its arguments."""

    symbol: int
    arguments: tuple["Expression", ...] = ()

    @property
    def value(self) -> int:
        """0 .. 9."""
        if not self.arguments:
            return self.symbol

        operator = list(OPERATORS.values())[self.symbol - 10]
        return operator([argument.value for argument in self.arguments])

    def walk(self) -> Iterator["Expression"]:
        """All its parts, operators before their arguments."""
        yield self
        for argument in self.arguments:
            yield from argument.walk()


def expression(depth: int, draw: random.Random) -> Expression:
    """A random expression of this depth exactly; a digit has depth 0.

    Example:
        >>> e = expression(2, random.Random(3))
        >>> 0 <= e.value <= 9
        True
    """
    if depth == 0:
        return Expression(draw.randrange(10))

    number = draw.randint(2, MOST_ARGUMENTS)
    depths = [draw.randint(0, min(depth - 1, SIDE)) for _ in range(number)]
    depths[draw.randrange(number)] = depth - 1
    operator = 10 + draw.randrange(len(OPERATORS))

    return Expression(operator, tuple(expression(below, draw) for below in depths))


def most_nodes(depth: int) -> int:
    """Of an expression of this depth."""
    if depth == 0:
        return 1

    side = (MOST_ARGUMENTS - 1) * most_nodes(min(depth - 1, SIDE))
    return 1 + most_nodes(depth - 1) + side


@register
class ListOps(Data):
    """Nested expressions such as [MAX 2 [MIN 4 7] 0], whose value 0 .. 9 is the label.

    Operators of two or three arguments: the least, the greatest, the (lower) median, and the sum
    modulo 10. In splits of 80, 10 and 10 %.
    Source: Nangia and Bowman 2018, with an exact depth.

    Args:
        depths: of the expressions, by turns: the number of operators above the deepest digit.
        n: number of expressions in all.
        nodes: room for nodes; that of the deepest expression if None.
        batch_size, seed: see `Data`; the seed draws the expressions too.

    Raises:
        ValueError: for no depth, numbers out of range, and less room than is needed.

    Example:
        >>> data = ListOps([1, 2], n=100)
        >>> data.split("train").x.shape, data.layout.nodes
        (torch.Size([80, 52]), 13)
    """

    def __init__(
        self,
        depths: list[int],
        n: int = 20_000,
        nodes: int | None = None,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.depths = checks.wholes("depths", depths, 1, 100)
        if not self.depths:
            raise ValueError(f"depths={depths}: one depth is needed at least")

        self.n = checks.whole("n", n, 10)
        self.nodes = nodes
        if nodes is not None:
            checks.whole("nodes", nodes, most_nodes(max(self.depths)), checks.REPEATS)

    @property
    def layout(self) -> TreeRows:
        """What the rows are."""
        nodes = self.nodes or most_nodes(max(self.depths))
        return TreeRows(nodes, MOST_ARGUMENTS, width=10 + len(OPERATORS), symbols=True)

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        draw = random.Random(self.seed)
        layout = self.layout

        rows = []
        labels = []
        for i in range(self.n):
            drawn = expression(self.depths[i % len(self.depths)], draw)
            rows.append(layout.row(*_nodes_of(drawn)))
            labels.append(drawn.value)

        x = torch.stack(rows)
        splits = shuffled_splits(x, torch.tensor(labels), (0.1, 0.1), self.seed)

        return splits, (1, layout.features)


def _nodes_of(drawn: Expression) -> tuple[list[list[int]], list[int]]:
    """Children and symbols of an expression's nodes, as `TreeRows.row` takes them."""
    parts = list(drawn.walk())
    number = {id(part): i for i, part in enumerate(parts)}
    children = [[number[id(argument)] for argument in part.arguments] for part in parts]

    return children, [part.symbol for part in parts]
