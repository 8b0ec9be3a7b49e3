"""Depth by targets: what each way of assigning credit makes of one network of 1 to 5 pairs.

    python -m benchmarks.depth tune [--rules ..]            three rates x kl at depth 3, validation
    python -m benchmarks.depth table [--rules ..] [--depths 1 2 3 5] [--seeds 0]
    python -m benchmarks.depth units [--seeds 0 1 2]        sign and drawn binary units
    python -m benchmarks.depth times                        CPU ms of an update
    python -m benchmarks.depth collect                      docs/results/depth.json and depth.png

784-20, 784-500-20, 784-500-500-20, ..: affine maps with tanh, linear codes, cross-entropy of x, 8
epochs of 50,000 MNIST images in batches of 100, AdamW at a constant rate for half of them and
falling to 0. Every run is one JSON file in runs/depth: a run that is there is not repeated.
Everything is chosen on validation images; `table` scores test images.

KLRule trains the same maps with noise of 0.3 on every code under N(0, I), kl being its alpha, and
is scored under the same window as the others.
"""

import argparse
import json
import logging
import os
import time
import warnings
from itertools import pairwise, product
from pathlib import Path

import torch
from pytorch_lightning import Callback, seed_everything

import gendae
from benchmarks.stability import measures, trainer_of
from gendae import plots
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.neighbours import data_copying
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import frechet_distance, in_batches
from gendae.plots import Figure
from gendae.rules import credit
from gendae.sampling.samplers import seeded

OUT = Path("runs/depth")
RECORD = Path("docs/results/depth.json")
WIDTH = 500
CODE = 20
EPOCHS = 8
BATCH = 100
START = 500  # updates inside pairs: one epoch
RATES = (3e-4, 1e-3, 3e-3)
KLS = (0.01, 0.1)
SAMPLES = 10_000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def difference(feedback, start=START, align=0):
    return lambda kl: gendae.DifferenceLoop(feedback(), prior_weight=kl, start=start, align=align)


class TopNoiseAtStart(gendae.DifferenceLoop):
    """The noise of the top on the code of every pair at the start, whatever noise is named."""

    def prepare(self, stack, corruption=None):
        super().prepare(stack)


def learned(derivative, tracks, every):
    return gendae.LocalDifference(derivative, tracks, every=every)


#: Name -> (loop of a kl, what becomes of the encoders).
RULES = {
    "frozen, loop": (difference(gendae.LocalDifference, 0), "frozen"),
    "frozen, back-propagation": (difference(gendae.Exact, 0), "frozen"),
    "frozen after the start": (difference(gendae.Exact), "frozen after the start"),
    "Algorithm 2": (lambda kl: gendae.ShortAndLongLoops(pace=1.0), "learn"),
    "partners": (difference(gendae.Partners), "learn"),
    "inverses": (difference(gendae.Inverses), "learn"),
    "learned, linear": (difference(lambda: learned(False, False, every=1)), "learn"),
    "learned": (difference(lambda: learned(True, False, every=1)), "learn"),
    "learned, tracking": (difference(gendae.LocalDifference), "learn"),
    "learned, tracking, no start": (difference(gendae.LocalDifference, 0), "learn"),
    "learned, tracking, aligned, no start": (
        difference(gendae.LocalDifference, 0, START),
        "learn",
    ),
    "mirror, tracking": (difference(gendae.WeightMirror), "learn"),
    "sign symmetry": (difference(gendae.SignSymmetry), "learn"),
    "inside pairs": (lambda kl: gendae.PairLoops(), "learn"),
    "back-propagation": (difference(gendae.Exact), "learn"),
    "back-propagation, no start": (difference(gendae.Exact, 0), "learn"),
}


#: KLRule by its reach.
KL_RULES = {"KLRule, full": "full", "KLRule, within_layer": "within_layer"}

#: Rules whose losses have no pull of a prior on what learns: kl makes no difference.
WITHOUT_KL = (
    "frozen, loop",
    "frozen, back-propagation",
    "frozen after the start",
    "Algorithm 2",
    "inside pairs",
)

