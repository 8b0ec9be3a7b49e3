"""Plasticity along inference (2015, section 2) beside the M-step, controls, and labels that nudge.

    python -m benchmarks.stdp [--parts samples labels] [--data Digits] [--seeds 0 1 2]
        [--epochs N] [--device cuda] [--out docs/results/stdp.json]

`samples`: a stack of two pairs by each rule, the same network, noise, batches and updates; Parzen
log-likelihood of the test images, of the epoch of the best score on validation images and of the
last one. "frozen": encoders stay as they are at random. "backprop": the errors of x, told from
each level, go back through all maps below. The top is a full Gaussian, its variances times 1, 4 or
9, and samples come from GENERATE or straight down, as scores best on validation images. For the
variants of STDP also the cosine of their update, of weights and biases of a map, with the
M-step's, lowest and mean over training.
`labels`: a classifier by nudged labels, by back-propagation, and with its hidden layers frozen;
test error at the epoch of the lowest error on validation images.
"""

import argparse
import json
import time
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch

import gendae
from gendae.metrics.parzen import GRIDS, parzen_score

BATCH = 100
LOOKS = 100  # updates between two looks at cosines, and images that they are of
SCALES = (1.0, 4.0, 9.0)  # of the top's variances
SIZES = {"Digits": [64, 200, 50], "MNIST": [784, 1000, 100]}
FAST = {"f": 5e-4, "g": 2e-3}  # rates on digits; the defaults on MNIST


# -- rules ---------------------------------------------------------------------------------------


class ReconstructionRule(gendae.VariationalEMRule):
    """Back-propagation of |x - g_1(.. g_l(h~_l))|^2 / 2, l = 1 .. L, with the same noise."""

    def losses(self, batch, moment=gendae.Moment()):
        x = batch[0]
        noisy = partial(self._noisy, moment=moment)

        losses = {}
        h = x
        for level, pair in enumerate(self.stack.pairs, 1):
            h = pair.f(noisy(level - 1, h))
            seen = noisy(level, h)
            for below in reversed(self.stack.pairs[:level]):
                seen = below.g(seen)
            losses[f"reconstruction_{level}"] = 0.5 * (seen - x).square().sum(1).mean()

        return losses

    def _noisy(self, level, h, moment):
        return self.corruption[level](h, moment.progress, moment.generator)


SAMPLES = {
    "M-step": gendae.VariationalEMRule,
    "stdp": gendae.STDPRule,
    "stdp, slopes": partial(gendae.STDPRule, slope=True),
    "stdp, all changes, slopes": partial(gendae.STDPRule, slope=True, source="all"),
    "frozen": gendae.STDPRule,
    "backprop": ReconstructionRule,
    "backprop, rates x 2": ReconstructionRule,
}
HIDDEN = {"Digits": [100], "MNIST": [500]}
LABELS = {
    "nudged": lambda network, **o: gendae.NudgedSTDPRule(network, **o),
    "backprop": gendae.BackpropRule,
    "frozen": lambda network, **o: gendae.BackpropRule(network, fixed=network.depth, **o),
}


def rates_of(name, data):
    rates = {"f": 1.2e-4, "g": 4e-4, "hold": 0.3}
    if data == "Digits":
        rates = dict(FAST)
    if name == "frozen":
        rates["f"] = 0.0
    if name == "backprop, rates x 2":
        rates |= {"f": rates["g"], "g": 2 * rates["g"]}

    return gendae.Rates(**rates)


def noise_of(data):
    """That of the configurations; on MNIST the default."""
    if data == "MNIST":
        return None

    h = [gendae.GaussianNoise(sigma, 0.6) for sigma in (0.25, 0.15)]
    return [*h, gendae.SpikeNoise(1)]


# -- training ------------------------------------------------------------------------------------


def trained(rule, split, epochs, seed, look=None):
    """Updates in the order of the seed; yields the number of each epoch when it is over."""
    order = torch.Generator().manual_seed(seed)
    draws = torch.Generator(rule.stack.device).manual_seed(seed)
    optimizer = rule.configure_optimizers()
    updates = epochs * (len(split.x) // BATCH)

    update = 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(split.x), generator=order).split(BATCH):
            if len(rows) < BATCH:
                continue
            moment = gendae.Moment(update / updates, draws, update)
            if look is not None and update % LOOKS == 0:
                look(moment)

            rule.begin_update(optimizer, moment)
            optimizer.zero_grad()
            rule.total_loss((split.x[rows], split.y[rows]), moment).backward()
            optimizer.step()
            update += 1
        yield epoch


def cosines(rule, x, moment):
    """Of the update of each map with the M-step's, for the same noise."""
    at = partial(gendae.Moment, moment.progress, update=moment.update)
    losses = []
    for of in (type(rule), gendae.VariationalEMRule):
        draws = torch.Generator(x.device).manual_seed(5)
        losses.append(of.losses(rule, (x,), at(draws)))

    found = {}
    for level, pair in enumerate(rule.stack.pairs, 1):
        for name, layer in {f"f_{level}": pair.f, f"g_{level}": pair.g}.items():
            both = [torch.autograd.grad(terms[name], list(layer.parameters())) for terms in losses]
            mine, theirs = (torch.cat([g.flatten() for g in part]) for part in both)
            found[name] = torch.cosine_similarity(mine, theirs, 0).item()

    return found


