"""How far back targets see: their directions beside those of back-propagation, by lag.

    python -m benchmarks.lags [--steps 50] [--updates 0 2000] [--seeds 0 1 2] [--json FILE]
                              [--figure docs/lags.png] [--walk docs/targets-in-time.png]

A recurrent network learns a temporal order by the rule in question. At the start and after some
updates, the displacement d_t of every state is compared with what back-propagation through time
says of it at the same weights: cosine of the two, example by example, and their lengths, both
relative to those of the last state. The lag is T - t.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from gendae import (
    LongDependencies,
    RecurrentTargetPropRule,
    RegularizedInversionRule,
    plots,
    recurrent_classifier,
)
from gendae.models.classifier import label_loss
from gendae.plots import Figure
from gendae.rules.moment import Moment
from gendae.rules.recurrent import Reading

SCALE = 0.03
RULES = {
    "inverse": (RecurrentTargetPropRule, None),
    "inverse, residual steps": (RecurrentTargetPropRule, SCALE),
    "transpose, residual steps": (partial(RecurrentTargetPropRule, learns="transpose"), SCALE),
    "regularised inversion": (RegularizedInversionRule, None),
}


def gradients(rule, x, y):
    """-dL/ds_t of every example, (T, batch, state), and of its loss summed over the batch."""
    cell = rule.pair.cell
    inputs, _ = rule.pair.f.split(x)

    states = [x.new_zeros(len(x), cell.state)]
    for t in range(rule.pair.steps):
        after = cell.step(states[-1], inputs[:, t])
        if not after.requires_grad:
            after.requires_grad_()
        states.append(after)

    loss = label_loss(rule.stack.output(states[-1])[None], y) * len(x)
    return -torch.stack(torch.autograd.grad(loss, states[1:]))


def by_lag(rule, x, y):
    """Cosine, and the lengths of targets and gradients beside those of the last state."""
    moves = torch.stack(rule.displacements(Reading(rule.pair, x), y))
    slopes = gradients(rule, x, y)

    values = {
        "cosine": F.cosine_similarity(moves, slopes, dim=-1).mean(1),
        "targets": (moves.norm(dim=-1) / moves[-1].norm(dim=-1)).log10().mean(1),
        "gradients": (slopes.norm(dim=-1) / slopes[-1].norm(dim=-1)).log10().mean(1),
    }
    return {name: value.flip(0).tolist() for name, value in values.items()}


def trained(rule, data, updates, seed):
    """The rule after some updates with Adam, at the rate of the benchmark of recurrent nets."""
    split = data.split("train")
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(rule.stack.parameters(), 1e-3)
    groups = [list(layer.parameters()) for layer in (rule.pair.cell.f, rule.pair.cell.g_state)]

    for update in range(updates):
        batch = split[torch.randint(len(split.x), (100,), generator=draws)]
        losses = rule.losses(batch, Moment(progress=update / updates, generator=draws))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for group in groups:
            torch.nn.utils.clip_grad_norm_(group, 1.0)
        optimizer.step()

    return rule


def measured(name, steps, updates, seed):
    data = LongDependencies("temporal-order", steps, 10_000, seed=seed)
    make, scale = RULES[name]

    torch.manual_seed(seed)
    rule = make(recurrent_classifier(6, steps, 100, 4, scale=scale))
    trained(rule, data, updates, seed)
    x, y, _ = data.split("valid")
    wrong = (rule.stack.predict(x).argmax(1) != y).float().mean().item()

    return {"error": wrong, **by_lag(rule, x[:200], y[:200])}


def figure(rows, updates):
    """Cosine against lag, one panel for each number of updates, and the lengths."""
    panels = {}
    for count in updates:
        chosen = [row for row in rows if row["updates"] == count]
        lines = {name: [r for r in chosen if r["rule"] == name] for name in RULES}
        title = f"after {count:,} updates"
        panels[title, "cosine with back-propagation"] = {
            name: torch.tensor([row["cosine"] for row in of]).T for name, of in lines.items() if of
        }
        panels[title + " ", r"$\log_{10}$ of length, beside the last"] = {
            name: torch.tensor([row["targets"] for row in of]).T
            for name, of in lines.items()
            if of
        }

    return plots.bands(panels, "lag $T - t$", outside=True)


def walk(steps, updates, seed):
    """One sequence: its states, and how its target walks back, beside the gradient."""
    data = LongDependencies("temporal-order", steps, 10_000, seed=seed)
    torch.manual_seed(seed)
    rule = RecurrentTargetPropRule(recurrent_classifier(6, steps, 40, 4, scale=SCALE))
    trained(rule, data, updates, seed)

    x, y, _ = data.split("valid")
    x, y = x[:1], y[:1]
    reading = Reading(rule.pair, x)
    columns = {
        "letters": reading.inputs[:, 0].T,
        "states $s_t$": reading.after[:, 0].T,
        "targets $d_t$": torch.stack(rule.displacements(reading, y))[:, 0].T,
        "gradients $-dL/ds_t$": gradients(rule, x, y)[:, 0].T,
    }

    drawn = Figure(figsize=(8, 9), layout="constrained")
    axes = drawn.subplots(4, 1, sharex=True, height_ratios=[1.6, 3, 3, 3])
    for ax, (title, values) in zip(axes, columns.items(), strict=True):
        most = values.abs().max().item() or 1.0
        ax.imshow(values, aspect="auto", cmap="RdBu", vmin=-most, vmax=most)
        ax.set_title(title)
        ax.set_ylabel("letter" if title == "letters" else "unit")
    axes[0].set_yticks(range(6), list("abcdXY"))
    axes[-1].set_xlabel("step $t$")

    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--updates", nargs="+", type=int, default=[0, 2000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--walk", type=Path)
    args = parser.parse_args()

    rows = []
    for name in args.rules:
        for updates in args.updates:
            for seed in args.seeds:
                row = measured(name, args.steps, updates, seed)
                rows.append({"rule": name, "updates": updates, "seed": seed, **row})
                picked = [f"{row['cosine'][lag]:.2f}" for lag in (0, 5, 10, 20, args.steps - 1)]
                print(name, updates, seed, f"{row['error']:.3f}", *picked, flush=True)
                if args.json:
                    args.json.write_text(json.dumps(rows) + "\n")

    if args.figure:
        print("written:", plots.save(figure(rows, args.updates), args.figure))
    if args.walk:
        print("written:", plots.save(walk(30, 1500, 0), args.walk))


if __name__ == "__main__":
    main()
