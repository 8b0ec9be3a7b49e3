"""The delta rules of 2014, section 8, on streams of digits: features, labels, slowness.

    python -m benchmarks.online [--seeds 0 1 2] [--parts features labels slowness]
        docs/results/online.json

Streams show digits one after the other. `features`: the error of a linear read-out of each layer
(logistic regression on the codes of the training images) and the squared error of the
reconstruction, on test images, after as many images for every rule; "frozen" encoders stay as they
are at random. `labels`: image and label are clamped, then the image alone; test error. `slowness`:
after how many ticks the autocorrelation of a layer falls below 1/e, while digits move.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

import gendae
from gendae.models.delay import DelayNetwork
from gendae.rules.backprop import BackpropRule
from gendae.rules.online import PLAIN, DeltaPlasticity, map_of

STREAMS = 20
SHOWN = gendae.Presentation(ticks=8, blank=3)
NOISY = gendae.Presentation(ticks=8, blank=3, noise=0.2)
TAUS = (1.0, 4.0, 16.0)


def stack_of(sizes):
    activations = ["sigmoid"] * (len(sizes) - 1)
    return gendae.deep_autoencoder(sizes, activations, init="orthogonal", gain=2.0)


def delta(stack, f=0.3, g=0.3, **options):
    options = {"presentation": SHOWN, **options}
    rates = gendae.Rates(f=f, g=g, hold=0.5, optimizer=PLAIN)
    return gendae.OnlineDeltaRule(stack, rates=rates, **options)


def with_weights(prediction, recirculation):
    return DeltaPlasticity(prediction=prediction, recirculation=recirculation)


RULES = {
    "frozen": lambda stack: delta(stack, f=0.0),
    "online": delta,
    "online, a step at every tick": lambda stack: delta(stack, every_tick=True),
    "online, noise early": lambda stack: delta(stack, presentation=NOISY),
    "online, no prediction": lambda s: delta(s, plasticity=with_weights(0.0, 1.0)),
    "online, prediction 1": lambda s: delta(s, plasticity=with_weights(1.0, 1.0)),
    "online, no recirculation": lambda s: delta(s, plasticity=with_weights(1.0, 0.0)),
    "online, stdp": lambda s: delta(s, plasticity=gendae.TemporalPlasticity()),
    "TargetPropRule": gendae.TargetPropRule,
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
    for codes, others in zip(stack.encode(train.x)[1:], stack.encode(test.x)[1:], strict=True):
        mean, spread = codes.mean(0), codes.std(0) + 1e-6
        readout = LogisticRegression(max_iter=300).fit((codes - mean) / spread, train.y)
        score = readout.score((others - mean) / spread, test.y)
        errors.append(round(100.0 * (1.0 - score), 2))

    squares = []
    for level in range(1, stack.depth + 1):
        difference = stack.reconstruct(test.x, level) - test.x
        squares.append(round(difference.square().sum(1).mean().item(), 3))

    return {"readout": errors, "reconstruction": squares}


def correlation_time(values):
    """The first lag at which the autocorrelation is below 1/e, (ticks, rows, units)."""
    centred = values - values.mean((0, 1))
    power = centred.square().mean()
    for lag in range(1, len(values)):
        if (centred[lag:] * centred[:-lag]).mean() < power / torch.e:
            return lag

    return len(values)


# -- the three parts -----------------------------------------------------------------------------


def features(seed, args, data):
    for name in args.rules:
        torch.manual_seed(seed)
        stack = stack_of([data.split("train").x.shape[1], *args.sizes])
        start = time.process_time()
        trained(RULES[name](stack), data.split("train"), args.images, seed)
        seconds = round(time.process_time() - start, 1)
        yield {"rule": name, "images": args.images, "seconds": seconds} | of_features(stack, data)


LABELLED = {
    "frozen below": {"f": [0.0, 1.0], "plasticity": with_weights(0.0, 0.0)},
    "recirculation": {"f": [0.3, 1.0], "plasticity": with_weights(0.0, 1.0)},
    "prediction": {"f": [0.3, 1.0], "plasticity": with_weights(1.0, 0.0)},
    "both": {"f": [0.3, 1.0], "plasticity": with_weights(0.3, 1.0)},
    "both, feedback 0.3": {
        "f": [0.3, 1.0],
        "plasticity": with_weights(0.3, 1.0),
        "feedback": 0.3,
    },
}


def labels(seed, args, data):
    train = data.split("train")
    test = data.split("test")
    sizes = [train.x.shape[1], args.sizes[0]]

    for name, options in LABELLED.items():
        torch.manual_seed(seed)
        rule = delta(stack_of([*sizes, 10]), labels=True, **options)
        trained(rule, train, args.images, seed)
        wrong = rule.predict(test.x).argmax(1) != test.y
        yield {"rule": name, "images": args.images, "error": percent(wrong)}

    torch.manual_seed(seed)
    network = gendae.deep_classifier(sizes, classes=10, activation="sigmoid")
    trained(BackpropRule(network), train, args.images, seed)
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


PARTS = {"features": features, "labels": labels, "slowness": slowness}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
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
