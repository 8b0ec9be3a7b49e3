"""Depth by targets: what each way of assigning credit makes of one network of 1 to 5 pairs.

    python -m benchmarks.depth tune [--rules ..]            three rates x kl at depth 3, validation
    python -m benchmarks.depth table [--rules ..] [--depths 1 2 3 5] [--seeds 0]
    python -m benchmarks.depth units [--seeds 0 1 2]        sign and drawn binary units
    python -m benchmarks.depth collect                      docs/results/depth.json and depth.png

784-20, 784-500-20, 784-500-500-20, ..: affine maps with tanh, linear codes, cross-entropy of x, 8
epochs of 50,000 MNIST images in batches of 100, AdamW at a constant rate for half of them and
falling to 0. Every run is one JSON file in runs/depth: a run that is there is not repeated.
Everything is chosen on validation images; `table` scores test images.
"""

import argparse
import json
import logging
import os
import time
import warnings
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, Trainer, seed_everything
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import gendae
from gendae import plots
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.neighbours import DataCopying
from gendae.metrics.parzen import parzen_score
from gendae.metrics.quality import frechet_distance, in_batches
from gendae.rules import credit

OUT = Path("runs/depth")
RECORD = Path("docs/results/depth.json")
WIDTH = 500
CODE = 20
EPOCHS = 8
BATCH = 100
START = 500  # updates inside pairs: one epoch
RATES = (3e-4, 1e-3, 3e-3)
KLS = (0.01, 0.1)
#: Window noises, as multiples of the window's bandwidth, among which C_T of codes decides.
NOISES = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.4, 2.8)
SAMPLES = 10_000


def difference(feedback, start=START):
    return lambda kl: gendae.DifferenceLoop(feedback(), kl=kl, start=start)


def learned(derivative, tracks, every):
    return gendae.LocalDifference(derivative, tracks, every=every)


#: Name -> (loop of a kl, what becomes of the encoders).
RULES = {
    "frozen, loop": (difference(gendae.LocalDifference, 0), "frozen"),
    "frozen, back-propagation": (difference(gendae.Exact, 0), "frozen"),
    "frozen after the start": (difference(gendae.Exact), "frozen after the start"),
    "Algorithm 2": (lambda kl: gendae.ShortAndLongLoops(), "learn"),
    "partners": (difference(gendae.Partners), "learn"),
    "inverses": (difference(gendae.Inverses), "learn"),
    "learned, linear": (difference(lambda: learned(False, False, every=1)), "learn"),
    "learned": (difference(lambda: learned(True, False, every=1)), "learn"),
    "learned, tracking": (difference(gendae.LocalDifference), "learn"),
    "inside pairs": (lambda kl: gendae.PairLoops(), "learn"),
    "back-propagation": (difference(gendae.Exact), "learn"),
}


#: Rules of the stacks of discrete units.
OF_UNITS = ("frozen, loop", "frozen, back-propagation", "learned, tracking", "back-propagation")


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
            for name, values in credit.by_layer(rule, x).items():
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


def network(depth, units=None):
    sizes = [784, *[WIDTH] * (depth - 1), CODE if units is None else BITS]
    activations = ["tanh"] * (depth - 1) + ["linear"] if units is None else None
    options = {} if units is None else UNITS[units]
    return gendae.deep_autoencoder(
        sizes,
        activations,
        observation="bernoulli",
        init="orthogonal",
        prior=gendae.ParzenPrior(),
        **options,
    )


def trained(name, depth, rate, kl, seed, epochs, data, units=None):
    seed_everything(seed, verbose=False)
    loop, encoders = RULES[name]
    rates = gendae.Rates(f=0.0 if encoders == "frozen" else rate, g=rate, hold=0.5)
    rule = gendae.TargetPropRule(network(depth, units), loop(kl), rates=rates, log_every=500)

    cosines = Cosines(data.split("valid").x)
    callbacks = [cosines]
    if encoders == "frozen after the start":
        callbacks.append(FreezeEncoders(START))

    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="auto",
        devices=1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=callbacks,
    )
    start = time.process_time()
    trainer.fit(rule, data)
    return rule.stack, cosines.found, time.process_time() - start


# -- scores --------------------------------------------------------------------------------------


@torch.no_grad()
def of_codes(stack, data, split):
    """Cross-entropy from the clean top, read-out of h_L, and the spread of the codes."""
    x, y, _ = data.split(split)
    train = data.split("train")
    codes = stack.encode(x)[-1]
    energy = stack.pairs[0].observation.energy(x, stack.decode(codes)).mean().item()

    own = stack.encode(train.x[:8000])[-1]
    scale = StandardScaler().fit(own)
    reader = LogisticRegression(max_iter=300).fit(scale.transform(own), train.y[:8000])
    values = torch.linalg.eigvalsh(torch.cov(codes.T))

    return {
        "cross_entropy": round(energy, 2),
        "read_out": round(100 * reader.score(scale.transform(codes), y), 2),
        "code_sd": round(codes.std(0).mean().item(), 3),
        "participation": round((values.sum() ** 2 / values.square().sum()).item(), 2),
    }