def record(seen, rule, x, moment):
    seen.append(cosines(rule, x, moment))


# -- the two parts -------------------------------------------------------------------------------


def samples(name, seed, args, data):
    torch.manual_seed(seed)
    top = gendae.GaussianPrior("full", 9.0)
    stack = gendae.deep_autoencoder(SIZES[args.data], prior=top).to(args.device)
    noise = noise_of(args.data)
    rule = SAMPLES[name](stack, corruption=noise, rates=rates_of(name, args.data))
    train, valid, test = (data[part] for part in ("train", "valid", "test"))

    seen = []
    look = None
    if name.startswith("stdp"):
        look = partial(record, seen, rule, valid.x[:LOOKS])

    start = time.perf_counter()
    best = (-float("inf"), 0, None)
    scores = []
    for epoch in trained(rule, train, args.epochs, seed, look):
        if epoch % max(1, args.epochs // 20) == 0:
            scores.append(round(told(samples_of(stack, train.x, 2000), valid), 1))
            best = max(best, (scores[-1], epoch, deepcopy(stack.pairs)), key=lambda b: b[0])

    row = {"epochs": args.epochs, "seconds": round(time.perf_counter() - start), "scores": scores}
    row["last_ll"], row["last_top"] = score(stack, train, valid, test)
    stack.pairs = best[2]
    row["best"] = best[1]
    row["best_ll"], row["best_top"] = score(stack, train, valid, test)
    for key, of in {"lowest": min, "mean": lambda values: sum(values) / len(values)}.items():
        if seen:
            row[key] = {m: round(of([c[m] for c in seen]), 3) for m in seen[0]}

    return row


def samples_of(stack, x, n, scale=9.0, sampler=None):
    codes = torch.cat([stack.encode(part)[-1] for part in x.split(5000)])
    stack.prior = gendae.GaussianPrior("full", scale).to(x.device).fit(codes)
    return gendae.generate(stack, n, sampler, seed=0).to(x.device)


def told(samples, valid):
    """The score of samples on validation images, at the best bandwidth."""
    return (
        gendae.parzen_log_prob(valid.x[:1000], samples, GRIDS["goodfellow"]).mean(1).max().item()
    )


def score(stack, train, valid, test):
    """LL of the test images; top and sampler are those of the best score on validation images."""
    tops = [(scale, sampler) for scale in SCALES for sampler in ("generate", "ancestral")]
    best = max(tops, key=lambda top: told(samples_of(stack, train.x, 2000, *top), valid))
    drawn = samples_of(stack, train.x, 10_000, *best)
    stack.prior = gendae.GaussianPrior("full", 9.0).to(train.x.device)

    return round(parzen_score(drawn, test.x, valid.x)["ll"], 2), best


def labels(name, seed, args, data):
    torch.manual_seed(seed)
    sizes = [SIZES[args.data][0], *(args.hidden or HIDDEN[args.data])]
    network = gendae.deep_classifier(sizes, activation=args.activation).to(args.device)
    noise = gendae.GaussianNoise(args.noise)
    options = {"input_corruption": noise, "rates": gendae.Rates(f=args.rate, hold=0.5)}
    if name == "nudged":
        options |= {"nudge": args.nudge, "gamma": args.gamma}
    rule = LABELS[name](network, **options)

    start = time.perf_counter()
    wrong = []
    for _ in trained(rule, data["train"], args.epochs, seed):
        wrong.append([error(network, data[part]) for part in ("valid", "test")])

    row = {"sizes": sizes, "activation": args.activation, "noise": args.noise, "rate": args.rate}
    if name == "nudged":
        settled = rule.residual(data["valid"].x[:1000]).item()
        row |= {"nudge": args.nudge, "gamma": args.gamma, "residual": settled}
    valid, test = min(wrong)
    row |= {"epochs": args.epochs, "seconds": round(time.perf_counter() - start)}

    return row | {"valid": valid, "test": test, "last": wrong[-1]}


def error(network, split):
    """In percent."""
    wrong = network.predict(split.x).argmax(1) != split.y
    return round(100.0 * wrong.float().mean().item(), 2)


PARTS = {"samples": (samples, SAMPLES), "labels": (labels, LABELS)}


def parser():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    options.add_argument("--rules", nargs="+", default=[*SAMPLES, *LABELS])
    options.add_argument("--data", default="Digits", choices=list(SIZES))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--hidden", nargs="+", type=int)
    options.add_argument("--activation", default="relu")
    options.add_argument("--noise", type=float, default=0.3)
    options.add_argument("--rate", type=float, default=1e-3)
    options.add_argument("--nudge", type=float, default=0.5)
    options.add_argument("--gamma", type=float, default=0.1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--out", type=Path, default=Path("docs/results/stdp.json"))

    return options


def main():
    args = parser().parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    whole = getattr(gendae, args.data)()
    names = ("train", "valid", "test")
    data = {n: whole.split(n).map(lambda part: part.to(args.device)) for n in names}

    rows = []
    if args.out.is_file():
        rows = json.loads(args.out.read_text())
    for part in args.parts:
        measure, rules = PARTS[part]
        for seed in args.seeds:
            for name in (name for name in rules if name in args.rules):
                row = measure(name, seed, args, data)
                rows.append({"part": part, "data": args.data, "seed": seed, "rule": name, **row})
                print(rows[-1], flush=True)
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
