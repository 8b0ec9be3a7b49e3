"""`gendae reproduce`: tables of results, published beside measured, from an empty folder."""

import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import gendae
from gendae import checks
from gendae.commands import reproduction_report
from gendae.commands.common import aligned
from gendae.commands.reproduction_report import cells, lines_of
from gendae.errors import printable, reason, shortened
from gendae.storage import inputs
from gendae.storage.atomic import write_whole
from gendae.training.claims import Claim
from gendae.training.configurations import check_options
from gendae.training.mistakes import read_yaml
from gendae.training.reproduction import (
    Folder,
    Run,
    Stopped,
    Unusable,
    carry_out,
    config_of,
    in_order,
)
from gendae.training.rows import EVERY, Row, Table, chosen, read_tables
from gendae.training.scores import lacks

#: Seconds between two looks at a run whose process was killed, until its child has ended.
LOOK = 0.5
#: Files of a report, beside the folders of runs, claims and records.
WRITTEN = ("report.md", "report.html", "records.json")


class NotReproduced(Exception):
    """A quick row is not what the committed record says."""


def reproduce(
    what: str = "all",
    *,
    budget: float | None = None,
    out: str = "reproduction",
    processes: int = 1,
    again: bool = False,
    stale: float = 10.0,
    tables: str = "field",
    fill: list[str] | None = None,
) -> list[str]:
    """Run what is missing of the tables of results, and report published beside measured.

    The same command goes on where it was stopped; several, also on other machines, share a folder.
    The exit status is 1 where a quick row is not what the committed record says.

    Args:
        what: a table, a row, quick or all.
        budget: minutes, after which nothing is begun, nor what would not end by then.
        out: folder of runs, records and reports, which is made or continued.
        processes: how many runs at a time, each in a process of one thread.
        again: run what failed, and what another version has a record of, anew.
        stale: minutes after which a claim that no process touches is void.
        tables: YAML file of tables; by default the one that comes with gendae.
        fill: Markdown files whose marked blocks are written from the committed record; runs
            nothing.
    """
    known = read_tables(tables)
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out {out} is a file; a folder is needed")
    if fill is not None:
        return [f"written: {_fill(Path(file), known, tables)}" for file in fill]

    if budget is not None:
        checks.at_least("--budget", budget, 0.0, strict=True)
    checks.at_least("--stale", stale, 0.0, strict=True)
    checks.whole("--processes", processes, 1)
    rows = chosen(known, what)
    for row in rows:
        if row.config:
            _check_options(row)

    for name in WRITTEN:
        inputs.refuse_input(Path(out) / name)
    folder = Folder(Path(out), stale)
    shown = [row for row in chosen(known, EVERY) if row in rows or folder.has_records(row)]
    lines_of(shown, folder, {})  # what is no record is told of before anything runs

    work = Work(folder, rows, budget, again)
    work.carry_out(processes)
    return _reported(work, list(known.values()))


def _check_options(row: Row) -> None:
    """Raise a ValueError, in one line, for a configuration or options that `fit` would refuse."""
    try:
        check_options(config_of(row), row.options, callbacks=True)
    except ValueError as error:
        said = reason(error).removeprefix(f"row {row.name}: ")
        raise ValueError(f"row {row.name}: {said}") from None


