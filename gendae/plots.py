"""Tensors to matplotlib figures; knows nothing of the models. Figures need no display."""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor


def tile(x: Tensor, shape: tuple[int, int], columns: int, gap: int = 1) -> Tensor:
    """Images (n, pixels) side by side in one picture, (height, width), with a grey gap between them."""
    height, width = shape
    rows = math.ceil(len(x) / columns)
    canvas = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 0.5)
    for i, image in enumerate(x.detach().float().cpu().clamp(0, 1)):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image.view(height, width)
    return canvas


def picture(canvas: Tensor, scale: int = 3) -> Figure:
    """A figure that shows a grey picture at `scale` screen pixels per pixel, without margins."""
    height, width = canvas.shape
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return figure


def image_grid(x: Tensor, shape: tuple[int, int], columns: int | None = None) -> Figure:
    """Images in a grid, as square as possible."""
    return picture(tile(x, shape, columns or max(1, math.ceil(math.sqrt(len(x))))))


def inpainting(original: Tensor, mask: Tensor, filled: Tensor, shape: tuple[int, int]) -> Figure:
    """Original, masked (missing pixels grey) and filled images side by side, one row each (Figure 5)."""
    masked = torch.where(mask.expand_as(original), original, torch.full_like(original, 0.5))
    rows = torch.stack([original, masked, filled], 1).flatten(0, 1)
    groups = max(1, round(len(original) / 10))
    return picture(tile(rows, shape, columns=3 * groups))


def trace(values: Tensor, ylabel: str = "log p(x, h)  [nats]", examples: int = 5) -> Figure:
    """Mean and standard error over images, (steps + 1, images), with a few of them dashed (Figure 4)."""
    values = values.double()
    mean = values.mean(1)
    error = values.std(1) / math.sqrt(values.shape[1])
    steps = range(len(values))
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, values[:, :examples].numpy(), "--", linewidth=0.8, color="0.6")
    axes.plot(steps, mean.numpy(), color="tab:red", label=f"mean of {values.shape[1]:,} images")
    axes.fill_between(steps, (mean - error).numpy(), (mean + error).numpy(), color="tab:red", alpha=0.3)
    axes.set(xlabel="inference step", ylabel=ylabel)
    axes.legend(loc="lower right")
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG (whatever the suffix), making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path
