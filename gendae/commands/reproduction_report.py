"""The report of a reproduction: published beside measured, as Markdown and as one HTML file."""

import html
import math
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gendae.commands.common import markdown
from gendae.metrics.paired import Paired, paired, standard_error
from gendae.storage.atomic import write_json, write_whole
from gendae.training import zoo
from gendae.training.reproduction import Folder, Run
from gendae.training.rows import MEASURES, Measure, Row, Table

#: Standard errors between a long row and its committed record that are remarked upon.
APART = 3.0
#: States of a row, and their colours.
GREEN = "reproduced"
RED = "NOT reproduced"
#: What a long row is that is away from its record.
DIFFERS = "differs from the record"
#: What one number in the place of several is: it has no standard error.
ONE = "one seed, not judged"
#: What weights made again are, where they are those of the shipped model, and where not.
SAME = "bit-equal"
OTHERS = "other weights, of which the score is judged"
COLOURS = {GREEN: "green", SAME: "green", RED: "red", DIFFERS: "orange", "failed": "red"}
#: Columns of a table.
HEADER = [
    "row",
    "what",
    "measure",
    "published",
    "committed record",
    "measured here",
    "off by",
    "state",
]
PAIRED = ["rule", "against", "measure", "difference", "95 % of bootstraps", "p", "from"]
RUNS = ["run", "measures", "s", "MiB", "J", "data, model (SHA-256)", "versions", "command"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>gendae reproduce</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em;
  color: #222; background: #fff }}
table {{ border-collapse: collapse; margin: .6em 0 1.6em; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left;
  vertical-align: top; white-space: nowrap }}
th {{ background: #f4f4f4 }}
.runs td {{ font-size: 12px }}
.green {{ background: #d8f5d8 }} .red {{ background: #ffd6d6 }} .orange {{ background: #ffe9c7 }}
</style></head><body>
{body}
</body></html>
"""


class Line(NamedTuple):
    """A measure of a row, beside what is known of it.

    Args:
        row: of the tables.
        name: of the measure.
        here: values that were measured in the folder, by seed.
        state: in words.
    """

    row: Row
    name: str
    here: dict[int, float]
    state: str

    @property
    def measure(self) -> Measure:
        return self.row.measures[self.name]

    @property
    def values(self) -> list[float]:
        """Values measured here or, where there are none, those of the record."""
        return list((self.here or self.measure.measured).values())

    @property
    def red(self) -> bool:
        """Whether a quick row is not what the record says."""
        return self.row.quick and verdict(self.state) in (RED, "failed")


def verdict(state: str) -> str:
    """A state without what stands in brackets after it.

    Example:
        >>> verdict("reproduced (1 of 3 seeds)")
        'reproduced'
    """
    return state.partition(" (")[0]


def lines_of(rows: Iterable[Row], folder: Folder, notes: dict[str, str]) -> list[Line]:
    """A line for each measure of each row; `notes` says why runs were not begun."""
    return [line_of(row, name, folder, notes) for row in rows for name in row.measures]


def line_of(row: Row, name: str, folder: Folder, notes: dict[str, str]) -> Line:
    """A measure of a row with what the folder holds of it."""
    here: dict[int, float] = {}
    if not row.config:
        return Line(row, name, here, "from the record")

    states = []
    made: dict[str, Any] = {}
    for seed in row.seeds:
        run = Run(row, seed)
        record = folder.record(run)
        if folder.current(run) is not None and record["error"] is None:
            here[seed] = record["measures"][name]
            made = record.get("made", {})
        else:
            states.append(_state_of(record, run, notes))

    failed = [state for state in states if state.startswith("failed")]
    if failed:
        return Line(row, name, here, "failed" if row.quick else failed[0])
    if here and name == "weights":
        return Line(row, name, here, _of_weights(row, here, made))
    if here:
        return Line(row, name, here, _judged(row, row.measures[name], here))
    return Line(row, name, here, states[0])


def _state_of(record: dict[str, Any] | None, run: Run, notes: dict[str, str]) -> str:
    """Why a run counts for nothing."""
    if run.name in notes:
        return notes[run.name]
    if record is None:
        return "not run"
    if record["digest"] != run.digest:
        made_by = " ".join(record["versions"].get(key, "") for key in ("gendae", "code")).strip()
        return f"a record of other sources or another configuration ({made_by}): --again"
    return f"failed: {record['error']}"


def _of_weights(row: Row, here: dict[int, float], made: dict[str, Any]) -> str:
    """What weights made again are: the same bits where they are promised, or others, and why."""
    if not any(here.values()):
        return SAME

    where = zoo.promised(zoo.entry_of(row.model))
    if where is None:
        return f"{OTHERS} (the same bits are not promised)"
    away = zoo.differs(where, made)
    return f"{OTHERS} ({away})" if away else RED


def _judged(row: Row, measure: Measure, here: dict[int, float]) -> str:
    """What the values are beside those of the record, and of how many seeds."""
    state = "measured"
    if measure.measured:
        state = _beside_record(row, measure, here)
    if len(here) < len(row.seeds):
        state += f" ({len(here)} of {len(row.seeds)} seeds)"
    return state


def _beside_record(row: Row, measure: Measure, here: dict[int, float]) -> str:
    """Values beside those of the record, of the same seeds where it has them.

    The tolerance decides where there is one, and standard errors where both sides have one.
    """

    common = [seed for seed in here if seed in measure.measured]
    new = [here[seed] for seed in common or here]
    old = [measure.measured[seed] for seed in common or measure.measured]
    off = abs(statistics.fmean(new) - statistics.fmean(old))
    if measure.tolerance is not None:
        away = RED if row.quick else DIFFERS
        return GREEN if off <= measure.tolerance else away

    errors = standard_error(new), standard_error(old)
    if None in errors:
        return ONE
    return GREEN if off <= APART * math.hypot(*errors) else DIFFERS


# -- tables as text -------------------------------------------------------------------------------


def shown(values: Iterable[float], digits: int) -> str:
    """Mean and deviation of values, and how many there are.

    Example:
        >>> shown([1.5, 1.45, 1.47], 2), shown([1.5], 2), shown([], 2)
        ('1.47 ± 0.03 (3)', '1.50 (1)', '')
    """
    values = list(values)
    if not values:
        return ""

    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        mean += f" ± {statistics.stdev(values):.{digits}f}"
    return f"{mean} ({len(values)})"


def off_by(line: Line) -> str:
    """Measured minus published, with how many standard errors that is, where they are known."""
    measure = line.measure
    if measure.published is None or not line.values:
        return ""

    off = statistics.fmean(line.values) - measure.published
    said = f"{off:+.{MEASURES[line.name][1]}f}"
    error = math.hypot(standard_error(line.values) or 0.0, measure.error or 0.0)
    return said if error == 0.0 else f"{said} = {off / error:+.1f} se"


def cells(line: Line) -> list[str]:
    """A line of a table as text."""
    unit, digits = MEASURES[line.name]
    measure = line.measure
    published = ""
    if measure.published is not None:
        error = "" if measure.error is None else f" ± {measure.error:g}"
        published = f"{measure.published:g}{error} ({measure.source})"

    name = f"{line.name} [{unit}]" if unit else line.name
    known = shown(measure.measured.values(), digits)
    here = shown(line.here.values(), digits)
    row = line.row
    return [row.name, row.says, name, published, known, here, off_by(line), line.state]


def pairs_of(table: Table, lines: list[Line]) -> list[list[str]]:
    """Rows of text: each rule minus the one it is compared with, over the seeds both have."""
    by_key = {(line.row.name, line.name): line for line in lines}
    rows = []
    for line in (line for line in lines if line.row.name != table.against):
        other = by_key.get((table.against, line.name))
        if line.row not in table.rows or other is None:
            continue

        both = [
            ("this folder", line.here, other.here),
            ("the record", line.measure.measured, other.measure.measured),
        ]
        pairs = [(where, pair_by_seed(a, b)) for where, a, b in both]
        where, pair = next(((w, p) for w, p in pairs if p is not None and p.n > 1), (None, None))
        if pair is not None:
            names = [line.row.says, other.row.says, line.name]
            rows.append([*names, *in_words(pair, MEASURES[line.name][1]), where])

    return rows


def pair_by_seed(a: dict[int, float], b: dict[int, float]) -> Paired | None:
    """Differences of the seeds that both have; None if there are none."""
    common = [seed for seed in a if seed in b]
    if not common:
        return None
    return paired([a[seed] for seed in common], [b[seed] for seed in common])


def in_words(pair: Paired, digits: int) -> list[str]:
    """Difference, interval and p as text.

    Example:
        >>> in_words(paired([1.5, 1.4], [1.0, 1.1]), 2)
        ['+0.40 ± 0.10 se (2)', '+0.30 .. +0.50', '0.50']
    """
    if pair.se is None:
        return [f"{pair.mean:+.{digits}f} (1)", "", ""]

    mean = f"{pair.mean:+.{digits}f} ± {pair.se:.{digits}f} se ({pair.n})"
    return [mean, f"{pair.low:+.{digits}f} .. {pair.high:+.{digits}f}", f"{pair.p:.2f}"]


def runs_of(table: Table, folder: Folder) -> list[list[str]]:
    """Rows of text: what each run took, and what it was made of."""
    rows = []
    for run in (Run(row, seed) for row in table.rows if row.config for seed in row.seeds):
        record = folder.current(run)
        if record is not None:
            rows.append(_run(run, record))
    return rows


def _run(run: Run, record: dict[str, Any]) -> list[str]:
    """A run as a row of text."""
    values = record["measures"].items()
    measures = ", ".join(f"{name} {value:.{MEASURES[name][1]}f}" for name, value in values)
    sha = record.get("sha256", {})
    return [
        run.name,
        measures or f"failed: {record['error']}",
        _known(record["seconds"]),
        _known(record["memory_mib"]),
        _known(record["energy_joules"]),
        ", ".join(sha[key][:12] for key in ("data", "model") if key in sha),
        " ".join(f"{name} {version}" for name, version in record["versions"].items()),
        record["command"],
    ]


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


# -- the two files --------------------------------------------------------------------------------


def write(folder: Folder, tables: list[Table], lines: list[Line], head: str) -> list[Path]:
    """Write report.md, report.html and records.json, all current records in one, to the folder."""
    text = [f"# gendae reproduce\n\n{head}\n"]
    page = [f"<h1>gendae reproduce</h1><p>{html.escape(head)}</p>"]
    notes = (
        "± is the deviation of seeds, their number in brackets; se: standard errors of the "
        "difference, of seeds and of what was published, as far as known. p: the sign-flip test; "
        "with three seeds it is 0.25 at best. J: of the whole machine. What a run took that was "
        "stopped in between is not known."
    )
    text.append(notes + "\n")
    page.append(f"<p>{notes}</p>")

    for table in tables:
        own = [line for line in lines if line.row in table.rows]
        text.append(f"## {table.title} (`{table.name}`)\n")
        page.append(f"<h2>{html.escape(table.title)} (<code>{table.name}</code>)</h2>")
        for name, rows in _parts(table, own, folder):
            text.append(markdown(rows))
            page.append(_html_table(rows, name))

    rows = [row for table in tables for row in table.rows if row.config]
    records = [folder.current(Run(row, seed)) for row in rows for seed in row.seeds]
    return [
        write_json(folder.path / "records.json", [record for record in records if record]),
        write_whole(folder.path / "report.md", "\n".join(text).encode()),
        write_whole(folder.path / "report.html", PAGE.format(body="\n".join(page)).encode()),
    ]


def _parts(
    table: Table, lines: list[Line], folder: Folder
) -> Iterable[tuple[str, list[list[str]]]]:
    """The tables of a table: results, paired differences and runs."""
    yield "results", [HEADER, *map(cells, lines)]
    pairs = pairs_of(table, lines)
    if pairs:
        yield "pairs", [PAIRED, *pairs]
    runs = runs_of(table, folder)
    if runs:
        yield "runs", [RUNS, *runs]


def _html_table(rows: list[list[str]], name: str) -> str:
    """Rows as a table of a page; the last cell of results has the colour of its state."""
    made = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0]) + "</tr>"]
    for row in rows[1:]:
        colour = COLOURS.get(verdict(row[-1]), "") if name == "results" else ""
        marks = [""] * (len(row) - 1) + [f' class="{colour}"' if colour else ""]
        cells_ = [
            f"<td{mark}>{html.escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)
        ]
        made.append(f"<tr>{''.join(cells_)}</tr>")

    return f'<table class="{name}">\n' + "\n".join(made) + "\n</table>"


# -- blocks of the documentation ------------------------------------------------------------------

BLOCK = re.compile(r"(<!-- reproduce: (\S+) -->\n).*?(<!-- /reproduce -->)", re.DOTALL)
MARK = re.compile(r"<!-- (reproduce: \S+|/reproduce) -->")
#: What an entry of `rules` says.
OF_RULES = ("use", "reaches", "time")
PLACE = re.compile(r"\{([\w.-]+)\.(\w+):(\d)\}")


def filled(text: str, tables: dict[str, Table], rules: dict[str, dict[str, str]]) -> str:
    """A Markdown text whose marked blocks are written anew from the committed record.

    A block begins with <!-- reproduce: NAME --> and ends with <!-- /reproduce -->; NAME is that of
    a table, or `rules`.

    Raises:
        ValueError: for a name of neither, a block without its end, and a text without blocks.
    """

    def block(place: re.Match[str]) -> str:
        name = place[2]
        if name == "rules":
            return place[1] + rules_table(rules, tables) + place[3]
        if name not in tables:
            raise ValueError(f"<!-- reproduce: {name} -->: no such table")
        return place[1] + committed_table(tables[name]) + place[3]

    _check_marks(text)
    return BLOCK.sub(block, text)


def _check_marks(text: str) -> None:
    """Raise a ValueError unless beginnings and ends of blocks take turns, and there are some."""
    marks = [mark[1] for mark in MARK.finditer(text)]
    if not marks:
        raise ValueError("no block <!-- reproduce: NAME --> .. <!-- /reproduce -->")

    for mark, after in zip(["/reproduce", *marks], [*marks, "reproduce: "], strict=True):
        if mark != "/reproduce" and after != "/reproduce":
            raise ValueError(f"<!-- {mark} --> has no <!-- /reproduce --> before the next block")
        if mark == after:
            raise ValueError("<!-- /reproduce --> ends no block")


def committed_table(table: Table) -> str:
    """A table of the committed record, beside what was published."""
    lines = [Line(row, name, {}, "") for row in table.rows for name in row.measures]
    text = markdown([_without_here(row) for row in (HEADER, *map(cells, lines))])

    pairs = [row[:-1] for row in pairs_of(table, lines)]
    return text + ("\n" + markdown([PAIRED[:-1], *pairs]) if pairs else "")


def _without_here(row: list[str]) -> list[str]:
    return [*row[:5], row[6]]


def rules_table(rules: dict[str, dict[str, str]], tables: dict[str, Table]) -> str:
    """README's table of rules."""
    by_name = {row.name: row for table in tables.values() for row in table.rows}
    number: Callable[[re.Match[str]], str] = lambda place: number_at(place, by_name)
    rows = []
    for rule, entry in rules.items():
        _check_rule(rule, entry)
        rows.append([f"`{rule}`", *(PLACE.sub(number, entry[key]) for key in OF_RULES)])

    return markdown([["rule", "use it for", "test images", "time"], *rows])


def _check_rule(rule: object, entry: object) -> None:
    """Raise a ValueError unless an entry of `rules` says all that its row shows."""
    for key in OF_RULES:
        said = isinstance(entry, dict) and isinstance(entry.get(key), str)
        if not said:
            raise ValueError(f"rules: {rule}: text is needed for each of {', '.join(OF_RULES)}")


def number_at(place: re.Match[str], rows: dict[str, Row]) -> str:
    """The mean of the committed record that {ROW.MEASURE:DIGITS} stands for."""
    name, measure, digits = place.groups()
    row = rows.get(name)
    if row is None or measure not in (*row.measures, "minutes"):
        raise ValueError(f"{place[0]}: no such row, or measure of it")

    value = row.minutes
    if measure in row.measures:
        if not row.measures[measure].measured:
            raise ValueError(f"{place[0]}: this row has no committed record")
        value = statistics.fmean(row.measures[measure].measured.values())
    return f"{value:.{digits}f}"
