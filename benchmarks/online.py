"""The delta rules of 2014, section 8, on streams of digits: features, labels, slowness, memory.

    python -m benchmarks.online [--seeds 0 1 2] [--parts features labels slowness memory]
        [--data MNIST --sizes 200 50] [--out docs/results/online.json]

Streams show digits one after the other. `features`: the error of a linear read-out of each layer
(logistic regression on the codes of 10,000 training images) and the squared error of the
reconstruction, on test images, after as many images for every rule; "frozen" encoders stay as they
are at random. `labels`: image and label are clamped, then the image alone; test error. `slowness`:
after how many ticks the autocorrelation of a layer falls below 1/e, while digits move. `memory`:
what a process and its network hold after ever more ticks of one stream.
"""

import argparse
import json
import math
import resource
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

import gendae
from benchmarks.stdp import ReconstructionRule
from gendae.models.delay import DelayNetwork
from gendae.rules.backprop import BackpropRule
from gendae.rules.online import DeltaPlasticity, map_of

STREAMS = 20
READ = 10_000  # training images that a read-out sees
SHOWN = gendae.Presentation(ticks=8, blank=3)
NOISY = gendae.Presentation(ticks=8, blank=3, noise=0.2)
TAUS = (1.0, 4.0, 16.0)


def stack_of(sizes):
    activations = ["sigmoid"] * (len(sizes) - 1)
    return gendae.deep_autoencoder(sizes, activations, init="orthogonal", gain=2.0)


def delta(stack, f=3e-3, g=1e-2, prediction=0.0, recirculation=1.0, **options):
    """Each synapse scales its step by what its changes have been, as Adam does."""
    plasticity = DeltaPlasticity(prediction=prediction, recirculation=recirculation)
    options = {"presentation": SHOWN, "plasticity": plasticity, **options}
    return gendae.OnlineDeltaRule(stack, rates=gendae.Rates(f=f, g=g, hold=0.5), **options)


def plain(stack, **options):
    """The rule's defaults: plain steps, and a little prediction."""
    return gendae.OnlineDeltaRule(stack, SHOWN, **options)


def backprop(stack):
    quiet = [gendae.GaussianNoise(0.0)] * (stack.depth + 1)
    rates = gendae.Rates(f=3e-3, g=3e-3, hold=0.5)
    return ReconstructionRule(stack, corruption=quiet, rates=rates)


RULES = {
    "frozen": partial(delta, f=0.0),
    "online": delta,
    "TargetPropRule": gendae.TargetPropRule,
    "backprop": backprop,
    "online, plain steps": plain,
    "online, a plain step at every tick": partial(plain, every_tick=True),
    "online, noise early": partial(delta, presentation=NOISY),
    "online, prediction 0.003": partial(delta, prediction=0.003),
    "online, prediction 1": partial(delta, prediction=1.0),
    "online, no recirculation": partial(delta, recirculation=0.0, prediction=1.0),
    "online, stdp": partial(plain, plasticity=gendae.TemporalPlasticity()),
    "VariationalEMRule": gendae.VariationalEMRule,
}


# -- learning ------------------------------------------------------------------------------------


