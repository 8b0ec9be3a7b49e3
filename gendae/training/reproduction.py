"""Runs of rows, each by processes of their own, in a folder that several processes share.

    FOLDER/runs/ROW-SEED-DIGEST/       row.yaml, run folders 0001, .., the job, its log and result
    FOLDER/claims/ROW-SEED.json        while a process works at it, see `claims`
    FOLDER/records/ROW-SEED.json       what came of it

A run that was killed goes on from its last.ckpt, bit for bit. DIGEST is of the sources of gendae,
the configuration and the options: other sources never go on where these stopped. There is one
record of a run. It holds the DIGEST that it is of: that of another one is told of and not counted,
and is written over when the run is made again, from nothing.
"""

import hashlib
import json
import math
import os
import platform
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gendae
from gendae.errors import shortened
from gendae.registry import registered
from gendae.rules.base import Rule
from gendae.storage.atomic import write_json
from gendae.training import child
from gendae.training.claims import Claim, claimed, owner_gone, void
from gendae.training.configurations import QUIET, Config, read_config, write_config
from gendae.training.replaced import model_of
from gendae.training.rows import Row
from gendae.training.scores import LACKING, LAST, code, processor, run_folders
from gendae.training.zoo import entry_of

#: The configuration of a row; a config.yaml would make the folder that of an earlier run.
CONFIG = "row.yaml"
#: What a run's process leaves.
RESULT = "result.json"
#: What lies in a folder whose run has a record: nothing goes on from there.
ENDED = "record.json"
#: Counters of energy in microjoules, of whole processors, where the system lets users read them.
ENERGY = Path("/sys/class/powercap")
#: How a run is stopped from outside: there is no result, and it goes on later.
STOPS = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")
    if hasattr(signal, name)
)
#: Exit codes of a process that such a signal ended, as the system and as a shell have them.
SIGNALLED = (*(-number for number in STOPS), *(128 + number for number in STOPS))


class Run(NamedTuple):
    """One seed of a row."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-{self.seed}"

    @property
    def digest(self) -> str:
        """What the result depends on, but for the data and other libraries."""
        row = self.row
        parts = [
            gendae.__version__,
            code(),
            config_of(row),
            row.options,
            row.amounts.samples,
            row.amounts.annealing,
            sorted(row.measures),
        ]
        if row.model:
            shipped = entry_of(row.model)
            parts += [shipped["sha256"], shipped["export"]]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8]


def config_of(row: Row) -> Config:
    """The configuration of a row, by its own rule if it names one."""
    config = read_config(row.config)
    if row.rule:
        cls = registered(row.rule)
        if cls is None or not issubclass(cls, Rule):
            raise ValueError(f"row {row.name}: rule={row.rule!r} is no rule; see `gendae list`")
        config["model"] = model_of(cls, config["model"].get("init_args") or {})
    return config


def in_order(rows: Sequence[Row]) -> list[Run]:
    """Runs of rows: quick ones first, of these every row's first seed, and the cheapest first."""
    runs = [Run(row, seed) for row in rows if row.config for seed in row.seeds]

    def place(run: Run) -> tuple:
        nth = run.row.seeds.index(run.seed)
        if run.row.quick:
            return (0, nth, run.row.minutes, run.name)
        return (1, run.row.minutes, run.name)

    return sorted(runs, key=place)


