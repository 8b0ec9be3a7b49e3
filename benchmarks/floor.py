"""The floor of a training step: what it cannot do without, each timed alone.

    floor = Floor(step, optimizer)
    seconds = interleaved({"step": step, **floor.calls}, repeats=40)

Its matrix products and the noise it draws are recorded while it runs, and replayed with nothing in
between; the optimizer's own reads and writes are those of a fused AdamW over tensors of the same
sizes. What is above the floor: activations, losses, autograd, updates of h, and Python.

Operands have the recorded sizes and strides. One operand stands for each piece of memory that
operands had, so that memory that is used again is as warm in the caches as it was, or warmer:
nothing else runs in between.
"""

import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
#: Among them products with weights that are packed once, which take other products' place on AMD
#: processors: see gendae/layers/onednn.py.
PACKED = torch.ops.mkldnn._linear_pointwise.default
PRODUCTS = {
    PACKED,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.addmv.default,
    aten.mv.default,
    aten.linear.default,
}
DRAWS = {
    aten.rand.default,
    aten.rand.generator,
    aten.randn.default,
    aten.randn.generator,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.normal_.default,
    aten.uniform_.default,
    aten.bernoulli.default,
    aten.bernoulli_.float,
    aten.bernoulli_.Tensor,
    aten.exponential_.default,
    aten.randint.default,
    aten.randint.generator,
    aten.randperm.generator,
}


class Recorded(TorchDispatchMode):
    """Records the operations of some kinds in whatever runs inside the `with`.

    Args:
        operations: the kinds.
    """

    def __init__(self, operations):
        super().__init__()
        self.operations = operations
        self.calls = []
        self._standins = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.operations:
            self.calls.append((func, [self._recorded(a) for a in args], kwargs))

        return func(*args, **kwargs)

    def _recorded(self, argument):
        if not torch.is_tensor(argument) or argument.layout is not torch.strided:
            return argument

        shape = argument.shape
        stride = argument.stride()
        like = {"dtype": argument.dtype, "device": argument.device}
        key = (argument.data_ptr(), tuple(shape), stride, argument.dtype)
        if key not in self._standins:
            blank = torch.empty_strided(shape, stride, **like)
            self._standins[key] = blank.copy_(torch.rand(shape, **like))

        return self._standins[key]

    @torch.no_grad()
    def replay(self):
        """All operations again, in order."""
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


class MatrixProducts(Recorded):
    """Records the matrix products of whatever runs inside the `with`."""

    def __init__(self):
        super().__init__(PRODUCTS)

    @property
    def flops(self):
        """Multiplications and additions of all products."""
        total = 0
        for func, args, _ in self.calls:
            a, b = [x for x in args if torch.is_tensor(x)][-2:]
            if func in (aten.linear.default, PACKED):
                a = args[0]
                b = args[1].transpose(0, 1)

            columns = b.shape[-1] if b.ndim > 1 else 1
            total += 2 * a.numel() * columns

        return total


class Floor:
    """The products, the noise and the optimizer of a training step, each to be timed alone.

    Args:
        step: a training step; its optimizer has the gradients of a step when this is made.
        optimizer: of the step.
    """

    def __init__(self, step, optimizer):
        self.products = MatrixProducts()
        self.noise = Recorded(DRAWS)
        with self.products, self.noise:
            step()

        self.optimizer = adamw_of_the_same_sizes(optimizer)

    @property
    def calls(self):
        return {
            "products": self.products.replay,
            "noise": self.noise.replay,
            "optimizer": self.optimizer.step,
        }


def adamw_of_the_same_sizes(optimizer):
    """A fused AdamW over tensors like those that an optimizer has just moved."""
    copies = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                copy = parameter.detach().clone().requires_grad_()
                copy.grad = torch.randn_like(copy)
                copies.append(copy)

    return torch.optim.AdamW(copies, fused=True)


def wait(device="cpu"):
    if str(device) != "cpu":
        torch.cuda.synchronize()


def seconds_of(call, device="cpu"):
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)

    return time.perf_counter() - start


def interleaved(calls, repeats, device="cpu", quantile=0.25, burst=1):
    """Seconds of each call, timed in turns so that all see the same machine: a low quantile.

    With a burst each turn is so many calls, after one that is not timed: what a call leaves in the
    caches is there for the next one, as it is in a training, and not what another call left.
    """
    for call in calls.values():
        call()

    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if burst > 1:
                call()
            for _ in range(burst):
                times[name].append(seconds_of(call, device))

    return {name: sorted(taken)[int(quantile * len(taken))] for name, taken in times.items()}
