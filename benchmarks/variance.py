"""How good one update is: cosine with the exact gradient and variance, by width and depth.

    python -m benchmarks.variance [--widths 10 30 100 300 1000] [--depths 1 2 4 8] [--steps 100]
        [--seed 0] [--out docs/results/variance.json] [--picture docs/variance.png]

784 - width - .. - 10, MNIST, at the start and after some updates of back-propagation (AdamW, 1e-3,
100 images; inverses learn meanwhile). Widths are those of two hidden layers, depths are of layers
of 100 units. An update is that of a batch of 100 images, or of one; all weights and biases of the
hidden layers are one vector. The cosine is the mean over draws of noise and batches. The variance
is that over draws of noise for one batch, summed over weights and divided by the squared norm of
the exact gradient; what draws nothing has none.

Rules of real networks (tanh) are held against the gradient of the network without noise. Drawn
bits have an exact gradient, too, of the mean loss: it is sampled by turning every unit over.
Cosines with it are divided by the root of its reliability, 2 r / (1 + r), r being the cosine of
two halves of its draws ("bits: halves of the reference"). A network that the file has is not
measured again.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import torch

import gendae
from gendae import plots
from gendae.models.classifier import label_energy
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning, Iterations
from gendae.rules.moment import Moment
from gendae.rules.perturbation import (
    NodePerturbationRule,
    ReinforceRule,
    WeightPerturbationRule,
)

SIGMA = 0.1  # of Gaussian units, for REINFORCE
DRAWS = 8
BATCHES = {100: 2, 1: 8}
OF_BITS = 8  # draws for each image, in each half, of the exact gradient of drawn bits
OF_MANY = 2  # likewise, of networks of more than MANY bits
MANY = 500
ROOM = 10_000_000  # numbers held at once while units are turned over

#: Rules of networks of real units, over a stack.
REAL = {
    "REINFORCE": lambda stack: ReinforceRule(stack, "none"),
    "REINFORCE, two draws": lambda stack: ReinforceRule(stack, "others", samples=2),
    "node perturbation": NodePerturbationRule,
    "weight perturbation": WeightPerturbationRule,
    "feedback alignment": gendae.FeedbackAlignmentRule,
    "DTP": DifferenceTargetPropRule,
    "DTP, iterated": lambda stack: DifferenceTargetPropRule(
        stack, iterations=Iterations(rounds=5, reconstruct=0.2)
    ),
}
#: Rules of networks of drawn bits.
BITS = {
    "bits: REINFORCE": lambda stack: ReinforceRule(stack, "none"),
    "bits: REINFORCE, two draws": lambda stack: ReinforceRule(stack, "others", samples=2),
    "bits: straight-through": gendae.StraightThroughRule,
}
HALVES = "bits: halves of the reference"
#: Rules without noise, whose updates are all the same.
CERTAIN = ("feedback alignment", "DTP", "DTP, iterated")


def network(width, depth, bits):
    """A classifier; the laws of real units have the noise of REINFORCE, and are silent else."""
    if bits:
        return gendae.deep_classifier([784, *[width] * depth], stochastic=True)

    pairs = []
    for low, high in pairwise([784, *[width] * depth]):
        f = gendae.Affine(low, high, "tanh", init="orthogonal")
        g = gendae.Affine(high, low, "tanh", init="orthogonal")
        pairs.append(gendae.Pair(f, g, recognition=gendae.Gaussian(SIGMA)))

    return gendae.Classifier(*pairs, output=gendae.Affine(width, 10, init="orthogonal"))


def train(stack, data, steps, bits, generator):
    """Updates of back-propagation, straight-through for bits; inverses learn beside it."""
    rule = gendae.StraightThroughRule(stack)
    inverses = DifferenceTargetPropRule(stack, inverses=InverseLearning(sigma=0.3))
    optimizer = inverses.configure_optimizers()

    for batch in batches(data, 100, steps, generator):
        optimizer.zero_grad()
        losses = rule.losses(batch, Moment(generator=generator))
        if not bits:
            losses |= inverses.losses(batch, Moment(generator=generator, learn=("g",)))
        sum(losses.values()).backward()
        optimizer.step()


def batches(data, rows, number, generator):
    for _ in range(number):
        index = torch.randint(len(data.x), (rows,), generator=generator)
        yield data.x[index], data.y[index]


# -- gradients ------------------------------------------------------------------------------------


def hidden(stack):
    return [p for pair in stack.pairs for p in pair.f.parameters()]


def update(rule, batch, generator):
    """The gradient of a rule's losses by all weights and biases of the hidden layers."""
    total = sum(rule.losses(batch, Moment(generator=generator)).values())
    gradients = torch.autograd.grad(total, hidden(rule.stack))
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


