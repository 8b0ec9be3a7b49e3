"""The cells of a CSV file as they were typed, of which some are empty.

So a table is written again with new values in its empty cells and every other byte as it was.
`tables` reads values alone.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendae.storage.inputs import regular_file

#: What stands between cells: whichever the header has most of.
DELIMITERS = ",;\t|"
#: What stands for an empty cell, in lower case.
EMPTY = ("", "na", "n/a", "nan", "null", "none", "?")
#: Digits of what is written into an empty cell, counted from the deviation of its column.
DIGITS = 6
#: What spreadsheets write at the start of a file in UTF-8.
MARK = "\ufeff"
QUOTED = r'"(?:[^"]|"")*"'


@dataclass
class Cells:
    """Rows of cells as they were typed, the header first.

    Attributes:
        path: where they were read.
        rows: of cells, with their quotes and blanks; a blank line has no cells.
        ends: of the lines.
        delimiter: what stands between cells.
        mark: `MARK`, if the file begins with it.
    """

    path: Path
    rows: list[list[str]]
    ends: list[str]
    delimiter: str
    mark: str = ""

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return [plain(cell) for cell in self.rows[0]]

    @property
    def records(self) -> list[list[str]]:
        """The rows below the header that have cells."""
        return [row for row in self.rows[1:] if row]

    def numbers(self) -> tuple[list[int], np.ndarray]:
        """The columns that hold numbers, by position, and these, (n, columns); NaN where empty.

        Raises:
            ValueError: for columns without any value, and infinite numbers.
        """
        columns = []
        values = []
        for column, name in enumerate(self.names):
            cells = [plain(row[column]) for row in self.records]
            if all(is_empty(cell) for cell in cells):
                raise ValueError(f"{self.path}: column {name!r} is empty in every row; remove it")
            if not all(is_empty(cell) or is_number(cell) for cell in cells):
                continue

            numbers = [math.nan if is_empty(cell) else float(cell) for cell in cells]
            if any(math.isinf(number) for number in numbers):
                raise ValueError(f"{self.path}: column {name!r} holds infinite numbers")
            columns.append(column)
            values.append(numbers)

        return columns, np.array(values).reshape(len(columns), len(self.records)).T

    def filled(self, columns: list[int], values: np.ndarray) -> bytes:
        """The file with numbers in the empty cells of some columns, and all else as it was.

        Args:
            columns: by position.
            values: of all their cells, (n, columns).
        """
        records = iter(values)
        decimals = [_decimals(column) for column in values.T]

        lines = [self.mark]
        for line, (row, end) in enumerate(zip(self.rows, self.ends, strict=True)):
            cells = row
            if line > 0 and row:
                cells = self._filled_row(row, columns, next(records), decimals)
            lines.append(self.delimiter.join(cells) + end)

        return "".join(lines).encode("utf-8", "surrogateescape")

    def _filled_row(
        self, row: list[str], columns: list[int], values: np.ndarray, decimals: list[int]
    ) -> list[str]:
        cells = [*row]
        for column, value, places in zip(columns, values, decimals, strict=True):
            if is_empty(plain(row[column])):
                cells[column] = np.format_float_positional(value, places, trim="-")

        return cells


def _decimals(column: np.ndarray) -> int:
    """How many decimals show `DIGITS` digits of a column's deviation.

    Digits of the numbers themselves would be those that all of them share, as in years and times.

    Example:
        >>> _decimals(np.array([1.70e9, 1.71e9])), _decimals(np.array([0.31, 0.35]))
        (0, 7)
    """
    scale = column.std() or abs(column[0]) or 1.0

    return max(0, DIGITS - 1 - math.floor(math.log10(scale)))


def read_cells(path: str | Path) -> Cells:
    r"""A CSV file with a header.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file without rows below the header, rows of another number of cells, and
            quotes that do not close.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "t.csv")
        ...     _ = path.write_bytes(b'name;"a;b"\nx; 1.50\ny;\n')
        ...     table = read_cells(path)
        >>> table.names, table.numbers()
        (['name', 'a;b'], ([1], array([[1.5], [nan]])))
        >>> table.filled([1], np.array([[1.5], [2.25]]))
        b'name;"a;b"\nx; 1.50\ny;2.25\n'
    """
    path = regular_file(path)
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    mark = MARK if text.startswith(MARK) else ""
    text = text.removeprefix(mark)

    delimiter = _delimiter(text)
    rows, ends = _cells(path, text, delimiter)
    cells = Cells(path, rows, ends, delimiter, mark)
    if not rows or not cells.records:
        raise ValueError(f"{path}: a header and at least one row of cells are needed")

    for number, row in enumerate(rows, 1):
        if row and len(row) != len(rows[0]):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells; the header has {len(rows[0])}"
            )

    return cells


def _delimiter(text: str) -> str:
    """What the first row has most of, outside of quotes."""
    unquoted = re.sub(QUOTED, "", text)
    header = re.split("[\r\n]", unquoted, maxsplit=1)[0]

    return max(DELIMITERS, key=header.count)


def _cells(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[str]]:
    """The cells of each row as they were typed, and the end of each line."""
    between = re.escape(delimiter)
    blanks = rf"[^\S{between}\r\n]*"
    cell = re.compile(rf'({blanks}{QUOTED}{blanks}|[^{between}\r\n"]*)({between}|\r\n|\n|\r|\Z)')

    rows: list[list[str]] = []
    ends: list[str] = []
    row: list[str] = []
    at = 0
    while at < len(text):
        match = cell.match(text, at)
        if match is None:
            raise ValueError(f"{path}: row {len(rows) + 1} has a quote that does not close")

        row.append(match[1])
        at = match.end()
        if match[2] == delimiter and at == len(text):
            row.append("")
        if match[2] != delimiter or at == len(text):
            rows.append([] if row == [""] else row)
            ends.append("" if match[2] == delimiter else match[2])
            row = []

    return rows, ends


def plain(cell: str) -> str:
    """A cell without its quotes, and blanks around it."""
    cell = cell.strip()
    if cell.startswith('"'):
        cell = cell[1:-1].replace('""', '"')

    return cell.strip()


def is_empty(cell: str) -> bool:
    return cell.lower() in EMPTY


def is_number(cell: str) -> bool:
    """Whether a cell holds a number, as tables write them: not 1_000, as Python does."""
    try:
        float(cell)
    except ValueError:
        return False

    return "_" not in cell
