"""Architecture as a test: rooms, one-way imports, air, and an import that stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import reading

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gendae"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Rooms from the ground up: a file imports from its own room and from those before it.
ROOMS = [
    "errors",
    "checks",
    "registry",
    "corruption",
    "laws",
    "layers",
    "priors",
    "models",
    "inference",
    "sampling",
    "completion",
    "storage",
    "data",
    "metrics",
    "plots",
    "rules",
    "training",
    "estimators",
    "demo",
    "commands",
    "cli",
]

#: Constructors with more than eight arguments, and why.
MANY_ARGUMENTS: dict[str, str] = {
    "ConditionalDenoisingPrior": "the eight of a DenoisingPrior, and what it is conditioned on",
    "ManifoldParzenPrior": "the eight of a ParzenPrior, and its neighbours and components",
    "Rates": "a rate and a decay for each of three kinds of maps; optimizer, clip, decline, hold",
    "DifferenceTargetPropRule": "five that supervised rules share; targets, inverses, rounds",
    "EquilibriumPropagationRule": "seven of rules of two phases; the nudge, and its strength",
    "NudgedSTDPRule": "the eight of a rule of two phases, and its nudge",
    "JointTargetPropRule": "Algorithm 5 has four groups of options, and two references beside it",
    "DAEImputer": "scikit-learn sets parameters by name: the eight of its networks, and rounds",
    "Row": "a row of a file of tables: a field for each of its entries",
    "KLRule": "four that rules with a prior share; Algorithm 1's trade-off, and its variants",
}

#: Files that name classes of later rooms in annotations, without importing them, and why.
ANNOTATIONS: dict[str, str] = {
    "models/settings.py": "a model is kept with the sampler, inpainter and completer of its user",
}


@pytest.fixture(scope="module", autouse=True)
def trees():
    """Those of all files are let go in the end."""
    yield
    reading.parsed.cache_clear()


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    """Rooms that a file imports from, also inside functions."""
    body = reading.parsed(path).body
    if str(path.relative_to(PACKAGE)) in ANNOTATIONS:
        body = [node for node in body if not is_for_type_checkers(node)]

    for node in (node for part in body for node in ast.walk(part)):
        if isinstance(node, ast.ImportFrom) and node.module == "gendae":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gendae."):
            yield node.module.split(".")[1]


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_the_rooms_are_all_there_is():
    assert {room(path) for path in FILES} - {"__init__"} == set(ROOMS)
    assert len(reading.entries(PACKAGE)) <= 22


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards(path):
    if room(path) == "__init__":
        return

    before = ROOMS[: ROOMS.index(room(path)) + 1]
    assert [name for name in imported_rooms(path) if name in ROOMS and name not in before] == []


def test_nothing_imports_in_a_circle():
    assert reading.import_cycles(PACKAGE) == []


def test_no_line_is_wider_than_99_columns():
    assert reading.wide_lines(ROOT) == []


def test_no_function_is_longer_than_40_lines_of_code():
    lengths = reading.function_lengths(PACKAGE)
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_constructors_have_few_arguments():
    counts = reading.constructor_arguments(PACKAGE)
    assert {name for name, count in counts.items() if count > 8} == set(MANY_ARGUMENTS)
    assert max(counts.values()) <= 12


def test_functions_have_air():
    assert reading.blank_share(PACKAGE) >= 8
    assert reading.conditional_share(PACKAGE) <= 4


def test_there_are_not_more_than_1550_test_functions():
    assert reading.test_functions(ROOT / "tests") <= 1550


HELP_IS_LIGHT = """
import sys
from gendae import cli
from gendae.commands import parser
for name in parser.COMMANDS:
    cli.run([name, "--help"]) if name in parser.TRAINING else parser.parser(name).format_help()
cli.run(["--help"])
heavy = ("torch", "pytorch_lightning", "jsonargparse", "wandb", "sklearn")
print([name for name in heavy if name in sys.modules])
"""

SAMPLE_IS_LIGHT = """
import sys, tempfile
from gendae import cli
with tempfile.TemporaryDirectory() as folder:
    cli.run(["sample", "digits-variational-em", "--n", "4", "--out", f"{folder}/samples.png"])
heavy = ("pytorch_lightning", "torchmetrics", "sklearn", "scipy", "matplotlib")
heavy += ("jsonargparse", "torch._dynamo", "sympy", "gendae.rules", "gendae.metrics")
print([name for name in heavy if name in sys.modules])
"""

WITHOUT_WANDB = """
import sys
sys.modules["wandb"] = None
import gendae.training.fit, gendae.cli
print("without wandb")
"""

SAMPLER_BY_NAME = """
import gendae
from gendae.sampling.samplers import sampler_named
print(type(sampler_named(gendae.deep_autoencoder([4, 2]), "level")).__name__)
"""


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (HELP_IS_LIGHT, "[]"),
        (SAMPLE_IS_LIGHT, "[]"),
        (WITHOUT_WANDB, "without wandb"),
        (SAMPLER_BY_NAME, "LevelSampler"),
        ("from gendae.registry import build; print(build({'type': 'Toys2D'}).kind)", "points"),
    ],
    ids=[
        "import and help are light",
        "sample is light",
        "wandb is optional",
        "samplers by name",
        "classes by name",
    ],
)
def test_a_fresh_process(code, printed):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == printed


def test_every_public_name_resolves():
    import gendae

    for name in gendae.__all__:
        assert getattr(gendae, name) is not None

    # what an argument accepts can be derived from; other bases hold what their variants share
    accepted = accepted_classes()
    assert accepted >= {"Feedback", "Loop", "Plasticity", "Criterion"}
    assert accepted | {"Rule", "SupervisedRule"} <= set(gendae.__all__)


def accepted_classes():
    """Names of gendae's classes of which `built` and `checks.kind` accept objects."""
    trees = [ast.parse(path.read_text()) for path in FILES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef)}

    calls = [node for node in nodes if isinstance(node, ast.Call) and len(node.args) == 3]
    checked = [call for call in calls if ast.unparse(call.func) in ("built", "checks.kind")]
    return {ast.unparse(call.args[2]) for call in checked} & own
