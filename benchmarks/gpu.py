"""On a GPU: the 2015 model's training, the Parzen score, and batch size, time and utilisation.

    python -m benchmarks.gpu [--device cuda] [--epochs 20] [--json FILE]

Runs alone: no arguments, no other process. It takes MNIST where its files are, and random images
of MNIST's size elsewhere (times are the same). `--device cpu --epochs 1 --updates 5` tries the
same code without a GPU.

Utilisation is the rate of the update's own matrix products over the rate of one large product in
the same precision.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer

from benchmarks.floor import MatrixProducts, wait
from gendae import MNIST, VariationalEMRule, deep_autoencoder, generate, parzen_log_prob
from gendae.data.base import Data
from gendae.data.loader import Split
from gendae.rules.moment import Moment
from gendae.training.graphs import Graphs, StaticUpdate

SIZES = (784, 1000, 100)

#: device -> images scored, repeats of the score, side of the large product, repeats of an update
WORK = {"cuda": (10_000, 5, 8192, 50), "cpu": (1000, 1, 1024, 3)}


class Random(Data):
    """As many images as MNIST has, of its size."""

    def read(self):
        generator = torch.Generator().manual_seed(0)
        counts = {"train": 50_000, "valid": 10_000, "test": 10_000}
        splits = {
            name: Split(torch.rand(n, SIZES[0], generator=generator)) for name, n in counts.items()
        }
        return splits, (28, 28)


def timed(call, repeats, device):
    call()
    wait(device)

    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def training(data, device, epochs, callbacks, updates):
    """Seconds of a fit without validation; the first epoch records and compiles: it is apart."""
    marks = [time.perf_counter()]

    class Clock(Callback):
        def on_train_epoch_end(self, trainer, module):
            wait(device)
            marks.append(time.perf_counter())

    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        limit_train_batches=updates or None,
        devices=1,
        accelerator="gpu" if device == "cuda" else "cpu",
        callbacks=[*callbacks, Clock()],
    )
    trainer.fit(VariationalEMRule(deep_autoencoder(SIZES)), data)

    return {"first_epoch": marks[1] - marks[0], "all_epochs": marks[-1] - marks[0]}


def peak_rate(device, n):
    a, b = (torch.rand(n, n, device=device) for _ in range(2))
    return 2 * n**3 / timed(lambda: a @ b, 5, device)


def batches(device, sizes, repeats, peak):
    """Milliseconds of an update by batch size: plain, and as a static function."""
    rows = []
    for n in sizes:
        row = batch_row(device, n, repeats, peak)
        rows.append(row)
        print(
            "batch {batch:5}: plain {plain_ms:.2f} ms, static {static_ms:.2f} ms, "
            "{images_per_second:.0f} images/s, utilisation {utilisation:.1%}".format(**row),
            flush=True,
        )

    return rows


def batch_row(device, n, repeats, peak):
    rule = VariationalEMRule(deep_autoencoder(SIZES)).to(device)
    moment = Moment(generator=torch.Generator(device).manual_seed(0))
    rule.manual_backward = lambda loss: loss.backward()
    x = torch.rand(n, SIZES[0], device=device)
    optimizer = rule.configure_optimizers()
    static = StaticUpdate(rule)

    with MatrixProducts() as products:
        rule.gradients((x,), moment)

    row = {"batch": n}
    for name, update in (("plain", rule.gradients), ("static", static)):

        def step(update=update):
            update((x,), moment)
            optimizer.step()

        row[f"{name}_ms"] = 1e3 * timed(step, repeats, device)

    row["images_per_second"] = 1e3 * n / row["static_ms"]
    row["utilisation"] = products.flops / (row["static_ms"] / 1e3) / peak
    return row


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--updates", type=int, default=0, help="per epoch; 0: all")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[100, 200, 500, 1000, 2000, 5000]
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def trainings(data, args):
    """Seconds of a training in each form of the update."""
    forms = {"plain": [], "static": [Graphs()]}
    if args.device == "cuda":
        forms["compiled"] = [Graphs(compile=True)]

    seconds = {}
    for name, callbacks in forms.items():
        seconds[name] = training(data, args.device, args.epochs, callbacks, args.updates)
        print(
            f"{args.epochs} epochs, {name}: {seconds[name]['all_epochs']:.2f} s, the first "
            f"{seconds[name]['first_epoch']:.2f} s",
            flush=True,
        )

    return seconds


def scores(data, device, n, repeats):
    """Milliseconds of the Parzen score and of GENERATE, with n images."""
    samples, x = (data.split(part).x[:n].to(device) for part in ("train", "test"))
    parzen_ms = 1e3 * timed(lambda: parzen_log_prob(x, samples, 0.2), repeats, device)
    print(f"Parzen {n} x {n} x {SIZES[0]}: {parzen_ms:.1f} ms", flush=True)

    stack = deep_autoencoder(SIZES).to(device)
    stack.prior.fit(stack.encode(x)[-1].detach())
    generate_ms = 1e3 * timed(lambda: generate(stack, n, seed=0), 1, device)
    print(f"GENERATE {n}: {generate_ms:.0f} ms", flush=True)

    return {"parzen_ms": parzen_ms, "generate_ms": generate_ms}


def main():
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_float32_matmul_precision("high")  # as `gendae fit` does where there is a GPU

    images, score_repeats, side, update_repeats = WORK[args.device]
    data = MNIST(download=False)
    if not data.files():
        data = Random()

    report = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "data": type(data).__name__,
    }
    print(report, flush=True)

    report |= trainings(data, args)
    report |= scores(data, args.device, images, score_repeats)

    peak = peak_rate(args.device, side)
    print(f"one large product: {peak / 1e12:.2f} TFLOP/s", flush=True)
    report["peak_tflops"] = peak / 1e12
    report["batches"] = batches(args.device, args.batches, update_repeats, peak)

    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
