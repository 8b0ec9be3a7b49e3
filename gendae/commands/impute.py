"""`gendae impute`."""

import numpy as np

from gendae import checks
from gendae.commands.common import Table
from gendae.data.cells import is_empty, plain, read_cells
from gendae.storage.atomic import write_whole

#: Share of the given cells that is hidden from the training, and measured on.
HELD_OUT = 0.1


def impute(
    table: str, *, out: str, epochs: int = 200, seed: int = 0, device: str = "cpu"
) -> Table:
    """Fill the empty cells of a table: a network learns from its rows, and infers them.

    Args:
        table: CSV file with a header; empty cells, NA and NaN are filled in columns of numbers,
            and all other bytes stay as they are.
        out: FILE.csv to write.
        epochs: passes through the rows in training.
        seed: of weights and noise.
        device: cpu, cuda, cuda:0, mps.
    """
    checks.whole("--epochs", epochs, 1, checks.REPEATS)
    content = read_cells(checks.path("TABLE", table))
    columns, values = content.numbers()

    empty = np.isnan(values)
    if not empty.any():
        raise ValueError(f"{table}: no empty cell in a column of numbers: nothing to fill")

    filled, error = completed(values, epochs, seed, device)
    path = write_whole(out, content.filled(columns, filled))

    rows = "1 row" if len(values) == 1 else f"{len(values):,} rows"
    lines = [f"{int(empty.sum()):,} cells filled in {rows} x {len(columns)} columns: {path}"]
    if error is not None:
        lines.append(
            f"on given cells that the training did not see: {error:.2f} of the error of column "
            "means (below 1 is better than these)"
        )

    return [*lines, *left(content.names, columns, content.records)]


def completed(
    values: np.ndarray, epochs: int, seed: int, device: str
) -> tuple[np.ndarray, float | None]:
    """The values with NaN filled, and how well cells are filled whose values are known.

    The latter is the root mean square error over all hidden cells, as a share of that of column
    means; None where too few cells are given to hide some. Each column counts in units of its
    deviation; where all values of the table lie in [0, 1], as pixels do, in its own.
    """
    from gendae.estimators import DAEImputer

    given = ~np.isnan(values)
    hidden = given & (np.random.RandomState(checks.folded(seed)).rand(*values.shape) < HELD_OUT)
    hidden &= (given & ~hidden).sum(0) > 1  # no column loses all of its cells

    partly = np.where(hidden, np.nan, values)
    imputer = DAEImputer(epochs=epochs, random_state=checks.folded(seed), device=device)
    imputer.fit(partly)
    filled = imputer.transform(values)
    if not hidden.any():
        return filled, None

    scaled = imputer.scale_.scaled(values)[hidden]
    guess = imputer.scale_.scaled(imputer.transform(partly))[hidden]
    mean = np.broadcast_to(imputer.start_, values.shape)[hidden]
    worst = np.square(scaled - mean).mean()
    if worst == 0.0:
        return filled, None

    return filled, float(np.sqrt(np.square(scaled - guess).mean() / worst))


def left(names: list[str], columns: list[int], records: list[list[str]]) -> Table:
    """What is said of the columns that hold no numbers."""
    others = [column for column in range(len(names)) if column not in columns]
    if not others:
        return []

    empty = sum(is_empty(plain(row[column])) for row in records for column in others)
    listed = ", ".join(names[column] for column in others)
    return [f"not numbers, left as they are ({empty} cells empty): {listed}"]
