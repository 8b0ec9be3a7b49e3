"""How the code reads: figures of the source text, printed here, kept by tests/test_structure.py.

    python -m benchmarks.reading [FOLDER] [--json FILE] [--worst]

Docstrings, comments and blank lines are no lines of code. A line inside a function is one between
the end of its docstring and its own end; nested functions belong to the outermost one.
"""

import argparse
import ast
import json
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDTH = 99

Function = ast.FunctionDef | ast.AsyncFunctionDef
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


def sources(folder: Path) -> list[Path]:
    """Python files of a folder, without hidden ones."""
    return sorted(
        f for f in folder.rglob("*.py") if not f.relative_to(folder).parts[0].startswith(".")
    )


@cache
def parsed(path: Path) -> ast.Module:
    """The tree of a file, kept: each figure is of all files."""
    return ast.parse(path.read_text())


def functions(tree: ast.AST) -> Iterator[Function]:
    """Outermost functions and methods, in the order of the text."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        else:
            yield from functions(node)


def body_lines(function: Function) -> range:
    """Numbers of the lines after the docstring, up to the function's end."""
    body = function.body
    after_docstring = body[1:] if ast.get_docstring(function) else body
    if not after_docstring:
        return range(0)

    first = after_docstring[0].lineno
    return range(first, function.end_lineno + 1)


def code_lines(path: Path, function: Function) -> int:
    """Lines of code of a function, signature included."""
    lines = path.read_text().split("\n")
    body = body_lines(function)
    signature = range(function.lineno, function.body[0].lineno)
    texts = [lines[number - 1].strip() for number in (*signature, *body)]
    return sum(bool(text) and not text.startswith("#") for text in texts)


# -- figures -----------------------------------------------------------------------------------


def wide_lines(folder: Path) -> list[str]:
    """Lines beyond 99 columns, as FILE:LINE."""
    return [
        f"{path.relative_to(folder)}:{number}"
        for path in sources(folder)
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > WIDTH
    ]


def blank_share(folder: Path) -> float:
    """Blank lines in 100 lines inside functions."""
    blank, total = 0, 0
    for path in sources(folder):
        lines = path.read_text().split("\n")
        for function in functions(parsed(path)):
            texts = [lines[number - 1].strip() for number in body_lines(function)]
            blank += texts.count("")
            total += len(texts)
    return 100.0 * blank / total


def conditional_share(folder: Path) -> float:
    """Conditional expressions in 100 assignments."""
    nodes = [node for path in sources(folder) for node in ast.walk(parsed(path))]
    conditionals = sum(isinstance(node, ast.IfExp) for node in nodes)
    assignments = sum(isinstance(node, ASSIGNMENTS) for node in nodes)
    return 100.0 * conditionals / assignments


def function_lengths(folder: Path) -> dict[str, int]:
    """Lines of code of each function, by FILE:LINE NAME."""
    return {
        f"{path.relative_to(folder)}:{function.lineno} {function.name}": code_lines(path, function)
        for path in sources(folder)
        for function in functions(parsed(path))
    }


def constructor_arguments(folder: Path) -> dict[str, int]:
    """Number of constructor arguments of each class that declares them.

    Fields of a dataclass or NamedTuple count as arguments.
    """
    counts = {}
    for path in sources(folder):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                count = _declared(node)
                if count is not None:
                    counts[node.name] = count
    return counts


def _declared(cls: ast.ClassDef) -> int | None:
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args
            return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1

    names = [ast.unparse(base) for base in (*cls.bases, *cls.decorator_list)]
    if not any("NamedTuple" in name or "dataclass" in name for name in names):
        return None
    return sum(isinstance(node, ast.AnnAssign) for node in cls.body)


def import_cycles(package: Path) -> list[list[str]]:
    """Groups of modules that import one another, directly or round about.

    Imports inside functions do not count.
    """
    modules = {_module(path, package): path for path in sources(package)}
    arrows = {
        name: _imported(path, modules.keys()) - {package.name} for name, path in modules.items()
    }
    reach = {name: _reachable(name, arrows) for name in arrows}
    together = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in arrows}
    return sorted(sorted(group) for group in together if group)


def _module(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _imported(path: Path, modules: AbstractSet[str]) -> set[str]:
    """Those of the modules that a module imports as it is itself imported."""
    names = set()
    for node in parsed(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            names |= inside or {node.module}
    return names & modules


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    left = list(arrows[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += arrows.get(name, ())
    return seen


def entries(package: Path) -> list[str]:
    """What stands side by side in a package's folder: files and folders with code."""
    files = {path.relative_to(package).parts[0] for path in sources(package)}
    return sorted(files)


def test_functions(folder: Path) -> int:
    """Functions that pytest collects by name, each once."""
    names = [
        node.name
        for path in sources(folder)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef)
    ]
    return sum(name.startswith("test_") for name in names)


def report(root: Path = ROOT) -> dict[str, float]:
    """All figures of a checkout."""
    package, tests = root / "gendae", root / "tests"
    lengths = function_lengths(package)
    arguments = constructor_arguments(package)
    return {
        "files": len(sources(package)),
        "lines": sum(path.read_text().count("\n") for path in sources(package)),
        "lines over 99 columns, whole repository": len(wide_lines(root)),
        "blank lines per 100 lines inside functions": round(blank_share(package), 1),
        "conditional expressions per 100 assignments": round(conditional_share(package), 1),
        "functions above 40 lines of code": sum(length > 40 for length in lengths.values()),
        "longest function": max(lengths.values()),
        "constructors above 8 arguments": sum(count > 8 for count in arguments.values()),
        "most constructor arguments": max(arguments.values()),
        "import cycles": len(import_cycles(package)),
        "top-level entries": len(entries(package)),
        "test functions": test_functions(tests),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT, help="a checkout")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    figures = report(args.folder)
    for name, value in figures.items():
        print(f"{name:48} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
