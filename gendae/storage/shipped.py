"""What comes with gendae: configurations and trained models, and where they lie."""

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
#: Folders that hold `checkpoints` and `configs`: a source checkout, and the installed package.
ROOTS = [PACKAGE.parent, PACKAGE]
#: What is known of each trained model.
MANIFEST = "checkpoints/manifest.json"


def shipped_files(pattern: str) -> dict[str, Path]:
    """Paths of shipped files by their names without suffix, in alphabetical order.

    Example:
        >>> shipped_files("configs/*.yaml")["digits-kl"].name
        'digits-kl.yaml'
    """
    files = {file.stem: file for root in ROOTS for file in root.glob(pattern)}
    return dict(sorted(files.items()))


def manifest() -> list[dict[str, Any]]:
    """What is known of each trained model, in the order of their names.

    Example:
        >>> [entry["rule"] for entry in manifest() if entry["name"] == "toy-field"]
        ['TargetPropRule']
    """
    (file,) = shipped_files(MANIFEST).values()
    return json.loads(file.read_text(encoding="utf-8"))


def configuration_file(name: str) -> str:
    """The file of a configuration: of this name or, where there is none, the one that is shipped.

    A folder is no file: a run's may have the name of its configuration.

    Example:
        >>> Path(configuration_file("digits-kl")).name, configuration_file("own.yaml")
        ('digits-kl.yaml', 'own.yaml')
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        return name

    files = shipped_files("configs/**/*.yaml")
    return str(files.get(name.removesuffix(".yaml"), name))
