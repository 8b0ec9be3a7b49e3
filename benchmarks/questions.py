"""Small experiments on the open questions of Bengio 2014, section 9: one table each.

    python -m benchmarks.questions 1 9 10 --out docs/results/questions.json

Each variant is a committed configuration with a few options changed, trained for a few epochs,
then scored on validation images under the priors named. Questions 4 and 7 are answered by
`benchmarks/tops.py`, 2 by `benchmarks/depth.py`, others by scripts of their own.
"""

import argparse
import json
from pathlib import Path

from benchmarks.tops import rows
from gendae import MNIST
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.quality import Quality
from gendae.training import fit

MODEL = "--model."
STACK = "--model.stack.init_args."
DEEP, SHALLOW = "configs/mnist-kl-deep.yaml", "configs/mnist-kl-parzen.yaml"
DIRECT = ["parzen-kmeans", "identity"]


def mlp(f, g):
    return [f"{STACK}hidden_f={json.dumps(f)}", f"{STACK}hidden_g={json.dumps(g)}"]


#: question -> variant -> (configuration, options, priors under which it is scored)
QUESTIONS = {
    "1": {
        "targets at each level + back-propagation": (DEEP, [], DIRECT),
        "back-propagation alone": (DEEP, [f"{MODEL}intermediate=false"], DIRECT),
        "plain VAE, no intermediate layer": (SHALLOW, [], DIRECT),
    },
    "9": {
        f"{z} units at the top": (SHALLOW, [f"{STACK}sizes=[784,{z}]"], DIRECT) for z in (10, 30)
    }
    | {
        "10 units, sigma not a function of x": (SHALLOW, [f"{STACK}noise_of_x=false"], DIRECT),
    },
    "10": {
        "neither": (SHALLOW, mlp([], []), DIRECT),
        "encoder": (SHALLOW, mlp([512, 512], []), DIRECT),
        "decoder": (SHALLOW, mlp([], [512, 512]), DIRECT),
        "both": (SHALLOW, mlp([512, 512], [512, 512]), DIRECT),
    },
}


class ValidationOnly(MNIST):
    """Open questions are explored without test images: half of the validation images stand in."""

    def split(self, name):
        if name == "train":
            return super().split(name)

        halves = {"test": slice(5000), "valid": slice(5000, None)}
        return super().split("valid")[halves[name]]


def train(config, options, seed, epochs):
    """The run of `gendae fit` for a committed configuration with a few options changed."""
    return fit.main(
        [
            "fit",
            "--config",
            config,
            "--seed_everything",
            str(seed),
            "--trainer.max_epochs",
            str(epochs),
            "--trainer.check_val_every_n_epoch",
            str(epochs),
            "--trainer.enable_progress_bar",
            "false",
            "--trainer.enable_model_summary",
            "false",
            "--parzen.n",
            "100",
            f"{STACK}prior.init_args.capacity=100",
            *options,
        ]
    )


def trainings(questions, seeds, epochs):
    """Question, variant, seed, run and the priors under which it is scored."""
    for question in questions:
        for variant, (config, options, priors) in QUESTIONS[question].items():
            for seed in seeds:
                yield question, variant, seed, train(config, options, seed, epochs), priors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("questions", nargs="+", choices=list(QUESTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--n", type=int, default=3000, help="samples, and templates of a Parzen top"
    )
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    data = ValidationOnly()
    quality = Quality(data.split("train").x, data.split("test").x, load_feature_classifier())
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    results = []
    for question, variant, seed, run, priors in trainings(args.questions, args.seeds, args.epochs):
        for row in rows(run, priors, data, quality, args.n, seed, "test"):
            results.append({"question": question, "variant": variant, "epochs": args.epochs} | row)
            print(
                f"{question:<3}{variant:<46}{row['prior']:<14} seed {seed}  "
                f"LL {row['ll']:7.1f}  fid {row['fid']:6.2f}  "
                f"precision {row['precision']:.3f}  recall {row['recall']:.3f}",
                flush=True,
            )
            Path(args.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