class Folder:
    """A folder of runs, which other processes may work at.

    Args:
        path: of the folder, which is made.
        stale: minutes after which a claim that nobody touches is void.
    """

    def __init__(self, path: Path, stale: float) -> None:
        self.path = path
        self.stale = 60.0 * stale
        for name in ("runs", "claims", "records"):
            (path / name).mkdir(parents=True, exist_ok=True)

    def record_file(self, run: Run) -> Path:
        return self.path / "records" / f"{run.name}.json"

    def claim_file(self, run: Run) -> Path:
        return self.path / "claims" / f"{run.name}.json"

    def root(self, run: Run) -> Path:
        return self.path / "runs" / f"{run.name}-{run.digest}"

    def record(self, run: Run) -> dict[str, Any] | None:
        """The record of a run, if there is one.

        Raises:
            ValueError: if the file holds something else.
        """
        file = self.record_file(run)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, IsADirectoryError):
            raise ValueError(f"{file} is no record of a run; remove it") from None

        if not _is_record(content, run):
            raise ValueError(f"{file} is no record of a run; remove it")
        return content

    def has_records(self, row: Row) -> bool:
        """Whether there is a record of any of a row's seeds."""
        return any(self.record_file(Run(row, seed)).exists() for seed in row.seeds)

    def current(self, run: Run) -> dict[str, Any] | None:
        """The record of a run by this version and configuration; None of another, or if none."""
        record = self.record(run)
        if record is None or record["digest"] != run.digest:
            return None
        return record

    def due(self, run: Run, again: bool = False) -> bool:
        """Whether a run is to be begun: `again` means those that failed, or are of others, too."""
        record = self.record(run)
        if record is None or not again:
            return record is None
        return record["digest"] != run.digest or record.get("error") is not None

    def busy(self, run: Run) -> bool:
        """Whether a process works at the run."""
        file = self.claim_file(run)
        return file.exists() and not void(file, self.stale)

    def orphaned(self, run: Run) -> bool:
        """Whether nobody but a child works at the run, whose parent was killed: it ends soon."""
        return self.busy(run) and owner_gone(self.claim_file(run))

    def claim(self, run: Run) -> Claim | None:
        """A claim of a run; None while another process works at it."""
        return claimed(self.claim_file(run), self.stale)


def _is_record(content: Any, run: Run) -> bool:  # noqa: ANN401 - whatever a file holds
    """Whether a file holds all that a record of a run has, each of its kind."""
    if not isinstance(content, dict) or not isinstance(content.get("measures"), dict):
        return False

    versions = content.get("versions")
    texts = [content.get("row"), content.get("digest"), content.get("command")]
    numbers = [*content["measures"].values(), content.get("seed")]
    known = [content.get(name) for name in ("seconds", "memory_mib", "energy_joules")]
    numbers += [number for number in known if number is not None]
    for part in (versions, content.get("sha256", {})):
        if not isinstance(part, dict):
            return False
        texts += part.values()

    if "gendae" not in versions or "error" not in content:
        return False
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_number, numbers)):
        return False
    return _is_whole(content, run)


def _is_whole(content: dict[str, Any], run: Run) -> bool:
    """Whether a record says what went wrong, or has all measures of its row."""
    if content["error"] is not None:
        return isinstance(content["error"], str)
    return content["digest"] != run.digest or set(run.row.measures) <= set(content["measures"])


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


class Ended(NamedTuple):
    """A process that ended: its code, its last words, what it took."""

    code: int
    said: str
    seconds: float
    memory: float | None
    energy: float | None


class Unusable(Exception):
    """What the run needs is not there, data for example: nothing is recorded."""


class Stopped(Exception):
    """A signal ended the run: nothing is recorded, and it goes on later."""


def carry_out(folder: Folder, run: Run, claim: Claim) -> dict[str, Any]:
    """Train and measure a run; its record, which is written unless the claim was lost.

    Raises:
        Stopped: if a signal ended its process, or another process took the run over.
        Unusable: if the data, the memory or the disk do not suffice.
    """
    root = folder.root(run)
    if folder.current(run) is not None or (root / ENDED).exists():
        _clear(root)
    resumed = bool(run_folders(root))
    job = _job(run, root)
    ended = _process("gendae.training.scores", [str(job)], root / "run.log", claim)

    if ended.code == LACKING:
        raise Unusable(ended.said)
    record = _begun(run, root) | _result(ended, root)
    if record["versions"].get("code", code()) != code():
        raise Unusable("the sources of gendae have changed since this command began")
    if not claim.held():
        raise Stopped(f"{run.name} was taken over by another process, since nothing was heard")

    record |= _spent(ended, resumed)
    write_json(folder.record_file(run), record)
    write_json(root / ENDED, record)
    return record


def _clear(root: Path) -> None:
    """Remove the folder of a run that has ended; it loses its name first, all at once."""
    if not root.exists():
        return

    past = root.with_name(f"{root.name}.{secrets.token_hex(4)}.old")
    root.rename(past)
    shutil.rmtree(past, ignore_errors=True)


