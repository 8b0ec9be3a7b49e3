"""Architecture as a test: imports point upwards, files hold one idea, import is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import reading

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gendae"
ORDER = [
    "errors",
    "memory",
    "spec",
    "checks",
    "precision",
    "writing",
    "checkpointing",
    "loader",
    "restoring",
    "corruption",
    "conditionals",
    "layers",
    "packing",
    "invertible",
    "optimized",
    "priors",
    "stack",
    "classifier",
    "modalities",
    "joint",
    "targets",
    "inference",
    "sampling",
    "clamping",
    "levels",
    "diagnostics",
    "inpainting",
    "completion",
    "metrics",
    "bounds",
    "neighbours",
    "quality",
    "rules",
    "graphs",
    "credit",
    "models",
    "files",
    "data",
    "shards",
    "toys",
    "multimodal",
    "plots",
    "callbacks",
    "persistence",
    "features",
    "running",
    "fit",
    "evaluation",
    "prediction",
    "comparison",
    "querying",
    "commands",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def noun(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gendae"):
            parts = node.module.split(".")
            if len(parts) > 1:
                yield parts[1]
            else:
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("gendae."))


def test_the_order_lists_every_file():
    assert {noun(f) for f in FILES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards(path):
    if noun(path) == "__init__":
        return
    for name in imported(path):
        if name in ORDER:
            assert ORDER.index(name) <= ORDER.index(noun(path)), f"{path.name} imports {name}"


def test_no_line_is_wider_than_99_columns():
    assert reading.wide_lines(ROOT) == []


def test_no_function_is_longer_than_40_lines_of_code():
    lengths = reading.function_lengths(PACKAGE)
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_functions_have_air():
    assert reading.blank_share(PACKAGE) >= 8
    assert reading.conditional_share(PACKAGE) <= 4


def test_import_and_help_load_nothing_heavy():
    code = (
        "import sys, gendae, gendae.cli; gendae.cli.parser(); "
        "print([m for m in ('torch', 'pytorch_lightning', 'wandb', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_product_runs_without_wandb():
    code = (
        "import sys; sys.modules['wandb'] = None; import gendae.fit, gendae.commands, gendae.cli"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_resolves():
    import gendae

    for name in gendae.__all__:
        assert getattr(gendae, name) is not None
