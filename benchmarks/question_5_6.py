"""Questions 5 and 6: KL(data, model) on known laws, and how factorial the codes are, by depth.

    python -m benchmarks.question_5_6 depth [--data moons mixture] [--seeds 0 1 2]
    python -m benchmarks.question_5_6 width                 16, 64 and 256 units at depth 3
    python -m benchmarks.question_5_6 examples              100, 1,000 and 10,000 at depth 3
    python -m benchmarks.question_5_6 pull                  of N(0, I) at the top, at depth 4
    python -m benchmarks.question_5_6 invertible            exact likelihood, 1 to 8 pairs
    python -m benchmarks.question_5_6 collect               docs/results/question-5-6.json, figures

Stacks d-W-..-W-d of affine maps with tanh, linear codes as wide as x (10 for the digits), trained
by the default loop of `TargetPropRule`, the same with frozen encoders, and by back-propagation of
the same loss. Every run is a JSON file in runs/question-5: one that is there is not repeated.

KL: E log p(x) - log model(x) over 1,000 test points, in nats. The model is a window of width sigma
around 5,000 decoded draws of the top; sigma is chosen on validation points. The top is a Gaussian
(the layers must do the work) or a Parzen window (the top can). The floor is such a window around
5,000 points of the law itself.

Total correlation of the codes, sum_j H(h_j) - H(h), in nats: it is the same for any monotone map
of each unit, so that units are made normal by their ranks. Then it is -1/2 log det of their
correlations if all is Gaussian, and by nearest neighbours (Kozachenko and Leonenko 1987) less the
same estimate of shuffled units, whose total correlation is 0.

Invertible stacks are trained by `exact_log_prob` under N(0, I): KL(data, model) is exact, and no
less than the total correlation of their codes.
"""

import argparse
import json
import math
import time
from itertools import product
from pathlib import Path

import torch

import gendae
from benchmarks.depth import TopNoiseAtStart
from gendae import plots
from gendae.data.toys import noiseless
from gendae.plots import Figure
from gendae.rules.moment import Moment

OUT = Path("runs/question-5")
DEPTHS = (1, 2, 3, 4)
WIDTH = 64
EXAMPLES = 10_000
STEPS = 1500
BATCH = 200
RATE = 3e-3
KL = 0.01  # weight of the pull of N(0, I)
NOISE = 0.1
HELD_OUT = 1000
DRAWS = 5000
SIGMAS = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8)
INVERTIBLE_DEPTHS = (1, 2, 4, 8)
START = 200  # updates inside pairs

#: Rule -> (feedback, whether encoders learn).
RULES = {
    "targets": (gendae.LocalDifference, True),
    "frozen encoders": (gendae.LocalDifference, False),
    "back-propagation": (gendae.Exact, True),
}


# -- known laws -----------------------------------------------------------------------------------


class Mixture:
    """Three Gaussians on a line."""

    dim = 1
    means = torch.tensor([-2.0, 0.0, 1.5])
    scales = torch.tensor([0.2, 0.3, 0.15])
    weights = torch.tensor([0.3, 0.4, 0.3])

    def draw(self, n, generator):
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, generator=generator)
        return (self.means[index] + self.scales[index] * noise)[:, None]

    def log_prob(self, x):
        parts = torch.distributions.Normal(self.means, self.scales).log_prob(x)
        return (parts + self.weights.log()).logsumexp(1)


class Toy:
    """The laws of `Toys2D`: curves or centres, evenly weighted, with Gaussian noise."""

    dim = 2

    def __init__(self, kind):
        self.centres = noiseless(kind, 4000, 0)[0]

    def draw(self, n, generator):
        index = torch.randint(len(self.centres), (n,), generator=generator)
        return self.centres[index] + NOISE * torch.randn(n, 2, generator=generator)

    def log_prob(self, x):
        return window(x, self.centres, NOISE)


LAWS = {"mixture": Mixture} | {
    kind: lambda kind=kind: Toy(kind) for kind in ("moons", "rings", "gaussians")
}


def window(x, centres, sigma):
    """log of the mean of N(x; centre, sigma^2 I)."""
    parts = []
    for rows in x.split(250):
        squares = torch.cdist(rows, centres).square()
        total = (squares / (-2.0 * sigma**2)).logsumexp(1)
        parts.append(total - math.log(len(centres)))

    constant = x.shape[1] * math.log(sigma * math.sqrt(2.0 * math.pi))
    return torch.cat(parts) - constant


