"""Labels by inference: all labels with their controls, few labels, and samples of a class.

    python -m benchmarks.labels all [--data digits mnist] [--rules nudged em ..] [--json FILE]
    python -m benchmarks.labels samples --models FILE.safetensors .. [--json FILE]
    python -m benchmarks.labels few [--labels 100 600] [--draws 0 1] [--rounds 2] [--json FILE]

All rules train the same network on the same batches: "nudged" (NudgedEMRule), "em"
(LabelledEMRule), "read-out" (LabelledEMRule with label_weight 0: o alone learns from labels),
"frozen" (random encoders), and "back-propagation" of the cross-entropy. Of nudged models 1,000
samples, 100 of each class, are classified by the shipped feature classifier.

Few labels spread over the codes of `mnist-targetprop-parzen`, which saw none, to the more certain
training images (SpreadLabels); then NudgedEMRule learns from those; in later rounds labels spread
over the codes of the round before. "nudged" has the few labels alone, "back-propagation" too, with
the labelled images only. Settings were chosen on validation images; each model is tested once,
after its last epoch.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything

import gendae
from gendae import (
    MNIST,
    Affine,
    BackpropRule,
    Classifier,
    Digits,
    FewLabels,
    GaussianNoise,
    LabelledEMRule,
    LabelledSampler,
    NudgedEMRule,
    PartlyLabelled,
    ParzenPrior,
    Rates,
    SpreadLabels,
    TargetPropInference,
    deep_autoencoder,
    generate,
    load_feature_classifier,
    with_labels,
)

#: Data, widths, epochs, and the rate of all maps.
TASKS = {
    "digits": (lambda: Digits(20), (64, 200, 50), 45, 3e-3),
    "mnist": (lambda: MNIST(batch_size=100), (784, 800, 300), 20, 2e-3),
}
#: The model without labels whose codes labels spread over at first.
CODES = ["mnist-targetprop-parzen"]
NOISE = {"nudged": (0.2, 0.2, 0.2), "em": (0.1, 0.05, 0.05)}


def noise(of):
    return [GaussianNoise(sigma, decay=0.6) for sigma in NOISE[of]]


def rates(rate):
    return Rates(f=rate, g=rate, hold=0.3)


def nudged(stack, rate):
    inference = TargetPropInference(5, 0.02, 0.3, label_weight=30.0, difference=True)
    return NudgedEMRule(stack, inference, noise("nudged"), rates=rates(rate))


def em(stack, rate, weight=3.0):
    inference = TargetPropInference(15, 0.1, 0.001, label_weight=weight)
    return LabelledEMRule(stack, inference, noise("em"), rates=rates(rate))


def back_propagation(stack, rate, fixed=0):
    output = Affine(stack.sizes[-1], stack.classes)
    network = Classifier(*stack.pairs, output=output)
    return BackpropRule(network, fixed, input_corruption=noise("nudged")[0], rates=rates(rate))


RULES = {
    "nudged": nudged,
    "em": em,
    "read-out": lambda stack, rate: em(stack, rate, 0.0),
    "frozen": lambda stack, rate: back_propagation(stack, rate, fixed=stack.depth),
    "back-propagation": back_propagation,
}


def trained(rule, data, task, seed, args):
    """The rule after its last epoch, and its errors on validation and test images."""
    _, sizes, epochs, rate = TASKS[task]
    epochs = args.epochs or epochs
    seed_everything(seed, verbose=False)
    prior = ParzenPrior(noise_scale=0.5)
    stack = with_labels(deep_autoencoder(list(sizes), ["tanh"] * (len(sizes) - 1), prior=prior))
    module = RULES[rule](stack, rate)
    start = time.perf_counter()
    trainer = Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=args.batches,
        accelerator=args.accelerator,
        devices=1,
    )
    trainer.fit(module, data)
    seconds = time.perf_counter() - start
    validated = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    (tested,) = trainer.test(module, data, verbose=False)

    row = {"rule": rule, "seed": seed, "epochs": epochs, "seconds": seconds}
    for name, metrics in (("val", validated), ("test", tested)):
        for key in ("error", "error_inferred", "loss"):
            if f"{name}/{key}" in metrics:
                row[f"{name}_{key}"] = metrics[f"{name}/{key}"]
    return module, row


def agreement(stack, n=100):
    """Share of n samples of each class that the feature classifier puts in it: mean and least."""
    network = load_feature_classifier()
    shares = []
    for label in range(stack.classes):
        x = generate(stack, n, LabelledSampler(label), seed=label)
        shares.append((network(x).argmax(1) == label).float().mean().item())

    return {"agreement": sum(shares) / len(shares), "least": min(shares)}


def all_labels(args):
    for task in args.data:
        for rule in args.rules:
            for seed in args.seeds:
                module, row = trained(rule, TASKS[task][0](), task, seed, args)
                yield {"task": task} | row
                if rule == "nudged" and args.json:
                    name = f"{args.json.stem}-{task}-{seed}.safetensors"
                    gendae.save(module.stack.cpu(), args.json.with_name(name))


def samples(args):
    """Of saved models: what `all` leaves beside its JSON."""
    for model in args.models:
        yield {"model": model} | agreement(gendae.load(model))


def few_labels(args):
    for count in args.labels:
        for draw in args.draws:
            for rule, data, facts, folder in few_data(args, count, draw):
                module, row = trained(rule, data, "mnist", draw, args)
                if folder is not None:
                    gendae.save(module.stack.cpu(), folder / "codes.safetensors")
                yield {"labels": count, "draw": draw} | facts | row


def few_data(args, count, draw):
    """Each way to learn from few labels: rule, data, facts, and where its codes are needed."""
    source = MNIST(batch_size=100)
    if "alone" in args.ways:
        only = PartlyLabelled(source, FewLabels(count, seed=draw, only=True))
        yield "back-propagation", only, {"way": "labels alone"}, None
        some = PartlyLabelled(source, FewLabels(count, 0.5, draw))
        yield "nudged", some, {"way": "nudged"}, None

    few = PartlyLabelled(source, FewLabels(count, seed=draw))
    if "pixels" in args.ways:
        data = SpreadLabels(few, args.codes[:1], level=0, share=args.share)
        yield "nudged", data, {"way": "spread over pixels"} | spread_error(data), None

    with tempfile.TemporaryDirectory() as folder:
        models = args.codes
        for number in range(args.rounds):
            data = SpreadLabels(few, models, share=args.share)
            facts = {"way": f"spread, round {number + 1}"} | spread_error(data)
            yield "nudged", data, facts, Path(folder)
            models = [*args.codes, str(Path(folder) / "codes.safetensors")]


def spread_error(data):
    """Share of the labels that were spread which are wrong."""
    truth = data.source.source.split("train").y
    y = data.split("train").y
    some = y >= 0

    return {"wrong_of_spread": (y != truth)[some].float().mean().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["all", "few", "samples"])
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--data", nargs="+", default=["mnist"], choices=list(TASKS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--labels", nargs="+", type=int, default=[100])
    parser.add_argument("--draws", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="*", default=[], choices=["alone", "pixels"])
    parser.add_argument("--codes", nargs="+", default=CODES)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batches", type=int, help="of an epoch, for a quick look")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    runs = {"all": all_labels, "few": few_labels, "samples": samples}[args.what]
    for row in runs(args):
        rows.append(row)
        print(row, flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