@torch.no_grad()
def exact_of_bits(stack, x, y, generator):
    """Gradient of E[L] by the hidden layers, from one draw of every unit for each row.

    dE[L]/dp_j = E[L(h_j = 1) - L(h_j = 0)]: every unit is turned over, and those above are drawn
    again by the same random numbers.
    """
    f = stack.encoders
    h = [x]
    uniform = []
    for layer in f[:-1]:
        p = layer(h[-1])
        uniform.append(torch.rand(p.shape, generator=generator))
        h.append((uniform[-1] < p).to(p.dtype))
    loss = label_energy(f[-1](h[-1]), y)

    parts = []
    for level in range(1, len(f)):
        slope = torch.empty_like(h[level])
        turned = 1.0 - 2.0 * h[level]
        step = max(1, ROOM // f[level].weight.numel())
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            a = f[level].preactivation(h[level][rows])[:, None]
            a = a + turned[rows, :, None] * f[level].weight.T
            for above in range(level, len(f) - 1):
                bits = (uniform[above][rows, None] < torch.sigmoid(a)).to(a.dtype)
                a = f[above + 1].preactivation(bits)

            changed = -torch.log_softmax(a, -1).gather(
                -1, y[rows, None, None].expand(-1, a.shape[1], 1)
            )
            slope[rows] = (changed[..., 0] - loss[rows, None]) * turned[rows]

        p = f[level - 1](h[level - 1])
        error = slope * p * (1.0 - p) / len(x)
        parts += [(error.T @ h[level - 1]).flatten(), error.sum(0)]

    return torch.cat(parts).double()


def reference_of_bits(stack, batch, generator):
    """The mean over draws for every image, and the cosine of the means over its two halves."""
    x, y = batch
    number = OF_BITS if sum(stack.sizes[1:]) <= MANY else OF_MANY
    halves = []
    for _ in range(2):
        draws = [exact_of_bits(stack, x, y, generator) for _ in range(number)]
        halves.append(torch.stack(draws).mean(0))

    return (halves[0] + halves[1]) / 2.0, cosine(*halves)


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


# -- a network ------------------------------------------------------------------------------------


def measured(stack, data, bits, generator):
    """Rule -> rows of a batch -> mean cosine, and variance relative to the exact gradient."""
    rules = {name: make(stack) for name, make in (BITS if bits else REAL).items()}
    scores = {}
    for rows, number in BATCHES.items():
        if bits and rows == 1:
            continue

        cosines = {name: [] for name in rules}
        variances = {name: [] for name in rules}
        for batch in batches(data, rows, 2 if bits else number, generator):
            reliability = 1.0
            if bits:
                exact, r = reference_of_bits(stack, batch, generator)
                reliability = 2.0 * r / (1.0 + r)
                cosines.setdefault(HALVES, []).append(r)
            else:
                exact = update(gendae.BackpropRule(stack), batch, generator)

            for name, rule in rules.items():
                draws = 1 if name in CERTAIN else DRAWS
                drawn = torch.stack([update(rule, batch, generator) for _ in range(draws)])
                cosines[name] += [cosine(one, exact) / reliability**0.5 for one in drawn]
                if draws > 1:
                    squares = exact.square().sum() * reliability
                    variances[name].append((drawn.var(0).sum() / squares).item())

        for name, values in cosines.items():
            scores.setdefault(name, {})[rows] = {
                "cosine": round(sum(values) / len(values), 5),
                "variance": mean(variances.get(name)),
            }

    return scores


def mean(values):
    """Of the variances; None where nothing varies."""
    if not values:
        return None

    return round(sum(values) / len(values), 6)


def row_of(width, depth, bits, options, data):
    """A network at the start and after training."""
    started = time.time()
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    stack = network(width, depth, bits)

    row = {"width": width, "depth": depth, "bits": bits}
    row["start"] = measured(stack, data, bits, generator)
    train(stack, data, options.steps, bits, generator)
    row["trained"] = measured(stack, data, bits, generator)

    x, y = data.x[:1000], data.y[:1000]
    row["error"] = round((stack.predict(x).argmax(1) != y).float().mean().item(), 4)
    row["seconds"] = round(time.time() - started)
    return row


# -- the figure -----------------------------------------------------------------------------------


def curve(rows, axis, moment, name, batch, measure):
    """(x, y) of a rule: widths at a depth of two, or depths at a width of 100."""
    fixed = ("depth", 2) if axis == "width" else ("width", 100)
    points = []
    for row in rows:
        scores = row[moment].get(name, {}).get(str(batch))
        if row[fixed[0]] == fixed[1] and scores and scores[measure] is not None:
            points.append((row[axis], scores[measure]))

    return sorted(points)


def slope(points):
    """Of log cosine by log of the width or depth, by least squares; None with a cosine <= 0."""
    if len(points) < 2 or min(y for _, y in points) <= 0:
        return None

    x = torch.tensor([float(x) for x, _ in points]).log()
    y = torch.tensor([y for _, y in points]).log()
    x = x - x.mean()
    return round(((x * (y - y.mean())).sum() / x.square().sum()).item(), 2)


def figure(rows, path):
    panels = [
        ("width", "cosine", "start"),
        ("width", "cosine", "trained"),
        ("width", "variance", "trained"),
        ("depth", "cosine", "start"),
        ("depth", "cosine", "trained"),
        ("depth", "variance", "trained"),
    ]
    names = [*REAL, *BITS]
    drawn = plots.Figure(figsize=(15, 9), layout="constrained")
    axes = drawn.subplots(2, 3).flatten()

    for ax, (axis, measure, moment) in zip(axes, panels, strict=True):
        for number, name in enumerate(names):
            points = curve(rows, axis, moment, name, 100, measure)
            style = "--" if name.startswith("bits") else "-"
            if points and min(y for _, y in points) <= 0:
                style = "none"  # it is noise around 0
            if points:
                ax.plot(*zip(*points, strict=True), ls=style, marker="o", ms=4, c=f"C{number}")
        if measure == "cosine":
            low, high = (20, 2000) if axis == "width" else (1, 8)
            ends = (10, 1000) if axis == "width" else (1, 8)
            ax.plot(ends, [1.0, (low / high) ** 0.5], ":", c="grey")
            ax.set_yscale("symlog", linthresh=2e-3)
            ax.set_ylim(-0.3, 1.3)
        else:
            ax.set_yscale("log")
        ax.set(xscale="log", title=f"{measure} against {axis}, {moment}")
        values = sorted({row[axis] for row in rows})
        ax.set_xticks(values, values)
        ax.minorticks_off()
        ax.set_xlabel("units in each of two layers" if axis == "width" else "layers of 100 units")
        ax.grid(alpha=0.3)

    for number, name in enumerate(names):
        style = "--" if name.startswith("bits") else "-"
        axes[0].plot([], [], style, marker="o", ms=4, c=f"C{number}", label=name)
    axes[0].plot([], [], ":", c="grey", label="1 / sqrt(units)")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    plots.save(drawn, path)


def slopes(rows):
    """Axis -> moment -> rule -> batch -> exponent of the cosine."""
    found = {}
    for axis in ("width", "depth"):
        for moment in ("start", "trained"):
            for name in (*REAL, *BITS):
                for batch in BATCHES:
                    points = curve(rows, axis, moment, name, batch, "cosine")
                    if points:
                        place = found.setdefault(axis, {}).setdefault(moment, {})
                        place.setdefault(name, {})[str(batch)] = slope(points)

    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/variance.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/variance.png"))
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = gendae.MNIST().split("train")
    networks = sorted({*((w, 2) for w in options.widths), *((100, d) for d in options.depths)})

    settings = {key: getattr(options, key) for key in ("steps", "seed")}
    rows = []
    if options.out.is_file():
        record = json.loads(options.out.read_text())
        if {key: record[key] for key in settings} == settings:
            rows = record["rows"]

    there = [(row["width"], row["depth"], row["bits"]) for row in rows]
    for width, depth in networks:
        for bits in (False, True):
            if (width, depth, bits) in there:
                continue

            row = row_of(width, depth, bits, options, data)
            rows.append(json.loads(json.dumps(row)))
            print(width, depth, bits, row["seconds"], "s", flush=True)

            record = {**settings, "exponents": slopes(rows), "rows": rows}
            options.out.write_text(json.dumps(record, indent=1) + "\n")

    figure(rows, options.picture)


if __name__ == "__main__":
    main()