def splits(name, n, seed):
    """Training, validation and test points."""
    if name == "digits":
        data = gendae.Digits()
        return [data.split(part).x for part in ("train", "valid", "test")]

    generator = torch.Generator().manual_seed(seed)
    law = LAWS[name]()
    return [law.draw(size, generator) for size in (n, HELD_OUT, HELD_OUT)]


# -- measures -------------------------------------------------------------------------------------


def divergence(centres, valid, test, law):
    """KL(law, window around decoded draws) and its sigma, chosen on validation points."""
    some = valid[:250]
    sigma = max(SIGMAS, key=lambda s: window(some, centres, s).mean().item())
    gap = law.log_prob(test) - window(test, centres, sigma)

    return {"kl": gap.mean().item(), "sigma": sigma}


def normal_by_ranks(h):
    """Each unit's values replaced by the normal quantiles of their ranks; ties are broken."""
    noisy = h.double() + 1e-9 * torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
    ranks = noisy.argsort(0).argsort(0)
    return torch.special.ndtri((ranks + 0.5) / len(h))


def total_correlation(h, k=5):
    """In nats: of a Gaussian, and by the distances to the k-th neighbours."""
    z = normal_by_ranks(h[:HELD_OUT])
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.stack([c[torch.randperm(len(c), generator=generator)] for c in z.T], 1)

    gaussian = -0.5 * torch.logdet(torch.corrcoef(z.T)).item() if z.shape[1] > 1 else 0.0
    return {"tc_gaussian": gaussian, "tc_neighbours": mean_log_distance(shuffled, z, k)}


def mean_log_distance(one, other, k):
    """H(one) - H(other) = d E[log distance of one - log distance of other]."""
    logs = []
    for z in (one, other):
        distance = torch.cdist(z, z).kthvalue(k + 1, dim=1).values
        logs.append(distance.clamp_min(1e-12).log().mean())

    return (one.shape[1] * (logs[0] - logs[1])).item()


# -- stacks ---------------------------------------------------------------------------------------


def network(name, depth, width):
    if name == "digits":
        sizes = [64, *[width] * (depth - 1), 10]
        options = {"observation": "bernoulli"}
    else:
        dim = LAWS[name]().dim
        sizes = [dim, *[width] * (depth - 1), dim]
        options = {"visible": "linear"}

    activations = ["tanh"] * (depth - 1) + ["linear"]
    return gendae.deep_autoencoder(sizes, activations, init="orthogonal", **options)


def trained(name, rule, depth, width, x, seed, kl):
    """A stack after STEPS updates, in a plain loop."""
    torch.manual_seed(seed)
    feedback, learns = RULES[rule]
    stack = network(name, depth, width)
    loop = TopNoiseAtStart(feedback(), prior_weight=kl, start=START)
    corruption = [gendae.GaussianNoise(0.0)] * depth + [gendae.RelativeNoise(0.1)]
    rates = gendae.Rates(f=RATE if learns else 0.0, g=RATE, hold=0.5)
    rule = gendae.TargetPropRule(stack, loop, corruption, rates=rates)

    optimizer = rule.configure_optimizers()
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        moment = Moment(step / STEPS, generator, step)

        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        sum(rule.losses((batch,), moment).values()).backward()
        optimizer.step()

    return stack


@torch.no_grad()
def scores(stack, name, train, valid, test, seed):
    """KL under both tops, total correlation of the codes, reconstruction."""
    codes = stack.encode(train)[-1]
    held_out = stack.encode(torch.cat([valid, test]))[-1]
    energy = stack.pairs[0].observation.energy(test, stack.reconstruct(test)).mean().item()
    row = {"energy": energy} | total_correlation(held_out)
    if name == "digits":
        return row

    law = LAWS[name]()
    generator = torch.Generator().manual_seed(seed)
    tops = {
        "gaussian": gendae.GaussianPrior("full", 1.0),
        "parzen": gendae.ParzenPrior(capacity=2000),
    }
    for title, prior in tops.items():
        x = stack.decode(prior.fit(codes).sample(DRAWS, generator))
        row[title] = divergence(x, valid, test, law)

    row["floor"] = divergence(law.draw(DRAWS, generator), valid, test, law)
    return row


