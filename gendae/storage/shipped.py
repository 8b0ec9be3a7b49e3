"""What comes with gendae: configurations and trained models, and where they lie."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
#: Folders that hold `checkpoints` and `configs`: a source checkout, and the installed package.
ROOTS = [PACKAGE.parent, PACKAGE]


def shipped_files(pattern: str) -> dict[str, Path]:
    """Paths of shipped files by their names without suffix, in alphabetical order.

    Example:
        >>> shipped_files("configs/*.yaml")["digits-kl"].name
        'digits-kl.yaml'
    """
    files = {file.stem: file for root in ROOTS for file in root.glob(pattern)}
    return dict(sorted(files.items()))