def _result(ended: Ended, root: Path) -> dict[str, Any]:
    """What a process measured, or why there is nothing: numbers that are none are a failure."""
    if ended.code:
        return {"error": shortened(ended.said, 300) or f"exit code {ended.code}"}

    result = json.loads((root / RESULT).read_text(encoding="utf-8"))
    none = [name for name, value in result["measures"].items() if not _is_number(value)]
    if none:
        result |= {"measures": {}, "error": f"{none[0]} is not a finite number"}
    return result


def _spent(ended: Ended, resumed: bool) -> dict[str, Any]:
    """What a run took, and when it ended; what a killed process took of it is not known."""
    known: dict[str, float | None] = {
        "seconds": round(ended.seconds, 1),
        "memory_mib": ended.memory,
        "energy_joules": ended.energy,
    }
    if resumed:
        known = dict.fromkeys(known)
    return {**known, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _job(run: Run, root: Path) -> Path:
    """The file of a run's job: what is trained, from where a killed one stopped, and measured."""
    config = write_config(root / CONFIG, config_of(run.row))
    words = ["fit", "--config", str(config), *QUIET, *run.row.options]
    words += ["--seed_everything", str(run.seed), "--trainer.default_root_dir", str(root)]

    folders = run_folders(root)
    if folders:
        words += ["--ckpt_path", str(folders[-1] / LAST)]
    (root / RESULT).unlink(missing_ok=True)
    content = {
        "words": words,
        "root": str(root),
        "resumed": str(folders[-1]) if folders else None,
        "samples": run.row.amounts.samples,
        "annealing": run.row.amounts.annealing,
        "measures": list(run.row.measures),
        "model": run.row.model,
        "out": str(root / RESULT),
    }
    return write_json(root / "job.json", content)


def _begun(run: Run, root: Path) -> dict[str, Any]:
    """What is known of a run whatever comes of it."""
    words = ["--config", str(root / CONFIG), *run.row.options]
    return {
        "row": run.row.name,
        "seed": run.seed,
        "digest": run.digest,
        "versions": {"gendae": gendae.__version__, "code": code()},
        "command": shlex.join(["gendae", "fit", *words, "--seed_everything", str(run.seed)]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {processor()}",
        "measures": {},
        "error": None,
    }


def _process(module: str, words: Sequence[str], log: Path, claim: Claim) -> Ended:
    """Run a module in a process of its own, of one thread unless the environment says otherwise.

    Raises:
        Stopped: if a signal ended it.
    """
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ}
    energy = energies()
    begun = time.perf_counter()

    with log.open("ab") as stream:
        start = child.command(module, words)
        process = subprocess.Popen(start, stdout=stream, stderr=stream, env=environment)
        claim.name_child(process.pid)
        ended, memory = _awaited(process)
        claim.forget_child()

    if ended in SIGNALLED:
        raise Stopped(f"a signal ended it (exit code {ended}); the same command goes on")

    seconds = time.perf_counter() - begun
    return Ended(ended, _last_line(log), seconds, memory, joules(energy, energies()))


def _awaited(process: subprocess.Popen) -> tuple[int, float | None]:
    """The exit code of a process, and the most memory that it had, in MiB, where known."""
    if not hasattr(os, "wait4"):
        return process.wait(), None

    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return process.returncode, round(usage.ru_maxrss / unit, 1)


def _last_line(log: Path) -> str:
    """The last line of a log, which says what went wrong."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1].removeprefix("gendae: error: ") if spoken else ""


def energies(place: Path = ENERGY) -> dict[str, tuple[int, int]]:
    """Counters of all processors and the values at which they begin anew; none if unreadable."""
    counters = {}
    for folder in sorted(place.glob("intel-rapl:*")):
        if folder.name.count(":") > 1:  # a part of a processor
            continue
        try:
            used = int((folder / "energy_uj").read_text())
            most = int((folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return {}
        counters[folder.name] = (used, most)

    return counters


def joules(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Energy between two readings, of the whole machine; None if there is no counter.

    Example:
        >>> joules({"intel-rapl:0": (9_000_000, 10_000_000)}, {"intel-rapl:0": (500_000, 10**7)})
        1.5
        >>> print(joules({}, {}))
        None
    """
    if not before or before.keys() != after.keys():
        return None

    used = [(after[name][0] - start) % most for name, (start, most) in before.items()]
    return sum(used) / 1e6
