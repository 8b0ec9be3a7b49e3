"""Question 8: ambiguous posteriors. Halves of digits with a latent input of the junction.

    python -m benchmarks.question_8 mnist --values 0 10 30 50 --out docs/results/question-8.json
    python -m benchmarks.question_8 digits --values 0 10 --out docs/results/question-8-digits.json

The committed configuration of two halves, with a one-hot variable phi of so many values beside
them that no data hold (kind: latent); 0 is the configuration itself. Options that are not known
here go to `gendae fit`, such as --trainer.callbacks=gendae.Graphs. Of the first 500 test images,
the upper half is asked for, given the lower one:

one pass               the missingness input for phi and for the upper half
best of k              the least squared error among k answers: one for each value of phi, k draws
                       of the model's own chain, the upper halves of the k nearest neighbours
phi drawn              draws of P(phi | lower half), and one pass given each: error, spread, CRPS
                       and coverage as in `benchmarks.calibration`; so for chains
information            of phi about the image: H(E P(phi | lower)) - E H(P(phi | lower)), in nats
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.calibration import by_chain, measured, table
from benchmarks.joint import model_at, sampling
from gendae import MNIST, Digits, Multimodal
from gendae.training import fit

SOURCES = {"mnist": MNIST, "digits": Digits}
CONFIGS = {
    "mnist": ("configs/mnist-joint-halves.yaml", 392, 64, 400),
    "digits": ("configs/digits-joint-halves.yaml", 32, 20, 60),
}
GIVEN, WANTED = "bottom", "top"
#: How often the junction does not see phi: enough to learn to predict it.
HIDDEN = 0.3
#: Draws of each image where spread and coverage are measured.
SAMPLES = 50


def options(data, values):
    """Those that add phi to the configuration."""
    _, width, code, hidden = CONFIGS[data]
    half = {"sizes": [width, code], "activations": ["linear"], "observation": "bernoulli"}
    half["hidden_g"] = [hidden]
    modalities = {"top": half, "bottom": half, "phi": {"sizes": [values], "kind": "latent"}}
    chances = {"top": 0.5, "bottom": 0.5, "phi": HIDDEN}

    return [
        f"--model.stack.init_args.modalities={json.dumps(modalities)}",
        f"--model.hiding.chances={json.dumps(chances)}",
    ]


def train(data, values, args, more, seed):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    given = ["--config", CONFIGS[data][0], "--seed_everything", str(seed), *more]
    if args.epochs is not None:
        given.append(f"--trainer.max_epochs={args.epochs}")
        given.append(f"--trainer.check_val_every_n_epoch={args.epochs}")
    if args.batches is not None:
        given.append(f"--trainer.limit_train_batches={args.batches}")
    if values:
        given += options(data, values)

    return model_at(fit.main(["fit", *given, *quiet]))


def answers(stack, given):
    """P(phi | given), (n, k), and the wanted half for each value of phi, (n, k, width)."""
    p = stack.predict({GIVEN: given}, "phi")
    each = []
    for k in range(p.shape[1]):
        phi = torch.full((len(given),), k)
        each.append(stack.predict({GIVEN: given, "phi": phi}, WANTED))

    return p, torch.stack(each, 1)


def best(samples, truth):
    """Mean over images of the least squared error per pixel."""
    squares = (samples - truth[:, None]).square().mean(2)
    return squares.min(1).values.mean().item()


def entropy(p):
    return -(p * p.clamp_min(1e-30).log()).sum(-1)


def of_latent(stack, given, truth, varies):
    """What phi gives."""
    p, each = answers(stack, given)
    generator = torch.Generator().manual_seed(0)
    index = torch.multinomial(p, SAMPLES, replacement=True, generator=generator)

    def draw(rows):
        wanted = index[rows][..., None].expand(-1, -1, each.shape[2])
        return each[rows].gather(1, wanted)

    return {
        "best of its values": best(each, truth),
        "information": (entropy(p.mean(0)) - entropy(p).mean()).item(),
        "phi drawn": measured(draw, truth, varies),
    }


def of_others(stack, train_parts, given, truth, varies, k):
    """One pass, chains, and nearest neighbours."""
    completer = sampling(stack)
    chain = by_chain(stack, given, GIVEN, WANTED, SAMPLES, completer)
    few = by_chain(stack, given, GIVEN, WANTED, k, completer)
    near = torch.cdist(given, train_parts[GIVEN]).topk(k, largest=False).indices
    one_pass = stack.predict({GIVEN: given}, WANTED)

    return {
        "one pass": (one_pass - truth).square().mean().item(),
        "best of chains": best(few(torch.arange(len(given))), truth),
        "best of neighbours": best(train_parts[WANTED][near], truth),
        "chain": measured(chain, truth, varies),
    }


def halves(data, split):
    """The halves by name; those of a model hold phi too, which no data do."""
    multimodal = Multimodal(SOURCES[data](), [WANTED, GIVEN])
    widths = list(multimodal.modalities.values())
    return dict(zip((WANTED, GIVEN), multimodal.split(split).x.split(widths, 1), strict=True))


def scores(stack, data, values, images):
    train_parts = halves(data, "train")
    test = halves(data, "test")
    given = test[GIVEN][:images]
    truth = test[WANTED][:images]
    varies = train_parts[WANTED].std(0) > 0.1

    row = of_others(stack, train_parts, given, truth, varies, values or 10)
    if values:
        row |= of_latent(stack, given, truth, varies)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=list(CONFIGS))
    parser.add_argument("--values", nargs="+", type=int, default=[0, 10, 30, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--epochs", type=int, help="those of the configuration if not given")
    parser.add_argument("--batches", type=int, help="of an epoch; all if not given")
    parser.add_argument("--out", required=True, type=Path)
    args, more = parser.parse_known_args()

    rows = []
    for seed in args.seeds:
        for values in args.values:
            stack = train(args.data, values, args, more, seed)
            row = {"data": args.data, "values": values, "seed": seed}
            row |= {"command": stack.facts["command"]} | scores(
                stack, args.data, values, args.images
            )
            rows.append(row)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")

            numbers = {key: round(v, 4) for key, v in row.items() if isinstance(v, float)}
            print(values, seed, numbers)
            drawn = {key: row[key] for key in ("chain", "phi drawn") if key in row}
            print(table(drawn), flush=True)


if __name__ == "__main__":
    main()
