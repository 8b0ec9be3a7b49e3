"""Question 3: what a denoising auto-encoder of bits estimates, on a law that can be enumerated.

    python -m benchmarks.question_3 [--seeds 0 1 2] [--steps 1500]
        docs/results/question-3.json, docs/question-3.png

p(x) is a Boltzmann machine over 10 visible bits: 1,024 states, all sums exact, in float64. x~ is x
with each bit flipped by chance eps, q(x~) its law, and x^i is x with bit i flipped. The optimal
denoiser r_i = E[x_i | x~] is known in closed form; beside it one that a pair of MLPs learned from
draws (`TargetPropRule`, `PairLoops`, `FlipNoise`). With d = r - x~ and e = eps / (1 - eps):

    |d_i| = (q(x~^i) / q(x~) - e) eps (1 - eps) / (1 - 2 eps)        exact, for every eps < 1/2
    |d_i| ~ e p(x~^i) / p(x~)                                        its leading order

The sign of d_i is that of 1 - 2 x~_i whatever p is. What says uphill is |d_i| > eps, which is
where q(x~^i) > q(x~). Agreement is measured over all x~ and i, weighted by q(x~).

Second, the target of a factorial top (7.2): 10 bits under 8 drawn binary units, Algorithm 2 with
top_target="prior", whose reconstruction is the mode of each unit, its probability, a draw, or what
the first half suggests: E[h_i | h~_i], the optimal denoiser of a factorial law. The score is
KL(p || model), summed over all states, with the prior fitted on the codes at the end.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

import gendae
from gendae import plots
from gendae.plots import Figure
from gendae.rules.moment import Moment

BITS = 10
CODES = 8
BATCH = 250
NOISES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
TARGET_WEIGHTS = (0.01, 0.1)
FLIP = 0.05  # of bits and codes under the factorial top


# -- the law ---------------------------------------------------------------------------------


def states(bits):
    """All rows of bits, (2^bits, bits); row n is n in binary."""
    numbers = torch.arange(2**bits)
    return (numbers[:, None] >> torch.arange(bits) & 1).double()


def boltzmann(x, seed=0, scale=0.6):
    """log p of all states: couplings N(0, scale^2) between bits of -1 and 1, and small biases."""
    generator = torch.Generator().manual_seed(seed)
    shape = (x.shape[1], x.shape[1])
    coupling = scale * torch.randn(shape, generator=generator, dtype=torch.float64).triu(1)
    bias = 0.3 * torch.randn(x.shape[1], generator=generator, dtype=torch.float64)

    spin = 2.0 * x - 1.0
    energy = ((spin @ coupling) * spin).sum(1) + spin @ bias
    return energy.log_softmax(0)


def flipped(bits):
    """Index of x^i for every state and bit, (2^bits, bits)."""
    return torch.arange(2**bits)[:, None] ^ (1 << torch.arange(bits))


def channel(x, eps):
    """Probability of x~ (columns) given x (rows)."""
    distance = torch.cdist(x, x, p=1).round()
    return (distance * math.log(eps) + (x.shape[1] - distance) * math.log1p(-eps)).exp()


def optimal(x, log_p, eps):
    """E[x | x~] and q(x~) at every x~."""
    joint = log_p.exp()[:, None] * channel(x, eps)
    q = joint.sum(0)

    return (joint.T @ x) / q[:, None], q


# -- what a reconstruction says --------------------------------------------------------------


def measures(x, log_p, eps, r, q):
    """How a reconstruction r of every x~ agrees with p, averages over q(x~) and bits."""
    flip = flipped(x.shape[1])
    length = (r - x).abs()
    ratio = q[flip] / q[:, None]
    climb = log_p[flip] - log_p[:, None]
    e = eps / (1.0 - eps)

    # log odds of a flip less those of the noise, as log odds of x_i = 1
    sign = 1.0 - 2.0 * x
    odds = sign * (length.logit(1e-300) - math.log(e))
    exact = sign * climb

    def average(values):
        return (q[:, None] * values.double()).sum().item() / x.shape[1]

    scale = eps * (1.0 - eps) / (1.0 - 2.0 * eps)
    identity = (ratio - e) * scale
    estimate = length / scale + e
    uphill = length > eps
    mode = (r > 0.5).double()
    index = (mode.long() << torch.arange(x.shape[1])).sum(1)

    return {
        "identity_error": average((length - identity).abs()),
        "log_ratio_of_q_error": average((estimate.log() - ratio.log()).abs()),
        "log_odds_error": average((odds - exact).abs()),
        "uphill_in_q": average(uphill == (ratio > 1.0)),
        "uphill_in_p": average(uphill == (climb > 0.0)),
        "sign_of_log_odds": average((r > 0.5) == (exact > 0.0)),
        "moves": average(mode != x),
        "mode_not_less_probable": (q * (log_p[index] >= log_p)).sum().item(),
    }


def drawn(log_p, x, n, generator):
    index = torch.multinomial(log_p.exp(), n, replacement=True, generator=generator)
    return x[index]


def trained(x, log_p, eps, seed, steps):
    """Reconstructions of every x~ by a pair that learned to remove the flips."""
    torch.manual_seed(seed)
    f = gendae.MLP(BITS, [64], 64, "relu", "relu")
    g = gendae.MLP(64, [64], BITS, "sigmoid", "relu")
    stack = gendae.Stack(gendae.Pair(f, g, gendae.Bernoulli(binary=True))).double()
    corruption = [gendae.FlipNoise(eps, "binary"), gendae.GaussianNoise(0.0)]
    rule = gendae.TargetPropRule(stack, gendae.PairLoops(), corruption)

    learn(rule, x, log_p, seed, steps, lr=3e-3)
    with torch.no_grad():
        return stack.reconstruct(x)


def learn(rule, x, log_p, seed, steps, lr, every=None):
    """Adam on the rule's terms, the rate falling to 0; the prior is fitted `every` so often."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(rule.stack.parameters(), lr=lr)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1.0 - step / steps)
        batch = drawn(log_p, x, BATCH, generator)
        if every and step % every == 0:
            fit_prior(rule.stack, x, log_p, generator)

        losses = rule.losses((batch,), Moment(step / steps, generator, step))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def denoising(seeds, steps):
    """Rows of measures of the optimal denoiser and of trained ones, by eps."""
    x = states(BITS)
    log_p = boltzmann(x)

    rows = []
    for eps in NOISES:
        best, q = optimal(x, log_p, eps)
        rows.append({"eps": eps, "seed": None} | measures(x, log_p, eps, best, q))
        print(rows[-1], flush=True)

        for seed in seeds:
            r = trained(x, log_p, eps, seed, steps)
            excess = (q[:, None] * (bernoulli(best, best) - bernoulli(best, r))).sum().item()
            row = {"eps": eps, "seed": seed, "excess_nats": excess}
            rows.append(row | measures(x, log_p, eps, r, q))
            print(rows[-1], flush=True)

    return rows


