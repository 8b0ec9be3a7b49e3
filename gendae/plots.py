"""Tensors to matplotlib figures; knows nothing of the models. Figures need no display."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from gendae.writing import write_whole


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


POINTS = (1, 2)  # the "shape" of data in the plane


def gallery(x: Tensor, shape: tuple[int, int]) -> Figure:
    """Samples as one looks at them: images in a grid, points of the plane as a scatter plot."""
    if tuple(shape) != POINTS:
        return image_grid(x, shape)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.plot(*x.detach().float().cpu().numpy().T, ".", markersize=2, color="tab:orange")
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
    axes.fill_between(
        steps, (mean - error).numpy(), (mean + error).numpy(), color="tab:red", alpha=0.3
    )
    axes.set(xlabel="inference step", ylabel=ylabel)
    axes.legend(loc="lower right")
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG (whatever the suffix), making its folder."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return write_whole(path, picture.getvalue())


def plane(points: Tensor, cells: int, margin: float = 0.15) -> tuple[Tensor, Tensor, Tensor]:
    """A square grid around points in the plane: its two axes, (cells,), and all nodes, (cells^2, 2)."""
    low, high = points.min(0).values, points.max(0).values
    centre, half = (low + high) / 2, (high - low).max() / 2 * (1 + margin)
    u, v = (torch.linspace(c - half, c + half, cells) for c in centre.tolist())
    return u, v, torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)


def draw_field(
    axes: Axes,
    reconstruct: Callable[[Tensor], Tensor],
    data: Tensor,
    samples: Tensor | None = None,
    log_density: Callable[[Tensor], Tensor] | None = None,
    cells: int = 21,
) -> None:
    """`vector_field` on given axes."""
    if log_density is not None:
        u, v, fine = plane(data, 150)
        with torch.no_grad():
            density = log_density(fine).float().exp().reshape(150, 150)
        levels = (torch.linspace(0.03, 1.0, 12) * density.max().clamp(min=1e-30)).tolist()
        axes.contourf(u.numpy(), v.numpy(), density.numpy(), levels=levels, cmap="Blues", zorder=0)
    axes.scatter(*data.T.numpy(), s=3, color="0.45", alpha=0.4, linewidths=0, zorder=1)
    if samples is not None:
        axes.scatter(
            *samples.detach().T.cpu().numpy(), s=4, color="tab:orange", linewidths=0, zorder=2
        )
    u, v, nodes = plane(data, cells)
    with torch.no_grad():
        moves = reconstruct(nodes) - nodes
    longest = moves.norm(dim=1).quantile(0.7).clamp(min=1e-12)  # fills a cell of the grid
    moves = moves * (longest / moves.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    scale = (longest / (u[1] - u[0])).item()
    axes.quiver(
        *nodes.T.numpy(),
        *moves.T.numpy(),
        angles="xy",
        scale_units="xy",
        scale=scale,
        width=0.004,
        color="tab:red",
        zorder=3,
    )
    axes.set(
        xlim=(u[0].item(), u[-1].item()),
        ylim=(v[0].item(), v[-1].item()),
        aspect="equal",
        xticks=[],
        yticks=[],
    )


def vector_field(
    reconstruct: Callable[[Tensor], Tensor],
    data: Tensor,
    samples: Tensor | None = None,
    log_density: Callable[[Tensor], Tensor] | None = None,
    title: str = "",
) -> Figure:
    """Reconstruction minus input in the plane: where an auto-encoder moves every point (2014, 2.2.4).

    Arrows share one scale; those longer than a cell of the grid, three in ten, are cut to it. Data are grey,
    samples orange, the density blue, where it is above 3 % of its maximum. All functions take (batch, 2).
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    draw_field(axes, reconstruct, data, samples, log_density)
    axes.set_title(title)
    return figure


