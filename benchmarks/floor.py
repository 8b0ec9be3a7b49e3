"""The floor of a computation: its matrix products, recorded, and replayed with nothing between.

    with MatrixProducts() as products:
        step()
    seconds(products.replay)

Operands have the recorded sizes and strides. One operand stands for each piece of memory that
operands had, so that memory that is used again is as warm in the caches as it was, or warmer:
nothing else runs in between.
"""

import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.addmv.default,
    aten.mv.default,
    aten.linear.default,
}


class MatrixProducts(TorchDispatchMode):
    """Records the matrix products of whatever runs inside the `with`."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self._standins = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in PRODUCTS:
            self.calls.append((func, [self._recorded(a) for a in args], kwargs))

        return func(*args, **kwargs)

    def _recorded(self, argument):
        if not torch.is_tensor(argument):
            return argument

        shape = argument.shape
        stride = argument.stride()
        like = {"dtype": argument.dtype, "device": argument.device}
        key = (argument.data_ptr(), tuple(shape), stride, argument.dtype)
        if key not in self._standins:
            blank = torch.empty_strided(shape, stride, **like)
            self._standins[key] = blank.copy_(torch.randn(shape, **like))

        return self._standins[key]

    @property
    def flops(self):
        """Multiplications and additions of all products."""
        total = 0
        for func, args, _ in self.calls:
            a, b = [x for x in args if torch.is_tensor(x)][-2:]
            if func is aten.linear.default:
                a = args[0]
                b = args[1].T

            columns = b.shape[-1] if b.ndim > 1 else 1
            total += 2 * a.numel() * columns

        return total

    @torch.no_grad()
    def replay(self):
        """All products again, in order."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def wait(device="cpu"):
    if str(device) != "cpu":
        torch.cuda.synchronize()


def interleaved(calls, repeats, device="cpu", quantile=0.25):
    """Seconds of each call, timed in turns so that all see the same machine: a low quantile."""
    for call in calls.values():
        call()

    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            times[name].append(time.perf_counter() - start)

    return {name: sorted(taken)[int(quantile * len(taken))] for name, taken in times.items()}