def bernoulli(target, p):
    """E log p(bit) under the target, of each unit."""
    p = p.clamp(1e-12, 1.0 - 1e-12)
    return target * p.log() + (1.0 - target) * torch.log1p(-p)


# -- targets of a factorial top ----------------------------------------------------------------


class DrawnTarget(gendae.FactorialPrior):
    """The target of a discrete unit is a draw from its prior."""

    def reconstruct(self, h):
        return self.sample(len(h)).to(h)


class DenoisedTarget(gendae.FactorialPrior):
    """The target of a unit is its optimal reconstruction from its own value, flipped by FLIP.

    It is the value itself where FLIP is 0, and the prior probability where FLIP is 1/2.
    """

    def reconstruct(self, h):
        kept = torch.where(h > 0.5, 1.0 - FLIP, FLIP)
        one = self.location * kept
        return one / (one + (1.0 - self.location) * (1.0 - kept))


TARGETS = {
    "mode": lambda: gendae.FactorialPrior("bernoulli", target="mode"),
    "probability": lambda: gendae.FactorialPrior("bernoulli", target="probability"),
    "sample": lambda: DrawnTarget("bernoulli"),
    "denoised": lambda: DenoisedTarget("bernoulli"),
}


def fit_prior(stack, x, log_p, generator):
    with torch.no_grad():
        code = stack.up(drawn(log_p, x, 4000, generator), generator=generator)[-1]
    stack.prior.fit(code)


