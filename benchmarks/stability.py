"""Do the default settings train? Every generative rule at depths 1, 3 and 5; failures are counted.

    python -m benchmarks.stability [--seeds 3] [--nets digits mnist] [--rules ..] [--json FILE]

A run diverges if a loss is not finite. It collapses if the top code holds less than that of the
same network with its encoders left as they were at the start: if the accuracy of a logistic
read-out of the standardised code is lower by more than a margin; or if the participation ratio of
its covariance (the number of directions that vary, (sum of eigenvalues)^2 / sum of squares) is
lower by more than another, and the read-out is lower at all.
"""

import argparse
import json
import logging
import time
import warnings
from itertools import product

import torch
from pytorch_lightning import Trainer, seed_everything
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import gendae
from gendae.rules.ledger import TrainingDiverged

IMAGES = 10_000  # of MNIST
#: Read-outs lie within a point or two of each other from seed to seed.
POINTS = 2.0
#: The same of participation ratios, as a fraction.
FRACTION = 0.75

#: Name -> (data, width of hidden layers, width of the code, epochs).
NETS = {
    "digits": (gendae.Digits, 60, 20, 100),
    "mnist": (gendae.MNIST, 300, 50, 30),
}
DEPTHS = (1, 3, 5)


def autoencoder(sizes, **options):
    return gendae.deep_autoencoder(sizes, **options)


def with_noise(sizes):
    """What Algorithm 1 is for: learned noise on codes, under N(0, I)."""
    activations = ["tanh"] * (len(sizes) - 2) + ["linear"]
    prior = gendae.GaussianPrior("identity", 1.0)
    return autoencoder(
        sizes, activations=activations, noise=0.3, observation="bernoulli", prior=prior
    )


def with_tanh(sizes, **options):
    activations = ["tanh"] * (len(sizes) - 1)
    return autoencoder(sizes, activations=activations, observation="bernoulli", **options)


def discrete(unit, stochastic):
    return lambda sizes: autoencoder(
        sizes, units=unit, stochastic=stochastic, observation="bernoulli"
    )


def printed(stack):
    return gendae.TargetPropRule(stack, gendae.ShortAndLongLoops())


def pairs(stack):
    return gendae.TargetPropRule(stack, gendae.PairLoops())


#: Name -> (stack of sizes, rule of a stack).
RULES = {
    "TargetPropRule": (with_tanh, gendae.TargetPropRule),
    "TargetPropRule, signs": (discrete("sign", False), gendae.TargetPropRule),
    "TargetPropRule, drawn bits": (discrete("binary", True), gendae.TargetPropRule),
    "TargetPropRule, PairLoops": (with_tanh, pairs),
    "TargetPropRule, Algorithm 2": (with_tanh, printed),
    "KLRule": (with_noise, gendae.KLRule),
    "KLRule, within_layer": (with_noise, lambda s: gendae.KLRule(s, reach="within_layer")),
    "VariationalEMRule": (autoencoder, gendae.VariationalEMRule),
    "BackStepRule": (with_tanh, gendae.BackStepRule),
}


def subset(name):
    """Training and validation rows: x, y of each."""
    data = NETS[name][0]()
    train, valid = data.split("train")[:IMAGES], data.split("valid")
    return train, valid


def trainer_of(epochs, callbacks=(), batches=None):
    """A Trainer of nothing but training."""
    return Trainer(
        max_epochs=epochs,
        limit_train_batches=batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="auto",
        devices=1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=list(callbacks),
    )


def fitted(rule, train, epochs):
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(train.x), batch_size=100, shuffle=True
    )
    trainer_of(epochs).fit(rule, loader)


@torch.no_grad()
def measures(stack, train, valid):
    """What the top code holds."""
    own = stack.encode(train.x.to(stack.device))[-1].cpu()
    codes = stack.encode(valid.x.to(stack.device))[-1].cpu()
    values = torch.linalg.eigvalsh(torch.cov(codes.double().T)).clamp_min(0.0)

    scale = StandardScaler().fit(own)
    reader = LogisticRegression(max_iter=300).fit(scale.transform(own), train.y)
    return {
        "participation": (values.sum() ** 2 / values.square().sum()).item(),
        "read_out": 100 * reader.score(scale.transform(codes), valid.y),
        "code_sd": codes.std(0).mean().item(),
    }


def one_run(net, depth, name, seed):
    _, width, code, epochs = NETS[net]
    train, valid = subset(net)
    make, rule = RULES[name]
    sizes = [train.x.shape[1], *[width] * (depth - 1), code]

    seed_everything(seed, verbose=False)
    stack = make(sizes)
    row = {"net": net, "depth": depth, "rule": name, "seed": seed}
    row["start"] = measures(stack, train, valid)

    start = time.process_time()
    try:
        learner = rule(stack)
    except ValueError as error:
        return {**row, "refused": str(error)}

    try:
        fitted(learner, train, epochs)
    except TrainingDiverged as error:
        return {**row, "diverged": str(error)}

    row["seconds"] = round(time.process_time() - start, 1)
    row["end"] = measures(stack.cpu(), train, valid)
    row["collapsed"] = collapsed(row["start"], row["end"])
    return row


def collapsed(start, end):
    narrow = end["participation"] < FRACTION * start["participation"]
    return end["read_out"] < start["read_out"] - POINTS or (
        narrow and end["read_out"] < start["read_out"]
    )


def outcome(row):
    for word in ("refused", "diverged"):
        if word in row:
            return f"{word}: {row[word]}"

    start, end = row["start"], row["end"]
    word = "COLLAPSED" if row["collapsed"] else "ok"
    return (
        f"{word}: read-out {start['read_out']:.1f} -> {end['read_out']:.1f}, participation "
        f"{start['participation']:.1f} -> {end['participation']:.1f}, sd {end['code_sd']:.3f}, "
        f"{row['seconds']} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--json")
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    seeds = range(args.first, args.first + args.seeds)
    rows = []
    for net, name, depth, seed in product(args.nets, args.rules, args.depths, seeds):
        row = one_run(net, depth, name, seed)
        rows.append(row)
        print(net, name, depth, seed, outcome(row), flush=True)

    bad = [row for row in rows if row.get("collapsed") or "diverged" in row]
    print(f"{len(bad)} of {len(rows)} runs diverged or collapsed")

    if args.json:
        with open(args.json, "w") as stream:
            json.dump(rows, stream, indent=1)


if __name__ == "__main__":
    main()
