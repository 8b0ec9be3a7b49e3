"""log p(x) of models by annealed importance sampling, and its gap on data of the model.

    python -m benchmarks.likelihoods MODEL .. [--hidden means] [--bits 0] [--sigma-x 0.3]
        [--images 100] [--drawn 100] [--chains 16] [--temperatures 2000] [--seed 0]
        [--json FILE]
    python -m benchmarks.likelihoods --speed [--images 100] [--chains 16]
    python -m benchmarks.likelihoods --show

A model is a file or a shipped model; the images are test images of its own data set, drawn by
--seed, with --bits as bits drawn once by this number. Rows say which density was measured: numbers
of other laws, and of other bits, are not to be compared. --drawn is the number of images that the
model draws for the gap, as many as of the test set if it is not given. Seconds are those of a CPU,
with one thread.

--speed times the decoder that published tables are about, 784-500-500 units over 20 codes, at its
initial weights: the cost of a temperature does not depend on the weights, so that a few tell that
of 2,000.

Models of one decoder are trained and measured by `gendae reproduce --tables likelihoods`; --show
writes the table of docs/explanation/likelihoods.md from the committed record of its rows,
docs/results/likelihoods.json.
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch

import gendae
from gendae.commands.common import markdown
from gendae.commands.data import data_of
from gendae.data.binarised import Binarised
from gendae.metrics.annealed import LEARNING
from gendae.metrics.report import Annealing, annealed_rows, images_to_anneal
from gendae.training.rows import read_tables

COLUMNS = {
    "model": "model",
    "law": "annealed_law",
    "images": "annealed_images",
    "chains": "annealed_chains",
    "temperatures": "annealed_temperatures",
    "log p(x) >=": "annealed",
    "+-": "annealed_se",
    "effective": "annealed_effective",
    "acceptance": "annealed_acceptance",
    "gap": "annealed_gap",
    "+- of gap": "annealed_gap_se",
    "of images": "annealed_gap_images",
    "CPU seconds": "cpu_seconds",
}
#: Temperatures whose time stands for that of the others: as many as step sizes are learned in.
TIMED = LEARNING
PUBLISHED = 2000
DOCS = Path(__file__).parents[1] / "docs"
RECORD = DOCS / "results/likelihoods.json"
PAGE = DOCS / "explanation/likelihoods.md"
BLOCK = re.compile(r"(<!-- likelihoods -->\n).*?(<!-- /likelihoods -->)", re.DOTALL)
HEADER = (
    "rule",
    "gradient across layers",
    "epochs",
    "bound",
    "log p(x), annealed",
    "temperatures",
    "effective",
    "gap",
)


def row(model, options):
    """The measures of one model."""
    stack = gendae.load(model)
    data = data_of(stack)
    if options.bits is not None:
        data = Binarised(data, options.bits)

    x = images_to_anneal(data.split("test").x, options.images, options.seed)
    annealing = Annealing(
        images=len(x),
        chains=options.chains,
        temperatures=options.temperatures,
        hidden=options.hidden,
        bits=options.bits,
        drawn=options.drawn,
    )
    started = time.process_time()
    measures = annealed_rows(stack, x, annealing, options.sigma_x, options.seed)
    seconds = time.process_time() - started

    return {"model": model, "seed": options.seed, **measures, "cpu_seconds": seconds}


def decoder():
    """A stack with a decoder of 500 and 500 units over 20 codes, and bits as x."""
    return gendae.deep_autoencoder(
        [784, 20],
        ["linear"],
        observation="bernoulli",
        hidden_f=[500, 500],
        hidden_g=[500, 500],
        prior=gendae.GaussianPrior("identity", 1.0),
    )


def speed(images, chains, seed=0):
    """CPU seconds of some temperatures, and of 2,000."""
    torch.manual_seed(seed)
    stack = decoder()
    x = (torch.rand(images, 784) < 0.13).float()

    started = time.process_time()
    gendae.annealed_log_prob(stack, x, chains, TIMED + 1)
    seconds = time.process_time() - started

    return {
        "images": images,
        "chains": chains,
        "temperatures": TIMED,
        "CPU seconds": seconds,
        "CPU seconds of 2,000": seconds * PUBLISHED / TIMED,
    }


def table(rows):
    """Rows in Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    for measures in rows:
        values = [measures.get(key) for key in COLUMNS.values()]
        lines.append([f"{v:.2f}" if isinstance(v, float) else str(v) for v in values])

    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- the table of one decoder --------------------------------------------------------------------


def page(text, rows):
    """The Markdown of the page, with the table of rows as the record has them."""
    entries = json.loads(RECORD.read_text())
    record = {entry["row"]: entry for entry in entries if "annealing" in entry}
    known = [row for row in rows if row.name in record]
    known.sort(key=lambda row: -best(record[row.name]["measures"]))
    lines = [line(row, record[row.name]) for row in known]

    return BLOCK.sub(lambda place: place[1] + markdown([HEADER, *lines]) + place[2], text)


def best(values):
    """The better one of what lies below log p(x)."""
    return max(values["annealed"], values["bound"])


def line(row, entry):
    """A row of the table as text."""
    values = entry["measures"]
    done = entry["annealing"]

    return [
        row.says,
        "yes" if entry["crosses"] else "no",
        str(entry["facts"]["epochs"]),
        f"{values['bound']:.1f}",
        f"{values['annealed']:.1f} ± {done['se']:.1f}",
        f"{done['temperatures']:,}",
        f"{done['effective']:.1f}",
        f"{values['gap']:.2f} ± {done['gap_se']:.2f}",
    ]


def show():
    rows = read_tables("likelihoods")["likelihoods"].rows
    PAGE.write_text(page(PAGE.read_text(), rows))
    print(PAGE)


def main(arguments=None):
    """Measure each model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--hidden", default="drawn")
    parser.add_argument("--bits", type=int)
    parser.add_argument("--sigma-x", type=float)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--drawn", type=int)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--temperatures", type=int, default=PUBLISHED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    if options.show:
        show()
        return

    if options.speed:
        rows = [speed(options.images, options.chains, options.seed)]
        print(json.dumps(rows[0], indent=2))
    else:
        rows = [row(model, options) for model in options.models]
        print(table(rows))

    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