def top(name, weight, seed, steps):
    """KL(p || model), its pieces, for one target of the top."""
    x = states(BITS)
    log_p = boltzmann(x)
    torch.manual_seed(seed)

    prior = TARGETS["mode" if name == "none" else name]()
    stack = gendae.Stack(pair_of_bits(), prior=prior).double()
    kind = "flat" if name == "none" else "prior"
    weights = gendae.LoopWeights(target=weight)
    corruption = [gendae.FlipNoise(FLIP, "binary"), gendae.FlipNoise(FLIP, "binary")]
    # encoders as fast as decoders: the pace of a loop is no part of the optimizer of `learn`
    loop = gendae.ShortAndLongLoops(weights, warmup=steps // 4, top_target=kind, pace=1.0)
    rule = gendae.TargetPropRule(stack, loop, corruption)

    learn(rule, x, log_p, seed, steps, lr=3e-3, every=50)
    fit_prior(stack, x, log_p, torch.Generator().manual_seed(seed))

    return enumerated(stack, x, log_p)


def pair_of_bits():
    f = gendae.MLP(BITS, [64], CODES, "sigmoid", "relu")
    g = gendae.MLP(CODES, [64], BITS, "sigmoid", "relu")
    recognition = gendae.laws.Discrete("binary", stochastic=True)
    return gendae.Pair(f, g, gendae.Bernoulli(binary=True), recognition)


@torch.no_grad()
def enumerated(stack, x, log_p):
    """KL(p || model) = sum_x p log p - log sum_h P(h) P(x | h), and what the codes tell of x."""
    codes = states(CODES)
    p = log_p.exp()
    means = stack.pairs[0].g(codes).clamp(1e-6, 1.0 - 1e-6)
    log_x = x @ means.log().T + (1.0 - x) @ torch.log1p(-means).T
    log_model = (log_x + stack.prior.log_prob(codes)).logsumexp(1)

    q = stack.pairs[0].f(x).clamp(1e-6, 1.0 - 1e-6)
    given = (codes @ q.log().T + (1.0 - codes) @ torch.log1p(-q).T).T.exp()
    marginal = p @ given
    entropy = -(marginal * marginal.clamp_min(1e-300).log()).sum()
    noise = -(p[:, None] * given * given.clamp_min(1e-300).log()).sum()
    of_units = -bernoulli(p @ q, p @ q).sum()

    return {
        "kl": (p * (log_p - log_model)).sum().item(),
        "information_nats": (entropy - noise).item(),
        "total_correlation": (of_units - entropy).item(),
    }


def independent(x, log_p):
    """KL(p || product of its marginals): what a model without codes can do."""
    mean = log_p.exp() @ x
    return (log_p.exp() * (log_p - bernoulli(x, mean).sum(1))).sum().item()


def tops(seeds, steps):
    rows = []
    variants = [("none", 0.0)] + [(name, w) for name in TARGETS for w in TARGET_WEIGHTS]
    for name, weight in variants:
        for seed in seeds:
            row = {"target": name, "weight": weight, "seed": seed}
            rows.append(row | top(name, weight, seed, steps))
            print(rows[-1], flush=True)

    return rows


# -- the figure --------------------------------------------------------------------------------


def mean_of(rows, key, eps, exact):
    found = [row[key] for row in rows if row["eps"] == eps and (row["seed"] is None) == exact]
    return sum(found) / len(found)


def figure(rows):
    whole = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = whole.subplots(1, 2)
    agreements = {
        "uphill_in_q": "$|d_i| > \\epsilon$ and $q(x^i) > q(x)$",
        "uphill_in_p": "$|d_i| > \\epsilon$ and $p(x^i) > p(x)$",
        "sign_of_log_odds": "$r_i > 1/2$ and $p(x_i = 1 | rest) > 1/2$",
    }
    errors = {
        "log_odds_error": "leading order as $\\log\\, p(x^i) / p(x)$",
        "log_ratio_of_q_error": "identity as $\\log\\, q(x^i) / q(x)$",
    }

    for axes, keys in ((left, agreements), (right, errors)):
        for number, (key, label) in enumerate(keys.items()):
            for exact, style in ((True, "-o"), (False, "--x")):
                values = [mean_of(rows, key, eps, exact) for eps in NOISES]
                name = label if exact else None
                axes.plot(NOISES, values, style, color=f"C{number}", label=name, markersize=5)
        axes.set(xlabel="chance of a flip, $\\epsilon$")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    left.set(ylabel="agreement", title="Signs  (lines: optimal, dashed: trained)")
    right.set(ylabel="mean absolute error, nats", title="Sizes")
    return whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    args = parser.parse_args()

    start = time.process_time()
    x = states(BITS)
    log_p = boltzmann(x)
    law = {
        "entropy": -(log_p.exp() * log_p).sum().item(),
        "kl_of_independent_bits": independent(x, log_p),
    }
    path = args.folder / "results/question-3.json"
    result = {"steps": args.steps, "law": law, "denoising": denoising(args.seeds, args.steps)}
    path.write_text(json.dumps(result, indent=1) + "\n")
    plots.save(figure(result["denoising"]), args.folder / "question-3.png")

    result["tops"] = tops(args.seeds, args.steps)
    result["cpu_seconds"] = round(time.process_time() - start, 1)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
