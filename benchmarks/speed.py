"""Time per epoch of the paper's network against its own matrix products, and of the Parzen score.

    python benchmarks/speed.py [--steps 100] [--device cpu]

The matrix products are those of one update (inference, losses, gradients), on the same tensors' shapes, with
nothing between them, timed in this same run.
"""

import argparse
import logging
import resource
import time
import warnings

import torch
from pytorch_lightning import Trainer

from gendae import MNIST, VariationalEMRule, deep_autoencoder
from gendae.metrics import parzen_log_prob

SIZES, BATCH, INFERENCE_STEPS = (784, 1000, 100), 100, 15


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def products(device):
    """All matrix products of one update, as closures."""
    (x, a, b), n = SIZES, BATCH
    up1, down1 = torch.randn(a, x, device=device), torch.randn(x, a, device=device)
    up2, down2 = torch.randn(b, a, device=device), torch.randn(a, b, device=device)
    h0, h1, h2 = (torch.randn(n, s, device=device) for s in SIZES)
    bias = {s: torch.zeros(s, device=device) for s in SIZES}
    linear = torch.nn.functional.linear

    def inference_step():
        linear(h1, down1, bias[x])
        linear(h0, up1, bias[a])
        linear(h1, up2, bias[b])
        linear(h1, up2, bias[b])
        linear(h2, down2, bias[a])

    def rest():
        for _ in range(2):  # feed-forward start (f_1, f_2, g_2), then the losses' forward pass
            linear(h0, up1, bias[a])
            linear(h1, up2, bias[b])
            linear(h2, down2, bias[a])
        linear(h1, down1, bias[x])
        for low, high in ((h0, h1), (h1, h2)):  # gradients of the four weight matrices
            torch.mm(high.T, low)
            torch.mm(low.T, high)

    def update():
        for _ in range(INFERENCE_STEPS):
            inference_step()
        rest()

    return update


def seconds_of(call, repeats, device):
    for _ in range(3):
        call()
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data, device = MNIST(), args.device
    data.setup()
    with torch.no_grad():
        alone = seconds_of(products(device), args.steps, device)
    rule = VariationalEMRule(deep_autoencoder(SIZES), warmup=0)
    trainer = Trainer(max_epochs=1, limit_train_batches=3 * args.steps, logger=False, devices=1,
                      enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
                      enable_model_summary=False, accelerator=device if device == "cpu" else "gpu")
    marks = []

    class Clock(__import__("pytorch_lightning").Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if index + 1 in (args.steps, 3 * args.steps):
                wait(device)
                marks.append(time.perf_counter())

    trainer.callbacks.append(Clock())
    trainer.fit(rule, data)
    step = (marks[1] - marks[0]) / (2 * args.steps)
    with torch.no_grad():
        alone = min(alone, seconds_of(products(device), args.steps, device))
    print(f"update {1e3 * step:.2f} ms, its matrix products alone {1e3 * alone:.2f} ms, "
          f"ratio {step / alone:.2f}; epoch of 500 updates {500 * step:.1f} s")

    samples, x = (data.split(n).x[:10_000].to(device) for n in ("train", "test"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wait(device)
    start = time.perf_counter()
    ll = parzen_log_prob(x, samples, 0.2).mean().item()
    took = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"Parzen 10k x 10k x 784, one sigma: {took:.2f} s, peak memory +{grown:.0f} MiB, LL {ll:.2f}")


if __name__ == "__main__":
    main()
