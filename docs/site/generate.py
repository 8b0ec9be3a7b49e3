"""Pages that follow from the code: interface, configurations, messages, algorithms.

mkdocs runs it before a build.
"""

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import mkdocs_gen_files

import gendae
from gendae.commands.fit import first_comment
from gendae.storage.shipped import shipped_files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gendae"
SOURCE = re.compile(r"\{\{ source ([\w.]+) \}\}")
#: What a room holds, in the order of the site's menu.
ROOMS = {
    "models": "Models",
    "layers": "Layers",
    "laws": "Laws of units",
    "priors": "Priors",
    "rules": "Learning rules",
    "inference": "Inference",
    "corruption": "Corruption",
    "sampling": "Sampling",
    "completion": "Completion",
    "metrics": "Metrics",
    "data": "Data",
    "estimators": "scikit-learn estimators",
    "storage": "Files",
    "training": "Training",
    "plots": "Plots",
    "registry": "Registry",
    "checks": "Checks",
}


def page(path, *lines):
    with mkdocs_gen_files.open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def interface():
    """A page for each room, with all of its public names."""
    names = defaultdict(list)
    for name in sorted(gendae.__all__):
        module = getattr(getattr(gendae, name), "__module__", None)
        if module and module.startswith("gendae."):
            names[module.split(".")[1]].append(f"{module}.{name}")

    menu = []
    for room, title in ROOMS.items():
        if not names[room]:
            continue

        module = import_module(f"gendae.{room}")
        lines = [f"# {title}", "", inspect.getdoc(module) or "", ""]
        for name in names[room]:
            lines += [f"::: {name}", ""]
        page(f"reference/api/{room}.md", *lines)
        menu.append(f"- [{title}]({room}.md)")

    page("reference/api/index.md", "# Interface", "", *menu)


def configurations():
    """A table of the shipped configurations, from their first lines."""
    lines = ["# Configurations", "", "`gendae fit --config configs/NAME.yaml` trains one.", ""]
    lines += ["| file | what it trains |", "|---|---|"]
    for name, path in shipped_files("configs/*.yaml").items():
        lines.append(f"| `{name}.yaml` | {first_comment(path)} |")

    page("reference/configurations.md", *lines)


def errors():
    """The text of every error of the package, by file, with what stands in its gaps."""
    lines = [
        "# Messages of errors",
        "",
        "What is wrong comes in one line. `..` is what differs.",
        "",
    ]
    lines += ["| message | where |", "|---|---|"]
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = message(node)
            if text and len(text) > 20:
                where = path.relative_to(PACKAGE).with_suffix("")
                found.add((text, str(where)))

    for text, where in sorted(found, key=lambda pair: (pair[1], pair[0])):
        lines.append(f"| {text.replace('|', chr(92) + '|')} | `{where}` |")

    page("reference/errors.md", *lines)


def message(node):
    """The text that a `raise` statement gives its error; None for other statements."""
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return None
    if not node.exc.args:
        return None

    first = node.exc.args[0]
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value
    if isinstance(first, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else ".." for part in first.values]
        return "".join(parts)

    return None


def algorithms():
    """The pages of algorithms, with the lines of code that they name."""
    for path in sorted((ROOT / "docs" / "explanation").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        wide = "---\nhide: [toc]\n---\n\n"
        page(f"explanation/{path.name}", wide + SOURCE.sub(lambda match: source(match[1]), text))


def source(name):
    """The code of a function without its docstring, in a block that names it."""
    *path, last = name.split(".")
    cut = next(i for i in range(len(path), 0, -1) if is_module(".".join(path[:i])))
    found = import_module(".".join(path[:cut]))
    for part in [*path[cut:], last]:
        found = inspect.unwrap(getattr(found, part))
    if isinstance(found, property):
        found = found.fget

    text = textwrap.dedent(inspect.getsource(found))
    statement = ast.parse(text).body[0]
    rows = text.splitlines()
    if ast.get_docstring(statement):
        told = statement.body[0]
        del rows[told.lineno - 1 : told.end_lineno]

    code = "\n".join(rows).strip("\n")
    return f'```python title="{name}"\n{code}\n```'


def is_module(name):
    try:
        import_module(name)
    except ImportError:
        return False
    return True


interface()
configurations()
errors()
algorithms()