ORDER = [*RULES, *KL_RULES]
KINDS = ("tune", "table", "units")

#: Rules of the stacks of discrete units.
OF_UNITS = (
    "frozen, loop",
    "frozen, back-propagation",
    "frozen after the start",
    "learned, tracking",
    "back-propagation",
)


class FreezeEncoders(Callback):
    """Encoders learn in the first `after` updates only."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_start(self, trainer, rule, batch, batch_idx):
        if trainer.global_step == self.after:
            for group in rule.optimizers().param_groups:
                if group["name"].startswith("f_"):
                    group["initial_lr"] = 0.0


class Cosines(Callback):
    """Cosines of every map at a quarter, half and the end of the training."""

    def __init__(self, x):
        self.batches = x.split(500)
        self.found = {}

    def measure(self, trainer, rule):
        total = {}
        for x in self.batches:
            for name, values in credit.by_layer(rule, x.to(rule.device)).items():
                for level, value in values.items():
                    key = f"{name[7:]}_{level}"
                    total[key] = total.get(key, 0.0) + value / len(self.batches)
        self.found[trainer.global_step] = {k: round(v, 3) for k, v in total.items()}

    def on_train_epoch_end(self, trainer, rule):
        if trainer.current_epoch + 1 in (trainer.max_epochs // 4, trainer.max_epochs // 2):
            self.measure(trainer, rule)

    def on_train_end(self, trainer, rule):
        self.measure(trainer, rule)


#: Stacks of discrete units: what their encoders send.
UNITS = {
    "sign": {"units": "sign"},
    "drawn binary": {"units": "binary", "stochastic": True},
}
BITS = 200  # of the top of a discrete stack


def network(depth, units=None, **options):
    sizes = [784, *[WIDTH] * (depth - 1), CODE if units is None else BITS]
    activations = ["tanh"] * (depth - 1) + ["linear"] if units is None else None
    options |= {} if units is None else UNITS[units]
    return gendae.deep_autoencoder(
        sizes,
        activations,
        observation="bernoulli",
        init="orthogonal",
        prior=gendae.ParzenPrior(),
        **options,
    )


def rule_of(name, depth, rate, kl, units=None):
    """A rule over a new network, and callbacks of its training."""
    if name in KL_RULES:
        rates = gendae.Rates(f=rate, g=rate, hold=0.5)
        top = gendae.GaussianPrior("identity", 1.0)
        rule = gendae.KLRule(
            network(depth, noise=0.3),
            kl,
            KL_RULES[name],
            training_prior=top,
            rates=rates,
            log_every=500,
            prior_every=0,
        )
        return rule, []

    loop, encoders = RULES[name]
    rates = gendae.Rates(f=0.0 if encoders == "frozen" else rate, g=rate, hold=0.5)
    rule = gendae.TargetPropRule(network(depth, units), loop(kl), rates=rates, log_every=500)
    if encoders == "frozen after the start":
        return rule, [FreezeEncoders(START)]

    return rule, []


def trained(name, depth, rate, kl, seed, epochs, data, units=None):
    seed_everything(seed, verbose=False)
    rule, callbacks = rule_of(name, depth, rate, kl, units)
    cosines = Cosines(data.split("valid").x)
    callbacks += [cosines, gendae.Graphs()]

    start = time.process_time()
    trainer_of(epochs, callbacks).fit(rule, data)
    return rule.stack.to(DEVICE), cosines.found, time.process_time() - start


class Clock(Callback):
    """CPU time at the end of every epoch."""

    def __init__(self):
        self.marks = []

    def on_train_epoch_end(self, trainer, rule):
        self.marks.append(time.process_time())


def update_ms(name, depth, data, epochs=3, batches=100):
    """CPU ms of an update once the start is over: the fastest of the epochs after the first."""
    rate, kl = chosen(name)
    rule, callbacks = rule_of(name, depth, rate, kl)
    if hasattr(getattr(rule, "loop", None), "start"):
        rule.loop.start = 0

    clock = Clock()
    trainer_of(epochs, [*callbacks, clock], batches).fit(rule, data)
    return 1000 * min(end - start for start, end in pairwise(clock.marks)) / batches


def times(rules, depths, data):
    """CPU ms of an update, recorded by rule and depth."""
    found = json.loads(RECORD.read_text())
    for name, depth in product(rules, depths):
        ms = round(update_ms(name, depth, data), 1)
        found.setdefault("ms", {}).setdefault(name, {})[str(depth)] = ms
        print(name, depth, ms, "ms", flush=True)
        RECORD.write_text(json.dumps(found, indent=1) + "\n")


# -- scores --------------------------------------------------------------------------------------


@torch.no_grad()
def of_codes(stack, data, split):
    """Cross-entropy from the clean top, read-out of h_L, and the spread of the codes."""
    images = data.split(split)
    x = images.x.to(DEVICE)
    energy = stack.pairs[0].observation.energy(x, stack.reconstruct(x)).mean().item()
    found = measures(stack, data.split("train")[:8000], images)

    return {"cross_entropy": round(energy, 2)} | {k: round(v, 3) for k, v in found.items()}


@torch.no_grad()
def of_samples(stack, data, seed):
    """FID and LL of samples under a window whose noise is set where C_T of codes is about 0."""
    train, valid, test = (data.split(name).x.to(DEVICE) for name in ("train", "valid", "test"))
    codes, held_out, unseen = (stack.encode(x)[-1] for x in (train, valid, test))
    stack.prior.fit(codes)
    draws = stack.prior.sample(len(held_out), seeded(seed))
    copying = data_copying(codes, held_out, draws)

    x = gendae.generate(stack, SAMPLES, gendae.AncestralSampler(), seed=seed).to(DEVICE)
    features = load_feature_classifier("mnist-classifier").to(DEVICE)
    fid = frechet_distance(in_batches(features, test)[0], in_batches(features, x)[0])
    gaussian = gendae.GaussianPrior("full", 1.0).fit(codes)
    advantage = stack.prior.log_prob(unseen) - gaussian.log_prob(unseen)

    return {
        "fid": round(fid, 2),
        "ll": round(parzen_score(x, test, valid)["ll"], 1),
        "window_noise": float(stack.prior.noise_scale_),
        "copying_of_codes": round(copying, 1),
        "log_p_codes_minus_gaussian": round(advantage.mean().item(), 2),
    }


# -- rows ----------------------------------------------------------------------------------------


def one(kind, name, depth, rate, kl, seed, epochs, data, units=None):
    """A run as a JSON file, unless it is there or another process has begun it."""
    row = {
        "kind": kind,
        "units": units,
        "rule": name,
        "depth": depth,
        "rate": rate,
        "kl": kl,
        "seed": seed,
        "epochs": epochs,
        "device": DEVICE,
    }
    key = key_of(row)
    path = OUT / f"{key}.json"
    if key in {key_of(done) for done in rows(kind)}:
        return

    begun = path.with_suffix(".begun")
    try:
        os.close(os.open(begun, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return

    try:
        # another process may have ended this run since
        if not path.exists():
            run(row, path, data)
    finally:
        begun.unlink()


def run(row, path, data):
    """Train, score, and write the row of a run."""
    names = ("kind", "units", "rule", "depth", "rate", "kl", "seed", "epochs")
    kind, units, name, depth, rate, kl, seed, epochs = (row[key] for key in names)

    stack, cosines, seconds = trained(name, depth, rate, kl, seed, epochs, data, units)
    row |= {
        "seconds": round(seconds, 1),
        "cosines": cosines,
        "valid": of_codes(stack, data, "valid"),
    }
    if kind != "tune":
        row["test"] = of_codes(stack, data, "test") | of_samples(stack, data, seed)
        gendae.save(stack, path.with_suffix(".safetensors"))

    # whole or not at all: other processes read it
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, indent=1) + "\n")
    part.rename(path)
    print(path.stem, {**row["valid"], **row.get("test", {})}, f"{seconds:.0f} s", flush=True)


def rows(kind):
    """Rows of a kind: those that are recorded, and newer ones."""
    found = {}
    if RECORD.exists():
        found = {key_of(row): row for row in json.loads(RECORD.read_text())[kind]}
    for path in sorted(OUT.glob(f"{kind}_*.json")):
        row = json.loads(path.read_text())
        found[key_of(row)] = row

    return list(found.values())


def key_of(row):
    words = [row["kind"], row.get("units") or "", row["rule"], row["depth"]]
    numbers = [f"{row['rate']:g}", f"{row['kl']:g}", row["seed"], row["epochs"]]
    return "_".join(str(word) for word in [*words, *numbers] if word != "").replace(" ", "_")


def chosen(name):
    """Rate and kl of the lowest validation cross-entropy at depth 3, with a start if any has."""
    name = name.removesuffix(", no start").removesuffix(", aligned")
    tried = [row for row in rows("tune") if row["rule"] == name]
    if not tried:
        raise SystemExit(f"no runs of {name!r} in {OUT}: run `tune` first")

    best = min(tried, key=lambda row: row["valid"]["cross_entropy"])
    return best["rate"], best["kl"]


# -- the figure and the table --------------------------------------------------------------------

#: Panels of the figure: scores on test images, their axes and the scale.
PANELS = {
    "cross_entropy": ("cross-entropy of x from the top, nats", "linear"),
    "read_out": ("accuracy read from $h_L$, %", "linear"),
    "fid": ("FID of 10,000 samples", "log"),
}
#: Curves of the figure and their styles.
CURVES = {
    "back-propagation": {"color": "black", "linestyle": "--", "marker": "s"},
    "learned, tracking": {"color": "tab:blue", "marker": "o"},
    "inverses": {"color": "tab:green", "marker": "^"},
    "partners": {"color": "tab:olive", "marker": "v"},
    "inside pairs": {"color": "tab:purple", "marker": "D"},
    "Algorithm 2": {"color": "tab:red", "marker": "x"},
    "frozen after the start": {"color": "0.4", "linestyle": ":", "marker": "."},
    "frozen, back-propagation": {"color": "0.6", "marker": "."},
}
#: Their names in the figure, where they differ.
LABELS = {
    "learned, tracking": "targets, learned feedback",
    "inverses": "targets, inverses",
    "partners": "targets, partners",
    "inside pairs": "pairs alone",
    "Algorithm 2": "Algorithm 2 as printed",
    "frozen after the start": "encoders frozen after one epoch",
    "frozen, back-propagation": "encoders frozen at random",
}


def mean_and_spread(values):
    """Mean, and the deviation over seeds where there are several."""
    values = torch.tensor(values, dtype=torch.float64)
    spread = values.std().item() if len(values) > 1 else None

    return values.mean().item(), spread


def summary(found, by):
    """{group: {depth or kind of unit: {score: (mean, deviation, seeds)}}} of test scores."""
    groups = {}
    for row in found:
        groups.setdefault((row["rule"], row[by]), []).append(row["test"])

    rules = {}
    for name, value in sorted(groups, key=lambda key: (ORDER.index(key[0]), key[1])):
        tests = groups[name, value]
        rules.setdefault(name, {})[value] = {
            key: mean_and_spread([test[key] for test in tests]) for key in tests[0]
        }

    return rules


def figure(rules):
    whole = Figure(figsize=(13, 4.2), layout="constrained")
    panels = whole.subplots(1, len(PANELS))
    for axes, (key, (label, scale)) in zip(panels, PANELS.items(), strict=True):
        for name, style in CURVES.items():
            points = rules.get(name, {})
            means = [points[depth][key][0] for depth in points]
            spreads = [points[depth][key][1] or 0.0 for depth in points]
            shown = LABELS.get(name, name)
            axes.errorbar(list(points), means, spreads, label=shown, markersize=6, **style)

        axes.set(xlabel="pairs of layers", ylabel=label, xticks=[1, 2, 3, 4, 5], yscale=scale)
        axes.grid(alpha=0.3)

    ticks = [2, 3, 5, 10, 20, 50]
    panels[-1].set_yticks(ticks, [str(tick) for tick in ticks])
    panels[-1].minorticks_off()

    handles, labels = panels[0].get_legend_handles_labels()
    whole.legend(handles, labels, loc="outside right center", fontsize=11)
    return whole


def collect(folder):
    """docs/results/depth.json with every run, docs/depth.png, and the tables as Markdown."""
    found = json.loads(RECORD.read_text()) | {kind: rows(kind) for kind in KINDS}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")

    shown = [row for row in found["table"] if row["epochs"] == EPOCHS]
    rules = summary(shown, "depth")
    plots.save(figure(rules), folder / "depth.png")

    print("\n".join(by_depth(rules)))
    for depth in (3, 5):
        print(f"\ndepth {depth}")
        print("\n".join(by_score(rules, found.get("ms", {}), depth)))

    longer = [row for row in found["table"] if row["epochs"] != EPOCHS]
    print("\n".join(by_depth(summary(longer, "depth"))))
    of_units = summary(found["units"], "units")
    print("\n".join(by_depth(of_units)))
    for kind in UNITS:
        print("\n".join(by_score(of_units, {}, kind)))


#: Columns of the tables: name, score, digits.
MAIN = (("cross_entropy", 1), ("read_out", 1), ("fid", 1))
OTHER = (("ll", 0), ("log_p_codes_minus_gaussian", 1))


def by_depth(rules):
    """A row for each rule, a column for each depth: cross-entropy, read-out, FID."""
    depths = sorted({depth for points in rules.values() for depth in points})
    yield "| rule | " + " | ".join(map(str, depths)) + " |"
    for name, points in rules.items():
        cells = [" ; ".join(cells_of(points[d], MAIN)) if d in points else "" for d in depths]
        yield f"| {name} | " + " | ".join(cells) + " |"


def by_score(rules, ms, depth):
    """A row for each rule at one depth, a column for each of the other scores."""
    yield "| rule | LL | log p of codes | ms of an update |"
    for name, points in rules.items():
        if depth in points:
            cells = cells_of(points[depth], OTHER)
            cells.append(str(ms.get(name, {}).get(str(depth), "")))
            yield f"| {name} | " + " | ".join(cells) + " |"


def cells_of(scores, columns):
    return [cell(*scores[key], digits) for key, digits in columns]


def cell(mean, spread, digits):
    if spread is None:
        return f"{mean:.{digits}f}"

    return f"{mean:.{digits}f} +- {spread:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["tune", "table", "units", "times", "collect"])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=ORDER)
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 2, 3, 5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--kls", nargs="+", type=float, default=list(KLS))
    args = parser.parse_args()

    if args.what == "collect":
        collect(Path("docs"))
        return

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    OUT.mkdir(parents=True, exist_ok=True)
    data = gendae.MNIST(batch_size=BATCH)

    if args.what == "times":
        times(args.rules, args.depths, data)
    if args.what == "tune":
        for name, rate, kl in product(args.rules, args.rates, args.kls):
            if name in WITHOUT_KL and kl != args.kls[0]:
                continue
            one("tune", name, 3, rate, kl, 0, args.epochs, data)
    if args.what == "table":
        for seed, depth, name in product(args.seeds, args.depths, args.rules):
            one("table", name, depth, *chosen(name), seed, args.epochs, data)
    if args.what == "units":
        of_units = [name for name in OF_UNITS if name in args.rules]
        for seed, units, name in product(args.seeds, UNITS, of_units):
            one("units", name, 3, args.rates[0], args.kls[0], seed, args.epochs, data, units)


if __name__ == "__main__":
    main()
