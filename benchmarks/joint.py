"""Joint models on MNIST: labels, generation by class, completion of halves, ascent, and what the weights of Eq. 19 do.

    python benchmarks/joint.py label runs/joint-label/* --json docs/results/joint-label.json
    python benchmarks/joint.py errors NAME=FOLDER .. --json docs/results/joint-semi.json
    python benchmarks/joint.py halves MODEL --json docs/results/joint-halves.json --pictures docs
    python benchmarks/joint.py ascent MODEL --json docs/results/joint-ascent.json --pictures docs
    python benchmarks/joint.py hybrid missing=FOLDER inferred=FOLDER gradient=FOLDER joint=FOLDER --pictures docs

A MODEL is anything that gendae.load reads, or a run folder (its best checkpoint). Test images are looked at once for each
model; what has to be chosen (numbers of neighbours, for instance) is chosen on validation images.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import torch
from sklearn.neighbors import KNeighborsRegressor

from gendae import complete, load, plots
from gendae.commands.common import checkpoint_of, data_of
from gendae.commands.predict import error_rate
from gendae.completion.annealing import Annealing
from gendae.completion.completer import Completer
from gendae.completion.modalities import log_conditional
from gendae.data.images import MNIST
from gendae.metrics.features import load_feature_classifier
from gendae.metrics.neighbours import precision_recall_density_coverage
from gendae.models.joint import JointStack
from gendae.priors.autoencoder import AutoencoderPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior


def model_at(path):
    return load(checkpoint_of(path) if Path(path).is_dir() else path)


def parts(stack, split):
    """Values of each modality in a split."""
    return stack.separate(data_of(stack).split(split).x)


# -- image and label -----------------------------------------------------------------------------------------------


def label(paths, n=1000):
    """Error rates by one pass and by chains; agreement of class-conditional samples with a classifier of real digits."""
    network, results = load_feature_classifier(), []
    for path in paths:
        stack = model_at(path)
        row = {"model": str(path), "seed": stack.facts["seed"]}
        for split in ("valid", "test"):
            values = parts(stack, split)
            x, y = values["image"], values["label"].argmax(1)
            row[f"{split}_error"] = error_rate(stack.predict({"image": x}, "label"), y)
        classes = torch.arange(10).repeat_interleave(n // 10)
        row |= by_chains(stack, parts(stack, "test"))
        for name, completer in {
            "prior, no rounds": Completer(0, begin="prior"),
            "prior, 5 rounds": chain(stack, "prior", 5),
            "prior, 50 rounds": chain(stack, "prior"),
            "mask, 50 rounds": chain(stack, "mask"),
        }.items():
            samples = (
                complete(stack, {"label": classes}, completer=completer, seed=0)
                .values["image"]
                .clamp(0, 1)
            )
            p = network(samples).softmax(1)
            features = network.features(samples)
            quality = precision_recall_density_coverage(
                network.features(parts(stack, "test")["image"]), features, 5
            )
            row[name] = {
                "agreement": (p.argmax(1) == classes).float().mean().item(),
                "least": (p.argmax(1) == classes).float().view(10, -1).mean(1).min().item(),
                "spread": samples.view(10, n // 10, -1).std(1).mean().item(),
                "precision": quality.precision,
                "recall": quality.recall,
            }
        results.append(row)
        print(json.dumps(row))
    for key in ("valid_error", "test_error"):
        print(key, spread([row[key] for row in results]))
    return results


def by_chains(stack, values, chains=8):
    """Error rates of labels that are inferred by rounds of encoding and decoding instead of one pass (question 12)."""
    x, y = values["image"], values["label"].argmax(1)
    found = {}
    for name, completer, n in (
        ("MAP", Completer.map(50), 1),
        (f"mean of {chains} chains of 20", Completer.mcmc(20), chains),
    ):
        p = complete(stack, {"image": x}, n=n, completer=completer, seed=0).values["label"]
        found[name] = error_rate(p.view(len(x), n, -1).mean(1), y)
    return {"inferred": found}


def chain(stack, begin, rounds=50):
    return Completer.mcmc(rounds, begin=begin, corruption=stack.settings["completer"].corruption)


def spread(values):
    """mean +- sd in percent."""
    sd = stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean(values):.2f} +- {100 * sd:.2f} % ({len(values)})"


def errors(rows):
    """Test errors of groups of runs."""
    found = {}
    for row in rows:
        name, folder = row.split("=")
        runs = sorted(p for p in Path(folder).iterdir() if (p / "checkpoints/best.ckpt").is_file())
        found[name] = {"valid": [], "test": [], "runs": []}
        for run in runs:
            stack = model_at(run)
            for split in ("valid", "test"):
                values = parts(stack, split)
                p = stack.predict({"image": values["image"]}, "label")
                found[name][split].append(error_rate(p, values["label"].argmax(1)))
            found[name]["runs"].append(
                {
                    "seed": stack.facts["seed"],
                    "label_seed": stack.facts["dataset"]["label_seed"],
                    "command": stack.facts["command"],
                }
            )
        print(
            f"{name}: validation {spread(found[name]['valid'])}, test {spread(found[name]['test'])}",
            flush=True,
        )
    return found


# -- halves --------------------------------------------------------------------------------------------------------


def nearest(train_in, train_out, valid_in, valid_out, test_in):
    """Predictions of k-nearest neighbours, k chosen on validation images."""
    scores = {}
    for k in (1, 3, 5, 8, 12, 16, 24, 32, 48):
        model = KNeighborsRegressor(k, algorithm="brute").fit(train_in, train_out)
        scores[k] = float(
            ((model.predict(valid_in[:2000]) - valid_out[:2000].numpy()) ** 2).mean()
        )
    best = min(scores, key=scores.get)
    model = KNeighborsRegressor(best, algorithm="brute").fit(train_in, train_out)
    return torch.from_numpy(model.predict(test_in)).float(), best


def halves(path, pictures, given="bottom", wanted="top", n=2000, chains=16):
    """Squared error per pixel of one modality given another, spread and precision of samples."""
    stack = model_at(path)
    train, valid, test = (parts(stack, name) for name in ("train", "valid", "test"))
    truth = test[wanted]
    predicted, k = nearest(train[given], train[wanted], valid[given], valid[wanted], test[given])
    methods = {
        "training mean": train[wanted].mean(0).expand_as(truth),
        f"{k} nearest neighbours": predicted,
        "missingness input, one pass": stack.predict({given: test[given]}, wanted),
    }
    completers = {
        "MAP": Completer.map(50),
        "annealed": Completer.annealed(50),
        "MCMC, one sample": Completer.mcmc(50),
    }
    for name, completer in completers.items():
        found = complete(stack, {given: test[given]}, completer=completer, seed=0)
        methods[name] = found.values[wanted]
    samples = complete(
        stack, {given: test[given][:n]}, n=chains, completer=Completer.mcmc(20), seed=0
    ).values[wanted]
    samples = samples.view(n, chains, -1)
    rows = {
        name: {"mse": (value - truth).square().mean().item()} for name, value in methods.items()
    }
    mean_row = f"MCMC, mean of {chains} (first {n})"
    rows[mean_row] = {"mse": (samples.mean(1) - truth[:n]).square().mean().item()}
    rows["neighbours, the same images"] = {
        "mse": (predicted[:n] - truth[:n]).square().mean().item()
    }
    rows["missingness, the same images"] = {
        "mse": (methods["missingness input, one pass"][:n] - truth[:n]).square().mean().item()
    }
    result = {
        "given": given,
        "wanted": wanted,
        "rows": rows,
        "spread": samples.std(1).mean().item(),
    }
    if {given, wanted} == {"top", "bottom"}:
        result |= on_manifold(stack, test, methods, samples, given, wanted)
    if pictures:
        draw(
            stack,
            test,
            methods,
            samples,
            given,
            wanted,
            Path(pictures) / f"{wanted}-given-{given}.png",
        )
    print(json.dumps(result, indent=1))
    return result


def whole(stack, values):
    """Top and bottom half as an image."""
    return torch.cat([values["top"], values["bottom"]], 1).clamp(0, 1)


def on_manifold(stack, test, methods, samples, given, wanted):
    """Precision and class agreement of images put together from a given half and a completed one."""
    network = load_feature_classifier()
    real = network.features(whole(stack, test))
    y = MNIST().split("test").y
    n = len(samples)
    candidates = {
        "real images": test[wanted][:n],
        "MCMC, one sample": samples[:, 0],
        "MCMC, mean": samples.mean(1),
        "one pass": methods["missingness input, one pass"][:n],
        "MAP": methods["MAP"][:n],
    }
    found = {}
    for name, value in candidates.items():
        images = whole(stack, {given: test[given][:n], wanted: value})
        quality = precision_recall_density_coverage(real, network.features(images), 5)
        found[name] = {
            "precision": quality.precision,
            "recall": quality.recall,
            "class kept": (network(images).argmax(1) == y[:n]).float().mean().item(),
        }
    return {"manifold": found}


def draw(stack, test, methods, samples, given, wanted, out, rows=10):
    """Given, true, one pass, MAP and five samples, one row for an example; halves are put together."""

    def image(value):
        if {given, wanted} == {"top", "bottom"}:
            return whole(stack, {given: test[given][:rows], wanted: value})
        return value.clamp(0, 1)

    blank = torch.full_like(test[wanted][:rows], 0.5)
    columns = [
        image(blank) if {given, wanted} == {"top", "bottom"} else test[given][:rows],
        image(test[wanted][:rows]),
        *(image(methods[name][:rows]) for name in ("missingness input, one pass", "MAP")),
        *(image(samples[:rows, i]) for i in range(5)),
    ]
    grid = torch.stack(columns, 1).flatten(0, 1)
    print("written:", plots.save(plots.image_grid(grid, (28, 28), len(columns)), out))


# -- ascent ----------------------------------------------------------------------------------------------------------


def ascent(path, pictures, given="bottom", n=500, rounds=100):
    """log p(h_missing | h_observed) along MAP and annealed runs, for tops with a density over the joint codes."""
    stack = model_at(path)
    codes = {
        name: torch.cat([stack.lower(x)[-1] for x in data_of(stack).split(name).x.split(1000)])
        for name in ("train", "test")
    }
    observed = stack.spread(torch.tensor([[name == given for name in stack.names]]), stack.level)[
        0
    ]
    h, result = codes["test"][:n], {}
    tops = {
        "Gaussian": GaussianPrior("full", 1.0),
        "Parzen": ParzenPrior(choice="kmeans", capacity=5000),
        "auto-encoder": AutoencoderPrior([500], code=100, epochs=10),
    }
    curves = {}
    for name, prior in tops.items():
        joint = JointStack(stack.modalities, [], prior)
        joint.prior.fit(codes["train"])
        start = prior.sample(n, torch.Generator().manual_seed(0))
        start = torch.where(observed, h, start)
        for kind, completer in {
            "MAP": Fixed(rounds, start),
            "annealed": Fixed(rounds, start, 1.0, 0.25),
        }.items():
            states = list(
                completer.trajectory(joint, h, observed, None, torch.Generator().manual_seed(1))
            )
            if prior.has_density:
                values = torch.stack([log_conditional(prior, state, observed) for state in states])
                unit = "log p(h_missing | h_observed)  [nats]"
            else:
                values = torch.stack(
                    [
                        (prior.reconstruct(s) - s)[:, ~observed].square().sum(1).sqrt()
                        for s in states
                    ]
                )
                unit = "|r(h) - h| of the missing half"
            average = values.mean(1)
            result[f"{name}, {kind}"] = {
                "measure": unit,
                "start": average[0].item(),
                "end": average[-1].item(),
                "rises at every step": bool((average.diff() >= 0).all()),
                "least change": average.diff().min().item(),
                "largest change": average.diff().max().item(),
                "rounds": len(states) - 1,
            }
            curves.setdefault((name, unit), {})[kind] = values
            print(name, kind, result[f"{name}, {kind}"], flush=True)
        if prior.has_density:
            ends = [curves[name, unit][kind][-1] for kind in ("MAP", "annealed")]
            result[f"{name}, annealed ends higher"] = (ends[1] > ends[0]).float().mean().item()
    if pictures:
        figure = plots.bands(
            {
                key: {kind: values.double() for kind, values in found.items()}
                for key, found in curves.items()
            },
            "round",
        )
        print("written:", plots.save(figure, Path(pictures) / "ascent.png"))
    return result


class Fixed(Completer):
    """A completer that starts where it is told."""

    def __init__(self, rounds, begin_at, start=0.0, settle=0.0):
        annealing = Annealing(start, 0.0, settle)
        super().__init__(rounds, annealing, tolerance=0.0, begin="prior")
        self.begin_at = begin_at

    def first(self, *_):
        return self.begin_at


# -- hybrid targets ----------------------------------------------------------------------------------------------------


def hybrid(rows, pictures):
    """Test error against joint_weight (Eq. 19)."""
    found = {}
    for row in rows:
        name, folder = row.split("=")
        points = {}
        for run in sorted(Path(folder).iterdir()):
            stack = model_at(run)
            weight = float(stack.facts["command"].split("--model.joint_weight ")[1].split()[0])
            values = parts(stack, "test")
            points.setdefault(weight, []).append(
                error_rate(
                    stack.predict({"image": values["image"]}, "label"), values["label"].argmax(1)
                )
            )
        found[name] = dict(sorted(points.items()))
        print(name, {w: spread(e) for w, e in found[name].items()}, flush=True)
    shared = found.pop("joint", {})  # runs at joint_weight 1, where all ways are the same
    found = {name: points | shared for name, points in found.items()}
    if pictures:
        figure = plots.against(
            {
                name: (list(p), [[100 * e for e in es] for es in p.values()])
                for name, p in found.items()
            },
            "joint_weight",
            "test error  [%]",
        )
        print("written:", plots.save(figure, Path(pictures) / "hybrid.png"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["label", "errors", "halves", "ascent", "hybrid"])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--given", default="bottom")
    parser.add_argument("--wanted", default="top")
    parser.add_argument("--pictures", help="folder for figures")
    parser.add_argument("--json")
    args = parser.parse_args()
    calls = {
        "label": lambda: label(args.models),
        "errors": lambda: errors(args.models),
        "halves": lambda: halves(args.models[0], args.pictures, args.given, args.wanted),
        "ascent": lambda: ascent(args.models[0], args.pictures, args.given),
        "hybrid": lambda: hybrid(args.models, args.pictures),
    }
    result = calls[args.what]()
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
