"""gendae: deep generative models and classifiers as stacks of auto-encoders.

They are trained by target propagation. Names are imported when first used, so that `import
gendae` and the command line stay quick. The list of public names, with their homes, is
`__init__.pyi`: type checkers and editors read it, and so does this file.

A base class is public where an argument accepts whatever derives from it (`Feedback`, `Prior`,
`Plasticity`, ..), and so are `Rule` and `SupervisedRule`, on which rules are written. Other bases
hold what their variants share, and may change.
"""

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.2.0"


def _homes() -> dict[str, str]:
    """The module of each public name."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))

    homes = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            homes.update({alias.name: str(node.module) for alias in node.names})

    return homes


#: The module of each public name.
HOME = _homes()
__all__ = list(HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in HOME:
        raise AttributeError(f"module 'gendae' has no attribute {name!r}")

    home = HOME[name]
    if home == __name__:
        return _submodule(name)

    return getattr(import_module(home), name)


def _submodule(name: str) -> ModuleType:
    """A module of gendae that is public itself."""
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return __all__