def one(kind, name, rule, depth, width, n, seed, kl=KL):
    """A run as a JSON file, unless it is there."""
    key = f"{kind}_{name}_{rule}_{depth}_{width}_{n}_{seed}".replace(" ", "-")
    if kl != KL:
        key += f"_{kl}"
    path = OUT / f"{key}.json"
    if path.exists():
        return

    start = time.process_time()
    train, valid, test = splits(name, n, seed)
    stack = trained(name, rule, depth, width, train, seed, kl)
    row = {"kind": kind, "data": name, "rule": rule, "depth": depth, "width": width}
    row |= {"pull": kl, "n": len(train), "seed": seed}
    row |= scores(stack, name, train, valid, test, seed)
    row["seconds"] = round(time.process_time() - start, 1)

    path.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row), flush=True)


# -- invertible stacks ----------------------------------------------------------------------------


def invertible(name, depth, seed):
    """A stack of perfect auto-encoders under N(0, I), trained by its exact likelihood."""
    path = OUT / f"invertible_{name}_{depth}_{seed}.json"
    if path.exists():
        return

    start = time.process_time()
    train, valid, test = splits(name, EXAMPLES, seed)
    torch.manual_seed(seed)
    pairs = [gendae.InvertiblePair(2, "svd", "tanh") for _ in range(depth - 1)]
    pairs.append(gendae.InvertiblePair(2, "svd", "linear"))
    prior = gendae.FactorialPrior([["gaussian", 2]], flat=True)
    stack = gendae.Stack(*pairs, prior=prior)
    ascend(stack, train, valid)

    with torch.no_grad():
        gap = LAWS[name]().log_prob(test) - gendae.exact_log_prob(stack, test)
        codes = stack.encode(torch.cat([valid, test]))[-1]
    row = {"kind": "invertible", "data": name, "depth": depth, "seed": seed}
    row |= {"kl": gap.mean().item()} | total_correlation(codes)
    row["seconds"] = round(time.process_time() - start, 1)

    path.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row), flush=True)


def ascend(stack, train, valid):
    """Likelihood by Adam; the parameters of the best validation likelihood stay."""
    optimizer = torch.optim.Adam(stack.parameters(), lr=1e-2)
    best = -math.inf
    kept = stack.state_dict()

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1.0 - step / STEPS)
        batch = train[torch.randint(len(train), (BATCH,))]
        penalty = sum(pair.f.penalty() for pair in stack.pairs)
        loss = 0.1 * penalty - gendae.exact_log_prob(stack, batch).mean()

        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stack.parameters(), 1.0)
        optimizer.step()

        if step % 100 == 99:
            with torch.no_grad():
                now = gendae.exact_log_prob(stack, valid).mean().item()
            if now > best:
                best = now
                kept = {name: value.clone() for name, value in stack.state_dict().items()}

    stack.load_state_dict(kept)


# -- the table and the figures --------------------------------------------------------------------


def rows(kind):
    return [json.loads(path.read_text()) for path in sorted(OUT.glob(f"{kind}_*.json"))]


def value(row, key):
    for part in key.split("/"):
        row = row[part]
    return row


def curve(axes, found, by, key, **style):
    """Mean over seeds, with their deviation, against a column."""
    places = sorted({row[by] for row in found})
    groups = [[value(row, key) for row in found if row[by] == place] for place in places]
    values = [torch.tensor(group, dtype=torch.float64) for group in groups]
    means = [v.mean().item() for v in values]
    spreads = [v.std().item() if len(v) > 1 else 0.0 for v in values]
    axes.errorbar(places, means, spreads, markersize=4, marker="o", **style)


