"""What inference does, step by step: log p(x, h) and reconstruction errors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from gendae import checks
from gendae.inference import Inference, TargetPropInference
from gendae.metrics.precision import full_precision
from gendae.models.stack import Stack

#: INFERENCE of `log_joint_trace`. Under training's alpha of 0.001 the layers above hardly count,
#: and only log p(x | h_1) is climbed; 0.1 climbs both terms.
TRACED = TargetPropInference(steps=20, delta=0.1, alpha=0.1)


@checks.takes_arrays
@full_precision()
@torch.no_grad()
def log_joint_trace(
    stack: Stack, x: Tensor, inference: Inference = TRACED, steps: int = 20, batch_size: int = 1000
) -> Tensor:
    """log p(x, h) before and after each inference step, with unit variances and without p(h_L).

    Source: Bengio et al. 2015, section 8, Figure 4.

    Returns:
        Nats, (steps + 1, images), in CPU memory.
    """
    x = checks.width("x", x, stack.sizes[0])

    traces = []
    for batch in x.split(batch_size):
        path = inference.trajectory(stack, batch.to(stack.device), steps=steps)
        trace = [stack.log_joint(h, prior=False).cpu() for h in path]
        traces.append(torch.stack(trace))

    return torch.cat(traces, 1)


@full_precision()
@torch.no_grad()
def reconstruction_errors(stack: Stack, batches: Iterable[Tensor]) -> list[float]:
    """|x - x^|^2 for x encoded up to each level 1 .. L and decoded back.

    It is summed over pixels, and a mean over images.
    """
    totals = torch.zeros(stack.depth, dtype=torch.float64)
    count = 0
    for x in batches:
        x = x.to(stack.device)
        for level in range(1, stack.depth + 1):
            error = (stack.reconstruct(x, level) - x).square().sum()
            totals[level - 1] += error.double().cpu()
        count += len(x)

    if count == 0:
        raise ValueError("no images to reconstruct; at least one is needed")
    return (totals / count).tolist()
