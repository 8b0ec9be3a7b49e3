"""Tables of numbers: the columns of a .csv or a .parquet, and the images that they make."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gendae import checks
from gendae.errors import reason
from gendae.storage.inputs import regular_file, unpacked

#: A column: numbers, or a list of anything else.
Column = np.ndarray | list[Any]
ENCODING = "utf-8-sig"  # with or without the mark that spreadsheets write
#: Rows of a .parquet that are read at a time, at most.
ROWS = 2**16
BYTE_ARRAY = "BYTE_ARRAY"  # how a .parquet calls text and bytes, of any length or of one


def label_name(names: Iterable[str], accepted: Sequence[str]) -> str | None:
    """Which column holds the labels: the only one that has an accepted name.

    Raises:
        ValueError: if there are two.

    Example:
        >>> label_name(["p0", "target"], ["label", "target"])
        'target'
    """
    names = [name for name in names if name in accepted]
    if len(names) > 1:
        raise ValueError(f"{names[0]!r} and {names[1]!r} are both names of labels; keep one")

    return names[0] if names else None


def read_csv(path: Path, labels: Sequence[str] = ()) -> dict[str, Column]:
    """The columns of a .csv by name, or by number where its first line has numbers.

    A first line of 0, 1, 2, .. is one of names: pandas writes it for columns without.

    Args:
        path: the file.
        labels: names of columns that may hold text.

    Raises:
        ValueError: for what is no table of numbers, has columns without a name of their own, or
            two columns of labels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.csv"
        ...     _ = file.write_text("label,p0,p1\\ncat,0,0.5\\ndog,1,0\\n")
        ...     read_csv(file, ["label"])
        {'p0': array([0., 1.]), 'p1': array([0.5, 0. ]), 'label': ['cat', 'dog']}
    """
    regular_file(path)
    try:
        with open(path, encoding=ENCODING, newline="") as stream:
            return _columns(stream, labels)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no table of numbers, separated by commas, under a line of names at most: "
            f"{reason(error)}"
        ) from None


def _columns(stream: IO[str], labels: Sequence[str]) -> dict[str, Column]:
    """The columns of an open .csv."""
    first = next(csv.reader(stream), [])
    numbered = [str(number) for number in range(len(first))]
    has_names = first == numbered or not all(map(_is_number, first))
    names = first if has_names else numbered
    _check_names(names)

    label = label_name(names, labels)
    texts = [] if label is None else [label]
    numbers = [name for name in names if name not in texts]
    columns: dict[str, Column] = {}
    if numbers:
        table = _loaded(stream, has_names, [names.index(name) for name in numbers], float)
        columns = dict(zip(numbers, table.T, strict=True))
    if texts:
        text = _loaded(stream, has_names, [names.index(texts[0])], str)
        columns[texts[0]] = _labels(text[:, 0].tolist())

    return columns


def _check_names(names: Sequence[str]) -> None:
    """Raise a ValueError unless each column has a name of its own."""
    if not names:
        raise ValueError("it is empty")
    if "" in names:
        raise ValueError(
            f"column {names.index('') + 1} has no name; pandas writes such an index: index=False "
            "leaves it out"
        )
    if len(set(names)) < len(names):
        raise ValueError("two columns have one name")


def _loaded(stream: IO[str], has_names: bool, columns: list[int], dtype: type) -> np.ndarray:
    """Some columns of all lines but the names, (n, columns)."""
    stream.seek(0)
    return np.loadtxt(
        stream,
        dtype,
        comments=None,
        delimiter=",",
        skiprows=int(has_names),
        usecols=columns,
        ndmin=2,
        quotechar='"',
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False

    return True


def _labels(texts: list[str]) -> Column:
    """Labels as whole numbers where all are, as numbers where all are, or as the texts."""
    if not all(map(_is_number, texts)):
        return texts

    numbers = np.array(texts, float)
    return numbers.astype(np.int64) if _whole(numbers) else numbers


def read_parquet(path: Path) -> dict[str, Column]:
    """The columns of a .parquet by name: arrays of numbers, and lists of anything else.

    Raises:
        ValueError: for damaged files, those that hold far more than their size, and where pyarrow
            is not installed.
    """
    regular_file(path)
    parquet = checks.library("pyarrow.parquet", "tables", str(path))
    try:
        with parquet.ParquetFile(path) as file:
            table = _bounded(file, unpacked(path.stat().st_size))
        return {name: _column(table[name]) for name in table.column_names}
    except Exception as error:  # noqa: BLE001 - pyarrow raises a dozen kinds for damaged files
        raise ValueError(f"{path} is damaged or no .parquet: {reason(error)}") from None


def _bounded(file: Any, most: int) -> Any:  # noqa: ANN401 - pyarrow's
    """The table in a .parquet, if it has no more bytes than its file may hold.

    A value that is stored once may stand in many rows, so rows are read a few at a time: in the
    first ones no more than `most` bytes of text can be repeated.
    """
    import pyarrow

    refusal = f"more than the {most:,} bytes that a file of this size may hold"
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    chunks = [group.column(j) for group in groups for j in range(group.num_columns)]
    if sum(chunk.num_values for chunk in chunks) > most:
        raise ValueError(refusal)

    texts = [c.total_uncompressed_size for c in chunks if c.physical_type.endswith(BYTE_ARRAY)]
    rows = max(1, min(ROWS, most // max([*texts, 1])))

    batches = []
    size = 0
    for batch in file.iter_batches(batch_size=rows):
        size += batch.nbytes
        if size > most:
            raise ValueError(refusal)
        batches.append(batch)

    return pyarrow.Table.from_batches(batches, file.schema_arrow)


def _column(column: Any) -> Column:  # noqa: ANN401 - pyarrow's
    import pyarrow

    kind = column.type
    is_number = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
    if any(check(kind) for check in is_number):
        return column.to_numpy()

    return column.to_pylist()


def matrix(name: str, columns: Mapping[str, Column]) -> np.ndarray:
    """Columns of numbers side by side, (n, columns).

    Raises:
        ValueError: for a column of anything else, and none at all.

    Example:
        >>> matrix("a.csv", {"p0": np.array([0.0, 255.0]), "p1": np.array([7, 9])})
        array([[  0,   7],
               [255,   9]], dtype=uint8)
    """
    if not columns:
        raise ValueError(f"{name} has no columns of numbers beside the label")

    arrays = {key: np.asarray(column) for key, column in columns.items()}
    for key, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{name}: column {key!r} holds {array.dtype} of shape {array.shape}; a number for "
                "each image, or the images themselves under the name image, are needed"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError(f"{name}: its columns have different lengths")

    return as_bytes(np.stack(list(arrays.values()), 1))


def as_bytes(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers 0 .. 255 as bytes, if some are too large for anything else; others as given.

    Tables say numbers, and not that they are bytes.
    """
    if numbers.dtype == np.uint8 or numbers.size == 0 or numbers.dtype.kind == "b":
        return numbers
    if not (numbers.min() >= 0 and checks.SEVEN_BITS < numbers.max() <= 255 and _whole(numbers)):
        return numbers

    return numbers.astype(np.uint8)


def _whole(numbers: np.ndarray) -> bool:
    """Whether all are finite and whole."""
    return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())