def figure_5(found, floor):
    """KL against depth, for each law and top."""
    names = [name for name in LAWS if any(row["data"] == name for row in found)]
    whole = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(whole.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, rule in enumerate(RULES):
            of_rule = [row for row in found if (row["data"], row["rule"]) == (name, rule)]
            for top, line in (("gaussian", "-"), ("parzen", ":")):
                label = f"{rule}, {top} top"
                style = {"color": f"C{number}", "linestyle": line, "label": label}
                curve(axes, of_rule, "depth", f"{top}/kl", **style)
        axes.axhline(floor[name], color="0.6", linewidth=0.8)
        axes.set(xlabel="pairs", ylabel="KL(data, model), nats", title=name, xticks=DEPTHS)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.grid(alpha=0.3)
    whole.axes[0].legend(fontsize=7)

    return whole


def figure_6(found, exact):
    """Total correlation of the codes against depth, by neighbours."""
    names = list(dict.fromkeys(row["data"] for row in found if row["data"] != "mixture"))
    whole = Figure(figsize=(3.4 * len(names), 3.4), layout="constrained")
    for axes, name in zip(whole.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for number, rule in enumerate(RULES):
            of_rule = [row for row in found if (row["data"], row["rule"]) == (name, rule)]
            curve(axes, of_rule, "depth", "tc_neighbours", color=f"C{number}", label=rule)
        flows = [row for row in exact if row["data"] == name]
        if flows:
            curve(axes, flows, "depth", "tc_neighbours", color="black", label="invertible")
            label = "invertible, KL"
            curve(axes, flows, "depth", "kl", color="black", linestyle=":", label=label)
        axes.set(xlabel="pairs", ylabel="nats", title=f"total correlation, {name}")
        axes.set_ylim(bottom=0.0)
        axes.grid(alpha=0.3)
    whole.axes[-1].legend(fontsize=7)  # which has the invertible stacks too

    return whole


def collect(folder):
    kinds = ("depth", "width", "examples", "pull", "invertible")
    found = {kind: rows(kind) for kind in kinds}
    (folder / "results/question-5-6.json").write_text(json.dumps(found, indent=1) + "\n")

    known = [row for row in found["depth"] if row["data"] != "digits"]
    floor = {name: mean_floor([r for r in known if r["data"] == name]) for name in LAWS}
    plots.save(figure_5(known, floor), folder / "question-5.png")
    plots.save(figure_6(found["depth"], found["invertible"]), folder / "question-6.png")
    for kind in kinds:
        print("\n".join(table(found[kind])))


def mean_floor(found):
    return sum(row["floor"]["kl"] for row in found) / max(1, len(found))


def table(found):
    """Markdown rows, mean +- sd over seeds."""
    of = ("data", "rule", "depth", "width", "n", "pull")
    scored = ("kl", "gaussian/kl", "parzen/kl", "tc_gaussian", "tc_neighbours")
    groups = {}
    for row in found:
        groups.setdefault(tuple(str(row.get(key, "")) for key in of), []).append(row)

    lines = []
    for names, group in groups.items():
        cells = []
        for key in scored:
            there = key.split("/")[0] in group[0]
            cells.append(cell([value(row, key) for row in group]) if there else "")
        lines.append("| " + " | ".join([*names, str(len(group)), *cells]) + " |")

    return lines


def cell(values):
    values = torch.tensor(values, dtype=torch.float64)
    if len(values) == 1:
        return f"{values.item():.3f}"

    return f"{values.mean():.3f} +- {values.std():.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    whats = ["depth", "width", "examples", "pull", "invertible", "collect"]
    parser.add_argument("what", choices=whats)
    parser.add_argument("--data", nargs="+", default=["moons"], choices=[*LAWS, "digits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--depths", nargs="+", type=int)
    args = parser.parse_args()

    OUT.mkdir(parents=True, exist_ok=True)
    if args.what == "collect":
        collect(Path("docs"))

    for seed, name in product(args.seeds, args.data):
        if args.what == "depth":
            width = 100 if name == "digits" else WIDTH
            for depth, rule in product(args.depths or DEPTHS, RULES):
                one("depth", name, rule, depth, width, EXAMPLES, seed)
        if args.what == "width":
            for width, rule in product((16, 64, 256), RULES):
                one("width", name, rule, 3, width, EXAMPLES, seed)
        if args.what == "examples":
            for n, rule in product((100, 1000, 10_000), RULES):
                one("examples", name, rule, 3, WIDTH, n, seed)
        if args.what == "pull":
            for kl, rule in product((KL, 0.1, 1.0), RULES):
                one("pull", name, rule, 4, WIDTH, EXAMPLES, seed, kl)
        if args.what == "invertible":
            for depth in args.depths or INVERTIBLE_DEPTHS:
                invertible(name, depth, seed)


if __name__ == "__main__":
    main()