class Work:
    """Runs that are begun while they fit into a budget, by several threads.

    Args:
        folder: of runs.
        rows: whose runs they are.
        budget: minutes; None for no end.
        again: see `reproduce`.
    """

    def __init__(self, folder: Folder, rows: list[Row], budget: float | None, again: bool) -> None:
        self.folder = folder
        self.rows = rows
        self.budget = budget
        self.begun = time.monotonic()
        self.waiting = [run for run in in_order(rows) if folder.due(run, again)]
        self.again = again
        #: Why runs were not carried out, by their names.
        self.notes: dict[str, str] = {}
        self._claims: set[Claim] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def minutes(self) -> float:
        """Since the command began."""
        return (time.monotonic() - self.begun) / 60.0

    def carry_out(self, processes: int) -> None:
        """Carry out what is due, `processes` runs at a time."""
        with ThreadPoolExecutor(processes) as pool:
            working = [pool.submit(self._work) for _ in range(processes)]
            try:
                done, _ = wait(working, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException as error:
                self._stopped.set()
                if isinstance(error, Exception):  # Ctrl-C has reached the children too
                    self._end_children()
                raise

    def _end_children(self) -> None:
        """End what other threads wait for; it goes on when the command is given again."""
        with self._lock:
            for claim in self._claims:
                claim.end_child(for_good=True)

    def _work(self) -> None:
        while not self._stopped.is_set() and (taken := self._next()) is not None:
            run, claim = taken
            try:
                said = self._outcome(run, claim)
            finally:
                claim.end()
                with self._lock:
                    self._claims.discard(claim)
            print(printable(f"{run.name}: {said}"), file=sys.stderr, flush=True)

    def _next(self) -> tuple[Run, Claim] | None:
        """The next run that fits the budget and that no other process works at."""
        while not self._stopped.is_set():
            with self._lock:
                left = [run for run in self.waiting if self._fits(run)]
                for run in left:
                    claim = self._claim(run)
                    if claim is not None:
                        return run, claim

                orphans = [run for run in self.waiting if self.folder.orphaned(run)]
            if not orphans:
                return None
            time.sleep(LOOK)
        return None

    def _fits(self, run: Run) -> bool:
        fits = self.budget is None or self.minutes + run.row.minutes <= self.budget
        if not fits:
            self.notes[run.name] = f"not run: {run.row.minutes:g} min did not fit the budget"
        return fits

    def _claim(self, run: Run) -> Claim | None:
        """A claim of a run, unless another process works at it or has ended it."""
        claim = self.folder.claim(run)
        if claim is None:
            self.notes[run.name] = "another process is at it"
            return None

        self.notes.pop(run.name, None)
        self.waiting.remove(run)
        if self.folder.due(run, self.again):
            self._claims.add(claim)
            return claim

        claim.end()
        return None

    def _outcome(self, run: Run, claim: Claim) -> str:
        """Carry out a run; what came of it, in words."""
        try:
            record = carry_out(self.folder, run, claim)
        except (Stopped, Unusable, OSError) as error:
            said = shortened(reason(error), 200)
            outside = not isinstance(error, OSError) or lacks(error)
            self.notes[run.name] = f"{'not run' if outside else 'failed'}: {said}"
            return self.notes[run.name]

        if record["error"] is not None:
            return f"failed: {record['error']}"
        values = record["measures"].items()
        return ", ".join(f"{name} {value:.4g}" for name, value in values)


def _reported(work: Work, tables: list[Table]) -> list[str]:
    """Write the report of all rows of the folder; the lines to print, of those asked for.

    Raises:
        NotReproduced: if a quick row is red, or of several none was run; the lines are printed
            then.
    """
    every = [row for table in tables for row in table.rows]
    shown = [row for row in every if row in work.rows or work.folder.has_records(row)]
    of_folder = lines_of(shown, work.folder, work.notes)
    lines = [line for line in of_folder if line.row in work.rows]
    asked = {row.name for row in work.rows if row.quick and row.config}
    red = sorted({line.row.name for line in lines if line.red})
    quick = {line.row.name for line in lines if line.row.quick and line.here} | {*red}
    head = (
        f"gendae {gendae.__version__}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}: "
        f"{len(quick)} quick rows were run, {len(red)} of them are red"
    )

    of_rows = [table for table in tables if any(row in shown for row in table.rows)]
    written = reproduction_report.write(work.folder, of_rows, of_folder, head)
    header = reproduction_report.HEADER
    said = aligned([_short(header), *(_short(cells(line)) for line in lines)])
    said += [head, *(f"written: {path}" for path in written)]
    if not red and (quick or not asked):
        return said

    for text in said:
        print(printable(text))
    if red:
        raise NotReproduced(f"not what the record says: {', '.join(red)}; see {written[1]}")
    raise NotReproduced(
        f"none of the quick rows was run: {shortened(', '.join(sorted(asked)), 200)}"
    )


def _short(row: list[str]) -> list[str]:
    """A row for a terminal: name, measure, record, here, state."""
    name, _, measure, _, known, here, _, state = row
    return [name, measure, known, here, shortened(state, 70)]


def _fill(file: Path, tables: dict[str, Table], name: str) -> Path:
    """Write the marked blocks of a Markdown file anew."""
    text = file.read_text(encoding="utf-8")  # not as an input: it is written again
    rules = read_yaml(name).get("rules") or {}
    if not isinstance(rules, dict):
        raise ValueError(f"{name}: rules={rules!r}; entries by rule are needed")  # noqa: TRY004
    try:
        text = reproduction_report.filled(text, tables, rules)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return write_whole(file, text.encode())
