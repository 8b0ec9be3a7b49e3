"""Tables of configurations, whose results are compared with those that were published.

A file of tables is YAML: tables by name, each with rows by name. A row is a configuration of
`gendae fit`, with options, that is trained once for each seed, and what is measured then.

    tables:
      digits:
        title: Classifiers of the digits
        against: digits-bp              the row that the others are paired with, seed by seed
        rows:
          digits-bp:
            says: back-propagation      in words
            config: digits-dtp-tanh     a shipped configuration, or a file beside this one
            rule: BackpropRule          in its place, with what it takes of the arguments
            options: [--trainer.max_epochs, 15]
            seeds: [0, 1, 2]
            minutes: 0.4                of one seed, by which a budget is kept
            quick: true                 outside of the tolerance it is red
            samples: 500                of generative models
            annealing: {images: 100, chains: 16, temperatures: 2000, hidden: means}
                                        for `annealed` and `gap`, see `metrics.report.Annealing`
            model: toy-field            a shipped model, which the weights are compared with
            measures:
              error: {published: 1.86, error: 0.1, source: Lee 2018, 3.3.1,
                      measured: {0: 2.0, 1: 1.9, 2: 2.1}, tolerance: 1.5, record: ..}

`measured` is the committed record, by seed; `record` says which file it stands in. A row with a
`command` in the place of its configuration is shown from that record, and not run. A table with
`shipped: true` in the place of rows has one for each shipped model, see `training.zoo`.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from gendae import checks
from gendae.errors import choice
from gendae.metrics.latents import HIDDEN
from gendae.storage.shipped import configuration_file
from gendae.training import zoo
from gendae.training.configurations import MOST_SEED
from gendae.training.mistakes import read_yaml

#: The tables that come with gendae.
FIELD = "field"
#: What can be measured: its unit, and how many digits are shown.
MEASURES = {
    "error": ("%", 2),
    "ll": ("nats", 1),
    "fid": ("", 2),
    "recall": ("", 3),
    "bound": ("nats", 1),
    "annealed": ("nats", 2),
    "gap": ("nats", 2),
    "cosine": ("", 3),
    "weights": ("", 6),
}
#: Measures by annealing, by their names in `metrics.report.annealed_rows`.
OF_ANNEALING = {"annealed": "annealed", "gap": "annealed_gap"}
#: What a row says of annealing, and the least of each number.
ANNEALING = {"images": 1, "chains": 1, "temperatures": 1, "drawn": 1, "hidden": 0}
#: What stands for all rows, and for the quick ones, where rows are named.
EVERY = "all"
QUICK = "quick"


@dataclass(frozen=True)
class Measure:
    """A measure of a row, and what is known of it.

    Args:
        published: the number that was published; None if there is none.
        error: its standard error, if it was published.
        source: where.
        measured: the committed record, by seed.
        tolerance: how far the mean over seeds may be from that of the record, in a quick row.
        record: where the record stands: a file, and the place in it.
    """

    published: float | None = None
    error: float | None = None
    source: str = ""
    measured: dict[int, float] = field(default_factory=dict)
    tolerance: float | None = None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Amounts:
    """How much of a generative model is measured.

    Args:
        samples: of the model.
        annealing: of test images, see `metrics.report.Annealing`; empty without any.
    """

    samples: int = 10_000
    annealing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A configuration whose results are compared; see the head of this file."""

    name: str
    says: str
    measures: dict[str, Measure]
    config: str = ""
    command: str = ""
    rule: str = ""
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float = 1.0
    quick: bool = False
    amounts: Amounts = Amounts()
    model: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that are shown together; the others are paired with the row `against`."""

    name: str
    title: str
    rows: tuple[Row, ...]
    against: str = ""


def read_tables(path: str = FIELD) -> dict[str, Table]:
    """The tables of a file, by name, and each of their rows is usable.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, for what no table or row has, names twice, and numbers out of
            range.

    Example:
        >>> tables = read_tables()
        >>> sum(row.quick for table in tables.values() for row in table.rows) >= 8
        True
    """
    if not path:
        raise ValueError("--tables: the name of a YAML file is needed")
    content = _read(path)
    entries = content.get("tables") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f"--tables {path} holds no tables; `tables:` with tables by name is needed"
        )

    folder = Path(configuration_file(path)).parent
    tables = {str(name): _table(str(name), entry, folder) for name, entry in entries.items()}

    names = [EVERY, QUICK, *tables, *(row.name for table in tables.values() for row in table.rows)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: {twice[0]!r} is there twice; rows and tables need own names, other than "
            f"{EVERY} and {QUICK}"
        )
    return tables


class _Unique(yaml.SafeLoader):
    """Reads YAML, and takes no name twice in a mapping: the first of two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [name for i, name in enumerate(names) if name in names[:i] and name != "<<"]
        if twice:
            line = node.start_mark.line + 1
            raise ValueError(f"{twice[0]!r} is there twice, below line {line}")
        return super().construct_mapping(node, deep)