def trained(rule, split, images, seed):
    """Updates of batches of streams, drawn anew from the training images."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = rule.configure_optimizers()
    updates = images // STREAMS
    for update in range(updates):
        rows = torch.randint(len(split.x), (STREAMS,), generator=generator)
        moment = gendae.Moment(update / updates, generator, update)
        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        rule.total_loss((split.x[rows], split.y[rows]), moment).backward()
        optimizer.step()


def ran(network, plasticity, frames, f, g):
    """One stream of many rows that never rests: a step of all synapses at every tick.

    Yields what the units do.
    """
    traces = plasticity.start()
    now = None
    for x in frames:
        before = network.rest(len(x)) if now is None else now
        now = network.tick(before, x)
        for name, change in plasticity.tick(traces, before, now).items():
            layer = map_of(network.pairs, name)
            rate = f if "_f_" in name else g
            layer.weight.data.add_(change.weight, alpha=rate)
            layer.bias.data.add_(change.bias, alpha=rate)

        yield now


# -- scores --------------------------------------------------------------------------------------


@torch.no_grad()
def of_features(stack, data):
    """Errors of read-outs in percent, and squared errors of reconstructions, layer by layer."""
    train = data.split("train")
    test = data.split("test")
    errors = []
    layers = (stack.encode(x)[1:] for x in (train.x[:READ], test.x))
    for codes, others in zip(*layers, strict=True):
        mean, spread = codes.mean(0), codes.std(0) + 1e-6
        readout = LogisticRegression(max_iter=300).fit((codes - mean) / spread, train.y[:READ])
        score = readout.score((others - mean) / spread, test.y)
        errors.append(round(100.0 * (1.0 - score), 2))

    squares = []
    for level in range(1, stack.depth + 1):
        difference = stack.reconstruct(test.x, level) - test.x
        squares.append(round(difference.square().sum(1).mean().item(), 3))

    return {"readout": errors, "reconstruction": squares}


def correlation_time(values):
    """The lag at which the autocorrelation falls to 1/e, (ticks, rows, units)."""
    centred = values - values.mean((0, 1))
    power = centred.square().mean()
    last = 1.0
    for lag in range(1, len(values)):
        now = ((centred[lag:] * centred[:-lag]).mean() / power).item()
        if now < 1.0 / math.e:
            return round(lag - (1.0 / math.e - now) / (last - now), 2)
        last = now

    return len(values)


# -- the three parts -----------------------------------------------------------------------------


def features(seed, args, data):
    for name in (name for name in RULES if name in args.rules):
        torch.manual_seed(seed)
        stack = stack_of([data.split("train").x.shape[1], *args.sizes])
        start = time.process_time()
        trained(RULES[name](stack), data.split("train"), args.images, seed)
        seconds = round(time.process_time() - start, 1)
        yield {"rule": name, "images": args.images, "seconds": seconds} | of_features(stack, data)


#: The label reaches h_1 where there is feedback, which is gone when the image is alone.
LABELLED = {
    "frozen below": {"f": [0.0, 0.03], "feedback": 0.0},
    "recirculation": {"f": [3e-3, 0.03], "feedback": 0.0},
    "recirculation, feedback 0.1": {"f": [3e-3, 0.03], "feedback": 0.1},
    "and prediction 0.01": {"f": [3e-3, 0.03], "feedback": 0.0, "prediction": 0.01},
}
TAUGHT = 0.01  # back-propagation's rate: the best of 0.001, 0.003, 0.01 and 0.02


def labels(seed, args, data):
    train = data.split("train")
    test = data.split("test")
    sizes = [train.x.shape[1], args.sizes[0]]

    for name, options in LABELLED.items():
        if name not in args.rules:
            continue
        torch.manual_seed(seed)
        rule = delta(stack_of([*sizes, 10]), labels=True, **options)
        trained(rule, train, args.images, seed)
        wrong = rule.predict(test.x).argmax(1) != test.y
        yield {"rule": name, "images": args.images, "error": percent(wrong)}

    torch.manual_seed(seed)
    network = gendae.deep_classifier(sizes, classes=10, activation="sigmoid")
    rates = gendae.Rates(f=TAUGHT, hold=0.5)
    trained(BackpropRule(network, rates=rates), train, args.images, seed)
    wrong = network.predict(test.x).argmax(1) != test.y
    yield {"rule": "BackpropRule", "images": args.images, "error": percent(wrong)}


def percent(wrong):
    return round(100.0 * wrong.float().mean().item(), 2)


def moving(x, ticks, seed, each=24, pace=3):
    """Digits that go a pixel to the right every few ticks, each shown for a while."""
    generator = torch.Generator().manual_seed(seed)
    side = round(x.shape[1] ** 0.5)
    for tick in range(ticks):
        if tick % each == 0:
            rows = torch.randint(len(x), (STREAMS,), generator=generator)
            images = x[rows].unflatten(1, (side, side))
        yield images.roll(tick // pace, 2).flatten(1)


SLOW = {
    "frozen": lambda tau: (DeltaPlasticity([tau]), 0.0),
    "delta": lambda tau: (DeltaPlasticity([tau], prediction=1.0), 0.003),
    "stdp": lambda tau: (gendae.TemporalPlasticity([tau]), 0.003),
}


def slowness(seed, args, data):
    x = data.split("train").x
    last = 600
    for name, make in SLOW.items():
        for tau in TAUS:
            torch.manual_seed(seed)
            stack = stack_of([x.shape[1], *args.sizes])
            plasticity, rate = make(tau)
            frames = moving(x, args.ticks, seed)
            story = []
            for tick, now in enumerate(
                ran(DelayNetwork(stack.pairs), plasticity, frames, rate, 0.03)
            ):
                if tick >= args.ticks - last:
                    story.append(now.x)

            layers = [torch.stack(layer) for layer in zip(*story, strict=True)]
            times = [correlation_time(values) for values in layers]
            spread = [round(v.std((0, 1)).mean().item(), 4) for v in layers]
            yield {"rule": name, "tau": tau, "ticks": args.ticks, "times": times, "spread": spread}


def memory(seed, args, data):
    """One pair of units, and one stream."""
    torch.manual_seed(seed)
    network = DelayNetwork(stack_of([1, 1]).pairs)
    frames = torch.rand(args.ticks, 1, 1)
    plasticity = DeltaPlasticity()

    start = time.perf_counter()
    for tick, _ in enumerate(ran(network, plasticity, frames, 0.003, 0.03), 1):
        if tick in (1_000, 10_000, 100_000, 1_000_000):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds = round(time.perf_counter() - start, 1)
            yield {"ticks": tick, "peak_kib": peak, "seconds": seconds}


PARTS = {"features": features, "labels": labels, "slowness": slowness, "memory": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rules", nargs="+", default=[*RULES, *LABELLED])
    parser.add_argument("--data", default="Digits", choices=["Digits", "MNIST"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 20])
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--ticks", type=int, default=3_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results/online.json"))
    args = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = getattr(gendae, args.data)()

    rows = []
    if args.out.is_file():
        rows = json.loads(args.out.read_text())
    for part in args.parts:
        for seed in args.seeds:
            for row in PARTS[part](seed, args, data):
                rows.append({"part": part, "data": args.data, "seed": seed, **row})
                print(rows[-1], flush=True)
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