def spectrum(sigma: Tensor, count: int | None = None) -> Figure:
    """Levels of noise of the dimensions of a code, sorted, and the cut behind the signal (2014, 7.4)."""
    values = sigma.detach().cpu().flatten().sort().values
    index = range(1, len(values) + 1)
    split = len(values) if count is None else count
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        index[:split], values[:split].numpy(), "o", markersize=4, color="tab:blue", label="signal"
    )
    if count is not None:
        axes.plot(
            index[split:], values[split:].numpy(), "o", markersize=4, color="0.6", label="noise"
        )
        axes.axvline(
            count + 0.5, color="tab:red", linestyle="--", linewidth=1, label=f"{count} dimensions"
        )
        axes.legend(loc="lower right")
    axes.set(xlabel="dimension of the code, sorted", ylabel="noise $\\sigma_j$", yscale="log")
    return figure


def autocorrelation(curves: dict[str, Tensor], steps: int | None = None) -> Figure:
    """Autocorrelation of chains against the lag, one curve for each name; lags up to half a chain."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, rho in curves.items():
        shown = rho[: (len(rho) // 2 if steps is None else steps) + 1].detach().cpu()
        axes.plot(range(len(shown)), shown.numpy(), label=name)
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xlabel="lag  [steps]", ylabel="autocorrelation")
    axes.legend(loc="upper right")
    return figure


def filters(weights: Tensor, shape: tuple[int, int]) -> Figure:
    """Incoming weights of units, (n, pixels), as images: 0 grey, each scaled to its own largest (thesis, Figure 3.4)."""
    w = weights.detach().float().cpu()
    return image_grid(0.5 + 0.5 * w / w.abs().amax(1, keepdim=True).clamp(min=1e-12), shape)


def learning_curves(
    curves: dict[str, tuple[Tensor, Tensor]], ylabel: str = "validation error  [%]"
) -> Figure:
    """Mean over seeds and the band from lowest to highest, on a logarithmic axis, one curve for each name.

    Args:
        curves: by name, epochs (n,) and fractions (seeds, n), shown in percent; zeros do not show.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot(yscale="log")
    for name, (epochs, values) in curves.items():
        middle, low, high = (
            torch.where(v > 0, 100 * v.double(), torch.nan).tolist()
            for v in (values.mean(0), values.amin(0), values.amax(0))
        )
        (line,) = axes.plot(epochs.tolist(), middle, label=name)
        axes.fill_between(
            epochs.tolist(), low, high, color=line.get_color(), alpha=0.2, linewidth=0
        )
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(loc="best")
    return figure


def layers(curves: dict[str, dict[int, float]]) -> Figure:
    """Measures of layers, {name: {l: value}}, against the layer: one curve for each name; NaN leaves a gap."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(list(values), list(values.values()), "o-", markersize=4, label=name)
    for value in (0.0, 1.0):
        axes.axhline(value, color="0.6", linewidth=0.8, zorder=0)
    axes.set(
        xlabel="layer $l$",
        ylabel="cosine, fraction of examples, relative error",
        xticks=sorted({level for values in curves.values() for level in values}),
    )
    axes.legend(loc="best")
    return figure


def bands(panels: dict[tuple[str, str], dict[str, Tensor]], xlabel: str) -> Figure:
    """Means and standard errors over examples, (steps + 1, examples), one panel for each (title, ylabel)."""
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    for axes, ((title, ylabel), curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, values in curves.items():
            mean, error = values.mean(1), values.std(1) / math.sqrt(values.shape[1])
            (line,) = axes.plot(mean.tolist(), label=name)
            axes.fill_between(
                range(len(mean)),
                (mean - error).tolist(),
                (mean + error).tolist(),
                alpha=0.3,
                color=line.get_color(),
                linewidth=0,
            )
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.legend(loc="best")
    return figure


def against(
    curves: dict[str, tuple[list[float], list[list[float]]]], xlabel: str, ylabel: str
) -> Figure:
    """Values of several runs at each x as dots, their means as a line; one colour for each name."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, groups) in curves.items():
        (line,) = axes.plot(x, [sum(group) / len(group) for group in groups], label=name)
        for at, group in zip(x, groups, strict=True):
            axes.plot([at] * len(group), group, "o", markersize=4, color=line.get_color())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="best")
    return figure