def _read(path: str) -> Any:  # noqa: ANN401 - any plain data
    """The plain data of a file of tables."""
    content = read_yaml(path)
    text = Path(configuration_file(path)).read_text(encoding="utf-8")
    try:
        yaml.load(text, _Unique)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return content


def chosen(tables: dict[str, Table], name: str) -> list[Row]:
    """The rows that a name stands for: `all`, `quick`, a table's, or one.

    Raises:
        ValueError: for a name of none.
    """
    rows = {row.name: row for table in tables.values() for row in table.rows}
    if name == EVERY:
        return list(rows.values())
    if name == QUICK:
        return [row for row in rows.values() if row.quick]
    if name in tables:
        return list(tables[name].rows)
    if name in rows:
        return [rows[name]]

    known = choice(name, [EVERY, QUICK, *tables, *rows])
    raise ValueError(f"no table or row {name!r}; {known}")


def _table(name: str, entry: object, folder: Path) -> Table:
    """A table of a file."""
    where = f"table {name}"
    given = _entries(where, entry, ("title", "rows", "against", "shipped"))
    rows = zoo.rows() if given.get("shipped") is True else given.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{where} has no rows; rows by name are needed")

    against = given.get("against", "")
    if against and (not isinstance(against, str) or against not in rows):
        raise ValueError(f"{where}: against={against!r} is none of its rows")

    made = tuple(_row(str(key), value, folder) for key, value in rows.items())
    _text(where, given, "title")
    return Table(name, given.get("title", name), made, against)


def _row(name: str, entry: object, folder: Path) -> Row:
    """A row of a file."""
    where = f"row {name}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,59}", name, re.ASCII):
        raise ValueError(f"{where}: a name has letters, digits, '-', '_' and '.', 60 at most")

    fields = [f.name for f in dataclasses.fields(Row) if f.name not in ("name", "amounts")]
    amounts = [f.name for f in dataclasses.fields(Amounts)]
    given = _entries(where, entry, [*fields, *amounts])
    measures = given.get("measures")
    if not isinstance(measures, dict) or not measures:
        raise ValueError(f"{where} has no measures; accepted: {', '.join(MEASURES)}")
    if bool(given.get("config")) == bool(given.get("command")):
        raise ValueError(f"{where}: either a config, or the command of its record, is needed")

    for key in ("says", "config", "command", "rule", "model"):
        _text(where, given, key)
    given["measures"] = {key: _measure(f"{where}: {key}", key, measures[key]) for key in measures}
    given["options"] = _options(where, given.get("options", []))
    given["seeds"] = _seeds(where, given.get("seeds", Row.seeds))
    if given.get("config"):
        given["config"] = _config(where, str(given["config"]), folder)

    given["amounts"] = Amounts(**{key: given.pop(key) for key in amounts if key in given})
    row = Row(**{"name": name, "says": name, **given})
    _check(where, row)
    return row


def _text(where: str, given: dict[str, Any], key: str) -> None:
    """Raise a ValueError for an entry that is there and no text."""
    if key in given and not isinstance(given[key], str):
        raise ValueError(f"{where}: {key}={given[key]!r}; text is needed")


def _options(where: str, options: object) -> tuple[str, ...]:
    """Options of `gendae fit`, a word each."""
    listed = isinstance(options, list | tuple)
    if not listed or not all(isinstance(word, str | int | float | NoneType) for word in options):
        raise ValueError(
            f"{where}: options={options!r}; a list of words is needed, such as "
            "[--trainer.max_epochs, 15]"
        )
    of_yaml = {None: "null", True: "true", False: "false"}
    return tuple(
        of_yaml[word] if word is None or isinstance(word, bool) else str(word) for word in options
    )


