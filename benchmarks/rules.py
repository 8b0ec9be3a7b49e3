"""The table of rules: their tuning, and what a step of each takes.

    python -m benchmarks.rules tune mnist-six [--rows dtp fa ..] [--trials 6] [--out FOLDER]
    python -m benchmarks.rules steps mnist-six [--rows ..] [--repeats 40]
    python -m benchmarks.rules show

Rows, their configurations and the spaces of their tuning are in configs/reproduction/rules.yaml,
and `gendae reproduce mnist-six --tables rules` trains them. All rows of a table have one budget:
so many trials of two epochs of 10,000 images. The options with the lowest validation error are
printed, as a row of that file has them.

A step is losses, one backward pass and the optimizer, on a batch of 100, without Lightning; steps
of all rows are timed in turns. Its bytes are the most by which live memory grows within it.

`show` writes the tables of docs/rules.md from the committed record, docs/results/rules*.json.
"""

import argparse
import json
import re
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

import torch
import yaml

from benchmarks.floor import interleaved
from benchmarks.memory import MIB, transient_bytes
from gendae.cli import main as command
from gendae.commands.common import markdown
from gendae.metrics.paired import paired
from gendae.rules.moment import Moment
from gendae.training.configurations import build, write_config
from gendae.training.memory import keep_freed_memory
from gendae.training.mistakes import read_yaml
from gendae.training.reproduction import config_of
from gendae.training.rows import read_tables

FILE = "rules"
#: Of every trial.
SHORT = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "100")
#: Of the step that is timed: beyond the start, and one in which feedback learns that does so every
#: tenth time.
UPDATE = 10_000
WARM = 3  # updates before, in which the optimizer makes its state
BURST = 5  # steps that follow one another in a turn
DOCS = Path(__file__).parents[1] / "docs"
RECORD = DOCS / "results/rules.json"
STEPS = DOCS / "results/rules-steps.json"
PAGE = DOCS / "rules.md"
BLOCK = re.compile(r"(<!-- rules: (\S+) -->\n).*?(<!-- /rules -->)", re.DOTALL)
HEADER = (
    "rule",
    "test error %",
    "minus back-propagation",
    "published",
    "cosine",
    "ms of a step",
    "times",
    "MiB",
)


# -- tuning --------------------------------------------------------------------------------------


def tuned(row, space, trials, out):
    """Search the space of a row; the best options, and their validation error."""
    folder = out / row.name
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "row.yaml", config_of(row))
    (folder / "space.yaml").write_text(yaml.safe_dump(space))

    words = ["--config", folder / "row.yaml", "--space", folder / "space.yaml"]
    words += ["--trials", trials, "--pruner", "none", "--out", folder / "study"]
    if command(["tune", *map(str, words), *row.options, *SHORT]) != 0:
        raise SystemExit(f"benchmarks.rules: the tuning of {row.name} failed, see above")

    tried = json.loads((folder / "study" / "trials.json").read_text())["trials"]
    scored = [trial for trial in tried if trial.get("score") is not None]
    best = min(scored, key=lambda trial: trial["score"])
    return best["options"], best["score"]


def tune(rows, args):
    spaces = read_yaml(FILE)["spaces"]
    for row in rows:
        options, score = tuned(row, spaces[row.name], args.trials, args.out)
        words = chain.from_iterable((f"--{name}", value) for name, value in options.items())
        print(f"{row.name}: {100 * score:.2f} % by [{', '.join(map(str, words))}]", flush=True)


# -- the page ------------------------------------------------------------------------------------


def page(text, tables):
    """The Markdown of the page, with its tables as the record has them."""
    record = json.loads(RECORD.read_text())
    taken = json.loads(STEPS.read_text())

    def block(place):
        table = tables[place[2]]
        return place[1] + markdown([HEADER, *lines(table, record, taken)]) + place[3]

    return BLOCK.sub(block, text)


def lines(table, record, taken):
    """Rows of a table, the lowest error first."""
    errors = {row.name: values(record, row.name, "error") for row in table.rows}
    rows = [row for row in table.rows if errors[row.name]]
    reference = errors[table.against]
    steps = {row["row"]: row for row in taken[table.name]}
    ms = steps[table.against]["ms"]

    for row in sorted(rows, key=lambda row: fmean(errors[row.name].values())):
        own = errors[row.name]
        both = sorted(own.keys() & reference.keys())
        apart = paired([own[seed] for seed in both], [reference[seed] for seed in both])
        step = steps[row.name]

        yield [
            row.says,
            told(own.values(), 2),
            "" if row.name == table.against else f"{apart.low:+.2f} .. {apart.high:+.2f}",
            published(row.measures["error"]),
            told(values(record, row.name, "cosine").values(), 2),
            f"{step['ms']:.1f}",
            f"{step['ms'] / ms:.1f}",
            f"{step['mib']:.1f}",
        ]


def values(record, name, measure):
    """Values of a measure by seed."""
    rows = [row for row in record if row["row"] == name and measure in row["measures"]]
    return {row["seed"]: row["measures"][measure] for row in rows}


def told(numbers, digits):
    """Mean and standard deviation, as far as there are some."""
    numbers = list(numbers)
    if not numbers:
        return ""

    spread = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{fmean(numbers):.{digits}f}{spread}"


def published(measure):
    return "" if measure.published is None else f"{measure.published:.2f}"


def show(tables):
    PAGE.write_text(page(PAGE.read_text(), tables))
    print(PAGE)


# -- steps ---------------------------------------------------------------------------------------


def step_of(row):
    """A training step of a row's rule, as a function without arguments."""
    torch.manual_seed(0)
    rule, data = build(config_of(row), list(row.options))
    moment = Moment(generator=torch.Generator().manual_seed(0), update=UPDATE)
    optimizer = rule.configure_optimizers()
    rule.manual_backward = lambda loss: loss.backward()

    train = data.split("train")
    batch = (train.x[:100], train.y[:100])

    def step():
        rule.gradients(batch, moment)
        optimizer.step()

    for _ in range(WARM):
        step()
    return step


def steps(rows, args):
    calls = {row.name: step_of(row) for row in rows}
    seconds = interleaved(calls, args.repeats, burst=BURST)
    taken = [
        {
            "row": name,
            "ms": round(1e3 * seconds[name], 3),
            "mib": round(transient_bytes(call) / MIB, 2),
        }
        for name, call in calls.items()
    ]

    for row in taken:
        print("{row:18} {ms:8.2f} ms {mib:8.2f} MiB".format(**row))

    known = json.loads(STEPS.read_text()) if STEPS.exists() else {}
    STEPS.write_text(json.dumps(known | {args.table: taken}, indent=1) + "\n")


def main():
    tables = read_tables(FILE)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["tune", "steps", "show"])
    parser.add_argument("table", choices=list(tables), nargs="?", default=next(iter(tables)))
    parser.add_argument("--rows", nargs="+", help="of the table; all if none is named")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("tune"), help="folder of studies")
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()

    if args.what == "show":
        show(tables)
        return

    keep_freed_memory()  # as `gendae fit` does
    rows = [row for row in tables[args.table].rows if not args.rows or row.name in args.rows]
    {"tune": tune, "steps": steps}[args.what](rows, args)


if __name__ == "__main__":
    main()
