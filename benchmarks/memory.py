"""Memory of a training step of each rule: the peak of live tensors against what it must keep.

    python -m benchmarks.memory [--rules VariationalEMRule KLRule ..] [--batch 100 500]
                                [--json FILE]

A step must keep parameters, gradients, the optimizer's state and the activations that autograd
saves for its backward pass (their peak, each piece of memory counted once). Rules without autograd
save none, and their activations count as surplus. The peak is that of torch's own allocations.
"""

import argparse
import json
import weakref
from itertools import product
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import RULES, step_of

MIB = 2**20


class Saved:
    """Bytes that autograd keeps, and their peak, within `torch.autograd.graph` hooks.

    Args:
        passed_over: addresses of memory that is kept anyway, that of parameters.
    """

    def __init__(self, passed_over):
        self.passed_over = passed_over
        self.users = {}
        self.bytes = 0
        self.peak = 0

    def pack(self, tensor):
        held = Held(tensor)
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self.passed_over:
            return held

        if place not in self.users:
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
        self.users[place] = self.users.get(place, 0) + 1
        weakref.finalize(held, self.free, place, storage.nbytes())
        return held

    def free(self, place, size):
        self.users[place] -= 1
        if self.users[place] == 0:
            self.bytes -= size
            del self.users[place]


class Held:
    def __init__(self, tensor):
        self.tensor = tensor


def saved_bytes(step, parameters):
    saved = Saved({p.untyped_storage().data_ptr() for p in parameters})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        step()

    return saved.peak


def transient_bytes(step):
    """The most by which live memory grows during a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()

    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = torch.tensor([size for _, size in changes]).cumsum(0)
    return max(0, int(live.max()))


def size_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t))


def measured(name, rows):
    rule, step, optimizer = step_of(name, rows=rows)
    for _ in range(2):  # the optimizer's state is made in the first one
        step()

    parameters = list(rule.parameters())
    state = [value for part in optimizer.state.values() for value in part.values()]
    parts = {
        "parameters": size_of(parameters),
        "gradients": size_of(p.grad for p in parameters),
        "optimizer": size_of(state),
    }
    before = sum(parts.values())

    parts["activations"] = saved_bytes(step, parameters)
    peak = before + transient_bytes(step)
    return {
        "rule": name,
        "batch": rows,
        **{f"{part}_mib": size / MIB for part, size in parts.items()},
        "peak_mib": peak / MIB,
        "ratio": peak / sum(parts.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    rows = []
    for name, batch in product(args.rules, args.batch):
        row = measured(name, batch)
        rows.append(row)
        print(
            "{rule:26} batch {batch:4}: peak {peak_mib:6.1f} MiB, parameters "
            "{parameters_mib:.1f}, "
            "gradients {gradients_mib:.1f}, optimizer {optimizer_mib:.1f}, "
            "activations {activations_mib:.1f}, ratio {ratio:.2f}".format(**row),
            flush=True,
        )

    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