def _number(where: str, value: object, strict: bool = False) -> None:
    """Raise a ValueError unless a value is a number not below 0 (above it, if `strict`)."""
    if isinstance(value, bool):
        raise ValueError(f"{where}={value!r}: a number is needed")  # noqa: TRY004
    checks.at_least(where, value, 0.0, strict)


def _check(where: str, row: Row) -> None:
    """Raise a ValueError for numbers out of range, and a quick row without its numbers."""
    _number(f"{where}: minutes", row.minutes, strict=True)
    if not isinstance(row.quick, bool):
        raise ValueError(f"{where}: quick={row.quick!r}; true or false is needed")  # noqa: TRY004
    checks.whole(f"{where}: samples", row.amounts.samples, 1)
    for name, measure in row.measures.items():
        known = measure.tolerance is not None and measure.measured
        if row.quick and not known:
            raise ValueError(f"{where}: {name}: a quick row needs `measured` and a `tolerance`")
    _check_annealing(where, row)
    if row.model:
        zoo.entry_of(row.model)
    elif "weights" in row.measures:
        raise ValueError(f"{where}: weights: a model is needed, whose weights they are")


def _check_annealing(where: str, row: Row) -> None:
    """Raise a ValueError where annealing is measured and not described, or is not usable."""
    given = _entries(f"{where}: annealing", row.amounts.annealing, ANNEALING)
    for name, value in given.items():
        if name == "hidden":
            checks.one_of(f"{where}: annealing: hidden", value, HIDDEN)
        else:
            checks.whole(f"{where}: annealing: {name}", value, ANNEALING[name])

    measured = [name for name in OF_ANNEALING if name in row.measures]
    if measured and not given.get("images"):
        raise ValueError(f"{where}: {measured[0]}: annealing with a number of images is needed")


def _config(where: str, name: str, folder: Path) -> str:
    """The file of a row's configuration: beside the tables, or shipped."""
    beside = folder / name
    file = str(beside) if beside.is_file() else configuration_file(name)
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"{where}: no configuration {name!r}, beside the tables or shipped"
        )
    return file


def _seeds(where: str, seeds: object) -> tuple[int, ...]:
    if not isinstance(seeds, list | tuple) or not seeds:
        raise ValueError(f"{where}: seeds={seeds!r}; a list of different numbers is needed")

    numbers = tuple(checks.whole(f"{where}: seeds", seed, 0, MOST_SEED) for seed in seeds)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{where}: seeds={seeds!r}; a list of different numbers is needed")
    return numbers


def _measure(where: str, name: str, entry: object) -> Measure:
    """A measure of a row."""
    if name not in MEASURES:
        raise ValueError(f"{where}: no such measure; {choice(str(name), MEASURES)}")

    entry = {} if entry is None else entry
    given = _entries(where, entry, [f.name for f in dataclasses.fields(Measure)])
    if given.get("published") is not None:
        checks.real(f"{where}: published", given["published"])
    for key in ("error", "tolerance"):
        if given.get(key) is not None:
            _number(f"{where}: {key}", given[key])

    _text(where, given, "source")
    record = given.get("record", {})
    if not isinstance(record, dict):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{where}: record={record!r}; a file and a place are needed"
        )
    _check_measured(where, given.get("measured", {}))
    return Measure(**given)


def _check_measured(where: str, measured: object) -> None:
    """Raise a ValueError unless values by seed are a mapping of finite numbers."""
    if not isinstance(measured, dict):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{where}: measured={measured!r}; values by seed are needed"
        )
    for seed, value in measured.items():
        checks.whole(f"{where}: seed", seed, 0, MOST_SEED)
        checks.real(f"{where}: measured", value)


def _entries(where: str, entry: object, accepted: Any) -> dict[str, Any]:  # noqa: ANN401
    """The entries of a mapping, all of which are accepted."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is no mapping; accepted: {', '.join(accepted)}")  # noqa: TRY004

    for key in entry:
        if key not in accepted:
            raise ValueError(f"{where}: no entry {key!r}; {choice(str(key), accepted)}")
    return dict(entry)
