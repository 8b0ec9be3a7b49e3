"""Question 1, supervised half: do the targets of Algorithm 5 help a label's prediction?

    python -m benchmarks.question_1 digits --out docs/results/question-1-labels-digits.json
    python -m benchmarks.question_1 mnist --out docs/results/question-1-labels-mnist.json

Committed configurations of image and label, trained as they are and with a few options changed,
three seeds each; the error of the label in one pass from the image. Options that are not known
here go to `gendae fit`, such as --trainer.callbacks=gendae.Graphs. In "targets only" the decoder
of the image learns from codes that its error does not reach (`short` in the place of `pair`), so
that the image's encoder has nothing but its target. "frozen" is what any of these must beat.
"""

import argparse
import json
from pathlib import Path

from benchmarks.joint import label_error, model_at, spread
from gendae.training import fit

#: Data -> (configuration, its weight of pairs).
CONFIGS = {
    "digits": ("configs/digits-joint-label.yaml", 0.1),
    "mnist": ("configs/mnist-joint-label.yaml", 0.02),
}


def variants(pair):
    """Options of each variant, by name."""
    return {
        "targets + pairs": [],
        "targets only": ["--model.weights.pair=0", f"--model.weights.short={pair}"],
        "pairs only": ["--model.weights.target=0"],
        "back-propagation": ["--model.reach=full", "--model.weights.target=0"],
        "frozen encoder of the image": ["--model.rates.f=[0,0.001]"],
    }


def train(config, options, seed):
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    given = ["--config", config, "--seed_everything", str(seed)]
    return fit.main(["fit", *given, *quiet, *options])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=list(CONFIGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(variants(0)), choices=variants(0))
    parser.add_argument("--epochs", type=int, help="those of the configuration if not given")
    parser.add_argument("--out", required=True, type=Path)
    args, of_all = parser.parse_known_args()

    config, pair = CONFIGS[args.data]
    if args.epochs is not None:
        of_all.append(f"--trainer.max_epochs={args.epochs}")
        of_all.append(f"--trainer.check_val_every_n_epoch={args.epochs}")

    rows = []
    for name in args.variants:
        errors = {"valid": [], "test": []}
        for seed in args.seeds:
            run = train(config, [*of_all, *variants(pair)[name]], seed)
            stack = model_at(run)
            row = {"variant": name, "seed": seed, "command": stack.facts["command"]}
            for split, values in errors.items():
                values.append(label_error(stack, split))
                row[f"{split}_error"] = values[-1]

            rows.append(row)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")

        both = ", ".join(f"{split} {spread(values)}" for split, values in errors.items())
        print(f"{name}: {both}", flush=True)


if __name__ == "__main__":
    main()
