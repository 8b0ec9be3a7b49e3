"""Labels by inference: all labels with their controls, few labels, and samples of a class.

    python -m benchmarks.labels all [--data digits mnist] [--rules nudged em ..] [--json FILE]
    python -m benchmarks.labels samples --models FILE.safetensors .. [--json FILE]
    python -m benchmarks.labels few [--labels 100 600] [--draws 0 1] [--json FILE]

All rules train the same network on the same batches: "nudged" (NudgedEMRule), "em"
(LabelledEMRule), "read-out" (LabelledEMRule with label_weight 0: o alone learns from labels),
"frozen" (random encoders), and "back-propagation" of the cross-entropy. Of nudged models 1,000
samples, 100 of each class, are classified by the shipped feature classifier.

Few labels are learned by "alone" (NudgedEMRule on all images, and back-propagation on the labelled
ones only), and by NudgedEMRule once they have spread (SpreadLabels) over all training images along
their pixels or the codes of `mnist-targetprop-parzen`, which saw none; "neighbours" are the five
nearest of a code, with the labels that spread. Settings were chosen on
validation images; each model is tested once, after its last epoch.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

from pytorch_lightning import Trainer, seed_everything
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

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
WAYS = ("alone", "pixels", "codes", "neighbours")
#: The model without labels whose codes labels spread over.
CODES = "mnist-targetprop-parzen"
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
            for rule, data, facts in few_data(args, count, draw):
                _, row = trained(rule, data, "mnist", draw, args)
                yield {"labels": count, "draw": draw} | facts | row

            if "neighbours" in args.ways:
                few = PartlyLabelled(MNIST(), FewLabels(count, seed=draw))
                data = SpreadLabels(few, args.codes)
                row = {"labels": count, "draw": draw, "way": "neighbours"}
                yield row | spread_error(data) | neighbours_error(data)


def few_data(args, count, draw):
    """Each way to learn from few labels: rule, data and facts."""
    source = MNIST(batch_size=100)
    if "alone" in args.ways:
        only = PartlyLabelled(source, FewLabels(count, seed=draw, only=True))
        yield "back-propagation", only, {"way": "labels alone"}
        some = PartlyLabelled(source, FewLabels(count, 0.5, draw))
        yield "nudged", some, {"way": "nudged"}

    few = PartlyLabelled(source, FewLabels(count, seed=draw))
    for way, level in (("pixels", 0), ("codes", None)):
        if way in args.ways:
            data = SpreadLabels(few, args.codes, level, share=args.share)
            yield "nudged", data, {"way": f"spread over {way}"} | spread_error(data)


def spread_error(data):
    """Share of the labels that were spread which are wrong."""
    truth = data.source.source.split("train").y
    y = data.split("train").y
    some = y >= 0

    return {"wrong_of_spread": (y != truth)[some].float().mean().item()}


def neighbours_error(data, k=5):
    """Validation and test errors of k nearest neighbours in the codes, by the spread labels."""
    stack = gendae.load(data.codes_of)
    x, y, _ = data.split("train")
    train = stack.encode(x)[-1].detach()
    votes = KNeighborsClassifier(k).fit(normalize(train - train.mean(0)), y)

    errors = {}
    for name, split in (("val", data.split("valid")), ("test", data.split("test"))):
        codes = normalize(stack.encode(split.x)[-1].detach() - train.mean(0))
        errors[f"{name}_error"] = 1.0 - votes.score(codes, split.y)
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["all", "few", "samples"])
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--data", nargs="+", default=["mnist"], choices=list(TASKS))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--labels", nargs="+", type=int, default=[100])
    parser.add_argument("--draws", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--codes", default=CODES)
    parser.add_argument("--share", type=float, default=1.0)
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