@torch.no_grad()
def of_samples(stack, data, seed):
    """FID and LL of samples under a window whose noise is set where C_T of codes is about 0."""
    train, valid, test = (data.split(name).x for name in ("train", "valid", "test"))
    codes, held_out, unseen = (stack.encode(x)[-1] for x in (train, valid, test))
    stack.prior.fit(codes)

    copying = DataCopying(stack.prior.codes, held_out)
    curve = {}
    for noise in NOISES:
        stack.prior.noise_scale = noise
        draws = stack.prior.sample(len(held_out), torch.Generator().manual_seed(seed))
        curve[noise] = copying(draws)
    stack.prior.noise_scale = min(curve, key=lambda noise: abs(curve[noise]))

    x = gendae.generate(stack, SAMPLES, gendae.AncestralSampler(), seed=seed)
    features = load_feature_classifier("mnist-classifier")
    fid = frechet_distance(in_batches(features, test)[0], in_batches(features, x)[0])
    gaussian = gendae.GaussianPrior("full", 1.0).fit(codes)
    advantage = stack.prior.log_prob(unseen) - gaussian.log_prob(unseen)

    return {
        "fid": round(fid, 2),
        "ll": round(parzen_score(x, test, valid)["ll"], 1),
        "window_noise": stack.prior.noise_scale,
        "copying_of_codes": round(curve[stack.prior.noise_scale], 1),
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
    }
    key = key_of(row)
    path = OUT / f"{key}.json"
    if key in {key_of(done) for done in rows(kind)}:
        return
    try:
        os.close(os.open(path.with_suffix(".begun"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return

    stack, cosines, seconds = trained(name, depth, rate, kl, seed, epochs, data, units)
    row |= {
        "seconds": round(seconds, 1),
        "cosines": cosines,
        "valid": of_codes(stack, data, "valid"),
    }
    if kind != "tune":
        row["test"] = of_codes(stack, data, "test") | of_samples(stack, data, seed)
        gendae.save(stack, path.with_suffix(".safetensors"))

    path.write_text(json.dumps(row, indent=1) + "\n")
    print(key, {**row["valid"], **row.get("test", {})}, f"{seconds:.0f} s", flush=True)


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
    """Rate and kl of the lowest validation cross-entropy at depth 3."""
    tried = [row for row in rows("tune") if row["rule"] == name]
    if not tried:
        raise SystemExit(f"no runs of {name!r} in {OUT}: run `tune` first")

    best = min(tried, key=lambda row: row["valid"]["cross_entropy"])
    return best["rate"], best["kl"]


# -- the figure and the table --------------------------------------------------------------------

#: Panels of the figure: scores on test images, and their axes.
PANELS = {
    "cross_entropy": "cross-entropy from the top, nats",
    "read_out": "read-out of $h_L$, %",
    "fid": "FID of 10,000 samples",
}
#: Curves of the figure and their styles.
CURVES = {
    "back-propagation": {"color": "black", "linestyle": "--", "marker": "s"},
    "learned, tracking": {"color": "tab:blue", "marker": "o"},
    "inverses": {"color": "tab:green", "marker": "^"},
    "partners": {"color": "tab:olive", "marker": "v"},
    "inside pairs": {"color": "tab:purple", "marker": "D"},
    "Algorithm 2": {"color": "tab:red", "marker": "x"},
    "frozen, back-propagation": {"color": "0.55", "marker": "."},
}


def mean_and_spread(values):
    """Mean, and the deviation over seeds where there are several."""
    values = torch.tensor(values, dtype=torch.float64)
    spread = values.std().item() if len(values) > 1 else None

    return values.mean().item(), spread


def table(found):
    """{rule: {depth: {score: (mean, deviation, seeds)}}} of test scores."""
    rules = {}
    for name in RULES:
        for depth in sorted({row["depth"] for row in found}):
            seeds = [row for row in found if (row["rule"], row["depth"]) == (name, depth)]
            if not seeds:
                continue

            scores = {}
            for key in [*seeds[0]["test"], "seconds"]:
                values = [{**row, **row["test"]}[key] for row in seeds]
                mean, spread = mean_and_spread(values)
                scores[key] = {"mean": mean, "sd": spread, "seeds": len(values)}
            rules.setdefault(name, {})[depth] = scores

    return rules


def figure(rules):
    whole = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (key, label) in zip(whole.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, style in CURVES.items():
            points = rules.get(name, {})
            means = [points[depth][key]["mean"] for depth in points]
            spreads = [points[depth][key]["sd"] or 0.0 for depth in points]
            axes.errorbar(list(points), means, spreads, label=name, markersize=5, **style)

        axes.set(xlabel="pairs of layers", ylabel=label, xticks=[1, 2, 3, 4, 5])
        axes.grid(alpha=0.3)
    whole.axes[0].legend(fontsize=8)

    return whole


def collect(folder):
    """docs/results/depth.json with every run, docs/depth.png, and the table as Markdown."""
    found = {kind: rows(kind) for kind in ("tune", "table", "units")}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")

    shown = [row for row in found["table"] if row["epochs"] == EPOCHS]
    rules = table(shown)
    plots.save(figure(rules), folder / "depth.png")
    for name, depths in rules.items():
        for depth, scores in depths.items():
            cells = [cell(scores[key]) for key in (*PANELS, "ll", "seconds")]
            print(f"| {name} | {depth} | " + " | ".join(cells) + " |")


def cell(score):
    if score["sd"] is None:
        return f"{score['mean']:.1f}"

    return f"{score['mean']:.1f} +- {score['sd']:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["tune", "table", "units", "collect"])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
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

    if args.what == "tune":
        for name, rate, kl in product(args.rules, args.rates, args.kls):
            one("tune", name, 3, rate, kl, 0, args.epochs, data)
    if args.what == "table":
        for seed, depth, name in product(args.seeds, args.depths, args.rules):
            one("table", name, depth, *chosen(name), seed, args.epochs, data)
    if args.what == "units":
        for seed, units, name in product(args.seeds, UNITS, OF_UNITS):
            one("units", name, 3, args.rates[0], args.kls[0], seed, args.epochs, data, units)


if __name__ == "__main__":
    main()
